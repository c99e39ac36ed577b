//! Reads the values of one subcommand's options, and collects what is wrong with them and which options were asked for.
//!
//! It decides nothing about an option: the rows and what a value must be come with each call.

use std::collections::BTreeSet;

use super::command::Subcommand;
use super::given::{Given, GivenOptions};
use super::mistake::{Mistake, shown};
use super::row::Row;
use super::values::{self, Read};

/// What is given, what was asked for, and what is wrong.
pub(super) struct Reader<'a> {
    pub(super) subcommand: Subcommand,
    given: &'a GivenOptions,
    pub(super) mistakes: Vec<Mistake>,
    /// The options asked for, in that order: the table of options is made from them.
    pub(super) rows: Vec<Row>,
    /// Options with a mistake: they take no part in contradictions.
    mistaken: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(subcommand: Subcommand, given: &'a GivenOptions) -> Self {
        Self { subcommand, given, mistakes: Vec::new(), rows: Vec::new(), mistaken: BTreeSet::new() }
    }

    /// The value that was given, if one was and it can be read.
    pub(super) fn optional<T>(&mut self, row: Row, read: impl Fn(&str) -> Read<T>) -> Option<T> {
        self.rows.push(row);
        let Some(given) = self.given.get(row.name) else {
            if row.required && row.is_for(self.subcommand) {
                let text = format!("is required by `{}`: {} ({})", self.subcommand.words(), row.about, row.placeholder);
                self.mistakes.push(Mistake::new(&row.flag_name(), &text));
            }
            return None;
        };
        let text = given.texts.first()?;
        self.understood(row, given, text, &read)
    }

    /// The value that was given, or the default. The default also stands in for a value with a mistake.
    pub(super) fn value<T>(&mut self, row: Row, read: impl Fn(&str) -> Read<T>) -> T {
        if let Some(value) = self.optional(row, &read) {
            return value;
        }
        let default = row.default.and_then(|default| read(default).ok());
        default.expect("every default can be read; the table reads them all")
    }

    pub(super) fn many<T>(&mut self, row: Row, read: impl Fn(&str) -> Read<T>) -> Vec<T> {
        self.rows.push(row);
        let Some(given) = self.given.get(row.name) else {
            return Vec::new();
        };
        given.texts.iter().filter_map(|text| self.understood(row, given, text, &read)).collect()
    }

    pub(super) fn flag(&mut self, row: Row) -> bool {
        self.optional(row, values::switch).unwrap_or(false)
    }

    fn understood<T>(&mut self, row: Row, given: &Given, text: &str, read: impl Fn(&str) -> Read<T>) -> Option<T> {
        match read(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let accepted = expected.to_string();
                self.mistaken.insert(row.name);
                let subject = given.subject(&row);
                self.mistakes.push(if row.secret {
                    Mistake::secret(&subject, &accepted)
                } else {
                    Mistake::value(&subject, text, &accepted)
                });
                None
            }
        }
    }

    /// The row of an option that was asked for before.
    fn row(&self, name: &str) -> &Row {
        self.rows.iter().find(|row| row.name == name).expect("an option is asked about only after it was read")
    }

    /// The text that was given for an option, before it is read.
    pub(super) fn peek(&self, name: &str) -> Option<&str> {
        self.given.get(name)?.texts.first().map(String::as_str)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(self.row(name).name)
    }

    /// Whether this subcommand accepts the option.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.row(name).is_for(self.subcommand)
    }

    /// Reports that two options contradict each other, unless one of them has a mistake of its own.
    pub(super) fn contradiction(&mut self, one: &str, other: &str, accepted: &str) {
        let subject = self.as_given(one);
        self.contradicts(&subject, [one, other], accepted);
    }

    /// Reports that a librdkafka property contradicts an option. The property's value is not shown: it may be a secret.
    pub(super) fn property_contradiction(&mut self, key: &str, other: &str, accepted: &str) {
        self.contradicts(&format!("--kafka-property {key}"), ["kafka-property", other], accepted);
    }

    fn contradicts(&mut self, subject: &str, names: [&str; 2], accepted: &str) {
        if names.iter().any(|name| self.mistaken.contains(name)) {
            return;
        }
        let subject = format!("{subject} and {} contradict each other", self.as_given(names[1]));
        self.mistakes.push(Mistake::new(&subject, accepted));
    }

    /// The option and its value, as it was given.
    fn as_given(&self, name: &str) -> String {
        let row = self.row(name);
        match (self.given.get(name), row.default) {
            (Some(given), _) => {
                let text = given.texts.first().map(|text| shown(text)).unwrap_or_default();
                format!("{} {text}", given.subject(row))
            }
            (None, Some(default)) => format!("{} {} (default)", row.flag_name(), shown(default)),
            (None, None) => format!("{} (not given)", row.flag_name()),
        }
    }
}
