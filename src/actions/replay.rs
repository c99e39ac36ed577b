//! A replay: past events, delivered again to one integration or one of its webhooks.
//!
//! What matches is decided by the same table as live, and a replayed delivery has the id that the live one had, so a
//! receiver that remembers ids sees no event twice. The range is one of positions: in each partition from the first event
//! of `from` (or the offset a suspension recorded) to the first event of `to` (or the end there is now).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::lookup::{self, Health};
use super::refusal::{BadSelection, Refusal};
use super::resend::{Judged, Notes, Prepared};
use super::selection::{Fixed, Selection};
use super::{ActionError, blocking};
use crate::clock;
use crate::deliver::publish::Outgoing;
use crate::domain::event::Envelope;
use crate::domain::guid;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Trigger};
use crate::domain::table::Table;
use crate::domain::topic_names::now_topic;
use crate::inflight::delivery_id::delivery_id;
use crate::inflight::job::Origin;
use crate::kafka::record_stream::RecordStream;
use crate::kafka::span::{Range, SpanRecord};
use crate::kafka::topic_range::TopicRange;
use crate::settings::Settings;

/// Workers obey a change of state within 5 s; clocks differ a little.
const OBEYED_AFTER: Duration = Duration::from_secs(6);

/// Opens the selected events, to match them with the integration as it is now. If a preview fixed the integration's record,
/// another record is refused: it could match other events.
///
/// # Errors
/// [`ActionError`]
pub(super) async fn prepare(
    settings: &Settings,
    selection: Selection,
    is_preview: bool,
    stop: &CancellationToken,
) -> Result<Prepared, ActionError> {
    let (Some(workspace), Some(id)) = (&selection.workspace, &selection.integration) else {
        return Err(BadSelection::NoIntegrationNamed.into());
    };
    let key = guid::canonical_key(&format!("{workspace}/{id}")).into_owned();
    let found = lookup::integration(settings, &key).await?;
    check_same(&selection, &found.record)?;
    check_receives(&found.integration, &selection)?;
    let health = lookup::health(settings, &key).await?;
    check_not_suspended(&key, is_preview, health.as_ref())?;
    let waits = selection.to.is_none() && selection.fixed.is_none() && selection.event.is_none();
    if waits && stop.run_until_cancelled(wait_until_obeyed(health.as_ref())).await.is_none() {
        return Err(ActionError::Stopped);
    }
    let begin = begin(settings, &selection, &key, health)?;
    let (reading, ranges) = read(settings, &selection, begin).await?;
    let matcher = Matcher::new(settings, &selection, found.integration);
    let judge = move |record: &SpanRecord| matcher.judge(record, clock::now_ms());
    let fixed = Fixed { record: Some(found.record), ..Fixed::of(&ranges) };
    Ok(Prepared { reading, judge: Box::new(judge), selection: Selection { fixed: Some(fixed), ..selection } })
}

/// Refuses a run whose integration is not the one that a preview looked at.
fn check_same(selection: &Selection, record: &str) -> Result<(), ActionError> {
    match selection.fixed.as_ref().and_then(|fixed| fixed.record.as_deref()) {
        Some(fixed) if fixed != record => Err(Refusal::Changed.into()),
        Some(_) | None => Ok(()),
    }
}

/// Waits until every worker knows that a suspension is over. Until then some still drop events, which are written after the
/// end that a replay would take.
async fn wait_until_obeyed(health: Option<&Health>) {
    let since =
        health.and_then(|health| health.since.as_deref()).and_then(|since| since.parse::<jiff::Timestamp>().ok());
    if let Some(since) = since {
        tokio::time::sleep(until_obeyed(since.as_millisecond(), clock::now_ms())).await;
    }
}

fn until_obeyed(since_ms: i64, now_ms: i64) -> Duration {
    let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0));
    OBEYED_AFTER.saturating_sub(age)
}

/// Refuses what the workers would only drop.
fn check_receives(integration: &Integration, options: &Selection) -> Result<(), ActionError> {
    let key = integration.key();
    if !integration.status().delivers() {
        return Err(Refusal::Inactive { key: key.to_owned(), status: integration.status().word() }.into());
    }
    let Some(id) = &options.webhook else { return Ok(()) };
    let Some(webhook) = integration.webhook_by_id(id) else {
        return Err(Refusal::NoWebhook { key: key.to_owned(), webhook: id.clone() }.into());
    };
    if webhook.is_disabled() {
        return Err(Refusal::Disabled { webhook: id.clone() }.into());
    }
    if webhook.trigger() != Trigger::EntityEvent {
        return Err(Refusal::Scheduled { webhook: id.clone() }.into());
    }
    Ok(())
}

