//! How much moving partitions delays events: workers are restarted one by one, added and taken away under a steady load.
//!
//! An event carries the time at which it was written; its delay is what passes until the receiver has the request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::stage::{LONG, Stage, events, integration, record};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::process::Signal;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, group_state, produce};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::Worker;

/// Events a second.
const RATE: u32 = 200;
/// The partitions of the events topic.
pub(crate) const PARTITIONS: u16 = 12;
/// The longest delay of any event while workers come and go.
const DELAY_MAX: Duration = Duration::from_secs(2);

/// ms since 1970.
pub(crate) fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since_1970.as_millis()).unwrap()
}

/// Writes events at a steady rate to all partitions in turn, until it is stopped.
pub(crate) struct Events {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Events {
    /// Every event is about a `company`; one in `contact_every`, if any, is about a `contact` instead.
    pub(crate) fn start(cluster: &Cluster, stage: &Stage, contact_every: Option<usize>) -> Self {
        let (brokers, topic) = (cluster.brokers().to_owned(), stage.names.events());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (began, mut written) = (Instant::now(), 0);
            let events = std::iter::from_fn(|| {
                let next = began + u32::try_from(written).unwrap() * Duration::from_secs(1) / RATE;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let number = written;
                let event = (!stopped.load(Ordering::Relaxed)).then(|| timed_event(number, contact_every))?;
                written += 1;
                Some(event)
            });
            produce(&brokers, &topic, events);
            written
        });
        Self { stop, thread }
    }

    /// How many it has written.
    pub(crate) fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn timed_event(number: usize, contact_every: Option<usize>) -> Record {
    let is_contact = contact_every.is_some_and(|every| number.is_multiple_of(every));
    let entity = if is_contact { "contactId" } else { "companyId" };
    let partition = number % usize::from(PARTITIONS);
    let value = json!({ "id": format!("e-{number}"), "type": "change", "writtenMs": now_ms(), "partition": partition,
        "number": number, "entityIds": { entity: format!("c-{number}") },
        "changeData": { "type": "patch", "old": {}, "new": {} } });
    record(&format!("{number}"), value.to_string()).in_partition(i32::try_from(partition).unwrap())
}

/// The requests that receivers got during a load.
#[derive(Debug)]
struct Seen {
    delivered: usize,
    repeated: usize,
    /// The longest delay by partition, in ms.
    longest: BTreeMap<i64, i64>,
}

fn seen(receiver: &Receiver) -> Seen {
    let mut requests: HashMap<String, usize> = HashMap::new();
    let mut longest: BTreeMap<i64, i64> = BTreeMap::new();
    for request in receiver.recorded() {
        *requests.entry(request.delivery_id().to_owned()).or_default() += 1;
        let event = request.json();
        // The first events wait for the producer, which takes half a second to start: no worker delays them.
        if event["number"].as_u64().unwrap() < u64::from(RATE) {
            continue;
        }
        let delay = request.arrived_ms - event["writtenMs"].as_i64().unwrap();
        let of_partition = longest.entry(event["partition"].as_i64().unwrap()).or_default();
        *of_partition = delay.max(*of_partition);
    }
    Seen { delivered: requests.len(), repeated: requests.values().map(|count| count - 1).sum(), longest }
}

impl Seen {
    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.values().max().copied().unwrap_or_default().unsigned_abs())
    }
}

/// Waits until the receiver got `more` requests: a step of a rollout comes when the last one has settled.
pub(crate) async fn go_on(receiver: &Receiver, more: usize) {
    receiver.wait_for(receiver.count() + more, PATIENCE).await;
}

