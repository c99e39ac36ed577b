//! Webhooks that are behind: bursts, receivers that were away, failing neighbours, crashes. No slot is spent, no order lost.
//!
//! Some of what is promised takes minutes at its full size. Then a test has a smaller size too, which is the usual one. This asks for the full
//! size, for which the figures in `benches/README.md` stand:
//!
//! ```text
//! HOOKSTREAM_TEST_FULL=1 cargo test --release --test kafka -- backlog:: --nocapture --test-threads 1
//! ```

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::stage::{LONG, Ledger, Stage, event, event_number, events, integration};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::receiver::{Answer, Misbehaviour, Receiver, Recorded};
use crate::support::records::{Record, admin};
use crate::support::wait::wait_until;
use crate::support::worker::Worker;

const ENTITIES: usize = 50;

/// Requests that a worker makes to a webhook at once, by default.
const AT_ONCE: u32 = 16;

/// The size of a burst, and what its receiver takes for an answer.
#[derive(Clone, Copy)]
struct Burst {
    events: usize,
    answer: Duration,
}

impl Burst {
    /// The full one goes to a receiver of 64 a second, the other to one of `AT_ONCE` in `answer`.
    fn of(events: usize, answer: Duration) -> Self {
        if is_full() { Self { events: 5_000, answer: Duration::from_millis(250) } } else { Self { events, answer } }
    }

    fn receiver(self) -> Receiver {
        Receiver::start(move |_| Answer::ok().after(self.answer))
    }

    /// The time that the receiver itself takes for all of it.
    fn own_pace(self) -> Duration {
        own_pace(self.events, self.answer)
    }
}

fn is_full() -> bool {
    std::env::var_os("HOOKSTREAM_TEST_FULL").is_some()
}

/// The time that a receiver takes for `events` when it has as many as a worker sends at once.
fn own_pace(events: usize, answer: Duration) -> Duration {
    answer.mul_f64(events as f64 / f64::from(AT_ONCE))
}

/// What a webhook's events may take from when they were sent, in spite of its neighbours. The promise is a second; the usual size runs beside other
/// tests, and a webhook that has to wait for a neighbour waits much longer.
fn unnoticed() -> Duration {
    Duration::from_secs(if is_full() { 1 } else { 3 })
}

/// Passes records on at `rate` a second. Blocks its thread meanwhile.
fn paced(rate: f64, records: impl IntoIterator<Item = Record>) -> impl Iterator<Item = Record> {
    let began = Instant::now();
    records.into_iter().enumerate().map(move |(number, record)| {
        let due = Duration::from_secs_f64(number as f64 / rate);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        record
    })
}

/// The 99th percentile from when each event was `sent` to its request. Those of the first two seconds, in which producer and connections begin, do
/// not count.
fn p99_since(sent: &[std::time::Instant], rate: f64, requests: impl IntoIterator<Item = Recorded>) -> Duration {
    let counts = |number: usize| number as f64 >= 2.0 * rate;
    let mut latencies: Vec<Duration> = requests
        .into_iter()
        .filter(|request| counts(event_number(request)))
        .map(|request| request.arrived.saturating_duration_since(sent[event_number(&request)]))
        .collect();
    latencies.sort();
    latencies[latencies.len() * 99 / 100]
}

/// Events about a few entities that all come again and again.
fn of_few_entities(prefix: &str, count: usize) -> Vec<Record> {
    (0..count).map(|number| event(&format!("{prefix}-{number}"), &format!("c-{}", number % ENTITIES))).collect()
}

/// An integration that wants events about one kind of entity only.
fn about(entity: &str, id: &str, base: &str) -> Value {
    let mut value = integration(id, base);
    value["webHooks"][0]["filter"]["items"] = serde_json::json!([{ "entityType": entity }]);
    value
}

