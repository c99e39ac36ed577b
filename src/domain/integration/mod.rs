//! An integration and its webhooks as the worker keeps them: one record of the integrations topic, parsed, checked and
//! packed (a million webhooks fit in memory).

mod pack;
mod record;
mod limits;
mod unusable;
mod period;

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

pub(crate) use limits::{
    HEADER_BYTES_MAX, HEADER_SECRETS_MAX, ITEM_FIELDS, ITEMS_MAX, SECRETS_MAX, SIGNING_SECRET, SecretUse, WEBHOOKS_MAX,
};
pub(crate) use pack::check_header;
use pack::is_sendable;
use pack::{Packed, PackedId, PackedSecret, Packer, TextRange, short};
pub(crate) use period::parse_period;
use record::Record;
pub(crate) use unusable::Unusable;

use super::filter::FilterItem;
use super::guid;
use super::hash::hash_bytes;
use super::signature::{KEYS_MAX, Signer, SigningKey};
use super::target::{BadUrl, Target};
use super::text::text;
use crate::domain::health::Health;

/// What the record says about delivering to the integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Delivered to. No status counts as this.
    Active,
    /// Delivered to; attempts have failed.
    HasErrors,
    /// Not delivered to: its owner paused it.
    Paused,
    /// Not delivered to: its owner has not finished it.
    NotConfigured,
    /// Not delivered to: it kept failing.
    Failed,
}

/// The status words, as records and metrics spell them.
pub(crate) const STATUS_WORDS: [(&str, Status); 5] = [
    ("active", Status::Active),
    ("hasErrors", Status::HasErrors),
    ("paused", Status::Paused),
    ("notConfigured", Status::NotConfigured),
    ("failed", Status::Failed),
];

impl Status {
    /// Reads a status word, without case.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        STATUS_WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, status)| *status)
    }

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::HasErrors => "hasErrors",
            Self::Paused => "paused",
            Self::NotConfigured => "notConfigured",
            Self::Failed => "failed",
        }
    }

    /// Whether integrations of this status are delivered to.
    pub(crate) fn delivers(self) -> bool {
        match self {
            Self::Active | Self::HasErrors => true,
            Self::Paused | Self::NotConfigured | Self::Failed => false,
        }
    }
}

/// What makes a webhook fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Events that its filter matches.
    EntityEvent,
    /// Once a period.
    Schedule(Duration),
}

/// The URL of a webhook: an absolute `relative` as it is, any other appended to `base` with one slash between.
pub(crate) fn join_url(base: &str, relative: &str) -> String {
    if is_absolute(relative) {
        return relative.to_owned();
    }
    if relative.is_empty() {
        return base.to_owned();
    }
    format!("{}/{}", base.trim_end_matches('/'), relative.trim_start_matches('/'))
}

/// Refuses more of something than there may be.
fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), Unusable> {
    if found > most { Err(Unusable::TooMany { what, found, most }) } else { Ok(()) }
}

/// Whether relative URLs can continue this one.
///
/// # Errors
/// [`BadUrl`]: it is not a URL, or it ends in a query or a fragment, to which nothing can be appended.
pub(crate) fn check_base_url(base: &str) -> Result<Target, BadUrl> {
    let target = Target::parse(base)?;
    if base.contains(['?', '#']) { Err(BadUrl::QueryInBase) } else { Ok(target) }
}

fn is_absolute(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// One usable record of the integrations topic.
pub struct Integration {
    /// The record's key, the base URL, the relative URLs, the ids that are not UUIDs, the secrets.
    text: Box<str>,
    /// `<workspace>/<integration id>`
    key: TextRange,
    workspace_len: u32,
    base_url: TextRange,
    items: Box<[FilterItem]>,
    webhooks: Box<[Packed]>,
    secrets: Box<[PackedSecret]>,
    /// How many of the webhooks their owner switched off.
    disabled: u32,
    status: Status,
    /// When the API last wrote the status, ms since 1970.
    status_written_ms: Option<i64>,
    /// What the health topic says, as its index in [`Health::ALL`].
    health: AtomicU8,
}

impl fmt::Debug for Integration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Integration")
            .field("key", &self.key())
            .field("webhooks", &self.webhooks.len())
            .finish_non_exhaustive()
    }
}

