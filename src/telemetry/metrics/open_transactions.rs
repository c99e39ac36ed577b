//! How long open transactions have held up the reading of partitions.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus::GaugeVec;
use tokio::time::Instant;

/// A gauge by partition; a partition that is not held up has none.
pub(crate) struct OpenTransactions {
    gauge: GaugeVec,
    since: Mutex<HashMap<(String, i32), Instant>>,
}

impl OpenTransactions {
    pub(super) fn new(gauge: GaugeVec) -> Self {
        Self { gauge, since: Mutex::default() }
    }

    /// These partitions of `topic`, and no others, are held up now.
    pub(crate) fn follow(&self, topic: &str, held_up: &[i32]) {
        let mut since = self.since.lock();
        since.retain(|(of, partition), _| {
            let stays = of != topic || held_up.contains(partition);
            if !stays && let Err(error) = self.gauge.remove_label_values(&[of.as_str(), &partition.to_string()]) {
                tracing::debug!(%error, "no gauge of a transaction that ended");
            }
            stays
        });
        for partition in held_up {
            let began = *since.entry((topic.to_owned(), *partition)).or_insert_with(Instant::now);
            let seconds = began.elapsed().as_secs_f64();
            self.gauge.with_label_values(&[topic, &partition.to_string()]).set(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector as _;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_is_held_up_says_for_how_long_and_no_longer() {
        let gauge = GaugeVec::new(Opts::new("open", "of a test"), &["topic", "partition"]).unwrap();
        let open = OpenTransactions::new(gauge.clone());
        open.follow("events", &[3]);
        open.follow("integrations", &[3]);
        tokio::time::advance(Duration::from_secs(7)).await;
        open.follow("events", &[3, 4]);
        assert!((gauge.with_label_values(&["events", "3"]).get() - 7.0).abs() < 0.01);
        open.follow("events", &[]);
        let left: usize = gauge.collect().iter().map(|family| family.get_metric().len()).sum();
        assert_eq!(left, 1, "the other topic's");
    }
}
