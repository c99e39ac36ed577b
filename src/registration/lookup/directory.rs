//! The integrations in memory: their records, their states in the health topic and their webhooks that are behind, joined for one
//! workspace at a time.
//!
//! No row holds a secret: URLs come without queries, secrets in them masked, and a search looks only at what a row shows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::guid::canonical_key;
use crate::health::records::StateRecord;
use crate::health::rules::Health;
use crate::readers::gather::Registered;
use crate::readers::integrations::{HealthRow, IntegrationRow};
use crate::readers::same_id;
use crate::readers::waiting::{Place, behind_since};
use crate::registration::instance::Instance;
use crate::registration::question::{Asked, BadQuestion, Missing, SourceError};
use crate::registration::registry::{Stored, View};

/// Records looked at between two locks of the view, so that a search holds up no change.
const BATCH: usize = 500;

/// Integrations and their health.
pub(crate) struct Directory {
    integrations: Arc<View>,
    /// By `<workspace>/<integration id>`.
    health: RwLock<BTreeMap<String, StateRecord>>,
    /// Places of webhooks that are behind: by `<workspace>/<integration id>`, then by the record's key.
    behind: RwLock<BTreeMap<String, BTreeMap<Vec<u8>, Place>>>,
}

/// One integration in the overview.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    integration_id: &'a str,
    /// Its own status if that keeps events from it, else its state in the health topic; `unusable` if its record can't be used.
    status: &'a str,
    problem: Option<&'a str>,
    web_hooks: usize,
    /// Of its first webhook.
    url: Option<&'a str>,
    #[serde(flatten)]
    health: Option<&'a StateRecord>,
    /// Since when a webhook of it is behind.
    behind_since: Option<String>,
}

impl Directory {
    /// Joins `integrations`, which another thread fills, with the health topic, whose records go to [`Self::set_state`].
    pub(crate) fn new(integrations: Arc<View>) -> Self {
        Self { integrations, health: RwLock::default(), behind: RwLock::default() }
    }

    /// The integrations, for the thread that fills them.
    pub(super) fn integrations(&self) -> &View {
        &self.integrations
    }

    /// Takes the health topic's newest state of a key, or its removal.
    pub(super) fn set_state(&self, key: &str, state: Option<StateRecord>) {
        let mut health = self.health.write();
        match state {
            Some(state) => health.insert(key.to_owned(), state),
            None => health.remove(key),
        };
    }

    /// Takes the place of a webhook of `integration` from the backlog topic, or its removal: it is level again.
    pub(super) fn set_place(&self, integration: &str, key: &[u8], place: Option<Place>) {
        let mut behind = self.behind.write();
        if let Some(place) = place {
            behind.entry(integration.to_owned()).or_default().insert(key.to_owned(), place);
        } else if let Some(places) = behind.get_mut(integration) {
            places.remove(key);
            if places.is_empty() {
                behind.remove(integration);
            }
        }
    }

    /// Since when a webhook of an integration is behind.
    fn behind_since(&self, workspace: &str, id: &str) -> Option<String> {
        let behind = self.behind.read();
        if behind.is_empty() {
            return None;
        }
        behind_since(behind.get(&*canonical_key(&format!("{workspace}/{id}")))?.values())
    }

    /// Every workspace that has an integration.
    pub(super) fn workspaces(&self) -> Vec<String> {
        self.integrations.workspaces()
    }

    /// Whether an integration of the workspace has the webhook.
    pub(super) fn has_webhook_anywhere(&self, workspace: &str, webhook: &str) -> bool {
        let mut last_id: Option<String> = None;
        loop {
            let batch = self.integrations.page(workspace, last_id.as_deref(), BATCH);
            last_id = batch.items.last().map(|(id, _)| id.clone());
            let rows = batch.items.iter().filter_map(|(id, stored)| parsed(workspace, id, stored));
            if rows.into_iter().any(|row| row.web_hooks.iter().any(|hook| same_id(webhook, &hook.id))) {
                return true;
            }
            if batch.items.is_empty() {
                return false;
            }
        }
    }

