//! Whether the process lives and is ready: written by the parts that know, read by the probes of the admin server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A loop counts as standing still when it makes no round for this long plus the time that it may wait for partitions it gives up.
const STILL_AFTER: Duration = Duration::from_mins(1);

/// The state that `/livez` and `/readyz` answer.
#[derive(Debug)]
pub(crate) struct Readiness {
    ready: AtomicBool,
    events: Heartbeat,
    retries: Heartbeat,
    schedules: Heartbeat,
    drain_timeout: Duration,
    /// Heartbeats count from here: no change of the wall clock moves them.
    began: Instant,
}

/// When a loop made its last round: 1 + milliseconds after `Readiness::began`; 0 before its first round and after its end.
#[derive(Debug, Default)]
struct Heartbeat(AtomicU64);

/// The loops that have to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollLoop {
    Events,
    Retries,
    Schedules,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

impl Readiness {
    /// The state of a process whose loops wait for at most `drain_timeout` when they give up partitions.
    pub(crate) fn new(drain_timeout: Duration) -> Self {
        Self {
            ready: AtomicBool::default(),
            events: Heartbeat::default(),
            retries: Heartbeat::default(),
            schedules: Heartbeat::default(),
            drain_timeout,
            began: Instant::now(),
        }
    }

    /// Sets whether the process is ready.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether the process is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A loop made a round.
    pub(crate) fn beat(&self, of: PollLoop) {
        self.heartbeat(of).0.store(1 + self.since_began(Instant::now()), Ordering::Relaxed);
    }

    /// A loop ended because it was asked to.
    pub(crate) fn ended(&self, of: PollLoop) {
        self.heartbeat(of).0.store(0, Ordering::Relaxed);
    }

    /// The loop that stands still at `now`, if there is one.
    pub(super) fn stalled_loop(&self, now: Instant) -> Option<&'static str> {
        let (now, limit) = (self.since_began(now), as_ms(STILL_AFTER + self.drain_timeout));
        let still = |beat: &Heartbeat| match beat.0.load(Ordering::Relaxed) {
            0 => false,
            last => now.saturating_sub(last - 1) > limit,
        };
        let beats = [("events", &self.events), ("retries", &self.retries), ("schedules", &self.schedules)];
        beats.into_iter().find(|(_, beat)| still(beat)).map(|(name, _)| name)
    }

    fn since_began(&self, now: Instant) -> u64 {
        as_ms(now.saturating_duration_since(self.began))
    }

    fn heartbeat(&self, of: PollLoop) -> &Heartbeat {
        match of {
            PollLoop::Events => &self.events,
            PollLoop::Retries => &self.retries,
            PollLoop::Schedules => &self.schedules,
        }
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_named_and_one_that_ended_is_not() {
        let readiness = Readiness::default();
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(readiness.stalled_loop(after(1_000_000)), None);
        readiness.beat(PollLoop::Retries);
        assert_eq!(readiness.stalled_loop(now), None);
        assert_eq!(readiness.stalled_loop(after(62)), Some("retries"));
        readiness.ended(PollLoop::Retries);
        assert_eq!(readiness.stalled_loop(after(62)), None);
        let patient = Readiness::new(Duration::from_mins(1));
        patient.beat(PollLoop::Retries);
        assert_eq!(patient.stalled_loop(after(119)), None, "it may be draining");
        assert_eq!(patient.stalled_loop(after(122)), Some("retries"));
    }
}
