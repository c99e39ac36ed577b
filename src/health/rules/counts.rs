//! The counts of an integration's attempts: by time for the error rate, and since the last acknowledgement.
//!
//! Attempts come in whole seconds, from several workers, in any order: adding is commutative, so that the result does not
//! depend on when it arrived. Time is coarse where that saves memory. The window is kept in thirty parts. Failures reported
//! in one batch carry only the time of the first: if another worker reported an acknowledgement after that time, the whole
//! batch is ignored.

use crate::domain::outcome::Reason;
use crate::settings;

/// Parts of the window that are counted separately.
const WINDOW_PARTS: u32 = 30;
/// Reports of failures since the last acknowledgement that are kept separately; older ones are added up.
const RECENT_MAX: usize = 32;
/// Reasons of attempts.
const REASONS: usize = 10;

/// Failed attempts by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures([u32; REASONS]);

impl Failures {
    /// Adds failed attempts. Slots without a request are not attempts and are left out.
    pub(crate) fn add(&mut self, reason: Reason, count: u32) {
        if let Some(counted) = self.0.get_mut(reason as usize) {
            *counted = counted.saturating_add(count);
        }
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether nothing is counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// The reasons that were counted, with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Reason, u32)> {
        Reason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl FromIterator<(Reason, u32)> for Failures {
    fn from_iter<I: IntoIterator<Item = (Reason, u32)>>(counted: I) -> Self {
        let mut failures = Self::default();
        counted.into_iter().for_each(|(reason, count)| failures.add(reason, count));
        failures
    }
}

/// The attempts of one second at one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecondCounts {
    /// The second, since 1970.
    pub(crate) second: u32,
    /// Acknowledged attempts.
    pub acknowledged: u32,
    /// Failed ones.
    pub failures: Failures,
    /// Those of them that failed after the last acknowledgement, or all.
    pub(crate) unacknowledged: Failures,
    /// When the first of those failed, ms since 1970.
    pub(crate) first_failure_ms: Option<i64>,
    /// When the last was acknowledged, ms since 1970. It may stand without a count: then it is known and not counted.
    pub(crate) last_acknowledged_ms: Option<i64>,
    /// The last answer: when it came, ms since 1970, and its HTTP status.
    pub(crate) last_answer: Option<(i64, u16)>,
}

impl SecondCounts {
    /// No attempts in that second yet.
    pub fn of(second: u32) -> Self {
        Self { second, ..Self::default() }
    }

    /// Counts an attempt acknowledged at `at_ms`. The caller counts attempts in their order.
    pub fn acknowledge(&mut self, at_ms: i64) {
        self.acknowledged = self.acknowledged.saturating_add(1);
        (self.unacknowledged, self.first_failure_ms) = (Failures::default(), None);
        self.last_acknowledged_ms = self.last_acknowledged_ms.max(Some(at_ms));
        self.last_answer = self.last_answer.max(Some((at_ms, 200)));
    }

    /// Counts an attempt that failed at `at_ms`, with the status of the answer if there was one.
    pub fn fail(&mut self, at_ms: i64, reason: Reason, status: Option<u16>) {
        self.failures.add(reason, 1);
        self.unacknowledged.add(reason, 1);
        self.first_failure_ms.get_or_insert(at_ms);
        // Of two in one millisecond the higher, so that it does not matter which is counted first.
        self.last_answer = self.last_answer.max(status.map(|status| (at_ms, status)));
    }

    /// Adds another's counts of the same second.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.acknowledged = self.acknowledged.saturating_add(other.acknowledged);
        self.failures.merge(&other.failures);
        self.last_acknowledged_ms = self.last_acknowledged_ms.max(other.last_acknowledged_ms);
        self.last_answer = self.last_answer.max(other.last_answer);
        // If failures began before the other's acknowledgement, it is not known how many came after it.
        let last = self.last_acknowledged_ms;
        let mut unacknowledged = Failures::default();
        let mut first_failure_ms = None;
        for (failures, first_ms) in
            [(&self.unacknowledged, self.first_failure_ms), (&other.unacknowledged, other.first_failure_ms)]
        {
            if first_ms >= last {
                unacknowledged.merge(failures);
                first_failure_ms = earlier(first_failure_ms, first_ms);
            }
        }
        (self.unacknowledged, self.first_failure_ms) = (unacknowledged, first_failure_ms);
    }
}

