//! A record made small: ids that are GUIDs as 16 bytes, everything else of it in one text.

use super::limits::{HEADER_BYTES_MAX, HEADER_SECRETS_MAX, ITEMS_MAX, SECRETS_MAX, SIGNING_SECRET, SecretUse};
use super::period::{BadPeriod, parse_period};
use super::record::{Record, Webhook};
use super::{Trigger, Unusable, at_most, check_base_url, is_absolute, join_url};
use crate::domain::filter::FilterItem;
use crate::domain::guid;
use crate::domain::target::{Target, is_plain};
use crate::domain::text::text;

/// A piece of the text: where it starts, and its length. As bytes, so that it needs no padding next to an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextRange([[u8; 4]; 2]);

impl TextRange {
    /// The piece of `text`.
    pub(super) fn of(self, text: &str) -> &str {
        let [start, len] = self.0.map(|number| u32::from_le_bytes(number) as usize);
        text.get(start..start + len).unwrap_or_default()
    }
}

/// GUIDs are kept as their 16 bytes, which forgets their case; anything else is kept as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackedId {
    Uuid([u8; 16]),
    Text(TextRange),
}

impl PackedId {
    /// The id: a GUID in small letters, any other as it stands in the record, which `all` is the text of.
    pub(super) fn text(self, all: &str) -> String {
        match self {
            Self::Uuid(bytes) => guid::text(bytes),
            Self::Text(span) => span.of(all).to_owned(),
        }
    }
}

/// A webhook in 40 bytes.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) id: PackedId,
    pub(super) disabled: bool,
    pub(super) items_len: u16,
    /// The index of its first item among those of the integration.
    pub(super) items_start: u32,
    /// `relativeUrl` as it stands in the record.
    pub(super) relative_url: TextRange,
    /// 0: fires on events.
    pub(super) period_seconds: u32,
    /// The hash of scheme, host and port.
    pub(super) host_hash: u32,
}

/// A secret of the integration. It has no `Debug`, so no secret is ever printed by mistake.
pub(super) struct PackedSecret {
    /// `None` means [`SIGNING_SECRET`], which nearly every integration has.
    pub(super) id: Option<TextRange>,
    pub(super) value: TextRange,
    /// When it ends, seconds since 1970.
    pub(super) until_s: Option<i64>,
}

/// Headers that the service sets itself, or that change how the request is framed or its body is read.
const RESERVED_HEADERS: [&str; 16] = [
    "accept",
    "connection",
    "content-encoding",
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
    "user-agent",
    "x-xcom-delivery-attempt",
    "x-xcom-integration-echo",
];
/// How the headers of Standard Webhooks begin, those of this version and of later ones.
const STANDARD_WEBHOOKS_PREFIX: &str = "webhook-";

/// Why a secret's header can't be sent. The text doesn't repeat the value, which is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHeader {
    #[error("expected a header's name, of ASCII letters, digits and these: - _ . ! # $ % & ' * + ^ ` | ~")]
    Name,
    #[error(
        "every request has this header already, HTTP needs it, or it begins with webhook-, which is reserved; expected another name"
    )]
    Reserved,
    #[error("the value can't be sent in a header; expected no control character, such as a line end, but tabs")]
    Value,
}

/// Checks that a secret's header can be sent with that value.
///
/// # Errors
/// [`BadHeader`]: what is wrong with it.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(), BadHeader> {
    let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|_not_a_name| BadHeader::Name)?;
    if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(STANDARD_WEBHOOKS_PREFIX) {
        return Err(BadHeader::Reserved);
    }
    http::HeaderValue::from_str(value).map(|_sendable| ()).map_err(|_not_a_value| BadHeader::Value)
}

/// Whether a secret's header can be sent with that value.
pub(super) fn is_sendable(name: &str, value: &str) -> bool {
    check_header(name, value).is_ok()
}

/// Packs the parts of one record.
pub(super) struct Packer<'a> {
    base: &'a str,
    /// The host of every webhook whose URL is plainly relative to the base. `None` if there is no such webhook.
    base_host: Option<u32>,
    pub(super) text: String,
    pub(super) items: Vec<FilterItem>,
    pub(super) webhooks: Vec<Packed>,
    pub(super) disabled: u32,
    pub(super) secrets: Vec<PackedSecret>,
}

