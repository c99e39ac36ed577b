//! Why a patch is not applied: its faults, collected, counted and sorted by kind, and the operations as they were sent.
//!
//! Values of secrets are masked here. `draft` and `instance_check` decide what is at fault.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::registration::faults::{FAULTS_MAX, FaultKind};
use crate::registration::fields::{Fields, raw};
use crate::registration::instance::MASK;
use crate::registration::secrets::mask_texts;
use crate::telemetry::never::never;

/// Faults that the message describes in words. The lists hold up to [`FAULTS_MAX`].
const LISTED_MAX: usize = 10;

/// Why an instance stays as it is: the operations at fault as they were sent (secret values masked).
#[derive(Clone, Debug, Default)]
pub(crate) struct Conflict {
    /// Their path leads nowhere.
    pub(crate) invalid_paths: Vec<Box<RawValue>>,
    /// Their value has the wrong JSON type.
    pub(crate) invalid_value_types: Vec<Box<RawValue>>,
    /// Their value is not accepted.
    pub(crate) invalid_datas: Vec<Box<RawValue>>,
    /// Path, value and what is accepted for each.
    pub(crate) message: String,
}

impl Conflict {
    /// A conflict that no operation caused.
    pub(crate) fn of(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }
}

/// The list of a conflict that a fault goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Paths,
    ValueTypes,
    Datas,
}

impl List {
    pub(super) fn of(kind: FaultKind) -> Self {
        match kind {
            FaultKind::ValueType => Self::ValueTypes,
            FaultKind::Data => Self::Datas,
        }
    }

    pub(super) fn of_conflict(self, conflict: &mut Conflict) -> &mut Vec<Box<RawValue>> {
        match self {
            Self::Paths => &mut conflict.invalid_paths,
            Self::ValueTypes => &mut conflict.invalid_value_types,
            Self::Datas => &mut conflict.invalid_datas,
        }
    }
}

/// Collects the faults of a patch.
#[derive(Default)]
pub(super) struct Faults {
    /// The operations at fault, each once a list, at most [`FAULTS_MAX`].
    listed: Vec<(usize, List)>,
    messages: Vec<String>,
    pub(super) count: usize,
}

impl Faults {
    pub(super) fn add(&mut self, number: Option<usize>, list: List, message: &str) {
        self.count += 1;
        if self.messages.len() < LISTED_MAX {
            self.messages.push(match number {
                Some(number) => format!("operation {number}: {message}"),
                None => message.to_owned(),
            });
        }
        if let Some(number) = number
            && self.listed.len() < FAULTS_MAX
            && !self.listed.contains(&(number, list))
        {
            self.listed.push((number, list));
        }
    }

    /// Each operation as it was sent, written down once.
    pub(super) fn conflict(self, operations: &[Box<RawValue>]) -> Conflict {
        let mut conflict = Conflict { message: in_words(&self.messages, self.count), ..Conflict::default() };
        for (number, list) in self.listed {
            let Some(sent) = operations.get(number) else {
                never("an operation at fault is not in its patch");
                continue;
            };
            let sent = without_secrets(sent);
            let listed = list.of_conflict(&mut conflict);
            if !listed.iter().any(|known| known.get() == sent.get()) {
                listed.push(sent);
            }
        }
        conflict
    }
}

/// The first faults in a sentence, and how many more there are.
pub(super) fn in_words(messages: &[impl AsRef<str>], count: usize) -> String {
    let listed: Vec<&str> = messages.iter().take(LISTED_MAX).map(AsRef::as_ref).collect();
    let mut text = listed.join("; ");
    if count > listed.len() {
        text.push_str("; and ");
        text.push_str(&(count - listed.len()).to_string());
        text.push_str(" more");
    }
    text
}

/// A secret's value is masked text by text up to this size; a larger one, or one that is nested too deeply, as a whole.
const MASKED_BYTES_MAX: usize = 64 * 1024;

/// An operation as it was sent, with the values of secrets masked.
fn without_secrets(sent: &RawValue) -> Box<RawValue> {
    let Ok(mut operation) = serde_json::from_str::<Fields>(sent.get()) else { return sent.to_owned() };
    let is_secret = operation.text("path").is_none_or(|path| path.to_ascii_lowercase().starts_with("/secrets"));
    let value = operation.get("value").filter(|_| is_secret).map(RawValue::get);
    let parsed =
        value.map(|value| (value.len() <= MASKED_BYTES_MAX).then(|| serde_json::from_str::<Value>(value).ok()));
    match parsed.map(Option::flatten) {
        Some(Some(mut value)) => {
            mask_texts(&mut value);
            operation.set("value", raw(&value));
            raw(&operation)
        }
        Some(None) => {
            operation.set("value", raw(MASK));
            raw(&operation)
        }
        None => sent.to_owned(),
    }
}
