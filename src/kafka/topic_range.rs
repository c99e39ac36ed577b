//! A bounded piece of a topic, read in the order of time: what the tools look through.
//!
//! The end is taken when the topic is opened, so a tool never chases what it writes itself, nor what others write
//! meanwhile. Partitions are merged by their records' timestamps, one record of each in hand: memory is bounded by the
//! client's prefetch, whatever the topic's size. No group, no commits.
//!
//! Who waits for whom: the reading thread waits for the brokers and for room in the channel, the tool for the channel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{ClientLog, span_consumer_config};
use super::listing::partitions_of;
use crate::domain::headers::{Wire, workspace_of};
use crate::kafka::headers::every_header;
use crate::settings;

/// How long the brokers may take for one answer before a tool gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to listen for what the client has to say about a connection.
const LISTEN: Duration = Duration::from_millis(100);
/// After this long the user is told that the brokers have not answered.
pub(crate) const SAY_AFTER: Duration = Duration::from_secs(2);
/// How long a partition may give nothing, neither a record nor its end. Above it the brokers are gone.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long one poll waits: bounds how late it is seen that the caller wants no more.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Records between the reading thread and the tool.
const AHEAD_MAX: usize = 64;

/// Why a topic can't be looked through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpanError {
    /// Nobody answers.
    #[error("no broker of `{brokers}` answers within {} s{}", ANSWER_TIMEOUT.as_secs(), behind_colon(cause.as_deref()))]
    NoBroker {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said last about a connection.
        cause: Option<String>,
    },
    /// It is not there.
    #[error("topic `{0}` does not exist; `hookstream topics apply` creates it")]
    NoTopic(String),
    /// A record is not there.
    #[error("there is no record {topic}/{partition}/{offset}: {instead}")]
    NoRecord {
        /// The topic asked for.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// What there is.
        instead: String,
    },
    /// The brokers stopped to answer.
    #[error("nothing came from {topic}/{partition}/{offset} for {} s: the brokers do not answer", SILENCE_MAX.as_secs())]
    Silent {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was to come.
        offset: i64,
    },
    /// Kafka refuses.
    #[error("topic `{topic}` cannot be read")]
    Kafka {
        /// The topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
    /// The reading thread ended without having said why.
    #[error("the reading of topic `{0}` ended without being asked to; see the log")]
    Ended(String),
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanRecord {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// ms since 1970.
    pub(crate) timestamp_ms: Option<i64>,
    /// Its key.
    pub(crate) key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
    /// Its headers, in order. One whose name is not UTF-8 is left out.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

impl SpanRecord {
    /// What its headers say.
    pub(crate) fn wire(&self) -> Wire {
        Wire::read(self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?))))
    }

    /// The workspace of an event, as the worker reads it.
    pub(crate) fn workspace(&self) -> Option<&str> {
        let headers = self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        workspace_of(headers, self.key.as_deref())
    }

    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            every_header(headers).map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice))).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: headers.unwrap_or_default(),
        }
    }
}

/// Offsets of one partition: from `start`, up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The partition.
    pub(crate) partition: i32,
    /// The first offset.
    pub(crate) start: i64,
    /// The first offset that is not read.
    pub(crate) end: i64,
}

impl Range {
    /// How many offsets it spans: no fewer than it has records.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A topic with the bounds it had when it was opened.
pub(crate) struct TopicRange {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
    bounds: Vec<Range>,
}

/// Makes sure that the brokers answer and that `topic` exists. Blocks for a bounded time.
///
/// # Errors
/// [`SpanError`]
pub(crate) fn check_topic(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<(), SpanError> {
    let consumer = consumer(&span_consumer_config(kafka, role), topic, role)?;
    partitions(&consumer, kafka, topic).map(|_partitions| ())
}

fn consumer(config: &ClientConfig, topic: &str, role: &'static str) -> Result<BaseConsumer<ClientLog>, SpanError> {
    config
        .create_with_context(ClientLog::of_tool(role))
        .map_err(|source| SpanError::Kafka { topic: topic.to_owned(), source })
}

fn partitions(consumer: &BaseConsumer<ClientLog>, kafka: &settings::Kafka, topic: &str) -> Result<Vec<i32>, SpanError> {
    let asked = partitions_of(consumer.client(), topic, SAY_AFTER).or_else(|error| {
        if !is_away(&error) {
            return Err(error);
        }
        tracing::warn!(brokers = kafka.brokers, cause = cause(consumer), "no broker answers yet, still trying");
        partitions_of(consumer.client(), topic, ANSWER_TIMEOUT.saturating_sub(SAY_AFTER))
    });
    match asked {
        Ok(partitions) if partitions.is_empty() => Err(SpanError::NoTopic(topic.to_owned())),
        Ok(partitions) => Ok(partitions),
        Err(error) if is_away(&error) => {
            Err(SpanError::NoBroker { brokers: kafka.brokers.clone(), cause: cause(consumer) })
        }
        Err(source) => Err(SpanError::Kafka { topic: topic.to_owned(), source }),
    }
}

fn behind_colon(text: Option<&str>) -> String {
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

/// What the client said last about what ails it, without the names it gives its threads and states.
fn cause(consumer: &BaseConsumer<ClientLog>) -> Option<String> {
    // Its words come out of the queue that a poll serves; nothing is assigned yet, so no record is lost.
    let until = Instant::now() + LISTEN;
    while consumer.context().last_error().is_none() && Instant::now() < until {
        if let Some(Err(error)) = consumer.poll(LISTEN) {
            tracing::debug!(%error, "a client that is not connected");
        }
    }
    consumer.context().last_error()
}

/// Whether no broker has answered.
fn is_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::AllBrokersDown
        )
    )
}

