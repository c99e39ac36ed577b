//! What becomes of a delivery when its request ends, or when it gets none: acknowledged, a retry, a dead letter, dropped.

use tokio::time::Instant;

use super::{Done, Reading, Shard, UnderWay, Work, give_up, seconds_between};
use crate::clock;
use crate::deliver::allowance::{Change, Ending, Request};
use crate::deliver::courier::{AnswerBody as _, AnswerRead, Courier, Exchange, Rest};
use crate::deliver::next_step::{Failure, NextRecord};
use crate::deliver::publish::{Publish, PublishError};
use crate::domain::outcome::{DeadReason, DropReason, Outcome, Reason, Verdict, verdict};
use crate::inflight::ended::Ended;
use crate::inflight::job::{DeadLetter, Delivery};
use crate::inflight::partition::Active;
use crate::inflight::pressure::HeldPublication;
use crate::telemetry::metrics::TickOutcome;
use crate::telemetry::never::never;

/// A status with which a receiver says that it has too much to do.
const TOO_MANY_REQUESTS: u16 = 429;
/// See [`TOO_MANY_REQUESTS`].
const SERVICE_UNAVAILABLE: u16 = 503;
/// The most answers of a shard that still come in after their verdict. Each takes a descriptor and some KB, for 2 s at most.
const READINGS_MAX: usize = 128;

impl<C: Courier, P: Publish> Shard<C, P> {
    pub(super) fn finish(&mut self, done: Done<C>) {
        match done {
            Done::Attempt { under_way, exchanged } => self.attempt_ended(*under_way, exchanged),
            Done::Answer { reading, read } => {
                self.readings -= 1;
                self.answer_read(*reading, read, Instant::now());
            }
            Done::Publish { record, active, published, held } => match published {
                Ok(()) => record.complete(&self.shared.metrics),
                Err(PublishError::TooLarge) => self.too_large(*record, active, held),
                Err(PublishError::GivenUp) => self.shared.metrics.deliver.publications_given_up.inc(),
                // The process ends: the record stays unsettled and is read again.
                Err(PublishError::Stopped) => {}
            },
        }
    }

    fn too_large(&mut self, record: NextRecord, active: Option<Active>, held: HeldPublication) {
        let origin = record.event().origin.to_string();
        match self.shared.next_steps.after_too_large(record) {
            Ok(record) => {
                if let Some(repeats) = self.repeats.of("tier") {
                    tracing::warn!(
                        origin,
                        repeats,
                        "a retry record is too large for its tier and becomes a dead letter"
                    );
                }
                self.outbox.push(Work::Publish { record: Box::new(record), active, held });
            }
            Err((event, gauge)) => {
                if let Some(repeats) = self.repeats.of("dead-letter") {
                    tracing::error!(origin, repeats, "a record is too large for the dead-letter topic and is dropped");
                }
                self.shared.metrics.drop_delivery(DropReason::TooLarge);
                event.settle(gauge.as_ref());
            }
        }
    }

    fn attempt_ended(&mut self, under_way: UnderWay, exchanged: Exchange<C>) {
        let now = Instant::now();
        self.update_allowance(&under_way, &exchanged, now);
        self.free(&under_way, &exchanged, now);
        self.update_circuits(&under_way, &exchanged, now);
        let UnderWay { delivery, active, host, in_request, .. } = under_way;
        drop(in_request);
        let at_ms = clock::now_ms();
        self.shared.metrics.deliver.attempt_duration.observe(exchanged.took.as_secs_f64());
        let failed = self.failed(&delivery, &exchanged.outcome, at_ms);
        let entry = self.shared.reports.attempt_ended(&Ended {
            shard: self.index,
            delivery: &delivery,
            outcome: &exchanged.outcome,
            cause: exchanged.cause.as_ref(),
            address: exchanged.address,
            took: exchanged.took,
            at_ms,
            next_attempt_ms: failed.and_then(|(_, verdict)| self.shared.next_steps.next_attempt_ms(verdict, at_ms)),
        });
        self.await_answer(Reading { host, entry }, exchanged.rest, now);
        match failed {
            None => self.acknowledged(delivery, at_ms),
            Some((failure, verdict)) => {
                self.shared.metrics.attempt_failed(failure.reason);
                self.settle_failure(delivery, active, verdict, failure, at_ms);
            }
        }
    }

    /// Why an attempt that ended at `at_ms` failed, and what follows. `None` if it is acknowledged.
    fn failed(&self, delivery: &Delivery, outcome: &Outcome, at_ms: i64) -> Option<(Failure, Verdict)> {
        let Outcome::Failed { reason, status, retry_after } = *outcome else { return None };
        let settings = &self.shared.settings;
        let verdict = verdict(&settings.schedule, delivery.attempt, retry_after);
        let verdict = verdict.unless_given_up(delivery.first_attempt_ms, settings.give_up_after, at_ms);
        Some((Failure { reason, status }, verdict))
    }

    fn acknowledged(&self, delivery: Delivery, at_ms: i64) {
        let metrics = &self.shared.metrics;
        metrics.attempt_acknowledged();
        metrics.deliver.deliveries_acknowledged.inc();
        metrics.deliver.delivery_latency.observe(seconds_between(delivery.event.timestamp_ms, at_ms));
        if delivery.event.is_tick {
            metrics.tick(TickOutcome::Acknowledged);
        }
        delivery.settle();
    }

