//! Metrics of `health` and of the attempt log.

use parking_lot::Mutex;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};
use tokio::time::Instant;

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
    unjudged_seconds: Gauge,
    /// Since when, by [`Judging`].
    unjudged: Mutex<[Option<Instant>; 2]>,
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
            unjudged: Mutex::default(),
            attempt_log_dropped: make
                .counter("attempt_log_dropped_total", "Records of the attempt log that could not be written"),
        };
        for status in STATES {
            metrics.transitions.with_label_values(&[status]);
        }
        metrics
    }

    /// Sets since when a part of the judging is not done. `None`: it is done.
    pub(crate) fn set_unjudged(&self, part: Judging, since: Option<Instant>) {
        let [reports, owns] = &mut *self.unjudged.lock();
        match part {
            Judging::Reports => *reports = since,
            Judging::Owns => *owns = since,
        }
    }

    /// Sets the gauge to the longer of the two times. It is called when the metrics are read: a thread that waits for Kafka cannot do it.
    pub(super) fn measure(&self) {
        let since = self.unjudged.lock().into_iter().flatten().min();
        self.unjudged_seconds.set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn health_is_unjudged_since_either_part_is_not_done_also_while_its_thread_is_silent() {
        let metrics = Metrics::new(&RetrySchedule::parse("1s").unwrap());
        let (health, began) = (&metrics.health, Instant::now());
        let shown = || {
            metrics.text();
            health.unjudged_seconds.get()
        };
        health.set_unjudged(Judging::Reports, Some(began));
        tokio::time::advance(Duration::from_secs(20)).await;
        health.set_unjudged(Judging::Owns, Some(Instant::now()));
        assert!((shown() - 20.0).abs() < 1e-9);
        health.set_unjudged(Judging::Reports, None);
        assert!(shown().abs() < 1e-9);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!((shown() - 30.0).abs() < 1e-9);
        health.set_unjudged(Judging::Owns, None);
        assert!(shown().abs() < 1e-9);
    }
}
