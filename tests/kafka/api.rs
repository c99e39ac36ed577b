//! The registration API as processes against a real Kafka: an acknowledged change stays, even if processes are killed or replaced.
#![expect(clippy::disallowed_methods, reason = "the test's own clock is the wall clock")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::process::{Process, Signal};
use crate::support::receiver::{Answer as Reply, Receiver};
use crate::support::records::{Record, create_topic, produce, read_all, unique};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::{Names, Worker};

pub(crate) const TOKEN: &str = "test-token";

/// The settings that all processes of one test share.
pub(crate) struct Setting {
    brokers: String,
    group: String,
    topic: String,
    tokens: tempfile::NamedTempFile,
}

impl Setting {
    pub(crate) async fn new(brokers: &str, properties: &[(&str, &str)]) -> Self {
        let topic = unique("api-integrations");
        let mut all = vec![("cleanup.policy", "compact")];
        all.extend(properties);
        create_topic(brokers, &topic, 3, &all).await;
        Self::of(brokers, unique("api"), topic)
    }

    pub(crate) fn of(brokers: &str, group: String, topic: String) -> Self {
        let mut tokens = tempfile::NamedTempFile::new().unwrap();
        writeln!(tokens, "{TOKEN} *").unwrap();
        Self { brokers: brokers.to_owned(), group, topic, tokens }
    }

    /// With these lines of tokens beside [`TOKEN`].
    pub(crate) fn and_tokens(mut self, lines: &str) -> Self {
        writeln!(self.tokens, "{lines}").unwrap();
        self
    }

    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Api {
        let tokens = self.tokens.path().to_str().unwrap();
        let mut arguments = vec![
            "api",
            "--brokers",
            &self.brokers,
            "--group",
            &self.group,
            "--integrations-topic",
            &self.topic,
            "--api-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--api-tokens-file",
            tokens,
            "--log-format",
            "json",
        ];
        arguments.extend(more);
        let process = Process::start(name, env!("CARGO_BIN_EXE_hookstream"), &arguments, &[]);
        let address = process.lines().find(PATIENCE, |line| line_address(line, "\"listening\""));
        let address = address.unwrap_or_else(|| panic!("{name} listens nowhere:\n{}", process.lines().tail(40)));
        Api { process, address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The latest value of every key in the topic.
    fn stored(&self) -> BTreeMap<String, Value> {
        let mut stored = BTreeMap::new();
        for record in read_all(&self.brokers, &self.topic) {
            match record.value.clone() {
                // A line that is not JSON comes from another program.
                Some(value) => {
                    stored.insert(record.key_text().to_owned(), serde_json::from_slice(&value).unwrap_or_default())
                }
                None => stored.remove(record.key_text()),
            };
        }
        stored
    }
}

fn line_address(line: &str, message: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = line.to_string();
    if !text.contains(message) {
        return None;
    }
    let address = line.pointer("/fields/address").or_else(|| line.get("address"))?;
    address.as_str()?.parse().ok()
}

type Http = Client<HttpConnector, Full<Bytes>>;

pub(crate) struct Api {
    process: Process,
    pub(crate) address: SocketAddr,
    client: Http,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    etag: String,
    pub(crate) json: Value,
}

/// One request; the error is that there was no answer.
async fn ask(client: &Http, to: SocketAddr, request: (Method, &str, &str), if_match: &str) -> Result<Answer, String> {
    let (method, path, body) = request;
    let content_type = if method == Method::PATCH { "application/json-patch+json" } else { "application/json" };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{to}/api/v1/{path}"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", content_type);
    if !if_match.is_empty() {
        request = request.header("if-match", if_match);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let etag = parts.headers.get("etag").map_or("", |value| value.to_str().unwrap()).to_owned();
    let json = serde_json::from_slice(&bytes).map_err(|error| format!("{error}: {bytes:?}"))?;
    Ok(Answer { status: parts.status, etag, json })
}

impl Api {
    /// The address of its metrics.
    pub(crate) fn admin(&self) -> SocketAddr {
        let address = self.process.lines().find(PATIENCE, |line| line_address(line, "\"admin listening\""));
        address.unwrap_or_else(|| panic!("no admin listener:\n{}", self.process.lines().tail(40)))
    }

    /// The memory that it has now, in bytes. [`Api::memory_peak`] counts from here.
    pub(crate) fn memory_from_now_on(&self) -> u64 {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5").unwrap();
        self.memory_peak()
    }

    /// The most memory that it has had at once, in bytes.
    pub(crate) fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: &str) -> Answer {
        ask(&self.client, self.address, (method, path, body), "").await.unwrap()
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path, &body.to_string()).await
    }

