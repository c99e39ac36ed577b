//! A bounded piece of a topic, which the tools look through: which offsets it has. [`RecordStream`] reads it.
//!
//! The end is taken when the topic is opened. So a tool does not read what it writes itself, nor what others write meanwhile. No group,
//! no commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tokio::time::Instant;

use super::by_time;
use super::client::{ClientLog, span_consumer_config};
use super::listing::{nearest, partitions_of};
use super::record_stream::RecordStream;
use super::topic_watch;
use crate::domain::headers::{Wire, workspace_of};
use crate::kafka::headers::every_header;
use crate::settings;

/// How long the brokers may take for one answer before a tool gives up.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the client's message about a connection.
const LISTEN: Duration = Duration::from_millis(100);
/// After this long a message says that the brokers have not answered.
pub(crate) const SAY_AFTER: Duration = Duration::from_secs(2);
/// How long a partition may give nothing, neither a record nor its end. Above it the brokers are gone.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Why a topic can't be looked through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpanError {
    /// No broker answers.
    #[error("no broker of `{brokers}` answers within {} s{}", ANSWER_TIMEOUT.as_secs(), behind_colon(cause.as_deref()))]
    NoBroker {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said last about a connection.
        cause: Option<String>,
    },
    /// It is not there.
    #[error(transparent)]
    NoTopic(MissingTopic),
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

/// A topic that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic `{topic}` does not exist{}", meant(near.as_deref()))]
pub(crate) struct MissingTopic {
    /// Its name, as it was given.
    pub(crate) topic: String,
    /// A topic of nearly that name.
    pub(crate) near: Option<String>,
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(
        || "; `hookstream topics apply` creates it".to_owned(),
        |near| format!(", but `{near}` does; if the name is right, `hookstream topics apply` creates it"),
    )
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

    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
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
        Ok(partitions) if partitions.is_empty() => {
            let near = nearest(consumer.client(), topic, ANSWER_TIMEOUT);
            Err(SpanError::NoTopic(MissingTopic { topic: topic.to_owned(), near }))
        }
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

/// The client's last message about its fault, without the names of its threads and states.
fn cause(consumer: &BaseConsumer<ClientLog>) -> Option<String> {
    // A poll brings its messages. Nothing is assigned yet, so no record is lost.
    let until = Instant::now() + LISTEN;
    while consumer.context().last_error().is_none() && Instant::now() < until {
        if let Some(Err(error)) = consumer.poll(LISTEN) {
            tracing::debug!(%error, "a client that is not connected");
        }
    }
    consumer.context().last_error()
}

/// Whether no broker has answered.
pub(crate) fn is_away(error: &KafkaError) -> bool {
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

    /// As [`TopicRange::open`], with a client of another configuration.
    pub(super) fn open_with(
        config: &ClientConfig,
        kafka: &settings::Kafka,
        topic: &str,
        role: &'static str,
    ) -> Result<Self, SpanError> {
        Self::open_over(Arc::new(consumer(config, topic, role)?), kafka, topic)
    }

    /// As [`TopicRange::open`], with an existing client.
    pub(super) fn open_over(
        consumer: Arc<BaseConsumer<ClientLog>>,
        kafka: &settings::Kafka,
        topic: &str,
    ) -> Result<Self, SpanError> {
        let partitions = partitions(&consumer, kafka, topic)?;
        let bounds = topic_watch::bounds(&consumer, topic, &partitions, ANSWER_TIMEOUT)
            .map_err(|source| SpanError::Kafka { topic: topic.to_owned(), source })?;
        Ok(Self { consumer, topic: topic.to_owned(), bounds })
    }

    /// The client.
    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<ClientLog>> {
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
        by_time::offsets_at(&self.consumer, &self.topic, &self.bounds, timestamp_ms)
            .map_err(|source| SpanError::Kafka { topic: self.topic.clone(), source })
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
        let ranges: Vec<Range> = ranges.iter().filter(|range| !range.is_empty()).copied().collect();
        RecordStream::begin(self.consumer, self.topic, ranges)
    }
}
