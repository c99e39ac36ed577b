//! From one record to deliveries: parses it, matches it and admits it to lanes. It runs on a consumer's thread, and never blocks.

mod again;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::backlog::partition::{CatchUpOffer, Look, MainOffer, Offered, PartitionBacklog};
use crate::domain::event::{Envelope, InvalidEvent};
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Status, Webhook};
use crate::domain::outcome::{DeadReason, DropReason, Reason};
use crate::domain::table::Table;
use crate::inflight::job::{DeadLetter, Delivery, Event, Job, Origin};
use crate::inflight::lane_gauge::{Admitted, LaneGauge, LaneGauges};
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Pressure;
use crate::settings;
use crate::telemetry::metrics::{EventOutcome, Metrics};
use crate::telemetry::never::never;
use crate::telemetry::repeats::Repeats;

pub use again::DueRetry;

/// A record as a consumer hands it over, borrowed from the client.
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// The workspace by its header or key, if there is one.
    pub workspace: Option<&'a str>,
    /// Whether the workspace is the key, because there is no header `workspace`.
    pub is_workspace_key: bool,
    /// When its batch was read, ms since 1970.
    pub read_ms: i64,
}

/// Turns records into jobs.
pub struct Pipeline {
    table: Arc<RwLock<Table>>,
    pressure: &'static Pressure,
    metrics: Arc<Metrics>,
    gauges: Arc<LaneGauges>,
    shards: usize,
    /// How long an event waits behind an open circuit before it is a dead letter, in ms: the whole schedule.
    wait_max_ms: i64,
    /// How long after its first attempt a delivery is given up, in ms.
    give_up_after_ms: i64,
    /// The topic that ticks have as their origin.
    integrations_topic: Arc<str>,
    repeats: Repeats,
    unknown_workspaces: Repeats,
}

/// What a pipeline is made of.
pub struct PipelineParts<'a> {
    /// The integrations that events are matched with.
    pub table: Arc<RwLock<Table>>,
    /// The bound on bytes that wait.
    pub pressure: &'static Pressure,
    /// Where events and drops are counted.
    pub metrics: Arc<Metrics>,
    /// How many shards take its jobs.
    pub shards: usize,
    /// How long deliveries may wait.
    pub delivery: &'a settings::Delivery,
    /// The topic that ticks have as their origin.
    pub integrations_topic: &'a str,
}

/// Between two warnings that a key is taken for a workspace. Where the CRM keys by workspace, those without an integration are normal.
const UNKNOWN_WORKSPACE_EVERY: Duration = Duration::from_secs(600);

