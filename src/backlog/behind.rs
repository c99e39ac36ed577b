//! One webhook that is behind in one partition: which offsets it is still to be given, which it was given, and the place to write.
//!
//! Pure: offsets and times come in, decisions come out. `partition` decides which offset is read next.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::beginning::{Cause, Committed, Times};
use super::place::{Place, SettledBefore, Stored};
use crate::domain::outcome::BehindReason;
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::LaneGauge;

/// The shortest time between two writes of one place, in ms: what settles within it is repeated after a crash.
pub(crate) const WRITE_EVERY_MS: i64 = 100;
/// A place that does not move is written again after this, in ms. Compaction leaves the last hour alone, so it never keeps only the
/// late write of a former owner.
pub(crate) const WRITE_AGAIN_MS: i64 = 10 * 60 * 1_000;
/// A webhook counts as slow again, and not as blocked any more, after so many deliveries were given while no circuit was open. More than
/// the failures that open a circuit plus the requests under way.
const GIVEN_TO_RECOVER: u32 = 64;

/// Why the lane of a webhook takes nothing more.
fn reason_of(gauge: &LaneGauge) -> BehindReason {
    if gauge.is_blocked() { BehindReason::CircuitOpen } else { BehindReason::LaneFull }
}

/// Whether the webhook still gets what it is behind with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does.
    Delivered,
    /// Its integration is suspended or not active: what waits is dropped, counted.
    Dropped,
    /// It is removed or disabled.
    Gone,
}

/// Which process has requests to the webhook under way that its place covers. Until they end no other process gives it anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// No process has.
    None,
    /// This process has, which gives the partition up.
    Here,
    /// The former owner of the partition has.
    Elsewhere,
}

/// A webhook that is behind in a partition, or that was and has deliveries under way which commits do not cover.
#[derive(Debug)]
pub(crate) struct Behind {
    /// The webhook.
    pub(crate) gauge: Arc<LaneGauge>,
    /// Whether it is behind: the main reader skips it, and the catch-up reader reads the records for it a second time.
    pub(crate) is_served: bool,
    /// Why it is behind.
    pub(crate) reason: BehindReason,
    /// Since when it is behind for that reason, ms since 1970.
    pub(crate) since_ms: i64,
    /// The timestamp of the first event that it still has to get, as far as known, ms since 1970.
    pub(crate) oldest_ms: i64,
    /// Whether it still gets anything.
    pub(crate) standing: Standing,
    /// While it is behind, the main reader gives it what comes before this and skips the rest.
    from: i64,
    /// It still has to get everything from here on.
    pub(super) next: i64,
    /// Below `next`: given once, returned by the lane, to be given again.
    pub(super) todo: BTreeSet<i64>,
    /// Given, not settled, and covered by the place instead of by commits.
    open: BTreeSet<i64>,
    /// The pass that it left, or did not take part in.
    left: u64,
    /// Records of the main reader that stay unsettled until Kafka has the webhook's place.
    pins: Vec<(i64, Arc<Event>)>,
    stored: Stored,
    /// The first offset that the main reader skipped for it while no place in Kafka covered what follows.
    uncovered: Option<i64>,
    /// Whether the write under way began before `uncovered` was set.
    is_writing_older: bool,
    pub(super) settled_before: Option<SettledBefore>,
    hold: Hold,
    given: u32,
    /// Whether the last look at all webhooks counted it as one with room.
    pub(super) is_counted: bool,
}

impl Behind {
    /// A webhook that falls behind at `next`.
    pub(super) fn new(gauge: &Arc<LaneGauge>, next: i64, times: Times) -> Self {
        Self {
            gauge: Arc::clone(gauge),
            is_served: true,
            reason: reason_of(gauge),
            since_ms: times.now_ms,
            oldest_ms: times.event_ms,
            standing: Standing::Delivered,
            from: next,
            next,
            todo: BTreeSet::new(),
            open: BTreeSet::new(),
            left: 0,
            pins: Vec::new(),
            stored: Stored::default(),
            uncovered: Some(next),
            is_writing_older: false,
            settled_before: None,
            hold: Hold::None,
            given: 0,
            is_counted: false,
        }
    }

