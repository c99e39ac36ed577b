//! See `hookstream::fuzzing::urls`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::urls(input));
