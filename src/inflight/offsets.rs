//! Which offset of a partition may be committed: a ring of the records read and not yet settled, in offset order.
//!
//! A record is settled when each of its deliveries is acknowledged, or the record that follows it is, or a counted rule dropped it. Only
//! the settled prefix is committable, never the highest offset seen. Slots are addressed by a sequence number, so gaps in the offsets
//! (compaction, transactions) change nothing. A tracker lives as long as one assignment of its partition: what is settled after the
//! assignment was lost goes to a tracker that is not used any more.
//!
//! What is settled beyond that prefix is given as runs of offsets, so that it can be stored with the commit and the next
//! owner does not repeat it.

use std::collections::VecDeque;
use std::ops::Range;

/// A record's place in its tracker.
pub(crate) type Sequence = u64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    settled: bool,
}

/// The records of one assignment of one partition.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    slots: VecDeque<Entry>,
    /// The sequence number of the first slot.
    head: Sequence,
    /// One past the last offset of the settled prefix.
    committable: Option<i64>,
    /// Grows with every record that settles.
    changes: u64,
    last_read: Option<i64>,
}

impl OffsetTracker {
    /// Takes a record that was read. Offsets must grow.
    pub fn admit(&mut self, offset: i64) -> Sequence {
        self.last_read = Some(offset);
        self.slots.push_back(Entry { offset, settled: false });
        self.head + self.slots.len() as Sequence - 1
    }

    /// Takes a record that needs nothing more.
    pub fn admit_settled(&mut self, offset: i64) {
        self.changes += 1;
        self.last_read = Some(offset);
        if self.slots.is_empty() {
            self.head += 1;
            self.committable = Some(offset + 1);
        } else {
            self.slots.push_back(Entry { offset, settled: true });
        }
    }

