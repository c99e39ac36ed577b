//! Secrets of an instance in requests and answers: answers mask them, and `***` in a request means the stored value.
//!
//! No message of this file holds a secret's value: only ids do.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Fields, raw};
use crate::domain::integration::SIGNING_SECRET;
use crate::domain::signature::SigningKey;

/// Replaces a secret's value in an answer. In a request it means "as it is stored".
pub(crate) const MASK: &str = "***";
/// The members of a secret that hold values: one, or several of a rotation.
const VALUE_MEMBERS: [&str; 2] = ["value", "values"];

/// Why a masked secret can't be filled from the stored ones. It holds ids only, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMask {
    /// Nothing is stored under that id.
    #[error("the value of {0:?} is \"***\", which means the stored value, but no value is stored; give the value")]
    NothingStored(String),
    /// Several values are stored, and the number of masks differs: it is not known which values are meant.
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

/// A list of secrets with every value masked. A value that is not such a list is masked as a whole.
pub(super) fn mask(secrets: &RawValue) -> Box<RawValue> {
    if secrets.get() == "null" {
        return secrets.to_owned();
    }
    let Ok(list) = serde_json::from_str::<Vec<Box<RawValue>>>(secrets.get()) else { return raw(MASK) };
    let masked: Vec<Box<RawValue>> = list
        .iter()
        .map(|secret| match serde_json::from_str::<Fields>(secret.get()) {
            Ok(secret) => raw(&masked(secret)),
            Err(_no_object) => raw(MASK),
        })
        .collect();
    raw(&masked)
}

/// A secret with its values masked, and its nested members too, because they may hide a value.
fn masked(mut secret: Fields) -> Fields {
    let hidden: Vec<String> = secret
        .iter()
        .filter(|(name, value)| *name != "id" && (is_value(name) || value.get().starts_with(['{', '['])))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in hidden {
        secret.set_text(&name, MASK);
    }
    secret
}

fn is_value(name: &str) -> bool {
    VALUE_MEMBERS.iter().any(|member| member.eq_ignore_ascii_case(name))
}

/// The stored values of secrets, by id.
#[derive(Default)]
pub(super) struct StoredSecrets {
    /// Every value, single or in a list.
    single: HashMap<String, Vec<Box<RawValue>>>,
    /// The first list of values.
    lists: HashMap<String, Box<RawValue>>,
}

impl StoredSecrets {
    /// Reads the list as it is stored.
    pub(super) fn of(secrets: Option<&RawValue>) -> Self {
        let mut stored = Self::default();
        let list = secrets.and_then(|raw| serde_json::from_str::<Vec<Fields>>(raw.get()).ok()).unwrap_or_default();
        for secret in list {
            let id = secret.text("id").unwrap_or_default();
            let single = stored.single.entry(id.clone()).or_default();
            single.extend(secret.get("value").map(ToOwned::to_owned));
            if let Some(values) = secret.get("values") {
                match serde_json::from_str::<Vec<Box<RawValue>>>(values.get()) {
                    Ok(values) => single.extend(values),
                    Err(_no_list) => single.push(values.to_owned()),
                }
                stored.lists.entry(id).or_insert_with(|| values.to_owned());
            }
        }
        stored
    }

    /// The list with its masks filled; `None` when there is no mask in it.
    ///
    /// # Errors
    /// [`BadMask`] if a mask can mean several stored values.
    pub(super) fn fill(&self, secrets: &RawValue) -> Result<Option<Box<RawValue>>, BadMask> {
        let Ok(mut list) = serde_json::from_str::<Vec<Fields>>(secrets.get()) else { return Ok(None) };
        let mut masks: HashMap<String, usize> = HashMap::new();
        let mut is_masked = false;
        for secret in &list {
            let count = masks_in(secret);
            is_masked |= count > 0 || is_mask(secret.get("values"));
            if count > 0 {
                *masks.entry(secret.text("id").unwrap_or_default()).or_default() += count;
            }
        }
        if !is_masked {
            return Ok(None);
        }
        let mut masks: Vec<_> = masks.into_iter().collect();
        masks.sort_unstable();
        for (id, masked) in masks {
            match self.single.get(&id).map_or(0, Vec::len) {
                0 => return Err(BadMask::NothingStored(id)),
                stored if stored != masked => return Err(BadMask::Ambiguous { id, stored, masked }),
                _ => {}
            }
        }
        let mut used: HashMap<String, usize> = HashMap::new();
        for secret in &mut list {
            self.fill_one(secret, &mut used)?;
        }
        Ok(Some(raw(&list)))
    }

