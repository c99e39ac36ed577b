//! An upgrade in place, one worker after another in the same groups and under load, and back again.
//!
//! `HOOKSTREAM_TEST_FORMER` names the program of the release that is upgraded from: `git worktree add target/former <commit>`
//! and `cargo build --release` there make one. Without it the present program is used as the former, and what differs
//! between the two is held by what the former is known to have written: its commits and its records in tiers.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::rollout::{Events, PARTITIONS, go_on, now_ms};
use crate::stage::{LONG, Ledger, Stage, event, event_number, events, integration};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, committed};
use crate::support::wait::{PATIENCE, wait_until};

/// One event in this number fails at the first attempt and waits in a tier while workers change.
const FAILING_EVERY: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_replaced_by_another_release_and_back_under_load_and_nothing_is_lost_or_repeated() {
    let former = std::env::var("HOOKSTREAM_TEST_FORMER").ok();
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "upgrade", "2s,4s", PARTITIONS).await;
    let ledger = Ledger::default();
    let note = ledger.clone();
    let receiver = Receiver::start(move |request| {
        let fails = event_number(request).is_multiple_of(FAILING_EVERY) && request.attempt() == 1;
        note.note("w-i", request, Answer::status(if fails { 500 } else { 200 }))
    });
    stage.put([&integration("i", &receiver.url(""))]);
    let mut workers = vec![stage.former_worker(former.as_deref()).await, stage.former_worker(former.as_deref()).await];
    let events = Events::start(&cluster, &stage, None);
    go_on(&receiver, 400).await;
    for upgrades in [true, true, false, false] {
        workers.remove(0).stop();
        workers.push(if upgrades { stage.worker(&[]).await } else { stage.former_worker(former.as_deref()).await });
        go_on(&receiver, 400).await;
    }
    let written = events.finish();
    stage.settled(LONG).await;
    stage.tier_settled("2s", LONG).await;
    let balance = ledger.balance((0..written).map(|number| format!("e-{number}")), &["w-i"], &stage.dead());
    println!(
        "from {former:?} and back: {written} events, {} acknowledged, {} again, {} lost",
        balance.acknowledged,
        ledger.duplicates(),
        balance.lost.len()
    );
    assert_eq!((balance.acknowledged, balance.lost.len(), ledger.duplicates()), (written, 0, 0));
}

fn reader_of(cluster: &Cluster, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.brokers()).set("group.id", group).set("enable.auto.commit", "false");
    config.create().unwrap()
}

/// Commits for a group without members, as a release that writes no metadata does, or a tool.
fn commit(cluster: &Cluster, stage: &Stage, offset: i64, metadata: &str) {
    let mut offsets = TopicPartitionList::new();
    let events = stage.names.events();
    let mut element = offsets.add_partition(&events, 0);
    element.set_offset(Offset::Offset(offset)).unwrap();
    if !metadata.is_empty() {
        element.set_metadata(metadata);
    }
    reader_of(cluster, &stage.names.group()).commit(&offsets, CommitMode::Sync).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_continues_from_commits_without_metadata_or_with_that_of_another_tool() {
    let cluster = Cluster::shared().await;
    for metadata in ["", "checkpoint", "hs9.00000000.3.r.AQE", "hs1.00000000.3.r.AAI"] {
        let stage = Stage::on(&cluster, "upgrade-commit", "1h", 1).await;
        let receiver = Receiver::start(|_| Answer::ok());
        stage.put([&integration("i", &receiver.url(""))]);
        stage.send(events("e", 6));
        commit(&cluster, &stage, 3, metadata);
        let mut worker = stage.worker(&[]).await;
        stage.settled(PATIENCE).await;
        let mut numbers: Vec<_> = receiver.recorded().iter().map(event_number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [3, 4, 5], "{metadata:?}");
        worker.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beyond_the_end_of_the_log_is_corrected() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "commit-back", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    stage.send(events("e", 6));
    // As after a log was cut: the group is further than the log.
    commit(&cluster, &stage, 5_000, "");
    let mut worker = stage.worker(&[]).await;
    let end = wait_until("the commit to go back to where the worker reads", PATIENCE, async || {
        stage.send([event("e-more", "c-more")]);
        let committed = committed(cluster.brokers(), &stage.names.group(), &stage.names.events());
        committed.get(&0).copied().filter(|offset| *offset < 5_000).ok_or(committed)
    })
    .await;
    assert!(end > 5, "{end}");
    worker.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_first_release_in_tiers_keep_their_ids_and_counts() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "upgrade-tier", "1s,2s", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let origin = format!("{}/0/7", stage.names.events());
    let first_attempt = (now_ms() - 60_000).to_string();
    // Headers as the first release wrote them: a failed attempt, and one that its `redrive` sent back.
    let left = |attempt: &str, id: &str| {
        let value = event("e-1", "c-1").value.unwrap();
        [
            ("workspace", "ws"),
            ("hookstream-integration-id", "i"),
            ("hookstream-webhook-id", "w-i"),
            ("hookstream-delivery-id", id),
            ("hookstream-attempt", attempt),
            ("hookstream-first-attempt-ms", &first_attempt),
            ("hookstream-due-ms", &first_attempt),
            ("hookstream-origin", &origin),
            ("hookstream-error", "status"),
            ("hookstream-status", "500"),
        ]
        .into_iter()
        .fold(Record::new("w-i", value), |record, (name, value)| record.header(name, value))
    };
    let former = "msg_00112233445566778899aabbccddeeff";
    let redriven = "msg_ffeeddccbbaa99887766554433221100";
    stage.send_to_tier("1s", [left("1", former), left("0", redriven)]);
    let mut worker = stage.worker(&[]).await;
    let mut seen: Vec<_> = receiver
        .wait_for(2, PATIENCE)
        .await
        .iter()
        .map(|request| (request.delivery_id().to_owned(), request.attempt()))
        .collect();
    seen.sort();
    assert_eq!(seen, [(former.to_owned(), 2), (redriven.to_owned(), 1)]);
    stage.tier_settled("1s", Duration::from_mins(1)).await;
    worker.stop();
}
