//! Deliveries on their way to receivers: one lane a webhook, grouped by host, on shards that share nothing.
//!
//! Each shard is a thread with a single-threaded runtime; a webhook's host decides its shard, so everything about a host
//! (connections, circuit, lanes) has one owner and no lock.

pub mod allowance;
pub mod circuit;
pub mod order;
pub mod pace;
pub mod pressure;
pub mod settlement;
pub mod shard;
