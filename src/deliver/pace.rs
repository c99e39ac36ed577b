//! How fast a lane's receiver takes deliveries, and whether more waits than it can take in a few seconds.

use std::time::Duration;

use tokio::time::Instant;

/// A lane is full when what waits would need longer than this: the contract's "few seconds".
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A receiver that ended nothing for this long is slower than its past says.
const STALL_MIN: Duration = Duration::from_secs(2);
/// Weight of the newest request in the mean: half of it comes from the last six or so.
const WEIGHT: f64 = 0.1;
/// Requests in a row that had to connect first before they count: a handshake says little about the requests after it,
/// unless there is one each time.
const CONNECTING_MAX: u32 = 16;
/// How far back the rate looks: a pause of a few hundred ms, ours or the receiver's, is no change of pace.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Less than this of a lane at work says nothing about its rate: connections are opened first.
const OBSERVED_MIN: Duration = Duration::from_secs(1);

/// A receiver that takes as many a second keeps pace: for it, reading waits rather than that its lane overflows.
const KEEPS_PACE: f64 = 100.0;
/// When reading waits for such a receiver: half of what fills its lane.
const BRIM: Duration = Duration::from_millis(2500);
/// When it waits for one whose rate is not known yet.
const BRIM_UNKNOWN: usize = 512;

/// The pace of one lane, or of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Mean time of a request, in seconds.
    mean: f64,
    /// Requests in it.
    counted: u32,
    /// Requests in a row that had to connect first.
    connecting: u32,
    /// Requests a second that ended while others waited.
    rate: Option<f64>,
    /// How long that was observed.
    observed: Duration,
    /// Requests ended since the last look.
    ended: u32,
    looked: Instant,
    /// When a request last ended, or the lane went from idle to busy.
    progress: Instant,
}

