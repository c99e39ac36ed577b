//! Delivers a CRM's change events from Kafka to the integrations that subscribed to them.
//!
//! The rooms stand from the top down, and so do the files in each `mod.rs`: each uses only what stands after it. In this order:
//!
//! - `process` and `run` turn arguments into a command and carry it out. `tools` has one file a subcommand that ends by itself. `app`
//!   starts and stops what a long-running subcommand needs.
//! - `console` is the operators' page. `registration` is the HTTP API that changes integrations. `actions` does what operators order,
//!   `readers` answers what they ask.
//! - `intake` reads a record and turns it into deliveries. `deliver` orders deliveries, makes the requests and publishes what follows a
//!   failure.
//! - `attempt_log` records attempts. `health` suspends integrations that keep failing. `backlog` has the webhooks that are behind.
//!   `inflight` holds what is under way. `topics` has the names and shapes of topics.
//! - `kafka`, `telemetry` and `net` are toolboxes. `settings` reads every option. `domain` has the rules that several rooms share.
//!   `clock` is the wall clock.
//!
//! An event's way begins in `intake`. ARCHITECTURE.md walks it.

mod process;
mod run;
mod tools;
mod app;
mod console;
mod registration;
mod actions;
mod readers;
mod intake;
mod deliver;
mod attempt_log;
mod health;
mod backlog;
mod inflight;
mod topics;
mod kafka;
mod telemetry;
mod net;
mod settings;
mod domain;
mod clock;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use process::main;

/// What tests and benches need of the inside. Nothing else may rely on it.
#[doc(hidden)]
pub mod internals {
    pub use crate::backlog::partition::PartitionBacklog;
    pub use crate::deliver::http_courier::HttpCourier;
    pub use crate::deliver::next_step::NextSteps;
    pub use crate::deliver::observers::Reports;
    pub use crate::deliver::order::OrderedQueue;
    pub use crate::deliver::permits::Permits;
    pub use crate::deliver::publish::Sink;
    pub use crate::deliver::shard::{BATCHES_MAX, Shared, run_shard};
    pub use crate::domain::agenda::Tick;
    pub use crate::domain::event::Envelope;
    pub use crate::domain::headers::Wire;
    pub use crate::domain::integration::Integration;
    pub use crate::domain::outcome::{Outcome, Reason};
    pub use crate::domain::retry_schedule::RetrySchedule;
    pub use crate::domain::table::Table;
    pub use crate::health::collector::Collector;
    pub use crate::health::records::{Delta, DeltaBatch, RecordError, counts_record, parse_counts, partition_of};
    pub use crate::health::rules::{
        Counts, Health, IntegrationHealth, PartitionHealth, Reported, ReporterPosition, Rules, SecondCounts, second_of,
    };
    pub use crate::health::tally::Tally;
    pub use crate::inflight::job::{Due, Job, Origin};
    pub use crate::inflight::lane_gauge::LaneGauges;
    pub use crate::inflight::offsets::OffsetTracker;
    pub use crate::inflight::partition::Assignment;
    pub use crate::inflight::pressure::{Pressure, Reading};
    pub use crate::intake::in_memory::{InMemory, turn_in_memory};
    pub use crate::intake::pipeline::{DueRetry, Pipeline, PipelineParts, Record};
    pub use crate::net::address::AddressPolicy;
    pub use crate::net::connector::Connector;
    pub use crate::telemetry::metrics::Metrics;

    pub mod clock {
        pub use crate::clock::now_ms;
    }
    pub mod settings {
        pub use crate::settings::{Delivery, Kafka, Ordering, Topics};
    }
    pub mod ticks {
        pub use crate::domain::ticks::{Ticks, body};
    }
    pub mod cluster {
        pub use crate::topics::cluster::{CheckError, apply, check_for_worker};
    }
}
