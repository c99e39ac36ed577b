//! What the pipeline, the backlog of a partition and a shard promise together, a test a claim, on tokio's paused clock.

use std::time::Duration;

use serde_json::{Value, json};

use super::flow_lab::{DRAIN, Flow, WORKSPACE};
use crate::deliver::shard::lab::{Answer, Seen, secs, settings, unordered};
use crate::domain::integration::Integration;
use crate::domain::outcome::DropReason;
use crate::settings::{Delivery, Ordering};

const TWO: &[&str] = &["http://one.example/one", "http://two.example/two"];

/// How long the receiver of a request takes, from none to three seconds, in no order of the offsets.
fn takes(seen: &Seen) -> Duration {
    let salt = if seen.webhook == "one" { 7_919 } else { 104_729 };
    Duration::from_millis((seen.offset.unsigned_abs() + 1) * salt % 3_000)
}

/// Whether the receiver of a webhook has acknowledged that offset.
fn has_acknowledged(flow: &Flow, webhook: &str, offset: i64) -> bool {
    let seen = flow.lab.receivers.seen();
    let request = seen.iter().find(|seen| seen.webhook == webhook && seen.offset == offset);
    request.is_some_and(|seen| seen.at_ms + takes(seen).as_millis() <= flow.lab.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn a_record_that_matches_nothing_is_settled_as_soon_as_it_is_read() {
    let mut flow = Flow::start(settings(), TWO, |_| Answer::acknowledged().after(secs(5)));
    flow.takes_places = false;
    flow.read("other", 1).await;
    assert_eq!(flow.committed(), Some(1));
    flow.read(WORKSPACE, 1).await;
    flow.read("other", 1).await;
    let commit = flow.commit().unwrap();
    assert_eq!((commit.offset, commit.beyond), (1, std::iter::once(2..3).collect()), "one before it is open");
    flow.until("all is settled", |flow| flow.committed() == Some(3)).await;
    assert_eq!(flow.lab.receivers.times(), [(1, 0), (1, 0)], "one request to each webhook");
    flow.lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_never_passes_a_record_that_is_neither_settled_nor_covered_by_a_place_in_kafka() {
    for takes_places in [false, true] {
        let mut flow = Flow::start(unordered(), TWO, |seen| Answer::acknowledged().after(takes(seen)));
        flow.takes_places = takes_places;
        let (mut waited, mut covered) = (0, 0);
        for entity in 0..200 {
            flow.read(WORKSPACE, entity).await;
            flow.pass(Duration::from_millis(10)).await;
            let Some(commit) = flow.commit() else { continue };
            let settled = (0..commit.offset).chain(commit.beyond.iter().cloned().flatten());
            for (offset, webhook) in settled.flat_map(|offset| [(offset, "one"), (offset, "two")]) {
                let is_covered = flow.place(webhook).covers(offset);
                assert!(has_acknowledged(&flow, webhook, offset) || is_covered, "{webhook} {offset} {commit:?}");
                covered += u64::from(is_covered);
            }
            waited += u64::from(commit.offset < flow.end_of_log() - 1);
        }
        assert!(waited > 100 && (covered > 0) == takes_places, "{waited} {covered}");
        flow.until("all is requested", |flow| flow.lab.receivers.count() == 400).await;
        let has_place = |flow: &Flow| !(flow.place("one").is_none() && flow.place("two").is_none());
        flow.until("all is committed", |flow| flow.committed() == Some(200) && !has_place(flow)).await;
        flow.lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_whose_lane_is_full_goes_on_in_order_when_there_is_room_and_holds_up_no_other() {
    let mut flow = Flow::start(settings(), TWO, |seen| match &*seen.webhook {
        "one" => Answer::acknowledged().after(secs(2)),
        _ => Answer::acknowledged(),
    });
    let took = |flow: &Flow, webhook: &str| -> Vec<(i64, u128)> {
        let seen = flow.lab.receivers.seen().into_iter();
        seen.filter(|seen| seen.webhook == webhook).map(|seen| (seen.offset, seen.at_ms)).collect()
    };
    for _ in 0..400 {
        flow.read(WORKSPACE, 1).await;
        flow.pass(Duration::from_millis(10)).await;
    }
    let two = took(&flow, "two");
    assert!(two.len() == 400 && took(&flow, "one").len() < 10, "{}", two.len());
    assert!(two.iter().zip((0..).step_by(10)).all(|((_, at_ms), read_ms)| *at_ms < read_ms + 20), "{two:?}");
    assert!((100..150).contains(&flow.lab.pressure().queued()), "what the lane does not take is not in memory");
    flow.until("the other has got all", |flow| flow.lab.receivers.count() == 800).await;
    assert!(took(&flow, "one").iter().map(|(offset, _)| *offset).eq(0..400));
    assert!(flow.lab.elapsed() < secs(801), "no time passes between two requests");
    flow.until("all is committed", |flow| flow.committed() == Some(400) && flow.place("one").is_none()).await;
    flow.lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_revoked_while_a_webhook_hangs_is_given_up_at_once_with_a_place() {
    for hangs in [secs(9), DRAIN + secs(5)] {
        let mut flow = Flow::start(settings(), TWO, move |seen| match &*seen.webhook {
            "one" => Answer::acknowledged().after(hangs),
            _ => Answer::acknowledged(),
        });
        for _ in 0..5 {
            flow.read(WORKSPACE, 1).await;
        }
        flow.pass(Duration::from_millis(20)).await;
        let revoked = flow.lab.elapsed();
        flow.lab.assignment.close();
        flow.until("nothing waits for the last commit", |flow| flow.lab.assignment.wait_quiet(Duration::ZERO)).await;
        let took = flow.lab.elapsed().saturating_sub(revoked);
        assert!(took < Duration::from_millis(500), "{took:?}");
        let (place, of_two) = (flow.place("one"), flow.place("two"));
        assert_eq!((flow.committed(), of_two.is_none(), place.is_held), (Some(5), true, true));
        assert!((0..10).all(|offset| place.covers(offset)), "the hanging one and what waits behind it: {place:?}");
        flow.lab.assignment.hand_over();
        flow.until("the place is released", |flow| flow.lab.assignment.is_over()).await;
        let held_for = flow.lab.elapsed().saturating_sub(revoked);
        let expected = hangs.min(DRAIN);
        assert!(held_for < expected + secs(1) && held_for + secs(1) > expected, "{held_for:?}");
        let place = flow.place("one");
        assert_eq!((place.is_held, place.covers(0)), (false, hangs > DRAIN), "what has not ended is made again");
        assert!((1..10).all(|offset| place.covers(offset)), "{place:?}");
        flow.lab.end().await;
        assert_eq!(flow.lab.receivers.count(), 6, "nothing is begun after the revocation");
    }
}

/// The webhook `hook` at a URL whose host is that shard's, of two; and the record that says so.
fn hook_of_shard(shard: u32) -> (String, Value) {
    let records = (0..100).map(|number| {
        let url = format!("http://r{number}.example/hook");
        let hook = json!({"id": "hook", "relativeUrl": url, "triggerType": "entityEvent", "filter": {"items": [{}]}});
        (url, json!({ "webHooks": [hook] }))
    });
    let is_its = |record: &Value| {
        let integration = Integration::parse("ws/i", record.to_string().as_bytes()).unwrap();
        integration.webhook(0).unwrap().host_hash() % 2 == shard
    };
    records.into_iter().find(|(_, record)| is_its(record)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_webhook_in_order_never_gets_two_requests_at_a_time_when_its_url_moves_retries_included() {
    for retry_is_first in [true, false] {
        let in_order = Delivery { ordering: Ordering::Webhook, threads: 2, ..settings() };
        let ((here, _), (_, there)) = (hook_of_shard(0), hook_of_shard(1));
        let mut flow = Flow::start(in_order, &[&here], |_| Answer::acknowledged().after(secs(5)));
        if retry_is_first {
            flow.retry("hook", 7).await;
        } else {
            flow.read(WORKSPACE, 1).await;
        }
        flow.pass(secs(1)).await;
        assert_eq!(flow.lab.receivers.count(), 1);
        flow.lab.change(&there);
        flow.lab.shared.table.write().settle();
        if retry_is_first {
            flow.read(WORKSPACE, 1).await;
        } else {
            flow.retry("hook", 7).await;
            flow.pass(secs(1)).await;
            assert_eq!(flow.lab.topics.written(), [("retry.1s".to_owned(), "1".to_owned())], "unspent");
            flow.pass(secs(5)).await;
            flow.retry("hook", 8).await;
        }
        flow.until("both are requested", |flow| flow.lab.receivers.count() == 2).await;
        let seen = flow.lab.receivers.seen();
        assert!(seen.iter().all(|seen| seen.under_way == 1), "{seen:?}");
        assert!(seen[1].at_ms < 7_100, "it waits no longer than for the first one: {seen:?}");
        flow.lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_while_its_tier_is_created_again_goes_back_into_the_tier_unspent() {
    let mut flow = Flow::start(settings(), TWO, |_| Answer::acknowledged());
    let retry = flow.retry_of("one", 7);
    flow.put_back(retry).await;
    flow.until("Kafka has it", |flow| !flow.lab.topics.written().is_empty()).await;
    assert_eq!(flow.lab.topics.written(), [("retry.1s".to_owned(), "1".to_owned())]);
    let mut no_retry = flow.retry_of("one", 8);
    no_retry.payload = None;
    flow.put_back(no_retry).await;
    let dropped: Vec<_> = flow.lab.metrics.dropped().filter(|(_, count)| *count > 0).collect();
    assert_eq!(dropped, [(DropReason::UnreadableRetry, 1)], "no worker wrote it");
    assert_eq!(flow.lab.receivers.count(), 0);
    flow.lab.end().await;
}
