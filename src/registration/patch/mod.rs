//! Patches of an instance: operations read leniently, applied all or none, and what can't be applied sorted by what is
//! wrong with it. `registration::http` receives patches and has the result stored.

mod draft;
mod operation;
mod conflict;

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) use self::conflict::Conflict;
use self::conflict::{Faults, List, in_words};
use self::draft::Draft;
use self::operation::Operation;
use super::instance::{BadInstance, Instance};
use super::json_words::{BadJson, words_of};
use super::{faults, instance_check};
use crate::domain::integration::WEBHOOKS_MAX;

/// The most operations in one patch: more are a mistake or an attack.
pub(crate) const OPERATIONS_MAX: usize = 2_000;

/// Why a body is not a patch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPatch {
    /// Not JSON, or not an object with a list of operations.
    #[error("expected {{\"operations\":[{{\"op\",\"path\",\"value\"}}]}}; {0}")]
    Malformed(BadJson),
    /// The list alone.
    #[error("expected {{\"operations\":[{{\"op\",\"path\",\"value\"}}]}}, not the list alone")]
    Array,
    /// Too many operations.
    #[error("{0} operations; at most {OPERATIONS_MAX} in one patch")]
    TooMany(usize),
}

/// The operations of a patch, each as it was sent.
pub(crate) struct Patch(Vec<Box<RawValue>>);

/// Shows no operation, because they hold secrets.
impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patch").field("operations", &self.0.len()).finish_non_exhaustive()
    }
}

/// The result of a patch.
#[derive(Debug)]
pub(crate) struct Patched {
    /// The new instance.
    pub(crate) instance: Instance,
    /// Whether an operation wrote `/status`, even to the same word.
    pub(crate) status_written: bool,
    /// Whether an operation writes.
    pub(crate) is_written: bool,
}

impl Patch {
    /// Reads a patch's body.
    ///
    /// # Errors
    /// [`BadPatch`] if it is not a JSON object with a list of operations.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BadPatch> {
        #[derive(Deserialize)]
        struct Body {
            operations: Vec<Box<RawValue>>,
        }
        // A struct would be read from an array too.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(BadPatch::Array);
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| BadPatch::Malformed(words_of(&error)))?;
        if body.operations.len() > OPERATIONS_MAX {
            return Err(BadPatch::TooMany(body.operations.len()));
        }
        Ok(Self(body.operations))
    }

    /// Applies every operation in order, or none.
    ///
    /// # Errors
    /// [`Conflict`] if one can't be applied or the result could not be used.
    pub(crate) fn apply(
        &self,
        key: &str,
        stored: &[u8],
        fresh_id: &mut dyn FnMut() -> String,
    ) -> Result<Patched, Conflict> {
        let stored = Instance::parse(stored).map_err(|error| unreadable(&error))?;
        let mut draft = Draft::new(stored);
        let mut faults = Faults::default();
        for (number, sent) in self.0.iter().enumerate() {
            if let Err(fault) = Operation::parse(sent).and_then(|operation| draft.apply(number, &operation, fresh_id)) {
                faults.add(Some(number), fault.list, &fault.message);
            }
        }
        let instance = draft.take_instance();
        if draft.last_written.is_some() && faults.count == 0 {
            let mut found = instance_check::faults(key, &instance, &|_place| true);
            // A fault that a worker accepts and that was there before is not this patch's fault.
            if !found.listed.is_empty() && instance_check::is_usable(key, &instance) {
                found = instance_check::faults(key, &instance, &|place| draft.last_writer(place).is_some());
            }
            for fault in &found.listed {
                faults.add(draft.last_writer(fault.place), List::of(fault.kind), &fault.message);
            }
            faults.count += found.more;
        }
        match faults.count {
            0 => {
                Ok(Patched { instance, status_written: draft.status_written, is_written: draft.last_written.is_some() })
            }
            _ => Err(faults.conflict(&self.0)),
        }
    }
}

/// Checks an instance that replaces the stored one as a whole and fills its masks.
///
/// # Errors
/// [`Conflict`] names the paths and values at fault.
pub(crate) fn replacement(
    key: &str,
    mut instance: Instance,
    stored: Option<&[u8]>,
    fresh_id: &mut dyn FnMut() -> String,
) -> Result<Instance, Conflict> {
    if let Some(conflict) = too_many_webhooks(&instance) {
        return Err(conflict);
    }
    let stored = stored.and_then(|bytes| Instance::parse(bytes).ok());
    instance.unmask_secrets(stored.as_ref()).map_err(|error| Conflict::of(format!("/secrets: {error}")))?;
    instance.settle_ids(fresh_id);
    let found = instance_check::faults(key, &instance, &|_place| true);
    if found.listed.is_empty() {
        return Ok(instance);
    }
    let mut conflict = Conflict::default();
    for fault in &found.listed {
        List::of(fault.kind).of_conflict(&mut conflict).push(faults::as_operation(fault));
    }
    let messages: Vec<&str> = found.listed.iter().map(|fault| &*fault.message).collect();
    conflict.message = in_words(&messages, found.listed.len() + found.more);
    Err(conflict)
}

/// The conflict of an instance with too many webhooks. It is found before any work on each of them, which may be hundreds of
/// thousands.
pub(crate) fn too_many_webhooks(instance: &Instance) -> Option<Conflict> {
    let webhooks = instance.webhooks.len();
    (webhooks > WEBHOOKS_MAX)
        .then(|| Conflict::of(format!("/webHooks: {webhooks} webhooks; expected at most {WEBHOOKS_MAX}")))
}

fn unreadable(error: &BadInstance) -> Conflict {
    Conflict::of(format!("the stored instance can't be patched, replace it as a whole: {error}"))
}

#[cfg(test)]
mod tests;
