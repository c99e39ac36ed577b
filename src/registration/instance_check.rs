//! Checks an instance: every field's type, words, URLs and bounds, and finds the place of each fault. The worker can use an
//! instance that passes, because its own parser decides last. `webhook_check` checks webhooks, `faults` collects what they find.
//!
//! Messages name path, value and what is accepted; they never hold a secret's value.

use std::collections::{HashMap, HashSet};

use super::faults::{Checker, FaultKind, Found, Place, SHOWN_CHARS_MAX, present, words};
use super::fields::Fields;
use super::instance::Instance;
use super::secrets::{has_ended, values};
use super::webhook_check::{Base, WebhookCheck};
use crate::clock;
use crate::domain::guid::canonical;
use crate::domain::integration::{
    HEADER_BYTES_MAX, HEADER_SECRETS_MAX, Integration, SECRETS_MAX, STATUS_WORDS, SecretUse, Status, Unusable,
    WEBHOOKS_MAX, check_base_url, check_header,
};
use crate::domain::signature::{KEYS_MAX, SigningKey, fresh_secret};

/// The fields of an instance.
const INSTANCE_FIELDS: [&str; 8] =
    ["id", "baseUrl", "status", "features", "secrets", "settings", "webHooks", "updateInfo"];
/// The fields of a secret.
const SECRET_FIELDS: [&str; 4] = ["id", "value", "values", "expiresAt"];
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

/// The checks of the fields that are not a webhook's.
impl Checker<'_> {
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
        let place = Place::Field("secrets");
        let at = place.at("/secrets");
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
            self.names(secret, &SECRET_FIELDS, place.at(&path));
            let (Some(id), Some(values)) = (secret.text("id").filter(|id| !id.is_empty()), values(secret)) else {
                let expected =
                    "expected an object with the strings id (not empty) and value, or a list of strings values";
                self.fault(FaultKind::ValueType, place.at(&path), Some(value), expected);
                continue;
            };
            count += values.len();
            match (SecretUse::of(&id), values.first()) {
                (SecretUse::Header(name), Some(first)) => {
                    (headers, header_bytes) = (headers + 1, header_bytes + name.len() + first.len());
                    if !names.insert(name.to_ascii_lowercase()) {
                        let what = format!("id {:?}: another secret is this header already", id_shown(&id));
                        self.remark(FaultKind::Data, place.at(&path), &what);
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

/// The beginning of an id.
fn id_shown(id: &str) -> String {
    id.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
#[path = "instance_check_tests.rs"]
mod tests;
