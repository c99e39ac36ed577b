//! Answers over a mock cluster.

use std::time::Duration;

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

#[test]
fn a_page_without_rows_says_that_the_integration_asked_for_is_not_registered() {
    let value = json!({ "deliveryId": "msg_1", "attempt": 1, "outcome": "failed" }).to_string();
    let mut settings = Settings::default();
    let (cluster, kafka) = test_broker::that_holds(&settings.topics.attempts, &[("acme/deleted", &value)]);
    cluster.create_topic(&settings.topics.dead_letter, 1, 1).unwrap();
    settings.kafka = kafka;
    let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
    let view = Arc::new(View::default());
    let version = Version { partition: 0, offset: 0 };
    view.apply(Some(&format!("acme/{guid}")), Some(Bytes::from_static(b"{}")), version, 0);
    let directory = Directory::new(view);
    let hint = |question: Question| {
        let page = answer(&settings, &directory, "acme", question, &CancellationToken::new()).unwrap();
        page.get("hint").map(|hint| hint.as_str().unwrap().to_owned())
    };
    let of = |id: &str| Asked { integration: Some(id.to_owned()), limit: 9, ..Asked::default() };
    let unknown = Some("no integration unknown is registered in workspace acme".to_owned());
    for question in [Question::Health, Question::Attempts, Question::DeadLetters] {
        assert_eq!(hint(question(of("unknown"))), unknown);
        assert_eq!(hint(question(of(&guid.to_uppercase()))), None, "registered, and nothing is found of it");
        assert_eq!(hint(question(Asked { limit: 9, ..Asked::default() })), None);
    }
    assert_eq!(hint(Question::Attempts(of("deleted"))), None, "rows are there");
}

#[test]
fn a_search_that_a_bound_ended_does_not_say_that_there_is_no_such_event() {
    let event = json!({ "id": "3c75d291-0000-4000-8000-000000000001", "type": "change", "entityIds": {} }).to_string();
    let mut settings = Settings::default();
    // More than the window that is looked at in any case.
    let records = vec![("acme", event.as_str()); 300];
    let (cluster, kafka) = test_broker::that_holds(&settings.topics.events, &records);
    settings.kafka = kafka;
    let attempt = json!({ "deliveryId": "msg_1", "attempt": 1, "outcome": "failed" }).to_string();
    cluster.create_topic(&settings.topics.dead_letter, 1, 1).unwrap();
    let attempts = vec![("acme/i", attempt.as_str()); 300];
    let (_cluster, attempts_kafka) = test_broker::that_holds(&settings.topics.attempts, &attempts);
    let text = |settings: &Settings, event: &str, bounds: Bounds| {
        let watch = Watch { wanted: &|| true, progress: &|_| {} };
        found_event(settings, "acme", event, bounds, &watch).unwrap_err().to_string()
    };
    let hurried = Bounds { time: Duration::ZERO, ..Bounds::PAGE };
    let id = "3c75d291-0000-4000-8000-000000000002";
    let bounded = text(&settings, id, hurried);
    assert!(bounded.starts_with(&format!("{id} was not found back to 2")), "{bounded}");
    let whole = text(&settings, id, Bounds::PAGE);
    assert!(whole.starts_with(&format!("there is no event {id} of this workspace; searched back to 2")), "{whole}");
    settings.kafka = attempts_kafka;
    let bounded = text(&settings, "msg_2", hurried);
    assert!(bounded.starts_with("msg_2 was not found back to 2"), "{bounded}");
    let whole = text(&settings, "msg_2", Bounds::PAGE);
    assert!(whole.starts_with("no logged attempt and no dead letter"), "{whole}");
}
