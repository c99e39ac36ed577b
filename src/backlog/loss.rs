//! What webhooks that are behind miss because the log does not have it any more: retention deleted it, the topic was created again, or
//! the log lost its last records. Pure. The passes of the catch-up reader are in `partition`.

use std::sync::Arc;

use super::behind::Behind;
use super::partition::{Cut, PartitionBacklog};

impl PartitionBacklog {
    /// The log has nothing below `low` any more: the pass ends. Returns what each webhook misses because of that.
    pub(crate) fn cut(&mut self, low: i64) -> Vec<Cut> {
        let missed = self.miss(low);
        self.behind.values_mut().for_each(|behind| behind.settle_safe_pins());
        missed
    }

    fn miss(&mut self, low: i64) -> Vec<Cut> {
        // What the pass has read is not missed, also where it did not match.
        self.end_pass();
        let behind = self.behind.values_mut().filter(|behind| behind.is_served && behind.need() < low);
        behind
            .map(|behind| {
                let (gauge, from) = (Arc::clone(&behind.gauge), behind.need());
                Cut { gauge, from, to: low, missed: miss_one(behind, low) }
            })
            .filter(|cut| cut.missed > 0)
            .collect()
    }

    /// The log has lost what was read of it from `from` on. See [`PartitionBacklog::take_lost`]. What comes before is read again, and so is
    /// all of another log.
    pub(crate) fn lose(&mut self, from: i64) {
        if self.is_another_log {
            return;
        }
        self.miss(from);
        let lost = self.miss(self.position);
        self.lost.extend(lost);
    }

    /// What webhooks were behind with and the log has lost with its records, since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<Cut> {
        std::mem::take(&mut self.lost)
    }
}

/// A webhook does not get anything below `low` any more. Returns how many offsets it still had to get of that.
fn miss_one(behind: &mut Behind, low: i64) -> u64 {
    let left = behind.todo.split_off(&low);
    let missed_todo = std::mem::replace(&mut behind.todo, left).len() as u64;
    let settled = behind.settled_before.as_ref().map_or(0, |before| before.count(behind.next..low));
    let missed_next = low.saturating_sub(behind.next).max(0).unsigned_abs().saturating_sub(settled);
    behind.next = behind.next.max(low);
    missed_todo + missed_next
}

#[cfg(test)]
mod tests {
    use super::super::beginning::Cause;
    use super::*;
    use crate::backlog::partition::{Look, MainOffer, Offered, Plan};
    use crate::backlog::place::Place;
    use crate::domain::outcome::BehindReason;
    use crate::inflight::lane_gauge::LaneGauges;
    use crate::inflight::pressure::Pressure;

    #[test]
    fn what_retention_deleted_is_reported_for_the_webhooks_that_miss_it_and_for_no_other() {
        let gauges = LaneGauges::default();
        let mut backlog = PartitionBacklog::new(100, Vec::new());
        for (webhook, place) in [("early", 10), ("late", 60)] {
            backlog.restore(
                &gauges.of("ws/i", webhook),
                &Place::from(place),
                Cause { reason: BehindReason::LaneFull, since_ms: 0 },
            );
        }
        let reported: Vec<_> =
            backlog.cut(50).iter().map(|cut| (cut.gauge.webhook().to_owned(), cut.from, cut.missed)).collect();
        assert_eq!(reported, [("early".to_owned(), 10, 40)]);
        assert_eq!(backlog.all().map(|behind| behind.place().first()).collect::<Vec<_>>(), [Some(50), Some(60)]);
        assert!(backlog.cut(50).is_empty(), "it is reported once");
    }

    #[test]
    fn what_a_pass_has_read_before_retention_deleted_it_does_not_count_as_missed_where_it_did_not_match() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let mut backlog = PartitionBacklog::new(100, Vec::new());
        backlog.restore(
            &gauges.of("ws/i", "w"),
            &Place::from(10),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        assert_eq!(backlog.plan(look), Plan::Seek(10));
        (10..50).for_each(|offset| backlog.catch_up_passed(offset));
        assert_eq!(backlog.cut(60).iter().map(|cut| (cut.from, cut.missed)).collect::<Vec<_>>(), [(50, 10)]);
        assert_eq!(backlog.plan(look), Plan::Seek(60));
    }

    #[test]
    fn what_a_webhook_was_given_before_retention_deleted_it_does_not_count_as_missed() {
        let (gauges, settled) = (LaneGauges::default(), vec![22..25, 28..40]);
        let mut backlog = PartitionBacklog::new(20, settled);
        backlog.restore(
            &gauges.of("ws/i", "w"),
            &Place::new([3, 7].into_iter(), Some(30)),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        backlog.main_passed(49);
        let missed =
            |backlog: &mut PartitionBacklog, low| backlog.cut(low).iter().map(|cut| cut.missed).collect::<Vec<_>>();
        assert_eq!(missed(&mut backlog, 5), [1], "3");
        assert_eq!(missed(&mut backlog, 26), [1 + 3], "7, 20, 21 and 25");
        assert_eq!(
            missed(&mut backlog, 35),
            [2 + 5],
            "26, 27 and what comes from 30 on, where the place is known and not the runs"
        );
    }

    #[test]
    fn what_webhooks_are_behind_with_is_missed_when_the_log_is_created_again() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(100, Vec::new());
        backlog.restore(
            &gauge,
            &Place::new([3, 7].into_iter(), Some(60)),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        backlog.main_comes_to(0);
        let lost: Vec<_> = backlog.take_lost().iter().map(|cut| (cut.from, cut.missed)).collect();
        assert_eq!((lost, backlog.len()), (vec![(3, 2 + 40)], 0));
        gauge.block();
        let record = Offered { offset: 0, timestamp_ms: 0, bytes: 1 };
        assert!(matches!(backlog.offer_main(&gauge, record, look), MainOffer::FallsBehind));
        backlog.main_passed(0);
        assert_eq!(backlog.all().map(|behind| behind.place().first()).collect::<Vec<_>>(), [Some(0)], "of the new log");
        backlog.lose(0);
        assert!(backlog.take_lost().is_empty(), "all of the new log is read again");
    }

    #[test]
    fn only_what_a_log_has_lost_at_its_end_is_missed() {
        let gauges = LaneGauges::default();
        let mut backlog = PartitionBacklog::new(100, Vec::new());
        backlog.restore(
            &gauges.of("ws/i", "w"),
            &Place::new([3, 7].into_iter(), Some(60)),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        backlog.lose(90);
        assert_eq!(backlog.take_lost().iter().map(|cut| (cut.from, cut.missed)).collect::<Vec<_>>(), [(90, 10)]);
        assert!(backlog.take_lost().is_empty(), "it is counted once");
    }
}
