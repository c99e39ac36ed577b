//! The consumer of the retry tiers. It keeps a retry until it is due, and hands it over then, never earlier.
//!
//! A retry is due one delay of its tier after the broker appended it, by the brokers' clock, so all workers agree and the
//! records of a partition fall due in order. Redriven and replayed records have a topic of their own with a delay of zero.
//! What is fetched and not due stays in a buffer, up to a bound; only then is the partition paused, because pausing throws
//! the client's prefetch away. Waiting costs no memory beyond the buffers: the rest waits in Kafka.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use super::due_buffers::{DueBuffers, Lost, Waiting};
use super::handoff::Handoff;
use super::membership::GroupMember;
use super::pipeline::DueRetry;
use super::reader::{PartitionReader, Polled};
use crate::clock;
use crate::domain::headers::Wire;
use crate::domain::topic_names::retry_group;
use crate::inflight::job::{Due, Job, Origin};
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Reading;
use crate::kafka::broker_clock::BrokerClock;
use crate::kafka::client::retries_reader_config;
use crate::kafka::headers::readable_headers;
use crate::settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::PollLoop;

/// The longest poll: bounds how late a retry, a stop or a resume is seen.
const POLL_MAX: Duration = Duration::from_millis(50);
/// The shortest poll that does not spin.
const POLL_MIN: Duration = Duration::from_millis(1);
/// Polls between two looks at what is due.
const BATCH: usize = 256;
/// How often windows are looked at and gauges set.
const KEEP_UP_EVERY: Duration = Duration::from_millis(200);
/// How long the worker waits at start for the brokers' time, in which nothing is due. Then it uses its own clock.
const CLOCK_WAIT: Duration = Duration::from_secs(3);
/// A larger difference between the two clocks is logged.
const CLOCKS_DIFFER_MS: i64 = 2_000;
/// How often that difference is logged.
const WARN_EVERY: Duration = Duration::from_mins(5);

/// The consumer of the retry tiers.
pub(crate) struct RetryConsumer {
    reader: PartitionReader,
    outlet: Handoff,
    metrics: Arc<Metrics>,
    /// Topic and delay of each tier.
    tiers: Vec<(Arc<str>, Duration)>,
    buffers: DueBuffers,
    generation: u64,
    brokers: Arc<BrokerClock>,
    began: Instant,
    warned: Option<Instant>,
}

impl RetryConsumer {
    /// A consumer of the partitions of `tiers` that `member` holds, by the clock of the `brokers`.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        tiers: &[(Arc<str>, Duration)],
        member: Arc<GroupMember>,
        outlet: Handoff,
        metrics: Arc<Metrics>,
        brokers: Arc<BrokerClock>,
    ) -> Result<Self, KafkaError> {
        let config = retries_reader_config(kafka, &retry_group(&kafka.group));
        let reader = PartitionReader::new(&config, "retries", member, Arc::clone(&metrics))?;
        Ok(Self {
            reader,
            outlet,
            metrics,
            tiers: tiers.to_vec(),
            buffers: DueBuffers::default(),
            generation: 0,
            brokers,
            began: Instant::now(),
            warned: None,
        })
    }

    /// Reads and hands over until `stop`. Blocks its thread.
    pub(crate) fn run(mut self) {
        let mut batches = self.outlet.batches();
        self.reader.warm_up(self.tiers.iter().map(|(topic, _)| &**topic));
        let mut kept_up = Instant::now();
        while !self.outlet.stop.is_cancelled() {
            if !self.read_batch() {
                break;
            }
            self.hand_over_due(&mut batches);
            if kept_up.elapsed() >= KEEP_UP_EVERY {
                self.reader.keep_windows(Reading::Go);
                self.export();
                self.outlet.condition.beat(PollLoop::Retries);
                kept_up = Instant::now();
            }
        }
        self.buffers.retain(|_| false);
        self.put_back_lost(&mut batches);
        self.outlet.hand_over(&mut batches);
        self.outlet.condition.ended(PollLoop::Retries);
    }

    /// Reads what is there, waiting no longer than until the next retry is due. Returns whether the consumer can go on.
    fn read_batch(&mut self) -> bool {
        let mut wait = self.until_next_due();
        for _ in 0..BATCH {
            match self.reader.poll(wait) {
                Ok(Polled::Nothing) => return true,
                Ok(Polled::Broken) => {
                    self.outlet.fatal.cancel();
                    return false;
                }
                Ok(Polled::PassedOver(_)) => {}
                Ok(Polled::Record(message, assignment)) => {
                    take(&self.tiers, &mut self.buffers, &message, assignment);
                }
                Err(error) => return self.reader.member().poll_failed(&error, &self.outlet.fatal),
            }
            wait = Duration::ZERO;
        }
        true
    }

    fn until_next_due(&self) -> Duration {
        if !may_hand_over(&self.reader, &self.outlet) {
            return POLL_MAX;
        }
        let until = self.buffers.next_due_ms().map_or(i64::MAX, |due| due.saturating_sub(self.brokers.now_ms()));
        Duration::from_millis(u64::try_from(until).unwrap_or(0)).clamp(POLL_MIN, POLL_MAX)
    }

    /// Hands over what is due while there is room, and pauses and resumes partitions by their buffers.
    fn hand_over_due(&mut self, batches: &mut [Vec<Job>]) {
        if self.generation != self.reader.generation() {
            self.generation = self.reader.generation();
            let reader = &self.reader;
            self.buffers.retain(|assignment| reader.reads(assignment));
        }
        self.put_back_lost(batches);
        let brokers_ms = self.brokers.now_ms();
        if self.brokers.is_known() || self.began.elapsed() >= CLOCK_WAIT {
            // From here on times are by the worker's own clock, as is everything that is measured of a delivery.
            let (now_ms, ahead_ms) = (clock::now_ms(), self.brokers.ahead_ms());
            let (reader, outlet) = (&self.reader, &self.outlet);
            let may_go_on = || may_hand_over(reader, outlet);
            self.buffers.take_due(brokers_ms, may_go_on, |tier, assignment, waiting| {
                let mut retry = read_retry(tier, assignment, waiting, now_ms);
                retry.due.at_ms = retry.due.at_ms.saturating_add(ahead_ms);
                outlet.pipeline.retry(retry, assignment, batches);
            });
        }
        self.outlet.hand_over(batches);
        let flow = self.buffers.flow(brokers_ms);
        self.reader.pause_and_resume(&listed(&flow.pause), &listed(&flow.resume));
    }

    /// Puts back into their tiers the retries that waited here when their logs lost them.
    fn put_back_lost(&mut self, batches: &mut [Vec<Job>]) {
        let lost = self.buffers.take_lost();
        if lost.is_empty() {
            return;
        }
        tracing::warn!(
            retries = lost.len(),
            "retries that waited here are not in their topics any more and are put back"
        );
        let now_ms = clock::now_ms();
        for Lost { tier, assignment, waiting } in lost {
            let retry = read_retry(tier, &assignment, waiting, now_ms);
            self.outlet.pipeline.put_back(retry, &assignment, batches);
        }
    }

    fn export(&mut self) {
        let brokers_ms = self.brokers.now_ms();
        for (tier, gauge) in self.metrics.intake.retry_overdue.iter().enumerate() {
            let overdue_ms = self.buffers.next_due_ms_of(tier).map_or(0, |due| brokers_ms.saturating_sub(due).max(0));
            gauge.set(Duration::from_millis(overdue_ms.unsigned_abs()).as_secs_f64());
        }
        let ahead_ms = self.brokers.ahead_ms();
        let ahead = Duration::from_millis(ahead_ms.unsigned_abs()).as_secs_f64();
        self.metrics.intake.clock_ahead_seconds.set(if ahead_ms < 0 { -ahead } else { ahead });
        if ahead_ms.abs() >= CLOCKS_DIFFER_MS && self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                ahead_ms,
                "the clock of this process differs from the brokers', which decide when a retry is due"
            );
        }
    }
}

