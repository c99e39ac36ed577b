//! What the suites share: a real Kafka of their own, records in and out, a worker process, a receiver that follows a
//! script, and waiting for conditions.
//!
//! A suite includes this folder as a module; nothing in here is a test, and nothing here knows the product's insides
//! but for the topics that `topics apply` creates.
#![expect(
    unreachable_pub,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test support: a panic with a clear text is how a test fails, and the test's own clock is the wall clock"
)]

pub mod cluster;
pub mod kafka_jars;
pub mod process;
pub mod records;
pub mod wait;
