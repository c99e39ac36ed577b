//! A bad day from beginning to end, as the people on call see it: a receiver dies under load, alerts fire in a real
//! Prometheus, the integration is suspended, the receiver returns, and the tools bring everything over.
//!
//! What Prometheus recorded is written to `target/tmp/bad-day` for `deploy/tests/panels.py`, which draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::monitor::Monitor;
use crate::support::receiver::{Answer, Receiver, Recorded};
use crate::support::records::{Record, produce, read_all};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::{Names, Worker};

const SCHEDULE: &str = "1s,2s,4s";
const OWNER: [&str; 4] = ["--workspace", "ws", "--integration", "down"];
/// Metrics that this day does not have: no API runs, and no transaction stays open.
const ABSENT: [&str; 2] = ["hookstream_api_requests_total", "hookstream_open_transaction_seconds"];

fn event(id: usize) -> Record {
    let value = json!({ "id": format!("e-{id}"), "type": "change", "entityIds": { "companyId": id.to_string() },
        "changeData": { "type": "patch" } });
    Record::new(id.to_string(), value.to_string()).header("workspace", "ws")
}

fn integration(id: &str, receiver: &Receiver) -> Record {
    let value = json!({ "id": id, "baseUrl": receiver.url("/crm"), "status": "active", "webHooks": [
        { "id": format!("{id}-events"), "relativeUrl": "/events", "triggerType": "entityEvent", "filter": { "items": [{}] } },
    ] });
    Record::new(format!("ws/{id}"), value.to_string())
}

/// Events that come all day long.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start(brokers: &str, topic: &str) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (stop, made, brokers, topic) =
                (Arc::clone(&stop), Arc::clone(&made), brokers.to_owned(), topic.to_owned());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let first = made.load(Ordering::Relaxed);
                    produce(&brokers, &topic, (first..first + 5).map(event));
                    made.store(first + 5, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(250));
                }
            }
        });
        Self { stop, made, thread: Some(thread) }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until this many more have been made.
    async fn more(&self, count: usize) {
        let wanted = self.made() + count;
        let enough = async || if self.made() >= wanted { Ok(()) } else { Err(self.made()) };
        wait_until(&format!("{wanted} events"), PATIENCE, enough).await;
    }

    /// Ends it; how many events there are in all.
    fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("producing events does not panic");
        }
        self.made()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs a tool on the integration that is down; its account.
async fn tool(brokers: &str, names: &Names, words: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
    command.args(words).args(names.arguments(brokers)).args(OWNER).args(["--retry-schedule", SCHEDULE, "--json"]);
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, log) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert!(ended.status.success(), "{words:?}: {log}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}\n{log}"))
}

/// Event id to the delivery ids under which it came.
fn by_event<'a>(requests: impl IntoIterator<Item = &'a Recorded>) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in requests.into_iter().filter(|request| request.path.ends_with("/events")) {
        let event = request.json()["id"].as_str().expect("an event has an id").to_owned();
        found.entry(event).or_default().insert(request.delivery_id().to_owned());
    }
    found
}

