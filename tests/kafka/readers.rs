//! The readers at the command line, as programs against a real Kafka and what a real worker left there.

use std::io::{Seek as _, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use crate::stage::{Stage, WORKSPACE, event, integration, record, webhook};
use crate::support::cluster::{Cluster, SharedCluster};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, produce};
use crate::support::wait::PATIENCE;
use crate::support::worker::Names;

const SCHEDULE: &str = "100ms";
/// A secret that receivers are sent and repeat.
const PLANTED: &str = "planted-t0k3n-of-acme";

/// The result of a tool: its exit code, its answer and its log.
struct Ended {
    code: i32,
    out: String,
    log: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {:?}\n{}", self.out, self.log))
    }

    fn rows(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}", self.log);
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn run(brokers: &str, names: &Names, words: &[&str]) -> Ended {
    run_with(brokers, names, words, &[]).await
}

/// Runs a tool with `input` on its standard input.
async fn run_with(brokers: &str, names: &Names, words: &[&str], input: &[u8]) -> Ended {
    let of_name = if words[0] == "dead-letters" { 2 } else { 1 };
    let mut arguments: Vec<String> = words[..of_name].iter().map(|word| (*word).to_owned()).collect();
    arguments.extend(names.arguments(brokers));
    arguments.extend(["--retry-schedule", SCHEDULE, "--log-format", "json"].map(str::to_owned));
    arguments.extend(words[of_name..].iter().map(|word| (*word).to_owned()));
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).and_then(|()| stdin.rewind()).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_hookstream")).args(arguments).stdin(stdin).output().unwrap()
    });
    let output = output.await.unwrap();
    let ended = Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        log: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ended.out.contains(PLANTED) && !ended.log.contains(PLANTED), "a secret: {}\n{}", ended.out, ended.log);
    ended
}

/// An integration with a secret, one webhook and this filter.
fn secretive(id: &str, receiver: &Receiver, status: &str, items: &Value) -> Value {
    let mut value = integration(id, &receiver.url("/crm"));
    value["status"] = json!(status);
    value["secrets"] = json!([{ "id": "webhook.header.X-Key", "value": PLANTED }]);
    value["webHooks"][0]["filter"]["items"] = items.clone();
    value
}

/// An event that a worker has read: acknowledged by `good`, dead at `dead`, dead and sent back at `again`, dropped at `paused`,
/// unmatched at `links`. Another workspace has an integration `good` and an event `e-1` of its own.
async fn stage(claim: &str) -> (SharedCluster, Stage, [Receiver; 3]) {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let stage = Stage::on(&cluster, claim, SCHEDULE, 3).await;
    let good = Receiver::start(|_| Answer::ok());
    let bad = Receiver::start(|_| Answer::status(503).body(format!("no, {PLANTED}")));
    let all = json!([{ "entityType": "company" }]);
    stage.put(&[
        secretive("good", &good, "active", &all),
        secretive("dead", &bad, "active", &all),
        secretive("again", &bad, "active", &json!([{ "changeType": "delete" }, {}])),
        secretive("paused", &good, "paused", &all),
        secretive("links", &good, "active", &json!([{ "eventType": "link" }, { "changeType": "delete" }])),
    ]);
    let third = Receiver::start(|_| Answer::status(500));
    let mut foreign = integration("good", &third.url("/other"));
    foreign["webHooks"][0] = webhook("w-foreign", "/hook");
    stage.put_records([Record::new("other/good", foreign.to_string())]);
    let mut worker = stage.worker(&["--attempt-log", "all"]).await;
    stage.send([
        event("e-1", "c-1"),
        event("e-2", "c-2"),
        Record::new("c-1", event("e-1", "c-1").value.unwrap()).header("workspace", "other"),
    ]);
    stage.wait_for_dead(5, PATIENCE).await;
    stage.settled(PATIENCE).await;
    worker.stop();
    let words = ["dead-letters", "redrive", "--workspace", WORKSPACE, "--webhook", "w-again", "--json"];
    let redriven = run(brokers, &stage.names, &words).await;
    assert_eq!(redriven.json()["sent"], 2, "{}", redriven.log);
    (cluster, stage, [good, bad, third])
}

