//! An instance while it is patched. The draft remembers which operation wrote which field, so that a fault found at the end is
//! attributed to the right operation.

use std::fmt::Write as _;

use super::operation::{ACCEPTED_PATHS, Operation, OperationFault, Target, Verb, WEBHOOK_FIELDS};
use super::operation::{bad_data, bad_path, bad_type, index};
use crate::domain::guid::canonical;
use crate::domain::integration::WEBHOOKS_MAX;
use crate::registration::faults::{Place, is_name};
use crate::registration::instance::{BadMask, Fields, Instance, settle_id};
use crate::registration::json_equality::Digest;
use crate::registration::secrets::StoredSecrets;

/// A webhook while it is patched, and which operation wrote which of its fields (no field means all of them).
struct Entry {
    id: Option<String>,
    fields: Fields,
    written: Vec<(usize, Option<String>)>,
}

impl Entry {
    fn new(fields: Fields, number: Option<usize>) -> Self {
        let written = number.map(|number| (number, None)).into_iter().collect();
        Self { id: id_of(&fields), fields, written }
    }
}

/// The id of a webhook in the form in which ids are compared.
fn id_of(webhook: &Fields) -> Option<String> {
    webhook.text("id").map(|id| canonical(&id).into_owned())
}

/// An instance while it is patched.
pub(super) struct Draft {
    fields: Fields,
    webhooks: Vec<Entry>,
    /// The stored values that masks hide. Earlier operations do not change them.
    stored_secrets: StoredSecrets,
    /// The list of secrets as it is now, parsed when the first `test` needs it.
    secrets: Option<Vec<Fields>>,
    written: Vec<(usize, &'static str)>,
    pub(super) status_written: bool,
    /// The last operation that writes.
    pub(super) last_written: Option<usize>,
}

impl Draft {
    pub(super) fn new(stored: Instance) -> Self {
        Self {
            stored_secrets: StoredSecrets::of(stored.fields.get("secrets")),
            fields: stored.fields,
            webhooks: stored.webhooks.into_iter().map(|webhook| Entry::new(webhook, None)).collect(),
            secrets: None,
            written: Vec::new(),
            status_written: false,
            last_written: None,
        }
    }

    /// Takes the instance out of the draft. The draft keeps which operation wrote what.
    pub(super) fn take_instance(&mut self) -> Instance {
        let webhooks = self.webhooks.iter_mut().map(|entry| std::mem::take(&mut entry.fields)).collect();
        Instance { fields: std::mem::take(&mut self.fields), webhooks }
    }

    /// The last operation that wrote where a fault lies.
    pub(super) fn last_writer(&self, place: Place) -> Option<usize> {
        match place {
            Place::Field(field) => self.last_of(field),
            Place::Webhook(index, fields) => {
                let entry = self.webhooks.get(index)?;
                let wrote = |field: &Option<String>| {
                    fields.is_empty() || field.as_deref().is_none_or(|field| fields.contains(&field))
                };
                let own = entry.written.iter().rev().find(|(_, field)| wrote(field)).map(|(number, _)| *number);
                let base = fields.contains(&"relativeUrl").then(|| self.last_of("baseUrl")).flatten();
                own.max(base)
            }
            Place::Ids(one, other) => {
                let webhooks = [one, other].into_iter().filter_map(|index| self.webhooks.get(index));
                webhooks.flat_map(|entry| &entry.written).filter(|(_, field)| field.is_none()).map(|it| it.0).max()
            }
            Place::Webhooks => self.webhooks.iter().flat_map(|entry| &entry.written).map(|(number, _)| *number).max(),
            Place::Whole => self.last_written,
        }
    }

    fn last_of(&self, field: &str) -> Option<usize> {
        self.written.iter().rev().find(|(_, written)| *written == field).map(|(number, _)| *number)
    }