impl<'a> Packer<'a> {
    /// A packer with exactly the room that the record of that key needs: a hundred thousand records stay in memory.
    pub(super) fn new(key: &str, record: &'a Record<'_>) -> Result<Self, Unusable> {
        let base = text(record.base_url.as_ref()).unwrap_or_default();
        let base_host = match base {
            "" => None,
            base => Some(check_base_url(base).map_err(Unusable::BaseUrl)?.host_hash()),
        };
        let len = |part| text(part).map_or(0, str::len);
        let of_webhooks = record.webhooks().map(|webhook| {
            let id = text(webhook.id.as_ref()).filter(|id| guid::parse(id).is_none());
            id.map_or(0, str::len) + len(webhook.relative_url.as_ref())
        });
        let of_secrets = record.secrets().map(|secret| {
            let id = text(secret.id.as_ref()).filter(|id| *id != SIGNING_SECRET);
            secret.values().map(|value| id.map_or(0, str::len) + value.len()).sum::<usize>()
        });
        let bytes = key.len() + base.len() + of_webhooks.sum::<usize>() + of_secrets.sum::<usize>();
        Ok(Self {
            base,
            base_host,
            text: String::with_capacity(bytes),
            items: Vec::with_capacity(record.webhooks().map(|webhook| webhook.items().len()).sum()),
            webhooks: Vec::with_capacity(record.webhooks().len()),
            disabled: 0,
            secrets: Vec::with_capacity(record.secrets().len()),
        })
    }

    pub(super) fn text(&mut self, text: &str) -> Result<TextRange, Unusable> {
        let (start, len) = (count(self.text.len())?, count(text.len())?);
        self.text.push_str(text);
        Ok(TextRange([start.to_le_bytes(), len.to_le_bytes()]))
    }

    pub(super) fn webhook(&mut self, number: usize, record: &Webhook<'_>) -> Result<(), Unusable> {
        let id = text(record.id.as_ref()).filter(|id| !id.is_empty()).ok_or(Unusable::WebhookId(number))?;
        let relative = text(record.relative_url.as_ref()).unwrap_or_default();
        let host_hash = self.host_hash(id, relative)?;
        let period_seconds = match trigger_of(record, id)? {
            Trigger::EntityEvent => 0,
            Trigger::Schedule(period) => u32::try_from(period.as_secs()).map_err(|_overflow| Unusable::TooLarge)?,
        };
        at_most("filter items of a webhook", record.items().len(), ITEMS_MAX)?;
        if let Some(field) = record.items().iter().find_map(|item| item.unknown.as_ref()) {
            return Err(Unusable::FilterField { webhook: short(id), field: short(&field.0) });
        }
        let items_start = count(self.items.len())?;
        self.items.extend(record.items().iter().map(|item| {
            let word = |word| text(word);
            FilterItem::new(
                word(item.event_type.as_ref()),
                word(item.entity_type.as_ref()),
                word(item.change_type.as_ref()),
            )
        }));
        let packed = Packed {
            id: match guid::parse(id) {
                Some(bytes) => PackedId::Uuid(bytes),
                None => PackedId::Text(self.text(id)?),
            },
            relative_url: self.text(relative)?,
            items_start,
            items_len: u16::try_from(record.items().len()).map_err(|_overflow| Unusable::TooLarge)?,
            period_seconds,
            host_hash,
            disabled: record.disabled.unwrap_or(false),
        };
        self.disabled += u32::from(packed.disabled);
        self.webhooks.push(packed);
        Ok(())
    }

    /// Checks the URL of a webhook. Nearly all are plain paths under a base that was checked once.
    fn host_hash(&self, id: &str, relative: &str) -> Result<u32, Unusable> {
        if let Some(host) = self.base_host
            && !is_absolute(relative)
            && is_plain(self.base.len(), relative)
        {
            return Ok(host);
        }
        let target = Target::parse(&join_url(self.base, relative));
        target.map(|target| target.host_hash()).map_err(|error| Unusable::Url { webhook: short(id), error })
    }

