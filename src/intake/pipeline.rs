//! The path of one record up to the lanes: read, parsed, matched. Runs on a consumer's thread; never blocks, never waits.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::domain::agenda::{self, Tick};
use crate::domain::event::Envelope;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Status};
use crate::domain::outcome::{DeadReason, DropReason};
use crate::domain::table::Table;
use crate::domain::ticks;
use crate::inflight::job::{DeadLetter, Delivery, Due, Event, Job, Origin, delivery_id, tick_id};
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Pressure;
use crate::telemetry::metrics::{EventOutcome, Metrics, TickOutcome};
use crate::telemetry::repeats::Repeats;

/// One record as a consumer hands it over: borrowed from the client.
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
}

/// Turns records into jobs.
pub struct Pipeline {
    table: Arc<RwLock<Table>>,
    pressure: Arc<Pressure>,
    metrics: Arc<Metrics>,
    shards: usize,
    /// Ticks of schedules have their origin there.
    integrations_topic: Arc<str>,
    repeats: Repeats,
}

/// A retry that is due, out of its tier.
pub struct DueRetry {
    /// Its value; one without is not ours.
    pub payload: Option<Bytes>,
    /// Its headers.
    pub wire: Wire,
    /// When it fell due, and its tier.
    pub due: Due,
    /// Its place in its tier.
    pub position: Origin,
    /// Its sequence in the assignment.
    pub sequence: u64,
    /// ms since 1970.
    pub now_ms: i64,
}

impl Pipeline {
    /// A pipeline into `shards` shards.
    pub fn new(
        table: Arc<RwLock<Table>>,
        pressure: Arc<Pressure>,
        metrics: Arc<Metrics>,
        shards: usize,
        integrations_topic: &str,
    ) -> Self {
        Self {
            table,
            pressure,
            metrics,
            shards: shards.max(1),
            integrations_topic: integrations_topic.into(),
            repeats: Repeats::default(),
        }
    }

    /// Takes an event record: admits it and adds its jobs to `batches`, one a shard.
    pub fn event(&self, record: &Record<'_>, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let workspace = record.workspace;
        let problem = match (record.value, workspace) {
            (Some(value), Some(workspace)) => match Envelope::parse(value) {
                Ok(envelope) => return self.matching(record, workspace, &envelope, assignment, batches),
                Err(error) => error.to_string(),
            },
            (None, _) => "the record has no value".to_owned(),
            (_, None) => "the record has no workspace: neither a header nor a key".to_owned(),
        };
        self.metrics.intake.event(EventOutcome::Invalid);
        let event = self.admit(record, assignment);
        if let Some(repeats) = self.repeats.of("invalid") {
            tracing::warn!(
                topic = &*event.origin.topic,
                partition = event.origin.partition,
                offset = event.origin.offset,
                error = problem,
                repeats,
                "an invalid event becomes a dead letter"
            );
        }
        event.open(1);
        let wire =
            Wire { workspace: workspace.map(str::to_owned), origin: Some(event.origin.to_string()), ..Wire::default() };
        let value = record.value.map(|_| event.payload.clone());
        let shard = usize::try_from(record.offset).unwrap_or(0) % self.shards;
        let key = record.key.map(Bytes::copy_from_slice);
        let dead_letter = DeadLetter { event: Arc::new(event), reason: DeadReason::InvalidEvent, key, value, wire };
        self.push(shard, Job::DeadLetter(Box::new(dead_letter)), batches);
    }

    fn admit(&self, record: &Record<'_>, assignment: &Arc<Assignment>) -> Event {
        let value = record.value.unwrap_or_default();
        let sequence = assignment.admit(record.offset);
        let origin =
            Origin { topic: Arc::clone(assignment.topic()), partition: assignment.partition(), offset: record.offset };
        let held = self.pressure.hold(value.len());
        Event::new(Bytes::copy_from_slice(value), origin, record.timestamp_ms, Some((assignment, sequence)), held)
    }

