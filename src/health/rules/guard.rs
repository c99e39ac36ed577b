//! The network guard: if most integrations fail for reasons of the network at once, the fault is in our own network.

use std::collections::HashMap;
use std::hash::Hash;

/// Integrations that were attempted within this time count.
const ATTEMPTED_WITHIN_MS: i64 = 60_000;
/// With fewer attempted integrations nothing is concluded about our network.
const INTEGRATIONS_MIN: usize = 10;

struct Last {
    at_ms: i64,
    by_network: bool,
}

/// Remembers how each integration's last attempt ended.
pub(crate) struct Guard<K> {
    last: HashMap<K, Last>,
}

impl<K> Default for Guard<K> {
    fn default() -> Self {
        Self { last: HashMap::new() }
    }
}

impl<K: Hash + Eq> Guard<K> {
    /// Notes the end of an attempt, and whether it failed for a reason of the network.
    pub(crate) fn attempted(&mut self, integration: K, at_ms: i64, by_network: bool) {
        let last = self.last.entry(integration).or_insert(Last { at_ms, by_network });
        if at_ms >= last.at_ms {
            *last = Last { at_ms, by_network };
        }
    }

    /// Whether more than half of the integrations attempted in the last minute, at least ten, fail by the network.
    pub(crate) fn is_active(&mut self, now_ms: i64) -> bool {
        let mut failing = 0;
        self.last.retain(|_, last| {
            let recent = now_ms.saturating_sub(last.at_ms) < ATTEMPTED_WITHIN_MS;
            failing += usize::from(recent && last.by_network);
            recent
        });
        self.last.len() >= INTEGRATIONS_MIN && failing * 2 > self.last.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(integrations: usize, failing: usize) -> Guard<usize> {
        let mut guard = Guard::default();
        for number in 0..integrations {
            guard.attempted(number, 1_000, number < failing);
        }
        guard
    }

    #[test]
    fn more_than_half_of_at_least_ten_raise_it() {
        for (integrations, failing, expected) in [
            (9, 9, false),
            (10, 5, false),
            (10, 6, true),
            (11, 6, true),
            (100, 50, false),
            (100, 51, true),
            (0, 0, false),
        ] {
            assert_eq!(guard(integrations, failing).is_active(2_000), expected, "{failing} of {integrations}");
        }
    }

    #[test]
    fn the_last_attempt_of_an_integration_counts() {
        let mut guard = guard(10, 6);
        guard.attempted(0, 1_500, false);
        assert!(!guard.is_active(2_000));
        guard.attempted(0, 1_600, true);
        assert!(guard.is_active(2_000));
        guard.attempted(0, 1_400, false);
        assert!(guard.is_active(2_000), "an older attempt reported late changes nothing");
    }

    #[test]
    fn an_integration_that_was_not_attempted_for_a_minute_does_not_count() {
        let mut guard = guard(10, 10);
        assert!(guard.is_active(60_999));
        assert!(!guard.is_active(61_000));
        guard.attempted(3, 61_000, true);
        assert!(!guard.is_active(61_000), "one attempted integration is fewer than ten");
    }
}
