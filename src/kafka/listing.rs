//! Which partitions a topic has: the one place that asks. The caller decides what follows.

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
    fn brokers_that_do_not_answer_are_an_error_and_not_an_empty_topic() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        assert!(partitions_of(consumer.client(), "there", Duration::from_millis(50)).is_err());
    }
}
