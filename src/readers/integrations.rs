//! The registered integrations and their health: the integrations topic joined with the health topic. No row holds a secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::waiting::behind_by_integration;
use super::{ReadError, parts_of, read_table, same_id, time};
use crate::attempt_log::redaction::{Secrets, shown_url};
use crate::domain::explain::items_of;
use crate::domain::guid::canonical_key;
use crate::domain::integration::{Integration, Trigger};
use crate::domain::retry_schedule::format_duration;
use crate::health::records::StateRecord;
use crate::kafka::span::SpanError;
use crate::kafka::table_reader::CompactedError;
use crate::settings::Settings;

/// One integration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IntegrationRow {
    pub(crate) workspace: String,
    pub(crate) integration_id: String,
    /// When its record was written (RFC 3339).
    pub(crate) updated_at: Option<String>,
    /// Its own status. `None` where its record can't be used.
    pub(crate) status: Option<&'static str>,
    /// Why its newest record can't be used.
    pub(crate) problem: Option<String>,
    pub(crate) web_hooks: Vec<WebhookRow>,
    /// Its record of the health topic. `None` if there is no record.
    pub(crate) health: Option<HealthRow>,
    /// Since when a webhook of it is behind (RFC 3339). `None` where no webhook is.
    pub(crate) behind_since: Option<String>,
    #[serde(skip)]
    pub(crate) updated_ms: i64,
}

/// One webhook of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookRow {
    pub(crate) id: String,
    /// Without its query and with secrets masked.
    pub(crate) url: String,
    pub(crate) trigger_type: &'static str,
    pub(crate) disabled: bool,
    /// The filter's items in words.
    pub(crate) filter: Vec<String>,
    /// The period of a scheduled webhook.
    pub(crate) period: Option<String>,
}

/// The state of an integration in the health topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthRow {
    pub(crate) workspace: String,
    pub(crate) integration_id: String,
    #[serde(flatten)]
    pub(crate) state: StateRecord,
    /// Since when a webhook of it is behind (RFC 3339). Left out where no webhook is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) behind_since: Option<String>,
}

impl HealthRow {
    /// Reads a record of the health topic. `None` if it is not valid.
    pub(crate) fn of(key: &[u8], value: &[u8]) -> Option<Self> {
        let (workspace, integration) = parts_of(key)?;
        let state = StateRecord::parse(value).ok()?;
        Some(Self {
            workspace: workspace.to_owned(),
            integration_id: integration.to_owned(),
            state,
            behind_since: None,
        })
    }
}

impl IntegrationRow {
    /// The row of a record of the integrations topic, written at `written_ms`. `None` if the key is not valid. `before` is the row that
    /// the key had: if the record can't be used, the one before it stays in force.
    pub(crate) fn of(key: &[u8], value: &[u8], written_ms: i64, before: Option<Self>) -> Option<Self> {
        let (workspace, integration) = parts_of(key)?;
        let key = std::str::from_utf8(key).ok()?;
        let parsed = Integration::parse(key, value);
        let items = items_of(value).unwrap_or_default();
        let row = Self {
            workspace: workspace.to_owned(),
            integration_id: integration.to_owned(),
            updated_at: time(written_ms),
            status: None,
            problem: None,
            web_hooks: Vec::new(),
            health: None,
            behind_since: None,
            updated_ms: written_ms,
        };
        Some(match (parsed, before) {
            (Ok(parsed), _) => {
                Self { status: Some(parsed.status().word()), web_hooks: webhooks_of(&parsed, &items), ..row }
            }
            (Err(problem), Some(before)) => Self { problem: Some(problem.to_string()), ..before },
            (Err(problem), None) => Self { problem: Some(problem.to_string()), ..row },
        })
    }
}

fn webhooks_of(integration: &Integration, items: &[Vec<crate::domain::explain::ItemWords>]) -> Vec<WebhookRow> {
    let secrets = Secrets::of(integration.secret_values());
    let rows = integration.webhooks().map(|webhook| {
        let words = items.get(webhook.index()).map_or(&[][..], Vec::as_slice);
        let (trigger_type, period) = match webhook.trigger() {
            Trigger::Schedule(period) => ("schedule", Some(format_duration(period))),
            Trigger::EntityEvent => ("entityEvent", None),
        };
        WebhookRow {
            id: webhook.id(),
            url: secrets.masked(&shown_url(&webhook.url())),
            trigger_type,
            disabled: webhook.is_disabled(),
            filter: words.iter().map(ToString::to_string).collect(),
            period,
        }
    });
    rows.collect()
}

