//! How fast a lane's receiver takes deliveries, and whether more waits than it can take in a few seconds.

use std::time::Duration;

use tokio::time::Instant;

/// A lane is full when what waits would need longer than this: the contract's "few seconds".
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A receiver that ended nothing for this long is slower than its past says.
const STALL_MIN: Duration = Duration::from_secs(2);
/// Weight of the newest request in the mean: half of it comes from the last six or so.
const WEIGHT: f64 = 0.1;

/// The pace of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Mean time of a request, in seconds.
    mean: Option<f64>,
    /// When a request last ended, or the lane went from idle to busy.
    progress: Instant,
}

impl Pace {
    /// Of a lane that has done nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { mean: None, progress: now }
    }

    /// The lane was idle and starts a request.
    pub fn wakes(&mut self, now: Instant) {
        self.progress = now;
    }

    /// A request ended.
    pub fn ended(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        self.mean = Some(self.mean.map_or(took, |mean| mean + WEIGHT * (took - mean)));
        self.progress = now;
    }

    /// Whether `waiting` deliveries are more than the receiver takes in [`WAIT_MAX`]. `in_flight` are under way, and
    /// `abreast` at a time once those that may start have started: of a burst to an idle receiver none are under way yet.
    pub fn is_full(&self, waiting: usize, in_flight: usize, abreast: usize, now: Instant) -> bool {
        if waiting == 0 {
            return false;
        }
        let stall = now.saturating_duration_since(self.progress);
        let stalled = stall >= STALL_MIN && in_flight > 0;
        let mean = self.mean.unwrap_or(0.0).max(if stalled { stall.as_secs_f64() } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let wait = mean * waiting as f64 / abreast.max(1) as f64;
        wait > WAIT_MAX.as_secs_f64()
    }

    /// Whether nothing has ended for long although requests are under way.
    pub fn is_stalled(&self, in_flight: usize, now: Instant) -> bool {
        in_flight > 0 && now.saturating_duration_since(self.progress) >= STALL_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_full_when_what_waits_needs_more_than_a_few_seconds() {
        let mut pace = Pace::new(Instant::now());
        assert!(!pace.is_full(100_000, 16, 16, Instant::now()), "nothing is known yet");
        pace.ended(Duration::from_millis(16), Instant::now());
        // 16 ms and 16 at a time: a thousand a second.
        assert!(!pace.is_full(4_999, 16, 16, Instant::now()));
        assert!(pace.is_full(5_001, 16, 16, Instant::now()));
        assert!(!pace.is_full(4_999, 0, 16, Instant::now()), "an idle receiver will take 16 at a time as well");
        assert!(!pace.is_full(0, 16, 16, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_hangs_is_full_before_its_first_time_out() {
        let mut pace = Pace::new(Instant::now());
        pace.wakes(Instant::now());
        tokio::time::advance(STALL_MIN).await;
        assert!(pace.is_stalled(16, Instant::now()));
        assert!(pace.is_full(41, 16, 16, Instant::now()));
        assert!(!pace.is_full(10, 16, 16, Instant::now()));
        assert!(!pace.is_stalled(0, Instant::now()), "an idle lane does not stall");
    }
}
