//! What a crash loses: one owner of the partition, with its lanes and its backlog. Steps and invariants are the simulator's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::super::beginning::Cause;
use super::super::partition::PartitionBacklog;
use super::super::place::Place;
use super::{LANE_EVENTS, WEBHOOKS};
use crate::domain::outcome::BehindReason;
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::{Admitted, LaneGauge, LaneGauges};
use crate::inflight::partition::{Assignment, FromLane};
use crate::inflight::pressure::Pressure;

/// What the group has committed.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) offset: i64,
    /// Runs of settled offsets beyond it.
    pub(super) beyond: Vec<Range<i64>>,
}

impl Committed {
    /// All offsets that it says to be settled.
    pub(super) fn settled(&self) -> impl Iterator<Item = i64> {
        (0..self.offset).chain(self.beyond.iter().cloned().flatten())
    }
}

/// What one webhook settled, and what was requested of it since the last crash.
#[derive(Default)]
pub(super) struct Receiver {
    pub(super) settled: BTreeSet<i64>,
    /// What came while it was paused, suspended or removed.
    pub(super) dropped: BTreeSet<i64>,
    pub(super) requested: BTreeSet<i64>,
    /// What a commit and the webhook's place said to be settled when the present process began: it requests nothing of that.
    pub(super) known: BTreeSet<i64>,
    pub(super) is_down: bool,
}

impl Receiver {
    /// Whether nothing is left to do for an event.
    pub(super) fn has_ended(&self, offset: i64) -> bool {
        self.settled.contains(&offset) || self.dropped.contains(&offset)
    }

    /// A process begins with this commit and this place of the webhook.
    pub(super) fn learn(&mut self, committed: &Committed, place: Option<&Place>) {
        self.known = committed.settled().filter(|offset| place.is_none_or(|place| !place.covers(*offset))).collect();
    }
}

/// A delivery in the simulated shard.
pub(super) struct Waiting {
    pub(super) event: Arc<Event>,
    pub(super) admitted: Admitted,
}

/// A shard: a channel, lanes, requests under way.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) channel: VecDeque<Waiting>,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) under_way: Vec<Arc<Event>>,
}

/// What a crash loses.
pub(super) struct Process {
    pub(super) gauges: Vec<Arc<LaneGauge>>,
    pub(super) registry: LaneGauges,
    pub(super) pressure: &'static Pressure,
    pub(super) assignment: Arc<Assignment>,
    pub(super) backlog: PartitionBacklog,
    pub(super) lanes: Vec<Lane>,
    /// The next offset of the main reader.
    pub(super) main: i64,
    /// The next offset of the catch-up reader, which reads only while a webhook is behind, and only after it was begun.
    pub(super) catch_up: Option<i64>,
    pub(super) writes: VecDeque<(usize, u64, Place)>,
    pub(super) epoch: u64,
    pub(super) is_closing: bool,
}

impl Process {
    pub(super) fn start(committed: &Committed, stored: &BTreeMap<usize, (u64, Place)>, epoch: u64) -> Self {
        let Committed { offset: start, beyond: settled } = committed;
        let registry = LaneGauges::with_lanes_of(LANE_EVENTS);
        let gauges: Vec<_> = (0..WEBHOOKS).map(|webhook| registry.of("ws/i", &webhook.to_string())).collect();
        let assignment = Assignment::resumed("events".into(), 0, Some(*start), settled.clone());
        assignment.use_places();
        let mut backlog = PartitionBacklog::new(*start, settled.clone());
        for (webhook, (_, place)) in stored {
            backlog.restore(&gauges[*webhook], place, Cause { reason: BehindReason::LaneFull, since_ms: 0 });
        }
        assignment.set_commit_bound(backlog.commit_bound());
        let lanes = (0..WEBHOOKS).map(|_| Lane::default()).collect();
        let (pressure, main, writes) = (Pressure::new(64 << 20), *start, VecDeque::new());
        let (catch_up, is_closing) = (None, false);
        Self { gauges, registry, pressure, assignment, backlog, lanes, main, catch_up, writes, epoch, is_closing }
    }

    pub(super) fn webhook(&self, gauge: &LaneGauge) -> usize {
        self.gauges.iter().position(|known| known.id() == gauge.id()).unwrap()
    }

    pub(super) fn listen(&mut self, now_ms: i64) {
        let returns = self.registry.take_returns();
        let mut has_returned = false;
        for from_lane in self.assignment.take_reports() {
            match from_lane {
                FromLane::Settled { gauge, offset } => self.backlog.settled(&gauge, offset),
                FromLane::Returned { gauge, event, pinned } => {
                    has_returned = true;
                    self.backlog.returned(&gauge, &event, pinned, now_ms);
                }
            }
        }
        if has_returned {
            self.assignment.set_commit_bound(self.backlog.commit_bound());
        }
        for (gauge, number) in returns {
            gauge.note_return(number);
        }
    }

    /// What waits in a lane goes back, as a shard does it.
    pub(super) fn turn_back(&mut self, webhook: usize, waiting: Vec<Waiting>) {
        let gauge = &self.gauges[webhook];
        let begins = waiting.iter().any(|waiting| !gauge.is_outdated(&waiting.admitted));
        let number = begins.then(|| gauge.begin_return());
        for waiting in waiting {
            waiting.event.give_back(gauge);
        }
        if let Some(number) = number {
            gauge.end_return(number);
        }
    }

    /// A shard takes up to `count` deliveries out of its channel. What is recalled goes back.
    pub(super) fn take_in(&mut self, webhook: usize, count: usize) {
        for _ in 0..count {
            let Some(waiting) = self.lanes[webhook].channel.pop_front() else { break };
            let is_blocked = self.gauges[webhook].is_blocked();
            let is_full = is_blocked && !self.lanes[webhook].queue.is_empty();
            if is_full || self.gauges[webhook].is_outdated(&waiting.admitted) || waiting.event.is_recalled() {
                self.turn_back(webhook, vec![waiting]);
            } else {
                self.lanes[webhook].queue.push_back(waiting);
            }
        }
    }

    pub(super) fn recall(&mut self, webhook: usize) {
        if self.lanes[webhook].queue.iter().any(|waiting| waiting.event.is_recalled()) {
            let waiting: Vec<_> = self.lanes[webhook].queue.drain(..).collect();
            self.turn_back(webhook, waiting);
        }
    }
}

/// Kafka takes a write, as readers of the topic understand it: one of a former owner counts for nothing.
pub(super) fn store(stored: &mut BTreeMap<usize, (u64, Place)>, webhook: usize, epoch: u64, place: Place) {
    if stored.get(&webhook).is_some_and(|(latest, _)| *latest > epoch) {
        return;
    }
    if place.is_none() {
        stored.remove(&webhook);
    } else {
        stored.insert(webhook, (epoch, place));
    }
}
