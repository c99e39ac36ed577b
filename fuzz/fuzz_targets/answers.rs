//! See `hookstream::fuzzing::answers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::answers(input));
