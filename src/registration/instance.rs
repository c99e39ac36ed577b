//! An `IntegrationInstance` as its owner wrote it: fields in their order and to the byte, so that what we do not know
//! survives a change unchanged. Ids, secret masks and `updateInfo` are settled here; whether the content makes sense is
//! `instance_check`, how a patch changes it is `patch`.
//!
//! No secret value ever leaves this file in a message: only ids do.

use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// What stands in an answer instead of a secret's value, and in a request for "as it is stored".
pub(crate) const MASK: &str = "***";

/// The id that asks for a fresh one.
pub(crate) const ZERO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// A JSON object whose members keep their order and their bytes. Of a name given twice the last value counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// The member's bytes.
    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// The member as a value; `None` also for bytes no value can hold (nested too deeply, a lone surrogate).
    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// The member, if it is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// Sets the member, in its place if it is there, else at the end.
    pub(crate) fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Sets the member to a string.
    pub(crate) fn set_text(&mut self, name: &str, text: &str) {
        self.set(name, raw(&text));
    }

    /// Takes the member out; says whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != name);
        self.0.len() != before
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        // A map from name to place keeps objects with very many members linear.
        let mut places = HashMap::new();
        let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            let place = *places.entry(name.clone()).or_insert(fields.len());
            match fields.get_mut(place) {
                Some((_, old)) => *old = value,
                None => fields.push((name, value)),
            }
        }
        Ok(Fields(fields))
    }
}

/// Writes anything of ours as raw JSON.
pub(super) fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("strings, values and raw members always serialize")
}

/// Why bytes are no instance to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadInstance {
    /// Not a JSON object.
    #[error("expected a JSON object, an IntegrationInstance: {0}")]
    NotAnObject(String),
    /// `webHooks` is no array of objects.
    #[error("/webHooks: expected an array of objects: {0}")]
    Webhooks(String),
    /// A masked secret that no stored one can fill.
    #[error("/secrets: {0}")]
    Mask(BadMask),
}

impl From<BadMask> for BadInstance {
    fn from(bad: BadMask) -> Self {
        Self::Mask(bad)
    }
}

/// Why a masked secret can't be filled from the stored ones. Holds ids only, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMask {
    /// Nothing is stored under that id.
    #[error("the value of {0:?} is \"***\", which stands for the stored value, and none is stored; give the value")]
    NothingStored(String),
    /// Several values are stored and not as many masks given: which are meant can't be told.
    #[error(
        "{id:?} has {stored} stored values and {masked} given as \"***\"; give as many masks as are stored, or the values"
    )]
    Ambiguous {
        /// The secret's id.
        id: String,
        /// How many values are stored under it.
        stored: usize,
        /// How many masks were given.
        masked: usize,
    },
}

/// An instance taken apart: its own fields and its webhooks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    /// Everything but the webhooks (their place among the others is kept).
    pub(crate) fields: Fields,
    /// The webhooks in their order.
    pub(crate) webhooks: Vec<Fields>,
}