/// Whether retries that are due may be handed over: there is room, and what is settled can be committed.
fn may_hand_over(reader: &PartitionReader, outlet: &Handoff) -> bool {
    outlet.pressure.reading_due() == Reading::Go && !reader.member().is_out_of_touch()
}

fn listed(assignments: &[Arc<Assignment>]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for assignment in assignments {
        list.add_partition(assignment.topic(), assignment.partition());
    }
    list
}

/// A retry of a tier as the pipeline takes it, due by the brokers' clock.
fn read_retry(tier: usize, assignment: &Assignment, waiting: Waiting, now_ms: i64) -> DueRetry {
    let Waiting { payload, wire, due_ms, offset, sequence } = waiting;
    let position = Origin { topic: Arc::clone(assignment.topic()), partition: assignment.partition(), offset };
    DueRetry { payload, wire, due: Due { at_ms: due_ms, tier }, position, sequence, now_ms }
}

/// Takes a record into the buffer of its partition.
fn take(
    tiers: &[(Arc<str>, Duration)],
    buffers: &mut DueBuffers,
    message: &BorrowedMessage<'_>,
    assignment: &Arc<Assignment>,
) {
    let Some(tier) = tiers.iter().position(|(topic, _)| &**topic == message.topic()) else { return };
    let wire = message.headers().map_or_else(Wire::default, |headers| Wire::read(readable_headers(headers)));
    let delay = tiers.get(tier).map_or(Duration::ZERO, |(_, delay)| *delay);
    let waiting = Waiting {
        due_ms: due_ms(message.timestamp().to_millis(), delay, &wire),
        payload: message.payload().map(Bytes::copy_from_slice),
        wire,
        offset: message.offset(),
        sequence: assignment.admit(message.offset()),
    };
    buffers.push(tier, assignment, waiting);
}

/// When a retry is due: its tier's delay after it was appended.
fn due_ms(appended_ms: Option<i64>, delay: Duration, wire: &Wire) -> i64 {
    let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    appended_ms.map_or(wire.due_ms.unwrap_or_default(), |appended| appended.saturating_add(delay_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_due_one_delay_after_the_broker_appended_it() {
        let wire = Wire { attempt: Some(1), due_ms: Some(99), ..Wire::default() };
        assert_eq!(
            due_ms(Some(1_000), Duration::from_secs(30), &wire),
            31_000,
            "the worker's own clock does not decide"
        );
        assert_eq!(due_ms(None, Duration::from_secs(30), &wire), 99);
    }

    #[test]
    fn what_was_redriven_is_due_when_it_was_appended() {
        let wire = Wire { attempt: Some(0), due_ms: Some(99_000), ..Wire::default() };
        assert_eq!(due_ms(Some(1_000), Duration::ZERO, &wire), 1_000, "whatever the clock of the tool said");
    }
}
