//! The attempt log, newest first: of a workspace, an integration, a webhook, an event, a delivery or an entity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::needle::Needle;
use super::scan::{Bounds, Log, Page, Question, Span, Watch, scan};
use super::{ReadError, is_guid, is_or_begins, parts_of, same_id};
use crate::health::records::partition_of;
use crate::kafka::windows::Glance;

/// One attempt: a record of the attempts topic, with workspace and integration from its key. Fields that records of earlier
/// releases lack are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Attempt {
    pub(crate) at: String,
    pub(crate) workspace: String,
    pub(crate) integration_id: String,
    pub(crate) web_hook_id: Option<String>,
    pub(crate) delivery_id: String,
    pub(crate) event_id: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) entity_ids: Option<BTreeMap<String, Value>>,
    #[expect(clippy::struct_field_names, reason = "the contract's name")]
    pub(crate) attempt: u32,
    pub(crate) url: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) outcome: String,
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) duration_ms: u64,
    /// The receiver's answer: only for tokens that may see bodies.
    pub(crate) answer: Option<String>,
    pub(crate) next_attempt_at: Option<String>,
    pub(crate) worker: Option<String>,
}

impl Attempt {
    /// Whether it acknowledged the delivery.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.outcome == "acknowledged"
    }

    /// Reads a record. `None` if it is not a record of an attempt.
    pub(crate) fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let (workspace, integration) = parts_of(key)?;
        let mut attempt: Self = serde_json::from_slice(value).ok()?;
        // The key says to which integration it belongs, whatever the value claims.
        workspace.clone_into(&mut attempt.workspace);
        integration.clone_into(&mut attempt.integration_id);
        Some(attempt)
    }
}

/// Selects the attempts that match every field that is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttemptFilter {
    pub(crate) workspace: Option<String>,
    pub(crate) integration: Option<String>,
    pub(crate) webhook: Option<String>,
    /// The reason word of a failure.
    pub(crate) reason: Option<String>,
    /// An event's id, or its place `topic/partition/offset`.
    pub(crate) event: Option<String>,
    /// The beginning of an event's id.
    pub(crate) event_prefix: Option<String>,
    /// A delivery's id: the header `webhook-id`.
    pub(crate) delivery: Option<String>,
    /// An id among the event's `entityIds`.
    pub(crate) entity: Option<String>,
}

impl AttemptFilter {
    /// The filter as texts that differ where the filters differ.
    pub(super) fn parts(&self) -> Vec<String> {
        let Self { workspace, integration, webhook, reason, event, event_prefix, delivery, entity } = self;
        [workspace, integration, webhook, reason, event, event_prefix, delivery, entity]
            .into_iter()
            .map(|part| part.as_ref().map_or_else(|| "-".to_owned(), |part| format!("={part}")))
            .collect()
    }

    /// The partitions that can hold such attempts, if the filter names an integration.
    fn partitions(&self, count: usize) -> Option<Vec<i32>> {
        let (workspace, integration) = (self.workspace.as_ref()?, self.integration.as_ref()?);
        Some(key_partitions(&format!("{workspace}/"), integration, count))
    }

    fn takes_key(&self, key: &[u8]) -> bool {
        let Some((workspace, integration)) = parts_of(key) else { return false };
        self.workspace.as_ref().is_none_or(|wanted| wanted == workspace)
            && self.integration.as_ref().is_none_or(|wanted| same_id(wanted, integration))
    }

    fn takes(&self, attempt: &Attempt) -> bool {
        let is = |wanted: &Option<String>, actual: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| actual.as_ref().is_some_and(|actual| same_id(wanted, actual)))
        };
        is(&self.webhook, &attempt.web_hook_id)
            && is(&self.reason, &attempt.reason)
            && (is(&self.event, &attempt.event_id) || is(&self.event, &attempt.origin))
            && self
                .event_prefix
                .as_ref()
                .is_none_or(|given| attempt.event_id.as_ref().is_some_and(|id| is_or_begins(id, given)))
            && self.delivery.as_ref().is_none_or(|wanted| *wanted == attempt.delivery_id)
            && self.entity.as_ref().is_none_or(|wanted| is_about(attempt, wanted))
    }

    /// The ids that are in the value of every selected attempt.
    fn needles(&self) -> Vec<Needle> {
        // A number can be spelled in many ways.
        let may_be_number =
            |id: &&String| id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'e' | b'E' | b'+' | b'-' | b'.'));
        let entity = self.entity.as_ref().filter(|id| !may_be_number(id));
        let ids = [self.webhook.as_ref(), self.event.as_ref(), self.delivery.as_ref(), entity];
        let whole = ids.into_iter().flatten().map(|id| Needle::new(id));
        whole.chain(self.event_prefix.as_deref().map(Needle::beginning)).collect()
    }

    /// Makes the attempt of a record, if the filter selects it.
    pub(super) fn rows(&self) -> impl Fn(&Glance<'_>) -> Option<Attempt> {
        let needles = self.needles();
        move |glance| {
            let key = glance.key.filter(|key| self.takes_key(key))?;
            let value = glance.value.filter(|value| needles.iter().all(|needle| needle.may_be_in(value)))?;
            Attempt::parse(key, value).filter(|attempt| self.takes(attempt))
        }
    }
}

fn is_about(attempt: &Attempt, entity: &str) -> bool {
    attempt.entity_ids.iter().flatten().any(|(_, id)| match id {
        Value::String(id) => same_id(entity, id),
        Value::Number(id) => id.to_string().as_str() == entity,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    })
}