    /// Whether the integration has the webhook.
    pub(super) fn has_webhook(&self, workspace: &str, id: &str, webhook: &str) -> bool {
        let row = self.integrations.get(workspace, id).and_then(|stored| parsed(workspace, id, &stored));
        row.is_some_and(|row| row.web_hooks.iter().any(|hook| same_id(webhook, &hook.id)))
    }

    /// Whether there is such an integration.
    pub(super) fn knows(&self, workspace: &str, id: &str) -> bool {
        self.integrations.get(workspace, id).is_some()
    }

    fn state(&self, workspace: &str, id: &str) -> Option<StateRecord> {
        self.health.read().get(&format!("{workspace}/{id}")).cloned()
    }

    /// The state of an integration in the health topic (active without a record), and since when a webhook of it is behind.
    pub(super) fn health_of(&self, workspace: &str, id: &str) -> Value {
        let state = self.state(workspace, id).and_then(|state| serde_json::to_value(state).ok());
        let mut health = state.unwrap_or_else(|| json!({ "status": Health::Active.word() }));
        if let Some((since, fields)) = self.behind_since(workspace, id).zip(health.as_object_mut()) {
            fields.insert("behindSince".to_owned(), since.into());
        }
        health
    }

    /// One instance, secrets masked, with its health.
    pub(super) fn instance(&self, workspace: &str, id: &str) -> Result<Value, SourceError> {
        let stored = self.integrations.get(workspace, id).ok_or_else(|| Missing::Instance { id: id.to_owned() })?;
        let bytes = Instance::parse(&stored.bytes)?.masked_bytes();
        let mut value: Value = serde_json::from_slice(&bytes)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("health".to_owned(), self.health_of(workspace, id));
        }
        Ok(value)
    }

    /// The workspace's integrations for a trace, in the order of their ids. `None` where a record can't be used: then an older one
    /// may be in force, which only the topic knows.
    pub(super) fn registered(&self, workspace: &str) -> Option<Vec<Registered>> {
        let mut registered = Vec::new();
        let mut last_id: Option<String> = None;
        loop {
            let batch = self.integrations.page(workspace, last_id.as_deref(), BATCH);
            last_id = batch.items.last().map(|(id, _)| id.clone());
            for (id, stored) in batch.items {
                let key = stored.spelling.as_deref().map_or_else(|| format!("{workspace}/{id}"), str::to_owned);
                registered.push(Registered::parse(&key, stored.bytes, stored.written_ms)?);
            }
            if !batch.has_more || last_id.is_none() {
                return Some(registered);
            }
        }
    }

    /// The states of the workspace's integrations in the health topic, the newest change first.
    pub(super) fn health(&self, workspace: &str, asked: &Asked) -> Result<Value, SourceError> {
        let prefix = format!("{workspace}/");
        let health = self.health.read();
        let mut rows: Vec<(i64, &str, &StateRecord)> = health
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .map_while(|(key, state)| Some((state.since_ms(), key.strip_prefix(&prefix)?, state)))
            .filter(|(since_ms, id, state)| {
                asked.integration.as_deref().is_none_or(|wanted| same_id(wanted, id))
                    && asked.reason.is_none_or(|wanted| state.failed_for(wanted))
                    && asked.from.is_none_or(|from| *since_ms >= from.as_millisecond())
                    && asked.to.is_none_or(|to| *since_ms < to.as_millisecond())
                    && asked.webhook.as_deref().is_none_or(|wanted| self.has_webhook(workspace, id, wanted))
            })
            .collect();
        rows.sort_unstable_by_key(|(since_ms, id, _)| (Reverse(*since_ms), *id));
        let after = asked.next.as_deref().map(after).transpose()?;
        rows.retain(|(since_ms, id, _)| {
            after.is_none_or(|after| (Reverse(*since_ms), *id) > (Reverse(after.0), after.1))
        });
        let has_more = rows.len() > asked.limit;
        rows.truncate(asked.limit);
        let next = rows.last().filter(|_| has_more).map(|(since_ms, id, _)| format!("{since_ms}/{id}"));
        let rows: Vec<HealthRow> = rows
            .into_iter()
            .map(|(_, id, state)| HealthRow {
                workspace: workspace.to_owned(),
                integration_id: id.to_owned(),
                state: state.clone(),
                behind_since: self.behind_since(workspace, id),
            })
            .collect();
        page(&rows, next.as_deref())
    }

    /// The workspace's integrations, worst first; with `find` those that show it.
    pub(super) fn overview(
        &self,
        workspace: &str,
        find: Option<&str>,
        limit: usize,
        next: Option<&str>,
    ) -> Result<Value, SourceError> {
        let find = find.map(str::to_lowercase);
        let mut ranked: Vec<(i64, String, Stored)> = Vec::new();
        let mut last_id: Option<String> = None;
        loop {
            let batch = self.integrations.page(workspace, last_id.as_deref(), BATCH);
            last_id = batch.items.last().map(|(id, _)| id.clone());
            for (id, stored) in batch.items {
                let state = self.state(workspace, &id);
                if find.as_deref().is_none_or(|find| shows(workspace, &id, &stored, state.as_ref(), find)) {
                    let is_behind = self.behind_since(workspace, &id).is_some();
                    ranked.push((rank(state.as_ref(), is_behind), id, stored));
                }
            }
            if !batch.has_more || last_id.is_none() {
                break;
            }
        }
        ranked.sort_unstable_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let total = ranked.len();
        let after = next.map(after).transpose()?;
        ranked.retain(|(rank, id, _)| after.is_none_or(|after| (*rank, id.as_str()) > after));
        let has_more = ranked.len() > limit;
        ranked.truncate(limit);
        let next = ranked.last().filter(|_| has_more).map(|(rank, id, _)| format!("{rank}/{id}"));
        let rows: Vec<Value> = ranked.iter().map(|(_, id, stored)| self.row(workspace, id, stored)).collect();
        let mut page = page(&rows, next.as_deref())?;
        if let Some(fields) = page.as_object_mut() {
            fields.insert("total".to_owned(), total.into());
        }
        Ok(page)
    }

    fn row(&self, workspace: &str, id: &str, stored: &Stored) -> Value {
        let state = self.state(workspace, id);
        let parsed = parsed(workspace, id, stored);
        let own = parsed.as_ref().and_then(|row| row.status).unwrap_or("unusable");
        let status = match own {
            "active" | "hasErrors" => state.as_ref().map_or(own, |state| state.health().word()),
            other => other,
        };
        let row = Row {
            integration_id: id,
            status,
            problem: parsed.as_ref().and_then(|row| row.problem.as_deref()),
            web_hooks: parsed.as_ref().map_or(0, |row| row.web_hooks.len()),
            url: parsed.as_ref().and_then(|row| row.web_hooks.first()).map(|hook| hook.url.as_str()),
            health: state.as_ref(),
            behind_since: self.behind_since(workspace, id),
        };
        let mut value = serde_json::to_value(&row).unwrap_or_default();
        // The state in the health topic has a `status` too; the row's own says more.
        if let Some(fields) = value.as_object_mut() {
            fields.insert("status".to_owned(), status.into());
        }
        value
    }
}

