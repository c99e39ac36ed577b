//! Compares the predictions of `examples/sizing` with workers, each at two sizes.
//!
//! A machine's speed decides about processor time. So what a worker takes at one size, and the model's ratio of the two, say what is expected at
//! the other. The rest is compared as it is: records, bytes, memory, and the time that a crash is felt, for which limits are set so low that they
//! decide and not the machine.

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::isolation::Hosts;
use crate::stage::{LONG, Stage, event, event_number, events, integration, webhook};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Read, Record, ends, read_all};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::Worker;

#[path = "../../examples/sizing/constants.rs"]
mod constants;
#[path = "../../examples/sizing/model.rs"]
mod model;

#[expect(dead_code, reason = "the benchmark that shares it makes events, too")]
#[path = "../../benches/common/integrations.rs"]
mod population;

use self::model::{Load, plan};
use self::population::Population;

/// The first two delays fall due within a run, later ones hardly ever have a record.
const SCHEDULE: &str = "1s,2s,4s";
/// One attempt in this number fails.
const FAILING: usize = 10;
const ANSWER: Duration = Duration::from_millis(250);
const SECONDS: usize = 10;

/// The measured or predicted use of a worker in a second.
#[derive(Debug)]
struct Taken {
    attempts: f64,
    first_tier: f64,
    second_tier: f64,
    /// Of records in the events topic and the tiers, before compression.
    bytes_written: f64,
    /// Processor seconds beyond those of a worker that has nothing to do.
    cores: f64,
}

/// Healthy receivers, one webhook.
fn load(rate: usize) -> Load {
    Load {
        events_per_second: rate as f64,
        event_bytes: one_event(0).value.map_or(0, |value| value.len()) as f64,
        webhooks: 1.0,
        webhooks_per_host: 1.0,
        matches_per_event: 1.0,
        dead: 0.0,
        slow: 0.0,
        failing: 0.0,
        answer: ANSWER.as_secs_f64(),
        slow_answer: ANSWER.as_secs_f64(),
        request_timeout: 10.0,
        retention: 3_600.0,
        replicas: 1.0,
        worker_cores: 2.0,
        utilisation: 0.6,
        max_in_flight: 1_024.0,
    }
}

fn predicted(rate: usize) -> Taken {
    let failing = 1.0 / FAILING as f64;
    let plan = plan(&Load { webhooks: 2.0, webhooks_per_host: 2.0, matches_per_event: 2.0, failing, ..load(rate) });
    Taken {
        // Requests under way are these times their duration, which here is one and the same.
        attempts: plan.in_flight / ANSWER.as_secs_f64(),
        first_tier: plan.tiers[0].records_per_second,
        second_tier: plan.tiers[1].records_per_second,
        bytes_written: plan.written_per_second,
        cores: plan.cores,
    }
}

fn one_event(number: usize) -> Record {
    event(&format!("e-{number}"), &format!("c-{number}"))
}

/// Key, value and headers.
fn bytes_of(records: &[Read]) -> usize {
    let bytes = |one: &Read| {
        let headers: usize = one.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        one.key.as_ref().map_or(0, Vec::len) + one.value.as_ref().map_or(0, Vec::len) + headers
    };
    records.iter().map(bytes).sum()
}

