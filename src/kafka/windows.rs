//! Pieces of a topic's partitions, read one after another with one client. A scan from the newest record back is made of them.
//!
//! No group, no commits. The caller decides which pieces; nothing here looks into a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use super::client::{ClientLog, large_window_consumer_config, window_consumer_config};
use super::record_stream::is_transient;
use super::span::{Range, SILENCE_MAX, SpanError};
use super::topic_range::TopicRange;
use crate::kafka::headers::every_header;
use crate::settings;

/// How long one poll waits: bounds how late the reader sees that the caller wants nothing more.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Records between two questions whether the caller wants more: a millisecond or less.
const ASK_EVERY: u32 = 256;

/// A record while it is looked at, without a copy.
pub(crate) struct Glance<'a> {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// When it was written, ms since 1970; 0 where the topic does not say.
    pub(crate) timestamp_ms: i64,
    /// Its key.
    pub(crate) key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    /// Gives its headers, in order, without those whose name is not UTF-8.
    pub(crate) headers: &'a dyn Fn() -> Vec<(&'a str, &'a [u8])>,
}

impl Glance<'_> {
    /// Bytes of key and value.
    pub(crate) fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

/// A client that reads pieces of several topics, one after another: a connection takes longer than a small piece.
pub(crate) struct WindowReader {
    consumer: Arc<BaseConsumer<ClientLog>>,
    kafka: settings::Kafka,
}

impl WindowReader {
    /// A client that connects when it is first asked.
    ///
    /// # Errors
    /// [`SpanError::Kafka`]: its configuration is not valid.
    pub(crate) fn new(kafka: &settings::Kafka, role: &'static str) -> Result<Self, SpanError> {
        let consumer = window_consumer_config(kafka, role).create_with_context(ClientLog::of_tool(role));
        let consumer = consumer.map_err(|source| SpanError::Kafka { topic: role.to_owned(), source })?;
        Ok(Self { consumer: Arc::new(consumer), kafka: kafka.clone() })
    }

    /// Takes the bounds of `topic` as they are now. `&mut`: one topic at a time. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open(&mut self, topic: &str) -> Result<Windows, SpanError> {
        Ok(Windows { topic: TopicRange::open_over(&self.consumer, &self.kafka, topic)? })
    }
}

/// A topic with the bounds it had when it was opened, of which any piece can be read at any time.
pub(crate) struct Windows {
    topic: TopicRange,
}

impl Windows {
    /// Takes the bounds of `topic` as they are now. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, SpanError> {
        Ok(Self { topic: TopicRange::open_with(&window_consumer_config(kafka, role), kafka, topic, role)? })
    }

    /// As [`Windows::open`], for large pieces: it fetches more ahead.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open_large(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, SpanError> {
        Ok(Self { topic: TopicRange::open_with(&large_window_consumer_config(kafka, role), kafka, topic, role)? })
    }

    /// The topic's name.
    pub(crate) fn topic(&self) -> &str {
        self.topic.topic()
    }

    /// All there was when it was opened.
    pub(crate) fn bounds(&self) -> &[Range] {
        self.topic.bounds()
    }

    /// For each partition the first offset of a record of that time or later, or its end. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError::Kafka`]
    pub(crate) fn offsets_at(&self, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, SpanError> {
        self.topic.offsets_at(timestamp_ms)
    }

    /// Reads `ranges`, at most one of each partition, and shows each record to `take`, in the order of offsets within a
    /// partition. Returns whether all was read: not when `wanted` has become false. Blocks; the silence of the brokers is bounded.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn read(
        &self,
        ranges: &[Range],
        wanted: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Glance<'_>),
    ) -> Result<bool, SpanError> {
        let failed = |source| SpanError::Kafka { topic: self.topic().to_owned(), source };
        let mut open: BTreeMap<i32, Range> = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let start = Offset::Offset(range.start);
            assignment.add_partition_offset(self.topic(), range.partition, start).map_err(failed)?;
            open.insert(range.partition, *range);
        }
        let consumer = self.topic.consumer();
        consumer.assign(&assignment).map_err(failed)?;
        let (mut silence, mut is_queue_empty, mut since_asked) = (Silence::default(), false, 0_u32);
        while let Some((_, first)) = open.first_key_value() {
            if is_queue_empty || since_asked >= ASK_EVERY {
                since_asked = 0;
                if !wanted() {
                    break;
                }
            }
            since_asked += 1;
            // A poll that does not wait needs no clock, which takes longer than most records do.
            let polled = consumer.poll(if is_queue_empty { POLL_WAIT } else { Duration::ZERO });
            is_queue_empty = polled.is_none();
            match polled {
                Some(Ok(message)) => {
                    silence.ends();
                    let Some(range) = open.get_mut(&message.partition()) else { continue };
                    if (range.start..range.end).contains(&message.offset()) {
                        range.start = message.offset() + 1;
                        shown(&message, take);
                    }
                    if message.offset() + 1 >= range.end {
                        open.remove(&message.partition());
                    }
                }
                // The end now is not before the end at the start.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    silence.ends();
                    open.remove(&partition);
                }
                Some(Err(source)) if !is_transient(&source) => return Err(failed(source)),
                Some(Err(_)) | None if silence.is_too_long() => {
                    let (partition, offset) = (first.partition, first.start);
                    return Err(SpanError::Silent { topic: self.topic().to_owned(), partition, offset });
                }
                Some(Err(_)) | None => {}
            }
        }
        // Nothing more is fetched ahead until the caller reads again.
        consumer.unassign().map_err(failed)?;
        Ok(open.is_empty())
    }
}

/// Since when the brokers give nothing.
#[derive(Default)]
struct Silence(Option<Instant>);

impl Silence {
    fn ends(&mut self) {
        self.0 = None;
    }

    /// The silence begins or goes on. Returns whether it has lasted for [`SILENCE_MAX`].
    fn is_too_long(&mut self) -> bool {
        self.0.get_or_insert_with(Instant::now).elapsed() >= SILENCE_MAX
    }
}

fn shown(message: &rdkafka::message::BorrowedMessage<'_>, take: &mut dyn FnMut(&Glance<'_>)) {
    let headers = || {
        let headers = message
            .headers()
            .map(|headers| every_header(headers).filter_map(|(name, value)| Some((name, value?))).collect::<Vec<_>>());
        headers.unwrap_or_default()
    };
    take(&Glance {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key(),
        value: message.payload(),
        headers: &headers,
    });
}
