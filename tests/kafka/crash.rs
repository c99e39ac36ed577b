//! The cost of a crash: the number of repeats, and the time without a delivery.
//!
//! Deliveries are counted by their event at the receivers. A worker is killed as a power cut kills it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::stage::{LONG, Stage, event_number, events, integration, record};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::receiver::{Answer, Receiver, Recorded};
use crate::support::wait::{PATIENCE, wait_until};

/// Requests under way at once.
const IN_FLIGHT: usize = 64;
/// The time of one answer.
const LATENCY: Duration = Duration::from_millis(20);
/// The most answers in a fifth of a second.
const FIFTH_OF_A_SECOND: usize = IN_FLIGHT * 10;
/// The longest time without a delivery from a partition of a killed worker: the session, and the time to join.
const IDLE_MAX: Duration = Duration::from_secs(8);
/// The same of one that comes back under its name: the start of the program.
const IDLE_STATIC_MAX: Duration = Duration::from_secs(2);

const OPTIONS: [&str; 6] = ["--max-in-flight", "64", "--max-in-flight-per-webhook", "64", "--ordering", "none"];

/// The result of a crash.
#[derive(Debug)]
struct Cost {
    /// Requests beyond the first of each event and webhook.
    repeated: usize,
    /// From the kill to the next request.
    idle: Duration,
}

/// Counts the requests to `receivers` of a worker that was killed at `killed`.
fn cost(receivers: &[&Receiver], killed: Instant) -> Cost {
    let recorded: Vec<Recorded> = receivers.iter().flat_map(|receiver| receiver.recorded()).collect();
    let mut requests: HashMap<&str, usize> = HashMap::new();
    for request in &recorded {
        *requests.entry(request.delivery_id()).or_default() += 1;
    }
    let next = recorded.iter().map(|request| request.arrived).filter(|arrived| *arrived > killed).min();
    Cost {
        repeated: requests.values().map(|count| count - 1).sum(),
        idle: next.expect("a request after the kill") - killed,
    }
}

