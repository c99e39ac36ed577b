//! From arguments and environment to a command: what they ask for, every value, and all mistakes.

use std::ffi::OsString;

use super::command::{Command, HelpTopic, Parsed};
use super::mistake::Mistake;
use super::options;
use super::reader::Reader;
use super::scan::{self, Asked};

/// Reads the command line and the environment.
pub(super) fn parsed(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Parsed, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let line = scan::command_line(args, &mut mistakes);
    let subcommand = match line.asked(&mut mistakes) {
        Asked::Help(topic) => return Ok(without_options(Command::Help { topic, asked: true })),
        Asked::Nothing => return Ok(without_options(Command::Help { topic: HelpTopic::Program, asked: false })),
        Asked::Version => return Ok(without_options(Command::Version)),
        Asked::Unknown => {
            line.into_given(Asked::Unknown, &mut mistakes);
            return Err(mistakes);
        }
        Asked::Run(subcommand) => subcommand,
    };
    let mut given = line.into_given(Asked::Run(subcommand), &mut mistakes);
    let warnings = scan::environment(environment, subcommand, &mut given, &mut mistakes);
    let mut reader = Reader::new(subcommand, &given);
    let (command, logs) = options::read(&mut reader);
    mistakes.append(&mut reader.mistakes);
    match command {
        Some(command) if mistakes.is_empty() => Ok(Parsed { command, logs, warnings }),
        Some(_) | None => Err(mistakes),
    }
}

fn without_options(command: Command) -> Parsed {
    Parsed { command, logs: options::plain_logs(), warnings: Vec::new() }
}
