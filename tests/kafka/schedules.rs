//! Scheduled webhooks: each tick by one worker, and what happens when a worker or its Kafka goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::process::Signal;
use crate::support::receiver::{Answer, Receiver, Recorded};
use crate::support::records::{Record, produce};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::{Names, Worker};

const PERIOD_MS: i64 = 10_000;

fn webhook(id: &str) -> Value {
    json!({ "id": id, "relativeUrl": format!("/{id}"), "triggerType": "schedule", "schedule": { "period": "00:00:10" } })
}

fn integration(receiver: &Receiver, status: &str, webhooks: &[Value]) -> Value {
    json!({ "baseUrl": receiver.url(""), "status": status, "webHooks": webhooks })
}

/// Names, topics with four partitions, and a dozen webhooks in one integration.
async fn dozen(brokers: &str, claim: &str, receiver: &Receiver) -> Names {
    let names = Names::of(claim);
    names.create(brokers, "30s", 4).await;
    let webhooks: Vec<_> = (0..12).map(|number| webhook(&format!("w-{number}"))).collect();
    let value = integration(receiver, "active", &webhooks).to_string();
    produce(brokers, &names.integrations(), [Record::new("w/i", value)]);
    names
}

const ARGUMENTS: [&str; 2] = ["--retry-schedule", "30s"];

/// When the tick was scheduled, ms since 1970.
fn scheduled_ms(request: &Recorded) -> i64 {
    let body = request.json();
    let at = body.get("scheduledAt").and_then(Value::as_str).expect("a tick says when it was scheduled");
    at.parse::<jiff::Timestamp>().expect("RFC 3339").as_millisecond()
}

/// The ticks that came, by webhook. Fails if one came twice.
fn ticks(requests: &[Recorded]) -> BTreeMap<String, BTreeSet<i64>> {
    let mut ticks: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for request in requests {
        let at = scheduled_ms(request);
        assert!(ticks.entry(request.path.clone()).or_default().insert(at), "{} at {at} came twice", request.path);
    }
    ticks
}

async fn fired(worker: &Worker) -> f64 {
    worker.metric("hookstream_scheduled_ticks_total", &[("outcome", "fired")]).await
}

/// Two workers that have both fired.
async fn two_workers(brokers: &str, names: &Names) -> (Worker, Worker) {
    let first = Worker::start(brokers, names, &ARGUMENTS).await;
    let second = Worker::start(brokers, names, &ARGUMENTS).await;
    wait_until("both workers to fire", PATIENCE, async || match (fired(&first).await, fired(&second).await) {
        (one, other) if one > 0.0 && other > 0.0 => Ok(()),
        counts => Err(counts),
    })
    .await;
    (first, second)
}