fn check_not_suspended(key: &str, is_preview: bool, health: Option<&Health>) -> Result<(), ActionError> {
    let Some(health) = health.filter(|health| health.is_suspended()) else { return Ok(()) };
    let since = health.since.as_deref().unwrap_or("an unknown time");
    if is_preview {
        tracing::warn!(key, since, "the integration is suspended: resume it before the replay itself");
        return Ok(());
    }
    Err(Refusal::Suspended { key: key.to_owned(), since: since.to_owned() }.into())
}

/// The place of an event in the events topic.
fn event_place(settings: &Settings, event: &str) -> Result<Origin, ActionError> {
    let topic = &settings.topics.events;
    let place = Origin::parse(event).filter(|place| *place.topic == **topic);
    place.ok_or_else(|| BadSelection::NoPlace { events: topic.clone() }.into())
}

/// Where a replay begins.
enum Begin {
    /// With this event, and ends with it.
    Event(Origin),
    /// With events of this time, ms since 1970.
    Time(i64),
    /// At the offsets that a suspension recorded.
    Offsets(BTreeMap<i32, i64>),
}

fn begin(settings: &Settings, options: &Selection, key: &str, health: Option<Health>) -> Result<Begin, ActionError> {
    if let Some(event) = &options.event {
        return event_place(settings, event).map(Begin::Event);
    }
    if options.fixed.is_some() {
        return Ok(Begin::Offsets(BTreeMap::new()));
    }
    if let Some(from) = options.from {
        return Ok(Begin::Time(from.as_millisecond()));
    }
    let health = health.unwrap_or_default();
    if health.first_dropped.is_empty() {
        return Err(Refusal::NoSuspension { key: key.to_owned(), health: settings.topics.health.clone() }.into());
    }
    if !health.is_suspended() && options.to.is_none() {
        let since = health.since.as_deref().unwrap_or("-");
        tracing::info!(
            key,
            since,
            "events since the integration was resumed are replayed too, with the ids they had; --to leaves them out"
        );
    }
    Ok(Begin::Offsets(health.first_dropped))
}

async fn read(
    settings: &Settings,
    selection: &Selection,
    begin: Begin,
) -> Result<(RecordStream, Vec<Range>), ActionError> {
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.events.clone());
    let selection = selection.clone();
    blocking("opening the events topic", move || {
        let span = TopicRange::open(&kafka, &topic, "replay")?;
        let ranges = selection.ranges(span.bounds(), || {
            let starts = match begin {
                Begin::Event(place) => return Ok(vec![span.only(place.partition, place.offset)?]),
                Begin::Time(from_ms) => span.offsets_at(from_ms)?,
                Begin::Offsets(recorded) => recorded,
            };
            let ends = selection.to.map(|to| span.offsets_at(to.as_millisecond())).transpose()?;
            let narrowed = span.bounds().iter().map(|bounds| narrowed(&topic, *bounds, &starts, ends.as_ref()));
            Ok::<_, ActionError>(narrowed.collect())
        })?;
        Ok((span.read(&ranges)?, ranges))
    })
    .await
}

/// The part of a partition that is replayed. A partition that a suspension did not know begins at its start: it came
/// later.
fn narrowed(topic: &str, bounds: Range, starts: &BTreeMap<i32, i64>, ends: Option<&BTreeMap<i32, i64>>) -> Range {
    let partition = bounds.partition;
    let wanted = starts.get(&partition).copied().unwrap_or(bounds.start);
    if wanted < bounds.start {
        let gone = bounds.start - wanted;
        tracing::warn!(topic, partition, offset = wanted, gone, "the first events of the range are no longer kept");
    }
    if wanted > bounds.end {
        let end = bounds.end;
        tracing::warn!(
            topic,
            partition,
            offset = wanted,
            end,
            "the range begins after the end: was the topic created again?"
        );
    }
    let end = ends.and_then(|ends| ends.get(&partition).copied()).unwrap_or(bounds.end).min(bounds.end);
    let start = wanted.clamp(bounds.start, bounds.end);
    Range { partition, start, end: end.max(start) }
}

/// Matches events with one integration.
struct Matcher {
    table: Table,
    /// Only this webhook.
    webhook: Option<usize>,
    workspace: String,
    events: Arc<str>,
    now: Arc<str>,
}

impl Matcher {
    fn new(settings: &Settings, options: &Selection, integration: Integration) -> Self {
        let webhook = options.webhook.as_deref();
        let webhook =
            webhook.and_then(|id| integration.webhook_by_id(id)).map(crate::domain::integration::Webhook::index);
        let workspace = integration.workspace().to_owned();
        let mut table = Table::default();
        table.put(Arc::new(integration));
        table.settle();
        let events = settings.topics.events.as_str().into();
        Self { table, webhook, workspace, events, now: now_topic(&settings.topics.retry_prefix).into() }
    }

