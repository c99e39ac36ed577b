//! Places for deliveries that take long, so that commits go on past them, and for those under way when a partition is given up.
//! Pure. The passes of the catch-up reader are in `partition`.

use std::sync::{Arc, Weak};

use super::beginning::Times;
use super::behind::Behind;
use super::partition::PartitionBacklog;
use super::place::Place;
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::LaneGauge;
use crate::inflight::partition::Assignment;

/// How much later a record is covered for each delivery that it waits for, in ms. An event for many webhooks takes long because there are
/// many, and not because one of them is slow.
const COVER_EACH_MS: i64 = 1;
/// And at most, in ms.
const COVER_MORE_MS_MAX: i64 = 10_000;

impl PartitionBacklog {
    /// Webhooks fall behind at a record. Until their places are in Kafka, the record stays unsettled, and the records after it, which
    /// the main reader skips for them, are not committed.
    pub(crate) fn fall(&mut self, fallen: Vec<Arc<LaneGauge>>, event: &Arc<Event>, assignment: &Assignment) {
        assignment.set_commit_bound(self.commit_bound());
        for gauge in fallen {
            self.pin(&gauge, Arc::clone(event));
        }
    }

    /// Notes a record that the main reader gave, for [`PartitionBacklog::cover_open`].
    pub(crate) fn watch(&mut self, event: &Arc<Event>, now_ms: i64) {
        self.given.push_back((now_ms, Arc::downgrade(event)));
    }

    /// Makes places for deliveries that were given before `before_ms` and are still open, so that their records do not wait for them. A
    /// record that waits for many has more time: a place costs a write, and most of them end meanwhile. It is put aside, so that it
    /// delays no other.
    pub(crate) fn cover_open(&mut self, before_ms: i64, now_ms: i64) {
        while let Some((at_ms, event)) = self.given.front()
            && (*at_ms < before_ms || *at_ms > now_ms || event.strong_count() == 0)
        {
            self.given_to_many.extend(self.given.pop_front());
        }
        let mut given_to_many = std::mem::take(&mut self.given_to_many);
        given_to_many.retain(|(at_ms, event)| {
            let Some(event) = event.upgrade() else { return false };
            let open = i64::try_from(event.unreleased()).unwrap_or(i64::MAX);
            let more_ms = open.saturating_mul(COVER_EACH_MS).min(COVER_MORE_MS_MAX);
            let is_due = at_ms.saturating_add(more_ms) < before_ms || *at_ms > now_ms;
            if is_due {
                self.cover(&event, now_ms);
            }
            !is_due
        });
        self.given_to_many = given_to_many;
    }

    fn cover(&mut self, event: &Arc<Event>, now_ms: i64) {
        for gauge in event.cover_open() {
            let (position, times) = (self.position, Times { event_ms: event.timestamp_ms, now_ms });
            let new = || Behind::level(&gauge, position, times).after(&self.settled_before);
            let behind = self.behind.entry(gauge.id()).or_insert_with(|| Box::new(new()));
            behind.cover(Arc::clone(event));
        }
    }

    /// The first offset that may not be committed: from there on the main reader skips records for a webhook whose place is not in
    /// Kafka yet.
    pub(crate) fn commit_bound(&self) -> i64 {
        let uncovered = self.behind.values().filter_map(|behind| behind.uncovered_from()).min();
        uncovered.unwrap_or(i64::MAX)
    }

    /// Whether a delivery that was given is still open.
    pub(crate) fn has_open(&self) -> bool {
        self.behind.values().any(|behind| behind.has_open())
            || self.watched().any(|(_, event)| event.upgrade().is_some_and(|event| event.has_open()))
    }

    /// The records that the main reader gave lately.
    fn watched(&self) -> impl Iterator<Item = &(i64, Weak<Event>)> {
        self.given.iter().chain(&self.given_to_many)
    }

    /// The partition is given up: each webhook with open deliveries holds its place until they have ended.
    pub(crate) fn hold(&mut self, now_ms: i64) {
        self.cover_open(i64::MAX, now_ms);
        let position = self.position;
        self.behind.values_mut().for_each(|behind| behind.hold(position, Times { event_ms: now_ms, now_ms }));
    }

    /// Releases the places of webhooks that have no open delivery; of all webhooks if the time `is_over`.
    pub(crate) fn release(&mut self, is_over: bool) {
        self.behind.values_mut().for_each(|behind| behind.release(is_over));
    }

