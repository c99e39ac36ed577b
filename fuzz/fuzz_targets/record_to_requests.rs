//! See `hookstream::fuzzing::record_to_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::record_to_requests(input));
