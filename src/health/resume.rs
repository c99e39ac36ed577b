//! Publishes one request to resume, for a tool: with the integration's key, so that it reaches the owner.

use rdkafka::error::KafkaError;

use super::publisher::{TopicError, partition_count};
use super::records::{ResumeRequest, partition_of};
use crate::kafka::client::producer_config;
use crate::kafka::producer::{Publication, Publisher};
use crate::settings;

/// Why a request was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeRequestError {
    /// It cannot be published there.
    #[error("topic `{topic}` takes no request to resume")]
    Topic { topic: String, source: TopicError },
    /// Kafka does not take it.
    #[error("the request to resume could not be written")]
    Kafka(#[from] KafkaError),
}

/// Publishes `request` and waits until Kafka acknowledges it, for at most the client's delivery time-out. Blocks its thread while it
/// asks for the topic's partitions.
///
/// # Errors
/// [`ResumeRequestError`]
pub(crate) async fn publish(
    kafka: &settings::Kafka,
    topic: &str,
    request: &ResumeRequest,
) -> Result<(), ResumeRequestError> {
    let producer = Publisher::open(&producer_config(kafka, "resume"), "resume")?;
    let partitions = partition_count(&producer, topic)
        .map_err(|source| ResumeRequestError::Topic { topic: topic.to_owned(), source })?;
    let value = request.record();
    let (key, value) = (Some(request.key.as_bytes()), Some(&*value));
    let partition = Some(partition_of(&request.key, partitions));
    producer.publish(&Publication { topic, partition, key, value, headers: &[] }).await?;
    Ok(())
}
