//! See `hookstream::fuzzing::events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::events(input));
