//! What is counted of an integration's attempts: by time for the error rate, and since the last acknowledgement.
//!
//! Attempts come in whole seconds, from several workers, in any order: adding is commutative, so that the result does not
//! depend on who counted what and when it arrived. Time is coarse where that saves memory: the window is kept in thirty
//! parts, and an attempt that failed in the very second of an acknowledgement does not count as one after it.

use crate::domain::outcome::Reason;
use crate::settings;

/// Parts of the window that are told apart.
const WINDOW_PARTS: u32 = 30;
/// Failing seconds since the last acknowledgement that are told apart; older ones are added up.
const RECENT_MAX: usize = 32;
/// Reasons of attempts.
const REASONS: usize = 10;

/// Failed attempts by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures([u32; REASONS]);

impl Failures {
    /// Adds failed attempts. Slots without a request are none and are left out.
    pub fn add(&mut self, reason: Reason, count: u32) {
        if let Some(counted) = self.0.get_mut(reason as usize) {
            *counted = counted.saturating_add(count);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// The reasons there are, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u32)> {
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
pub struct Slot {
    /// The second, since 1970.
    pub second: u32,
    /// Acknowledged attempts.
    pub acknowledged: u32,
    /// Failed ones.
    pub failures: Failures,
    /// When the first of them failed, ms since 1970.
    pub first_failure_ms: Option<i64>,
    /// When the last was acknowledged, ms since 1970. It may stand without a count: then it is known and not counted.
    pub last_acknowledged_ms: Option<i64>,
    /// The last answer: when it came, ms since 1970, and its HTTP status.
    pub last_answer: Option<(i64, u16)>,
}

impl Slot {
    /// Adds what another knows of the same second.
    pub fn merge(&mut self, other: &Self) {
        self.acknowledged = self.acknowledged.saturating_add(other.acknowledged);
        self.failures.merge(&other.failures);
        self.first_failure_ms = earlier(self.first_failure_ms, other.first_failure_ms);
        self.last_acknowledged_ms = self.last_acknowledged_ms.max(other.last_acknowledged_ms);
        self.last_answer = self.last_answer.max(other.last_answer);
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
    /// Over how many seconds failed attempts are compared with all.
    pub errors_window_s: u32,
    /// Attempts within it below which nothing is concluded.
    pub errors_min_attempts: u32,
    /// The failure that began it must be so old, ms.
    pub suspend_after_ms: i64,
    /// And at least so many must have failed since.
    pub suspend_after_failures: u32,
}

impl Rules {
    /// As the options say.
    pub fn new(suspension: &settings::Suspension) -> Self {
        Self {
            errors_window_s: u32::try_from(suspension.errors_window.as_secs()).unwrap_or(u32::MAX).max(1),
            errors_min_attempts: suspension.errors_min_attempts,
            suspend_after_ms: i64::try_from(suspension.suspend_after.as_millis()).unwrap_or(i64::MAX),
            suspend_after_failures: suspension.suspend_after_failures.max(1),
        }
    }

    /// How long a part of the window is.
    pub fn part_s(&self) -> u32 {
        self.errors_window_s.div_ceil(WINDOW_PARTS).max(1)
    }
}

/// One failing second since the last acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The second, since 1970.
    pub second: u32,
    /// When the first attempt failed in it, ms since 1970.
    pub first_ms: i64,
    /// What failed.
    pub failures: Failures,
}

/// What failed since the last acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// All but the newest seconds, added up; `second` is the last of them.
    pub older: Option<Failing>,
    /// The newest seconds, in order.
    pub recent: Vec<Failing>,
}

impl Streak {
    fn add(&mut self, failing: Failing) {
        if let Some(older) = self.older.as_mut().filter(|older| failing.second <= older.second) {
            older.first_ms = older.first_ms.min(failing.first_ms);
            older.failures.merge(&failing.failures);
            return;
        }
        match self.recent.binary_search_by_key(&failing.second, |recent| recent.second) {
            Ok(index) => {
                if let Some(recent) = self.recent.get_mut(index) {
                    recent.first_ms = recent.first_ms.min(failing.first_ms);
                    recent.failures.merge(&failing.failures);
                }
            }
            Err(index) => self.recent.insert(index, failing),
        }
        if self.recent.len() > RECENT_MAX {
            self.fold();
        }
    }

    fn fold(&mut self) {
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

    /// An acknowledgement in `second` ends what failed up to it. One that comes so late that its second is among the
    /// older ones ends all of those: in doubt for the integration.
    fn end(&mut self, second: u32) {
        self.recent.retain(|failing| failing.second > second);
        if self.older.is_some_and(|older| older.first_ms.div_euclid(1000) <= i64::from(second)) {
            self.older = None;
        }
    }

    /// When it began, ms since 1970, if anything failed.
    pub fn first_ms(&self) -> Option<i64> {
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
    /// Attempts up to this second do not count: the counts began anew after it.
    pub begun_after: Option<u32>,
}

impl Counts {
    /// Adds the attempts of a second. A second that has not come yet, by a fast clock, counts as `now_s`.
    pub fn add(&mut self, slot: &Slot, rules: &Rules, now_s: u32) {
        let second = slot.second.min(now_s);
        self.last_answer = self.last_answer.max(slot.last_answer);
        if let Some(acknowledged_ms) = slot.last_acknowledged_ms {
            let acknowledged_ms = acknowledged_ms.min(i64::from(now_s) * 1000 + 999);
            self.last_acknowledged_ms = self.last_acknowledged_ms.max(Some(acknowledged_ms));
            self.streak.end(second_of(acknowledged_ms));
        }
        if self.begun_after.is_some_and(|begun_after| second <= begun_after) {
            return;
        }
        let part = second / rules.part_s() * rules.part_s();
        if slot.acknowledged > 0 {
            let counted = place(&mut self.acknowledged, part);
            *counted = counted.saturating_add(slot.acknowledged);
        }
        if slot.failures.is_empty() {
            return;
        }
        place(&mut self.failed, part).merge(&slot.failures);
        if self.last_acknowledged_ms.is_none_or(|last| second > second_of(last)) {
            let first_ms = slot.first_failure_ms.unwrap_or(i64::from(second) * 1000);
            self.streak.add(Failing { second, first_ms, failures: slot.failures });
        }
    }

    /// Forgets what has left the window.
    pub fn prune(&mut self, rules: &Rules, now_s: u32) {
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
    pub fn has_errors(&self, rules: &Rules) -> bool {
        let failed = self.window_failures().total();
        let acknowledged: u64 = self.acknowledged.iter().map(|(_, count)| u64::from(*count)).sum();
        let attempts = failed + acknowledged;
        failed > 0 && attempts >= u64::from(rules.errors_min_attempts) && failed * 2 >= attempts
    }

    /// Whether enough attempts failed for long enough without one that was acknowledged.
    pub fn is_dead(&self, rules: &Rules, now_ms: i64) -> bool {
        let old_enough =
            self.streak.first_ms().is_some_and(|first_ms| now_ms.saturating_sub(first_ms) >= rules.suspend_after_ms);
        old_enough && self.streak.failures().total() >= u64::from(rules.suspend_after_failures)
    }

    /// Whether time alone can change what follows from it.
    pub fn is_watched(&self) -> bool {
        !self.failed.is_empty() || self.streak.first_ms().is_some()
    }

    /// Begins anew with the second after `now_s`. What was last seen is still known.
    #[must_use]
    pub fn begun_anew(&self, now_s: u32) -> Self {
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

/// The entry of `part`, made if there is none.
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
