//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.
//!
//! One event goes through these rooms, in this order: `kafka::events` reads it, `pipeline` parses and matches it (by the
//! rules in `domain`), `lanes` order it and decide when to send, `http::courier` sends and judges, `lanes::settlement` says
//! what follows, `kafka::sink` publishes that. `kafka::retries` brings it back when it is due.

pub mod assignment;
pub mod clock;
pub mod delivery;
pub mod domain;
pub mod http;
pub mod kafka;
pub mod lanes;
pub mod pipeline;
pub mod report;
pub mod settings;
pub mod telemetry;
pub mod worker;
