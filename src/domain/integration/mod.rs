//! An integration and its webhooks as the worker keeps them: one record of the integrations topic, parsed, checked and
//! packed (a million webhooks fit in memory).

mod limits;
mod pack;
mod period;
mod record;

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

pub(crate) use limits::{
    HEADER_BYTES_MAX, HEADER_SECRETS_MAX, ITEM_FIELDS, ITEMS_MAX, SECRETS_MAX, SIGNING_SECRET, SecretUse, WEBHOOKS_MAX,
};
pub(crate) use pack::is_sendable;
use pack::{Packed, PackedId, PackedSecret, Packer, TextRange, short};
pub(crate) use period::{BadPeriod, parse_period};
use record::Record;

use super::filter::FilterItem;
use super::guid;
use super::hash::hash_bytes;
use super::signature::{Signer, SigningKey};
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
    /// A period that is not valid.
    #[error("webhook `{webhook}`: {error}")]
    Period {
        /// The webhook's id.
        webhook: String,
        /// What is wrong with the period.
        error: BadPeriod,
    },
    /// A URL that others can't continue.
    #[error("baseUrl: {0}")]
    BaseUrl(BadUrl),
    /// A filter item with a field that none has: it would match more than its owner means.
    #[error(
        "webhook `{webhook}`: a filter item has the field `{field}`: expected eventType, entityType and changeType"
    )]
    FilterField {
        /// The webhook's id.
        webhook: String,
        /// The field.
        field: String,
    },
    /// More of something than an integration may have.
    #[error("{what}: {found}; expected at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// More than the packed form can count.
    #[error("the record is too large to use")]
    TooLarge,
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
/// [`BadUrl`]: no URL, or one that ends in a query or a fragment, which would swallow what continues it.
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
    /// The record's key, the base URL, the relative URLs, the ids that are no UUIDs, the secrets.
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
    /// What the health topic says, as its place in [`Health::ALL`].
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
    /// [`Unusable`] says what is wrong with the first thing that is.
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

    /// What signs its deliveries: nothing without a signing secret that can sign.
    pub fn signer(&self) -> Signer {
        let keys = self.signing_secrets().filter_map(|(value, until_s)| SigningKey::parse(value, until_s).ok());
        Signer::new(keys.collect())
    }

    /// How many of its signing secrets can't sign and are left out.
    pub(crate) fn unusable_signing_secrets(&self) -> usize {
        self.signing_secrets().filter(|(value, _)| SigningKey::parse(value, None).is_err()).count()
    }

    /// The values of the signing secret, each with the second since 1970 at which it ends, if it does.
    fn signing_secrets(&self) -> impl Iterator<Item = (&str, Option<i64>)> {
        self.secrets
            .iter()
            .filter(|secret| secret.id.is_none())
            .map(|secret| (self.slice(secret.value), secret.until_s))
    }

    /// Names and values of the headers it wants sent, those left out that can't be.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header_secrets().filter(|(name, value)| is_sendable(name, value))
    }

    /// Names of the headers that it wants sent and that can't be: what the service sends itself, or what is none.
    pub(crate) fn unsendable_headers(&self) -> impl Iterator<Item = &str> {
        self.header_secrets().filter(|(name, value)| !is_sendable(name, value)).map(|(name, _)| name)
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

    /// Where it is delivered to.
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
        assert_eq!(parse_period("36500.23:59:59"), Ok(Duration::from_secs(36_501 * 86_400 - 1)));
        assert_eq!(parse_period("36501.00:00:00"), Err(BadPeriod::TooLong("36501.00:00:00".to_owned())));
        for bad in [
            "",
            "10",
            "0:00:10",
            "24:00:00",
            "00:60:00",
            "00:00:60",
            "x.00:00:10",
            "123456789.00:00:10",
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
    }

    #[test]
    fn headers_that_can_not_be_sent_are_left_out_and_named() {
        let record = r#"{"secrets":[{"id":"webhook.header.Host","value":"x"},{"id":"webhook.header.X-Bad","value":"a\u0000b"},
            {"id":"webhook.header.X Y","value":"x"},{"id":"webhook.header.X-Good","value":" Bearer 1\n"},
            {"id":"webhook.header.X-Number","value":5},{"id":"other","value":{"a":1}},{"id":"another"}]}"#;
        let integration = Integration::parse(KEY, record.as_bytes()).unwrap();
        assert_eq!(integration.headers().collect::<Vec<_>>(), [("X-Good", "Bearer 1"), ("X-Number", "5")]);
        assert_eq!(integration.unsendable_headers().collect::<Vec<_>>(), ["Host", "X-Bad", "X Y"]);
    }

    fn with_secrets(secrets: &str) -> Result<Integration, Unusable> {
        Integration::parse(KEY, format!(r#"{{"secrets":{secrets}}}"#).as_bytes())
    }

    const KEYS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];

    fn signatures(secrets: &str, timestamp: i64) -> usize {
        let mut out = String::new();
        with_secrets(secrets).unwrap().signer().sign("id", timestamp, b"{}", &mut out);
        out.split_whitespace().count()
    }

    #[test]
    fn several_values_of_a_secret_are_a_rotation() {
        let [one, other] = KEYS;
        let values = format!(r#"[{{"id":"webhook.signingSecret","values":["{one}","{other}"]}}]"#);
        assert_eq!(signatures(&values, 0), 2);
        let value = format!(r#"[{{"id":"webhook.signingSecret","value":["{one}","{other}"]}}]"#);
        assert_eq!(signatures(&value, 0), 2);
        let apart = format!(
            r#"[{{"id":"webhook.signingSecret","value":"{one}"}},{{"id":"webhook.signingSecret","value":"{other}"}}]"#
        );
        assert_eq!(signatures(&apart, 0), 2);
        let headers = with_secrets(r#"[{"id":"webhook.header.X","values":["new","old"]}]"#).unwrap();
        assert_eq!(headers.headers().collect::<Vec<_>>(), [("X", "new")]);
        assert_eq!(headers.secret_values().collect::<Vec<_>>(), ["new", "old"], "both are masked");
    }

    #[test]
    fn a_secret_that_has_a_time_signs_until_then() {
        let [one, other] = KEYS;
        let secrets = format!(
            r#"[{{"id":"webhook.signingSecret","value":"{one}"}},{{"id":"webhook.signingSecret","value":"{other}","expiresAt":"1970-01-01T00:01:40Z"}}]"#
        );
        assert_eq!([99, 100].map(|timestamp| signatures(&secrets, timestamp)), [2, 1]);
    }

    #[test]
    fn a_signing_secret_that_is_none_signs_nothing_and_is_counted() {
        for bad in ["", " ", "whsec_", "whsec_short", "whsec_not base64!", "text"] {
            let secrets = format!(r#"[{{"id":"webhook.signingSecret","value":"{bad}"}}]"#);
            assert_eq!(signatures(&secrets, 0), 0, "{bad:?}");
            assert_eq!(with_secrets(&secrets).unwrap().unusable_signing_secrets(), 1, "{bad:?}");
        }
        let unknown =
            with_secrets(r#"[{"id":"webhook.signingsecret","value":"x"},{"id":"mine","value":"y"}]"#).unwrap();
        assert_eq!(unknown.unknown_secrets().collect::<Vec<_>>(), ["webhook.signingsecret"]);
    }

    #[test]
    fn a_record_beyond_the_bounds_is_unusable() {
        #[track_caller]
        fn check(record: &str, what: &str, most: usize) {
            let error = Integration::parse(KEY, record.as_bytes()).unwrap_err();
            assert!(
                matches!(&error, Unusable::TooMany { what: found, most: bound, .. } if *found == what && *bound == most),
                "{error}"
            );
        }
        let webhook =
            |number: usize| format!(r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"entityEvent"}}"#);
        let webhooks =
            |count: usize| format!(r#"{{"webHooks":[{}]}}"#, (0..count).map(webhook).collect::<Vec<_>>().join(","));
        assert_eq!(Integration::parse(KEY, webhooks(WEBHOOKS_MAX).as_bytes()).unwrap().len(), WEBHOOKS_MAX);
        check(&webhooks(WEBHOOKS_MAX + 1), "webhooks", WEBHOOKS_MAX);
        let items = |count: usize| {
            let items = vec!["{}"; count].join(",");
            format!(
                r#"{{"webHooks":[{{"id":"a","relativeUrl":"http://a/","triggerType":"entityEvent","filter":{{"items":[{items}]}}}}]}}"#
            )
        };
        assert!(Integration::parse(KEY, items(ITEMS_MAX).as_bytes()).is_ok());
        check(&items(ITEMS_MAX + 1), "filter items of a webhook", ITEMS_MAX);
        let secrets = |prefix: &str, count: usize, value: &str| {
            let secret = |number: usize| format!(r#"{{"id":"{prefix}{number}","value":"{value}"}}"#);
            format!(r#"{{"secrets":[{}]}}"#, (0..count).map(secret).collect::<Vec<_>>().join(","))
        };
        assert!(Integration::parse(KEY, secrets("s", SECRETS_MAX, "v").as_bytes()).is_ok());
        check(&secrets("s", SECRETS_MAX + 1, "v"), "secrets", SECRETS_MAX);
        assert!(Integration::parse(KEY, secrets("webhook.header.X", HEADER_SECRETS_MAX, "v").as_bytes()).is_ok());
        check(
            &secrets("webhook.header.X", HEADER_SECRETS_MAX + 1, "v"),
            "secrets that are headers",
            HEADER_SECRETS_MAX,
        );
        check(
            &secrets("webhook.header.X", 3, &"v".repeat(2_800)),
            "bytes of secrets that are headers",
            HEADER_BYTES_MAX,
        );
        let values = vec!["1"; SECRETS_MAX + 1].join(",");
        check(&format!(r#"{{"secrets":[{{"id":"a","values":[{values}]}}]}}"#), "secrets", SECRETS_MAX);
    }

    #[test]
    fn what_would_mean_more_or_something_else_than_it_says_is_unusable() {
        let item =
            |item: &str| parse(&format!(r#"{{"id":"a","triggerType":"entityEvent","filter":{{"items":[{item}]}}}}"#));
        for field in ["entitytype", "EntityType", "entity", "event_type", "x"] {
            let error = item(&format!(r#"{{"changeType":"patch","{field}":"contact"}}"#)).unwrap_err();
            assert_eq!(error, Unusable::FilterField { webhook: "a".to_owned(), field: field.to_owned() });
        }
        assert!(item(r#"{"entityType":null,"eventType":"link","changeType":"patch"}"#).is_ok());
        assert!(matches!(item(r#"{"entityType":"a","entityType":"b"}"#).unwrap_err(), Unusable::Json(_)));
        for base in ["https://crm.example/v1#x", "https://crm.example/hook?code=abc", "https://crm.example/?"] {
            let record = format!(r#"{{"baseUrl":"{base}"}}"#);
            assert_eq!(
                Integration::parse(KEY, record.as_bytes()).unwrap_err(),
                Unusable::BaseUrl(BadUrl::QueryInBase),
                "{base}"
            );
        }
        for array in
            ["[]", r#"{"secrets":[["webhook.header.A","x"]]}"#, r#"{"webHooks":[["a","http://a/","entityEvent"]]}"#]
        {
            assert!(matches!(Integration::parse(KEY, array.as_bytes()).unwrap_err(), Unusable::Json(_)), "{array}");
        }
        assert!(matches!(
            Integration::parse(KEY, br#"{"id":"a","status":"active","status":"paused"}"#).unwrap_err(),
            Unusable::Json(_)
        ));
    }

    #[test]
    fn guids_of_record_key_and_webhooks_may_be_in_either_case() {
        let id = "E01C765D-7C9B-491A-B5EA-D0E67EB017D9";
        let webhook =
            r#"{"id":"A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5","relativeUrl":"http://a/","triggerType":"entityEvent"}"#;
        let record = format!(r#"{{"id":"{id}","webHooks":[{webhook}]}}"#);
        for key in [KEY.to_owned(), format!("ws/{id}")] {
            let integration = Integration::parse(&key, record.as_bytes()).unwrap();
            assert_eq!(integration.key(), KEY);
            assert_eq!(integration.webhook_by_id("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5").unwrap().index(), 0);
        }
        let twice = format!(r#"{{"webHooks":[{webhook},{}]}}"#, webhook.replace("A5AAD3C1", "a5aad3c1"));
        assert!(matches!(Integration::parse(KEY, twice.as_bytes()).unwrap_err(), Unusable::DuplicateWebhook(_)));
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
    fn the_hash_of_a_webhook_is_the_same_in_every_version() {
        let webhook = br#"{"webHooks":[{"id":"w","relativeUrl":"http://a/","triggerType":"entityEvent"}]}"#;
        let integration = Integration::parse("ws/i", webhook).unwrap();
        // Workers of two versions fire the ticks of a schedule at one phase.
        assert_eq!(integration.webhook(0).unwrap().hash(), 0x8945_7846_62bd_b354);
    }

    #[test]
    fn the_hash_of_a_webhook_survives_an_update_of_its_record() {
        let before = parse(r#"{"id":"a","triggerType":"entityEvent"},{"id":"b","triggerType":"entityEvent"}"#).unwrap();
        let after = parse(r#"{"id":"b","triggerType":"entityEvent","relativeUrl":"/new"}"#).unwrap();
        assert_eq!(before.webhook_by_id("b").unwrap().hash(), after.webhook_by_id("b").unwrap().hash());
        assert_ne!(before.webhook_by_id("a").unwrap().hash(), before.webhook_by_id("b").unwrap().hash());
    }
}
