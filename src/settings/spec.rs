//! One row of the table of options: what it is made of, how it is written. The rows are in `options`.

use super::command::Subcommand;

/// How often an option may be given, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// No value; `true` or `false` in the environment.
    Flag,
    /// One value.
    One,
    /// Any number of values.
    Many {
        /// What separates them in the environment.
        environment: &'static [char],
        /// What separates them within one argument.
        argument: &'static [char],
    },
}

/// One row: an option as the subcommands in `used_by` take it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// Without the dashes.
    pub(super) name: &'static str,
    /// What stands for the value in help.
    pub(super) placeholder: &'static str,
    pub(super) about: &'static str,
    pub(super) shape: Shape,
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
    /// Its values are never shown.
    pub(super) secret: bool,
    pub(super) used_by: &'static [Subcommand],
}

impl Spec {
    pub(super) const fn flag(name: &'static str, about: &'static str, used_by: &'static [Subcommand]) -> Self {
        let spec = Self::one(name, "", about, used_by);
        Self { shape: Shape::Flag, ..spec }
    }

    pub(super) const fn one(
        name: &'static str,
        placeholder: &'static str,
        about: &'static str,
        used_by: &'static [Subcommand],
    ) -> Self {
        Self { name, placeholder, about, shape: Shape::One, default: None, required: false, secret: false, used_by }
    }

    pub(super) const fn many(self, environment: &'static [char], argument: &'static [char]) -> Self {
        Self { shape: Shape::Many { environment, argument }, ..self }
    }

    pub(super) const fn default(self, text: &'static str) -> Self {
        Self { default: Some(text), ..self }
    }

    pub(super) const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(super) const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The option as it is written.
    pub(super) fn flag_name(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable of the same meaning.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Of every environment variable that is an option.
pub(super) const PREFIX: &str = "HOOKSTREAM_";
