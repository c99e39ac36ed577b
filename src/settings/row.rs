//! One row of the table of options: what it says, how it is written. The rows themselves stand where their values are read.

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

/// Options that belong together in help, in the order in which help lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heading {
    Selection,
    Shell,
    Demo,
    Receiver,
    Kafka,
    Topics,
    Delivery,
    Suspension,
    Listeners,
    Output,
}

impl Heading {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Selection => "What to look at",
            Self::Shell => "Shell",
            Self::Demo => "Demo",
            Self::Receiver => "Receiver",
            Self::Kafka => "Kafka",
            Self::Topics => "Topics",
            Self::Delivery => "Delivery",
            Self::Suspension => "Suspension",
            Self::Listeners => "Listeners",
            Self::Output => "Output",
        }
    }

    /// A row of an option with one value.
    pub(super) const fn one(self, name: &'static str, placeholder: &'static str, about: &'static str) -> Row {
        Row {
            heading: self,
            name,
            placeholder,
            about,
            shape: Shape::One,
            default: None,
            required: false,
            secret: false,
            users: Users::Except(&[]),
        }
    }

    pub(super) const fn flag(self, name: &'static str, about: &'static str) -> Row {
        Row { shape: Shape::Flag, ..self.one(name, "", about) }
    }
}

/// Which of the subcommands whose reader asks for an option accept it from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    Only(&'static [Subcommand]),
    Except(&'static [Subcommand]),
}

/// An option as a subcommand takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) heading: Heading,
    /// Without the dashes.
    pub(super) name: &'static str,
    /// The placeholder of the value in help.
    pub(super) placeholder: &'static str,
    pub(super) about: &'static str,
    pub(super) shape: Shape,
    pub(super) default: Option<&'static str>,
    pub(super) required: bool,
    /// Its values are never shown.
    pub(super) secret: bool,
    users: Users,
}

impl Row {
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

    /// Only these subcommands accept it. The others work with the default.
    pub(super) const fn only(self, users: &'static [Subcommand]) -> Self {
        Self { users: Users::Only(users), ..self }
    }

    /// These subcommands do not accept it. They work with the default.
    pub(super) const fn except(self, others: &'static [Subcommand]) -> Self {
        Self { users: Users::Except(others), ..self }
    }

    pub(super) fn is_for(&self, subcommand: Subcommand) -> bool {
        match self.users {
            Users::Only(users) => users.contains(&subcommand),
            Users::Except(others) => !others.contains(&subcommand),
        }
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

/// The prefix of every environment variable that is an option.
pub(super) const PREFIX: &str = "HOOKSTREAM_";
