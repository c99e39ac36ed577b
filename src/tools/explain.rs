//! `explain`: which webhooks of an integration an event goes to, which filter item decided, or why not.

use std::io::{self, Read as _};
use std::process::ExitCode;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::lookup::whole_name;
use super::render::printable;
use super::windows::{Behind, Written, behind, past};
use super::{INTERRUPTED, ToolError, blocking, write_line};
use crate::actions::ActionError;
use crate::actions::lookup::{self, Found, Health};
use crate::actions::refusal::Refusal;
use crate::domain::event::Envelope;
use crate::domain::explain::{EventWords, Explanation, ItemRuling, Ruling, WebhookRuling, explain, items_of};
use crate::domain::guid;
use crate::domain::integration::Integration;
use crate::kafka::topic_range::TopicRange;
use crate::settings::{EventSource, Explain, RecordPlace, Settings};

/// Largest event that is read from a file: what Kafka's clients send at most.
pub(super) const EVENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The event goes to no webhook.
const NOT_DELIVERED: u8 = 1;

/// An event to explain.
struct Given {
    /// The place, file or stream that it comes from.
    from: String,
    value: Vec<u8>,
    /// Its workspace, if its record has one.
    workspace: Option<String>,
    /// Its place in the events topic. `None` if it is not from there.
    written: Option<Written>,
}

impl Given {
    /// # Errors
    /// [`ToolError::NoEvent`]
    fn parsed(&self) -> Result<(Envelope<'_>, EventWords), ToolError> {
        let no_event = |source| ToolError::NoEvent { from: self.from.clone(), source };
        let envelope = Envelope::parse(&self.value).map_err(no_event)?;
        let words = EventWords::parse(&self.value, &envelope).map_err(no_event)?;
        Ok((envelope, words))
    }
}

/// Explains one event for one integration. The exit code is 0 if the event would be delivered to a webhook, and 1 otherwise.
///
/// # Errors
/// [`ToolError`], also if it is not an event.
pub(crate) async fn run(
    settings: &Settings,
    options: &Explain,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let asked = async {
        // First what needs no Kafka: an event in a file.
        let given = given(settings, &options.event).await?;
        given.parsed()?;
        let key = guid::canonical_key(&whole_name(settings, &options.integration).await?.key()).into_owned();
        let (found, health) = (lookup::integration(settings, &key).await?, lookup::health(settings, &key).await?);
        let behind = behind(settings, &key).await?;
        Ok::<_, ToolError>((key, given, found, (health, behind)))
    };
    let Some(asked) = stop.run_until_cancelled(asked).await else { return Ok(ExitCode::from(INTERRUPTED)) };
    let (key, given, found, (health, behind)) = asked?;
    if let Some(id) = options.webhook.as_deref().filter(|id| found.integration.webhook_by_id(id).is_none()) {
        return Err(Refusal::NoWebhook { key, webhook: id.to_owned() }.into());
    }
    let mut answer = answer(&given, &found, health.as_ref(), options.webhook.as_deref())?;
    for webhook in &mut answer.web_hooks {
        webhook.behind = behind
            .iter()
            .filter(|it| guid::canonical(&it.web_hook_id) == guid::canonical(&webhook.id))
            .cloned()
            .collect();
    }
    let text = if options.json {
        serde_json::to_string(&answer).map_err(|error| ToolError::Output(error.into()))?
    } else {
        answer.text()
    };
    write_line(out, &text)?;
    let is_delivered = answer.web_hooks.iter().any(|webhook| webhook.delivered);
    Ok(if is_delivered { ExitCode::SUCCESS } else { ExitCode::from(NOT_DELIVERED) })
}

