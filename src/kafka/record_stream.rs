//! Reads pieces of a topic's partitions as one stream, in the order of time. [`super::topic_range`] says which pieces.
//!
//! Partitions are merged by their records' timestamps, with one record of each in memory. So the client's prefetch bounds the memory,
//! whatever the topic's size.
//!
//! Waiting: the reading thread waits for the brokers and for room in the channel, the tool for the channel.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::ClientLog;
use super::span::{Range, SILENCE_MAX, SpanError, SpanRecord};

/// How long one poll waits: bounds how late the reader sees that the caller wants nothing more.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Records between the reading thread and the tool.
const AHEAD_MAX: usize = 64;

/// The records of a piece of a topic, in the order of time.
pub(crate) struct RecordStream {
    topic: String,
    ranges: Vec<Range>,
    records: mpsc::Receiver<Result<SpanRecord, SpanError>>,
    thread: JoinSet<()>,
}

impl RecordStream {
    /// Begins to read `ranges` of `topic` on a thread of its own. None of them is empty.
    ///
    /// # Errors
    /// [`SpanError::Kafka`]
    pub(super) fn begin(
        consumer: Arc<BaseConsumer<ClientLog>>,
        topic: String,
        ranges: Vec<Range>,
    ) -> Result<Self, SpanError> {
        let merge = Merge::begin(consumer, topic.clone(), &ranges)?;
        let (sender, records) = mpsc::channel(AHEAD_MAX);
        let mut thread = JoinSet::new();
        thread.spawn_blocking(move || merge.run(&sender));
        Ok(Self { topic, ranges, records, thread })
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// What is read.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The next record. `None` when all have been read.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`SpanError`]: then nothing more comes.
    pub(crate) async fn next(&mut self) -> Result<Option<SpanRecord>, SpanError> {
        if let Some(item) = self.records.recv().await {
            return item.map(Some);
        }
        match self.thread.join_next().await {
            Some(Err(_panicked)) => Err(SpanError::Ended(self.topic.clone())),
            Some(Ok(())) | None => Ok(None),
        }
    }
}

/// What a partition's queue gives.
enum Item {
    Record(SpanRecord),
    End,
}

/// One partition under reading.
struct Cursor {
    range: Range,
    queue: PartitionQueue<ClientLog>,
    /// What came before the partition had a queue of its own.
    early: VecDeque<Item>,
    head: Option<SpanRecord>,
    next: i64,
}

impl Cursor {
    fn take(&mut self, item: Item) {
        match item {
            Item::Record(record) if record.offset >= self.range.end => self.next = self.range.end,
            // The end now is not before the end at the start.
            Item::End => self.next = self.range.end,
            Item::Record(record) if record.offset < self.next => {}
            Item::Record(record) => {
                self.next = record.offset + 1;
                self.head = Some(record);
            }
        }
    }

    fn wants(&self) -> bool {
        self.head.is_none() && self.next < self.range.end
    }
}

struct Merge {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
    cursors: Vec<Cursor>,
}

impl Merge {
    fn begin(consumer: Arc<BaseConsumer<ClientLog>>, topic: String, ranges: &[Range]) -> Result<Self, SpanError> {
        let failed = |source| SpanError::Kafka { topic: topic.clone(), source };
        let mut assignment = TopicPartitionList::new();
        for range in ranges {
            let start = Offset::Offset(range.start);
            assignment.add_partition_offset(&topic, range.partition, start).map_err(failed)?;
        }
        consumer.assign(&assignment).map_err(failed)?;
        let mut cursors = Vec::new();
        for range in ranges {
            let queue = consumer.split_partition_queue(&topic, range.partition);
            let queue =
                queue.ok_or_else(|| failed(KafkaError::Subscription(format!("partition {}", range.partition))))?;
            cursors.push(Cursor { range: *range, queue, early: VecDeque::new(), head: None, next: range.start });
        }
        Ok(Self { consumer, topic, cursors })
    }

