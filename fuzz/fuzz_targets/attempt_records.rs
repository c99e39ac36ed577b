//! See `hookstream::fuzzing::attempt_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::attempt_records(input));
