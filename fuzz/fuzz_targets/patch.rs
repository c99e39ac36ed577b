//! See `hookstream::fuzzing::patch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::patch(input));
