//! The counts of this worker that are not reported yet. They are collected once a second, left out while the network guard is up, and
//! kept while Kafka takes no records.
//!
//! A failure is reported at once, and so is the first acknowledgement after a quiet period. Acknowledgements alone are
//! reported together every few seconds, because most integrations only have those and reporting costs more than counting. At
//! most as many are held back as were already reported: otherwise failures at another worker could look like the majority.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher as _;

use super::rules::{Failures, Guard, Rules, SecondCounts};
use super::tally::{Counted, Tally};
use crate::domain::hash::BuildSeeded64;

/// Seconds that are kept separately while Kafka takes no reports. Beyond that number an integration's attempts are added to its last second.
const SLOTS_MAX: usize = 200_000;
/// Bytes of one second's counts in a record, at most.
const SLOT_BYTES_MAX: usize = 400;
/// Bytes of a record: less than the topic allows, even with the longest key on top.
const RECORD_BYTES_MAX: usize = 32 * 1024;
/// The longest that acknowledgements are held back, ms.
const HELD_MAX_MS: i64 = 10_000;
/// Acknowledgements are held back for at most this part of the shortest time that a rule looks at, so that they do not change a result.
const HELD_PART: i64 = 60;

/// Some integrations of one partition, and what was counted of them.
pub(crate) type Chunk = (i32, Deltas);
/// Some integrations, and what was counted of them.
pub(crate) type Deltas = Vec<(String, Vec<SecondCounts>)>;

/// The counts that are not reported yet.
pub struct Collector {
    part_s: u32,
    held_ms: i64,
    guard: Guard<u64>,
    pending: HashMap<String, Vec<SecondCounts>>,
    slots: usize,
    /// This many acknowledgements are too few to change what the owner concludes.
    few: u64,
    /// How long reported acknowledgements count, ms.
    window_ms: i64,
    /// Makes the hashes of keys. Workspaces and ids come from outside: without a seed two could be chosen that share what is known of them.
    hashes: BuildSeeded64,
    /// The acknowledgements reported of an integration, by the hash of its key.
    reported: HashMap<u64, Acknowledged, BuildSeeded64>,
}

/// The acknowledgements reported of an integration.
struct Acknowledged {
    /// When they were last reported, ms since 1970.
    at_ms: i64,
    /// How many were reported since the last pause that was as long as the window.
    count: u64,
}

impl Collector {
    /// A collector whose owner judges by `rules`.
    pub fn new(rules: &Rules) -> Self {
        let shortest_ms = (i64::from(rules.errors_window_s) * 1_000).min(rules.suspend_after_ms);
        Self {
            part_s: rules.part_s(),
            held_ms: (shortest_ms / HELD_PART).min(HELD_MAX_MS),
            guard: Guard::default(),
            pending: HashMap::default(),
            slots: 0,
            few: u64::from(rules.errors_min_attempts / 2),
            window_ms: i64::from(rules.errors_window_s) * 1_000,
            hashes: BuildSeeded64::default(),
            reported: HashMap::default(),
        }
    }

    /// Takes over what the shards counted. Returns whether the network guard is up. Then attempts do not count; the time of an
    /// acknowledgement is still reported.
    pub fn collect(&mut self, tally: &Tally, now_ms: i64) -> bool {
        let mut counted = Vec::new();
        tally.drain(|one| counted.push(one));
        for one in &counted {
            self.guard.attempted(self.hashes.hash_one(one.integration.key()), one.last_ms, one.by_network);
        }
        let guarded = self.guard.is_active(now_ms);
        for one in counted {
            self.take(one, guarded);
        }
        guarded
    }

    fn take(&mut self, counted: Counted, guarded: bool) {
        let Counted { integration, mut slot, .. } = counted;
        if guarded {
            if slot.last_acknowledged_ms.is_none() {
                return;
            }
            (slot.acknowledged, slot.failures) = (0, Failures::default());
            (slot.unacknowledged, slot.first_failure_ms) = (Failures::default(), None);
        }
        let full = self.slots >= SLOTS_MAX;
        let part_s = self.part_s;
        let slots = match self.pending.get_mut(integration.key()) {
            Some(slots) => slots,
            None => self.pending.entry(integration.key().to_owned()).or_default(),
        };
        // Of acknowledgements only the part of the window matters, and the last.
        let same = |known: &&mut SecondCounts| {
            let without_failure = known.failures.is_empty() && slot.failures.is_empty();
            known.second == slot.second || without_failure && known.second / part_s == slot.second / part_s
        };
        if let Some(same) = slots.iter_mut().find(same) {
            same.second = same.second.max(slot.second);
            same.merge(&slot);
        } else if let Some(last) = slots.last_mut().filter(|_| full) {
            last.second = last.second.max(slot.second);
            last.merge(&slot);
        } else {
            slots.push(slot);
            self.slots += 1;
        }
    }

