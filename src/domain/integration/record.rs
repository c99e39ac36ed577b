//! The JSON of a record of the integrations topic: what is read of it, borrowed where it has no escapes.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Unusable;
use crate::domain::text::{Loose, Text};

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
    pub(super) secrets: Option<Vec<Secret<'a>>>,
    #[serde(borrow)]
    pub(super) web_hooks: Option<Vec<Webhook<'a>>>,
    /// Of any shape: only the API's own field in it is read.
    #[serde(borrow)]
    update_info: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Secret<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    /// Of any shape: what is no text is no secret.
    #[serde(borrow)]
    pub(super) value: Option<Loose<'a>>,
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
    filter: Option<Filter<'a>>,
    #[serde(borrow)]
    schedule: Option<Schedule<'a>>,
    pub(super) disabled: Option<bool>,
}

#[derive(Deserialize)]
struct Filter<'a> {
    #[serde(borrow)]
    items: Option<Vec<Item<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the record's own names")]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    pub(super) event_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) entity_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) change_type: Option<Text<'a>>,
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
    /// Reads a value, checking all of it as UTF-8 and as JSON.
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Unusable> {
        let text = simdutf8::basic::from_utf8(value).map_err(|_invalid| Unusable::Json("not UTF-8".to_owned()))?;
        // The place, and not a word of the record: it holds secrets.
        serde_json::from_str(text)
            .map_err(|error| Unusable::Json(format!("line {} column {}", error.line(), error.column())))
    }

    /// When the API last wrote the status, ms since 1970: it says so in a field of its own, since the value may be the one
    /// before.
    pub(super) fn status_written_ms(&self) -> Option<i64> {
        let info: UpdateInfo<'_> = serde_json::from_str(self.update_info?.get()).ok()?;
        let written: jiff::Timestamp = info.status_updated_at?.0.parse().ok()?;
        Some(written.as_millisecond())
    }
}

impl Secret<'_> {
    /// Whether there is one, be it empty.
    pub(super) fn has_value(&self) -> bool {
        self.value.as_ref().is_some_and(|value| value.0.is_some())
    }

    /// Its value; empty where there is none.
    pub(super) fn value(&self) -> &str {
        self.value.as_ref().and_then(|value| value.0.as_deref()).unwrap_or_default()
    }
}

impl<'a> Webhook<'a> {
    /// The items of its filter.
    pub(super) fn items(&self) -> &[Item<'a>] {
        self.filter.as_ref().and_then(|filter| filter.items.as_deref()).unwrap_or_default()
    }

    /// The period of its schedule.
    pub(super) fn period(&self) -> Option<&str> {
        self.schedule.as_ref()?.period.as_ref().map(|period| &*period.0)
    }
}
