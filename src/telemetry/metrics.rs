//! Every metric, on a registry of its own. Labels come from closed sets only: topics, tiers, reasons, outcomes. Never an
//! id, a URL or a workspace. Handles of fixed labels are looked up once, at start, so that every series begins at zero.

use std::sync::LazyLock;

use prometheus::core::{Collector, Metric as _};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::domain::integration::STATUS_WORDS;
use crate::domain::outcome::{DeadReason, DropReason, Reason};
use crate::domain::retry_schedule::RetrySchedule;
use crate::domain::table::Census;

/// Errors that the Kafka clients of this process reported. Clients are made where no metrics are at hand, too.
pub(crate) static KAFKA_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new("kafka_errors_total", "Errors that the Kafka clients of the process reported").expect("a good name")
});

/// What became of an event that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    /// At least one webhook matched.
    Matched,
    /// No webhook matched.
    Unmatched,
    /// A dead letter: no event.
    Invalid,
}

/// How a scheduled tick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickOutcome {
    /// Handed to delivery.
    Fired,
    /// Acknowledged by the receiver.
    Acknowledged,
    /// Failed and put into a tier.
    Retried,
    /// Dropped: the next tick comes first, or nobody may be delivered to.
    Dropped,
}

/// The words of [`TickOutcome`], in its order.
const TICK_OUTCOMES: [&str; 4] = ["fired", "acknowledged", "retried", "dropped"];

/// Upper bounds from a millisecond to past the longest request.
const REQUEST_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 12.0];
/// Upper bounds from live traffic to the end of the default schedule.
const LATENCY_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 14_400.0];
/// Upper bounds around the promise of 250 ms.
const LATENESS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// All metrics of the process. Fields are named like their metrics, without the prefix.
pub struct Metrics {
    registry: Registry,
    pub(crate) events_matched: IntCounter,
    pub(crate) events_unmatched: IntCounter,
    pub(crate) events_invalid: IntCounter,
    attempts_acknowledged: IntCounter,
    attempts_failed: Vec<IntCounter>,
    slots_without_request: Vec<IntCounter>,
    pub(crate) deliveries_acknowledged: IntCounter,
    pub(crate) deliveries_retried: IntCounter,
    pub(crate) deliveries_dead: IntCounter,
    pub(crate) deliveries_dropped: IntCounter,
    pub(crate) attempt_duration: Histogram,
    pub(crate) delivery_latency: Histogram,
    pub(crate) retries: Vec<IntCounter>,
    pub(crate) retry_lateness: Vec<Histogram>,
    pub(crate) retry_overdue: Vec<Gauge>,
    dead_letters: Vec<IntCounter>,
    dropped: Vec<IntCounter>,
    pub(crate) in_flight_requests: IntGauge,
    pub(crate) webhooks: IntGaugeVec,
    pub(crate) integrations: IntGaugeVec,
    pub(crate) consumer_lag: IntGaugeVec,
    pub(crate) integrations_bootstrap: Gauge,
    ticks: Vec<IntCounter>,
    pub(crate) queued_deliveries: IntGauge,
    pub(crate) queued_event_bytes: IntGauge,
    pub(crate) circuits_open: IntGauge,
    pub(crate) webhooks_restricted: IntGauge,
    pub(crate) connections_opened: IntCounter,
    pub(crate) stale_resends: IntCounter,
    pub(crate) publish_errors: IntCounterVec,
    pub(crate) integration_records_used: IntCounter,
    pub(crate) integration_records_removed: IntCounter,
    pub(crate) integration_records_unusable: IntCounter,
    pub(crate) commits_ok: IntCounter,
    pub(crate) commits_failed: IntCounter,
    pub(crate) rebalances_assigned: IntCounter,
    pub(crate) rebalances_revoked: IntCounter,
    pub(crate) rebalances_lost: IntCounter,
    pub(crate) kafka_errors: IntCounter,
    pub(crate) health_guard_active: IntGauge,
    pub(crate) health_transitions: IntCounterVec,
    pub(crate) attempt_log_dropped: IntCounter,
    pub(crate) api_requests: IntCounterVec,
    pub(crate) paused_partitions: IntGauge,
}