impl TopicRange {
    /// Takes the bounds of `topic` as they are now. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, SpanError> {
        Self::open_with(&span_consumer_config(kafka, role), kafka, topic, role)
    }

    /// The same with a client of another configuration.
    pub(super) fn open_with(
        config: &ClientConfig,
        kafka: &settings::Kafka,
        topic: &str,
        role: &'static str,
    ) -> Result<Self, SpanError> {
        let consumer = consumer(config, topic, role)?;
        let mut bounds = Vec::new();
        for partition in partitions(&consumer, kafka, topic)? {
            let (start, end) = consumer
                .fetch_watermarks(topic, partition, ANSWER_TIMEOUT)
                .map_err(|source| SpanError::Kafka { topic: topic.to_owned(), source })?;
            bounds.push(Range { partition, start, end });
        }
        Ok(Self { consumer: Arc::new(consumer), topic: topic.to_owned(), bounds })
    }

    /// The client.
    pub(super) fn consumer(&self) -> &BaseConsumer<ClientLog> {
        &self.consumer
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// All there was when it was opened.
    pub(crate) fn bounds(&self) -> &[Range] {
        &self.bounds
    }

    /// For each partition the first offset of a record of that time or later, or its end. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError::Kafka`]
    pub(crate) fn offsets_at(&self, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, SpanError> {
        let failed = |source| SpanError::Kafka { topic: self.topic.clone(), source };
        let mut asked = TopicPartitionList::new();
        for range in &self.bounds {
            let time = Offset::Offset(timestamp_ms.max(0));
            asked.add_partition_offset(&self.topic, range.partition, time).map_err(failed)?;
        }
        let answered = self.consumer.offsets_for_times(asked, ANSWER_TIMEOUT).map_err(failed)?;
        let mut offsets = BTreeMap::new();
        for element in answered.elements() {
            element.error().map_err(failed)?;
            let range = self.bounds.iter().find(|range| range.partition == element.partition());
            let end = range.map_or(0, |range| range.end);
            let offset = if let Offset::Offset(offset) = element.offset() { offset.min(end) } else { end };
            offsets.insert(element.partition(), offset);
        }
        Ok(offsets)
    }

    /// The range that holds only this record.
    ///
    /// # Errors
    /// [`SpanError::NoRecord`] when the topic has no such offset.
    pub(crate) fn only(&self, partition: i32, offset: i64) -> Result<Range, SpanError> {
        let none = |instead| SpanError::NoRecord { topic: self.topic.clone(), partition, offset, instead };
        let bounds = self.bounds.iter().find(|range| range.partition == partition);
        let bounds = bounds.ok_or_else(|| none(format!("the topic has {} partitions", self.bounds.len())))?;
        if bounds.is_empty() {
            return Err(none("the partition is empty".to_owned()));
        }
        if !(bounds.start..bounds.end).contains(&offset) {
            return Err(none(format!("the partition's offsets are {} to {}", bounds.start, bounds.end - 1)));
        }
        Ok(Range { partition, start: offset, end: offset + 1 })
    }

    /// Begins to read `ranges` on a thread of its own.
    ///
    /// # Errors
    /// [`SpanError::Kafka`]
    pub(crate) fn read(self, ranges: &[Range]) -> Result<RecordStream, SpanError> {
        let topic = self.topic.clone();
        let ranges: Vec<Range> = ranges.iter().filter(|range| !range.is_empty()).copied().collect();
        let merge = Merge::begin(self, &ranges)?;
        let (sender, records) = mpsc::channel(AHEAD_MAX);
        let mut thread = JoinSet::new();
        thread.spawn_blocking(move || merge.run(&sender));
        Ok(RecordStream { topic, ranges, records, thread })
    }
}

/// The records of a [`TopicRange`], in the order of time.
pub(crate) struct RecordStream {
    topic: String,
    ranges: Vec<Range>,
    records: mpsc::Receiver<Result<SpanRecord, SpanError>>,
    thread: JoinSet<()>,
}

impl RecordStream {
    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// What is read.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The next record; none when all have been read.
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
            // The end as it is now is not before the end as it was.
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
    fn begin(span: TopicRange, ranges: &[Range]) -> Result<Self, SpanError> {
        let failed = |source| SpanError::Kafka { topic: span.topic.clone(), source };
        let mut assignment = TopicPartitionList::new();
        for range in ranges {
            let start = Offset::Offset(range.start);
            assignment.add_partition_offset(&span.topic, range.partition, start).map_err(failed)?;
        }
        span.consumer.assign(&assignment).map_err(failed)?;
        let mut cursors = Vec::new();
        for range in ranges {
            let queue = span.consumer.split_partition_queue(&span.topic, range.partition);
            let queue =
                queue.ok_or_else(|| failed(KafkaError::Subscription(format!("partition {}", range.partition))))?;
            cursors.push(Cursor { range: *range, queue, early: VecDeque::new(), head: None, next: range.start });
        }
        Ok(Self { consumer: span.consumer, topic: span.topic, cursors })
    }

    /// Hands over all records. Blocks its thread.
    fn run(mut self, sender: &mpsc::Sender<Result<SpanRecord, SpanError>>) {
        let mut goes_on = true;
        while goes_on {
            let next = self.next(&|| sender.is_closed());
            goes_on = matches!(next, Ok(Some(_)));
            // A receiver that is gone wants nothing more, the reason of the end included.
            goes_on &= next.transpose().is_some_and(|item| sender.blocking_send(item).is_ok());
        }
    }

    /// The oldest of all next records; `None` at the end, or when the caller wants no more. Blocks.
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

    /// Fetches no more of a partition that is read to its end.
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