impl Pipeline {
    /// A pipeline of these parts.
    pub fn new(parts: PipelineParts<'_>) -> Self {
        let PipelineParts { table, pressure, metrics, shards, delivery, integrations_topic } = parts;
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            table,
            pressure,
            metrics,
            gauges: Arc::new(LaneGauges::ordered(delivery.ordering)),
            shards: shards.max(1),
            wait_max_ms: ms(delivery.schedule.whole()),
            give_up_after_ms: ms(delivery.give_up_after),
            integrations_topic: integrations_topic.into(),
            repeats: Repeats::default(),
            unknown_workspaces: Repeats::every(UNKNOWN_WORKSPACE_EVERY),
        }
    }

    /// The gauges of all lanes.
    pub(crate) fn gauges(&self) -> &LaneGauges {
        &self.gauges
    }

    /// What decides about webhooks that are behind at `now_ms`, ms since 1970.
    pub(crate) fn look(&self, now_ms: i64) -> Look {
        Look { pressure: self.pressure, wait_max_ms: self.wait_max_ms, now_ms }
    }

    /// Takes an event record off the main reader: admits it and adds its jobs to `batches`, of which each shard has one.
    pub fn event(
        &self,
        record: &Record<'_>,
        assignment: &Arc<Assignment>,
        backlog: &mut PartitionBacklog,
        batches: &mut [Vec<Job>],
    ) {
        backlog.main_comes_to(record.offset);
        match parsed(record) {
            Ok(parsed) => self.matching(record, &parsed, assignment, backlog, batches),
            Err(problem) => self.invalid(record, &problem, assignment, batches),
        }
        backlog.main_passed(record.offset);
    }

    fn invalid(
        &self,
        record: &Record<'_>,
        problem: &InvalidRecord,
        assignment: &Arc<Assignment>,
        batches: &mut [Vec<Job>],
    ) {
        self.metrics.intake.event(EventOutcome::Invalid);
        let event = self.admit(record, assignment);
        if let Some(repeats) = self.repeats.of("invalid") {
            tracing::warn!(
                topic = &*event.origin.topic,
                partition = event.origin.partition,
                offset = event.origin.offset,
                error = %problem,
                repeats,
                "an invalid event becomes a dead letter"
            );
        }
        event.open(1);
        let workspace = record.workspace.map(str::to_owned);
        let wire = Wire { workspace, origin: Some(event.origin.to_string()), ..Wire::default() };
        let value = record.value.map(|_| event.payload.clone());
        let shard = usize::try_from(record.offset).unwrap_or(0) % self.shards;
        let key = record.key.map(Bytes::copy_from_slice);
        let (event, reason) = (Arc::new(event), DeadReason::InvalidEvent);
        push(shard, Job::DeadLetter(Box::new(DeadLetter { event, reason, key, value, wire, gauge: None })), batches);
    }

    fn admit(&self, record: &Record<'_>, assignment: &Arc<Assignment>) -> Event {
        let value = record.value.unwrap_or_default();
        let sequence = assignment.admit(record.offset);
        let held = self.pressure.hold(value.len());
        let ticket = Some((assignment, sequence));
        Event::new(Bytes::copy_from_slice(value), origin_of(record, assignment), record.timestamp_ms, ticket, held)
    }

    fn matching(
        &self,
        record: &Record<'_>,
        Parsed { workspace, envelope }: &Parsed<'_>,
        assignment: &Arc<Assignment>,
        backlog: &mut PartitionBacklog,
        batches: &mut [Vec<Job>],
    ) {
        let look = self.look(record.read_ms);
        let (mut given, mut fallen, mut matched) = (Vec::new(), Vec::new(), false);
        let table = self.table.read();
        table.matching(workspace, &envelope.facts(), |integration, webhook| {
            matched = true;
            // The catch-up reader gives or drops what comes after the webhook's place.
            let id = if backlog.is_empty() { None } else { self.gauges.id_of_place(integration, webhook) };
            if id.is_some_and(|id| backlog.is_given_later(id, record.offset)) {
                return;
            }
            if let Some(reason) = dropped(integration) {
                return self.metrics.drop_delivery(reason);
            }
            let Some(gauge) = self.gauges.of_place(integration, webhook) else {
                return never("a webhook that matched has no place");
            };
            let shard = self.shard_of(integration, webhook);
            gauge.go_to(shard);
            match backlog.offer_main(&gauge, offered(record), look) {
                MainOffer::Give(admitted) => {
                    let integration = Arc::clone(integration);
                    given.push(Given { integration, webhook, shard, gauge, admitted });
                }
                MainOffer::Behind => {}
                MainOffer::FallsBehind => fallen.push(gauge),
            }
        });
        let is_unknown = !matched && record.is_workspace_key && !table.has_workspace(workspace);
        drop(table);
        self.metrics.intake.event(if matched { EventOutcome::Matched } else { EventOutcome::Unmatched });
        if is_unknown {
            self.unknown_workspace(record, assignment);
        }
        if given.is_empty() && fallen.is_empty() {
            assignment.admit_settled(record.offset);
            return;
        }
        let mut event = self.admit(record, assignment);
        event.order_keys = envelope.order_keys();
        event.open_for(given.iter().map(|given| &given.gauge), fallen.iter());
        let event = Arc::new(event);
        backlog.watch(&event, look.now_ms);
        if !fallen.is_empty() {
            backlog.fall(fallen, &event, assignment);
        }
        Self::give(&event, &envelope.id, given, batches);
    }

    /// Counts and logs it. Most often the key is an entity's id, and the CRM did not set the header.
    fn unknown_workspace(&self, record: &Record<'_>, assignment: &Assignment) {
        self.metrics.intake.unknown_workspace_events.inc();
        if let Some(repeats) = self.unknown_workspaces.of("") {
            tracing::warn!(
                topic = &**assignment.topic(),
                partition = assignment.partition(),
                offset = record.offset,
                repeats,
                "an event has no header `workspace`, and no integration has the workspace that its key names"
            );
        }
    }

    /// The shard of a webhook's host.
    fn shard_of(&self, integration: &Integration, webhook: usize) -> usize {
        let hash = integration.webhook(webhook).map_or(0, Webhook::host_hash);
        hash as usize % self.shards
    }

    fn give(event: &Arc<Event>, event_id: &str, given: Vec<Given>, batches: &mut [Vec<Job>]) {
        for Given { integration, webhook, shard, gauge, admitted } in given {
            let delivery = Delivery {
                id: gauge.delivery_ids().of_event(event_id),
                event: Arc::clone(event),
                integration,
                webhook,
                attempt: 1,
                first_attempt_ms: None,
                retry: None,
                gauge,
                admitted: Some(admitted),
            };
            push(shard, Job::Deliver(delivery), batches);
        }
    }

    /// Takes an event record off the catch-up reader: adds jobs of those webhooks that are behind and have room. Returns whether
    /// the reader may go on; otherwise it offers this record again.
    pub(crate) fn catch_up(
        &self,
        record: &Record<'_>,
        assignment: &Arc<Assignment>,
        backlog: &mut PartitionBacklog,
        batches: &mut [Vec<Job>],
    ) -> bool {
        // The main reader makes a dead letter of a record that is not a valid event.
        let Ok(Parsed { workspace, envelope }) = parsed(record) else {
            backlog.catch_up_passed(record.offset);
            return true;
        };
        let look = self.look(record.read_ms);
        let (mut given, mut expired, mut stalled) = (Vec::new(), Vec::new(), false);
        let table = self.table.read();
        table.matching(workspace, &envelope.facts(), |integration, webhook| {
            let Some(gauge) = self.gauges.of_place(integration, webhook) else {
                return never("a webhook that matched has no place");
            };
            let shard = self.shard_of(integration, webhook);
            gauge.go_to(shard);
            match backlog.offer_catch_up(&gauge, offered(record), dropped(integration), look) {
                CatchUpOffer::Give(admitted) => {
                    let integration = Arc::clone(integration);
                    given.push(Given { integration, webhook, shard, gauge, admitted });
                }
                CatchUpOffer::Skip => {}
                CatchUpOffer::Drop(reason) => self.metrics.drop_delivery(reason),
                CatchUpOffer::Expire => expired.push((Arc::clone(integration), webhook, gauge)),
                CatchUpOffer::Stall => stalled = true,
            }
        });
        drop(table);
        if !given.is_empty() || !expired.is_empty() {
            let value = record.value.unwrap_or_default();
            let (payload, held) = (Bytes::copy_from_slice(value), self.pressure.hold(value.len()));
            let origin = origin_of(record, assignment);
            let mut event = Event::caught_up(payload, origin, record.timestamp_ms, assignment, held);
            event.order_keys = envelope.order_keys();
            let event = Arc::new(event);
            Self::give(&event, &envelope.id, given, batches);
            for (integration, webhook, gauge) in expired {
                let shard = self.shard_of(&integration, webhook);
                let letter = Box::new(waited_too_long(&event, &envelope.id, &integration, gauge));
                push(shard, Job::DeadLetter(letter), batches);
            }
        }
        if !stalled {
            backlog.catch_up_passed(record.offset);
        }
        !stalled
    }
}

