//! Values and rules that several rooms share, pure: no I/O, no clock, no Kafka, no HTTP. What varies comes in as an argument,
//! what is decided goes out as a value.
#![warn(clippy::wildcard_enum_match_arm)]

pub(crate) mod explain;
pub(crate) mod event;
mod event_scan;
pub(crate) mod table;
pub(crate) mod agenda;
pub(crate) mod integration;
pub(crate) mod filter;
pub(crate) mod entity;
pub(crate) mod health;
pub(crate) mod target;
pub(crate) mod headers;
pub(crate) mod outcome;
pub(crate) mod topic_names;
pub(crate) mod retry_schedule;
pub(crate) mod ticks;
pub(crate) mod signature;
pub(crate) mod key_homes;
pub(crate) mod guid;
pub(crate) mod hash;
pub(crate) mod text;
pub(crate) mod word;