    /// The secrets, value by value. Those that are neither sent nor sign are kept too: the attempt log masks them where a receiver
    /// repeats them. Of several values of a header the newest is sent.
    pub(super) fn secrets(&mut self, record: &Record<'_>) -> Result<(), Unusable> {
        let (mut headers, mut header_bytes) = (0, 0);
        for secret in record.secrets() {
            let Some(id) = text(secret.id.as_ref()) else { continue };
            let until_s = secret.expires_s();
            for (place, value) in secret.values().enumerate() {
                let mut id = Some(id);
                match id.map(SecretUse::of) {
                    Some(SecretUse::Signing) => id = None,
                    Some(SecretUse::Header(_)) if place > 0 => id = Some(""),
                    Some(SecretUse::Header(name)) => {
                        (headers, header_bytes) = (headers + 1, header_bytes + name.len() + value.len());
                    }
                    Some(SecretUse::Unknown | SecretUse::Other) | None => {}
                }
                at_most("secrets", self.secrets.len() + 1, SECRETS_MAX)?;
                let id = id.map(|id| self.text(id)).transpose()?;
                let value = self.text(value)?;
                self.secrets.push(PackedSecret { id, value, until_s });
            }
        }
        at_most("secrets that are headers", headers, HEADER_SECRETS_MAX)?;
        at_most("bytes of secrets that are headers", header_bytes, HEADER_BYTES_MAX)
    }

    /// Refuses two webhooks with one id: the ids of their deliveries would be the same.
    pub(super) fn refuse_duplicates(&self) -> Result<(), Unusable> {
        let mut uuids = Vec::with_capacity(self.webhooks.len());
        let mut texts = Vec::new();
        for webhook in &self.webhooks {
            match webhook.id {
                PackedId::Uuid(bytes) => uuids.push(bytes),
                PackedId::Text(span) => texts.push(span.of(&self.text)),
            }
        }
        uuids.sort_unstable();
        texts.sort_unstable();
        let uuid = uuids.array_windows().find(|[one, next]| one == next).map(|[one, _]| guid::text(*one));
        let other = || texts.array_windows().find(|[one, next]| one == next).map(|[one, _]| (*one).to_owned());
        uuid.or_else(other).map_or(Ok(()), |id| Err(Unusable::DuplicateWebhook(short(&id))))
    }
}

fn count(number: usize) -> Result<u32, Unusable> {
    u32::try_from(number).map_err(|_overflow| Unusable::TooLarge)
}

fn trigger_of(record: &Webhook<'_>, id: &str) -> Result<Trigger, Unusable> {
    let word = text(record.trigger_type.as_ref()).unwrap_or_default();
    if word.eq_ignore_ascii_case("entityEvent") {
        return Ok(Trigger::EntityEvent);
    }
    if !word.eq_ignore_ascii_case("schedule") {
        return Err(Unusable::Trigger { webhook: short(id), word: short(word) });
    }
    let period = record.period().ok_or(BadPeriod::Missing).and_then(parse_period);
    period.map(Trigger::Schedule).map_err(|error| Unusable::Period { webhook: short(id), error })
}

/// Words of records go into errors and logs shortened: they may be anything.
pub(super) fn short(word: &str) -> String {
    word.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host_of(base: &str, relative: &str) -> Result<u32, Unusable> {
        let json = serde_json::json!({ "baseUrl": base }).to_string();
        let record = Record::read(json.as_bytes()).unwrap();
        Packer::new("ws/i", &record)?.host_hash("w", relative)
    }

    proptest! {
        #[test]
        fn the_quick_check_of_a_url_says_what_the_whole_one_says(
            base in prop::sample::select(vec![
                "https://a.example/crm", "http://a.example", "https://a.example:8443/", "",
            ]),
            relative in prop_oneof!["[/a-zA-Z0-9_.~:@!$&'()*+,;=%?-]{0,20}", "\\PC{0,12}", "https?://[a-z/.]{0,12}", "[/?#<>{}\"|^`]{0,6}"],
        ) {
            let whole = Target::parse(&join_url(base, &relative)).map(|target| target.host_hash());
            let whole = whole.map_err(|error| Unusable::Url { webhook: "w".to_owned(), error });
            prop_assert_eq!(host_of(base, &relative), whole);
        }
    }

    #[test]
    fn a_webhook_takes_40_bytes() {
        assert_eq!(size_of::<Packed>(), 40);
    }
}