impl Metrics {
    /// Registers everything. `schedule` gives the tiers.
    ///
    /// # Panics
    /// If two metrics share a name: a mistake in this file.
    #[expect(clippy::too_many_lines, reason = "one line a metric, in the order of the struct")]
    pub fn new(schedule: &RetrySchedule) -> Self {
        let registry = Registry::new_custom(Some("hookstream".to_owned()), None).unwrap_or_default();
        let r = Make(&registry);
        let tiers: Vec<String> = schedule.tiers().iter().map(ToString::to_string).collect();
        let requests: Vec<_> = Reason::ALL.into_iter().filter(|reason| reason.is_attempt()).collect();
        let slots: Vec<_> = Reason::ALL.into_iter().filter(|reason| !reason.is_attempt()).collect();

        let events = r.counters("events_total", "Events read, by what became of them", &["outcome"]);
        let attempts = r.counters("attempts_total", "Requests made, by outcome and reason", &["outcome", "reason"]);
        let no_request =
            r.counters("slots_without_request_total", "Slots of a schedule spent without a request", &["reason"]);
        let deliveries = r.counters("deliveries_total", "Deliveries by what became of them in one slot", &["outcome"]);
        let retries = r.counters("retries_total", "Deliveries put into a retry tier", &["tier"]);
        let lateness =
            r.histograms("retry_lateness_seconds", "How late a due retry was attempted", &["tier"], &LATENESS_BUCKETS);
        let overdue = r.gauges("retry_overdue_seconds", "Age of the oldest due retry not yet attempted", &["tier"]);
        let dead = r.counters("dead_letters_total", "Records put into the dead-letter topic", &["reason"]);
        let dropped = r.counters("dropped_total", "Deliveries dropped by a rule", &["reason"]);
        let ticks = r.counters("scheduled_ticks_total", "Ticks of scheduled webhooks", &["outcome"]);
        let records = r.counters("integration_records_total", "Records of the integrations topic", &["outcome"]);
        let commits = r.counters("commits_total", "Offset commits", &["outcome"]);
        let rebalances = r.counters("rebalances_total", "Partitions assigned, revoked and lost", &["kind"]);
        let circuits = r.int_gauges("circuits", "Hosts by state of their circuit", &["state"]);
        r.int_gauges("build_info", "The running version", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let metrics = Self {
            events_matched: events.with_label_values(&["matched"]),
            events_unmatched: events.with_label_values(&["unmatched"]),
            events_invalid: events.with_label_values(&["invalid"]),
            attempts_acknowledged: attempts.with_label_values(&["acknowledged", ""]),
            attempts_failed: requests
                .iter()
                .map(|reason| attempts.with_label_values(&["failed", reason.word()]))
                .collect(),
            slots_without_request: slots.iter().map(|reason| no_request.with_label_values(&[reason.word()])).collect(),
            deliveries_acknowledged: deliveries.with_label_values(&["acknowledged"]),
            deliveries_retried: deliveries.with_label_values(&["retried"]),
            deliveries_dead: deliveries.with_label_values(&["dead"]),
            deliveries_dropped: deliveries.with_label_values(&["dropped"]),
            attempt_duration: r.histogram("attempt_duration_seconds", "How long a request took", &REQUEST_BUCKETS),
            delivery_latency: r.histogram(
                "delivery_latency_seconds",
                "From the event record's timestamp to its acknowledgement",
                &LATENCY_BUCKETS,
            ),
            retries: tiers.iter().map(|tier| retries.with_label_values(&[tier])).collect(),
            retry_lateness: tiers.iter().map(|tier| lateness.with_label_values(&[tier])).collect(),
            retry_overdue: tiers.iter().map(|tier| overdue.with_label_values(&[tier])).collect(),
            dead_letters: DeadReason::ALL.iter().map(|reason| dead.with_label_values(&[reason.word()])).collect(),
            dropped: DropReason::ALL.iter().map(|reason| dropped.with_label_values(&[reason.word()])).collect(),
            in_flight_requests: r.int_gauge("in_flight_requests", "Requests under way"),
            webhooks: r.int_gauges("webhooks", "Webhooks by state", &["state"]),
            integrations: r.int_gauges("integrations", "Integrations by status", &["status"]),
            consumer_lag: r.int_gauges(
                "consumer_lag",
                "Events not yet settled, of assigned partitions",
                &["topic", "partition"],
            ),
            integrations_bootstrap: r
                .gauge("integrations_bootstrap_seconds", "How long the integrations topic took to read at start"),
            ticks: TICK_OUTCOMES.iter().map(|outcome| ticks.with_label_values(&[outcome])).collect(),
            queued_deliveries: r.int_gauge("queued_deliveries", "Deliveries waiting in lanes"),
            queued_event_bytes: r.int_gauge("queued_event_bytes", "Bytes of events held in memory"),
            circuits_open: circuits.with_label_values(&["open"]),
            webhooks_restricted: r.int_gauge(
                "webhooks_restricted",
                "Webhooks that get fewer requests at a time, as their receivers asked",
            ),
            connections_opened: r.counter("connections_opened_total", "Connections opened to receivers"),
            stale_resends: r.counter("stale_resends_total", "Requests sent again because a kept connection was stale"),
            publish_errors: r.counters("publish_errors_total", "Records that Kafka did not take at once", &["topic"]),
            integration_records_used: records.with_label_values(&["used"]),
            integration_records_removed: records.with_label_values(&["removed"]),
            integration_records_unusable: records.with_label_values(&["unusable"]),
            commits_ok: commits.with_label_values(&["ok"]),
            commits_failed: commits.with_label_values(&["failed"]),
            rebalances_assigned: rebalances.with_label_values(&["assigned"]),
            rebalances_revoked: rebalances.with_label_values(&["revoked"]),
            rebalances_lost: rebalances.with_label_values(&["lost"]),
            kafka_errors: r.add(Ok(KAFKA_ERRORS.clone())),
            health_guard_active: r
                .int_gauge("health_guard_active", "1 while most integrations fail for network reasons"),
            health_transitions: r.counters(
                "health_transitions_total",
                "Changes of an integration's health",
                &["status"],
            ),
            attempt_log_dropped: r
                .counter("attempt_log_dropped_total", "Records of the attempt log that could not be written"),
            api_requests: r.counters("api_requests_total", "Requests to the registration API", &["method", "status"]),
            paused_partitions: r.int_gauge("paused_partitions", "Partitions paused because enough is in memory"),
            registry,
        };
        metrics.set_census(&Census::default());
        for status in ["active", "hasErrors", "failed"] {
            metrics.health_transitions.with_label_values(&[status]);
        }
        metrics
    }

    /// Starts the count of failed writes at zero for each topic that this process writes to.
    pub(crate) fn expect_writes(&self, topics: impl IntoIterator<Item = String>) {
        for topic in topics {
            self.publish_errors.with_label_values(&[&topic]);
        }
    }

    /// Counts an event.
    pub(crate) fn event(&self, outcome: EventOutcome) {
        match outcome {
            EventOutcome::Matched => self.events_matched.inc(),
            EventOutcome::Unmatched => self.events_unmatched.inc(),
            EventOutcome::Invalid => self.events_invalid.inc(),
        }
    }

    /// Counts a request that was acknowledged.
    pub(crate) fn attempt_acknowledged(&self) {
        self.attempts_acknowledged.inc();
    }

    /// Counts a request that failed, or a slot spent without one.
    pub(crate) fn attempt_failed(&self, reason: Reason) {
        let index = reason as usize;
        match self.attempts_failed.get(index) {
            Some(counter) => counter.inc(),
            None => {
                self.slots_without_request
                    .get(index - self.attempts_failed.len())
                    .into_iter()
                    .for_each(IntCounter::inc);
            }
        }
    }

    /// Counts a dead letter.
    pub(crate) fn dead_letter(&self, reason: DeadReason) {
        self.dead_letters.get(reason as usize).into_iter().for_each(IntCounter::inc);
        // An invalid event was matched with nothing: it is no delivery.
        if reason != DeadReason::InvalidEvent {
            self.deliveries_dead.inc();
        }
    }

    /// Counts a drop.
    pub(crate) fn drop_delivery(&self, reason: DropReason) {
        self.dropped.get(reason as usize).into_iter().for_each(IntCounter::inc);
        self.deliveries_dropped.inc();
    }

    /// Dead letters so far, by reason.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (DeadReason, u64)> {
        DeadReason::ALL.into_iter().zip(self.dead_letters.iter().map(IntCounter::get))
    }

