//! A bounded piece of a topic, which the tools look through: which offsets it has. [`RecordStream`] reads it.
//!
//! The end is taken when the topic is opened. So a tool does not read what it writes itself, nor what others write meanwhile. No group,
//! no commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::by_time;
use super::client::{ClientLog, span_consumer_config};
use super::listing::{nearest, partitions_of};
use super::record_stream::RecordStream;
use super::span::{ANSWER_TIMEOUT, MissingTopic, Range, SpanError};
use super::topic_watch;
use crate::settings;

/// How long to wait for the client's message about a connection.
const LISTEN: Duration = Duration::from_millis(100);
/// After this long a message says that the brokers have not answered.
pub(crate) const SAY_AFTER: Duration = Duration::from_secs(2);
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