async fn killed_and_restarted(claim: &str, options: &[&str], idle_max: Duration) {
    const EVENTS: usize = 10_000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, claim, "1h", 12).await;
    let receiver = Receiver::start(|_| Answer::ok().after(LATENCY));
    stage.put([&integration("i", &receiver.url(""))]);
    let options: Vec<&str> = OPTIONS.iter().chain(options).copied().collect();
    let mut first = stage.worker(&options).await;
    stage.send(events("e", EVENTS));
    receiver.wait_for(3_000, PATIENCE).await;
    let load = Load::watch();
    first.sigkill();
    let killed = Instant::now();
    let at_kill = receiver.count();
    let mut second = stage.spawn(&options).await;
    receiver.wait_for(at_kill + 1, PATIENCE).await;
    stage.settled(LONG).await;
    let cost = cost(&[&receiver], killed);
    println!("{claim}: killed after {at_kill} of {EVENTS}: {cost:?}");
    assert_eq!(receiver.count(), EVENTS + cost.repeated, "each was delivered");
    assert!(cost.repeated <= IN_FLIGHT + FIFTH_OF_A_SECOND, "{cost:?}");
    load.assert_within("something is delivered again", cost.idle, idle_max);
    second.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_repeats_what_was_under_way_and_at_most_a_fifth_of_a_second_of_work() {
    killed_and_restarted("crash", &[], IDLE_MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_that_comes_back_under_its_name_goes_on_at_once() {
    killed_and_restarted("crash-static", &["--instance-id", "worker-0"], IDLE_STATIC_MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_the_same_name_repeats_nothing_and_moves_no_partition() {
    const EVENTS: usize = 6_000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "restart-static", "1h", 4).await;
    let receiver = Receiver::start(|_| Answer::ok().after(LATENCY));
    stage.put([&integration("i", &receiver.url(""))]);
    let named = |name: &'static str| [&OPTIONS[..], &["--instance-id", name]].concat();
    let mut first = stage.worker(&named("worker-0")).await;
    let other = stage.worker(&named("worker-1")).await;
    wait_until("both to hold partitions", PATIENCE, async || {
        let metrics = [first.metrics().await, other.metrics().await];
        let held = metrics.map(|text| text.matches("hookstream_consumer_lag{").count());
        if held == [2, 2] { Ok(()) } else { Err(held) }
    })
    .await;
    let moved = other.metric("hookstream_rebalances_total", &[]).await;
    stage.send(events("e", EVENTS));
    receiver.wait_for(EVENTS / 3, PATIENCE).await;
    first.stop();
    let stopped = Instant::now();
    let again = stage.worker(&named("worker-0")).await;
    stage.settled(LONG).await;
    let cost = cost(&[&receiver], stopped);
    println!("restart under the same name: {cost:?}");
    assert_eq!((receiver.count(), cost.repeated), (EVENTS, 0));
    let read = again.metric("hookstream_events_total", &[]).await;
    let caught_up = again.metric("hookstream_backlog_records_read_total", &[]).await;
    assert!(read + caught_up > 0.0, "it has its partitions again");
    let moved_since = other.metric("hookstream_rebalances_total", &[]).await - moved;
    assert!(moved_since.abs() < 1e-9, "{moved_since} rebalances of the other worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_workers_with_one_name_ends_and_logs_the_reason() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "same-name", "1h", 2).await;
    let mut first = stage.worker(&["--instance-id", "worker-0"]).await;
    wait_until("the first to hold partitions", PATIENCE, async || {
        let text = first.metrics().await;
        if text.contains("hookstream_consumer_lag{") { Ok(()) } else { Err(text.len()) }
    })
    .await;
    let _second = stage.worker(&["--instance-id", "worker-0"]).await;
    let code = first.wait_exit(PATIENCE);
    assert_eq!(code, 1, "{}", first.lines().tail(20));
    first.logged(&["another process has this instance id"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_settled_while_another_receiver_hung_are_not_repeated() {
    const EVENTS: usize = 6_000;
    /// One event in this number is for the receiver that hangs: all of them are under way.
    const HANGS_EVERY: usize = 200;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "crash-hanging", "1h", 1).await;
    let hanging = Receiver::start(|_| Answer::ok().after(Duration::from_secs(10)));
    let good = Receiver::start(|_| Answer::ok().after(LATENCY));
    let of_type = |id: &str, url: String, entity: &str| {
        let mut integration = integration(id, &url);
        integration["webHooks"][0]["filter"] = json!({ "items": [{ "entityType": entity }] });
        integration
    };
    stage.put([&of_type("hanging", hanging.url(""), "contact"), &of_type("good", good.url(""), "company")]);
    let mut first = stage.worker(&OPTIONS).await;
    stage.send((0..EVENTS).map(|number| {
        let entity = if number % HANGS_EVERY == 0 { "contactId" } else { "companyId" };
        let value = json!({ "id": format!("e-{number}"), "type": "change", "entityIds": { entity: format!("c-{number}") },
            "changeData": { "type": "patch", "old": {}, "new": {} } });
        record(&format!("{number}"), value.to_string())
    }));
    let good_events = EVENTS - EVENTS / HANGS_EVERY;
    good.wait_for(good_events * 2 / 3, PATIENCE).await;
    first.sigkill();
    let killed = Instant::now();
    let at_kill = good.count();
    let second = stage.worker(&OPTIONS).await;
    good.wait_for(good_events, LONG).await;
    // The last event is read when all before it were, whether they were asked again or not.
    let is_last = |request: &Recorded| event_number(request) == EVENTS - 1;
    wait_until(
        "the last event",
        LONG,
        async || {
            if good.recorded().iter().any(is_last) { Ok(()) } else { Err(good.count()) }
        },
    )
    .await;
    let cost = cost(&[&good], killed);
    println!("crash with a receiver that hangs: killed after {at_kill} of {good_events}: {cost:?}");
    assert!(cost.repeated <= IN_FLIGHT + FIFTH_OF_A_SECOND, "{cost:?}");
    let read = second.metric("hookstream_events_total", &[]).await;
    assert!(read < 3_000.0, "{read} events were read again: commits waited for the receiver that hangs");
}
