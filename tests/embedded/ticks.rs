//! Scheduled ticks on their way through a shard.

use std::time::Duration;

use hookstream::internals::Assignment;
use hookstream::internals::Wire;
use hookstream::internals::settings::{Delivery, Ordering};
use hookstream::internals::ticks;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::{PATIENCE, equal, wait_until};

const NOON: i64 = 1_700_000_000_000;

fn scheduled(id: &str, period: &str) -> Value {
    json!({ "id": id, "relativeUrl": format!("/{id}"), "triggerType": "schedule", "schedule": { "period": period } })
}

fn counted(rig: &Rig, outcome: &str) -> usize {
    rig.count("hookstream_scheduled_ticks_total", &[("outcome", outcome)])
}

/// The headers of a tick's retry, as they come out of a tier.
fn wire(id: &str, webhook: &str, at_ms: i64) -> Wire {
    Wire {
        workspace: Some(id.to_owned()),
        integration_id: Some(id.to_owned()),
        webhook_id: Some(webhook.to_owned()),
        delivery_id: Some("msg_1".to_owned()),
        attempt: Some(1),
        origin: Some(format!("integrations/0/{at_ms}")),
        event_ms: Some(at_ms),
        ..Wire::default()
    }
}

#[tokio::test]
async fn ticks_that_have_not_begun_when_the_worker_stops_are_counted_and_not_sent() {
    let gate = CancellationToken::new();
    let held = gate.clone();
    let receiver = Receiver::start(move |_| Answer::ok().once(&held));
    let mut rig = Rig::start(Delivery { ordering: Ordering::Webhook, ..settings() });
    rig.integrate("w", &receiver.url(""), &[scheduled("hook", "00:00:10")]);
    let firing = Assignment::new("integrations".into(), -1);
    for at_ms in [NOON, NOON + 10_000, NOON + 20_000] {
        rig.tick("w", at_ms, &firing).await;
    }
    receiver.wait_for(1, PATIENCE).await;
    firing.close();
    gate.cancel();
    assert!(firing.wait_quiet(PATIENCE));
    rig.close();
    assert_eq!(receiver.count(), 1);
    let counts = ["fired", "acknowledged", "dropped"].map(|outcome| counted(&rig, outcome));
    assert_eq!(counts, [3, 1, 2]);
    assert_eq!(rig.count("hookstream_dropped_total", &[("reason", "tick-missed")]), 2);
    assert_eq!(receiver.recorded()[0].body, ticks::body("hook", NOON));
}

#[tokio::test]
async fn a_failed_tick_waits_in_a_tier_only_when_it_comes_back_before_the_next_one() {
    let receiver = Receiver::start(|_| Answer::status(500));
    let rig = Rig::start(settings());
    rig.integrate("often", &receiver.url(""), &[scheduled("often", "00:30:00")]);
    rig.integrate("seldom", &receiver.url(""), &[scheduled("seldom", "1.00:00:00")]);
    let firing = Assignment::new("integrations".into(), -1);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    rig.tick("often", now_ms, &firing).await;
    wait_until("the tick to be dropped", PATIENCE, async || equal(counted(&rig, "dropped"), &1)).await;
    assert_eq!(rig.count("hookstream_dropped_total", &[("reason", "tick-over")]), 1);
    // The next tick of a day-long period may be near: then take the one after it.
    let ticks = ticks::Ticks::new(rig.integration("seldom").webhook(0).expect("it has one").hash(), DAY);
    let left = ticks.after(now_ms) - now_ms;
    let at_ms = if left > 7_200_000 { now_ms } else { ticks.after(now_ms) };
    rig.tick("seldom", at_ms, &firing).await;
    wait_until("the tick to be put into its tier", PATIENCE, async || equal(counted(&rig, "retried"), &1)).await;
    let retries = rig.retries();
    assert_eq!(retries.len(), 1);
    assert_eq!(retries[0].header("hookstream-webhook-id"), Some("seldom"));
    assert_eq!(retries[0].header("hookstream-origin"), Some(&*format!("integrations/0/{at_ms}")));
    assert_eq!(retries[0].json(), serde_json::from_str::<Value>(&ticks::body("seldom", at_ms)).unwrap());
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_retry_that_falls_due_after_the_next_tick_or_without_a_schedule_is_dropped() {
    let receiver = Receiver::start(|_| Answer::ok());
    let mut rig = Rig::start(settings());
    rig.integrate("w", &receiver.url(""), &[scheduled("hook", "00:10:00")]);
    rig.integrate("changed", &receiver.url(""), &[webhook("hook")]);
    let hook = rig.integration("w");
    let at_ms = ticks::Ticks::new(hook.webhook(0).expect("it has one").hash(), Duration::from_mins(10)).after(NOON);
    rig.retry(b"{}", wire("w", "hook", at_ms), at_ms + 600_000).await;
    rig.retry(b"{}", wire("changed", "hook", at_ms), at_ms + 1).await;
    rig.settled().await;
    assert_eq!((rig.count("hookstream_dropped_total", &[("reason", "tick-over")]), counted(&rig, "dropped")), (2, 2));
    rig.retry(b"{}", wire("w", "hook", at_ms), at_ms + 599_999).await;
    rig.settled().await;
    assert_eq!((receiver.count(), counted(&rig, "acknowledged")), (1, 1));
    assert_eq!(receiver.recorded()[0].attempt(), 2);
}
