//! Every metric, on a registry of its own: a file a room. Labels come from closed sets only: topics, tiers, reasons, outcomes.
//! Never an id, a URL or a workspace. Handles of fixed labels are looked up once, at start, so that every series begins at zero.
//!
//! This file has what several rooms count. The rest is in the file of its room.

mod intake;
mod open_transactions;
mod table;
mod deliver;
mod backlog;
mod health;
mod make;

use std::sync::LazyLock;

use prometheus::core::Metric as _;
use prometheus::{Encoder, Histogram, IntCounter, IntCounterVec, Registry, TextEncoder};

use self::backlog::BacklogMetrics;
use self::deliver::DeliverMetrics;
use self::health::HealthMetrics;
pub(crate) use self::health::Judging;
use self::intake::IntakeMetrics;
use self::make::Make;
use self::table::TableMetrics;
use crate::domain::outcome::{DeadReason, DropReason, Reason};
use crate::domain::retry_schedule::RetrySchedule;

/// Errors that the Kafka clients of this process reported. A static, since clients are also made where no metrics are at hand.
pub(crate) static KAFKA_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new("kafka_errors_total", "Errors that the Kafka clients of the process reported").expect("a good name")
});

/// Excluded states that were reached: see [`super::never`].
pub(crate) static INVARIANT_VIOLATIONS: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new("invariant_violations_total", "States reached that the code excludes: defects")
        .expect("a good name")
});

/// What became of an event that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    /// At least one webhook matched.
    Matched,
    /// No webhook matched.
    Unmatched,
    /// A dead letter: the record is not a valid event.
    Invalid,
}

impl EventOutcome {
    pub(crate) const ALL: [Self; 3] = [Self::Matched, Self::Unmatched, Self::Invalid];

    fn word(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Unmatched => "unmatched",
            Self::Invalid => "invalid",
        }
    }
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
    /// Dropped: the next tick comes first, or its integration gets nothing.
    Dropped,
}

impl TickOutcome {
    const ALL: [Self; 4] = [Self::Fired, Self::Acknowledged, Self::Retried, Self::Dropped];

    fn word(self) -> &'static str {
        match self {
            Self::Fired => "fired",
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::Dropped => "dropped",
        }
    }
}

/// All metrics of the process, by room.
pub struct Metrics {
    registry: Registry,
    pub(crate) intake: IntakeMetrics,
    pub(crate) table: TableMetrics,
    pub(crate) deliver: DeliverMetrics,
    pub(crate) backlog: BacklogMetrics,
    pub(crate) health: HealthMetrics,
    pub(crate) api_requests: IntCounterVec,
}

impl Metrics {
    /// Registers everything. `schedule` gives the tiers.
    ///
    /// # Panics
    /// If two metrics share a name: a mistake in this room.
    pub fn new(schedule: &RetrySchedule) -> Self {
        let registry = Registry::new_custom(Some("hookstream".to_owned()), None).unwrap_or_default();
        let make = Make(&registry);
        let tiers: Vec<String> = schedule.tiers().iter().map(ToString::to_string).collect();
        make.int_gauges("build_info", "The running version", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        for counter in [&KAFKA_ERRORS, &INVARIANT_VIOLATIONS] {
            let _registered: IntCounter = make.add(Ok((*counter).clone()));
        }
        Self {
            intake: IntakeMetrics::register(&make, &tiers),
            table: TableMetrics::register(&make),
            deliver: DeliverMetrics::register(&make, &tiers),
            backlog: BacklogMetrics::register(&make),
            health: HealthMetrics::register(&make),
            api_requests: make.counters(
                "api_requests_total",
                "Requests to the registration API",
                &["method", "status"],
            ),
            registry,
        }
    }

    /// Starts the count of failed writes at zero for each topic that this process writes to.
    pub(crate) fn expect_writes(&self, topics: impl IntoIterator<Item = String>) {
        for topic in topics {
            self.deliver.publish_errors.with_label_values(&[&topic]);
        }
    }

    /// Counts a request that was acknowledged.
    pub(crate) fn attempt_acknowledged(&self) {
        self.deliver.attempts_acknowledged.inc();
    }

    /// Counts a request that failed.
    pub(crate) fn attempt_failed(&self, reason: Reason) {
        self.deliver.attempts_failed.inc(reason);
    }

    /// Counts a dead letter.
    pub(crate) fn dead_letter(&self, reason: DeadReason) {
        self.deliver.dead_letters.inc(reason);
        // An invalid event matched nothing: it is not a delivery.
        if reason != DeadReason::InvalidEvent {
            self.deliver.deliveries_dead.inc();
        }
    }

    /// Counts a drop.
    pub(crate) fn drop_delivery(&self, reason: DropReason) {
        self.deliver.dropped.inc(reason);
        self.deliver.deliveries_dropped.inc();
    }

    /// Counts events that are not in the log any more: by their offsets, since it is not known which of them matched.
    pub(crate) fn drop_expired(&self, count: u64) {
        self.deliver.dropped.add(DropReason::Expired, count);
        self.deliver.deliveries_dropped.inc_by(count);
    }

    /// Dead letters so far, by reason.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (DeadReason, u64)> {
        self.deliver.dead_letters.counts()
    }

