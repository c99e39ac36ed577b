//! Reading a compacted topic as a table: all partitions from the start to the end there was, then following it.
//!
//! No group and no committed offsets: every process reads everything. The end of a partition is what the client calls so
//! (its end-of-partition event): counting to the last offset would hang on a topic whose tail was compacted away or
//! ends in a transaction's marker.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};

use super::client::{ClientLog, table_consumer_config};
use crate::settings;

/// How long the metadata of the topic may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(30);
/// Records between two looks at whether to stop.
const BATCH: usize = 1024;

/// One record of the topic.
pub(crate) struct Row<'a> {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// When it was written, ms since 1970.
    pub(crate) timestamp_ms: i64,
    /// Its key.
    pub(crate) key: &'a [u8],
    /// Its value; none removes the key.
    pub(crate) value: Option<&'a [u8]>,
}

/// Why a topic can't be read as a table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactedError {
    /// It is not there.
    #[error("topic `{0}` does not exist; `hookstream topics apply` creates it")]
    NoTopic(String),
    /// Kafka can't be asked.
    #[error("topic `{topic}` can not be read: {source}")]
    Kafka {
        /// The topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
}

/// A compacted topic under reading.
pub(crate) struct Compacted {
    consumer: BaseConsumer<ClientLog>,
    topic: String,
    /// Partitions that have not reached their end yet.
    behind: HashSet<i32>,
}

impl Compacted {
    /// Starts to read `topic` from its beginning. Blocks its thread for as long as the brokers take to answer.
    ///
    /// # Errors
    /// [`CompactedError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, CompactedError> {
        let failed = |source| CompactedError::Kafka { topic: topic.to_owned(), source };
        let consumer: BaseConsumer<ClientLog> =
            table_consumer_config(kafka, role).create_with_context(ClientLog::new(role)).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT).map_err(failed)?;
        let partitions: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic && found.error().is_none())
            .flat_map(|found| found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id))
            .collect();
        if partitions.is_empty() {
            return Err(CompactedError::NoTopic(topic.to_owned()));
        }
        let mut assignment = TopicPartitionList::new();
        for partition in &partitions {
            assignment.add_partition_offset(topic, *partition, Offset::Beginning).map_err(failed)?;
        }
        consumer.assign(&assignment).map_err(failed)?;
        Ok(Self { consumer, topic: topic.to_owned(), behind: partitions.into_iter().collect() })
    }

    /// Whether every partition has been read to the end it had.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.behind.is_empty()
    }

    /// Reads up to a batch, waiting at most `wait` for its first record. Says how many records there were.
    ///
    /// # Errors
    /// The consumer can't go on.
    pub(crate) fn read(&mut self, wait: Duration, mut row: impl FnMut(Row<'_>)) -> Result<usize, CompactedError> {
        let mut wait = wait;
        for count in 0..BATCH {
            match self.consumer.poll(wait) {
                None => return Ok(count),
                Some(Ok(message)) => row(Row {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
                    key: message.key().unwrap_or_default(),
                    value: message.payload(),
                }),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.behind.remove(&partition);
                    return Ok(count + 1);
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(CompactedError::Kafka { topic: self.topic.clone(), source });
                }
                Some(Err(error)) => tracing::debug!(topic = self.topic, %error, "a poll failed"),
            }
            wait = Duration::ZERO;
        }
        Ok(BATCH)
    }
}
