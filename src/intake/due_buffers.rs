//! Retries that were fetched and are not handed over yet, by partition. No Kafka and no clock: times come in.
//!
//! Buffers are bounded each and together. The one whose next retry has been due for longest comes first, whichever tier and
//! partition it belongs to: under pressure no partition waits behind another forever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::headers::Wire;
use crate::inflight::partition::Assignment;

/// The most retries of a partition.
const RECORDS_MAX: usize = 256;
/// The most bytes of a partition. A fuller buffer pauses it.
const BYTES_MAX: usize = 128 * 1024;
/// A partition keeps this many retries whatever their size, so that large ones are there when they fall due.
const RECORDS_MIN: usize = 4;
/// The most bytes of all partitions together. Beyond it each keeps only its next retry.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A buffer may be as many times larger while all of it falls due within [`RESUME_TAKES_MS`].
const GROWTH: usize = 4;
/// A client that has nothing to fetch looks at what was resumed once a second.
const RESUME_TAKES_MS: i64 = 1_500;

/// A retry that waits until it is due.
pub(super) struct Waiting {
    pub(super) payload: Option<Bytes>,
    pub(super) wire: Wire,
    /// By the brokers' clock, ms since 1970.
    pub(super) due_ms: i64,
    pub(super) offset: i64,
    pub(super) sequence: u64,
}

/// A retry that waited here when its log lost it.
pub(super) struct Lost {
    pub(super) tier: usize,
    pub(super) assignment: Arc<Assignment>,
    pub(super) waiting: Waiting,
}

/// Tier and partition.
type Key = (usize, i32);

/// What waits of one partition.
struct DueBuffer {
    assignment: Arc<Assignment>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    paused: bool,
}

/// What waits of all partitions.
#[derive(Default)]
pub(super) struct DueBuffers {
    buffers: BTreeMap<Key, DueBuffer>,
    bytes: usize,
    /// What was forgotten and cannot be read again.
    lost: Vec<Lost>,
}

/// Partitions to pause and to resume.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) pause: Vec<Arc<Assignment>>,
    pub(super) resume: Vec<Arc<Assignment>>,
}

impl DueBuffers {
    /// Takes a retry of a tier.
    pub(super) fn push(&mut self, tier: usize, assignment: &Arc<Assignment>, waiting: Waiting) {
        let key = (tier, assignment.partition());
        if self.buffers.get(&key).is_some_and(|buffer| !Arc::ptr_eq(&buffer.assignment, assignment)) {
            // What an earlier assignment of the partition had fetched is read again.
            self.remove(key);
        }
        let buffer = self.buffers.entry(key).or_insert_with(|| DueBuffer::new(assignment));
        let bytes = waiting.payload.as_ref().map_or(0, Bytes::len);
        buffer.bytes += bytes;
        self.bytes += bytes;
        // A record arrived, so the partition is not paused any more: a full buffer pauses it again.
        buffer.paused = false;
        buffer.waiting.push_back(waiting);
    }

    /// Forgets what waits of partitions that are not read any more. What their logs have lost is there to be taken.
    pub(super) fn retain(&mut self, is_read: impl Fn(&Arc<Assignment>) -> bool) {
        let gone: Vec<Key> =
            self.buffers.iter().filter(|(_, it)| !is_read(&it.assignment)).map(|(key, _)| *key).collect();
        for key in gone {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(DueBuffer { assignment, waiting, bytes, .. }) = self.buffers.remove(&key) else { return };
        self.bytes -= bytes;
        let lost = waiting.into_iter().filter(|waiting| assignment.is_lost(waiting.offset));
        self.lost.extend(lost.map(|waiting| Lost { tier: key.0, assignment: Arc::clone(&assignment), waiting }));
    }

    /// Takes what was forgotten though its log has lost it: it cannot be read again.
    pub(super) fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// When the next retry is due.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.buffers.values().filter_map(DueBuffer::next_due_ms).min()
    }

    /// When the next retry of a tier is due.
    pub(super) fn next_due_ms_of(&self, tier: usize) -> Option<i64> {
        self.buffers.range((tier, i32::MIN)..=(tier, i32::MAX)).filter_map(|(_, buffer)| buffer.next_due_ms()).min()
    }