    /// Hands over what is reported now, each chunk for one record. With `last` nothing is held back for later. An integration for which
    /// `partition_of` returns `None` is held back.
    pub fn take_chunks(&mut self, now_ms: i64, last: bool, partition_of: impl Fn(&str) -> Option<i32>) -> Vec<Chunk> {
        let (held_ms, few, window_ms, hashes) = (self.held_ms, self.few, self.window_ms, self.hashes);
        self.reported.retain(|_, reported| now_ms.saturating_sub(reported.at_ms) < window_ms);
        let reported = &mut self.reported;
        let due = self.pending.extract_if(|key, slots| {
            if partition_of(key).is_none() {
                return false;
            }
            if slots.iter().all(|slot| slot.last_acknowledged_ms.is_none()) {
                return true;
            }
            let acknowledged = slots.iter().map(|slot| u64::from(slot.acknowledged)).sum();
            let without_failure = slots.iter().all(|slot| slot.failures.is_empty());
            let before = reported.entry(hashes.hash_one(&**key)).or_insert(Acknowledged { at_ms: i64::MIN, count: 0 });
            let is_recent = now_ms.saturating_sub(before.at_ms) < held_ms;
            if !last && without_failure && is_recent && acknowledged <= before.count.max(few) {
                return false;
            }
            *before = Acknowledged { at_ms: now_ms, count: before.count.saturating_add(acknowledged) };
            true
        });
        let mut open: BTreeMap<i32, (usize, Deltas)> = BTreeMap::new();
        let mut chunks = Vec::new();
        for (key, slots) in due {
            self.slots -= slots.len();
            let Some(partition) = partition_of(&key) else { continue };
            for slots in slots.chunks(RECORD_BYTES_MAX / SLOT_BYTES_MAX) {
                // The owner counts an integration once a record.
                let known = |(_, deltas): &(usize, Deltas)| deltas.last().is_some_and(|(last, _)| *last == key);
                if open.get(&partition).is_some_and(known)
                    && let Some((_, deltas)) = open.remove(&partition)
                {
                    chunks.push((partition, deltas));
                }
                let (bytes, deltas) = open.entry(partition).or_default();
                *bytes += key.len() + slots.len() * SLOT_BYTES_MAX;
                deltas.push((key.clone(), slots.to_vec()));
                if *bytes >= RECORD_BYTES_MAX
                    && let Some((_, deltas)) = open.remove(&partition)
                {
                    chunks.push((partition, deltas));
                }
            }
        }
        chunks.extend(open.into_iter().map(|(partition, (_, deltas))| (partition, deltas)));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::hash::testing::colliding;
    use crate::domain::integration::Integration;
    use crate::domain::outcome::{Outcome, Reason};
    use crate::health::records::DeltaBatch;
    use crate::health::rules::ReporterPosition;
    use std::sync::Arc;

    fn integration(number: usize) -> Arc<Integration> {
        Arc::new(Integration::parse(&format!("ws/{number}"), b"{}").unwrap())
    }

    const RULES: Rules = Rules {
        errors_window_s: 600,
        errors_min_attempts: 20,
        suspend_after_ms: 3_600_000,
        suspend_after_failures: 100,
    };

    fn all(collector: &mut Collector) -> Deltas {
        collector.take_chunks(0, true, |_| Some(0)).into_iter().flat_map(|(_, deltas)| deltas).collect()
    }

    #[test]
    fn attempts_are_summed_by_integration_and_second_over_all_shards() {
        let tally = Tally::new(2);
        let (before, after) = (integration(1), integration(1));
        let failed = Outcome::Failed { reason: Reason::Status, status: Some(503), retry_after: None };
        tally.count(0, &before, &Outcome::Acknowledged, 1_200);
        tally.count(1, &before, &failed, 1_300);
        tally.count(1, &after, &Outcome::failed(Reason::Timeout), 1_100);
        tally.count(0, &after, &Outcome::Acknowledged, 21_000);
        tally.count(0, &after, &Outcome::failed(Reason::CircuitOpen), 21_000);
        tally.count(0, &after, &Outcome::failed(Reason::CircuitOpen), 21_000);
        let mut collector = Collector::new(&RULES);
        assert!(!collector.collect(&tally, 21_500));
        let reported = all(&mut collector);
        assert_eq!(reported.len(), 1);
        let (key, mut slots) = reported.into_iter().next().unwrap();
        assert_eq!(key, "ws/1");
        slots.sort_by_key(|slot| slot.second);
        let first = SecondCounts {
            second: 1,
            acknowledged: 1,
            failures: [(Reason::Status, 1), (Reason::Timeout, 1)].into_iter().collect(),
            unacknowledged: [(Reason::Status, 1)].into_iter().collect(),
            first_failure_ms: Some(1_300),
            last_acknowledged_ms: Some(1_200),
            last_answer: Some((1_300, 503)),
        };
        let second = SecondCounts {
            second: 21,
            acknowledged: 1,
            last_acknowledged_ms: Some(21_000),
            last_answer: Some((21_000, 200)),
            ..SecondCounts::default()
        };
        assert_eq!(slots, [first, second]);
        assert!(all(&mut collector).is_empty(), "what was handed over is not handed over again");
    }

    #[test]
    fn while_our_network_fails_only_the_time_of_an_acknowledgement_is_reported() {
        let tally = Tally::new(1);
        let integrations: Vec<_> = (0..12).map(integration).collect();
        let mut collector = Collector::new(&RULES);
        for one in &integrations[..6] {
            tally.count(0, one, &Outcome::failed(Reason::Connect), 1_000);
        }
        assert!(!collector.collect(&tally, 1_000), "fewer than ten were attempted");
        assert_eq!(all(&mut collector).len(), 6);
        for one in &integrations[6..11] {
            tally.count(0, one, &Outcome::failed(Reason::Dns), 2_000);
        }
        tally.count(0, &integrations[11], &Outcome::Acknowledged, 2_000);
        assert!(collector.collect(&tally, 2_000));
        let reported = all(&mut collector);
        let uncounted = SecondCounts {
            second: 2,
            last_acknowledged_ms: Some(2_000),
            last_answer: Some((2_000, 200)),
            ..SecondCounts::default()
        };
        assert_eq!(reported, [("ws/11".to_owned(), vec![uncounted])]);
        // The network is back for most.
        for one in &integrations[..8] {
            tally.count(0, one, &Outcome::failed(Reason::Status), 3_000);
        }
        assert!(!collector.collect(&tally, 3_000));
        assert_eq!(all(&mut collector).len(), 8);
    }

    #[test]
    fn counts_that_cannot_be_reported_are_kept_within_bounds_and_not_lost() {
        let tally = Tally::new(1);
        let one = integration(1);
        let mut collector = Collector { slots: SLOTS_MAX - 2, ..Collector::new(&RULES) };
        for second in 1..=10 {
            tally.count(0, &one, &Outcome::failed(Reason::Reset), second * 1_000);
            collector.collect(&tally, second * 1_000);
        }
        let reported = all(&mut collector);
        let seconds: Vec<_> = reported[0].1.iter().map(|slot| (slot.second, slot.failures.total())).collect();
        assert_eq!(seconds, [(1, 1), (10, 9)]);
    }

    #[test]
    fn a_record_has_the_counts_of_one_partition_within_a_bound() {
        let tally = Tally::new(1);
        for number in 0..1_000 {
            tally.count(0, &integration(number), &Outcome::Acknowledged, 1_000);
        }
        let mut collector = Collector::new(&RULES);
        collector.collect(&tally, 1_000);
        for second in 2..500 {
            tally.count(0, &integration(7), &Outcome::failed(Reason::Tls), second * 1_000);
            collector.collect(&tally, second * 1_000);
        }
        let chunks = collector.take_chunks(0, true, |key| Some(i32::from(key.ends_with('7'))));
        for (_, deltas) in &chunks {
            let report = DeltaBatch {
                reporter: ReporterPosition { process_id: u64::MAX, sequence: u64::MAX },
                deltas: deltas.clone(),
            };
            assert!(report.record("host").len() < 2 * RECORD_BYTES_MAX);
        }
        assert!(
            chunks.iter().all(|(partition, deltas)| {
                deltas.iter().all(|(key, _)| i32::from(key.ends_with('7')) == *partition)
            })
        );
        for (_, deltas) in &chunks {
            let keys: HashSet<_> = deltas.iter().map(|(key, _)| key).collect();
            assert_eq!(keys.len(), deltas.len(), "an integration is counted once a record");
        }
        let slots = chunks.iter().flat_map(|(_, deltas)| deltas).map(|(_, slots)| slots.len());
        assert_eq!(slots.sum::<usize>(), 1_000 + 498);
    }

    #[test]
    fn failures_and_first_acknowledgements_are_reported_at_once_and_later_ones_together() {
        let (tally, good, bad) = (Tally::new(1), integration(1), integration(2));
        let mut collector = Collector::new(&RULES);
        let mut reported = |second: i64, outcomes: &[(&Arc<Integration>, Outcome)]| {
            for (integration, outcome) in outcomes {
                tally.count(0, integration, outcome, second * 1_000);
            }
            collector.collect(&tally, second * 1_000);
            let chunks = collector.take_chunks(second * 1_000, false, |_| Some(0)).into_iter();
            let mut reported: Vec<_> = chunks.flat_map(|(_, deltas)| deltas).collect();
            reported.sort_by(|left, right| left.0.cmp(&right.0));
            reported
                .into_iter()
                .map(|(key, slots)| {
                    let acknowledged: u32 = slots.iter().map(|slot| slot.acknowledged).sum();
                    let failed: u64 = slots.iter().map(|slot| slot.failures.total()).sum();
                    (key, acknowledged, failed, slots.len())
                })
                .collect::<Vec<_>>()
        };
        let failed = Outcome::failed(Reason::Status);
        let report = |key: &str, acknowledged, failed, slots| (key.to_owned(), acknowledged, failed, slots);
        assert_eq!(reported(100, &[(&good, Outcome::Acknowledged)]), [report("ws/1", 1, 0, 1)], "the first");
        for second in 101..110 {
            assert_eq!(reported(second, &[(&good, Outcome::Acknowledged), (&bad, failed)]), [report("ws/2", 0, 1, 1)]);
        }
        // Ten seconds after; the window's parts are twenty seconds long, so that one slot says it all.
        assert_eq!(reported(110, &[(&good, Outcome::Acknowledged)]), [report("ws/1", 10, 0, 1)]);
        assert!(reported(111, &[(&good, Outcome::Acknowledged)]).is_empty());
        assert_eq!(
            reported(112, &[(&good, failed)]),
            [report("ws/1", 1, 1, 2)],
            "a failure takes along what was held back"
        );
        assert_eq!(reported(130, &[(&bad, Outcome::Acknowledged)]), [report("ws/2", 1, 0, 1)]);
    }

    #[test]
    fn integrations_whose_keys_are_chosen_to_collide_share_nothing() {
        let mut keys = colliding(*b"ws/");
        let [one, other] = [(); 2].map(|()| Arc::new(Integration::parse(&keys.next().unwrap(), b"{}").unwrap()));
        let tally = Tally::new(1);
        let mut collector = Collector::new(&RULES);
        for integration in [one, other] {
            tally.count(0, &integration, &Outcome::Acknowledged, 100_000);
            collector.collect(&tally, 100_000);
            let reported = collector.take_chunks(100_000, false, |_| Some(0));
            assert_eq!(reported.len(), 1, "the first acknowledgement of each is reported at once");
        }
    }

    #[test]
    fn no_more_acknowledgements_are_held_back_than_were_reported() {
        let (tally, good) = (Tally::new(1), integration(1));
        let mut collector = Collector::new(&RULES);
        let mut reported = |second: i64, count: usize| {
            (0..count).for_each(|_| tally.count(0, &good, &Outcome::Acknowledged, second * 1_000));
            collector.collect(&tally, second * 1_000);
            let chunks = collector.take_chunks(second * 1_000, false, |_| Some(0)).into_iter();
            chunks
                .flat_map(|(_, deltas)| deltas)
                .flat_map(|(_, slots)| slots)
                .map(|slot| slot.acknowledged)
                .sum::<u32>()
        };
        assert_eq!(reported(100, 1), 1, "the first");
        assert_eq!(reported(101, 10), 0, "too few to matter");
        assert_eq!(reported(102, 30), 40);
        assert_eq!(
            (reported(103, 40), reported(104, 1), reported(105, 100)),
            (0, 0, 141),
            "no more than were reported, and more"
        );
        for second in 106..115 {
            assert_eq!(reported(second, 10), 0);
        }
        assert_eq!(reported(115, 10), 100, "ten seconds after");
    }

    #[test]
    fn with_short_rules_nothing_is_held_back() {
        let (tally, good) = (Tally::new(1), integration(1));
        let mut collector = Collector::new(&Rules { errors_window_s: 10, ..RULES });
        for second in 1..5 {
            tally.count(0, &good, &Outcome::Acknowledged, second * 1_000);
            collector.collect(&tally, second * 1_000);
            assert_eq!(collector.take_chunks(second * 1_000, false, |_| Some(0)).len(), 1);
        }
    }
}