    /// A webhook whose place was found in Kafka. It is behind from the start: the catch-up reader gives it what is not settled for it.
    pub(super) fn restored(gauge: &Arc<LaneGauge>, place: &Place, committed: Committed<'_>, cause: Cause) -> Self {
        let (Committed { start, settled }, Cause { reason, since_ms }) = (committed, cause);
        let up_to = place.next().unwrap_or(i64::MAX);
        let mut restored = Self::new(gauge, start.min(up_to), Times { event_ms: since_ms, now_ms: since_ms });
        restored.from = start.min(place.first().unwrap_or(start));
        // The webhook gets what lies beyond the start anyway, unless a run says that it was settled.
        let is_named = |offset: &&i64| **offset < start || settled.iter().any(|run| run.contains(*offset));
        restored.todo = place.todo().iter().filter(is_named).copied().collect();
        restored.reason = reason;
        restored.settled_before = Some(SettledBefore { settled: Arc::clone(settled), up_to });
        if place.is_held && up_to <= start {
            restored.hold = Hold::Elsewhere;
            restored.stored.acknowledged = place.clone();
            restored.uncovered = None;
        } else {
            // Also a held one that begins beyond the start. Its owner's last commit was never made: it ended before it handed the
            // partition over and does not release the place, or that commit failed. Were the release waited for, this owner could commit
            // nothing meanwhile. A request that the former owner still makes after a failed commit may be made here too.
            // A late write of the former owner may replace or remove it. So nothing that is skipped from the start on counts as covered
            // until Kafka has a place of this owner.
            restored.stored.doubtful = Some(place.clone());
            restored.uncovered = Some(start);
        }
        restored
    }

    /// As it is, where the group had settled these runs before. Kafka had no place of the webhook then, so they were settled for it.
    pub(super) fn after(self, settled: &Arc<[Range<i64>]>) -> Self {
        Self { settled_before: Some(SettledBefore { settled: Arc::clone(settled), up_to: i64::MAX }), ..self }
    }

    /// A webhook that is not behind, with deliveries that a place has to cover.
    pub(super) fn level(gauge: &Arc<LaneGauge>, position: i64, times: Times) -> Self {
        Self { is_served: false, uncovered: None, ..Self::new(gauge, position, times) }
    }

    /// A webhook that is not behind and has a place in Kafka that a former owner wrote late. This owner removes it. Everything in it is
    /// settled for the webhook.
    pub(super) fn removed_late(gauge: &Arc<LaneGauge>, place: &Place, position: i64, times: Times) -> Self {
        let mut removed_late = Self::level(gauge, position, times);
        // Kafka may not have it any more.
        removed_late.stored.doubtful = Some(place.clone());
        removed_late
    }

    /// Lets the place cover a delivery of the main reader that takes long, so that its record does not wait for it.
    pub(super) fn cover(&mut self, event: Arc<Event>) {
        self.forget_what_is_settled();
        self.open.insert(event.origin.offset);
        self.pin(event);
    }

    /// What was skipped for it before bounds no commit any more, if all of that is settled.
    fn forget_what_is_settled(&mut self) {
        if !self.is_served && self.open.is_empty() {
            self.uncovered = None;
        }
    }

    /// Holds the place if deliveries are open when the partition is given up at `position`: the next owner gives it nothing until they
    /// have ended. Also of one that is gone: it may come back before they end.
    pub(super) fn hold(&mut self, position: i64, times: Times) {
        // A pass that has not ended may have passed some of them.
        self.settle_safe_pins();
        if self.open.is_empty() || self.hold != Hold::None {
            return;
        }
        if !self.is_served {
            self.fall_again(position, times);
        }
        self.leave_main(position);
        self.hold = Hold::Here;
    }

    /// Releases the place if everything that was given has ended, or if the time for that `is_over`.
    pub(super) fn release(&mut self, is_over: bool) {
        if self.hold == Hold::Here && (is_over || self.open.is_empty()) {
            self.hold = Hold::None;
        }
    }

    /// Whether the former owner of the partition has requests under way.
    pub(super) fn is_held_elsewhere(&self) -> bool {
        self.hold == Hold::Elsewhere
    }

    /// Whether a delivery that was given is still open.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether the partition is given up, and requests are under way here.
    pub(super) fn is_held_here(&self) -> bool {
        self.hold == Hold::Here
    }

