//! Traces over a mock cluster: their bounds, and how the next answer continues.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::kafka::test_broker;

const EVENT: &str = r#"{"id":"e-1","type":"change","entityIds":{"companyId":"c-1"},"changeData":{"type":"patch"}}"#;
/// More than one window of a scan.
const ATTEMPTS: u32 = 700;

/// A log with attempts of the event and as many of another.
fn logged() -> Vec<String> {
    let attempt = |number: u32, event: &str| json!({ "deliveryId": "msg_1", "webHookId": "w-1", "eventId": event, "attempt": number, "outcome": "failed" });
    (1..=ATTEMPTS).flat_map(|number| ["e-1", "e-2"].map(|event| attempt(number, event).to_string())).collect()
}

fn registered() -> Vec<Registered> {
    let hook = json!({ "id": "w-1", "relativeUrl": "cb", "triggerType": "entityEvent", "filter": { "items": [{}] } });
    let value = json!({ "id": "i-1", "baseUrl": "https://a.example", "webHooks": [hook] }).to_string();
    vec![Registered::parse("acme/i-1", value.into(), 0).unwrap()]
}

#[test]
fn a_trace_that_met_a_bound_goes_on_until_every_attempt_was_given_once() {
    let mut settings = Settings::default();
    let logged = logged();
    let records: Vec<(&str, &str)> = logged.iter().map(|value| ("acme/i-1", value.as_str())).collect();
    let (_cluster, kafka) = test_broker::that_holds(&settings.topics.attempts, &records);
    settings.kafka = kafka;
    let origin = Origin { topic: settings.topics.events.as_str().into(), partition: 0, offset: 0 };
    let event = FoundEvent { value: EVENT.into(), workspace: None, is_workspace_key: false, origin, at_ms: None };
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
