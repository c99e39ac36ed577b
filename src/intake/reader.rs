//! Reads the partitions that a group member holds, with a client of its own that is in no group.
//!
//! So a rebalance affects only the partitions that move: the others are read on while the member waits. Records that the last owner has
//! settled are passed over. Commits belong to [`super::membership`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};

use super::membership::GroupMember;
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Reading;
use crate::kafka::client::ClientLog;
use crate::kafka::waits::whole_millis;
use crate::telemetry::metrics::Metrics;

/// How many records a partition may have between its settled prefix and the last one read: wide enough that receivers
/// which time out do not stop the partition, at 16 bytes a record.
const WINDOW: usize = 100_000;

/// How long the brokers may take to name the leaders of the partitions, before the first of them is assigned.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// A partition that is read.
struct Source {
    assignment: Arc<Assignment>,
    /// Paused because its window is full.
    paused: bool,
}

/// What the window of a partition changes about its reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindowTurn {
    Pause,
    Resume,
    Stay,
}

impl Source {
    /// Pauses a partition whose window is full. Resumes one whose window is less than half full, unless `reading` is to wait.
    fn turn(&mut self, reading: Reading) -> WindowTurn {
        let unsettled = self.assignment.unsettled_len();
        if !self.paused && unsettled >= WINDOW {
            self.paused = true;
            WindowTurn::Pause
        } else if self.paused && unsettled < WINDOW / 2 && reading == Reading::Go {
            self.paused = false;
            WindowTurn::Resume
        } else {
            WindowTurn::Stay
        }
    }
}