fn earlier(left: Option<i64>, right: Option<i64>) -> Option<i64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// How long and how often an integration has to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The window, in seconds, in which failed attempts are compared with all.
    pub errors_window_s: u32,
    /// With fewer attempts in the window nothing is concluded.
    pub errors_min_attempts: u32,
    /// The age that the first failure must have, ms.
    pub suspend_after_ms: i64,
    /// The number of attempts that must have failed since.
    pub suspend_after_failures: u32,
}

impl Rules {
    /// The rules of the options.
    pub(crate) fn new(suspension: &settings::Suspension) -> Self {
        Self {
            errors_window_s: u32::try_from(suspension.errors_window.as_secs()).unwrap_or(u32::MAX).max(1),
            errors_min_attempts: suspension.errors_min_attempts,
            suspend_after_ms: i64::try_from(suspension.suspend_after.as_millis()).unwrap_or(i64::MAX),
            suspend_after_failures: suspension.suspend_after_failures.max(1),
        }
    }

    /// How long a part of the window is.
    pub(crate) fn part_s(&self) -> u32 {
        self.errors_window_s.div_ceil(WINDOW_PARTS).max(1)
    }
}

/// Failures of one second since the last acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    /// The second, since 1970.
    pub(crate) second: u32,
    /// When the first attempt failed in it, ms since 1970.
    pub(crate) first_ms: i64,
    pub(crate) failures: Failures,
}

/// What failed since the last acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// All but the newest, added up; `second` is the last of theirs.
    pub(crate) older: Option<Failing>,
    /// The newest, in the order in which the first of each failed.
    pub(crate) recent: Vec<Failing>,
}

impl Streak {
    fn add(&mut self, failing: Failing) {
        if let Some(older) = self.older.as_mut().filter(|older| failing.second <= older.second) {
            older.first_ms = older.first_ms.min(failing.first_ms);
            older.failures.merge(&failing.failures);
            return;
        }
        match self.recent.binary_search_by_key(&failing.first_ms, |recent| recent.first_ms) {
            Ok(index) => {
                if let Some(recent) = self.recent.get_mut(index) {
                    recent.failures.merge(&failing.failures);
                }
            }
            Err(index) => self.recent.insert(index, failing),
        }
        if self.recent.len() > RECENT_MAX {
            self.fold();
        }
    }

    /// Makes room: adds up two of one second, or else the oldest.
    fn fold(&mut self) {
        if let Some(index) = self.recent.array_windows().position(|[one, next]| one.second == next.second) {
            let next = self.recent.remove(index + 1);
            if let Some(one) = self.recent.get_mut(index) {
                one.failures.merge(&next.failures);
            }
            return;
        }
        let oldest = self.recent.remove(0);
        match &mut self.older {
            None => self.older = Some(oldest),
            Some(older) => {
                older.second = older.second.max(oldest.second);
                older.first_ms = older.first_ms.min(oldest.first_ms);
                older.failures.merge(&oldest.failures);
            }
        }
    }

    /// An acknowledgement clears failures that began before it. A late one clears all older failures too: in doubt the decision
    /// favours the integration.
    fn end(&mut self, acknowledged_ms: i64) {
        self.recent.retain(|failing| failing.first_ms >= acknowledged_ms);
        self.older = self.older.filter(|older| older.first_ms >= acknowledged_ms);
    }

    /// When it began, ms since 1970, if anything failed.
    pub(crate) fn first_ms(&self) -> Option<i64> {
        self.older.iter().chain(&self.recent).map(|failing| failing.first_ms).min()
    }

    /// What failed.
    pub fn failures(&self) -> Failures {
        let mut all = Failures::default();
        self.older.iter().chain(&self.recent).for_each(|failing| all.merge(&failing.failures));
        all
    }
}

/// All that is counted of one integration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged attempts of the window, by the second that a part begins with, in order.
    pub acknowledged: Vec<(u32, u32)>,
    /// Failed attempts of the window, likewise.
    pub failed: Vec<(u32, Failures)>,
    /// What failed since the last acknowledgement.
    pub streak: Streak,
    /// When an attempt was last acknowledged, ms since 1970.
    pub last_acknowledged_ms: Option<i64>,
    /// The last answer: when it came, ms since 1970, and its HTTP status.
    pub last_answer: Option<(i64, u16)>,
    /// Attempts up to this second do not count: the counts began again after it.
    pub(crate) begun_after: Option<u32>,
}

