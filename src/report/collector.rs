//! What this worker has counted and not yet told: gathered once a second, held back while the fault is ours, kept while
//! nobody can be told.

use std::collections::BTreeMap;

use super::tally::{Counted, Tally};
use crate::domain::hash::hash_bytes;
use crate::domain::health::{Guard, Slot};

/// Seconds kept apart while nobody can be told; beyond it an integration's attempts are added to its last second.
const SLOTS_MAX: usize = 200_000;
/// What one second takes up in a record, at most.
const SLOT_BYTES_MAX: usize = 400;
/// A record takes up less than the topic's records may, even with the longest key on top.
const RECORD_BYTES_MAX: usize = 32 * 1024;

/// Some integrations of one partition, and what was counted of them.
pub type Chunk = (i32, Deltas);
/// Some integrations, and what was counted of them.
pub type Deltas = Vec<(String, Vec<Slot>)>;

/// What is not yet told.
#[derive(Default)]
pub struct Collector {
    guard: Guard<u64>,
    pending: BTreeMap<String, Vec<Slot>>,
    slots: usize,
}

impl Collector {
    /// Takes over what the shards counted. Says whether the network guard is up: then nothing of it counts, but that an
    /// integration acknowledged is still told.
    pub fn collect(&mut self, tally: &Tally, now_ms: i64) -> bool {
        let mut counted = Vec::new();
        tally.drain(|one| counted.push(one));
        for one in &counted {
            self.guard.attempted(hash_bytes(one.integration.key().as_bytes()), one.last_ms, one.by_network);
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
            slot = Slot {
                second: slot.second,
                last_acknowledged_ms: slot.last_acknowledged_ms,
                last_answer: slot.last_answer.filter(|_| slot.last_acknowledged_ms.is_some()),
                ..Slot::default()
            };
            if slot.last_acknowledged_ms.is_none() {
                return;
            }
        }
        let full = self.slots >= SLOTS_MAX;
        let slots = match self.pending.get_mut(integration.key()) {
            Some(slots) => slots,
            None => self.pending.entry(integration.key().to_owned()).or_default(),
        };
        if let Some(same) = slots.iter_mut().find(|known| known.second == slot.second) {
            same.merge(&slot);
        } else if let Some(last) = slots.last_mut().filter(|_| full) {
            last.second = last.second.max(slot.second);
            last.merge(&slot);
        } else {
            slots.push(slot);
            self.slots += 1;
        }
    }

