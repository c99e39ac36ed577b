//! See `hookstream::fuzzing::tokens`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::tokens(input));
