//! For `explain`: what may have kept an event from an integration's webhooks when it was read: suspensions, changes of the integration,
//! and places of webhooks that are behind. `explain` itself has what decides now.

use jiff::Timestamp;
use serde::Serialize;

use super::{ToolError, blocking};
use crate::actions::lookup::{Found, Health};
use crate::domain::guid::canonical_key;
use crate::kafka::windows::Windows;
use crate::readers::waiting::places;
use crate::settings::Settings;

/// A webhook that is behind in a partition of the events topic.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Behind {
    #[serde(skip)]
    pub(super) web_hook_id: String,
    pub(super) partition: i32,
    /// It has been given everything before this offset.
    pub(super) offset: i64,
    /// `lane-full` or `circuit-open`.
    pub(super) reason: Option<String>,
    pub(super) since: Option<String>,
    /// Events from its place to the partition's end, also those that it does not match.
    pub(super) events_to_go: i64,
}

/// The places of an integration's webhooks. Reads the backlog topic to its end.
pub(super) async fn behind(settings: &Settings, key: &str) -> Result<Vec<Behind>, ToolError> {
    let (settings, key) = (settings.clone(), key.to_owned());
    blocking("reading the backlog topic", move || {
        let of_key = |workspace: &str, id: &str| canonical_key(&format!("{workspace}/{id}")) == canonical_key(&key);
        let places = places(&settings, &|| true, &|place| of_key(&place.workspace, &place.integration_id))?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let events = Windows::open(&settings.kafka, &settings.topics.events, "explain-ends")?;
        let end = |partition| events.bounds().iter().find(|range| range.partition == partition).map(|range| range.end);
        let behind = places.into_iter().map(|place| Behind {
            events_to_go: end(place.partition).map_or(0, |end| (end - place.offset).max(0)),
            web_hook_id: place.web_hook_id,
            partition: place.partition,
            offset: place.offset,
            reason: place.reason,
            since: place.since,
        });
        Ok(behind.collect())
    })
    .await
}

/// Where and when an event of the events topic was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) at_ms: Option<i64>,
}

impl Written {
    fn is_before(self, time: &str) -> bool {
        let time = time.parse().map(Timestamp::as_millisecond);
        self.at_ms.zip(time.ok()).is_some_and(|(at_ms, time_ms)| at_ms < time_ms)
    }
}

/// Why the result may have been another when the event was read, in words.
pub(super) fn past(written: Written, found: &Found, health: Option<&Health>) -> Vec<String> {
    let mut past = Vec::new();
    if let Some(health) = health
        && let Some(first_dropped) = health.first_dropped.get(&written.partition)
    {
        let (first, since) = (*first_dropped, health.since.as_deref().unwrap_or_default());
        if written.offset >= first && health.is_suspended() {
            past.push(format!("it came after the suspension began, which dropped events from offset {first} on"));
        } else if written.offset >= first && written.is_before(since) {
            past.push(format!(
                "it may have come while the integration was suspended: events from offset {first} on were dropped, \
                 until {since} at the latest"
            ));
        }
    }
    if let Some(updated_at) = updated_at(&found.value).filter(|updated_at| written.is_before(updated_at)) {
        past.push(format!(
            "the integration was changed at {updated_at}, after the event came; how it was then is not kept"
        ));
    }
    past
}

fn updated_at(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    value.get("updateInfo")?.get("updatedAt")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::integration::Integration;

    fn found(updated_at: &str) -> Found {
        let value = json!({"updateInfo": {"updatedAt": updated_at}, "webHooks": []}).to_string().into_bytes();
        Found { integration: Integration::parse("ws/i", &value).unwrap(), value, record: "t/0/0".to_owned() }
    }

    fn health(status: &str, since: &str) -> Health {
        Health {
            status: Some(status.to_owned()),
            since: Some(since.to_owned()),
            first_dropped: [(3, 10)].into_iter().collect(),
        }
    }

    #[test]
    fn a_suspension_and_a_later_change_of_the_integration_are_named() {
        let at_ms = "2026-01-31T12:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
        let written = |offset| Written { partition: 3, offset, at_ms: Some(at_ms) };
        let past_of =
            |offset, updated_at: &str, health: &Health| past(written(offset), &found(updated_at), Some(health));
        let (earlier, later) = ("2026-01-31T11:00:00Z", "2026-01-31T13:00:00Z");
        assert!(past_of(9, earlier, &health("failed", later)).is_empty(), "before the first that was dropped");
        assert!(past_of(10, earlier, &health("failed", earlier))[0].starts_with("it came after the suspension began"));
        let ended = past_of(10, earlier, &health("active", later));
        assert!(ended[0].contains("suspended") && ended[0].contains(later), "{ended:?}");
        assert!(past_of(10, earlier, &health("active", earlier)).is_empty(), "it came after the end");
        let changed = past_of(9, later, &health("active", earlier));
        assert!(changed.len() == 1 && changed[0].contains("changed at 2026-01-31T13:00:00Z"), "{changed:?}");
    }
}
