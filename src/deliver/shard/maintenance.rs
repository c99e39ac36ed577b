//! What a shard looks after ten times a second, because no event does: records that changed, probes, lanes of partitions that are given
//! up, idle connections, lanes and hosts that are not needed any more. Nothing here starts a request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shard;
use crate::deliver::courier::Courier;
use crate::deliver::publish::Publish;
use crate::domain::integration::Integration;
use crate::domain::table::Table;

/// How often a shard looks after its lanes.
pub(super) const MAINTENANCE_EVERY: Duration = Duration::from_millis(100);
/// A lane or host without work is forgotten after this; a circuit's state with it.
const FORGET_AFTER: Duration = Duration::from_mins(2);

impl<C: Courier, P: Publish> Shard<C, P> {
    /// Looks after what no event does.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.follow_records(now);
        self.look_for_probes(now);
        let (mut recalled, mut forgotten) = (Vec::new(), Vec::new());
        for (index, lane) in &mut self.lanes {
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
        for index in recalled {
            let waiting = self.lanes.get_mut(index).map(|lane| lane.queue.drain_waiting());
            self.turn_back(index, waiting.unwrap_or_default());
        }
        for index in forgotten {
            let lane = self.lanes.remove(index);
            self.lane_of.remove(&lane.gauge.id());
            lane.gauge.unblock();
            if lane.circuit.is_open() {
                self.shared.metrics.deliver.webhook_circuits_open.dec();
            }
            if lane.allowance.is_restricted() {
                self.shared.metrics.deliver.webhooks_restricted.dec();
            }
        }
        self.look_at_hosts(now);
    }

    /// What waits is requested as its integration's record says now, where no newer delivery brings that record. What is for a webhook that
    /// gets nothing any more goes back, and is dropped where that is counted.
    fn follow_records(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        // While the table is written, the next look comes soon.
        let Some(table) = shared.table.try_read() else { return };
        let is_changed = |known: &Arc<Integration>| table.get(known.key()).is_none_or(|now| !Arc::ptr_eq(known, now));
        let waiting = self.lanes.iter().filter(|(_, lane)| lane.queue.waiting() > 0);
        let changed = waiting.filter(|(_, lane)| is_changed(&lane.prepared_from.0));
        let changed: Vec<_> = changed
            .map(|(index, lane)| (index, target(&table, lane.prepared_from.0.key(), lane.gauge.webhook())))
            .collect();
        drop(table);
        for (index, target) in changed {
            if !target.is_some_and(|target| self.prepare_anew(index, target, now)) {
                let waiting = self.lanes.get_mut(index).map(|lane| lane.queue.drain_waiting());
                self.turn_back(index, waiting.unwrap_or_default());
            }
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
}

/// The integration of that key and the place of one of its webhooks, if that is delivered to.
fn target(table: &Table, key: &str, webhook_id: &str) -> Option<(Arc<Integration>, usize)> {
    let integration = table.get(key).filter(|integration| integration.status().delivers())?;
    let webhook = integration.webhook_by_id(webhook_id).filter(|webhook| !webhook.is_disabled())?;
    Some((Arc::clone(integration), webhook.index()))
}
