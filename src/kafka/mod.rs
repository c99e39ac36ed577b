//! Everything that speaks to Kafka; nothing outside names rdkafka.

pub mod properties;
