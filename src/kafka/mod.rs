//! Everything that speaks to Kafka; nothing outside names rdkafka.

pub mod attempts;
pub mod client;
pub mod compacted;
pub mod deltas;
pub mod events;
pub mod group;
pub mod health_books;
pub mod health_feed;
pub mod health_owner;
pub mod health_wire;
pub mod lag;
pub mod positions;
pub mod properties;
pub mod registry;
pub mod requeue;
pub mod retries;
pub mod schedules;
pub mod sink;
pub mod span;
pub mod table_feed;
pub mod topics;
pub mod transactions;
pub mod wire;
pub mod embedded;
pub mod observer;
pub mod wishes;

pub use rdkafka::error::KafkaError as ClientError;
