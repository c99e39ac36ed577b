//! How far behind the events consumer is: asked of the brokers by a client of its own, because the consumer's statistics
//! stand still while a partition is paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionListElem};

use tokio::time::Instant;

use super::membership::GroupMember;
use crate::inflight::partition::Assignment;
use crate::kafka::client::{ClientLog, group_asker_config};
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long a broker may take to say where a partition ends.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all answers together may take: who stops the process waits for no more.
const MEASURE_MAX: Duration = Duration::from_secs(10);

/// Measures the lag.
pub(crate) struct Lag {
    asker: BaseConsumer<ClientLog>,
    membership: Arc<GroupMember>,
    metrics: Arc<Metrics>,
    exported: Vec<(Arc<str>, i32)>,
}

impl Lag {
    /// Of the partitions that `membership` holds.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        membership: Arc<GroupMember>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let asker = group_asker_config(kafka, "lag", &kafka.group).create_with_context(ClientLog::new("lag"))?;
        Ok(Self { asker, membership, metrics, exported: Vec::new() })
    }

    /// Asks for the ends of all partitions held and sets the gauges; those of partitions that went disappear. Blocks.
    pub(crate) fn measure(&mut self) {
        let deadline = Instant::now() + MEASURE_MAX;
        let patience = || deadline.saturating_duration_since(Instant::now()).min(ASK_TIMEOUT);
        let assignments = self.membership.assignments();
        let committed = self.committed(&assignments, patience());
        let mut exported = Vec::new();
        for assignment in &assignments {
            let (topic, partition) = (assignment.topic(), assignment.partition());
            if patience().is_zero() {
                tracing::debug!("the lag of some partitions is not known: brokers take too long to answer");
                break;
            }
            match self.asker.fetch_watermarks(topic, partition, patience()) {
                Ok((low, high)) => {
                    // Before the first commit everything there is counts.
                    let before = || committed.get(&partition).copied().or_else(|| assignment.first_read());
                    let next = assignment.committable().or_else(before).unwrap_or(low).max(low);
                    self.metrics
                        .intake
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
                self.metrics.intake.consumer_lag.remove_label_values(&[&**topic, partition.to_string().as_str()])
            {
                tracing::debug!(%error, "no gauge of a partition that went");
            }
        }
        self.exported = exported;
    }

    /// Where the group had come to in the partitions of which nothing has been settled here.
    fn committed(&self, assignments: &[Arc<Assignment>], patience: Duration) -> BTreeMap<i32, i64> {
        let mut asked = TopicPartitionList::new();
        for assignment in assignments.iter().filter(|assignment| assignment.committable().is_none()) {
            asked.add_partition(assignment.topic(), assignment.partition());
        }
        if asked.count() == 0 {
            return BTreeMap::new();
        }
        match self.asker.committed_offsets(asked, patience) {
            Ok(answered) => {
                let offset = |element: &TopicPartitionListElem<'_>| match element.offset() {
                    Offset::Offset(offset) => Some((element.partition(), offset)),
                    _ => None,
                };
                answered.elements().iter().filter_map(offset).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "no answer about what the group has committed");
                BTreeMap::new()
            }
        }
    }
}
