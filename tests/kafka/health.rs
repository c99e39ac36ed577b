//! Health and suspension over several workers, resuming, and the attempt log.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hookstream::internals::Reason;
use hookstream::internals::{Counts, Health, IntegrationHealth, ReporterPosition, Rules, SecondCounts, second_of};
use hookstream::internals::{Delta, DeltaBatch, parse_counts, partition_of};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::port::Port;
use crate::support::receiver::{Answer, Echo, Receiver};
use crate::support::records::{Read, Record, ends, produce, read_all, read_partitions, recreate, recreate_on};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{Names, Worker};

const SCHEDULE: &str = "1s,2s";

/// One integration of workspace `w` with a webhook for each receiver that wants every event.
fn integration(id: &str, receivers: &[&Receiver]) -> Value {
    let webhook = |(number, receiver): (usize, &&Receiver)| {
        json!({ "id": format!("{id}-{number}"), "relativeUrl": receiver.url(&format!("/{id}")), "triggerType": "entityEvent",
            "filter": { "items": [{ "entityType": id }] } })
    };
    json!({ "id": id, "status": "active", "webHooks": receivers.iter().enumerate().map(webhook).collect::<Vec<_>>() })
}

fn register(brokers: &str, names: &Names, integration: &Value) {
    let key = format!("w/{}", integration["id"].as_str().unwrap());
    produce(brokers, &names.integrations(), [Record::new(key, integration.to_string())]);
}

/// Sends `count` more events that only the integration `id` wants, over all partitions.
fn send(brokers: &str, names: &Names, id: &str, sent: &AtomicUsize, count: usize) {
    let first = sent.fetch_add(count, Ordering::Relaxed);
    let events = (first..first + count).map(|number| {
        let field = format!("{id}Id");
        let event = json!({ "id": format!("e-{number}"), "type": "change", "entityIds": { field: format!("c-{number}") },
            "changeData": { "type": "patch", "new": { "comment": "what a customer said in confidence, at some length" } } });
        Record::new(format!("c-{number}"), event.to_string()).header("workspace", "w")
    });
    produce(brokers, &names.events(), events);
}

/// The states of an integration in the health topic, in order.
fn states(brokers: &str, names: &Names, id: &str) -> Vec<Value> {
    let records = read_all(brokers, &names.health());
    records.iter().filter(|record| record.key_text() == format!("w/{id}")).map(Read::json).collect()
}

fn words(states: &[Value]) -> Vec<&str> {
    states.iter().map(|state| state["status"].as_str().unwrap()).collect()
}

/// The owners' record of an integration.
fn known(brokers: &str, names: &Names, id: &str) -> Option<IntegrationHealth> {
    let records = read_all(brokers, &format!("{}.counts", names.health()));
    let last = records.iter().rfind(|record| record.key_text() == format!("w/{id}"))?;
    last.value.as_deref().map(|value| parse_counts(value).unwrap())
}

fn attempts(known: &IntegrationHealth) -> (u64, u64) {
    let acknowledged = known.counts.acknowledged.iter().map(|(_, count)| u64::from(*count)).sum();
    (acknowledged, known.counts.window_failures().total())
}

async fn total(workers: &[&Worker], metric: &str, labels: &[(&str, &str)]) -> f64 {
    let mut total = 0.0;
    for worker in workers {
        total += worker.metric(metric, labels).await;
    }
    total
}

