//! Circuits of webhooks and hosts: what opens and closes them, what waits behind an open one, and probes.
//!
//! A lane is blocked while its webhook's circuit or its host's is open. Then it keeps one delivery at most, to probe with. The others go
//! back to where they came from, without an attempt.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Shard, UnderWay, Work};
use crate::clock;
use crate::deliver::courier::{Courier, Exchange};
use crate::deliver::publish::Publish;
use crate::domain::outcome::{DropReason, Outcome, Reason};
use crate::inflight::job::{Delivery, Requeue};
use crate::net::cause::Cause;
use crate::telemetry::metrics::TickOutcome;
use crate::telemetry::never::never;

/// What an outcome says about the host.
fn is_of_the_network(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Acknowledged | Outcome::Failed { status: Some(_), .. } => Some(false),
        Outcome::Failed { reason, .. } => match reason {
            Reason::Dns | Reason::Connect | Reason::Tls | Reason::Timeout | Reason::Reset => Some(true),
            Reason::Status | Reason::EchoMissing | Reason::EchoMismatch | Reason::Protocol => Some(false),
            // No connection was tried.
            Reason::RefusedAddress | Reason::CircuitOpen => None,
        },
    }
}

impl<C: Courier, P: Publish> Shard<C, P> {
    /// Whether the lane's circuit, or its host's, is open.
    pub(super) fn is_blocked(&self, lane_index: usize) -> bool {
        self.lanes.get(lane_index).is_some_and(|lane| {
            lane.circuit.is_open() || self.hosts.get(lane.host).is_some_and(|host| host.circuit.is_open())
        })
    }

    /// Takes account of how a request ended.
    pub(super) fn update_circuits(&mut self, under_way: &UnderWay, exchanged: &Exchange<C>, now: Instant) {
        let metrics = &self.shared.metrics.deliver;
        let outcome = &exchanged.outcome;
        let cause = exchanged.cause.as_ref().map_or("", Cause::text);
        let mut host_changed = false;
        if let Some(host) = self.hosts.get_mut(under_way.host) {
            let receiver = host.authority.origin();
            match is_of_the_network(outcome) {
                Some(false) if host.circuit.close() => {
                    host_changed = true;
                    metrics.circuits_open.dec();
                    tracing::info!(%receiver, "a host's circuit closed: it answers again");
                }
                Some(true) if host.circuit.failed(under_way.probe, now) => {
                    host_changed = true;
                    metrics.circuits_open.inc();
                    tracing::warn!(
                        %receiver,
                        cause,
                        "a host's circuit opened: no requests to a host that cannot be reached, but probes"
                    );
                }
                None if under_way.probe => host.circuit.probe_abandoned(),
                Some(_) | None => {}
            }
        }
        let mut lane_changed = false;
        if let Some(lane) = self.lanes.get_mut(under_way.lane) {
            let (integration, webhook) = (lane.gauge.integration(), lane.gauge.webhook());
            if *outcome == Outcome::Acknowledged {
                if lane.circuit.close() {
                    lane_changed = true;
                    metrics.webhook_circuits_open.dec();
                    tracing::info!(integration, webhook, "a webhook's circuit closed: its receiver acknowledges again");
                }
            } else if lane.circuit.failed(under_way.probe, now) {
                lane_changed = true;
                metrics.webhook_circuits_open.inc();
                tracing::warn!(
                    integration,
                    webhook,
                    cause,
                    "a webhook's circuit opened: no requests to a receiver that keeps failing, but probes"
                );
            }
        }
        if host_changed {
            self.host_changed(under_way.host, now);
        }
        if lane_changed {
            self.follow_circuits(under_way.lane);
        }
    }

