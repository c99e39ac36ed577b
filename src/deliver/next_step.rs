//! The record that follows a delivery which was not acknowledged: into a tier, or into the dead-letter topic.
//!
//! A delivery is settled only when this record is acknowledged by Kafka, or when a rule dropped it and was counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::publish::Outgoing;
use crate::domain::agenda;
use crate::domain::headers::Wire;
use crate::domain::integration::Webhook;
use crate::domain::outcome::{DeadReason, DropReason, Reason, Verdict};
use crate::domain::retry_schedule::RetrySchedule;
use crate::domain::topic_names::tier_topic;
use crate::inflight::job::{DeadLetter, Delivery, Event, Requeue};
use crate::inflight::lane_gauge::LaneGauge;
use crate::telemetry::metrics::{Metrics, TickOutcome};

/// What becomes of a delivery that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// It waits in a tier.
    Retried(usize),
    /// It goes back to a tier, with as many attempts as it had.
    Requeued(usize),
    /// It is a dead letter.
    Dead(DeadReason),
}

/// A record to publish, and what it settles.
#[derive(Debug)]
pub(crate) struct NextRecord {
    /// The record.
    pub(crate) outgoing: Outgoing,
    step: NextStep,
    wire: Wire,
    event: Arc<Event>,
    /// The webhook it is for, if it is for one.
    gauge: Option<Arc<LaneGauge>>,
}

/// Why a slot ended without an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// The reason word.
    pub(crate) reason: Reason,
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
}

/// Makes the records that follow.
#[derive(Debug)]
pub struct NextSteps {
    tiers: Vec<(Arc<str>, Duration)>,
    dead_letter_topic: Arc<str>,
}

impl NextSteps {
    /// For the tiers of `schedule`, whose topics are `<prefix>.<delay>`.
    pub fn new(schedule: &RetrySchedule, retry_prefix: &str, dead_letter_topic: &str) -> Self {
        let tiers =
            schedule.tiers().iter().map(|tier| (tier_topic(retry_prefix, *tier).into(), tier.duration())).collect();
        Self { tiers, dead_letter_topic: dead_letter_topic.into() }
    }

    /// When a record that is written into a tier at `now_ms` falls due there, ms since 1970.
    fn due_ms(&self, tier: usize, now_ms: i64) -> Option<i64> {
        self.tiers.get(tier).map(|(_, delay)| now_ms.saturating_add(millis(*delay)))
    }

    /// When the retry of an attempt that ended at `at_ms` falls due, ms since 1970. `None` when no retry follows.
    pub(crate) fn next_attempt_ms(&self, verdict: Verdict, at_ms: i64) -> Option<i64> {
        match verdict {
            Verdict::Retry(tier) => self.due_ms(tier, at_ms),
            Verdict::Dead(_) => None,
        }
    }

    /// The topics of the tiers, in their order.
    pub(crate) fn tiers(&self) -> &[(Arc<str>, Duration)] {
        &self.tiers
    }

    /// What follows for a delivery whose slot ended at `now_ms` with `failure`. A retry of a scheduled tick that would
    /// come after the next tick is a drop: it has no record.
    ///
    /// # Errors
    /// The reason of the drop, and the delivery.
    pub(crate) fn after(
        &self,
        delivery: Delivery,
        verdict: Verdict,
        failure: Failure,
        now_ms: i64,
    ) -> Result<NextRecord, (DropReason, Box<Delivery>)> {
        let due_ms = self.next_attempt_ms(verdict, now_ms);
        let step = match verdict {
            Verdict::Retry(tier) => NextStep::Retried(tier),
            Verdict::Dead(reason) => NextStep::Dead(reason),
        };
        if delivery.event.is_tick {
            let is_too_late = |due| {
                delivery.webhook().is_none_or(|webhook| agenda::is_too_late(webhook, delivery.event.timestamp_ms, due))
            };
            if due_ms.is_none_or(is_too_late) {
                return Err((DropReason::TickOver, Box::new(delivery)));
            }
        }
        // A dead letter says when its last attempt fell due.
        let due_ms = due_ms.or(delivery.retry.as_ref().map(|retry| retry.due.at_ms));
        let wire = Wire { due_ms, ..wire_of(&delivery, failure, now_ms) };
        Ok(self.record(step, wire, delivery.event, Some(delivery.gauge)))
    }

    /// The dead letter of a record that is not delivered.
    pub(crate) fn dead_letter(&self, dead_letter: DeadLetter) -> NextRecord {
        let DeadLetter { event, reason, key, value, wire, gauge } = dead_letter;
        let mut record = self.record(NextStep::Dead(reason), wire, event, gauge);
        record.outgoing.payload = value;
        if key.is_some() {
            record.outgoing.key = key;
        }
        record
    }

