//! The state that the owner of a partition of deltas keeps: its integrations, and which of their counts are not persisted yet.
//!
//! Counts are persisted with a delay, state changes at once. Until then the counted deltas stay uncommitted, so that the
//! next owner reads them again. Each integration knows the offset up to which it has counted, so it counts each once.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{Health, IntegrationHealth, ReporterPosition, Rules, SecondCounts};

#[derive(Clone, Debug, Default)]
struct Entry {
    known: IntegrationHealth,
    /// The offset of the first delta that is counted and not written.
    unwritten_from: Option<i64>,
}

/// A delta that is counted and was not written when this entry was made.
#[derive(Clone, Debug)]
struct Unwritten {
    offset: i64,
    counted_ms: i64,
    key: Box<str>,
}

/// A request to resume that is not yet granted.
#[derive(Clone, Debug)]
struct PendingResume {
    key: Box<str>,
    since_ms: Option<i64>,
}

/// What one process reports of one integration.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// The process and its report.
    pub reporter: ReporterPosition,
    /// The integration.
    pub key: &'a str,
    /// What it counted.
    pub slots: &'a [SecondCounts],
}

/// A change of state to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The integration.
    pub(crate) key: Box<str>,
    /// What is known after the change.
    pub(crate) known: IntegrationHealth,
}

/// The integrations of one partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionHealth {
    entries: HashMap<Box<str>, Entry>,
    /// Oldest first.
    unwritten: VecDeque<Unwritten>,
    resume_requests: Vec<PendingResume>,
    /// Integrations whose state changes by time alone.
    watched: BTreeSet<Box<str>>,
    /// The offset after the last delta that came.
    next_offset: Option<i64>,
}

impl PartitionHealth {
    /// Takes over what a former owner wrote of an integration.
    pub(crate) fn load(&mut self, key: &str, known: IntegrationHealth) {
        if known.is_watched() {
            self.watched.insert(key.into());
        }
        self.entries.insert(key.into(), Entry { known, unwritten_from: None });
    }

    /// How many integrations it holds.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds no integration.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known of an integration.
    #[cfg(test)]
    pub(crate) fn known(&self, key: &str) -> Option<&IntegrationHealth> {
        self.entries.get(key).map(|entry| &entry.known)
    }