impl Instance {
    /// Takes an instance apart.
    ///
    /// # Errors
    /// [`BadInstance`] when it is no object or its `webHooks` no array of objects.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadInstance> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(|error| BadInstance::NotAnObject(error.to_string()))?;
        let webhooks = match fields.get("webHooks").map(RawValue::get) {
            None | Some("null") => Vec::new(),
            Some(text) => serde_json::from_str(text).map_err(|error| BadInstance::Webhooks(error.to_string()))?,
        };
        Ok(Self { fields, webhooks })
    }

    /// The record's bytes.
    ///
    /// # Panics
    /// Never: every part of it came from JSON.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut fields = self.fields.clone();
        if !self.webhooks.is_empty() || fields.get("webHooks").is_some_and(|raw| raw.get() != "null") {
            fields.set("webHooks", raw(&self.webhooks));
        }
        serde_json::to_vec(&fields).expect("raw members always serialize")
    }

    /// Gives every webhook without an id, or with the all-zero one, a fresh id.
    pub(crate) fn settle_ids(&mut self, fresh_id: &mut dyn FnMut() -> String) {
        for webhook in &mut self.webhooks {
            settle_id(webhook, fresh_id);
        }
    }

    /// Replaces masked secret values by the stored ones of the same id.
    ///
    /// # Errors
    /// [`BadMask`] when it can't be told which stored value is meant.
    pub(crate) fn unmask_secrets(&mut self, stored: Option<&Self>) -> Result<(), BadMask> {
        let Some(secrets) = self.fields.get("secrets") else { return Ok(()) };
        let stored = stored.and_then(|stored| stored.fields.get("secrets"));
        if let Some(filled) = unmask(secrets, stored)? {
            self.fields.set("secrets", filled);
        }
        Ok(())
    }

    /// The same with every secret's value masked: what may leave the process.
    #[must_use]
    pub(crate) fn masked(&self) -> Self {
        let mut masked = self.clone();
        if let Some(secrets) = masked.fields.get("secrets") {
            let secrets = mask(secrets);
            masked.fields.set("secrets", secrets);
        }
        masked
    }

    /// Writes `updateInfo`: who changed it last and when, who created it kept from `stored`.
    pub(crate) fn stamp(&mut self, stored: Option<&Self>, stamp: &Stamp<'_>) {
        let kept = stored.and_then(|stored| stored.fields.get("updateInfo"));
        let mut info: Fields = kept.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        if stored.is_none() {
            info.set_text("createdAt", stamp.now);
            info.set_text("createdWith", stamp.with);
        }
        info.set_text("updatedAt", stamp.now);
        info.set_text("updatedWith", stamp.with);
        if stamp.status_written {
            info.set_text("statusUpdatedAt", stamp.now);
        }
        self.fields.set("updateInfo", raw(&info));
    }
}

/// What a write leaves in `updateInfo`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp<'a> {
    /// RFC 3339.
    pub(crate) now: &'a str,
    /// The program that writes.
    pub(crate) with: &'a str,
    /// Whether the write set the status on purpose: a suspended integration resumes even when the word is the same.
    pub(crate) status_written: bool,
}

/// Gives a webhook without an id, or with the all-zero one, a fresh id.
pub(super) fn settle_id(webhook: &mut Fields, fresh_id: &mut dyn FnMut() -> String) {
    let wanted = match webhook.value("id") {
        None => webhook.get("id").is_none(),
        Some(Value::Null) => true,
        Some(Value::String(id)) => id == ZERO_ID,
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => false,
    };
    if wanted {
        webhook.set_text("id", &fresh_id());
    }
}