    /// Drops so far, by reason.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (DropReason, u64)> {
        self.deliver.dropped.counts()
    }

    /// How late retries were attempted, over all tiers: an upper bound for this share of them.
    pub(crate) fn lateness_within(&self, share: f64) -> Option<Within> {
        within(&self.intake.retry_lateness, share)
    }

    /// How long deliveries took from the event record to its acknowledgement: an upper bound for this share of them.
    pub(crate) fn latency_within(&self, share: f64) -> Option<Within> {
        within(std::slice::from_ref(&self.deliver.delivery_latency), share)
    }

    /// Counts a tick of a scheduled webhook.
    pub(crate) fn tick(&self, outcome: TickOutcome) {
        self.deliver.ticks.inc(outcome);
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> Vec<u8> {
        self.health.measure();
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
    /// At most this many seconds: the upper end of a bucket.
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::domain::integration::STATUS_WORDS;

    #[test]
    fn every_series_of_a_closed_set_starts_at_zero() {
        let metrics = Metrics::new(&RetrySchedule::parse("30s,1h,1h").unwrap());
        metrics.expect_writes(["dead".to_owned()]);
        let text = String::from_utf8(metrics.text()).unwrap();
        for series in [
            "hookstream_events_total{outcome=\"invalid\"} 0",
            "hookstream_attempts_total{outcome=\"failed\",reason=\"refused-address\"} 0",
            "hookstream_attempts_total{outcome=\"acknowledged\",reason=\"\"} 0",
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

    /// Type and labels of each metric, by name.
    type Described<'a> = BTreeMap<&'a str, (&'a str, BTreeSet<&'a str>)>;

    /// What the rows of the page say.
    fn described(page: &str) -> Described<'_> {
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
        cells
            .filter(|cells| cells.len() == 4)
            .map(|cells| {
                let labels = cells[2].split('`').skip(1).step_by(2).collect();
                (cells[0].trim_matches('`'), (cells[1], labels))
            })
            .collect()
    }

    /// What Prometheus gets, where no value of a label has a comma.
    fn exported(text: &str) -> Described<'_> {
        let mut found = Described::new();
        let mut name = "";
        for line in text.lines() {
            if let Some((metric, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                name = metric;
                found.insert(name, (kind, BTreeSet::new()));
            } else if let (Some((_, rest)), Some((_, labels))) = (line.split_once('{'), found.get_mut(name)) {
                let pairs = rest.split('}').next().unwrap_or_default().split(',');
                labels.extend(pairs.filter_map(|pair| pair.split('=').next()).filter(|label| *label != "le"));
            }
        }
        found
    }

    #[test]
    fn the_page_about_metrics_has_name_type_and_labels_of_each() {
        let metrics = Metrics::new(&RetrySchedule::parse("30s").unwrap());
        // These have no series before their first count.
        metrics.expect_writes(["dead".to_owned()]);
        metrics.api_requests.with_label_values(&["GET", "2xx"]);
        metrics.intake.consumer_lag.with_label_values(&["events", "0"]);
        metrics.intake.open_transactions.follow("events", &[0]);
        let text = String::from_utf8(metrics.text()).unwrap();
        assert_eq!(exported(&text), described(include_str!("../../../docs/metrics.md")));
    }

    #[test]
    fn every_word_of_a_label_is_in_the_page_about_metrics() {
        let page = include_str!("../../../docs/metrics.md");
        let reasons = Reason::ALL.into_iter().map(Reason::word);
        let words = reasons.chain(DropReason::ALL.map(DropReason::word)).chain(DeadReason::ALL.map(DeadReason::word));
        for word in words.chain(STATUS_WORDS.map(|(word, _)| word)).chain(TickOutcome::ALL.map(TickOutcome::word)) {
            assert!(page.contains(&format!("`{word}`")), "docs/metrics.md does not have {word}");
        }
    }

    #[test]
    fn a_share_of_what_was_observed_is_within_the_end_of_a_bucket() {
        let metrics = Metrics::new(&RetrySchedule::parse("1s,2s").unwrap());
        assert_eq!(metrics.lateness_within(0.99), None);
        for _ in 0..98 {
            metrics.intake.retry_lateness[0].observe(0.004);
        }
        metrics.intake.retry_lateness[1].observe(0.2);
        assert_eq!(metrics.lateness_within(0.5), Some(Within::Seconds(0.005)));
        assert_eq!(metrics.lateness_within(0.99), Some(Within::Seconds(0.25)));
        metrics.intake.retry_lateness[1].observe(1_000.0);
        assert_eq!(metrics.lateness_within(1.0), Some(Within::Beyond(300.0)));
    }
}
