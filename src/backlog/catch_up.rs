//! The catch-up reader: it reads the events topic a second time, for webhooks that are behind, only as far as they have room. It is in no
//! group and has one queue for each partition. What it does not poll stays in the client's bounded prefetch. The pipeline matches the
//! records, not this file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;

use crate::kafka::client::{ClientLog, catch_up_reader_config};
use crate::settings;

/// How long a seek may take: the client does it without asking a broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the brokers may take to say where a log begins.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// One partition.
struct Source {
    queue: PartitionQueue<ClientLog>,
    is_assigned: bool,
    /// The record that no webhook had room for.
    stalled: Option<OwnedMessage>,
}

/// What a poll gives.
pub(crate) enum Next<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// The end of the partition, for now.
    End,
    /// The log does not have the offset that comes next: it begins later by now, or it is another log. The partition is not read any
    /// more until it is begun again.
    Lost,
    /// Nothing yet.
    Nothing,
}

/// Reads the events topic for webhooks that are behind.
pub(crate) struct CatchUpReader {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
    sources: BTreeMap<i32, Source>,
}

impl CatchUpReader {
    /// A reader of `topic`, which reads nothing yet.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(kafka: &settings::Kafka, topic: &str) -> KafkaResult<Self> {
        let consumer = catch_up_reader_config(kafka).create_with_context(ClientLog::new("catch-up"))?;
        Ok(Self { consumer: Arc::new(consumer), topic: topic.to_owned(), sources: BTreeMap::new() })
    }

    /// Reads a partition on from `offset`.
    ///
    /// # Errors
    /// What the client says.
    pub(crate) fn begin(&mut self, partition: i32, offset: i64) -> KafkaResult<()> {
        if !self.sources.contains_key(&partition) {
            let queue = self.consumer.split_partition_queue(&self.topic, partition);
            let queue = queue.ok_or_else(|| KafkaError::Subscription(format!("partition {partition}")))?;
            let source = Source { queue, is_assigned: false, stalled: None };
            self.sources.insert(partition, source);
        }
        let Some(source) = self.sources.get_mut(&partition) else { return Ok(()) };
        source.stalled = None;
        if source.is_assigned {
            return self.consumer.seek(&self.topic, partition, Offset::Offset(offset), SEEK_TIMEOUT);
        }
        let mut came = TopicPartitionList::new();
        came.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        self.consumer.incremental_assign(&came)?;
        source.is_assigned = true;
        Ok(())
    }

    /// Stops reading a partition.
    pub(crate) fn end(&mut self, partition: i32) {
        let Some(source) = self.sources.get_mut(&partition).filter(|source| source.is_assigned) else { return };
        source.is_assigned = false;
        source.stalled = None;
        let mut gone = TopicPartitionList::new();
        gone.add_partition(&self.topic, partition);
        if let Err(error) = self.consumer.incremental_unassign(&gone) {
            tracing::warn!(partition, %error, "a partition is still read for webhooks that are behind");
        }
    }

    /// The record that no webhook had room for the last time.
    pub(crate) fn take_stalled(&mut self, partition: i32) -> Option<OwnedMessage> {
        self.sources.get_mut(&partition)?.stalled.take()
    }

    /// Keeps a record until a webhook has room.
    pub(crate) fn stall(&mut self, partition: i32, message: OwnedMessage) {
        if let Some(source) = self.sources.get_mut(&partition) {
            source.stalled = Some(message);
        }
    }

    /// What comes next in a partition, without waiting.
    pub(crate) fn poll(&self, partition: i32) -> KafkaResult<Next<'_>> {
        let Some(source) = self.sources.get(&partition) else { return Ok(Next::Nothing) };
        match source.queue.poll(Duration::ZERO) {
            None => Ok(Next::Nothing),
            Some(Ok(message)) => Ok(Next::Record(message)),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Next::End),
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => Ok(Next::Lost),
            Some(Err(error)) => Err(error),
        }
    }

    /// Where the log of a partition begins now. Blocks for a bounded time.
    ///
    /// # Errors
    /// The brokers do not say.
    pub(crate) fn log_start(&self, partition: i32) -> KafkaResult<i64> {
        self.consumer.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT).map(|(low, _high)| low)
    }

    /// Serves the client, which reports here the errors that belong to no partition.
    pub(crate) fn serve(&self) {
        if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
            tracing::debug!(%error, "a poll for webhooks that are behind failed");
        }
    }
}
