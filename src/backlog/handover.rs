//! What lets a commit go on past deliveries that take long, and a partition be given up while they are under way: their
//! webhooks' places stand for them. Pure. Passes are `partition`'s.

use std::sync::Arc;

use super::behind::Behind;
use super::partition::PartitionBacklog;
use super::place::Place;
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::LaneGauge;
use crate::inflight::partition::Assignment;

impl PartitionBacklog {
    /// Webhooks fall behind at a record: it stays unsettled until their places are in Kafka, and what comes next, which is skipped
    /// for them, is not committed before that either.
    pub(crate) fn fall(&mut self, fallen: Vec<Arc<LaneGauge>>, event: &Arc<Event>, assignment: &Assignment) {
        assignment.commit_below(self.commit_below());
        for gauge in fallen {
            self.pin(&gauge, Arc::clone(event));
        }
    }

    /// Follows a record that the main reader gave.
    pub(crate) fn watch(&mut self, event: &Arc<Event>, now_ms: i64) {
        self.given.push_back((now_ms, Arc::downgrade(event)));
    }

    /// Lets places stand for what was given before `before_ms` and is still open, so that the records do not wait for it.
    pub(crate) fn keep_open(&mut self, before_ms: i64, now_ms: i64) {
        while let Some((at_ms, event)) = self.given.front()
            && (*at_ms < before_ms || *at_ms > now_ms || event.strong_count() == 0)
        {
            let event = event.upgrade();
            self.given.pop_front();
            let Some(event) = event else { continue };
            for gauge in event.keep_open() {
                let (position, times) = (self.position, (event.timestamp_ms, now_ms));
                let behind = self.behind.entry(gauge.id()).or_insert_with(|| Behind::level(&gauge, position, times));
                behind.keep(Arc::clone(&event));
            }
        }
    }

    /// Nothing from here on may be committed yet: the main reader skips it for a webhook whose place is not in Kafka.
    pub(crate) fn commit_below(&self) -> i64 {
        let uncovered = self.behind.values().filter_map(Behind::uncovered_from).min();
        uncovered.unwrap_or(i64::MAX)
    }

    /// Whether anything is open that was given.
    pub(crate) fn has_open(&self) -> bool {
        self.behind.values().any(Behind::has_open)
            || self.given.iter().any(|(_, event)| event.upgrade().is_some_and(|event| event.has_open()))
    }

    /// The partition is given up: each webhook of which something is open holds its place until that has ended.
    pub(crate) fn hold(&mut self, now_ms: i64) {
        self.keep_open(i64::MAX, now_ms);
        let position = self.position;
        self.behind.values_mut().for_each(|behind| behind.hold(position, (now_ms, now_ms)));
    }

    /// Releases the places of those who have nothing open any more; of all, when it `is_over`.
    pub(crate) fn release(&mut self, is_over: bool) {
        self.behind.values_mut().for_each(|behind| behind.release(is_over));
    }

    /// Whether the places of some are held here.
    pub(crate) fn is_held_here(&self) -> bool {
        self.behind.values().any(Behind::is_held_here)
    }

    /// Those whose places the former owner of the partition holds.
    pub(crate) fn held_elsewhere(&self) -> impl Iterator<Item = &Arc<LaneGauge>> {
        self.behind.values().filter(|behind| behind.is_held_elsewhere()).map(|behind| &behind.gauge)
    }

    /// A former owner wrote a place after all of it was settled here: it is removed again. Says whether that is so.
    pub(crate) fn bury(&mut self, gauge: &Arc<LaneGauge>, place: &Place, now_ms: i64) -> bool {
        if self.behind.contains_key(&gauge.id()) {
            return false;
        }
        let buried = Behind::buried(gauge, place, self.position, (now_ms, now_ms));
        self.behind.insert(gauge.id(), buried);
        true
    }

    /// The former owner of the partition holds the place of a webhook no more, and left it like that.
    pub(crate) fn released(&mut self, gauge: &LaneGauge, place: &Place) {
        if let Some(behind) = self.behind.get_mut(&gauge.id()) {
            if let Some(pass) = &self.pass {
                // It was offered nothing of this pass.
                behind.leave(pass.number, pass.start, pass.position);
            }
            behind.released(place);
        }
    }
}
