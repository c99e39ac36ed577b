//! Answers over a mock cluster.

use bytes::Bytes;

use super::*;
use crate::kafka::test_broker;
use crate::registration::registry::{Version, View};

#[test]
fn an_integration_is_missing_when_it_is_not_registered_and_nothing_is_logged_of_it() {
    let value = json!({ "deliveryId": "msg_1", "attempt": 1, "outcome": "failed" }).to_string();
    let mut settings = Settings::default();
    let (_cluster, kafka) = test_broker::that_holds(&settings.topics.attempts, &[("acme/deleted", &value)]);
    settings.kafka = kafka;
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