/// What a poll gave.
pub(crate) enum Polled<'a> {
    /// Nothing within the wait.
    Nothing,
    /// A record that needs nothing. Its partition was given up, or the last owner has settled it. In the second case its assignment and
    /// offset are given.
    PassedOver(Option<(&'a Arc<Assignment>, i64)>),
    /// The client cannot assign or unassign partitions: the process can't go on.
    Broken,
    /// A record and the assignment it belongs to. It is not admitted yet.
    Record(BorrowedMessage<'a>, &'a Arc<Assignment>),
}

pub(crate) struct PartitionReader {
    consumer: BaseConsumer<ClientLog>,
    member: Arc<GroupMember>,
    metrics: Arc<Metrics>,
    /// By partition; a member may hold a partition of this number in several topics.
    sources: BTreeMap<i32, Vec<Source>>,
    /// The member's generation that `sources` follows.
    generation: u64,
    /// The partitions that may be read. `None`: all.
    allowed: Option<Vec<Arc<Assignment>>>,
}

impl PartitionReader {
    /// A reader of the partitions that `member` holds. `role` names the client in logs.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        config: &ClientConfig,
        role: &'static str,
        member: Arc<GroupMember>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let consumer = config.create_with_context(ClientLog::new(role))?;
        Ok(Self { consumer, member, metrics, sources: BTreeMap::new(), generation: 0, allowed: None })
    }

    /// From now on only the partitions that [`PartitionReader::allow`] names are read.
    pub(crate) fn allow_nothing(&mut self) {
        self.allowed = Some(Vec::new());
    }

    /// Lets these partitions be read too.
    pub(crate) fn allow(&mut self, assignments: Vec<Arc<Assignment>>) {
        let allowed = self.allowed.get_or_insert_default();
        allowed.retain(|assignment| !assignment.is_over());
        allowed.extend(assignments);
        // Followed again at the next poll.
        self.generation = u64::MAX;
    }

    /// Asks for the leaders of the partitions of `topics`: a client that hears of a topic with its first partition looks for the leader
    /// up to a second later. Blocks for a bounded time.
    pub(crate) fn warm_up<'a>(&self, topics: impl IntoIterator<Item = &'a str>) {
        for topic in topics {
            if let Err(error) = self.consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT) {
                tracing::debug!(topic, %error, "no answer about the leaders of a topic's partitions");
            }
        }
    }

    /// The member whose partitions are read.
    pub(crate) fn member(&self) -> &GroupMember {
        &self.member
    }

    /// Changes whenever other partitions are read.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether that assignment is read.
    pub(crate) fn reads(&self, assignment: &Arc<Assignment>) -> bool {
        let sources = self.sources.get(&assignment.partition()).into_iter().flatten();
        sources.into_iter().any(|source| Arc::ptr_eq(&source.assignment, assignment))
    }

    /// Polls once, waiting `wait` at most, after it has assigned the member's new partitions and unassigned those that it gave up.
    ///
    /// # Errors
    /// What the client says. See `MemberState::poll_failed`.
    pub(crate) fn poll(&mut self, wait: Duration) -> KafkaResult<Polled<'_>> {
        if self.generation != self.member.generation()
            && let Err(error) = self.follow()
        {
            tracing::error!(%error, "the partitions that a member holds cannot be read");
            return Ok(Polled::Broken);
        }
        let Some(message) = self.consumer.poll(whole_millis(wait)).transpose()? else { return Ok(Polled::Nothing) };
        let sources = self.sources.get(&message.partition()).into_iter().flatten();
        let source = sources.into_iter().find(|source| &**source.assignment.topic() == message.topic());
        let Some(Source { assignment, .. }) = source else {
            // Its partition was given up while the record was on its way: the next owner reads it.
            tracing::debug!(partition = message.partition(), "a record of a partition that is gone");
            return Ok(Polled::PassedOver(None));
        };
        if assignment.admit_if_settled_before(message.offset()) {
            self.metrics.intake.settled_before.inc();
            return Ok(Polled::PassedOver(Some((assignment, message.offset()))));
        }
        Ok(Polled::Record(message, assignment))
    }

    fn follow(&mut self) -> KafkaResult<()> {
        self.generation = self.member.generation();
        let mut held = self.member.assignments();
        if let Some(allowed) = &self.allowed {
            held.retain(|held| allowed.iter().any(|allowed| Arc::ptr_eq(allowed, held)));
        }
        let mut gone = TopicPartitionList::new();
        for sources in self.sources.values_mut() {
            sources.retain(|Source { assignment, .. }| {
                let stays = held.iter().any(|held| Arc::ptr_eq(held, assignment));
                if !stays {
                    gone.add_partition(assignment.topic(), assignment.partition());
                }
                stays
            });
        }
        if gone.count() > 0 {
            self.consumer.incremental_unassign(&gone)?;
        }
        let mut came = TopicPartitionList::new();
        for assignment in held {
            if self.reads(&assignment) {
                continue;
            }
            let start = assignment.start().map_or(Offset::Beginning, Offset::Offset);
            came.add_partition_offset(assignment.topic(), assignment.partition(), start)?;
            self.sources.entry(assignment.partition()).or_default().push(Source { assignment, paused: false });
        }
        if came.count() > 0 {
            self.consumer.incremental_assign(&came)?;
            // A partition stays paused over an assignment if it was paused before.
            self.consumer.resume(&came)?;
            self.member.begun.reads();
        }
        Ok(())
    }

    /// Pauses and resumes partitions by their windows. Nothing is resumed while `reading` is to wait.
    pub(crate) fn keep_windows(&mut self, reading: Reading) {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        for source in self.sources.values_mut().flatten() {
            // What waits in the lanes of slow receivers is returned before it holds up the others.
            source.assignment.recall_oldest(WINDOW / 2);
            let list = match source.turn(reading) {
                WindowTurn::Pause => &mut pause,
                WindowTurn::Resume => &mut resume,
                WindowTurn::Stay => continue,
            };
            list.add_partition(source.assignment.topic(), source.assignment.partition());
        }
        self.pause_and_resume(&pause, &resume);
    }

    /// Pauses and resumes these partitions.
    pub(crate) fn pause_and_resume(&self, pause: &TopicPartitionList, resume: &TopicPartitionList) {
        for (list, done) in [(pause, self.consumer.pause(pause)), (resume, self.consumer.resume(resume))] {
            if let (Err(error), true) = (done, list.count() > 0) {
                tracing::warn!(%error, "partitions could not be paused or resumed");
            }
        }
    }

    /// Pauses all partitions.
    pub(crate) fn pause_all(&self) {
        let list = self.with_room();
        match self.consumer.pause(&list) {
            Ok(()) => self.metrics.intake.paused_partitions.set(i64::try_from(list.count()).unwrap_or(i64::MAX)),
            Err(error) => tracing::warn!(%error, paused = true, "partitions could not be paused or resumed"),
        }
    }

    /// Resumes all partitions, except those that a full window keeps paused.
    pub(crate) fn resume_all(&self) {
        match self.consumer.resume(&self.with_room()) {
            Ok(()) => self.metrics.intake.paused_partitions.set(0),
            Err(error) => tracing::warn!(%error, paused = false, "partitions could not be paused or resumed"),
        }
    }

    /// The partitions that no full window keeps paused.
    fn with_room(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for Source { assignment, .. } in self.sources.values().flatten().filter(|source| !source.paused) {
            list.add_partition(assignment.topic(), assignment.partition());
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_paused_when_its_window_is_full_and_goes_on_when_it_is_less_than_half_full() {
        let assignment = Assignment::new("events".into(), 0);
        let mut source = Source { assignment: Arc::clone(&assignment), paused: false };
        let window = i64::try_from(WINDOW).unwrap();
        let read: Vec<_> = (0..window - 1).map(|offset| assignment.admit(offset)).collect();
        assert_eq!(source.turn(Reading::Go), WindowTurn::Stay);
        assignment.admit(window);
        assert_eq!([source.turn(Reading::Go), source.turn(Reading::Go)], [WindowTurn::Pause, WindowTurn::Stay]);
        let half = WINDOW / 2;
        read.iter().take(half).for_each(|sequence| assignment.settle(*sequence));
        assert_eq!(source.turn(Reading::Go), WindowTurn::Stay, "half of the window is open");
        assignment.settle(read[half]);
        assert_eq!(source.turn(Reading::Wait), WindowTurn::Stay, "the process has no room");
        assert_eq!([source.turn(Reading::Go), source.turn(Reading::Go)], [WindowTurn::Resume, WindowTurn::Stay]);
    }
}
