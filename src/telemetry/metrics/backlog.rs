//! Metrics of `backlog`: how many webhooks are behind, and for how long.

use prometheus::{Gauge, IntCounter, IntGauge};

use super::make::Make;
use crate::domain::outcome::BehindReason;

/// Fields are named like their metrics, without the prefix and the room.
pub(crate) struct BacklogMetrics {
    behind: Vec<(BehindReason, IntGauge)>,
    pub(crate) age_seconds: Gauge,
    pub(crate) records_read: IntCounter,
}

impl BacklogMetrics {
    pub(super) fn register(make: &Make<'_>) -> Self {
        let behind =
            make.int_gauges("webhooks_behind", "Webhooks that are behind in a partition of this worker", &["reason"]);
        let reasons = BehindReason::ALL.into_iter();
        Self {
            behind: reasons.map(|reason| (reason, behind.with_label_values(&[reason.word()]))).collect(),
            age_seconds: make.gauge(
                "backlog_age_seconds",
                "Age of the oldest event that a webhook which is behind has not been given",
            ),
            records_read: make
                .counter("backlog_records_read_total", "Events read a second time for webhooks that are behind"),
        }
    }

    /// How many webhooks are behind, for any reason.
    pub(crate) fn all_webhooks_behind(&self) -> i64 {
        self.behind.iter().map(|(_, gauge)| gauge.get()).sum()
    }

    /// Sets how many webhooks are behind for a reason.
    pub(crate) fn webhooks_behind(&self, reason: BehindReason, count: usize) {
        if let Some((_, gauge)) = self.behind.iter().find(|(known, _)| *known == reason) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