    async fn patch(&self, path: &str, operations: &Value) -> Answer {
        self.ask(Method::PATCH, path, &json!({ "operations": operations }).to_string()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "").await
    }
}

pub(crate) fn hook(id: &str) -> Value {
    json!({"id": id, "relativeUrl": "/cb", "triggerType": "entityEvent", "filter": {"items": [{}]}})
}

fn add(id: &str) -> Value {
    json!([{"op": "add", "path": "/webHooks", "value": hook(id)}])
}

const BASE: &str = "acme/integrations/instances";

fn curl(arguments: &[&str]) -> (String, String) {
    let output = std::process::Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), status.to_owned())
}

/// The command as the manual prints it, but for the host, the token and a plain-HTTP address.
#[tokio::test(flavor = "multi_thread")]
async fn the_manuals_command_registers_a_webhook_and_the_next_event_reaches_it() {
    const ID: &str = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
    let cluster = Cluster::shared().await;
    let names = Names::of("api-manual");
    names.create(cluster.brokers(), "1s", 3).await;
    let setting = Setting::of(cluster.brokers(), names.group(), names.integrations());
    let api = setting.start("api", &[]);
    let worker = Worker::start(cluster.brokers(), &names, &["--retry-schedule", "1s"]).await;
    let receiver = Receiver::start(|_| Reply::ok());
    let path = format!("testswaggerspace/integrations/instances/{ID}");
    assert_eq!(api.put(&path, &json!({"id": ID, "x-mine": [1.50]})).await.status, 200);
    let body = r#"{
  "operations" : [ { "op" : "Add", "path" : "/IntegrationInstance", "value" : {"id":"a5aad3c1-777b-4ae5-8ca1-60b94c0423e5",
  "relativeUrl":"https://publicUrl.ru/callbacks","triggerType":"entityEvent","filter":{"items":[{"eventType":"change",
  "entityType":"company","changeType":"patch"},{"entityType":"contact"}]},"schedule":{},"disabled":false} } ] }"#;
    let url = receiver.url("/callbacks");
    let (body, status) = curl(&[
        "-X",
        "PATCH",
        &format!("http://{}/api/v1/{path}", api.address),
        "-H",
        "accept: application/json",
        "-H",
        &format!("Authorization: Bearer {TOKEN}"),
        "-H",
        "Content-Type: application/json-patch+json",
        "-d",
        &body.replace("https://publicUrl.ru/callbacks", &url),
    ]);
    assert_eq!(status, "200 1.1", "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&answer["isSuccessful"], &answer["responseCode"]), (&json!(true), &json!("ok")));
    assert_eq!(answer["result"]["webHooks"][0]["relativeUrl"], url);
    let stored = setting.stored();
    let record = &stored[&format!("testswaggerspace/{ID}")];
    assert_eq!(record["webHooks"], answer["result"]["webHooks"]);
    assert_eq!(record["x-mine"], json!([1.5]));
    // A worker follows the topic by itself: events that came before it had seen the record match nothing.
    wait_until("the worker to know the webhook", PATIENCE, async || {
        let known = worker.metric("hookstream_webhooks", &[("state", "enabled")]).await;
        if known > 0.5 { Ok(()) } else { Err(known) }
    })
    .await;
    let event = json!({"id": "e", "type": "change", "entityIds": {"companyId": "c"}, "changeData": {"type": "patch"}});
    let record = Record::new("c", event.to_string()).header("workspace", "testswaggerspace");
    produce(cluster.brokers(), &names.events(), [record]);
    let requests = receiver.wait_for(1, PATIENCE).await;
    assert_eq!(requests[0].path, "/callbacks");
    assert_eq!(requests[0].body, event.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_process_fences_the_older_and_sees_its_changes() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let path = format!("{BASE}/one");
    let mut older = setting.start("older", &[]);
    assert_eq!(older.put(&path, &json!({"baseUrl": "https://a.example"})).await.status, 200);
    let newer = setting.start("newer", &[]);
    assert_eq!(newer.patch(&path, &add("by-newer")).await.status, 200);
    // The older one reads on, and its next change is refused: the newer one has fenced it.
    let id = json!("by-newer");
    wait_until("the older one to see the newer one's change", PATIENCE, async || {
        let seen = older.get(&path).await.json["webHooks"][0]["id"].clone();
        if seen == id { Ok(()) } else { Err(seen) }
    })
    .await;
    let refused = older.patch(&path, &add("by-older")).await;
    assert_eq!(refused.status, 503, "{:?}", refused.json);
    assert_eq!(older.process.wait(PATIENCE), 1);
    let lines = older.process.lines().all().join("\n");
    assert!(lines.contains("fenced"), "{lines}");
    assert_eq!(newer.patch(&path, &add("again")).await.status, 200);
    let ids: Vec<_> =
        setting.stored()["acme/one"]["webHooks"].as_array().unwrap().iter().map(|hook| hook["id"].clone()).collect();
    assert_eq!(ids, ["by-newer", "again"]);
}

/// A thousand changes at once. Meanwhile a newer process starts and is killed: every change that was acknowledged is in the topic once.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_change_is_lost_to_fencing_or_a_kill() {
    const CHANGES: usize = 1_000;
    const INSTANCES: usize = 40;
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let first = setting.start("first", &[]);
    for number in 0..INSTANCES {
        let put = first.put(&format!("{BASE}/i{number}"), &json!({"baseUrl": "https://a.example"})).await;
        assert_eq!(put.status, 200);
    }
    let (current, addresses) = watch::channel(first.address);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let mut changes = tokio::task::JoinSet::new();
    for number in 0..CHANGES {
        let (client, addresses, acknowledged) = (client.clone(), addresses.clone(), Arc::clone(&acknowledged));
        changes.spawn(async move {
            let path = format!("{BASE}/i{}", number % INSTANCES);
            let body = json!({ "operations": add(&format!("w{number}")) }).to_string();
            let deadline = Instant::now() + 3 * PATIENCE;
            loop {
                let to = *addresses.borrow();
                match ask(&client, to, (Method::PATCH, &path, &body), "").await {
                    Ok(answer) if answer.status == 200 => {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                        return number;
                    }
                    // An earlier try was written and its answer lost.
                    Ok(answer) if answer.status == 409 => return number,
                    Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                    Err(_) => {}
                }
                assert!(Instant::now() < deadline, "change {number} never came through");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let reached = async |count: usize| {
        wait_until(&format!("{count} changes"), 2 * PATIENCE, async || {
            let now = acknowledged.load(Ordering::Relaxed);
            if now >= count { Ok(()) } else { Err(now) }
        })
        .await;
    };
    reached(100).await;
    let mut second = setting.start("second", &[]);
    current.send_replace(second.address);
    reached(400).await;
    second.process.signal(Signal::Kill);
    let third = setting.start("third", &[]);
    current.send_replace(third.address);
    let done = changes.join_all().await;
    assert_eq!(done.len(), CHANGES);
    let stored = setting.stored();
    let mut ids: Vec<String> = stored
        .values()
        .flat_map(|instance| instance["webHooks"].as_array().unwrap())
        .map(|hook| hook["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    let mut wanted: Vec<String> = (0..CHANGES).map(|number| format!("w{number}")).collect();
    wanted.sort();
    assert_eq!(ids, wanted);
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_instances_are_listed_in_pages() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let record = |number: usize| {
        let value = json!({"id": format!("i{number:05}"), "baseUrl": "https://a.example", "webHooks": [hook("w")]});
        Record::new(format!("acme/i{number:05}"), value.to_string())
    };
    produce(&setting.brokers, &setting.topic, (0..10_000).map(record));
    let api = setting.start("api", &[]);
    let (mut ids, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = api.get(&format!("{BASE}?limit=700{after}")).await.json;
        ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, 15);
    assert_eq!(ids, (0..10_000).map(|number| format!("i{number:05}")).collect::<Vec<_>>());
    let (load, mut took) = (Load::watch(), Vec::new());
    for number in 0..300 {
        let start = Instant::now();
        let status = if number % 2 == 0 { "paused" } else { "active" };
        let operations = json!([{"op": "replace", "path": "/status", "value": status}]);
        assert_eq!(api.patch(&format!("{BASE}/i{number:05}"), &operations).await.status, 200);
        took.push(start.elapsed());
    }
    took.sort();
    println!("PATCH one after another: p50 {:?}, p99 {:?}", took[150], took[297]);
    load.assert_within("half of the changes", took[150], Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_topics_limit_changes_nothing() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[("max.message.bytes", "20000")]).await;
    let api = setting.start("api", &[]);
    let path = format!("{BASE}/one");
    assert_eq!(api.put(&path, &json!({"baseUrl": "https://a.example"})).await.status, 200);
    let large = json!([{"op": "add", "path": "/features", "value": {"x": "y".repeat(30_000)}}]);
    // Again and again: the client's own recovery from it must not meet the next change.
    for round in 0..5 {
        let refused = api.patch(&path, &large).await;
        assert_eq!((refused.status, &refused.json["status"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("tooLarge")));
        assert!(api.get(&path).await.json.get("features").is_none());
        let after = api.patch(&path, &add(&format!("w{round}"))).await;
        assert_eq!(after.status, 200, "{after:?}\n{}", api.process.lines().tail(20));
    }
    assert_eq!(setting.stored()["acme/one"]["webHooks"].as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_twenty_changes_to_the_same_version_is_made() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let api = setting.start("api", &[]);
    let path = format!("{BASE}/one");
    let etag = api.put(&path, &json!({"baseUrl": "https://a.example"})).await.etag;
    assert_eq!(api.get(&path).await.etag, etag);
    let mut statuses = Vec::new();
    let tries = (0..20).map(|number| {
        let body = json!({ "operations": add(&format!("w{number}")) }).to_string();
        let (client, to, path, etag) = (api.client.clone(), api.address, path.clone(), etag.clone());
        async move { ask(&client, to, (Method::PATCH, &path, &body), &etag).await.unwrap().status }
    });
    statuses.extend(futures_util::future::join_all(tries).await);
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 19, "{statuses:?}");
    assert_eq!(setting.stored()["acme/one"]["webHooks"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_and_foreign_records_are_followed() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    produce(
        &setting.brokers,
        &setting.topic,
        [
            Record::new("acme/bad", "no json"),
            Record::new("no-slash", "{}"),
            Record::new("acme/good", r#"{"status":"paused"}"#),
        ],
    );
    let api = setting.start("api", &[]);
    let list = api.get(BASE).await.json;
    assert_eq!(list["items"][0]["id"], "bad");
    assert!(list["items"][0]["unusable"].is_string(), "{list}");
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&format!("{BASE}/bad")).await.status, 409);
    assert_eq!(api.patch(&format!("{BASE}/bad"), &add("w")).await.status, 409);
    assert_eq!(api.put(&format!("{BASE}/bad"), &json!({})).await.status, 200);
    assert_eq!(api.ask(Method::DELETE, &format!("{BASE}/good"), "").await.status, 200);
    assert!(!setting.stored().contains_key("acme/good"));
    produce(&setting.brokers, &setting.topic, [Record::tombstone("acme/bad")]);
    wait_until("the foreign tombstone", PATIENCE, async || {
        let status = api.get(&format!("{BASE}/bad")).await.json["status"].clone();
        if status == "notFound" { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_tokens_again() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let mut api = setting.start("api", &[]);
    assert_eq!(api.get(BASE).await.status, 200);
    std::fs::write(setting.tokens.path(), "without-workspaces\n").unwrap();
    api.process.signal(Signal::Hup);
    let kept = api.process.lines().find(PATIENCE, |line| line.contains("stay as they were").then(|| line.to_owned()));
    let kept = kept.expect("a line about it");
    assert!(kept.contains("line 1") && !kept.contains("without-workspaces"), "{kept}");
    assert_eq!(api.get(BASE).await.status, 200);
    std::fs::write(setting.tokens.path(), format!("{TOKEN} other\n")).unwrap();
    api.process.signal(Signal::Hup);
    wait_until("the new tokens", PATIENCE, async || {
        let status = api.get(BASE).await.status;
        if status == 403 { Ok(()) } else { Err(status) }
    })
    .await;
    api.process.signal(Signal::Term);
    assert_eq!(api.process.wait(PATIENCE), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_speaks_tls_with_its_certificate() {
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let api = setting.start("api", &["--api-tls-cert", cert, "--api-tls-key", key]);
    let url = format!("https://localhost:{}/api/v1/{BASE}", api.address.port());
    let resolve = format!("localhost:{}:127.0.0.1", api.address.port());
    let token = format!("X-XCOM-AccessKey: {TOKEN}");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let (body, status) = curl(&[flag, "--cacert", cert, "--resolve", &resolve, "-H", &token, &url]);
        assert_eq!(status, format!("200 {version}"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_in_a_commit_loses_and_repeats_no_change() {
    let mut cluster = Cluster::start(1).await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let api = setting.start("api", &[]);
    let path = format!("{BASE}/one");
    assert_eq!(api.put(&path, &json!({"baseUrl": "https://a.example"})).await.status, 200);
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let hooks = (0..10).map(|number| format!("w{round}-{number}"));
        let tries: Vec<_> = hooks.map(|hook| tokio::spawn(patched(&api, path.clone(), hook))).collect();
        cluster.freeze(0);
        tokio::time::sleep(Duration::from_millis(500 + 700 * round)).await;
        cluster.thaw(0);
        for one in tries {
            acknowledged.extend(one.await.unwrap());
        }
    }
    assert!(!acknowledged.is_empty());
    let stored = setting.stored();
    let hooks = stored["acme/one"]["webHooks"].as_array().unwrap();
    for id in &acknowledged {
        assert_eq!(hooks.iter().filter(|hook| hook["id"] == **id).count(), 1, "{id}");
    }
    // A change that failed leaves nothing that blocks the next one.
    let tries = AtomicUsize::new(0);
    wait_until("a change that is acknowledged", PATIENCE, async || {
        let id = format!("last-{}", tries.fetch_add(1, Ordering::Relaxed));
        let status = api.patch(&path, &add(&id)).await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

/// Well above the seconds that a request waits for Kafka, well below the half minute that any request may take.
const SECONDS: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_kafka_does_not_answer_is_refused_in_seconds_and_the_api_goes_on() {
    let mut cluster = Cluster::start(1).await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let api = setting.start("api", &[]);
    let path = format!("{BASE}/one");
    assert_eq!(api.put(&path, &json!({"baseUrl": "https://a.example"})).await.status, 200);
    cluster.freeze(0);
    let (load, since) = (Load::watch(), Instant::now());
    let (w1, w2) = (add("w1"), add("w2"));
    let (first, second) = tokio::join!(api.patch(&path, &w1), api.patch(&path, &w2));
    load.assert_within("a change without an answer of Kafka is refused", since.elapsed(), SECONDS);
    let messages = [first, second].map(|answer| {
        assert_eq!(answer.status, 503, "{answer:?}");
        answer.json["message"].as_str().unwrap().to_owned()
    });
    // The first is being written; the second waits behind it, or is written with it.
    let unknown = |message: &str| message.starts_with("Kafka does not answer in time: it is not known");
    assert!(messages.iter().any(|message| unknown(message)), "{messages:?}");
    let unwritten = |message: &str| message == "not written: Kafka does not answer";
    assert!(messages.iter().all(|message| unknown(message) || unwritten(message)), "{messages:?}");
    cluster.thaw(0);
    wait_until("a change that is written", PATIENCE, async || {
        let status = api.patch(&path, &add("w3")).await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert!(setting.stored()["acme/one"]["webHooks"].to_string().contains("w3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_starts_while_kafka_is_frozen_says_so_and_ends_with_an_error() {
    let mut cluster = Cluster::start(1).await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    cluster.freeze(0);
    let began = Instant::now();
    let mut api = setting.start("api", &[]);
    let code = api.process.wait(3 * PATIENCE);
    let took = usize::try_from(began.elapsed().as_secs()).unwrap();
    cluster.thaw(0);
    let lines = api.process.lines().all();
    let said = lines.iter().filter(|line| line.contains("no broker answers")).count();
    // Two threads ask; each reports it once in ten seconds.
    assert!((1..=2 * (took / 10 + 2)).contains(&said), "{said} in {took} s: {lines:#?}");
    assert_eq!(code, 1, "{lines:#?}");
    let mut next = setting.start("api", &[]);
    wait_until("an answer", PATIENCE, async || {
        let status = next.get(&format!("{BASE}/one")).await.status;
        if status == 409 { Ok(()) } else { Err(status) }
    })
    .await;
    next.process.signal(Signal::Term);
}

/// The webhook's id, if the change was acknowledged.
fn patched(api: &Api, path: String, id: String) -> impl Future<Output = Option<String>> + Send + 'static {
    let (client, to) = (api.client.clone(), api.address);
    async move {
        let body = json!({ "operations": add(&id) }).to_string();
        let answer = ask(&client, to, (Method::PATCH, &path, &body), "").await.unwrap();
        assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
        (answer.status == 200).then_some(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_ends_the_start_with_its_name() {
    let cluster = Cluster::shared().await;
    let mut setting = Setting::new(cluster.brokers(), &[]).await;
    setting.topic = unique("api-missing");
    let mut api = setting.start("api", &[]);
    assert_eq!(api.process.wait(PATIENCE), 1);
    let lines = api.process.lines().all().join("\n");
    assert!(lines.contains(&setting.topic) && lines.contains("topics apply"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_delivery_is_signed_and_returns_the_receivers_answer() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let arguments = ["receiver", "--listen", "127.0.0.1:0", "--secret", SECRET, "--log-format", "json"];
    let receiver = Process::start("receiver", env!("CARGO_BIN_EXE_hookstream"), &arguments, &[]);
    let address = receiver.lines().find(PATIENCE, |line| line_address(line, "listening"));
    let address = address.unwrap_or_else(|| panic!("{}", receiver.lines().tail(20)));
    let instance = json!({
        "baseUrl": format!("http://{address}"), "webHooks": [hook("w")],
        "secrets": [{"id": "webhook.signingSecret", "value": SECRET}],
    });
    let path = format!("{BASE}/one");
    let test = format!("{path}/webhooks/w/test");
    // Loopback is no address for webhooks unless it is named.
    let strict = setting.start("strict", &[]);
    assert_eq!(strict.put(&path, &instance).await.status, 200);
    let refused = strict.ask(Method::POST, &test, "").await.json;
    assert_eq!((&refused["acknowledged"], &refused["reason"]), (&json!(false), &json!("refused-address")));
    let api = setting.start("api", &["--allow-private-networks", "127.0.0.0/8"]);
    let said = api.ask(Method::POST, &test, "").await.json;
    assert_eq!((&said["acknowledged"], &said["status"]), (&json!(true), &json!(200)), "{said}");
    let unsigned = json!([{"op": "replace", "path": "/secrets", "value": []}]);
    assert_eq!(api.patch(&path, &unsigned).await.status, 200);
    let said = api.ask(Method::POST, &test, "").await.json;
    assert_eq!((&said["acknowledged"], &said["reason"]), (&json!(false), &json!("status")), "{said}");
}
