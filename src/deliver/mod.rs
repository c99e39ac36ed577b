//! Deliveries out: one lane for each webhook, grouped by host, on shards that share nothing. Order, limits, requests, and what follows.
//!
//! Each shard is a thread with a single-threaded runtime. A webhook's host decides its shard, so everything about a host
//! (connections, circuit, lanes) has one owner and no lock.

pub(crate) mod shard;
pub(crate) mod order;
pub(crate) mod allowance;
pub(crate) mod circuit;
pub(crate) mod permits;
pub(crate) mod promptness;
pub(crate) mod http_courier;
mod head;
pub(crate) mod courier;
pub(crate) mod request;
pub(crate) mod kept_pool;
pub(crate) mod connection;
pub(crate) mod next_step;
pub(crate) mod publish;
pub(crate) mod observers;
#[cfg(any(test, fuzzing))]
pub(crate) mod piped;
