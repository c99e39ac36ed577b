//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.

pub mod domain;
pub mod kafka;
pub mod settings;
pub mod tools;
