//! The options of a benchmark: `--name value`, each a number, each with a default.

use std::collections::BTreeMap;
use std::process::ExitCode;

/// The options of one run.
pub(crate) struct Options(BTreeMap<&'static str, usize>);

impl Options {
    /// Reads the arguments. `known` has each option's name, default and what it says.
    ///
    /// # Errors
    /// The exit code, where the help is printed instead of running, or what is wrong and the help.
    pub(crate) fn of_arguments(known: &[(&'static str, usize, &str)]) -> Result<Self, ExitCode> {
        Self::parse(known).map_err(|text| {
            eprintln!("{text}");
            ExitCode::from(2)
        })
    }

    fn parse(known: &[(&'static str, usize, &str)]) -> Result<Self, String> {
        let lines = known.iter().map(|(name, default, says)| format!("  --{name:<18} {says} (default {default})\n"));
        let help = format!("options:\n{}", lines.collect::<String>());
        let mut options: BTreeMap<_, _> = known.iter().map(|(name, default, _)| (*name, *default)).collect();
        // Cargo itself adds `--bench`.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            if argument == "--help" {
                return Err(help);
            }
            let name = argument.strip_prefix("--").unwrap_or_default();
            let Some(option) = options.get_mut(name) else {
                return Err(format!("{argument}: not an option\n{help}"));
            };
            let value = arguments.next().unwrap_or_default();
            *option = value.parse().map_err(|error| format!("{argument} {value:?}: {error}; expected a number"))?;
        }
        Ok(Self(options))
    }

    /// The value of a known option.
    pub(crate) fn get(&self, name: &str) -> usize {
        *self.0.get(name).unwrap_or_else(|| panic!("option {name} is not among the known ones"))
    }
}
