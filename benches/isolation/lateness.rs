//! How late retries are that fall due at a steady rate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::common::farm::{Behaviour, Farm};
use super::common::figures::{Figure, percentile};
use super::common::integrations::event;
use super::common::options::Options;
use super::support::records::{Record, produce, read_all};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};

const PARTITIONS: u16 = 12;
/// The tier's delay.
const TIER: Duration = Duration::from_secs(10);
const SCHEDULE: &str = "10s";
/// How long retries are written, and for how long they then fall due.
const LASTS: Duration = Duration::from_secs(20);
const RECEIVERS: usize = 100;
/// Retries written in the first seconds do not count: the producer connects meanwhile and then writes at once what is late,
/// and the worker has no connection yet.
const UNCOUNTED: Duration = Duration::from_secs(2);

pub(crate) async fn measure(brokers: &str, options: &Options) -> Vec<Figure> {
    let rate = options.get("retries");
    let mut p50 = Figure::new(&format!("retry lateness p50, {rate} retries/s falling due"), "ms", "", "");
    let mut p99 = Figure::new(&format!("retry lateness p99, {rate} retries/s falling due"), "ms", "250", "50");
    let mut worst = Figure::new("the latest of them", "ms", "", "");
    for round in 1..=3 {
        let lateness = round_of(brokers, rate).await;
        assert!(lateness.iter().all(|ms| *ms >= 0.0), "a retry came before it was due");
        p50.rounds.push(percentile(&lateness, 0.5));
        p99.rounds.push(percentile(&lateness, 0.99));
        worst.rounds.push(percentile(&lateness, 1.0));
        eprintln!("round {round}: p50 {:.1}, p99 {:.1} ms late", p50.rounds[round - 1], p99.rounds[round - 1]);
    }
    vec![p50, p99, worst]
}

/// ms from when each retry was due, by the broker's clock in its record, to when its receiver had it.
async fn round_of(brokers: &str, rate: usize) -> Vec<f64> {
    let names = Names::of("late");
    names.create(brokers, SCHEDULE, PARTITIONS).await;
    let farm = Farm::start(0, RECEIVERS, Behaviour::good(Duration::ZERO), true);
    let integrations = (0..RECEIVERS).map(|number| {
        let value = serde_json::json!({
            "baseUrl": format!("http://{}", farm.address(number)),
            "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
        });
        Record::new(format!("ws{number}/i{number}"), value.to_string())
    });
    produce(brokers, &names.integrations(), integrations);
    let mut worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE, "--attempt-log", "off"]).await;
    let total = rate * LASTS.as_secs() as usize;
    let (to, tier) = (brokers.to_owned(), names.tier("10s"));
    let writing = tokio::task::spawn_blocking(move || produce(&to, &tier, retries(rate, total)));
    writing.await.expect("the producer does not panic");
    wait_until("retries", PATIENCE, async || {
        let seen = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
        if seen >= total as f64 { Ok(()) } else { Err(seen) }
    })
    .await;
    worker.stop();
    let appended: HashMap<_, _> = read_all(brokers, &names.tier("10s"))
        .into_iter()
        .map(|record| (record.header("hookstream-delivery-id").unwrap_or_default().to_owned(), record.timestamp))
        .collect();
    let due = |id: &str| {
        appended.get(id).copied().flatten().expect("every retry was written") as f64 + TIER.as_millis() as f64
    };
    let seen = farm.seen();
    let counting = seen.iter().filter(|seen| number_of(&seen.delivery_id) >= rate * UNCOUNTED.as_secs() as usize);
    counting.map(|seen| seen.arrived_ns as f64 / 1e6 - due(&seen.delivery_id)).collect()
}

fn retries(rate: usize, total: usize) -> impl Iterator<Item = Record> {
    let began = Instant::now();
    (0..total).map(move |number| {
        std::thread::sleep(Duration::from_secs_f64(number as f64 / rate as f64).saturating_sub(began.elapsed()));
        let partition = i32::try_from(number % usize::from(PARTITIONS)).expect("small");
        retry(number, number % RECEIVERS).in_partition(partition)
    })
}

/// The number of the retry with this delivery id: see [`retry`].
fn number_of(delivery_id: &str) -> usize {
    usize::from_str_radix(delivery_id.trim_start_matches("msg_"), 16).expect("a delivery id of this benchmark")
}

/// A retry of an event to the webhook of integration `integration`, as a worker writes it.
pub(crate) fn retry(number: usize, integration: usize) -> Record {
    Record::new("w", event(number, "company", 1024))
        .header("workspace", format!("ws{integration}"))
        .header("hookstream-integration-id", format!("i{integration}"))
        .header("hookstream-webhook-id", "w")
        .header("hookstream-delivery-id", format!("msg_{number:032x}"))
        .header("hookstream-attempt", "1")
        .header("hookstream-first-attempt-ms", "1700000000000")
        .header("hookstream-due-ms", "1700000030000")
        .header("hookstream-origin", format!("crm.object-events/{}/{number}", number % 12))
        .header("hookstream-error", "status")
        .header("hookstream-status", "500")
        .header("hookstream-event-ms", "1700000000000")
}
