//! Metrics of `health` and of the attempt log.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use super::make::Make;

/// The states that an integration can change to.
const STATES: [&str; 3] = ["active", "hasErrors", "failed"];

/// Fields are named like their metrics, without the prefix.
pub(crate) struct HealthMetrics {
    pub(crate) guard_active: IntGauge,
    pub(crate) transitions: IntCounterVec,
    pub(crate) unjudged_seconds: Gauge,
    pub(crate) attempt_log_dropped: IntCounter,
}

impl HealthMetrics {
    pub(super) fn register(make: &Make<'_>) -> Self {
        let metrics = Self {
            guard_active: make.int_gauge("health_guard_active", "1 while most integrations fail for network reasons"),
            transitions: make.counters("health_transitions_total", "Changes of an integration's health", &["status"]),
            unjudged_seconds: make.gauge(
                "health_unjudged_seconds",
                "How long this process has not judged integrations whose health it owns, or has owned none because Kafka does not answer",
            ),
            attempt_log_dropped: make
                .counter("attempt_log_dropped_total", "Records of the attempt log that could not be written"),
        };
        for status in STATES {
            metrics.transitions.with_label_values(&[status]);
        }
        metrics
    }
}
