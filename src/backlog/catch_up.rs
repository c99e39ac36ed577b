//! The catch-up reader: it reads the events topic a second time, for webhooks that are behind, only as far as they have room. It is in no
//! group and has one queue for each partition. What it does not poll stays in the client's bounded prefetch. The pipeline matches the
//! records, not this file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _, OwnedMessage};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use crate::kafka::client::{ClientLog, catch_up_reader_config};
use crate::settings;

/// How long a seek may take: the client does it without asking a broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the brokers may take to say where a log begins.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a partition that is to be read gives nothing, not even its end, until it is begun again: longer than brokers need for another
/// leader. There were faults of the client that a new beginning ended.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One partition that is read.
struct Source {
    queue: PartitionQueue<ClientLog>,
    /// Since when polls give nothing.
    silent: Cell<Option<Instant>>,
    /// The record that no webhook had room for.
    stalled: Option<OwnedMessage>,
}

impl Source {
    fn new(queue: PartitionQueue<ClientLog>) -> Self {
        Self { queue, silent: Cell::new(None), stalled: None }
    }

    /// A poll gave nothing.
    fn silence<'a>(&self, partition: i32) -> Next<'a> {
        let now = Instant::now();
        let since = self.silent.get().unwrap_or(now);
        self.silent.set(Some(since));
        if now.saturating_duration_since(since) < SILENCE_MAX {
            return Next::Nothing;
        }
        tracing::warn!(partition, "no event came for webhooks that are behind; the partition is read again");
        Next::Lost
    }
}

