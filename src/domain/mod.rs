//! Values and rules that several rooms share, pure: no I/O, no clock, no Kafka, no HTTP. What varies comes in as an argument,
//! what is decided goes out as a value.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod event;
pub mod filter;
pub mod integration;
pub mod table;
pub mod target;
pub mod outcome;
pub mod retry_schedule;
pub mod headers;
pub mod signature;
pub mod ticks;
pub mod agenda;
pub mod explain;
pub mod hash;
pub mod text;