/// Selects the integrations that match every field that is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct IntegrationFilter {
    pub(crate) workspace: Option<String>,
    pub(crate) integration: Option<String>,
    /// Those that have this webhook.
    pub(crate) webhook: Option<String>,
    /// Those that failed for this reason.
    pub(crate) reason: Option<String>,
    /// Changed at this time or later, ms since 1970.
    pub(crate) from_ms: Option<i64>,
    /// Changed before this time.
    pub(crate) to_ms: Option<i64>,
}

impl IntegrationFilter {
    fn takes_key(&self, key: &[u8]) -> bool {
        parts_of(key).is_some_and(|(workspace, integration)| {
            self.workspace.as_ref().is_none_or(|wanted| wanted == workspace)
                && self.integration.as_ref().is_none_or(|wanted| same_id(wanted, integration))
        })
    }

    fn takes_time(&self, at_ms: i64) -> bool {
        self.from_ms.is_none_or(|from| at_ms >= from) && self.to_ms.is_none_or(|to| at_ms < to)
    }

    fn takes_health(&self, row: &HealthRow) -> bool {
        self.reason.as_ref().is_none_or(|wanted| row.state.failed_for(wanted))
    }

    fn takes_row(&self, row: &IntegrationRow) -> bool {
        self.takes_time(row.updated_ms)
            && self.webhook.as_ref().is_none_or(|wanted| row.web_hooks.iter().any(|hook| same_id(wanted, &hook.id)))
            && (self.reason.is_none() || row.health.as_ref().is_some_and(|health| self.takes_health(health)))
    }
}

/// All rows that a filter selects, and how many records were read.
#[derive(Debug)]
pub(crate) struct Listed<R> {
    pub(crate) rows: Vec<R>,
    pub(crate) read: u64,
}

/// The states in the health topic of the integrations that `filter` selects, the newest change first, and since when they are behind.
/// Blocks for a bounded time. A missing topic has no states.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn health(
    settings: &Settings,
    filter: &IntegrationFilter,
    wanted: &dyn Fn() -> bool,
) -> Result<Listed<HealthRow>, ReadError> {
    let mut listed = states(settings, filter, wanted)?;
    if !listed.rows.is_empty() {
        let behind = behind_by_integration(settings, wanted, &|key| filter.takes_key(key))?;
        for row in &mut listed.rows {
            row.behind_since = behind.get(&key_of(&row.workspace, &row.integration_id)).cloned();
        }
    }
    Ok(listed)
}

fn key_of(workspace: &str, integration: &str) -> String {
    canonical_key(&format!("{workspace}/{integration}")).into_owned()
}

fn states(
    settings: &Settings,
    filter: &IntegrationFilter,
    wanted: &dyn Fn() -> bool,
) -> Result<Listed<HealthRow>, ReadError> {
    let mut by_key: BTreeMap<Vec<u8>, HealthRow> = BTreeMap::new();
    let mut read = 0;
    let ended = read_table(&settings.kafka, &settings.topics.health, "health-reader", wanted, |row| {
        read += 1;
        if !filter.takes_key(row.key) {
            return;
        }
        match row.value.and_then(|value| HealthRow::of(row.key, value)) {
            Some(health) => by_key.insert(row.key.to_vec(), health),
            None if row.value.is_none() => by_key.remove(row.key),
            None => None,
        };
    });
    match ended {
        Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_)) | ReadError::Table(CompactedError::NoTopic(_))) => {}
        Err(error) => return Err(error),
    }
    let mut rows: Vec<HealthRow> = by_key.into_values().collect();
    rows.retain(|row| filter.takes_health(row) && filter.takes_time(row.state.since_ms()));
    rows.sort_by_key(|row| std::cmp::Reverse(row.state.since_ms()));
    Ok(Listed { rows, read })
}

/// The same as [`health`], only for integrations that have the webhook which `filter` names.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn health_of(
    settings: &Settings,
    filter: &IntegrationFilter,
    wanted: &dyn Fn() -> bool,
) -> Result<Listed<HealthRow>, ReadError> {
    if filter.webhook.is_none() {
        return health(settings, filter, wanted);
    }
    let listed = integrations(settings, &IntegrationFilter { from_ms: None, to_ms: None, ..filter.clone() }, wanted)?;
    let mut rows: Vec<HealthRow> = listed.rows.into_iter().filter_map(|row| row.health).collect();
    rows.retain(|row| filter.takes_time(row.state.since_ms()));
    rows.sort_by_key(|row| std::cmp::Reverse(row.state.since_ms()));
    Ok(Listed { rows, read: listed.read })
}

