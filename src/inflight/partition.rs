//! One assignment of one partition: which of its records are settled, and what is under way.
//!
//! A consumer thread admits records and asks what to commit; shards begin, end and settle. When the partition is given up the assignment
//! closes: no record later than those that were begun is begun any more, and the consumer thread waits, bounded, until all up to there
//! are settled. So nothing that was delivered comes after the offset that is committed, and the next owner repeats nothing. The check and
//! the change happen under one lock, held for a few instructions and never over an await.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

pub(crate) use super::from_lane::FromLane;
use super::offsets::{OffsetTracker, Sequence};

/// What shards and readers share. It has cache lines of its own. The events thread looks at other fields of each partition in each round,
/// and shards change these with each delivery.
#[derive(Debug, Default)]
#[repr(align(128))]
struct State {
    tracker: OffsetTracker,
    /// Attempts and publications under way.
    active: u32,
    /// The latest record that work was begun on.
    begun: Option<Sequence>,
    /// The first offset read.
    first_read: Option<i64>,
    /// Runs of offsets beyond the start that the last owner had settled, as far as reading has not come there.
    settled_before: VecDeque<Range<i64>>,
    /// All that the last owner's commit named.
    named_before: Vec<Range<i64>>,
    /// The first offset that may not be committed. Without one, everything that is settled may be.
    commit_bound: Option<i64>,
    /// How often `commit_bound` has changed.
    bound_changes: u64,
    /// What lanes report to the events thread: at most one report for each delivery that it has handed over.
    from_lanes: Vec<FromLane>,
    /// Only of an assignment that uses places: whether Kafka has each of them as it is here. A delivery that is not begun when
    /// such an assignment closes stays not begun, because the next owner gives it again from the place.
    places_stored: Option<bool>,
    /// The last commit is made: the next owner may begin. What is under way may end.
    is_handed_over: bool,
}

/// What is settled of an assignment, to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The offset to commit.
    pub(crate) offset: i64,
    /// Runs of settled offsets beyond it.
    pub(crate) beyond: Vec<Range<i64>>,
    /// Grows with every record that settles.
    pub(crate) changes: u64,
}

impl State {
    /// Whether the last commit can be made. Without places that is when nothing is under way and no record waits that comes before one
    /// that was begun. With places it is when each record is settled, since what is under way has a place, and Kafka has all places.
    fn is_quiet(&self) -> bool {
        if let Some(is_stored) = self.places_stored {
            return self.tracker.unsettled_len() == 0 && is_stored;
        }
        self.active == 0 && self.begun.is_none_or(|begun| self.tracker.settled_below() > begun)
    }
}

/// What the reading thread has not put into the tracker yet: shards take the tracker's lock too. It is locked before the state, and has
/// cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Untracked {
    /// Offsets of records that need nothing more.
    skipped: Vec<i64>,
    /// Whether the last owner may have settled records that are not read yet.
    may_pass_over: bool,
}

/// The tracker gets this many records that need nothing more at once, under one lock.
const SKIPPED_MAX: usize = 256;

/// No commit bound was set: no offset is below zero.
const NO_BOUND: i64 = -1;

/// One assignment of one partition.
#[derive(Debug)]
pub struct Assignment {
    topic: Arc<str>,
    partition: i32,
    /// Where reading begins. `None`: at the start of the log.
    start: Option<i64>,
    /// Lanes return records of a lower sequence that wait in them; all, when the assignment is given up.
    recalled_below: AtomicU64,
    untracked: Mutex<Untracked>,
    state: Mutex<State>,
    quiet: Condvar,
    /// No later record begins any more. Like `over` and `bound`, it changes under the lock of `state` only.
    closing: AtomicBool,
    /// It is given up: the events thread takes no reports any more.
    over: AtomicBool,
    /// Whether lanes may have reported anything since the reports were taken.
    has_reports: AtomicBool,
    /// The state's `commit_bound`, or [`NO_BOUND`].
    bound: AtomicI64,
    /// Cancelled when the next owner gets what is not settled here.
    passed_on: CancellationToken,
    /// The log has lost its records from here on: they cannot be read again.
    lost_from: AtomicI64,
}