    /// Drops so far, by reason.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.dropped.iter().map(IntCounter::get))
    }

    /// How late retries were attempted, over all tiers: an upper bound for this share of them.
    pub(crate) fn lateness_within(&self, share: f64) -> Option<Within> {
        within(&self.retry_lateness, share)
    }

    /// How long deliveries took from the event record to its acknowledgement: an upper bound for this share of them.
    pub(crate) fn latency_within(&self, share: f64) -> Option<Within> {
        within(std::slice::from_ref(&self.delivery_latency), share)
    }

    /// Counts a tick of a scheduled webhook.
    pub(crate) fn tick(&self, outcome: TickOutcome) {
        self.ticks.get(outcome as usize).into_iter().for_each(IntCounter::inc);
    }

    /// Follows the table.
    pub(crate) fn set_census(&self, census: &Census) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for ((word, _), count) in STATUS_WORDS.iter().zip(census.integrations) {
            self.integrations.with_label_values(&[word]).set(gauge(count));
        }
        self.webhooks.with_label_values(&["enabled"]).set(gauge(census.webhooks_enabled));
        self.webhooks.with_label_values(&["disabled"]).set(gauge(census.webhooks_disabled));
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        // The process metrics keep their customary names, without the prefix: the library's default registry has them.
        families.extend(prometheus::default_registry().gather());
        let mut text = Vec::new();
        // Writing into memory can't fail; a family without metrics is left out before.
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

