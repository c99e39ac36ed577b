//! Why an event is delivered to a webhook, or why not: in the words of the records, decided by the rules that deliver.
//!
//! Each field of a filter item is judged by a [`FilterItem`] of that field alone, so an explanation can't drift from what
//! the worker does; nothing here compares words itself.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::event::{Envelope, InvalidEvent};
use super::filter::{CHANGE_WORDS, ChangeWord, EVENT_WORDS, EventFacts, EventWord, FilterItem};
use super::integration::{Integration, Status, Trigger, Unusable, Webhook};
use super::text::Loose;

/// The words of an event that filters look at, as its record spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventWords {
    /// `id`
    pub(crate) id: String,
    /// `type`
    pub(crate) event: String,
    /// `changeData.type`
    pub(crate) change: Option<String>,
    /// The entity types of `entityIds`, in the record's order.
    pub(crate) entities: Vec<String>,
}

impl EventWords {
    /// Reads the words of an event that has been read as `envelope`.
    ///
    /// # Errors
    /// [`InvalidEvent`]
    pub(crate) fn parse(value: &[u8], envelope: &Envelope<'_>) -> Result<Self, InvalidEvent> {
        let malformed = |error: serde_json::Error| {
            InvalidEvent::Malformed(format!("unreadable at line {} column {}", error.line(), error.column()))
        };
        let fields: HashMap<String, &RawValue> = serde_json::from_slice(value).map_err(malformed)?;
        let text_of = |field: &str| fields.get(field).map_or("null", |raw| raw.get());
        let Names(entities) = serde_json::from_str(text_of("entityIds")).map_err(malformed)?;
        // A value that is not an object counts as no change.
        let change: HashMap<String, &RawValue> = serde_json::from_str(text_of("changeData")).unwrap_or_default();
        let change: Option<String> = change
            .get("type")
            .and_then(|raw| serde_json::from_str::<Loose<'_>>(raw.get()).ok()?.0.map(Cow::into_owned));
        Ok(Self {
            id: envelope.id.clone().into_owned(),
            event: serde_json::from_str(text_of("type")).map_err(malformed)?,
            change,
            entities: entities.iter().map(|name| name.strip_suffix("Id").unwrap_or(name).to_owned()).collect(),
        })
    }
}

/// The names of an object's members in their order, each once. The values may be nested as deeply as in the events that workers deliver.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject;

        impl<'de> Visitor<'de> for OfObject {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Names, A::Error> {
                let (mut names, mut seen) = (Vec::new(), HashSet::new());
                while let Some((name, IgnoredAny)) = members.next_entry::<String, _>()? {
                    if seen.insert(name.clone()) {
                        names.push(name);
                    }
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_map(OfObject)
    }
}

impl fmt::Display for EventWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.event)?;
        if let Some(change) = &self.change {
            write!(f, " {change}")?;
        }
        write!(f, " of {}", self.entities.join(" and "))
    }
}

/// A filter item, as its record spells it.
#[expect(clippy::struct_field_names, reason = "the fields of the record")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ItemWords {
    /// `eventType`
    pub(crate) event_type: Option<String>,
    /// `entityType`
    pub(crate) entity_type: Option<String>,
    /// `changeType`
    pub(crate) change_type: Option<String>,
}

impl fmt::Display for ItemWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields =
            [("eventType", &self.event_type), ("entityType", &self.entity_type), ("changeType", &self.change_type)];
        let fields = fields.into_iter().filter_map(|(name, word)| Some(format!("{name}: {}", word.as_ref()?)));
        match fields.collect::<Vec<_>>().join(", ") {
            fields if fields.is_empty() => f.write_str("{}"),
            fields => write!(f, "{{ {fields} }}"),
        }
    }
}

/// The filter items of each webhook of an integration's record, in the record's order.
///
/// # Errors
/// [`Unusable::Json`]; never for a value of which an [`Integration`] was made.
pub(crate) fn items_of(record: &[u8]) -> Result<Vec<Vec<ItemWords>>, Unusable> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        web_hooks: Option<Vec<WebhookRecord>>,
    }
    #[derive(Deserialize)]
    struct WebhookRecord {
        filter: Option<FilterRecord>,
    }
    #[derive(Deserialize)]
    struct FilterRecord {
        items: Option<Vec<ItemWords>>,
    }
    let record: Record = serde_json::from_slice(record)
        .map_err(|error| Unusable::Json(format!("line {} column {}", error.line(), error.column())))?;
    let webhooks = record.web_hooks.unwrap_or_default().into_iter();
    Ok(webhooks.map(|webhook| webhook.filter.and_then(|filter| filter.items).unwrap_or_default()).collect())
}

