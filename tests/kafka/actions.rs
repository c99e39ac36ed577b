//! Actions over HTTP, against a real Kafka: an action does what its preview counted, leaves an audit record, and reaches no other
//! workspace.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::api::{Api, Setting, hook};
use crate::support::cluster::{Cluster, SharedCluster};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Read, Record, produce, read_all};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{Names, Worker, get, sum};

const SCHEDULE: &str = "100ms,200ms";
/// Each token is a secret; none may stand in a record.
const TOKENS: &str = "operator-s3cret ws:read,operate\nreader-s3cret ws:read\nforeign-s3cret other";
const ROUTES: [&str; 5] = ["redrive/preview", "redrive", "replay/preview", "replay", "resume"];

/// An API on topics of its own.
struct Stage {
    cluster: SharedCluster,
    names: Names,
    api: Api,
    client: Client<HttpConnector, Full<Bytes>>,
    _setting: Setting,
}

impl Stage {
    async fn new(claim: &str) -> Self {
        let cluster = Cluster::shared().await;
        let names = Names::of(claim);
        names.create(cluster.brokers(), SCHEDULE, 3).await;
        let setting = Setting::of(cluster.brokers(), names.group(), names.integrations()).and_tokens(TOKENS);
        let more = names.arguments_beside(cluster.brokers(), &["--brokers", "--group", "--integrations-topic"]);
        let loopback = ["--retry-schedule", SCHEDULE, "--allow-private-networks", "127.0.0.0/8"];
        let more: Vec<&str> = more.iter().map(String::as_str).chain(loopback).collect();
        let api = setting.start("api", &more);
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { cluster, names, api, client, _setting: setting }
    }

    fn brokers(&self) -> &str {
        self.cluster.brokers()
    }

    fn address(&self) -> SocketAddr {
        self.api.address
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Incoming) {
        let request = Request::post(format!("http://{}/api/v1/{path}", self.address()))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        (parts.status.as_u16(), body)
    }

