//! The webhooks that are behind in one partition, and the passes of the catch-up reader over it.
//!
//! The catch-up reader reads records of the partition a second time, for the webhooks that are behind. One run of it, from one offset on,
//! is a pass. A pass serves each webhook that is behind and whose first missing offset is not before the start of the pass. A webhook
//! whose lane takes nothing more leaves the pass at that offset, which keeps its order. The pass ends when no webhook has room, when it
//! has come to the main reader's position, or when it should go on elsewhere. Pure: the catch-up reader does what
//! [`PartitionBacklog::plan`] returns.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Weak};

use super::beginning::{Cause, Committed, Times};
use super::behind::{Behind, Standing, WRITE_EVERY_MS};
use super::place::Place;
use crate::domain::outcome::{BehindReason, DropReason};
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::{Admitted, LaneGauge};
use crate::inflight::pressure::Pressure;

/// A pass reads at least this many records before it ends for a webhook whose first missing offset is before its start. A seek throws
/// away what was fetched: about as many small records.
const QUANTUM: usize = 4_096;
/// A pass ends and the next begins further on when no webhook needs the next so many offsets: fewer are read faster than a seek takes.
const JUMP: i64 = 10_000;

/// What decisions depend on besides the backlog itself.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    /// How much the process holds.
    pub(crate) pressure: &'static Pressure,
    /// How long an event waits behind an open circuit before it is a dead letter, in ms.
    pub(crate) wait_max_ms: i64,
    /// ms since 1970.
    pub(crate) now_ms: i64,
}

/// A record that is offered to a webhook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    /// Its offset.
    pub(crate) offset: i64,
    /// Its timestamp, ms since 1970.
    pub(crate) timestamp_ms: i64,
    /// Its size.
    pub(crate) bytes: usize,
}

/// What the main reader does with a record for one webhook.
#[derive(Debug)]
pub(crate) enum MainOffer {
    /// Gives it.
    Give(Admitted),
    /// Nothing: the webhook is behind.
    Behind,
    /// Keeps the record unsettled until the webhook's place is in Kafka: the webhook falls behind here.
    FallsBehind,
}

/// What the catch-up reader does with a record for one webhook.
#[derive(Debug)]
pub(crate) enum CatchUpOffer {
    /// Gives it.
    Give(Admitted),
    /// Nothing: the webhook does not want it, or leaves the pass.
    Skip,
    /// Drops it, counted: the integration gets nothing.
    Drop(DropReason),
    /// Makes it a dead letter: it has waited too long behind an open circuit.
    Expire,
    /// Offers this record again later: no webhook that takes part has room.
    Stall,
}

/// What the catch-up reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Reads on.
    Read,
    /// Begins at that offset.
    Seek(i64),
    /// Nothing for now.
    Rest,
}

/// A place to write to the backlog topic.
#[derive(Clone, Debug)]
pub(crate) struct PlaceWrite {
    /// The webhook.
    pub(crate) gauge: Arc<LaneGauge>,
    /// The place; the empty one removes it.
    pub(crate) place: Place,
    /// Why it is behind.
    pub(crate) reason: BehindReason,
    /// Since when, ms since 1970.
    pub(crate) since_ms: i64,
}

/// What a webhook that is behind misses because its log does not have it any more.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The webhook.
    pub(crate) gauge: Arc<LaneGauge>,
    /// The first offset that it misses.
    pub(crate) from: i64,
    /// The offset after the last that it may miss.
    pub(crate) to: i64,
    /// How many offsets it misses.
    pub(crate) missed: u64,
}

#[derive(Debug)]
pub(super) struct Pass {
    pub(super) number: u64,
    pub(super) start: i64,
    /// The offset that is read next.
    pub(super) position: i64,
    /// Webhooks that take part and had room at the last look, without those that left since.
    roomy: usize,
    /// Records read.
    read: usize,
}

