//! The JSON of a record of the integrations topic: what is read of it, borrowed where it has no escapes.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Unusable;
use super::limits::ITEM_FIELDS;
use crate::domain::text::{Object, Text, Values};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) base_url: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) status: Option<Text<'a>>,
    #[serde(borrow)]
    secrets: Option<Vec<Object<Secret<'a>>>>,
    #[serde(borrow)]
    web_hooks: Option<Vec<Object<Webhook<'a>>>>,
    /// It may have any shape: only the API's own field in it is read.
    #[serde(borrow)]
    update_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secret<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    /// A value, or several of them in a rotation.
    #[serde(borrow)]
    value: Option<Values<'a>>,
    /// The CRM's own shape: the values in force, the newest first.
    #[serde(borrow)]
    values: Option<Values<'a>>,
    /// Set by the API's rotation: the value is in force until then, RFC 3339.
    #[serde(borrow)]
    expires_at: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Webhook<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) relative_url: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) trigger_type: Option<Text<'a>>,
    #[serde(borrow)]
    filter: Option<Object<Filter<'a>>>,
    #[serde(borrow)]
    schedule: Option<Object<Schedule<'a>>>,
    pub(super) disabled: Option<bool>,
}

#[derive(Deserialize)]
struct Filter<'a> {
    #[serde(borrow)]
    items: Option<Vec<Item<'a>>>,
}

/// A filter item. An unknown field is remembered: without it the item would match more than its owner means.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub(super) event_type: Option<Text<'a>>,
    pub(super) entity_type: Option<Text<'a>>,
    pub(super) change_type: Option<Text<'a>>,
    /// The first field that a filter item can't have.
    pub(super) unknown: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter item")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut item = Item::default();
                let mut seen = [false; ITEM_FIELDS.len()];
                while let Some(Text(name)) = map.next_key()? {
                    let place = ITEM_FIELDS.iter().position(|known| *known == name);
                    let Some(seen) = place.and_then(|place| seen.get_mut(place)) else {
                        map.next_value::<IgnoredAny>()?;
                        item.unknown.get_or_insert(Text(name));
                        continue;
                    };
                    if std::mem::replace(seen, true) {
                        return Err(de::Error::custom("a field given twice"));
                    }
                    let value = map.next_value()?;
                    match place {
                        Some(0) => item.event_type = value,
                        Some(1) => item.entity_type = value,
                        _ => item.change_type = value,
                    }
                }
                Ok(item)
            }
        }
        deserializer.deserialize_map(ItemVisitor)
    }
}

#[derive(Deserialize)]
struct Schedule<'a> {
    #[serde(borrow)]
    period: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdateInfo<'a> {
    #[serde(borrow)]
    status_updated_at: Option<Text<'a>>,
}

impl<'a> Record<'a> {
    /// The webhooks.
    pub(super) fn webhooks(&self) -> impl ExactSizeIterator<Item = &Webhook<'a>> {
        self.web_hooks.as_deref().unwrap_or_default().iter().map(|Object(webhook)| webhook)
    }

    /// The secrets.
    pub(super) fn secrets(&self) -> impl ExactSizeIterator<Item = &Secret<'a>> {
        self.secrets.as_deref().unwrap_or_default().iter().map(|Object(secret)| secret)
    }

    /// Reads a value, checking all of it as UTF-8 and as JSON.
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Unusable> {
        let text = simdutf8::basic::from_utf8(value).map_err(|_invalid| Unusable::Json("not UTF-8".to_owned()))?;
        // The error names the place and no word of the record, which holds secrets.
        serde_json::from_str::<Object<Self>>(text)
            .map(|Object(record)| record)
            .map_err(|error| Unusable::Json(format!("line {} column {}", error.line(), error.column())))
    }

    /// When the API last wrote the status, ms since 1970. It has a field of its own for that, since a write may leave the value as it
    /// was.
    pub(super) fn status_written_ms(&self) -> Option<i64> {
        let info: UpdateInfo<'_> = serde_json::from_str(self.update_info?.get()).ok()?;
        let written: jiff::Timestamp = info.status_updated_at?.0.parse().ok()?;
        Some(written.as_millisecond())
    }
}

impl Secret<'_> {
    /// The values, the newest first.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        let lists = [&self.value, &self.values].into_iter().flatten();
        lists.flat_map(|values| values.0.iter().map(|value| &**value))
    }

    /// When its values end, seconds since 1970. A time that can't be read has not come: the secret stays in force.
    pub(super) fn expires_s(&self) -> Option<i64> {
        let at: jiff::Timestamp = self.expires_at.as_ref()?.0.parse().ok()?;
        Some(at.as_second())
    }
}

impl<'a> Webhook<'a> {
    /// The items of its filter.
    pub(super) fn items(&self) -> &[Item<'a>] {
        self.filter.as_ref().and_then(|Object(filter)| filter.items.as_deref()).unwrap_or_default()
    }

    /// The period of its schedule.
    pub(super) fn period(&self) -> Option<&str> {
        self.schedule.as_ref()?.0.period.as_ref().map(|period| &*period.0)
    }
}