/// The smaller, the worse.
fn rank(state: Option<&StateRecord>, is_behind: bool) -> i64 {
    match state.map(StateRecord::health) {
        Some(Health::Failed) => 0,
        Some(Health::HasErrors) => 1,
        Some(Health::Active) | None if is_behind => 2,
        Some(Health::Active) | None => 3,
    }
}

fn parsed(workspace: &str, id: &str, stored: &Stored) -> Option<IntegrationRow> {
    IntegrationRow::of(format!("{workspace}/{id}").as_bytes(), &stored.bytes, 0, None)
}

/// Whether the row shows the word. A record is parsed only if its bytes hold the word.
fn shows(workspace: &str, id: &str, stored: &Stored, state: Option<&StateRecord>, find: &str) -> bool {
    let holds = |text: &str| text.to_lowercase().contains(find);
    let is_in_state = || state.and_then(|state| serde_json::to_string(state).ok()).is_some_and(|text| holds(&text));
    let is_in_row = || {
        holds(&String::from_utf8_lossy(&stored.bytes))
            && parsed(workspace, id, stored)
                .and_then(|row| serde_json::to_string(&row).ok())
                .is_some_and(|row| holds(&row))
    };
    holds(id) || is_in_state() || is_in_row()
}

/// Reads `<number>/<id>`, the row after which a page begins.
fn after(next: &str) -> Result<(i64, &str), BadQuestion> {
    let parts = next.split_once('/').and_then(|(number, id)| Some((number.parse().ok()?, id)));
    parts.ok_or(BadQuestion::Next)
}

