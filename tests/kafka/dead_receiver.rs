//! The cost of a receiver that gets events and never answers: the figures of `docs/dead-receivers.md`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::records::{Read, Record, produce, read_all};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{Names, Worker};

const SCHEDULE: &str = "1s,2s,4s";
/// Events a second.
const RATE: usize = 200;
/// Events of a window: what comes within five seconds.
const WINDOW_EVENTS: f64 = 1_000.0;
const WORKERS: usize = 2;
/// The product's: failures in a row that open a circuit, and requests under way to one webhook.
const FAILURES_TO_OPEN: usize = 20;
const IN_FLIGHT_MAX: usize = 16;

/// Writes events as fast as `RATE` until it is stopped; returns how many there were.
async fn feed(brokers: String, topic: String, stop: tokio_util::sync::CancellationToken) -> usize {
    let began = Instant::now();
    let mut sent = 0;
    while !stop.is_cancelled() {
        let due = usize::try_from(began.elapsed().as_millis()).unwrap() * RATE / 1_000;
        let events = (sent..due).map(|number| {
            let event = json!({ "id": format!("e-{number}"), "type": "change",
                "entityIds": { "companyId": format!("c-{number}") }, "changeData": { "type": "patch" } });
            Record::new(format!("c-{number}"), event.to_string()).header("workspace", "w")
        });
        let (brokers, topic, events) = (brokers.clone(), topic.clone(), events.collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || produce(&brokers, &topic, events)).await.unwrap();
        sent = due;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sent
}

/// Sums of a moment over all workers.
#[derive(Clone, Copy, Debug)]
struct Sums {
    requests: usize,
    retries: f64,
    dropped: f64,
    at: Instant,
}

async fn sums(workers: &[Worker], receiver: &Receiver) -> Sums {
    let mut sums = Sums { requests: receiver.count(), retries: 0.0, dropped: 0.0, at: Instant::now() };
    for worker in workers {
        sums.retries += worker.metric("hookstream_retries_total", &[]).await;
        sums.dropped += worker.metric("hookstream_dropped_total", &[("reason", "suspended")]).await;
    }
    sums
}

/// The sums once the workers have taken this many more events.
async fn after_events(workers: &[Worker], receiver: &Receiver, events: f64) -> Sums {
    let taken = async || {
        let mut taken = 0.0;
        for worker in workers {
            taken += worker.metric("hookstream_events_total", &[]).await;
        }
        taken
    };
    let before = taken().await;
    wait_until("more events to be read", PATIENCE, async || {
        let more = taken().await - before;
        if more >= events { Ok(()) } else { Err(more) }
    })
    .await;
    sums(workers, receiver).await
}

/// The most probes of `workers` in this time: after 1, 2, 4, 8 and then every 10 s, and one that was due when it began.
fn probes_max(time: Duration) -> usize {
    WORKERS * (5 + usize::try_from(time.as_secs() / 10).unwrap())
}

fn rate(from: f64, to: f64, between: Duration) -> f64 {
    (to - from) / between.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_costs_a_bounded_number_of_requests_sockets_and_records() {
    let cluster = Cluster::shared().await;
    let (brokers, names) = (cluster.brokers(), Names::of("dead-receiver"));
    names.create(brokers, SCHEDULE, 4).await;
    let receiver = Receiver::start(|_| Answer::misbehave(Misbehaviour::Hang));
    let integration = json!({ "id": "i", "status": "active", "webHooks": [{ "id": "h", "relativeUrl": receiver.url("/hidden?hidden=1"),
        "triggerType": "entityEvent", "filter": { "items": [{}] } }] });
    produce(brokers, &names.integrations(), [Record::new("w/i", integration.to_string())]);
    let options = ["--retry-schedule", SCHEDULE, "--request-timeout", "2s"];
    let suspension = ["--suspend-after", "20s", "--suspend-after-failures", "30"];
    let options = [&options[..], &suspension].concat();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::start(brokers, &names, &options).await);
    }
    let (stop, began) = (tokio_util::sync::CancellationToken::new(), Instant::now());
    let feeding = tokio::spawn(feed(brokers.to_owned(), names.events(), stop.clone()));

    // Open circuits.
    wait_until("open circuits at all workers", PATIENCE, async || {
        let mut open = 0.0;
        for worker in &workers {
            open += worker.metric("hookstream_circuits", &[("state", "open")]).await;
        }
        if open > 1.5 { Ok(()) } else { Err(open) }
    })
    .await;
    // The log names the receiver and the fault; the rest of the URL may be a secret.
    let origin = receiver.url("");
    for worker in &workers {
        let of_it = |line: &str| line.contains(&origin) && line.contains("no answer within 2s");
        let names_it = |line: &str| (line.contains("a host's circuit opened") && of_it(line)).then_some(());
        assert!(worker.lines().find(PATIENCE, names_it).is_some(), "{}", worker.lines().tail(20));
        assert!(!worker.lines().all().join("\n").contains("hidden"), "{}", worker.lines().tail(20));
    }
    // What was under way when they opened is through, and a window holds events enough for a failing delivery to show.
    let open = after_events(&workers, &receiver, WINDOW_EVENTS).await;
    let later = after_events(&workers, &receiver, WINDOW_EVENTS).await;
    let between = later.at - open.at;
    let probes = later.requests - open.requests;
    let retries = rate(open.retries, later.retries, between);
    println!("open: {} requests before, {probes} in {between:?}, {retries:.0} retry records/s", open.requests);
    println!("sockets: {} connections, {} at once", receiver.connections(), receiver.under_way_max());
    // What is under way when the last failure counts ends as it began.
    let before_open = WORKERS * (FAILURES_TO_OPEN + IN_FLIGHT_MAX);
    assert!(receiver.under_way_max() <= WORKERS * IN_FLIGHT_MAX, "{}", receiver.under_way_max());
    assert!(open.requests <= before_open + probes_max(open.at - began), "{open:?}");
    assert!(probes <= probes_max(between), "{open:?} {later:?}");
    assert!(retries < 10.0, "only what is requested and fails waits in a tier: {retries} records/s");

    // Suspended.
    wait_until("the suspension", PATIENCE, async || {
        let states: Vec<_> = read_all(brokers, &names.health()).iter().map(Read::json).collect();
        if states.iter().any(|state| state["status"] == "failed") { Ok(()) } else { Err(states) }
    })
    .await;
    // Every worker obeys once it drops, and what was under way then has ended.
    wait_until("drops by all workers", PATIENCE, async || {
        let mut dropping = 0;
        for worker in &workers {
            let dropped = worker.metric("hookstream_dropped_total", &[("reason", "suspended")]).await;
            dropping += usize::from(dropped > 0.0);
        }
        equal(dropping, &WORKERS).map(drop)
    })
    .await;
    let suspended = after_events(&workers, &receiver, WINDOW_EVENTS).await;
    let later = after_events(&workers, &receiver, WINDOW_EVENTS).await;
    let between = later.at - suspended.at;
    let dropped = rate(suspended.dropped, later.dropped, between);
    println!("suspended: {} requests in all, {dropped:.0} drops/s", later.requests);
    assert_eq!(suspended.requests, later.requests, "not even probes");
    assert!((later.retries - suspended.retries).abs() < 0.1, "{suspended:?} {later:?}");
    assert!(dropped > 0.0);
    stop.cancel();
    let sent = feeding.await.unwrap();
    println!("{sent} events, {} requests", receiver.count());
    assert!(receiver.count() <= before_open + probes_max(began.elapsed()));
}