    /// Its place is not held any more, and this is the place now, in a partition of which the group had settled everything below `start`.
    /// Most often its holder left it. But a hold that was written late may be replaced or removed by an owner between its holder and this
    /// one. What either place does not have is settled, and a place that does not say what follows leaves that to the group's commits.
    pub(super) fn released(&mut self, place: &Place, start: i64) {
        if self.hold == Hold::Elsewhere {
            self.hold = Hold::None;
            let left = self.place().meet(place);
            self.next = left.next().map_or(start, |next| next.min(start)).max(self.next);
            self.todo = left.todo().range(..self.next).copied().collect();
            self.stored.acknowledged = place.clone();
            // It is written again by this owner, since a late write of the former one may replace it.
            self.stored.doubtful = Some(place.clone());
            self.skipped_from(start);
        }
    }

    /// It falls behind again at `next`.
    pub(super) fn fall_again(&mut self, next: i64, times: Times) {
        self.forget_what_is_settled();
        self.is_served = true;
        self.standing = Standing::Delivered;
        self.from = next;
        self.next = next;
        self.skipped_from(next);
        self.since_ms = times.now_ms;
        self.oldest_ms = times.event_ms;
        self.reason = reason_of(&self.gauge);
    }

    /// Whether the main reader gives it that offset.
    pub(super) fn is_given_by_main(&self, offset: i64) -> bool {
        !self.is_served || offset < self.from
    }

    /// From `position` on, where the main reader is, the main reader gives it nothing any more.
    pub(super) fn leave_main(&mut self, position: i64) {
        if position < self.from {
            self.from = position;
            self.next = self.next.min(position);
        }
    }

    /// The first offset that it still has to get.
    pub(super) fn need(&self) -> i64 {
        self.todo.first().map_or(self.next, |first| self.next.min(*first))
    }

    /// What is not settled and not covered by commits of the main reader.
    pub(crate) fn place(&self) -> Place {
        let todo = self.todo.iter().chain(&self.open).copied();
        let next = self.is_served.then_some(self.next);
        let all: BTreeSet<i64>;
        let mut place = if self.todo.is_empty() || self.open.is_empty() {
            Place::new(todo, next)
        } else {
            all = todo.collect();
            Place::new(all.into_iter(), next)
        };
        place.is_held = self.hold == Hold::Here;
        place
    }

    /// Whether that offset is not settled and not covered by commits of the main reader.
    fn needs(&self, offset: i64) -> bool {
        self.open.contains(&offset) || (self.is_served && (offset >= self.next || self.todo.contains(&offset)))
    }

    /// Whether a pass of that number which began at `start` serves it.
    pub(super) fn takes_part(&self, pass: u64, start: i64) -> bool {
        self.is_served && self.left != pass && self.need() >= start && self.hold == Hold::None
    }

    /// Whether it still has to get that offset.
    pub(super) fn wants(&self, offset: i64) -> bool {
        self.todo.contains(&offset) || (offset >= self.next && !self.was_settled(offset))
    }

    /// Whether the group had settled that offset for it before the partition came here.
    fn was_settled(&self, offset: i64) -> bool {
        self.settled_before.as_ref().is_some_and(|before| before.names(offset))
    }

    /// It leaves a pass that has come to `position`. If it took part, it was offered everything before that.
    pub(super) fn leave(&mut self, pass: u64, start: i64, position: i64) {
        self.pass_ended(pass, start, position);
        self.left = pass;
    }

    /// A pass ends at `position`. If it took part, nothing below that is left to be given to it.
    pub(super) fn pass_ended(&mut self, pass: u64, start: i64, position: i64) {
        if self.takes_part(pass, start) {
            self.passed(position);
            self.settle_safe_pins();
        }
    }

    /// It was given that offset.
    pub(super) fn give(&mut self, offset: i64, timestamp_ms: i64) {
        self.passed(offset + 1);
        self.open.insert(offset);
        self.oldest_ms = timestamp_ms;
        self.given = if self.gauge.is_blocked() { 0 } else { self.given.saturating_add(1) };
    }

    /// The pass in which it takes part has come to that offset, which is not to be given to it any more.
    pub(super) fn pass_over(&mut self, offset: i64) {
        self.passed(offset + 1);
        self.settle_safe_pins();
    }

    /// It was offered everything below `position` that matches it. What did not match when it was read is not given later, after what
    /// comes behind it.
    fn passed(&mut self, position: i64) {
        self.next = self.next.max(position);
        if self.todo.first().is_some_and(|first| *first < position) {
            self.todo = self.todo.split_off(&position);
        }
    }