/// The integrations that `filter` selects, the newest change first, each with its state in the health topic. Blocks for a bounded
/// time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn integrations(
    settings: &Settings,
    filter: &IntegrationFilter,
    wanted: &dyn Fn() -> bool,
) -> Result<Listed<IntegrationRow>, ReadError> {
    let mut by_key: BTreeMap<Vec<u8>, IntegrationRow> = BTreeMap::new();
    let mut read = 0;
    read_table(&settings.kafka, &settings.topics.integrations, "integrations-reader", wanted, |row| {
        read += 1;
        if !filter.takes_key(row.key) {
            return;
        }
        let before = by_key.remove(row.key);
        let after = row.value.and_then(|value| IntegrationRow::of(row.key, value, row.timestamp_ms, before));
        if let Some(after) = after {
            by_key.insert(row.key.to_vec(), after);
        }
    })?;
    let of_keys = IntegrationFilter {
        workspace: filter.workspace.clone(),
        integration: filter.integration.clone(),
        ..IntegrationFilter::default()
    };
    let behind = behind_by_integration(settings, wanted, &|key| of_keys.takes_key(key))?;
    for row in by_key.values_mut() {
        row.behind_since = behind.get(&key_of(&row.workspace, &row.integration_id)).cloned();
    }
    for health in states(settings, &of_keys, wanted)?.rows {
        let key = format!("{}/{}", health.workspace, health.integration_id).into_bytes();
        if let Some(row) = by_key.get_mut(&key) {
            row.health = Some(HealthRow { behind_since: row.behind_since.clone(), ..health });
        }
    }
    let mut rows: Vec<IntegrationRow> = by_key.into_values().collect();
    rows.retain(|row| filter.takes_row(row));
    rows.sort_by_key(|row| std::cmp::Reverse(row.updated_ms));
    Ok(Listed { rows, read })
}

/// A time of the health topic, to the second, for people.
pub(crate) fn since(timestamp: Timestamp) -> String {
    format!("{timestamp:.0}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_filters_in_words_and_no_secret() {
        let value = json!({"baseUrl": "https://a.b/t0k3n-in-path", "status": "paused",
            "secrets": [{"id": "webhook.header.X-Key", "value": "t0k3n-in-path"}],
            "webHooks": [{"id": "w", "relativeUrl": "cb?key=hidden", "triggerType": "entityEvent",
                "filter": {"items": [{"entityType": "company", "changeType": "patch"}, {}]}}]});
        let row = IntegrationRow::of(b"ws/i", value.to_string().as_bytes(), 0, None).unwrap();
        assert_eq!((row.status, row.workspace.as_str(), row.integration_id.as_str()), (Some("paused"), "ws", "i"));
        assert_eq!(row.web_hooks[0].filter, ["{ entityType: company, changeType: patch }", "{}"]);
        assert_eq!(row.web_hooks[0].url, "https://a.b/***/cb");
        let json = serde_json::to_string(&row).unwrap();
        assert!(!json.contains("t0k3n") && !json.contains("hidden"), "{json}");
    }

    #[test]
    fn an_unusable_record_leaves_the_one_before_it_and_says_why() {
        let good = json!({"baseUrl": "https://a.b", "webHooks": []}).to_string();
        let before = IntegrationRow::of(b"ws/i", good.as_bytes(), 5, None);
        let row = IntegrationRow::of(b"ws/i", b"{", 6, before).unwrap();
        assert_eq!((row.status, row.updated_ms), (Some("active"), 5));
        assert!(row.problem.is_some());
        assert!(IntegrationRow::of(b"ws/i", b"{", 6, None).unwrap().status.is_none());
        assert!(IntegrationRow::of(b"no-slash", b"{", 6, None).is_none());
    }

    #[test]
    fn health_is_in_the_words_of_its_topic() {
        let value = json!({"status": "failed", "since": "2023-11-14T22:13:30Z", "failures": {"dns": 3},
            "lastStatus": 503, "firstDropped": {"0": 5}});
        let row = HealthRow::of(b"ws/i", value.to_string().as_bytes()).unwrap();
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((&json["status"], &json["failures"]["dns"]), (&json!("failed"), &json!(3)));
        assert_eq!((&json["workspace"], &json["integrationId"]), (&json!("ws"), &json!("i")));
        let filter = |reason: &str| IntegrationFilter { reason: Some(reason.to_owned()), ..Default::default() };
        assert!(filter("dns").takes_health(&row) && !filter("timeout").takes_health(&row));
    }
}