/// Waits until all webhooks have ticks scheduled at `ms` or later.
async fn ticked_until(receiver: &Receiver, ms: i64) {
    wait_until("every webhook to tick", Duration::from_mins(3), async || {
        let ticks = ticks(&receiver.recorded());
        let late = ticks.values().filter(|of| of.last().is_some_and(|last| *last >= ms)).count();
        if late == 12 { Ok(()) } else { Err((late, ticks.len())) }
    })
    .await;
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_at_most_one_tick_of_each_webhook_and_repeats_no_tick() {
    let cluster = Cluster::shared().await;
    let receiver = Receiver::start(|_| Answer::ok());
    let names = dozen(cluster.brokers(), "schedules-kill", &receiver).await;
    let (mut first, second) = two_workers(cluster.brokers(), &names).await;
    ticked_until(&receiver, now_ms()).await;
    let from = now_ms();
    ticked_until(&receiver, from + 60_000).await;
    first.sigkill();
    let killed = now_ms();
    let until = from + 120_000;
    ticked_until(&receiver, until + PERIOD_MS).await;
    let mut lost = 0;
    for (path, of) in ticks(&receiver.recorded()) {
        let counted: Vec<_> = of.into_iter().filter(|at| (from..until).contains(at)).collect();
        let phase = counted[0] % PERIOD_MS;
        assert!(counted.iter().all(|at| at % PERIOD_MS == phase), "{path}: {counted:?}");
        assert!(
            counted.len() == 12 || counted.len() == 11,
            "{path}: {} ticks, killed at {killed}: {counted:?}",
            counted.len()
        );
        lost += 12 - counted.len();
    }
    println!("12 webhooks, 144 ticks, {lost} lost at the failover, none doubled");
    assert!(fired(&second).await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_from_a_freeze_repeats_no_tick() {
    let cluster = Cluster::shared().await;
    let receiver = Receiver::start(|_| Answer::ok());
    let names = dozen(cluster.brokers(), "schedules-freeze", &receiver).await;
    let (mut first, second) = two_workers(cluster.brokers(), &names).await;
    ticked_until(&receiver, now_ms()).await;
    first.signal(Signal::Stop);
    ticked_until(&receiver, now_ms() + PERIOD_MS).await;
    let before = fired(&second).await;
    first.signal(Signal::Continue);
    ticked_until(&receiver, now_ms() + 3 * PERIOD_MS).await;
    assert!(fired(&second).await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_its_group_stops_firing_by_itself_and_goes_on_after() {
    let mut cluster = Cluster::start(1).await;
    let brokers = cluster.brokers().to_owned();
    let receiver = Receiver::start(|_| Answer::ok());
    let names = dozen(&brokers, "schedules-cut", &receiver).await;
    let worker = Worker::start(&brokers, &names, &ARGUMENTS).await;
    ticked_until(&receiver, now_ms()).await;
    cluster.freeze(0);
    let frozen_ms = now_ms();
    wait_until("a whole period after the end of the session", PATIENCE, async || {
        if now_ms() > frozen_ms + 7_000 + PERIOD_MS { Ok(()) } else { Err(now_ms() - frozen_ms) }
    })
    .await;
    let late: Vec<_> = receiver.recorded().iter().map(scheduled_ms).filter(|at| *at > frozen_ms + 7_000).collect();
    assert!(late.is_empty(), "fired after its session must have ended: {late:?}");
    cluster.thaw(0);
    ticked_until(&receiver, now_ms()).await;
    let acknowledged = [("outcome", "acknowledged")];
    worker.metric_is("hookstream_scheduled_ticks_total", &acknowledged, |count| count >= 24.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_has_its_body_and_is_retried_only_before_the_next_one() {
    let cluster = Cluster::shared().await;
    let names = Names::of("schedules-retry");
    names.create(cluster.brokers(), "1s,30s", 2).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    let value = integration(&receiver, "active", &[webhook("w-1")]).to_string();
    produce(cluster.brokers(), &names.integrations(), [Record::new("w/i", value)]);
    let worker = Worker::start(cluster.brokers(), &names, &["--retry-schedule", "1s,30s"]).await;
    let load = Load::watch();
    let requests = receiver.wait_for(3, PATIENCE).await;
    let at = scheduled_ms(&requests[0]);
    let text = format!("{:.3}", jiff::Timestamp::from_millisecond(at).unwrap());
    assert_eq!(requests[0].body, format!(r#"{{"webHookId":"w-1","triggerType":"schedule","scheduledAt":"{text}"}}"#));
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("POST", "/w-1"));
    assert_eq!(requests.iter().map(Recorded::attempt).collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!(requests[0].delivery_id(), requests[1].delivery_id());
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(scheduled_ms(&requests[2]), at + PERIOD_MS);
    assert_ne!(requests[0].delivery_id(), requests[2].delivery_id());
    let late = Duration::from_millis(u64::try_from(requests[0].arrived_ms - at).unwrap());
    load.assert_within("a tick comes at its time", late, Duration::from_secs(1));
    worker.metric_is("hookstream_dropped_total", &[("reason", "tick-over")], |count| count >= 1.0).await;
    for (outcome, least) in [("fired", 2.0), ("retried", 1.0), ("dropped", 1.0)] {
        let labels = [("outcome", outcome)];
        worker.metric_is("hookstream_scheduled_ticks_total", &labels, |count| count >= least).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_paused_disabled_and_removed_schedules_are_seen_while_running() {
    let cluster = Cluster::shared().await;
    let names = Names::of("schedules-change");
    names.create(cluster.brokers(), "30s", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let worker = Worker::start(cluster.brokers(), &names, &ARGUMENTS).await;
    let put = |id: &str, status: &str, webhooks: &[Value]| {
        let value = integration(&receiver, status, webhooks).to_string();
        produce(cluster.brokers(), &names.integrations(), [Record::new(format!("w/{id}"), value)]);
    };
    put("clock", "active", &[webhook("clock")]);
    put("paused", "active", &[webhook("paused")]);
    put("removed", "active", &[webhook("removed")]);
    put("disabled", "active", &[webhook("disabled")]);
    let came = async |path: &str, least: usize| {
        wait_until(path, PATIENCE, async || {
            let count = receiver.recorded().iter().filter(|request| request.path == path).count();
            if count >= least { Ok(()) } else { Err(count) }
        })
        .await;
    };
    for path in ["/clock", "/paused", "/removed", "/disabled"] {
        came(path, 1).await;
    }
    let mut disabled = webhook("disabled");
    disabled["disabled"] = json!(true);
    put("paused", "paused", &[webhook("paused")]);
    put("disabled", "active", &[disabled]);
    produce(cluster.brokers(), &names.integrations(), [Record::tombstone("w/removed")]);
    let records = |outcome| [("outcome", outcome)];
    worker.metric_is("hookstream_integration_records_total", &records("used"), |count| count > 5.5).await;
    worker.metric_is("hookstream_integration_records_total", &records("removed"), |count| count > 0.5).await;
    let changed_ms = now_ms();
    let ticked = receiver.recorded().iter().filter(|request| request.path == "/clock").count();
    came("/clock", ticked + 3).await;
    let requests = receiver.recorded();
    let late = requests.iter().filter(|request| request.path != "/clock" && scheduled_ms(request) > changed_ms);
    assert_eq!(late.count(), 0, "what the worker knows of it does not tick any more");
    assert!(ticks(&requests).values().all(|of| !of.is_empty()));
    assert!(fired(&worker).await >= 7.0);
}
