//! From a retry that is due, or a tick, to jobs: by the integrations as they are now.

use std::sync::Arc;

use bytes::Bytes;

use super::{Pipeline, dropped, push};
use crate::domain::agenda::{self, Tick};
use crate::domain::headers::Wire;
use crate::domain::integration::Integration;
use crate::domain::outcome::{DeadReason, DropReason};
use crate::domain::table::Table;
use crate::domain::ticks;
use crate::inflight::job::{DeadLetter, Delivery, Due, Event, Job, Origin, Requeue, Retry};
use crate::inflight::partition::Assignment;
use crate::telemetry::metrics::TickOutcome;
use crate::telemetry::never::never;

/// A retry that is due, out of its tier.
pub struct DueRetry {
    /// Its value. Without one the record is not a worker's.
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

/// Why a retry is dropped.
#[derive(Clone, Copy)]
enum Dropped {
    /// By a rule.
    For(DropReason),
    /// Its record has no such part: no worker wrote it.
    Lacks(&'static str),
}

impl From<DropReason> for Dropped {
    fn from(reason: DropReason) -> Self {
        Self::For(reason)
    }
}

/// What becomes of a retry when it is due.
enum RetryTarget {
    Deliver { integration: Arc<Integration>, webhook: usize },
    Suspended,
}

impl Pipeline {
    /// Takes a retry that is due. Looks up its webhook as it is now and adds its job to `batches`, or drops it, counted.
    pub fn retry(&self, mut retry: DueRetry, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let has_payload = retry.payload.is_some();
        let event = self.event_of(&mut retry, assignment);
        let over = event.is_tick.then_some((event.timestamp_ms, retry.now_ms));
        // Held until the retry is admitted: see `LaneGauge::go_to`.
        let table = self.table.read();
        let ready = if has_payload { resolve_target(&table, &retry.wire, over) } else { Err(Dropped::Lacks("value")) };
        match ready {
            Ok(RetryTarget::Deliver { integration, webhook }) => {
                if self.is_given_up(&retry.wire, retry.now_ms) {
                    return dead_retry(event, retry.wire, DeadReason::Exhausted, batches);
                }
                let Some(gauge) = self.gauges.of_place(&integration, webhook) else {
                    return never("a webhook that was found has no place");
                };
                let shard = self.shard_of(&integration, webhook);
                let Some(admitted) = gauge.try_admit_retry(shard, self.pressure) else {
                    let requeue = Requeue { event, wire: retry.wire, tier: retry.due.tier };
                    return push(shard, Job::Requeue(Box::new(requeue)), batches);
                };
                let delivery = Delivery {
                    event,
                    webhook,
                    attempt: retry.wire.attempt.unwrap_or(0).saturating_add(1),
                    id: retry.wire.delivery_id.clone().unwrap_or_default().into(),
                    first_attempt_ms: retry.wire.first_attempt_ms,
                    retry: Some(Box::new(Retry { due: retry.due, wire: retry.wire })),
                    integration,
                    gauge,
                    admitted: Some(admitted),
                };
                push(shard, Job::Deliver(delivery), batches);
            }
            Ok(RetryTarget::Suspended) => dead_retry(event, retry.wire, DeadReason::Suspended, batches),
            Err(reason) => self.drop_retry(&event, reason),
        }
    }

    /// Puts a retry that is not due back into its tier, since the tier's log has lost it: no other process has it. Drops a record that
    /// is not a retry, counted.
    pub(crate) fn put_back(&self, mut retry: DueRetry, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let has_payload = retry.payload.is_some();
        let event = self.event_of(&mut retry, assignment);
        if has_payload {
            let requeue = Requeue { event, wire: retry.wire, tier: retry.due.tier };
            push(0, Job::Requeue(Box::new(requeue)), batches);
        } else {
            self.drop_retry(&event, Dropped::Lacks("value"));
        }
    }

    /// Takes the payload of a retry: the event that one delivery settles.
    fn event_of(&self, retry: &mut DueRetry, assignment: &Arc<Assignment>) -> Arc<Event> {
        let payload = retry.payload.take().unwrap_or_default();
        let held = self.pressure.hold(payload.len());
        let origin = retry.wire.origin.as_deref().and_then(Origin::parse);
        let origin = origin.unwrap_or_else(|| retry.position.clone());
        let timestamp_ms = retry.wire.event_ms.or(retry.wire.first_attempt_ms).unwrap_or(retry.due.at_ms);
        let is_tick = origin.topic == self.integrations_topic;
        let mut event = Event::new(payload, origin, timestamp_ms, Some((assignment, retry.sequence)), held);
        (event.is_tick, event.position) = (is_tick, retry.position.offset);
        event.open(1);
        Arc::new(event)
    }

