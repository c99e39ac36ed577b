//! Publishing into one topic for an action: acknowledged, or an error that says why.
//!
//! Unlike the sink, which never gives up, an action's publication fails after a bounded time: then the operator decides.

use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::deliver::publish::{Outgoing, publish_once};
use crate::kafka::client::tool_producer_config;
use crate::kafka::producer::Publisher;
use crate::kafka::span::SpanError;
use crate::kafka::topic_range::check_topic;
use crate::settings;

/// Why a record was not put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequeueError {
    /// The topic does not take records of this size.
    #[error("the record is larger than its topic takes")]
    TooLarge,
    /// The in-sync replicas did not acknowledge it in time. It may still be there.
    #[error("topic `{topic}` did not acknowledge a record")]
    NotAcknowledged { topic: Arc<str>, source: KafkaError },
}

/// A producer for one topic.
pub(crate) struct TierProducer {
    producer: Publisher,
    topic: Arc<str>,
}

impl TierProducer {
    /// Checks that the topic exists, then makes the producer. Blocks for a bounded time.
    ///
    /// # Errors
    /// [`SpanError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: Arc<str>, role: &'static str) -> Result<Self, SpanError> {
        check_topic(kafka, &topic, role)?;
        let producer = Publisher::open(&tool_producer_config(kafka, role), role)
            .map_err(|source| SpanError::Kafka { topic: topic.to_string(), source })?;
        Ok(Self { producer, topic })
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Publishes a record and waits for its acknowledgement, for a bounded time.
    ///
    /// Not cancel safe: a dropped publication may still happen.
    ///
    /// # Errors
    /// [`RequeueError`]
    pub(crate) async fn send(&self, outgoing: &Outgoing) -> Result<(), RequeueError> {
        publish_once(&self.producer, outgoing).await.map(|_appended| ()).map_err(|source| {
            match source.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => RequeueError::TooLarge,
                _ => RequeueError::NotAcknowledged { topic: Arc::clone(&self.topic), source },
            }
        })
    }
}
