//! How a metric is made and registered, and counters by a word of a closed set. No metric has its name here.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Makes a metric and registers it.
pub(super) struct Make<'a>(pub(super) &'a Registry);

impl Make<'_> {
    pub(super) fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and labels in this room are valid");
        self.0.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn int_gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub(super) fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

/// One counter for each value of a closed set.
pub(super) struct CountersBy<K>(Vec<(K, IntCounter)>);

impl<K: Copy + PartialEq> CountersBy<K> {
    /// Takes the counter of each value from `counter`; all series begin at zero.
    pub(super) fn new(values: impl IntoIterator<Item = K>, counter: impl Fn(K) -> IntCounter) -> Self {
        Self(values.into_iter().map(|value| (value, counter(value))).collect())
    }

    /// Counts one.
    pub(super) fn inc(&self, value: K) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc();
        }
    }

    /// Counts several.
    pub(super) fn add(&self, value: K, count: u64) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc_by(count);
        }
    }

    /// The count of one value so far.
    pub(super) fn get(&self, value: K) -> u64 {
        self.0.iter().find(|(known, _)| *known == value).map_or(0, |(_, counter)| counter.get())
    }

    /// The counts so far.
    pub(super) fn counts(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().map(|(value, counter)| (*value, counter.get()))
    }
}
