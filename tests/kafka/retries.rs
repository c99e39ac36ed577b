//! Retries: their way through the tiers when they are due, under the settings of that time, to the dead-letter topic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::stage::{Stage, WORKSPACE, event, event_id, events, integration, key_of, webhook};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver, Recorded};
use crate::support::records::{Read, Record};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::Worker;

fn header_names(record: &Read) -> BTreeSet<&str> {
    record.headers.iter().map(|(name, _)| name.as_str()).collect()
}

fn number(record: &Read, header: &str) -> i64 {
    let text = record.header(header).unwrap_or_else(|| panic!("{header} in {record:?}"));
    text.parse().unwrap_or_else(|error| panic!("{header} {text:?}: {error}"))
}

const RETRY_HEADERS: [&str; 10] = [
    "workspace",
    "hookstream-integration-id",
    "hookstream-webhook-id",
    "hookstream-delivery-id",
    "hookstream-attempt",
    "hookstream-first-attempt-ms",
    "hookstream-due-ms",
    "hookstream-origin",
    "hookstream-error",
    "hookstream-status",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_chain_ends_as_a_dead_letter_after_exactly_the_scheduled_attempts() {
    const EVENTS: usize = 5;
    let cluster = Cluster::shared().await;
    // One tier is used twice.
    let stage = Stage::on(&cluster, "chain", "300ms,600ms,300ms", 3).await;
    let receiver = Receiver::start(|_| Answer::status(503));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let sent: Vec<_> = events("e", EVENTS).collect();
    let values: BTreeSet<_> = sent.iter().filter_map(|event| event.value.clone()).collect();
    stage.send(sent);
    let dead = stage.wait_for_dead(EVENTS, PATIENCE).await;
    stage.settled(PATIENCE).await;
    for tier in ["300ms", "600ms"] {
        stage.tier_settled(tier, PATIENCE).await;
    }

    let requests = receiver.recorded();
    let attempts = |id: &str| {
        requests.iter().filter(|request| request.delivery_id() == id).map(Recorded::attempt).collect::<Vec<_>>()
    };
    let mut retries = stage.tier("300ms");
    assert_eq!((retries.len(), stage.tier("600ms").len()), (2 * EVENTS, EVENTS));
    retries.extend(stage.tier("600ms"));
    let expected: BTreeSet<_> = RETRY_HEADERS.into_iter().collect();
    for retry in &retries {
        assert!(header_names(retry).is_superset(&expected), "{retry:?}");
        assert_eq!(retry.key_text(), "w-i", "the key is the webhook's id");
        assert_eq!(retry.header("hookstream-error"), Some("status"));
        assert_eq!(retry.header("hookstream-status"), Some("503"));
        assert!(values.contains(retry.value.as_ref().unwrap()), "the event's bytes");
        let delay = if number(retry, "hookstream-attempt") == 2 { 600 } else { 300 };
        let ahead = number(retry, "hookstream-due-ms") - retry.timestamp.unwrap();
        assert!((0..=delay).contains(&ahead), "due {ahead} ms after it was appended, with a delay of {delay} ms");
    }
    assert_eq!(dead.len(), EVENTS);
    let mut origins = BTreeSet::new();
    for letter in &dead {
        assert!(header_names(letter).is_superset(&expected), "{letter:?}");
        assert_eq!(letter.header("hookstream-reason"), Some("exhausted"));
        assert_eq!(letter.header("workspace"), Some(WORKSPACE));
        assert_eq!(letter.header("hookstream-integration-id"), Some("i"));
        assert_eq!(letter.header("hookstream-webhook-id"), Some("w-i"));
        assert_eq!(letter.header("hookstream-attempt"), Some("4"));
        assert_eq!(letter.header("hookstream-error"), Some("status"));
        assert_eq!(letter.header("hookstream-status"), Some("503"));
        assert!(values.contains(letter.value.as_ref().unwrap()), "the event's bytes");
        let id = letter.header("hookstream-delivery-id").unwrap();
        assert_eq!(attempts(id), [1, 2, 3, 4], "{id}");
        let first = requests.iter().find(|request| request.delivery_id() == id).unwrap();
        let noted = number(letter, "hookstream-first-attempt-ms");
        assert!(noted <= first.arrived_ms && first.arrived_ms - noted < 60_000, "{noted} {first:?}");
        let origin = letter.header("hookstream-origin").unwrap().to_owned();
        assert!(origin.starts_with(&format!("{}/", stage.names.events())), "{origin}");
        let of_retries: BTreeSet<_> = retries
            .iter()
            .filter(|retry| retry.header("hookstream-delivery-id") == Some(id))
            .map(|retry| (retry.header("hookstream-origin").unwrap(), number(retry, "hookstream-first-attempt-ms")))
            .collect();
        assert_eq!(of_retries, BTreeSet::from([(origin.as_str(), noted)]), "origin and first attempt never change");
        origins.insert(origin);
    }
    assert_eq!(origins.len(), EVENTS);
    assert_eq!(requests.len(), 4 * EVENTS);
    for (name, labels, value) in [
        ("hookstream_attempts_total", ("reason", "status"), 20.0),
        ("hookstream_retries_total", ("tier", "300ms"), 10.0),
        ("hookstream_retries_total", ("tier", "600ms"), 5.0),
        ("hookstream_dead_letters_total", ("reason", "exhausted"), 5.0),
        ("hookstream_deliveries_total", ("outcome", "retried"), 15.0),
        ("hookstream_deliveries_total", ("outcome", "dead"), 5.0),
        ("hookstream_deliveries_total", ("outcome", "acknowledged"), 0.0),
    ] {
        stage.knows(&worker, name, &[labels], value).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_clock_decides_when_a_retry_is_due_even_if_the_workers_clock_is_wrong() {
    const DELAY_MS: i64 = 3_000;
    let cluster = Cluster::shared().await;
    for (claim, ahead) in [("clock-ahead", 600), ("clock-behind", -600)] {
        let stage = Stage::on(&cluster, claim, "3s", 1).await;
        let receiver = Receiver::start(|request| Answer::status(if request.attempt() == 1 { 500 } else { 200 }));
        stage.put([&integration("i", &receiver.url(""))]);
        // A retry of another worker waits at start, when this one has published nothing.
        let mut first = stage.worker(&[]).await;
        stage.send([event("waits", "c")]);
        stage.wait_for_tier("3s", 1).await;
        first.sigkill();
        let schedule = ["--retry-schedule", "3s"];
        let worker = Worker::ahead(ahead, cluster.brokers(), &stage.names, &schedule).await;
        stage.send([event("comes", "c")]);
        let appended = stage.wait_for_tier("3s", 2).await;
        receiver.wait_for(4, PATIENCE).await;
        for retry in &appended {
            let id = retry.header("hookstream-delivery-id").unwrap();
            let requests = receiver.recorded();
            let second = requests.iter().find(|request| request.delivery_id() == id && request.attempt() == 2).unwrap();
            let after = second.arrived_ms - retry.timestamp.unwrap();
            assert!(after >= DELAY_MS, "{claim}: {id} came {after} ms after it was appended");
            // The first may have waited for the session of the worker that was killed, but none for the clock to be right.
            assert!(after < 300_000, "{claim}: {id} came {after} ms after it was appended");
        }
        // As exact as an answer of a broker comes soon.
        let ahead = f64::from(i32::try_from(ahead).unwrap());
        worker.metric_is("hookstream_clock_ahead_seconds", &[], |differs| (differs - ahead).abs() < 30.0).await;
        worker.logged(&["differs from the brokers'"]).await;
        worker.metric_is("hookstream_retry_overdue_seconds", &[], |overdue| overdue < 1.0).await;
    }
}

/// The least upper bound of a histogram's buckets that holds `share` of what it counted.
fn quantile(text: &str, name: &str, tier: &str, share: f64) -> String {
    let bucket = |line: &str| {
        let line = line.strip_prefix(&format!("{name}_bucket{{"))?;
        if !line.contains(&format!("tier=\"{tier}\"")) {
            return None;
        }
        let le = line.split("le=\"").nth(1)?.split('"').next()?.to_owned();
        Some((le, line.rsplit(' ').next()?.parse::<f64>().ok()?))
    };
    let buckets: Vec<_> = text.lines().filter_map(bucket).collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let found = buckets.into_iter().find(|(_, count)| *count >= share * total);
    found.map_or_else(|| "nothing".to_owned(), |(le, _)| le)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_never_early_and_its_lateness_is_measured() {
    const RECEIVERS: usize = 6;
    // Each fails twice, which is less than it takes to open a circuit.
    const EVENTS: usize = 9;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "timing", "500ms,2s", 3).await;
    // The first failures are spread over a second, so that retries fall due one by one.
    let script = |request: &Recorded| {
        let spread = u64::try_from(crate::stage::event_number(request) * 110).unwrap();
        match request.attempt() {
            1 => Answer::status(500).after(Duration::from_millis(spread)),
            2 => Answer::status(500),
            _ => Answer::ok(),
        }
    };
    let receivers: Vec<_> = (0..RECEIVERS).map(|_| Receiver::start(script)).collect();
    let integrations: Vec<_> =
        receivers.iter().enumerate().map(|(id, receiver)| integration(&format!("i{id}"), &receiver.url(""))).collect();
    stage.put(&integrations);
    let worker = stage.worker(&[]).await;
    stage.send(events("e", EVENTS));
    let mut requests = Vec::new();
    for receiver in &receivers {
        requests.extend(receiver.wait_for(3 * EVENTS, PATIENCE).await);
    }
    let mut due: BTreeMap<(String, u32), i64> = BTreeMap::new();
    for (tier, delay) in [("500ms", 500), ("2s", 2000)] {
        for retry in stage.tier(tier) {
            let id = retry.header("hookstream-delivery-id").unwrap().to_owned();
            let attempt = u32::try_from(number(&retry, "hookstream-attempt")).unwrap() + 1;
            due.insert((id, attempt), retry.timestamp.unwrap() + delay);
        }
    }
    let mut late: Vec<i64> = requests
        .iter()
        .filter(|request| request.attempt() > 1)
        .map(|request| request.arrived_ms - due[&(request.delivery_id().to_owned(), request.attempt())])
        .collect();
    late.sort_unstable();
    assert_eq!(late.len(), RECEIVERS * 2 * EVENTS);
    assert!(late[0] >= 0, "a retry came {} ms early", -late[0]);
    for tier in ["500ms", "2s"] {
        let labels = [("tier", tier)];
        stage.knows(&worker, "hookstream_retry_lateness_seconds_count", &labels, 54.0).await;
        let p99 = quantile(&worker.metrics().await, "hookstream_retry_lateness_seconds", tier, 0.99);
        println!("lateness of the tier {tier}: p99 within {p99} s, as the worker measures");
    }
    println!("lateness at the receiver: median {} ms, most {} ms", late[late.len() / 2], late[late.len() - 1]);
}

/// An integration whose retry finds the world changed, and how.
fn changed(id: &str, base: &str, change: impl Fn(&mut Value)) -> Value {
    let mut integration = integration(id, base);
    change(&mut integration);
    integration
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_uses_the_settings_of_the_moment_when_it_is_due() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "world", "20s", 2).await;
    let before = Receiver::start(|request| Answer::status(if request.attempt() == 1 { 500 } else { 200 }));
    let after = Receiver::start(|_| Answer::ok());
    let ids = ["moved", "secrets", "refiltered", "disabled", "gone", "removed", "paused", "unready", "failed"];
    let base = |id: &str| before.url(&format!("/{id}"));
    let secret = |value: &str| json!([{ "id": "webhook.header.X-Key", "value": value }]);
    let first: Vec<_> = ids.map(|id| changed(id, &base(id), |it| it["secrets"] = secret("old"))).into();
    stage.put(&first);
    let worker = stage.worker(&[]).await;
    stage.send([event("e", "c")]);
    before.wait_for(ids.len(), PATIENCE).await;
    stage.wait_for_tier("20s", ids.len()).await;
    let second = [
        changed("moved", &after.url("/new"), |_| {}),
        changed("secrets", &base("secrets"), |it| it["secrets"] = secret("new")),
        changed("refiltered", &base("refiltered"), |it| it["webHooks"][0]["filter"] = json!({ "items": [] })),
        changed("disabled", &base("disabled"), |it| it["webHooks"][0]["disabled"] = json!(true)),
        changed("gone", &base("gone"), |it| it["webHooks"] = json!([webhook("another", "/x")])),
        changed("paused", &base("paused"), |it| it["status"] = json!("paused")),
        changed("unready", &base("unready"), |it| it["status"] = json!("notConfigured")),
        changed("failed", &base("failed"), |it| it["status"] = json!("failed")),
    ];
    stage.put(&second);
    stage.put_records([Record::tombstone(key_of(&first[5]))]);
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "used")], 17.0).await;
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "removed")], 1.0).await;
    stage.tier_settled("20s", PATIENCE).await;

    let retried: BTreeMap<_, _> = before
        .recorded()
        .into_iter()
        .filter(|request| request.attempt() == 2)
        .map(|request| (request.path.clone(), request.header("x-key").map(str::to_owned)))
        .collect();
    let expected = [("/refiltered/hook".to_owned(), None), ("/secrets/hook".to_owned(), Some("new".to_owned()))];
    assert_eq!(retried, BTreeMap::from(expected), "(were there others, the machine was too slow for this test)");
    let moved = after.wait_for(1, PATIENCE).await;
    assert_eq!((moved.len(), moved[0].attempt(), moved[0].path.as_str()), (1, 2, "/new/hook"));
    assert_eq!((moved[0].header("x-key"), event_id(&moved[0]).as_str()), (None, "e"));
    let at_first = before.recorded().into_iter().find(|request| request.path == "/moved/hook").unwrap();
    assert_eq!(at_first.delivery_id(), moved[0].delivery_id());
    assert_eq!(at_first.header("x-key"), Some("old"));
    for (reason, count) in [
        ("webhook-disabled", 1.0),
        ("webhook-gone", 1.0),
        ("integration-gone", 1.0),
        ("integration-inactive", 2.0),
        ("unreadable-retry", 0.0),
    ] {
        stage.knows(&worker, "hookstream_dropped_total", &[("reason", reason)], count).await;
    }
    let dead = stage.wait_for_dead(1, PATIENCE).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("hookstream-reason"), Some("suspended"));
    assert_eq!(dead[0].header("hookstream-integration-id"), Some("failed"));
    assert_eq!(dead[0].key_text(), "w-failed");
    assert_eq!(dead[0].header("hookstream-attempt"), Some("1"), "attempts made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_waits_outlives_its_worker() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "outlives", "3s", 1).await;
    let receiver = Receiver::start(|request| Answer::status(if request.attempt() == 1 { 500 } else { 200 }));
    stage.put([&integration("i", &receiver.url(""))]);
    let mut first = stage.worker(&[]).await;
    stage.send(events("e", 20));
    let retries = stage.wait_for_tier("3s", 20).await;
    first.stop();
    let _second = stage.worker(&[]).await;
    let requests = receiver.wait_for(40, PATIENCE).await;
    stage.tier_settled("3s", PATIENCE).await;
    for request in requests.iter().filter(|request| request.attempt() == 2) {
        let retry =
            retries.iter().find(|retry| retry.header("hookstream-delivery-id") == Some(request.delivery_id())).unwrap();
        assert!(request.arrived_ms >= retry.timestamp.unwrap() + 3000);
    }
    let ids: BTreeSet<_> = requests.iter().map(|request| (request.delivery_id(), request.attempt())).collect();
    assert_eq!((receiver.count(), ids.len()), (40, 40), "each attempt once");
    wait_until("nothing more", PATIENCE, async || if stage.tier("3s").len() == 20 { Ok(()) } else { Err(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_in_a_tier_that_left_the_schedule_are_still_delivered() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "former-tier", "2s", 2).await;
    let receiver = Receiver::start(|_| Answer::status(503));
    stage.put([&integration("i", &receiver.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send(events("e", 6));
    stage.wait_for_tier("2s", 6).await;
    worker.stop();
    receiver.answer_with(|_| Answer::ok());
    // Another schedule, and a topic of its own.
    stage.names.create(cluster.brokers(), "1h", 2).await;
    let worker = Worker::start(cluster.brokers(), &stage.names, &["--retry-schedule", "1h"]).await;
    receiver.wait_for(12, PATIENCE).await;
    stage.tier_settled("2s", PATIENCE).await;
    let second = receiver.recorded().iter().filter(|request| request.attempt() == 2).count();
    assert_eq!(second, 6);
    stage.knows(&worker, "hookstream_deliveries_total", &[("outcome", "acknowledged")], 6.0).await;
    assert!(stage.tier("1h").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_two_hours_ahead_writes_its_retries_and_dead_letters() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "clock-ahead", "300ms", 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    stage.put([&integration("i", &receiver.url(""))]);
    // Brokers refuse times that are more than an hour ahead, where topics keep the producer's time.
    let worker = Worker::ahead(7_200, cluster.brokers(), &stage.names, &["--retry-schedule", "300ms"]).await;
    stage.send([event("e", "c")]);
    stage.knows(&worker, "hookstream_dead_letters_total", &[("reason", "exhausted")], 1.0).await;
    assert_eq!((receiver.count(), stage.dead().len()), (2, 1));
    wait_until("both attempts in the log", PATIENCE, async || {
        let logged = stage.attempts().len();
        if logged == 2 { Ok(()) } else { Err(logged) }
    })
    .await;
    stage.settled(PATIENCE).await;
}