    /// Gives `take` what is due, the oldest first, as long as `may_go_on`.
    pub(super) fn take_due(
        &mut self,
        now_ms: i64,
        may_go_on: impl Fn() -> bool,
        mut take: impl FnMut(usize, &Arc<Assignment>, Waiting),
    ) {
        let due = self.buffers.iter().filter_map(|(key, buffer)| Some(Reverse((buffer.next_due_ms()?, *key))));
        let mut due: BinaryHeap<_> = due.filter(|Reverse((due_ms, _))| *due_ms <= now_ms).collect();
        while let Some(Reverse((_, key))) = due.pop() {
            if !may_go_on() {
                return;
            }
            let Some(buffer) = self.buffers.get_mut(&key) else { continue };
            let Some(waiting) = buffer.waiting.pop_front() else { continue };
            let bytes = waiting.payload.as_ref().map_or(0, Bytes::len);
            buffer.bytes -= bytes;
            self.bytes -= bytes;
            take(key.0, &buffer.assignment, waiting);
            due.extend(buffer.next_due_ms().filter(|due_ms| *due_ms <= now_ms).map(|due_ms| Reverse((due_ms, key))));
        }
    }

    /// Which partitions pause for the moment, and which go on.
    pub(super) fn flow(&mut self, now_ms: i64) -> Flow {
        let (mut flow, all_bytes) = (Flow::default(), self.bytes);
        for buffer in self.buffers.values_mut() {
            if !buffer.paused && buffer.is_full(now_ms, all_bytes) {
                buffer.paused = true;
                flow.pause.push(Arc::clone(&buffer.assignment));
            } else if buffer.paused && buffer.is_low(now_ms, all_bytes) {
                buffer.paused = false;
                flow.resume.push(Arc::clone(&buffer.assignment));
            }
        }
        flow
    }
}

impl DueBuffer {
    fn new(assignment: &Arc<Assignment>) -> Self {
        Self { assignment: Arc::clone(assignment), waiting: VecDeque::new(), bytes: 0, paused: false }
    }

    fn next_due_ms(&self) -> Option<i64> {
        self.waiting.front().map(|waiting| waiting.due_ms)
    }

    fn is_full(&self, now_ms: i64, all_bytes: usize) -> bool {
        let (growth, records) = (self.growth(now_ms), self.waiting.len());
        records >= growth * RECORDS_MAX
            || records >= RECORDS_MIN && self.bytes >= growth * BYTES_MAX
            || records > 0 && all_bytes >= ALL_BYTES_MAX
    }

    /// Whether a partition that was paused should be read again.
    fn is_low(&self, now_ms: i64, all_bytes: usize) -> bool {
        let (growth, records) = (self.growth(now_ms), self.waiting.len());
        let is_small = self.bytes <= growth * BYTES_MAX / 2 || records <= RECORDS_MIN / 2;
        records == 0 || records <= growth * RECORDS_MAX / 2 && is_small && all_bytes <= ALL_BYTES_MAX / 2
    }