    pub(super) fn apply(
        &mut self,
        number: usize,
        operation: &Operation,
        fresh_id: &mut dyn FnMut() -> String,
    ) -> Result<(), OperationFault> {
        match &operation.target {
            Target::Webhooks => self.list(number, operation, fresh_id)?,
            Target::Append if operation.verb == Verb::Add => {
                self.insert(number, operation.webhook()?, None, fresh_id);
            }
            Target::Append => return Err(bad_path(&operation.path, "takes add only")),
            Target::Webhook(segment) => self.webhook(number, operation, segment, fresh_id)?,
            Target::WebhookField(segment, field) => self.webhook_field(number, operation, segment, field)?,
            Target::Field(field) => self.field(number, operation, field)?,
        }
        if operation.verb != Verb::Test {
            self.last_written = Some(number);
        }
        Ok(())
    }

    fn insert(&mut self, number: usize, mut webhook: Fields, at: Option<usize>, fresh_id: &mut dyn FnMut() -> String) {
        settle_id(&mut webhook, fresh_id);
        let at = at.unwrap_or(self.webhooks.len());
        self.webhooks.insert(at, Entry::new(webhook, Some(number)));
    }

    /// `/webHooks`
    fn list(
        &mut self,
        number: usize,
        operation: &Operation,
        fresh_id: &mut dyn FnMut() -> String,
    ) -> Result<(), OperationFault> {
        match operation.verb {
            Verb::Add => self.insert(number, operation.webhook()?, None, fresh_id),
            Verb::Remove => self.webhooks.clear(),
            Verb::Replace => {
                let value = operation.value()?;
                let webhooks: Vec<Fields> = serde_json::from_str(value.get())
                    .map_err(|_no_list| bad_type(&operation.path, Some(value), "expected an array of WebHooks"))?;
                if webhooks.len() > WEBHOOKS_MAX {
                    let what = format!("{} webhooks; expected at most {WEBHOOKS_MAX}", webhooks.len());
                    return Err(bad_data(&operation.path, &what));
                }
                self.webhooks.clear();
                for webhook in webhooks {
                    self.insert(number, webhook, None, fresh_id);
                }
            }
            Verb::Test => {
                operation.passes(Digest::of_array(self.webhooks.iter().map(|entry| entry.fields.digest())))?;
            }
        }
        Ok(())
    }

    /// The index of the webhook with that id, or else with that index.
    fn find(&self, segment: &str) -> Option<usize> {
        let by_id = self.by_id(segment);
        by_id.or_else(|| index(segment).filter(|index| *index < self.webhooks.len()))
    }

    /// The index of the webhook with that id.
    fn by_id(&self, id: &str) -> Option<usize> {
        let id = canonical(id);
        self.webhooks.iter().position(|entry| entry.id.as_deref() == Some(&*id))
    }

    fn found(&mut self, path: &str, segment: &str) -> Result<(usize, &mut Entry), OperationFault> {
        let len = self.webhooks.len();
        let place = self.find(segment);
        place.and_then(|place| Some((place, self.webhooks.get_mut(place)?))).ok_or_else(|| {
            let mut what = "no webhook has this id or index; expected ".to_owned();
            match len {
                0 => what.push_str("none: the instance has no webhooks"),
                len => write!(what, "the id of one of its {len} webhooks, or its index from 0")
                    .expect("a String takes everything"),
            }
            bad_path(path, &what)
        })
    }

    /// `/webHooks/{id or index}`
    fn webhook(
        &mut self,
        number: usize,
        operation: &Operation,
        segment: &str,
        fresh_id: &mut dyn FnMut() -> String,
    ) -> Result<(), OperationFault> {
        if operation.verb == Verb::Add {
            return self.add_at(number, operation, segment, fresh_id);
        }
        let (place, entry) = self.found(&operation.path, segment)?;
        match operation.verb {
            Verb::Add | Verb::Replace => replace_entry(entry, number, operation.webhook()?),
            Verb::Remove => {
                self.webhooks.remove(place);
            }
            Verb::Test => operation.passes(entry.fields.digest())?,
        }
        Ok(())
    }

