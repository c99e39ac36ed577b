//! Which lane may make its next request, and its beginning.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::permit_waits::HeldBack;
use super::{Registered, Shard, UnderWay, Work, give_up, seconds_between};
use crate::clock;
use crate::deliver::courier::Courier;
use crate::deliver::order::Place;
use crate::deliver::permits::{KINDS, kind_of};
use crate::deliver::promptness::Pace;
use crate::deliver::publish::Publish;
use crate::deliver::request::SignedRequest;
use crate::inflight::job::Delivery;
use crate::inflight::lane_gauge::Admitted;
use crate::inflight::partition::Active;
use crate::telemetry::never::never;

impl<C: Courier, P: Publish> Shard<C, P> {
    pub(super) fn schedule(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        if !lane.scheduled && lane.queue.has_ready() && lane.in_flight < lane.requests_max() {
            lane.scheduled = true;
            self.runnable.push_back(lane_index);
        }
    }

    /// Starts probes, then requests, one for each lane in turn, until no lane may start one or no permit is left. What an open circuit
    /// refuses needs no permit.
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
        for kind in 0..KINDS {
            self.wake_held_back(kind);
        }
        self.start_runnable(now);
        self.waits.give_back_unused(!self.runnable.is_empty());
    }

    /// Lanes that are held back get their turn for permits as far as their share reaches.
    fn wake_held_back(&mut self, kind: usize) {
        while let Some((lane_index, share)) = self.waits.held_back.get_mut(kind).and_then(HeldBack::wake) {
            let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
            lane.share = Some((kind, share));
            self.runnable.push_back(lane_index);
        }
    }

    fn start_runnable(&mut self, now: Instant) {
        while let Some(lane_index) = self.runnable.front().copied() {
            if self.is_blocked(lane_index) {
                self.runnable.pop_front();
                if let Some(lane) = self.lanes.get_mut(lane_index) {
                    (lane.scheduled, lane.share) = (false, None);
                    let host = lane.host;
                    self.wake_next(host);
                }
                continue;
            }
            let Some(permit) = self.waits.permit.take().or_else(|| self.waits.queue.take_now()) else { return };
            self.runnable.pop_front();
            if let Some(lane) = self.lanes.get_mut(lane_index) {
                lane.scheduled = false;
                self.waits.permit = self.start_one(lane_index, permit, false, now);
            }
        }
    }

    /// A lane waits until webhooks like its own have fewer requests under way. If it has a turn at its host, another lane gets that.
    fn hold_back(&mut self, lane_index: usize, kind: usize) {
        let (Some(lane), Some(held_back)) = (self.lanes.get_mut(lane_index), self.waits.held_back.get_mut(kind)) else {
            return never("a lane that is in use is gone");
        };
        lane.scheduled = true;
        held_back.lanes.push_back(lane_index);
        let host = lane.host;
        self.wake_next(host);
    }

    /// A lane has another pace: where it is held back it tries again, and it may have more requests under way than before.
    pub(super) fn pace_changed(&mut self, lane_index: usize, before: Pace) {
        if let Some(lane) = self.lanes.get(lane_index) {
            lane.show(self.index);
        }
        let held_back = kind_of(before).and_then(|kind| self.waits.held_back.get_mut(kind));
        let Some(held_back) = held_back else { return };
        if let Some(place) = held_back.lanes.iter().position(|held_back| *held_back == lane_index) {
            held_back.lanes.remove(place);
            self.runnable.push_back(lane_index);
        } else {
            self.schedule(lane_index);
        }
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
        let kind = if probe { None } else { kind_of(lane.promptness.pace()) };
        // If it can't be used it goes back.
        let woken = lane.share.take().filter(|(of, _)| Some(*of) == kind).map(|(_, share)| share);
        // Its allowance was cut since it was scheduled: it is scheduled again when one of its requests ends.
        if lane.in_flight >= lane.requests_max() && !probe {
            self.wake_next(host_index);
            return Some(permit);
        }
        let Some(host) = self.hosts.get_mut(host_index) else {
            never("the host of a lane is gone");
            return Some(permit);
        };
        if host.in_flight >= self.shared.settings.max_in_flight_per_host && !probe {
            lane.scheduled = true;
            let turn = kind.zip(woken);
            self.wait_for_host(lane_index, turn);
            return Some(permit);
        }
        if probe && !self.is_probe_due(lane_index, now) {
            return Some(permit);
        }
        let share = woken.or_else(|| self.waits.take_share(kind?));
        if let Some(kind) = kind.filter(|_| share.is_none()) {
            self.hold_back(lane_index, kind);
            return Some(permit);
        }
        let Some((place, active, delivery)) = self.next_of(lane_index) else {
            self.wake_next(host_index);
            return Some(permit);
        };
        if probe {
            self.begin_probe(lane_index, now);
        } else if let Some(lane) = self.lanes.get_mut(lane_index) {
            lane.permits += 1;
            // The lane gives it back, in the share of the pace that it has by then.
            share.into_iter().for_each(OwnedSemaphorePermit::forget);
        }
        let (lane, host, began) = (lane_index, host_index, now);
        self.begin(
            UnderWay { lane, host, place, probe, began, delivery, active, in_request: None, _permit: permit },
            now,
        );
        self.schedule(lane_index);
        None
    }

    /// A lane waits until its host has fewer requests under way. A lane that has its `turn` in the share of its kind would lose it, and
    /// could find the share used up when its turn at the host comes. So it keeps that turn and is the next one. Only one lane of a host
    /// does so, since a host must not take what others need.
    fn wait_for_host(&mut self, lane_index: usize, turn: Option<(usize, OwnedSemaphorePermit)>) {
        let host = self.lanes.get(lane_index).and_then(|lane| self.hosts.get_mut(lane.host));
        let Some(host) = host else { return never("the host of a lane is gone") };
        let next = host.waiting.front().and_then(|next| self.lanes.get(*next));
        let keeps = turn.is_some() && next.is_none_or(|next| next.share.is_none());
        if keeps {
            host.waiting.push_front(lane_index);
        } else {
            host.waiting.push_back(lane_index);
        }
        if let Some(lane) = self.lanes.get_mut(lane_index) {
            lane.share = turn.filter(|_| keeps);
        }
    }

    /// The next lane that waits for the host has a turn: the lane that had it does not need it.
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
            && let Some((place, delivery)) = lane.queue.pop()
        {
            if lane.prepared_from.integration.is_suspended() {
                lane.queue.finish(place);
                self.suspended(delivery);
                continue;
            }
            if let Ok(active) = delivery.event.begin() {
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
        lane.promptness.began(lane.in_flight, now);
        lane.in_flight += 1;
        host.in_flight += 1;
        host.used = now;
        let wants_new = under_way.probe || std::mem::take(&mut lane.has_failed);
        let kept = if wants_new { None } else { self.kept.take(under_way.host, now) };
        let now_ms = clock::now_ms();
        let metrics = &self.shared.metrics;
        metrics.deliver.in_flight_requests.inc();
        let delivery = &mut under_way.delivery;
        under_way.in_request = delivery.admitted.take().and_then(Admitted::begin);
        delivery.first_attempt_ms.get_or_insert(now_ms);
        // A probe waited for its circuit. Its lateness says nothing about this worker.
        if !under_way.probe
            && let Some(due) = delivery.retry.as_ref().map(|retry| retry.due)
            && let Some(lateness) = metrics.intake.retry_lateness.get(due.tier)
        {
            lateness.observe(seconds_between(due.at_ms, now_ms));
        }
        // The request is by the newest record: reports about it mask that record's secrets and name its URL.
        let Registered { integration, webhook } = &lane.prepared_from;
        (delivery.integration, delivery.webhook) = (Arc::clone(integration), *webhook);
        let request = SignedRequest::new(&lane.prepared, delivery, now_ms / 1000, &mut self.rng);
        self.outbox.push(Work::Attempt { under_way: Box::new(under_way), request, kept });
    }
}
