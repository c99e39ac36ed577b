//! Publishes one request to resume, for a tool: with the integration's key, so that it reaches the owner.

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::publisher::{TopicError, partition_count};
use super::records::{ResumeRequest, partition_of};
use crate::kafka::client::{ClientLog, producer_config};
use crate::settings;

/// Why a request was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeRequestError {
    /// It cannot be published there.
    #[error("topic `{topic}` takes no request to resume")]
    Topic {
        /// The topic.
        topic: String,
        /// Why.
        source: TopicError,
    },
    /// Kafka does not take it.
    #[error("the request to resume could not be written")]
    Kafka(#[from] KafkaError),
}

/// Publishes it and waits until it is acknowledged, as long as a record may take. Blocks its thread while it asks for the
/// topic's partitions.
///
/// # Errors
/// [`ResumeRequestError`]
pub(crate) async fn publish(
    kafka: &settings::Kafka,
    topic: &str,
    request: &ResumeRequest,
) -> Result<(), ResumeRequestError> {
    let producer: FutureProducer<ClientLog> =
        producer_config(kafka, "resume").create_with_context(ClientLog::new("resume"))?;
    let partitions = partition_count(&producer, topic)
        .map_err(|source| ResumeRequestError::Topic { topic: topic.to_owned(), source })?;
    let value = request.record();
    let record =
        FutureRecord::to(topic).partition(partition_of(&request.key, partitions)).key(&request.key).payload(&value);
    producer.send(record, Duration::ZERO).await.map(|_delivery| ()).map_err(|(error, _record)| error.into())
}