    fn judge(&self, record: &SpanRecord, now_ms: i64) -> Judged {
        if record.workspace() != Some(self.workspace.as_str()) {
            return Judged::Other;
        }
        // An invalid event became a dead letter when it was first read.
        let Some(value) = &record.value else { return Judged::Skipped("invalid-event") };
        let Ok(envelope) = Envelope::parse(value) else { return Judged::Skipped("invalid-event") };
        let origin = Origin { topic: Arc::clone(&self.events), partition: record.partition, offset: record.offset };
        let mut matched = Vec::new();
        self.table.matching(&self.workspace, &envelope.facts(), |integration, index| {
            let Some(webhook) = integration.webhook(index).filter(|_| self.webhook.is_none_or(|only| only == index))
            else {
                return;
            };
            let wire = Wire {
                workspace: Some(integration.workspace().to_owned()),
                integration_id: Some(integration.id().to_owned()),
                webhook_id: Some(webhook.id()),
                delivery_id: Some(delivery_id(integration.key(), &webhook.id(), &envelope.id).into()),
                attempt: Some(0),
                due_ms: Some(now_ms),
                origin: Some(origin.to_string()),
                event_ms: record.timestamp_ms,
                ..Wire::default()
            };
            matched.push(Outgoing {
                topic: Arc::clone(&self.now),
                key: wire.webhook_id.clone().map(Bytes::from),
                payload: Some(value.clone()),
                headers: wire.headers(),
            });
        });
        if matched.is_empty() { Judged::Other } else { Judged::Send(matched, Notes::default()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A replay of all that an integration matches.
    fn everything() -> Selection {
        let word = |text: &str| Some(text.to_owned());
        Selection { workspace: word("ws"), integration: word("i"), ..Selection::default() }
    }

    fn integration(value: &serde_json::Value) -> Integration {
        Integration::parse("ws/i", value.to_string().as_bytes()).unwrap()
    }

    fn two_webhooks() -> Integration {
        let webhook = |id: &str, entity: &str| json!({"id": id, "relativeUrl": "/", "triggerType": "entityEvent", "filter": {"items": [{"entityType": entity}]}});
        let scheduled = json!({"id": "s", "triggerType": "schedule", "schedule": {"period": "00:01:00"}});
        let mut disabled = webhook("d", "company");
        disabled["disabled"] = json!(true);
        integration(&json!({
            "baseUrl": "https://receiver.example",
            "webHooks": [webhook("a", "company"), webhook("b", "contact"), disabled, scheduled],
        }))
    }

    fn record(workspace: Option<&str>, key: Option<&str>, value: &[u8]) -> SpanRecord {
        let header = workspace.map(|workspace| ("workspace".to_owned(), Some(workspace.as_bytes().to_vec().into())));
        SpanRecord {
            partition: 3,
            offset: 7,
            timestamp_ms: Some(11),
            key: key.map(|key| key.as_bytes().to_vec().into()),
            value: Some(value.to_vec().into()),
            headers: header.into_iter().collect(),
        }
    }

    const LINK: &[u8] = br#"{"id":"e","type":"link","entityIds":{"companyId":"1","contactId":"2"}}"#;

    fn sent(options: &Selection, record: &SpanRecord) -> Vec<Outgoing> {
        let matcher = Matcher::new(&Settings::default(), options, two_webhooks());
        match matcher.judge(record, 99) {
            Judged::Send(outgoing, _) => outgoing,
            Judged::Other => Vec::new(),
            Judged::Skipped(why) => panic!("skipped: {why}"),
        }
    }

    #[test]
    fn a_replayed_delivery_has_the_id_of_the_live_one_and_is_due_at_once() {
        let outgoing = sent(&everything(), &record(Some("ws"), Some("other"), LINK));
        assert_eq!(outgoing.len(), 2);
        assert_eq!((&*outgoing[0].topic, outgoing[0].key.as_deref()), ("webhooks.retry.now", Some(&b"a"[..])));
        assert_eq!(outgoing[0].payload.as_deref(), Some(LINK));
        let wire = Wire::read(outgoing[0].headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let expected = Wire {
            workspace: Some("ws".to_owned()),
            integration_id: Some("i".to_owned()),
            webhook_id: Some("a".to_owned()),
            delivery_id: Some(delivery_id("ws/i", "a", "e").into()),
            attempt: Some(0),
            due_ms: Some(99),
            origin: Some("crm.object-events/3/7".to_owned()),
            event_ms: Some(11),
            ..Wire::default()
        };
        assert_eq!(wire, expected);
    }

    #[test]
    fn one_webhook_can_be_asked_for_and_the_workspace_is_the_header_or_the_key() {
        let only_b = Selection { webhook: Some("b".to_owned()), ..everything() };
        let keys = |outgoing: Vec<Outgoing>| outgoing.into_iter().filter_map(|one| one.key).collect::<Vec<_>>();
        assert_eq!(keys(sent(&only_b, &record(None, Some("ws"), LINK))), ["b"]);
        assert_eq!(keys(sent(&only_b, &record(Some("other"), Some("ws"), LINK))).len(), 0);
        let change = br#"{"id":"e","type":"change","entityIds":{"companyId":"1"},"changeData":{"type":"patch"}}"#;
        assert_eq!(keys(sent(&only_b, &record(Some("ws"), None, change))).len(), 0);
    }

    #[test]
    fn an_invalid_event_is_counted_and_not_sent() {
        let matcher = Matcher::new(&Settings::default(), &everything(), two_webhooks());
        assert!(matches!(matcher.judge(&record(Some("ws"), None, b"{}"), 0), Judged::Skipped("invalid-event")));
        assert!(matches!(matcher.judge(&record(Some("other"), None, b"{}"), 0), Judged::Other));
    }

    #[track_caller]
    fn refused(result: Result<(), ActionError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_replay_that_would_only_be_dropped_is_refused() {
        let webhook = |id: &str| Selection { webhook: Some(id.to_owned()), ..everything() };
        let paused = integration(&json!({"status": "paused"}));
        assert!(refused(check_receives(&paused, &everything())).contains("is paused"));
        assert!(refused(check_receives(&two_webhooks(), &webhook("x"))).contains("has no webhook `x`"));
        assert!(refused(check_receives(&two_webhooks(), &webhook("d"))).contains("disabled"));
        assert!(refused(check_receives(&two_webhooks(), &webhook("s"))).contains("scheduled"));
        assert!(check_receives(&two_webhooks(), &webhook("a")).is_ok());
        let failed = Health { status: Some("failed".to_owned()), since: Some("then".to_owned()), ..Health::default() };
        assert!(refused(check_not_suspended("ws/i", false, Some(&failed))).contains("since then"));
        assert!(check_not_suspended("ws/i", true, Some(&failed)).is_ok());
        assert!(check_not_suspended("ws/i", false, None).is_ok());
    }

    #[test]
    fn a_run_is_refused_when_the_integration_is_not_the_one_that_was_previewed() {
        let fixed = Fixed { record: Some("t/0/7".to_owned()), ..Fixed::default() };
        let previewed = Selection { fixed: Some(fixed), ..everything() };
        assert!(check_same(&previewed, "t/0/7").is_ok() && check_same(&everything(), "t/0/7").is_ok());
        assert!(refused(check_same(&previewed, "t/0/8")).contains("changed since the preview"));
    }

    #[test]
    fn one_event_is_named_by_its_place_in_the_events_topic() {
        let settings = Settings::default();
        let place = event_place(&settings, "crm.object-events/3/7").unwrap();
        assert_eq!((place.partition, place.offset), (3, 7));
        for other in ["webhooks.attempts/3/7", "crm.object-events/3", "e-1"] {
            assert!(refused(event_place(&settings, other).map(drop)).contains("crm.object-events"), "{other}");
        }
    }

    #[test]
    fn without_a_time_and_a_recorded_suspension_there_is_nothing_to_begin_with() {
        let settings = Settings::default();
        let error = begin(&settings, &everything(), "ws/i", None).err().and_then(|error| error.of_question("--"));
        assert!(error.is_some_and(|text| text.starts_with("--from: is needed") && text.contains("webhooks.health")));
        let from = Selection { from: Some(jiff::Timestamp::UNIX_EPOCH), ..everything() };
        assert!(matches!(begin(&settings, &from, "ws/i", None), Ok(Begin::Time(0))));
    }

    #[test]
    fn a_replay_right_after_a_resumption_waits_until_every_worker_obeys_it() {
        assert_eq!(until_obeyed(10_000, 11_500), Duration::from_millis(4_500));
        assert_eq!(until_obeyed(10_000, 16_000), Duration::ZERO);
        assert_eq!(until_obeyed(10_000, 9_000), Duration::from_secs(6), "by a clock that is behind");
    }

    #[test]
    fn a_range_stays_within_what_is_kept() {
        let bounds = Range { partition: 0, start: 10, end: 20 };
        let range = |start: i64, end: Option<i64>| {
            let ends = end.map(|end| BTreeMap::from([(0, end)]));
            let range = narrowed("events", bounds, &BTreeMap::from([(0, start)]), ends.as_ref());
            (range.start, range.end)
        };
        assert_eq!(range(5, None), (10, 20));
        assert_eq!(range(12, Some(15)), (12, 15));
        assert_eq!(range(30, None), (20, 20));
        assert_eq!(range(15, Some(12)), (15, 15));
        assert_eq!(narrowed("events", bounds, &BTreeMap::new(), None), bounds, "a partition that came later");
    }
}