    /// Skips a record without content: only advances the offset.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = Some(offset + 1);
    }

    /// Whether a record at this offset was passed already: its partition's log is not the one that was read.
    pub(crate) fn is_passed(&self, offset: i64) -> bool {
        self.next_offset.is_some_and(|next| offset < next)
    }

    /// Begins again with another log of deltas: its offsets do not show what is counted. Reports that were counted are still recognized by
    /// their sequence.
    pub(crate) fn begin_again(&mut self) {
        self.next_offset = None;
        self.unwritten.clear();
        let mut keys: Vec<_> = self.entries.keys().cloned().collect();
        keys.sort_unstable();
        for key in &keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.known.next_offset = 0;
            // All of it is written at the next turn, with offsets of the new log.
            if entry.unwritten_from.is_some() {
                entry.unwritten_from = Some(0);
                self.unwritten.push_back(Unwritten { offset: 0, counted_ms: 0, key: key.clone() });
            }
        }
    }

    /// Counts what is reported in the record at `offset`.
    pub fn count(&mut self, offset: i64, reported: &Reported<'_>, rules: &Rules, now_ms: i64) {
        let Reported { reporter, key, slots } = *reported;
        let entry = match self.entries.get_mut(key) {
            Some(entry) => entry,
            None => self.entries.entry(key.into()).or_default(),
        };
        if !entry.known.apply(offset, reporter, slots, rules, now_ms) {
            return;
        }
        if entry.unwritten_from.is_none() {
            entry.unwritten_from = Some(offset);
            self.unwritten.push_back(Unwritten { offset, counted_ms: now_ms, key: key.into() });
        }
        if entry.known.is_watched() && !self.watched.contains(key) {
            self.watched.insert(key.into());
        }
    }

    /// Takes a request to end the suspension that began at `since_ms`; `None` means any.
    pub(crate) fn request_resume(&mut self, key: &str, since_ms: Option<i64>) {
        self.resume_requests.push(PendingResume { key: key.into(), since_ms });
    }

    /// The changes that are due. They are returned again until [`PartitionHealth::written`].
    pub(crate) fn changes(&mut self, rules: &Rules, now_ms: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        let entries = &mut self.entries;
        self.watched.retain(|key| {
            let Some(entry) = entries.get_mut(key) else { return false };
            let health = entry.known.judge(rules, now_ms);
            if health != entry.known.health {
                changes.push(Change { key: key.clone(), known: entry.known.changed(health, now_ms) });
                return true;
            }
            entry.known.is_watched()
        });
        let mut granted = BTreeSet::new();
        for request in &self.resume_requests {
            let Some(entry) = self.entries.get(&request.key) else { continue };
            let meant = request.since_ms.is_none_or(|since_ms| entry.known.since_ms == Some(since_ms));
            if entry.known.health == Health::Failed && meant && granted.insert(&request.key) {
                changes.push(Change { key: request.key.clone(), known: entry.known.resumed(now_ms) });
            }
        }
        changes
    }

    /// What was counted at `before_ms` or earlier and is not written, at most `count` integrations.
    pub fn unwritten(&self, before_ms: i64, count: usize) -> Vec<(Box<str>, IntegrationHealth)> {
        let due = self.unwritten.iter().take_while(|unwritten| unwritten.counted_ms <= before_ms);
        due.filter_map(|unwritten| self.entries.get(&unwritten.key).map(|entry| (unwritten, entry)))
            .filter(|(unwritten, entry)| entry.unwritten_from == Some(unwritten.offset))
            .map(|(unwritten, entry)| (unwritten.key.clone(), entry.known.clone()))
            .take(count)
            .collect()
    }

    /// Integrations that may be forgotten, since nothing happened from `before_ms` on; at most `count`.
    pub(crate) fn forgettable(&self, before_ms: i64, count: usize) -> Vec<Box<str>> {
        let idle = |entry: &Entry| entry.unwritten_from.is_none() && entry.known.is_forgettable(before_ms);
        self.entries.iter().filter(|(_, entry)| idle(entry)).map(|(key, _)| key.clone()).take(count).collect()
    }

    /// The offset at which the next owner begins, once `written` is written and all requests to resume are granted or refused.
    pub(crate) fn next_offset_with<'a>(&self, written: impl Iterator<Item = &'a str>) -> Option<i64> {
        let written: BTreeSet<&str> = written.collect();
        let open = self.unwritten.iter().find(|unwritten| {
            let from = self.entries.get(&unwritten.key).and_then(|entry| entry.unwritten_from);
            from == Some(unwritten.offset) && !written.contains(&*unwritten.key)
        });
        open.map(|unwritten| unwritten.offset).or(self.next_offset)
    }

    /// Notes what was written: changes, counts and what is forgotten. It also ends all requests to resume.
    pub(crate) fn written<'a>(
        &mut self,
        changes: Vec<Change>,
        counted: impl Iterator<Item = &'a str>,
        forgotten: impl Iterator<Item = &'a str>,
    ) {
        for Change { key, known } in changes {
            if known.is_watched() {
                self.watched.insert(key.clone());
            } else {
                self.watched.remove(&key);
            }
            self.entries.insert(key, Entry { known, unwritten_from: None });
        }
        for key in counted {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.unwritten_from = None;
            }
        }
        for key in forgotten {
            self.entries.remove(key);
        }
        self.resume_requests.clear();
        let entries = &self.entries;
        let is_written = |unwritten: &Unwritten| {
            entries.get(&unwritten.key).and_then(|entry| entry.unwritten_from) != Some(unwritten.offset)
        };
        while self.unwritten.front().is_some_and(is_written) {
            self.unwritten.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Reason;
    use proptest::prelude::*;

    const RULES: Rules =
        Rules { errors_window_s: 60, errors_min_attempts: 20, suspend_after_ms: 10_000, suspend_after_failures: 5 };

    fn failures(second: u32, count: u32) -> SecondCounts {
        let mut slot = SecondCounts::of(second);
        (0..count).for_each(|_| slot.fail(i64::from(second) * 1_000, Reason::Timeout, None));
        slot
    }

    fn reported<'a>(sequence: u64, key: &'a str, slots: &'a [SecondCounts]) -> Reported<'a> {
        Reported { reporter: ReporterPosition { process_id: 1, sequence }, key, slots }
    }

    fn keys(changes: &[Change]) -> Vec<(&str, Health)> {
        changes.iter().map(|change| (&*change.key, change.known.health)).collect()
    }

    /// The first offset that a count still needs.
    fn needed(book: &PartitionHealth) -> Option<i64> {
        book.next_offset_with(std::iter::empty())
    }

    #[test]
    fn a_change_is_returned_until_it_is_written_and_not_again() {
        let mut book = PartitionHealth::default();
        book.count(0, &reported(1, "ws/a", &[failures(1, 30)]), &RULES, 1_500);
        book.count(1, &reported(2, "ws/b", &[failures(1, 1)]), &RULES, 1_500);
        book.skip(1);
        let changes = book.changes(&RULES, 2_000);
        assert_eq!(keys(&changes), [("ws/a", Health::HasErrors)]);
        assert_eq!(keys(&book.changes(&RULES, 2_000)), [("ws/a", Health::HasErrors)], "not written yet");
        assert_eq!(book.next_offset_with(["ws/a"].into_iter()), Some(1));
        book.written(changes, std::iter::empty(), std::iter::empty());
        assert!(book.changes(&RULES, 3_000).is_empty());
        assert_eq!(book.known("ws/a").unwrap().since_ms, Some(2_000));
        // Time alone makes it worse, and later better.
        let changes = book.changes(&RULES, 11_000);
        assert_eq!(keys(&changes), [("ws/a", Health::Failed)]);
        book.written(changes, std::iter::empty(), std::iter::empty());
        assert!(book.changes(&RULES, 500_000).is_empty());
    }

    #[test]
    fn a_request_to_resume_is_granted_once_and_only_for_its_suspension() {
        let failed = IntegrationHealth::default().changed(Health::Failed, 5_000);
        let check = |resume_requests: &[Option<i64>], expected: &[(&str, Health)]| {
            let mut book = PartitionHealth::default();
            book.load("ws/a", failed.clone());
            for (offset, since_ms) in (10..).zip(resume_requests) {
                book.request_resume("ws/a", *since_ms);
                book.skip(offset);
            }
            book.request_resume("ws/unknown", None);
            book.skip(20);
            let changes = book.changes(&RULES, 9_000);
            assert_eq!(keys(&changes), expected);
            assert_eq!(keys(&book.changes(&RULES, 9_000)), expected, "not written yet");
            book.written(changes, std::iter::empty(), std::iter::empty());
            assert_eq!(needed(&book), Some(21));
            assert!(book.changes(&RULES, 9_500).is_empty());
        };
        let granted: &[_] = &[("ws/a", Health::Active)];
        check(&[None], granted);
        check(&[Some(5_000), Some(5_000), None], granted);
        check(&[Some(4_999)], &[]);
        check(&[Some(4_999), Some(5_000)], granted);
        check(&[], &[]);
    }

    #[test]
    fn counts_are_written_when_they_are_old_enough_and_the_offset_follows() {
        let mut book = PartitionHealth::default();
        for (offset, key, at) in [(0, "ws/a", 1_000), (1, "ws/b", 2_000), (2, "ws/a", 3_000), (3, "ws/c", 4_000)] {
            book.count(offset, &reported(u64::try_from(offset).unwrap() + 1, key, &[failures(1, 1)]), &RULES, at);
            book.skip(offset);
        }
        let due = |book: &PartitionHealth, before| {
            book.unwritten(before, 10).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(due(&book, 999), []);
        assert_eq!(due(&book, 2_000), ["ws/a".into(), "ws/b".into()]);
        assert_eq!(book.unwritten(9_000, 1).len(), 1);
        assert_eq!(book.next_offset_with(["ws/a"].into_iter()), Some(1));
        assert_eq!(book.next_offset_with(["ws/b"].into_iter()), Some(0));
        assert_eq!(book.next_offset_with(["ws/a", "ws/b", "ws/c"].into_iter()), Some(4));
        book.written(vec![], ["ws/a"].into_iter(), std::iter::empty());
        assert_eq!(needed(&book), Some(1));
        book.count(4, &reported(5, "ws/a", &[failures(2, 1)]), &RULES, 5_000);
        book.skip(4);
        book.written(vec![], ["ws/b", "ws/c"].into_iter(), std::iter::empty());
        assert_eq!((needed(&book), due(&book, 9_000)), (Some(4), vec!["ws/a".into()]));
        book.written(vec![], ["ws/a"].into_iter(), std::iter::empty());
        assert_eq!(needed(&book), Some(5));
    }

    #[test]
    fn another_log_of_deltas_is_counted_from_its_start_and_nothing_twice() {
        let mut book = PartitionHealth::default();
        book.count(700, &reported(7, "ws/a", &[failures(1, 3)]), &RULES, 1_000);
        book.skip(700);
        assert!(book.is_passed(0) && !book.is_passed(701));
        book.begin_again();
        book.count(0, &reported(7, "ws/a", &[failures(1, 3)]), &RULES, 1_000);
        book.count(1, &reported(8, "ws/a", &[failures(1, 2)]), &RULES, 1_000);
        book.skip(1);
        assert_eq!(book.known("ws/a").unwrap().counts.streak.failures().total(), 5);
        assert_eq!(book.next_offset_with(std::iter::empty()), Some(0), "what is not written is read again");
        let counted = book.unwritten(9_000, 10);
        book.written(vec![], counted.iter().map(|(key, _)| &**key), std::iter::empty());
        assert_eq!(book.next_offset_with(std::iter::empty()), Some(2));
    }

    #[test]
    fn the_idle_are_forgotten_only_once_they_are_written() {
        let mut book = PartitionHealth::default();
        let slot =
            SecondCounts { second: 1, acknowledged: 1, last_acknowledged_ms: Some(1_000), ..SecondCounts::default() };
        book.count(0, &reported(1, "ws/a", &[slot]), &RULES, 1_000);
        assert!(book.forgettable(900_000, 10).is_empty());
        book.written(vec![], ["ws/a"].into_iter(), std::iter::empty());
        assert_eq!(book.forgettable(900_000, 10), ["ws/a".into()]);
        assert!(book.forgettable(1_000, 10).is_empty());
        book.written(vec![], std::iter::empty(), ["ws/a"].into_iter());
        assert!(book.is_empty());
    }

    /// A topic of deltas and two topics of states, in memory, with owners that die at any moment.
    #[derive(Default)]
    struct Topics {
        deltas: Vec<(u64, &'static str, SecondCounts)>,
        counts: HashMap<Box<str>, IntegrationHealth>,
        changes: Vec<(Box<str>, Health)>,
        committed: i64,
    }

    impl Topics {
        fn owner(&self) -> PartitionHealth {
            let mut book = PartitionHealth::default();
            self.counts.iter().for_each(|(key, known)| book.load(key, known.clone()));
            book
        }

        fn turn(&mut self, book: &mut PartitionHealth, before_ms: i64, now_ms: i64) {
            let changes = book.changes(&RULES, now_ms);
            let counted = book.unwritten(before_ms, 2);
            let written = changes.iter().map(|change| &*change.key).chain(counted.iter().map(|(key, _)| &**key));
            self.committed = book.next_offset_with(written).unwrap_or(self.committed);
            self.counts.extend(counted.iter().cloned());
            for change in &changes {
                self.counts.insert(change.key.clone(), change.known.clone());
                self.changes.push((change.key.clone(), change.known.health));
            }
            book.written(changes, counted.iter().map(|(key, _)| &**key), std::iter::empty());
        }
    }

    proptest! {
        #[test]
        fn owners_that_die_lose_and_double_nothing(
            deltas in prop::collection::vec((0..3usize, 1..4u32), 1..40),
            steps in prop::collection::vec((0..6u8, 1..8usize), 1..60),
        ) {
            let keys = ["ws/a", "ws/b", "ws/c"];
            let deltas_of = |(n, (key, count)): (u64, &(usize, u32))| (n, keys[*key], failures(1, *count));
            let mut topics = Topics { deltas: (1..).zip(&deltas).map(deltas_of).collect(), ..Topics::default() };
            let mut book = topics.owner();
            let mut read = 0;
            let end = i64::try_from(deltas.len()).unwrap();
            let finish = [(0u8, deltas.len()), (1, 1), (1, 1), (1, 1), (1, 1), (2, 1), (0, deltas.len())];
            for (step, much) in steps.into_iter().chain(finish) {
                match step {
                    // Turns, of which the last may be all that an owner lives to see.
                    1 => topics.turn(&mut book, 1_500, 2_000),
                    2 => {
                        book = topics.owner();
                        read = topics.committed;
                    }
                    _ => for _ in 0..much {
                        let Some((sequence, key, slot)) = usize::try_from(read).ok().and_then(|at| topics.deltas.get(at))
                        else { break };
                        let now = 1_400 + i64::from(step) * 50;
                        book.count(read, &reported(*sequence, key, std::slice::from_ref(slot)), &RULES, now);
                        book.skip(read);
                        read += 1;
                    },
                }
            }
            prop_assert_eq!(read, end);
            for (index, key) in keys.iter().enumerate() {
                let expected: u64 = deltas.iter().filter(|(at, _)| *at == index).map(|(_, count)| u64::from(*count)).sum();
                let counted = book.known(key).map_or(0, |known| known.counts.streak.failures().total());
                prop_assert_eq!(counted, expected, "{}", key);
                let changes = topics.changes.iter().filter(|(changed, _)| &**changed == *key).count();
                prop_assert!(changes <= 1, "each change is one record: {:?}", topics.changes);
            }
        }
    }
}
