//! Putting records back into a retry tier, for the tools: acknowledged, or a clear word why not.
//!
//! Unlike the sink, which never gives up, a tool's publication fails after a bounded time: whoever runs the tool decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureProducer;
use rdkafka::topic_partition_list::Offset;

use crate::deliver::publish::{Outgoing, publish_once};
use crate::intake::retries::retry_group;
use crate::kafka::client::{ClientLog, group_asker_config, tool_producer_config};
use crate::kafka::topic_range::{SpanError, check_topic};
use crate::settings;
use crate::topics::cluster::tier_delay;

/// Why a record was not put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequeueError {
    /// The topic does not take records of this size.
    #[error("the record is larger than its topic takes")]
    TooLarge,
    /// The in-sync replicas did not acknowledge it in time. It may still be there.
    #[error("topic `{topic}` did not acknowledge a record: {source}")]
    NotAcknowledged {
        /// The topic.
        topic: Arc<str>,
        /// What the client says.
        source: KafkaError,
    },
}

/// How long the brokers may take to say which tiers are read.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// The tiers with that prefix in which the workers' group has read anything so far. Blocks for a bounded time.
///
/// # Errors
/// The brokers do not answer.
pub(crate) fn tiers_in_use(
    kafka: &settings::Kafka,
    retry_prefix: &str,
    role: &str,
) -> Result<BTreeSet<String>, KafkaError> {
    let group = retry_group(&kafka.group);
    let client: BaseConsumer<ClientLog> =
        group_asker_config(kafka, role, &group).create_with_context(ClientLog::new("tiers"))?;
    let metadata = client.fetch_metadata(None, ASK_TIMEOUT)?;
    let mut asked = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| tier_delay(topic.name(), retry_prefix).is_some()) {
        for partition in topic.partitions() {
            asked.add_partition(topic.name(), partition.id());
        }
    }
    if asked.count() == 0 {
        return Ok(BTreeSet::new());
    }
    let answered = client.committed_offsets(asked, ASK_TIMEOUT)?;
    let read = answered.elements().into_iter().filter(|element| matches!(element.offset(), Offset::Offset(_)));
    Ok(read.map(|element| element.topic().to_owned()).collect())
}

/// A way into one topic.
pub(crate) struct TierProducer {
    producer: FutureProducer<ClientLog>,
    topic: Arc<str>,
}

impl TierProducer {
    /// Makes the producer, after a look whether the topic is there. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: Arc<str>, role: &'static str) -> Result<Self, SpanError> {
        check_topic(kafka, &topic, role)?;
        let producer = tool_producer_config(kafka, role)
            .create_with_context(ClientLog::new(role))
            .map_err(|source| SpanError::Kafka { topic: topic.to_string(), source })?;
        Ok(Self { producer, topic })
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Publishes a record and waits for its acknowledgement, for a bounded time.
    ///
    /// Not cancel safe: a dropped publication may still happen.
    ///
    /// # Errors
    /// [`RequeueError`]
    pub(crate) async fn send(&self, outgoing: &Outgoing) -> Result<(), RequeueError> {
        publish_once(&self.producer, outgoing).await.map_err(|source| match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => RequeueError::TooLarge,
            _ => RequeueError::NotAcknowledged { topic: Arc::clone(&self.topic), source },
        })
    }
}