    /// The status, and every line of the answer.
    async fn act(&self, action: &str, body: &Value) -> (u16, Vec<Value>) {
        let (status, body) = self.post("operator-s3cret", &format!("ws/actions/{action}"), body).await;
        let text = body.collect().await.unwrap().to_bytes();
        let lines = std::str::from_utf8(&text).unwrap().lines();
        (status, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    async fn preview(&self, action: &str, selection: Value) -> Value {
        let (status, mut lines) = self.act(&format!("{action}/preview"), &selection).await;
        assert_eq!((status, lines.len()), (200, 1), "{lines:?}");
        lines.remove(0)
    }

    fn sent(&self) -> Vec<Read> {
        read_all(self.brokers(), &self.names.now())
    }

    fn sent_ids(&self) -> BTreeSet<String> {
        self.sent().iter().map(|record| record.header("hookstream-delivery-id").unwrap().to_owned()).collect()
    }

    /// The records in the audit topic, each looked through for what must not be there.
    fn audited(&self) -> Vec<(String, Value)> {
        let read = read_all(self.brokers(), &self.names.audit());
        let shown = |record: &Read| {
            let value = record.json();
            assert!(!value.to_string().contains("s3cret"), "{value}");
            (record.key_text().to_owned(), value)
        };
        read.iter().map(shown).collect()
    }
}

fn dead_letter(id: usize, workspace: &str, reason: &str) -> Record {
    let value = json!({ "id": format!("d-{id}"), "type": "change", "entityIds": { "companyId": "1" } }).to_string();
    Record::new("w", value)
        .header("workspace", workspace)
        .header("hookstream-integration-id", "i")
        .header("hookstream-webhook-id", "w")
        .header("hookstream-delivery-id", format!("msg_{workspace}-{id}"))
        .header("hookstream-attempt", "3")
        .header("hookstream-origin", format!("events/0/{id}"))
        .header("hookstream-error", "timeout")
        .header("hookstream-reason", reason)
}

fn event(id: usize) -> Record {
    let value = json!({ "id": format!("e-{id}"), "type": "change", "entityIds": { "companyId": "1" },
        "changeData": { "type": "patch" } });
    Record::new(id.to_string(), value.to_string()).header("workspace", "ws")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_sends_what_its_preview_counted_and_leaves_one_record() {
    let stage = Stage::new("act-redrive").await;
    let (brokers, topic) = (stage.brokers(), stage.names.dead_letter());
    produce(brokers, &topic, (0..5).map(|id| dead_letter(id, "ws", "exhausted")));
    produce(brokers, &topic, (5..8).map(|id| dead_letter(id, "ws", "suspended")));
    produce(brokers, &topic, (0..4).map(|id| dead_letter(id, "other", "exhausted")));
    let preview = stage.preview("redrive", json!({ "reason": "exhausted" })).await;
    assert_eq!((&preview["counts"]["matched"], &preview["complete"]), (&json!(5), &json!(true)), "{preview}");
    assert_eq!((stage.sent().len(), stage.audited().len()), (0, 0), "a preview does nothing");

    produce(brokers, &topic, (20..22).map(|id| dead_letter(id, "ws", "exhausted")));
    let run = json!({ "selection": preview["selection"], "rate": 1000 });
    let (status, lines) = stage.act("redrive", &run).await;
    let last = lines.last().unwrap();
    assert_eq!((status, &last["done"], &last["stoppedEarly"]), (200, &json!(true), &json!(false)), "{last}");
    assert_eq!((&last["counts"]["matched"], &last["counts"]["sent"]), (&json!(5), &json!(5)), "{last}");
    let expected: BTreeSet<String> = (0..5).map(|id| format!("msg_ws-{id}")).collect();
    assert_eq!((stage.sent_ids(), stage.sent().len()), (expected, 5), "not what was written after the preview");

    let audited = stage.audited();
    let [(key, record)] = audited.as_slice() else { panic!("{audited:?}") };
    assert_eq!((key.as_str(), &record["action"], &record["counts"]["sent"]), ("ws", &json!("redrive"), &json!(5)));
    assert_eq!(record["selection"], preview["selection"]);
    assert!(record["who"].as_str().unwrap().starts_with("token-"), "{record}");
    assert!(record["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{record}");
    let fields: Vec<&String> = record.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["at", "who", "action", "selection", "counts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_needs_the_right_to_operate_in_its_workspace() {
    let stage = Stage::new("act-rights").await;
    produce(stage.brokers(), &stage.names.dead_letter(), (0..3).map(|id| dead_letter(id, "ws", "exhausted")));
    let fixed = json!({ "ranges": ["0/0/9", "1/0/9", "2/0/9"] });
    for route in ROUTES {
        let body = match route {
            "resume" => json!({ "integration": "i" }),
            preview if preview.ends_with("preview") => json!({}),
            _ => json!({ "selection": { "fixed": fixed } }),
        };
        for (token, status) in [("unknown", 401), ("reader-s3cret", 403), ("foreign-s3cret", 403)] {
            let answered = stage.post(token, &format!("ws/actions/{route}"), &body).await.0;
            assert_eq!(answered, status, "{route} with {token}");
        }
    }
    // In its own workspace a token finds no record of another workspace, even if it names ranges that hold them.
    let path = "other/actions/redrive/preview";
    let (status, body) = stage.post("foreign-s3cret", path, &json!({ "fixed": fixed })).await;
    let preview: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((status, &preview["counts"]["matched"]), (200, &json!(0)), "{preview}");
    assert_eq!(preview["counts"]["skipped"], json!({}));
    // A selection can't name a workspace, and a run takes only what a preview fixed.
    assert_eq!(stage.act("redrive/preview", &json!({ "workspace": "other" })).await.0, 400);
    assert_eq!(stage.act("redrive", &json!({ "selection": {} })).await.0, 409);
    assert_eq!((stage.sent().len(), stage.audited().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_caller_goes_away_stops_and_its_record_says_how_many_were_sent() {
    const DEAD: usize = 400;
    let stage = Stage::new("act-cancel").await;
    produce(stage.brokers(), &stage.names.dead_letter(), (0..DEAD).map(|id| dead_letter(id, "ws", "exhausted")));
    let preview = stage.preview("redrive", json!({})).await;
    let run = json!({ "selection": preview["selection"], "rate": 50 });
    let (status, mut body) = stage.post("operator-s3cret", "ws/actions/redrive", &run).await;
    assert_eq!(status, 200);
    let line = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let progress: Value = serde_json::from_slice(&line).unwrap();
    assert!(progress["done"] == json!(false) && progress["counts"]["matched"].as_u64().unwrap() > 0, "{progress}");
    drop(body);
    wait_until("the record of the run", PATIENCE, async || equal(stage.audited().len(), &1)).await;
    let sent = stage.audited()[0].1["counts"]["sent"].as_u64().unwrap();
    assert!(usize::try_from(sent).unwrap() < DEAD, "it went on to its end");
    assert_eq!(stage.sent().len(), usize::try_from(sent).unwrap());
    // The rest is the preview's records without those that were sent.
    let rest = stage.preview("redrive", json!({ "skipSent": true })).await;
    assert_eq!(rest["counts"]["matched"].as_u64().unwrap() + sent, 400, "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_what_its_preview_counted_while_the_integration_is_the_same() {
    let stage = Stage::new("act-replay").await;
    let instance = json!({ "baseUrl": "https://a.example", "webHooks": [hook("w1"), hook("w2")] });
    assert_eq!(stage.api.put("ws/integrations/instances/i", &instance).await.status, 200);
    produce(stage.brokers(), &stage.names.events(), (0..4).map(event));
    let selection = json!({ "integration": "i", "webhook": "w1", "from": "2020-01-01T00:00:00Z" });
    let preview = stage.preview("replay", selection.clone()).await;
    assert_eq!(preview["counts"]["matched"], 4, "{preview}");
    produce(stage.brokers(), &stage.names.events(), [event(9)]);
    let run = json!({ "selection": preview["selection"], "rate": 1000 });
    let (status, lines) = stage.act("replay", &run).await;
    assert_eq!((status, &lines.last().unwrap()["counts"]["sent"]), (200, &json!(4)), "{lines:?}");
    assert!(stage.sent().iter().all(|record| record.header("hookstream-webhook-id") == Some("w1")));
    assert_eq!(stage.sent().len(), 4);

    // One event, named by its place.
    let place = format!(
        "{}/{}/0",
        stage.names.events(),
        stage.sent()[0].header("hookstream-origin").unwrap().split('/').nth(1).unwrap()
    );
    let one = stage.preview("replay", json!({ "integration": "i", "event": place })).await;
    assert_eq!(
        (&one["counts"]["matched"], &one["counts"]["read"]),
        (&json!(2), &Value::Null),
        "both webhooks, and nothing of what others sent: {one}"
    );

    // Another integration than the one that was counted with could match others.
    assert_eq!(stage.api.put("ws/integrations/instances/i", &instance).await.status, 200);
    let (status, lines) = stage.act("replay", &run).await;
    assert_eq!(status, 409, "{lines:?}");
    assert!(lines[0]["message"].as_str().unwrap().contains("changed since the preview"), "{lines:?}");
    let (status, lines) = stage.act("replay/preview", &json!({ "integration": "j" })).await;
    assert_eq!((status, &lines[0]["status"]), (409, &json!("notFound")));
    assert_eq!(stage.audited().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_and_a_resumption_leave_their_records() {
    let stage = Stage::new("act-resume").await;
    let receiver = Receiver::start(|_| Answer::status(500));
    let instance = json!({ "baseUrl": receiver.url("/crm"), "webHooks": [hook("w1")] });
    assert_eq!(stage.api.put("ws/integrations/instances/i", &instance).await.status, 200);
    let options = ["--retry-schedule", SCHEDULE, "--suspend-after", "500ms", "--suspend-after-failures", "5"];
    let worker = Worker::start(stage.brokers(), &stage.names, &options).await;
    let (status, lines) = stage.act("resume", &json!({ "integration": "i" })).await;
    assert_eq!((status, &lines[0]["outcome"]), (200, &json!("not-suspended")), "{lines:?}");
    assert_eq!(stage.act("resume", &json!({ "integration": "j" })).await.0, 409);

    let count = std::sync::atomic::AtomicUsize::new(0);
    wait_until("the suspension", PATIENCE, async || {
        let id = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        produce(stage.brokers(), &stage.names.events(), [event(id)]);
        let recorded = read_all(stage.brokers(), &stage.names.health());
        let last = recorded.last().map(|record| record.json()["status"].clone()).unwrap_or_default();
        equal(last, &json!("failed"))
    })
    .await;
    receiver.answer_with(|_| Answer::ok());
    let (status, lines) = stage.act("resume", &json!({ "integration": "i" })).await;
    assert_eq!((status, &lines[0]["outcome"]), (200, &json!("resumed")), "{lines:?}");
    let path = "ws/integrations/instances/i/webhooks/w1/test";
    let (status, body) = stage.post("operator-s3cret", path, &json!({})).await;
    let answer: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((status, &answer["acknowledged"]), (200, &json!(true)), "{answer}");
    let audited = stage.audited();
    let mut counted: Vec<_> =
        audited.iter().map(|(_, record)| (record["action"].clone(), record["counts"].clone())).collect();
    counted.sort_by_key(|(action, counts)| (action.to_string(), counts.to_string()));
    let expected = [
        (json!("resume"), json!({ "resumed": 0, "pending": 0 })),
        (json!("resume"), json!({ "resumed": 1, "pending": 0 })),
        (json!("test"), json!({ "acknowledged": 1, "failed": 0 })),
    ];
    assert_eq!(counted, expected);
    assert_eq!(audited.last().unwrap().1["selection"], json!({ "integration": "i", "webhook": "w1" }));
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_delivery_is_answered_and_a_missing_record_of_it_counted() {
    let cluster = Cluster::shared().await;
    let names = Names::of("act-unrecorded");
    names.create(cluster.brokers(), SCHEDULE, 1).await;
    let setting = Setting::of(cluster.brokers(), names.group(), names.integrations());
    let nowhere = format!("{}.nowhere", names.audit());
    let more =
        names.arguments_beside(cluster.brokers(), &["--brokers", "--group", "--integrations-topic", "--audit-topic"]);
    let own = ["--audit-topic", &nowhere, "--allow-private-networks", "127.0.0.0/8"];
    let api = setting.start("api", &more.iter().map(String::as_str).chain(own).collect::<Vec<_>>());
    let receiver = Receiver::start(|_| Answer::ok());
    let instance = json!({ "baseUrl": receiver.url("/crm"), "webHooks": [hook("w1")] });
    assert_eq!(api.put("ws/integrations/instances/i", &instance).await.status, 200);
    let unwritten = async || {
        let (_, text) = get(api.admin(), "/metrics").await.unwrap();
        sum(&text, "hookstream_publish_errors_total", &[("topic", &nowhere)])
    };
    assert!(unwritten().await.abs() < 0.5, "nothing is missing yet");
    let answer = api.ask(hyper::Method::POST, "ws/integrations/instances/i/webhooks/w1/test", "").await;
    assert_eq!((answer.status, receiver.count()), (hyper::StatusCode::OK, 1));
    wait_until("the missing record to be counted", PATIENCE, async || match unwritten().await {
        count if (count - 1.0).abs() < 0.5 => Ok(()),
        count => Err(count),
    })
    .await;
}
