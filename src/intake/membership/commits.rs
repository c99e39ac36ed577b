//! What a group member commits, and whether its coordinator answers: the settled prefix of a partition as the offset, and what is
//! settled beyond it in the commit's metadata. When a commit is made is decided elsewhere.
//!
//! What is delivered while no answer comes is delivered again by the next owner. So the consumers hand over nothing more then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use super::{GroupConsumer, Held, MemberState};
use crate::inflight::partition::{Assignment, Progress};
use crate::inflight::settled_runs::{self, RUNS_MAX};

/// How long a commit may be without an answer until nothing more is handed over: far longer than an answer takes, and a part of the
/// session, after which the member has lost its partitions anyway.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// What a member knows of its coordinator from commits.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// Since when there is something to commit and the coordinator says nothing.
    silent_since: Option<Instant>,
    is_logged: bool,
}

impl Contact {
    /// A commit begins.
    fn begin(&mut self, now: Instant) {
        self.silent_since.get_or_insert(now);
    }

    /// A commit has ended.
    fn end(&mut self, result: &KafkaResult<()>) {
        if is_answer(result) {
            self.silent_since = None;
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE_MAX)
    }
}

/// Whether the coordinator answered that it still counts this process as a member.
fn is_answer(result: &KafkaResult<()>) -> bool {
    use RDKafkaErrorCode::{IllegalGeneration, InvalidCommitOffsetSize, OffsetMetadataTooLarge, RebalanceInProgress};
    match result {
        Ok(()) => true,
        Err(KafkaError::ConsumerCommit(code)) => matches!(
            code,
            // The members agree on a new assignment: it is committed after that.
            RebalanceInProgress | IllegalGeneration | OffsetMetadataTooLarge | InvalidCommitOffsetSize
        ),
        Err(_) => false,
    }
}

impl MemberState {
    /// Whether the coordinator has not answered commits for so long that the consumers must hand nothing more over. Logs when that begins
    /// and ends, because the member's own thread waits for the answer.
    pub(crate) fn is_out_of_touch(&self) -> bool {
        let mut contact = self.contact.lock();
        let is_silent = contact.is_silent(Instant::now());
        let is_news = std::mem::replace(&mut contact.is_logged, is_silent) != is_silent;
        drop(contact);
        match (is_news, self.role) {
            (false, _) => {}
            (true, role) if is_silent => {
                tracing::warn!(group_member = role, "the coordinator does not answer commits: nothing more is begun");
            }
            (true, role) => tracing::info!(group_member = role, "nothing waits for the coordinator any more"),
        }
        is_silent
    }

    /// Forgets the commits that the coordinator did not answer.
    pub(super) fn forget_silence(&self) {
        self.contact.lock().silent_since = None;
    }

    /// Commits what has changed since the last commit: of what is held, and of `leaving`. Waits for the answer.
    pub(super) fn commit_settled(&self, consumer: &GroupConsumer, leaving: &[Held]) {
        let (offsets, listed) = self.settled(leaving);
        if listed.is_empty() {
            return self.forget_silence();
        }
        self.contact.lock().begin(Instant::now());
        let result = consumer.commit(&offsets, CommitMode::Sync);
        self.contact.lock().end(&result);
        match result {
            Ok(()) => self.note_committed(&listed),
            Err(error) => self.commit_failed(&error),
        }
    }

    /// What has changed since the last commit: the offsets, and of each assignment its [`Progress::changes`].
    fn settled(&self, leaving: &[Held]) -> (TopicPartitionList, Vec<(Arc<Assignment>, u64)>) {
        let (mut offsets, mut listed) = (TopicPartitionList::new(), Vec::new());
        for held in self.held().values().chain(leaving) {
            if let Some(progress) = held.assignment.progress(held.committed, RUNS_MAX) {
                self.list(&mut offsets, &held.assignment, &progress);
                listed.push((Arc::clone(&held.assignment), progress.changes));
            }
        }
        (offsets, listed)
    }

    fn note_committed(&self, listed: &[(Arc<Assignment>, u64)]) {
        self.metrics.intake.commits_ok.inc();
        for held in self.held().values_mut() {
            let changes = listed.iter().find(|(assignment, _)| Arc::ptr_eq(assignment, &held.assignment));
            held.committed = changes.map_or(held.committed, |(_, changes)| *changes);
        }
    }

    pub(super) fn commit_failed(&self, error: &KafkaError) {
        self.metrics.intake.commits_failed.inc();
        if let KafkaError::ConsumerCommit(RDKafkaErrorCode::OffsetMetadataTooLarge) = error {
            let less = self.text_max.load(Ordering::Relaxed) / 2;
            self.text_max.store(less, Ordering::Relaxed);
            tracing::warn!(
                group_member = self.role,
                bytes_max = less,
                "the brokers take less metadata with an offset; more is repeated after a crash"
            );
            return;
        }
        let text = error.to_string();
        if let Some(repeats) = self.repeats.of(&text) {
            tracing::warn!(group_member = self.role, error = text, repeats, "commit failed, will retry");
        }
    }

    pub(super) fn list(&self, offsets: &mut TopicPartitionList, assignment: &Assignment, progress: &Progress) {
        let mut element = offsets.add_partition(assignment.topic(), assignment.partition());
        if let Err(error) = element.set_offset(Offset::Offset(progress.offset)) {
            tracing::error!(%error, "an offset could not be listed");
        }
        let text_max = self.text_max.load(Ordering::Relaxed);
        let cluster = self.cluster.get().copied().flatten();
        let text = cluster.map(|cluster| settled_runs::encode(cluster, progress.offset, &progress.beyond, text_max));
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            element.set_metadata(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_is_silent_from_the_first_commit_that_it_does_not_answer() {
        let mut contact = Contact::default();
        contact.begin(Instant::now());
        tokio::time::advance(SILENCE_MAX / 2).await;
        contact.end(&Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::RequestTimedOut)));
        assert!(!contact.is_silent(Instant::now()));
        contact.begin(Instant::now());
        tokio::time::advance(SILENCE_MAX / 2).await;
        assert!(contact.is_silent(Instant::now()), "also while the commit is under way");
        contact.end(&Ok(()));
        assert!(!contact.is_silent(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_with_nothing_to_commit_waits_for_no_answer() {
        let contact = Contact::default();
        tokio::time::advance(SILENCE_MAX * 100).await;
        assert!(!contact.is_silent(Instant::now()));
    }

    #[test]
    fn only_a_coordinator_that_still_counts_the_member_has_answered() {
        use RDKafkaErrorCode::{
            CoordinatorNotAvailable, FencedInstanceId, IllegalGeneration, NotCoordinator, OffsetMetadataTooLarge,
            OperationTimedOut, RebalanceInProgress, RequestTimedOut, UnknownMemberId, WaitingForCoordinator,
        };
        assert!(is_answer(&Ok(())));
        for code in [RebalanceInProgress, IllegalGeneration, OffsetMetadataTooLarge] {
            assert!(is_answer(&Err(KafkaError::ConsumerCommit(code))), "{code}");
        }
        for code in [
            CoordinatorNotAvailable,
            FencedInstanceId,
            NotCoordinator,
            OperationTimedOut,
            RequestTimedOut,
            UnknownMemberId,
            WaitingForCoordinator,
        ] {
            assert!(!is_answer(&Err(KafkaError::ConsumerCommit(code))), "{code}");
        }
    }
}
