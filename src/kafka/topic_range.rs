//! A bounded piece of a topic, which the tools look through: which offsets it has. [`RecordStream`] reads it.
//!
//! The end is taken when the topic is opened. So a tool does not read what it writes itself, nor what others write meanwhile. No group,
//! no commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use super::by_time;
use super::client::{ClientLog, span_consumer_config};
use super::first_answer::{NoAnswer, first_answer};
use super::listing::{nearest, partitions_of};
use super::record_stream::RecordStream;
use super::span::{ANSWER_TIMEOUT, MissingTopic, Range, SpanError};
use super::topic_watch;
use crate::settings;

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
    let config = span_consumer_config(kafka, role);
    partitions(kafka, topic, || connect(&config, role)).map(|_found| ())
}

fn connect(config: &ClientConfig, role: &'static str) -> Result<Arc<BaseConsumer<ClientLog>>, KafkaError> {
    config.create_with_context(ClientLog::of_tool(role)).map(Arc::new)
}

/// The partitions of `topic`, with the client of `connect` that has learned them.
fn partitions(
    kafka: &settings::Kafka,
    topic: &str,
    connect: impl Fn() -> Result<Arc<BaseConsumer<ClientLog>>, KafkaError>,
) -> Result<(Arc<BaseConsumer<ClientLog>>, Vec<i32>), SpanError> {
    let ask = |client: &BaseConsumer<ClientLog>, wait| partitions_of(client.client(), topic, wait);
    match first_answer(&kafka.brokers, ANSWER_TIMEOUT, connect, ask) {
        Ok((client, partitions)) if partitions.is_empty() => {
            let near = nearest(client.client(), topic, ANSWER_TIMEOUT);
            Err(SpanError::NoTopic(MissingTopic { topic: topic.to_owned(), near }))
        }
        Ok(found) => Ok(found),
        Err(NoAnswer::Away { cause }) => Err(SpanError::NoBroker { brokers: kafka.brokers.clone(), cause }),
        Err(NoAnswer::Configuration(source) | NoAnswer::Refused(source)) => {
            Err(SpanError::Kafka { topic: topic.to_owned(), source })
        }
    }
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
        Self::open_by(kafka, topic, || connect(config, role))
    }

    /// As [`TopicRange::open`], with an existing client.
    pub(super) fn open_over(
        consumer: &Arc<BaseConsumer<ClientLog>>,
        kafka: &settings::Kafka,
        topic: &str,
    ) -> Result<Self, SpanError> {
        Self::open_by(kafka, topic, || Ok(Arc::clone(consumer)))
    }

    fn open_by(
        kafka: &settings::Kafka,
        topic: &str,
        connect: impl Fn() -> Result<Arc<BaseConsumer<ClientLog>>, KafkaError>,
    ) -> Result<Self, SpanError> {
        let (consumer, partitions) = partitions(kafka, topic, connect)?;
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
