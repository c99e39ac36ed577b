//! Fires scheduled webhooks: of all workers, the one that holds a webhook's partition of the integrations topic.
//!
//! The group is joined for its assignments alone: every partition is paused when it comes and nothing is read. It runs on its own thread,
//! which waits for shards when their channels are full and for nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use tokio::time::Instant;

use super::handoff::Handoff;
use super::lease::Lease;
use crate::clock;
use crate::domain::agenda::{Agenda, Held, Tick, TickDecision, partition_of};
use crate::domain::outcome::DropReason;
use crate::domain::table::{Rescheduled, Table};
use crate::domain::topic_names::schedule_group;
use crate::inflight::job::Job;
use crate::inflight::partition::Assignment;
use crate::kafka::client::{Logged, Own, schedule_consumer_config};
use crate::kafka::first_answer::is_away;
use crate::kafka::groups::leave_empty_handed;
use crate::kafka::listing::partitions_of;
use crate::settings;
use crate::telemetry::metrics::{Metrics, TickOutcome};
use crate::telemetry::readiness::PollLoop;
use crate::telemetry::repeats::Repeats;

/// The longest poll: bounds how late a stop, a change of a schedule or a rebalance is seen.
const POLL_MAX: Duration = Duration::from_millis(100);
/// The shortest poll: ticks that are closer together are fired together.
const POLL_MIN: Duration = Duration::from_millis(5);
/// Jobs handed over at a time.
const BATCH: usize = 256;
/// Between two warnings that Kafka does not say how many partitions there are.
const WARN_EVERY: Duration = Duration::from_mins(1);
/// How long the brokers may take to say how many partitions there are. No tick is fired meanwhile.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// librdkafka's name for its connection to the group's coordinator.
const COORDINATOR: &str = "GroupCoordinator";

/// What the callbacks change.
pub(crate) struct TickMember {
    held: Mutex<Held>,
    /// When the coordinator was last heard of.
    heard: Mutex<Option<Instant>>,
    /// Grows with every rebalance.
    generation: AtomicU64,
}

impl TickMember {
    fn new() -> Self {
        Self { held: Mutex::default(), heard: Mutex::default(), generation: AtomicU64::new(1) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock()
    }

    fn assigned(&self, consumer: &BaseConsumer<Logged<Self>>, partitions: &TopicPartitionList) {
        if let Err(error) = consumer.pause(partitions) {
            tracing::warn!(%error, "partitions held for their schedules could not be paused");
        }
        let now_ms = clock::now_ms();
        let mut held = self.held();
        partitions.elements().iter().for_each(|element| held.add(element.partition(), now_ms));
        drop(held);
        tracing::info!(partitions = partitions.count(), "the schedules of these partitions are fired here");
    }

    fn revoked(&self, partitions: &TopicPartitionList) {
        let mut held = self.held();
        partitions.elements().iter().for_each(|element| held.remove(element.partition()));
        drop(held);
        tracing::info!(partitions = partitions.count(), "the schedules of these partitions are fired elsewhere");
    }
}

impl Own for TickMember {
    fn stats(&self, statistics: Statistics) {
        // A negative time means that nothing was received since the last connection: what was heard before stays the latest.
        let idle = statistics.brokers.get(COORDINATOR).and_then(|broker| u64::try_from(broker.rxidle).ok());
        if let Some(heard) = idle.and_then(|micros| Instant::now().checked_sub(Duration::from_micros(micros))) {
            *self.heard() = Some(heard);
        }
    }
}

impl ConsumerContext for Logged<TickMember> {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoked(partitions),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "a rebalance of the schedules failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assigned(consumer, partitions);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Fires the scheduled webhooks that this worker holds.
pub(crate) struct TickScheduler {
    consumer: BaseConsumer<Logged<TickMember>>,
    group: String,
    topic: String,
    outlet: Handoff,
    table: Arc<RwLock<Table>>,
    metrics: Arc<Metrics>,
    agenda: Agenda,
    /// Bounds what is logged while Kafka does not answer.
    repeats: Repeats,
    lease: Lease,
    /// Partitions of the topic, as of `generation`. `None`: not known.
    partitions: Option<u32>,
    generation: u64,
    /// Ticks begin while this is open.
    firing: Arc<Assignment>,
    drain_timeout: Duration,
    /// Whether the lease was valid at the last look, for the log.
    acted: bool,
}

impl TickScheduler {
    /// Joins the group of the schedules.
    ///
    /// # Errors
    /// A property that librdkafka refuses, or a topic name it does.
    pub(crate) fn subscribe(
        kafka: &settings::Kafka,
        topic: &str,
        table: Arc<RwLock<Table>>,
        outlet: Handoff,
        metrics: Arc<Metrics>,
        drain_timeout: Duration,
    ) -> Result<Self, KafkaError> {
        let group = schedule_group(&kafka.group);
        let config = schedule_consumer_config(kafka, "schedules", &group);
        let session_timeout = config.get("session.timeout.ms").and_then(|ms| ms.parse().ok());
        let consumer: BaseConsumer<Logged<TickMember>> =
            config.create_with_context(Logged::new("schedules", TickMember::new()))?;
        consumer.subscribe(&[topic])?;
        Ok(Self {
            consumer,
            group,
            topic: topic.to_owned(),
            outlet,
            table,
            metrics,
            agenda: Agenda::new(clock::now_ms()),
            repeats: Repeats::every(WARN_EVERY),
            lease: Lease::new(Duration::from_millis(session_timeout.unwrap_or(6_000))),
            partitions: None,
            generation: 0,
            firing: Assignment::new(topic.into(), -1),
            drain_timeout,
            acted: true,
        })
    }

