//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.

pub mod domain;
pub mod http;
pub mod settings;
