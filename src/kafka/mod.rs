//! Everything that speaks to Kafka. No other module names the client library.

pub mod client;
pub mod topics;