fn of<'a>(trace: &'a Value, webhook: &str) -> &'a Value {
    let webhooks = trace["webhooks"].as_array().unwrap();
    webhooks.iter().find(|found| found["webHookId"] == webhook).unwrap_or_else(|| panic!("no {webhook}: {trace}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_accounted_for_at_each_webhook_of_its_workspace() {
    let (cluster, stage, _receivers) = stage("trace").await;
    let (brokers, names) = (cluster.brokers(), &stage.names);
    let ended = run(brokers, names, &["trace", "e-1", "--workspace", WORKSPACE, "--json"]).await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    let trace = ended.json();
    let expected = json!({ "matched": 4, "acknowledged": 1, "waiting": 1, "dead": 1, "dropped": 1 });
    assert_eq!(trace["account"], expected, "{trace}");
    assert_eq!((&trace["event"]["id"], trace["webhooks"].as_array().unwrap().len()), (&json!("e-1"), 5));
    let good = of(&trace, "w-good");
    assert_eq!((&good["matches"], &good["attempts"][0]["outcome"]), (&json!(true), &json!("acknowledged")));
    assert!(good["because"].as_str().unwrap().contains("item 0 { entityType: company }"), "{good}");
    let dead = of(&trace, "w-dead");
    assert_eq!((&dead["deadLetter"]["reason"], &dead["waiting"]), (&json!("exhausted"), &Value::Null));
    let numbers: Vec<_> = dead["attempts"].as_array().unwrap().iter().map(|row| row["attempt"].clone()).collect();
    assert_eq!(numbers, [2, 1], "newest first");
    assert!(dead["attempts"][1]["nextAttemptAt"].is_string() && dead["attempts"][0]["nextAttemptAt"].is_null());
    let again = of(&trace, "w-again");
    assert_eq!(again["waiting"]["topic"], format!("{}.now", names.retry_prefix()));
    assert!(again["because"].as_str().unwrap().starts_with("item 1 {}"), "{again}");
    let paused = of(&trace, "w-paused");
    assert_eq!((&paused["state"], &paused["stateBecause"]), (&json!("dropped"), &json!("its status is paused")));
    let links = of(&trace, "w-links");
    assert_eq!(links["matches"], false);
    let because = links["because"].as_str().unwrap();
    assert!(because.contains("eventType link") && because.contains("changeType delete"), "{because}");

    // By its place, and by the id of a delivery, it is the same event.
    let place = trace["event"]["origin"].as_str().unwrap();
    for named in [place, dead["deliveryId"].as_str().unwrap()] {
        let same = run(brokers, names, &["trace", named, "--json"]).await.json();
        assert_eq!((&same["event"]["origin"], &same["account"]), (&json!(place), &expected), "{named}");
    }
    let text = run(brokers, names, &["trace", place]).await.out;
    assert!(text.ends_with("account: 4 matched = 1 acknowledged + 1 waiting + 1 dead + 1 dropped\n"), "{text}");

    // A redrive knows what an earlier one has sent, and leaves it out when asked; the events' names name their dead letters.
    let dry = async |more: &[&str]| {
        let words: Vec<&str> = ["dead-letters", "redrive", "--dry-run", "--json"].iter().chain(more).copied().collect();
        run(brokers, names, &words).await.json()
    };
    let workspace = dry(&["--workspace", WORKSPACE]).await;
    assert_eq!(
        (&workspace["matched"], &workspace["sentBefore"], &workspace["webhooksGone"]),
        (&json!(4), &json!(2), &json!(0))
    );
    let unsent = dry(&["--workspace", WORKSPACE, "--skip-sent"]).await;
    assert_eq!((&unsent["matched"], &unsent["skipped"]), (&json!(2), &json!({ "sent-before": 2 })));
    for (named, matched) in [(place, 2), ("e-1", 3), (dead["deliveryId"].as_str().unwrap(), 1)] {
        assert_eq!(dry(&[named]).await["matched"], matched, "{named}");
    }
    let shown = run(brokers, names, &["dead-letters", "show", dead["deliveryId"].as_str().unwrap(), "--json"]).await;
    assert_eq!(shown.json()["value"]["id"], "e-1");
    let unselected = run(brokers, names, &["dead-letters", "redrive"]).await;
    assert_eq!((unselected.code, unselected.log.contains("--all")), (2, true), "{}", unselected.log);

    let foreign = run(brokers, names, &["trace", place, "--workspace", "other"]).await;
    assert_eq!(foreign.code, 1);
    assert_eq!(foreign.out, format!("the event is of workspace `{WORKSPACE}`, not of `other`\n"));
    let other = run(brokers, names, &["trace", "e-1", "--workspace", "other", "--json"]).await.json();
    assert_eq!(other["webhooks"].as_array().unwrap().len(), 1, "{other}");
    let nothing = run(brokers, names, &["trace", "e-9"]).await;
    assert_eq!(nothing.code, 1);
    assert!(nothing.out.contains("has id e-9; 3 were read"), "{}", nothing.out);

    // A part of the trace has an account of its own, and a name that is not registered has none.
    let part = run(brokers, names, &["trace", place, "--webhook", "w-dead", "--json"]).await.json();
    let expected = json!({ "matched": 1, "acknowledged": 0, "waiting": 0, "dead": 1, "dropped": 0 });
    assert_eq!((&part["account"], part["webhooks"].as_array().unwrap().len()), (&expected, 1));
    for (option, name, said) in [
        ("--webhook", "w-9", "No webhook `w-9` is registered in workspace"),
        ("--integration", "i-9", "No integration `i-9` is registered in workspace"),
    ] {
        let unknown = run(brokers, names, &["trace", place, option, name]).await;
        assert_eq!((unknown.code, unknown.out.starts_with(said)), (1, true), "{}", unknown.out);
        assert!(!unknown.out.contains("account"), "{}", unknown.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_never_written_has_no_trace() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let stage = Stage::on(&cluster, "trace-nothing", SCHEDULE, 3).await;
    let (names, events) = (&stage.names, stage.names.events());
    let good = Receiver::start(|_| Answer::ok());
    stage.put(&[integration("good", &good.url("/crm"))]);
    let value = |id: &str| event(id, "c-1").value.unwrap();
    let keyed = Record::new("c-1", value("e-1")).in_partition(0);
    produce(brokers, &events, [keyed.clone(), Record { key: None, value: Some(value("e-2")), ..keyed }]);

    let given = async |value: Vec<u8>, more: &[&str]| {
        let words: Vec<&str> = ["trace", "-"].iter().chain(more).copied().collect();
        run_with(brokers, names, &words, &value).await
    };
    let never = given(value("e-9"), &["--workspace", WORKSPACE]).await;
    let expected = format!("No event of workspace `{WORKSPACE}` of topic `{events}` has id e-9; 2 were read");
    assert_eq!((never.code, never.out.starts_with(&expected)), (1, true), "{}{}", never.out, never.log);
    assert!(never.out.ends_with("No attempt of it is logged either\n"), "{}", never.out);
    let attempt = json!({ "deliveryId": "msg_1", "webHookId": "w-good", "eventId": "e-9", "attempt": 1, "outcome": "acknowledged",
        "origin": format!("{events}/2/0"), "at": "2026-01-31T12:00:00Z" });
    produce(brokers, &names.attempts(), [Record::new(format!("{WORKSPACE}/good"), attempt.to_string())]);
    let gone = given(value("e-9"), &["--json"]).await.json();
    assert_eq!(
        (&gone["event"]["origin"], &gone["account"]["acknowledged"]),
        (&json!(format!("{events}/2/0")), &json!(1))
    );

    for place in ["77/0", "0/2", "1/0"] {
        let place = format!("{events}/{place}");
        let none = run(brokers, names, &["trace", &place]).await;
        assert_eq!((none.code, none.out), (1, format!("there is no record {place}: it is gone, or was never there\n")));
    }
    // The key of a record without the header is its workspace; without both it is of none.
    let keyed = run(brokers, names, &["trace", &format!("{events}/0/0"), "--workspace", WORKSPACE]).await;
    let said = format!(
        "the event is of workspace `c-1`, the key of its record, which has no header `workspace`, not of `{WORKSPACE}`\n"
    );
    assert_eq!((keyed.code, keyed.out), (1, said));
    let invalid = run(brokers, names, &["trace", &format!("{events}/0/1"), "--workspace", WORKSPACE]).await;
    assert_eq!(
        (invalid.code, invalid.out.contains("a dead letter of reason invalid-event")),
        (1, true),
        "{}",
        invalid.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_traced_by_the_beginning_of_its_id_if_that_is_unique() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let stage = Stage::on(&cluster, "trace-prefix", SCHEDULE, 3).await;
    let ids = ["3c75d291-0000-4000-8000-000000000001", "3c75d291-0000-4000-8000-000000000002"];
    let alone = "4d86e3a2-0000-4000-8000-000000000003";
    stage.send(ids.into_iter().chain([alone]).map(|id| event(id, "c-1")));
    let traced = run(brokers, &stage.names, &["trace", "4D86", "--workspace", WORKSPACE, "--json"]).await;
    assert_eq!(traced.json()["event"]["id"], alone, "{}", traced.log);
    let several = run(brokers, &stage.names, &["trace", "3c75", "--workspace", WORKSPACE]).await;
    let [one, other] = ids;
    let expected = format!("several events begin with `3c75`: {one}, {other}");
    assert_eq!((several.code, several.log.contains(&expected)), (1, true), "{}", several.log);
    let (events, wrong) = (stage.names.events(), format!("{}x", stage.names.events()));
    let misspelt = run(brokers, &stage.names, &["trace", &format!("{wrong}/0/0")]).await;
    let expected = format!("topic `{wrong}` does not exist, but `{events}` does");
    assert_eq!((misspelt.code, misspelt.log.contains(&expected)), (1, true), "{}", misspelt.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_listed_newest_first_by_every_filter() {
    let (cluster, stage, [good, bad, _third]) = stage("attempts").await;
    let (brokers, names) = (cluster.brokers(), &stage.names);
    let list = async |more: &[&str]| {
        let words: Vec<&str> = ["attempts", "--json"].iter().chain(more).copied().collect();
        run(brokers, names, &words).await.rows()
    };
    let all = list(&["--workspace", WORKSPACE]).await;
    assert_eq!(all.len(), 2 + 4 + 4, "two acknowledged, four at each of the others");
    let times: Vec<_> = all.iter().map(|row| row["at"].as_str().unwrap()).collect();
    assert!(times.iter().rev().is_sorted() || times[0] > times[9], "{times:?}");
    assert!(all.iter().all(|row| row["workspace"] == WORKSPACE));
    let dead = list(&["--workspace", WORKSPACE, "--integration", "dead", "--event", "e-1"]).await;
    let row = &dead[0];
    assert_eq!(
        (dead.len(), &row["attempt"], &row["reason"], &row["status"]),
        (2, &json!(2), &json!("status"), &json!(503))
    );
    assert_eq!((&row["entityIds"], &row["answer"]), (&json!({ "companyId": "c-1" }), &json!("no, ***")));
    assert_eq!(row["address"], bad.url("").trim_start_matches("http://").trim_end_matches('/'));
    assert!(row["origin"].as_str().unwrap().starts_with(&names.events()), "{row}");
    let delivery = row["deliveryId"].as_str().unwrap();
    for words in [&["--delivery", delivery][..], &[delivery], &["--event", delivery]] {
        assert_eq!(list(words).await, dead, "{words:?}");
    }
    assert_eq!(list(&["e-1", "--integration", "dead"]).await.len(), 2);
    assert_eq!(list(&[row["origin"].as_str().unwrap(), "--integration", "dead"]).await.len(), 2);
    assert_eq!(list(&["--entity", "c-2", "--webhook", "w-good"]).await.len(), 1);
    assert_eq!(list(&["--reason", "timeout"]).await.len(), 0);
    assert_eq!(list(&["--workspace", "other"]).await.len(), 2);
    assert_eq!(list(&["--workspace", WORKSPACE, "--limit", "3"]).await, all[..3]);
    assert_eq!(list(&["--to", "yesterday"]).await.len(), 0);
    assert_eq!(list(&["--from", "1h"]).await.len(), all.len() + 2);

    let nothing = run(brokers, names, &["attempts", "--workspace", "unknown"]).await;
    assert_eq!(nothing.code, 0);
    assert!(nothing.out.starts_with("Nothing matches; 12 were read, back to 20"), "{}", nothing.out);
    let table = run(brokers, names, &["attempts", "--webhook", "w-dead", "--limit", "1"]).await.out;
    assert!(table.starts_with("AT ") && table.contains("status 503") && table.contains("The newest 1"), "{table}");
    assert_eq!(good.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn integrations_and_their_health_are_listed_without_secrets() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let stage = Stage::on(&cluster, "listed", SCHEDULE, 3).await;
    let names = &stage.names;
    let receiver = Receiver::start(|_| Answer::ok());
    let nothing = run(brokers, names, &["integrations"]).await;
    assert_eq!((nothing.code, nothing.out.as_str()), (0, "Nothing matches; 0 were read\n"));
    let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
    stage.put(&[
        secretive("shop", &receiver, "paused", &json!([{ "entityType": "company" }])),
        secretive(guid, &receiver, "active", &json!([{}])),
    ]);
    stage.put_records([record("other/shop", integration("shop", &receiver.url("/other")).to_string())]);
    let failed = json!({ "status": "failed", "since": "2026-01-31T12:00:00Z", "failures": { "dns": 7, "timeout": 9 },
        "lastStatus": 503, "lastAcknowledgedAt": null, "firstDropped": { "0": 5 } });
    let key = format!("{WORKSPACE}/{guid}");
    produce(brokers, &names.health(), [Record::new(key, failed.to_string())]);

    let rows = run(brokers, names, &["integrations", "--workspace", WORKSPACE, "--json"]).await.rows();
    assert_eq!(rows.len(), 2, "{rows:?}");
    let shop = rows.iter().find(|row| row["integrationId"] == "shop").unwrap();
    assert_eq!((&shop["status"], &shop["health"]), (&json!("paused"), &Value::Null));
    assert_eq!(shop["webHooks"][0]["filter"], json!(["{ entityType: company }"]));
    let table = run(brokers, names, &["integrations"]).await.out;
    assert!(table.contains("other/shop") && table.contains("failed"), "{table}");

    // The answer names the reason if an integration is not suspended, can't be resumed, or does not exist.
    stage.put(&[secretive("broken", &receiver, "failed", &json!([{}]))]);
    for (id, code, expected) in [
        ("shop", 0, "no change of health is recorded; its own status is paused"),
        ("broken", 1, "its own status is failed"),
        ("unknown", 1, "No integration `unknown` is registered in workspace `ws`"),
    ] {
        let ended = run(brokers, names, &["resume", "--workspace", WORKSPACE, "--integration", id]).await;
        assert_eq!((ended.code, ended.out.contains(expected)), (code, true), "{} {}", ended.out, ended.log);
    }

    // The beginning of a GUID is enough.
    let health = run(brokers, names, &["health", "--integration", "e01c", "--json"]).await.rows();
    assert_eq!(health.len(), 1);
    assert_eq!((&health[0]["status"], &health[0]["failures"]["dns"]), (&json!("failed"), &json!(7)));
    assert_eq!((&health[0]["workspace"], &health[0]["integrationId"]), (&json!(WORKSPACE), &json!(guid)));
    let resumed =
        run(brokers, names, &["resume", "--workspace", WORKSPACE, "--integration", "E01C", "--dry-run"]).await;
    assert!(resumed.out.contains(guid) && resumed.out.contains("would be set active again"), "{}", resumed.out);
    let table = run(brokers, names, &["health"]).await.out;
    assert!(table.contains("timeout 9, dns 7") && table.contains("503"), "{table}");
    let unknown = "is registered in workspace `ws`; `hookstream integrations` lists each with its workspace\n";
    for command in ["integrations", "health", "attempts", "dead-letters list"] {
        let words: Vec<&str> = command.split(' ').chain(["--workspace", "ws", "--integration"]).collect();
        let out = run(brokers, names, &[&words[..], &["nope"]].concat()).await.out;
        assert!(out.starts_with("Nothing matches; "), "{command}: {out}");
        assert!(out.ends_with(&format!("No integration `nope` {unknown}")), "{command}: {out}");
        let out = run(brokers, names, &[&words[..], &["shop", "--from", "1h", "--to", "59m"]].concat()).await.out;
        assert!(out.starts_with("Nothing matches; ") && !out.contains("No integration"), "{command}: {out}");
    }
    assert_eq!(run(brokers, names, &["health", "--reason", "connect"]).await.out, "Nothing matches; 1 was read\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_what_would_keep_a_worker_from_running() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let missing = run(brokers, &Names::of("unchecked"), &["check"]).await;
    assert_eq!(missing.code, 1, "{}", missing.log);
    assert!(missing.out.contains("brokers") && missing.out.contains("is missing"), "{}", missing.out);
    let stage = Stage::on(&cluster, "checked", SCHEDULE, 3).await;
    stage.send([event("e-1", "c-1")]);
    let good = run(brokers, &stage.names, &["check", "--topic-partitions", "3", "--json"]).await;
    let rows = good.rows();
    let state_of =
        |what: &str| rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("{what}: {rows:?}"));
    for what in ["options", "brokers", "rights", "clock"] {
        assert_eq!(state_of(what)["state"], "ok", "{rows:?}");
    }
    assert!(state_of("clock")["says"].as_str().unwrap().contains("no record is from the future"), "{rows:?}");
    let away = run("127.0.0.1:1", &stage.names, &["check"]).await;
    assert!(away.code == 1 && away.out.contains("no broker of `127.0.0.1:1` answers"), "{} {}", away.out, away.log);
    assert!(away.out.ends_with("2 checked: 1 error, 0 warnings\n"), "{}", away.out);
}

/// Attempts in the log: some 40 MB in a usual run.
const LOGGED: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempts_of_one_integration_cost_a_small_part_of_the_log() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let stage = Stage::on(&cluster, "long-log", SCHEDULE, 12).await;
    let attempt = |number: usize| {
        let value = json!({ "deliveryId": format!("msg_{number:032x}"), "webHookId": "w", "eventId": format!("e-{number}"),
            "attempt": 1, "url": "https://receiver.example/hook", "outcome": "failed", "reason": "status", "status": 503,
            "error": "the answer has status 503, not 200", "durationMs": 12, "answer": "x".repeat(300),
            "origin": format!("events/0/{number}"), "at": "2026-01-31T12:00:00Z" });
        Record::new(format!("ws/i-{}", number % 500), value.to_string())
    };
    produce(brokers, &stage.names.attempts(), (0..LOGGED).map(attempt));
    let began = std::time::Instant::now();
    let words = ["attempts", "--workspace", "ws", "--integration", "i-7", "--from", "1h", "--limit", "50", "--json"];
    let ended = run(brokers, &stage.names, &words).await;
    let took = began.elapsed();
    let rows = ended.rows();
    assert_eq!(rows.len(), 50);
    assert!(rows.iter().all(|row| row["integrationId"] == "i-7"));
    assert_eq!(rows[0]["eventId"], format!("e-{}", LOGGED - 500 + 7), "the newest first");
    let line = ended.log.lines().find(|line| line.contains("attempts were searched")).expect("how far it looked");
    let line: Value = serde_json::from_str(line).unwrap();
    let read = line["read"].as_u64().unwrap();
    println!("50 of {LOGGED} attempts after {took:?}, {read} records read");
    // Those of one integration are one in 42 of its partition.
    assert!(read < 5_000, "{read}");
}
