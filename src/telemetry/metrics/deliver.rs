//! Metrics of `deliver`: requests, what became of deliveries, and what waits.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::TickOutcome;
use super::make::{CountersBy, Make};
use crate::domain::outcome::{DeadReason, DropReason, Reason};

/// Upper bounds in seconds, from a millisecond to past the longest request.
const REQUEST_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 12.0];
/// Upper bounds in seconds, from live traffic to the end of the default schedule.
const LATENCY_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 14_400.0];

/// Fields are named like their metrics, without the prefix.
pub(crate) struct DeliverMetrics {
    pub(super) attempts_acknowledged: IntCounter,
    pub(super) attempts_failed: CountersBy<Reason>,
    pub(crate) deliveries_acknowledged: IntCounter,
    pub(crate) deliveries_retried: IntCounter,
    pub(super) deliveries_dead: IntCounter,
    pub(super) deliveries_dropped: IntCounter,
    pub(crate) attempt_duration: Histogram,
    pub(crate) delivery_latency: Histogram,
    pub(crate) retries: Vec<IntCounter>,
    pub(super) dead_letters: CountersBy<DeadReason>,
    pub(super) dropped: CountersBy<DropReason>,
    pub(super) ticks: CountersBy<TickOutcome>,
    pub(crate) in_flight_requests: IntGauge,
    pub(crate) queued_deliveries: IntGauge,
    pub(crate) queued_event_bytes: IntGauge,
    pub(crate) circuits_open: IntGauge,
    pub(crate) webhook_circuits_open: IntGauge,
    pub(crate) webhooks_restricted: IntGauge,
    pub(crate) webhooks_held_back: IntGauge,
    pub(crate) connections_opened: IntCounter,
    pub(crate) stale_resends: IntCounter,
    pub(crate) publish_errors: IntCounterVec,
    pub(crate) publications_given_up: IntCounter,
}

impl DeliverMetrics {
    pub(super) fn register(make: &Make<'_>, tiers: &[String]) -> Self {
        let attempts = make.counters("attempts_total", "Requests made, by outcome and reason", &["outcome", "reason"]);
        let deliveries =
            make.counters("deliveries_total", "Deliveries by what became of them in one slot", &["outcome"]);
        let retries = make.counters("retries_total", "Deliveries put into a retry tier", &["tier"]);
        let dead = make.counters("dead_letters_total", "Records put into the dead-letter topic", &["reason"]);
        let dropped = make.counters("dropped_total", "Deliveries dropped by a rule", &["reason"]);
        let ticks = make.counters("scheduled_ticks_total", "Ticks of scheduled webhooks", &["outcome"]);
        let circuits = make.int_gauges("circuits", "Hosts by state of their circuit", &["state"]);
        let requests = Reason::ALL.into_iter().filter(|reason| reason.is_attempt());
        Self {
            attempts_acknowledged: attempts.with_label_values(&["acknowledged", ""]),
            attempts_failed: CountersBy::new(requests, |reason| attempts.with_label_values(&["failed", reason.word()])),
            deliveries_acknowledged: deliveries.with_label_values(&["acknowledged"]),
            deliveries_retried: deliveries.with_label_values(&["retried"]),
            deliveries_dead: deliveries.with_label_values(&["dead"]),
            deliveries_dropped: deliveries.with_label_values(&["dropped"]),
            attempt_duration: make.histogram("attempt_duration_seconds", "How long a request took", &REQUEST_BUCKETS),
            delivery_latency: make.histogram(
                "delivery_latency_seconds",
                "From the event record's timestamp to its acknowledgement",
                &LATENCY_BUCKETS,
            ),
            retries: tiers.iter().map(|tier| retries.with_label_values(&[tier])).collect(),
            dead_letters: CountersBy::new(DeadReason::ALL, |reason| dead.with_label_values(&[reason.word()])),
            dropped: CountersBy::new(DropReason::ALL, |reason| dropped.with_label_values(&[reason.word()])),
            ticks: CountersBy::new(TickOutcome::ALL, |outcome| ticks.with_label_values(&[outcome.word()])),
            in_flight_requests: make.int_gauge("in_flight_requests", "Requests under way"),
            queued_deliveries: make.int_gauge("queued_deliveries", "Deliveries waiting in lanes"),
            queued_event_bytes: make.int_gauge("queued_event_bytes", "Bytes of events held in memory"),
            circuits_open: circuits.with_label_values(&["open"]),
            webhook_circuits_open: make.int_gauge(
                "webhook_circuits_open",
                "Webhooks of which only probes are sent, because their attempts keep failing",
            ),
            webhooks_restricted: make.int_gauge(
                "webhooks_restricted",
                "Webhooks that get fewer requests at a time, as their receivers asked",
            ),
            webhooks_held_back: make.int_gauge(
                "webhooks_held_back",
                "Webhooks that wait because late, silent or unknown webhooks have reached their share of the requests under way",
            ),
            connections_opened: make.counter("connections_opened_total", "Connections opened to receivers"),
            stale_resends: make
                .counter("stale_resends_total", "Requests sent again because a kept connection was stale"),
            publish_errors: make.counters(
                "publish_errors_total",
                "Records that Kafka did not take at once",
                &["topic"],
            ),
            publications_given_up: make.counter(
                "publications_given_up_total",
                "Records left to the next owner of their partition before Kafka had them",
            ),
        }
    }
}