/// A list of secrets with every value masked; what is no such list is masked as a whole.
fn mask(secrets: &RawValue) -> Box<RawValue> {
    if secrets.get() == "null" {
        return secrets.to_owned();
    }
    let Ok(mut list) = serde_json::from_str::<Vec<Value>>(secrets.get()) else { return raw(MASK) };
    for secret in &mut list {
        match secret {
            Value::Object(secret) => {
                for (name, value) in secret.iter_mut().filter(|(name, _)| *name != "id") {
                    mask_member(name, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                *secret = Value::String(MASK.to_owned());
            }
        }
    }
    raw(&list)
}

/// Masks the member if it is the value, and whatever else is nested, where a value may hide.
fn mask_member(name: &str, value: &mut Value) {
    if name.eq_ignore_ascii_case("value") || value.is_object() || value.is_array() {
        *value = Value::String(MASK.to_owned());
    }
}

/// The list with its masks filled from the stored one; `None` when there is no mask in it.
pub(super) fn unmask(secrets: &RawValue, stored: Option<&RawValue>) -> Result<Option<Box<RawValue>>, BadMask> {
    let Ok(mut list) = serde_json::from_str::<Vec<Fields>>(secrets.get()) else { return Ok(None) };
    let is_masked = |secret: &Fields| secret.text("value").is_some_and(|value| value == MASK);
    if !list.iter().any(is_masked) {
        return Ok(None);
    }
    let stored: Vec<Fields> = stored.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let mut ids: Vec<Option<String>> = list.iter().filter(|one| is_masked(one)).map(|one| one.text("id")).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let values: Vec<&RawValue> =
            stored.iter().filter(|secret| secret.text("id") == id).filter_map(|secret| secret.get("value")).collect();
        let masks: Vec<&mut Fields> =
            list.iter_mut().filter(|secret| is_masked(secret) && secret.text("id") == id).collect();
        let id = id.unwrap_or_default();
        match (values.len(), masks.len()) {
            (0, _) => return Err(BadMask::NothingStored(id)),
            (stored, masked) if stored != masked => return Err(BadMask::Ambiguous { id, stored, masked }),
            _ => masks.into_iter().zip(values).for_each(|(secret, value)| secret.set("value", value.to_owned())),
        }
    }
    Ok(Some(raw(&list)))
}

/// Whether a value someone names equals the stored one, a mask standing for any secret value.
pub(super) fn equal_with_masks(named: &Value, stored: &Value) -> bool {
    match (named, stored) {
        (Value::Array(named), Value::Array(stored)) => {
            named.len() == stored.len()
                && named.iter().zip(stored).all(|(named, stored)| match (named.as_object(), stored.as_object()) {
                    (Some(named), Some(stored)) => {
                        named.len() == stored.len()
                            && named.iter().all(|(name, value)| {
                                (name == "value" && value == MASK && stored.contains_key(name))
                                    || stored.get(name).is_some_and(|other| equal(value, other))
                            })
                    }
                    _ => equal(named, stored),
                })
        }
        _ => equal(named, stored),
    }
}

/// JSON equality: numbers by value, members in any order.
pub(super) fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| equal(value, other)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Instance {
        Instance::parse(text.as_bytes()).unwrap()
    }

    fn text(instance: &Instance) -> String {
        String::from_utf8(instance.to_bytes()).unwrap()
    }

    #[test]
    fn unknown_fields_and_numbers_keep_their_bytes() {
        let sent = r#"{"z":123456789012345678901234567890,"id":"i","a":[1.50, 1e400],"webHooks":[{"id":"w","x":{"b":1,"a":2}}],"q":"\u00e9"}"#;
        assert_eq!(text(&parse(sent)), sent);
    }

    #[test]
    fn missing_webhooks_stay_missing() {
        assert_eq!(text(&parse(r#"{"id":"i"}"#)), r#"{"id":"i"}"#);
        assert_eq!(text(&parse(r#"{"id":"i","webHooks":null}"#)), r#"{"id":"i","webHooks":null}"#);
    }

    #[test]
    fn a_name_given_twice_keeps_the_last_value() {
        assert_eq!(text(&parse(r#"{"a":1,"b":2,"a":3}"#)), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn only_objects_are_instances() {
        for bad in ["", "[]", "1", "null", r#"{"webHooks":{}}"#, r#"{"webHooks":[1]}"#, "{} x"] {
            assert!(Instance::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_masked_whatever_their_shape() {
        for (secrets, masked) in [
            (
                r#"[{"id":"a","value":"whsec"},{"value":7,"id":"b"}]"#,
                r#"[{"id":"a","value":"***"},{"value":"***","id":"b"}]"#,
            ),
            (r#"["bare"]"#, r#"["***"]"#),
            (r#"[{"id":"a","values":["x"],"Value":"y"}]"#, r#"[{"id":"a","values":"***","Value":"***"}]"#),
            (r#"{"a":"b"}"#, r#""***""#),
            ("null", "null"),
        ] {
            let masked_instance = parse(&format!(r#"{{"secrets":{secrets}}}"#)).masked();
            assert_eq!(text(&masked_instance), format!(r#"{{"secrets":{masked}}}"#));
        }
    }

    #[track_caller]
    fn check_unmask(sent: &str, stored: &str, expected: Result<&str, BadMask>) {
        let mut instance = parse(&format!(r#"{{"secrets":{sent}}}"#));
        let stored = parse(&format!(r#"{{"secrets":{stored}}}"#));
        let result = instance.unmask_secrets(Some(&stored));
        assert_eq!(result.map(|()| text(&instance)), expected.map(|secrets| format!(r#"{{"secrets":{secrets}}}"#)));
    }

    #[test]
    fn a_mask_keeps_the_stored_value_of_its_id() {
        let stored = r#"[{"id":"a","value":"1"},{"id":"b","value":"2"}]"#;
        check_unmask(r#"[{"id":"b","value":"***"}]"#, stored, Ok(r#"[{"id":"b","value":"2"}]"#));
        check_unmask(r#"[{"id":"b","value":"new"}]"#, stored, Ok(r#"[{"id":"b","value":"new"}]"#));
    }

    #[test]
    fn rotation_keeps_the_old_value_beside_the_new() {
        check_unmask(
            r#"[{"id":"a","value":"new"},{"id":"a","value":"***"}]"#,
            r#"[{"id":"a","value":"old"}]"#,
            Ok(r#"[{"id":"a","value":"new"},{"id":"a","value":"old"}]"#),
        );
    }

    #[test]
    fn a_mask_without_one_stored_value_is_refused() {
        check_unmask(r#"[{"id":"c","value":"***"}]"#, "[]", Err(BadMask::NothingStored("c".into())));
        check_unmask(
            r#"[{"id":"a","value":"***"}]"#,
            r#"[{"id":"a","value":"1"},{"id":"a","value":"2"}]"#,
            Err(BadMask::Ambiguous { id: "a".into(), stored: 2, masked: 1 }),
        );
    }

    #[test]
    fn missing_and_zero_webhook_ids_become_fresh_ones() {
        let mut instance = parse(&format!(r#"{{"webHooks":[{{"id":"{ZERO_ID}"}},{{}},{{"id":"kept"}}]}}"#));
        let mut next = 0;
        instance.settle_ids(&mut || {
            next += 1;
            format!("fresh-{next}")
        });
        assert_eq!(text(&instance), r#"{"webHooks":[{"id":"fresh-1"},{"id":"fresh-2"},{"id":"kept"}]}"#);
    }

    #[test]
    fn stamps_keep_the_creation() {
        let stored = parse(r#"{"updateInfo":{"createdAt":"then","createdWith":"WebApp","x":1}}"#);
        let mut instance = parse(r#"{"updateInfo":{"createdAt":"forged"}}"#);
        instance.stamp(Some(&stored), &Stamp { now: "now", with: "api", status_written: true });
        assert_eq!(
            text(&instance),
            r#"{"updateInfo":{"createdAt":"then","createdWith":"WebApp","x":1,"updatedAt":"now","updatedWith":"api","statusUpdatedAt":"now"}}"#
        );
        let mut created = parse("{}");
        created.stamp(None, &Stamp { now: "now", with: "api", status_written: false });
        assert_eq!(
            text(&created),
            r#"{"updateInfo":{"createdAt":"now","createdWith":"api","updatedAt":"now","updatedWith":"api"}}"#
        );
    }

    #[test]
    fn equality_is_by_value() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert!(equal(&value(r#"{"a":1,"b":[2.0]}"#), &value(r#"{"b":[2],"a":1.0}"#)));
        assert!(!equal(&value("[1,2]"), &value("[2,1]")));
        assert!(equal_with_masks(&value(r#"[{"id":"a","value":"***"}]"#), &value(r#"[{"value":"s","id":"a"}]"#)));
        assert!(!equal_with_masks(&value(r#"[{"id":"a","value":"t"}]"#), &value(r#"[{"value":"s","id":"a"}]"#)));
    }
}