fn contact(number: usize) -> Record {
    let value = serde_json::json!({ "id": format!("contact-{number}"), "type": "change",
        "entityIds": { "contactId": format!("k-{number}") }, "changeData": { "type": "patch" } });
    crate::stage::record(&format!("k-{number}"), value.to_string())
}

/// Whether the first requests about each entity came in event order.
#[track_caller]
fn assert_in_order(requests: &[Recorded]) {
    let mut of_entity: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    for request in requests {
        let number = event_number(request);
        if seen.insert(number) {
            let entity = request.json()["entityIds"]["companyId"].as_str().unwrap().to_owned();
            of_entity.entry(entity).or_default().push(number);
        }
    }
    for (entity, numbers) in of_entity {
        assert!(numbers.is_sorted(), "{entity}: {numbers:?}");
    }
}

/// Waits until no webhook is behind, by the worker and by the backlog topic.
async fn level(stage: &Stage, worker: &Worker) {
    wait_until("all webhooks to be level", LONG, async || {
        let behind = worker.metric("hookstream_webhooks_behind", &[]).await;
        let kept = stage.places().len();
        if behind < 0.5 && kept == 0 { Ok(()) } else { Err((behind, kept)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_requested_in_order_at_the_receivers_pace_and_delays_no_other_webhook() {
    /// Events a second for the other webhook.
    const OTHERS: f64 = 25.0;
    let burst = Burst::of(1_500, Duration::from_millis(160));
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "burst-in-order", "3s,3s,3s,3s", 3).await;
    let receiver = burst.receiver();
    let other = Receiver::start(|_| Answer::ok());
    stage.put([&about("company", "burst", &receiver.url("")), &about("contact", "other", &other.url(""))]);
    let worker = stage.worker(&[]).await;
    let (load, began) = (Load::watch(), Instant::now());
    stage.send(of_few_entities("e", burst.events));
    // The other one gets its events for as long as the burst lasts.
    let mut sent = Vec::new();
    let count = (0_usize..).take_while(|number| *number as f64 / OTHERS < burst.own_pace().as_secs_f64());
    let contacts = paced(OTHERS, count.map(contact)).inspect(|_| sent.push(std::time::Instant::now()));
    tokio::task::block_in_place(|| stage.send(contacts));
    receiver.wait_for(burst.events, LONG).await;
    let took = began.elapsed();
    // As the receiver measured it: on a busy machine an answer takes longer than its script says.
    let own_pace = receiver.busy() / AT_ONCE;
    other.wait_for(sent.len(), LONG).await;
    level(&stage, &worker).await;
    stage.settled(LONG).await;
    let latency = p99_since(&sent, OTHERS, other.recorded());
    println!(
        "{} events in {took:?}, of which {own_pace:?} are the receiver's own pace; p99 of {} events for the other webhook: {latency:?}",
        burst.events,
        sent.len()
    );
    assert_in_order(&receiver.recorded());
    assert_eq!(receiver.count(), burst.events, "each once");
    assert!(receiver.recorded().iter().all(|request| request.attempt() == 1));
    assert_eq!((stage.tier("3s").len(), stage.dead().len()), (0, 0));
    load.assert_within("a burst, by the receiver's own pace", took, own_pace.mul_f64(1.3));
    load.assert_within("p99 of the other webhook", latency, unnoticed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_delivered_up_to_repeats_after_a_kill() {
    let burst = Burst::of(1_000, Duration::from_millis(100));
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "burst-killed", "3s", 3).await;
    let receiver = burst.receiver();
    stage.put([&integration("i", &receiver.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send(of_few_entities("e", burst.events));
    receiver.wait_for(burst.events / 3, LONG).await;
    worker.sigkill();
    let worker = stage.worker(&[]).await;
    let all = || receiver.recorded().iter().map(event_number).collect::<BTreeSet<_>>().len();
    wait_until("every event to be requested", LONG, async || if all() == burst.events { Ok(()) } else { Err(all()) })
        .await;
    level(&stage, &worker).await;
    stage.settled(LONG).await;
    println!("{} requests of {} events", receiver.count(), burst.events);
    assert_in_order(&receiver.recorded());
    assert_eq!((stage.tier("3s").len(), stage.dead().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_delivered_without_a_repeat_while_one_worker_joins_and_another_stops() {
    let burst = Burst::of(1_500, Duration::from_millis(100));
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "burst-moved", "3s", 4).await;
    let receiver = burst.receiver();
    stage.put([&integration("i", &receiver.url(""))]);
    let mut first = stage.worker(&[]).await;
    stage.send(of_few_entities("e", burst.events));
    receiver.wait_for(burst.events / 5, LONG).await;
    let second = stage.worker(&[]).await;
    receiver.wait_for(burst.events / 2, LONG).await;
    first.stop();
    let all = || receiver.recorded().iter().map(event_number).collect::<BTreeSet<_>>().len();
    wait_until("every event to be requested", LONG, async || if all() == burst.events { Ok(()) } else { Err(all()) })
        .await;
    level(&stage, &second).await;
    stage.settled(LONG).await;
    assert_in_order(&receiver.recorded());
    assert_eq!(receiver.count(), burst.events, "nothing is repeated");
    assert_eq!((stage.tier("3s").len(), stage.dead().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failing_webhooks_do_not_delay_another_of_their_host() {
    const EVENTS: usize = 600;
    /// Events a second.
    const RATE: f64 = 100.0;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "one-host-three-fail", "1h", 2).await;
    let receiver = Receiver::start(|request| match request.path.as_str() {
        "/gone/hook" => Answer::status(410),
        "/mute/hook" => Answer::echo(crate::support::receiver::Echo::Missing),
        "/broken/hook" => Answer::status(500),
        _ => Answer::ok(),
    });
    let names = ["gone", "mute", "broken", "good"];
    let integrations = names.map(|name| integration(name, &receiver.url(&format!("/{name}"))));
    stage.put(&integrations);
    let worker = stage.worker(&[]).await;
    let (load, mut sent) = (Load::watch(), Vec::new());
    let records = paced(RATE, events("e", EVENTS)).inspect(|_| sent.push(std::time::Instant::now()));
    tokio::task::block_in_place(|| stage.send(records));
    let good = || receiver.recorded().into_iter().filter(|request| request.path == "/good/hook");
    wait_until("the good one to have all", LONG, async || {
        let count = good().count();
        if count >= EVENTS { Ok(()) } else { Err(count) }
    })
    .await;
    let latency = p99_since(&sent, RATE, good());
    println!("p99 of the good one: {latency:?}");
    load.assert_within("p99 of the good one", latency, unnoticed());
    assert!(good().all(|request| request.attempt() == 1));
    assert!(stage.tier("1h").iter().all(|retry| retry.header("hookstream-integration-id") != Some("good")));
    worker.metric_is("hookstream_webhooks_behind", &[("reason", "circuit-open")], |behind| behind > 2.5).await;
    worker.metric_is("hookstream_webhook_circuits_open", &[], |open| open > 2.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_comes_back_gets_what_it_missed_in_order_within_seconds() {
    /// Events a second while it is away, at the full size.
    const RATE: f64 = 200.0;
    const ANSWER: Duration = Duration::from_millis(20);
    // Ten minutes of them, or as many as a test has time for, all at once.
    let missed = if is_full() { 120_000 } else { 2_000 };
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "comes-back", "1h", 3).await;
    let ledger = Ledger::default();
    let receiver = Receiver::start(|_| Answer::status(503));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let events = of_few_entities("e", missed);
    let away = Instant::now();
    tokio::task::block_in_place(|| if is_full() { stage.send(paced(RATE, events)) } else { stage.send(events) });
    wait_until("the webhook to be behind", LONG, async || {
        let behind = worker.metric("hookstream_webhooks_behind", &[("reason", "circuit-open")]).await;
        if behind > 0.5 { Ok(()) } else { Err(behind) }
    })
    .await;
    stage.read_through(LONG).await;
    let (failed, away) = (receiver.count(), away.elapsed());
    let noted = ledger.clone();
    receiver.answer_with(move |request| noted.note("w-i", request, Answer::ok().after(ANSWER)));
    let (load, back, busy) = (Load::watch(), Instant::now(), receiver.busy());
    wait_until("all but what failed to be acknowledged", LONG + 2 * own_pace(missed, ANSWER), async || {
        let waiting = stage.tier("1h").len();
        let all = ledger.acknowledged() + waiting;
        if all >= missed { Ok(()) } else { Err((ledger.acknowledged(), waiting)) }
    })
    .await;
    let took = back.elapsed();
    let own_pace = receiver.busy().saturating_sub(busy) / AT_ONCE;
    println!(
        "{failed} failed in {away:?}; {} came after {took:?}, of which {own_pace:?} are the receiver's own pace",
        ledger.acknowledged(),
    );
    load.assert_within("what the receiver missed", took, Duration::from_secs(20) + own_pace);
    level(&stage, &worker).await;
    assert_in_order(&receiver.recorded());
    // Those that were under way when its circuit opened, and probes, at most one a second at first and then one in ten.
    assert!((failed as f64) < 60.0 + away.as_secs_f64() / 10.0, "{failed} requests while it was away");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_webhooks_that_are_back_at_once_are_caught_up_in_one_pass_of_each_partition() {
    const WEBHOOKS: u16 = 1_000;
    const EVENTS: u16 = 60;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "one-pass", "1h", 12).await;
    let receiver = Receiver::forgetful(|_| Answer::misbehave(Misbehaviour::Close));
    let mut value = integration("i", &receiver.url(""));
    let webhook = value["webHooks"][0].clone();
    value["webHooks"] = (0..WEBHOOKS)
        .map(|number| {
            let mut webhook = webhook.clone();
            webhook["id"] = json!(format!("w-{number}"));
            webhook
        })
        .collect();
    stage.put([&value]);
    let worker = stage.worker(&[]).await;
    // The host's circuit opens at the first of them.
    stage.send(of_few_entities("before", 12));
    let behind = async || worker.metric("hookstream_webhooks_behind", &[("reason", "circuit-open")]).await;
    wait_until("webhooks to be behind", LONG, async || match behind().await {
        none if none < 0.5 => Err(none),
        _ => Ok(()),
    })
    .await;
    stage.send(of_few_entities("e", usize::from(EVENTS)));
    wait_until("all webhooks to be behind", LONG, async || match behind().await {
        all if all > f64::from(WEBHOOKS) - 0.5 => Ok(()),
        some => Err(some),
    })
    .await;
    stage.read_through(LONG).await;
    let read = async || worker.metric("hookstream_backlog_records_read_total", &[]).await;
    let before = read().await;
    let back = Instant::now();
    receiver.answer_with(|_| Answer::ok());
    level(&stage, &worker).await;
    let again = read().await - before;
    println!("{again} records read for {WEBHOOKS} webhooks that missed {EVENTS}, in {:?}", back.elapsed());
    assert!(again <= 2.0 * f64::from(EVENTS + 12), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_very_many_events_does_not_make_ten_others_wait() {
    const MANY: usize = 16_000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "fair", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    let others = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    stage.put([&about("company", "busy", &receiver.url(""))]);
    let ten: Vec<_> =
        (0..10).map(|number| about("contact", &format!("o{number}"), &others.url(&format!("/{number}")))).collect();
    stage.put(&ten);
    stage.send(events("e", MANY));
    stage.send((0..160).map(contact));
    let worker = stage.worker(&[]).await;
    let began = Instant::now();
    others.wait_for(1_600, LONG).await;
    let (took, of_busy) = (began.elapsed(), receiver.count());
    println!("the ten others were through after {took:?}, the busy one had {of_busy} of {MANY}");
    // How fast the main reader is beyond the busy one's events depends on the build, so where the busy one is then says more.
    assert!(of_busy < MANY / 4, "{of_busy}");
    assert!(!is_full() || took < Duration::from_secs(2), "{took:?}");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_deletes_in_the_middle_of_a_pass_are_counted_exactly_and_logged() {
    const EVENTS: usize = 4_000;
    const KEPT_FROM: i64 = 3_800;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "expired-in-a-pass", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(10)));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&["--max-in-flight-per-webhook", "4"]).await;
    // A kibibyte each: what the lane takes and the client fetches in advance ends before the cut.
    let big = |mut event: Record| {
        event.value.iter_mut().for_each(|value| value.resize(1024, b' '));
        event
    };
    stage.send(events("e", EVENTS).map(big));
    stage.read_through(LONG).await;
    let before = receiver.count();
    receiver.wait_for(before + 200, LONG).await;
    let mut kept = TopicPartitionList::new();
    kept.add_partition_offset(&stage.names.events(), 0, Offset::Offset(KEPT_FROM)).unwrap();
    admin(cluster.brokers()).delete_records(&kept, &AdminOptions::new()).await.unwrap();
    level(&stage, &worker).await;
    stage.settled(LONG).await;
    let requested: BTreeSet<usize> = receiver.recorded().iter().map(event_number).collect();
    let expired = worker.metric("hookstream_dropped_total", &[("reason", "expired")]).await;
    println!("{} of {EVENTS} requested, {expired} expired", requested.len());
    assert!(requested.len() < EVENTS, "retention was too late");
    assert_eq!(expired.to_string(), (EVENTS - requested.len()).to_string());
    let said = worker.lines().find(LONG, |line| line.contains("retention deleted events").then(|| line.to_owned()));
    let said: Value = serde_json::from_str(&said.expect("a line about it")).unwrap();
    assert_eq!((&said["webhook"], &said["to"]), (&json!("w-i"), &json!(KEPT_FROM)));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_deletes_before_a_webhook_got_them_are_counted_and_logged() {
    const EVENTS: usize = 400;
    const KEPT_FROM: i64 = 300;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "expired", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    stage.put([&integration("i", &receiver.url(""))]);
    let mut first = stage.worker(&[]).await;
    stage.send(of_few_entities("e", EVENTS));
    // Its circuit opens, it falls behind, and the group's commits go on.
    stage.read_through(LONG).await;
    first.stop();
    let mut kept = TopicPartitionList::new();
    kept.add_partition_offset(&stage.names.events(), 0, Offset::Offset(KEPT_FROM)).unwrap();
    admin(cluster.brokers()).delete_records(&kept, &AdminOptions::new()).await.unwrap();
    receiver.answer_with(|_| Answer::ok());
    let second = stage.worker(&[]).await;
    level(&stage, &second).await;
    let requested: BTreeSet<usize> = receiver.recorded().iter().map(event_number).collect();
    let expired = second.metric("hookstream_dropped_total", &[("reason", "expired")]).await;
    println!("{} of {EVENTS} requested, {expired} expired", requested.len());
    let kept_from = usize::try_from(KEPT_FROM).unwrap();
    assert!((kept_from..EVENTS).all(|number| requested.contains(&number)), "what is left is given");
    let expired: usize = expired.to_string().parse().unwrap();
    assert!((EVENTS - requested.len()..=kept_from).contains(&expired), "{expired}");
    let said = second.lines().find(LONG, |line| line.contains("retention deleted events").then(|| line.to_owned()));
    let said = said.expect("a line about it");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["level"], &said["integration"], &said["to"]),
        (&json!("ERROR"), &json!("ws/i"), &json!(KEPT_FROM))
    );
}
