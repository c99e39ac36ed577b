//! Whether a member of a group may still act on what it holds: a worker that was cut off or stood still does not know
//! that another has taken over.
//!
//! It may act while the coordinator was heard of lately and its own loop comes round. After either failed it waits until
//! a takeover would have been noticed.

use std::time::Duration;

use tokio::time::Instant;

/// The coordinator counts from when it heard of the member, the member from when it heard of the coordinator: this is
/// for the way between them.
const MARGIN: Duration = Duration::from_secs(1);
/// A loop that did not come round for this long may have slept through anything.
const STANDSTILL: Duration = Duration::from_secs(1);
/// After a silence: more than a heartbeat takes to learn that this process is not a member any more.
const HOLD_BACK: Duration = Duration::from_secs(2);

/// Of one member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    silence_max: Duration,
    heard: Option<Instant>,
    looked: Option<Instant>,
    held_back_until: Option<Instant>,
}

impl Lease {
    /// A lease of a member whose session ends after `session_timeout` without a heartbeat.
    pub(crate) fn new(session_timeout: Duration) -> Self {
        let silence_max = session_timeout.saturating_sub(MARGIN);
        Self { silence_max, heard: None, looked: None, held_back_until: None }
    }

    /// When the coordinator last answered. `None`: never.
    pub(crate) fn heard(&mut self, at: Option<Instant>) {
        self.heard = at;
    }

    /// Whether the member may act now. Asked each time its loop comes round.
    pub(crate) fn is_valid(&mut self, now: Instant) -> bool {
        let stood_still = self.looked.replace(now).is_some_and(|before| now - before > STANDSTILL);
        let Some(heard) = self.heard else { return false };
        if stood_still || now.saturating_duration_since(heard) > self.silence_max {
            self.held_back_until = Some(now + HOLD_BACK);
        }
        self.held_back_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `seconds` pass with a loop that comes round ten times a second, and returns whether it may act at the end.
    async fn pass(standing: &mut Lease, seconds: u64, hears: bool) -> bool {
        let mut may = false;
        for _ in 0..seconds * 10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            if hears {
                standing.heard(Some(Instant::now()));
            }
            may = standing.is_valid(Instant::now());
        }
        may
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_acts_before_the_coordinator_was_heard_of() {
        let mut standing = Lease::new(Duration::from_secs(6));
        assert!(!pass(&mut standing, 60, false).await);
        standing.heard(Some(Instant::now()));
        assert!(standing.is_valid(Instant::now()), "and at once when it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_cut_off_stops_before_its_session_ends() {
        let mut standing = Lease::new(Duration::from_secs(6));
        assert!(pass(&mut standing, 5, true).await);
        assert!(pass(&mut standing, 5, false).await, "a few lost heartbeats are nothing");
        assert!(!pass(&mut standing, 1, false).await);
        assert!(!pass(&mut standing, 60, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn contact_again_is_believed_only_after_a_while() {
        let mut standing = Lease::new(Duration::from_secs(6));
        pass(&mut standing, 1, true).await;
        pass(&mut standing, 10, false).await;
        assert!(!pass(&mut standing, 1, true).await);
        assert!(pass(&mut standing, 1, true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stood_still_does_not_act_when_it_wakes() {
        let mut standing = Lease::new(Duration::from_secs(6));
        assert!(pass(&mut standing, 1, true).await);
        tokio::time::advance(Duration::from_secs(2)).await;
        standing.heard(Some(Instant::now()));
        assert!(!standing.is_valid(Instant::now()));
        assert!(pass(&mut standing, 2, true).await);
    }
}
