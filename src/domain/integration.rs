//! An integration and its webhooks as the worker keeps them: one record of the integrations topic, parsed, checked and
//! packed (a million webhooks fit in memory).

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::filter::{EventFacts, FilterItem};
use super::hash::hash_bytes;
use super::health::Health;
use super::signature::{Signer, SigningKey};
use super::target::{BadUrl, Target};

/// What the record says about delivering to the integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
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
pub const STATUS_WORDS: [(&str, Status); 5] = [
    ("active", Status::Active),
    ("hasErrors", Status::HasErrors),
    ("paused", Status::Paused),
    ("notConfigured", Status::NotConfigured),
    ("failed", Status::Failed),
];

impl Status {
    /// Reads a status word, without case.
    pub fn parse(word: &str) -> Option<Self> {
        STATUS_WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, status)| *status)
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::HasErrors => "hasErrors",
            Self::Paused => "paused",
            Self::NotConfigured => "notConfigured",
            Self::Failed => "failed",
        }
    }

    /// Whether integrations of this status are delivered to.
    pub fn delivers(self) -> bool {
        match self {
            Self::Active | Self::HasErrors => true,
            Self::Paused | Self::NotConfigured | Self::Failed => false,
        }
    }
}

/// What makes a webhook fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Events that its filter matches.
    EntityEvent,
    /// Once a period.
    Schedule(Duration),
}

/// Why a record of the integrations topic can't be used. Says nothing of the record's secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The record's key is not `<workspace>/<integration id>`.
    #[error("the key is not `<workspace>/<integration id>`")]
    Key,
    /// The value is not the JSON of an instance.
    #[error("not the JSON of an integration: {0}")]
    Json(String),
    /// The value's id is another than the key's.
    #[error("the value's id is not the key's")]
    IdMismatch,
    /// An unknown status word.
    #[error("status `{0}`: expected active, hasErrors, paused, notConfigured or failed")]
    Status(String),
    /// A webhook without an id.
    #[error("webhook number {0} has no id")]
    WebhookId(usize),
    /// Two webhooks share an id.
    #[error("two webhooks have the id `{0}`")]
    DuplicateWebhook(String),
    /// An unknown trigger type.
    #[error("webhook `{webhook}`: trigger type `{word}`: expected entityEvent or schedule")]
    Trigger {
        /// The webhook's id.
        webhook: String,
        /// The word found.
        word: String,
    },
    /// A URL that can't be called.
    #[error("webhook `{webhook}`: {error}")]
    Url {
        /// The webhook's id.
        webhook: String,
        /// What is wrong with the URL.
        error: BadUrl,
    },
    /// A period that is none.
    #[error("webhook `{webhook}`: {error}")]
    Period {
        /// The webhook's id.
        webhook: String,
        /// What is wrong with the period.
        error: BadPeriod,
    },
    /// A `webhook.header.<Name>` secret that can't be a header.
    #[error("secret `{0}`: not the name and value of a header that may be added")]
    Header(String),
    /// More than the packed form can count.
    #[error("the record is too large to use")]
    TooLarge,
}

/// Why a schedule's period is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeriod {
    /// A schedule needs one.
    #[error("a webhook of trigger type schedule needs schedule.period")]
    Missing,
    /// Not `[d.]hh:mm:ss`.
    #[error("period `{0}`: expected [d.]hh:mm:ss with hours 00-23, minutes and seconds 00-59")]
    Malformed(String),
    /// Shorter than allowed.
    #[error("period `{0}`: at least 00:00:10")]
    TooShort(String),
}

/// The shortest period: the contract's.
const PERIOD_MIN: Duration = Duration::from_secs(10);
/// Ten years of days: beyond it the arithmetic of ticks would have to care.
const PERIOD_DAYS_MAX: u64 = 3650;