async fn given(settings: &Settings, event: &EventSource) -> Result<Given, ToolError> {
    match event.clone() {
        EventSource::Record(place) => record(settings, &place).await,
        EventSource::File(path) => {
            let from = path.display().to_string();
            let name = from.clone();
            let value = blocking("reading the event", move || {
                let file = std::fs::File::open(&path).map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound => ToolError::NoEventFile { given: name.clone() },
                    _ => ToolError::Input { from: name.clone(), source },
                })?;
                bounded(file, &name)
            });
            Ok(Given { value: value.await?, from, workspace: None, written: None })
        }
        EventSource::Stdin => {
            let from = "standard input".to_owned();
            let value = blocking("reading the event", || bounded(io::stdin().lock(), "standard input")).await?;
            Ok(Given { from, value, workspace: None, written: None })
        }
    }
}

pub(super) fn bounded(from: impl io::Read, name: &str) -> Result<Vec<u8>, ToolError> {
    let mut value = Vec::new();
    from.take(EVENT_BYTES_MAX + 1)
        .read_to_end(&mut value)
        .map_err(|source| ToolError::Input { from: name.to_owned(), source })?;
    if value.len() as u64 > EVENT_BYTES_MAX {
        return Err(ToolError::EventTooLarge { from: name.to_owned() });
    }
    Ok(value)
}

