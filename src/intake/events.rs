//! The consumer of the events topic: polls, hands over, commits. One thread, which never waits for a receiver.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::membership::GroupMember;
use super::pipeline::{Pipeline, Record};
use crate::domain::headers::workspace_of;
use crate::inflight::job::Job;
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::{Pressure, Reading};
use crate::kafka::client::consumer_config;
use crate::kafka::headers::readable_headers;
use crate::settings;
use crate::telemetry::admin::{PollLoop, Readiness};

/// Records between two looks at the pressure and at what to hand over.
const BATCH: usize = 256;
/// How long a poll waits when there is nothing: bounds how late a stop or a resume is seen.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How often offsets are stored and windows looked at.
const KEEP_UP_EVERY: Duration = Duration::from_millis(200);
/// Under pressure, how long polling may rest before partitions are paused instead: pausing throws the client's prefetch
/// away, and most pressure is over sooner.
const REST_MAX: Duration = Duration::from_millis(200);
/// Between two looks while resting.
const REST: Duration = Duration::from_millis(2);

/// Where a consumer hands jobs over, and what tells it to stop.
#[derive(Clone)]
pub(crate) struct Handoff {
    /// One channel a shard.
    pub(crate) shards: Vec<mpsc::Sender<Vec<Job>>>,
    /// The path of a record.
    pub(crate) pipeline: Arc<Pipeline>,
    /// Whether to read on.
    pub(crate) pressure: Arc<Pressure>,
    /// Cancelled when the process stops.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the process can't go on.
    pub(crate) fatal: CancellationToken,
    /// Where the loop says that it comes round.
    pub(crate) condition: Arc<Readiness>,
}

impl Handoff {
    /// One empty batch a shard.
    pub(crate) fn batches(&self) -> Vec<Vec<Job>> {
        self.shards.iter().map(|_| Vec::new()).collect()
    }

    /// Hands over what is in `batches`. Blocks while a shard's channel is full: shards never wait for consumers.
    pub(crate) fn hand_over(&self, batches: &mut [Vec<Job>]) {
        for (shard, batch) in self.shards.iter().zip(batches) {
            if !batch.is_empty() && shard.blocking_send(std::mem::take(batch)).is_err() {
                // A shard ends before the consumers only when it panicked.
                tracing::error!("a shard is gone");
                self.fatal.cancel();
            }
        }
    }
}

/// The consumer of the events topic.
pub(crate) struct EventConsumer {
    consumer: BaseConsumer<GroupMember>,
    outlet: Handoff,
    /// By partition, as of `generation`.
    assignments: HashMap<i32, Arc<Assignment>>,
    generation: u64,
}

impl EventConsumer {
    /// Joins the group.
    ///
    /// # Errors
    /// A property that librdkafka refuses, or a topic name it does.
    pub(crate) fn subscribe(
        kafka: &settings::Kafka,
        topic: &str,
        membership: GroupMember,
        outlet: Handoff,
    ) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer<GroupMember> =
            consumer_config(kafka, "events", &kafka.group).create_with_context(membership)?;
        consumer.subscribe(&[topic])?;
        Ok(Self { consumer, outlet, assignments: HashMap::new(), generation: 0 })
    }

    /// The group membership, for the lag.
    pub(crate) fn membership(&self) -> Arc<GroupMember> {
        Arc::clone(self.consumer.context())
    }

    /// Consumes until told to stop, then drains. Blocks its thread.
    pub(crate) fn run(mut self) {
        let mut batches = self.outlet.batches();
        let mut kept_up = Instant::now();
        while !self.outlet.stop.is_cancelled() {
            if !self.wait_for_room() || !self.read_batch(&mut batches) {
                break;
            }
            self.outlet.hand_over(&mut batches);
            if kept_up.elapsed() >= KEEP_UP_EVERY {
                self.consumer.context().keep_up(&self.consumer, Reading::Go);
                self.outlet.condition.beat(PollLoop::Events);
                kept_up = Instant::now();
            }
        }
        self.outlet.condition.ended(PollLoop::Events);
        self.consumer.context().leave(&self.consumer);
        tracing::info!("the events consumer has drained");
    }

    /// Rests while enough is in memory; when that lasts, pauses the partitions and goes on polling.
    fn wait_for_room(&mut self) -> bool {
        let began = Instant::now();
        while self.outlet.pressure.reading() == Reading::Wait {
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
        while can_go_on && self.outlet.pressure.reading() == Reading::Wait && !self.outlet.stop.is_cancelled() {
            let membership = self.consumer.context();
            // Partitions that came since are paused too.
            if generation != Some(membership.generation()) {
                generation = Some(membership.generation());
                membership.pause_all(&self.consumer, true);
            }
            can_go_on = self.poll(Duration::from_millis(20), &mut batches).is_some();
            // A record that was on its way when its partition was paused.
            self.outlet.hand_over(&mut batches);
            self.consumer.context().keep_up(&self.consumer, Reading::Wait);
            self.outlet.condition.beat(PollLoop::Events);
        }
        self.consumer.context().pause_all(&self.consumer, false);
        can_go_on
    }

    /// Reads up to a batch, waiting only for its first record. Says whether the consumer can go on.
    fn read_batch(&mut self, batches: &mut [Vec<Job>]) -> bool {
        let mut wait = POLL_WAIT;
        for _ in 0..BATCH {
            match self.poll(wait, batches) {
                // What is at hand is taken together, but not beyond the bound: one event may be a mebibyte.
                Some(true) if self.outlet.pressure.is_over_bytes() => return true,
                Some(true) => wait = Duration::ZERO,
                Some(false) => return true,
                None => return false,
            }
        }
        true
    }

    /// Polls once. Says whether there was a record; nothing when the consumer can't go on.
    fn poll(&mut self, wait: Duration, batches: &mut [Vec<Job>]) -> Option<bool> {
        let message = match self.consumer.poll(wait) {
            None => return Some(false),
            Some(Err(error)) => {
                return self.consumer.context().poll_failed(&error, &self.outlet.fatal).then_some(false);
            }
            Some(Ok(message)) => message,
        };
        let membership = self.consumer.context();
        if self.generation != membership.generation() {
            self.generation = membership.generation();
            self.assignments =
                membership.assignments().into_iter().map(|assignment| (assignment.partition(), assignment)).collect();
        }
        if let Some(assignment) = self.assignments.get(&message.partition()) {
            self.outlet.pipeline.event(&record_of(&message), assignment, batches);
        } else {
            // Its partition went while the record was on its way: the next owner reads it.
            tracing::debug!(partition = message.partition(), "a record of a partition that is gone");
        }
        Some(true)
    }
}

fn record_of<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    let headers = message.headers().map(readable_headers).into_iter().flatten();
    let workspace = workspace_of(headers, message.key());
    Record {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key(),
        value: message.payload(),
        workspace,
    }
}
