//! The consumer of the retry tiers: holds what is not due in hand, hands over what is, and never early.
//!
//! A retry is due one delay of its tier after the broker appended it, so all workers agree and the records of a partition
//! fall due in order. Redriven and replayed records have a topic of their own with a delay of zero. What is fetched and not due stays in hand, up to a bound; only then is the partition paused, because
//! pausing throws the client's prefetch away. Waiting costs no memory beyond the hand: the rest waits in Kafka.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use super::events::Handoff;
use super::membership::GroupMember;
use super::pipeline::DueRetry;
use super::reader::{PartitionReader, Polled};
use crate::clock;
use crate::domain::headers::Wire;
use crate::inflight::job::{Due, Job, Origin};
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Reading;
use crate::kafka::client::retries_reader_config;
use crate::kafka::headers::readable_headers;
use crate::settings;
use crate::telemetry::admin::PollLoop;
use crate::telemetry::metrics::Metrics;

/// Retries in hand, a partition. With their payloads: see [`BUFFERED_BYTES_MAX`].
const BUFFERED_MAX: usize = 256;
/// Bytes in hand, a partition. A fuller hand pauses the partition.
const BUFFERED_BYTES_MAX: usize = 128 * 1024;
/// A hand may be as many times larger while all of it falls due within [`RESUME_TAKES_MS`].
const BUFFER_STRETCH: usize = 4;
/// A client that has nothing to fetch looks at what was resumed once a second.
const RESUME_TAKES_MS: i64 = 1_500;
/// The longest poll: bounds how late a retry, a stop or a resume is seen.
const POLL_MAX: Duration = Duration::from_millis(50);
/// The shortest poll that does not spin.
const POLL_MIN: Duration = Duration::from_millis(1);
/// Polls between two looks at what is due.
const BATCH: usize = 256;
/// How often windows are looked at and gauges set.
const KEEP_UP_EVERY: Duration = Duration::from_millis(200);

struct Waiting {
    payload: Option<Bytes>,
    wire: Wire,
    due_ms: i64,
    offset: i64,
    sequence: u64,
}

/// What is in hand of one partition.
struct DueBuffer {
    assignment: Arc<Assignment>,
    tier: usize,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    paused: bool,
}

/// The consumer of the retry tiers.
pub(crate) struct RetryConsumer {
    reader: PartitionReader,
    outlet: Handoff,
    metrics: Arc<Metrics>,
    /// Topic and delay of each tier.
    tiers: Vec<(Arc<str>, Duration)>,
    hands: BTreeMap<(usize, i32), DueBuffer>,
    generation: u64,
}