    fn host_changed(&mut self, host_index: usize, now: Instant) {
        let is_closed = self.hosts.get(host_index).is_some_and(|host| !host.circuit.is_open());
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.host == host_index);
        for lane_index in lanes.map(|(index, _)| index).collect::<Vec<_>>() {
            if is_closed && let Some(lane) = self.lanes.get_mut(lane_index) {
                lane.circuit.make_due(now);
            }
            self.follow_circuits(lane_index);
        }
    }

    /// Sets in the lane's gauge, which consumers read, whether it is blocked. If it is, returns what waits in the lane.
    pub(super) fn follow_circuits(&mut self, lane_index: usize) {
        let is_blocked = self.is_blocked(lane_index);
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        if is_blocked == lane.is_blocked {
            return;
        }
        lane.is_blocked = is_blocked;
        lane.show(self.index);
        if !is_blocked {
            return self.schedule(lane_index);
        }
        let waiting = lane.queue.drain_waiting();
        self.turn_back(lane_index, waiting);
        if let Some(lane) = self.lanes.get(lane_index) {
            lane.gauge.want_retry_as_probe();
        }
    }

    /// Sends deliveries that were not requested back to where they came from: events to their places, retries to their tiers.
    pub(super) fn turn_back(&mut self, lane_index: usize, deliveries: Vec<Delivery>) {
        let Some(gauge) = self.lanes.get(lane_index).map(|lane| Arc::clone(&lane.gauge)) else {
            return never("a lane that is in use is gone");
        };
        let is_new = |delivery: &Delivery| delivery.admitted.as_ref().is_some_and(|it| !gauge.is_outdated(it));
        let is_event = |delivery: &Delivery| delivery.retry.is_none() && !delivery.event.is_tick;
        let begins = deliveries.iter().any(|delivery| is_event(delivery) && is_new(delivery));
        let number = begins.then(|| gauge.begin_return());
        for delivery in deliveries {
            if is_event(&delivery) && delivery.event.is_lost() {
                self.drop_first_attempt(delivery, DropReason::Expired);
            } else if is_event(&delivery) {
                delivery.event.give_back(&gauge);
            } else if let Some(retry) = delivery.retry {
                self.requeue(Requeue { event: delivery.event, wire: retry.wire, tier: retry.due.tier });
            } else {
                self.postpone_tick(delivery);
            }
        }
        if let Some(number) = number {
            gauge.end_return(number);
        }
    }

    /// A tick that was fired and can't be requested now waits in the first tier, unless the next tick comes before that.
    fn postpone_tick(&mut self, delivery: Delivery) {
        let Ok(active) = delivery.event.begin() else {
            return super::give_up(&self.shared.metrics, &delivery);
        };
        match self.shared.next_steps.postponed(delivery, clock::now_ms()) {
            Ok(record) => {
                let held = self.shared.pressure.publish();
                self.outbox.push(Work::Publish { record: Box::new(record), active, held });
            }
            Err(delivery) => {
                self.shared.metrics.drop_delivery(DropReason::TickOver);
                self.shared.metrics.tick(TickOutcome::Dropped);
                delivery.settle();
            }
        }
    }

    /// Whether a probe may begin now. A host that may be probed lets all its webhooks probe for it.
    pub(super) fn is_probe_due(&self, lane_index: usize, now: Instant) -> bool {
        let Some(lane) = self.lanes.get(lane_index) else { return false };
        let Some(host) = self.hosts.get(lane.host) else { return false };
        if host.circuit.is_open() { host.circuit.is_due(now) } else { lane.circuit.is_due(now) }
    }

    pub(super) fn begin_probe(&mut self, lane_index: usize, now: Instant) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        lane.circuit.begin_probe(now);
        self.hosts.get_mut(lane.host).into_iter().for_each(|host| host.circuit.begin_probe(now));
        // The next probe is a retry, if one falls due until then.
        lane.gauge.want_retry_as_probe();
    }

    /// Finds the lanes that may probe: those with a delivery are started, the others are given one.
    pub(super) fn look_for_probes(&mut self, now: Instant) {
        let blocked: Vec<usize> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_blocked && lane.gauge.is_at(self.index))
            .map(|(index, _)| index)
            .collect();
        if blocked.is_empty() {
            return;
        }
        // It begins with another lane each time: one webhook alone must not probe for all of its host.
        let first = rand::Rng::random_range(&mut self.rng, 0..blocked.len());
        for lane_index in blocked.iter().cycle().skip(first).take(blocked.len()).copied() {
            if !self.is_probe_due(lane_index, now) {
                continue;
            }
            let Some(lane) = self.lanes.get(lane_index) else { continue };
            if lane.queue.has_ready() {
                self.probing.push_back(lane_index);
            } else if lane.queue.waiting() == 0 {
                lane.gauge.want_any_as_probe();
            }
        }
    }
}
