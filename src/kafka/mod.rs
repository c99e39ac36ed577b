//! Toolbox for Kafka: client configuration, contexts, readers and transactions. No features.

pub mod client;
pub mod table_reader;
pub mod topic_range;
pub mod transactions;

pub use rdkafka::error::KafkaError as ClientError;
