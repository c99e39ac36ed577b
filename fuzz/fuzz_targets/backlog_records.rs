//! See `hookstream::fuzzing::backlog_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hookstream::fuzzing::backlog_records(input));
