//! Moving to another cluster as docs/operations.md says: topics are mirrored, offsets translated, workers moved.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;

use crate::stage::{LONG, Ledger, Stage, event_number, events, integration};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Read, Record, partition_count, produce, read_all};

/// Records of each partition that the mirror does not copy, as if retention had deleted them: so offsets differ.
const NOT_COPIED: i64 = 20;
/// By how much a translated offset lags behind: mirrors translate in steps.
const OVERLAP: i64 = 10;

fn client(cluster: &Cluster, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.brokers()).set("group.id", group).set("enable.auto.commit", "false");
    config.create().unwrap()
}

/// The record as a mirror writes it.
fn copied(read: Read) -> Record {
    Record {
        partition: Some(read.partition),
        key: read.key,
        value: read.value,
        headers: read.headers,
        timestamp: read.timestamp,
    }
}

/// Copies a topic record by record into the same partitions, without the first `skipped` of each.
fn mirror(old: &Cluster, new: &Cluster, topic: &str, skipped: i64) {
    let kept = read_all(old.brokers(), topic).into_iter().filter(|read| read.offset >= skipped);
    produce(new.brokers(), topic, kept.map(copied).collect::<Vec<_>>());
}

/// Commits what a group has committed, `less` lower, with the same metadata: as tools do that mirror groups. Returns how much
/// metadata there was, in bytes.
fn translate(old: &Cluster, new: &Cluster, group: &str, topic: &str, less: i64) -> usize {
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(topic, 0, partition_count(old.brokers(), topic).unwrap() - 1);
    let committed = client(old, group).committed_offsets(asked, LONG).unwrap();
    let mut translated: BTreeMap<i32, (i64, String)> = BTreeMap::new();
    for element in committed.elements() {
        if let Offset::Offset(offset) = element.offset() {
            translated.insert(element.partition(), ((offset - less).max(0), element.metadata().to_owned()));
        }
    }
    let mut offsets = TopicPartitionList::new();
    for (partition, (offset, metadata)) in &translated {
        let mut element = offsets.add_partition(topic, *partition);
        element.set_offset(Offset::Offset(*offset)).unwrap();
        if !metadata.is_empty() {
            element.set_metadata(metadata);
        }
    }
    if offsets.count() > 0 {
        client(new, group).commit(&offsets, CommitMode::Sync).unwrap();
    }
    translated.values().map(|(_, metadata)| metadata.len()).sum()
}

/// Copies the places of webhooks that are behind, each `less` lower. Returns how many there are.
fn translate_places(old: &Cluster, new: &Cluster, topic: &str, less: i64) -> usize {
    let mut places: BTreeMap<_, Read> = BTreeMap::new();
    for read in read_all(old.brokers(), topic) {
        places.insert(read.key.clone(), read);
    }
    let places: Vec<Record> = (places.into_values().filter(|read| read.value.is_some()))
        .map(|read| {
            let mut place = read.json();
            place["offset"] = json!((place["offset"].as_i64().unwrap() - less).max(0));
            Record { value: Some(place.to_string().into_bytes()), ..copied(read) }
        })
        .collect();
    let count = places.len();
    produce(new.brokers(), topic, places);
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_move_to_a_mirrored_cluster_lose_nothing_and_repeat_under_the_same_ids() {
    const EVENTS: usize = 3_000;
    const FIRST: usize = 200;
    let (old, new) = (Cluster::shared().await, Cluster::start(1).await);
    let before = Stage::on(&old, "moving", "2s,4s", 3).await;
    let after = before.on_another(&new, 3).await;
    let ledger = Ledger::default();
    let note = ledger.clone();
    let receiver = Receiver::start(move |request| {
        let number = event_number(request);
        let fails = number.is_multiple_of(10) && request.attempt() == 1;
        let answer = Answer::status(if fails { 500 } else { 200 });
        note.note(
            "w-i",
            request,
            answer.after(std::time::Duration::from_millis(u64::try_from(number % 7).unwrap() * 5)),
        )
    });
    before.put([&integration("i", &receiver.url(""))]);
    // What the mirror does not copy is delivered long before, as where retention is long enough.
    before.send(events("e", EVENTS).take(FIRST));
    let mut worker = before.worker(&["--ordering", "none"]).await;
    ledger.wait_for(FIRST, LONG).await;
    let delivered = read_all(old.brokers(), &before.names.events());
    assert!(
        (0..3).all(|partition| delivered.iter().any(|read| (read.partition, read.offset) == (partition, NOT_COPIED)))
    );
    before.send(events("e", EVENTS).skip(FIRST));
    ledger.wait_for(EVENTS / 2, LONG).await;
    // The harder way: nothing is drained, and what is settled out of order is in the metadata.
    worker.sigkill();
    let done = ledger.acknowledged();
    mirror(&old, &new, &before.names.integrations(), 0);
    mirror(&old, &new, &before.names.events(), NOT_COPIED);
    let group = before.names.group();
    let metadata = translate(&old, &new, &group, &before.names.events(), NOT_COPIED + OVERLAP);
    let places = translate_places(&old, &new, &before.names.backlog(), NOT_COPIED + OVERLAP);
    assert!(places > 0, "the webhook is behind when its worker is killed");
    for tier in ["2s", "4s"] {
        mirror(&old, &new, &before.names.tier(tier), 0);
        translate(&old, &new, &format!("{group}-retry"), &before.names.tier(tier), 0);
    }
    let mut worker = after.worker(&["--ordering", "none"]).await;
    after.settled(LONG).await;
    after.tier_settled("2s", LONG).await;
    after.tier_settled("4s", LONG).await;
    // A retry that met a full lane is in its tier again, behind the end that was waited for.
    ledger.wait_for(EVENTS, LONG).await;
    let dead = after.dead();
    // An event has one delivery id on both clusters: the account fails if there are two.
    let balance = ledger.balance((0..EVENTS).map(|number| format!("e-{number}")), &["w-i"], &dead);
    println!(
        "moved after {done} of {EVENTS}, {metadata} bytes of metadata, {places} places: {} acknowledged, {} again, {} lost",
        balance.acknowledged,
        ledger.duplicates(),
        balance.lost.len()
    );
    assert_eq!((balance.acknowledged, balance.lost.len()), (EVENTS, 0), "{:?}", balance.lost);
    worker.stop();
}
