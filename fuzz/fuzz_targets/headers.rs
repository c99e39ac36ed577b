//! See `hookstream::fuzzing::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::headers(input));
