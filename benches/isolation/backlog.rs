//! The cost of webhooks that are behind: memory while very many events wait for one slow webhook, and events that each go to thousands of
//! webhooks.

use std::time::Duration;

use super::common::farm::{Behaviour, Farm};
use super::common::figures::{Figure, median};
use super::common::integrations::event;
use super::common::options::Options;
use super::common::probe;
use super::support::records::{Record, produce};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};

const PARTITIONS: u16 = 12;
/// Nothing falls due while a round lasts.
const SCHEDULE: &str = "1h";
/// The pause before a worker's memory is read.
const REST: Duration = Duration::from_secs(5);
/// How long memory is watched while events wait.
const WATCHED: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Hosts of the many webhooks.
const HOSTS: usize = 50;
/// Webhooks of one integration: as many as a record may have.
const OF_INTEGRATION: usize = 1_000;

/// Memory with very many events in the log for one webhook that takes two requests a second, over the same worker without them.
pub(crate) async fn slow(brokers: &str, options: &Options) -> Vec<Figure> {
    let events = options.get("behind");
    let name = format!("memory with {events} events that wait for one slow webhook, over none");
    let mut over = Figure::new(&name, "MB", "48", "16");
    for round in 1..=3 {
        let names = Names::of("slow");
        names.create(brokers, SCHEDULE, PARTITIONS).await;
        let farm = Farm::start(0, 1, Behaviour::good(Duration::from_secs(8)), false);
        put(brokers, &names, &farm, 1, 1);
        let worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE, "--attempt-log", "off"]).await;
        tokio::time::sleep(REST).await;
        let (base, _) = probe::memory(worker.pid());
        produce(brokers, &names.events(), (0..events).map(for_all));
        let mut most: f64 = 0.0;
        let began = tokio::time::Instant::now();
        while began.elapsed() < WATCHED {
            most = most.max(probe::memory(worker.pid()).0);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let behind = worker.metric("hookstream_webhooks_behind", &[]).await;
        assert!(behind > 0.5, "the webhook is not behind");
        eprintln!("round {round}: {:.1} MB over {base:.1} MB", most - base);
        over.rounds.push(most - base);
    }
    vec![over]
}

/// Events for thousands of webhooks each: memory at its highest over rest, and processor time a delivery against that of as many events for
/// one webhook each.
pub(crate) async fn wide(brokers: &str, options: &Options) -> Vec<Figure> {
    let (events, webhooks) = (options.get("wide-events"), options.get("wide"));
    let name = format!("{events} events for {webhooks} webhooks each on {HOSTS} hosts");
    let mut over = Figure::new(&format!("{name}: memory over rest"), "MB", "120", "60");
    let mut cpu = Figure::new("the same: processor time a delivery", "µs", "", "");
    let mut single = Figure::new("as many deliveries of an event for one webhook each", "µs", "", "");
    let mut ratio = Figure::new("the one against the other", "×", "1.3", "1.1");
    for round in 1..=3 {
        let (memory, of_wide) = deliver(brokers, events, webhooks).await;
        let (_, of_single) = deliver(brokers, events * webhooks, 1).await;
        eprintln!("round {round}: {memory:.1} MB, {of_wide:.1} and {of_single:.1} µs");
        over.rounds.push(memory);
        cpu.rounds.push(of_wide);
        single.rounds.push(of_single);
    }
    ratio.rounds.push(median(&cpu.rounds) / median(&single.rounds));
    vec![over, cpu, single, ratio]
}

/// Delivers this number of events to this number of webhooks each. Returns the highest memory over rest, in MB, and processor time a delivery, in µs.
async fn deliver(brokers: &str, events: usize, webhooks: usize) -> (f64, f64) {
    let names = Names::of("wide");
    names.create(brokers, SCHEDULE, PARTITIONS).await;
    let farm = Farm::start(0, HOSTS, Behaviour::good(Duration::ZERO), false);
    put(brokers, &names, &farm, webhooks, HOSTS);
    let worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE, "--attempt-log", "off"]).await;
    tokio::time::sleep(REST).await;
    let ((base, _), before) = (probe::memory(worker.pid()), worker.cpu_time());
    produce(brokers, &names.events(), (0..events).map(for_all));
    let deliveries = events * webhooks;
    wait_until("all deliveries", PATIENCE, async || {
        let seen = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
        if seen >= deliveries as f64 { Ok(()) } else { Err(seen) }
    })
    .await;
    let cpu = worker.cpu_time() - before;
    let (_, highest) = probe::memory(worker.pid());
    (highest - base, cpu.as_secs_f64() * 1e6 / deliveries as f64)
}

fn for_all(number: usize) -> Record {
    Record::new(format!("c{number}"), event(number, "company", 1024)).header("workspace", "ws0")
}

/// Webhooks that match every event, spread over this number of receivers of the farm.
fn put(brokers: &str, names: &Names, farm: &Farm, webhooks: usize, hosts: usize) {
    let webhook = |number: usize| {
        let url = format!("http://{}/hook", farm.address(number % hosts));
        serde_json::json!({ "id": format!("w{number}"), "relativeUrl": url, "triggerType": "entityEvent", "filter": { "items": [{}] } })
    };
    let integrations = (0..webhooks.div_ceil(OF_INTEGRATION)).map(|integration| {
        let first = integration * OF_INTEGRATION;
        let webhooks: Vec<_> = (first..webhooks.min(first + OF_INTEGRATION)).map(webhook).collect();
        Record::new(format!("ws0/i{integration}"), serde_json::json!({ "webHooks": webhooks }).to_string())
    });
    produce(brokers, &names.integrations(), integrations);
}