    /// Settles a record. Returns whether the committable offset moved. Settling twice changes nothing.
    pub fn settle(&mut self, sequence: Sequence) -> bool {
        let place = sequence.checked_sub(self.head).and_then(|place| usize::try_from(place).ok());
        let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) else { return false };
        self.changes += u64::from(!slot.settled);
        slot.settled = true;
        let mut moved = false;
        while let Some(slot) = self.slots.front().filter(|slot| slot.settled) {
            self.committable = Some(slot.offset + 1);
            self.slots.pop_front();
            self.head += 1;
            moved = true;
        }
        // While the first record is open the ring grows. Its memory is freed afterwards.
        if self.slots.is_empty() && self.slots.capacity() > 4096 {
            self.slots.shrink_to(256);
        }
        moved
    }

    /// The offset to commit, once a prefix is settled.
    pub fn committable(&self) -> Option<i64> {
        self.committable
    }

    /// Grows with every record that settles: a caller that stored [`Self::committable`] and [`Self::settled_beyond`] compares it.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The last record read.
    pub(crate) fn last_read(&self) -> Option<i64> {
        self.last_read
    }

    /// The offset of the first record that is not settled.
    pub(crate) fn first_unsettled(&self) -> Option<i64> {
        self.slots.front().map(|slot| slot.offset)
    }

    /// The runs of settled offsets beyond the first record that is not settled: at most `runs_max`, in offset order. Ends
    /// where offsets go back, as they do when the client was set back in a log that was cut.
    pub(crate) fn settled_beyond(&self, runs_max: usize) -> Vec<Range<i64>> {
        let mut runs: Vec<Range<i64>> = Vec::new();
        let (mut is_open, mut next) = (false, i64::MIN);
        for slot in &self.slots {
            if slot.offset < next {
                break;
            }
            next = slot.offset + 1;
            match runs.last_mut().filter(|_| is_open) {
                // Offsets between two records that were read one after another hold nothing.
                Some(run) if slot.settled => run.end = next,
                _ if slot.settled => {
                    if runs.len() == runs_max {
                        break;
                    }
                    runs.push(slot.offset..next);
                }
                _ => {}
            }
            is_open = slot.settled;
        }
        runs
    }

    /// The sequence number of the first record that is not settled, or of the next one that is read.
    pub(crate) fn settled_below(&self) -> Sequence {
        self.head
    }

    /// How many records come after the settled prefix, up to the last one read.
    pub(crate) fn unsettled_len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_the_settled_prefix_is_committable() {
        let mut tracker = OffsetTracker::default();
        assert_eq!(tracker.committable(), None);
        let first = tracker.admit(10);
        let second = tracker.admit(13);
        tracker.admit_settled(14);
        assert!(!tracker.settle(second));
        assert_eq!(tracker.committable(), None);
        assert!(tracker.settle(first));
        assert_eq!(tracker.committable(), Some(15));
        assert!(!tracker.settle(first));
        tracker.admit_settled(20);
        assert_eq!((tracker.committable(), tracker.unsettled_len()), (Some(21), 0));
    }

    fn one(run: Range<i64>) -> Vec<Range<i64>> {
        vec![run]
    }

    #[test]
    fn settled_offsets_beyond_the_prefix_are_reported_in_runs() {
        let mut tracker = OffsetTracker::default();
        let first = tracker.admit(10);
        let [second, third] = [13, 14].map(|offset| tracker.admit(offset));
        tracker.admit(15);
        tracker.admit_settled(16);
        assert_eq!(tracker.settled_beyond(9), one(16..17));
        let before = tracker.changes();
        tracker.settle(second);
        tracker.settle(third);
        tracker.settle(third);
        assert_eq!(tracker.changes(), before + 2);
        assert_eq!(tracker.settled_beyond(9), [13..15, 16..17]);
        assert_eq!(tracker.settled_beyond(1), one(13..15));
        assert_eq!((tracker.committable(), tracker.first_unsettled()), (None, Some(10)));
        tracker.settle(first);
        assert_eq!((tracker.committable(), tracker.first_unsettled()), (Some(15), Some(15)));
        assert_eq!(tracker.settled_beyond(9), one(16..17));
    }

    #[test]
    fn records_read_after_the_log_was_cut_are_in_no_run_and_the_commit_goes_back_with_them() {
        let mut tracker = OffsetTracker::default();
        tracker.admit_settled(99);
        let first = tracker.admit(100);
        tracker.admit_settled(101);
        tracker.admit_settled(5);
        assert_eq!(tracker.settled_beyond(9), one(101..102));
        tracker.settle(first);
        assert_eq!(tracker.committable(), Some(6));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit {
            gap: i64,
            settled: bool,
        },
        /// Settles one of the admitted, by share of all.
        Settle(usize),
        /// The partition is lost and assigned again from the committed offset.
        Reassign,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0i64..4, any::<bool>()).prop_map(|(gap, settled)| Step::Admit { gap, settled }),
            4 => any::<usize>().prop_map(Step::Settle),
            1 => Just(Step::Reassign),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_naive_model(steps in prop::collection::vec(any_step(), 1..200)) {
            let mut epoch = 0;
            let mut trackers = vec![OffsetTracker::default()];
            // For each (epoch, sequence): the offset and whether it is settled.
            let mut model: BTreeMap<(usize, Sequence), (i64, bool)> = BTreeMap::new();
            let mut next = 0;
            let mut committed = vec![None];
            for step in steps {
                match step {
                    Step::Admit { gap, settled } => {
                        let offset = next + gap;
                        next = offset + 1;
                        let sequence = model.keys().filter(|key| key.0 == epoch).count() as Sequence;
                        if settled {
                            trackers[epoch].admit_settled(offset);
                        } else {
                            prop_assert_eq!(trackers[epoch].admit(offset), sequence);
                        }
                        model.insert((epoch, sequence), (offset, settled));
                    }
                    Step::Settle(choice) if !model.is_empty() => {
                        // Any epoch: completions come late.
                        let key = *model.keys().nth(choice % model.len()).unwrap();
                        trackers[key.0].settle(key.1);
                        model.get_mut(&key).unwrap().1 = true;
                    }
                    Step::Settle(_) => {}
                    Step::Reassign => {
                        next = committed[epoch].unwrap_or(next);
                        epoch += 1;
                        trackers.push(OffsetTracker::default());
                        committed.push(None);
                    }
                }
                for (number, tracker) in trackers.iter().enumerate() {
                    let prefix = model
                        .range((number, 0)..(number + 1, 0))
                        .map(|(_, slot)| slot)
                        .take_while(|slot| slot.1)
                        .last()
                        .map(|slot| slot.0 + 1);
                    prop_assert_eq!(tracker.committable(), prefix);
                    let listed = tracker.settled_beyond(usize::MAX);
                    for (offset, settled) in model.range((number, 0)..(number + 1, 0)).map(|(_, slot)| *slot) {
                        let is_beyond = prefix.is_none_or(|prefix| offset >= prefix);
                        let is_listed = listed.iter().any(|run| run.contains(&offset));
                        prop_assert_eq!(is_listed, settled && is_beyond, "{}", offset);
                    }
                    prop_assert!(prefix >= committed[number], "never backwards");
                    committed[number] = prefix;
                }
            }
        }
    }
}
