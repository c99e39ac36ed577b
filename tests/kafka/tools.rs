//! The tools of a bad day, as programs against a real Kafka and a real worker.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::process::{Process, Signal};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, create_topic, ends, produce, read_all, unique};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{Names, Worker};

/// Long enough between them that no test's retries are due by accident.
const SCHEDULE: &str = "100ms,200ms";

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

    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn arguments(brokers: &str, names: &Names, words: &[&str]) -> Vec<String> {
    let (tool, options): (Vec<&str>, Vec<&str>) =
        (words.iter().copied().take_while(|word| !word.starts_with('-')).collect(), words.to_vec());
    let options = options.into_iter().skip(tool.len());
    let fixed = ["--retry-schedule", SCHEDULE, "--log-format", "json"].map(str::to_owned);
    let tool = tool.into_iter().map(str::to_owned);
    tool.chain(names.arguments(brokers)).chain(fixed).chain(options.map(str::to_owned)).collect()
}

/// Runs a tool to its end, with `input` as its standard input.
async fn run_with(brokers: &str, names: &Names, words: &[&str], input: &str) -> Ended {
    let (arguments, input) = (arguments(brokers, names, words), input.to_owned());
    let output = tokio::task::spawn_blocking(move || -> std::io::Result<Output> {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_hookstream"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A process that does not read its input may have closed it.
        let written = tool.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        assert!(written.is_ok() || input.is_empty(), "{written:?}");
        tool.wait_with_output()
    });
    let output = output.await.unwrap().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        log: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(brokers: &str, names: &Names, words: &[&str]) -> Ended {
    run_with(brokers, names, words, "").await
}

fn integration(receiver: &Receiver, status: &str) -> Value {
    let webhook = |id: &str, items: Value| json!({ "id": id, "relativeUrl": format!("/{id}"), "triggerType": "entityEvent", "filter": { "items": items } });
    json!({ "id": "i", "baseUrl": receiver.url("/crm"), "status": status, "webHooks": [
        webhook("all", json!([{ "eventType": "change" }])),
        webhook("contacts", json!([{ "eventType": "link" }, { "entityType": "contact" }])),
    ] })
}

fn event(id: usize, entity: &str) -> Record {
    let value = json!({ "id": format!("e-{id}"), "type": "change", "entityIds": { format!("{entity}Id"): id.to_string() },
        "changeData": { "type": "patch" } });
    Record::new(id.to_string(), value.to_string()).header("workspace", "ws")
}

/// A dead letter as a worker writes it.
fn dead_letter(id: usize, webhook: &str, reason: &str) -> Record {
    let value = json!({ "id": format!("d-{id}"), "type": "change", "entityIds": { "companyId": "1" } }).to_string();
    Record::new(webhook, value)
        .header("workspace", "ws")
        .header("hookstream-integration-id", "i")
        .header("hookstream-webhook-id", webhook)
        .header("hookstream-delivery-id", format!("msg_made-{id}"))
        .header("hookstream-attempt", "3")
        .header("hookstream-first-attempt-ms", jiff::Timestamp::now().as_millisecond().to_string())
        .header("hookstream-origin", format!("events/0/{id}"))
        .header("hookstream-error", "timeout")
        .header("hookstream-reason", reason)
        .header("hookstream-event-ms", "4")
}

/// How many records a topic has, if it has no transaction and no record was deleted.
fn total(brokers: &str, topic: &str) -> usize {
    usize::try_from(ends(brokers, topic).values().sum::<i64>()).unwrap()
}

fn ids(receiver: &Receiver, skip: usize) -> BTreeSet<String> {
    receiver.recorded().iter().skip(skip).map(|request| request.delivery_id().to_owned()).collect()
}

/// Fewer failures in a row than open a circuit.
const EVENTS: usize = 6;
const SUSPENDED: usize = 10;
/// The exhausted, two invalid events, the suspended, and one that no worker wrote.
const DEAD: usize = EVENTS + 2 + SUSPENDED + 1;

/// Dead letters of every kind: those of events that a worker gave up, and those made up.
async fn make_dead_letters(brokers: &str, names: &Names, receiver: &Receiver) {
    names.create(brokers, SCHEDULE, 3).await;
    receiver.answer_with(|_| Answer::status(500));
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(receiver, "active").to_string())]);
    let mut worker = Worker::start(brokers, names, &["--retry-schedule", SCHEDULE]).await;
    produce(brokers, &names.events(), (0..EVENTS).map(|id| event(id, "company")));
    produce(brokers, &names.events(), ["no event", "{}"].map(|value| Record::new("ws", value)));
    let what = "all dead letters of the worker";
    wait_until(what, PATIENCE, async || equal(total(brokers, &names.dead_letter()), &(EVENTS + 2))).await;
    worker.stop();
    let made = (0..SUSPENDED).map(|id| dead_letter(id, "contacts", "suspended"));
    produce(brokers, &names.dead_letter(), made);
    produce(brokers, &names.dead_letter(), [Record::new("k", "{}").header("hookstream-reason", "exhausted")]);
    receiver.answer_with(|_| Answer::ok());
}

