//! The place of one webhook in one partition: the offsets that it is still to be given. Pure values.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The most offsets that a place names one by one: those of a full lane, and as many that are under way or come back. If there are more,
/// everything from the first one that is left out is given again.
const OFFSETS_MAX: usize = 2_048;

/// The offsets that a webhook is still to be given. A webhook without such offsets has no place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// These offsets, all below `next`.
    todo: BTreeSet<i64>,
    /// Everything from here on. Without it the group's commits say what follows.
    next: Option<i64>,
    /// Whether the former owner of the partition still has requests to the webhook under way. Until they have ended, the new owner
    /// gives it nothing.
    pub(crate) is_held: bool,
}

impl Place {
    /// A place of these offsets, which are in order, and of all from `next` on.
    pub(crate) fn new(todo: impl Iterator<Item = i64>, next: Option<i64>) -> Self {
        let mut offsets = todo.filter(|offset| next.is_none_or(|next| *offset < next));
        let todo = offsets.by_ref().take(OFFSETS_MAX).collect();
        Self { todo, next: offsets.next().or(next), is_held: false }
    }

    /// Everything from `next` on.
    pub(crate) fn from(next: i64) -> Self {
        Self { next: Some(next), ..Self::default() }
    }

    /// Whether the webhook has got everything.
    pub(crate) fn is_none(&self) -> bool {
        self.todo.is_empty() && self.next.is_none()
    }

    /// The first offset that the webhook still has to get.
    pub(crate) fn first(&self) -> Option<i64> {
        self.todo.first().copied().or(self.next)
    }

    /// The offsets that are named one by one.
    pub(crate) fn todo(&self) -> &BTreeSet<i64> {
        &self.todo
    }

    /// The webhook still has to get everything from here on.
    pub(crate) fn next(&self) -> Option<i64> {
        self.next
    }

    /// Whether the webhook still has to get that offset.
    pub(crate) fn covers(&self, offset: i64) -> bool {
        self.next.is_some_and(|next| offset >= next) || self.todo.contains(&offset)
    }

    /// The offsets that either place has.
    pub(crate) fn meet(&self, other: &Self) -> Self {
        let all = self.todo.union(&other.todo).copied();
        let next = self.next.and_then(|next| other.next.map(|other| next.max(other)));
        Self::new(all.filter(|offset| self.covers(*offset) && other.covers(*offset)), next)
    }

    /// Its offsets as runs: the gap since the end of the run before, and the length; from `first` on.
    pub(super) fn runs(&self) -> Vec<i64> {
        let mut runs: Vec<i64> = Vec::new();
        let mut end = self.first().unwrap_or_default();
        for offset in &self.todo {
            match runs.last_mut() {
                Some(length) if *offset == end => *length += 1,
                _ => runs.extend([offset - end, 1]),
            }
            end = offset + 1;
        }
        runs
    }

    /// Reads [`Place::runs`] back. `None` if they are not valid.
    pub(super) fn of_runs(first: i64, runs: &[i64], next: Option<i64>) -> Option<Self> {
        let mut todo = BTreeSet::new();
        let mut end = first;
        let (pairs, rest) = runs.as_chunks::<2>();
        for [gap, length] in pairs {
            let start = end.checked_add(*gap).filter(|start| *start >= end)?;
            end = start.checked_add(*length).filter(|end| *end > start)?;
            if usize::try_from(*length).ok()?.saturating_add(todo.len()) > OFFSETS_MAX {
                return None;
            }
            todo.extend(start..end);
        }
        let is_whole = rest.is_empty() && next.is_none_or(|next| end <= next);
        is_whole.then(|| Self::new(todo.into_iter(), next))
    }
}

/// What was settled for a webhook before its partition came here, as far as the group's commits say.
#[derive(Clone, Debug)]
pub(super) struct SettledBefore {
    /// Runs of offsets that are settled for it.
    pub(super) settled: Arc<[Range<i64>]>,
    /// The commits say nothing about this offset and later ones.
    pub(super) up_to: i64,
}

