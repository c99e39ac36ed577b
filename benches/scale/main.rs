//! A million webhooks: what they cost in memory, how long the table takes to read at start, how fast an event finds its
//! webhooks, and what an event costs that finds none.
//!
//! `cargo bench --bench scale -- --help` lists the options. Prints a table and writes JSON.
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
mod index;
mod worker;

use std::process::ExitCode;

use common::figures::report;
use common::integrations::Population;
use common::options::Options;
use common::runtime;
use common::support;

const OPTIONS: [(&str, usize, &str); 7] = [
    ("webhooks", 1_000_000, "webhooks in all"),
    ("integrations", 100_000, "integrations they are in"),
    ("workspaces", 100_000, "workspaces these are in"),
    ("rounds", 5, "rounds of each figure"),
    ("events", 300_000, "events that match nothing, a round"),
    ("size", 1024, "bytes of an event"),
    ("kafka", 1, "0: only the index, without a broker and a worker"),
];

fn main() -> ExitCode {
    let options = match Options::of_arguments(&OPTIONS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let population = Population {
        webhooks: options.get("webhooks"),
        integrations: options.get("integrations"),
        workspaces: options.get("workspaces"),
    };
    let mut figures = index::measure(population, options.get("rounds"));
    if options.get("kafka") == 1 {
        let runtime = runtime();
        figures.extend(runtime.block_on(worker::measure(population, &options)));
    }
    let setting = format!(
        "{} webhooks in {} integrations in {} workspaces; events of {} bytes",
        population.webhooks,
        population.integrations,
        population.workspaces,
        options.get("size")
    );
    report("scale", &setting, &figures);
    ExitCode::SUCCESS
}
