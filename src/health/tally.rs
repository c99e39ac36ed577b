//! Counts attempts where they end: one map for each shard, under a lock of its own, emptied once a second.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::rules::{SecondCounts, second_of};
use crate::domain::hash::BuildHash64;
use crate::domain::integration::Integration;
use crate::domain::outcome::Outcome;

/// The counts of one integration in one second.
#[derive(Debug)]
pub struct Counted {
    /// The integration, as the last delivery knew it.
    pub(crate) integration: Arc<Integration>,
    pub slot: SecondCounts,
    /// When the last attempt ended, ms since 1970.
    pub(crate) last_ms: i64,
    /// Whether it failed for a reason of the network.
    pub(crate) by_network: bool,
}

/// The key is the address of the integration in memory, which the value keeps alive, and the second.
type Counts = HashMap<(usize, u32), Counted, BuildHash64>;

/// Counts of all shards.
#[derive(Debug)]
pub struct Tally {
    shards: Box<[Mutex<Counts>]>,
}

impl Tally {
    /// A tally with a map for each of `shards`.
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards.max(1)).map(|_| Mutex::default()).collect() }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Counts> {
        let counts = self.shards.get(shard % self.shards.len()).expect("the remainder is less than their number");
        counts.lock()
    }

    /// Counts an attempt that ended at `at_ms`. Slots without a request are not attempts.
    pub fn count(&self, shard: usize, integration: &Arc<Integration>, outcome: &Outcome, at_ms: i64) {
        let by_network = match outcome {
            Outcome::Acknowledged => false,
            Outcome::Failed { reason, .. } if !reason.is_attempt() => return,
            Outcome::Failed { reason, .. } => reason.is_network(),
        };
        let second = second_of(at_ms);
        let key = (Arc::as_ptr(integration).addr(), second);
        let mut counts = self.lock(shard);
        let counted = counts.entry(key).or_insert_with(|| Counted {
            integration: Arc::clone(integration),
            slot: SecondCounts::of(second),
            last_ms: at_ms,
            by_network,
        });
        (counted.last_ms, counted.by_network) = (at_ms, by_network);
        match outcome {
            Outcome::Acknowledged => counted.slot.acknowledge(at_ms),
            Outcome::Failed { reason, status, .. } => counted.slot.fail(at_ms, *reason, *status),
        }
    }

    /// Hands over what was counted since the last call. Each lock is held only while two maps are exchanged.
    pub fn drain(&self, mut take: impl FnMut(Counted)) {
        for shard in 0..self.shards.len() {
            let capacity = self.lock(shard).len();
            let mut counts = Counts::with_capacity_and_hasher(capacity, BuildHash64::default());
            std::mem::swap(&mut *self.lock(shard), &mut counts);
            counts.into_values().for_each(&mut take);
        }
    }
}