    /// A delivery that its place covers is settled.
    pub(super) fn settled(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// The lane returned that offset.
    pub(super) fn returned(&mut self, offset: i64, timestamp_ms: i64) {
        self.open.remove(&offset);
        if offset < self.next {
            self.todo.insert(offset);
        }
        if self.need() == offset {
            self.oldest_ms = timestamp_ms;
        }
    }

    /// It is not behind any more if it has been given everything that the main reader has read. Returns whether that is so: then the main
    /// reader gives it what follows.
    pub(super) fn level_at(&mut self, position: i64) -> bool {
        // The main reader passes over what the group had settled, also over what only the webhook's place covers.
        let passes_over = |before: &SettledBefore| before.reaches_beyond(position);
        let is_level = self.is_served
            && !self.settled_before.as_ref().is_some_and(passes_over)
            && self.hold == Hold::None
            && self.todo.is_empty()
            && self.next >= position
            && position >= self.from;
        if is_level {
            self.is_served = false;
        }
        is_level
    }

    /// Whether its place is removed here when it gets nothing any more. A held place stays until it is released: owners commit what they
    /// skip because that place covers it, also one that comes after this one and for which the webhook is back.
    pub(super) fn may_be_abandoned(&self) -> bool {
        self.is_served && self.hold == Hold::None
    }

    /// It gets nothing any more.
    pub(super) fn abandon(&mut self) {
        self.standing = Standing::Gone;
        self.is_served = false;
        self.todo.clear();
        for (_, event) in self.pins.drain(..) {
            event.release(&self.gauge);
        }
    }

    /// Brings the reason why it is behind up to date with its gauge.
    pub(super) fn look(&mut self, now_ms: i64) {
        match (self.gauge.is_blocked(), self.reason) {
            (true, BehindReason::LaneFull) => {
                (self.reason, self.since_ms, self.given) = (BehindReason::CircuitOpen, now_ms, 0);
            }
            (false, BehindReason::CircuitOpen) if self.given >= GIVEN_TO_RECOVER => {
                (self.reason, self.since_ms) = (BehindReason::LaneFull, now_ms);
            }
            _ => {}
        }
    }

    /// Whether an event of that time has waited behind an open circuit for longer than `wait_max_ms`.
    pub(super) fn has_waited_too_long(&self, timestamp_ms: i64, wait_max_ms: i64, now_ms: i64) -> bool {
        self.gauge.is_blocked()
            && self.reason == BehindReason::CircuitOpen
            && now_ms.saturating_sub(timestamp_ms.max(self.since_ms)) > wait_max_ms
    }

    /// The main reader skips what follows `from`.
    fn skipped_from(&mut self, from: i64) {
        if self.uncovered.is_some() || !self.stored.covers_what_follows() {
            self.uncovered = Some(self.uncovered.map_or(from, |before| before.min(from)));
            self.is_writing_older = self.stored.writing.is_some();
        }
    }

    /// From which offset on nothing may be committed, because no place in Kafka covers what the main reader skipped.
    pub(super) fn uncovered_from(&self) -> Option<i64> {
        self.uncovered.filter(|_| self.is_served || !self.open.is_empty())
    }

    /// Keeps `event` unsettled until Kafka has a place that covers it.
    pub(super) fn pin(&mut self, event: Arc<Event>) {
        self.pins.push((event.origin.offset, event));
        self.settle_safe_pins();
    }

    /// Releases the records that do not wait for this webhook any more: Kafka has a place that covers them, or the webhook does not need
    /// them.
    pub(super) fn settle_safe_pins(&mut self) {
        if self.pins.is_empty() {
            return;
        }
        let mut pins = std::mem::take(&mut self.pins);
        pins.retain(|(offset, event)| {
            let is_unsafe = self.needs(*offset) && !self.stored.covers(*offset);
            if !is_unsafe {
                event.release(&self.gauge);
            }
            is_unsafe
        });
        self.pins = pins;
    }

    /// What this worker has to write now; the empty place for a tombstone.
    pub(super) fn write_due(&mut self, now_ms: i64, write_every_ms: i64) -> Option<Place> {
        // A clock that was set back counts as time that has passed.
        let age = self.stored.at_ms.map(|at| now_ms.saturating_sub(at)).filter(|age| *age >= 0).unwrap_or(i64::MAX);
        if age < write_every_ms || self.stored.writing.is_some() || self.hold == Hold::Elsewhere {
            return None;
        }
        let place = self.place();
        let is_stale = !place.is_none() && age >= WRITE_AGAIN_MS;
        if place == self.stored.acknowledged && self.stored.doubtful.is_none() && !is_stale {
            self.uncovered = None;
            return None;
        }
        self.stored.writing = Some(place.clone());
        self.stored.at_ms = Some(now_ms);
        Some(place)
    }

    /// The write under way ended.
    pub(super) fn written(&mut self, is_acknowledged: bool) {
        let Some(place) = self.stored.writing.take() else { return };
        let is_older = std::mem::take(&mut self.is_writing_older);
        if is_acknowledged {
            self.stored.acknowledged = place;
            self.stored.doubtful = None;
            if !is_older || self.stored.has(|| self.place()) {
                self.uncovered = None;
            }
        } else {
            self.stored.doubtful =
                Some(self.stored.doubtful.as_ref().map_or(place.clone(), |before| before.meet(&place)));
        }
        self.settle_safe_pins();
    }

    /// Lets the next write come at once, if Kafka does not have the place as it is and no write is under way.
    pub(super) fn write_soon(&mut self) {
        if self.stored.has(|| self.place()) {
            self.uncovered = None;
        } else if self.hold != Hold::Elsewhere && self.stored.writing.is_none() {
            self.stored.at_ms = None;
        }
    }

    /// Whether Kafka has the place as it is here.
    pub(super) fn is_stored(&self) -> bool {
        self.hold == Hold::Elsewhere || self.stored.has(|| self.place())
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        !self.is_served && self.open.is_empty() && self.pins.is_empty() && self.is_stored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::lane_gauge::LaneGauges;

    const TIMES: Times = Times { event_ms: 0, now_ms: 1_000 };

    fn gauge() -> Arc<LaneGauge> {
        LaneGauges::default().of("ws/i", "w")
    }

    fn restored(place: &Place, start: i64) -> Behind {
        Behind::restored(
            &gauge(),
            place,
            Committed { start, settled: &Arc::from([]) },
            Cause { reason: BehindReason::LaneFull, since_ms: 0 },
        )
    }

    #[test]
    fn a_place_that_was_taken_over_is_written_by_its_new_owner_before_anything_skipped_is_committed() {
        let mut behind = restored(&Place::from(50), 60);
        assert_eq!(behind.uncovered_from(), Some(60));
        assert_eq!(behind.write_due(1_000, WRITE_EVERY_MS), Some(Place::from(50)));
        behind.written(true);
        assert_eq!((behind.uncovered_from(), behind.write_due(2_000, WRITE_EVERY_MS)), (None, None));
    }

    #[test]
    fn a_place_that_is_released_is_written_by_its_new_owner() {
        let held = |offset| {
            let mut place = Place::from(offset);
            place.is_held = true;
            place
        };
        let mut behind = restored(&held(50), 60);
        assert_eq!(
            (behind.uncovered_from(), behind.write_due(1_000, WRITE_EVERY_MS)),
            (None, None),
            "it is the former owner's"
        );
        behind.released(&Place::from(55), 60);
        assert_eq!(behind.uncovered_from(), None, "the place covers it");
        assert!(behind.write_due(2_000, WRITE_EVERY_MS).is_some());
        let mut behind = restored(&held(50), 60);
        behind.released(&Place::default(), 60);
        assert_eq!(
            behind.uncovered_from(),
            Some(60),
            "nothing covers what follows, and what comes before is committed"
        );
    }

    #[test]
    fn what_replaces_a_hold_that_was_written_late_loses_nothing_and_gives_nothing_again() {
        let after = |place: &Place| {
            let mut held = Place::new([3, 5, 8].into_iter(), Some(10));
            held.is_held = true;
            let mut behind = restored(&held, 20);
            behind.released(place, 20);
            (behind.todo.iter().copied().collect::<Vec<_>>(), behind.next)
        };
        assert_eq!(after(&Place::new([3, 8].into_iter(), Some(10))), (vec![3, 8], 10), "by its holder");
        assert_eq!(after(&Place::new([2, 5].into_iter(), Some(7))), (vec![5, 8], 10), "an earlier place");
        assert_eq!(after(&Place::new([5, 12].into_iter(), Some(15))), (vec![5, 12], 15), "a later place");
        assert_eq!(after(&Place::new([5, 12, 25].into_iter(), Some(30))), (vec![5, 12], 20), "all from the start on");
        assert_eq!(after(&Place::new([5, 12, 25].into_iter(), None)), (vec![5, 12], 20), "of a webhook that is level");
        assert_eq!(after(&Place::default()), (vec![], 20), "it was removed");
    }

    #[test]
    fn a_place_of_an_owner_that_never_handed_over_is_not_waited_for() {
        let mut place = Place::new([52, 55].into_iter(), Some(80));
        place.is_held = true;
        let mut behind = restored(&place, 60);
        assert!(!behind.is_held_elsewhere(), "it was to be released after a commit of 80, which is not there");
        assert_eq!((behind.uncovered_from(), behind.need()), (Some(60), 52));
        assert!(behind.write_due(1_000, WRITE_EVERY_MS).is_some_and(|written| !written.is_held));
        behind.written(true);
        assert_eq!(behind.uncovered_from(), None, "commits go on");
        assert!(restored(&place, 80).is_held_elsewhere());
    }

    #[test]
    fn a_webhook_that_is_gone_is_held_while_requests_are_under_way() {
        let mut behind = Behind::new(&gauge(), 100, TIMES);
        behind.give(100, 0);
        behind.abandon();
        behind.hold(150, TIMES);
        let held = behind.place();
        assert!(held.is_held && held.covers(100) && !held.covers(149) && held.covers(150));
        behind.settled(100);
        behind.release(false);
        assert!(!behind.place().is_held);
    }

    #[test]
    fn a_place_that_is_to_be_removed_covers_nothing() {
        let mut behind = Behind::removed_late(&gauge(), &Place::from(50), 90, TIMES);
        assert_eq!(behind.uncovered_from(), None);
        behind.fall_again(90, TIMES);
        assert_eq!(behind.uncovered_from(), Some(90));
    }

    #[test]
    fn one_that_falls_behind_again_bounds_commits_where_it_falls() {
        let mut behind = Behind::new(&gauge(), 100, TIMES);
        behind.give(100, 0);
        behind.settled(100);
        assert!(behind.level_at(101));
        behind.fall_again(200, TIMES);
        assert_eq!(behind.uncovered_from(), Some(200));
    }

    #[test]
    fn a_write_that_began_before_a_webhook_fell_behind_covers_what_it_skips_if_its_place_is_still_the_same() {
        let mut behind = restored(&Place::from(50), 50);
        assert_eq!(behind.write_due(1_000, WRITE_EVERY_MS), Some(Place::from(50)));
        assert!(behind.level_at(50));
        behind.fall_again(50, TIMES);
        behind.written(true);
        assert_eq!((behind.uncovered_from(), behind.write_due(2_000, WRITE_EVERY_MS)), (None, None));
    }

    #[test]
    fn a_place_that_kafka_already_holds_bounds_no_commit() {
        let as_in_kafka = || {
            let mut behind = restored(&Place::new([48].into_iter(), Some(50)), 50);
            assert!(behind.write_due(1_000, WRITE_EVERY_MS).is_some());
            behind.give(48, 0);
            assert!(behind.level_at(50));
            behind.fall_again(50, TIMES);
            assert!(behind.level_at(50));
            behind.written(true);
            behind.fall_again(50, TIMES);
            behind
        };
        let mut behind = as_in_kafka();
        assert_eq!((behind.write_due(2_000, WRITE_EVERY_MS), behind.uncovered_from()), (None, None));
        let mut behind = as_in_kafka();
        behind.write_soon();
        assert_eq!(behind.uncovered_from(), None, "it is also known when the partition is given up at once");
    }

    #[test]
    fn offsets_of_a_log_that_is_gone_are_not_waited_for() {
        let mut behind = restored(&Place::new([900].into_iter(), Some(1_000)), 0);
        behind.pass_over(9);
        assert!(behind.level_at(10));
    }

    #[test]
    fn a_clock_that_is_set_back_delays_no_write() {
        let mut behind = Behind::new(&gauge(), 100, TIMES);
        assert!(behind.write_due(5_000, WRITE_EVERY_MS).is_some());
        behind.written(false);
        assert!(behind.write_due(1_000, WRITE_EVERY_MS).is_some());
    }

    impl Behind {
        /// How many records wait until its place is acknowledged.
        pub(in crate::backlog) fn pinned(&self) -> usize {
            self.pins.len()
        }

        /// What it is to be given again, was given, and from where on it is to be given everything.
        pub(in crate::backlog) fn state(&self) -> (&BTreeSet<i64>, &BTreeSet<i64>, i64) {
            (&self.todo, &self.open, self.next)
        }
    }
}
