//! How fast a lane's receiver takes deliveries, and whether more waits than it can take in a few seconds.

use std::time::Duration;

use tokio::time::Instant;

/// A lane is full when what waits would need longer than this: the contract's "few seconds".
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A receiver that ended nothing for this long is slower than its past says.
const STALL_MIN: Duration = Duration::from_secs(2);
/// The mean is of about this time, however many requests that is: a receiver that halts for a moment delays all that is
/// under way, and must not be taken for a slow one.
const MEAN_OVER: Duration = Duration::from_secs(1);
/// Requests in a row that had to connect first before they count: a handshake says little about the requests after it,
/// unless there is one each time.
const CONNECTING_MAX: u32 = 16;
/// A new lane is judged by its mean after as many requests, or after as long: the first one alone may have been unlucky.
const KNOWN_AFTER: (u32, Duration) = (16, Duration::from_secs(1));

/// The pace of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Mean time of a request, in seconds.
    mean: f64,
    /// Requests in it.
    counted: u32,
    began: Instant,
    /// Requests in a row that had to connect first.
    connecting: u32,
    /// When a request last ended, or the lane went from idle to busy.
    progress: Instant,
}

impl Pace {
    /// Of a lane that has done nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { mean: 0.0, counted: 0, began: now, connecting: 0, progress: now }
    }

    /// The lane was idle and starts a request.
    pub fn wakes(&mut self, now: Instant) {
        self.progress = now;
    }

    /// A request ended, on a kept connection or on one made for it.
    pub fn ended(&mut self, took: Duration, connected: bool, now: Instant) {
        let since = now.saturating_duration_since(self.progress).as_secs_f64();
        self.progress = now;
        self.connecting = if connected { self.connecting.saturating_add(1) } else { 0 };
        if (1..=CONNECTING_MAX).contains(&self.connecting) {
            return;
        }
        self.counted = self.counted.saturating_add(1);
        // Of those that end together the first has the weight of the time; and a plain mean at first.
        let weight = (since / (since + MEAN_OVER.as_secs_f64())).max(1.0 / f64::from(self.counted));
        self.mean += weight * (took.as_secs_f64() - self.mean);
    }

    /// Whether `waiting` deliveries are more than the receiver takes in [`WAIT_MAX`]. `in_flight` are under way, and
    /// `abreast` at a time once those that may start have started: of a burst to an idle receiver none are under way yet.
    pub fn is_full(&self, waiting: usize, in_flight: usize, abreast: usize, now: Instant) -> bool {
        if waiting == 0 {
            return false;
        }
        let stall = now.saturating_duration_since(self.progress);
        let stalled = stall >= STALL_MIN && in_flight > 0;
        let known = self.counted >= KNOWN_AFTER.0 || now.saturating_duration_since(self.began) >= KNOWN_AFTER.1;
        let mean = if known { self.mean } else { 0.0 }.max(if stalled { stall.as_secs_f64() } else { 0.0 });
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
        pace.ended(Duration::from_millis(16), false, Instant::now());
        assert!(!pace.is_full(100_000, 16, 16, Instant::now()), "one request is no pace");
        tokio::time::advance(KNOWN_AFTER.1).await;
        // 16 ms and 16 at a time: a thousand a second.
        assert!(!pace.is_full(4_999, 16, 16, Instant::now()));
        assert!(pace.is_full(5_001, 16, 16, Instant::now()));
        assert!(!pace.is_full(4_999, 0, 16, Instant::now()), "an idle receiver will take 16 at a time as well");
        assert!(!pace.is_full(0, 16, 16, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_halts_for_a_moment_is_not_slow_and_one_that_has_become_slow_is() {
        let mut pace = Pace::new(Instant::now());
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(20)).await;
            (0..16).for_each(|_| pace.ended(Duration::from_millis(20), false, Instant::now()));
        }
        let slow = Duration::from_millis(120);
        tokio::time::advance(slow).await;
        (0..16).for_each(|_| pace.ended(slow, false, Instant::now()));
        assert!(!pace.is_full(2_400, 16, 16, Instant::now()), "three seconds of its pace");
        for _ in 0..16 {
            tokio::time::advance(slow).await;
            (0..16).for_each(|_| pace.ended(slow, false, Instant::now()));
        }
        assert!(pace.is_full(2_400, 16, 16, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_count_only_when_there_is_one_each_time() {
        let (connected, slow) = (true, Duration::from_millis(400));
        let mut pace = Pace::new(Instant::now());
        tokio::time::advance(KNOWN_AFTER.1).await;
        for _ in 0..CONNECTING_MAX {
            pace.ended(slow, connected, Instant::now());
        }
        assert!(!pace.is_full(1_000, 16, 16, Instant::now()));
        pace.ended(slow, connected, Instant::now());
        assert!(pace.is_full(1_000, 16, 16, Instant::now()));
        let mut pace = Pace::new(Instant::now());
        for _ in 0..KNOWN_AFTER.0 {
            pace.ended(slow, connected, Instant::now());
            pace.ended(Duration::from_millis(20), !connected, Instant::now());
        }
        assert!(!pace.is_full(3_999, 16, 16, Instant::now()));
        assert!(pace.is_full(4_001, 16, 16, Instant::now()));
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
