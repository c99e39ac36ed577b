//! How much the process holds, and whether it takes more.
//!
//! Bytes of events in memory, deliveries that wait and records on their way to Kafka have bounds. First attempts are refused
//! some way before a bound: what is refused waits in the events topic, so reading never waits for a receiver. The rest is for
//! what can't wait there: retries, ticks and dead letters. Only records on their way to Kafka, which pile up when it can be
//! read and not written, make reading wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::telemetry::metrics::Metrics;

/// The most first attempts that wait in one process: some 0.3 KB each without their events, 40 MB in all.
const QUEUED_MAX: usize = 131_072;
/// The most deliveries that wait in one process, retries and scheduled ticks included.
const QUEUED_WITH_RETRIES_MAX: usize = 2 * QUEUED_MAX;
/// The most records on their way to Kafka: below what its client keeps, so that none waits for a place there, and far more
/// than are under way while brokers answer.
const PUBLISHING_MAX: usize = 16_384;

/// What the process holds.
#[derive(Debug)]
pub struct Pressure {
    event_bytes: AtomicUsize,
    event_bytes_max: usize,
    queued: AtomicUsize,
    publishing: AtomicUsize,
}

/// What first attempts may still take of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Free {
    /// How many more may wait.
    pub(crate) events: usize,
    /// Bytes: three quarters of the bound are for first attempts.
    pub(crate) bytes: usize,
}

/// Whether consumers may read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// They may.
    Go,
    /// They may not: enough is in memory.
    Wait,
}

impl Pressure {
    /// A process that holds at most `event_bytes_max` bytes of events. It is never freed, so that no delivery counts its
    /// holders: that would be four writes more for which the events thread and a shard contend.
    pub fn new(event_bytes_max: usize) -> &'static Self {
        let zero = || AtomicUsize::new(0);
        Box::leak(Box::new(Self { event_bytes: zero(), event_bytes_max, queued: zero(), publishing: zero() }))
    }

    /// Holds `bytes` until the guard is dropped.
    pub(crate) fn hold(&'static self, bytes: usize) -> HeldBytes {
        self.event_bytes.fetch_add(bytes, Ordering::Relaxed);
        HeldBytes { pressure: self, bytes }
    }

    /// A record is on its way to Kafka until the guard is dropped.
    pub(crate) fn publish(&'static self) -> HeldPublication {
        self.publishing.fetch_add(1, Ordering::Relaxed);
        HeldPublication(self)
    }

    /// Whether the bytes in memory are at their bound.
    pub(crate) fn is_over_bytes(&self) -> bool {
        self.event_bytes.load(Ordering::Relaxed) >= self.event_bytes_max
    }

    /// What first attempts may still take. `None` if no more may wait.
    pub(crate) fn free_for_events(&self) -> Option<Free> {
        let events = QUEUED_MAX.checked_sub(self.queued())?;
        let bytes = (self.event_bytes_max / 4 * 3).checked_sub(self.event_bytes.load(Ordering::Relaxed))?;
        (events > 0 && bytes > 0).then_some(Free { events, bytes })
    }

    /// Counts a delivery that waits.
    pub(crate) fn queue(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a delivery that does not wait any more.
    pub(crate) fn unqueue(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the consumers may read on.
    pub fn reading(&self) -> Reading {
        let is_held_up = self.is_over_bytes() || self.publishing.load(Ordering::Relaxed) >= PUBLISHING_MAX;
        if is_held_up { Reading::Wait } else { Reading::Go }
    }

    /// Whether retries that are due may be handed over.
    pub(crate) fn reading_due(&self) -> Reading {
        if self.takes_ticks() { self.reading() } else { Reading::Wait }
    }

    /// Whether a scheduled tick may still be queued. Ticks are small and end soon. They do not wait for what the reading of events waits
    /// for, and they have a bound of their own.
    pub(crate) fn takes_ticks(&self) -> bool {
        self.queued() < QUEUED_WITH_RETRIES_MAX
    }

    /// How many deliveries wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
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
pub(crate) struct HeldPublication(&'static Pressure);

impl Drop for HeldPublication {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an event in memory.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    pressure: &'static Pressure,
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
        let pressure = Pressure::new(100);
        let first = pressure.hold(60);
        assert_eq!(
            (pressure.reading(), pressure.free_for_events()),
            (Reading::Go, Some(Free { events: QUEUED_MAX, bytes: 15 }))
        );
        let second = pressure.hold(60);
        assert_eq!((pressure.reading(), pressure.free_for_events()), (Reading::Wait, None));
        drop(second);
        assert_eq!(pressure.reading(), Reading::Go);
        drop(first);
    }

    #[test]
    fn records_on_their_way_to_kafka_are_bounded() {
        let pressure = Pressure::new(usize::MAX);
        let mut held: Vec<_> = (0..PUBLISHING_MAX).map(|_| pressure.publish()).collect();
        assert_eq!((pressure.reading(), pressure.reading_due()), (Reading::Wait, Reading::Wait));
        held.pop();
        assert_eq!((pressure.reading(), pressure.reading_due()), (Reading::Go, Reading::Go));
    }

    #[test]
    fn retries_and_ticks_do_not_wait_for_events_but_have_a_bound() {
        let pressure = Pressure::new(usize::MAX);
        (0..QUEUED_MAX).for_each(|_| pressure.queue());
        assert_eq!((pressure.free_for_events(), pressure.reading_due()), (None, Reading::Go));
        assert!(pressure.takes_ticks());
        (0..QUEUED_MAX).for_each(|_| pressure.queue());
        assert!(!pressure.takes_ticks());
        assert_eq!((pressure.reading(), pressure.reading_due()), (Reading::Go, Reading::Wait));
    }
}
