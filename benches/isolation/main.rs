//! The cost of a receiver for others, and the cost of waiting: a receiver that hangs beside 99 good ones, how late retries
//! are, memory of idle connections and of events that wait in the tiers or in the log, events for thousands of webhooks.
//!
//! `cargo bench --bench isolation -- --help` lists the options. Prints a table and writes JSON.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::unchecked_time_subtraction,
    reason = "a benchmark prints, fails by a panic with a clear text, and computes in floats by the wall clock"
)]

#[path = "../common/mod.rs"]
mod common;
mod backlog;
mod busy;
mod crowd;
mod hang;
mod lateness;
mod memory;

use std::process::ExitCode;

use common::figures::{Figure, report};
use common::options::Options;
use common::runtime;
use common::support;
use support::cluster::{Cluster, ClusterOptions};

const OPTIONS: [(&str, usize, &str); 20] = [
    ("rounds", 5, "rounds of each figure with a hanging receiver"),
    ("throughput", 1, "0: leaves out the throughput with one that hangs"),
    ("latency", 1, "0: leaves out the latency with one that hangs"),
    ("busy", 1, "0: leaves out the receiver that takes few at a time"),
    ("lateness", 1, "0: leaves out how late retries are"),
    ("idle", 1, "0: leaves out the memory of idle connections"),
    ("waiting", 1, "0: leaves out the memory with events in the tiers"),
    ("crowd", 0, "bad receivers beside 100 good ones; 0: leaves that figure out"),
    ("crowd-rate", 400, "events a second for the good ones in it"),
    ("names", 0, "1: also names that are dead or silent, where this machine asks the name server 127.0.0.2"),
    ("events", 120_000, "events of a throughput round"),
    ("answer-ms", 80, "how long a good receiver takes to answer in that round; 0: it answers at once"),
    ("rate", 2_000, "events a second of a latency round"),
    ("busy-events", 4_000, "events for the receiver that takes few at a time"),
    ("connections", 10_000, "idle connections"),
    ("retries", 1_000, "retries a second that fall due"),
    ("behind", 1_000_000, "events that wait for a slow webhook; 0: leaves that figure out"),
    ("wide", 5_000, "webhooks that get every event; 0: leaves that figure out"),
    ("wide-events", 20, "events for each of them"),
    ("tier-events", 1_000_000, "events that wait in the tiers"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "farm") {
        return memory::farm_child(&arguments[1..]);
    }
    let options = match Options::of_arguments(&OPTIONS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let runtime = runtime();
    let figures = runtime.block_on(run(&options));
    report(
        "isolation",
        "one worker, with defaults unless a figure says otherwise; a real Kafka; 1 KiB events",
        &figures,
    );
    ExitCode::SUCCESS
}

async fn run(options: &Options) -> Vec<Figure> {
    let mut cluster = ClusterOptions::nodes(1);
    cluster.jvm_arguments.push("-Xmx1g".to_owned());
    let cluster = Cluster::start_with(cluster).await;
    let brokers = cluster.brokers();
    let mut figures = Vec::new();
    if options.get("throughput") == 1 {
        figures.extend(hang::throughput(brokers, options).await);
    }
    if options.get("latency") == 1 {
        figures.extend(hang::latency(brokers, options).await);
    }
    if options.get("busy") == 1 {
        figures.extend(busy::measure(brokers, options).await);
    }
    if options.get("crowd") > 0 {
        figures.extend(crowd::measure(brokers, options).await);
    }
    if options.get("lateness") == 1 {
        figures.extend(lateness::measure(brokers, options).await);
    }
    if options.get("idle") == 1 {
        figures.extend(memory::idle_connections(brokers, options).await);
    }
    if options.get("waiting") == 1 {
        figures.extend(memory::waiting(brokers, options).await);
    }
    if options.get("behind") > 0 {
        figures.extend(backlog::slow(brokers, options).await);
    }
    if options.get("wide") > 0 {
        figures.extend(backlog::wide(brokers, options).await);
    }
    figures
}
