//! The suite that runs against a real Kafka: started here with Java and Maven, or named by `HOOKSTREAM_TEST_BROKERS`.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking, in their helpers too")]

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../support/mod.rs"]
mod support;

mod api;
mod api_contract;
mod delivery;
mod harness;
mod schedules;
mod security;
mod tools;
mod topics;