    /// Fills the masks of one secret. `used` counts the values taken of each id.
    fn fill_one(&self, secret: &mut Fields, used: &mut HashMap<String, usize>) -> Result<(), BadMask> {
        let id = secret.text("id").unwrap_or_default();
        if is_mask(secret.get("values")) {
            let list = self.lists.get(&id).ok_or_else(|| BadMask::NothingStored(id.clone()))?;
            secret.set("values", list.clone());
        }
        let mut next = || {
            let place = used.entry(id.clone()).or_default();
            *place += 1;
            self.single.get(&id).and_then(|values| values.get(*place - 1)).cloned()
        };
        if is_mask(secret.get("value"))
            && let Some(value) = next()
        {
            secret.set("value", value);
        }
        let listed = secret.get("values").and_then(|raw| serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()).ok());
        if let Some(mut values) = listed
            && values.iter().any(|value| is_mask(Some(value)))
        {
            for value in values.iter_mut().filter(|value| is_mask(Some(value))) {
                *value = next().unwrap_or_else(|| value.clone());
            }
            secret.set("values", raw(&values));
        }
        Ok(())
    }
}

/// Masks that mean one value each.
fn masks_in(secret: &Fields) -> usize {
    let listed = secret.get("values").and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok());
    let listed = listed.map_or(0, |values| values.iter().filter(|value| is_mask(Some(value))).count());
    usize::from(is_mask(secret.get("value"))) + listed
}

fn is_mask(value: Option<&RawValue>) -> bool {
    value.is_some_and(|raw| raw.get() == "\"***\"")
}

/// The list of secrets with a new signing secret before the former ones, which end at `until` (RFC 3339) unless they end earlier.
/// Former ones that can't sign are left out.
///
/// # Errors
/// What is wrong with the stored list.
pub(super) fn rotated(secrets: Option<&RawValue>, fresh: &str, until: &str) -> Result<Box<RawValue>, &'static str> {
    let stored = secrets.map(RawValue::get).filter(|text| *text != "null").unwrap_or("[]");
    let stored: Vec<Fields> = serde_json::from_str(stored)
        .map_err(|_no_list| "the stored secrets are not a list of objects: replace them")?;
    let mut made = Fields::default();
    made.set_text("id", SIGNING_SECRET);
    made.set_text("value", fresh);
    let mut list = vec![made];
    for mut secret in stored {
        if secret.text("id").as_deref() == Some(SIGNING_SECRET) {
            if !can_sign(&secret) {
                continue;
            }
            let ends = expiry_ms(&secret);
            if ends.is_none() || ends > time_ms(until) {
                secret.set_text(EXPIRY, until);
            }
        }
        list.push(secret);
    }
    Ok(raw(&list))
}

/// The number of values of signing secrets in a list, ended ones included.
pub(super) fn signing_secrets(secrets: &RawValue) -> usize {
    let list: Vec<Fields> = serde_json::from_str(secrets.get()).unwrap_or_default();
    let signing = list.iter().filter(|secret| secret.text("id").as_deref() == Some(SIGNING_SECRET));
    signing.map(|secret| values(secret).map_or(0, |values| values.len())).sum()
}

/// The values of a secret: its `value`, or its list of `values`. `None` if it has neither, or one of another type.
pub(super) fn values(secret: &Fields) -> Option<Vec<String>> {
    let present = |name| secret.get(name).filter(|raw| raw.get() != "null");
    let one = present("value").map(|_| secret.text("value"));
    let list = present("values").map(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok());
    match (one, list) {
        (Some(one), None) => one.map(|one| vec![one]),
        (None, Some(list)) => list.filter(|list| !list.is_empty()),
        (Some(one), Some(list)) => one.zip(list).map(|(one, mut list)| {
            list.insert(0, one);
            list
        }),
        (None, None) => None,
    }
}

/// Whether the secret had ended at `at_ms`, ms since 1970.
pub(super) fn has_ended(secret: &Fields, at_ms: i64) -> bool {
    expiry_ms(secret).is_some_and(|ends| ends <= at_ms)
}