/// A webhook that an event is given to.
struct Given {
    integration: Arc<Integration>,
    webhook: usize,
    /// The shard of its host.
    shard: usize,
    gauge: Arc<LaneGauge>,
    admitted: Admitted,
}

/// Why a record of the events topic becomes a dead letter.
#[derive(Debug, thiserror::Error)]
enum InvalidRecord {
    #[error("the record has no value")]
    NoValue,
    #[error("the record has no workspace: neither a header nor a key")]
    NoWorkspace,
    #[error(transparent)]
    Event(#[from] InvalidEvent),
}

/// What a valid record has.
struct Parsed<'a> {
    workspace: &'a str,
    envelope: Envelope<'a>,
}

fn parsed<'a>(record: &Record<'a>) -> Result<Parsed<'a>, InvalidRecord> {
    let value = record.value.ok_or(InvalidRecord::NoValue)?;
    let workspace = record.workspace.ok_or(InvalidRecord::NoWorkspace)?;
    Ok(Parsed { workspace, envelope: Envelope::parse(value)? })
}

fn origin_of(record: &Record<'_>, assignment: &Assignment) -> Origin {
    Origin { topic: Arc::clone(assignment.topic()), partition: assignment.partition(), offset: record.offset }
}

fn offered(record: &Record<'_>) -> Offered {
    let bytes = record.value.map_or(0, <[u8]>::len);
    Offered { offset: record.offset, timestamp_ms: record.timestamp_ms, bytes }
}

