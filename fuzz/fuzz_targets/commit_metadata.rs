//! See `hookstream::fuzzing::commit_metadata`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::commit_metadata(input));