/// The partitions in which `<before><id>` is looked for: a GUID's key may be spelled in any of its usual ways.
pub(super) fn key_partitions(before: &str, id: &str, count: usize) -> Vec<i32> {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let mut ids = vec![id.to_owned()];
    if is_guid(id) {
        ids.extend([id.to_ascii_lowercase(), id.to_ascii_uppercase()]);
    }
    let mut partitions: Vec<i32> = ids.iter().map(|id| partition_of(&format!("{before}{id}"), count)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

/// The attempts that `filter` takes, newest first. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn attempts(
    log: &dyn Log,
    filter: &AttemptFilter,
    span: Span,
    next: Option<&str>,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Page<Attempt>, ReadError> {
    let partitions = span.partitions.or_else(|| filter.partitions(log.bounds().len()));
    let question = Question { parts: filter.parts(), span: Span { partitions, ..span }, next, row: &filter.rows() };
    scan(log, &question, bounds, watch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn attempt(key: &str) -> Attempt {
        let value = json!({"deliveryId": "msg_1", "webHookId": "W-1", "eventId": "e-1", "attempt": 3, "outcome": "failed",
            "reason": "status", "origin": "events/1/2", "entityIds": {"companyId": "c-1", "userId": 7},
            "workspace": "another owner", "at": "2021-09-28T11:08:26.903Z"});
        Attempt::parse(key.as_bytes(), value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_key_names_the_integration_of_an_attempt() {
        let attempt = attempt("acme/i-1/with-slash");
        assert_eq!((attempt.workspace.as_str(), attempt.integration_id.as_str()), ("acme", "i-1/with-slash"));
        for (workspace, expected) in
            [("acme", true), ("acm", false), ("acme2", false), ("", false), ("another owner", false)]
        {
            let filter = AttemptFilter { workspace: Some(workspace.to_owned()), ..AttemptFilter::default() };
            assert_eq!(filter.takes_key(b"acme/i-1"), expected, "{workspace}");
        }
        assert!(!AttemptFilter::default().takes_key(b"no slash") && !AttemptFilter::default().takes_key(b"\xff/i"));
    }

    #[test]
    fn a_filter_takes_what_has_all_that_is_named() {
        let attempt = attempt("acme/i-1");
        let with = |change: &dyn Fn(&mut AttemptFilter)| {
            let mut filter = AttemptFilter::default();
            change(&mut filter);
            filter.takes(&attempt)
        };
        assert!(with(&|_| ()));
        for (taken, other) in [("e-1", "e-2"), ("events/1/2", "events/1/3")] {
            assert!(with(&|filter| filter.event = Some(taken.to_owned())));
            assert!(!with(&|filter| filter.event = Some(other.to_owned())));
        }
        for entity in ["c-1", "7"] {
            assert!(with(&|filter| filter.entity = Some(entity.to_owned())), "{entity}");
        }
        assert!(with(&|filter| filter.event_prefix = Some("e-1".to_owned())), "a whole id");
        assert!(
            !with(&|filter| filter.event_prefix = Some("e-".to_owned())),
            "the beginning of an id that is not a GUID"
        );
        assert!(!with(&|filter| filter.entity = Some("companyId".to_owned())));
        assert!(!with(&|filter| filter.webhook = Some("w-1".to_owned())), "not a GUID: letter for letter");
        assert!(!with(&|filter| filter.reason = Some("timeout".to_owned())));
        assert!(!with(&|filter| filter.delivery = Some("msg_2".to_owned())));
    }

    #[test]
    fn a_record_is_found_by_each_id_in_it_however_it_is_spelled() {
        let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
        let value = format!(
            r#"{{"deliveryId":"msg_1","webHookId":"w\u002d1","eventId":"{}","outcome":"failed","entityIds":{{"a":1E2,"b":"c-1"}}}}"#,
            guid.to_uppercase()
        );
        let filters = [
            AttemptFilter { webhook: Some("w-1".to_owned()), ..AttemptFilter::default() },
            AttemptFilter { event: Some(guid.to_owned()), ..AttemptFilter::default() },
            AttemptFilter { event_prefix: Some("e01C765".to_owned()), ..AttemptFilter::default() },
            AttemptFilter { event_prefix: Some("E01c".to_owned()), ..AttemptFilter::default() },
            AttemptFilter { delivery: Some("msg_1".to_owned()), ..AttemptFilter::default() },
            AttemptFilter { entity: Some("c-1".to_owned()), ..AttemptFilter::default() },
            AttemptFilter { entity: Some("100.0".to_owned()), ..AttemptFilter::default() },
        ];
        for filter in filters {
            let glance = Glance {
                partition: 0,
                offset: 0,
                timestamp_ms: 0,
                key: Some(b"acme/i-1"),
                value: Some(value.as_bytes()),
                headers: &Vec::new,
            };
            assert!(filter.rows()(&glance).is_some(), "{filter:?}");
        }
    }

    #[test]
    fn a_guid_is_looked_for_wherever_its_spelling_may_have_put_it() {
        let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
        let upper = guid.to_uppercase();
        let partitions = key_partitions("acme/", guid, 1_000);
        assert_eq!(partitions, key_partitions("acme/", &upper, 1_000));
        assert!(partitions.contains(&partition_of(&format!("acme/{upper}"), 1_000)));
        assert_eq!(key_partitions("acme/", "shop", 1_000), [partition_of("acme/shop", 1_000)]);
    }
}