impl Integration {
    /// Reads one record: its key `<workspace>/<integration id>` and its value.
    ///
    /// # Errors
    /// [`Unusable`] names the first fault.
    pub fn parse(key: &str, value: &[u8]) -> Result<Self, Unusable> {
        let (workspace, id) = key.rsplit_once('/').ok_or(Unusable::Key)?;
        if workspace.is_empty() || id.is_empty() {
            return Err(Unusable::Key);
        }
        let record = Record::read(value)?;
        if text(record.id.as_ref()).is_some_and(|in_value| guid::canonical(in_value) != guid::canonical(id)) {
            return Err(Unusable::IdMismatch);
        }
        let status = match text(record.status.as_ref()) {
            None => Status::Active,
            Some(word) => Status::parse(word).ok_or_else(|| Unusable::Status(short(word)))?,
        };
        at_most("webhooks", record.webhooks().len(), WEBHOOKS_MAX)?;
        let mut packer = Packer::new(key, &record)?;
        let key = packer.text(&guid::canonical_key(key))?;
        let workspace_len = u32::try_from(workspace.len()).map_err(|_overflow| Unusable::TooLarge)?;
        let base_url = packer.text(text(record.base_url.as_ref()).unwrap_or_default())?;
        for (number, webhook) in record.webhooks().enumerate() {
            packer.webhook(number, webhook)?;
        }
        packer.refuse_duplicates()?;
        packer.secrets(&record)?;
        Ok(Self {
            text: packer.text.into(),
            key,
            workspace_len,
            base_url,
            items: packer.items.into(),
            disabled: packer.disabled,
            webhooks: packer.webhooks.into(),
            secrets: packer.secrets.into(),
            status,
            status_written_ms: record.status_written_ms(),
            health: AtomicU8::new(Health::Active as u8),
        })
    }

    /// `<workspace>/<integration id>`: the record's key, a GUID in small letters.
    pub(crate) fn key(&self) -> &str {
        self.slice(self.key)
    }

    /// The workspace.
    pub(crate) fn workspace(&self) -> &str {
        self.key().get(..self.workspace_len as usize).unwrap_or_default()
    }

    /// The integration's id.
    pub(crate) fn id(&self) -> &str {
        self.key().get(self.workspace_len as usize + 1..).unwrap_or_default()
    }

    /// The status in the record.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// When the API last wrote the status, ms since 1970.
    pub(crate) fn status_written_ms(&self) -> Option<i64> {
        self.status_written_ms
    }

    /// What the health topic says.
    pub(crate) fn health(&self) -> Health {
        Health::ALL.get(usize::from(self.health.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// Whether the health topic says `failed`.
    pub(crate) fn is_suspended(&self) -> bool {
        self.health() == Health::Failed
    }

    /// Follows the health topic.
    pub fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    /// How many webhooks it has.
    pub(crate) fn len(&self) -> usize {
        self.webhooks.len()
    }

    /// How many of them their owner switched off.
    pub(crate) fn disabled_len(&self) -> usize {
        self.disabled as usize
    }

    /// Whether it has no webhooks.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.webhooks.is_empty()
    }

    /// The webhooks, in the record's order.
    pub(crate) fn webhooks(&self) -> impl Iterator<Item = Webhook<'_>> {
        self.webhooks.iter().enumerate().map(|(index, packed)| Webhook { integration: self, packed, index })
    }

    /// Whether any of its webhooks fires by a schedule.
    pub(crate) fn has_schedule(&self) -> bool {
        self.webhooks.iter().any(|packed| packed.period_seconds != 0)
    }

    /// The webhook at `index` of [`Integration::webhooks`].
    pub fn webhook(&self, index: usize) -> Option<Webhook<'_>> {
        self.webhooks.get(index).map(|packed| Webhook { integration: self, packed, index })
    }

