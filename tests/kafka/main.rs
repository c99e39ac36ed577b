//! The suite that runs against a real Kafka: started here with Java and Maven, or named by `HOOKSTREAM_TEST_BROKERS`.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "tests fail by panicking, in their helpers too, print what they measured by the wall clock, and are one \
              sequence of steps"
)]

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../support/mod.rs"]
mod support;

mod actions;
mod api;
mod api_contract;
mod backlog;
mod bad_day;
mod crash;
mod dead_receiver;
mod delivery;
mod failures;
mod faults;
mod harness;
mod health;
mod hostile;
mod schedules;
mod security;
mod shapes;
mod sizing;
mod tools;
mod isolation;
mod moving;
mod poison;
mod raw_produce;
mod readers;
mod retries;
mod rollout;
mod stage;
mod table;
mod topics;
mod upgrade;
mod zoo;
