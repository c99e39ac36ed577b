//! CPU time per delivery of the whole worker, next to two loops that only make the requests, in one run and in turn.
//!
//! `cargo bench --bench delivery -- --help` lists the options. Prints a table and writes JSON.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::unchecked_time_subtraction,
    reason = "a benchmark prints, fails by a panic with a clear text, and computes in floats by the wall clock"
)]

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../../tests/support/mod.rs"]
mod support;

mod counting;
mod loops;
mod options;
mod sink;
mod worker;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use options::{Broker, Options};
use support::cluster::{Cluster, ClusterOptions};
use worker::{Bench, Measured};

/// One figure: its rounds in µs of CPU per request or delivery.
struct Figure {
    name: String,
    rounds: Vec<f64>,
}

impl Figure {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rounds: Vec::new() }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("loop") => return loops::child(&arguments[1..]),
        Some("sink") => return sink::child(&arguments[1..]),
        Some("mock") => return worker::mock_child(&arguments[1..]),
        Some("--help") => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    match Options::parse(&arguments) {
        Ok(options) => run(&options),
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let cluster = match options.broker {
        Broker::Kafka => Some(runtime.block_on(Cluster::start_with(ClusterOptions::nodes(1)))),
        Broker::Embedded => None,
    };
    let sink = sink::Sink::start(options);
    let bench = Bench::prepare(options, cluster.as_ref().map(|cluster| cluster.brokers().to_owned()), &sink.address);
    let mut pool = Figure::new("hyper-util loop");
    let mut connection = Figure::new("bare hyper connection loop");
    let mut delivered = Figure::new("worker, per delivery");
    let mut counting = Figure::new("of it to count for suspension");
    let mut parts = Vec::new();
    let mut unmatched = Figure::new("worker, per event that matches nothing");
    for round in 1..=options.rounds {
        pool.rounds.push(loops::measure("pool", &sink.address, options));
        let Measured { micros, rate, by_thread } = bench.deliveries(round);
        delivered.rounds.push(micros);
        counting.rounds.push(counting::attempt(options.integrations) + counting::reported(&by_thread));
        parts.push(by_thread);
        connection.rounds.push(loops::measure("connection", &sink.address, options));
        eprintln!(
            "round {round}: pool {:.2}, connection {:.2}, worker {micros:.2} µs ({rate:.0} deliveries/s)",
            pool.rounds.last().unwrap_or(&f64::NAN),
            connection.rounds.last().unwrap_or(&f64::NAN),
        );
        if !options.skip_unmatched {
            let Measured { micros, rate, .. } = bench.unmatched(round);
            eprintln!("round {round}: unmatched {micros:.3} µs ({rate:.0} events/s)");
            unmatched.rounds.push(micros);
        }
    }
    let figures = Figures { pool, connection, delivered, counting, unmatched, parts: parts_of(&parts) };
    report(options, &figures);
    ExitCode::SUCCESS
}

/// All that is reported.
struct Figures {
    pool: Figure,
    connection: Figure,
    delivered: Figure,
    counting: Figure,
    unmatched: Figure,
    /// Of a delivery what ran in threads of one name.
    parts: Vec<Figure>,
}

/// A figure for each name of a thread that has a hundredth of a µs in the median, the largest first.
fn parts_of(rounds: &[BTreeMap<String, f64>]) -> Vec<Figure> {
    let mut parts: BTreeMap<&str, Figure> = BTreeMap::new();
    for (name, micros) in rounds.iter().flatten() {
        parts.entry(name).or_insert_with(|| Figure::new(name)).rounds.push(*micros);
    }
    let mut parts: Vec<_> = parts.into_values().filter(|part| part.median() >= 0.01).collect();
    parts.sort_by(|a, b| b.median().total_cmp(&a.median()));
    parts
}

fn report(options: &Options, figures: &Figures) {
    let Figures { pool, connection, delivered, counting, unmatched, parts } = figures;
    println!();
    println!(
        "{} events of {} bytes, {} in flight, sink {}, broker {}, {} rounds; medians",
        options.events, options.size, options.in_flight, options.sink, options.broker, options.rounds
    );
    println!();
    println!("| what | CPU µs | ratio |");
    println!("| --- | ---: | ---: |");
    for figure in [pool, connection, delivered] {
        println!("| {} | {:.2} | |", figure.name, figure.median());
    }
    for part in parts {
        println!("| of it in threads `{}` | {:.2} | |", part.name, part.median());
    }
    println!("| {} | {:.3} | {:.4} |", counting.name, counting.median(), counting.median() / delivered.median());
    println!("| hyper-util loop ÷ worker | | {:.2} |", pool.median() / delivered.median());
    println!("| bare connection loop ÷ worker | | {:.2} |", connection.median() / delivered.median());
    if !unmatched.rounds.is_empty() {
        println!("| {} | {:.3} | |", unmatched.name, unmatched.median());
        println!("| events that match nothing, per core-second | {:.0} | |", 1e6 / unmatched.median());
    }
    let as_json = |figure: &Figure| serde_json::json!({"name": figure.name, "cpuMicros": figure.rounds, "median": figure.median()});
    let json = serde_json::json!({
        "events": options.events, "bytes": options.size, "inFlight": options.in_flight,
        "integrations": options.integrations,
        "sink": options.sink.to_string(), "broker": options.broker.to_string(),
        "figures": ([pool, connection, delivered, counting, unmatched].map(as_json)),
        "threads": parts.iter().map(as_json).collect::<Vec<_>>(),
        "ratios": {
            "hyperUtilLoop": pool.median() / delivered.median(),
            "bareConnectionLoop": connection.median() / delivered.median(),
            "counting": counting.median() / delivered.median(),
        },
    });
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("delivery.json");
    match std::fs::write(&path, format!("{json:#}\n")) {
        Ok(()) => eprintln!("written: {}", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

/// How long any one measurement may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// Processor time of this process so far.
fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}
