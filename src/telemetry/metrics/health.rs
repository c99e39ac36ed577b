//! Metrics of `health` and of the attempt log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use super::make::Make;

/// The states that an integration can change to.
const STATES: [&str; 3] = ["active", "hasErrors", "failed"];

/// What a process does so that integrations are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judging {
    /// It reports what it has attempted.
    Reports,
    /// It judges integrations that it owns.
    Owns,
}

/// Fields are named like their metrics, without the prefix.
pub(crate) struct HealthMetrics {
    pub(crate) guard_active: IntGauge,
    pub(crate) transitions: IntCounterVec,
    pub(crate) unjudged_seconds: Gauge,
    /// The same in ms, by [`Judging`].
    unjudged_ms: [AtomicU64; 2],
    pub(crate) attempt_log_dropped: IntCounter,
}

impl HealthMetrics {
    pub(super) fn register(make: &Make<'_>) -> Self {
        let metrics = Self {
            guard_active: make.int_gauge("health_guard_active", "1 while most integrations fail for network reasons"),
            transitions: make.counters("health_transitions_total", "Changes of an integration's health", &["status"]),
            unjudged_seconds: make.gauge(
                "health_unjudged_seconds",
                "How long this process has not judged integrations whose health it owns, has owned none because Kafka does not answer, or could not report what it has attempted",
            ),
            unjudged_ms: [AtomicU64::new(0), AtomicU64::new(0)],
            attempt_log_dropped: make
                .counter("attempt_log_dropped_total", "Records of the attempt log that could not be written"),
        };
        for status in STATES {
            metrics.transitions.with_label_values(&[status]);
        }
        metrics
    }

    /// Sets for how long a part of the judging has not been done. The gauge has the longer of the two times.
    pub(crate) fn set_unjudged(&self, part: Judging, time: Duration) {
        let [reports, owns] = &self.unjudged_ms;
        let of_part = match part {
            Judging::Reports => reports,
            Judging::Owns => owns,
        };
        of_part.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let longest = reports.load(Ordering::Relaxed).max(owns.load(Ordering::Relaxed));
        self.unjudged_seconds.set(Duration::from_millis(longest).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn health_is_unjudged_for_as_long_as_either_part_is_not_done() {
        let metrics = Metrics::new(&RetrySchedule::parse("1s").unwrap());
        let health = &metrics.health;
        for (part, secs, shown) in [
            (Judging::Reports, 20, 20.0),
            (Judging::Owns, 30, 30.0),
            (Judging::Owns, 0, 20.0),
            (Judging::Reports, 0, 0.0),
        ] {
            health.set_unjudged(part, Duration::from_secs(secs));
            assert!((health.unjudged_seconds.get() - shown).abs() < 1e-9, "{part:?}");
        }
    }
}