    fn matching(
        &self,
        record: &Record<'_>,
        workspace: &str,
        envelope: &Envelope<'_>,
        assignment: &Arc<Assignment>,
        batches: &mut [Vec<Job>],
    ) {
        let mut matched: Vec<(&Arc<Integration>, usize)> = Vec::new();
        let mut is_matched = false;
        let table = self.table.read();
        table.matching(workspace, &envelope.facts(), |integration, webhook| {
            is_matched = true;
            match dropped(integration) {
                Some(reason) => self.metrics.drop_delivery(reason),
                None => matched.push((integration, webhook)),
            }
        });
        self.metrics.intake.event(if is_matched { EventOutcome::Matched } else { EventOutcome::Unmatched });
        if matched.is_empty() {
            assignment.admit_settled(record.offset);
            return;
        }
        let mut event = self.admit(record, assignment);
        event.order_keys = envelope.order_keys();
        event.open(u32::try_from(matched.len()).unwrap_or(u32::MAX));
        let event = Arc::new(event);
        for (integration, webhook) in matched {
            let Some(hook) = integration.webhook(webhook) else { continue };
            let shard = hook.host_hash() as usize % self.shards;
            let delivery = Delivery {
                id: delivery_id(integration.key(), &hook.id(), &envelope.id),
                event: Arc::clone(&event),
                integration: Arc::clone(integration),
                webhook,
                attempt: 1,
                first_attempt_ms: None,
                due: None,
            };
            self.push(shard, Job::Deliver(delivery), batches);
        }
    }

    /// Takes a retry that is due: looks at the world as it is now and adds its job to `batches`, or drops it, counted.
    pub fn retry(&self, retry: DueRetry, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let has_payload = retry.payload.is_some();
        let payload = retry.payload.unwrap_or_default();
        let held = self.pressure.hold(payload.len());
        let origin = retry.wire.origin.as_deref().and_then(Origin::parse).unwrap_or(retry.position);
        let timestamp_ms = retry.wire.event_ms.or(retry.wire.first_attempt_ms).unwrap_or(retry.due.at_ms);
        let is_tick = origin.topic == self.integrations_topic;
        let mut event = Event::new(payload, origin, timestamp_ms, Some((assignment, retry.sequence)), held);
        event.is_tick = is_tick;
        event.open(1);
        let event = Arc::new(event);
        let over = is_tick.then_some((timestamp_ms, retry.now_ms));
        let ready = if has_payload { self.resolve_target(&retry.wire, over) } else { Err(unreadable("value")) };
        match ready {
            Ok(RetryTarget::Deliver { integration, webhook }) => {
                let Some(hook) = integration.webhook(webhook) else { return };
                let shard = hook.host_hash() as usize % self.shards;
                let id = retry.wire.delivery_id.unwrap_or_default().into();
                let delivery = Delivery {
                    event,
                    webhook,
                    attempt: retry.wire.attempt.unwrap_or(0).saturating_add(1),
                    id,
                    first_attempt_ms: retry.wire.first_attempt_ms,
                    due: Some(retry.due),
                    integration,
                };
                self.push(shard, Job::Deliver(delivery), batches);
            }
            Ok(RetryTarget::Suspended) => {
                let value = Some(event.payload.clone());
                let dead_letter =
                    DeadLetter { event, reason: DeadReason::Suspended, key: None, value, wire: retry.wire };
                self.push(0, Job::DeadLetter(Box::new(dead_letter)), batches);
            }
            Err(reason) => {
                self.metrics.drop_delivery(reason);
                if is_tick {
                    self.metrics.tick(TickOutcome::Dropped);
                }
                event.settle_one();
            }
        }
    }

    /// Takes a tick that this worker fires: adds its job to `batches`. It may begin while `assignment` is open.
    pub fn tick(&self, tick: &Tick, partition: i32, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let Some(hook) = tick.of() else { return };
        let webhook_id = hook.id();
        let payload = Bytes::from(ticks::body(&webhook_id, tick.at_ms));
        let origin = Origin { topic: Arc::clone(&self.integrations_topic), partition, offset: tick.at_ms };
        let held = self.pressure.hold(payload.len());
        let id = tick_id(tick.integration.key(), &webhook_id, tick.at_ms);
        let event = Event::tick(payload, origin, tick.at_ms, assignment, held);
        event.open(1);
        let shard = hook.host_hash() as usize % self.shards;
        let delivery = Delivery {
            event: Arc::new(event),
            integration: Arc::clone(&tick.integration),
            webhook: tick.webhook,
            attempt: 1,
            id,
            first_attempt_ms: None,
            due: None,
        };
        self.metrics.tick(TickOutcome::Fired);
        self.push(shard, Job::Deliver(delivery), batches);
    }