    fn drop_retry(&self, event: &Event, dropped: Dropped) {
        let reason = match dropped {
            Dropped::For(reason) => reason,
            Dropped::Lacks(missing) => {
                if let Some(repeats) = self.repeats.of(missing) {
                    tracing::warn!(missing, repeats, "a record in a retry tier is not a retry and is dropped");
                }
                DropReason::UnreadableRetry
            }
        };
        self.metrics.drop_delivery(reason);
        if event.is_tick {
            self.metrics.tick(TickOutcome::Dropped);
        }
        event.settle(None);
    }

    /// Whether the first attempt of a delivery was so long ago that the delivery is given up.
    fn is_given_up(&self, wire: &Wire, now_ms: i64) -> bool {
        let is_requested = wire.attempt.is_some_and(|attempts| attempts > 0);
        let first = wire.first_attempt_ms.filter(|_| is_requested);
        first.is_some_and(|first| now_ms.saturating_sub(first) >= self.give_up_after_ms)
    }

    /// Takes a tick that this worker fires: adds its job to `batches`. It may begin while `assignment` is open.
    pub fn tick(&self, tick: &Tick, partition: i32, assignment: &Arc<Assignment>, batches: &mut [Vec<Job>]) {
        let Some(gauge) = self.gauges.of_place(&tick.integration, tick.webhook) else {
            return never("a tick is of no webhook");
        };
        // Held until the tick is admitted: see `LaneGauge::go_to`. The agenda may have the record before.
        let table = self.table.read();
        let now = table.get(tick.integration.key());
        let now = now.and_then(|now| Some((now, now.webhook_by_id(gauge.webhook())?.index())));
        let (integration, webhook) = now.unwrap_or((&tick.integration, tick.webhook));
        let payload = Bytes::from(ticks::body(gauge.webhook(), tick.at_ms));
        let origin = Origin { topic: Arc::clone(&self.integrations_topic), partition, offset: tick.at_ms };
        let held = self.pressure.hold(payload.len());
        let id = gauge.delivery_ids().of_tick(tick.at_ms);
        let event = Event::tick(payload, origin, tick.at_ms, assignment, held);
        let shard = self.shard_of(integration, webhook);
        let delivery = Delivery {
            event: Arc::new(event),
            integration: Arc::clone(integration),
            webhook,
            attempt: 1,
            id,
            first_attempt_ms: None,
            retry: None,
            admitted: gauge.try_admit_retry(shard, self.pressure),
            gauge,
        };
        self.metrics.tick(TickOutcome::Fired);
        push(shard, Job::Deliver(delivery), batches);
    }
}

/// What becomes of a retry by the integrations as they are now. `tick`: of a scheduled tick, when it was scheduled and the time now.
fn resolve_target(table: &Table, wire: &Wire, tick: Option<(i64, i64)>) -> Result<RetryTarget, Dropped> {
    let key = wire.integration_key().ok_or(Dropped::Lacks("workspace or integration id"))?;
    let webhook_id = wire.webhook_id.as_deref().ok_or(Dropped::Lacks("webhook id"))?;
    if wire.attempt.is_none() {
        return Err(Dropped::Lacks("attempt"));
    }
    // The delivery's id becomes a header of the request.
    let is_id = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
    if !wire.delivery_id.as_ref().is_some_and(is_id) {
        return Err(Dropped::Lacks("delivery id"));
    }
    let integration = table.get(&key).ok_or(Dropped::For(DropReason::IntegrationGone))?;
    let webhook = integration.webhook_by_id(webhook_id).ok_or(Dropped::For(DropReason::WebhookGone))?;
    if tick.is_some_and(|(scheduled_ms, now_ms)| agenda::is_too_late(webhook, scheduled_ms, now_ms)) {
        return Err(DropReason::TickOver.into());
    }
    match dropped(integration) {
        Some(DropReason::Suspended) => return Ok(RetryTarget::Suspended),
        Some(reason) => return Err(reason.into()),
        None => {}
    }
    if webhook.is_disabled() {
        return Err(DropReason::WebhookDisabled.into());
    }
    Ok(RetryTarget::Deliver { integration: Arc::clone(integration), webhook: webhook.index() })
}

/// A retry that is due becomes a dead letter.
fn dead_retry(event: Arc<Event>, wire: Wire, reason: DeadReason, batches: &mut [Vec<Job>]) {
    let value = Some(event.payload.clone());
    push(0, Job::DeadLetter(Box::new(DeadLetter { event, reason, key: None, value, wire, gauge: None })), batches);
}
