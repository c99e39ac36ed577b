//! What makes an instance acceptable: every field's type, words, URLs and periods, with the place of each fault. What
//! passes here the worker can use: its own parse has the last word.
//!
//! Messages name path, value and what is accepted; a secret's value never stands in one.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::instance::{Fields, Instance, raw};
use crate::domain::filter::{CHANGE_WORDS, EVENT_WORDS};
use crate::domain::guid::canonical;
use crate::domain::integration::{
    HEADER_SECRET_PREFIX, Integration, STATUS_WORDS, Status, Unusable, is_sendable, join_url, parse_period,
};
use crate::domain::target::Target;

/// Ids are names in keys, paths and logs: bounded.
pub(crate) const ID_CHARS_MAX: usize = 200;
/// How much of a value a message repeats.
const SHOWN_CHARS_MAX: usize = 100;
/// The trigger types, as records spell them.
pub(crate) const TRIGGER_WORDS: [&str; 2] = ["entityEvent", "schedule"];

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Another JSON type than the field takes, or missing where it must be.
    ValueType,
    /// The right type, a content that can't be.
    Data,
}

/// Where in an instance a fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One of the instance's own fields.
    Field(&'static str),
    /// A webhook by its index, and the fields that together are at fault.
    Webhook(usize, &'static [&'static str]),
    /// The ids of two webhooks, by their indices: either alone could stay.
    Ids(usize, usize),
    /// Nowhere in particular.
    Whole,
}

/// One fault of an instance.
#[derive(Clone, Debug)]
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

/// Every fault of the instance that is to be written under `key` (`<workspace>/<integration id>`).
pub(crate) fn faults(key: &str, instance: &Instance) -> Vec<Fault> {
    let mut checker = Checker { faults: Vec::new() };
    checker.own_fields(key, &instance.fields);
    let base = checker.base_url(&instance.fields);
    for (index, webhook) in instance.webhooks.iter().enumerate() {
        let check = WebhookCheck { checker: &mut checker, index, webhook };
        check.all(&base);
    }
    checker.duplicates(&instance.webhooks);
    if checker.faults.is_empty() {
        checker.worker_view(key, instance);
    }
    checker.faults
}

/// Whether a worker could use the instance as it stands.
pub(crate) fn is_usable(key: &str, instance: &Instance) -> bool {
    Integration::parse(key, &instance.to_bytes()).is_ok()
}

/// What relative URLs continue.
enum Base {
    Missing,
    Bad,
    Good(String),
}

struct Checker {
    faults: Vec<Fault>,
}

impl Checker {
    fn fault(&mut self, kind: FaultKind, at: (Place, &str), value: Option<&RawValue>, what: &str) {
        let (place, path) = at;
        let found = value.map_or_else(|| "missing".to_owned(), shown);
        let secret = place == Place::Field("secrets");
        let message = if secret { format!("{path}: {what}") } else { format!("{path}: {found}: {what}") };
        let value = value.filter(|_| !secret).map(ToOwned::to_owned);
        self.faults.push(Fault { kind, place, path: path.to_owned(), value, message });
    }

    fn own_fields(&mut self, key: &str, fields: &Fields) {
        let id = key.rsplit_once('/').map_or(key, |(_, id)| id);
        let is_it = |known: &str| canonical(known) == canonical(id);
        if let Some(value) = fields.get("id").filter(|_| !fields.text("id").is_some_and(|known| is_it(&known))) {
            self.fault(
                FaultKind::Data,
                (Place::Field("id"), "/id"),
                Some(value),
                &format!("expected {id:?} or nothing"),
            );
        }
        self.status(fields);
        for (name, path, is_right, expected) in [
            ("features", "/features", Value::is_object as fn(&Value) -> bool, "expected an object"),
            ("settings", "/settings", Value::is_array, "expected an array"),
        ] {
            let wrong = |value: &Value| !value.is_null() && !is_right(value);
            // What no value can hold (nested too deeply) is judged by its first byte.
            let bad = match (fields.get(name), fields.value(name)) {
                (_, Some(value)) => wrong(&value),
                (Some(raw), None) => !raw.get().starts_with(['{', '[']),
                (None, None) => false,
            };
            if bad {
                self.fault(FaultKind::ValueType, (Place::Field(name), path), fields.get(name), expected);
            }
        }
        self.secrets(fields);
    }

    fn base_url(&mut self, fields: &Fields) -> Base {
        let Some(value) = present(fields, "baseUrl") else { return Base::Missing };
        let at = (Place::Field("baseUrl"), "/baseUrl");
        let Some(url) = fields.text("baseUrl") else {
            self.fault(FaultKind::ValueType, at, Some(value), "expected a string, an http or https URL");
            return Base::Bad;
        };
        if let Err(error) = Target::parse(&url) {
            self.fault(FaultKind::Data, at, Some(value), &error.to_string());
            return Base::Bad;
        }
        Base::Good(url)
    }