fn balances(what: &str, found: &BTreeMap<String, BTreeSet<String>>, events: usize) {
    let missing: Vec<_> = (0..events).map(|id| format!("e-{id}")).filter(|id| !found.contains_key(id)).collect();
    assert!(missing.is_empty(), "{what} never got {missing:?}");
    let twice: Vec<_> = found.iter().filter(|(_, ids)| ids.len() != 1).collect();
    assert!(twice.is_empty(), "{what} got one event under two ids: {twice:?}");
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The day's moments, for the pictures.
#[derive(Default)]
struct Marks(Vec<Value>);

impl Marks {
    fn add(&mut self, what: &str) {
        println!("{what}");
        self.0.push(json!({ "at": now(), "what": what }));
    }
}

async fn suspended(brokers: &str, names: &Names) {
    wait_until("the suspension", PATIENCE, async || {
        let records = read_all(brokers, &names.health());
        let states: Vec<_> = records.iter().map(|record| record.json()["status"].clone()).collect();
        if states.contains(&json!("failed")) { Ok(()) } else { Err(states) }
    })
    .await;
}

/// Asks every query of the dashboard over the whole day, and keeps what Prometheus answers.
async fn dashboard(monitor: &Monitor, begin: i64, marks: &Marks) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-day");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    let (range, path) =
        ((begin, now()), Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring/dashboard.json"));
    let text = std::fs::read_to_string(path).unwrap();
    // What Grafana would fill in: all instances, and four scrapes and one more.
    let text = text.replace("$__rate_interval", "5s").replace("$instance", ".+");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut empty = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let mut answers = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let series = monitor.range(expression, range).await;
            let points = series.iter().flat_map(|one| one["values"].as_array().into_iter().flatten());
            let is_number = |point: &Value| point[1].as_str().is_some_and(|text| text != "NaN");
            let is_absent = ABSENT.iter().any(|metric| expression.contains(metric));
            if !is_absent && !points.into_iter().any(is_number) {
                empty.push(format!("{title}: {expression}"));
            }
            answers.push(json!({ "expr": expression, "legend": target["legendFormat"], "series": series }));
        }
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        write(&format!("panel-{}.json", panel["id"]), &json!({ "title": title, "unit": unit, "targets": answers }));
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        if let Some(expression) = annotation["expr"].as_str() {
            assert!(!monitor.range(expression, range).await.is_empty(), "nothing for the annotation {expression}");
        }
    }
    write("alerts.json", &json!(monitor.range("ALERTS{alertstate=\"firing\"}", range).await));
    write("day.json", &json!({ "begin": begin, "end": range.1, "marks": marks.0 }));
    assert_eq!(empty, Vec::<String>::new(), "panels with nothing to show");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_bad_day_alerts_fire_and_the_tools_deliver_every_event() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("bad-day-seen");
    names.create(brokers, SCHEDULE, 4).await;
    let (well, down) = (Receiver::start(|_| Answer::ok()), Receiver::start(|_| Answer::ok()));
    produce(brokers, &names.integrations(), [integration("well", &well), integration("down", &down)]);
    let mut options = vec!["--retry-schedule", SCHEDULE, "--suspend-after", "20s", "--suspend-after-failures", "10"];
    options.extend(["--errors-min-attempts", "5", "--errors-window", "10s"]);
    let mut first = Worker::start(brokers, &names, &options).await;
    let mut second = Worker::start(brokers, &names, &options).await;
    let monitor = Monitor::start(&[first.admin(), second.admin()], &names.events()).await;
    let (begin, mut marks) = (now(), Marks::default());
    let mut load = Load::start(brokers, &names.events());
    load.more(150).await;
    // Minutes of the rules are seconds here: a slow start may have fired one.
    wait_until("no alert while all is well", PATIENCE, async || match monitor.firing().await {
        firing if firing.is_empty() => Ok(()),
        firing => Err(firing),
    })
    .await;

    marks.add("receiver dies");
    let mut received = down.recorded();
    let port = down.into_port();
    suspended(brokers, &names).await;
    marks.add("suspended");
    monitor.wait_for("HookstreamIntegrationSuspended", true).await;
    monitor.wait_for("HookstreamDeadLetters", true).await;
    monitor.wait_for("HookstreamCircuitsOpen", true).await;
    // How far a retry gets is chance: behind an open circuit it goes back to its tier unspent, unless it is the probe.
    let put_off = monitor.query("sum by (tier) (hookstream_retries_total)").await;
    let is_first = |tier: &Value| tier["metric"]["tier"] == "1s" && tier["value"][1] != "0";
    assert!(put_off.iter().any(is_first), "what failed went to the first tier: {put_off:?}");

    marks.add("receiver returns");
    let down = Receiver::start_on(&port, |_| Answer::ok());
    let resumed = tool(brokers, &names, &["resume"]).await;
    println!("{resumed}");
    load.more(60).await;
    let replayed = tool(brokers, &names, &["replay"]).await;
    marks.add("replay");
    println!("{replayed}");
    load.more(60).await;
    let events = load.end();
    let redriven = tool(brokers, &names, &["dead-letters", "redrive", "--all"]).await;
    marks.add("redrive");
    println!("{redriven}");
    assert!(replayed["sent"].as_u64() > Some(0) && redriven["sent"].as_u64() > Some(0), "{replayed} {redriven}");
    wait_until("every event to be over", PATIENCE, async || {
        let arrived = by_event(received.iter().chain(&down.recorded())).len();
        if arrived == events { Ok(()) } else { Err((arrived, events)) }
    })
    .await;
    received.extend(down.recorded());
    balances("the receiver that was down", &by_event(&received), events);
    balances("the other receiver", &by_event(&well.recorded()), events);
    monitor.wait_for("HookstreamCircuitsOpen", false).await;
    monitor.wait_for("HookstreamIntegrationSuspended", false).await;
    marks.add("all is well");
    dashboard(&monitor, begin, &marks).await;
    first.stop();
    second.stop();
}
