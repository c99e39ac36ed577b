//! A member of a consumer group: which partitions it holds, what it commits, how it gives them up.
//!
//! The member has a thread and a client of its own, which read no records: whatever a rebalance has to wait for, the
//! partitions that stay are read on by [`super::reader`]. The path of a record does not belong here.
//!
//! What is settled is committed ten times a second: see [`commits`]. When a partition is given up nothing later of it begins any more.
//! What was begun, and what comes before that, may end, within a bound. What is settled is committed before the next owner starts.

mod commits;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::commits::Contact;
use super::begun::Begun;
use super::group_offsets::{OFFSETS_TIMEOUT, Partition, commit_now, ends_of, metadata_of};
use crate::inflight::partition::{Assignment, Progress};
use crate::inflight::settled_runs::{self, ClusterTag, RUNS_MAX, TEXT_MAX};
use crate::kafka::client::{Logged, Own};
use crate::kafka::groups::{join_next_round_at_once, leave_empty_handed, wake};
use crate::kafka::waits::whole_millis;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;

/// The property that sets how often settled offsets are committed, where something has changed. Its default is [`COMMIT_EVERY`].
const COMMIT_INTERVAL: &str = "auto.commit.interval.ms";
/// How often settled offsets are committed: a crash repeats what was settled within this time.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// How long a poll waits: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How often the client is woken while there is nothing to commit. A commit wakes it too. It sends heartbeats as often.
const WAKE_EVERY: Duration = Duration::from_millis(500);
/// How long the coordinator may take to answer a member that was given nothing yet. It is asked again at the next turn.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the brokers may take to name their cluster. It is asked for once. Without an answer commits hold offsets only.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a partition begins again whose log is not the one that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recreated {
    /// The offset to read from.
    pub(super) start: i64,
    /// The first offset of which the record that was read is lost.
    pub(super) lost_from: i64,
}

#[derive(Debug)]
struct Held {
    assignment: Arc<Assignment>,
    /// The [`Progress::changes`] that are committed.
    committed: u64,
}

/// Beyond the drain, how long a consumer may take to commit and to leave its group.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(10);

/// The context of a group's client: logs for it, and holds what its callbacks change.
pub(crate) type GroupMember = Logged<MemberState>;
pub(crate) type GroupConsumer = BaseConsumer<GroupMember>;

/// Which partitions a member holds, and what is committed of them.
pub(crate) struct MemberState {
    role: &'static str,
    repeats: Repeats,
    held: Mutex<BTreeMap<Partition, Held>>,
    /// Partitions that were assigned and whose committed offset is not known yet.
    awaited: Mutex<Vec<Partition>>,
    /// Partitions that begin again at another offset.
    begun_again: Mutex<Vec<(Partition, Recreated)>>,
    /// Grows with every change of `held`.
    generation: AtomicU64,
    /// How far it has come since it began to join.
    pub(super) begun: Begun,
    /// The cluster's id, once it was asked for. `None`: it is not known.
    cluster: OnceLock<Option<ClusterTag>>,
    /// How long the metadata of a commit may be.
    text_max: AtomicUsize,
    contact: Mutex<Contact>,
    metrics: Arc<Metrics>,
    drain_timeout: Duration,
}

/// The membership of a group: polls its client and commits, on a thread of its own.
pub(crate) struct Membership {
    consumer: GroupConsumer,
    group: String,
    /// One of the topics that it subscribes to.
    topic: String,
    /// Whether the group protocol is `consumer`. Its group gives a member what is free at once and sends no empty assignment, so a member
    /// that holds nothing has joined once its coordinator answers.
    is_uninformed: bool,
    commit_every: Duration,
    stop: CancellationToken,
    fatal: CancellationToken,
}

