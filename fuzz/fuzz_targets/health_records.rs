//! See `hookstream::fuzzing::health_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::health_records(input));
