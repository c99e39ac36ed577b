//! Checks an instance: every field's type, words, URLs and bounds, and finds the place of each fault. The worker can use an
//! instance that passes, because its own parser decides last. `webhook_check` checks webhooks.
//!
//! Messages name path, value and what is accepted; they never hold a secret's value.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::fields::{Fields, raw};
use super::instance::Instance;
use super::secrets::{has_ended, values};
use super::webhook_check::WebhookCheck;
use crate::clock;
use crate::domain::guid::canonical;
use crate::domain::integration::{
    HEADER_BYTES_MAX, HEADER_SECRETS_MAX, Integration, SECRETS_MAX, STATUS_WORDS, SecretUse, Status, Unusable,
    WEBHOOKS_MAX, check_base_url, check_header,
};
use crate::domain::signature::{KEYS_MAX, SigningKey, fresh_secret};

/// Ids are names in keys, paths and logs: bounded.
pub(crate) const ID_CHARS_MAX: usize = 200;
/// How much of a value a message repeats.
const SHOWN_CHARS_MAX: usize = 100;
/// Faults that an answer lists: no person reads more, and each costs memory.
pub(crate) const FAULTS_MAX: usize = 100;
/// A longer name is not taken for a misspelt known field.
const SLIP_BYTES_MAX: usize = 32;
/// Known fields of at least this length are recognized with a wrong letter.
const SLIP_ONE_LETTER: usize = 5;
/// The fields of an instance.
const INSTANCE_FIELDS: [&str; 8] =
    ["id", "baseUrl", "status", "features", "secrets", "settings", "webHooks", "updateInfo"];
/// The fields of a secret.
const SECRET_FIELDS: [&str; 4] = ["id", "value", "values", "expiresAt"];
/// The trigger types, as records spell them.
pub(crate) const TRIGGER_WORDS: [&str; 2] = ["entityEvent", "schedule"];

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

/// The faults, at places for which `counts` is true, of the instance that a caller wants to write under `key` (`<workspace>/<integration
/// id>`). Takes time and memory in proportion to the instance.
pub(crate) fn faults(key: &str, instance: &Instance, counts: &dyn Fn(Place) -> bool) -> Found {
    let mut checker = Checker { listed: Vec::new(), more: 0, counts };
    checker.own_fields(key, &instance.fields);
    let base = checker.base_url(&instance.fields);
    let webhooks = instance.webhooks.len();
    if webhooks > WEBHOOKS_MAX {
        let what = format!("{webhooks} webhooks; expected at most {WEBHOOKS_MAX}");
        checker.remark(FaultKind::Data, Place::Webhooks.at("/webHooks"), &what);
    }
    for (index, webhook) in instance.webhooks.iter().take(WEBHOOKS_MAX).enumerate() {
        WebhookCheck { checker: &mut checker, index, webhook }.all(&base);
    }
    checker.duplicates(&instance.webhooks);
    if checker.listed.is_empty() {
        checker.worker_view(key, instance);
    }
    Found { listed: checker.listed, more: checker.more }
}

/// Whether a worker could use the instance as it stands.
pub(crate) fn is_usable(key: &str, instance: &Instance) -> bool {
    Integration::parse(key, &instance.to_bytes()).is_ok()
}

/// The base of relative URLs.
pub(super) enum Base {
    Missing,
    Bad,
    Good(String),
}