    /// Gives back what a request held: its place in the order, and its part of the bounds of lane and host.
    fn free(&mut self, under_way: &UnderWay, exchanged: &Exchange<C>, now: Instant) {
        let has_failed = exchanged.outcome != Outcome::Acknowledged;
        self.shared.metrics.deliver.in_flight_requests.dec();
        let is_answered = !matches!(exchanged.outcome, Outcome::Failed { status: None, .. });
        if let Some(lane) = self.lanes.get_mut(under_way.lane) {
            lane.in_flight -= 1;
            lane.has_failed = has_failed;
            lane.queue.finish(under_way.place);
            let (pace, permits) = (lane.promptness.pace(), &self.shared.permits);
            if !under_way.probe {
                lane.permits -= 1;
                permits.give_back(pace, 1);
            }
            lane.promptness.ended(under_way.began, is_answered, now);
            if lane.promptness.pace() != pace {
                permits.change(lane.permits, pace, lane.promptness.pace());
                self.pace_changed(under_way.lane, pace);
            }
        }
        if let Some(host) = self.hosts.get_mut(under_way.host) {
            host.in_flight -= 1;
            host.used = now;
        }
        // The other connections to that host are likely to be broken too.
        if !is_answered {
            self.kept.close(under_way.host);
        }
        // Lanes that wait for the host come first, or a busy lane would keep its place from all others.
        self.wake_next(under_way.host);
        self.schedule(under_way.lane);
    }

    /// Takes what has come of an answer, and reads the rest while the next deliveries go on. Where too many answers come slowly, the
    /// connection is closed instead.
    fn await_answer(&mut self, reading: Reading, rest: Rest<C>, now: Instant) {
        match rest {
            Rest::Read(read) => self.answer_read(reading, read, now),
            Rest::Coming(body) if self.readings < READINGS_MAX => {
                self.readings += 1;
                self.outbox.push(Work::Answer { reading: Box::new(reading), body });
            }
            Rest::Coming(body) => self.answer_read(reading, body.cut_off(), now),
        }
    }

    fn answer_read(&mut self, reading: Reading, read: AnswerRead<C::Connection>, now: Instant) {
        if let Some(entry) = reading.entry {
            self.shared.reports.answer_read(entry, read.body);
        }
        if let Some(connection) = read.connection
            && self.hosts.contains(reading.host)
        {
            self.kept.put(reading.host, connection, now);
        }
    }

    /// Learns from the answer how many requests the receiver takes at a time for this webhook.
    fn update_allowance(&mut self, under_way: &UnderWay, exchanged: &Exchange<C>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(under_way.lane) else {
            return never("the lane of a request is gone");
        };
        let ending = match exchanged.outcome {
            Outcome::Acknowledged => Ending::Acknowledged,
            Outcome::Failed { status: Some(TOO_MANY_REQUESTS | SERVICE_UNAVAILABLE), .. } => Ending::Overloaded,
            Outcome::Failed { .. } => Ending::Other,
        };
        let request = Request { began: under_way.began, in_flight: lane.in_flight, more_wait: lane.queue.ready() > 0 };
        match lane.allowance.ended(ending, request, now) {
            Change::None => {}
            Change::Restricted => self.shared.metrics.deliver.webhooks_restricted.inc(),
            Change::Restored => self.shared.metrics.deliver.webhooks_restricted.dec(),
        }
    }

    /// A delivery waited while its integration was suspended. A first attempt is dropped, as the events that follow are. A retry becomes
    /// a dead letter.
    pub(super) fn suspended(&mut self, delivery: Delivery) {
        if let Some(retry) = delivery.retry {
            let value = Some(delivery.event.payload.clone());
            let (event, reason) = (delivery.event, DeadReason::Suspended);
            return self.dead_letter(DeadLetter { event, reason, key: None, value, wire: retry.wire, gauge: None });
        }
        self.drop_first_attempt(delivery, DropReason::Suspended);
    }

    /// Drops a first attempt, counted. Its partition may have another owner by now, which drops it.
    pub(super) fn drop_first_attempt(&self, delivery: Delivery, reason: DropReason) {
        let Ok(_active) = delivery.event.begin() else { return give_up(&self.shared.metrics, &delivery) };
        self.shared.metrics.drop_delivery(reason);
        if delivery.event.is_tick {
            self.shared.metrics.tick(TickOutcome::Dropped);
        }
        delivery.settle();
    }

    /// Spends a slot without a request.
    pub(super) fn put_off(&mut self, mut delivery: Delivery, reason: Reason) {
        let Ok(active) = delivery.event.begin() else { return give_up(&self.shared.metrics, &delivery) };
        let now_ms = clock::now_ms();
        delivery.first_attempt_ms.get_or_insert(now_ms);
        self.shared.metrics.attempt_failed(reason);
        let verdict = verdict(&self.shared.settings.schedule, delivery.attempt, None);
        self.settle_failure(delivery, active, verdict, Failure { reason, status: None }, now_ms);
    }

    fn settle_failure(
        &mut self,
        delivery: Delivery,
        active: Option<Active>,
        verdict: Verdict,
        failure: Failure,
        now_ms: i64,
    ) {
        match self.shared.next_steps.after(delivery, verdict, failure, now_ms) {
            Ok(record) => {
                let held = self.shared.pressure.publish();
                self.outbox.push(Work::Publish { record: Box::new(record), active, held });
            }
            Err((reason, delivery)) => {
                self.shared.metrics.drop_delivery(reason);
                self.shared.metrics.tick(TickOutcome::Dropped);
                delivery.settle();
            }
        }
    }
}
