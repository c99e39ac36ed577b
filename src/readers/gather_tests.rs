//! Traces over a mock cluster: bounds, and how one goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use serde_json::json;

use super::*;
use crate::kafka::client::producer_config;

const EVENT: &str = r#"{"id":"e-1","type":"change","entityIds":{"companyId":"c-1"},"changeData":{"type":"patch"}}"#;
/// More than one window of a scan.
const ATTEMPTS: u32 = 700;

fn settings(cluster: &MockCluster<'static, DefaultProducerContext>) -> Settings {
    let mut settings = Settings::default();
    settings.kafka.brokers = cluster.bootstrap_servers();
    settings
}

/// One integration, and a log with attempts of the event and as many of another.
fn logged(settings: &Settings) {
    let producer: BaseProducer = producer_config(&settings.kafka, "test").create().unwrap();
    for number in 1..=ATTEMPTS {
        for event in ["e-1", "e-2"] {
            let value = json!({ "deliveryId": "msg_1", "webHookId": "w-1", "eventId": event, "attempt": number, "outcome": "failed" });
            let value = value.to_string();
            let record = BaseRecord::to(&settings.topics.attempts).partition(0).key("acme/i-1").payload(&value);
            producer.send(record).unwrap();
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn registered() -> Vec<Registered> {
    let hook = json!({ "id": "w-1", "relativeUrl": "cb", "triggerType": "entityEvent", "filter": { "items": [{}] } });
    let value = json!({ "id": "i-1", "baseUrl": "https://a.example", "webHooks": [hook] }).to_string();
    vec![Registered::parse("acme/i-1", value.into(), 0).unwrap()]
}

#[test]
fn a_trace_that_met_a_bound_goes_on_until_every_attempt_was_given_once() {
    let cluster = MockCluster::new(1).unwrap();
    let settings = settings(&cluster);
    cluster.create_topic(&settings.topics.attempts, 1, 1).unwrap();
    logged(&settings);
    let event = FoundEvent { value: EVENT.into(), workspace: None, origin: None, at_ms: None };
    let watch = Watch { wanted: &|| true, progress: &|_| {} };
    let part = |workspace, next: Option<&str>, bounds| {
        let inquiry = Inquiry { event: &event, workspace, registered: Some(registered()), next };
        trace(&settings, inquiry, bounds, &watch).map(Option::unwrap)
    };
    let one_window = Bounds { bytes: 1, ..Bounds::PAGE };
    let (mut numbers, mut parts, mut next) = (Vec::new(), 0, None::<String>);
    loop {
        let trace = part("acme", next.as_deref(), one_window).unwrap();
        assert_eq!((trace.complete, trace.searched_back_to.is_none()), (trace.next.is_none(), trace.complete));
        numbers.extend(trace.webhooks.iter().flat_map(|row| &row.attempts).map(|attempt| attempt.attempt));
        parts += 1;
        let Some(token) = trace.next else { break };
        assert!(
            matches!(part("other", Some(&token), one_window), Err(ReadError::Token)),
            "a token is of one workspace"
        );
        next = Some(token);
    }
    assert!(parts > 1, "one part has at most one window");
    let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
    assert_eq!((numbers.len(), distinct), (ATTEMPTS as usize, (1..=ATTEMPTS).collect()));

    let whole = part("acme", None, Bounds::TRACE).unwrap();
    assert!(whole.complete, "what was read to its end is complete");
    assert_eq!(whole.webhooks[0].attempts.len(), ATTEMPTS as usize);
}