async fn measured(cluster: &Cluster, rate: usize) -> Taken {
    let stage = Stage::on(cluster, "sizing", SCHEDULE, 4).await;
    let receiver = Receiver::forgetful(|request| {
        // The last digit decides about the first attempt, the one before it about the second.
        let digit = event_number(request) / FAILING.pow(request.attempt() - 1) % FAILING;
        let answer = if digit == 0 { Answer::status(500) } else { Answer::ok() };
        answer.after(ANSWER)
    });
    let integration = serde_json::json!({ "id": "i", "baseUrl": receiver.url(""), "webHooks":
        [webhook("one", "/one"), webhook("two", "/two")] });
    stage.put([&integration]);
    // Room for the rate: the limit of a webhook must not be what is measured.
    let worker = stage.worker(&["--max-in-flight-per-webhook", "256"]).await;
    // Without a load for as long.
    let cpu = worker.cpu_time();
    tokio::time::sleep(Duration::from_secs(SECONDS as u64)).await;
    let idle = worker.cpu_time().saturating_sub(cpu);
    let (began, cpu) = (Instant::now(), worker.cpu_time());
    for second in 0..SECONDS {
        let numbers = second * rate..(second + 1) * rate;
        tokio::task::block_in_place(|| stage.send(numbers.map(one_event)));
        tokio::time::sleep((began + Duration::from_secs(second as u64 + 1)).saturating_duration_since(Instant::now()))
            .await;
    }
    stage.settled(LONG).await;
    for delay in ["1s", "2s", "4s"] {
        stage.tier_settled(delay, LONG).await;
    }
    let cpu = worker.cpu_time().saturating_sub(cpu);
    let cores =
        (cpu.as_secs_f64() - idle.mul_f64(began.elapsed().as_secs_f64() / SECONDS as f64).as_secs_f64()).max(0.0);
    let records = |delay| ends(cluster.brokers(), &stage.names.tier(delay)).values().sum::<i64>() as f64;
    let per_second = |count: f64| count / SECONDS as f64;
    let written = ["1s", "2s", "4s"]
        .map(|delay| stage.tier(delay))
        .into_iter()
        .chain([read_all(cluster.brokers(), &stage.names.events())]);
    let written: usize = written.map(|records| bytes_of(&records)).sum();
    let attempts = worker.metric("hookstream_attempts_total", &[]).await;
    let seconds = worker.metric("hookstream_attempt_duration_seconds_sum", &[]).await;
    println!(
        "{rate} events/s: {:.0} ms an attempt, {:.0} µs of processor each (this build), {:.1} ms a second without a load, {:.0} MB",
        seconds * 1e3 / attempts,
        cores * 1e6 / attempts,
        idle.as_secs_f64() * 1e3 / SECONDS as f64,
        worker.memory() as f64 / 1e6
    );
    Taken {
        attempts: per_second(attempts),
        first_tier: per_second(records("1s")),
        second_tier: per_second(records("2s")),
        bytes_written: per_second(written as f64),
        cores: per_second(cores),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_uses_what_the_sizing_model_predicts_at_two_rates() {
    let cluster = Cluster::shared().await;
    let mut cores = Vec::new();
    for rate in [50, 200] {
        let (said, taken) = (predicted(rate), measured(&cluster, rate).await);
        println!("{rate} events/s: predicted {said:?}, measured {taken:?}");
        for (said, counted, what) in [
            (said.attempts, taken.attempts, "attempts"),
            (said.first_tier, taken.first_tier, "records of the first tier"),
            (said.second_tier, taken.second_tier, "records of the second tier"),
        ] {
            // What is sent decides about them, not how fast the machine is.
            assert!((0.9 * said..1.1 * said).contains(&counted), "{what} at {rate} events/s: {said} and {counted}");
        }
        // The model's headers are those of long names, so it is on the safe side, and not by much.
        let (said_cores, said, taken_bytes) = (said.cores, said.bytes_written, taken.bytes_written);
        assert!(
            (0.6 * said..said).contains(&taken_bytes),
            "bytes written at {rate} events/s: {said} and {taken_bytes}"
        );
        cores.push((said_cores, taken.cores));
    }
    let [(said_small, small), (said_large, large)] = cores[..] else { panic!("two sizes") };
    let expected = small * said_large / said_small;
    println!("processor: {small:.4} cores at the smaller rate, so {expected:.4} at the larger; it took {large:.4}");
    // More events at a time are cheaper each. If they became dearer with the rate, the plan would be too small.
    assert!((small..1.3 * expected).contains(&large), "{large} cores, not {expected}");
}

/// Memory that is not in use goes back to the system at once, so that what is resident is what is held.
const MEMORY_IN_USE: [(&str, &str); 3] = [
    ("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "0"),
];

#[track_caller]
fn assert_grows(what: &str, said: [f64; 2], taken: [f64; 2]) {
    let (said, taken) = (said[1] - said[0], taken[1] - taken[0]);
    println!("{what}: {:.1} MB more by the model, {:.1} MB counted", said / 1e6, taken / 1e6);
    assert!((0.5 * said..1.5 * said).contains(&taken), "{what}: {said} and {taken} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_grows_with_kept_connections_as_the_model_of_sizing_says() {
    const SIZES: [usize; 2] = [200, 800];
    let cluster = Cluster::shared().await;
    let (mut said, mut taken) = ([0.0; 2], [0.0; 2]);
    for (place, hosts) in SIZES.into_iter().enumerate() {
        let stage = Stage::on(&cluster, "sizing-connections", SCHEDULE, 1).await;
        let receivers = Hosts::start().await;
        let integrations: Vec<_> =
            (0..hosts).map(|number| integration(&format!("i{number}"), &receivers.url(number))).collect();
        stage.put(&integrations);
        let worker = stage.worker_in(&MEMORY_IN_USE, &[]).await;
        stage.send(events("e", 1));
        stage.settled(LONG).await;
        let acknowledged = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
        assert!((acknowledged - hosts as f64).abs() < 0.5, "{acknowledged}");
        taken[place] = worker.memory() as f64;
        said[place] = plan(&Load { webhooks: hosts as f64, ..load(1) }).memory;
    }
    assert_grows("connections", said, taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_the_start_grow_with_webhooks_as_the_model_of_sizing_says() {
    const SIZES: [usize; 2] = [20_000, 80_000];
    let cluster = Cluster::shared().await;
    let (mut said, mut taken, mut start) = ([0.0; 2], [0.0; 2], [(0.0, 0.0); 2]);
    for (place, webhooks) in SIZES.into_iter().enumerate() {
        let stage = Stage::on(&cluster, "sizing-webhooks", SCHEDULE, 1).await;
        let population = Population { webhooks, integrations: webhooks / 10, workspaces: 1_000 };
        stage.put_records(population.records().map(|(key, value)| Record::new(key, value)));
        let worker = stage.worker_in(&MEMORY_IN_USE, &[]).await;
        stage.knows(&worker, "hookstream_webhooks", &[], webhooks as f64).await;
        let plan = plan(&Load { webhooks: webhooks as f64, webhooks_per_host: webhooks as f64, ..load(1) });
        start[place] = (plan.bootstrap, worker.cpu_time().as_secs_f64());
        (said[place], taken[place]) = (plan.memory, worker.memory() as f64);
    }
    assert_grows("webhooks", said, taken);
    let [(said_small, small), (said_large, large)] = start;
    let expected = small * said_large / said_small;
    println!(
        "start: {small:.2} s of processor for the smaller table, so {expected:.2} for the larger; it took {large:.2}"
    );
    // A start has a part that does not depend on the table.
    assert!((0.4 * expected..1.3 * expected).contains(&large), "{large} s, not {expected}");
}

/// A crash of one of two workers, as it was seen outside of them.
#[derive(Debug)]
struct Felt {
    /// From the kill until the next of its events comes.
    idle: Duration,
    /// From the kill until the last event that is late.
    caught_up: Duration,
    /// Seconds that an attempt took in the worker that is left.
    attempt: f64,
}

/// Kills one of two workers that share `rate` and may make `max_in_flight` requests each.
async fn felt(cluster: &Cluster, rate: usize, answer: Duration, max_in_flight: &str) -> Felt {
    const BEFORE: Duration = Duration::from_secs(3);
    const AFTER: Duration = Duration::from_secs(22);
    /// An event that comes later than this after it was sent is late. No partition moves in a shorter time after a kill.
    const LATE: Duration = Duration::from_secs(2);
    let stage = Stage::on(cluster, "sizing-failover", SCHEDULE, 12).await;
    let receiver = Receiver::start(move |_| Answer::ok().after(answer));
    stage.put([&integration("i", &receiver.url(""))]);
    let options = ["--max-in-flight", max_in_flight, "--max-in-flight-per-webhook", max_in_flight];
    let (mut first, second) = (stage.worker(&options).await, stage.worker(&options).await);
    share(&first, &second).await;
    let (mut sent, mut killed) = (Vec::new(), None);
    let count = usize::try_from((BEFORE + AFTER).as_secs()).expect("seconds") * rate;
    let began = Instant::now();
    let paced = (0..count).map(|number| {
        std::thread::sleep(Duration::from_secs_f64(number as f64 / rate as f64).saturating_sub(began.elapsed()));
        if killed.is_none() && began.elapsed() > BEFORE {
            first.sigkill();
            killed = Some(Instant::now());
        }
        sent.push(Instant::now());
        one_event(number)
    });
    tokio::task::block_in_place(|| stage.send(paced));
    stage.settled(LONG).await;
    let mut came: HashMap<usize, Instant> = HashMap::new();
    for request in receiver.recorded() {
        came.entry(event_number(&request)).or_insert(request.arrived);
    }
    assert_eq!(came.len(), count, "each was delivered");
    let killed = killed.expect("one was killed");
    let is_late = |(number, at): &(usize, Instant)| at.saturating_duration_since(sent[*number].max(killed)) > LATE;
    let late: Vec<Instant> = came.into_iter().filter(is_late).map(|(_, at)| at).collect();
    let (first, last) = (late.iter().min().expect("some are late"), late.iter().max().expect("some are late"));
    let seconds = second.metric("hookstream_attempt_duration_seconds_sum", &[]).await;
    let attempts = second.metric("hookstream_attempts_total", &[]).await;
    Felt { idle: *first - killed, caught_up: *last - killed, attempt: seconds / attempts }
}

/// Waits until each of two workers has half of twelve partitions.
async fn share(first: &Worker, second: &Worker) {
    wait_until("both to have six partitions", PATIENCE, async || {
        let metrics = [first.metrics().await, second.metrics().await];
        let held = metrics.map(|text| text.matches("hookstream_consumer_lag{").count());
        if held == [6, 6] { Ok(()) } else { Err(held) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_felt_for_as_long_as_the_model_of_sizing_says_at_two_rates() {
    /// Requests at once in a worker: few, so that they decide how fast one worker makes up for two.
    const MAX_IN_FLIGHT: u8 = 96;
    /// Long, so that what the machine adds to it counts little.
    const ANSWER: Duration = Duration::from_millis(500);
    let cluster = Cluster::shared().await;
    for rate in [40, 80] {
        let said = |answer: f64| {
            let max_in_flight = f64::from(MAX_IN_FLIGHT);
            let plan = plan(&Load { max_in_flight, answer, utilisation: 0.9, ..load(rate) });
            assert_eq!(plan.workers, 2, "{plan:?}");
            plan.failover
        };
        let felt = felt(&cluster, rate, ANSWER, &MAX_IN_FLIGHT.to_string()).await;
        // The machine decides how long nothing comes and what it adds to an answer. What has to be made up for, and how fast, follows from both.
        let expected = said(felt.attempt) * felt.idle.as_secs_f64() / constants::FAILOVER_SECONDS;
        println!(
            "a crash at {rate} events/s: {:.1} s by the model; {felt:.2?}, so {expected:.1} s",
            said(ANSWER.as_secs_f64())
        );
        let counted = felt.caught_up.as_secs_f64();
        assert!(
            (0.7 * expected..1.3 * expected).contains(&counted),
            "at {rate} events/s: {expected} s and {counted} s"
        );
    }
}
