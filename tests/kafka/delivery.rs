//! The path of an event to a receiver.

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, committed, ends, produce};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{Names, Worker};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_the_receiver_that_subscribed() {
    let cluster = Cluster::shared().await;
    let names = Names::of("delivery");
    names.create(cluster.brokers(), "1s,2s", 3).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let integration = json!({
        "id": "i-1", "baseUrl": receiver.url("/crm"), "status": "active",
        "webHooks": [{ "id": "w-1", "relativeUrl": "/callbacks", "triggerType": "entityEvent",
            "filter": { "items": [{}] } }]
    });
    produce(cluster.brokers(), &names.integrations(), [Record::new("w/i-1", integration.to_string())]);
    let worker = Worker::start(cluster.brokers(), &names, &["--retry-schedule", "1s,2s"]).await;
    let event = json!({ "id": "e-1", "type": "change", "entityIds": { "companyId": "c-1" },
        "changeData": { "type": "patch" } })
    .to_string();
    produce(cluster.brokers(), &names.events(), [Record::new("c-1", event.clone()).header("workspace", "w")]);
    let requests = receiver.wait_for(1, PATIENCE).await;
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("POST", "/crm/callbacks"));
    assert_eq!(requests[0].body, event);
    assert_eq!(requests[0].attempt(), 1);
    wait_until("the event's offset to be committed", PATIENCE, async || {
        let written: Vec<_> = ends(cluster.brokers(), &names.events()).into_values().filter(|end| *end > 0).collect();
        equal(committed(cluster.brokers(), &names.group(), &names.events()).into_values().collect(), &written)
    })
    .await;
    assert!((worker.metric("hookstream_events_total", &[]).await - 1.0).abs() < f64::EPSILON);
    let mut worker = worker;
    worker.stop();
    assert_eq!(receiver.count(), 1);
}
