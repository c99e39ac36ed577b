//! The rules for the health of an integration, by its attempts counted over all workers.
//!
//! Pure: `now` and the counts come in, the state goes out. `health::tally` counts, `health::owner` writes the state.

mod partition;
mod counts;
mod guard;

use std::collections::BTreeMap;

pub use counts::{Counts, Rules, SecondCounts, second_of};
pub(crate) use counts::{Failing, Failures, Streak};
pub(crate) use guard::Guard;
pub(crate) use partition::Change;
pub use partition::{PartitionHealth, Reported};

pub use crate::domain::health::Health;

/// The last report of a worker's process that was applied. Its later reports have higher sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReporterPosition {
    /// The process, by a random number.
    pub process_id: u64,
    /// The last sequence applied.
    pub sequence: u64,
}

/// Processes remembered per integration: more than deliver to it side by side, over a few restarts.
const REPORTERS_MAX: usize = 64;

/// All that is known about one integration's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegrationHealth {
    pub(crate) health: Health,
    /// Since when it has this state, ms since 1970. `None` before its first change.
    pub(crate) since_ms: Option<i64>,
    /// For the last suspension: by partition of the events topic, an offset no later than the first event dropped.
    pub(crate) first_dropped: BTreeMap<i32, i64>,
    /// The counts of its attempts.
    pub counts: Counts,
    /// Everything below this offset of the deltas' partition is counted.
    pub(crate) next_offset: i64,
    /// The last report of each process, the latest last.
    pub(crate) reported: Vec<ReporterPosition>,
}

impl IntegrationHealth {
    /// Counts what a process reports in the record at `offset`, unless it is counted already: read again after a restart,
    /// or published twice. Returns whether it was counted.
    pub fn apply(
        &mut self,
        offset: i64,
        reporter: ReporterPosition,
        slots: &[SecondCounts],
        rules: &Rules,
        now_ms: i64,
    ) -> bool {
        if offset < self.next_offset {
            return false;
        }
        self.next_offset = offset + 1;
        let before = self.reported.iter().position(|reported| reported.process_id == reporter.process_id);
        if let Some(before) = before {
            if self.reported.get(before).is_some_and(|reported| reported.sequence >= reporter.sequence) {
                return false;
            }
            self.reported.remove(before);
        } else if self.reported.len() >= REPORTERS_MAX {
            self.reported.remove(0);
        }
        self.reported.push(reporter);
        let second = second_of(now_ms);
        for slot in slots {
            self.counts.add(slot, rules, second);
        }
        self.counts.prune(rules, second);
        true
    }

    /// Forgets what has left the window, and returns what the state should be.
    pub fn judge(&mut self, rules: &Rules, now_ms: i64) -> Health {
        self.counts.prune(rules, second_of(now_ms));
        match self.health {
            // Only a request to resume ends it.
            Health::Failed => Health::Failed,
            // `hasErrors` is reported first, even when the same attempts are enough for `failed`.
            Health::Active if self.counts.has_errors(rules) => Health::HasErrors,
            Health::Active | Health::HasErrors if self.counts.is_dead(rules, now_ms) => Health::Failed,
            Health::HasErrors if self.counts.has_errors(rules) => Health::HasErrors,
            Health::Active | Health::HasErrors => Health::Active,
        }
    }

    /// The same with another state from `now_ms` on.
    #[must_use]
    pub(crate) fn changed(&self, health: Health, now_ms: i64) -> Self {
        Self { health, since_ms: Some(now_ms), ..self.clone() }
    }

    /// The same, active again from `now_ms` on, with counts that begin again. `first_dropped` stays.
    #[must_use]
    pub(crate) fn resumed(&self, now_ms: i64) -> Self {
        let counts = self.counts.begun_again(second_of(now_ms));
        Self { counts, ..self.changed(Health::Active, now_ms) }
    }

    /// The failed attempts that led to the state, by reason.
    pub(crate) fn failures(&self) -> Failures {
        match self.health {
            Health::Failed => self.counts.streak.failures(),
            Health::Active | Health::HasErrors => self.counts.window_failures(),
        }
    }

    /// Whether time alone can change its state.
    pub(crate) fn is_watched(&self) -> bool {
        match self.health {
            Health::Failed => false,
            Health::HasErrors => true,
            Health::Active => self.counts.is_watched(),
        }
    }

    /// Whether forgetting it loses nothing that counts: no failures, and not attempted since `before_ms`.
    pub(crate) fn is_forgettable(&self, before_ms: i64) -> bool {
        let quiet = |at: Option<i64>| at.is_none_or(|at| at < before_ms);
        self.health == Health::Active
            && !self.counts.is_watched()
            && self.first_dropped.is_empty()
            && quiet(self.counts.last_acknowledged_ms)
            && quiet(self.counts.last_answer.map(|(at, _)| at))
            && quiet(self.since_ms)
    }
}

#[cfg(test)]
mod tests;
