//! Toolbox for Kafka: client configuration, contexts, readers and transactions. No features.
//!
//! In reading order: the configuration of clients, their logs, and producing; small questions to brokers; a topic as a table; pieces of a
//! topic; transactions.

pub(crate) mod client;
mod context;
pub(crate) mod producer;
pub(crate) mod waits;
pub(crate) mod headers;
pub(crate) mod listing;
pub(crate) mod groups;
pub(crate) mod broker_clock;
pub(crate) mod table_reader;
pub(crate) mod topic_watch;
pub(crate) mod topic_range;
mod by_time;
pub(crate) mod record_stream;
pub(crate) mod windows;
pub(crate) mod transactions;
#[cfg(test)]
pub(crate) mod test_broker;

pub(crate) use rdkafka::error::KafkaError as ClientError;