/// Why a filter item does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// The event is of another type.
    EventType {
        /// The item's word.
        wanted: String,
        /// The event's word.
        actual: String,
    },
    /// No event is of this type.
    UnknownEventType(String),
    /// The event is about other entities.
    EntityType {
        /// The item's word.
        wanted: String,
        /// The event's entity types.
        actual: Vec<String>,
    },
    /// The change is another.
    ChangeType {
        /// The item's word.
        wanted: String,
        /// The event's word, if it has one.
        actual: Option<String>,
    },
    /// No change is of this type.
    UnknownChangeType(String),
    /// An item with a change type never matches link or unlink.
    ChangeTypeOnLink {
        /// The item's word.
        wanted: String,
        /// The event's type.
        event: String,
    },
}

/// The article before the word: `a` or `an`.
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventType { wanted, actual } => {
                write!(f, "eventType {wanted}, but the event is {} {actual}", article(actual))
            }
            Self::UnknownEventType(wanted) => {
                write!(f, "eventType {wanted} is not one of {}: it matches nothing", EVENT_WORDS.join(", "))
            }
            Self::EntityType { wanted, actual } => {
                write!(f, "entityType {wanted}, but the event is about {}", actual.join(" and "))
            }
            Self::ChangeType { wanted, actual: Some(actual) } => {
                write!(f, "changeType {wanted}, but the change is a {actual}")
            }
            Self::ChangeType { wanted, actual: None } => {
                write!(f, "changeType {wanted}, but the event has no changeData.type")
            }
            Self::UnknownChangeType(wanted) => {
                write!(f, "changeType {wanted} is not one of {}: it matches nothing", CHANGE_WORDS.join(", "))
            }
            Self::ChangeTypeOnLink { wanted, event } => {
                write!(
                    f,
                    "changeType {wanted}, and an item with a change type never matches {} {event}",
                    article(event)
                )
            }
        }
    }
}

/// What became of one filter item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemRuling {
    /// The item.
    pub(crate) item: ItemWords,
    /// Every field that does not match. Empty when the item matches.
    pub(crate) why_not: Vec<WhyNot>,
}

/// What decides about one webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// This item is the first that matches.
    Matches {
        /// Its place in the record.
        item: usize,
    },
    /// Its owner switched it off.
    Disabled,
    /// It fires by the clock, not on events.
    Scheduled,
    /// It has no filter items: it matches nothing.
    NoItems,
    /// It has items, and none matches.
    NoItemMatches,
}

/// One webhook, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookRuling {
    /// Its place in the record.
    pub(crate) index: usize,
    /// What decides.
    pub(crate) ruling: Ruling,
    /// All its items.
    pub(crate) items: Vec<ItemRuling>,
}

/// Why an integration gets no event at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The event belongs to another workspace.
    OtherWorkspace(String),
    /// Nothing is delivered to integrations of this status.
    Status(Status),
    /// The integration is suspended.
    Suspended,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherWorkspace(workspace) => write!(f, "the event belongs to workspace {workspace}"),
            Self::Status(status) => write!(f, "its status is {}", status.word()),
            Self::Suspended => f.write_str("it is suspended"),
        }
    }
}

/// One event and one integration, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// Every reason why the integration gets no event at all.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Its webhooks, in the record's order.
    pub(crate) webhooks: Vec<WebhookRuling>,
}

impl Explanation {
    /// Whether the event is delivered to this webhook.
    pub(crate) fn delivers(&self, webhook: &WebhookRuling) -> bool {
        self.obstacles.is_empty() && matches!(webhook.ruling, Ruling::Matches { .. })
    }
}