    /// A retry that was due at `now_ms` and can't be requested: it waits in its tier again. What was due at once waits in the first tier,
    /// since it would come back without a pause otherwise. So does what comes from a tier that the schedule does not have any more.
    pub(crate) fn requeue(&self, requeue: Requeue, now_ms: i64) -> NextRecord {
        let tier = if requeue.tier < self.tiers.len() { requeue.tier } else { 0 };
        let due_ms = self.due_ms(tier, now_ms);
        self.record(NextStep::Requeued(tier), Wire { due_ms, ..requeue.wire }, requeue.event, None)
    }

    /// A tick that was fired and can't be requested now: it waits in the first tier, with no attempt made.
    ///
    /// # Errors
    /// It would come after the next tick.
    pub(crate) fn postponed(&self, delivery: Delivery, now_ms: i64) -> Result<NextRecord, Box<Delivery>> {
        let due_ms = self.due_ms(0, now_ms);
        let scheduled_ms = delivery.event.timestamp_ms;
        let is_too_late =
            |due| delivery.webhook().is_none_or(|webhook| agenda::is_too_late(webhook, scheduled_ms, due));
        if due_ms.is_none_or(is_too_late) {
            return Err(Box::new(delivery));
        }
        let failure = Failure { reason: Reason::CircuitOpen, status: None };
        let wire = Wire { due_ms, attempt: Some(0), first_attempt_ms: None, ..wire_of(&delivery, failure, now_ms) };
        Ok(self.record(NextStep::Requeued(0), wire, delivery.event, Some(delivery.gauge)))
    }

    fn record(&self, step: NextStep, mut wire: Wire, event: Arc<Event>, gauge: Option<Arc<LaneGauge>>) -> NextRecord {
        let topic = match step {
            NextStep::Retried(tier) | NextStep::Requeued(tier) => {
                self.tiers.get(tier).map_or(&self.dead_letter_topic, |(topic, _)| topic)
            }
            NextStep::Dead(reason) => {
                wire.reason = Some(reason);
                &self.dead_letter_topic
            }
        };
        let outgoing = Outgoing {
            topic: Arc::clone(topic),
            key: wire.webhook_id.clone().map(Bytes::from),
            payload: Some(event.payload.clone()),
            headers: wire.headers(),
        };
        NextRecord { outgoing, step, wire, event, gauge }
    }

    /// The next try after a topic refused the record for its size: the dead-letter topic.
    ///
    /// # Errors
    /// The dead-letter topic refused it: the event, for which no topic is left.
    pub(crate) fn after_too_large(
        &self,
        record: NextRecord,
    ) -> Result<NextRecord, (Arc<Event>, Option<Arc<LaneGauge>>)> {
        match record.step {
            NextStep::Retried(_) | NextStep::Requeued(_) => {
                let step = NextStep::Dead(DeadReason::TooLarge);
                Ok(self.record(step, record.wire, record.event, record.gauge))
            }
            NextStep::Dead(_) => Err((record.event, record.gauge)),
        }
    }
}

impl NextRecord {
    /// The record is acknowledged: counts and settles.
    pub(crate) fn complete(self, metrics: &Metrics) {
        match self.step {
            NextStep::Retried(tier) => {
                metrics.deliver.retries.get(tier).into_iter().for_each(prometheus::IntCounter::inc);
                metrics.deliver.deliveries_retried.inc();
                if self.event.is_tick {
                    metrics.tick(TickOutcome::Retried);
                }
            }
            NextStep::Requeued(_) => {}
            NextStep::Dead(reason) => metrics.dead_letter(reason),
        }
        self.event.settle(self.gauge.as_ref());
    }

    /// The event that it belongs to.
    pub(crate) fn event(&self) -> &Arc<Event> {
        &self.event
    }
}

fn wire_of(delivery: &Delivery, failure: Failure, now_ms: i64) -> Wire {
    Wire {
        workspace: Some(delivery.integration.workspace().to_owned()),
        integration_id: Some(delivery.integration.id().to_owned()),
        webhook_id: delivery.webhook().map(Webhook::id),
        delivery_id: Some(delivery.id.to_string()),
        attempt: Some(delivery.attempt),
        first_attempt_ms: Some(delivery.first_attempt_ms.unwrap_or(now_ms)),
        due_ms: None,
        origin: Some(delivery.event.origin.to_string()),
        error: Some(failure.reason),
        status: failure.status,
        reason: None,
        event_ms: Some(delivery.event.timestamp_ms),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
