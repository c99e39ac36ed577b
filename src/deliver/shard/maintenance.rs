//! What a shard looks after ten times a second, because no event triggers it: records that changed, probes, webhooks that turned slow,
//! lanes of partitions that are given up, idle connections, lanes and hosts that are not needed any more. Nothing here starts a request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Registered, Shard, give_up};
use crate::deliver::courier::Courier;
use crate::deliver::permits::Permits;
use crate::deliver::promptness::Pace;
use crate::deliver::publish::Publish;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::outcome::DropReason;
use crate::domain::table::Table;

/// How often a shard looks after its lanes.
pub(super) const MAINTENANCE_EVERY: Duration = Duration::from_millis(100);
/// A lane or host without work is forgotten after this, and its circuit's state too.
const FORGET_AFTER: Duration = Duration::from_mins(2);

impl<C: Courier, P: Publish> Shard<C, P> {
    /// Looks after everything that no event triggers.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.follow_records(now);
        self.look_for_probes(now);
        self.show_held_back();
        let (mut recalled, mut forgotten, mut slower) = (Vec::new(), Vec::new(), Vec::new());
        for (index, lane) in &mut self.lanes {
            if lane.in_flight > 0
                && let Some(pace) = lane.promptness.overdue(now)
            {
                slower.extend(follow_pace(lane, pace, &self.shared.permits).map(|before| (index, before)));
            }
            lane.show(self.index);
            if lane.queue.waiting() > 0 {
                if lane.queue.any_waiting(|delivery| delivery.event.is_recalled()) {
                    recalled.push(index);
                }
            } else if now.saturating_duration_since(lane.fed) > FORGET_AFTER && lane.queue.is_empty() && !lane.scheduled
            {
                forgotten.push(index);
            } else {
                lane.queue.rest();
            }
        }
        for (index, before) in slower {
            self.pace_changed(index, before);
        }
        for index in recalled {
            self.turn_back_recalled(index);
        }
        for index in forgotten {
            self.forget(index);
        }
        self.look_at_hosts(now);
    }

    fn show_held_back(&mut self) {
        let held_back = self.waits.held_back.iter().map(|held_back| held_back.lanes.len());
        let held_back = i64::try_from(held_back.sum::<usize>()).unwrap_or(i64::MAX);
        self.shared.metrics.deliver.webhooks_held_back.add(held_back - self.held_back_shown);
        self.held_back_shown = held_back;
    }

    fn forget_if_idle(&mut self, index: usize) {
        if self.lanes.get(index).is_some_and(|lane| lane.queue.is_empty() && !lane.scheduled) {
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        let lane = self.lanes.remove(index);
        self.lane_of.remove(&lane.gauge.id());
        if lane.gauge.is_at(self.index) {
            lane.gauge.unblock();
            lane.gauge.set_slow(false);
        }
        if lane.circuit.is_open() {
            self.shared.metrics.deliver.webhook_circuits_open.dec();
        }
        if lane.allowance.is_restricted() {
            self.shared.metrics.deliver.webhooks_restricted.dec();
        }
    }

    /// Applies the records as they are now to what waits, where no newer delivery brings them. What is for another shard's host goes
    /// back, and so does what is for a webhook that is paused. What is for a webhook that is gone is dropped.
    fn follow_records(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        // While the table is written, the next look comes soon.
        let Some(table) = shared.table.try_read() else { return };
        let is_changed = |known: &Arc<Integration>| table.get(known.key()).is_none_or(|now| !Arc::ptr_eq(known, now));
        let in_use = self.lanes.iter().filter(|(_, lane)| lane.queue.waiting() > 0 || lane.is_blocked);
        let changed = in_use.filter(|(_, lane)| is_changed(&lane.prepared_from.integration));
        let changed: Vec<_> = changed
            .map(|(index, lane)| (index, target(&table, lane.prepared_from.integration.key(), lane.gauge.webhook())))
            .collect();
        drop(table);
        for (index, target) in changed {
            match target {
                Ok((integration, webhook)) if self.has_host_of(&integration, webhook) => {
                    if !self.prepare_again(index, Registered { integration, webhook }, now) {
                        self.turn_back_waiting(index);
                    }
                }
                Ok(_) => {
                    self.turn_back_waiting(index);
                    self.forget_if_idle(index);
                }
                Err(Some(reason)) => self.drop_waiting(index, reason),
                Err(None) => self.turn_back_waiting(index),
            }
        }
    }

    /// Whether the host of a webhook is this shard's.
    fn has_host_of(&self, integration: &Integration, webhook: usize) -> bool {
        let hash = integration.webhook(webhook).map(Webhook::host_hash);
        hash.is_some_and(|hash| hash as usize % self.shared.shards == self.index)
    }

    fn turn_back_waiting(&mut self, index: usize) {
        let waiting = self.lanes.get_mut(index).map(|lane| lane.queue.drain_waiting());
        self.turn_back(index, waiting.unwrap_or_default());
    }

    /// What its log has lost since it was read stays: no reader gives it again.
    fn turn_back_recalled(&mut self, index: usize) {
        let waiting = self.lanes.get_mut(index).map(|lane| lane.queue.drain_waiting());
        let (lost, recalled): (Vec<_>, Vec<_>) =
            waiting.unwrap_or_default().into_iter().partition(|delivery| delivery.event.is_lost());
        self.turn_back(index, recalled);
        let ordering = self.shared.settings.ordering;
        if let Some(lane) = self.lanes.get_mut(index) {
            for delivery in lost {
                lane.wait(delivery, ordering);
            }
            self.schedule(index);
        }
    }

    /// The consumers have ended: what no next owner gives again is not requested any more.
    pub(super) fn give_up_lost(&mut self) {
        for (_, lane) in &mut self.lanes {
            let (lost, others): (Vec<_>, Vec<_>) =
                lane.queue.drain_waiting().into_iter().partition(|delivery| delivery.event.is_lost());
            for delivery in lost {
                give_up(&self.shared.metrics, &delivery);
            }
            for delivery in others {
                lane.wait(delivery, self.shared.settings.ordering);
            }
        }
    }

    /// Drops first attempts, counted. Retries go back to their tiers, and are dropped when they are due.
    fn drop_waiting(&mut self, index: usize, reason: DropReason) {
        let waiting = self.lanes.get_mut(index).map(|lane| lane.queue.drain_waiting());
        let (retries, first): (Vec<_>, Vec<_>) =
            waiting.unwrap_or_default().into_iter().partition(|delivery| delivery.retry.is_some());
        for delivery in first {
            self.drop_first_attempt(delivery, reason);
        }
        self.turn_back(index, retries);
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
}

/// Counts a lane's permits by its new pace, and returns the one before. An unknown lane stays unknown while silent ones hold all of their
/// share.
fn follow_pace(lane: &mut Lane, pace: Pace, permits: &Permits) -> Option<Pace> {
    let before = lane.promptness.pace();
    if before == Pace::Prompt {
        permits.change(lane.permits, before, pace);
    } else if !permits.try_change(lane.permits, before, pace) {
        return None;
    }
    lane.promptness.set(pace);
    Some(before)
}

/// The integration of that key and the place of one of its webhooks. An error if nothing is delivered to it: with a reason if the
/// deliveries that wait for it are dropped for good.
fn target(table: &Table, key: &str, webhook_id: &str) -> Result<(Arc<Integration>, usize), Option<DropReason>> {
    let integration = table.get(key).ok_or(DropReason::IntegrationGone)?;
    let webhook = integration.webhook_by_id(webhook_id).ok_or(DropReason::WebhookGone)?;
    if webhook.is_disabled() {
        return Err(Some(DropReason::WebhookDisabled));
    }
    if !integration.status().delivers() {
        return Err(None);
    }
    Ok((Arc::clone(integration), webhook.index()))
}
