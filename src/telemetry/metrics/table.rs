//! Metrics of the table of integrations: what is known, and which records were used.

use prometheus::{Gauge, IntCounter, IntGaugeVec};

use super::make::Make;
use crate::domain::integration::STATUS_WORDS;
use crate::domain::table::Census;

/// Fields are named like their metrics, without the prefix.
pub(crate) struct TableMetrics {
    webhooks: IntGaugeVec,
    integrations: IntGaugeVec,
    pub(crate) bootstrap_seconds: Gauge,
    pub(crate) records_used: IntCounter,
    pub(crate) records_used_in_part: IntCounter,
    pub(crate) records_removed: IntCounter,
    pub(crate) records_unusable: IntCounter,
}

impl TableMetrics {
    pub(super) fn register(make: &Make<'_>) -> Self {
        let records = make.counters("integration_records_total", "Records of the integrations topic", &["outcome"]);
        let metrics = Self {
            webhooks: make.int_gauges("webhooks", "Webhooks by state", &["state"]),
            integrations: make.int_gauges("integrations", "Integrations by status", &["status"]),
            bootstrap_seconds: make
                .gauge("integrations_bootstrap_seconds", "How long the integrations topic took to read at start"),
            records_used: records.with_label_values(&["used"]),
            records_used_in_part: records.with_label_values(&["used-in-part"]),
            records_removed: records.with_label_values(&["removed"]),
            records_unusable: records.with_label_values(&["unusable"]),
        };
        metrics.set_census(&Census::default());
        metrics
    }

    /// Sets the numbers of integrations and webhooks to those of the table.
    pub(crate) fn set_census(&self, census: &Census) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for ((word, _), count) in STATUS_WORDS.iter().zip(census.integrations) {
            self.integrations.with_label_values(&[word]).set(gauge(count));
        }
        self.webhooks.with_label_values(&["enabled"]).set(gauge(census.webhooks_enabled));
        self.webhooks.with_label_values(&["disabled"]).set(gauge(census.webhooks_disabled));
    }
}
