//! Compares the prediction of `examples/sizing` for a load with a worker under that load, at two sizes.

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

use std::time::{Duration, Instant};

use crate::stage::{LONG, Stage, event, event_number, webhook};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Read, Record, ends, read_all};

#[path = "../../examples/sizing/constants.rs"]
mod constants;
#[path = "../../examples/sizing/model.rs"]
mod model;

use self::model::{Load, plan};

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
}

fn predicted(rate: usize) -> Taken {
    let plan = plan(&Load {
        events_per_second: rate as f64,
        event_bytes: one_event(0).value.map_or(0, |value| value.len()) as f64,
        webhooks: 2.0,
        webhooks_per_host: 2.0,
        matches_per_event: 2.0,
        dead: 0.0,
        slow: 0.0,
        failing: 1.0 / FAILING as f64,
        answer: ANSWER.as_secs_f64(),
        slow_answer: ANSWER.as_secs_f64(),
        request_timeout: 10.0,
        retention: 3_600.0,
        replicas: 1.0,
        worker_cores: 2.0,
        utilisation: 0.6,
        max_in_flight: 1_024.0,
    });
    Taken {
        // Requests under way are these times their duration, which here is one and the same.
        attempts: plan.in_flight / ANSWER.as_secs_f64(),
        first_tier: plan.tiers[0].records_per_second,
        second_tier: plan.tiers[1].records_per_second,
        bytes_written: plan.written_per_second,
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
        "{rate} events/s: {:.0} ms an attempt, {:.0} µs of processor each (this build), {:.0} MB",
        seconds * 1e3 / attempts,
        worker.cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6 / attempts,
        worker.memory() as f64 / 1e6
    );
    Taken {
        attempts: per_second(attempts),
        first_tier: per_second(records("1s")),
        second_tier: per_second(records("2s")),
        bytes_written: per_second(written as f64),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_what_the_model_of_sizing_says_at_two_sizes() {
    let cluster = Cluster::shared().await;
    for rate in [50, 200] {
        let (said, taken) = (predicted(rate), measured(&cluster, rate).await);
        println!("{rate} events/s: predicted {said:?}, measured {taken:?}");
        for (said, taken, what) in [
            (said.attempts, taken.attempts, "attempts"),
            (said.first_tier, taken.first_tier, "records of the first tier"),
            (said.second_tier, taken.second_tier, "records of the second tier"),
        ] {
            // What is sent decides about them, not how fast the machine is.
            assert!((0.9 * said..1.1 * said).contains(&taken), "{what} at {rate} events/s: {said} and {taken}");
        }
        // The model's headers are those of long names, so it is on the safe side, and not by much.
        let (said, taken) = (said.bytes_written, taken.bytes_written);
        assert!((0.6 * said..said).contains(&taken), "bytes written at {rate} events/s: {said} and {taken}");
    }
}