    fn status(&mut self, fields: &Fields) {
        let Some(value) = present(fields, "status") else { return };
        let accepted = format!("expected one of {}", words(&STATUS_WORDS.map(|(word, _)| word)));
        let at = (Place::Field("status"), "/status");
        match fields.text("status") {
            None => self.fault(FaultKind::ValueType, at, Some(value), &accepted),
            Some(word) if Status::parse(&word).is_none() => self.fault(FaultKind::Data, at, Some(value), &accepted),
            Some(_) => {}
        }
    }

    fn secrets(&mut self, fields: &Fields) {
        let Some(value) = present(fields, "secrets") else { return };
        let place = Place::Field("secrets");
        let Ok(secrets) = serde_json::from_str::<Vec<Fields>>(value.get()) else {
            let expected = "expected an array of objects, each with the strings id and value";
            self.fault(FaultKind::ValueType, (place, "/secrets"), Some(value), expected);
            return;
        };
        for (index, secret) in secrets.iter().enumerate() {
            let path = format!("/secrets/{index}");
            if secret.text("id").is_none_or(|id| id.is_empty()) || secret.text("value").is_none() {
                let expected = "expected an object with the strings id (not empty) and value";
                self.fault(FaultKind::ValueType, (place, &path), Some(value), expected);
                continue;
            }
            let (id, text) = (secret.text("id").unwrap_or_default(), secret.text("value").unwrap_or_default());
            if let Some(name) = id.strip_prefix(HEADER_SECRET_PREFIX)
                && !is_sendable(name, text.trim())
            {
                let expected = "expected the name and value of a header that may be added";
                self.fault(FaultKind::Data, (place, &path), Some(value), expected);
            }
        }
    }

    /// Deliveries are named by their webhook's id: two can't share one.
    fn duplicates(&mut self, webhooks: &[Fields]) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (index, webhook) in webhooks.iter().enumerate() {
            let Some(id) = webhook.text("id").map(|id| canonical(&id).into_owned()) else { continue };
            if let Some(first) = seen.get(&id) {
                let path = format!("/webHooks/{index}/id");
                let what = format!("webhook {first} has this id already; each needs its own");
                self.fault(FaultKind::Data, (Place::Ids(*first, index), &path), webhook.get("id"), &what);
            } else {
                seen.insert(id, index);
            }
        }
    }

    /// The worker's own parse: what it refuses, the API refuses.
    fn worker_view(&mut self, key: &str, instance: &Instance) {
        let Err(error) = Integration::parse(key, &instance.to_bytes()) else { return };
        let (place, path) = match &error {
            Unusable::Status(_) => (Place::Field("status"), "/status"),
            Unusable::Key
            | Unusable::Json(_)
            | Unusable::IdMismatch
            | Unusable::WebhookId(_)
            | Unusable::DuplicateWebhook(_)
            | Unusable::Trigger { .. }
            | Unusable::Url { .. }
            | Unusable::Period { .. }
            | Unusable::BaseUrl(_)
            | Unusable::FilterField { .. }
            | Unusable::TooMany { .. }
            | Unusable::TooLarge => (Place::Whole, ""),
        };
        let message = format!("{path}{}{error}", if path.is_empty() { "" } else { ": " });
        self.faults.push(Fault { kind: FaultKind::Data, place, path: path.to_owned(), value: None, message });
    }
}

/// The checks of one webhook.
struct WebhookCheck<'a> {
    checker: &'a mut Checker,
    index: usize,
    webhook: &'a Fields,
}