/// A page from memory. It has no time back to which topics were searched.
fn page<R: Serialize>(rows: &[R], next: Option<&str>) -> Result<Value, SourceError> {
    let rows = serde_json::to_value(rows)?;
    Ok(json!({ "rows": rows, "searchedBackTo": null, "complete": next.is_none(), "next": next }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::registry::Version;

    fn directory(records: &[(&str, Value)], states: &[(&str, Value)]) -> Directory {
        let directory = Directory::new(Arc::default());
        for (offset, (key, record)) in (0..).zip(records) {
            let version = Version { partition: 0, offset };
            directory.integrations().apply(Some(key), Some(record.to_string().into()), version, 0);
        }
        for (key, state) in states {
            directory.set_state(key, Some(StateRecord::parse(state.to_string().as_bytes()).unwrap()));
        }
        directory
    }

    fn record(url: &str) -> Value {
        json!({"baseUrl": url, "secrets": [{"id": "webhook.header.X-Key", "value": "pl4nted"}],
            "webHooks": [{"id": "w", "relativeUrl": "cb/pl4nted?k=hidden", "triggerType": "entityEvent", "filter": {"items": [{}]}}]})
    }

    fn failed() -> Value {
        json!({"status": "failed", "since": "2023-11-14T22:13:30Z", "failures": {"dns": 3}})
    }

    fn ids(page: &Value) -> Vec<&str> {
        page["rows"].as_array().unwrap().iter().map(|row| row["integrationId"].as_str().unwrap()).collect()
    }

    #[test]
    fn an_integration_that_is_behind_says_since_when_until_it_is_level_again() {
        let directory = directory(
            &[("acme/a", record("https://a.b")), ("acme/b", record("https://a.b")), ("acme/c", record("https://a.b"))],
            &[("acme/c", failed())],
        );
        let keys: [&[u8]; 2] = [b"g/0/acme/b/w", b"g/1/acme/b/w"];
        for (key, since) in keys.into_iter().zip(["2026-01-31T12:00:05Z", "2026-01-31T12:00:00Z"]) {
            let place = Place {
                workspace: "acme".to_owned(),
                integration_id: "b".to_owned(),
                web_hook_id: "w".to_owned(),
                partition: 0,
                offset: 7,
                reason: None,
                since: Some(since.to_owned()),
            };
            directory.set_place("acme/b", key, Some(place));
        }
        let since = json!("2026-01-31T12:00:00.000Z");
        let page = directory.overview("acme", None, 10, None).unwrap();
        assert_eq!(ids(&page), ["c", "b", "a"], "behind is worse than active and better than suspended");
        assert_eq!((&page["rows"][1]["behindSince"], &page["rows"][2]["behindSince"]), (&since, &Value::Null));
        assert_eq!(directory.health_of("acme", "b"), json!({"status": "active", "behindSince": since}));
        assert_eq!(directory.health_of("other", "b"), json!({"status": "active"}), "another workspace's is not seen");
        directory.set_place("acme/b", keys[1], None);
        assert_eq!(directory.health_of("acme", "b")["behindSince"], "2026-01-31T12:00:05.000Z");
        directory.set_place("acme/b", keys[0], None);
        assert_eq!(directory.health_of("acme", "b"), json!({"status": "active"}));
    }

    #[test]
    fn the_worst_comes_first_and_pages_go_on_without_gap_or_repeat() {
        let directory = directory(
            &[("acme/a", record("https://a.b")), ("acme/b", record("https://a.b")), ("acme/c", record("https://a.b"))],
            &[("acme/c", failed())],
        );
        let first = directory.overview("acme", None, 2, None).unwrap();
        assert_eq!((ids(&first), &first["total"], &first["complete"]), (vec!["c", "a"], &json!(3), &json!(false)));
        assert_eq!((&first["rows"][0]["status"], &first["rows"][0]["failures"]["dns"]), (&json!("failed"), &json!(3)));
        let second = directory.overview("acme", None, 2, first["next"].as_str()).unwrap();
        assert_eq!((ids(&second), &second["complete"], &second["next"]), (vec!["b"], &json!(true), &Value::Null));
        assert!(matches!(directory.overview("acme", None, 2, Some("x")), Err(SourceError::Bad(_))));
    }

    #[test]
    fn no_answer_holds_a_secret_and_no_search_finds_one() {
        let directory = directory(&[("acme/a", record("https://a.b"))], &[("acme/a", failed())]);
        for answer in [
            directory.overview("acme", None, 10, None).unwrap(),
            directory.instance("acme", "a").unwrap(),
            directory.health("acme", &Asked { limit: 10, ..Asked::default() }).unwrap(),
        ] {
            let text = answer["rows"].to_string() + &answer["secrets"].to_string();
            assert!(!text.contains("pl4nted"), "{text}");
        }
        assert_eq!(ids(&directory.overview("acme", Some("pl4nted"), 10, None).unwrap()).len(), 0);
        assert_eq!(ids(&directory.overview("acme", Some("HTTPS://A.B"), 10, None).unwrap()), ["a"]);
    }

    #[test]
    fn an_answer_is_of_one_workspace_even_if_another_has_a_similar_name() {
        let records = ["acme", "acme2", "acm", "acme-"].map(|ws| format!("{ws}/i-{ws}"));
        let records: Vec<(&str, Value)> = records.iter().map(|key| (key.as_str(), record("https://a.b"))).collect();
        let states: Vec<(&str, Value)> = records.iter().map(|(key, _)| (*key, failed())).collect();
        let directory = directory(&records, &states);
        assert_eq!(ids(&directory.overview("acme", None, 10, None).unwrap()), ["i-acme"]);
        assert_eq!(ids(&directory.health("acme", &Asked { limit: 10, ..Asked::default() }).unwrap()), ["i-acme"]);
        assert!(matches!(directory.instance("acme", "i-acme2"), Err(SourceError::Missing(_))));
        assert_eq!(directory.workspaces(), ["acm", "acme", "acme-", "acme2"]);
    }

    #[test]
    fn health_is_of_the_integration_the_webhook_and_the_reason_that_are_asked_for() {
        let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
        let key = format!("acme/{guid}");
        let directory = directory(
            &[(key.as_str(), record("https://a.b")), ("acme/b", json!({"baseUrl": "https://a.b", "webHooks": []}))],
            &[(key.as_str(), failed()), ("acme/b", failed())],
        );
        let asked = |asked: Asked| {
            let page = directory.health("acme", &Asked { limit: 10, ..asked }).unwrap();
            ids(&page).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(asked(Asked::default()).len(), 2);
        assert_eq!(asked(Asked { integration: Some(guid.to_uppercase()), ..Asked::default() }), [guid]);
        assert_eq!(asked(Asked { webhook: Some("w".to_owned()), ..Asked::default() }), [guid]);
        assert_eq!(asked(Asked { webhook: Some("v".to_owned()), ..Asked::default() }).len(), 0);
        assert_eq!(asked(Asked { reason: Some("dns"), ..Asked::default() }).len(), 2);
        assert_eq!(asked(Asked { reason: Some("tls"), ..Asked::default() }).len(), 0);
    }

    #[test]
    fn an_instance_shows_its_health_and_is_active_without_a_record() {
        let directory =
            directory(&[("acme/a", record("https://a.b")), ("acme/b", record("https://a.b"))], &[("acme/a", failed())]);
        assert_eq!(directory.instance("acme", "a").unwrap()["health"]["status"], json!("failed"));
        assert_eq!(directory.instance("acme", "b").unwrap()["health"], json!({"status": "active"}));
    }
}
