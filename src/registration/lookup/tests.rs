//! Answers over a mock cluster.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::*;
use crate::kafka::client::producer_config;
use crate::registration::registry::{Version, View};

#[test]
fn an_integration_is_missing_when_it_is_not_registered_and_nothing_is_logged_of_it() {
    let cluster = MockCluster::new(1).unwrap();
    let mut settings = Settings::default();
    settings.kafka.brokers = cluster.bootstrap_servers();
    cluster.create_topic(&settings.topics.attempts, 1, 1).unwrap();
    let producer: BaseProducer = producer_config(&settings.kafka, "test").create().unwrap();
    let value = json!({ "deliveryId": "msg_1", "attempt": 1, "outcome": "failed" }).to_string();
    producer.send(BaseRecord::to(&settings.topics.attempts).key("acme/deleted").payload(&value)).unwrap();
    producer.flush(Duration::from_secs(20)).unwrap();
    let view = Arc::new(View::default());
    view.apply(Some("acme/new"), Some(Bytes::from_static(b"{}")), Version { partition: 0, offset: 0 }, 0);
    let directory = Directory::new(view);
    let rows_of = |id: &str| {
        let question = Question::AttemptsOf { id: id.to_owned(), asked: Asked { limit: 9, ..Asked::default() } };
        let answer = answer(&settings, &directory, "acme", question, &CancellationToken::new());
        answer.map(|page| page["rows"].as_array().map(Vec::len))
    };
    assert_eq!(rows_of("deleted").unwrap(), Some(1));
    assert_eq!(rows_of("new").unwrap(), Some(0));
    let unknown = rows_of("unknown").unwrap_err();
    assert!(matches!(unknown, SourceError::Missing(Missing::Instance { .. })), "{unknown}");
}