/// Reads a period written `[d.]hh:mm:ss`.
///
/// # Errors
/// [`BadPeriod`] when it is written otherwise or shorter than ten seconds.
pub fn parse_period(text: &str) -> Result<Duration, BadPeriod> {
    let malformed = || BadPeriod::Malformed(text.chars().take(64).collect());
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) => {
            (digits(days, 1, 4).filter(|days| *days <= PERIOD_DAYS_MAX).ok_or_else(malformed)?, clock)
        }
        None => (0, text),
    };
    let mut parts = clock.split(':').map(|part| digits(part, 2, 2));
    let (Some(Some(hours)), Some(Some(minutes)), Some(Some(seconds)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return Err(malformed());
    }
    let period = Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + seconds);
    if period < PERIOD_MIN { Err(BadPeriod::TooShort(text.to_owned())) } else { Ok(period) }
}

fn digits(text: &str, length_min: usize, length_max: usize) -> Option<u64> {
    let fits = (length_min..=length_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// The URL of a webhook: an absolute `relative` as it is, any other appended to `base` with one slash between.
pub fn join_url(base: &str, relative: &str) -> String {
    if is_absolute(relative) {
        return relative.to_owned();
    }
    if relative.is_empty() {
        return base.to_owned();
    }
    format!("{}/{}", base.trim_end_matches('/'), relative.trim_start_matches('/'))
}

fn is_absolute(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// A piece of [`Integration::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

/// Canonical UUIDs are kept as their 16 bytes, anything else as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackedId {
    Uuid([u8; 16]),
    Text(Span),
}

#[derive(Debug)]
struct Packed {
    id: PackedId,
    /// `relativeUrl` as it stands in the record.
    relative_url: Span,
    /// In [`Integration::items`].
    items_start: u32,
    items_len: u32,
    /// 0: fires on events.
    period_seconds: u32,
    /// Of scheme, host and port.
    host_hash: u32,
    disabled: bool,
}

/// A secret of the integration.
struct Secret {
    id: Box<str>,
    value: Box<str>,
}

/// One usable record of the integrations topic.
pub struct Integration {
    /// `<workspace>/<integration id>`
    key: Box<str>,
    workspace_len: usize,
    /// Base URL, then the relative URLs and the ids that are no UUIDs.
    text: Box<str>,
    base_url: Span,
    items: Box<[FilterItem]>,
    webhooks: Box<[Packed]>,
    secrets: Box<[Secret]>,
    status: Status,
    /// When the API last wrote the status, ms since 1970.
    status_written_ms: Option<i64>,
    /// What the health topic says, as its place in [`Health::ALL`].
    health: AtomicU8,
}

impl fmt::Debug for Integration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Integration")
            .field("key", &self.key)
            .field("webhooks", &self.webhooks.len())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    id: Option<String>,
    base_url: Option<String>,
    status: Option<String>,
    secrets: Option<Vec<SecretRecord>>,
    web_hooks: Option<Vec<WebhookRecord>>,
    update_info: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct SecretRecord {
    id: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WebhookRecord {
    id: Option<String>,
    relative_url: Option<String>,
    trigger_type: Option<String>,
    filter: Option<FilterRecord>,
    schedule: Option<ScheduleRecord>,
    disabled: Option<bool>,
}

#[derive(Deserialize)]
struct FilterRecord {
    items: Option<Vec<ItemRecord>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the record's own names")]
struct ItemRecord {
    event_type: Option<String>,
    entity_type: Option<String>,
    change_type: Option<String>,
}

#[derive(Deserialize)]
struct ScheduleRecord {
    period: Option<String>,
}

/// The secret with the signing key; several values during a rotation.
pub const SIGNING_SECRET: &str = "webhook.signingSecret";
/// Prefix of the secrets that are sent as headers.
pub const HEADER_SECRET_PREFIX: &str = "webhook.header.";

/// Headers that the service sets itself or that would change how the request is framed.
const RESERVED_HEADERS: [&str; 15] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-xcom-delivery-attempt",
];

impl Integration {
    /// Reads one record: its key `<workspace>/<integration id>` and its value.
    ///
    /// # Errors
    /// [`Unusable`] says what is wrong with the first thing that is.
    pub fn parse(key: &str, value: &[u8]) -> Result<Self, Unusable> {
        let (workspace, id) = key.rsplit_once('/').ok_or(Unusable::Key)?;
        if workspace.is_empty() || id.is_empty() {
            return Err(Unusable::Key);
        }
        let record: Record = serde_json::from_slice(value).map_err(|error| Unusable::Json(place_of(&error)))?;
        if record.id.as_deref().is_some_and(|in_value| in_value != id) {
            return Err(Unusable::IdMismatch);
        }
        let status = match record.status.as_deref() {
            None => Status::Active,
            Some(word) => Status::parse(word).ok_or_else(|| Unusable::Status(short(word)))?,
        };
        let mut packer = Packer::default();
        let base = record.base_url.unwrap_or_default();
        let base_url = packer.text(&base)?;
        for (number, webhook) in record.web_hooks.unwrap_or_default().into_iter().enumerate() {
            packer.webhook(number, &webhook, &base)?;
        }
        packer.refuse_duplicates()?;
        Ok(Self {
            key: key.into(),
            workspace_len: workspace.len(),
            text: packer.text.into(),
            base_url,
            items: packer.items.into(),
            webhooks: packer.webhooks.into(),
            secrets: checked_secrets(record.secrets.unwrap_or_default())?,
            status,
            status_written_ms: record.update_info.as_ref().and_then(status_written_ms),
            health: AtomicU8::new(Health::Active as u8),
        })
    }

    /// `<workspace>/<integration id>`: the record's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The workspace.
    pub fn workspace(&self) -> &str {
        self.key.get(..self.workspace_len).unwrap_or_default()
    }

    /// The integration's id.
    pub fn id(&self) -> &str {
        self.key.get(self.workspace_len + 1..).unwrap_or_default()
    }

    /// The status in the record.
    pub fn status(&self) -> Status {
        self.status
    }

    /// When the API last wrote the status, ms since 1970.
    pub fn status_written_ms(&self) -> Option<i64> {
        self.status_written_ms
    }

    /// What the health topic says.
    pub fn health(&self) -> Health {
        Health::ALL.get(usize::from(self.health.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// Whether the health topic says `failed`.
    pub fn is_suspended(&self) -> bool {
        self.health() == Health::Failed
    }

    /// Follows the health topic.
    pub fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    /// How many webhooks it has.
    pub fn len(&self) -> usize {
        self.webhooks.len()
    }

    /// Whether it has no webhooks.
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty()
    }

    /// The webhooks, in the record's order.
    pub fn webhooks(&self) -> impl Iterator<Item = Webhook<'_>> {
        self.webhooks.iter().enumerate().map(|(index, packed)| Webhook { integration: self, packed, index })
    }

    /// Whether any of its webhooks fires by a schedule.
    pub fn has_schedule(&self) -> bool {
        self.webhooks.iter().any(|packed| packed.period_seconds != 0)
    }

    /// The webhook at `index` of [`Integration::webhooks`].
    pub fn webhook(&self, index: usize) -> Option<Webhook<'_>> {
        self.webhooks.get(index).map(|packed| Webhook { integration: self, packed, index })
    }

    /// The webhook of that id.
    pub fn webhook_by_id(&self, id: &str) -> Option<Webhook<'_>> {
        self.webhooks().find(|webhook| webhook.has_id(id))
    }

    /// What signs its deliveries: nothing without a signing secret.
    pub fn signer(&self) -> Signer {
        Signer::new(signing_secrets(&self.secrets).map(SigningKey::parse).collect())
    }

    /// Names and values of the headers it wants sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.secrets.iter().filter_map(|secret| Some((secret.id.strip_prefix(HEADER_SECRET_PREFIX)?, &*secret.value)))
    }

    /// The values that must never appear outside a request, for masking.
    pub fn secret_values(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|secret| &*secret.value)
    }

    fn slice(&self, span: Span) -> &str {
        let start = span.start as usize;
        self.text.get(start..start + span.len as usize).unwrap_or_default()
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
    pub fn index(self) -> usize {
        self.index
    }

    /// Its id.
    pub fn id(self) -> String {
        match self.packed.id {
            PackedId::Uuid(bytes) => uuid_text(&bytes),
            PackedId::Text(span) => self.integration.slice(span).to_owned(),
        }
    }

    fn has_id(self, id: &str) -> bool {
        match self.packed.id {
            PackedId::Uuid(bytes) => uuid_bytes(id) == Some(bytes),
            PackedId::Text(span) => self.integration.slice(span) == id,
        }
    }

    /// A hash of the integration's key and its id: the same in every process and over updates of the record.
    pub fn hash(self) -> u64 {
        let of_id = match self.packed.id {
            PackedId::Uuid(bytes) => hash_bytes(&bytes),
            PackedId::Text(span) => hash_bytes(self.integration.slice(span).as_bytes()),
        };
        of_id.rotate_left(17) ^ hash_bytes(self.integration.key.as_bytes())
    }

    /// A hash of scheme, host and port.
    pub fn host_hash(self) -> u32 {
        self.packed.host_hash
    }

    /// Where it is delivered to.
    pub fn url(self) -> String {
        join_url(self.integration.slice(self.integration.base_url), self.integration.slice(self.packed.relative_url))
    }

    /// What makes it fire.
    pub fn trigger(self) -> Trigger {
        match self.packed.period_seconds {
            0 => Trigger::EntityEvent,
            seconds => Trigger::Schedule(Duration::from_secs(u64::from(seconds))),
        }
    }

    /// Whether its owner switched it off.
    pub fn is_disabled(self) -> bool {
        self.packed.disabled
    }

    /// Its filter items, in the record's order.
    pub fn items(self) -> &'a [FilterItem] {
        let start = self.packed.items_start as usize;
        self.integration.items.get(start..start + self.packed.items_len as usize).unwrap_or_default()
    }

    /// Whether any filter item matches. Says nothing about status, trigger and being disabled.
    pub fn filter_matches(self, facts: &EventFacts<'_>) -> bool {
        self.items().iter().any(|item| item.matches(facts))
    }
}

