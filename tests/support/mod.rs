//! Shared by the suites: a real Kafka of their own, records in and out, a worker process, a receiver that follows a
//! script, and waiting for conditions.
//!
//! A suite includes this folder as a module; nothing in here is a test, and nothing here knows the product's insides
//! except for the topics that `topics apply` creates.
#![expect(
    unreachable_pub,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::format_collect,
    clippy::disallowed_methods,
    reason = "test support: a panic with a clear text is how a test fails, its clock is the wall clock, it prints what it measured, and nothing is hot"
)]

pub mod cluster;
pub mod kafka_jars;
pub mod links;
pub mod load;
pub mod monitor;
pub mod port;
pub mod process;
pub mod receiver;
pub mod records;
pub mod wait;
pub mod worker;
pub mod zoo;
