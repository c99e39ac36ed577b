//! Collects the faults of an instance: where each lies, and a sentence about it. Which values are at fault is not decided here.

use serde_json::value::RawValue;

use super::fields::{Fields, raw};

/// Ids are names in keys, paths and logs: bounded.
pub(crate) const ID_CHARS_MAX: usize = 200;
/// How much of a value a message repeats.
pub(super) const SHOWN_CHARS_MAX: usize = 100;
/// Faults that an answer lists: no person reads more, and each costs memory.
pub(crate) const FAULTS_MAX: usize = 100;
/// A longer name is not taken for a misspelt known field.
const SLIP_BYTES_MAX: usize = 32;
/// Known fields of at least this length are recognized with a wrong letter.
const SLIP_ONE_LETTER: usize = 5;

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Another JSON type than the field takes, or missing where it must be.
    ValueType,
    /// The right type, with a content that is not accepted.
    Data,
}

/// Where in an instance a fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One of the instance's own fields.
    Field(&'static str),
    /// A webhook by its index, and the fields that together are at fault.
    Webhook(usize, &'static [&'static str]),
    /// The list of webhooks.
    Webhooks,
    /// The ids of two webhooks, by their indices: either alone could stay.
    Ids(usize, usize),
    /// The instance as a whole.
    Whole,
}

impl Place {
    /// This place with the path that a message names.
    pub(super) fn at(self, path: &str) -> Spot<'_> {
        Spot { place: self, path }
    }
}

/// A place and its path as messages name it.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    place: Place,
    path: &'a str,
}

/// One fault of an instance.
pub(crate) struct Fault {
    /// What is wrong.
    pub(crate) kind: FaultKind,
    /// Where.
    pub(crate) place: Place,
    /// Where, as a JSON pointer.
    pub(crate) path: String,
    /// The value there, unless it is missing or secret.
    pub(crate) value: Option<Box<RawValue>>,
    /// Path, value and what is accepted, in a sentence.
    pub(crate) message: String,
}

/// Whether a workspace or integration id can stand in the records' keys.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().count() <= ID_CHARS_MAX
        && !text.chars().any(|char| char == '/' || char.is_control() || char.is_whitespace())
}

/// A value for a message: its beginning.
pub(super) fn shown(value: &RawValue) -> String {
    let text = value.get();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The faults of an instance.
pub(crate) struct Found {
    /// The first of them, at most [`FAULTS_MAX`].
    pub(crate) listed: Vec<Fault>,
    /// How many more there are.
    pub(crate) more: usize,
}

/// Collects the faults of an instance.
pub(super) struct Checker<'a> {
    pub(super) listed: Vec<Fault>,
    pub(super) more: usize,
    pub(super) counts: &'a dyn Fn(Place) -> bool,
}

impl Checker<'_> {
    /// Takes a fault: its kind, its place and path, the value there or that it is missing, and what is accepted. A secret is not shown.
    pub(super) fn fault(&mut self, kind: FaultKind, at: Spot<'_>, value: Option<&RawValue>, what: &str) {
        if at.place == Place::Field("secrets") {
            return self.remark(kind, at, what);
        }
        self.add(kind, at, value, || {
            let found = value.map_or_else(|| "missing".to_owned(), shown);
            format!("{}: {found}: {what}", at.path)
        });
    }

    /// Takes a fault that no value shows: too many of something, a name given twice, a secret.
    pub(super) fn remark(&mut self, kind: FaultKind, at: Spot<'_>, what: &str) {
        self.add(kind, at, None, || format!("{}: {what}", at.path));
    }

    fn add(&mut self, kind: FaultKind, at: Spot<'_>, value: Option<&RawValue>, message: impl FnOnce() -> String) {
        let Spot { place, path } = at;
        if !(self.counts)(place) {
            return;
        }
        if self.listed.len() == FAULTS_MAX {
            self.more += 1;
            return;
        }
        let value = value.map(ToOwned::to_owned);
        self.listed.push(Fault { kind, place, path: path.to_owned(), value, message: message() });
    }

    /// Adds the faults in the names of an object with these known fields: a name given twice, and a misspelt known one.
    pub(super) fn names(&mut self, fields: &Fields, known: &[&str], at: Spot<'_>) {
        let Spot { place, path } = at;
        if let Some(name) = fields.repeated() {
            let path = format!("{path}/{}", pointer(name));
            self.remark(FaultKind::Data, place.at(&path), "given twice; expected once");
        }
        for (name, value) in fields.iter() {
            if let Some(meant) = meant(name, known) {
                let path = format!("{path}/{}", pointer(name));
                self.fault(
                    FaultKind::Data,
                    place.at(&path),
                    Some(value),
                    &format!("no such field; did you mean {meant}?"),
                );
            }
        }
    }
}

/// The known field that an unknown name misspells: it differs in case or separators, or by a letter or two of a long name.
pub(super) fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > SLIP_BYTES_MAX || known.contains(&name) {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
    let name = plain(name);
    let is_near = |known: &&&str| {
        let known = plain(known);
        let letters = known.len() / SLIP_ONE_LETTER;
        known == name || strsim::osa_distance(&known, &name) <= letters.min(2)
    };
    known.iter().find(is_near).copied()
}

/// The beginning of a name, as a segment of a JSON pointer.
pub(super) fn pointer(name: &str) -> String {
    name.chars().take(SHOWN_CHARS_MAX).collect::<String>().replace('~', "~0").replace('/', "~1")
}

/// The member, unless it is missing or null, which mean the same to readers of the record.
pub(super) fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a RawValue> {
    fields.get(name).filter(|raw| raw.get() != "null")
}

/// Whether the word is known, without case. If no words are listed, every word but the empty one is accepted.
pub(super) fn is_one_of(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(word)) || (known.is_empty() && !word.is_empty())
}

pub(super) fn words(words: &[&str]) -> String {
    words.join(", ")
}

/// A fault of a whole instance in the shape of an operation: its path and its value.
pub(crate) fn as_operation(fault: &Fault) -> Box<RawValue> {
    let mut operation = Fields::default();
    operation.set_text("path", &fault.path);
    if let Some(value) = &fault.value {
        operation.set("value", value.clone());
    }
    raw(&operation)
}