    /// Fires until asked to stop, leaves, and waits for the ticks under way. Blocks its thread.
    pub(crate) fn run(mut self) {
        let mut batches = self.outlet.batches();
        while !self.outlet.stop.is_cancelled() {
            if !self.poll() {
                break;
            }
            self.look(&mut batches);
            self.outlet.condition.beat(PollLoop::Schedules);
        }
        self.outlet.condition.ended(PollLoop::Schedules);
        self.firing.close();
        let rounds = || self.consumer.context().generation.load(Ordering::Acquire) - 1;
        leave_empty_handed(&self.consumer, &self.group, rounds);
        // The next owner begins while the requests under way here end.
        drop(self.consumer);
        if !self.firing.wait_quiet(self.drain_timeout) {
            tracing::warn!("scheduled requests were still under way at the drain timeout");
        }
        tracing::info!("the schedules have drained");
    }

    /// Serves the group until the next tick comes, or something else needs a look. Returns whether it can go on.
    fn poll(&self) -> bool {
        let until = self.agenda.next_ms().map_or(i64::MAX, |next| next.saturating_sub(clock::now_ms()));
        let wait = Duration::from_millis(u64::try_from(until).unwrap_or(0)).clamp(POLL_MIN, POLL_MAX);
        match self.consumer.poll(wait) {
            // A record that was on its way when its partition was paused: this member does not use it.
            None | Some(Ok(_)) => true,
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                tracing::error!(%error, "the consumer of the schedules cannot go on");
                self.outlet.fatal.cancel();
                false
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a poll of the schedules failed");
                true
            }
        }
    }

    fn look(&mut self, batches: &mut [Vec<Job>]) {
        self.count_partitions();
        self.follow_table();
        self.lease.heard(*self.consumer.context().heard());
        let is_valid = self.lease.is_valid(Instant::now());
        if is_valid != self.acted && !self.agenda.is_empty() {
            self.acted = is_valid;
            tracing::info!(valid = is_valid, "lease on scheduled webhooks changed");
        }
        let now_ms = clock::now_ms();
        if self.agenda.is_set_back(now_ms) {
            tracing::warn!("the clock was set back: schedules begin again at the time it shows");
            self.agenda.restart(now_ms);
            self.consumer.context().held().set_back(now_ms);
        }
        let mut jobs = 0;
        for tick in self.agenda.take_due(now_ms) {
            let Some((partition, decision)) = self.decide(&tick, now_ms, is_valid) else { continue };
            match decision {
                TickDecision::Leave => continue,
                TickDecision::Drop(reason) => self.drop_ticks(reason, tick.skipped + 1),
                TickDecision::Fire => {
                    self.drop_ticks(DropReason::TickMissed, tick.skipped);
                    self.outlet.pipeline.tick(&tick, partition, &self.firing, batches);
                    jobs += 1;
                }
            }
            if jobs == BATCH {
                jobs = 0;
                self.outlet.hand_over(batches);
            }
        }
        self.outlet.hand_over(batches);
    }

