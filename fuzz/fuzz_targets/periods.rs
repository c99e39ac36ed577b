//! See `hookstream::fuzzing::periods`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::periods(input));