async fn record(settings: &Settings, place: &RecordPlace) -> Result<Given, ToolError> {
    let from = place.to_string();
    let RecordPlace { topic, partition, offset } = place.clone();
    let kafka = settings.kafka.clone();
    let mut reading = blocking("reading the event", move || {
        let span = TopicRange::open(&kafka, &topic, "explain")?;
        let range = span.only(partition, offset)?;
        Ok(span.read(&[range])?)
    })
    .await?;
    let record = reading.next().await?.ok_or_else(|| ToolError::Gone { record: from.clone() })?;
    // Only an event's own key is its workspace: retries and dead letters have it in their headers.
    let workspace = record.workspace().map(str::to_owned);
    let is_event = place.topic == settings.topics.events;
    let written = is_event.then_some(Written { partition, offset, at_ms: record.timestamp_ms });
    let value = record.value.ok_or_else(|| ToolError::NoValue { record: from.clone() })?;
    Ok(Given { from, value: value.to_vec(), workspace, written })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    event: AnsweredEvent,
    integration: AnsweredIntegration,
    web_hooks: Vec<AnsweredWebhook>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredEvent {
    from: String,
    workspace: Option<String>,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    change_type: Option<String>,
    entity_types: Vec<String>,
    #[serde(skip)]
    words: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredIntegration {
    workspace: String,
    id: String,
    status: &'static str,
    /// The status in the health topic. `None` if it has no record of the integration.
    health: Option<String>,
    health_since: Option<String>,
    /// Whether there is a health topic.
    health_known: bool,
    /// The reasons why no event goes to it.
    obstacles: Vec<String>,
    /// Why the result may have been another when the event was read.
    past: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredWebhook {
    id: String,
    /// Without its query, which may hold a token.
    url: String,
    delivered: bool,
    /// The first item that matches.
    decided_by: Option<usize>,
    why: String,
    items: Vec<AnsweredItem>,
    /// Its places in the events topic, if it is behind.
    behind: Vec<Behind>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredItem {
    index: usize,
    event_type: Option<String>,
    entity_type: Option<String>,
    change_type: Option<String>,
    matches: bool,
    why_not: Vec<String>,
    #[serde(skip)]
    words: String,
}

fn answer(given: &Given, found: &Found, health: Option<&Health>, webhook: Option<&str>) -> Result<Answer, ToolError> {
    let (envelope, words) = given.parsed()?;
    let integration = &found.integration;
    if health.is_some_and(Health::is_suspended) {
        integration.set_health(crate::health::rules::Health::Failed);
    }
    let items =
        items_of(&found.value).map_err(|source| ActionError::Unusable { key: integration.key().to_owned(), source })?;
    let explanation = explain(integration, &items, &words, &envelope.facts(), given.workspace.as_deref());
    let only = webhook.and_then(|id| integration.webhook_by_id(id)).map(crate::domain::integration::Webhook::index);
    let rulings = explanation.webhooks.iter().filter(|ruling| only.is_none_or(|only| only == ruling.index));
    Ok(Answer {
        event: AnsweredEvent {
            from: given.from.clone(),
            workspace: given.workspace.clone(),
            words: words.to_string(),
            id: words.id,
            kind: words.event,
            change_type: words.change,
            entity_types: words.entities,
        },
        integration: AnsweredIntegration {
            workspace: integration.workspace().to_owned(),
            id: integration.id().to_owned(),
            status: integration.status().word(),
            health: health.and_then(|health| health.status.clone()),
            health_since: health.and_then(|health| health.since.clone()),
            health_known: health.is_some(),
            obstacles: explanation.obstacles.iter().map(ToString::to_string).collect(),
            past: given.written.map(|written| past(written, found, health)).unwrap_or_default(),
        },
        web_hooks: rulings.map(|ruling| answered(integration, &explanation, ruling)).collect(),
    })
}

fn answered(integration: &Integration, explanation: &Explanation, ruling: &WebhookRuling) -> AnsweredWebhook {
    let webhook = integration.webhook(ruling.index);
    let delivered = explanation.delivers(ruling);
    let obstacles = explanation.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (decided_by, why) = match ruling.ruling {
        Ruling::Matches { item } if delivered => (Some(item), format!("item {item} matches")),
        Ruling::Matches { item } => {
            (Some(item), format!("item {item} matches, but nothing goes to the integration: {obstacles}"))
        }
        Ruling::Disabled => (None, "the webhook is disabled".to_owned()),
        Ruling::Scheduled => (None, "the webhook is scheduled: events do not fire it".to_owned()),
        Ruling::NoItems => (None, "the filter has no items, and so matches nothing".to_owned()),
        Ruling::NoItemMatches => (None, "no item matches".to_owned()),
    };
    let url = webhook.map(crate::domain::integration::Webhook::url).unwrap_or_default();
    AnsweredWebhook {
        id: webhook.map(crate::domain::integration::Webhook::id).unwrap_or_default(),
        url: url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        delivered,
        decided_by,
        why,
        items: ruling.items.iter().enumerate().map(|(index, item)| answered_item(index, item)).collect(),
        behind: Vec::new(),
    }
}

fn answered_item(index: usize, ruling: &ItemRuling) -> AnsweredItem {
    AnsweredItem {
        index,
        words: ruling.item.to_string(),
        event_type: ruling.item.event_type.clone(),
        entity_type: ruling.item.entity_type.clone(),
        change_type: ruling.item.change_type.clone(),
        matches: ruling.why_not.is_empty(),
        why_not: ruling.why_not.iter().map(ToString::to_string).collect(),
    }
}

impl AnsweredItem {
    fn text(&self) -> String {
        let why = if self.matches { "matches".to_owned() } else { self.why_not.join("; ") };
        format!("  item {} {}: {why}", self.index, self.words)
    }
}

fn behind_in_words(behind: &Behind) -> String {
    let Behind { partition, offset, reason, since, events_to_go, .. } = behind;
    let (since, reason) = (since.as_deref().unwrap_or("-"), reason.as_deref().unwrap_or("-"));
    format!("  behind since {since}, at partition {partition} offset {offset}, {events_to_go} events to go: {reason}")
}

impl Answer {
    fn text(&self) -> String {
        let Self { event, integration, web_hooks } = self;
        let mut lines = vec![format!("event {} ({}): {}", event.id, event.from, event.words)];
        let health = match (&integration.health, integration.health_known) {
            (Some(health), _) => {
                format!("health {health} since {}", integration.health_since.as_deref().unwrap_or("-"))
            }
            (None, true) => "no change of health is recorded".to_owned(),
            (None, false) => "health unknown: there is no health topic".to_owned(),
        };
        let (workspace, id, status) = (&integration.workspace, &integration.id, integration.status);
        lines.push(format!("integration {workspace}/{id}: status {status}, {health}"));
        lines.extend(integration.obstacles.iter().map(|obstacle| format!("nothing goes to it: {obstacle}")));
        lines.extend(integration.past.iter().map(|past| format!("what held then: {past}")));
        if web_hooks.is_empty() {
            lines.push("it has no webhooks".to_owned());
        }
        for webhook in web_hooks {
            let verb = match (webhook.delivered, webhook.decided_by) {
                (true, _) => "would match now",
                (false, Some(_)) => "would match now and not be delivered",
                (false, None) => "would not match now",
            };
            lines.push(format!("webhook {} ({}): {verb}: {}", webhook.id, webhook.url, webhook.why));
            lines.extend(webhook.items.iter().map(AnsweredItem::text));
            lines.extend(webhook.behind.iter().map(behind_in_words));
        }
        if event.workspace.is_some() {
            lines.push(format!("what became of it: hookstream trace {}", event.from));
        }
        lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found() -> Found {
        let value = json!({
            "baseUrl": "https://receiver.example/crm",
            "secrets": [{"id": "webhook.signingSecret", "value": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}],
            "webHooks": [
                {"id": "a", "relativeUrl": "/one?token=hidden", "triggerType": "entityEvent",
                 "filter": {"items": [{"entityType": "user"}, {"eventType": "change"}]}},
                {"id": "b", "relativeUrl": "two", "triggerType": "entityEvent", "filter": {"items": [{"changeType": "delete"}]}},
            ],
        })
        .to_string()
        .into_bytes();
        Found { integration: Integration::parse("ws/i", &value).unwrap(), value, record: "t/0/0".to_owned() }
    }

    fn given(workspace: Option<&str>) -> Given {
        let value = br#"{"id":"e\u001b1","type":"change","entityIds":{"companyId":"1"},"changeData":{"type":"patch"}}"#;
        Given {
            from: "crm.object-events/3/7".to_owned(),
            value: value.to_vec(),
            workspace: workspace.map(str::to_owned),
            written: None,
        }
    }

    #[test]
    fn every_webhook_and_every_item_is_answered_in_words_without_a_secret() {
        let answer = answer(&given(Some("ws")), &found(), Some(&Health::default()), None).unwrap();
        assert_eq!(
            answer.text(),
            "event e\\u{1b}1 (crm.object-events/3/7): change patch of company\n\
             integration ws/i: status active, no change of health is recorded\n\
             webhook a (https://receiver.example/crm/one): would match now: item 1 matches\n  \
             item 0 { entityType: user }: entityType user, but the event is about company\n  \
             item 1 { eventType: change }: matches\n\
             webhook b (https://receiver.example/crm/two): would not match now: no item matches\n  \
             item 0 { changeType: delete }: changeType delete, but the change is a patch\n\
             what became of it: hookstream trace crm.object-events/3/7"
                .replace("\\n", "\n")
        );
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["webHooks"][0]["decidedBy"], 1);
        assert_eq!(json["webHooks"][0]["items"][0]["matches"], false);
        assert_eq!(json["event"]["entityTypes"], json!(["company"]));
        assert!(!json.to_string().contains("hidden") && !json.to_string().contains("whsec"));
    }

    #[test]
    fn the_answer_names_a_suspension_and_another_workspace() {
        let health = Health { status: Some("failed".to_owned()), since: Some("then".to_owned()), ..Health::default() };
        let answer = answer(&given(Some("other")), &found(), Some(&health), Some("a")).unwrap();
        assert_eq!(answer.web_hooks.len(), 1, "only the one asked for");
        assert!(!answer.web_hooks[0].delivered);
        let text = answer.text();
        assert!(text.contains("health failed since then"), "{text}");
        assert!(text.contains("nothing goes to it: the event belongs to workspace other"), "{text}");
        assert!(text.contains("item 1 matches, but nothing goes to the integration"), "{text}");
    }

    #[test]
    fn a_text_that_is_not_an_event_is_refused_with_what_becomes_of_it() {
        let given = Given { from: "standard input".to_owned(), value: b"{}".to_vec(), workspace: None, written: None };
        let error = answer(&given, &found(), None, None).unwrap_err().to_string();
        assert!(error.starts_with("standard input is not an event and becomes a dead letter"), "{error}");
    }
}