impl Assignment {
    /// A new assignment, with nothing read.
    pub fn new(topic: Arc<str>, partition: i32) -> Arc<Self> {
        Self::resumed(topic, partition, None, Vec::new())
    }

    /// A new assignment that begins where the last owner left off: at `start`, its committed offset. Of what lies beyond,
    /// `settled_before` is settled already: runs in offset order.
    pub(crate) fn resumed(
        topic: Arc<str>,
        partition: i32,
        start: Option<i64>,
        settled_before: Vec<Range<i64>>,
    ) -> Arc<Self> {
        let named_before = settled_before.clone();
        let untracked = Mutex::new(Untracked { skipped: Vec::new(), may_pass_over: !settled_before.is_empty() });
        let state = State { settled_before: settled_before.into(), named_before, ..State::default() };
        let (recalled_below, state) = (AtomicU64::new(0), Mutex::new(state));
        Arc::new(Self {
            topic,
            partition,
            start,
            recalled_below,
            untracked,
            state,
            quiet: Condvar::new(),
            closing: AtomicBool::new(false),
            over: AtomicBool::new(false),
            has_reports: AtomicBool::new(false),
            bound: AtomicI64::new(NO_BOUND),
            passed_on: CancellationToken::new(),
            lost_from: AtomicI64::new(i64::MAX),
        })
    }

