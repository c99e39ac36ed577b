//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.
//!
//! Read the rooms in this order. `settings` reads every option. `app` starts and stops what a subcommand needs. `intake` reads
//! a record and turns it into deliveries. `inflight` holds what is under way. `deliver` orders deliveries, makes the requests
//! and publishes what follows a failure. `health` suspends integrations that keep failing, `attempt_log` records attempts,
//! `registration` is the HTTP API that changes integrations, `topics` knows names and shapes of topics. `domain` holds the rules
//! that several rooms share. `kafka`, `net` and `telemetry` are toolboxes. `tools` has one file a subcommand.

pub mod settings;
mod run;
pub mod app;
pub mod intake;
pub mod inflight;
pub mod deliver;
pub mod health;
pub mod attempt_log;
pub mod registration;
pub mod topics;
pub mod domain;
pub mod kafka;
pub mod net;
pub mod telemetry;
pub mod tools;
pub mod clock;

pub use run::{Mistakes, run};
