//! From a command to the part of the program that carries it out.

use std::process::ExitCode;

use crate::settings::Command;

/// Carries out a command, and says with which code the process ends.
///
/// # Errors
/// What ended the command before its time.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet: {command:?}")
}