impl Pace {
    /// Of a lane that has done nothing yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            mean: 0.0,
            counted: 0,
            connecting: 0,
            rate: None,
            observed: Duration::ZERO,
            ended: 0,
            looked: now,
            progress: now,
        }
    }

    /// The lane was idle and starts a request.
    pub(crate) fn wakes(&mut self, now: Instant) {
        self.progress = now;
    }

    /// A request ended, on a kept connection or on one made for it.
    pub(crate) fn ended(&mut self, took: Duration, connected: bool, now: Instant) {
        self.progress = now;
        self.ended = self.ended.saturating_add(1);
        self.connecting = if connected { self.connecting.saturating_add(1) } else { 0 };
        if (1..=CONNECTING_MAX).contains(&self.connecting) {
            return;
        }
        self.counted = self.counted.saturating_add(1);
        // The plain mean at first.
        let weight = WEIGHT.max(1.0 / f64::from(self.counted));
        self.mean += weight * (took.as_secs_f64() - self.mean);
    }

    /// For `late` nobody looked: this process stood still, and what did not end meanwhile is no receiver's fault.
    pub(crate) fn stood_still(&mut self, late: Duration, now: Instant) {
        self.progress = (self.progress + late).min(now);
        self.looked = (self.looked + late).min(now);
    }

    /// Looks at what has ended since the last look. What a lane does in which nothing waits is its events' pace, not its
    /// receiver's, and does not count.
    pub(crate) fn look(&mut self, waiting: usize, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked);
        let ended = std::mem::take(&mut self.ended);
        self.looked = now;
        if waiting == 0 || elapsed.is_zero() {
            return;
        }
        let sample = f64::from(ended) / elapsed.as_secs_f64();
        let weight = 1.0 - (-elapsed.as_secs_f64() / RATE_OVER.as_secs_f64()).exp();
        self.rate = Some(self.rate.map_or(sample, |rate| rate + weight * (sample - rate)));
        self.observed = self.observed.saturating_add(elapsed);
    }

    /// Whether `waiting` deliveries are more than the receiver takes in [`WAIT_MAX`]. `in_flight` are under way, and
    /// `abreast` at a time once those that may start have started: of a burst to an idle receiver none are under way yet.
    ///
    /// Both the time that requests take and the rate at which they ended must say so: the one knows nothing of a pause that
    /// is over, the other nothing of a lane that had little to do.
    pub(crate) fn is_full(&self, waiting: usize, in_flight: usize, abreast: usize, now: Instant) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (waiting, abreast) = (waiting as f64, abreast.max(1) as f64);
        let wait_max = WAIT_MAX.as_secs_f64();
        let by_time = |mean: f64| mean * waiting / abreast > wait_max;
        if self.is_stalled(in_flight, now) {
            return by_time(self.mean.max(now.saturating_duration_since(self.progress).as_secs_f64()));
        }
        let by_rate = self.observed >= OBSERVED_MIN && self.rate.is_some_and(|rate| waiting > rate * wait_max);
        by_rate && by_time(self.mean)
    }

    /// Whether reading should wait, so that a receiver which keeps pace gets what waits before its lane is full.
    pub(crate) fn is_brimming(&self, waiting: usize, in_flight: usize, now: Instant) -> bool {
        if self.is_stalled(in_flight, now) {
            return false;
        }
        match self.rate.filter(|_| self.observed >= OBSERVED_MIN) {
            None => waiting >= BRIM_UNKNOWN,
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            Some(rate) => rate >= KEEPS_PACE && waiting as f64 >= rate * BRIM.as_secs_f64(),
        }
    }

    /// Whether nothing has ended for long although requests are under way.
    pub(crate) fn is_stalled(&self, in_flight: usize, now: Instant) -> bool {
        in_flight > 0 && now.saturating_duration_since(self.progress) >= STALL_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver that takes 16 requests at a time and `took` for each is at work for `time`.
    async fn work(pace: &mut Pace, took: Duration, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::advance(took).await;
            (0..16).for_each(|_| pace.ended(took, false, Instant::now()));
            pace.look(1000, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_full_when_what_waits_needs_more_than_a_few_seconds() {
        let mut pace = Pace::new(Instant::now());
        assert!(!pace.is_full(100_000, 16, 16, Instant::now()), "nothing is known yet");
        // A thousand a second.
        work(&mut pace, Duration::from_millis(16), Duration::from_secs(3)).await;
        assert!(!pace.is_full(4_999, 16, 16, Instant::now()));
        assert!(pace.is_full(5_010, 16, 16, Instant::now()));
        assert!(!pace.is_full(4_999, 0, 16, Instant::now()), "an idle receiver will take 16 at a time as well");
        assert!(!pace.is_full(0, 16, 16, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_waits_for_a_receiver_that_keeps_pace_and_for_no_other() {
        let mut pace = Pace::new(Instant::now());
        assert!(!pace.is_brimming(BRIM_UNKNOWN - 1, 16, Instant::now()));
        assert!(pace.is_brimming(BRIM_UNKNOWN, 16, Instant::now()), "until its rate is known");
        work(&mut pace, Duration::from_millis(16), Duration::from_secs(3)).await;
        assert!(!pace.is_brimming(2_000, 16, Instant::now()));
        assert!(pace.is_brimming(2_600, 16, Instant::now()));
        let mut slow = Pace::new(Instant::now());
        work(&mut slow, Duration::from_millis(800), Duration::from_secs(8)).await;
        assert!(!slow.is_brimming(10_000, 16, Instant::now()), "twenty a second: its lane overflows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_no_change_of_pace_and_a_change_is_seen_within_seconds() {
        let mut pace = Pace::new(Instant::now());
        work(&mut pace, Duration::from_millis(16), Duration::from_secs(3)).await;
        work(&mut pace, Duration::from_millis(400), Duration::from_millis(400)).await;
        assert!(!pace.is_full(3_500, 16, 16, Instant::now()), "all that was under way took long, once");
        work(&mut pace, Duration::from_millis(400), Duration::from_secs(4)).await;
        assert!(pace.is_full(3_500, 16, 16, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_count_only_when_there_is_one_each_time() {
        let (connected, slow) = (true, Duration::from_millis(400));
        let mut pace = Pace::new(Instant::now());
        for mean_counts in [false, true] {
            tokio::time::advance(RATE_OVER).await;
            for _ in 0..CONNECTING_MAX {
                pace.ended(slow, connected, Instant::now());
            }
            pace.look(1_000, Instant::now());
            assert_eq!(pace.is_full(1_000, 16, 16, Instant::now()), mean_counts);
        }
        pace.ended(Duration::from_millis(20), !connected, Instant::now());
        for _ in 0..CONNECTING_MAX {
            pace.ended(slow, connected, Instant::now());
        }
        assert!(pace.mean < 0.38, "a handshake in between does not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_had_little_to_do_is_not_taken_for_slow() {
        let mut pace = Pace::new(Instant::now());
        for _ in 0..50 {
            tokio::time::advance(Duration::from_millis(100)).await;
            pace.ended(Duration::from_millis(20), false, Instant::now());
            pace.look(1, Instant::now());
        }
        // Ten a second ended, but a burst goes out sixteen at a time.
        assert!(!pace.is_full(600, 1, 16, Instant::now()));
        assert!(pace.is_full(600, 1, 1, Instant::now()), "unless its order lets only one go at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_of_our_own_is_not_held_against_the_receiver() {
        let mut pace = Pace::new(Instant::now());
        work(&mut pace, Duration::from_millis(16), Duration::from_secs(3)).await;
        let rate = pace.rate;
        tokio::time::advance(STALL_MIN * 3).await;
        pace.stood_still(STALL_MIN * 3, Instant::now());
        pace.look(1000, Instant::now());
        assert!(!pace.is_stalled(16, Instant::now()));
        assert_eq!(pace.rate, rate);
        tokio::time::advance(STALL_MIN).await;
        assert!(pace.is_stalled(16, Instant::now()));
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
