//! Whether a member of a group may still act on what it holds: a worker that was cut off or stood still does not know
//! that another has taken over.
//!
//! It may act while it has heard from the coordinator lately and its own loop runs. After one of them failed it waits until it would have
//! noticed a takeover.

use std::time::Duration;

use tokio::time::Instant;

/// The coordinator counts from when it heard from the member, and the member from when it heard from the coordinator. This covers the
/// time on the network between them.
const MARGIN: Duration = Duration::from_secs(1);
/// After a loop stood still for this long, anything may have happened meanwhile.
const STANDSTILL: Duration = Duration::from_secs(1);
/// After a silence: more than a heartbeat takes to learn that this process is not a member any more.
const HOLD_BACK: Duration = Duration::from_secs(2);

/// The lease of one member.
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

    /// Sets when the coordinator last answered. `None`: never.
    pub(crate) fn heard(&mut self, at: Option<Instant>) {
        self.heard = at;
    }

    /// Whether the member may act now. It asks in each round of its loop.
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

    /// Lets `seconds` pass with a loop of ten rounds a second. Returns whether the member may act at the end.
    async fn pass(lease: &mut Lease, seconds: u64, hears: bool) -> bool {
        let mut may = false;
        for _ in 0..seconds * 10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            if hears {
                lease.heard(Some(Instant::now()));
            }
            may = lease.is_valid(Instant::now());
        }
        may
    }

    #[tokio::test(start_paused = true)]
    async fn no_member_acts_before_the_coordinator_was_heard_of() {
        let mut lease = Lease::new(Duration::from_secs(6));
        assert!(!pass(&mut lease, 60, false).await);
        lease.heard(Some(Instant::now()));
        assert!(lease.is_valid(Instant::now()), "and at once when it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_cut_off_stops_before_its_session_ends() {
        let mut lease = Lease::new(Duration::from_secs(6));
        assert!(pass(&mut lease, 5, true).await);
        assert!(pass(&mut lease, 5, false).await, "a few lost heartbeats are nothing");
        assert!(!pass(&mut lease, 1, false).await);
        assert!(!pass(&mut lease, 60, false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn contact_again_is_believed_only_after_a_while() {
        let mut lease = Lease::new(Duration::from_secs(6));
        pass(&mut lease, 1, true).await;
        pass(&mut lease, 10, false).await;
        assert!(!pass(&mut lease, 1, true).await);
        assert!(pass(&mut lease, 1, true).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stood_still_does_not_act_when_it_wakes() {
        let mut lease = Lease::new(Duration::from_secs(6));
        assert!(pass(&mut lease, 1, true).await);
        tokio::time::advance(Duration::from_secs(2)).await;
        lease.heard(Some(Instant::now()));
        assert!(!lease.is_valid(Instant::now()));
        assert!(pass(&mut lease, 2, true).await);
    }
}