/// When the API last wrote the status: it says so in a field of its own, since the value may be the one before.
fn status_written_ms(update_info: &serde_json::Value) -> Option<i64> {
    let written: jiff::Timestamp = update_info.get("statusUpdatedAt")?.as_str()?.parse().ok()?;
    Some(written.as_millisecond())
}

#[derive(Default)]
struct Packer {
    text: String,
    items: Vec<FilterItem>,
    webhooks: Vec<Packed>,
}

impl Packer {
    fn text(&mut self, text: &str) -> Result<Span, Unusable> {
        let start = u32::try_from(self.text.len()).map_err(|_overflow| Unusable::TooLarge)?;
        let len = u32::try_from(text.len()).map_err(|_overflow| Unusable::TooLarge)?;
        self.text.push_str(text);
        Ok(Span { start, len })
    }

    fn webhook(&mut self, number: usize, record: &WebhookRecord, base: &str) -> Result<(), Unusable> {
        let id = record.id.as_deref().filter(|id| !id.is_empty()).ok_or(Unusable::WebhookId(number))?;
        let relative = record.relative_url.as_deref().unwrap_or_default();
        let target =
            Target::parse(&join_url(base, relative)).map_err(|error| Unusable::Url { webhook: short(id), error })?;
        let period_seconds = match trigger_of(record, id)? {
            Trigger::EntityEvent => 0,
            Trigger::Schedule(period) => u32::try_from(period.as_secs()).map_err(|_overflow| Unusable::TooLarge)?,
        };
        let items = record.filter.as_ref().and_then(|filter| filter.items.as_deref()).unwrap_or_default();
        let items_start = u32::try_from(self.items.len()).map_err(|_overflow| Unusable::TooLarge)?;
        self.items.extend(items.iter().map(|item| {
            FilterItem::new(item.event_type.as_deref(), item.entity_type.as_deref(), item.change_type.as_deref())
        }));
        let packed = Packed {
            id: match uuid_bytes(id) {
                Some(bytes) => PackedId::Uuid(bytes),
                None => PackedId::Text(self.text(id)?),
            },
            relative_url: self.text(relative)?,
            items_start,
            items_len: u32::try_from(items.len()).map_err(|_overflow| Unusable::TooLarge)?,
            period_seconds,
            host_hash: target.host_hash(),
            disabled: record.disabled.unwrap_or(false),
        };
        self.webhooks.push(packed);
        Ok(())
    }

