//! What a shard looks after ten times a second, because no event does: stalled lanes, full hosts, idle connections, lanes and
//! hosts that nobody needs any more, its pace, and whether this process stood still. Nothing here starts a request.

use std::time::Duration;

use tokio::time::Instant;

use super::Shard;
use crate::domain::outcome::Reason;

/// How often a shard looks after its lanes: paces, stalled and idle ones.
pub(super) const MAINTENANCE_EVERY: Duration = Duration::from_millis(100);
/// Weight of the newest look in a shard's pace: half of it comes from the last half second.
const PACE_WEIGHT: f64 = 0.125;
/// A lane that was fed within this counts as fed.
const FED_WITHIN: Duration = Duration::from_secs(5);
/// A lane or host without work is forgotten after this; a circuit's state with it.
const FORGET_AFTER: Duration = Duration::from_mins(2);

/// What the lanes say to those who read.
#[derive(Clone, Copy)]
struct Reported {
    starving: bool,
    brimming: bool,
}

/// For how many looks reading may wait for receivers that keep pace, until all have caught up: a minute. A receiver that
/// gets more than it takes for longer does not catch up; then its lane overflows, and the others go on.
const PATIENCE_LOOKS: u32 = 600;

/// What is left of [`PATIENCE_LOOKS`].
pub(super) struct Patience(u32);

impl Patience {
    pub(super) fn new() -> Self {
        Self(PATIENCE_LOOKS)
    }

    /// Whether reading is to wait after this look.
    fn spend(&mut self, brimming: bool, caught_up: bool) -> bool {
        if caught_up {
            self.0 = PATIENCE_LOOKS;
        }
        if brimming {
            self.0 = self.0.saturating_sub(1);
        }
        brimming && self.0 > 0
    }
}

impl Shard {
    /// Looks after what no event does: stalled lanes, idle connections, forgotten lanes and hosts, the pace.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.notice_standstill(now);
        let mut starving = false;
        let mut brimming = false;
        let mut stalled = Vec::new();
        let mut forgotten = Vec::new();
        for (index, lane) in &mut self.lanes {
            lane.pace.look(lane.queue.waiting(), now);
            let quiet = now.saturating_duration_since(lane.fed);
            if lane.queue.waiting() > 0 {
                brimming |= lane.pace.is_brimming(lane.queue.waiting(), lane.in_flight, now);
                if lane.is_to_shed(now) {
                    stalled.push(index);
                }
            } else if quiet < FED_WITHIN {
                starving |= lane.in_flight < lane.allowance.size();
            } else if quiet > FORGET_AFTER && lane.queue.is_empty() && !lane.scheduled {
                forgotten.push(index);
            } else {
                lane.queue.rest();
            }
        }
        for index in stalled {
            self.shed(index);
        }
        self.look_for_full_hosts(now);
        for index in forgotten {
            let lane = self.lanes.remove(index);
            self.lane_of.remove(&lane.key);
            if lane.allowance.is_restricted() {
                self.shared.metrics.deliver.webhooks_restricted.dec();
            }
        }
        self.look_at_hosts(now);
        let brimming = self.patience.spend(brimming, self.lanes.iter().all(|(_, lane)| lane.queue.waiting() == 0));
        self.report_pace(Reported { starving, brimming }, now);
    }

    /// Puts off what waits for a receiver that has stopped answering, so that it does not count as work at hand.
    fn shed(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return };
        let waiting = lane.queue.drain_waiting();
        self.shared.pressure.unqueue(self.index, waiting.len());
        for delivery in waiting {
            self.put_off(delivery, Reason::Overloaded);
        }
    }

    /// Finds the hosts that are at their limit and need too long for all that waits for them together. A lane can't tell:
    /// it may have nothing under way at all.
    fn look_for_full_hosts(&mut self, now: Instant) {
        let mut waiting = vec![0; self.hosts.capacity()];
        for (_, lane) in &self.lanes {
            waiting.get_mut(lane.host).into_iter().for_each(|waiting| *waiting += lane.queue.waiting());
        }
        for (index, host) in &mut self.hosts {
            host.pace.look(waiting.get(index).copied().unwrap_or(0), now);
        }
        let limit = self.shared.settings.max_in_flight_per_host;
        let mut over = Vec::new();
        for (index, lane) in &mut self.lanes {
            let Some(host) = self.hosts.get(lane.host) else { continue };
            let waiting = waiting.get(lane.host).copied().unwrap_or(0);
            lane.host_is_full =
                host.in_flight >= limit && host.pace.is_full(waiting, host.in_flight, host.in_flight, now);
            if lane.host_is_full && host.pace.is_stalled(host.in_flight, now) && lane.queue.waiting() > 0 {
                over.push(index);
            }
        }
        for index in over {
            self.shed(index);
        }
    }

    fn look_at_hosts(&mut self, now: Instant) {
        let in_use: std::collections::HashSet<usize> = self.lanes.iter().map(|(_, lane)| lane.host).collect();
        self.kept.purge(now);
        let mut forgotten = Vec::new();
        for (index, host) in &self.hosts {
            let quiet = now.saturating_duration_since(host.used) > FORGET_AFTER;
            if quiet && host.in_flight == 0 && !in_use.contains(&index) {
                forgotten.push(index);
            }
        }
        for index in forgotten {
            let host = self.hosts.remove(index);
            self.kept.close(index);
            self.host_of.remove(&host.authority);
            if host.circuit.is_open() {
                self.shared.metrics.deliver.circuits_open.dec();
            }
        }
    }

    fn report_pace(&mut self, Reported { starving, brimming }: Reported, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked).as_secs_f64();
        let queued = self.lanes.iter().any(|(_, lane)| lane.queue.waiting() > 0);
        if queued && elapsed > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let pace = self.finished as f64 / elapsed;
            self.pace = Some(self.pace.map_or(pace, |before| before + PACE_WEIGHT * (pace - before)));
        }
        self.finished = 0;
        self.looked = now;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let pace = self.pace.map(|pace| pace.ceil() as usize);
        self.shared.pressure.report(self.index, pace, starving, brimming);
    }

    /// A machine or a thread that stands still, for seconds at worst, makes every receiver look slow.
    pub(super) fn notice_standstill(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.awake).saturating_sub(MAINTENANCE_EVERY);
        self.awake = now;
        if late < MAINTENANCE_EVERY {
            return;
        }
        self.lanes.iter_mut().for_each(|(_, lane)| lane.pace.stood_still(late, now));
        self.hosts.iter_mut().for_each(|(_, host)| host.pace.stood_still(late, now));
    }
}
