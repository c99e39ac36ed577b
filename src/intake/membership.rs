//! A member of a consumer group: which partitions it holds, what it commits, how it gives them up.
//!
//! One thread polls the consumer, always; rebalance callbacks run on it and may wait there. When a partition is given up
//! nothing later of it begins any more, what was begun and what comes before it may end (bounded), and the settled prefix
//! is committed before the next owner starts. Offsets are stored explicitly and committed by the client every second; they never move backwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Reading;
use crate::kafka::client::ClientLog;
use crate::telemetry::metrics::Metrics;

/// A partition that this member holds.
#[derive(Debug)]
struct Held {
    assignment: Arc<Assignment>,
    /// What was last stored for commit.
    stored: Option<i64>,
    /// Paused because its window is full.
    paused: bool,
}

type Partition = (Arc<str>, i32);

/// What the group knows and the callbacks change.
pub(crate) struct GroupMember {
    log: ClientLog,
    held: Mutex<BTreeMap<Partition, Held>>,
    /// Grows with every change of `held`.
    generation: AtomicU64,
    metrics: Arc<Metrics>,
    drain_timeout: Duration,
}

/// How many records a partition may have between its settled prefix and the last one read: wide enough that receivers
/// which time out do not stop the partition, at 16 bytes a record.
const WINDOW: usize = 100_000;

/// Together the two seconds that a coordinator may need to hand out an assignment.
const COMMIT_TRIES: u32 = 20;
/// Between two tries.
const COMMIT_AGAIN_AFTER: Duration = Duration::from_millis(100);