/// The webhooks that are behind in one partition.
#[derive(Debug, Default)]
pub struct PartitionBacklog {
    /// The offset that the main reader reads next.
    pub(super) position: i64,
    /// Boxed: the map's nodes are half empty.
    pub(super) behind: BTreeMap<u64, Box<Behind>>,
    pub(super) pass: Option<Pass>,
    passes: u64,
    /// Records that the main reader gave lately, and when, ms since 1970: a delivery that is still open later gets a place.
    pub(super) given: VecDeque<(i64, Weak<Event>)>,
    /// Those of them that have more time, because they wait for many deliveries.
    pub(super) given_to_many: Vec<(i64, Weak<Event>)>,
    /// Runs of offsets beyond the beginning that the group had settled before.
    pub(super) settled_before: Arc<[Range<i64>]>,
    /// Where the main reader began: the group had settled everything below.
    pub(super) start: i64,
    /// What webhooks miss because the log has lost it, until it is counted.
    pub(super) lost: Vec<Cut>,
    /// The main reader has noticed that the log was created again.
    pub(super) is_another_log: bool,
}

impl PartitionBacklog {
    /// The backlog of a partition that the main reader begins to read at `position`. Beyond it the group had settled `settled_before`.
    pub(crate) fn new(position: i64, settled_before: Vec<Range<i64>>) -> Self {
        Self { position, start: position, settled_before: settled_before.into(), ..Self::default() }
    }

    /// Takes over a place that was found in Kafka.
    pub(crate) fn restore(&mut self, gauge: &Arc<LaneGauge>, place: &Place, cause: Cause) {
        let behind =
            Behind::restored(gauge, place, Committed { start: self.start, settled: &self.settled_before }, cause);
        self.behind.insert(gauge.id(), Box::new(behind));
    }