    pub(crate) fn start(&self) -> Option<i64> {
        self.start
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub(crate) fn partition(&self) -> i32 {
        self.partition
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The state with all that was read in its tracker.
    fn state_as_read(&self, untracked: &mut Untracked) -> MutexGuard<'_, State> {
        let mut state = self.state();
        untracked.skipped.drain(..).for_each(|offset| state.tracker.admit_settled(offset));
        state
    }

    /// Takes a record whose deliveries will settle it.
    pub fn admit(&self, offset: i64) -> Sequence {
        let mut state = self.state_as_read(&mut self.untracked.lock());
        state.first_read.get_or_insert(offset);
        state.tracker.admit(offset)
    }

    /// Takes a record that needs nothing more.
    pub(crate) fn admit_settled(&self, offset: i64) {
        let mut untracked = self.untracked.lock();
        untracked.skipped.push(offset);
        if untracked.skipped.len() >= SKIPPED_MAX {
            drop(self.state_as_read(&mut untracked));
        }
    }

    /// Takes a record that the last owner has settled already. Returns whether it was one; if not, nothing changes.
    pub(crate) fn admit_if_settled_before(&self, offset: i64) -> bool {
        let mut untracked = self.untracked.lock();
        if !untracked.may_pass_over {
            return false;
        }
        let mut state = self.state_as_read(&mut untracked);
        untracked.may_pass_over = !state.settled_before.is_empty();
        // The client was set back to the start of another log: the same offsets are other records.
        if self.start.is_some_and(|start| offset < start) {
            state.settled_before.clear();
            state.named_before.clear();
            return false;
        }
        while state.settled_before.front().is_some_and(|run| run.end <= offset) {
            state.settled_before.pop_front();
        }
        let is_settled = state.settled_before.front().is_some_and(|run| run.contains(&offset));
        if is_settled {
            state.first_read.get_or_insert(offset);
            state.tracker.admit_settled(offset);
        }
        is_settled
    }

    /// What may be committed, with at most `runs_max` runs beyond the offset. `None` while nothing is settled but what the last
    /// owner had settled, or while nothing was settled since `known`, the [`Progress::changes`] that are committed.
    pub(crate) fn progress(&self, known: u64, runs_max: usize) -> Option<Progress> {
        let state = self.state_as_read(&mut self.untracked.lock());
        let changes = state.tracker.changes() + state.bound_changes;
        if changes == known {
            return None;
        }
        let offset = state.tracker.committable().or(self.start).or_else(|| state.tracker.first_unsettled())?;
        let mut beyond = state.tracker.settled_beyond(runs_max);
        // What comes after the last record read is known from the last owner only.
        let read = state.tracker.last_read().map_or(offset, |last| last + 1);
        for run in &state.settled_before {
            let rest = run.start.max(read)..run.end;
            if !rest.is_empty() && beyond.len() < runs_max {
                beyond.push(rest);
            }
        }
        beyond.retain(|run| run.start >= offset);
        let bound = state.commit_bound.unwrap_or(i64::MAX);
        let offset = offset.min(bound);
        beyond.retain_mut(|run| {
            run.end = run.end.min(bound);
            !run.is_empty()
        });
        // What the last owner's commit named stays true, whichever places this owner has to write first.
        for run in &state.named_before {
            let rest = run.start.max(bound)..run.end;
            if rest.is_empty() {
                continue;
            }
            let room = beyond.len() < runs_max;
            match beyond.last_mut().filter(|last| last.end == rest.start) {
                Some(last) => last.end = rest.end,
                None if room => beyond.push(rest),
                None => {}
            }
        }
        Some(Progress { offset, beyond, changes })
    }

    /// Sets the first offset that may not be committed: from there on a record counts as settled because a webhook has a place, and
    /// Kafka does not have that place yet.
    pub(crate) fn set_commit_bound(&self, bound: i64) {
        // Most often nothing has changed.
        if self.bound.load(Ordering::Acquire) == bound {
            return;
        }
        let mut state = self.state();
        self.bound.store(bound, Ordering::Release);
        state.commit_bound = Some(bound);
        state.bound_changes += 1;
    }

    pub(crate) fn commit_bound(&self) -> i64 {
        self.state().commit_bound.unwrap_or(i64::MAX)
    }

    pub(crate) fn settle(&self, sequence: Sequence) {
        let mut state = self.state();
        state.tracker.settle(sequence);
        self.notify_if_quiet(&state);
    }

    /// Reports to the events thread what became of a delivery.
    pub(crate) fn report(&self, from_lane: FromLane) {
        let mut state = self.state();
        if !self.is_over() {
            state.from_lanes.push(from_lane);
            self.has_reports.store(true, Ordering::Release);
        }
    }

    /// From now on webhooks have places for what they were not given. When the assignment closes, what waits in a lane is returned
    /// and not begun.
    pub(crate) fn use_places(&self) {
        self.state().places_stored = Some(false);
    }

    /// Sets whether Kafka has every place as it is here.
    pub(crate) fn set_places_stored(&self, are_stored: bool) {
        let mut state = self.state();
        state.places_stored = Some(are_stored);
        self.notify_if_quiet(&state);
    }

    /// When `unsettled_max` records are unsettled, asks lanes to return the earlier half of those that wait, because they hold back
    /// commits.
    pub(crate) fn recall_oldest(&self, unsettled_max: usize) {
        let state = self.state();
        if state.places_stored.is_some() && !self.is_closing() && state.tracker.unsettled_len() >= unsettled_max {
            let below = state.tracker.settled_below() + unsettled_max as Sequence / 2;
            self.recalled_below.store(below, Ordering::Release);
        }
    }

    /// Whether a lane is to return a record that waits in it; without a sequence, whether it is to return all.
    pub(crate) fn is_recalled(&self, sequence: Option<Sequence>) -> bool {
        let below = self.recalled_below.load(Ordering::Acquire);
        sequence.map_or(below == Sequence::MAX, |sequence| sequence < below)
    }

    /// Whether it is given up: then the events thread takes no reports any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits until the next owner gets what is not settled here.
    pub(crate) async fn passed_on(&self) {
        self.passed_on.cancelled().await;
    }

    /// Notes that the last commit is made. An assignment that uses places ends when the deliveries under way have ended; any other
    /// ends now.
    pub(crate) fn hand_over(&self) {
        let mut state = self.state();
        state.is_handed_over = true;
        let has_places = state.places_stored.is_some();
        drop(state);
        if !has_places {
            self.end();
        }
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.state().is_handed_over
    }

    /// What the last owner had settled beyond the start, as far as reading has not come there.
    pub(crate) fn settled_before(&self) -> Vec<Range<i64>> {
        self.state().settled_before.iter().cloned().collect()
    }

    /// It is given up: the next owner gets what is not settled.
    pub(crate) fn end(&self) {
        self.passed_on.cancel();
        self.take_no_more_reports();
    }

    /// It is given up, because the log has lost its records from `lost_from` on, which no next owner reads. What is here of them goes on:
    /// it may begin, and what follows is published. What comes before is read again.
    pub(crate) fn end_with_its_log(&self, lost_from: i64) {
        self.lost_from.store(lost_from, Ordering::Release);
        self.close();
        self.take_no_more_reports();
    }

    /// The first offset that the log has lost since it was read, if it has lost any.
    pub(crate) fn lost_from(&self) -> Option<i64> {
        Some(self.lost_from.load(Ordering::Acquire)).filter(|from| *from != i64::MAX)
    }

    /// Whether the log has lost the record at that offset since it was read.
    pub(crate) fn is_lost(&self, offset: i64) -> bool {
        offset >= self.lost_from.load(Ordering::Acquire)
    }

    fn take_no_more_reports(&self) {
        let mut state = self.state();
        self.over.store(true, Ordering::Release);
        state.from_lanes.clear();
    }

    /// What lanes have reported since the last call.
    pub(crate) fn take_reports(&self) -> Vec<FromLane> {
        if !self.has_reports.load(Ordering::Acquire) {
            return Vec::new();
        }
        // This comes before the lock: a report that comes meanwhile sets it again.
        self.has_reports.store(false, Ordering::Release);
        std::mem::take(&mut self.state().from_lanes)
    }

    fn notify_if_quiet(&self, state: &State) {
        if self.is_closing() && state.is_quiet() {
            self.quiet.notify_all();
        }
    }

    /// The offset that may be committed.
    pub fn committable(&self) -> Option<i64> {
        self.state_as_read(&mut self.untracked.lock()).tracker.committable()
    }

    /// The first offset read: where the group had left off.
    pub(crate) fn first_read(&self) -> Option<i64> {
        self.state().first_read
    }

    /// How many records come after the settled prefix, up to the last one read.
    pub(crate) fn unsettled_len(&self) -> usize {
        self.state_as_read(&mut self.untracked.lock()).tracker.unsettled_len()
    }

    /// Begins work on one of its records, unless the assignment is closing and the record is later than all that were begun before.
    pub(crate) fn begin(self: &Arc<Self>, sequence: Sequence) -> Option<Active> {
        let mut state = self.state();
        let is_latest = state.begun.is_none_or(|begun| sequence > begun);
        if self.is_closing() && (is_latest || state.places_stored.is_some()) {
            return None;
        }
        if is_latest {
            state.begun = Some(sequence);
        }
        state.active += 1;
        drop(state);
        Some(Active(Arc::clone(self)))
    }

    /// Begins work that has no record, unless the assignment is closing.
    pub(crate) fn begin_apart(self: &Arc<Self>) -> Option<Active> {
        let mut state = self.state();
        if self.is_closing() {
            return None;
        }
        state.active += 1;
        drop(state);
        Some(Active(Arc::clone(self)))
    }

    /// Begins work on what its log has lost, in any case: no other process does it.
    pub(super) fn begin_lost(self: &Arc<Self>) -> Active {
        self.state().active += 1;
        Active(Arc::clone(self))
    }

    /// Begins the publication of one of its records, or of an event that a place covers. It may begin while the assignment is closing,
    /// because it ends soon.
    pub(crate) fn begin_publication(self: &Arc<Self>, sequence: Option<Sequence>) -> Option<Active> {
        let mut state = self.state();
        if state.places_stored.is_some() && !self.passed_on.is_cancelled() {
            state.active += 1;
            drop(state);
            return Some(Active(Arc::clone(self)));
        }
        drop(state);
        sequence.map_or_else(|| self.begin_apart(), |sequence| self.begin(sequence))
    }

    /// Whether it is closing: what can wait is left to the next owner.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Lets no later record begin any more.
    pub fn close(&self) {
        let mut state = self.state();
        self.closing.store(true, Ordering::Release);
        if state.places_stored.is_some() {
            state.places_stored = Some(false);
            self.recalled_below.store(Sequence::MAX, Ordering::Release);
        }
    }

    /// Waits until nothing is under way and all up to the latest begun record is settled, at most `patience`. Returns whether
    /// that was reached. Blocks the thread.
    pub fn wait_quiet(&self, patience: Duration) -> bool {
        let waited = self.quiet.wait_while_for(&mut self.state(), |state| !state.is_quiet(), patience);
        !waited.timed_out()
    }
}

/// Work under way on a record of an assignment; dropping it ends the work.
#[derive(Debug)]
pub(crate) struct Active(Arc<Assignment>);

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.active -= 1;
        self.0.notify_if_quiet(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_assignment_lets_work_end_and_nothing_begin() {
        let assignment = Assignment::new(Arc::from("t"), 0);
        let sequence = assignment.admit(5);
        let later = assignment.admit(6);
        let active = assignment.begin(sequence).unwrap();
        assignment.close();
        assert!(assignment.begin(later).is_none());
        assert!(!assignment.wait_quiet(Duration::ZERO));
        assignment.settle(sequence);
        drop(active);
        assert!(assignment.wait_quiet(Duration::ZERO));
        assert_eq!(assignment.committable(), Some(6));
    }

    fn resumed(start: i64, settled: &[Range<i64>]) -> Arc<Assignment> {
        Assignment::resumed(Arc::from("t"), 0, Some(start), settled.to_vec())
    }

    #[test]
    fn what_the_last_owner_settled_is_not_done_again() {
        let assignment = resumed(10, &[12..14, 20..30]);
        let first = assignment.admit(10);
        assert!(!assignment.admit_if_settled_before(11));
        let second = assignment.admit(11);
        assert!(assignment.admit_if_settled_before(12));
        assert!(assignment.admit_if_settled_before(13));
        assert!(!assignment.admit_if_settled_before(14));
        assignment.settle(first);
        assignment.settle(second);
        assert_eq!(assignment.committable(), Some(14));
        assert!(assignment.admit_if_settled_before(25), "20 to 24 are not in the log any more");
    }

    #[test]
    fn records_that_need_nothing_are_committed_in_the_order_in_which_they_were_read() {
        let assignment = resumed(0, &[3..4, 4..5]);
        let progress = || assignment.progress(0, 9).map(|progress| (progress.offset, progress.beyond));
        let runs = |end| Some(progress()?.1.last()?.end == end);
        assignment.admit_settled(0);
        assert_eq!((assignment.committable(), runs(5)), (Some(1), Some(true)));
        assignment.admit_settled(1);
        let open = assignment.admit(2);
        assert!(assignment.admit_if_settled_before(3) && assignment.admit_if_settled_before(4));
        let end = 6 + i64::try_from(SKIPPED_MAX).unwrap();
        (5..end).for_each(|offset| assignment.admit_settled(offset));
        let all_but_one = (assignment.committable(), runs(end), assignment.unsettled_len());
        assert_eq!(all_but_one, (Some(2), Some(true), SKIPPED_MAX + 4));
        assignment.settle(open);
        assert_eq!((assignment.committable(), assignment.unsettled_len()), (Some(end), 0));
    }

    #[test]
    fn what_is_settled_beyond_a_pin_is_committed_only_when_the_place_is_in_kafka() {
        let assignment = resumed(10, &[]);
        let pinned = assignment.admit(10);
        assignment.set_commit_bound(11);
        let skipped = assignment.admit(11);
        assignment.settle(skipped);
        let progress = assignment.progress(0, 9).unwrap();
        assert_eq!((progress.offset, progress.beyond), (10, vec![]), "a crash now reads 11 again");
        assignment.set_commit_bound(i64::MAX);
        let open = assignment.admit(12);
        let later = assignment.admit(13);
        assignment.settle(later);
        let progress = assignment.progress(progress.changes, 9).unwrap();
        assert_eq!((progress.offset, progress.beyond), (10, vec![11..12, 13..14]));
        assignment.settle(pinned);
        assignment.settle(open);
        assert_eq!(assignment.progress(0, 9).unwrap().offset, 14);
    }

    #[test]
    fn what_the_last_owner_settled_stays_committed_while_places_are_not_in_kafka() {
        let assignment = resumed(10, &[12..14, 20..30]);
        assignment.set_commit_bound(10);
        let reported = |progress: Option<Progress>| progress.map(|progress| (progress.offset, progress.beyond));
        assert_eq!(reported(assignment.progress(0, 9)), Some((10, vec![12..14, 20..30])));
        let [first, second] = [10, 11].map(|offset| assignment.admit(offset));
        assert!(assignment.admit_if_settled_before(12) && assignment.admit_if_settled_before(13));
        assignment.settle(second);
        assert_eq!(reported(assignment.progress(0, 9)), Some((10, vec![12..14, 20..30])), "11 is not covered");
        assignment.set_commit_bound(12);
        assert_eq!(reported(assignment.progress(0, 9)), Some((10, vec![11..14, 20..30])));
        assignment.settle(first);
        assert_eq!(reported(assignment.progress(0, 9)), Some((12, vec![12..14, 20..30])));
        assert_eq!(reported(assignment.progress(0, 1)), Some((12, std::iter::once(12..14).collect())));
        assignment.set_commit_bound(i64::MAX);
        assert_eq!(reported(assignment.progress(0, 9)), Some((14, std::iter::once(20..30).collect())));
    }

    #[test]
    fn what_the_last_owner_settled_is_committed_again_until_it_is_passed() {
        let assignment = resumed(10, &[12..14, 20..30]);
        assert_eq!(assignment.progress(0, 9), None, "nothing new");
        let first = assignment.admit(10);
        let second = assignment.admit(11);
        assignment.settle(second);
        let progress = Progress { offset: 10, beyond: vec![11..12, 12..14, 20..30], changes: 1 };
        assert_eq!(assignment.progress(0, 9), Some(progress));
        assert_eq!(assignment.progress(1, 9), None);
        assignment.settle(first);
        assert!(assignment.admit_if_settled_before(12));
        let progress = Progress { offset: 13, beyond: vec![13..14, 20..30], changes: 3 };
        assert_eq!(assignment.progress(1, 9), Some(progress));
    }

    #[test]
    fn where_the_log_was_cut_nothing_counts_as_settled_before() {
        let assignment = resumed(10, &[12..14, 20..21]);
        assert!(!assignment.admit_if_settled_before(3));
        assignment.admit(3);
        assert!(!assignment.admit_if_settled_before(12));
    }

    #[test]
    fn what_comes_before_a_begun_record_is_finished_first() {
        let assignment = Assignment::new(Arc::from("t"), 0);
        let [waiting, begun, later] = [5, 6, 7].map(|offset| assignment.admit(offset));
        drop(assignment.begin(begun).unwrap());
        assignment.settle(begun);
        assignment.close();
        assert!(!assignment.wait_quiet(Duration::ZERO), "offset 5 would hold back what is done");
        assert!(assignment.begin(later).is_none());
        drop(assignment.begin(waiting).unwrap());
        assert!(!assignment.wait_quiet(Duration::ZERO));
        assignment.settle(waiting);
        assert!(assignment.wait_quiet(Duration::ZERO));
        assert_eq!(assignment.committable(), Some(7));
    }

    #[test]
    fn waiting_ends_when_the_last_work_does() {
        let assignment = Assignment::new(Arc::from("t"), 0);
        let sequence = assignment.admit(5);
        let active = assignment.begin(sequence).unwrap();
        assignment.settle(sequence);
        assignment.close();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| assignment.wait_quiet(Duration::from_secs(60)));
            drop(active);
            assert!(waiting.join().unwrap());
        });
    }
}