impl RetryConsumer {
    /// Of the partitions of `tiers` that `member` holds.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        tiers: &[(Arc<str>, Duration)],
        member: Arc<GroupMember>,
        outlet: Handoff,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let reader = PartitionReader::new(&retries_reader_config(kafka), "retries", member, Arc::clone(&metrics))?;
        Ok(Self { reader, outlet, metrics, tiers: tiers.to_vec(), hands: BTreeMap::new(), generation: 0 })
    }

    /// Reads and hands over until told to stop. Blocks its thread.
    pub(crate) fn run(mut self) {
        let mut batches = self.outlet.batches();
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
        self.outlet.condition.ended(PollLoop::Retries);
    }

    /// Reads what is there, waiting no longer than until the next retry is due. Says whether the consumer can go on.
    fn read_batch(&mut self) -> bool {
        let mut wait = self.until_next_due();
        for _ in 0..BATCH {
            match self.reader.poll(wait) {
                Ok(Polled::Nothing) => return true,
                Ok(Polled::PassedOver) => {}
                Ok(Polled::Record(message, assignment)) => {
                    take(&self.tiers, &mut self.hands, &message, assignment);
                }
                Err(error) => return self.reader.member().poll_failed(&error, &self.outlet.fatal),
            }
            wait = Duration::ZERO;
        }
        true
    }

    fn until_next_due(&self) -> Duration {
        if self.outlet.pressure.reading_due() == Reading::Wait {
            return POLL_MAX;
        }
        let next = self.hands.values().filter_map(DueBuffer::next_due_ms).min();
        let until = next.map_or(i64::MAX, |due| due.saturating_sub(clock::now_ms()));
        Duration::from_millis(u64::try_from(until).unwrap_or(0)).clamp(POLL_MIN, POLL_MAX)
    }

    /// Hands over what is due while there is room, and pauses and resumes partitions by their hands.
    fn hand_over_due(&mut self, batches: &mut [Vec<Job>]) {
        if self.generation != self.reader.generation() {
            self.generation = self.reader.generation();
            let reader = &self.reader;
            self.hands.retain(|_, hand| reader.reads(&hand.assignment));
        }
        let now_ms = clock::now_ms();
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        for ((_, partition), hand) in &mut self.hands {
            while self.outlet.pressure.reading_due() == Reading::Go
                && let Some(waiting) = hand.pop_due(now_ms)
            {
                let position = Origin {
                    topic: Arc::clone(hand.assignment.topic()),
                    partition: *partition,
                    offset: waiting.offset,
                };
                let due = Due { at_ms: waiting.due_ms, tier: hand.tier };
                let retry = DueRetry {
                    payload: waiting.payload,
                    wire: waiting.wire,
                    due,
                    position,
                    sequence: waiting.sequence,
                    now_ms,
                };
                self.outlet.pipeline.retry(retry, &hand.assignment, batches);
            }
            if !hand.paused && hand.is_full(now_ms) {
                hand.paused = true;
                pause.add_partition(hand.assignment.topic(), *partition);
            } else if hand.paused && hand.is_low(now_ms) {
                hand.paused = false;
                resume.add_partition(hand.assignment.topic(), *partition);
            }
        }
        self.outlet.hand_over(batches);
        self.reader.pause_and_resume(&pause, &resume);
    }

    fn export(&self) {
        let now_ms = clock::now_ms();
        for (tier, gauge) in self.metrics.intake.retry_overdue.iter().enumerate() {
            let of_tier = self.hands.values().filter(|hand| hand.tier == tier);
            let oldest = of_tier.filter_map(DueBuffer::next_due_ms).min();
            let overdue_ms = oldest.map_or(0, |due| now_ms.saturating_sub(due).max(0));
            gauge.set(Duration::from_millis(overdue_ms.unsigned_abs()).as_secs_f64());
        }
    }
}

impl DueBuffer {
    fn new(assignment: &Arc<Assignment>, tier: usize) -> Self {
        let assignment = Arc::clone(assignment);
        Self { assignment, tier, waiting: VecDeque::new(), bytes: 0, paused: false }
    }

    fn next_due_ms(&self) -> Option<i64> {
        self.waiting.front().map(|waiting| waiting.due_ms)
    }

    fn is_full(&self, now_ms: i64) -> bool {
        let stretch = if self.runs_out_soon(now_ms) { BUFFER_STRETCH } else { 1 };
        self.waiting.len() >= stretch * BUFFERED_MAX || self.bytes >= stretch * BUFFERED_BYTES_MAX
    }

    /// Whether a partition that was paused should be read again.
    fn is_low(&self, now_ms: i64) -> bool {
        let stretch = if self.runs_out_soon(now_ms) { BUFFER_STRETCH } else { 1 };
        self.waiting.len() <= stretch * BUFFERED_MAX / 2 && self.bytes <= stretch * BUFFERED_BYTES_MAX / 2
    }

    /// Whether all of it is gone by the time that more can be there. While something is overdue, there is no hurry.
    fn runs_out_soon(&self, now_ms: i64) -> bool {
        let overdue = self.next_due_ms().is_some_and(|first| first <= now_ms);
        !overdue && self.waiting.back().is_none_or(|last| last.due_ms <= now_ms.saturating_add(RESUME_TAKES_MS))
    }

