//! What time it is for the brokers, which decide when a retry is due. No decision about retries is made here.
//!
//! A topic with append times says with each acknowledgement what the broker's clock showed between the sending and the acknowledgement.
//! From a few of these and from monotonic time the worker knows the brokers' time, whatever its own clock shows. Until the first
//! acknowledgement the worker's own clock is used.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::message::Timestamp;
use tokio::time::Instant;

use crate::clock;

/// Acknowledgements that are remembered: brokers' clocks differ a little, and one wrong clock does not move their median.
const SAMPLES: usize = 9;
/// An acknowledgement that took longer says too little about the time.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// The year 2000, ms since 1970: an earlier time is not from a clock. The client library's embedded broker counts from zero.
const A_CLOCK_MS: i64 = 946_684_800_000;

/// The brokers' clock as this process knows it.
#[derive(Debug)]
pub(crate) struct BrokerClock {
    began: Instant,
    /// The brokers' time minus the monotonic time since `began`, ms. No sample is more than the true difference.
    samples: Mutex<VecDeque<i64>>,
}

impl BrokerClock {
    /// A clock that knows nothing yet.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), samples: Mutex::default() }
    }

    /// Learns from the acknowledgement, at this moment, of a record that was sent at `sent`.
    pub(crate) fn acknowledged(&self, sent: Instant, timestamp: Timestamp) {
        let Timestamp::LogAppendTime(appended_ms @ A_CLOCK_MS..) = timestamp else { return };
        let now = Instant::now();
        if now.saturating_duration_since(sent) > ROUND_TRIP_MAX {
            return;
        }
        let mut samples = self.samples.lock();
        if samples.len() >= SAMPLES {
            samples.pop_front();
        }
        // The record was appended before now. So no sample is later than the brokers' time, and no retry comes early.
        samples.push_back(appended_ms.saturating_sub(self.since_began_ms(now)));
    }

    /// Whether the time of a broker is known.
    pub(crate) fn is_known(&self) -> bool {
        !self.samples.lock().is_empty()
    }

    /// The brokers' time, ms since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        let mut samples: Vec<i64> = self.samples.lock().iter().copied().collect();
        samples.sort_unstable();
        let median = samples.get(samples.len() / 2);
        median.map_or_else(clock::now_ms, |median| median.saturating_add(self.since_began_ms(Instant::now())))
    }

    /// How far this process's clock is ahead of the brokers', ms; negative: behind.
    pub(crate) fn ahead_ms(&self) -> i64 {
        clock::now_ms().saturating_sub(self.now_ms())
    }

    fn since_began_ms(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(ms: i64) -> Timestamp {
        Timestamp::LogAppendTime(A_CLOCK_MS + ms)
    }

    #[tokio::test(start_paused = true)]
    async fn brokers_time_is_what_acknowledgements_say_whatever_the_own_clock_shows() {
        let brokers = BrokerClock::new();
        assert!(!brokers.is_known());
        assert!(brokers.ahead_ms().abs() < 1_000, "the own clock stands in");
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(20)).await;
        brokers.acknowledged(sent, appended(5_000));
        assert_eq!((brokers.is_known(), brokers.now_ms()), (true, A_CLOCK_MS + 5_000), "never more than the truth");
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(brokers.now_ms(), A_CLOCK_MS + 12_000);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_acknowledgements_and_times_of_the_writer_say_nothing() {
        let brokers = BrokerClock::new();
        let sent = Instant::now();
        brokers.acknowledged(sent, Timestamp::CreateTime(5_000));
        brokers.acknowledged(sent, Timestamp::NotAvailable);
        brokers.acknowledged(sent, Timestamp::LogAppendTime(5_000));
        tokio::time::advance(Duration::from_secs(3)).await;
        brokers.acknowledged(sent, appended(5_000));
        assert!(!brokers.is_known());
    }

    #[tokio::test(start_paused = true)]
    async fn one_broker_whose_clock_is_off_decides_nothing() {
        let brokers = BrokerClock::new();
        for time in [1_000, 1_001, 999, 600_000, 1_002] {
            brokers.acknowledged(Instant::now(), appended(time));
        }
        assert_eq!(brokers.now_ms(), A_CLOCK_MS + 1_001);
        for _ in 0..SAMPLES {
            brokers.acknowledged(Instant::now(), appended(50_000));
        }
        assert_eq!(brokers.now_ms(), A_CLOCK_MS + 50_000, "clocks that were set are followed");
    }
}
