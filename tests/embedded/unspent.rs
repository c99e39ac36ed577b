//! A slot of the schedule is spent only by a request: what happens to deliveries that can't be requested now, or never again.

use std::time::Duration;

use hookstream::internals::settings::Delivery;
use hookstream::internals::{Reason, RetrySchedule, Wire};

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::records::Read;
use crate::support::wait::{PATIENCE, equal, wait_until};

/// Retries that one lane takes, and the failures that open a circuit: the product's own.
const LANE_RETRIES_MAX: usize = 64;
const FAILURES_TO_OPEN: usize = 20;

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A first attempt so late that its retries have time left.
fn a_minute_ago_ms() -> i64 {
    now_ms() - 60_000
}

/// The headers of a retry of the webhook `hook` in the workspace `w`, of which `attempts` were made.
fn retry(number: usize, attempts: u32, first_attempt_ms: i64) -> Wire {
    Wire {
        workspace: Some("w".to_owned()),
        integration_id: Some("w".to_owned()),
        webhook_id: Some("hook".to_owned()),
        delivery_id: Some(format!("d-{number}")),
        attempt: Some(attempts),
        first_attempt_ms: Some(first_attempt_ms),
        origin: Some("events/0/77".to_owned()),
        error: Some(Reason::Connect),
        ..Wire::default()
    }
}

/// Delivery id, attempts made, first attempt and reason word of a record.
fn retry_headers(record: &Read) -> [Option<&str>; 4] {
    ["hookstream-delivery-id", "hookstream-attempt", "hookstream-first-attempt-ms", "hookstream-error"]
        .map(|name| record.header(name))
}