    /// Hands over all that is to be told, in pieces of a record each.
    pub fn take_chunks(&mut self, partition_of: impl Fn(&str) -> i32) -> Vec<Chunk> {
        let mut open: BTreeMap<i32, (usize, Deltas)> = BTreeMap::new();
        let mut chunks = Vec::new();
        for (key, slots) in std::mem::take(&mut self.pending) {
            let partition = partition_of(&key);
            for slots in slots.chunks(RECORD_BYTES_MAX / SLOT_BYTES_MAX) {
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
        self.slots = 0;
        chunks.extend(open.into_iter().map(|(partition, (_, deltas))| (partition, deltas)));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::health::Told;
    use crate::domain::integration::Integration;
    use crate::domain::outcome::{Outcome, Reason};
    use crate::kafka::health_wire::Telling;
    use std::sync::Arc;

    fn integration(number: usize) -> Arc<Integration> {
        Arc::new(Integration::parse(&format!("ws/{number}"), b"{}").unwrap())
    }

    fn all(collector: &mut Collector) -> Vec<(String, Vec<Slot>)> {
        collector.take_chunks(|_| 0).into_iter().flat_map(|(_, deltas)| deltas).collect()
    }

    #[test]
    fn attempts_are_summed_by_integration_and_second_over_all_shards() {
        let tally = Tally::new(2);
        let (before, after) = (integration(1), integration(1));
        let failed = Outcome::Failed { reason: Reason::Status, status: Some(503), retry_after: None };
        tally.count(0, &before, &Outcome::Acknowledged, 1_200);
        tally.count(1, &before, &failed, 1_300);
        tally.count(1, &after, &Outcome::failed(Reason::Timeout), 1_100);
        tally.count(0, &after, &Outcome::Acknowledged, 2_000);
        tally.count(0, &after, &Outcome::failed(Reason::CircuitOpen), 2_000);
        tally.count(0, &after, &Outcome::failed(Reason::Overloaded), 2_000);
        let mut collector = Collector::default();
        assert!(!collector.collect(&tally, 2_500));
        let told = all(&mut collector);
        assert_eq!(told.len(), 1);
        let (key, mut slots) = told.into_iter().next().unwrap();
        assert_eq!(key, "ws/1");
        slots.sort_by_key(|slot| slot.second);
        let first = Slot {
            second: 1,
            acknowledged: 1,
            failures: [(Reason::Status, 1), (Reason::Timeout, 1)].into_iter().collect(),
            first_failure_ms: Some(1_100),
            last_acknowledged_ms: Some(1_200),
            last_answer: Some((1_300, 503)),
        };
        let second = Slot {
            second: 2,
            acknowledged: 1,
            last_acknowledged_ms: Some(2_000),
            last_answer: Some((2_000, 200)),
            ..Slot::default()
        };
        assert_eq!(slots, [first, second]);
        assert!(all(&mut collector).is_empty(), "what was handed over is not handed over again");
    }

    #[test]
    fn while_our_network_fails_nothing_counts_but_that_somebody_acknowledged() {
        let tally = Tally::new(1);
        let integrations: Vec<_> = (0..12).map(integration).collect();
        let mut collector = Collector::default();
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
        let told = all(&mut collector);
        let uncounted =
            Slot { second: 2, last_acknowledged_ms: Some(2_000), last_answer: Some((2_000, 200)), ..Slot::default() };
        assert_eq!(told, [("ws/11".to_owned(), vec![uncounted])]);
        // The network is back for most.
        for one in &integrations[..8] {
            tally.count(0, one, &Outcome::failed(Reason::Status), 3_000);
        }
        assert!(!collector.collect(&tally, 3_000));
        assert_eq!(all(&mut collector).len(), 8);
    }

    #[test]
    fn what_can_not_be_told_is_kept_within_bounds_and_loses_no_count() {
        let tally = Tally::new(1);
        let one = integration(1);
        let mut collector = Collector { slots: SLOTS_MAX - 2, ..Collector::default() };
        for second in 1..=10 {
            tally.count(0, &one, &Outcome::failed(Reason::Reset), second * 1_000);
            collector.collect(&tally, second * 1_000);
        }
        let told = all(&mut collector);
        let seconds: Vec<_> = told[0].1.iter().map(|slot| (slot.second, slot.failures.total())).collect();
        assert_eq!(seconds, [(1, 1), (10, 9)]);
    }

    #[test]
    fn a_record_tells_of_one_partition_and_not_too_much() {
        let tally = Tally::new(1);
        for number in 0..1_000 {
            tally.count(0, &integration(number), &Outcome::Acknowledged, 1_000);
        }
        let mut collector = Collector::default();
        collector.collect(&tally, 1_000);
        for second in 2..500 {
            tally.count(0, &integration(7), &Outcome::failed(Reason::Tls), second * 1_000);
            collector.collect(&tally, second * 1_000);
        }
        let chunks = collector.take_chunks(|key| i32::from(key.ends_with('7')));
        for (_, deltas) in &chunks {
            let telling = Telling { told: Told { boot: u64::MAX, sequence: u64::MAX }, deltas: deltas.clone() };
            assert!(telling.record("host").len() < 2 * RECORD_BYTES_MAX);
        }
        assert!(
            chunks.iter().all(|(partition, deltas)| {
                deltas.iter().all(|(key, _)| i32::from(key.ends_with('7')) == *partition)
            })
        );
        let slots = chunks.iter().flat_map(|(_, deltas)| deltas).map(|(_, slots)| slots.len());
        assert_eq!(slots.sum::<usize>(), 1_000 + 498);
    }
}