impl Membership {
    /// Joins the group that `config` names for the partitions of `topics`. It leaves when `stop` is cancelled, and cancels
    /// `fatal` when it can't go on.
    ///
    /// # Errors
    /// A property that librdkafka refuses, or a topic name it does.
    pub(crate) fn join(
        config: &ClientConfig,
        topics: &[&str],
        member: GroupMember,
        stop: CancellationToken,
        fatal: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let consumer: GroupConsumer = config.create_with_context(member)?;
        consumer.subscribe(topics)?;
        let interval = config.get(COMMIT_INTERVAL).and_then(|ms| ms.parse().ok());
        let commit_every = interval.map_or(COMMIT_EVERY, Duration::from_millis);
        let protocol = config.get("group.protocol");
        let is_uninformed = protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"));
        let group = config.get("group.id").unwrap_or_default().to_owned();
        let topic = topics.first().copied().unwrap_or_default().to_owned();
        Ok(Self { consumer, group, topic, is_uninformed, commit_every, stop, fatal })
    }

    pub(crate) fn member(&self) -> Arc<GroupMember> {
        Arc::clone(self.consumer.context())
    }

    /// Serves the group until asked to stop, then drains, commits and leaves. Blocks its thread.
    pub(crate) fn run(self) {
        let member = self.consumer.context();
        let mut committed = Instant::now();
        let mut asks = self.is_uninformed;
        let (mut round, mut woken) = (0, Instant::now());
        while !self.stop.is_cancelled() {
            let until_commit = self.commit_every.saturating_sub(committed.elapsed());
            match self.consumer.poll(whole_millis(POLL_WAIT.min(until_commit))) {
                Some(Err(error)) if !member.poll_failed(&error, &self.fatal) => break,
                // A record that was on its way when its partition was paused: the reader reads it too.
                None | Some(Ok(_) | Err(_)) => {}
            }
            asks = asks && member.begun.rounds() == 0 && !self.is_answered();
            member.begin_awaited(&self.consumer);
            member.take_begun_again(&self.consumer);
            if round != member.begun.rounds() {
                round = member.begun.rounds();
                join_next_round_at_once(&self.consumer, &self.topic);
            }
            // The other members wait until a new member has heard of the round in which it is given partitions.
            if !member.has_begun() || woken.elapsed() >= WAKE_EVERY {
                wake(&self.consumer);
                woken = Instant::now();
            }
            if committed.elapsed() >= self.commit_every {
                member.commit_settled(&self.consumer, &[]);
                committed = Instant::now();
            }
        }
        leave_empty_handed(&self.consumer, &self.group, || member.begun.rounds());
        member.leave(&self.consumer);
        tracing::info!(group_member = member.role, "the group member has drained");
    }

    /// Asks the coordinator, and waits for a bounded time. Returns whether it answered: then the member has joined.
    fn is_answered(&self) -> bool {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic, 0);
        match self.consumer.committed_offsets(asked, COORDINATOR_TIMEOUT) {
            Ok(_) => self.consumer.context().begun.joined(),
            Err(error) => {
                tracing::debug!(group = self.group, %error, "the coordinator has not answered yet");
                return false;
            }
        }
        true
    }
}

impl MemberState {
    /// A member that holds nothing yet. `role` names it in logs.
    pub(crate) fn member(role: &'static str, metrics: Arc<Metrics>, drain_timeout: Duration) -> GroupMember {
        let state = Self {
            role,
            repeats: Repeats::default(),
            held: Mutex::default(),
            awaited: Mutex::default(),
            begun_again: Mutex::default(),
            generation: AtomicU64::new(0),
            begun: Begun::default(),
            cluster: OnceLock::new(),
            text_max: AtomicUsize::new(TEXT_MAX),
            contact: Mutex::default(),
            metrics,
            drain_timeout,
        };
        Logged::new(role, state)
    }

    /// How long the group's consumer may take to end what is under way, to commit and to leave.
    pub(crate) fn leave_max(&self) -> Duration {
        self.drain_timeout + LEAVE_MAX
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Partition, Held>> {
        self.held.lock()
    }

    fn awaited(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.awaited.lock()
    }

    /// Whether it reads what the group gave it, or the group has nothing for it.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_done(Instant::now())
    }

