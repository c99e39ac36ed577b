//! Deliveries out: one lane a webhook, grouped by host, on shards that share nothing. Order, limits, requests, and what follows.
//!
//! Each shard is a thread with a single-threaded runtime. A webhook's host decides its shard, so everything about a host
//! (connections, circuit, lanes) has one owner and no lock.

pub mod shard;
pub mod order;
pub mod pace;
pub mod allowance;
pub mod circuit;
pub mod courier;
pub mod next_step;
pub mod publish;
pub mod observers;
