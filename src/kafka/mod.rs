//! Toolbox for Kafka: client configuration, contexts, readers and transactions. No features.

pub(crate) mod broker_clock;
mod by_time;
pub(crate) mod client;
mod context;
pub(crate) mod groups;
pub(crate) mod headers;
pub(crate) mod listing;
pub(crate) mod record_stream;
pub(crate) mod table_reader;
#[cfg(test)]
pub(crate) mod test_broker;
pub(crate) mod topic_range;
pub(crate) mod topic_watch;
pub(crate) mod transactions;
pub(crate) mod windows;

pub(crate) use rdkafka::error::KafkaError as ClientError;
