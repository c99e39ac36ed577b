//! Brokers in memory for unit tests, with the faults that tests need.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::settings;

/// A broker with `topic`, of one partition, that refuses its first idempotent producer for good; and how to reach it.
pub(crate) fn that_refuses_a_producer(topic: &str) -> (MockCluster<'static, DefaultProducerContext>, settings::Kafka) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(topic, 1, 1).expect("a topic");
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refused]);
    let kafka = settings::Kafka {
        brokers: cluster.bootstrap_servers(),
        group: "hookstream".to_owned(),
        instance_id: None,
        properties: Vec::new(),
    };
    (cluster, kafka)
}