impl GroupMember {
    /// Of a member that holds nothing yet. `role` names it in logs.
    pub(crate) fn new(role: &'static str, metrics: Arc<Metrics>, drain_timeout: Duration) -> Self {
        Self {
            log: ClientLog::new(role),
            held: Mutex::default(),
            generation: AtomicU64::new(0),
            metrics,
            drain_timeout,
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Partition, Held>> {
        self.held.lock()
    }

    /// Changes whenever partitions come or go.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The assignments held now.
    pub(crate) fn assignments(&self) -> Vec<Arc<Assignment>> {
        self.held().values().map(|held| Arc::clone(&held.assignment)).collect()
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut held = self.held();
        for element in partitions.elements() {
            let key: Partition = (element.topic().into(), element.partition());
            let assignment = Assignment::new(Arc::clone(&key.0), key.1);
            held.insert(key, Held { assignment, stored: None, paused: false });
        }
        drop(held);
        self.generation.fetch_add(1, Ordering::AcqRel);
        // A cooperative rebalance also tells members that nothing comes to them.
        if partitions.count() == 0 {
            return;
        }
        self.metrics.intake.rebalances_assigned.inc();
        tracing::info!(group_member = self.log.role(), partitions = partitions.count(), "partitions assigned");
        // A partition stays paused over a rebalance if it was paused before.
        if let Err(error) = consumer.resume(partitions) {
            tracing::warn!(%error, "assigned partitions could not be resumed");
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let leaving: Vec<_> = {
            let mut held = self.held();
            let keys = partitions.elements().into_iter().map(|element| (element.topic().into(), element.partition()));
            keys.filter_map(|key: Partition| held.remove(&key)).map(|held| held.assignment).collect()
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        if leaving.is_empty() {
            return;
        }
        let lost = consumer.assignment_lost();
        if lost {
            self.metrics.intake.rebalances_lost.inc();
        } else {
            self.metrics.intake.rebalances_revoked.inc();
        }
        tracing::info!(group_member = self.log.role(), partitions = leaving.len(), lost, "partitions revoked");
        for assignment in &leaving {
            assignment.close();
        }
        // Of a lost partition somebody else is the owner already: nothing to wait for, nothing to commit.
        if !lost {
            self.give_up(consumer, &leaving);
        }
    }

    /// Waits for what is under way and commits the settled prefixes.
    fn give_up(&self, consumer: &BaseConsumer<Self>, leaving: &[Arc<Assignment>]) {
        let deadline = Instant::now() + self.drain_timeout;
        let unfinished = leaving
            .iter()
            .filter(|assignment| !assignment.wait_quiet(deadline.saturating_duration_since(Instant::now())))
            .count();
        if unfinished > 0 {
            tracing::warn!(
                group_member = self.log.role(),
                partitions = unfinished,
                "requests were still under way at the drain timeout; the next owner makes them again"
            );
        }
        let mut offsets = TopicPartitionList::new();
        for assignment in leaving {
            if let Some(offset) = assignment.committable() {
                add_offset(&mut offsets, assignment, offset);
            }
        }
        if offsets.count() == 0 {
            return;
        }
        // The client commits what was stored once more when the partitions go: without this it would be what was settled
        // before the wait, and the next owner would repeat all since.
        if let Err(error) = consumer.store_offsets(&offsets) {
            tracing::warn!(group_member = self.log.role(), %error, "the last offsets were not stored");
        }
        match commit_now(consumer, &offsets) {
            Ok(()) => self.metrics.intake.commits_ok.inc(),
            Err(error) => {
                self.metrics.intake.commits_failed.inc();
                tracing::warn!(group_member = self.log.role(), %error, "the last commit failed; the next owner repeats what it covered");
            }
        }
    }

    /// Stores what may be committed, and pauses and resumes partitions by their windows. Nothing is resumed while `reading`
    /// is to wait.
    pub(crate) fn keep_up(&self, consumer: &BaseConsumer<Self>, reading: Reading) {
        let mut offsets = TopicPartitionList::new();
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        for ((topic, partition), held) in self.held().iter_mut() {
            let committable = held.assignment.committable();
            if let Some(offset) = committable.filter(|_| committable != held.stored) {
                add_offset(&mut offsets, &held.assignment, offset);
                held.stored = committable;
            }
            let span = held.assignment.unsettled_len();
            if !held.paused && span >= WINDOW {
                held.paused = true;
                pause.add_partition(topic, *partition);
            } else if held.paused && span < WINDOW / 2 && reading == Reading::Go {
                held.paused = false;
                resume.add_partition(topic, *partition);
            }
        }
        if offsets.count() > 0
            && let Err(error) = consumer.store_offsets(&offsets)
        {
            // A partition that is being taken away takes no offsets any more; its revocation commits them.
            tracing::debug!(%error, "offsets were not stored");
        }
        for (list, done) in [(&pause, consumer.pause(&pause)), (&resume, consumer.resume(&resume))] {
            if let (Err(error), true) = (done, list.count() > 0) {
                tracing::warn!(%error, "partitions could not be paused or resumed");
            }
        }
    }

    /// Pauses or resumes all partitions whose window does not hold them paused.
    pub(crate) fn pause_all(&self, consumer: &BaseConsumer<Self>, paused: bool) {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), held) in self.held().iter() {
            if !held.paused {
                list.add_partition(topic, *partition);
            }
        }
        let count = i64::try_from(list.count()).unwrap_or(i64::MAX);
        let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
        match done {
            Ok(()) => self.metrics.intake.paused_partitions.set(if paused { count } else { 0 }),
            Err(error) => tracing::warn!(%error, paused, "partitions could not be paused or resumed"),
        }
    }

    /// Gives up everything: the process stops.
    pub(crate) fn leave(&self, consumer: &BaseConsumer<Self>) {
        let leaving = self.assignments();
        for assignment in &leaving {
            assignment.close();
        }
        self.give_up(consumer, &leaving);
        self.held().clear();
    }

    /// Deals with an error of a poll. Says whether the consumer can go on.
    pub(crate) fn poll_failed(&self, error: &KafkaError, fatal: &CancellationToken) -> bool {
        self.metrics.kafka_errors.inc();
        if let KafkaError::MessageConsumptionFatal(_) = error {
            tracing::error!(group_member = self.log.role(), %error, "the consumer can not go on");
            fatal.cancel();
            return false;
        }
        tracing::debug!(group_member = self.log.role(), %error, "a poll failed");
        true
    }
}

/// Commits and waits for the answer. While the members of a group agree on a new assignment, its coordinator takes no
/// commits: that is over soon, without this thread.
fn commit_now(consumer: &BaseConsumer<GroupMember>, offsets: &TopicPartitionList) -> KafkaResult<()> {
    let mut tries = COMMIT_TRIES;
    loop {
        let committed = consumer.commit(offsets, CommitMode::Sync);
        tries -= 1;
        match committed {
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::RebalanceInProgress)) if tries > 0 => {
                #[expect(clippy::disallowed_methods, reason = "the consumer's own thread, which waits here anyway")]
                std::thread::sleep(COMMIT_AGAIN_AFTER);
            }
            committed => return committed,
        }
    }
}

fn add_offset(list: &mut TopicPartitionList, assignment: &Assignment, offset: i64) {
    if let Err(error) = list.add_partition_offset(assignment.topic(), assignment.partition(), Offset::Offset(offset)) {
        tracing::error!(%error, "an offset could not be listed");
    }
}

impl ClientContext for GroupMember {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for GroupMember {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(group_member = self.log.role(), %error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assigned(consumer, partitions);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) => self.metrics.intake.commits_ok.inc(),
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => {
                self.metrics.intake.commits_failed.inc();
                tracing::warn!(group_member = self.log.role(), %error, "a commit failed and comes again");
            }
        }
    }
}
