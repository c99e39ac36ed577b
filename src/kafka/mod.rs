//! Toolbox for Kafka: client configuration, contexts, readers and transactions. No features.
//!
//! From the top down: a topic as a table; transactions and producing; pieces of a topic; small questions to brokers; the configuration of
//! clients and their logs.

pub(crate) mod table_reader;
pub(crate) mod transactions;
pub(crate) mod producer;
pub(crate) mod windows;
pub(crate) mod groups;
pub(crate) mod topic_range;
mod by_time;
pub(crate) mod record_stream;
pub(crate) mod topic_watch;
pub(crate) mod span;
pub(crate) mod broker_clock;
pub(crate) mod headers;
pub(crate) mod listing;
pub(crate) mod first_answer;
pub(crate) mod waits;
pub(crate) mod usable;
pub(crate) mod client;
mod context;
#[cfg(test)]
pub(crate) mod test_broker;

pub(crate) use rdkafka::error::KafkaError as ClientError;