impl SettledBefore {
    /// Whether that offset was settled.
    pub(super) fn names(&self, offset: i64) -> bool {
        let after = self.settled.partition_point(|run| run.end <= offset);
        offset < self.up_to && self.settled.get(after).is_some_and(|run| run.contains(&offset))
    }

    /// How many of these offsets were settled.
    pub(super) fn count(&self, offsets: Range<i64>) -> u64 {
        let end = offsets.end.min(self.up_to);
        let of_run =
            |run: &Range<i64>| run.end.min(end).saturating_sub(run.start.max(offsets.start)).max(0).unsigned_abs();
        self.settled.iter().map(of_run).sum()
    }

    /// Whether there are runs beyond `position` of which they say nothing for the webhook.
    pub(super) fn reaches_beyond(&self, position: i64) -> bool {
        self.settled.last().is_some_and(|run| run.end > position.max(self.up_to))
    }
}

/// What is known of a place in Kafka.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// The write that was acknowledged last.
    pub(super) acknowledged: Place,
    /// The write under way.
    pub(super) writing: Option<Place>,
    /// Writes failed since, and Kafka may have any of them: the offsets that all of them cover.
    pub(super) doubtful: Option<Place>,
    /// When the last write began, ms since 1970.
    pub(super) at_ms: Option<i64>,
}

impl Stored {
    /// Whether a place in Kafka covers everything that the main reader has not read yet, and no write under way may replace it by one
    /// that does not.
    pub(super) fn covers_what_follows(&self) -> bool {
        let covers = |place: &Place| place.next().is_some();
        covers(&self.acknowledged)
            && self.doubtful.as_ref().is_none_or(covers)
            && self.writing.as_ref().is_none_or(covers)
    }

    /// Whether Kafka has exactly that place, and no write may have changed it. It covers all that was skipped, also if its write began before
    /// that.
    pub(super) fn has(&self, place: impl FnOnce() -> Place) -> bool {
        self.writing.is_none() && self.doubtful.is_none() && self.acknowledged == place()
    }

    /// Whether a place in Kafka covers `offset`, and no write under way may replace it by one that does not.
    pub(super) fn covers(&self, offset: i64) -> bool {
        let covers = |place: &Place| place.covers(offset);
        covers(&self.acknowledged)
            && self.doubtful.as_ref().is_none_or(covers)
            && self.writing.as_ref().is_none_or(covers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        (prop::collection::btree_set(0i64..60, 0..20), prop::option::of(0i64..80))
            .prop_map(|(todo, next)| Place::new(todo.into_iter(), next))
    }

    proptest! {
        #[test]
        fn a_meet_covers_what_both_cover(one in place(), other in place(), offset in 0i64..100) {
            prop_assert_eq!(one.meet(&other).covers(offset), one.covers(offset) && other.covers(offset));
        }

        #[test]
        fn runs_read_back(place in place()) {
            let first = place.first().unwrap_or_default();
            prop_assert_eq!(Place::of_runs(first, &place.runs(), place.next()), Some(place));
        }

        #[test]
        fn no_runs_make_it_panic(first in any::<i64>(), runs in prop::collection::vec(any::<i64>(), 0..9), next in any::<Option<i64>>()) {
            let place = Place::of_runs(first, &runs, next);
            prop_assert!(place.is_none_or(|place| place.todo.len() <= OFFSETS_MAX));
        }
    }

    #[test]
    fn a_place_with_too_many_offsets_covers_the_rest_from_the_first_that_is_left_out() {
        let offsets_max = i64::try_from(OFFSETS_MAX).unwrap();
        let place = Place::new((0..2 * offsets_max).map(|offset| 2 * offset), None);
        assert_eq!((place.todo.len(), place.next), (OFFSETS_MAX, Some(2 * offsets_max)));
        assert!(!place.covers(1) && place.covers(2 * offsets_max + 1));
    }
}