    /// Whether no webhook is behind and there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty()
    }

    /// The offset that the main reader reads next.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    /// How many webhooks are behind, or have deliveries that a place covers.
    pub(crate) fn len(&self) -> usize {
        self.behind.len()
    }

    /// All webhooks that are behind, or have deliveries that a place covers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Behind> {
        self.behind.values().map(|behind| &**behind)
    }

    /// Whether the main reader skips that offset for the webhook whose gauge has that id, because the catch-up reader gives it later.
    pub(crate) fn is_given_later(&self, webhook: u64, offset: i64) -> bool {
        self.behind.get(&webhook).is_some_and(|behind| !behind.is_given_by_main(offset))
    }

    /// The main reader offers a record to a webhook that it matched.
    pub(crate) fn offer_main(&mut self, gauge: &Arc<LaneGauge>, record: Offered, look: Look) -> MainOffer {
        let behind = self.behind.get_mut(&gauge.id());
        if behind.as_ref().is_some_and(|behind| !behind.is_given_by_main(record.offset)) {
            return MainOffer::Behind;
        }
        if let Some(admitted) = gauge.try_admit_event(record.bytes, look.pressure) {
            return MainOffer::Give(admitted);
        }
        let times = Times { event_ms: record.timestamp_ms, now_ms: look.now_ms };
        if let Some(behind) = behind {
            behind.fall_again(record.offset, times);
        } else {
            let behind = Behind::new(gauge, record.offset, times).after(&self.settled_before);
            self.behind.insert(gauge.id(), Box::new(behind));
        }
        MainOffer::FallsBehind
    }

    /// Keeps a record of the main reader unsettled until the place of a webhook that fell behind there is in Kafka.
    pub(crate) fn pin(&mut self, gauge: &Arc<LaneGauge>, event: Arc<Event>) {
        match self.behind.get_mut(&gauge.id()) {
            Some(behind) => behind.pin(event),
            None => event.release(gauge),
        }
    }

    /// The main reader has come to a record. This comes before any webhook is offered it.
    pub(crate) fn main_comes_to(&mut self, offset: i64) {
        if offset + 1 < self.position {
            // Another log under the same name: no place is of it.
            self.lose(0);
            self.is_another_log = true;
            self.behind.clear();
            self.given.clear();
            self.given_to_many.clear();
            self.pass = None;
            self.settled_before = Arc::default();
            self.position = offset;
        }
    }

    /// The main reader has finished a record, or has skipped it.
    pub(crate) fn main_passed(&mut self, offset: i64) {
        self.main_comes_to(offset);
        self.position = offset + 1;
    }

    /// What the catch-up reader does next. Looks at all webhooks that are behind, so it is called once for each batch.
    pub(crate) fn plan(&mut self, look: Look) -> Plan {
        if let Some(pass) = &self.pass
            && pass.position >= self.position
        {
            self.end_pass();
        }
        let Some(pass) = &mut self.pass else { return self.begin_pass(look) };
        let (number, start, position) = (pass.number, pass.start, pass.position);
        let mut roomy = 0;
        // The first offset that a webhook with room needs: of those that the pass serves, and of the others.
        let (mut ahead, mut behind_it) = (i64::MAX, i64::MAX);
        for behind in self.behind.values_mut().filter(|behind| behind.is_served) {
            behind.look(look.now_ms);
            let takes_part = behind.takes_part(number, start);
            behind.is_counted = has_room(behind, look);
            if behind.is_counted && takes_part {
                roomy += 1;
                ahead = ahead.min(behind.need().max(position));
            } else if behind.is_counted {
                behind_it = behind_it.min(behind.need());
                behind.is_counted = false;
            }
        }
        pass.roomy = roomy;
        let yields = behind_it != i64::MAX && (roomy == 0 || pass.read >= QUANTUM);
        let jumps = roomy > 0 && ahead.saturating_sub(position) > JUMP;
        if yields || jumps {
            self.end_pass();
            return self.begin_pass(look);
        }
        if roomy == 0 { Plan::Rest } else { Plan::Read }
    }

    fn begin_pass(&mut self, look: Look) -> Plan {
        let mut start = i64::MAX;
        for behind in self.behind.values_mut().filter(|behind| behind.is_served) {
            behind.look(look.now_ms);
            if has_room(behind, look) {
                start = start.min(behind.need());
            }
        }
        if start >= self.position {
            // A webhook whose place was released may need nothing that is there.
            for behind in self.behind.values_mut() {
                behind.level_at(self.position);
            }
            return Plan::Rest;
        }
        self.passes += 1;
        let number = self.passes;
        let mut roomy = 0;
        for behind in self.behind.values_mut() {
            behind.is_counted = behind.takes_part(number, start) && has_room(behind, look);
            roomy += usize::from(behind.is_counted);
        }
        self.pass = Some(Pass { number, start, position: start, roomy, read: 0 });
        Plan::Seek(start)
    }

    pub(super) fn end_pass(&mut self) {
        let Some(pass) = self.pass.take() else { return };
        let position = pass.position.min(self.position);
        for behind in self.behind.values_mut() {
            behind.pass_ended(pass.number, pass.start, position);
            behind.level_at(self.position);
        }
    }

    /// Whether the pass reads the record at that offset: it has not read it yet, and the main reader has.
    pub(crate) fn is_next(&self, offset: i64) -> bool {
        self.pass.as_ref().is_some_and(|pass| offset >= pass.position && offset < self.position)
    }

    /// Whether the pass ends with [`PartitionBacklog::caught_up`] at that offset: the main reader has read no further.
    pub(crate) fn is_level_at(&self, offset: i64) -> bool {
        self.pass.is_some() && offset >= self.position
    }

    /// The catch-up reader offers a record to a webhook that it matched.
    pub(crate) fn offer_catch_up(
        &mut self,
        gauge: &Arc<LaneGauge>,
        record: Offered,
        dropped: Option<DropReason>,
        look: Look,
    ) -> CatchUpOffer {
        let (Some(behind), Some(pass)) = (self.behind.get_mut(&gauge.id()), &mut self.pass) else {
            return CatchUpOffer::Skip;
        };
        if !behind.takes_part(pass.number, pass.start) || !behind.wants(record.offset) {
            return CatchUpOffer::Skip;
        }
        if let Some(reason) = dropped {
            behind.pass_over(record.offset);
            return CatchUpOffer::Drop(reason);
        }
        if behind.has_waited_too_long(record.timestamp_ms, look.wait_max_ms, look.now_ms) {
            behind.give(record.offset, record.timestamp_ms);
            return CatchUpOffer::Expire;
        }
        if let Some(admitted) = gauge.try_admit_event(record.bytes, look.pressure) {
            behind.give(record.offset, record.timestamp_ms);
            return CatchUpOffer::Give(admitted);
        }
        behind.oldest_ms = record.timestamp_ms;
        if std::mem::take(&mut behind.is_counted) {
            pass.roomy -= 1;
        }
        if pass.roomy == 0 {
            return CatchUpOffer::Stall;
        }
        behind.leave(pass.number, pass.start, record.offset);
        CatchUpOffer::Skip
    }

    /// The catch-up reader has finished a record.
    pub(crate) fn catch_up_passed(&mut self, offset: i64) {
        if let Some(pass) = &mut self.pass {
            pass.position = offset + 1;
            pass.read += 1;
        }
    }

    /// There are no records from the pass's position up to `offset`.
    pub(crate) fn nothing_below(&mut self, offset: i64) {
        if let Some(pass) = &mut self.pass {
            pass.position = pass.position.max(offset.min(self.position));
        }
        if self.pass.as_ref().is_some_and(|pass| pass.position >= self.position) {
            self.end_pass();
        }
    }

    /// Whether a pass is under way.
    pub(crate) fn is_reading(&self) -> bool {
        self.pass.is_some()
    }

    /// The offset that the pass reads next.
    pub(crate) fn pass_position(&self) -> Option<i64> {
        self.pass.as_ref().map(|pass| pass.position)
    }

    /// The pass could not go on: the next one begins from the start.
    pub(crate) fn abandon_pass(&mut self) {
        self.end_pass();
    }

    /// The catch-up reader has come to where the main reader is.
    pub(crate) fn caught_up(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.position = self.position;
        }
        self.end_pass();
    }

    /// A delivery that a place covers is settled.
    pub(crate) fn settled(&mut self, gauge: &LaneGauge, offset: i64) {
        if let Some(behind) = self.behind.get_mut(&gauge.id()) {
            behind.settled(offset);
            behind.settle_safe_pins();
        }
    }

    /// A lane returned a delivery: `pinned` when the main reader gave it.
    pub(crate) fn returned(&mut self, gauge: &Arc<LaneGauge>, event: &Arc<Event>, pinned: bool, now_ms: i64) {
        let (offset, times) = (event.origin.offset, Times { event_ms: event.timestamp_ms, now_ms });
        let position = self.position;
        let new = || Behind::new(gauge, position, times).after(&self.settled_before);
        let behind = self.behind.entry(gauge.id()).or_insert_with(|| Box::new(new()));
        if behind.is_served {
            behind.leave_main(position);
        } else {
            behind.fall_again(position, times);
        }
        if let Some(pass) = &mut self.pass
            && offset < pass.position
        {
            if std::mem::take(&mut behind.is_counted) {
                pass.roomy = pass.roomy.saturating_sub(1);
            }
            behind.leave(pass.number, pass.start, pass.position);
        }
        behind.returned(offset, event.timestamp_ms);
        if pinned {
            behind.pin(Arc::clone(event));
        }
    }

    /// Looks again at whether webhooks still get anything. Returns those that are gone. A place that is held stays until it is released.
    pub(crate) fn judge(&mut self, standing: impl Fn(&LaneGauge) -> Standing) -> Vec<Arc<LaneGauge>> {
        let mut gone = Vec::new();
        for behind in self.behind.values_mut().filter(|behind| behind.may_be_abandoned()) {
            behind.standing = standing(&behind.gauge);
            if behind.standing == Standing::Gone {
                behind.abandon();
                gone.push(Arc::clone(&behind.gauge));
            }
        }
        gone
    }

    /// The records for the backlog topic that are due now. Forgets each webhook that has got everything.
    pub(crate) fn writes_due(&mut self, now_ms: i64) -> Vec<PlaceWrite> {
        self.behind.retain(|_, behind| !behind.is_over());
        if self.behind.is_empty() {
            // The catch-up reader stops. The next pass has to begin it again.
            self.pass = None;
        }
        // A partition writes no more than a thousand places a second, however many webhooks are behind in it.
        let count = i64::try_from(self.behind.len()).unwrap_or(i64::MAX);
        let write_every_ms = count.max(WRITE_EVERY_MS);
        let due = |behind: &mut Box<Behind>| {
            let place = behind.write_due(now_ms, write_every_ms)?;
            let (gauge, reason, since_ms) = (Arc::clone(&behind.gauge), behind.reason, behind.since_ms);
            Some(PlaceWrite { gauge, place, reason, since_ms })
        };
        self.behind.values_mut().filter_map(due).collect()
    }

    /// A write ended.
    pub(crate) fn written(&mut self, webhook: u64, is_acknowledged: bool) {
        if let Some(behind) = self.behind.get_mut(&webhook) {
            behind.written(is_acknowledged);
        }
    }

    /// Lets each place that differs from what Kafka has be written at once.
    pub(crate) fn write_soon(&mut self) {
        self.behind.values_mut().for_each(|behind| behind.write_soon());
    }

    /// Whether Kafka has every place as it is here.
    pub(crate) fn is_stored(&self) -> bool {
        self.behind.values().all(|behind| behind.is_stored())
    }
}

