//! One operation of a patch: its verb, its path and its value. `draft` applies it to an instance.

use serde_json::value::RawValue;

use super::List;
use crate::registration::faults::shown;
use crate::registration::fields::{Fields, raw};
use crate::registration::json_equality::{Digest, digest};
use crate::registration::secrets::equal_with_masks;

/// The instance's own fields that a patch may change.
const FIELDS: [&str; 5] = ["baseUrl", "status", "features", "settings", "secrets"];
/// The fields of a webhook that a patch may add when they are not there.
pub(super) const WEBHOOK_FIELDS: [&str; 5] = ["relativeUrl", "triggerType", "filter", "schedule", "disabled"];
/// The accepted paths, for messages.
pub(super) const ACCEPTED_PATHS: &str = "expected /webHooks, /webHooks/{webhook id or index}[/field], /IntegrationInstance (add), \
                              /baseUrl, /status, /features, /settings or /secrets";

/// Why one operation can't be applied.
#[derive(Debug)]
pub(super) struct OperationFault {
    pub(super) list: List,
    pub(super) message: String,
}

pub(super) fn bad_path(path: &str, what: &str) -> OperationFault {
    OperationFault { list: List::Paths, message: format!("{}: {what}", shown(&raw(path))) }
}

pub(super) fn bad_type(path: &str, value: Option<&RawValue>, what: &str) -> OperationFault {
    let found = value.map_or_else(|| "no value".to_owned(), shown);
    OperationFault { list: List::ValueTypes, message: format!("{path}: {found}: {what}") }
}

pub(super) fn bad_data(path: &str, what: &str) -> OperationFault {
    OperationFault { list: List::Datas, message: format!("{path}: {what}") }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Replace,
    Remove,
    Test,
}

/// An operation as it was sent, parsed.
pub(super) struct Operation {
    pub(super) verb: Verb,
    pub(super) path: String,
    pub(super) target: Target,
    /// Missing for `remove` only.
    value: Option<Box<RawValue>>,
}

pub(super) enum Target {
    /// `/webHooks`
    Webhooks,
    /// `/IntegrationInstance`, `/webHooks/-`
    Append,
    /// `/webHooks/{id or index}`
    Webhook(String),
    /// `/webHooks/{id or index}/{field}`
    WebhookField(String, String),
    /// One of [`FIELDS`].
    Field(&'static str),
}

impl Operation {
    pub(super) fn parse(sent: &RawValue) -> Result<Self, OperationFault> {
        let Ok(fields) = serde_json::from_str::<Fields>(sent.get()) else {
            let message = format!("{}: expected an object with op, path and value", shown(sent));
            return Err(OperationFault { list: List::ValueTypes, message });
        };
        let path = fields.text("path").ok_or_else(|| {
            let found = fields.get("path").map_or_else(|| "no path".to_owned(), shown);
            OperationFault { list: List::Paths, message: format!("{found}: {ACCEPTED_PATHS}") }
        })?;
        if let Some(name) = fields.repeated() {
            return Err(bad_data(&path, &format!("{} is given twice; expected once", shown(&raw(name)))));
        }
        let verb = match fields.text("op").map(|op| op.to_ascii_lowercase()).as_deref() {
            Some("add") => Verb::Add,
            Some("replace") => Verb::Replace,
            Some("remove") => Verb::Remove,
            Some("test") => Verb::Test,
            Some(_) | None => {
                let found = fields.get("op").map_or_else(|| "no op".to_owned(), shown);
                return Err(bad_data(&path, &format!("op {found}: expected add, replace, remove or test")));
            }
        };
        let target = Target::parse(&path)?;
        let value = fields.get("value").map(ToOwned::to_owned);
        if value.is_none() && verb != Verb::Remove {
            return Err(bad_type(&path, None, "add, replace and test need a value"));
        }
        Ok(Self { verb, path, target, value })
    }

    pub(super) fn value(&self) -> Result<&RawValue, OperationFault> {
        self.value.as_deref().ok_or_else(|| bad_type(&self.path, None, "add, replace and test need a value"))
    }

    /// The value as a webhook.
    pub(super) fn webhook(&self) -> Result<Fields, OperationFault> {
        let value = self.value()?;
        serde_json::from_str(value.get())
            .map_err(|_not_an_object| bad_type(&self.path, Some(value), "expected an object, a WebHook"))
    }

    /// Whether a `test` of the value with that digest passes.
    pub(super) fn passes(&self, there: Digest) -> Result<(), OperationFault> {
        if digest(self.value()?) == there { Ok(()) } else { Err(self.failed_test()) }
    }

    /// Whether a `test` of these secrets passes.
    pub(super) fn passes_with_masks(&self, there: &[Fields]) -> Result<(), OperationFault> {
        let named = serde_json::from_str::<Vec<Fields>>(self.value()?.get());
        let passes = named.is_ok_and(|named| equal_with_masks(&named, there));
        if passes { Ok(()) } else { Err(self.failed_test()) }
    }

    pub(super) fn failed_test(&self) -> OperationFault {
        bad_data(&self.path, "the test failed: the instance holds another value there")
    }
}

impl Target {
    fn parse(path: &str) -> Result<Self, OperationFault> {
        let unknown = || bad_path(path, ACCEPTED_PATHS);
        let mut segments = Vec::new();
        for segment in path.strip_prefix('/').ok_or_else(unknown)?.split('/') {
            segments.push(unescape(segment).ok_or_else(|| bad_path(path, "~ is written ~0 and / is written ~1"))?);
        }
        let mut segments = segments.into_iter();
        match (segments.next().as_deref(), segments.next(), segments.next(), segments.next()) {
            (Some("webHooks"), None, None, None) => Ok(Self::Webhooks),
            (Some("webHooks"), Some(segment), None, None) if segment == "-" => Ok(Self::Append),
            (Some("webHooks"), Some(segment), None, None) => Ok(Self::Webhook(segment)),
            (Some("webHooks"), Some(segment), Some(field), None) => Ok(Self::WebhookField(segment, field)),
            (Some("IntegrationInstance"), None, None, None) => Ok(Self::Append),
            (Some(field), None, None, None) => {
                FIELDS.into_iter().find(|known| *known == field).map(Self::Field).ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }
}

/// A segment of a JSON pointer.
fn unescape(segment: &str) -> Option<String> {
    let mut text = String::with_capacity(segment.len());
    let mut chars = segment.chars();
    while let Some(char) = chars.next() {
        match (char, char == '~') {
            (_, true) => match chars.next() {
                Some('0') => text.push('~'),
                Some('1') => text.push('/'),
                Some(_) | None => return None,
            },
            (char, false) => text.push(char),
        }
    }
    Some(text)
}

/// An array index as JSON pointers write it: no sign, no leading zero.
pub(super) fn index(segment: &str) -> Option<usize> {
    let is_index = segment == "0" || (!segment.starts_with('0') && segment.bytes().all(|byte| byte.is_ascii_digit()));
    is_index.then(|| segment.parse().ok()).flatten()
}