/// The dead letter of an event that waited behind an open circuit for longer than the whole schedule.
fn waited_too_long(event: &Arc<Event>, event_id: &str, integration: &Integration, gauge: Arc<LaneGauge>) -> DeadLetter {
    let wire = Wire {
        workspace: Some(integration.workspace().to_owned()),
        integration_id: Some(integration.id().to_owned()),
        delivery_id: Some(gauge.delivery_ids().of_event(event_id).into()),
        webhook_id: Some(gauge.webhook().to_owned()),
        attempt: Some(0),
        origin: Some(event.origin.to_string()),
        error: Some(Reason::CircuitOpen),
        event_ms: Some(event.timestamp_ms),
        ..Wire::default()
    };
    let value = Some(event.payload.clone());
    let (event, reason) = (Arc::clone(event), DeadReason::Exhausted);
    DeadLetter { event, reason, key: None, value, wire, gauge: Some(gauge) }
}

fn push(shard: usize, job: Job, batches: &mut [Vec<Job>]) {
    debug_assert!(shard < batches.len(), "each shard has a batch");
    if let Some(batch) = batches.get_mut(shard) {
        batch.push(job);
    }
}

/// Why nothing is delivered to the integration, if nothing is.
fn dropped(integration: &Integration) -> Option<DropReason> {
    if integration.is_suspended() || integration.status() == Status::Failed {
        return Some(DropReason::Suspended);
    }
    (!integration.status().delivers()).then_some(DropReason::IntegrationInactive)
}