    /// How many times larger a buffer may be now. It is more than 1 where all of its retries fall due before more can be fetched, and
    /// none of them is overdue.
    fn growth(&self, now_ms: i64) -> usize {
        let overdue = self.next_due_ms().is_some_and(|first| first <= now_ms);
        let last = self.waiting.back();
        let runs_out = !overdue && last.is_none_or(|last| last.due_ms <= now_ms.saturating_add(RESUME_TAKES_MS));
        if runs_out { GROWTH } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn waiting(due_ms: i64, bytes: usize) -> Waiting {
        Waiting { payload: Some(vec![0; bytes].into()), wire: Wire::default(), due_ms, offset: 0, sequence: 0 }
    }

    /// A buffer of `count` retries of a KiB, of which the first is due at `first_ms` and one each `every_ms` after it.
    fn buffer(count: usize, first_ms: i64, every_ms: i64) -> DueBuffer {
        let mut buffer = DueBuffer::new(&Assignment::new("webhooks.retry.30s".into(), 0));
        buffer.waiting = (0..).take(count).map(|number| waiting(first_ms + number * every_ms, 1024)).collect();
        buffer.bytes = count * 1024;
        buffer
    }

    #[test]
    fn a_buffer_is_full_at_its_bound_and_low_at_half_of_it() {
        let later = NOW + 60_000;
        assert!(!buffer(127, later, 12).is_full(NOW, 0));
        assert!(buffer(128, later, 12).is_full(NOW, 0));
        assert!(!buffer(65, later, 12).is_low(NOW, 0));
        assert!(buffer(64, later, 12).is_low(NOW, 0));
    }

    #[test]
    fn a_buffer_that_runs_out_before_more_can_be_there_is_larger_within_a_bound() {
        assert!(buffer(128, NOW + 1, 12).is_full(NOW, 0), "it lasts 1.5 s");
        assert!(!buffer(128, NOW + 1, 6).is_full(NOW, 0), "it lasts 0.75 s");
        assert!(buffer(128, NOW + 1, 6).is_low(NOW, 0));
        assert!(buffer(512, NOW + 1, 1).is_full(NOW, 0), "the bound");
        assert!(buffer(128, NOW - 1, 6).is_full(NOW, 0), "what is overdue is not taken: more of it does not help");
    }

    #[test]
    fn large_retries_are_there_when_they_fall_due_within_one_bound_for_all() {
        let assignment = Assignment::new("webhooks.retry.30s".into(), 0);
        let mut buffers = DueBuffers::default();
        let mut fill = |partition: i32, count: usize, bytes: usize| {
            let assignment = Assignment::new(Arc::clone(assignment.topic()), partition);
            (0..count).for_each(|_| buffers.push(0, &assignment, waiting(NOW + 60_000, bytes)));
            buffers.flow(NOW).pause.len()
        };
        assert_eq!(fill(0, 3, 500_000), 0, "three large ones");
        assert_eq!(fill(1, 4, 500_000), 1, "four");
        assert_eq!(fill(2, 1, ALL_BYTES_MAX), 2, "beyond the bound each partition keeps what it has");
        buffers.take_due(NOW + 60_000, || true, |_, _, _| ());
        assert_eq!((buffers.bytes, buffers.flow(NOW).resume.len()), (0, 3));
    }

    #[test]
    fn what_has_been_due_for_longest_comes_first_whatever_its_tier() {
        let mut buffers = DueBuffers::default();
        let (short, long) = (Assignment::new("r.1s".into(), 0), Assignment::new("r.1h".into(), 7));
        for age in [30, 20, 10] {
            buffers.push(0, &short, waiting(NOW - age, 1));
            buffers.push(4, &long, waiting(NOW - age * 1_000, 1));
        }
        buffers.push(4, &long, waiting(NOW + 1, 1));
        let mut order = Vec::new();
        let room = std::cell::Cell::new(4);
        let may_go_on = || room.replace(room.get() - 1) > 0;
        buffers.take_due(NOW, may_go_on, |tier, _, waiting| order.push((tier, NOW - waiting.due_ms)));
        assert_eq!(order, [(4, 30_000), (4, 20_000), (4, 10_000), (0, 30)]);
        assert_eq!((buffers.next_due_ms(), buffers.next_due_ms_of(4)), (Some(NOW - 20), Some(NOW + 1)));
    }

    #[test]
    fn what_waits_of_a_partition_that_went_is_forgotten() {
        let mut buffers = DueBuffers::default();
        let (stays, goes) = (Assignment::new("r.1s".into(), 0), Assignment::new("r.1s".into(), 1));
        buffers.push(0, &stays, waiting(NOW, 10));
        buffers.push(0, &goes, waiting(NOW, 10));
        buffers.retain(|assignment| Arc::ptr_eq(assignment, &stays));
        assert_eq!(buffers.bytes, 10);
        buffers.push(0, &Assignment::new("r.1s".into(), 0), waiting(NOW, 3));
        assert_eq!(buffers.bytes, 3, "another assignment of the partition");
        assert!(buffers.take_lost().is_empty(), "its next owner reads it");
    }

    #[test]
    fn what_waits_of_a_log_that_has_lost_it_is_not_forgotten() {
        for is_read_again in [true, false] {
            let (mut buffers, before) = (DueBuffers::default(), Assignment::new("r.1s".into(), 0));
            for offset in 0..5 {
                buffers.push(2, &before, Waiting { offset, ..waiting(NOW, 10) });
            }
            before.end_with_its_log(3);
            if is_read_again {
                // Before the reader has noticed.
                buffers.push(2, &Assignment::new("r.1s".into(), 0), waiting(NOW, 1));
            } else {
                buffers.retain(|_| false);
            }
            let lost = buffers.take_lost();
            let lost: Vec<_> = lost.iter().map(|lost| (lost.tier, lost.waiting.offset)).collect();
            assert_eq!(lost, [(2, 3), (2, 4)], "what comes before is read again");
            assert_eq!((buffers.bytes, buffers.take_lost().len()), (usize::from(is_read_again), 0));
        }
    }
}
