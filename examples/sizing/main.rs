//! Says what an installation of a given size needs: partitions, workers, processors, memory, what Kafka holds and carries, and how long a crash is felt.
//!
//! ```text
//! cargo run --example sizing -- --events-per-second 1000 --webhooks 20000 --matches-per-event 2
//! ```
//!
//! `constants` has what was measured and where, `model` the arithmetic, `options` the figures that a user gives. `docs/sizing.md` says how to
//! read the page and what it was compared with.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a page for people is what this program is for")]

mod constants;
mod model;
mod options;
mod report;

use std::process::ExitCode;

use options::Asked;

/// The exit code for options that are not valid. `hookstream` has the same.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)) {
        Ok(Asked::Help) => {
            print!("{}", options::help());
            ExitCode::SUCCESS
        }
        Ok(Asked::Plan(load)) => {
            print!("{}", report::page(&load, &model::plan(&load)));
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("sizing: {mistake}");
            }
            ExitCode::from(BAD_USAGE)
        }
    }
}