/// The output of `list --json` for the records of a reason.
async fn listed(brokers: &str, names: &Names, reason: &str) -> Vec<Value> {
    let ended = run(brokers, names, &["dead-letters", "list", "--json", "--reason", reason]).await;
    assert_eq!(ended.code, 0, "{}", ended.log);
    ended.lines()
}

fn place(line: &Value) -> String {
    format!("{}/{}/{}", line["topic"].as_str().unwrap(), line["partition"], line["offset"])
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_newest_last_and_shown_whole() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("list");
    let receiver = Receiver::start(|_| Answer::ok());
    make_dead_letters(brokers, &names, &receiver).await;
    let all = run(brokers, &names, &["dead-letters", "list", "--json"]).await;
    assert_eq!((all.code, all.lines().len()), (0, DEAD), "{}", all.log);
    let times: Vec<_> = all.lines().iter().map(|line| line["timestamp"].as_str().unwrap().to_owned()).collect();
    assert!(times.is_sorted(), "newest last");
    let (exhausted, suspended) =
        (listed(brokers, &names, "exhausted").await, listed(brokers, &names, "suspended").await);
    assert_eq!((exhausted.len(), suspended.len()), (EVENTS + 1, SUSPENDED));
    assert_eq!(listed(brokers, &names, "invalid-event").await.len(), 2);
    let made = &suspended[0];
    assert_eq!((&made["error"], &made["status"], &made["attempts"]), (&json!("timeout"), &Value::Null, &json!(3)));
    let first = &exhausted[0];
    assert_eq!(first["error"], "status", "{first}");
    let owner = (&first["webHookId"], &first["workspace"], &first["integrationId"], &first["attempts"]);
    assert_eq!(owner, (&json!("all"), &json!("ws"), &json!("i"), &json!(3)));

    let newest = run(brokers, &names, &["dead-letters", "list", "--reason", "suspended", "--limit", "4"]).await;
    let lines: Vec<_> = newest.out.lines().collect();
    assert_eq!((newest.code, lines.len()), (0, 6), "a heading and as many as asked for: {}", newest.out);
    assert_eq!(lines[5], format!("{} more match: --limit shows more", SUSPENDED - 4));
    for (line, listed) in lines[1..5].iter().zip(&suspended[SUSPENDED - 4..]) {
        assert!(line.starts_with(&place(listed)), "the newest: {line} {listed}");
    }

    let first_place = place(first);
    let shown = run(brokers, &names, &["dead-letters", "show", "--event", &first_place, "--json"]).await.json();
    assert_eq!(shown["value"]["type"], "change");
    let reason = json!({ "name": "hookstream-reason", "value": "exhausted" });
    assert!(shown["headers"].as_array().unwrap().contains(&reason), "{shown}");
    let nowhere = format!("{}/0/99999", names.dead_letter());
    let missing = run(brokers, &names, &["dead-letters", "show", "--event", &nowhere]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.log.contains("99999") && missing.log.contains("offsets are 0 to"), "{}", missing.log);
    let foreign = run(brokers, &names, &["dead-letters", "show", "--event", "elsewhere/0/0"]).await;
    assert!(foreign.log.contains("`elsewhere` is not the dead-letter topic"), "{}", foreign.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_dead_letters_are_delivered_with_the_ids_they_had() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("redrive");
    let receiver = Receiver::start(|_| Answer::ok());
    make_dead_letters(brokers, &names, &receiver).await;
    let exhausted = listed(brokers, &names, "exhausted").await;
    let exhausted_ids: BTreeSet<String> =
        exhausted.iter().filter_map(|line| line["deliveryId"].as_str().map(str::to_owned)).collect();
    assert_eq!(exhausted_ids.len(), EVENTS);

    let tier = names.now();
    let before = total(brokers, &tier);
    let dry = run(brokers, &names, &["dead-letters", "redrive", "--dry-run", "--json"]).await.json();
    assert_eq!((&dry["read"], &dry["matched"], &dry["sent"]), (&json!(DEAD), &json!(EVENTS + SUSPENDED), &json!(0)));
    assert_eq!(dry["skipped"], json!({ "invalid-event": 2, "headers-missing": 1 }));
    assert_eq!(total(brokers, &tier), before, "a dry run writes nothing");

    let mut worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE]).await;
    let seen = receiver.count();
    let first_place = place(&exhausted[0]);
    let one = run(brokers, &names, &["dead-letters", "redrive", "--event", &first_place, "--json"]).await.json();
    assert_eq!((&one["matched"], &one["sent"]), (&json!(1), &json!(1)));
    receiver.wait_for(seen + 1, PATIENCE).await;
    assert_eq!(ids(&receiver, seen), BTreeSet::from([exhausted[0]["deliveryId"].as_str().unwrap().to_owned()]));

    let seen = receiver.count();
    let words = ["dead-letters", "redrive", "--reason", "exhausted", "--workspace", "ws", "--webhook", "all", "--json"];
    let redriven = run(brokers, &names, &words).await;
    let account = redriven.json();
    assert_eq!(redriven.code, 0, "{}", redriven.log);
    assert_eq!(
        (&account["read"], &account["matched"], &account["sent"]),
        (&json!(DEAD), &json!(EVENTS), &json!(EVENTS))
    );
    assert_eq!(account["skipped"], json!({}), "the filter did not ask for those that can't be sent");
    let requests = receiver.wait_for(seen + EVENTS, PATIENCE).await;
    assert_eq!(ids(&receiver, seen), exhausted_ids);
    assert!(requests.iter().skip(seen).all(|request| request.attempt() == 1), "as first attempts");

    let seen = receiver.count();
    let human = run(brokers, &names, &["dead-letters", "redrive", "--reason", "suspended"]).await;
    assert!(human.out.contains("matched 10, sent 10"), "{}", human.out);
    receiver.wait_for(seen + SUSPENDED, PATIENCE).await;
    assert_eq!(ids(&receiver, seen), (0..SUSPENDED).map(|id| format!("msg_made-{id}")).collect());
    assert_eq!(total(brokers, &names.dead_letter()), DEAD, "nothing died again");
    worker.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_records_do_not_wait_behind_retries_and_a_stop_repeats_none() {
    const WAITING: usize = 600;
    const REDRIVEN: usize = 20;
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("now");
    let schedule = ["--retry-schedule", "1h"];
    names.create(brokers, schedule[1], 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(&receiver, "active").to_string())]);
    // More than a buffer of one partition holds.
    produce(brokers, &names.tier("1h"), (0..WAITING).map(|id| dead_letter(1_000 + id, "all", "exhausted")));
    produce(brokers, &names.dead_letter(), (0..REDRIVEN).map(|id| dead_letter(id, "all", "exhausted")));
    let mut worker = Worker::start(brokers, &names, &schedule).await;
    let redriven = run(brokers, &names, &["dead-letters", "redrive", "--all", "--json"]).await;
    assert_eq!(redriven.json()["sent"], json!(REDRIVEN), "{}", redriven.log);
    receiver.wait_for(REDRIVEN, PATIENCE).await;
    assert_eq!(ids(&receiver, 0), (0..REDRIVEN).map(|id| format!("msg_made-{id}")).collect(), "no waiting retry");
    let (load, stopping) = (Load::watch(), Instant::now());
    worker.stop();
    load.assert_within("a stop that waits for no retry", stopping.elapsed(), Duration::from_secs(8));
    drop(load);
    let mut next = Worker::start(brokers, &names, &schedule).await;
    produce(brokers, &names.now(), [dead_letter(500, "all", "exhausted")]);
    receiver.wait_for(REDRIVEN + 1, PATIENCE).await;
    assert_eq!(ids(&receiver, REDRIVEN), BTreeSet::from(["msg_made-500".to_owned()]), "nothing is repeated");
    next.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_of_thousands_to_one_webhook_goes_about_as_fast_as_it_is_sent() {
    const REDRIVEN: usize = 3_000;
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("redrive-large");
    // If its lane's part of them went through in each of these, it would take two minutes at best.
    let schedule = ["--retry-schedule", "10s"];
    names.create(brokers, schedule[1], 3).await;
    // 16 at a time: 800 a second.
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(&receiver, "active").to_string())]);
    produce(brokers, &names.dead_letter(), (0..REDRIVEN).map(|id| dead_letter(id, "all", "exhausted")));
    let _worker = Worker::start(brokers, &names, &schedule).await;
    let began = Instant::now();
    let redriven = run(brokers, &names, &["dead-letters", "redrive", "--all", "--json"]).await;
    assert_eq!(redriven.json()["sent"], json!(REDRIVEN), "{}", redriven.log);
    let sent = began.elapsed();
    wait_until("every dead letter at the receiver", PATIENCE, async || match ids(&receiver, 0).len() {
        REDRIVEN => Ok(()),
        arrived => Err(arrived),
    })
    .await;
    let detours = read_all(brokers, &names.tier("10s")).len();
    println!("{REDRIVEN} redriven: sent in {sent:?}, all there after {:?}, {detours} through a tier", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_redrive_gives_its_account_and_can_be_run_again() {
    const MANY: usize = 1_500;
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("interrupt");
    names.create(brokers, SCHEDULE, 2).await;
    produce(brokers, &names.dead_letter(), (0..MANY).map(|id| dead_letter(id, &format!("w-{id}"), "exhausted")));
    let tier = names.now();
    let words = ["dead-letters", "redrive", "--all", "--rate", "100", "--json"];
    let mut tool =
        Process::start("redrive", env!("CARGO_BIN_EXE_hookstream"), &arguments(brokers, &names, &words), &[]);
    wait_until("the first records", PATIENCE, async || match total(brokers, &tier) {
        sent if sent >= 50 => Ok(()),
        sent => Err(sent),
    })
    .await;
    tool.signal(Signal::Term);
    assert_eq!(tool.wait(PATIENCE), 130);
    let lines = tool.lines().all();
    let account = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let account = account.into_iter().find(|line| line["tool"] == "redrive").expect("an account");
    let sent = total(brokers, &tier);
    assert_eq!((&account["sent"], &account["matched"]), (&json!(sent), &json!(sent)), "{account}");
    assert!((50..MANY).contains(&sent), "{sent}");
    assert_eq!(account["stoppedEarly"], true);
    let left = ends(brokers, &names.dead_letter())
        .iter()
        .filter_map(|(partition, end)| Some(end - account["stoppedAt"].get(partition.to_string())?.as_i64()?))
        .sum::<i64>();
    assert_eq!(usize::try_from(left).unwrap(), MANY - sent, "it stopped where it says");
    assert!(account["goOnFrom"].is_string());
    let again = run(brokers, &names, &["dead-letters", "redrive", "--all", "--rate", "100000", "--json"]).await.json();
    assert_eq!((&again["sent"], &again["stoppedEarly"]), (&json!(MANY), &json!(false)));
    assert_eq!(total(brokers, &tier), sent + MANY, "the same records again");
    let began = Instant::now();
    let paced = run(brokers, &names, &["dead-letters", "redrive", "--all", "--rate", "1000", "--json"]).await.json();
    assert_eq!(paced["sent"], json!(MANY));
    assert!(began.elapsed() >= Duration::from_millis(1_400), "the rate is kept: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_its_topic_is_counted_and_the_rest_is_sent() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("large");
    names.create(brokers, SCHEDULE, 1).await;
    let dead = unique("large-dead-letters");
    let mut large = dead_letter(1, "w", "too-large");
    // The dead-letter topic of this test takes what the other does not.
    create_topic(brokers, &dead, 1, &[("max.message.bytes", "9000000")]).await;
    // No compression makes this small.
    let mut noise = vec![0_u8; 4_000_000];
    rand::fill(&mut noise[..]);
    large.value = Some(noise);
    produce(brokers, &dead, [dead_letter(0, "w", "exhausted"), large, dead_letter(2, "w", "exhausted")]);
    let words = ["dead-letters", "redrive", "--all", "--json", "--dead-letter-topic", &dead];
    let arguments: Vec<String> = arguments(brokers, &names, &words);
    // Each option once: the test's own topic replaces the named one.
    let place = arguments.iter().position(|word| word == "--dead-letter-topic").unwrap();
    let arguments: Vec<_> =
        arguments.iter().enumerate().filter(|(at, _)| *at != place && *at != place + 1).map(|(_, word)| word).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_hookstream")).args(arguments).output().unwrap();
    let account: Value = serde_json::from_slice(&output.stdout).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((&account["sent"], &account["tooLarge"]), (&json!(2), &json!(1)), "{account} {log}");
    assert_eq!(output.status.code(), Some(1));
    assert!(log.contains("1 records are larger than topic"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_delivers_a_range_again_with_the_ids_it_had() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("replay");
    names.create(brokers, SCHEDULE, 3).await;
    let receiver = Receiver::start(|_| Answer::ok());
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(&receiver, "active").to_string())]);
    let mut worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE]).await;
    // One event a second, so that a time names a position; every third is about a contact and matches both webhooks.
    let begin_ms = (jiff::Timestamp::now().as_second() - 120) * 1_000;
    let at =
        |record: Record, id: usize| Record { timestamp: Some(begin_ms + 1_000 * i64::try_from(id).unwrap()), ..record };
    let events = (0..60).map(|id| {
        at(event(id, if id % 3 == 0 { "contact" } else { "company" }), id).in_partition(i32::try_from(id % 3).unwrap())
    });
    produce(brokers, &names.events(), events);
    let foreign = Record::new("other", event(99, "company").value.unwrap()).header("workspace", "other");
    produce(
        brokers,
        &names.events(),
        [at(foreign, 30).in_partition(0), at(Record::new("ws", "no event"), 31).in_partition(1)],
    );
    let live = receiver.wait_for(80, PATIENCE).await;
    let live_ids = |webhook: &str, range: std::ops::Range<usize>| -> BTreeSet<String> {
        let wanted: BTreeSet<String> = range.map(|id| format!("e-{id}")).collect();
        let of_webhook = live.iter().filter(|request| request.path.ends_with(webhook));
        let of_range = of_webhook.filter(|request| wanted.contains(request.json()["id"].as_str().unwrap()));
        of_range.map(|request| request.delivery_id().to_owned()).collect()
    };
    let time = |id: i64| jiff::Timestamp::from_millisecond(begin_ms + 1_000 * id).unwrap().to_string();
    let replay = ["replay", "--workspace", "ws", "--integration", "i", "--json"];

    let (from, to) = (time(20), time(35));
    let range = ["--from", &from, "--to", &to];
    let dry = run(brokers, &names, &[&replay[..], &range, &["--dry-run"]].concat()).await;
    assert_eq!((&dry.json()["matched"], &dry.json()["sent"]), (&json!(20), &json!(0)), "{}", dry.log);
    let replayed = run(brokers, &names, &[&replay[..], &range].concat()).await;
    assert_eq!((replayed.code, &replayed.json()["sent"]), (0, &json!(20)), "{}", replayed.log);
    assert_eq!(replayed.json()["skipped"], json!({}));
    receiver.wait_for(100, PATIENCE).await;
    let expected: BTreeSet<String> = live_ids("all", 20..35).union(&live_ids("contacts", 20..35)).cloned().collect();
    assert_eq!((ids(&receiver, 80), expected.len()), (expected.clone(), 20));

    let one = run(brokers, &names, &[&replay[..], &["--from", &from, "--webhook", "contacts"]].concat()).await.json();
    assert_eq!((&one["sent"], &one["skipped"]), (&json!(13), &json!({ "invalid-event": 1 })));
    receiver.wait_for(113, PATIENCE).await;
    assert_eq!(ids(&receiver, 100), live_ids("contacts", 20..60));

    let unrecorded = run(brokers, &names, &replay).await;
    assert_eq!(unrecorded.code, 1);
    assert!(unrecorded.log.contains("no suspension of `ws/i` is recorded"), "{}", unrecorded.log);
    worker.stop();
    let health = |value: Value| Record::new("ws/i", value.to_string());
    let suspended = json!({ "status": "failed", "since": time(10), "failures": { "timeout": 100 },
        "firstDropped": { "0": 15, "1": 20, "2": 18 } });
    produce(brokers, &names.health(), [health(suspended)]);
    let refused = run(brokers, &names, &replay).await;
    assert_eq!(refused.code, 1);
    assert!(refused.log.contains(&format!("suspended since {}", time(10))), "{}", refused.log);
    let dry = run(brokers, &names, &[&replay[..], &["--dry-run"]].concat()).await.json();
    produce(brokers, &names.health(), [health(json!({ "status": "active", "since": time(40) }))]);
    let resumed = run(brokers, &names, &replay).await;
    // Partition 0 holds the contacts 0, 3, …: from offset 15 the five from 45 on; partition 2 the companies 56 and 59.
    assert_eq!((&dry["matched"], &resumed.json()["sent"]), (&json!(12), &json!(12)), "{}", resumed.log);
    let sent: BTreeSet<String> = read_all(brokers, &names.now())
        .iter()
        .rev()
        .filter(|record| record.header("hookstream-attempt") == Some("0"))
        .map(|record| record.header("hookstream-delivery-id").unwrap().to_owned())
        .collect();
    let contacts: BTreeSet<String> = live_ids("contacts", 45..60);
    assert!(contacts.is_subset(&sent));

    let paused = integration(&receiver, "paused").to_string();
    produce(brokers, &names.integrations(), [Record::new("ws/i", paused)]);
    let refused = run(brokers, &names, &[&replay[..], &["--from", &from]].concat()).await;
    assert!(refused.code == 1 && refused.log.contains("is paused"), "{}", refused.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_filter_items_that_decided() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("explain");
    names.create(brokers, SCHEDULE, 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let good = Record::new("ws/i", integration(&receiver, "active").to_string());
    produce(brokers, &names.integrations(), [good, Record::new("ws/i", "unusable")]);
    produce(brokers, &names.events(), [event(1, "company").in_partition(1)]);
    let explain = ["explain", "--workspace", "ws", "--integration", "i"];
    let place = format!("{}/1/0", names.events());
    let explained = run(brokers, &names, &[&explain[..], &["--event", &place, "--json"]].concat()).await;
    assert_eq!(explained.code, 0, "{}", explained.log);
    assert!(explained.log.contains("the one before it is in force"), "{}", explained.log);
    let answer = explained.json();
    assert_eq!((&answer["event"]["workspace"], &answer["event"]["entityTypes"]), (&json!("ws"), &json!(["company"])));
    let webhooks = &answer["webHooks"];
    assert_eq!((&webhooks[0]["delivered"], &webhooks[0]["decidedBy"]), (&json!(true), &json!(0)));
    assert_eq!(webhooks[1]["delivered"], false);
    assert_eq!(webhooks[1]["items"][0]["whyNot"], json!(["eventType link, but the event is a change"]));
    assert_eq!(webhooks[1]["items"][1]["whyNot"], json!(["entityType contact, but the event is about company"]));

    let file = tempfile::NamedTempFile::new().unwrap();
    let link = r#"{"id":"e","type":"unlink","entityIds":{"companyId":"1","userId":"2"}}"#;
    std::fs::write(file.path(), link).unwrap();
    let from_file = run(brokers, &names, &[&explain[..], &["--event", file.path().to_str().unwrap()]].concat()).await;
    assert_eq!(from_file.code, 1, "no webhook gets it: {}", from_file.out);
    assert!(from_file.out.contains("eventType change, but the event is an unlink"), "{}", from_file.out);
    let by_id = run(brokers, &names, &[&explain[..], &["--event", "3c75d291"]].concat()).await;
    assert_eq!(by_id.code, 1, "{}", by_id.log);
    assert!(by_id.log.contains("`hookstream trace 3c75d291` finds an event by its id"), "{}", by_id.log);
    let contact = String::from_utf8(event(2, "contact").value.unwrap()).unwrap();
    let only = [&explain[..], &["--event", "-", "--webhook", "contacts"]].concat();
    let from_stdin = run_with(brokers, &names, &only, &contact).await;
    assert_eq!(from_stdin.code, 0, "{}", from_stdin.log);
    assert!(
        from_stdin.out.contains("webhook contacts") && !from_stdin.out.contains("webhook all"),
        "{}",
        from_stdin.out
    );

    let failed = json!({ "status": "failed", "since": "2023-11-14T22:13:30Z" }).to_string();
    produce(brokers, &names.health(), [Record::new("ws/i", failed)]);
    let suspended = run(brokers, &names, &[&explain[..], &["--event", &place]].concat()).await;
    assert_eq!(suspended.code, 1);
    assert!(
        suspended.out.contains("it is suspended") && suspended.out.contains("since 2023-11-14"),
        "{}",
        suspended.out
    );
    let behind = json!({"version": 1, "group": names.group(), "partition": 1, "integration": "ws/i", "webHook": "all",
        "offset": 0, "reason": "circuit-open", "sinceMs": 1_769_860_800_000_i64, "epoch": 1})
    .to_string();
    let backlog_key = format!("{}/1/ws/i/all", names.group());
    produce(brokers, &names.backlog(), [Record::new(&*backlog_key, behind)]);
    let behind = run(brokers, &names, &[&explain[..], &["--event", &place]].concat()).await;
    let described = "behind since 2026-01-31T12:00:00.000Z, at partition 1 offset 0, 1 events to go: circuit-open";
    assert!(behind.out.contains(described), "{}", behind.out);
    let unknown = ["explain", "--workspace", "ws", "--integration", "unknown", "--event", &place];
    let unknown = run(brokers, &names, &unknown).await;
    assert!(unknown.code == 1 && unknown.log.contains("there is no integration `ws/unknown`"), "{}", unknown.log);
    let invalid = run_with(brokers, &names, &[&explain[..], &["--event", "-"]].concat(), "{}").await;
    assert!(invalid.code == 1 && invalid.log.contains("invalid-event"), "{}", invalid.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_report_a_missing_topic_and_a_missing_broker_within_seconds() {
    let cluster = Cluster::shared().await;
    let names = Names::of("nothing");
    let missing = run(cluster.brokers(), &names, &["dead-letters", "list"]).await;
    assert_eq!(missing.code, 1);
    assert!(
        missing.log.contains("does not exist") && missing.log.contains("`hookstream topics apply` creates it"),
        "{}",
        missing.log
    );
    let explain = ["explain", "--workspace", "w", "--integration", "i", "--event", "-"];
    let event = String::from_utf8(event(1, "company").value.unwrap()).unwrap();
    let unreachable = "127.0.0.1:1";
    let (load, began) = (Load::watch(), Instant::now());
    let (list, redrive, explain, plan) = tokio::join!(
        run(unreachable, &names, &["dead-letters", "list"]),
        run(unreachable, &names, &["dead-letters", "redrive", "--all"]),
        run_with(unreachable, &names, &explain, &event),
        run(unreachable, &names, &["topics", "plan"]),
    );
    assert_eq!(plan.code, 1);
    for said in
        ["no broker answers yet, still trying", "no broker of 127.0.0.1:1 answered within 15s: ", "Connection refused"]
    {
        assert!(plan.log.contains(said), "{}", plan.log);
    }
    assert!(!plan.log.contains("(Local: "), "words of the client library: {}", plan.log);
    for ended in [list, redrive, explain] {
        assert_eq!(ended.code, 1);
        assert!(ended.log.contains("no broker of `127.0.0.1:1` answers within 10 s"), "{}", ended.log);
        let trying = ended.log.find("no broker answers yet, still trying");
        assert!(trying.is_some_and(|at| Some(at) < ended.log.find("answers within 10 s")), "{}", ended.log);
    }
    load.assert_within("four tools without a broker", began.elapsed(), Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_loses_its_brokers_ends_with_its_account() {
    let mut cluster = Cluster::start(1).await;
    let brokers = cluster.brokers().to_owned();
    let names = Names::of("gone");
    names.create(&brokers, SCHEDULE, 1).await;
    produce(&brokers, &names.dead_letter(), (0..500).map(|id| dead_letter(id, "w", "exhausted")));
    let words = ["dead-letters", "redrive", "--all", "--rate", "50", "--json"];
    let words = arguments(&brokers, &names, &words);
    let mut tool = Process::start("redrive", env!("CARGO_BIN_EXE_hookstream"), &words, &[]);
    let tier = names.now();
    let has_sent = || async {
        match total(&brokers, &tier) {
            sent if sent >= 20 => Ok(sent),
            sent => Err(sent),
        }
    };
    let sent_before = wait_until("the first records", PATIENCE, has_sent).await;
    cluster.kill(0);
    let (load, killed) = (Load::watch(), Instant::now());
    assert_eq!(tool.wait(3 * PATIENCE), 1);
    load.assert_within("a redrive whose brokers are gone", killed.elapsed(), Duration::from_secs(40));
    let lines = tool.lines().all();
    let account = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let account = account.into_iter().find(|line| line["tool"] == "redrive").expect("an account");
    let count = |name: &str| usize::try_from(account[name].as_u64().unwrap()).unwrap();
    assert!(count("sent") >= sent_before && count("notAcknowledged") > 0, "{account}");
    assert_eq!(count("matched"), count("sent") + count("notAcknowledged"), "{account}");
    assert!(lines.iter().any(|line| line.contains("did not acknowledge a record")), "{}", tool.lines().tail(5));
    cluster.restart(0);
    let again = run(&brokers, &names, &["dead-letters", "redrive", "--all", "--json"]).await.json();
    assert_eq!(again["sent"], json!(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_ends_in_an_aborted_transaction_is_read_to_its_end() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("aborted");
    names.create(brokers, SCHEDULE, 1).await;
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", names.group()).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for (text, is_kept) in [("kept", true), ("aborted", false)] {
        producer.begin_transaction().unwrap();
        producer
            .send(BaseRecord::<str, str>::to(&names.dead_letter()).payload(text))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        let ended = if is_kept { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
        ended.unwrap();
    }
    let listed = run(brokers, &names, &["dead-letters", "list", "--json"]).await;
    assert_eq!((listed.code, listed.lines().len()), (0, 1), "{}", listed.log);
    let aborted = format!("{}/0/2", names.dead_letter());
    let shown = run(brokers, &names, &["dead-letters", "show", "--event", &aborted]).await;
    assert!(shown.code == 1 && shown.log.contains("the record is gone"), "{}", shown.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_dropped_by_a_suspension_are_replayed_and_the_account_balances() {
    const DROPPED: usize = 30;
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("bad-day");
    names.create(brokers, SCHEDULE, 3).await;
    let receiver = Receiver::start(|_| Answer::status(503));
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(&receiver, "active").to_string())]);
    let fast = ["--retry-schedule", SCHEDULE, "--suspend-after", "2s", "--suspend-after-failures", "10"];
    let mut worker = Worker::start(brokers, &names, &fast).await;
    let made = AtomicUsize::new(0);
    let send = |count: usize| {
        let first = made.fetch_add(count, Ordering::Relaxed);
        produce(brokers, &names.events(), (first..first + count).map(|id| event(id, "company")));
        first + count
    };
    wait_until("the suspension", PATIENCE, async || {
        // Only attempts suspend, and an open circuit makes few of them.
        send(2);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let states: Vec<_> =
            read_all(brokers, &names.health()).iter().map(|record| record.json()["status"].clone()).collect();
        if states.contains(&json!("failed")) { Ok(()) } else { Err(states) }
    })
    .await;
    wait_until("the worker to obey", PATIENCE, async || {
        let gauge = worker.metric("hookstream_integrations", &[("status", "failed")]).await;
        if gauge > 0.5 { Ok(()) } else { Err(gauge) }
    })
    .await;
    let events = send(DROPPED);
    let dropped = || async { worker.metric("hookstream_dropped_total", &[("reason", "suspended")]).await };
    wait_until("the drops", PATIENCE, async || match dropped().await {
        count if count >= 30.0 => Ok(()),
        count => Err(count),
    })
    .await;
    wait_until("every event to be dropped or dead", PATIENCE, async || {
        let accounted = dropped().await + f64::from(u32::try_from(total(brokers, &names.dead_letter())).unwrap());
        if (accounted - f64::from(u32::try_from(events).unwrap())).abs() < 0.5 {
            Ok(())
        } else {
            Err((accounted, events))
        }
    })
    .await;

    receiver.answer_with(|_| Answer::ok());
    let owner = ["--workspace", "ws", "--integration", "i"];
    let resumed = run(brokers, &names, &[&["resume"][..], &owner].concat()).await;
    assert_eq!(resumed.code, 0, "{}", resumed.log);
    // A new worker: the circuit of the old one is open.
    worker.stop();
    let mut worker = Worker::start(brokers, &names, &fast).await;
    let seen = receiver.count();
    let replayed = run(brokers, &names, &[&["replay", "--json"][..], &owner].concat()).await;
    let redriven = run(brokers, &names, &[&["dead-letters", "redrive", "--json"][..], &owner].concat()).await;
    assert_eq!((replayed.code, redriven.code), (0, 0), "{} {}", replayed.log, redriven.log);
    let count = |account: &Ended| usize::try_from(account.json()["sent"].as_u64().unwrap()).unwrap();
    assert!(count(&replayed) >= DROPPED, "{}", replayed.out);
    let requests = receiver.wait_for(seen + count(&replayed) + count(&redriven), PATIENCE).await;
    let delivered: BTreeSet<String> =
        requests.iter().skip(seen).map(|request| request.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(delivered.len(), events, "every event came over, by one way or the other");
    assert_eq!(ids(&receiver, seen).len(), events, "and under one id, also where both ways brought it");
    worker.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_and_a_replay_leave_one_audit_record_each_and_a_dry_run_leaves_no_record() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("tools-audit");
    names.create(brokers, SCHEDULE, 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    produce(brokers, &names.integrations(), [Record::new("ws/i", integration(&receiver, "active").to_string())]);
    produce(brokers, &names.events(), (0..3).map(|id| event(id, "company")));
    produce(brokers, &names.dead_letter(), (0..2).map(|id| dead_letter(id, "all", "exhausted")));
    let of_one = ["--workspace", "ws", "--integration", "i"];
    let with = |words: &[&'static str]| words.iter().copied().chain(of_one).collect::<Vec<_>>();
    let since = "2020-01-01T00:00:00Z";
    let done = [
        run(brokers, &names, &["dead-letters", "redrive", "--dry-run"]).await,
        run(brokers, &names, &with(&["replay", "--from", since, "--dry-run"])).await,
        run(brokers, &names, &["dead-letters", "redrive", "--reason", "exhausted"]).await,
        run(brokers, &names, &with(&["replay", "--from", since])).await,
        run(brokers, &names, &with(&["resume"])).await,
    ];
    for ended in &done {
        assert_eq!(ended.code, 0, "{}{}", ended.out, ended.log);
    }
    let audited: Vec<(String, Value)> =
        read_all(brokers, &names.audit()).iter().map(|record| (record.key_text().to_owned(), record.json())).collect();
    let described: Vec<(&str, &str, i64)> = audited
        .iter()
        .map(|(key, record)| {
            let sent = record["counts"]["sent"].as_i64().unwrap_or(-1);
            (key.as_str(), record["action"].as_str().unwrap(), sent)
        })
        .collect();
    assert_eq!(
        described,
        [("*", "redrive", 2), ("ws", "replay", 3)],
        "the integration was not suspended: nothing was resumed"
    );
    for (_, record) in &audited {
        assert!(record["who"].as_str().unwrap().starts_with("cli@"), "{record}");
        assert!(record["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{record}");
    }
}
