//! The rules, pure: no I/O, no clock, no Kafka, no HTTP. What varies comes in as an argument, what is decided goes out
//! as a value.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod schedule;
pub mod signature;
