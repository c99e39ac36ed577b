//! Brokers in memory for unit tests, with the faults that tests need.

use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::client::producer_config;
use crate::settings;

/// A broker with `topic`, of one partition, and how to reach it.
pub(crate) fn with_topic(topic: &str) -> (MockCluster<'static, DefaultProducerContext>, settings::Kafka) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(topic, 1, 1).expect("a topic");
    let kafka = settings::Kafka {
        brokers: cluster.bootstrap_servers(),
        group: "hookstream".to_owned(),
        instance_id: None,
        properties: Vec::new(),
    };
    (cluster, kafka)
}

/// A broker with `topic`, of one partition, that refuses its first idempotent producer for good; and how to reach it.
pub(crate) fn that_refuses_a_producer(topic: &str) -> (MockCluster<'static, DefaultProducerContext>, settings::Kafka) {
    let (cluster, kafka) = with_topic(topic);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refused]);
    (cluster, kafka)
}

/// A broker with `topic`, of one partition, that holds records of these keys and values; and how to reach it.
pub(crate) fn that_holds(
    topic: &str,
    records: &[(&str, &str)],
) -> (MockCluster<'static, DefaultProducerContext>, settings::Kafka) {
    let (cluster, kafka) = with_topic(topic);
    let producer: BaseProducer = producer_config(&kafka, "test").create().expect("a producer");
    for (key, value) in records {
        producer.send(BaseRecord::to(topic).partition(0).key(*key).payload(*value)).expect("it is queued");
    }
    producer.flush(Duration::from_secs(20)).expect("Kafka has them");
    (cluster, kafka)
}