#[cfg(test)]
mod flow_lab;
#[cfg(test)]
mod flow_tests;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::health::rules::Health;
    use crate::inflight::job::Due;
    use crate::telemetry::logs::testing::logged;

    fn pipeline(table: Table) -> (Pipeline, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let pipeline = Pipeline::new(PipelineParts {
            table: Arc::new(RwLock::new(table)),
            pressure: Pressure::new(1_000_000),
            metrics: Arc::clone(&metrics),
            shards: 1,
            delivery: &settings::Settings::default().delivery,
            integrations_topic: "integrations",
        });
        (pipeline, metrics)
    }

    #[test]
    fn an_event_is_counted_whose_key_is_taken_for_a_workspace_that_no_integration_has() {
        let mut table = Table::default();
        let value = json!({"webHooks": [{"id": "w", "relativeUrl": "http://r/", "triggerType": "entityEvent",
            "filter": {"items": [{"entityType": "company"}]}}]});
        table.put(Arc::new(Integration::parse("ws/1", value.to_string().as_bytes()).unwrap()));
        table.settle();
        let (pipeline, metrics) = pipeline(table);
        let assignment = Assignment::new("events".into(), 0);
        let read = |workspace, is_workspace_key| {
            let value: &[u8] = br#"{"id":"e","type":"change","entityIds":{"contactId":"1"}}"#;
            let (offset, workspace) =
                (i64::try_from(metrics.intake.events(EventOutcome::Unmatched)).unwrap(), Some(workspace));
            let record = Record {
                offset,
                timestamp_ms: 0,
                key: None,
                value: Some(value),
                workspace,
                is_workspace_key,
                read_ms: 0,
            };
            pipeline.event(&record, &assignment, &mut PartitionBacklog::default(), &mut [Vec::new()]);
            metrics.intake.unknown_workspace_events.get()
        };
        assert_eq!([read("ws", true), read("ws", false), read("other", false)], [0, 0, 0]);
        assert_eq!([read("3c75d291", true), read("3c75d291", true)], [1, 2]);
    }

    #[test]
    fn what_matches_an_integration_that_is_not_delivered_to_is_dropped_and_counted() {
        let mut table = Table::default();
        for status in ["active", "paused", "notConfigured", "failed", "hasErrors"] {
            let value = json!({"status": status, "webHooks": [{"id": "w", "relativeUrl": "http://r/",
                "triggerType": "entityEvent", "filter": {"items": [{"entityType": "company"}]}}]});
            table.put(Arc::new(Integration::parse(&format!("ws/{status}"), value.to_string().as_bytes()).unwrap()));
        }
        table.settle();
        table.get("ws/hasErrors").unwrap().set_health(Health::Failed);
        let (pipeline, metrics) = pipeline(table);
        let assignment = Assignment::new("events".into(), 0);
        let read = |offset, workspace, entity| {
            let value = format!(r#"{{"id":"e","type":"change","entityIds":{{"{entity}Id":"1"}}}}"#);
            let (key, value) = (None, Some(value.as_bytes()));
            let workspace = Some(workspace);
            let record = Record { offset, timestamp_ms: 0, key, value, workspace, is_workspace_key: false, read_ms: 0 };
            let mut batches = [Vec::new()];
            pipeline.event(&record, &assignment, &mut PartitionBacklog::default(), &mut batches);
            batches[0].len()
        };
        let dropped = |word: &str| metrics.dropped().find(|(reason, _)| reason.word() == word).unwrap().1;
        let counts = || [EventOutcome::Matched, EventOutcome::Unmatched].map(|outcome| metrics.intake.events(outcome));
        assert_eq!(read(0, "ws", "contact") + read(1, "other", "company"), 0);
        assert_eq!((counts(), dropped("integration-inactive"), dropped("suspended")), ([0, 2], 0, 0));
        assert_eq!(read(2, "ws", "company"), 1);
        assert_eq!((counts(), dropped("integration-inactive"), dropped("suspended")), ([1, 2], 2, 2));
    }

    #[test]
    fn a_flood_of_records_that_are_no_retries_is_one_line_and_each_is_counted() {
        let (pipeline, metrics) = pipeline(Table::default());
        let assignment = Assignment::new("retry.1s".into(), 0);
        let said = logged(|| {
            for offset in 0..100 {
                let retry = DueRetry {
                    payload: Some(Bytes::from_static(b"{}")),
                    wire: Wire::default(),
                    due: Due { at_ms: 0, tier: 0 },
                    position: Origin { topic: "retry.1s".into(), partition: 0, offset },
                    sequence: assignment.admit(offset),
                    now_ms: 0,
                };
                pipeline.retry(retry, &assignment, &mut [Vec::new()]);
            }
        });
        assert_eq!(said.matches("is not a retry").count(), 1, "{said}");
        assert_eq!(metrics.dropped().find(|(reason, _)| *reason == DropReason::UnreadableRetry).unwrap().1, 100);
    }
}