    fn pop_due(&mut self, now_ms: i64) -> Option<Waiting> {
        let waiting = self.waiting.pop_front_if(|first| first.due_ms <= now_ms)?;
        self.bytes -= waiting.payload.as_ref().map_or(0, Bytes::len);
        Some(waiting)
    }
}

/// Takes a record into the hand of its partition.
fn take(
    tiers: &[(Arc<str>, Duration)],
    hands: &mut BTreeMap<(usize, i32), DueBuffer>,
    message: &BorrowedMessage<'_>,
    assignment: &Arc<Assignment>,
) {
    let Some(tier) = tiers.iter().position(|(topic, _)| &**topic == message.topic()) else { return };
    let hand = hands.entry((tier, message.partition())).or_insert_with(|| DueBuffer::new(assignment, tier));
    if !Arc::ptr_eq(&hand.assignment, assignment) {
        // What an earlier assignment of the partition had in hand is read again.
        *hand = DueBuffer::new(assignment, tier);
    }
    let wire = message.headers().map_or_else(Wire::default, |headers| Wire::read(readable_headers(headers)));
    let delay = tiers.get(tier).map_or(Duration::ZERO, |(_, delay)| *delay);
    let payload = message.payload().map(Bytes::copy_from_slice);
    hand.bytes += payload.as_ref().map_or(0, Bytes::len);
    // It came, so the partition is not paused, whoever resumed it: a full hand pauses it again.
    hand.paused = false;
    hand.waiting.push_back(Waiting {
        due_ms: due_ms(message.timestamp().to_millis(), delay, &wire),
        payload,
        wire,
        offset: message.offset(),
        sequence: hand.assignment.admit(message.offset()),
    });
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

    /// A hand of `count` retries of a KiB, of which the first is due at `first_ms` and one each `every_ms` after it.
    fn hand(count: usize, first_ms: i64, every_ms: i64) -> DueBuffer {
        let waiting = |number: i64| Waiting {
            payload: Some(Bytes::from_static(&[0; 1024])),
            wire: Wire::default(),
            due_ms: first_ms + number * every_ms,
            offset: number,
            sequence: number.unsigned_abs(),
        };
        let waiting: VecDeque<_> = (0..).take(count).map(waiting).collect();
        let assignment = Assignment::new("webhooks.retry.30s".into(), 0);
        DueBuffer { assignment, tier: 0, bytes: waiting.len() * 1024, waiting, paused: false }
    }

    #[test]
    fn a_hand_is_full_at_its_bound_and_low_at_half_of_it() {
        let (now, later) = (1_000_000, 1_060_000);
        assert!(!hand(127, later, 12).is_full(now));
        assert!(hand(128, later, 12).is_full(now));
        assert!(!hand(65, later, 12).is_low(now));
        assert!(hand(64, later, 12).is_low(now));
    }

    #[test]
    fn a_hand_that_runs_out_before_more_can_be_there_is_larger_within_a_bound() {
        let now = 1_000_000;
        assert!(hand(128, now + 1, 12).is_full(now), "it lasts 1.5 s");
        assert!(!hand(128, now + 1, 6).is_full(now), "it lasts 0.75 s");
        assert!(hand(128, now + 1, 6).is_low(now));
        assert!(hand(512, now + 1, 1).is_full(now), "the bound");
        assert!(hand(128, now - 1, 6).is_full(now), "what is overdue is not taken: more of it helps nobody");
    }

    #[test]
    fn what_was_redriven_is_due_when_it_was_appended() {
        let wire = Wire { attempt: Some(0), due_ms: Some(99_000), ..Wire::default() };
        assert_eq!(due_ms(Some(1_000), Duration::ZERO, &wire), 1_000, "whatever the clock of the tool said");
    }
}
