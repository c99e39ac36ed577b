//! An `IntegrationInstance` as its owner wrote it, taken apart into its own fields and its webhooks. Ids, secret masks and
//! `updateInfo` are settled here; whether the content makes sense is `instance_check`, how a patch changes it is `patch`.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

pub(crate) use super::fields::Fields;
use super::fields::raw;
use super::json_words::{BadJson, words_of};
pub(crate) use super::secrets::{BadMask, MASK};
use super::secrets::{StoredSecrets, mask, without_expired};

/// The id that asks for a fresh one.
pub(crate) const ZERO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Why bytes can't be used as an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadInstance {
    /// Not a JSON object.
    #[error("expected an IntegrationInstance; {0}")]
    NotAnObject(BadJson),
    /// `webHooks` is not an array of objects.
    #[error("/webHooks: expected a list of objects")]
    Webhooks,
    /// A masked secret that no stored one can fill.
    #[error("/secrets: {0}")]
    Mask(BadMask),
}

impl From<BadMask> for BadInstance {
    fn from(bad: BadMask) -> Self {
        Self::Mask(bad)
    }
}

/// An instance taken apart: its own fields and its webhooks.
#[derive(Clone, Default)]
pub(crate) struct Instance {
    /// Everything but the webhooks (their place among the others is kept).
    pub(crate) fields: Fields,
    /// The webhooks in their order.
    pub(crate) webhooks: Vec<Fields>,
}

/// Shows no value, because it holds secrets.
impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("webhooks", &self.webhooks.len()).finish_non_exhaustive()
    }
}

