//! The filter lab: it tries a draft filter on recent events by the worker's own rules. Nothing is registered.

use std::cell::Cell;

use serde::Serialize;
use serde_json::{Value, json};

use super::SourceError;
use crate::domain::event::Envelope;
use crate::domain::explain::{EventWords, ItemWords, explain, items_of};
use crate::domain::headers::workspace_of;
use crate::domain::integration::Integration;
use crate::kafka::windows::{Glance, Windows};
use crate::readers::scan::{Bounds, Question, Span, Watch, scan};
use crate::readers::{ReadError, time};
use crate::registration::json_words;
use crate::registration::question::BadQuestion;
use crate::settings::Settings;

/// Events that a draft is tried on: enough to see a rare kind, few enough to come at once.
const EVENTS_MAX: usize = 200;
/// Examples of each kind that are listed.
const EXAMPLES_MAX: usize = 20;
/// The draft's name where a record needs one.
const DRAFT: &str = "draft";

/// A draft as an integration of which it is the only filter.
struct Draft {
    integration: Integration,
    items: Vec<Vec<ItemWords>>,
}

/// An event and whether the draft matches it, without its body.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    event_id: String,
    origin: String,
    at: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    change_type: Option<String>,
    entity_types: Vec<String>,
    matches: bool,
    because: String,
}

impl Draft {
    fn parse(workspace: &str, filter: &str) -> Result<Self, BadQuestion> {
        let filter: Value = json_words::read(filter.as_bytes()).map_err(BadQuestion::NoJson)?;
        let webhook = json!({ "id": DRAFT, "relativeUrl": "", "triggerType": "entityEvent", "filter": filter });
        let record = json!({ "baseUrl": "https://draft.invalid", "webHooks": [webhook] }).to_string();
        let integration =
            Integration::parse(&format!("{workspace}/{DRAFT}"), record.as_bytes()).map_err(BadQuestion::Filter)?;
        let items = items_of(record.as_bytes()).map_err(BadQuestion::Filter)?;
        Ok(Self { integration, items })
    }

    fn row(&self, topic: &str, workspace: &str, glance: &Glance<'_>) -> Option<Row> {
        let value = glance.value?;
        workspace_of((glance.headers)().into_iter(), glance.key).filter(|of| *of == workspace)?;
        let envelope = Envelope::parse(value).ok()?;
        let words = EventWords::parse(value, &envelope).ok()?;
        let explanation = explain(&self.integration, &self.items, &words, &envelope.facts(), Some(workspace));
        let webhook = explanation.webhooks.first()?;
        let matching = webhook.items.iter().find(|item| item.why_not.is_empty());
        let because = match matching {
            Some(item) => format!("item {} matches", item.item),
            None if webhook.items.is_empty() => "the filter has no items: it matches nothing".to_owned(),
            None => {
                let why = webhook.items.iter().flat_map(|item| item.why_not.iter().map(ToString::to_string));
                why.collect::<Vec<_>>().join("; ")
            }
        };
        Some(Row {
            event_id: words.id,
            origin: format!("{topic}/{}/{}", glance.partition, glance.offset),
            at: time(glance.timestamp_ms),
            kind: words.event,
            change_type: words.change,
            entity_types: words.entities,
            matches: matching.is_some(),
            because,
        })
    }
}

/// Tries the draft on the workspace's newest events. Blocks for a bounded time.
pub(super) fn judge(
    settings: &Settings,
    workspace: &str,
    filter: &str,
    watch: &Watch<'_>,
) -> Result<Value, SourceError> {
    let draft = Draft::parse(workspace, filter)?;
    let log = Windows::open(&settings.kafka, &settings.topics.events, "events-reader").map_err(ReadError::from)?;
    let (matched, others) = (Cell::new(0_usize), Cell::new(0_usize));
    let row = |glance: &Glance<'_>| draft.row(log.topic(), workspace, glance);
    let question = Question { parts: vec![workspace.to_owned()], span: Span::default(), next: None, row: &row };
    let page = scan(&log, &question, Bounds { rows: EVENTS_MAX, ..Bounds::PAGE }, watch)?;
    let events = page.rows.len();
    let examples = page.rows.into_iter().filter(|row| {
        let kind = if row.matches { &matched } else { &others };
        kind.set(kind.get() + 1);
        kind.get() <= EXAMPLES_MAX
    });
    let examples: Vec<Row> = examples.collect();
    Ok(json!({
        "events": events,
        "matched": matched.get(),
        "rows": examples.iter().map(|row| serde_json::to_value(row).unwrap_or_default()).collect::<Vec<_>>(),
        "searchedBackTo": page.searched_back_to_ms.and_then(time),
        "complete": page.complete,
        "next": null,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(filter: &str, workspace: &str) -> Option<(bool, String)> {
        let event = br#"{"id": "e", "type": "change", "entityIds": {"companyId": "1"}, "changeData": {"type": "patch", "new": {"x": "s3cret"}}}"#;
        let glance = Glance {
            partition: 1,
            offset: 2,
            timestamp_ms: 0,
            key: Some(b"acme"),
            value: Some(event),
            headers: &Vec::new,
        };
        let draft = Draft::parse(workspace, filter).unwrap();
        let row = draft.row("events", workspace, &glance)?;
        assert!(!serde_json::to_string(&row).unwrap().contains("s3cret"));
        assert_eq!((row.origin.as_str(), row.entity_types.as_slice()), ("events/1/2", &["company".to_owned()][..]));
        Some((row.matches, row.because))
    }

    #[test]
    fn a_draft_is_tried_by_the_rules_of_delivery_and_the_answer_gives_the_reason() {
        assert!(judged(r#"{"items":[{"entityType":"COMPANY"}]}"#, "acme").unwrap().0);
        let (matches, why) = judged(r#"{"items":[{"eventType":"link"},{"changeType":"create"}]}"#, "acme").unwrap();
        assert!(!matches && why.contains("eventType link") && why.contains("changeType create"), "{why}");
        assert!(!judged(r#"{"items":[]}"#, "acme").unwrap().0);
    }

    #[test]
    fn a_draft_is_tried_on_its_own_workspace_alone() {
        assert!(judged(r#"{"items":[{}]}"#, "acm").is_none());
    }

    #[test]
    fn a_draft_that_is_not_a_filter_is_a_bad_question() {
        for bad in ["{", "[1]", r#"{"items": 3}"#] {
            assert!(matches!(Draft::parse("acme", bad), Err(BadQuestion::NoJson(_) | BadQuestion::Filter(_))), "{bad}");
        }
    }
}