/// Collects the faults of an instance.
pub(super) struct Checker<'a> {
    listed: Vec<Fault>,
    more: usize,
    counts: &'a dyn Fn(Place) -> bool,
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

    fn own_fields(&mut self, key: &str, fields: &Fields) {
        let id = key.rsplit_once('/').map_or(key, |(_, id)| id);
        let is_it = |known: &str| canonical(known) == canonical(id);
        if let Some(value) = fields.get("id").filter(|_| !fields.text("id").is_some_and(|known| is_it(&known))) {
            self.fault(
                FaultKind::Data,
                Place::Field("id").at("/id"),
                Some(value),
                &format!("expected {id:?} or nothing"),
            );
        }
        self.names(fields, &INSTANCE_FIELDS, Place::Whole.at(""));
        self.status(fields);
        for (name, path, first, expected) in
            [("features", "/features", '{', "expected an object"), ("settings", "/settings", '[', "expected an array")]
        {
            if let Some(value) = present(fields, name).filter(|value| !value.get().starts_with(first)) {
                self.fault(FaultKind::ValueType, Place::Field(name).at(path), Some(value), expected);
            }
        }
        self.secrets(fields);
    }

    fn base_url(&mut self, fields: &Fields) -> Base {
        let Some(value) = present(fields, "baseUrl") else { return Base::Missing };
        let at = Place::Field("baseUrl").at("/baseUrl");
        let Some(url) = fields.text("baseUrl") else {
            self.fault(FaultKind::ValueType, at, Some(value), "expected a string, an http or https URL");
            return Base::Bad;
        };
        if let Err(error) = check_base_url(&url) {
            self.fault(FaultKind::Data, at, Some(value), &error.to_string());
            return Base::Bad;
        }
        Base::Good(url)
    }

    fn status(&mut self, fields: &Fields) {
        let Some(value) = present(fields, "status") else { return };
        let accepted = format!("expected one of {}", words(&STATUS_WORDS.map(|(word, _)| word)));
        let at = Place::Field("status").at("/status");
        match fields.text("status") {
            None => self.fault(FaultKind::ValueType, at, Some(value), &accepted),
            Some(word) if Status::parse(&word).is_none() => self.fault(FaultKind::Data, at, Some(value), &accepted),
            Some(_) => {}
        }
    }

    fn secrets(&mut self, fields: &Fields) {
        let Some(value) = present(fields, "secrets") else { return };
        let at = Place::Field("secrets").at("/secrets");
        let Ok(secrets) = serde_json::from_str::<Vec<Fields>>(value.get()) else {
            let expected = "expected an array of objects, each with the strings id and value";
            self.fault(FaultKind::ValueType, at, Some(value), expected);
            return;
        };
        let now_ms = clock::now_ms();
        let (mut count, mut signing, mut headers, mut header_bytes) = (0, 0, 0, 0);
        let mut names = HashSet::new();
        for (index, secret) in secrets.iter().enumerate() {
            let path = format!("/secrets/{index}");
            self.names(secret, &SECRET_FIELDS, at.place.at(&path));
            let (Some(id), Some(values)) = (secret.text("id").filter(|id| !id.is_empty()), values(secret)) else {
                let expected =
                    "expected an object with the strings id (not empty) and value, or a list of strings values";
                self.fault(FaultKind::ValueType, at.place.at(&path), Some(value), expected);
                continue;
            };
            count += values.len();
            match (SecretUse::of(&id), values.first()) {
                (SecretUse::Header(name), Some(first)) => {
                    (headers, header_bytes) = (headers + 1, header_bytes + name.len() + first.len());
                    if !names.insert(name.to_ascii_lowercase()) {
                        let what = format!("id {:?}: another secret is this header already", id_shown(&id));
                        self.remark(FaultKind::Data, at.place.at(&path), &what);
                    }
                }
                // Those that have ended are dropped when the instance is written.
                (SecretUse::Signing, _) if !has_ended(secret, now_ms) => signing += values.len(),
                _ => {}
            }
            self.secret(&path, &id, &values);
            self.expiry(&path, secret);
        }
        for (what, found, most) in [
            ("secrets", count, SECRETS_MAX),
            ("signing secrets", signing, KEYS_MAX),
            ("secrets that are headers", headers, HEADER_SECRETS_MAX),
            ("bytes of secrets that are headers", header_bytes, HEADER_BYTES_MAX),
        ] {
            if found > most {
                self.fault(FaultKind::Data, at, None, &format!("{found} {what}; expected at most {most}"));
            }
        }
    }

    fn secret(&mut self, path: &str, id: &str, values: &[String]) {
        let what = match SecretUse::of(id) {
            SecretUse::Header(name) => {
                let bad = values.iter().find_map(|value| check_header(name, value.trim()).err());
                let Some(error) = bad else { return };
                format!("id {:?}: {error}", id_shown(id))
            }
            SecretUse::Signing => {
                let bad = values.iter().find_map(|value| SigningKey::parse(value, None).err());
                let Some(error) = bad else { return };
                format!("{error}, such as {}", fresh_secret(rand::random()))
            }
            SecretUse::Unknown => {
                format!(
                    "id {:?}: expected webhook.signingSecret, webhook.header.<Name>, or an id that does not begin with webhook.",
                    id_shown(id)
                )
            }
            SecretUse::Other => return,
        };
        self.fault(FaultKind::Data, Place::Field("secrets").at(path), None, &what);
    }

    fn expiry(&mut self, path: &str, secret: &Fields) {
        let Some(value) = present(secret, "expiresAt") else { return };
        let is_time = secret.text("expiresAt").is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
        if !is_time {
            let path = format!("{path}/expiresAt");
            self.fault(FaultKind::Data, Place::Field("secrets").at(&path), Some(value), "expected a time, RFC 3339");
        }
    }

    /// Deliveries are named by their webhook's id: two can't share one.
    fn duplicates(&mut self, webhooks: &[Fields]) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (index, webhook) in webhooks.iter().take(WEBHOOKS_MAX).enumerate() {
            let Some(id) = webhook.text("id").map(|id| canonical(&id).into_owned()) else { continue };
            if let Some(first) = seen.get(&id) {
                let path = format!("/webHooks/{index}/id");
                let what = format!("webhook {first} has this id already; each needs its own");
                self.fault(FaultKind::Data, Place::Ids(*first, index).at(&path), webhook.get("id"), &what);
            } else {
                seen.insert(id, index);
            }
        }
    }

    /// Runs the worker's own parser: the API refuses everything that it refuses.
    fn worker_view(&mut self, key: &str, instance: &Instance) {
        let Err(error) = Integration::parse(key, &instance.to_bytes()) else { return };
        let at = match &error {
            Unusable::Status(_) => Place::Field("status").at("/status"),
            Unusable::BaseUrl(_) => Place::Field("baseUrl").at("/baseUrl"),
            Unusable::Key
            | Unusable::Json(_)
            | Unusable::IdMismatch
            | Unusable::WebhookId(_)
            | Unusable::DuplicateWebhook(_)
            | Unusable::Trigger { .. }
            | Unusable::Url { .. }
            | Unusable::Period { .. }
            | Unusable::FilterField { .. }
            | Unusable::TooMany { .. }
            | Unusable::TooLarge => Place::Whole.at(""),
        };
        self.remark(FaultKind::Data, at, &error.to_string());
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

/// The beginning of an id.
fn id_shown(id: &str) -> String {
    id.chars().take(SHOWN_CHARS_MAX).collect()
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

#[cfg(test)]
#[path = "instance_check_tests.rs"]
mod tests;
