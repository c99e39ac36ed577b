//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.
//!
//! One event goes through these rooms, in this order: `kafka::events` reads it, `pipeline` parses and matches it (by the
//! rules in `domain`), `lanes` order it and decide when to send, `http::courier` sends and judges, `lanes::settlement` says
//! what follows, `kafka::sink` publishes that. `kafka::retries` brings it back when it is due. `tools` look at what lies in
//! the topics and send it back.

mod run;
pub mod settings;
pub mod standings;
pub mod worker;
pub mod api;
pub mod kafka;
pub mod pipeline;
pub mod domain;
pub mod assignment;
pub mod delivery;
pub mod lanes;
pub mod http;
pub mod report;
pub mod tools;
pub mod clock;
pub mod telemetry;

pub use run::{Mistakes, run};
