//! What is given of one subcommand's options: texts by option, and where they stood.

use std::collections::BTreeMap;

use super::row::Row;

/// Where a value stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Argument,
    Environment,
}

/// The texts of one option. Not `Debug`: they may be secrets.
pub(super) struct Given {
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

impl Given {
    /// How a mistake names the option.
    pub(super) fn subject(&self, row: &Row) -> String {
        match self.origin {
            Origin::Argument => row.flag_name(),
            Origin::Environment => format!("{} ({})", row.variable(), row.flag_name()),
        }
    }
}

/// By the option's name.
pub(super) type GivenOptions = BTreeMap<&'static str, Given>;
