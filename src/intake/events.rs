//! The consumer of the events topic: reads and hands over. It is one thread, which never waits for a receiver. The group and its commits
//! belong to another thread.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::time::Instant;

use super::handoff::{Handoff, record_of};
use super::keeper::Keeper;
use super::membership::GroupMember;
use super::reader::{PartitionReader, Polled};
use crate::backlog::places::ReaderGone;
use crate::clock;
use crate::inflight::job::Job;
use crate::inflight::pressure::Reading;
use crate::kafka::client::events_reader_config;
use crate::settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::PollLoop;

/// How many records are read between two looks at the pressure and at what to hand over.
const BATCH: usize = 256;
/// How long a poll waits when there is nothing: bounds how late a stop or a resume is seen.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How often windows are looked at.
const KEEP_UP_EVERY: Duration = Duration::from_millis(200);
/// Under pressure, how long polling may rest before partitions are paused instead: pausing throws the client's prefetch
/// away, and most pressure is over sooner.
const REST_MAX: Duration = Duration::from_millis(200);
/// Between two looks while resting.
const REST: Duration = Duration::from_millis(2);

/// The consumer of the events topic.
pub(crate) struct EventConsumer {
    reader: PartitionReader,
    topic: String,
    outlet: Handoff,
    keeper: Keeper,
    /// The member's generation that `keeper` follows.
    followed: u64,
    /// How long a stop may take: the group member drains meanwhile.
    leave_max: Duration,
}

impl EventConsumer {
    /// A consumer of the partitions of `topic` that `member` holds.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        topic: &str,
        member: Arc<GroupMember>,
        outlet: Handoff,
        keeper: Keeper,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let leave_max = member.leave_max();
        let mut reader = PartitionReader::new(&events_reader_config(kafka), "events", member, metrics)?;
        reader.allow_nothing();
        Ok(Self { reader, topic: topic.to_owned(), outlet, keeper, followed: 0, leave_max })
    }

    /// Reads and hands over until `stop`. Blocks its thread.
    pub(crate) fn run(mut self) {
        let mut batches = self.outlet.batches();
        self.reader.warm_up([&*self.topic]);
        let mut kept_up = Instant::now();
        while !self.outlet.stop.is_cancelled() {
            if !self.follow() || !self.wait_for_room() || !self.read_batch(&mut batches) {
                break;
            }
            self.keeper.turn(&self.outlet.pipeline, self.reading(), &mut batches);
            self.outlet.hand_over(&mut batches);
            if kept_up.elapsed() >= KEEP_UP_EVERY {
                self.reader.keep_windows(Reading::Go);
                self.outlet.condition.beat(PollLoop::Events);
                kept_up = Instant::now();
            }
        }
        self.outlet.condition.ended(PollLoop::Events);
        self.give_up(&mut batches);
    }

    /// Writes the places of the partitions that are given up, until the group member has given up all of them.
    fn give_up(&mut self, batches: &mut [Vec<Job>]) {
        let deadline = Instant::now() + self.leave_max;
        while !self.keeper.is_empty() && !self.outlet.fatal.is_cancelled() && Instant::now() < deadline {
            self.keeper.turn(&self.outlet.pipeline, self.reading(), batches);
            self.outlet.hand_over(batches);
            #[expect(clippy::disallowed_methods, reason = "the consumer's own thread, and shorter than any poll")]
            std::thread::sleep(REST);
        }
    }

    /// Follows what the group member holds. A new partition is read once its places are known. Returns whether the consumer can go on.
    fn follow(&mut self) -> bool {
        let generation = self.reader.member().generation();
        if self.followed != generation {
            self.followed = generation;
            self.keeper.follow(&self.reader.member().assignments());
        }
        match self.keeper.loaded(self.outlet.pipeline.gauges()) {
            Ok(ready) if ready.is_empty() => true,
            Ok(ready) => {
                self.reader.allow(ready);
                true
            }
            Err(ReaderGone) => {
                tracing::error!("places cannot be read any more");
                self.outlet.fatal.cancel();
                false
            }
        }
    }

    /// Whether to hand over more: enough may be in memory, and what the group can't commit would be delivered twice.
    fn reading(&self) -> Reading {
        if self.reader.member().is_out_of_touch() { Reading::Wait } else { self.outlet.pressure.reading() }
    }

    /// Rests while the consumer must not hand over more. When that lasts, it pauses the partitions and goes on polling. Returns whether
    /// the consumer can go on.
    fn wait_for_room(&mut self) -> bool {
        let began = Instant::now();
        while self.reading() == Reading::Wait {
            if self.outlet.stop.is_cancelled() {
                return true;
            }
            if began.elapsed() >= REST_MAX {
                return self.poll_paused();
            }
            #[expect(clippy::disallowed_methods, reason = "the consumer's own thread, and shorter than any poll")]
            std::thread::sleep(REST);
        }
        true
    }

    fn poll_paused(&mut self) -> bool {
        let mut batches = self.outlet.batches();
        let mut generation = None;
        let mut can_go_on = true;
        while can_go_on && self.reading() == Reading::Wait && !self.outlet.stop.is_cancelled() {
            // Partitions that came since are paused too.
            if generation != Some(self.reader.generation()) {
                generation = Some(self.reader.generation());
                self.reader.pause_all();
            }
            can_go_on = self.poll(Duration::from_millis(20), &mut None, &mut batches).is_some();
            self.keeper.turn(&self.outlet.pipeline, self.reading(), &mut batches);
            // A record that was on its way when its partition was paused.
            self.outlet.hand_over(&mut batches);
            self.reader.keep_windows(Reading::Wait);
            self.outlet.condition.beat(PollLoop::Events);
        }
        self.reader.resume_all();
        can_go_on
    }

    /// Reads up to a batch, waiting only for its first record. Returns whether the consumer can go on.
    fn read_batch(&mut self, batches: &mut [Vec<Job>]) -> bool {
        let mut wait = self.keeper.patience().unwrap_or(POLL_WAIT);
        let mut read_ms = None;
        for _ in 0..BATCH {
            match self.poll(wait, &mut read_ms, batches) {
                // Records that are there are taken together, but not beyond the bound on bytes: one event may have a mebibyte.
                Some(true) if self.outlet.pressure.is_over_bytes() => return true,
                Some(true) => wait = Duration::ZERO,
                Some(false) => return true,
                None => return false,
            }
        }
        true
    }

    /// Polls once. `read_ms` is when the first record of the batch came, ms since 1970. Returns whether there was a record. `None` when
    /// the consumer can't go on.
    fn poll(&mut self, wait: Duration, read_ms: &mut Option<i64>, batches: &mut [Vec<Job>]) -> Option<bool> {
        match self.reader.poll(wait) {
            Ok(Polled::Nothing) => Some(false),
            Ok(Polled::Broken) => {
                self.outlet.fatal.cancel();
                None
            }
            Ok(Polled::PassedOver(passed)) => {
                if let Some((assignment, offset)) = passed
                    && let Some(backlog) = self.keeper.backlog(assignment)
                {
                    backlog.main_passed(offset);
                }
                Some(true)
            }
            Ok(Polled::Record(message, assignment)) => {
                // A record of a partition that is being given up is left to the next owner.
                if let Some(backlog) = self.keeper.backlog(assignment) {
                    let read_ms = *read_ms.get_or_insert_with(clock::now_ms);
                    self.outlet.pipeline.event(&record_of(&message, read_ms), assignment, backlog, batches);
                }
                Some(true)
            }
            Err(error) => self.reader.member().poll_failed(&error, &self.outlet.fatal).then_some(false),
        }
    }
}