    /// `add` of a webhook. With an index, it is inserted before that one; with an id, it replaces the webhook of that id or is added.
    fn add_at(
        &mut self,
        number: usize,
        operation: &Operation,
        segment: &str,
        fresh_id: &mut dyn FnMut() -> String,
    ) -> Result<(), OperationFault> {
        let mut webhook = operation.webhook()?;
        if let Some(entry) = self.by_id(segment).and_then(|place| self.webhooks.get_mut(place)) {
            replace_entry(entry, number, webhook);
            return Ok(());
        }
        if let Some(at) = index(segment) {
            if at > self.webhooks.len() {
                let what = format!("an index beyond the end; expected 0 to {}", self.webhooks.len());
                return Err(bad_path(&operation.path, &what));
            }
            self.insert(number, webhook, Some(at), fresh_id);
            return Ok(());
        }
        if !is_name(segment) {
            return Err(bad_path(&operation.path, ACCEPTED_PATHS));
        }
        settle_id(&mut webhook, &mut || segment.to_owned());
        if webhook.text("id").is_some_and(|id| canonical(&id) != canonical(segment)) {
            return Err(bad_data(&operation.path, "the value's id is not the path's; expected the same or none"));
        }
        self.insert(number, webhook, None, fresh_id);
        Ok(())
    }

    /// `/webHooks/{id or index}/{field}`
    fn webhook_field(
        &mut self,
        number: usize,
        operation: &Operation,
        segment: &str,
        field: &str,
    ) -> Result<(), OperationFault> {
        let (_, entry) = self.found(&operation.path, segment)?;
        let there = entry.fields.get(field);
        if there.is_none() && (operation.verb == Verb::Remove || !WEBHOOK_FIELDS.contains(&field)) {
            return Err(bad_path(
                &operation.path,
                &format!("not there; expected one of {}", WEBHOOK_FIELDS.join(", ")),
            ));
        }
        if field == "id" && operation.verb != Verb::Test {
            return Err(bad_path(&operation.path, "a webhook keeps its id; remove it and add another"));
        }
        match operation.verb {
            Verb::Add | Verb::Replace => entry.fields.set(field, operation.value()?.to_owned()),
            Verb::Remove => {
                entry.fields.remove(field);
            }
            Verb::Test => {
                let there = entry.fields.digest_of(field).ok_or_else(|| operation.failed_test())?;
                return operation.passes(there);
            }
        }
        entry.written.push((number, Some(field.to_owned())));
        Ok(())
    }

    /// A field of the instance itself that a path may name, such as `baseUrl`.
    fn field(&mut self, number: usize, operation: &Operation, field: &'static str) -> Result<(), OperationFault> {
        match operation.verb {
            Verb::Test => return self.test_field(operation, field),
            Verb::Remove => {
                if !self.fields.remove(field) {
                    return Err(bad_path(&operation.path, "the instance has no such field to remove"));
                }
            }
            Verb::Add | Verb::Replace => {
                let value = operation.value()?;
                let filled = (field == "secrets").then(|| self.stored_secrets.fill(value));
                let filled =
                    filled.transpose().map_err(|error: BadMask| bad_data(&operation.path, &error.to_string()))?;
                self.fields.set(field, filled.flatten().unwrap_or_else(|| value.to_owned()));
            }
        }
        if field == "secrets" {
            self.secrets = None;
        }
        self.written.push((number, field));
        self.status_written |= field == "status";
        Ok(())
    }

    fn test_field(&mut self, operation: &Operation, field: &str) -> Result<(), OperationFault> {
        let Some(there) = self.fields.get(field) else { return Err(operation.failed_test()) };
        if field != "secrets" {
            let there = self.fields.digest_of(field).ok_or_else(|| operation.failed_test())?;
            return operation.passes(there);
        }
        if self.secrets.is_none() {
            self.secrets = serde_json::from_str(there.get()).ok();
        }
        match &self.secrets {
            Some(secrets) => operation.passes_with_masks(secrets),
            None => self
                .fields
                .digest_of(field)
                .map_or_else(|| Err(operation.failed_test()), |there| operation.passes(there)),
        }
    }
}

/// Replaces a webhook. The new one keeps the id.
fn replace_entry(entry: &mut Entry, number: usize, mut webhook: Fields) {
    if let Some(id) = entry.fields.get("id") {
        webhook.set("id", id.to_owned());
    }
    entry.fields = webhook;
    entry.written.push((number, None));
}