impl WebhookCheck<'_> {
    fn all(mut self, base: &Base) {
        self.id();
        self.url(base);
        let trigger = self.trigger();
        self.filter(trigger);
        self.schedule(trigger);
        if let Some(value) = present(self.webhook, "disabled")
            && !matches!(value.get(), "true" | "false")
        {
            self.fault(FaultKind::ValueType, &["disabled"], Some(value), "expected true or false");
        }
    }

    fn fault(&mut self, kind: FaultKind, fields: &'static [&'static str], value: Option<&RawValue>, what: &str) {
        self.fault_at(kind, (fields, ""), value, what);
    }

    /// `at`: the fields at fault, of which the first gives the path, and what of the path lies below it.
    fn fault_at(&mut self, kind: FaultKind, at: (&'static [&'static str], &str), value: Option<&RawValue>, what: &str) {
        let (fields, below) = at;
        let field = fields.first().copied().unwrap_or_default();
        let path = format!("/webHooks/{}/{field}{below}", self.index);
        self.checker.fault(kind, (Place::Webhook(self.index, fields), &path), value, what);
    }

    fn id(&mut self) {
        let value = self.webhook.get("id");
        match self.webhook.text("id") {
            None => self.fault(FaultKind::ValueType, &["id"], value, "expected a string"),
            Some(id) if !is_name(&id) => {
                let what = format!("expected 1 to {ID_CHARS_MAX} characters without spaces and slashes");
                self.fault(FaultKind::Data, &["id"], value, &what);
            }
            Some(_) => {}
        }
    }

    fn url(&mut self, base: &Base) {
        let value = self.webhook.get("relativeUrl");
        let Some(relative) = self.webhook.text("relativeUrl") else {
            let expected = "expected a string, an http or https URL or one that continues baseUrl";
            self.fault(FaultKind::ValueType, &["relativeUrl"], value, expected);
            return;
        };
        let (base, is_missing) = match base {
            Base::Good(base) => (base.as_str(), false),
            Base::Missing => ("", true),
            // Reported at its own place; only a URL that does without it can be judged.
            Base::Bad if join_url("x", &relative) != relative => return,
            Base::Bad => ("", false),
        };
        if let Err(error) = Target::parse(&join_url(base, &relative)) {
            let hint = if is_missing { "; the instance has no baseUrl that it could continue" } else { "" };
            self.fault(FaultKind::Data, &["relativeUrl"], value, &format!("{error}{hint}"));
        }
    }

    fn trigger(&mut self) -> Option<&'static str> {
        let value = self.webhook.get("triggerType");
        let accepted = format!("expected one of {}", words(&TRIGGER_WORDS));
        let Some(word) = self.webhook.text("triggerType") else {
            self.fault(FaultKind::ValueType, &["triggerType"], value, &accepted);
            return None;
        };
        let known = TRIGGER_WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(&word));
        if known.is_none() {
            self.fault(FaultKind::Data, &["triggerType"], value, &accepted);
        }
        known
    }

    fn filter(&mut self, trigger: Option<&str>) {
        let on_events = trigger == Some("entityEvent");
        let expected = "expected an object with an array of items; {} as an item matches every event";
        let filter = match present(self.webhook, "filter").map(|raw| serde_json::from_str::<Fields>(raw.get())) {
            Some(Ok(filter)) => filter,
            Some(Err(_)) => {
                let value = self.webhook.get("filter");
                return self.fault(FaultKind::ValueType, &["filter"], value, expected);
            }
            None => Fields::default(),
        };
        let items: Vec<Box<RawValue>> = match present(&filter, "items").map(|raw| serde_json::from_str(raw.get())) {
            Some(Ok(items)) => items,
            Some(Err(_)) => {
                let value = filter.get("items");
                return self.fault_at(FaultKind::ValueType, (&["filter"], "/items"), value, expected);
            }
            None => Vec::new(),
        };
        if items.is_empty() && on_events {
            let what = "a webhook without filter items would match no event; expected at least one item";
            let fields: &[&str] = &["filter", "triggerType"];
            self.fault_at(FaultKind::Data, (fields, "/items"), filter.get("items"), what);
        }
        for (place, item) in items.iter().enumerate() {
            self.filter_item(place, item);
        }
    }

    fn filter_item(&mut self, place: usize, item: &RawValue) {
        let below = format!("/items/{place}");
        let Ok(fields) = serde_json::from_str::<Fields>(item.get()) else {
            let what = "expected an object with eventType, entityType, changeType or none of them";
            return self.fault_at(FaultKind::ValueType, (&["filter"], &below), Some(item), what);
        };
        let accepted: [(&str, &[&str]); 3] =
            [("eventType", &EVENT_WORDS), ("changeType", &CHANGE_WORDS), ("entityType", &[])];
        for (name, known) in accepted {
            let Some(value) = present(&fields, name) else { continue };
            let below = format!("{below}/{name}");
            let expected = match known {
                [] => "expected the name of an entity type".to_owned(),
                known => format!("expected one of {}, or nothing for any", words(known)),
            };
            match fields.text(name) {
                None => self.fault_at(FaultKind::ValueType, (&["filter"], &below), Some(value), &expected),
                Some(word) if !is_one_of(&word, known) => {
                    self.fault_at(FaultKind::Data, (&["filter"], &below), Some(value), &expected);
                }
                Some(_) => {}
            }
        }
    }

    fn schedule(&mut self, trigger: Option<&str>) {
        let expected = "expected an object, with a period [d.]hh:mm:ss of at least 00:00:10 for triggerType schedule";
        let fields: &[&str] = &["schedule", "triggerType"];
        let schedule = match present(self.webhook, "schedule").map(|raw| serde_json::from_str::<Fields>(raw.get())) {
            Some(Ok(schedule)) => schedule,
            Some(Err(_)) => {
                let value = self.webhook.get("schedule");
                return self.fault(FaultKind::ValueType, fields, value, expected);
            }
            None => Fields::default(),
        };
        let value = present(&schedule, "period");
        match (value, schedule.text("period")) {
            (Some(_), None) => self.fault_at(FaultKind::ValueType, (fields, "/period"), value, expected),
            (Some(_), Some(period)) => {
                if let Err(error) = parse_period(&period) {
                    let what = format!("{error}; {expected}");
                    self.fault_at(FaultKind::Data, (fields, "/period"), value, &what);
                }
            }
            (None, _) if trigger == Some("schedule") => {
                self.fault_at(FaultKind::Data, (fields, "/period"), None, expected);
            }
            (None, _) => {}
        }
    }
}

/// The member, unless it is missing or null, which mean the same to readers of the record.
fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a RawValue> {
    fields.get(name).filter(|raw| raw.get() != "null")
}

/// Whether the word is known, without case; where none are listed the set is open, and only nothing is wrong.
fn is_one_of(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(word)) || (known.is_empty() && !word.is_empty())
}

fn words(words: &[&str]) -> String {
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
