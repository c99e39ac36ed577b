//! Which partitions a topic has, and which topic a name that no topic has was probably meant for. No other file asks brokers for that.
//! The caller decides what follows.

use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;

/// The partitions of `topic` in their order; empty when it does not exist. Blocks for at most `patience`.
///
/// # Errors
/// No broker answers, the topic has no leader yet, or the client has no right to see it.
pub(crate) fn partitions_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    patience: Duration,
) -> Result<Vec<i32>, KafkaError> {
    let metadata = match client.fetch_metadata(Some(topic), patience) {
        Err(error) if is_unknown(error.rdkafka_error_code()) => return Ok(Vec::new()),
        found => found?,
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(Vec::new()) };
    let code = found.error().map(RDKafkaErrorCode::from);
    if is_unknown(code) {
        return Ok(Vec::new());
    }
    if let Some(code) = code {
        return Err(KafkaError::MetadataFetch(code));
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(partitions)
}

/// Letters by which a name may differ from the one that was meant.
const SLIPS_MAX: usize = 2;
/// In a shorter name, so many letters are too large a part.
const NEAR_CHARS_MIN: usize = 6;

/// The topic whose name is nearest to `topic`, if only a slip is between them. Where the brokers do not say what there is, none is
/// known. Blocks for at most `patience`.
pub(crate) fn nearest<C: ClientContext>(client: &Client<C>, topic: &str, patience: Duration) -> Option<String> {
    if topic.chars().count() < NEAR_CHARS_MIN {
        return None;
    }
    let metadata = match client.fetch_metadata(None, patience) {
        Ok(metadata) => metadata,
        Err(error) => {
            tracing::debug!(%error, "the topics cannot be listed");
            return None;
        }
    };
    let near = metadata.topics().iter().map(|found| (strsim::osa_distance(topic, found.name()), found.name()));
    near.filter(|(slips, _)| *slips <= SLIPS_MAX).min().map(|(_, name)| name.to_owned())
}

fn is_unknown(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(code, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic))
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn the_partitions_of_a_topic_are_listed_in_their_order() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("there", 3, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let consumer: BaseConsumer = config.create().expect("a consumer");
        assert_eq!(partitions_of(consumer.client(), "there", Duration::from_secs(20)).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn a_name_with_a_slip_leads_to_the_topic_that_was_meant() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("crm.object-events", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let near = |name| nearest(consumer.client(), name, Duration::from_secs(20));
        assert_eq!(near("crm.objekt-events").as_deref(), Some("crm.object-events"));
        assert_eq!(near("webhooks.attempts"), None);
        assert_eq!(near("crm"), None);
    }

    #[test]
    fn brokers_that_do_not_answer_are_an_error_and_not_an_empty_topic() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        assert!(partitions_of(consumer.client(), "there", Duration::from_millis(50)).is_err());
    }
}
