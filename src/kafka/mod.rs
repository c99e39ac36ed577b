//! Everything that speaks to Kafka; nothing outside names rdkafka.

pub mod client;
pub mod compacted;
pub mod events;
pub mod group;
pub mod lag;
pub mod properties;
pub mod registry;
pub mod requeue;
pub mod retries;
pub mod schedules;
pub mod sink;
pub mod span;
pub mod table_feed;
pub mod topics;
pub mod wire;
pub mod embedded;
pub mod observer;

pub use rdkafka::error::KafkaError as ClientError;
