//! Whether a group member has its part of the group's work, which is a condition of a ready worker. Which partitions it holds is
//! [`super::membership`]'s.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a member that has joined and was given nothing may still get something: first the others give up what it is to get,
/// and clients join at most once a second. There may be fewer partitions than members.
const GIVEN_NOTHING_AFTER: Duration = Duration::from_secs(5);

/// How far a member has come since it began to join.
#[derive(Debug, Default)]
pub(super) struct Begun {
    joined: OnceLock<Instant>,
    rounds: AtomicU64,
    given: AtomicBool,
    reads: AtomicBool,
}

impl Begun {
    /// The group has given it an assignment, which may be empty.
    pub(super) fn joined(&self) {
        self.joined.get_or_init(Instant::now);
        self.rounds.fetch_add(1, Ordering::AcqRel);
    }

    /// How often the group has given it an assignment.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Sets whether the group has given it partitions.
    pub(super) fn given(&self, some: bool) {
        self.given.store(some, Ordering::Release);
    }

    /// It reads what it was given.
    pub(super) fn reads(&self) {
        self.reads.store(true, Ordering::Release);
    }

    /// Whether it reads what it was given, or was given nothing for long enough. Stays so.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        let long_ago = || self.joined.get().is_some_and(|joined| now >= *joined + GIVEN_NOTHING_AFTER);
        let given_nothing = || !self.given.load(Ordering::Acquire) && long_ago();
        self.reads.load(Ordering::Acquire) || given_nothing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_begun_when_it_reads_or_was_given_nothing_for_some_seconds() {
        let (begun, now) = (Begun::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(!begun.is_done(after(1_000_000)), "it has not joined");
        begun.joined();
        assert!(!begun.is_done(now), "others have not given up yet what it is to get");
        assert!(begun.is_done(after(6)), "there are more members than partitions");
        begun.given(true);
        assert!(!begun.is_done(after(1_000_000)), "what it was given is not read yet");
        begun.reads();
        assert!(begun.is_done(now));
    }
}
