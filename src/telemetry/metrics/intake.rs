//! Metrics of `intake`: what is read, committed and assigned.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::EventOutcome;
use super::make::{CountersBy, Make};
use super::open_transactions::OpenTransactions;
use crate::domain::retry_schedule::NOW;

/// Upper bounds in seconds, around the promise of 250 ms.
const LATENESS_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// Fields are named like their metrics, without the prefix.
pub(crate) struct IntakeMetrics {
    pub(super) events: CountersBy<EventOutcome>,
    pub(crate) unknown_workspace_events: IntCounter,
    pub(crate) retry_lateness: Vec<Histogram>,
    pub(crate) retry_overdue: Vec<Gauge>,
    pub(crate) clock_ahead_seconds: Gauge,
    pub(crate) consumer_lag: IntGaugeVec,
    pub(crate) settled_before: IntCounter,
    pub(crate) open_transactions: OpenTransactions,
    pub(crate) still_partitions: IntGauge,
    pub(crate) unheld_lag: IntGauge,
    pub(crate) logs_changed: IntCounterVec,
    pub(crate) commits_ok: IntCounter,
    pub(crate) commits_failed: IntCounter,
    pub(crate) rebalances_assigned: IntCounter,
    pub(crate) rebalances_revoked: IntCounter,
    pub(crate) rebalances_lost: IntCounter,
    pub(crate) paused_partitions: IntGauge,
}

impl IntakeMetrics {
    pub(super) fn register(make: &Make<'_>, tiers: &[String]) -> Self {
        let read = || tiers.iter().map(String::as_str).chain([NOW]);
        let events = make.counters("events_total", "Events read, by what became of them", &["outcome"]);
        let lateness = make.histograms(
            "retry_lateness_seconds",
            "How late a due retry was attempted",
            &["tier"],
            &LATENESS_BUCKETS,
        );
        let overdue = make.gauges("retry_overdue_seconds", "Age of the oldest due retry not yet attempted", &["tier"]);
        let commits = make.counters("commits_total", "Offset commits", &["outcome"]);
        let rebalances = make.counters("rebalances_total", "Partitions assigned, revoked and lost", &["kind"]);
        Self {
            events: CountersBy::new(EventOutcome::ALL, |outcome| events.with_label_values(&[outcome.word()])),
            unknown_workspace_events: make.counter(
                "unknown_workspace_events_total",
                "Events without a workspace header whose key is not the workspace of any integration",
            ),
            retry_lateness: read().map(|tier| lateness.with_label_values(&[tier])).collect(),
            retry_overdue: read().map(|tier| overdue.with_label_values(&[tier])).collect(),
            clock_ahead_seconds: make.gauge(
                "clock_ahead_seconds",
                "How far the clock of this process is ahead of the brokers', which decide when a retry is due",
            ),
            consumer_lag: make.int_gauges(
                "consumer_lag",
                "Events not yet settled, of assigned partitions",
                &["topic", "partition"],
            ),
            settled_before: make.counter(
                "settled_before_total",
                "Records passed over because an earlier owner of their partition had settled them",
            ),
            open_transactions: OpenTransactions::new(make.gauges(
                "open_transaction_seconds",
                "How long an open transaction has held up the reading of a partition",
                &["topic", "partition"],
            )),
            still_partitions: make.int_gauge(
                "still_partitions",
                "Partitions of the events topic that give this process nothing although records wait in them",
            ),
            unheld_lag: make.int_gauge(
                "unheld_lag",
                "Events in partitions that this process does not hold and from which no worker has taken anything for a minute",
            ),
            logs_changed: {
                let changed = make.counters(
                    "logs_changed_total",
                    "Partitions of events and retry topics whose log was found to be another, or shorter",
                    &["kind"],
                );
                for kind in ["anew", "truncated"] {
                    changed.with_label_values(&[kind]);
                }
                changed
            },
            commits_ok: commits.with_label_values(&["ok"]),
            commits_failed: commits.with_label_values(&["failed"]),
            rebalances_assigned: rebalances.with_label_values(&["assigned"]),
            rebalances_revoked: rebalances.with_label_values(&["revoked"]),
            rebalances_lost: rebalances.with_label_values(&["lost"]),
            paused_partitions: make.int_gauge("paused_partitions", "Partitions paused because enough is in memory"),
        }
    }

    /// Counts an event.
    pub(crate) fn event(&self, outcome: EventOutcome) {
        self.events.inc(outcome);
    }

    /// How many events had this outcome so far.
    pub(crate) fn events(&self, outcome: EventOutcome) -> u64 {
        self.events.get(outcome)
    }
}