async fn open_circuit(rig: &mut Rig) {
    rig.feed((0..FAILURES_TO_OPEN).map(|_| ("w", "a"))).await;
    wait_until("the circuit to open", PATIENCE, async || {
        equal(rig.count("hookstream_webhook_circuits_open", &[]), &1).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_retry_that_meets_an_open_circuit_goes_back_unspent_into_its_tier() {
    let failing = Receiver::start(|_| Answer::status(503));
    let mut rig = Rig::start(settings());
    rig.integrate("w", &failing.url(""), &[webhook("hook")]);
    open_circuit(&mut rig).await;
    wait_until("the failed ones in their tier", PATIENCE, async || equal(rig.retries().len(), &FAILURES_TO_OPEN)).await;
    let first_attempt_ms = a_minute_ago_ms();
    for number in 0..3 {
        rig.retry(b"{}", retry(number, 5, first_attempt_ms), now_ms()).await;
    }
    // The first is kept to probe with.
    let first_attempt = first_attempt_ms.to_string();
    let as_they_were = ["d-1", "d-2"].map(|id| [Some(id), Some("5"), Some(first_attempt.as_str()), Some("connect")]);
    wait_until("two retries in their tier again", PATIENCE, async || {
        let retries = rig.retries();
        // On a busy machine the probe may have failed by now: it is a record more.
        let back = retries.iter().map(retry_headers).filter(|headers| [Some("d-1"), Some("d-2")].contains(&headers[0]));
        equal(back.collect::<Vec<_>>(), &as_they_were.to_vec()).map(drop).map_err(|seen| format!("{seen:?}"))
    })
    .await;
    let requested = |id| failing.recorded().iter().any(|request| request.header("webhook-id") == Some(id));
    assert!(!requested("d-1") && !requested("d-2"), "no slot is spent");
    let back = rig.retries().into_iter().find(|retry| retry.header("hookstream-delivery-id") == Some("d-1")).unwrap();
    let due: i64 = back.header("hookstream-due-ms").unwrap().parse().unwrap();
    assert!(due > now_ms() + 3_500_000, "one delay of its tier later: {due}");
}

#[tokio::test]
async fn a_retry_that_meets_a_full_lane_goes_back_unspent_into_its_tier() {
    let hanging = Receiver::start(|_| Answer::misbehave(Misbehaviour::Hang));
    // The request that hangs does so for longer than the test lasts.
    let request_timeout = Duration::from_mins(10);
    let mut rig = Rig::start(Delivery { max_in_flight_per_webhook: 1, request_timeout, ..settings() });
    rig.integrate("w", &hanging.url(""), &[webhook("hook")]);
    let first_attempt_ms = a_minute_ago_ms();
    rig.retry(b"{}", retry(0, 5, first_attempt_ms), now_ms()).await;
    hanging.wait_for(1, PATIENCE).await;
    for number in 1..=LANE_RETRIES_MAX + 2 {
        rig.retry(b"{}", retry(number, 5, first_attempt_ms), now_ms()).await;
    }
    let first_attempt = first_attempt_ms.to_string();
    let as_they_were = ["d-65", "d-66"].map(|id| [Some(id), Some("5"), Some(first_attempt.as_str()), Some("connect")]);
    wait_until("two retries in their tier again", PATIENCE, async || {
        let retries = rig.retries();
        equal(retries.iter().map(retry_headers).collect::<Vec<_>>(), &as_they_were.to_vec())
            .map(drop)
            .map_err(|seen| format!("{seen:?}"))
    })
    .await;
    assert_eq!(hanging.count(), 1);
}

#[tokio::test]
async fn a_delivery_that_was_first_requested_long_ago_is_given_up_even_with_attempts_left() {
    let failing = Receiver::start(|_| Answer::status(500));
    let give_up_after = Duration::from_hours(2);
    let mut rig =
        Rig::start(Delivery { schedule: RetrySchedule::parse("1h,1h,1h,1h").unwrap(), give_up_after, ..settings() });
    rig.integrate("w", &failing.url(""), &[webhook("hook")]);
    let long_ago = now_ms() - 7_200_000;
    // One is given up when it falls due, one when its request has failed, and one has time left.
    rig.retry(b"{}", retry(0, 1, long_ago), now_ms()).await;
    rig.retry(b"{}", retry(1, 1, long_ago), long_ago + 7_199_999).await;
    rig.retry(b"{}", retry(2, 1, now_ms() - 3_600_000), now_ms()).await;
    rig.settled().await;
    assert_eq!(failing.count(), 2);
    let mut dead: Vec<_> =
        rig.dead_letters().iter().map(|letter| letter.header("hookstream-delivery-id").map(str::to_owned)).collect();
    dead.sort();
    assert_eq!(dead, [Some("d-0".to_owned()), Some("d-1".to_owned())]);
    let exhausted = |letter: &Read| letter.header("hookstream-reason") == Some("exhausted");
    assert!(rig.dead_letters().iter().all(exhausted));
    assert_eq!(
        rig.retries().iter().map(retry_headers).map(|headers| headers[0].map(str::to_owned)).collect::<Vec<_>>(),
        [Some("d-2".to_owned())]
    );
}

#[tokio::test]
async fn a_delivery_that_waits_behind_an_open_circuit_past_the_schedule_is_a_dead_letter_without_an_attempt() {
    let failing = Receiver::start(|_| Answer::status(503));
    let healthy = Receiver::start(|_| Answer::ok());
    let schedule = RetrySchedule::parse("1s").unwrap();
    let mut rig = Rig::start(Delivery { schedule, ..settings() });
    rig.integrate("w", &failing.url(""), &[webhook("hook")]);
    rig.integrate("healthy", &healthy.url(""), &[webhook("other")]);
    open_circuit(&mut rig).await;
    // More than probes take within the time.
    rig.feed((0..10).map(|_| ("w", "a"))).await;
    rig.feed([("healthy", "a")]).await;
    let waited = |letter: &Read| letter.header("hookstream-error") == Some("circuit-open");
    wait_until("dead letters", PATIENCE, async || {
        rig.turn().await;
        let dead = rig.count("hookstream_dead_letters_total", &[("reason", "exhausted")]);
        if dead >= 7 { Ok(()) } else { Err(dead) }
    })
    .await;
    assert!(rig.dead_letters().iter().any(waited));
    for letter in rig.dead_letters().iter().filter(|letter| waited(letter)) {
        let of = ["workspace", "hookstream-webhook-id", "hookstream-reason", "hookstream-attempt", "hookstream-status"]
            .map(|name| letter.header(name));
        assert_eq!(of, [Some("w"), Some("hook"), Some("exhausted"), Some("0"), None]);
        let id = letter.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(letter.header("hookstream-origin"), Some(&*format!("events/0/{id}")));
    }
    let requests = failing.recorded();
    let dead: Vec<_> = rig.dead_letters().iter().filter(|letter| waited(letter)).map(Read::json).collect();
    assert!(requests.iter().all(|request| !dead.contains(&request.json())), "none of them was requested");
    assert_eq!(healthy.count(), 1);
}
