//! One assignment of one partition: which of its records are settled, and what still works on them.
//!
//! A consumer thread admits records and asks what to commit; shards begin, end and settle. When the partition is given up
//! the assignment closes: no record later than those that were begun is begun any more, and the consumer thread waits,
//! bounded, until all up to there are settled. So nothing that was delivered lies behind the offset that is committed, and
//! the next owner repeats nothing. The check and the change happen under one lock, held for a few instructions and never
//! over an await.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::offsets::{OffsetTracker, Sequence};

#[derive(Debug, Default)]
struct State {
    tracker: OffsetTracker,
    /// Attempts and publications under way.
    active: u32,
    closing: bool,
    /// The latest record that work was begun on.
    begun: Option<Sequence>,
    /// The first offset read.
    first_read: Option<i64>,
}

impl State {
    /// Nothing is under way, and no record waits that comes before one that was begun.
    fn is_quiet(&self) -> bool {
        self.active == 0 && self.begun.is_none_or(|begun| self.tracker.settled_below() > begun)
    }
}

/// One assignment of one partition.
#[derive(Debug)]
pub struct Assignment {
    topic: Arc<str>,
    partition: i32,
    state: Mutex<State>,
    quiet: Condvar,
}

impl Assignment {
    /// A new assignment, with nothing read.
    pub fn new(topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self { topic, partition, state: Mutex::default(), quiet: Condvar::new() })
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    pub(crate) fn partition(&self) -> i32 {
        self.partition
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The sections under this lock don't panic; were it poisoned, the counts would still be whole.
        self.state.lock()
    }

    /// Takes a record whose deliveries will settle it.
    pub fn admit(&self, offset: i64) -> Sequence {
        let mut state = self.state();
        state.first_read.get_or_insert(offset);
        state.tracker.admit(offset)
    }

    /// Takes a record that needs nothing more.
    pub(crate) fn admit_settled(&self, offset: i64) {
        self.state().tracker.admit_settled(offset);
    }

    /// Settles a record.
    pub(crate) fn settle(&self, sequence: Sequence) {
        let mut state = self.state();
        state.tracker.settle(sequence);
        self.tell_if_quiet(&state);
    }

    fn tell_if_quiet(&self, state: &State) {
        if state.closing && state.is_quiet() {
            self.quiet.notify_all();
        }
    }

    /// The offset that may be committed.
    pub fn committable(&self) -> Option<i64> {
        self.state().tracker.committable()
    }

    /// The first offset read: where the group had left off.
    pub(crate) fn first_read(&self) -> Option<i64> {
        self.state().first_read
    }

    /// How many records lie between the settled prefix and the last one read.
    pub(crate) fn unsettled_len(&self) -> usize {
        self.state().tracker.unsettled_len()
    }

    /// Begins work on one of its records, unless the assignment is closing and the record is later than all that were
    /// begun before.
    pub(crate) fn begin(self: &Arc<Self>, sequence: Sequence) -> Option<Active> {
        let mut state = self.state();
        let is_latest = state.begun.is_none_or(|begun| sequence > begun);
        if state.closing && is_latest {
            return None;
        }
        if is_latest {
            state.begun = Some(sequence);
        }
        state.active += 1;
        drop(state);
        Some(Active(Arc::clone(self)))
    }

    /// Begins work that no record stands for, unless the assignment is closing.
    pub(crate) fn begin_apart(self: &Arc<Self>) -> Option<Active> {
        let mut state = self.state();
        if state.closing {
            return None;
        }
        state.active += 1;
        drop(state);
        Some(Active(Arc::clone(self)))
    }

    /// Whether it is closing: what need not be begun is left to the next owner.
    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Lets no later record begin any more.
    pub fn close(&self) {
        self.state().closing = true;
    }

    /// Waits until nothing is under way and all up to the latest begun record is settled, at most `patience`. Says whether
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
        self.0.tell_if_quiet(&state);
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
