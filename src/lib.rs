//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.

pub mod domain;
mod run;
pub mod settings;
pub mod telemetry;

pub use run::run;