    /// Deliveries are named by their webhook's id, so two webhooks can't share one.
    fn refuse_duplicates(&self) -> Result<(), Unusable> {
        let mut seen = std::collections::HashSet::with_capacity(self.webhooks.len());
        for webhook in &self.webhooks {
            let id = match webhook.id {
                PackedId::Uuid(bytes) => uuid_text(&bytes),
                PackedId::Text(span) => {
                    let start = span.start as usize;
                    self.text.get(start..start + span.len as usize).unwrap_or_default().to_owned()
                }
            };
            if seen.contains(&id) {
                return Err(Unusable::DuplicateWebhook(short(&id)));
            }
            seen.insert(id);
        }
        Ok(())
    }
}

fn trigger_of(record: &WebhookRecord, id: &str) -> Result<Trigger, Unusable> {
    let word = record.trigger_type.as_deref().unwrap_or_default();
    if word.eq_ignore_ascii_case("entityEvent") {
        return Ok(Trigger::EntityEvent);
    }
    if !word.eq_ignore_ascii_case("schedule") {
        return Err(Unusable::Trigger { webhook: short(id), word: short(word) });
    }
    let period = record.schedule.as_ref().and_then(|schedule| schedule.period.as_deref());
    period
        .ok_or(BadPeriod::Missing)
        .and_then(parse_period)
        .map(Trigger::Schedule)
        .map_err(|error| Unusable::Period { webhook: short(id), error })
}

