//! One webhook that is behind in one partition: what it is still to be given, what it was given, and the place to keep.
//!
//! Pure: offsets and times come in, decisions come out. Which offset is read next is `partition`'s.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::outcome::BehindReason;
use crate::inflight::job::Event;
use crate::inflight::lane_gauge::LaneGauge;

/// The shortest time between two writes of one place, in ms: what settles within it is repeated after a crash.
pub(crate) const WRITE_EVERY_MS: i64 = 100;
/// A place that does not move is written again after this, in ms: so often that compaction, which leaves the last hour
/// alone, never has only the late write of a former owner.
pub(crate) const WRITE_AGAIN_MS: i64 = 10 * 60 * 1_000;
/// So many deliveries were given while no circuit was open: the webhook counts as merely slow again. More than the failures
/// that open a circuit and the requests under way beside them.
const GIVEN_TO_RECOVER: u32 = 64;

/// Why a lane takes no more.
fn reason_of(gauge: &LaneGauge) -> BehindReason {
    if gauge.is_blocked() { BehindReason::CircuitOpen } else { BehindReason::LaneFull }
}

/// Whether the webhook still gets what it is behind with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Yes.
    Delivered,
    /// Its integration is suspended or not active: what waits is dropped, counted.
    Dropped,
    /// It is removed or disabled.
    Gone,
}

/// What is written of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its place.
    Place(i64),
    /// That it has none.
    Tombstone,
}

impl Word {
    fn of(place: Option<i64>) -> Self {
        place.map_or(Self::Tombstone, Self::Place)
    }

    /// The place, if it is one.
    pub(super) fn place(self) -> Option<i64> {
        match self {
            Self::Place(place) => Some(place),
            Self::Tombstone => None,
        }
    }
}

/// What Kafka has of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stored {
    /// What was last acknowledged; none is a tombstone, or nothing at all.
    acknowledged: Option<i64>,
    /// What is on its way.
    writing: Option<Word>,
    /// A write failed, so Kafka may have this; a tombstone is the highest offset.
    doubtful: Option<i64>,
    /// When the last write began, ms since 1970.
    at_ms: Option<i64>,
}

/// A webhook that is behind in a partition, or was and has deliveries under way that no commit stands for.
#[derive(Debug)]
pub(crate) struct Behind {
    /// The webhook.
    pub(crate) gauge: Arc<LaneGauge>,
    /// Whether the catch-up reader serves it and the main reader skips it.
    pub(crate) is_served: bool,
    /// Why, and since when, ms since 1970.
    pub(crate) reason: BehindReason,
    /// See `reason`.
    pub(crate) since_ms: i64,
    /// The timestamp of the first event that it is to be given, as far as known, ms since 1970.
    pub(crate) oldest_ms: i64,
    /// Whether it still gets anything.
    pub(crate) standing: Standing,
    /// While it is behind, the main reader gives it what comes before this and skips the rest.
    from: i64,
    /// Everything from here on is to be given.
    next: i64,
    /// Below `next`: given once, returned by the lane, to be given again.
    todo: BTreeSet<i64>,
    /// Given by the catch-up reader and not settled.
    open: BTreeSet<i64>,
    /// The pass that it left, or did not take part in.
    left: u64,
    /// Records that the main reader read, which are settled for this webhook when Kafka has its place.
    pins: Vec<(i64, Arc<Event>)>,
    stored: Stored,
    given: u32,
    /// It was counted as one with room at the last look at all.
    pub(super) is_counted: bool,
}

impl Behind {
    /// One that falls behind at `next`.
    pub(super) fn new(gauge: &Arc<LaneGauge>, next: i64, (timestamp_ms, now_ms): (i64, i64)) -> Self {
        Self {
            gauge: Arc::clone(gauge),
            is_served: true,
            reason: reason_of(gauge),
            since_ms: now_ms,
            oldest_ms: timestamp_ms,
            standing: Standing::Delivered,
            from: next,
            next,
            todo: BTreeSet::new(),
            open: BTreeSet::new(),
            left: 0,
            pins: Vec::new(),
            stored: Stored::default(),
            given: 0,
            is_counted: false,
        }
    }

    /// One whose place was found in Kafka. What the group's commits say is settled from there on is not settled for it.
    pub(super) fn restored(gauge: &Arc<LaneGauge>, place: i64, (reason, since_ms): (BehindReason, i64)) -> Self {
        let mut restored = Self::new(gauge, place, (since_ms, since_ms));
        restored.reason = reason;
        restored.stored.acknowledged = Some(place);
        restored
    }

    /// It falls behind again, at `next`, before the last time was over, or at an earlier offset than was known.
    pub(super) fn fall_again(&mut self, next: i64, (timestamp_ms, now_ms): (i64, i64)) {
        self.is_served = true;
        self.standing = Standing::Delivered;
        self.from = next;
        self.next = next;
        self.since_ms = now_ms;
        self.oldest_ms = timestamp_ms;
        self.reason = reason_of(&self.gauge);
    }

    /// Whether the main reader gives it that offset.
    pub(super) fn is_given_by_main(&self, offset: i64) -> bool {
        !self.is_served || offset < self.from
    }

    /// The main reader, which is at `position`, gives it nothing any more.
    pub(super) fn leave_main(&mut self, position: i64) {
        if position < self.from {
            self.from = position;
            self.next = self.next.min(position);
        }
    }

    /// The first offset that it is to be given.
    pub(super) fn need(&self) -> i64 {
        self.todo.first().map_or(self.next, |first| self.next.min(*first))
    }

    /// The first offset that is not settled, as far as commits of the main reader do not stand for it.
    pub(crate) fn place(&self) -> Option<i64> {
        let need = self.is_served.then(|| self.need());
        need.into_iter().chain(self.open.first().copied()).min()
    }