/// Explains what becomes of an event of `workspace` (if that is known) at an integration whose items are `items`
/// (see [`items_of`]).
pub(crate) fn explain(
    integration: &Integration,
    items: &[Vec<ItemWords>],
    event: &EventWords,
    facts: &EventFacts<'_>,
    workspace: Option<&str>,
) -> Explanation {
    let mut obstacles = Vec::new();
    if let Some(other) = workspace.filter(|workspace| *workspace != integration.workspace()) {
        obstacles.push(Obstacle::OtherWorkspace(other.to_owned()));
    }
    if !integration.status().delivers() {
        obstacles.push(Obstacle::Status(integration.status()));
    }
    if integration.is_suspended() {
        obstacles.push(Obstacle::Suspended);
    }
    let webhooks = integration.webhooks().map(|webhook| {
        let words = items.get(webhook.index()).map_or(&[][..], Vec::as_slice);
        let items: Vec<ItemRuling> =
            words.iter().map(|item| ItemRuling { item: item.clone(), why_not: why_not(item, event, facts) }).collect();
        WebhookRuling { index: webhook.index(), ruling: ruling(webhook, &items), items }
    });
    Explanation { obstacles, webhooks: webhooks.collect() }
}

fn ruling(webhook: Webhook<'_>, items: &[ItemRuling]) -> Ruling {
    if webhook.is_disabled() {
        return Ruling::Disabled;
    }
    if let Trigger::Schedule(_) = webhook.trigger() {
        return Ruling::Scheduled;
    }
    match items.iter().position(|item| item.why_not.is_empty()) {
        Some(item) => Ruling::Matches { item },
        None if items.is_empty() => Ruling::NoItems,
        None => Ruling::NoItemMatches,
    }
}

