//! What follows when the log of a partition is not the one that was read: it is read from an offset that leaves nothing out.

use super::membership::{GroupMember, Recreated};
use crate::inflight::partition::Assignment;
use crate::kafka::topic_watch::{LogChange, LogRange, Look};
use crate::telemetry::metrics::Metrics;

/// Lets `member` read again those partitions of `topic` whose log changed.
pub(super) fn follow(topic: &str, look: &Look, member: &GroupMember, metrics: &Metrics) {
    for (partition, change) in &look.changes {
        let Some(range) = look.ranges.get(partition) else { continue };
        let held = member.assignments();
        let is_it = |held: &Assignment| (&**held.topic(), held.partition()) == (topic, *partition);
        let next = held.iter().find(|held| is_it(held)).map(|held| next_of(held, *range).min(held.commit_bound()));
        // A partition that comes later begins where its group left off, or at the end: its member looks.
        let Some(start) = start_of(*change, *range, next) else { continue };
        let (kind, end_before, lost_from) = match *change {
            LogChange::Recreated { end_before, .. } => ("anew", end_before, 0),
            LogChange::Truncated { end_before, .. } => ("truncated", end_before, range.high),
        };
        tracing::error!(
            topic,
            partition,
            kind,
            end_before,
            end = range.high,
            start,
            "a partition's log is not the one that was read; it is read from another offset"
        );
        metrics.intake.logs_changed.with_label_values(&[kind]).inc();
        member.begin_again(topic, *partition, Recreated { start, lost_from });
    }
}

/// The next offset of a partition to be settled. Before anything is settled, it is where the group had left off.
pub(super) fn next_of(assignment: &Assignment, range: LogRange) -> i64 {
    let next = assignment.committable().or_else(|| assignment.start()).or_else(|| assignment.first_read());
    next.unwrap_or(range.low).max(range.low)
}

/// Where a partition begins again; `next` is its next unsettled offset. `None`: the worker does not hold it, and it goes on as it is.
fn start_of(change: LogChange, range: LogRange, next: Option<i64>) -> Option<i64> {
    match change {
        LogChange::Recreated { .. } => Some(range.low),
        // What lies between is the same as before.
        LogChange::Truncated { .. } => next.map(|next| next.min(range.high)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_lost_its_last_records_is_read_on_where_it_was_settled_or_at_its_end_by_the_worker_that_holds_it() {
        let range = LogRange { low: 10, high: 90 };
        let truncated = LogChange::Truncated { end_before: 100, end: 90 };
        let start = |next| start_of(truncated, range, next);
        assert_eq!([start(Some(40)), start(Some(95)), start(None)], [Some(40), Some(90), None]);
    }

    #[test]
    fn another_log_is_read_from_its_start() {
        let range = LogRange { low: 10, high: 90 };
        assert_eq!(start_of(LogChange::Recreated { end_before: 100, end: 90 }, range, None), Some(10));
    }
}
