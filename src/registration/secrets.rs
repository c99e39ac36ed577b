//! Secrets of an instance as the API shows and takes them: masked in answers, `***` in a request for what is stored.
//!
//! No secret value ever leaves this file in a message: only ids do.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Fields, raw};

/// What stands in an answer instead of a secret's value, and in a request for "as it is stored".
pub(crate) const MASK: &str = "***";
/// The members of a secret that hold values: one, or several of a rotation.
const VALUE_MEMBERS: [&str; 2] = ["value", "values"];

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

/// A list of secrets with every value masked; what is no such list is masked as a whole.
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

/// A secret with its values masked, and whatever else in it is nested, where a value may hide.
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
    /// Every value, whether it stands alone or in a list.
    single: HashMap<String, Vec<Box<RawValue>>>,
    /// The first list of values.
    lists: HashMap<String, Box<RawValue>>,
}

impl StoredSecrets {
    /// Of the list as it is stored.
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
    /// [`BadMask`] when it can't be told which stored value is meant.
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

    /// Fills the masks of one secret. `used`: how many of an id's values were taken.
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

/// Masks that stand for one value each.
fn masks_in(secret: &Fields) -> usize {
    let listed = secret.get("values").and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok());
    let listed = listed.map_or(0, |values| values.iter().filter(|value| is_mask(Some(value))).count());
    usize::from(is_mask(secret.get("value"))) + listed
}

fn is_mask(value: Option<&RawValue>) -> bool {
    value.is_some_and(|raw| raw.get() == "\"***\"")
}

/// Whether secrets that someone names equal the stored ones, a mask standing for any value.
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

/// Masks every text but ids, whatever the shape: a secret sent to a wrong place is still one.
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
