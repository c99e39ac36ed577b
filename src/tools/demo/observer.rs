//! Reads several topics without a group and without commits, and asks what groups have committed. It checks the worker and never serves
//! it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use crate::domain::headers::Wire;
use crate::kafka::client::{ClientLog, table_consumer_config};
use crate::kafka::headers::readable_headers;
use crate::kafka::listing::partitions_of;
use crate::kafka::table_reader::CompactedError;
use crate::settings;

/// How long a broker may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading to the end may take.
const TO_END_TIMEOUT: Duration = Duration::from_secs(30);
/// Records that are read before the caller can stop it.
const BATCH: usize = 1024;

/// A partition's topic and number.
pub(crate) type TopicPartition = (String, i32);

/// Why a topic can't be observed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserverError {
    /// The client library's error.
    #[error("topics cannot be observed")]
    Kafka(#[from] KafkaError),
    /// The places of webhooks that are behind can't be read.
    #[error("the backlog topic cannot be read")]
    Places(#[from] CompactedError),
    /// The end of a partition was not reached in time.
    #[error("topic `{topic}` partition {partition} was not read to its end, offset {end}, within {TO_END_TIMEOUT:?}")]
    EndNotReached { topic: String, partition: i32, end: i64 },
}

/// One record.
pub(crate) struct Seen<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) value: Option<&'a [u8]>,
    /// Its headers, as far as they are the service's own.
    pub(crate) wire: Wire,
}

/// Topics under observation.
pub(crate) struct Observer {
    consumer: BaseConsumer<ClientLog>,
    /// The offset to be read next, by partition.
    next: BTreeMap<TopicPartition, i64>,
}

impl Observer {
    /// Starts to read `topics` from their beginnings. Blocks.
    ///
    /// # Errors
    /// [`ObserverError`]
    pub(crate) fn open(kafka: &settings::Kafka, topics: &[String]) -> Result<Self, ObserverError> {
        let consumer = client(kafka, "observer")?;
        let mut next = BTreeMap::new();
        for topic in topics {
            next.extend(partitions(&consumer, topic)?.into_iter().map(|partition| (partition, 0)));
        }
        Self::from(consumer, next)
    }

    /// Starts to read at these offsets. Blocks.
    ///
    /// # Errors
    /// [`ObserverError`]
    pub(crate) fn open_at(kafka: &settings::Kafka, next: BTreeMap<TopicPartition, i64>) -> Result<Self, ObserverError> {
        Self::from(client(kafka, "observer")?, next)
    }

    fn from(consumer: BaseConsumer<ClientLog>, next: BTreeMap<TopicPartition, i64>) -> Result<Self, ObserverError> {
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), offset) in &next {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        consumer.assign(&assignment)?;
        Ok(Self { consumer, next })
    }

    /// Reads up to a batch, waiting at most `wait` for its first record. Blocks.
    ///
    /// # Errors
    /// The consumer can't go on.
    pub(crate) fn read(&mut self, wait: Duration, mut each: impl FnMut(Seen<'_>)) -> Result<(), ObserverError> {
        let mut wait = wait;
        for _ in 0..BATCH {
            match self.consumer.poll(wait) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                    let wire = message.headers().map(|headers| Wire::read(readable_headers(headers)));
                    self.next.insert((topic.to_owned(), partition), offset + 1);
                    let wire = wire.unwrap_or_default();
                    each(Seen { topic, partition, offset, value: message.payload(), wire });
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error.into()),
                Some(Err(error)) => tracing::debug!(%error, "a poll failed"),
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Reads on to the ends that the topics have now. Blocks.
    ///
    /// # Errors
    /// An end can't be found out, or is not reached in time.
    pub(crate) fn read_to_end(&mut self, mut each: impl FnMut(Seen<'_>)) -> Result<(), ObserverError> {
        let mut ends = Vec::new();
        for (topic, partition) in self.next.keys() {
            let (_, end) = self.consumer.fetch_watermarks(topic, *partition, ANSWER_TIMEOUT)?;
            ends.push(((topic.clone(), *partition), end));
        }
        let deadline = Instant::now() + TO_END_TIMEOUT;
        loop {
            let behind = ends.iter().find(|(partition, end)| self.next.get(partition).is_some_and(|next| next < end));
            let Some(((topic, partition), end)) = behind else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(ObserverError::EndNotReached { topic: topic.clone(), partition: *partition, end: *end });
            }
            self.read(Duration::from_millis(50), &mut each)?;
        }
    }
}

/// What `group` has committed for every partition of `topics`; 0 where it has committed nothing. Blocks.
///
/// # Errors
/// The brokers do not answer.
pub(crate) fn committed(
    kafka: &settings::Kafka,
    group: &str,
    topics: &[String],
) -> Result<BTreeMap<TopicPartition, i64>, ObserverError> {
    let as_group = settings::Kafka { group: group.to_owned(), ..kafka.clone() };
    let mut config = table_consumer_config(&as_group, "observer");
    config.set("group.id", group);
    let consumer: BaseConsumer<ClientLog> = config.create_with_context(ClientLog::new("observer"))?;
    let mut asked = TopicPartitionList::new();
    for topic in topics {
        for (topic, partition) in partitions(&consumer, topic)? {
            asked.add_partition(&topic, partition);
        }
    }
    let answered = consumer.committed_offsets(asked, ANSWER_TIMEOUT)?;
    let offset_of = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
    let elements = answered.elements();
    Ok(elements.iter().map(|each| ((each.topic().to_owned(), each.partition()), offset_of(each.offset()))).collect())
}

fn client(kafka: &settings::Kafka, role: &'static str) -> Result<BaseConsumer<ClientLog>, KafkaError> {
    let mut config = table_consumer_config(kafka, role);
    // The event for the end of a partition has no topic name, so it is useless with several topics.
    config.set("enable.partition.eof", "false");
    config.create_with_context(ClientLog::new(role))
}

fn partitions(consumer: &BaseConsumer<ClientLog>, topic: &str) -> Result<Vec<TopicPartition>, KafkaError> {
    let partitions = partitions_of(consumer.client(), topic, ANSWER_TIMEOUT)?;
    Ok(partitions.into_iter().map(|id| (topic.to_owned(), id)).collect())
}