    /// Changes whenever partitions come or go.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Holds a partition that no group gave it.
    #[cfg(test)]
    pub(super) fn hold(&self, assignment: Arc<Assignment>) {
        let key = (Arc::clone(assignment.topic()), assignment.partition());
        self.held().insert(key, Held { assignment, committed: 0 });
    }

    pub(crate) fn assignments(&self) -> Vec<Arc<Assignment>> {
        self.held().values().map(|held| Arc::clone(&held.assignment)).collect()
    }

    fn assigned(&self, consumer: &GroupConsumer, partitions: &TopicPartitionList) {
        self.begun.joined();
        // A cooperative rebalance also calls members that get nothing.
        if partitions.count() == 0 {
            return;
        }
        self.begun.given(true);
        if let Err(error) = consumer.pause(partitions) {
            tracing::warn!(group_member = self.role, %error, "partitions that another client reads could not be paused");
        }
        let keys = partitions.elements().into_iter().map(|element| (element.topic().into(), element.partition()));
        self.awaited().extend(keys);
        self.metrics.intake.rebalances_assigned.inc();
        tracing::info!(group_member = self.role, partitions = partitions.count(), "partitions assigned");
        self.begin_awaited(consumer);
    }

    /// Asks where new partitions were left off and lets them be read from there. Without an answer it asks again at the next turn.
    fn begin_awaited(&self, consumer: &GroupConsumer) {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in self.awaited().iter() {
            asked.add_partition(topic, *partition);
        }
        if asked.count() == 0 {
            return;
        }
        let answered = match consumer.committed_offsets(asked, OFFSETS_TIMEOUT) {
            Ok(answered) => answered,
            Err(error) => return self.offsets_unknown(&error),
        };
        let cluster = self.cluster(consumer);
        let ends = ends_of(consumer, &answered);
        let mut held = self.held();
        let mut awaited = self.awaited();
        for element in answered.elements() {
            if let Err(error) = element.error() {
                self.offsets_unknown(&error);
                continue;
            }
            let key: Partition = (element.topic().into(), element.partition());
            awaited.retain(|other| *other != key);
            let start = match element.offset() {
                Offset::Offset(offset) => Some(self.within_log(offset, &key, &ends)),
                _ => None,
            };
            let settled = match (start, cluster) {
                (Some(start), Some(cluster)) => settled_runs::decode(cluster, start, &metadata_of(&element)),
                _ => Vec::new(),
            };
            let assignment = Assignment::resumed(Arc::clone(&key.0), key.1, start, settled);
            held.insert(key, Held { assignment, committed: 0 });
        }
        drop((held, awaited));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Logs that offsets are not known, but not at every turn.
    fn offsets_unknown(&self, error: &KafkaError) {
        let text = error.to_string();
        if let Some(repeats) = self.repeats.of(&text) {
            tracing::warn!(
                group_member = self.role,
                error = text,
                repeats,
                "where partitions were left off is not known; asking again"
            );
        }
    }

    /// Has a partition that is held read from another offset on, an earlier one too. The member's own thread does it.
    pub(super) fn begin_again(&self, topic: &str, partition: i32, recreated: Recreated) {
        let mut begun_again = self.begun_again.lock();
        begun_again.retain(|((of, other), _)| (&**of, *other) != (topic, partition));
        begun_again.push(((topic.into(), partition), recreated));
    }

    /// Commits where the partitions begin again, and gives each a new assignment. What could not be committed is tried at
    /// the next turn: a crash before the commit would go on at the old offset.
    fn take_begun_again(&self, consumer: &GroupConsumer) {
        let wanted = std::mem::take(&mut *self.begun_again.lock());
        for (key, recreated) in wanted {
            let start = recreated.start;
            let Some(before) = self.held().get(&key).map(|held| Arc::clone(&held.assignment)) else { continue };
            let assignment = Assignment::resumed(Arc::clone(&key.0), key.1, Some(start), Vec::new());
            let mut offsets = TopicPartitionList::new();
            self.list(&mut offsets, &assignment, &Progress { offset: start, beyond: Vec::new(), changes: 0 });
            if let Err(error) = consumer.commit(&offsets, CommitMode::Sync) {
                self.commit_failed(&error);
                self.begun_again.lock().push((key, recreated));
                continue;
            }
            // First, so that no reader forgets what it holds of the former log before it can see what is lost.
            before.end_with_its_log(recreated.lost_from);
            self.held().insert(key, Held { assignment, committed: 0 });
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn cluster(&self, consumer: &GroupConsumer) -> Option<ClusterTag> {
        *self.cluster.get_or_init(|| {
            let id = consumer.client().fetch_cluster_id(CLUSTER_TIMEOUT);
            if id.is_none() {
                tracing::warn!(group_member = self.role, "the brokers do not say the cluster's id; a crash repeats what is settled beyond the committed offsets");
            }
            id.map(|id| ClusterTag::of(&id))
        })
    }

    /// The committed offset, or the log's end where the log has lost its last records: they were delivered already.
    fn within_log(&self, committed: i64, key: &Partition, ends: &BTreeMap<Partition, i64>) -> i64 {
        match ends.get(key) {
            Some(end) if *end < committed => {
                let (topic, partition) = (&*key.0, key.1);
                tracing::error!(
                    group_member = self.role,
                    topic,
                    partition,
                    committed,
                    end,
                    "the log ends before the group's offset: records were lost in Kafka, and reading goes on at the end"
                );
                self.metrics.intake.logs_changed.with_label_values(&["truncated"]).inc();
                *end
            }
            _ => committed,
        }
    }

    fn revoked(&self, consumer: &GroupConsumer, partitions: &TopicPartitionList) {
        let leaving: Vec<Held> = {
            let (mut held, mut awaited) = (self.held(), self.awaited());
            let keys = partitions.elements().into_iter().map(|element| (element.topic().into(), element.partition()));
            keys.filter_map(|key: Partition| {
                awaited.retain(|other| *other != key);
                held.remove(&key)
            })
            .collect()
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.begun.given(!self.held().is_empty() || !self.awaited().is_empty());
        if leaving.is_empty() {
            return;
        }
        let lost = consumer.assignment_lost();
        if lost {
            self.metrics.intake.rebalances_lost.inc();
        } else {
            self.metrics.intake.rebalances_revoked.inc();
        }
        tracing::info!(group_member = self.role, partitions = leaving.len(), lost, "partitions revoked");
        for held in &leaving {
            held.assignment.close();
        }
        if lost {
            self.forget_silence();
            // They have another owner already: there is nothing to wait for and nothing to commit.
            for held in &leaving {
                held.assignment.end();
            }
        } else {
            self.give_up(consumer, &leaving);
            for held in &leaving {
                held.assignment.hand_over();
            }
        }
    }

    /// Waits for what is under way and commits what is settled. What stays is committed meanwhile.
    fn give_up(&self, consumer: &GroupConsumer, leaving: &[Held]) {
        let deadline = Instant::now() + self.drain_timeout;
        let unfinished = leaving.iter().filter(|held| !self.wait_quiet(consumer, held, leaving, deadline)).count();
        if unfinished > 0 {
            tracing::warn!(
                group_member = self.role,
                partitions = unfinished,
                "requests were still under way at the drain timeout; the next owner makes them again"
            );
        }
        let mut offsets = TopicPartitionList::new();
        for held in leaving {
            // Everything is listed, whatever was committed before: this is the last commit.
            if let Some(progress) = held.assignment.progress(0, RUNS_MAX) {
                self.list(&mut offsets, &held.assignment, &progress);
            }
        }
        if offsets.count() == 0 {
            return;
        }
        match commit_now(consumer, &offsets) {
            Ok(()) => self.metrics.intake.commits_ok.inc(),
            Err(error) => {
                self.metrics.intake.commits_failed.inc();
                tracing::warn!(group_member = self.role, %error, "the last commit failed; the next owner repeats what it covered");
            }
        }
    }

    /// Returns whether nothing of `held` was under way by the deadline. Commits go on meanwhile, so a crash repeats no more than at any
    /// other time.
    fn wait_quiet(&self, consumer: &GroupConsumer, held: &Held, leaving: &[Held], deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if held.assignment.wait_quiet(left.min(COMMIT_EVERY)) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            self.commit_settled(consumer, leaving);
        }
    }

    /// Gives up everything: the process stops.
    fn leave(&self, consumer: &GroupConsumer) {
        let leaving: Vec<Held> = std::mem::take(&mut *self.held()).into_values().collect();
        self.awaited().clear();
        self.generation.fetch_add(1, Ordering::AcqRel);
        for held in &leaving {
            held.assignment.close();
        }
        self.give_up(consumer, &leaving);
        for held in &leaving {
            held.assignment.hand_over();
        }
    }

    /// Deals with an error of a poll. Returns whether the consumer can go on.
    pub(crate) fn poll_failed(&self, error: &KafkaError, fatal: &CancellationToken) -> bool {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            let role = self.role;
            if matches!(code, RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId) {
                tracing::error!(group_member = role, %error, "another process has this instance id");
            }
            tracing::error!(group_member = role, %error, "the consumer cannot go on");
            fatal.cancel();
            return false;
        }
        tracing::debug!(group_member = self.role, %error, "a poll failed");
        true
    }
}

impl Own for MemberState {}

impl ConsumerContext for GroupMember {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(group_member = self.role, %error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assigned(consumer, partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;

    fn member() -> GroupMember {
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        MemberState::member("events", metrics, Duration::ZERO)
    }

    #[test]
    fn a_member_whose_coordinator_has_not_answered_has_not_begun_in_either_protocol() {
        for protocol in ["classic", "consumer"] {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", "127.0.0.1:1").set("group.id", "g").set("group.protocol", protocol);
            let (stop, fatal) = (CancellationToken::new(), CancellationToken::new());
            let membership = Membership::join(&config, &["events"], member(), stop, fatal).unwrap();
            assert!(!membership.member().begun.is_done(Instant::now() + Duration::from_hours(1)), "{protocol}");
        }
    }

    #[test]
    fn reading_begins_at_the_end_of_a_log_that_lost_the_committed_offset() {
        let (member, key) = (member(), (Arc::from("events"), 3));
        let ends = |end| BTreeMap::from([(key.clone(), end)]);
        assert_eq!(member.within_log(100, &key, &ends(90)), 90);
        assert_eq!(member.metrics.intake.logs_changed.with_label_values(&["truncated"]).get(), 1);
        for ends in [ends(100), ends(101), BTreeMap::new()] {
            assert_eq!(member.within_log(100, &key, &ends), 100);
        }
        assert_eq!(member.metrics.intake.logs_changed.with_label_values(&["truncated"]).get(), 1);
    }

    #[test]
    fn a_commit_names_settled_runs_only_where_the_cluster_is_known() {
        for (cluster, names_runs) in [(None, false), (Some(ClusterTag::of("a-cluster")), true)] {
            let (member, mut offsets) = (member(), TopicPartitionList::new());
            member.cluster.set(cluster).unwrap();
            let progress = Progress { offset: 10, beyond: std::iter::once(12..14).collect(), changes: 1 };
            member.list(&mut offsets, &Assignment::new("events".into(), 3), &progress);
            let element = offsets.find_partition("events", 3).unwrap();
            assert_eq!((element.offset(), element.metadata().is_empty()), (Offset::Offset(10), !names_runs));
        }
    }
}