/// What a poll gives.
pub(crate) enum Next<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// The end of the partition, for now.
    End,
    /// The partition is not read until it is begun again. Mostly the log does not have the offset that comes next: it begins later by now,
    /// or it is another log.
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

    /// Reads a partition on from `offset`. After an error the next call assigns the partition again: the client refuses to seek in a
    /// partition that it stopped reading, and reports why it stopped only to a poll.
    ///
    /// # Errors
    /// What the client says.
    pub(crate) fn begin(&mut self, partition: i32, offset: i64) -> KafkaResult<()> {
        if let Some(source) = self.sources.get_mut(&partition) {
            source.stalled = None;
            source.silent.set(None);
            let moved = self.consumer.seek(&self.topic, partition, Offset::Offset(offset), SEEK_TIMEOUT);
            if moved.is_err() {
                self.end(partition);
            }
            return moved;
        }
        // Each time, since the client forgets a partition that it does not read when the brokers do not name it, and makes another queue.
        let queue = self.consumer.split_partition_queue(&self.topic, partition);
        let queue = queue.ok_or_else(|| KafkaError::Subscription(format!("partition {partition}")))?;
        let mut came = TopicPartitionList::new();
        came.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        self.consumer.incremental_assign(&came)?;
        self.sources.insert(partition, Source::new(queue));
        Ok(())
    }

    /// Stops reading a partition.
    pub(crate) fn end(&mut self, partition: i32) {
        if self.sources.remove(&partition).is_none() {
            return;
        }
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
        let Some(source) = self.sources.get(&partition) else { return Ok(Next::Lost) };
        let polled = source.queue.poll(Duration::ZERO);
        if polled.is_some() {
            source.silent.set(None);
        }
        match polled {
            None => Ok(source.silence(partition)),
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
    pub(crate) fn serve(&mut self) {
        match self.consumer.poll(Duration::ZERO).map(|polled| polled.map(|message| message.partition())) {
            None => {}
            Some(Err(error)) => tracing::debug!(%error, "a poll for webhooks that are behind failed"),
            // The client has made another queue for it.
            Some(Ok(partition)) => self.end(partition),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::kafka::test_broker;

    /// Calls `attempt` until it returns something.
    fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "waited for {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Reads on until a record comes. What is lost is begun again at `offset`.
    fn next_offset(reader: &mut CatchUpReader, offset: i64) -> i64 {
        wait_for("a record", || match reader.poll(0) {
            Ok(Next::Record(message)) => Some(message.offset()),
            Ok(Next::Lost) => {
                reader.end(0);
                reader.begin(0, offset).expect("the partition is begun again");
                None
            }
            _ => None,
        })
    }

    #[test]
    fn a_partition_that_the_client_stopped_reading_can_be_begun_again_before_its_error_was_polled() {
        let records: Vec<_> = (0..10).map(|_| ("", "{}")).collect();
        let (cluster, kafka) = test_broker::that_holds("events", &records);
        let mut reader = CatchUpReader::new(&kafka, "events").expect("a reader");
        reader.begin(0, 3).expect("the partition is read");
        assert_eq!(next_offset(&mut reader, 3), 3);
        // The client stops at the broker's error, and reports it only to a poll. A seek makes it ignore an answer that comes later, so there
        // are several errors.
        cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE; 100]);
        wait_for("a seek that fails", || {
            std::thread::park_timeout(Duration::from_millis(200));
            reader.begin(0, 5).err()
        });
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        wait_for("a begin that succeeds", || reader.begin(0, 5).ok());
        assert_eq!(next_offset(&mut reader, 5), 5);
    }

    #[test]
    fn a_partition_that_the_brokers_did_not_name_while_it_was_not_read_is_read_again() {
        let records: Vec<_> = (0..10).map(|_| ("", "{}")).collect();
        let (cluster, mut kafka) = test_broker::that_holds("events", &records);
        kafka.properties.push(("topic.metadata.propagation.max.ms".to_owned(), "0".to_owned()));
        let mut reader = CatchUpReader::new(&kafka, "events").expect("a reader");
        reader.begin(0, 3).expect("the partition is read");
        assert_eq!(next_offset(&mut reader, 3), 3);
        reader.end(0);
        for error in
            [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR]
        {
            cluster.topic_error("events", error).expect("the topic is there");
            reader.consumer.fetch_metadata(Some("events"), ASK_TIMEOUT).expect("the broker answers");
        }
        reader.begin(0, 5).expect("the partition is read again");
        assert_eq!(next_offset(&mut reader, 5), 5);
    }

    #[test]
    fn a_partition_that_is_not_read_is_lost_and_so_is_one_whose_records_come_elsewhere() {
        let (_cluster, kafka) = test_broker::that_holds("events", &[("", "{}")]);
        let mut reader = CatchUpReader::new(&kafka, "events").expect("a reader");
        assert!(matches!(reader.poll(0), Ok(Next::Lost)));
        let mut elsewhere = TopicPartitionList::new();
        elsewhere.add_partition_offset("events", 0, Offset::Offset(0)).expect("an offset");
        reader.consumer.incremental_assign(&elsewhere).expect("it is assigned");
        let source = reader.consumer.split_partition_queue("events", 1).expect("a queue");
        reader.sources.insert(0, Source::new(source));
        wait_for("the partition to be lost", || {
            reader.serve();
            matches!(reader.poll(0), Ok(Next::Lost)).then_some(())
        });
        reader.begin(0, 0).expect("the partition is read again");
        assert_eq!(next_offset(&mut reader, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_gives_nothing_for_a_minute_is_lost() {
        let (_cluster, kafka) = test_broker::that_holds("events", &[]);
        let mut reader = CatchUpReader::new(&kafka, "events").expect("a reader");
        let queue = reader.consumer.split_partition_queue("events", 0).expect("a queue");
        reader.sources.insert(0, Source::new(queue));
        for (passes, is_lost) in [
            (Duration::ZERO, false),
            (SILENCE_MAX.saturating_sub(Duration::from_secs(1)), false),
            (Duration::from_secs(1), true),
        ] {
            tokio::time::advance(passes).await;
            assert_eq!(matches!(reader.poll(0), Ok(Next::Lost)), is_lost, "after {passes:?} more");
        }
    }
}