    /// `tick`: of a scheduled tick, when it was scheduled and the time now.
    fn resolve_target(&self, wire: &Wire, tick: Option<(i64, i64)>) -> Result<RetryTarget, DropReason> {
        let key = wire.integration_key().ok_or_else(|| unreadable("workspace or integration id"))?;
        let webhook_id = wire.webhook_id.as_deref().ok_or_else(|| unreadable("webhook id"))?;
        if wire.attempt.is_none() {
            return Err(unreadable("attempt"));
        }
        // It becomes a header of the request.
        let is_id = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        if !wire.delivery_id.as_ref().is_some_and(is_id) {
            return Err(unreadable("delivery id"));
        }
        let table = self.table.read();
        let integration = table.get(&key).ok_or(DropReason::IntegrationGone)?;
        let webhook = integration.webhook_by_id(webhook_id).ok_or(DropReason::WebhookGone)?;
        if tick.is_some_and(|(scheduled_ms, now_ms)| agenda::is_too_late(webhook, scheduled_ms, now_ms)) {
            return Err(DropReason::TickOver);
        }
        match dropped(integration) {
            Some(DropReason::Suspended) => return Ok(RetryTarget::Suspended),
            Some(reason) => return Err(reason),
            None => {}
        }
        if webhook.is_disabled() {
            return Err(DropReason::WebhookDisabled);
        }
        Ok(RetryTarget::Deliver { integration: Arc::clone(integration), webhook: webhook.index() })
    }

    fn push(&self, shard: usize, job: Job, batches: &mut [Vec<Job>]) {
        self.pressure.queue(shard, 1);
        debug_assert!(shard < batches.len(), "each shard has a batch");
        if let Some(batch) = batches.get_mut(shard) {
            batch.push(job);
        }
    }
}

/// Why nothing is delivered to the integration, if nothing is.
fn dropped(integration: &Integration) -> Option<DropReason> {
    if integration.is_suspended() || integration.status() == Status::Failed {
        return Some(DropReason::Suspended);
    }
    (!integration.status().delivers()).then_some(DropReason::IntegrationInactive)
}

/// A record that nobody here wrote, for want of `missing`.
fn unreadable(missing: &'static str) -> DropReason {
    tracing::warn!(missing, "a record in a retry tier is no retry and is dropped");
    DropReason::UnreadableRetry
}

/// What a retry finds when it is due.
enum RetryTarget {
    Deliver { integration: Arc<Integration>, webhook: usize },
    Suspended,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::health::rules::Health;

    #[test]
    fn what_matches_an_integration_that_is_not_delivered_to_is_dropped_and_counted() {
        let schedule = RetrySchedule::parse("1s").unwrap();
        let mut table = Table::default();
        for status in ["active", "paused", "notConfigured", "failed", "hasErrors"] {
            let value = json!({"status": status, "webHooks": [{"id": "w", "relativeUrl": "http://r/",
                "triggerType": "entityEvent", "filter": {"items": [{"entityType": "company"}]}}]});
            table.put(Arc::new(Integration::parse(&format!("ws/{status}"), value.to_string().as_bytes()).unwrap()));
        }
        table.settle();
        table.get("ws/hasErrors").unwrap().set_health(Health::Failed);
        let metrics = Arc::new(Metrics::new(&schedule));
        let pressure = Pressure::new(1, 1_000_000);
        let pipeline = Pipeline::new(Arc::new(RwLock::new(table)), pressure, Arc::clone(&metrics), 1, "integrations");
        let assignment = Assignment::new("events".into(), 0);
        let read = |offset, workspace, entity| {
            let value = format!(r#"{{"id":"e","type":"change","entityIds":{{"{entity}Id":"1"}}}}"#);
            let (key, value) = (None, Some(value.as_bytes()));
            let record = Record { offset, timestamp_ms: 0, key, value, workspace: Some(workspace) };
            let mut batches = [Vec::new()];
            pipeline.event(&record, &assignment, &mut batches);
            batches[0].len()
        };
        let dropped = |word: &str| metrics.dropped().find(|(reason, _)| reason.word() == word).unwrap().1;
        let counts = || [EventOutcome::Matched, EventOutcome::Unmatched].map(|outcome| metrics.intake.events(outcome));
        assert_eq!(read(0, "ws", "contact") + read(1, "other", "company"), 0);
        assert_eq!((counts(), dropped("integration-inactive"), dropped("suspended")), ([0, 2], 0, 0));
        assert_eq!(read(2, "ws", "company"), 1);
        assert_eq!((counts(), dropped("integration-inactive"), dropped("suspended")), ([1, 2], 2, 2));
    }
}
