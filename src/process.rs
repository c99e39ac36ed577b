//! The process: arguments, logs, start, exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use crate::run::{Mistakes, ToolFailed, run};
use crate::settings::{self, Command, LogFormat};
use crate::telemetry::chain::chain;
use crate::telemetry::{logs, panics};

/// The command line can't be understood.
const MISTAKES: u8 = 2;

/// Runs the program with the arguments and environment of this process.
pub fn main() -> ExitCode {
    let parsed = match settings::from_process() {
        Ok(parsed) => parsed,
        Err(mistakes) => return print_mistakes(&mistakes),
    };
    match parsed.command {
        Command::Help { topic, asked: true } => return answer(settings::help(topic).trim_end()),
        Command::Help { topic, asked: false } => return print_mistakes(&[settings::help(topic).trim_end()]),
        Command::Version => return answer(concat!("hookstream ", env!("CARGO_PKG_VERSION"))),
        Command::Completions(shell) => return answer(settings::completions(shell).trim_end()),
        Command::Man => return answer(settings::man().trim_end()),
        _ => {}
    }
    if let Err(error) = logs::init(&parsed.logs) {
        return print_mistakes(&[error]);
    }
    panic::set_hook(Box::new(log_panic));
    for warning in &parsed.warnings {
        tracing::warn!(warning, "environment variable not used");
    }
    match run(parsed.command) {
        Ok(code) => code,
        Err(error) => {
            if let Some(Mistakes(lines)) = error.downcast_ref() {
                return print_mistakes(lines);
            }
            match error.downcast_ref::<ToolFailed>() {
                Some(failed) if parsed.logs.format == LogFormat::Human => print_lines(&[format!("error: {failed}")]),
                // Each line of stderr is an object, also that of a tool.
                _ => tracing::error!(error = chain(error.as_ref()), "stopped"),
            }
            ExitCode::FAILURE
        }
    }
}

/// Writes each mistake as a line on stderr.
fn print_mistakes(lines: &[impl Display]) -> ExitCode {
    print_lines(lines);
    ExitCode::from(MISTAKES)
}

fn print_lines(lines: &[impl Display]) {
    let mut stderr = io::stderr().lock();
    for line in lines {
        if writeln!(stderr, "{line}").is_err() {
            // The reader of the output is gone: the exit code still says it.
            break;
        }
    }
}

/// Writes what was asked for on stdout.
fn answer(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_lines(&[format!("error: standard output can't be written: {error}")]);
            ExitCode::FAILURE
        }
    }
}

/// Logs a panic as a line like any other.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    if panics::is_expected() {
        return;
    }
    let message = info.payload_as_str().unwrap_or("no message");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(error = message, location, thread = thread.name().unwrap_or("unnamed"), "panicked");
}