impl Instance {
    /// Takes an instance apart.
    ///
    /// # Errors
    /// [`BadInstance`] if it is not an object, or its `webHooks` is not an array of objects.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadInstance> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(|error| BadInstance::NotAnObject(words_of(&error)))?;
        let webhooks = match fields.get("webHooks").map(RawValue::get) {
            None | Some("null") => Vec::new(),
            Some(text) => serde_json::from_str(text).map_err(|_not_objects| BadInstance::Webhooks)?,
        };
        Ok(Self { fields, webhooks })
    }

    /// The record's bytes.
    ///
    /// # Panics
    /// Never: every part of it came from JSON.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.written(None)
    }

    /// The record's bytes with every secret's value masked: what may leave the process.
    pub(crate) fn masked_bytes(&self) -> Vec<u8> {
        let secrets = self.fields.get("secrets").map(mask);
        self.written(secrets.as_deref())
    }

    /// Drops the secrets that ended before `now_ms`, ms since 1970.
    pub(crate) fn drop_expired_secrets(&mut self, now_ms: i64) {
        if let Some(left) = self.fields.get("secrets").and_then(|secrets| without_expired(secrets, now_ms)) {
            self.fields.set("secrets", left);
        }
    }

    /// The same with every secret's value masked.
    #[must_use]
    pub(crate) fn masked(&self) -> Self {
        let mut masked = self.clone();
        if let Some(secrets) = masked.fields.get("secrets").map(mask) {
            masked.fields.set("secrets", secrets);
        }
        masked
    }

    fn written(&self, secrets: Option<&RawValue>) -> Vec<u8> {
        serde_json::to_vec(&Written { instance: self, secrets }).expect("raw members always serialize")
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
    /// [`BadMask`] if a mask can mean several stored values.
    pub(crate) fn unmask_secrets(&mut self, stored: Option<&Self>) -> Result<(), BadMask> {
        let Some(secrets) = self.fields.get("secrets") else { return Ok(()) };
        let stored = StoredSecrets::of(stored.and_then(|stored| stored.fields.get("secrets")));
        if let Some(filled) = stored.fill(secrets)? {
            self.fields.set("secrets", filled);
        }
        Ok(())
    }

    /// Writes `updateInfo`: the author and the time of this change. The creation is kept from `stored`.
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

/// An instance to be serialized, without a copy of it.
struct Written<'a> {
    instance: &'a Instance,
    /// In the place of its own.
    secrets: Option<&'a RawValue>,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Instance { fields, webhooks } = self.instance;
        let mut map = serializer.serialize_map(None)?;
        let mut has_webhooks = false;
        for (name, value) in fields.iter() {
            match (name, self.secrets) {
                ("webHooks", _) => {
                    has_webhooks = true;
                    if webhooks.is_empty() && value.get() == "null" {
                        map.serialize_entry(name, value)?;
                    } else {
                        map.serialize_entry(name, webhooks)?;
                    }
                }
                ("secrets", Some(secrets)) => map.serialize_entry(name, secrets)?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        if !has_webhooks && !webhooks.is_empty() {
            map.serialize_entry("webHooks", webhooks)?;
        }
        map.end()
    }
}

/// The `updateInfo` of a write.
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
    let wanted = match webhook.get("id").map(RawValue::get) {
        None | Some("null") => true,
        Some(_) => webhook.text("id").is_some_and(|id| id == ZERO_ID),
    };
    if wanted {
        webhook.set_text("id", &fresh_id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::secrets::equal_with_masks;

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
    fn only_objects_are_instances() {
        for bad in ["", "[]", "1", "null", r#"{"webHooks":{}}"#, r#"{"webHooks":[1]}"#, "{} x"] {
            assert!(Instance::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_of_any_shape_are_masked() {
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
            let masked_bytes = parse(&format!(r#"{{"secrets":{secrets}}}"#)).masked_bytes();
            assert_eq!(String::from_utf8(masked_bytes).unwrap(), format!(r#"{{"secrets":{masked}}}"#));
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
    fn a_mask_is_filled_with_a_list_of_values_or_one_of_them() {
        let stored = r#"[{"id":"a","values":["1","2"]}]"#;
        check_unmask(r#"[{"id":"a","values":"***"}]"#, stored, Ok(r#"[{"id":"a","values":["1","2"]}]"#));
        check_unmask(
            r#"[{"id":"a","values":["new","***","***"]}]"#,
            stored,
            Ok(r#"[{"id":"a","values":["new","1","2"]}]"#),
        );
        check_unmask(
            r#"[{"id":"a","value":"***"},{"id":"a","value":"***"}]"#,
            stored,
            Ok(r#"[{"id":"a","value":"1"},{"id":"a","value":"2"}]"#),
        );
        let few = BadMask::Ambiguous { id: "a".into(), stored: 2, masked: 1 };
        check_unmask(r#"[{"id":"a","values":["new","***"]}]"#, stored, Err(few));
        check_unmask(r#"[{"id":"b","values":"***"}]"#, stored, Err(BadMask::NothingStored("b".into())));
    }

    #[test]
    fn a_mask_equals_any_value_and_nothing_else_does() {
        let list = |text: &str| serde_json::from_str::<Vec<Fields>>(text).unwrap();
        let stored = list(r#"[{"value":"s","id":"a"},{"id":"b","values":["1"]}]"#);
        for (named, equal) in [
            (r#"[{"id":"a","value":"***"},{"id":"b","values":"***"}]"#, true),
            (r#"[{"id":"a","value":"s"},{"values":["1"],"id":"b"}]"#, true),
            (r#"[{"id":"a","value":"t"},{"id":"b","values":["1"]}]"#, false),
            (r#"[{"id":"a","value":"***"},{"id":"c","values":["1"]}]"#, false),
            (r#"[{"id":"a","value":"***"},{"id":"b","value":"***"}]"#, false),
            (r#"[{"id":"a","value":"***"}]"#, false),
            (r#"[{"id":"a","value":"***","x":1},{"id":"b","values":["1"]}]"#, false),
        ] {
            assert_eq!(equal_with_masks(&list(named), &stored), equal, "{named}");
        }
    }
}