impl Counts {
    /// Adds the attempts of a second. A time that has not come yet, by a fast clock, counts as the end of `now_s`.
    pub(crate) fn add(&mut self, slot: &SecondCounts, rules: &Rules, now_s: u32) {
        let second = slot.second.min(now_s);
        let latest_ms = i64::from(now_s) * 1000 + 999;
        self.last_answer = self.last_answer.max(slot.last_answer);
        if let Some(acknowledged_ms) = slot.last_acknowledged_ms {
            let acknowledged_ms = acknowledged_ms.min(latest_ms);
            self.last_acknowledged_ms = self.last_acknowledged_ms.max(Some(acknowledged_ms));
            self.streak.end(acknowledged_ms);
        }
        if self.begun_after.is_some_and(|begun_after| second <= begun_after) {
            return;
        }
        let part = second / rules.part_s() * rules.part_s();
        if slot.acknowledged > 0 {
            let counted = place(&mut self.acknowledged, part);
            *counted = counted.saturating_add(slot.acknowledged);
        }
        if !slot.failures.is_empty() {
            place(&mut self.failed, part).merge(&slot.failures);
        }
        let first_ms = slot.first_failure_ms.unwrap_or(i64::from(second) * 1000).min(latest_ms);
        if !slot.unacknowledged.is_empty() && Some(first_ms) >= self.last_acknowledged_ms {
            self.streak.add(Failing { second, first_ms, failures: slot.unacknowledged });
        }
    }

    /// Forgets what has left the window.
    pub(crate) fn prune(&mut self, rules: &Rules, now_s: u32) {
        let begins = |part: u32| u64::from(part) + u64::from(rules.part_s());
        let in_window = |part: u32| begins(part) + u64::from(rules.errors_window_s) > u64::from(now_s);
        self.acknowledged.retain(|(part, _)| in_window(*part));
        self.failed.retain(|(part, _)| in_window(*part));
    }

    /// Failed attempts of the window. Pruned counts only.
    pub fn window_failures(&self) -> Failures {
        let mut all = Failures::default();
        self.failed.iter().for_each(|(_, failures)| all.merge(failures));
        all
    }

    /// Whether at least half of enough attempts in the window failed. Pruned counts only.
    pub(crate) fn has_errors(&self, rules: &Rules) -> bool {
        let failed = self.window_failures().total();
        let acknowledged: u64 = self.acknowledged.iter().map(|(_, count)| u64::from(*count)).sum();
        let attempts = failed + acknowledged;
        failed > 0 && attempts >= u64::from(rules.errors_min_attempts) && failed * 2 >= attempts
    }

    /// Whether enough attempts failed for long enough without one that was acknowledged.
    pub(crate) fn is_dead(&self, rules: &Rules, now_ms: i64) -> bool {
        let old_enough =
            self.streak.first_ms().is_some_and(|first_ms| now_ms.saturating_sub(first_ms) >= rules.suspend_after_ms);
        old_enough && self.streak.failures().total() >= u64::from(rules.suspend_after_failures)
    }

    /// Whether the state that follows from the counts can change by time alone.
    pub(crate) fn is_watched(&self) -> bool {
        !self.failed.is_empty() || self.streak.first_ms().is_some()
    }

    /// Counts that begin again with the second after `now_s`. The last acknowledgement and the last answer stay known.
    #[must_use]
    pub(crate) fn begun_again(&self, now_s: u32) -> Self {
        Self {
            last_acknowledged_ms: self.last_acknowledged_ms,
            last_answer: self.last_answer,
            begun_after: Some(now_s),
            ..Self::default()
        }
    }
}

/// The second of a time in ms since 1970.
pub fn second_of(ms: i64) -> u32 {
    u32::try_from(ms.div_euclid(1000).max(0)).unwrap_or(u32::MAX)
}

/// The entry of `part`; a new one where it is missing.
fn place<T: Default>(parts: &mut Vec<(u32, T)>, part: u32) -> &mut T {
    let index = match parts.binary_search_by_key(&part, |(known, _)| *known) {
        Ok(index) => index,
        Err(index) => {
            parts.insert(index, (part, T::default()));
            index
        }
    };
    &mut parts.get_mut(index).expect("it was found or inserted there").1
}
