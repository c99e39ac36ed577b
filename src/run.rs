//! From a command to the part of the program that carries it out.

use std::process::ExitCode;

use crate::settings::Command;

/// Carries out a command, and says with which code the process ends.
///
/// # Errors
/// What ended the command before its time.
#[expect(clippy::needless_pass_by_value, reason = "each part takes its settings with it")]
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Help { .. } | Command::Version => anyhow::bail!("answered before anything runs"),
        _ => anyhow::bail!("this subcommand is not built yet"),
    }
}
