//! The rules, pure: no I/O, no clock, no Kafka, no HTTP. What varies comes in as an argument, what is decided goes out
//! as a value.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod agenda;
pub mod event;
pub mod explain;
pub mod filter;
pub mod hash;
pub mod instance;
pub mod instance_check;
pub mod health;
pub mod integration;
pub mod outcome;
pub mod patch;
pub mod schedule;
pub mod signature;
pub mod standing;
pub mod table;
pub mod target;
mod text;
pub mod ticks;
pub mod topics;
pub mod tracker;