fn why_not(item: &ItemWords, event: &EventWords, facts: &EventFacts<'_>) -> Vec<WhyNot> {
    let mut reasons = Vec::new();
    if let Some(wanted) = &item.event_type
        && !FilterItem::new(Some(wanted), None, None).matches(facts)
    {
        reasons.push(if EventWord::parse(wanted).is_known() {
            WhyNot::EventType { wanted: wanted.clone(), actual: event.event.clone() }
        } else {
            WhyNot::UnknownEventType(wanted.clone())
        });
    }
    if let Some(wanted) = &item.entity_type
        && !FilterItem::new(None, Some(wanted), None).matches(facts)
    {
        reasons.push(WhyNot::EntityType { wanted: wanted.clone(), actual: event.entities.clone() });
    }
    if let Some(wanted) = &item.change_type
        && !FilterItem::new(None, None, Some(wanted)).matches(facts)
    {
        let wanted = wanted.clone();
        let is_link = ["link", "unlink"].iter().any(|word| EventWord::parse(word) == facts.event);
        reasons.push(if !ChangeWord::parse(&wanted).is_known() {
            WhyNot::UnknownChangeType(wanted)
        } else if is_link {
            WhyNot::ChangeTypeOnLink { wanted, event: event.event.clone() }
        } else {
            WhyNot::ChangeType { wanted, actual: event.change.clone() }
        });
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::table::Table;

    fn webhook(id: &str, items: &Value) -> Value {
        json!({"id": id, "relativeUrl": "/", "triggerType": "entityEvent", "filter": {"items": items}})
    }

    fn record(value: &Value) -> Vec<u8> {
        let mut value = value.clone();
        value["baseUrl"] = json!("https://receiver.example");
        value.to_string().into_bytes()
    }

    fn explained(record: &[u8], event: &Value, workspace: Option<&str>) -> (Integration, Explanation) {
        let integration = Integration::parse("ws/i", record).unwrap();
        let event = event.to_string();
        let envelope = Envelope::parse(event.as_bytes()).unwrap();
        let words = EventWords::parse(event.as_bytes(), &envelope).unwrap();
        let items = items_of(record).unwrap();
        let explanation = explain(&integration, &items, &words, &envelope.facts(), workspace);
        (integration, explanation)
    }

    fn change(kind: &str, entity: &str, change: &str) -> Value {
        json!({"id": "e", "type": kind, "entityIds": {format!("{entity}Id"): "1"}, "changeData": {"type": change}})
    }

    #[track_caller]
    fn check(item: &Value, event: &Value, expected: &[&str]) {
        let (_, explanation) = explained(&record(&json!({"webHooks": [webhook("a", &json!([item]))]})), event, None);
        let why: Vec<_> = explanation.webhooks[0].items[0].why_not.iter().map(ToString::to_string).collect();
        assert_eq!(why, expected, "{item} on {event}");
        let expected = if expected.is_empty() { Ruling::Matches { item: 0 } } else { Ruling::NoItemMatches };
        assert_eq!(explanation.webhooks[0].ruling, expected);
    }

    #[test]
    fn each_field_that_does_not_match_is_named_with_both_words() {
        let patch = change("change", "company", "patch");
        let link = json!({"id": "e", "type": "Link", "entityIds": {"companyId": "1", "catalogItemId": 2}});
        check(&json!({}), &patch, &[]);
        check(&json!({"eventType": "CHANGE", "entityType": "Company", "changeType": "Patch"}), &patch, &[]);
        check(&json!({"eventType": "link"}), &patch, &["eventType link, but the event is a change"]);
        let unlink = json!({"id": "e", "type": "unlink", "entityIds": {"companyId": "1"}});
        check(&json!({"eventType": "link"}), &unlink, &["eventType link, but the event is an unlink"]);
        check(
            &json!({"eventType": "merge"}),
            &patch,
            &["eventType merge is not one of change, link, unlink: it matches nothing"],
        );
        check(
            &json!({"entityType": "user", "changeType": "delete"}),
            &patch,
            &["entityType user, but the event is about company", "changeType delete, but the change is a patch"],
        );
        check(&json!({"entityType": "CATALOGITEM"}), &link, &[]);
        check(
            &json!({"entityType": "user"}),
            &link,
            &["entityType user, but the event is about company and catalogItem"],
        );
        check(
            &json!({"changeType": "patch"}),
            &link,
            &["changeType patch, and an item with a change type never matches a Link"],
        );
        check(
            &json!({"changeType": "merge"}),
            &patch,
            &["changeType merge is not one of create, patch, delete, restore: it matches nothing"],
        );
        let bare = json!({"id": "e", "type": "change", "entityIds": {"companyId": "1"}, "changeData": null});
        check(&json!({"changeType": "patch"}), &bare, &["changeType patch, but the event has no changeData.type"]);
    }

    #[test]
    fn the_first_item_that_matches_decides() {
        let items = json!([{"eventType": "link"}, {"entityType": "company"}, {}]);
        let record = record(&json!({"webHooks": [webhook("a", &items)]}));
        let (_, explanation) = explained(&record, &change("change", "company", "patch"), None);
        assert_eq!(explanation.webhooks[0].ruling, Ruling::Matches { item: 1 });
        assert!(explanation.delivers(&explanation.webhooks[0]));
    }

    #[test]
    fn what_a_webhook_is_decides_before_its_items() {
        let mut disabled = webhook("a", &json!([{}]));
        disabled["disabled"] = json!(true);
        let mut scheduled = webhook("b", &json!([{}]));
        scheduled["triggerType"] = json!("schedule");
        scheduled["schedule"] = json!({"period": "00:01:00"});
        let record = record(&json!({"webHooks": [disabled, scheduled, webhook("c", &json!([]))]}));
        let (_, explanation) = explained(&record, &change("change", "company", "patch"), None);
        let rulings: Vec<_> = explanation.webhooks.iter().map(|webhook| webhook.ruling).collect();
        assert_eq!(rulings, [Ruling::Disabled, Ruling::Scheduled, Ruling::NoItems]);
        assert_eq!(explanation.webhooks[0].items[0].why_not, [], "its items are explained too");
    }

    #[test]
    fn every_obstacle_of_the_integration_is_named_and_stops_delivery() {
        let event = change("change", "company", "patch");
        let value = record(&json!({"status": "paused", "webHooks": [webhook("a", &json!([{}]))]}));
        let integration = Integration::parse("ws/i", &value).unwrap();
        integration.set_health(crate::domain::health::Health::Failed);
        let text = event.to_string();
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        let words = EventWords::parse(text.as_bytes(), &envelope).unwrap();
        let items = items_of(&value).unwrap();
        let explanation = explain(&integration, &items, &words, &envelope.facts(), Some("other"));
        let obstacles: Vec<_> = explanation.obstacles.iter().map(ToString::to_string).collect();
        assert_eq!(obstacles, ["the event belongs to workspace other", "its status is paused", "it is suspended"]);
        assert!(!explanation.delivers(&explanation.webhooks[0]));
        let same = explain(&integration, &items, &words, &envelope.facts(), Some("ws"));
        assert_eq!(same.obstacles.len(), 2);
    }

    #[test]
    fn an_event_that_is_nested_deeply_has_its_words() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let value = format!(
            r#"{{"id":"1","type":"change","entityIds":{{"bId":"1","aId":{deep},"bId":2}},"changeData":{{"type":"patch","new":{deep}}}}}"#
        );
        let envelope = Envelope::parse(value.as_bytes()).unwrap();
        let words = EventWords::parse(value.as_bytes(), &envelope).unwrap();
        assert_eq!(words.to_string(), "change patch of b and a");
    }

    #[test]
    fn words_read_as_they_stand_also_behind_escapes_and_repeated_fields() {
        let value = br#"{"id":7,"type":"link","ty\u0070e":"Unl\u0069nk","entityIds":{"b\u0049d":"1","AId":"2"},"changeData":null}"#;
        let envelope = Envelope::parse(value).unwrap();
        let words = EventWords::parse(value, &envelope).unwrap();
        assert_eq!(words.to_string(), "Unlink of b and A");
        assert_eq!((words.id.as_str(), words.change), ("7", None));
        assert_eq!(envelope.event, EventWord::parse("unlink"), "the same field counts for both");
    }

    fn any_item() -> impl Strategy<Value = Value> {
        let event = prop::sample::select(vec![None, None, Some("change"), Some("LINK"), Some("unlink"), Some("merge")]);
        let entity = prop::sample::select(vec![None, Some("company"), Some("Contact"), Some("catalogitem")]);
        let change = prop::sample::select(vec![None, None, Some("create"), Some("Patch"), Some("delete"), Some("x")]);
        (event, entity, change)
            .prop_map(|(event, entity, change)| json!({"eventType": event, "entityType": entity, "changeType": change}))
    }

    fn any_event() -> impl Strategy<Value = Value> {
        let change = prop::sample::select(vec![None, Some("create"), Some("PATCH"), Some("delete"), Some("x")]);
        let entity = || prop::sample::select(vec!["companyId", "contactId", "catalogItemId", "user"]);
        let kind = prop::sample::select(vec!["change", "Link", "unlink", "merge"]);
        (kind, change, entity(), entity()).prop_map(|(kind, change, first, second)| {
            json!({"id": "e", "type": kind, "entityIds": {first: "1", second: "2"}, "changeData": {"type": change}})
        })
    }

    fn any_webhook() -> impl Strategy<Value = Value> {
        let items = prop::collection::vec(any_item(), 0..4);
        (items, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(items, disabled, scheduled)| {
            let mut hook = webhook("id", &json!(items));
            hook["disabled"] = json!(disabled);
            if scheduled {
                hook["triggerType"] = json!("schedule");
                hook["schedule"] = json!({"period": "00:01:00"});
            }
            hook
        })
    }

    proptest! {
        #[test]
        fn an_explanation_agrees_with_what_is_delivered(
            mut webhooks in prop::collection::vec(any_webhook(), 0..4),
            status in prop::sample::select(vec!["active", "hasErrors", "paused", "notConfigured", "failed"]),
            event in any_event(),
        ) {
            for (number, webhook) in webhooks.iter_mut().enumerate() {
                webhook["id"] = json!(number.to_string());
            }
            let (integration, explanation) =
                explained(&record(&json!({"status": status, "webHooks": webhooks})), &event, Some("ws"));
            let delivered: Vec<usize> = explanation
                .webhooks
                .iter()
                .filter(|webhook| explanation.delivers(webhook))
                .map(|webhook| webhook.index)
                .collect();
            let mut table = Table::default();
            table.put(Arc::new(integration));
            table.settle();
            let text = event.to_string();
            let mut matched = Vec::new();
            table.matching("ws", &Envelope::parse(text.as_bytes()).unwrap().facts(), |integration, index| {
                // What matches an integration that is not delivered to is dropped.
                matched.extend(integration.status().delivers().then_some(index));
            });
            prop_assert_eq!(delivered, matched);
        }
    }
}