/// Its output, without its log.
fn resume(brokers: &str, names: &Names, id: &str, extra: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
    command.args(["resume", "--workspace", "w", "--integration", id]).args(names.arguments(brokers)).args(extra);
    let output = command.output().expect("the built program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Suspends fast: every option that a test has to wait for is short.
const FAST: [&str; 10] = [
    "--retry-schedule",
    SCHEDULE,
    "--suspend-after",
    "3s",
    "--suspend-after-failures",
    "30",
    "--errors-window",
    "10s",
    "--errors-min-attempts",
    "10",
];

/// These options, under a group protocol.
fn with<'a>(options: &[&'a str], protocol: &'a str) -> Vec<&'a str> {
    [options, &["--kafka-property", protocol]].concat()
}

async fn an_integration_that_fails_at_all_workers_is_suspended_once_and_can_be_resumed_in_three_ways(protocol: &str) {
    let options = &with(&FAST, protocol);
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-suspend"));
    names.create(brokers, SCHEDULE, 6).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    let healthy = Receiver::start(|_| Answer::ok());
    let mut dead = integration("dead", &[&receiver]);
    register(brokers, &names, &dead);
    register(brokers, &names, &integration("fine", &[&healthy]));
    let workers = [
        Worker::start(brokers, &names, options).await,
        Worker::start(brokers, &names, options).await,
        Worker::start(brokers, &names, options).await,
    ];
    let workers: Vec<&Worker> = workers.iter().collect();
    let before = ends(brokers, &names.events());
    let (sent, fine) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = wait_until("the suspension", PATIENCE, async || {
        send(brokers, &names, "dead", &sent, 40);
        send(brokers, &names, "fine", &fine, 40);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let states = states(brokers, &names, "dead");
        states.iter().find(|state| state["status"] == "failed").cloned().ok_or(states)
    })
    .await;
    // One record, with the reasons.
    assert!(failed["failures"]["status"].as_u64().unwrap() >= 30, "{failed}");
    assert_eq!((&failed["lastStatus"], &failed["lastAcknowledgedAt"]), (&json!(500), &Value::Null), "{failed}");
    let begin = failed["firstDropped"].as_object().unwrap();
    assert_eq!(begin.len(), 6, "{failed}");
    let at_most = ends(brokers, &names.events());
    for (partition, offset) in begin {
        let (partition, offset) = (partition.parse().unwrap(), offset.as_i64().unwrap());
        assert!(before[&partition] <= offset && offset <= at_most[&partition], "{failed}");
    }
    wait_until("its owner to warn, with reasons and the last status", PATIENCE, async || {
        let lines = || workers.iter().flat_map(|worker| worker.lines().all());
        let reported: Vec<_> = lines().filter(|line| line.contains("an integration is suspended")).collect();
        let says = |part: &str| reported.iter().all(|line| line.contains(part));
        if reported.len() == 1 && says("WARN") && says(r#""failures":"status "#) && says(r#""last_status":500"#) {
            Ok(())
        } else {
            Err(reported)
        }
    })
    .await;
    let (load, obeyed) = (Load::watch(), tokio::time::Instant::now());
    wait_until("all workers to obey", PATIENCE, async || {
        let gauge = total(&workers, "hookstream_integrations", &[("status", "failed")]).await;
        if (gauge - 3.0).abs() < 0.1 { Ok(()) } else { Err(gauge) }
    })
    .await;
    load.assert_within("every worker obeys", obeyed.elapsed(), Duration::from_secs(5));
    wait_until("requests that were under way to end", PATIENCE, async || {
        let under_way = total(&workers, "hookstream_in_flight_requests", &[]).await;
        if under_way.abs() < 0.1 { Ok(()) } else { Err(under_way) }
    })
    .await;
    let (dropped, requests) =
        (total(&workers, "hookstream_dropped_total", &[("reason", "suspended")]).await, receiver.count());
    send(brokers, &names, "dead", &sent, 60);
    wait_until("the drops to be counted", PATIENCE, async || {
        let now = total(&workers, "hookstream_dropped_total", &[("reason", "suspended")]).await - dropped;
        if now >= 60.0 { Ok(()) } else { Err(now) }
    })
    .await;
    // Retries that fall due are dead letters, and nothing else was lost: each event is accounted for.
    let exhausted = async || {
        let letters = read_all(brokers, &names.dead_letter());
        let of = |reason: &str| letters.iter().filter(|it| it.header("hookstream-reason") == Some(reason)).count();
        (of("suspended"), of("exhausted"))
    };
    let (suspended, _) = wait_until("every event to be accounted for", PATIENCE, async || {
        let (suspended, exhausted) = exhausted().await;
        let dropped = total(&workers, "hookstream_dropped_total", &[("reason", "suspended")]).await;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let accounted = suspended + exhausted + dropped as usize;
        if accounted == sent.load(Ordering::Relaxed) {
            Ok((suspended, exhausted))
        } else {
            Err((suspended, exhausted, dropped, &sent))
        }
    })
    .await;
    assert!(suspended > 0, "retries were waiting when it was suspended");
    assert_eq!(receiver.count(), requests, "nothing is sent to a suspended integration");
    assert_eq!(healthy.count(), fine.load(Ordering::Relaxed), "the other integration has all of its own");
    assert!(states(brokers, &names, "fine").is_empty());

    // By hand.
    let until_now = words(&states(brokers, &names, "dead")).join(" ");
    // An owner that a busy machine delays learns of all failures at once.
    assert!(["hasErrors failed", "failed"].contains(&until_now.as_str()), "{until_now}");
    receiver.answer_with(|_| Answer::ok());
    let text = resume(brokers, &names, "dead", &["--dry-run"]);
    assert!(text.contains("would be set active again"), "{text}");
    let report: Value = serde_json::from_str(&resume(brokers, &names, "dead", &["--json"])).unwrap();
    assert_eq!((&report["outcome"], &report["now"]["status"]), (&json!("resumed"), &json!("active")));
    assert_eq!(report["now"]["firstDropped"], failed["firstDropped"], "a replay can still begin there");
    let text = resume(brokers, &names, "dead", &[]);
    assert!(text.contains("not suspended: it is active"), "{text}");
    let closed = async || {
        wait_until("deliveries, and closed circuits at all workers", PATIENCE, async || {
            send(brokers, &names, "dead", &sent, 12);
            tokio::time::sleep(Duration::from_millis(200)).await;
            let open = total(&workers, "hookstream_circuits", &[("state", "open")]).await;
            if receiver.count() > requests && open.abs() < 0.1 { Ok(()) } else { Err((receiver.count(), open)) }
        })
        .await;
    };
    closed().await;
    let states_now = states(brokers, &names, "dead");
    assert_eq!(words(&states_now).join(" "), format!("{until_now} active"));

    // By a record that changes the status to active, and by a status that the API wrote.
    for way in ["record", "api"] {
        closed().await;
        receiver.answer_with(|_| Answer::echo(Echo::Missing));
        wait_until("another suspension", PATIENCE, async || {
            send(brokers, &names, "dead", &sent, 40);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let states = states(brokers, &names, "dead");
            if words(&states).last() == Some(&"failed") { Ok(()) } else { Err(states) }
        })
        .await;
        if way == "record" {
            dead["status"] = json!("paused");
            register(brokers, &names, &dead);
            dead["status"] = json!("active");
        } else {
            let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
            let now = jiff::Timestamp::from_millisecond(now).unwrap();
            dead["updateInfo"] = json!({ "statusUpdatedAt": now.to_string() });
        }
        register(brokers, &names, &dead);
        wait_until("the resume", PATIENCE, async || {
            let states = states(brokers, &names, "dead");
            if words(&states).last() == Some(&"active") { Ok(()) } else { Err(states) }
        })
        .await;
        receiver.answer_with(|_| Answer::ok());
    }
    let all = states(brokers, &names, "dead");
    let failed: Vec<_> = all.iter().filter(|state| state["status"] == "failed").collect();
    assert_eq!(failed.len(), 3, "each suspension is one record: {all:?}");
    let twice = all.windows(2).find(|pair| pair[0]["status"] == pair[1]["status"]);
    assert!(twice.is_none(), "nothing but changes: {all:?}");
    assert!(failed[1]["failures"]["echo-missing"].as_u64().unwrap() >= 30);
    assert!(failed[1]["lastAcknowledgedAt"].is_string(), "{}", failed[1]);
}

async fn an_integration_that_acknowledges_a_few_has_errors_and_still_gets_deliveries(protocol: &str) {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-flaky"));
    names.create(brokers, SCHEDULE, 3).await;
    // One of fifty over all of them; ten hosts, so that circuits leave enough attempts.
    let served = Arc::new(AtomicUsize::new(0));
    let receivers: Vec<Receiver> = (0..10)
        .map(|_| {
            let served = Arc::clone(&served);
            Receiver::start(move |_| match served.fetch_add(1, Ordering::Relaxed) % 50 {
                49 => Answer::ok(),
                _ => Answer::status(503),
            })
        })
        .collect();
    register(brokers, &names, &integration("flaky", &receivers.iter().collect::<Vec<_>>()));
    let mut options = with(&FAST, protocol);
    // More than fail in a row.
    options[5] = "60";
    let workers = [Worker::start(brokers, &names, &options).await, Worker::start(brokers, &names, &options).await];
    let began = tokio::time::Instant::now();
    let sent = AtomicUsize::new(0);
    // Longer than the window of errors, and with enough attempts to open circuits at all workers.
    while began.elapsed() < Duration::from_secs(12) || served.load(Ordering::Relaxed) <= 100 {
        assert!(began.elapsed() < 3 * PATIENCE, "{served:?} requests were made");
        send(brokers, &names, "flaky", &sent, 5);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let before = served.load(Ordering::Relaxed);
    wait_until("it to be still delivered to", PATIENCE, async || {
        send(brokers, &names, "flaky", &sent, 5);
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = served.load(Ordering::Relaxed);
        if now > before + 10 { Ok(()) } else { Err(now) }
    })
    .await;
    let states = wait_until("a state", PATIENCE, async || match states(brokers, &names, "flaky") {
        states if states.is_empty() => Err("none"),
        states => Ok(states),
    })
    .await;
    assert_eq!(words(&states).first(), Some(&"hasErrors"), "{states:?}");
    assert!(!words(&states).contains(&"failed"), "{states:?}");
    let gauges =
        total(&workers.iter().collect::<Vec<_>>(), "hookstream_dropped_total", &[("reason", "suspended")]).await;
    assert!(gauges.abs() < 0.1, "no event was dropped");
}

async fn a_network_failure_of_ours_suspends_no_integration(protocol: &str) {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-network"));
    names.create(brokers, SCHEDULE, 3).await;
    let ids: Vec<String> = (0..14).map(|number| format!("i{number}")).collect();
    // Ports without a listener: that is how it looks from here when our network is down.
    let ports: Vec<Port> = ids.iter().map(|_| Port::hold()).collect();
    for (id, port) in ids.iter().zip(&ports) {
        let webhook = json!({ "id": format!("{id}-0"), "relativeUrl": format!("http://{}/{id}", port.address()),
            "triggerType": "entityEvent", "filter": { "items": [{ "entityType": id }] } });
        register(brokers, &names, &json!({ "id": id, "status": "active", "webHooks": [webhook] }));
    }
    let worker = Worker::start(brokers, &names, &with(&FAST, protocol)).await;
    let began = tokio::time::Instant::now();
    let sent = AtomicUsize::new(0);
    // Far more and far longer than suspends one.
    wait_until("enough failures over enough time", PATIENCE * 2, async || {
        for id in &ids {
            send(brokers, &names, id, &sent, 8);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let refused = worker.metric("hookstream_attempts_total", &[("reason", "connect")]).await;
        let enough = refused >= 14.0 * 20.0 && began.elapsed() > Duration::from_secs(8);
        if enough { Ok(()) } else { Err(refused) }
    })
    .await;
    worker.metric_is("hookstream_health_guard_active", &[], |active| active > 0.5).await;
    let states: Vec<_> = read_all(brokers, &names.health()).iter().map(Read::json).collect();
    assert!(states.iter().all(|state| state["status"] != "failed"), "{states:?}");
    // The network is back.
    let receivers: Vec<Receiver> = ports.iter().map(|port| Receiver::start_on(port, |_| Answer::ok())).collect();
    wait_until("the guard to fall", PATIENCE, async || {
        for id in &ids {
            send(brokers, &names, id, &sent, 1);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let guard = worker.metric("hookstream_health_guard_active", &[]).await;
        if guard.abs() < 0.1 { Ok(()) } else { Err(guard) }
    })
    .await;
    assert!(receivers.iter().any(|receiver| receiver.count() > 0));
}

/// The counts of an integration in the deltas topic, each report once.
fn reported(brokers: &str, names: &Names, id: &str) -> (u64, u64) {
    let mut reports: BTreeMap<(i32, u64, u64), DeltaBatch> = BTreeMap::new();
    for record in read_all(brokers, &format!("{}.deltas", names.health())) {
        if let Delta::DeltaBatch(report) = Delta::parse(record.value.as_deref().unwrap()).unwrap() {
            reports.insert((record.partition, report.reporter.process_id, report.reporter.sequence), report);
        }
    }
    let key = format!("w/{id}");
    let slots = reports.values().flat_map(|report| &report.deltas).filter(|(of, _)| *of == key);
    slots.flat_map(|(_, slots)| slots).fold((0, 0), |(acknowledged, failed), slot| {
        (acknowledged + u64::from(slot.acknowledged), failed + slot.failures.total())
    })
}

/// The worker that judges the integrations of a partition, by its log.
fn owner_of(workers: &[Option<Worker>], partition: i32) -> Option<usize> {
    let owns = |worker: &Worker| {
        let judged = worker.lines().all();
        let last = judged.iter().rev().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let message = line["message"].as_str()?;
            let partitions: Vec<i32> = serde_json::from_str(line["partitions"].as_str()?).ok()?;
            if !partitions.contains(&partition) {
                return None;
            }
            message.contains("is judged").then(|| message.ends_with("judged here"))
        });
        last == Some(true)
    };
    workers.iter().position(|worker| worker.as_ref().is_some_and(owns))
}

async fn a_killed_owner_loses_and_repeats_no_count(protocol: &str) {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-killed"));
    names.create(brokers, SCHEDULE, 3).await;
    let receiver = Receiver::start(|request| if request.number % 3 == 0 { Answer::ok() } else { Answer::status(500) });
    register(brokers, &names, &integration("watched", &[&receiver]));
    let options = with(&["--retry-schedule", SCHEDULE, "--errors-window", "1h"], protocol);
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Some(Worker::start(brokers, &names, &options).await));
    }
    let partition = partition_of("w/watched", 3);
    let sent = AtomicUsize::new(0);
    for round in 0..3 {
        for _ in 0..8 {
            send(brokers, &names, "watched", &sent, 30);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let owner = wait_until("an owner", PATIENCE, async || owner_of(&workers, partition).ok_or("no owner")).await;
        if round < 2 {
            let mut owner = workers[owner].take().unwrap();
            owner.sigkill();
            workers.push(Some(Worker::start(brokers, &names, &options).await));
        }
    }
    // Each reported attempt is counted once.
    let counted = wait_until("the counts to be what was reported", PATIENCE, async || {
        let (reported, known) = (reported(brokers, &names, "watched"), known(brokers, &names, "watched"));
        let counted = known.as_ref().map(attempts);
        if counted == Some(reported) { Ok(reported) } else { Err((reported, counted)) }
    })
    .await;
    assert!(counted.0 > 100 && counted.1 > 200, "{counted:?}");
    let states = states(brokers, &names, "watched");
    assert_eq!(words(&states), ["hasErrors"], "{states:?}");
}

/// An attempt as the log has it.
fn logged(brokers: &str, names: &Names, id: &str) -> Vec<(i64, Result<(), Reason>, Option<u16>)> {
    let records = read_all(brokers, &names.attempts());
    let mut attempts: Vec<_> = records
        .iter()
        .filter(|record| record.key_text() == format!("w/{id}"))
        .map(|record| {
            let record = record.json();
            let at: jiff::Timestamp = record["at"].as_str().unwrap().parse().unwrap();
            let outcome = match record["outcome"].as_str().unwrap() {
                "acknowledged" => Ok(()),
                _ => Err(Reason::parse(record["reason"].as_str().unwrap()).unwrap()),
            };
            let status = record["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            (at.as_millisecond(), outcome, status)
        })
        .collect();
    attempts.sort_unstable_by_key(|(at, ..)| *at);
    attempts
}

async fn the_health_state_matches_the_attempt_log(protocol: &str) {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-log"));
    names.create(brokers, SCHEDULE, 3).await;
    let receiver = Receiver::start(|request| match request.number % 9 {
        0 | 4 => Answer::ok(),
        1 => Answer::echo(Echo::Missing),
        2 => Answer::status(404).body(request.body.clone()),
        3 => Answer::status(500).body("it is the Bearer s3cret-t0ken that we do not like"),
        _ => Answer::status(503).body("later"),
    });
    let mut integration = integration("logged", &[&receiver]);
    integration["secrets"] = json!([{ "id": "webhook.header.Authorization", "value": "Bearer s3cret-t0ken" }]);
    integration["webHooks"][0]["relativeUrl"] = json!(receiver.url("/logged?key=s3cret-in-query"));
    register(brokers, &names, &integration);
    let options = ["--retry-schedule", SCHEDULE, "--attempt-log", "all", "--errors-window", "1h"];
    let options = with(&options, protocol);
    let mut workers = [Worker::start(brokers, &names, &options).await, Worker::start(brokers, &names, &options).await];
    let sent = AtomicUsize::new(0);
    for _ in 0..8 {
        send(brokers, &names, "logged", &sent, 30);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Deliveries that were under way in a rebalance may be made twice, so there may be more.
    let mut quiet = (-1.0, tokio::time::Instant::now());
    let began = tokio::time::Instant::now();
    while quiet.1.elapsed() < Duration::from_secs(4) {
        assert!(began.elapsed() < 3 * PATIENCE, "deliveries have not ended: {quiet:?}");
        let refs: Vec<&Worker> = workers.iter().collect();
        let done = total(&refs, "hookstream_deliveries_total", &[]).await;
        let ended = total(&refs, "hookstream_deliveries_total", &[("outcome", "acknowledged")]).await
            + total(&refs, "hookstream_deliveries_total", &[("outcome", "dead")]).await;
        if done > quiet.0 || ended < 239.5 {
            quiet = (done, tokio::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let attempts_made: f64 = {
        let refs: Vec<&Worker> = workers.iter().collect();
        total(&refs, "hookstream_attempts_total", &[]).await
    };
    for worker in &mut workers {
        worker.stop();
    }
    let logged = logged(brokers, &names, "logged");
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let count = logged.len() as f64;
    assert!((count - attempts_made).abs() < 0.1, "each attempt is logged: {count} of {attempts_made}");

    let rules = Rules {
        errors_window_s: 3_600,
        errors_min_attempts: 20,
        suspend_after_ms: 3_600_000,
        suspend_after_failures: 100,
    };
    let now = logged.last().unwrap().0;
    let mut recomputed = IntegrationHealth::default();
    for (number, (at, outcome, status)) in (1u64..).zip(&logged) {
        let mut slot = SecondCounts::of(second_of(*at));
        match outcome {
            Ok(()) => slot.acknowledge(*at),
            Err(reason) => slot.fail(*at, *reason, *status),
        }
        recomputed.apply(
            number.cast_signed(),
            ReporterPosition { process_id: 1, sequence: number },
            &[slot],
            &rules,
            now,
        );
    }
    let window = |counts: &Counts| {
        (counts.acknowledged.clone(), counts.failed.clone(), counts.last_acknowledged_ms, counts.last_answer)
    };
    // The owners have stopped before they wrote the last counts. The next worker writes them.
    let mut last = Worker::start(brokers, &names, &options).await;
    let streak = wait_until("the state to be what the log says", PATIENCE, async || {
        let known = known(brokers, &names, "logged").map(|known| known.counts);
        if known.as_ref().map(window) == Some(window(&recomputed.counts)) {
            Ok(known.unwrap().streak.failures().total())
        } else {
            Err((known, recomputed.counts.clone(), last.lines().tail(40)))
        }
    })
    .await;
    last.stop();
    // Failures that one worker reports together count after an acknowledgement at another worker if all of them are later.
    let acknowledged = logged.iter().rposition(|(_, outcome, _)| outcome.is_ok()).unwrap();
    let second = second_of(logged[acknowledged].0);
    let beyond_doubt = logged[acknowledged..].iter().filter(|(at, ..)| second_of(*at) > second).count() as u64;
    let exact = recomputed.counts.streak.failures().total();
    assert!((beyond_doubt..=exact).contains(&streak), "{beyond_doubt} <= {streak} <= {exact}");
    assert_eq!(recomputed.judge(&rules, now), Health::HasErrors);
    assert_eq!(words(&states(brokers, &names, "logged")), ["hasErrors"]);

    // The log holds no secret and no part of an event.
    let records = read_all(brokers, &names.attempts());
    for record in &records {
        let text = String::from_utf8(record.value.clone().unwrap()).unwrap();
        for secret in ["s3cret", "in confidence", "key="] {
            assert!(!text.contains(secret), "{text}");
        }
        let fields = record.json();
        let fields: Vec<_> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            [
                "deliveryId",
                "webHookId",
                "eventId",
                "attempt",
                "url",
                "outcome",
                "reason",
                "error",
                "status",
                "durationMs",
                "answer",
                "address",
                "origin",
                "entityIds",
                "nextAttemptAt",
                "worker",
                "at",
            ]
        );
    }
    let answers = |status: u16| {
        let of = records.iter().map(Read::json).filter(move |it| it["status"] == json!(status));
        of.map(|it| it["answer"].clone()).collect::<Vec<_>>()
    };
    assert!(answers(404).iter().all(Value::is_null), "an answer that repeats the event is left out");
    assert!(answers(500).iter().all(|it| it == "it is the *** that we do not like"), "{:?}", answers(500));
    assert!(answers(503).iter().all(|it| it == "later"));
    assert_eq!(
        equal(records[0].json()["url"].clone(), &json!(receiver.url("/logged"))),
        Ok(json!(receiver.url("/logged")))
    );
}

async fn states_and_counts_agree_again_when_their_topics_were_recreated_at_different_times(protocol: &str) {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("health-recreated"));
    names.create(brokers, SCHEDULE, 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    register(brokers, &names, &integration("dead", &[&receiver]));
    let sent = AtomicUsize::new(0);
    // Fewer than it takes to open a circuit.
    let options: Vec<&str> =
        with(&FAST, protocol).into_iter().map(|word| if word == "30" { "15" } else { word }).collect();
    let failed = async || {
        wait_until("the suspension", PATIENCE, async || {
            send(brokers, &names, "dead", &sent, 20);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let states = states(brokers, &names, "dead");
            if words(&states).last() == Some(&"failed") { Ok(()) } else { Err(states) }
        })
        .await;
    };
    let mut worker = Worker::start(brokers, &names, &options).await;
    failed().await;
    worker.stop();
    recreate(brokers, &names.health(), 1, &[("cleanup.policy", "compact")]).await;
    let deltas = format!("{}.deltas", names.health());
    recreate(brokers, &deltas, 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut worker = Worker::start(brokers, &names, &options).await;
    failed().await;
    worker.logged(&["the health topic's state holds"]).await;
    receiver.answer_with(|_| Answer::ok());
    resume(brokers, &names, "dead", &[]);
    wait_until("the resumption", PATIENCE, async || {
        let states = states(brokers, &names, "dead");
        if words(&states).last() == Some(&"active") { Ok(()) } else { Err(states) }
    })
    .await;
    assert!(worker.metric("hookstream_health_unjudged_seconds", &[]).await.abs() < 1e-9);
    worker.stop();
}

/// The topics of health have one replica a partition here, on the broker of the same number; all other topics have three. While a broker
/// is away, the integrations of its partition are not judged, and all others are.
#[tokio::test(flavor = "multi_thread")]
async fn integrations_are_judged_while_a_partition_of_others_has_no_leader_and_those_when_it_has_one_again() {
    const AWAY: i32 = 2;
    let mut cluster = Cluster::start(3).await;
    let (brokers, names) = (cluster.brokers().to_owned(), Names::of("health-leaderless"));
    names.create_replicated(&brokers, SCHEDULE, 3, 3).await;
    let replicas: [&[i32]; 3] = [&[1], &[2], &[3]];
    let compacted = [("cleanup.policy", "compact"), ("min.insync.replicas", "1")];
    for (topic, properties) in [
        (names.health(), compacted),
        (format!("{}.counts", names.health()), compacted),
        (
            format!("{}.deltas", names.health()),
            [("message.timestamp.type", "LogAppendTime"), ("min.insync.replicas", "1")],
        ),
    ] {
        recreate_on(&brokers, &topic, &replicas, &properties).await;
    }
    let receiver = Receiver::start(|_| Answer::status(500));
    let partition = |id: &str| partition_of(&format!("w/{id}"), 3);
    let is_away = |id: &String| partition(id) == AWAY;
    let (unjudged, mut judged): (Vec<String>, Vec<String>) =
        (0..30).map(|number| format!("i{number}")).partition(is_away);
    let unjudged = &unjudged[0];
    judged.truncate(4);
    for id in judged.iter().chain([unjudged]) {
        register(&brokers, &names, &integration(id, &[&receiver]));
    }
    let sent = AtomicUsize::new(0);
    let failed = async |what: &str, id: &str| {
        wait_until(what, PATIENCE * 4, async || {
            send(&brokers, &names, id, &sent, 20);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let records = read_partitions(&brokers, &names.health(), &[partition(id)]);
            let states: Vec<_> =
                records.iter().filter(|it| it.key_text() == format!("w/{id}")).map(Read::json).collect();
            if words(&states).last() == Some(&"failed") { Ok(()) } else { Err(states) }
        })
        .await;
    };
    // Fewer than it takes to open a circuit.
    let options: Vec<&str> = FAST.into_iter().map(|word| if word == "30" { "15" } else { word }).collect();
    let is_unjudged = async |worker: &Worker| {
        wait_until("the alert's metric", PATIENCE * 4, async || {
            send(&brokers, &names, unjudged, &sent, 1);
            let seconds = worker.metric("hookstream_health_unjudged_seconds", &[]).await;
            if seconds > 1.0 { Ok(()) } else { Err(seconds) }
        })
        .await;
    };

    let mut worker = Worker::start(&brokers, &names, &options).await;
    failed("a suspension while all brokers are there", &judged[0]).await;
    cluster.kill(usize::try_from(AWAY).unwrap());
    is_unjudged(&worker).await;
    failed("a suspension by a worker that ran before", &judged[1]).await;
    worker.stop();
    // It is ready though it cannot read all of the health topic.
    let mut worker = Worker::start(&brokers, &names, &options).await;
    wait_until("it to know who is suspended", PATIENCE * 2, async || {
        let suspended = worker.metric("hookstream_integrations", &[("status", "failed")]).await;
        if (suspended - 2.0).abs() < 0.1 { Ok(()) } else { Err(suspended) }
    })
    .await;
    failed("a suspension by a worker that started meanwhile", &judged[2]).await;
    is_unjudged(&worker).await;
    worker.logged(&["is not judged at present", r#""partition":2"#]).await;

    cluster.restart(usize::try_from(AWAY).unwrap());
    failed("the suspension that was held up", unjudged).await;
    wait_until("the metric to say that all are judged", PATIENCE * 2, async || {
        let seconds = worker.metric("hookstream_health_unjudged_seconds", &[]).await;
        if seconds.abs() < 1e-9 { Ok(()) } else { Err(seconds) }
    })
    .await;
    worker.stop();
}

/// Each of these claims holds under either group protocol.
macro_rules! under {
    ($protocol:literal, $($claim:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(concat!("group.protocol=", $protocol)).await;
            }
        )+
    };
}

mod classic {
    under!(
        "classic",
        an_integration_that_fails_at_all_workers_is_suspended_once_and_can_be_resumed_in_three_ways,
        an_integration_that_acknowledges_a_few_has_errors_and_still_gets_deliveries,
        a_network_failure_of_ours_suspends_no_integration,
        a_killed_owner_loses_and_repeats_no_count,
        the_health_state_matches_the_attempt_log,
        states_and_counts_agree_again_when_their_topics_were_recreated_at_different_times,
    );
}

mod consumer {
    under!(
        "consumer",
        an_integration_that_fails_at_all_workers_is_suspended_once_and_can_be_resumed_in_three_ways,
        an_integration_that_acknowledges_a_few_has_errors_and_still_gets_deliveries,
        a_network_failure_of_ours_suspends_no_integration,
        a_killed_owner_loses_and_repeats_no_count,
        the_health_state_matches_the_attempt_log,
        states_and_counts_agree_again_when_their_topics_were_recreated_at_different_times,
    );
}
