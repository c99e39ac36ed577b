//! See `hookstream::fuzzing::masks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::masks(input));
