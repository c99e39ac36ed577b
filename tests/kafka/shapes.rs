//! Topics that change their shape, and transactions that stay open, under running processes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;
use tokio::time::Instant;

use crate::stage::{Stage, WORKSPACE, event, event_id, integration, key_of};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, Transaction, add_partitions, commit, recreate};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::Worker;

fn put_in(stage: &Stage, partition: i32, integration: &Value) {
    stage.put_records([Record::new(key_of(integration), integration.to_string()).in_partition(partition)]);
}

/// The paths at which an event arrived.
fn paths(receiver: &Receiver, id: &str) -> BTreeSet<String> {
    receiver.recorded().into_iter().filter(|request| event_id(request) == id).map(|request| request.path).collect()
}

fn set<const N: usize>(paths: [&str; N]) -> BTreeSet<String> {
    paths.map(str::to_owned).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_before_a_transaction_in_its_table_has_ended() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "open-table", "1h", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let (held, behind) = (integration("held", &receiver.url("/held")), integration("behind", &receiver.url("/behind")));
    let transaction = Transaction::begin(cluster.brokers());
    transaction.write(&stage.names.integrations(), 1, &key_of(&held), &held.to_string());
    put_in(&stage, 1, &behind);
    stage.send([event("e", "c")]);
    let worker = stage.spawn(&[]).await;
    worker.logged(&["an open transaction holds up", "\"partition\":1"]).await;
    let topic = stage.names.integrations();
    let held_up = [("topic", topic.as_str()), ("partition", "1")];
    worker.metric_is("hookstream_open_transaction_seconds", &held_up, |seconds| seconds > 1.0).await;
    assert_ne!(worker.get("/readyz").await.unwrap().0, 200);
    assert_eq!(receiver.count(), 0, "no event is read before the table is");
    transaction.commit();
    worker.ready().await;
    stage.settled(PATIENCE).await;
    assert_eq!(paths(&receiver, "e"), set(["/held/hook", "/behind/hook"]));
    worker.metric_is("hookstream_open_transaction_seconds", &held_up, |seconds| seconds < 1e-9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_to_the_table_are_read_and_the_newer_record_of_a_key_counts() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "wider-table", "1h", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let [moved, removed, stays] =
        ["moved", "removed", "stays"].map(|id| integration(id, &receiver.url(&format!("/{id}"))));
    for integration in [&moved, &removed, &stays] {
        put_in(&stage, 1, integration);
    }
    let mut running = stage.worker(&[]).await;
    add_partitions(cluster.brokers(), &stage.names.integrations(), 6).await;
    put_in(&stage, 5, &integration("moved", &receiver.url("/moved-to")));
    put_in(&stage, 4, &integration("added", &receiver.url("/added")));
    stage.put_records([Record::tombstone(key_of(&removed)).in_partition(3)]);
    stage.knows(&running, "hookstream_integration_records_total", &[("outcome", "removed")], 1.0).await;
    stage.knows(&running, "hookstream_integration_records_total", &[("outcome", "used")], 5.0).await;
    let expected = set(["/moved-to/hook", "/added/hook", "/stays/hook"]);
    stage.send([event("running", "c")]);
    stage.settled(PATIENCE).await;
    assert_eq!(paths(&receiver, "running"), expected);
    let added = "partitions were added to a table";
    running.logged(&[added]).await;
    assert_eq!(running.lines().all().iter().filter(|line| line.contains(added)).count(), 1, "logged once");
    let plan = crate::topics::run("plan", cluster.brokers(), &stage.names, &["--topic-partitions", "2"]).1;
    let note = "was widened to 6 partitions: 2 of the 4 keys read have records in two partitions";
    assert!(plan.contains(note), "{plan}");
    running.stop();
    let _next = stage.worker(&[]).await;
    stage.send([event("restarted", "c")]);
    stage.settled(PATIENCE).await;
    assert_eq!(paths(&receiver, "restarted"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_holds_the_records_of_its_recreated_topic() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "table-recreated", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let [kept, gone] = ["kept", "gone"].map(|id| integration(id, &receiver.url(&format!("/{id}"))));
    stage.put([&kept, &gone]);
    let worker = stage.worker(&[]).await;
    stage.send([event("before", "c")]);
    stage.settled(PATIENCE).await;
    assert_eq!(paths(&receiver, "before"), set(["/kept/hook", "/gone/hook"]));
    recreate(cluster.brokers(), &stage.names.integrations(), 1, &[("cleanup.policy", "compact")]).await;
    // Longer than the topic before: the client alone goes on behind its first records.
    stage.put([&integration("first", &receiver.url("/first")), &kept, &kept, &kept, &kept]);
    stage.knows(&worker, "hookstream_integrations", &[("status", "active")], 2.0).await;
    worker.logged(&["the integrations topic is read again"]).await;
    stage.send([event("after", "c")]);
    stage.settled(PATIENCE).await;
    assert_eq!(paths(&receiver, "after"), set(["/kept/hook", "/first/hook"]));
}

/// An event with this number, in partition 0.
fn numbered(number: usize) -> Record {
    let mut record = event(&format!("e-{number}"), &format!("c-{number}"));
    record.partition = Some(0);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_events_topic_is_read_from_its_start_despite_old_commits() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "events-recreated", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send((0..50).map(numbered));
    stage.settled(PATIENCE).await;
    // The watch has to have seen the first log with its records.
    watched(&stage, &cluster, &worker).await;
    recreate(cluster.brokers(), &stage.names.events(), 1, &[]).await;
    // Longer than the log before.
    stage.send((100..300).map(numbered));
    wait_until("every event of the new topic", PATIENCE, async || {
        let arrived: BTreeSet<_> = receiver.recorded().iter().map(|request| event_id(request).clone()).collect();
        let missing: Vec<_> = (100..300).filter(|number| !arrived.contains(&format!("e-{number}"))).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    stage.knows(&worker, "hookstream_logs_changed_total", &[("kind", "anew")], 1.0).await;
    worker.logged(&["is not the one that was read"]).await;
    stage.settled(PATIENCE).await;
    worker.sigkill();
    let arrived = receiver.count();
    let _next = stage.worker(&[]).await;
    stage.send([numbered(300)]);
    receiver.wait_for(arrived + 1, PATIENCE).await;
    stage.settled(PATIENCE).await;
    assert_eq!(receiver.count(), arrived + 1, "the new topic's events are committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_an_offset_beyond_the_end_continues_at_the_end_and_repeats_nothing() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "truncated", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    stage.send((0..20).map(numbered));
    commit(cluster.brokers(), &stage.names.group(), &stage.names.events(), 0, 1_000);
    let worker = stage.worker(&[]).await;
    worker.logged(&["\"committed\":1000", "\"end\":20"]).await;
    stage.send([numbered(20)]);
    receiver.wait_for(1, PATIENCE).await;
    stage.settled(PATIENCE).await;
    assert_eq!(receiver.count(), 1, "what was delivered before is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_counts_records_behind_an_open_transaction_and_no_markers() {
    const WAITING: usize = 50;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "lag", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let topic = stage.names.events();
    let value = String::from_utf8(event("e", "c").value.unwrap()).unwrap();
    let transaction = Transaction::begin(cluster.brokers());
    transaction.write(&topic, 0, WORKSPACE, &value);
    stage.send((0..WAITING).map(numbered));
    let labels = [("topic", topic.as_str()), ("partition", "0")];
    let waiting = f64::from(u32::try_from(WAITING + 1).unwrap());
    stage.knows(&worker, "hookstream_consumer_lag", &labels, waiting).await;
    worker.metric_is("hookstream_open_transaction_seconds", &labels, |seconds| seconds > 0.0).await;
    worker.logged(&["an open transaction holds up the reading of events"]).await;
    assert_eq!(receiver.count(), 0);
    transaction.commit();
    receiver.wait_for(WAITING + 1, PATIENCE).await;
    // The marker is the last record of the log after this one, and stays behind what is settled.
    let last = Transaction::begin(cluster.brokers());
    last.write(&topic, 0, WORKSPACE, &value);
    last.commit();
    receiver.wait_for(WAITING + 2, PATIENCE).await;
    stage.knows(&worker, "hookstream_consumer_lag", &labels, 0.0).await;
    assert!(
        worker.metrics().await.contains("hookstream_consumer_lag{"),
        "without a lag the gauge is 0 and not missing"
    );
    worker.metric_is("hookstream_open_transaction_seconds", &labels, |seconds| seconds < 1e-9).await;
}

/// A retry of the webhook of the integration `i`. It is due one delay of its tier after it is written.
fn retry(number: usize) -> Record {
    Record::new("w-i", event(&format!("r-{number}"), "c").value.unwrap())
        .header("workspace", WORKSPACE)
        .header("hookstream-integration-id", "i")
        .header("hookstream-webhook-id", "w-i")
        .header("hookstream-delivery-id", format!("msg_{number}"))
        .header("hookstream-attempt", "1")
}

/// Waits until a round of the watch has begun and ended since now: the lag rises behind a transaction and falls after it.
async fn watched(stage: &Stage, cluster: &Cluster, worker: &Worker) {
    let topic = stage.names.events();
    let labels = [("topic", topic.as_str()), ("partition", "0")];
    let transaction = Transaction::begin(cluster.brokers());
    transaction.write(&topic, 0, WORKSPACE, &String::from_utf8(event("watched", "c").value.unwrap()).unwrap());
    stage.knows(worker, "hookstream_consumer_lag", &labels, 1.0).await;
    transaction.commit();
    stage.knows(worker, "hookstream_consumer_lag", &labels, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_tier_is_read_from_its_start_despite_old_commits() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "tier-recreated", "300ms", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    stage.send_to_tier("300ms", (0..50).map(retry));
    receiver.wait_for(50, PATIENCE).await;
    stage.tier_settled("300ms", PATIENCE).await;
    watched(&stage, &cluster, &worker).await;
    let properties = [("message.timestamp.type", "LogAppendTime")];
    recreate(cluster.brokers(), &stage.names.tier("300ms"), 1, &properties).await;
    // Longer than the log before: the client alone goes on behind its first records.
    stage.send_to_tier("300ms", (100..300).map(retry));
    wait_until("every retry of the new topic", PATIENCE, async || {
        let arrived: BTreeSet<_> = receiver.recorded().iter().map(event_id).collect();
        let missing: Vec<_> = (100..300).filter(|number| !arrived.contains(&format!("r-{number}"))).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    stage.tier_settled("300ms", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_to_the_events_topic_are_read_within_half_a_minute() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "wider-events", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let _workers = [stage.worker(&[]).await, stage.worker(&[]).await];
    stage.send([numbered(0)]);
    receiver.wait_for(1, PATIENCE).await;
    let (load, added) = (Load::watch(), Instant::now());
    add_partitions(cluster.brokers(), &stage.names.events(), 3).await;
    stage.send((1..3).map(|partition| event(&format!("in-{partition}"), "c").in_partition(partition)));
    receiver.wait_for(3, PATIENCE).await;
    // What the client library leaves itself by default is five minutes.
    load.assert_within("records of the added partitions", added.elapsed(), Duration::from_secs(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_no_worker_takes_are_counted_until_one_does() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "unheld", "1h", 2).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    let idle = IdleMember::join(cluster.brokers(), &stage);
    wait_until("the idle member to hold a partition", PATIENCE, async || {
        let held = idle.consumer.assignment().unwrap().count();
        if held == 1 { Ok(()) } else { Err(held) }
    })
    .await;
    stage.send((0..2).map(|partition| event(&format!("in-{partition}"), "c").in_partition(partition)));
    receiver.wait_for(1, PATIENCE).await;
    stage.knows_in(&worker, ("hookstream_unheld_lag", &[]), 1.0, PATIENCE * 2).await;
    worker.logged(&["no worker takes the records of a partition"]).await;
    drop(idle);
    receiver.wait_for(2, PATIENCE).await;
    stage.knows(&worker, "hookstream_unheld_lag", &[], 0.0).await;
}

/// A member of the workers' group that holds its share of the partitions and does nothing.
struct IdleMember {
    consumer: Arc<BaseConsumer>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl IdleMember {
    fn join(brokers: &str, stage: &Stage) -> Self {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", stage.names.group())
            .set("enable.auto.commit", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("heartbeat.interval.ms", "500")
            .create()
            .unwrap();
        consumer.subscribe(&[&stage.names.events()]).unwrap();
        let (consumer, ended) = (Arc::new(consumer), Arc::new(AtomicBool::new(false)));
        let (polled, end) = (Arc::clone(&consumer), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                drop(polled.poll(Duration::from_millis(100)));
            }
            polled.unsubscribe();
        });
        Self { consumer, ended, thread: Some(thread) }
    }
}

impl Drop for IdleMember {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