    /// What becomes of a tick, and the partition it belongs to. `None` while the partitions are not known.
    fn decide(&self, tick: &Tick, now_ms: i64, is_valid: bool) -> Option<(i32, TickDecision)> {
        let partition = partition_of(tick.of()?, self.partitions?);
        let held_since = self.consumer.context().held().since_ms(partition);
        let decision = match tick.decide(held_since, now_ms) {
            TickDecision::Fire if !is_valid || !self.outlet.pressure.takes_ticks() => {
                TickDecision::Drop(DropReason::TickMissed)
            }
            decision => decision,
        };
        Some((partition, decision))
    }

    fn drop_ticks(&self, reason: DropReason, count: u64) {
        for _ in 0..count {
            self.metrics.drop_delivery(reason);
            self.metrics.tick(TickOutcome::Dropped);
        }
    }

    /// Asks how many partitions there are, once for each rebalance, so that all members ask at the same time.
    fn count_partitions(&mut self) {
        let generation = self.consumer.context().generation.load(Ordering::Acquire);
        if generation == self.generation && self.partitions.is_some() {
            return;
        }
        self.generation = generation;
        self.partitions = match partitions_of(self.consumer.client(), &self.topic, METADATA_TIMEOUT) {
            Ok(partitions) => u32::try_from(partitions.len()).ok().filter(|count| *count > 0),
            Err(error) => {
                if is_away(&error) {
                    // The client says once for the whole process that no broker answers.
                    tracing::debug!(topic = self.topic, %error, "the partitions are not known; no schedule is fired");
                } else if let Some(repeats) = self.repeats.of("partitions") {
                    let topic = &self.topic;
                    tracing::warn!(topic, %error, repeats, "the partitions are not known; no schedule is fired");
                }
                None
            }
        };
    }

    /// Takes over changes of schedules.
    fn follow_table(&mut self) {
        if !self.table.read().is_rescheduled() {
            return;
        }
        let mut table = self.table.write();
        match table.take_rescheduled() {
            Rescheduled::Everything => {
                self.agenda.clear();
                for integration in table.iter().filter(|integration| integration.has_schedule()) {
                    self.agenda.follow(integration.key(), Some(integration));
                }
            }
            Rescheduled::Only(keys) => {
                for key in keys {
                    self.agenda.follow(&key, table.get(&key));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::statistics::Broker;

    fn membership() -> TickMember {
        TickMember::new()
    }

    fn statistics(broker: &str, rxidle: i64) -> Statistics {
        let broker = (broker.to_owned(), Broker { rxidle, ..Broker::default() });
        Statistics { brokers: [broker].into(), ..Statistics::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_coordinator_is_heard_of_when_it_last_answered() {
        tokio::time::advance(Duration::from_mins(1)).await;
        let membership = membership();
        membership.stats(statistics("localhost:9092/1", 0));
        assert_eq!(*membership.heard(), None, "another broker does not count");
        membership.stats(statistics(COORDINATOR, -1));
        assert_eq!(*membership.heard(), None);
        membership.stats(statistics(COORDINATOR, 1_500_000));
        let heard = Instant::now() - Duration::from_millis(1_500);
        assert_eq!(*membership.heard(), Some(heard));
        tokio::time::advance(Duration::from_secs(3)).await;
        membership.stats(statistics(COORDINATOR, -1));
        assert_eq!(*membership.heard(), Some(heard), "connected again, and nothing heard yet");
    }
}