    /// Whether a place is held here.
    pub(crate) fn is_held_here(&self) -> bool {
        self.behind.values().any(|behind| behind.is_held_here())
    }

    /// The webhooks whose places the former owner of the partition holds.
    pub(crate) fn held_elsewhere(&self) -> impl Iterator<Item = &Arc<LaneGauge>> {
        self.behind.values().filter(|behind| behind.is_held_elsewhere()).map(|behind| &behind.gauge)
    }

    /// Removes a place that a former owner wrote after everything in it was settled here. Returns whether it does: not if the webhook is
    /// behind here.
    pub(crate) fn remove_late(&mut self, gauge: &Arc<LaneGauge>, place: &Place, now_ms: i64) -> bool {
        if self.behind.contains_key(&gauge.id()) {
            return false;
        }
        let removed = Behind::removed_late(gauge, place, self.position, Times { event_ms: now_ms, now_ms });
        self.behind.insert(gauge.id(), Box::new(removed.after(&self.settled_before)));
        true
    }

    /// The former owner of the partition has released the place of a webhook, and this is the place now.
    pub(crate) fn released(&mut self, gauge: &LaneGauge, place: &Place) {
        if let Some(behind) = self.behind.get_mut(&gauge.id()) {
            if let Some(pass) = &self.pass {
                // This pass offered it nothing.
                behind.leave(pass.number, pass.start, pass.position);
            }
            behind.released(place, self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;

    use super::*;
    use crate::inflight::job::Origin;
    use crate::inflight::lane_gauge::LaneGauges;
    use crate::inflight::pressure::Pressure;

    /// What records are given with.
    struct Tools {
        gauges: LaneGauges,
        pressure: &'static Pressure,
        assignment: Arc<Assignment>,
    }

    impl Tools {
        fn new() -> Self {
            let assignment = Assignment::new("events".into(), 0);
            Self { gauges: LaneGauges::default(), pressure: Pressure::new(1 << 20), assignment }
        }

        /// A record at that offset that is given to webhooks of the numbers in `to`.
        fn given(&self, offset: i64, to: Range<i64>) -> Arc<Event> {
            let of: Vec<_> = to.map(|webhook| self.gauges.of("ws/i", &webhook.to_string())).collect();
            let origin = Origin { topic: Arc::clone(self.assignment.topic()), partition: 0, offset };
            let ticket = Some((&self.assignment, self.assignment.admit(offset)));
            let event = Event::new(Bytes::new(), origin, 0, ticket, self.pressure.hold(0));
            event.open_for(of.iter(), [].iter());
            Arc::new(event)
        }
    }

    #[test]
    fn a_record_that_waits_for_many_deliveries_is_covered_later_than_one_that_waits_for_few() {
        let tools = Tools::new();
        // How many places there are after the record was covered with each bound on the time.
        let covered = |webhooks: i64, bounds: [i64; 2]| {
            let mut backlog = PartitionBacklog::new(0, Vec::new());
            let event = tools.given(7, 0..webhooks);
            backlog.watch(&event, 1_000);
            bounds.map(|before_ms| {
                backlog.cover_open(before_ms, 60_000);
                backlog.len()
            })
        };
        assert_eq!(covered(1, [1_001, 1_002]), [0, 1]);
        assert_eq!(covered(300, [1_300, 1_301]), [0, 300]);
        assert_eq!(covered(20_000, [1_000 + COVER_MORE_MS_MAX, 1_001 + COVER_MORE_MS_MAX]), [0, 20_000]);
    }

    #[test]
    fn a_record_that_waits_for_many_deliveries_delays_no_place_of_later_records_and_keeps_none_in_memory() {
        let tools = Tools::new();
        let mut backlog = PartitionBacklog::new(0, Vec::new());
        let to_many = tools.given(0, 0..5_000);
        backlog.watch(&to_many, 1_000);
        for offset in 1..1_000 {
            backlog.watch(&tools.given(offset, 0..1), 1_001);
        }
        let to_one = tools.given(1_000, 7_000..7_001);
        backlog.watch(&to_one, 1_001);
        backlog.cover_open(1_002, 60_000);
        backlog.cover_open(1_003, 60_000);
        assert_eq!(backlog.len(), 1, "the later record is covered");
        assert_eq!(backlog.watched().count(), 1, "records that are settled or covered are forgotten");
        assert!(backlog.has_open());
        backlog.hold(60_000);
        assert_eq!(backlog.len(), 5_001, "all that is open gets a place when the partition is given up");
        assert_eq!(backlog.watched().count(), 0);
    }
}
