//! Whether another worker takes what waits in the partitions of the events topic that this process does not hold. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::outside::Found;
use crate::kafka::topic_watch::LogRange;

/// A partition of which the group has committed nothing for so long, although records wait in it, is held by no worker, or by a
/// worker that stands still. Above what a rebalance with its drain takes.
const UNHELD_AFTER: Duration = Duration::from_mins(1);

/// What is remembered of such a partition.
#[derive(Clone, Copy, Debug)]
struct Other {
    /// What the group has committed.
    next: i64,
    /// Where the log ends.
    end: i64,
    /// Since when something lies behind `next`.
    since: Instant,
    /// What a look from outside found there.
    found: Option<Found>,
}

/// The partitions that other workers should hold.
#[derive(Debug, Default)]
pub(super) struct Unheld {
    others: BTreeMap<i32, Other>,
}

impl Unheld {
    /// Takes what the group has committed in the partitions that this process does not hold, and where those begin and end.
    pub(super) fn follow(&mut self, committed: &BTreeMap<i32, (Option<i64>, LogRange)>, now: Instant) {
        self.others.retain(|partition, _| committed.contains_key(partition));
        for (partition, (offset, range)) in committed {
            let next = offset.unwrap_or(range.low).max(range.low);
            let before = self.others.get(partition).filter(|before| before.next == next && before.end > next);
            let since = before.map_or(now, |before| before.since);
            let found = before.filter(|before| before.end == range.high).and_then(|before| before.found);
            self.others.insert(*partition, Other { next, end: range.high, since, found });
        }
    }

    /// The places where a look from outside has to say whether records wait: where nothing was committed for long.
    pub(super) fn places(&self, now: Instant) -> BTreeMap<i32, i64> {
        let asked = self.others.iter().filter(|(_, other)| other.found.is_none() && is_standing(other, now));
        asked.map(|(partition, other)| (*partition, other.next)).collect()
    }

    /// Takes what the look found.
    pub(super) fn found(&mut self, found: &BTreeMap<i32, Found>) {
        for (partition, found) in found {
            if let Some(other) = self.others.get_mut(partition) {
                other.found = Some(*found);
            }
        }
    }

    /// The partitions in which records wait that no worker reads: from which offset on, and how many.
    pub(super) fn waiting(&self, now: Instant) -> impl Iterator<Item = (i32, i64, i64)> {
        let waits = move |other: &Other| is_standing(other, now) && other.found.is_some_and(|it| it != Found::Markers);
        let waiting = self.others.iter().filter(move |(_, other)| waits(other));
        waiting.map(|(partition, other)| (*partition, other.next, other.end - other.next))
    }
}

fn is_standing(other: &Other, now: Instant) -> bool {
    other.end > other.next && now.saturating_duration_since(other.since) >= UNHELD_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One partition, committed up to `next` of a log that ends at `end`.
    fn one(next: Option<i64>, end: i64) -> BTreeMap<i32, (Option<i64>, LogRange)> {
        BTreeMap::from([(3, (next, LogRange { low: 0, high: end }))])
    }

    fn waiting(unheld: &Unheld, now: Instant) -> Vec<(i32, i64, i64)> {
        unheld.waiting(now).collect()
    }

    #[test]
    fn records_that_no_worker_takes_for_a_minute_are_counted() {
        let (mut unheld, start) = (Unheld::default(), Instant::now());
        unheld.follow(&one(None, 5), start);
        unheld.follow(&one(None, 7), start + 59 * SECOND);
        assert!(unheld.places(start + 59 * SECOND).is_empty(), "a rebalance takes as long");
        let late = start + 60 * SECOND;
        assert_eq!(unheld.places(late), BTreeMap::from([(3, 0)]));
        assert_eq!(waiting(&unheld, late), [], "it may be markers only");
        unheld.found(&BTreeMap::from([(3, Found::Records)]));
        assert_eq!(waiting(&unheld, late), [(3, 0, 7)]);
    }

    #[test]
    fn markers_behind_what_is_committed_are_nothing_that_waits() {
        let (mut unheld, start) = (Unheld::default(), Instant::now());
        let late = start + 90 * SECOND;
        unheld.follow(&one(Some(9), 10), start);
        unheld.follow(&one(Some(9), 10), late);
        unheld.found(&BTreeMap::from([(3, Found::Markers)]));
        unheld.follow(&one(Some(9), 10), late);
        assert_eq!((waiting(&unheld, late), unheld.places(late).len()), (vec![], 0), "it is looked at once");
        unheld.follow(&one(Some(9), 11), late);
        assert_eq!(unheld.places(late).len(), 1, "and again when the log has grown");
    }

    #[test]
    fn a_partition_whose_owner_commits_or_is_this_process_counts_for_nothing() {
        let (mut unheld, start) = (Unheld::default(), Instant::now());
        let late = start + 90 * SECOND;
        unheld.follow(&one(Some(9), 20), start);
        unheld.follow(&one(Some(12), 30), late);
        assert!(unheld.places(late).is_empty());
        unheld.follow(&one(Some(30), 30), late + 90 * SECOND);
        unheld.follow(&one(Some(30), 31), late + 95 * SECOND);
        assert!(unheld.places(late + 100 * SECOND).is_empty(), "it counts from when something came");
        unheld.follow(&BTreeMap::new(), late + 300 * SECOND);
        assert!(unheld.places(late + 300 * SECOND).is_empty());
    }
}