/// Waits until `workers` hold all partitions between them, each its share.
async fn balanced(workers: &[Worker]) {
    let share = usize::from(PARTITIONS) / workers.len();
    wait_until("each worker to hold its share", PATIENCE, async || {
        let mut held = Vec::new();
        for worker in workers {
            held.push(worker.metrics().await.matches("hookstream_consumer_lag{").count());
        }
        if held.iter().all(|held| *held == share) { Ok(()) } else { Err(held) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_one_by_one_and_scaling_delay_no_event_for_long_and_repeat_none() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "rollout", "1h", PARTITIONS).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    stage.put([&integration("i", &receiver.url(""))]);
    let mut workers = vec![stage.worker(&[]).await, stage.worker(&[]).await];
    balanced(&workers).await;
    let load = Load::watch();
    let events = Events::start(&cluster, &stage, None);
    go_on(&receiver, 400).await;
    let second = usize::try_from(RATE).unwrap();
    for _ in 0..2 {
        let mut old = workers.remove(0);
        old.stop();
        workers.push(stage.worker(&[]).await);
        go_on(&receiver, second).await;
    }
    let restarted = seen(&receiver).longest();
    for _ in 0..2 {
        workers.push(stage.worker(&[]).await);
    }
    balanced(&workers).await;
    go_on(&receiver, second).await;
    for mut leaving in workers.drain(1..) {
        leaving.stop();
        go_on(&receiver, second).await;
    }
    let written = events.finish();
    stage.settled(LONG).await;
    let seen = seen(&receiver);
    println!(
        "{written} events; longest delay in restarts {restarted:?}, scaling 2-4-1 included {:?}; {seen:?}",
        seen.longest()
    );
    assert_eq!((seen.delivered, seen.repeated), (written, 0), "nothing lost, nothing repeated");
    load.assert_within("the longest delay", seen.longest(), DELAY_MAX);
}

/// When the worker last logged `message` about its group of events.
fn last_said(worker: &Worker, message: &str) -> jiff::Timestamp {
    let lines = worker.lines().all();
    let said = lines.iter().rev().find(|line| line.contains(message) && line.contains("\"group_member\":\"events\""));
    let line: serde_json::Value = serde_json::from_str(said.expect("the worker said it")).unwrap();
    line["timestamp"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_move_do_not_wait_for_the_second_between_two_joins_of_the_client() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "rounds", "1h", PARTITIONS).await;
    // A member hears of a rebalance with its next heartbeat: what is left of the wait is the client's.
    let often = ["--kafka-property", "heartbeat.interval.ms=50"];
    let mut stays = stage.worker(&often).await;
    let mut moves = Vec::new();
    // On a busy machine one of them may take long for other reasons.
    for _ in 0..4 {
        let load = Load::watch();
        let comes = stage.worker(&often).await;
        let between = last_said(&stays, "partitions revoked").duration_until(last_said(&comes, "partitions assigned"));
        moves.push(between.as_secs_f64() / load.stretch());
        let mut workers = [stays, comes];
        balanced(&workers).await;
        workers[1].stop();
        let [left, _] = workers;
        stays = left;
        balanced(std::slice::from_ref(&stays)).await;
    }
    println!("seconds from revocation to assignment, by the load of the machine: {moves:?}");
    let shortest = moves.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(shortest < 0.35, "seconds from revocation to assignment: {moves:?}");
}

/// An integration that wants events about one kind of entity only.
fn of_type(id: &str, url: &str, entity: &str) -> serde_json::Value {
    let mut integration = integration(id, url);
    integration["webHooks"][0]["filter"] = json!({ "items": [{ "entityType": entity }] });
    integration
}

/// A receiver that takes 20 ms, and a receiver for another kind of entity that takes the given number of seconds.
async fn beside_a_slow_one(cluster: &Cluster, name: &str, seconds: u64) -> (Stage, Receiver, Receiver) {
    let stage = Stage::on(cluster, name, "1h", PARTITIONS).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    let slow = Receiver::start(move |_| Answer::ok().after(Duration::from_secs(seconds)));
    stage.put([&of_type("good", &receiver.url(""), "company"), &of_type("slow", &slow.url(""), "contact")]);
    (stage, receiver, slow)
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_while_a_receiver_takes_eight_seconds_delay_no_other_webhook_and_repeat_nothing() {
    let cluster = Cluster::shared().await;
    let (stage, receiver, slow) = beside_a_slow_one(&cluster, "rollout-held", 8).await;
    let mut workers = vec![stage.worker(&[]).await, stage.worker(&[]).await];
    balanced(&workers).await;
    // One in 101: each partition gets one in turn.
    let load = Load::watch();
    let events = Events::start(&cluster, &stage, Some(101));
    slow.wait_for(8, PATIENCE).await;
    let second = usize::try_from(RATE).unwrap();
    for _ in 0..2 {
        let mut old = workers.remove(0);
        old.stop();
        workers.push(stage.worker(&[]).await);
        go_on(&receiver, second).await;
    }
    let written = events.finish();
    stage.settled(LONG).await;
    let (good, slow) = (seen(&receiver), seen(&slow));
    println!("{written} events; a receiver of 8 s got {}; {good:?}", slow.delivered);
    assert_eq!((good.delivered + slow.delivered, good.repeated, slow.repeated), (written, 0, 0));
    load.assert_within("the longest delay", good.longest(), DELAY_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_stay_are_read_on_while_others_wait_for_a_slow_receiver() {
    let cluster = Cluster::shared().await;
    let (stage, receiver, slow) = beside_a_slow_one(&cluster, "rollout-slow", 6).await;
    let first = stage.worker(&[]).await;
    // One in 101: each partition gets one in turn, and what is under way at once fits into the slow receiver's share.
    let load = Load::watch();
    let events = Events::start(&cluster, &stage, Some(101));
    slow.wait_for(8, PATIENCE).await;
    let second = stage.worker(&[]).await;
    let workers = [first, second];
    balanced(&workers).await;
    let written = events.finish();
    stage.settled(LONG).await;
    let (good, slow) = (seen(&receiver), seen(&slow));
    println!("{written} events; {good:?}");
    assert_eq!((good.delivered + slow.delivered, good.repeated + slow.repeated), (written, 0));
    let mut delays: Vec<_> = good.longest.values().map(|delay| Duration::from_millis(delay.unsigned_abs())).collect();
    delays.sort();
    let stayed = delays[usize::from(PARTITIONS) / 2 - 1];
    load.assert_within("the longest delay of the half that stayed", stayed, Duration::from_millis(1_500));
    load.assert_within("the longest delay of those that moved", good.longest(), DELAY_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_only_worker_while_a_receiver_takes_long_repeats_nothing_and_leaves_no_hold() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "stop-held", "1h", 1).await;
    let slow = Receiver::start(|_| Answer::ok().after(Duration::from_secs(4)));
    stage.put([&integration("slow", &slow.url(""))]);
    let mut first = stage.worker(&[]).await;
    stage.send(events("e", 8));
    slow.wait_for(8, PATIENCE).await;
    first.stop();
    let left = stage.places();
    assert!(left.iter().all(|place| !place.contains("holdMs")), "{left:?}");
    let second = stage.worker(&[]).await;
    stage.send(events("later", 1));
    slow.wait_for(9, PATIENCE).await;
    stage.settled(LONG).await;
    wait_until("the last place to go", PATIENCE, async || match stage.places() {
        places if places.is_empty() => Ok(()),
        places => Err(places),
    })
    .await;
    assert_eq!(slow.count(), 9, "nothing is repeated");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_a_worker_that_is_killed_while_it_stops_runs_out() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "killed-held", "1h", 1).await;
    let slow = Receiver::start(|_| Answer::ok().after(Duration::from_secs(60)));
    stage.put([&integration("slow", &slow.url(""))]);
    let limits = ["--request-timeout", "5s", "--drain-timeout", "6s"];
    let mut first = stage.worker(&limits).await;
    stage.send(events("e", 8));
    slow.wait_for(8, PATIENCE).await;
    first.sigterm();
    wait_until("the place to be held", PATIENCE, async || match stage.places() {
        places if places.iter().any(|place| place.contains("\"holdMs\":6000")) => Ok(()),
        places => Err(places),
    })
    .await;
    first.sigkill();
    slow.answer_with(|_| Answer::ok());
    let second = stage.worker(&limits).await;
    slow.wait_for(16, LONG).await;
    stage.settled(LONG).await;
    assert_eq!(seen_ids(&slow), 8, "each is given again under its id");
    drop(second);
}

fn seen_ids(receiver: &Receiver) -> usize {
    receiver.recorded().iter().map(|request| request.delivery_id().to_owned()).collect::<BTreeSet<_>>().len()
}

/// The metric that counts assignments of partitions.
const ASSIGNED: (&str, &[(&str, &str)]) = ("hookstream_rebalances_total", &[("kind", "assigned")]);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_only_when_its_groups_have_given_it_its_part() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "ready", "1h", PARTITIONS).await;
    let mut frozen = stage.worker(&[]).await;
    // Its groups wait for it until its session has timed out.
    frozen.signal(Signal::Stop);
    let second = stage.spawn(&[]).await;
    wait_until("the second worker to be ready", PATIENCE, async || match second.get("/readyz").await {
        Ok((200, _)) => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(second.metric(ASSIGNED.0, ASSIGNED.1).await >= 2.0, "it holds partitions of events and of retries");
    frozen.signal(Signal::Continue);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gets_no_partition_is_ready_too() {
    let cluster = Cluster::shared().await;
    for protocol in ["classic", "consumer"] {
        let stage = Stage::on(&cluster, "spare", "1h", 1).await;
        let property = format!("group.protocol={protocol}");
        let options = ["--kafka-property", property.as_str()];
        let first = stage.worker(&options).await;
        let second = stage.worker(&options).await;
        drop((first, second));
    }
}

/// The settings of a worker whose group would wait for it longer than any test if it left without a request.
const LONG_SESSION: [&str; 2] = ["--kafka-property", "session.timeout.ms=300000"];

/// Waits until the group has this number of members and is in this state.
async fn group_is(cluster: &Cluster, stage: &Stage, wanted: (&str, usize)) {
    wait_until(&format!("the group to be {wanted:?}"), PATIENCE, async || {
        let found = group_state(cluster.brokers(), &stage.names.group());
        if (found.0.as_str(), found.1) == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_while_it_joins_leaves_its_group() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "leaves-early", "1h", PARTITIONS).await;
    let mut stays = stage.worker(&LONG_SESSION).await;
    // The rebalance waits for it, so the other is joining for as long as the test wants.
    stays.signal(Signal::Stop);
    let mut leaves = stage.spawn(&LONG_SESSION).await;
    group_is(&cluster, &stage, ("PreparingRebalance", 2)).await;
    leaves.stop();
    stays.signal(Signal::Continue);
    group_is(&cluster, &stage, ("Stable", 1)).await;
    drop(stays);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_held_nothing_leaves_its_group_when_it_stops() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "leaves-spare", "1h", 1).await;
    let stays = stage.worker(&[]).await;
    let mut leaves = stage.worker(&LONG_SESSION).await;
    group_is(&cluster, &stage, ("Stable", 2)).await;
    leaves.stop();
    group_is(&cluster, &stage, ("Stable", 1)).await;
    drop(stays);
}