/// A bound that a share of what was observed stays within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Within {
    /// At most so many seconds: the upper end of a bucket.
    Seconds(f64),
    /// More than the histogram's longest bucket.
    Beyond(f64),
}

/// The smallest upper end of a bucket that at least `share` of the observations of histograms with the same buckets are in.
fn within(histograms: &[Histogram], share: f64) -> Option<Within> {
    let protos: Vec<_> = histograms.iter().map(Histogram::metric).collect();
    let total: u64 = protos.iter().map(|proto| proto.get_histogram().get_sample_count()).sum();
    if total == 0 {
        return None;
    }
    let buckets = protos.first().map(|proto| proto.get_histogram().get_bucket()).unwrap_or_default();
    for (index, bucket) in buckets.iter().enumerate() {
        let buckets_here = protos.iter().filter_map(|proto| proto.get_histogram().get_bucket().get(index));
        let below: u64 = buckets_here.map(prometheus::proto::Bucket::cumulative_count).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts of a process stay far below 2^52")]
        if below as f64 >= share * total as f64 {
            return Some(Within::Seconds(bucket.upper_bound()));
        }
    }
    buckets.last().map(|bucket| Within::Beyond(bucket.upper_bound()))
}

/// Makes a metric and registers it.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels in this file are valid");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_of_a_closed_set_starts_at_zero() {
        let metrics = Metrics::new(&RetrySchedule::parse("30s,1h,1h").unwrap());
        metrics.expect_writes(["dead".to_owned()]);
        let text = String::from_utf8(metrics.text()).unwrap();
        for series in [
            "hookstream_events_total{outcome=\"invalid\"} 0",
            "hookstream_attempts_total{outcome=\"failed\",reason=\"refused-address\"} 0",
            "hookstream_attempts_total{outcome=\"acknowledged\",reason=\"\"} 0",
            "hookstream_slots_without_request_total{reason=\"circuit-open\"} 0",
            "hookstream_retries_total{tier=\"1h\"} 0",
            "hookstream_retry_overdue_seconds{tier=\"30s\"} 0",
            "hookstream_dead_letters_total{reason=\"exhausted\"} 0",
            "hookstream_dropped_total{reason=\"suspended\"} 0",
            "hookstream_integrations{status=\"notConfigured\"} 0",
            "hookstream_scheduled_ticks_total{outcome=\"fired\"} 0",
            "hookstream_retry_lateness_seconds_count{tier=\"30s\"} 0",
            "hookstream_publish_errors_total{topic=\"dead\"} 0",
        ] {
            assert!(text.contains(series), "{series} is missing");
        }
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("hookstream_build_info{version="));
    }

    #[test]
    fn every_word_of_a_label_is_in_the_page_about_metrics() {
        let page = include_str!("../../docs/metrics.md");
        let reasons = Reason::ALL.into_iter().map(Reason::word);
        let words = reasons.chain(DropReason::ALL.map(DropReason::word)).chain(DeadReason::ALL.map(DeadReason::word));
        for word in words.chain(STATUS_WORDS.map(|(word, _)| word)).chain(TICK_OUTCOMES) {
            assert!(page.contains(&format!("`{word}`")), "docs/metrics.md does not have {word}");
        }
    }

    #[test]
    fn a_share_of_what_was_observed_is_within_the_end_of_a_bucket() {
        let metrics = Metrics::new(&RetrySchedule::parse("1s,2s").unwrap());
        assert_eq!(metrics.lateness_within(0.99), None);
        for _ in 0..98 {
            metrics.retry_lateness[0].observe(0.004);
        }
        metrics.retry_lateness[1].observe(0.2);
        assert_eq!(metrics.lateness_within(0.5), Some(Within::Seconds(0.005)));
        assert_eq!(metrics.lateness_within(0.99), Some(Within::Seconds(0.25)));
        metrics.retry_lateness[1].observe(1_000.0);
        assert_eq!(metrics.lateness_within(1.0), Some(Within::Beyond(300.0)));
    }

    #[test]
    fn a_slot_without_a_request_is_no_attempt() {
        let metrics = Metrics::new(&RetrySchedule::parse("1s").unwrap());
        metrics.attempt_failed(Reason::Overloaded);
        metrics.attempt_failed(Reason::Protocol);
        let text = String::from_utf8(metrics.text()).unwrap();
        assert!(text.contains("hookstream_slots_without_request_total{reason=\"overloaded\"} 1"));
        assert!(text.contains("hookstream_attempts_total{outcome=\"failed\",reason=\"protocol\"} 1"));
        assert!(!text.contains("reason=\"overloaded\"} 1\nhookstream_attempts_total"));
    }
}