fn has_room(behind: &Behind, look: Look) -> bool {
    !behind.is_held_elsewhere() && has_room_in_lane(behind, look)
}

fn has_room_in_lane(behind: &Behind, look: Look) -> bool {
    behind.standing == Standing::Dropped
        || behind.gauge.has_room(look.pressure)
        || behind.has_waited_too_long(behind.oldest_ms, look.wait_max_ms, look.now_ms)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::inflight::job::Origin;
    use crate::inflight::lane_gauge::LaneGauges;
    use crate::inflight::partition::Assignment;

    #[test]
    fn a_restored_webhook_is_level_only_beyond_what_the_last_owner_had_settled() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(10, std::iter::once(12..20).collect());
        backlog.restore(&gauge, &Place::from(10), Cause { reason: BehindReason::LaneFull, since_ms: 0 });
        backlog.main_passed(10);
        assert_eq!(backlog.plan(look), Plan::Seek(10));
        backlog.caught_up();
        assert!(backlog.is_given_later(gauge.id(), 12), "the main reader passes over 12, which only the place covers");
        backlog.main_passed(19);
        assert_eq!(backlog.plan(look), Plan::Seek(11));
        backlog.caught_up();
        assert!(!backlog.is_given_later(gauge.id(), 20));
    }
    /// What a pass offers `gauge` of the offsets from where it begins up to the main reader's position, and it takes.
    fn given(backlog: &mut PartitionBacklog, gauge: &Arc<LaneGauge>, look: Look) -> Vec<i64> {
        let (Plan::Seek(_), mut given) = (backlog.plan(look), Vec::new()) else { return Vec::new() };
        while let Some(offset) = backlog.pass_position().filter(|offset| backlog.is_next(*offset)) {
            let record = Offered { offset, timestamp_ms: 0, bytes: 1 };
            if let CatchUpOffer::Give(_) = backlog.offer_catch_up(gauge, record, None, look) {
                given.push(offset);
            }
            backlog.catch_up_passed(offset);
        }
        backlog.caught_up();
        given
    }

    #[test]
    fn a_webhook_that_falls_behind_is_not_given_again_what_the_last_owner_had_settled() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(10, vec![12..15, 20..22]);
        for fall_at in [11, 17] {
            (backlog.position()..fall_at).for_each(|offset| backlog.main_passed(offset));
            gauge.block();
            let record = Offered { offset: fall_at, timestamp_ms: 0, bytes: 1 };
            assert!(matches!(backlog.offer_main(&gauge, record, look), MainOffer::FallsBehind));
            backlog.main_passed(fall_at);
            gauge.unblock();
            (fall_at + 1..fall_at + 6).for_each(|offset| backlog.main_passed(offset));
            let expected = if fall_at == 11 { vec![11, 15, 16] } else { vec![17, 18, 19, 22] };
            assert_eq!(given(&mut backlog, &gauge, look), expected);
            assert!(!backlog.is_given_later(gauge.id(), backlog.position()), "it is level");
        }
    }

    #[test]
    fn what_did_not_match_when_a_pass_read_it_is_not_given_after_a_later_event() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(20, Vec::new());
        backlog.restore(
            &gauge,
            &Place::new([3, 7, 9].into_iter(), Some(20)),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        assert_eq!(backlog.plan(look), Plan::Seek(3));
        // Offset 3 is offered to no webhook: the webhook is disabled just then.
        (3..7).for_each(|offset| backlog.catch_up_passed(offset));
        let record = |offset| Offered { offset, timestamp_ms: 0, bytes: 1 };
        assert!(matches!(backlog.offer_catch_up(&gauge, record(7), None, look), CatchUpOffer::Give(_)));
        backlog.catch_up_passed(7);
        gauge.block();
        assert!(matches!(backlog.offer_catch_up(&gauge, record(9), None, look), CatchUpOffer::Stall));
        gauge.unblock();
        backlog.abandon_pass();
        assert_eq!(backlog.plan(look), Plan::Seek(9), "3 comes before what was given");
    }

    #[test]
    fn a_record_is_not_kept_unsettled_for_a_webhook_that_it_does_not_match_any_more() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let (assignment, mut backlog) = (Assignment::new("events".into(), 0), PartitionBacklog::default());
        gauge.block();
        let record = Offered { offset: 0, timestamp_ms: 0, bytes: 1 };
        assert!(matches!(backlog.offer_main(&gauge, record, look), MainOffer::FallsBehind));
        let ticket = Some((&assignment, assignment.admit(0)));
        let origin = Origin { topic: "events".into(), partition: 0, offset: 0 };
        let event = Event::new(Bytes::new(), origin, 0, ticket, pressure.hold(0));
        event.open_for(std::iter::empty(), std::iter::once(&gauge));
        backlog.pin(&gauge, Arc::new(event));
        backlog.main_passed(0);
        gauge.unblock();
        assert_eq!((backlog.plan(look), assignment.committable()), (Plan::Seek(0), None));
        // It is offered to no webhook: the filter has changed by now.
        backlog.catch_up_passed(0);
        backlog.caught_up();
        assert_eq!(assignment.committable(), Some(1));
    }

    #[test]
    fn a_held_place_stays_until_it_is_released_also_of_a_webhook_that_is_gone() {
        let gauges = LaneGauges::default();
        let gauge = gauges.of("ws/i", "w");
        let mut backlog = PartitionBacklog::new(20, Vec::new());
        let mut held = Place::new([3].into_iter(), Some(10));
        held.is_held = true;
        backlog.restore(&gauge, &held, Cause { reason: BehindReason::LaneFull, since_ms: 0 });
        assert!(backlog.judge(|_| Standing::Gone).is_empty());
        assert_eq!((backlog.writes_due(1_000).len(), backlog.held_elsewhere().count()), (0, 1));
        backlog.released(&gauge, &Place::from(10));
        assert_eq!(backlog.judge(|_| Standing::Gone).len(), 1);
        assert!(backlog.writes_due(2_000).iter().all(|write| write.place.is_none()), "it is removed now");
    }

    #[test]
    fn a_pass_ends_when_the_last_webhook_that_is_behind_is_gone() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(20, Vec::new());
        backlog.restore(
            &gauges.of("ws/i", "removed"),
            &Place::from(3),
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        );
        assert_eq!(backlog.plan(look), Plan::Seek(3));
        backlog.catch_up_passed(3);
        assert_eq!(backlog.judge(|_| Standing::Gone).len(), 1);
        for write in backlog.writes_due(1_000) {
            backlog.written(write.gauge.id(), true);
        }
        assert!(backlog.writes_due(2_000).is_empty() && backlog.is_empty());
        let another = gauges.of("ws/i", "another");
        another.block();
        let record = Offered { offset: 20, timestamp_ms: 0, bytes: 1 };
        assert!(matches!(backlog.offer_main(&another, record, look), MainOffer::FallsBehind));
        backlog.main_passed(20);
        another.unblock();
        assert_eq!(backlog.plan(look), Plan::Seek(20), "the catch-up reader is begun again");
    }

    #[test]
    fn a_webhook_whose_late_place_was_removed_is_not_given_again_what_the_last_owner_had_settled() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 20));
        let gauge = gauges.of("ws/i", "w");
        let look = Look { pressure, wait_max_ms: i64::MAX, now_ms: 0 };
        let mut backlog = PartitionBacklog::new(10, std::iter::once(12..15).collect());
        assert!(backlog.remove_late(&gauge, &Place::from(5), 0));
        gauge.block();
        let record = Offered { offset: 10, timestamp_ms: 0, bytes: 1 };
        assert!(matches!(backlog.offer_main(&gauge, record, look), MainOffer::FallsBehind));
        (10..17).for_each(|offset| backlog.main_passed(offset));
        gauge.unblock();
        assert_eq!(given(&mut backlog, &gauge, look), [10, 11, 15, 16]);
    }
}