    /// The webhook of that id.
    pub(crate) fn webhook_by_id(&self, id: &str) -> Option<Webhook<'_>> {
        self.webhooks().find(|webhook| webhook.has_id(id))
    }

    /// The signer of its deliveries. Without a signing secret that can sign, it signs nothing.
    pub fn signer(&self) -> Signer {
        let keys = self.signing_secrets().filter_map(|(value, until_s)| SigningKey::parse(value, until_s).ok());
        Signer::new(keys.collect())
    }

    /// How many of its signing secrets can't sign and are left out.
    pub(crate) fn unusable_signing_secrets(&self) -> usize {
        self.signing_secrets().filter(|(value, _)| SigningKey::parse(value, None).is_err()).count()
    }

    /// How many of its signing secrets could sign at `at_s`, seconds since 1970, and are left out since others sign as many times as is
    /// allowed.
    pub(crate) fn surplus_signing_secrets(&self, at_s: i64) -> usize {
        let in_force = self.signing_secrets().filter(|(value, until_s)| {
            until_s.is_none_or(|until| at_s < until) && SigningKey::parse(value, None).is_ok()
        });
        in_force.count().saturating_sub(KEYS_MAX)
    }

    /// The values of the signing secret, each with the second since 1970 at which it ends, if it does.
    fn signing_secrets(&self) -> impl Iterator<Item = (&str, Option<i64>)> {
        self.secrets
            .iter()
            .filter(|secret| secret.id.is_none())
            .map(|secret| (self.slice(secret.value), secret.until_s))
    }

    /// Names and values of the headers that are sent with each delivery. Those that can't be sent are left out.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sorted_headers().filter_map(|(header, is_sent)| is_sent.then_some(header))
    }

    /// Names of the headers of its secrets that are not sent: names that the service sends itself, that are not header names, or that a
    /// later secret has too.
    pub(crate) fn unsendable_headers(&self) -> impl Iterator<Item = &str> {
        self.sorted_headers().filter(|(_, is_sent)| !is_sent).map(|((name, _), _)| name)
    }

    /// The headers of its secrets, each with whether it is sent.
    fn sorted_headers(&self) -> impl Iterator<Item = ((&str, &str), bool)> {
        self.header_secrets().enumerate().map(|(place, (name, value))| {
            let mut later = self.header_secrets().skip(place + 1);
            let mut is_last =
                || !later.any(|(other, value)| other.eq_ignore_ascii_case(name) && is_sendable(other, value));
            ((name, value), is_sendable(name, value) && is_last())
        })
    }

    fn header_secrets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.secrets().filter_map(|(id, value)| match SecretUse::of(id) {
            SecretUse::Header(name) => Some((name, value.trim())),
            SecretUse::Signing | SecretUse::Unknown | SecretUse::Other => None,
        })
    }

    /// The ids of secrets that begin like the known ones and are unknown: they have no effect.
    pub(crate) fn unknown_secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets().map(|(id, _)| id).filter(|id| SecretUse::of(id) == SecretUse::Unknown)
    }

    /// The values that must never appear outside a request, for masking.
    pub(crate) fn secret_values(&self) -> impl Iterator<Item = &str> {
        self.secrets().map(|(_, value)| value)
    }

    /// Ids and values.
    fn secrets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.secrets.iter().map(|secret| {
            let id = secret.id.map_or(SIGNING_SECRET, |id| self.slice(id));
            (id, self.slice(secret.value))
        })
    }

    fn slice(&self, span: TextRange) -> &str {
        span.of(&self.text)
    }
}

/// One webhook of an [`Integration`].
#[derive(Clone, Copy)]
pub struct Webhook<'a> {
    integration: &'a Integration,
    packed: &'a Packed,
    index: usize,
}

impl<'a> Webhook<'a> {
    /// Its place in the record.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Its id.
    pub(crate) fn id(self) -> String {
        self.packed.id.text(&self.integration.text)
    }

    fn has_id(self, id: &str) -> bool {
        match self.packed.id {
            PackedId::Uuid(bytes) => guid::parse(id) == Some(bytes),
            PackedId::Text(span) => self.integration.slice(span) == id,
        }
    }

    /// A hash of the integration's key and its id: the same in every process and over updates of the record.
    pub fn hash(self) -> u64 {
        let of_id = match self.packed.id {
            PackedId::Uuid(bytes) => hash_bytes(&bytes),
            PackedId::Text(span) => hash_bytes(self.integration.slice(span).as_bytes()),
        };
        of_id.rotate_left(17) ^ hash_bytes(self.integration.key().as_bytes())
    }

    /// A hash of scheme, host and port.
    pub(crate) fn host_hash(self) -> u32 {
        self.packed.host_hash
    }

    /// The URL of its requests.
    pub(crate) fn url(self) -> String {
        join_url(self.integration.slice(self.integration.base_url), self.integration.slice(self.packed.relative_url))
    }

    /// What makes it fire.
    pub(crate) fn trigger(self) -> Trigger {
        match self.packed.period_seconds {
            0 => Trigger::EntityEvent,
            seconds => Trigger::Schedule(Duration::from_secs(u64::from(seconds))),
        }
    }

    /// Whether its owner switched it off.
    pub(crate) fn is_disabled(self) -> bool {
        self.packed.disabled
    }

    /// Its filter items, in the record's order.
    pub(crate) fn items(self) -> &'a [FilterItem] {
        let start = self.packed.items_start as usize;
        self.integration.items.get(start..start + usize::from(self.packed.items_len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