    /// Hands over all records. Blocks its thread.
    fn run(mut self, sender: &mpsc::Sender<Result<SpanRecord, SpanError>>) {
        let mut goes_on = true;
        while goes_on {
            let next = self.next(&|| sender.is_closed());
            goes_on = matches!(next, Ok(Some(_)));
            // A receiver that is gone gets nothing more, not even the reason of the end.
            goes_on &= next.transpose().is_some_and(|item| sender.blocking_send(item).is_ok());
        }
    }

    /// The oldest of all next records. `None` at the end, or when the caller wants nothing more. Blocks.
    fn next(&mut self, is_unwanted: &dyn Fn() -> bool) -> Result<Option<SpanRecord>, SpanError> {
        for index in 0..self.cursors.len() {
            let asked = Instant::now();
            while self.cursors.get(index).is_some_and(Cursor::wants) && !is_unwanted() {
                self.advance(index, asked)?;
            }
        }
        if is_unwanted() {
            return Ok(None);
        }
        let oldest = self.cursors.iter_mut().filter(|cursor| cursor.head.is_some());
        let oldest = oldest
            .min_by_key(|cursor| (cursor.head.as_ref().and_then(|head| head.timestamp_ms), cursor.range.partition));
        let Some(cursor) = oldest else { return Ok(None) };
        let record = cursor.head.take();
        let (partition, is_read) = (cursor.range.partition, cursor.next >= cursor.range.end);
        if is_read {
            self.rest(partition);
        }
        Ok(record)
    }

    /// Takes one item of a partition, waiting a little for it.
    fn advance(&mut self, index: usize, asked: Instant) -> Result<(), SpanError> {
        self.serve()?;
        let Some(cursor) = self.cursors.get_mut(index) else { return Ok(()) };
        if let Some(item) = cursor.early.pop_front() {
            cursor.take(item);
            return Ok(());
        }
        let item = match cursor.queue.poll(POLL_WAIT) {
            Some(Ok(message)) => Some(Item::Record(SpanRecord::of(&message))),
            Some(Err(KafkaError::PartitionEOF(_))) => Some(Item::End),
            Some(Err(source)) if !is_transient(&source) => {
                return Err(SpanError::Kafka { topic: self.topic.clone(), source });
            }
            Some(Err(_)) | None => None,
        };
        match item {
            Some(item) => cursor.take(item),
            None if asked.elapsed() >= SILENCE_MAX => {
                let (partition, offset) = (cursor.range.partition, cursor.next);
                return Err(SpanError::Silent { topic: self.topic.clone(), partition, offset });
            }
            None => {}
        }
        Ok(())
    }

    /// Serves the client's own queue: its callbacks, and what was fetched before the partitions had theirs.
    fn serve(&mut self) -> Result<(), SpanError> {
        while let Some(polled) = self.consumer.poll(Duration::ZERO) {
            let (partition, item) = match polled {
                Ok(message) => (message.partition(), Item::Record(SpanRecord::of(&message))),
                Err(KafkaError::PartitionEOF(partition)) => (partition, Item::End),
                Err(source) if is_transient(&source) => continue,
                Err(source) => return Err(SpanError::Kafka { topic: self.topic.clone(), source }),
            };
            if let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.range.partition == partition) {
                cursor.early.push_back(item);
            }
        }
        Ok(())
    }

    /// Stops fetching a partition that is read to its end.
    fn rest(&self, partition: i32) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        if let Err(error) = self.consumer.pause(&list) {
            tracing::debug!(topic = self.topic, partition, %error, "a partition could not be paused");
        }
    }
}

/// Whether the client goes on by itself after this error. The bound on silence is there for those that do not end.
pub(super) fn is_transient(error: &KafkaError) -> bool {
    let refused = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::Fatal
        )
    );
    !refused && !matches!(error, KafkaError::MessageConsumptionFatal(_))
}
