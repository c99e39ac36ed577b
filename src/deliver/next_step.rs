//! The record that succeeds a delivery which was not acknowledged: into a tier, or into the dead-letter topic.
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
use crate::inflight::job::{Burial, Delivery, Event};
use crate::telemetry::metrics::{Metrics, TickOutcome};

/// What a settlement makes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It waits in a tier.
    Retried(usize),
    /// It is a dead letter.
    Dead(DeadReason),
}

/// A record to publish, and what it settles.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// The record.
    pub(crate) outgoing: Outgoing,
    fate: Fate,
    wire: Wire,
    event: Arc<Event>,
}

/// Why a slot ended without an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// The reason word.
    pub(crate) reason: Reason,
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
}

/// Makes settlements.
#[derive(Debug)]
pub struct Settlements {
    tiers: Vec<(Arc<str>, Duration)>,
    dead_letter_topic: Arc<str>,
}

impl Settlements {
    /// For the tiers of `schedule`, whose topics are `<prefix>.<delay>`.
    pub fn new(schedule: &RetrySchedule, retry_prefix: &str, dead_letter_topic: &str) -> Self {
        let tiers =
            schedule.tiers().iter().map(|tier| (format!("{retry_prefix}.{tier}").into(), tier.duration())).collect();
        Self { tiers, dead_letter_topic: dead_letter_topic.into() }
    }

    /// The topics of the tiers, in their order.
    pub(crate) fn tiers(&self) -> &[(Arc<str>, Duration)] {
        &self.tiers
    }

    /// What follows for a delivery whose slot ended at `now_ms` with `failure`. A retry of a scheduled tick that would
    /// come after the next tick is no settlement but a drop.
    ///
    /// # Errors
    /// The reason of the drop, and the delivery.
    pub(crate) fn after(
        &self,
        delivery: Delivery,
        verdict: Verdict,
        failure: Failure,
        now_ms: i64,
    ) -> Result<Settlement, (DropReason, Delivery)> {
        let fate = match verdict {
            Verdict::Settled | Verdict::Dead(_) => Fate::Dead(match verdict {
                Verdict::Dead(reason) => reason,
                Verdict::Settled | Verdict::Retry(_) => DeadReason::Exhausted,
            }),
            Verdict::Retry(tier) => Fate::Retried(tier),
        };
        let due_ms = match fate {
            Fate::Retried(tier) => self.tiers.get(tier).map(|(_, delay)| now_ms.saturating_add(millis(*delay))),
            Fate::Dead(_) => None,
        };
        if delivery.event.is_tick {
            let is_over = |due| {
                delivery.webhook().is_none_or(|webhook| agenda::is_over(webhook, delivery.event.timestamp_ms, due))
            };
            if due_ms.is_none_or(is_over) {
                return Err((DropReason::TickOver, delivery));
            }
        }
        // A dead letter says when its last attempt fell due.
        let due_ms = due_ms.or(delivery.due.map(|due| due.at_ms));
        let wire = Wire { due_ms, ..wire_of(&delivery, failure, now_ms) };
        Ok(self.settlement(fate, wire, delivery.event))
    }

    /// The dead letter of a record that is not delivered.
    pub(crate) fn burial(&self, burial: Burial) -> Settlement {
        let mut settlement = self.settlement(Fate::Dead(burial.reason), burial.wire, burial.event);
        settlement.outgoing.payload = burial.value;
        if burial.key.is_some() {
            settlement.outgoing.key = burial.key;
        }
        settlement
    }

    fn settlement(&self, fate: Fate, mut wire: Wire, event: Arc<Event>) -> Settlement {
        let topic = match fate {
            Fate::Retried(tier) => self.tiers.get(tier).map_or(&self.dead_letter_topic, |(topic, _)| topic),
            Fate::Dead(reason) => {
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
        Settlement { outgoing, fate, wire, event }
    }

    /// The next try after a topic refused the record for its size: the dead-letter topic.
    ///
    /// # Errors
    /// That was the dead-letter topic already: the event, which has nowhere to go.
    pub(crate) fn after_too_large(&self, settlement: Settlement) -> Result<Settlement, Arc<Event>> {
        match settlement.fate {
            Fate::Retried(_) => {
                Ok(self.settlement(Fate::Dead(DeadReason::TooLarge), settlement.wire, settlement.event))
            }
            Fate::Dead(_) => Err(settlement.event),
        }
    }
}

impl Settlement {
    /// The record is acknowledged: counts and settles.
    pub(crate) fn complete(self, metrics: &Metrics) {
        match self.fate {
            Fate::Retried(tier) => {
                metrics.retries.get(tier).into_iter().for_each(prometheus::IntCounter::inc);
                metrics.deliveries_retried.inc();
                if self.event.is_tick {
                    metrics.tick(TickOutcome::Retried);
                }
            }
            Fate::Dead(reason) => metrics.dead_letter(reason),
        }
        self.event.settle_one();
    }

    /// The event it is of.
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