/// When a secret ends, RFC 3339.
const EXPIRY: &str = "expiresAt";

/// The list without secrets that ended before `now_ms`, ms since 1970. `None` if no secret has ended.
pub(super) fn without_expired(secrets: &RawValue, now_ms: i64) -> Option<Box<RawValue>> {
    let mut list: Vec<Fields> = serde_json::from_str(secrets.get()).ok()?;
    let before = list.len();
    list.retain(|secret| !has_ended(secret, now_ms));
    (list.len() < before).then(|| raw(&list))
}

fn expiry_ms(secret: &Fields) -> Option<i64> {
    time_ms(&secret.text(EXPIRY)?)
}

fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

fn can_sign(secret: &Fields) -> bool {
    let list = secret.get("values").and_then(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok());
    let values = secret.text("value").into_iter().chain(list.unwrap_or_default());
    values.into_iter().any(|value| SigningKey::parse(&value, None).is_ok())
}

/// Whether the secrets of a request equal the stored ones. A mask equals any value.
pub(super) fn equal_with_masks(named: &[Fields], stored: &[Fields]) -> bool {
    named.len() == stored.len()
        && named.iter().zip(stored).all(|(named, stored)| {
            if named.iter().len() != stored.iter().len() {
                return false;
            }
            if !VALUE_MEMBERS.iter().any(|name| is_mask(named.get(name))) {
                return named.digest() == stored.digest();
            }
            let hide = |secret: &Fields| {
                let mut hidden = secret.clone();
                for name in VALUE_MEMBERS {
                    if is_mask(named.get(name)) && secret.get(name).is_some() {
                        hidden.set_text(name, MASK);
                    }
                }
                hidden.digest()
            };
            hide(named) == hide(stored)
        })
}

/// Masks every text except ids, in any shape: a secret in a wrong place is still a secret.
pub(super) fn mask_texts(value: &mut Value) {
    match value {
        Value::String(text) => MASK.clone_into(text),
        Value::Array(values) => values.iter_mut().for_each(mask_texts),
        Value::Object(members) => {
            members.iter_mut().filter(|(name, _)| *name != "id").for_each(|(_, value)| mask_texts(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn list(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_rotation_puts_the_new_secret_first_and_sets_an_end_for_the_former_ones() {
        let until = "2026-01-02T00:00:00Z";
        let new = r#"{"id":"webhook.signingSecret","value":"new"}"#;
        let rotated =
            |stored: Option<&str>| rotated(stored.map(list).as_deref(), "new", until).map(|list| list.get().to_owned());
        assert_eq!(rotated(None).unwrap(), format!("[{new}]"));
        assert_eq!(rotated(Some("null")).unwrap(), format!("[{new}]"));
        assert!(rotated(Some("{}")).is_err());
        let old = |expiry: &str| format!(r#"{{"id":"webhook.signingSecret","value":"{OLD}"{expiry}}}"#);
        let ends = format!(r#","expiresAt":"{until}""#);
        let other = r#"{"id":"mine","value":"x"}"#;
        let bad = r#"{"id":"webhook.signingSecret","value":"whsec_"}"#;
        let stored = format!("[{other},{},{bad}]", old(""));
        assert_eq!(rotated(Some(&stored)).unwrap(), format!("[{new},{other},{}]", old(&ends)));
        let earlier = old(r#","expiresAt":"2026-01-01T00:00:00Z""#);
        assert_eq!(rotated(Some(&format!("[{earlier}]"))).unwrap(), format!("[{new},{earlier}]"));
        let later = format!("[{}]", old(r#","expiresAt":"2027-01-01T00:00:00Z""#));
        assert_eq!(rotated(Some(&later)).unwrap(), format!("[{new},{}]", old(&ends)));
    }

    #[test]
    fn ended_secrets_are_dropped_and_the_others_stay() {
        let secrets = list(r#"[{"id":"a","value":"1","expiresAt":"1970-01-01T00:00:01Z"},{"id":"a","value":"2"}]"#);
        assert!(without_expired(&secrets, 999).is_none());
        assert_eq!(without_expired(&secrets, 1_000).unwrap().get(), r#"[{"id":"a","value":"2"}]"#);
    }
}
