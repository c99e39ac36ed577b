//! How much the process holds, and whether consumers may read on.
//!
//! Three things stop reading. The bytes of events in memory have a bound, and so have the records on their way to Kafka,
//! which pile up when it can be read and not written. And when every receiver that is being fed is
//! behind, reading on would only overflow lanes of receivers that keep pace: then reading waits until what is queued is
//! less than [`WAIT_MAX`] of work. While some receiver has nothing to do, reading goes on, and the lanes of the slow ones
//! overflow into the tiers: a slow receiver does not hold back a fast one. For a receiver that keeps pace, a hundred a second
//! or more, reading waits all the same, for a minute at most until all have caught up: catching up puts nothing off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::telemetry::metrics::Metrics;

/// How much work may be queued, at the present pace, when everybody is behind. Well below the wait at which
/// a lane is full, for a pace that falls meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Queued deliveries that never stop reading: enough to start on before any pace is known.
const QUEUED_MIN: usize = 64;
/// Before any pace is known.
const QUEUED_FIRST: usize = 1024;
/// What the queues may grow by between two looks of the shards, while somebody has nothing to do.
const GROWTH_MAX: usize = 512;
/// Deliveries that due retries may add to what stops the reading of events: they were put off once and should not also
/// wait behind a backlog.
const DUE_RESERVE: usize = 256;
/// The most deliveries that wait in one process.
const QUEUED_MAX: usize = 65_536;
/// The most records on their way to Kafka: below what its client keeps, so that none waits for a place there, and far more
/// than are under way while brokers answer.
const PUBLISHING_MAX: usize = 16_384;
/// The most with scheduled ticks: a full queue of events leaves them as much again.
const QUEUED_WITH_TICKS_MAX: usize = 2 * QUEUED_MAX;

#[derive(Debug)]
struct Shard {
    queued: AtomicUsize,
    /// `queued` at the shard's last look.
    queued_before: AtomicUsize,
    /// Requests ended a second, while anything was queued; 0: not known.
    pace: AtomicUsize,
    /// A lane that was fed lately has nothing waiting.
    starving: AtomicBool,
    /// A lane whose receiver keeps pace would soon be full.
    brimming: AtomicBool,
}

/// What the process holds.
#[derive(Debug)]
pub struct Pressure {
    event_bytes: AtomicUsize,
    publishing: AtomicUsize,
    event_bytes_max: usize,
    shards: Vec<Shard>,
}

/// Whether consumers may read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Yes.
    Go,
    /// Not now: enough is in memory.
    Wait,
}

impl Pressure {
    /// For `shards` shards and at most `event_bytes_max` bytes of events.
    pub fn new(shards: usize, event_bytes_max: usize) -> Arc<Self> {
        let shard = || Shard {
            queued: AtomicUsize::new(0),
            queued_before: AtomicUsize::new(0),
            pace: AtomicUsize::new(0),
            starving: AtomicBool::new(false),
            brimming: AtomicBool::new(false),
        };
        Arc::new(Self {
            event_bytes: AtomicUsize::new(0),
            publishing: AtomicUsize::new(0),
            event_bytes_max,
            shards: (0..shards).map(|_| shard()).collect(),
        })
    }

    /// Holds `bytes` until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> HeldBytes {
        self.event_bytes.fetch_add(bytes, Ordering::Relaxed);
        HeldBytes { pressure: Arc::clone(self), bytes }
    }

    /// A record is on its way to Kafka until the guard is dropped.
    pub(crate) fn publish(self: &Arc<Self>) -> HeldPublication {
        self.publishing.fetch_add(1, Ordering::Relaxed);
        HeldPublication(Arc::clone(self))
    }

    /// Whether the bytes in memory are at their bound.
    pub(crate) fn is_over_bytes(&self) -> bool {
        self.event_bytes.load(Ordering::Relaxed) >= self.event_bytes_max
    }

    /// Deliveries were handed to a shard.
    pub(crate) fn queue(&self, shard: usize, count: usize) {
        self.shards.get(shard).into_iter().for_each(|shard| {
            shard.queued.fetch_add(count, Ordering::Relaxed);
        });
    }

    /// Deliveries of a shard were started, put off or given up.
    pub(crate) fn unqueue(&self, shard: usize, count: usize) {
        self.shards.get(shard).into_iter().for_each(|shard| {
            shard.queued.fetch_sub(count, Ordering::Relaxed);
        });
    }

    /// A shard says how it goes, at each of its looks: its pace, if anything was queued, whether a lane starves, and whether
    /// one of a receiver that keeps pace would soon be full.
    pub(crate) fn report(&self, shard: usize, pace: Option<usize>, starving: bool, brimming: bool) {
        let Some(shard) = self.shards.get(shard) else { return };
        if let Some(pace) = pace {
            shard.pace.store(pace, Ordering::Relaxed);
        }
        shard.starving.store(starving, Ordering::Relaxed);
        shard.brimming.store(brimming, Ordering::Relaxed);
        shard.queued_before.store(shard.queued.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether the events consumer may read on.
    pub fn reading(&self) -> Reading {
        let brimming = self.shards.iter().any(|shard| shard.brimming.load(Ordering::Relaxed));
        if brimming { Reading::Wait } else { self.reading_beyond(0) }
    }

    /// Whether retries that are due may be handed over.
    pub(crate) fn reading_due(&self) -> Reading {
        self.reading_beyond(DUE_RESERVE)
    }

    fn reading_beyond(&self, reserve: usize) -> Reading {
        let is_held_up = self.is_over_bytes() || self.publishing.load(Ordering::Relaxed) >= PUBLISHING_MAX;
        if is_held_up || self.queued() >= self.queued_max() + reserve { Reading::Wait } else { Reading::Go }
    }

    /// Whether a scheduled tick may still be queued. Ticks are small and are over soon: what makes the reading of events
    /// wait is nothing to them, but there is an end to it.
    pub(crate) fn takes_ticks(&self) -> bool {
        self.queued() < QUEUED_WITH_TICKS_MAX
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicUsize) -> usize {
        self.shards.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum()
    }

    /// How many deliveries wait.
    pub(crate) fn queued(&self) -> usize {
        self.sum(|shard| &shard.queued)
    }

    fn queued_max(&self) -> usize {
        let pace = self.sum(|shard| &shard.pace);
        let of_pace = match pace {
            0 => QUEUED_FIRST,
            pace => pace.saturating_mul(usize::try_from(WAIT_MAX.as_secs()).unwrap_or(1)).max(QUEUED_MIN),
        };
        let starving = self.shards.iter().any(|shard| shard.starving.load(Ordering::Relaxed));
        let growing = if starving { self.sum(|shard| &shard.queued_before) + GROWTH_MAX } else { 0 };
        of_pace.max(growing).min(QUEUED_MAX)
    }

    /// Sets the gauges.
    pub(crate) fn export(&self, metrics: &Metrics) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.deliver.queued_deliveries.set(gauge(self.queued()));
        metrics.deliver.queued_event_bytes.set(gauge(self.event_bytes.load(Ordering::Relaxed)));
    }
}

