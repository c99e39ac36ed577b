//! How far behind the events consumer is: asked of the brokers by a client of its own, because the consumer's statistics
//! stand still while a partition is paused.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use super::client::{ClientLog, table_consumer_config};
use super::group::Membership;
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long a broker may take to say where a partition ends.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Measures the lag.
pub struct Lag {
    asker: BaseConsumer<ClientLog>,
    membership: Arc<Membership>,
    metrics: Arc<Metrics>,
    exported: Vec<(Arc<str>, i32)>,
}

impl Lag {
    /// Of the partitions that `membership` holds.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn new(
        kafka: &settings::Kafka,
        membership: Arc<Membership>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let asker = table_consumer_config(kafka, "lag").create_with_context(ClientLog::new("lag"))?;
        Ok(Self { asker, membership, metrics, exported: Vec::new() })
    }

    /// Asks for the ends of all partitions held and sets the gauges; those of partitions that went disappear. Blocks.
    pub fn measure(&mut self) {
        let assignments = self.membership.assignments();
        let mut exported = Vec::new();
        for assignment in &assignments {
            let (topic, partition) = (assignment.topic(), assignment.partition());
            match self.asker.fetch_watermarks(topic, partition, ASK_TIMEOUT) {
                Ok((low, high)) => {
                    // Before the first commit everything there is counts.
                    let next = assignment.committable().or_else(|| assignment.first_read()).unwrap_or(low).max(low);
                    self.metrics
                        .consumer_lag
                        .with_label_values(&[&**topic, partition.to_string().as_str()])
                        .set((high - next).max(0));
                    exported.push((Arc::clone(topic), partition));
                }
                Err(error) => tracing::debug!(topic = &**topic, partition, %error, "no answer about a partition's end"),
            }
        }
        for (topic, partition) in self.exported.iter().filter(|gone| !exported.contains(gone)) {
            if let Err(error) =
                self.metrics.consumer_lag.remove_label_values(&[&**topic, partition.to_string().as_str()])
            {
                tracing::debug!(%error, "no gauge of a partition that went");
            }
        }
        self.exported = exported;
    }
}
