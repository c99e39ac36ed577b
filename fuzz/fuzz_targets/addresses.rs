//! See `hookstream::fuzzing::addresses`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::addresses(input));