/// A record on its way to Kafka.
#[derive(Debug)]
pub(crate) struct HeldPublication(Arc<Pressure>);

impl Drop for HeldPublication {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an event in memory.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    pressure: Arc<Pressure>,
    bytes: usize,
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.pressure.event_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_hard_bound_and_come_back() {
        let pressure = Pressure::new(1, 100);
        let first = pressure.hold(60);
        assert_eq!(pressure.reading(), Reading::Go);
        let second = pressure.hold(60);
        assert_eq!(pressure.reading(), Reading::Wait);
        drop(second);
        assert_eq!(pressure.reading(), Reading::Go);
        drop(first);
    }

    #[test]
    fn records_on_their_way_to_kafka_are_bounded() {
        let pressure = Pressure::new(1, usize::MAX);
        let mut held: Vec<_> = (0..PUBLISHING_MAX).map(|_| pressure.publish()).collect();
        assert_eq!((pressure.reading(), pressure.reading_due()), (Reading::Wait, Reading::Wait));
        held.pop();
        assert_eq!((pressure.reading(), pressure.reading_due()), (Reading::Go, Reading::Go));
    }

    #[test]
    fn ticks_do_not_wait_for_events_but_have_a_bound() {
        let pressure = Pressure::new(1, 0);
        pressure.queue(0, QUEUED_MAX);
        assert_eq!(pressure.reading(), Reading::Wait);
        assert!(pressure.takes_ticks());
        pressure.queue(0, QUEUED_MAX);
        assert!(!pressure.takes_ticks());
    }

    #[test]
    fn when_all_are_behind_reading_waits_for_a_few_seconds_of_work() {
        let pressure = Pressure::new(2, usize::MAX);
        pressure.report(0, Some(100), false, false);
        pressure.report(1, Some(100), false, false);
        pressure.queue(0, 399);
        assert_eq!(pressure.reading(), Reading::Go);
        pressure.queue(1, 1);
        assert_eq!(pressure.reading(), Reading::Wait);
        assert_eq!(pressure.reading_due(), Reading::Go, "retries have waited once");
        pressure.queue(1, DUE_RESERVE);
        assert_eq!(pressure.reading_due(), Reading::Wait);
        pressure.unqueue(1, DUE_RESERVE);
        pressure.unqueue(0, 100);
        assert_eq!(pressure.reading(), Reading::Go);
    }

    #[test]
    fn while_a_receiver_has_nothing_to_do_the_queues_of_others_may_grow() {
        let pressure = Pressure::new(1, usize::MAX);
        pressure.queue(0, 1000);
        pressure.report(0, Some(10), true, false);
        assert_eq!(pressure.reading(), Reading::Go);
        pressure.queue(0, GROWTH_MAX);
        assert_eq!(pressure.reading(), Reading::Wait, "until the next look");
        pressure.report(0, Some(10), true, false);
        assert_eq!(pressure.reading(), Reading::Go);
        pressure.report(0, Some(10), false, false);
        assert_eq!(pressure.reading(), Reading::Wait);
    }

    #[test]
    fn reading_waits_while_a_lane_of_a_receiver_that_keeps_pace_would_soon_be_full() {
        let pressure = Pressure::new(2, usize::MAX);
        pressure.report(0, Some(800), true, true);
        assert_eq!(pressure.reading(), Reading::Wait);
        pressure.report(0, Some(800), true, false);
        assert_eq!(pressure.reading(), Reading::Go);
    }
}