fn checked_secrets(records: Vec<SecretRecord>) -> Result<Box<[Secret]>, Unusable> {
    let mut secrets = Vec::new();
    for record in records {
        let (Some(id), Some(value)) = (record.id, record.value) else { continue };
        if let Some(name) = id.strip_prefix(HEADER_SECRET_PREFIX) {
            let usable = http::HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| {
                !RESERVED_HEADERS.contains(&name.as_str()) && name.as_str() != "x-xcom-integration-echo"
            }) && http::HeaderValue::from_str(&value).is_ok();
            if !usable {
                return Err(Unusable::Header(short(&id)));
            }
        }
        // Others are not used, but a receiver that repeats them must not have them written down.
        secrets.push(Secret { id: id.into(), value: value.into() });
    }
    Ok(secrets.into())
}

fn signing_secrets(secrets: &[Secret]) -> impl Iterator<Item = &str> {
    secrets.iter().filter(|secret| &*secret.id == SIGNING_SECRET).map(|secret| &*secret.value)
}

/// Words of records go into errors and logs shortened: they may be anything.
fn short(word: &str) -> String {
    word.chars().take(64).collect()
}

fn place_of(error: &serde_json::Error) -> String {
    format!("line {} column {}", error.line(), error.column())
}

/// The 16 bytes of a lower-case, dashed UUID; nothing for any other spelling, which must come back as it was.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0u8; 16];
    let mut digits =
        text.iter().enumerate().filter(|(place, _)| !matches!(place, 8 | 13 | 18 | 23)).map(|(_, digit)| *digit);
    if [8, 13, 18, 23].iter().any(|place| text.get(*place) != Some(&b'-')) {
        return None;
    }
    for byte in &mut bytes {
        let (high, low) = (hex_digit(digits.next()?)?, hex_digit(digits.next()?)?);
        *byte = high << 4 | low;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ws/e01c765d-7c9b-491a-b5ea-d0e67eb017d9";

    fn record(webhook: &str) -> String {
        format!(
            r#"{{"id":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9","baseUrl":"https://my.example/crm/v1","webHooks":[{webhook}]}}"#
        )
    }

    fn parse(webhook: &str) -> Result<Integration, Unusable> {
        Integration::parse(KEY, record(webhook).as_bytes())
    }

    #[test]
    fn when_the_status_was_written_is_known_if_it_is_said() {
        let parse = |info: &str| {
            Integration::parse("ws/i", format!(r#"{{"updateInfo":{info}}}"#).as_bytes()).unwrap().status_written_ms()
        };
        assert_eq!(parse(r#"{"statusUpdatedAt":"1970-01-01T00:00:07.5Z"}"#), Some(7_500));
        for said in [r#"{"statusUpdatedAt":"yesterday"}"#, r#"{"statusUpdatedAt":7}"#, "{}", "null", "[]", r#""x""#] {
            assert_eq!(parse(said), None, "{said}");
        }
    }

    #[test]
    fn the_documented_record_is_used() {
        let value = r#"{ "id": "e01c765d-7c9b-491a-b5ea-d0e67eb017d9", "baseUrl": "https://my-integration.ru/crm/v1", "status": "active",
          "features": {}, "secrets": [ { "id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" },
            { "id": "webhook.header.Authorization", "value": "Bearer x" }, { "id": "other", "value": "y" } ], "settings": [],
          "webHooks": [ { "id": "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5", "relativeUrl": "/callbacks", "triggerType": "entityEvent",
            "filter": { "items": [ { "eventType": "change", "entityType": "user", "changeType": "patch" }, { "entityType": "contact" } ] },
            "schedule": {}, "disabled": false } ], "updateInfo": { "createdAt": "x" } }"#;
        let integration = Integration::parse(KEY, value.as_bytes()).unwrap();
        assert_eq!(integration.workspace(), "ws");
        assert_eq!(integration.id(), "e01c765d-7c9b-491a-b5ea-d0e67eb017d9");
        assert_eq!(integration.status(), Status::Active);
        assert!(!integration.signer().is_empty());
        assert_eq!(integration.secret_values().count(), 3);
        assert_eq!(integration.headers().collect::<Vec<_>>(), [("Authorization", "Bearer x")]);
        let webhook = integration.webhook_by_id("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5").unwrap();
        assert_eq!(webhook.id(), "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5");
        assert_eq!(webhook.url(), "https://my-integration.ru/crm/v1/callbacks");
        assert_eq!(webhook.trigger(), Trigger::EntityEvent);
        assert_eq!(webhook.items().len(), 2);
        assert!(!webhook.is_disabled());
    }

    #[test]
    fn urls_join_with_exactly_one_slash() {
        for (base, relative, joined) in [
            ("https://a/crm", "/cb", "https://a/crm/cb"),
            ("https://a/crm", "cb", "https://a/crm/cb"),
            ("https://a/crm/", "/cb", "https://a/crm/cb"),
            ("https://a/crm//", "//cb", "https://a/crm/cb"),
            ("https://a/crm", "http://b/x", "http://b/x"),
            ("https://a/crm", "HTTPS://b/x?y=1", "HTTPS://b/x?y=1"),
            ("https://a", "cb?next=http://b", "https://a/cb?next=http://b"),
            ("https://a", "", "https://a"),
        ] {
            assert_eq!(join_url(base, relative), joined);
        }
    }

    #[test]
    fn periods_are_days_and_a_clock() {
        assert_eq!(parse_period("00:00:10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_period("1.02:03:04"), Ok(Duration::from_secs(93_784)));
        assert_eq!(parse_period("23:59:59"), Ok(Duration::from_secs(86_399)));
        assert_eq!(parse_period("00:00:09"), Err(BadPeriod::TooShort("00:00:09".to_owned())));
        for bad in [
            "",
            "10",
            "0:00:10",
            "24:00:00",
            "00:60:00",
            "00:00:60",
            "x.00:00:10",
            "99999.00:00:10",
            "00:00:10:00",
            "-1:00:10",
            "1.2.00:00:10",
        ] {
            assert_eq!(parse_period(bad), Err(BadPeriod::Malformed(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn what_can_not_be_used_says_why() {
        assert_eq!(Integration::parse("no-slash", b"{}").unwrap_err(), Unusable::Key);
        assert!(matches!(Integration::parse(KEY, b"{").unwrap_err(), Unusable::Json(_)));
        assert_eq!(Integration::parse(KEY, br#"{"id":"other"}"#).unwrap_err(), Unusable::IdMismatch);
        assert_eq!(Integration::parse(KEY, br#"{"status":"x"}"#).unwrap_err(), Unusable::Status("x".to_owned()));
        assert!(matches!(parse(r#"{"id":"a","triggerType":"nope"}"#).unwrap_err(), Unusable::Trigger { .. }));
        assert!(matches!(parse(r#"{"id":"a"}"#).unwrap_err(), Unusable::Trigger { .. }));
        assert_eq!(parse(r#"{"triggerType":"entityEvent"}"#).unwrap_err(), Unusable::WebhookId(0));
        assert!(matches!(
            parse(r#"{"id":"a","triggerType":"entityEvent","relativeUrl":"ftp://x/"}"#).unwrap_err(),
            Unusable::Url { .. }
        ));
        assert!(matches!(
            parse(r#"{"id":"a","triggerType":"schedule","schedule":{}}"#).unwrap_err(),
            Unusable::Period { .. }
        ));
        assert!(matches!(
            parse(r#"{"id":"a","triggerType":"entityEvent"},{"id":"a","triggerType":"entityEvent"}"#).unwrap_err(),
            Unusable::DuplicateWebhook(_)
        ));
        let header = r#"{"secrets":[{"id":"webhook.header.Host","value":"x"}]}"#;
        assert!(matches!(Integration::parse(KEY, header.as_bytes()).unwrap_err(), Unusable::Header(_)));
    }

    #[test]
    fn missing_parts_have_their_meaning() {
        let integration = Integration::parse(KEY, b"{}").unwrap();
        assert!(integration.is_empty());
        assert_eq!(integration.status(), Status::Active);
        let integration = parse(r#"{"id":"A","triggerType":"ENTITYEVENT","filter":null,"schedule":null}"#).unwrap();
        let webhook = integration.webhook(0).unwrap();
        assert_eq!((webhook.id(), webhook.items().len(), webhook.is_disabled()), ("A".to_owned(), 0, false));
        assert_eq!(webhook.url(), "https://my.example/crm/v1");
    }

    #[test]
    fn only_canonical_uuids_are_packed() {
        for id in [
            "A5AAD3C1-777b-4ae5-8ca1-60b94c0423e5",
            "a5aad3c1777b4ae58ca160b94c0423e5",
            "a5aad3c1-777b-4ae5-8ca1-60b94c0423eg",
        ] {
            assert_eq!(uuid_bytes(id), None, "{id}");
        }
        let id = "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5";
        assert_eq!(uuid_text(&uuid_bytes(id).unwrap()), id);
    }

    #[test]
    fn the_hash_of_a_webhook_survives_an_update_of_its_record() {
        let before = parse(r#"{"id":"a","triggerType":"entityEvent"},{"id":"b","triggerType":"entityEvent"}"#).unwrap();
        let after = parse(r#"{"id":"b","triggerType":"entityEvent","relativeUrl":"/new"}"#).unwrap();
        assert_eq!(before.webhook_by_id("b").unwrap().hash(), after.webhook_by_id("b").unwrap().hash());
        assert_ne!(before.webhook_by_id("a").unwrap().hash(), before.webhook_by_id("b").unwrap().hash());
    }
}
