//! The integrations topic as a table: read before the first event, followed afterwards, and never spoilt by a bad record.

use std::collections::BTreeSet;

use serde_json::json;

use crate::stage::{Stage, WORKSPACE, event, event_id, integration, key_of, record, webhook};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::Record;
use crate::support::wait::{PATIENCE, equal, wait_until};

fn typed_event(number: usize) -> Record {
    let mut ids = serde_json::Map::new();
    ids.insert(format!("type{number}Id"), json!("x"));
    let value = json!({ "id": format!("e-{number}"), "type": "change", "entityIds": ids });
    record(&format!("k{number}"), value.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_integrations_are_known_before_the_first_event() {
    const INTEGRATIONS: usize = 10_000;
    const REMOVED: usize = 100;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "bootstrap", "1h", 3).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let base = receiver.url("");
    let of_type = |number: usize, path: &str| {
        let mut integration = integration(&format!("i{number}"), &base);
        integration["webHooks"][0]["relativeUrl"] = json!(format!("{path}/{number}"));
        integration["webHooks"][0]["filter"]["items"] = json!([{ "entityType": format!("type{number}") }]);
        integration
    };
    // Each is written twice; only the newer one counts. The first hundred are removed again.
    let old: Vec<_> = (0..INTEGRATIONS).map(|number| of_type(number, "/old")).collect();
    stage.put(&old);
    let new: Vec<_> = (0..INTEGRATIONS).map(|number| of_type(number, "/new")).collect();
    stage.put(&new);
    stage.put_records(new.iter().take(REMOVED).map(|it| Record::tombstone(key_of(it))));
    // The events are there before the worker is.
    let numbers: Vec<_> = (0..INTEGRATIONS).step_by(97).collect();
    stage.send(numbers.iter().map(|number| typed_event(*number)));
    let worker = stage.worker(&[]).await;
    stage.settled(PATIENCE).await;
    let arrived: BTreeSet<_> = receiver.recorded().iter().map(|request| request.path.clone()).collect();
    let expected = numbers.iter().filter(|number| **number >= REMOVED).map(|number| format!("/new/{number}"));
    let expected: BTreeSet<_> = expected.collect();
    assert_eq!(arrived, expected);
    assert_eq!(receiver.count(), expected.len());
    stage.knows(&worker, "hookstream_events_total", &[("outcome", "unmatched")], 2.0).await;
    stage.knows(&worker, "hookstream_integrations", &[("status", "active")], 9_900.0).await;
    stage.knows(&worker, "hookstream_webhooks", &[("state", "enabled")], 9_900.0).await;
    let took = worker.metric("hookstream_integrations_bootstrap_seconds", &[]).await;
    assert!(took > 0.0);
    println!("20,100 records of 10,000 integrations were read in {took:.2} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_leaves_the_good_one_before_it_in_force() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "bad-records", "1h", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let good = integration("i", &receiver.url("/i"));
    let with_hook = |change: fn(&mut serde_json::Value)| {
        let mut bad = integration("i", &receiver.url("/bad"));
        change(&mut bad["webHooks"][0]);
        bad.to_string()
    };
    let bad = [
        "not JSON".to_owned(),
        "[]".to_owned(),
        r#"{"id":"i","webHooks":[{"id":"#.to_owned(),
        with_hook(|hook| hook["relativeUrl"] = json!("ftp://elsewhere/x")),
        with_hook(|hook| hook["relativeUrl"] = json!("http://user:pass@elsewhere/x")),
        with_hook(|hook| hook["triggerType"] = json!("sometimes")),
        with_hook(|hook| {
            hook["triggerType"] = json!("schedule");
            hook["schedule"] = json!({ "period": "00:00:05" });
        }),
        with_hook(|hook| hook["triggerType"] = json!("schedule")),
        integration("another-id", "http://elsewhere.example").to_string(),
    ];
    let key = key_of(&good);
    // Before the worker starts, and with a good neighbour in the same partition.
    stage.put([&good]);
    stage.put_records([Record::new(key.clone(), bad[0].clone())]);
    stage.put([&integration("neighbour", &receiver.url("/neighbour"))]);
    let worker = stage.worker(&[]).await;
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "unusable")], 1.0).await;
    // And while it runs.
    stage.put_records(bad[1..].iter().map(|value| Record::new(key.clone(), value.clone())));
    stage.put_records([Record::new("no-slash", good.to_string()), Record::new(b"ws/\xff".to_vec(), good.to_string())]);
    let unusable = f64::from(u32::try_from(bad.len() + 2).unwrap());
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "unusable")], unusable).await;
    stage.send([event("e", "c")]);
    stage.settled(PATIENCE).await;
    let paths: BTreeSet<_> = receiver.recorded().iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths, ["/i/hook", "/neighbour/hook"].map(str::to_owned).into());
    let rejected = || -> Vec<String> {
        worker.lines().all().into_iter().filter(|line| line.contains("integration record rejected")).collect()
    };
    wait_until("a line for each", PATIENCE, async || equal(rejected().len(), &(bad.len() + 2))).await;
    let rejections = rejected();
    assert_eq!(
        rejections.iter().filter(|line| line.contains(&key)).count(),
        bad.len(),
        "with its key: {rejections:#?}"
    );
    assert!(!worker.lines().all().iter().any(|line| line.contains("user:pass")), "and without what may be secret");
    // A good record takes over again, a tombstone removes.
    let mut moved = good.clone();
    moved["baseUrl"] = json!(receiver.url("/moved"));
    stage.put([&moved]);
    stage.put_records([Record::tombstone(format!("{WORKSPACE}/neighbour"))]);
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "used")], 3.0).await;
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "removed")], 1.0).await;
    stage.send([event("e2", "c")]);
    stage.settled(PATIENCE).await;
    let later: Vec<_> = receiver.recorded().into_iter().filter(|request| event_id(request) == "e2").collect();
    assert_eq!(later.iter().map(|request| request.path.as_str()).collect::<Vec<_>>(), ["/moved/hook"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_matched_with_the_integrations_of_that_moment() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "join", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let worker = stage.worker(&[]).await;
    stage.send([event("before", "c")]);
    stage.settled(PATIENCE).await;
    let mut growing = integration("i", &receiver.url(""));
    stage.put([&growing]);
    stage.knows(&worker, "hookstream_webhooks", &[("state", "enabled")], 1.0).await;
    stage.send([event("with-one", "c")]);
    stage.settled(PATIENCE).await;
    growing["webHooks"] = json!([webhook("w-i", "/hook"), webhook("new", "/new")]);
    stage.put([&growing]);
    stage.knows(&worker, "hookstream_webhooks", &[("state", "enabled")], 2.0).await;
    stage.send([event("with-two", "c")]);
    stage.settled(PATIENCE).await;
    stage.put_records([Record::tombstone(key_of(&growing))]);
    stage.knows(&worker, "hookstream_webhooks", &[("state", "enabled")], 0.0).await;
    stage.send([event("after", "c")]);
    stage.settled(PATIENCE).await;
    let found: BTreeSet<_> =
        receiver.recorded().iter().map(|request| format!("{} {}", event_id(request), request.path)).collect();
    assert_eq!(found, ["with-one /hook", "with-two /hook", "with-two /new"].map(str::to_owned).into());
}
