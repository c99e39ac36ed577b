//! Which lane may make its next request, and its beginning.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Shard, UnderWay, Work, give_up, seconds_between};
use crate::clock;
use crate::deliver::courier::Courier;
use crate::deliver::order::Place;
use crate::deliver::publish::Publish;
use crate::deliver::request::SignedRequest;
use crate::inflight::job::Delivery;
use crate::inflight::partition::Active;
use crate::telemetry::never::never;

impl<C: Courier, P: Publish> Shard<C, P> {
    pub(super) fn schedule(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        if !lane.scheduled && lane.queue.has_ready() && lane.in_flight < lane.allowance.requests() {
            lane.scheduled = true;
            self.runnable.push_back(lane_index);
        }
    }

    /// Starts probes, then requests, one a lane and turn, until no lane may start one or no permit is left. What an open
    /// circuit refuses needs no permit.
    pub(super) fn start(&mut self) {
        let now = Instant::now();
        while let Some(lane_index) = self.probing.pop_front() {
            // Without a permit the next look tries again.
            let Some(permit) = self.shared.permits.try_probe() else {
                self.probing.clear();
                break;
            };
            drop(self.start_one(lane_index, permit, true, now));
        }
        while let Some(lane_index) = self.runnable.front().copied() {
            if self.is_blocked(lane_index) {
                self.runnable.pop_front();
                if let Some(lane) = self.lanes.get_mut(lane_index) {
                    lane.scheduled = false;
                    let host = lane.host;
                    self.wake_next(host);
                }
                continue;
            }
            let Some(permit) = self.permit.take().or_else(|| self.shared.permits.try_request()) else { return };
            self.runnable.pop_front();
            if let Some(lane) = self.lanes.get_mut(lane_index) {
                lane.scheduled = false;
                self.permit = self.start_one(lane_index, permit, false, now);
            }
        }
        self.permit = None;
    }

    /// A lane waits until hosts like its own have fewer requests under way. Hosts of which nothing is known come first: most of them
    /// answer.
    fn hold_back(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        lane.scheduled = true;
        let host = self.hosts.get(lane.host);
        if host.is_some_and(|host| host.in_flight == 0 && host.promptness.is_unknown()) {
            self.held_back.push_front(lane_index);
        } else {
            self.held_back.push_back(lane_index);
        }
    }

    /// Lets the next lane try that is held back.
    pub(super) fn wake_held_back(&mut self) {
        self.runnable.extend(self.held_back.pop_front());
    }

    /// Starts the next request of a lane, or gives the permit back.
    fn start_one(
        &mut self,
        lane_index: usize,
        permit: OwnedSemaphorePermit,
        probe: bool,
        now: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let Some(lane) = self.lanes.get_mut(lane_index) else {
            never("a lane that is in use is gone");
            return Some(permit);
        };
        let host_index = lane.host;
        // A cut since it was scheduled: it comes again when one of its requests ends.
        if lane.in_flight >= lane.allowance.requests() && !probe {
            self.wake_next(host_index);
            return Some(permit);
        }
        let Some(host) = self.hosts.get_mut(host_index) else {
            never("the host of a lane is gone");
            return Some(permit);
        };
        let (pace, permits) = (host.promptness.pace(), &self.shared.permits);
        let limit = permits.of_one_host(pace, self.shared.settings.max_in_flight_per_host);
        if host.in_flight >= limit && !probe {
            lane.scheduled = true;
            host.waiting.push_back(lane_index);
            return Some(permit);
        }
        if probe && !self.is_probe_due(lane_index, now) {
            return Some(permit);
        }
        if !probe && !permits.try_take(pace) {
            self.hold_back(lane_index);
            return Some(permit);
        }
        let Some((place, active, delivery)) = self.next_of(lane_index) else {
            if !probe {
                self.shared.permits.give_back(pace, 1);
            }
            self.wake_next(host_index);
            return Some(permit);
        };
        if probe {
            self.begin_probe(lane_index, now);
        } else if let Some(host) = self.hosts.get_mut(host_index) {
            host.permits += 1;
        }
        let (lane, host, began) = (lane_index, host_index, now);
        self.begin(UnderWay { lane, host, place, probe, began, delivery, active, _permit: permit }, now);
        self.schedule(lane_index);
        None
    }

    /// Lets the next lane try that waits for the host: the lane that had the turn does not need it.
    pub(super) fn wake_next(&mut self, host_index: usize) {
        if let Some(host) = self.hosts.get_mut(host_index)
            && let Some(waiting) = host.waiting.pop_front()
        {
            self.runnable.push_back(waiting);
        }
    }

    /// The next delivery of a lane whose partition is not being given up.
    fn next_of(&mut self, lane_index: usize) -> Option<(Place, Option<Active>, Delivery)> {
        while let Some(lane) = self.lanes.get_mut(lane_index)
            && let Some((place, mut delivery)) = lane.queue.pop()
        {
            if lane.prepared_from.0.is_suspended() {
                lane.queue.finish(place);
                self.suspended(delivery);
                continue;
            }
            if let Ok(active) = delivery.event.begin() {
                delivery.admitted = None;
                return Some((place, active, delivery));
            }
            lane.queue.finish(place);
            give_up(&self.shared.metrics, &delivery);
        }
        None
    }

    fn begin(&mut self, mut under_way: UnderWay, now: Instant) {
        let (Some(lane), Some(host)) = (self.lanes.get_mut(under_way.lane), self.hosts.get_mut(under_way.host)) else {
            return never("the lane of a request is gone");
        };
        lane.in_flight += 1;
        host.promptness.began(host.in_flight, now);
        host.in_flight += 1;
        host.used = now;
        let wants_new = under_way.probe || std::mem::take(&mut lane.has_failed);
        let kept = if wants_new { None } else { self.kept.take(under_way.host, now) };
        let now_ms = clock::now_ms();
        let metrics = &self.shared.metrics;
        metrics.deliver.in_flight_requests.inc();
        let delivery = &mut under_way.delivery;
        delivery.first_attempt_ms.get_or_insert(now_ms);
        // A probe waited for its circuit: that says nothing about how late this worker is.
        if !under_way.probe
            && let Some(due) = delivery.due
            && let Some(lateness) = metrics.intake.retry_lateness.get(due.tier)
        {
            lateness.observe(seconds_between(due.at_ms, now_ms));
        }
        // What is sent is the newest record's: reports on it mask that record's secrets and name its URL.
        let (integration, webhook) = &lane.prepared_from;
        (delivery.integration, delivery.webhook) = (Arc::clone(integration), *webhook);
        let request = SignedRequest::new(&lane.prepared, delivery, now_ms / 1000, &mut self.rng);
        self.outbox.push(Work::Attempt { under_way: Box::new(under_way), request, kept });
    }
}