    /// Whether a pass of that number which began at `start` serves it.
    pub(super) fn takes_part(&self, pass: u64, start: i64) -> bool {
        self.is_served && self.left != pass && self.need() >= start
    }

    /// Whether it is to be given that offset.
    pub(super) fn wants(&self, offset: i64) -> bool {
        offset >= self.next || self.todo.contains(&offset)
    }

    /// It leaves a pass that has come to `position`. All before it was offered, if it took part.
    pub(super) fn leave(&mut self, pass: u64, start: i64, position: i64) {
        if self.takes_part(pass, start) {
            self.next = self.next.max(position);
        }
        self.left = pass;
    }

    /// A pass ends at `position`: nothing below it is left to be given to those who took part, also where a record that was
    /// returned does not match any more.
    pub(super) fn pass_ended(&mut self, pass: u64, start: i64, position: i64) {
        if self.takes_part(pass, start) {
            self.next = self.next.max(position);
            self.todo = self.todo.split_off(&position);
        }
    }

    /// It was given that offset.
    pub(super) fn give(&mut self, offset: i64, timestamp_ms: i64) {
        self.pass_over(offset);
        self.open.insert(offset);
        self.oldest_ms = timestamp_ms;
        self.given = if self.gauge.is_blocked() { 0 } else { self.given.saturating_add(1) };
    }

    /// That offset is not to be given to it any more.
    pub(super) fn pass_over(&mut self, offset: i64) {
        self.todo.remove(&offset);
        self.next = self.next.max(offset + 1);
    }

    /// A delivery that the catch-up reader gave is settled.
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

    /// It has been given all that the main reader has read: the main reader gives it what follows.
    pub(super) fn level_at(&mut self, position: i64) -> bool {
        let is_level = self.is_served && self.todo.is_empty() && self.next >= position && position >= self.from;
        if is_level {
            self.is_served = false;
        }
        is_level
    }

    /// The log has nothing below `low` any more.
    pub(super) fn cut(&mut self, low: i64) {
        self.todo = self.todo.split_off(&low);
        self.next = self.next.max(low);
    }

    /// It is to get nothing any more.
    pub(super) fn abandon(&mut self) {
        self.standing = Standing::Gone;
        self.is_served = false;
        self.todo.clear();
        self.settle_pins(|_, _| true);
    }

    /// Compares why it is behind with what its gauge says now.
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

    /// Keeps `event` unsettled until Kafka has a place at or below it.
    pub(super) fn pin(&mut self, event: Arc<Event>) {
        event.pin();
        self.pins.push((event.origin.offset, event));
        self.settle_safe_pins();
    }

    /// Settles what Kafka has a place for, and what this webhook has behind it.
    pub(super) fn settle_safe_pins(&mut self) {
        let place = self.place();
        self.settle_pins(|stored, offset| stored.covers(offset) || place.is_none_or(|place| offset < place));
    }

    fn settle_pins(&mut self, is_safe: impl Fn(Stored, i64) -> bool) {
        let stored = self.stored;
        self.pins.retain(|(offset, event)| {
            let is_safe = is_safe(stored, *offset);
            if is_safe {
                event.unpin();
                event.settle(Some(&self.gauge));
            }
            !is_safe
        });
    }

    /// What is to be written now: a place, or none for a tombstone.
    pub(super) fn write_due(&mut self, now_ms: i64, write_every_ms: i64) -> Option<Word> {
        let place = self.place();
        let age = self.stored.at_ms.map_or(i64::MAX, |at| now_ms.saturating_sub(at));
        let is_stale = place.is_some() && age >= WRITE_AGAIN_MS;
        let is_due = (place != self.stored.acknowledged || self.stored.doubtful.is_some() || is_stale)
            && age >= write_every_ms
            && self.stored.writing.is_none();
        if !is_due {
            return None;
        }
        self.stored.writing = Some(Word::of(place));
        self.stored.at_ms = Some(now_ms);
        self.stored.writing
    }

    /// The write under way ended.
    pub(super) fn written(&mut self, is_acknowledged: bool) {
        let Some(place) = self.stored.writing.take().map(Word::place) else { return };
        if is_acknowledged {
            self.stored.acknowledged = place;
            self.stored.doubtful = None;
        } else {
            let place = place.unwrap_or(i64::MAX);
            self.stored.doubtful = Some(self.stored.doubtful.map_or(place, |before| before.max(place)));
        }
        self.settle_safe_pins();
    }

    /// Lets the next write come at once, if Kafka does not have the place as it is.
    pub(super) fn hurry(&mut self) {
        if !self.is_stored() {
            self.stored.at_ms = None;
        }
    }

    /// Whether Kafka has what is to be kept.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.writing.is_none() && self.stored.doubtful.is_none() && self.stored.acknowledged == self.place()
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        !self.is_served && self.open.is_empty() && self.pins.is_empty() && self.is_stored()
    }

    /// How many records wait for its place to be acknowledged.
    #[cfg(test)]
    pub(super) fn pinned(&self) -> usize {
        self.pins.len()
    }

    /// What it is to be given again, was given, and from where on it is to be given everything.
    #[cfg(test)]
    pub(super) fn state(&self) -> (&BTreeSet<i64>, &BTreeSet<i64>, i64) {
        (&self.todo, &self.open, self.next)
    }
}

impl Stored {
    /// Whether Kafka has a place at or below `offset`, and nothing on its way may replace it by a later one.
    fn covers(self, offset: i64) -> bool {
        let covers = |place: i64| place <= offset;
        self.acknowledged.is_some_and(covers)
            && self.doubtful.is_none_or(covers)
            && self.writing.is_none_or(|word| word.place().is_some_and(covers))
    }
}
