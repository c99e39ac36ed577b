//! The suite that needs no Kafka: parts of the product under real sockets, with the client library's own mock brokers.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking, in their helpers too")]

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../support/mod.rs"]
mod support;

mod circuit;
mod connections;
mod drain;
mod fairness;
mod order;
mod rig;
mod ticks;
mod unspent;
