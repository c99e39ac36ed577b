//! 99 good receivers with one that hangs, and without it, in turn.

use std::time::{Duration, Instant};

use super::common::farm::{Behaviour, Farm, now_ns};
use super::common::figures::{Figure, percentile};
use super::common::integrations::event;
use super::common::options::Options;
use super::support::records::{Record, produce};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};

/// Receivers; the last is the one that hangs.
const RECEIVERS: usize = 100;
const PARTITIONS: u16 = 12;
/// Tiers of a minute and more: nothing falls due while a round lasts.
const SCHEDULE: &str = "1h";
/// The length of one latency round: long enough to see a hanging receiver's first time-outs (10 s) and its open circuit.
const LATENCY_ROUND: Duration = Duration::from_secs(20);
/// How long a good receiver takes to answer.
const GOOD_LATENCY: Duration = Duration::from_millis(5);

/// One round: topics, receivers and a worker of its own.
struct Round {
    names: Names,
    farm: Farm,
}

impl Round {
    async fn prepare(brokers: &str, latency: Duration, remember: bool) -> Self {
        let names = Names::of("hang");
        names.create(brokers, SCHEDULE, PARTITIONS).await;
        let farm =
            Farm::start(0, RECEIVERS, Behaviour { hang_from: RECEIVERS - 1, ..Behaviour::good(latency) }, remember);
        let integrations = (0..RECEIVERS).map(|number| {
            let value = serde_json::json!({
                "baseUrl": format!("http://{}", farm.address(number)),
                "secrets": [{"id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}],
                "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
            });
            Record::new(format!("ws{number}/i{number}"), value.to_string())
        });
        produce(brokers, &names.integrations(), integrations);
        Self { names, farm }
    }

    async fn worker(&self, brokers: &str) -> Worker {
        Worker::start(brokers, &self.names, &["--retry-schedule", SCHEDULE, "--attempt-log", "off"]).await
    }
}

fn record(number: usize, receiver: usize, value: String) -> Record {
    Record::new(format!("c{number}"), value)
        .header("workspace", format!("ws{receiver}"))
        .in_partition(i32::try_from(number % usize::from(PARTITIONS)).expect("small"))
}

/// A backlog, caught up with: good deliveries a second, and what one costs the worker.
///
/// Receivers take their time to answer, so that places for requests are scarce, and the rate shows a worker that leaves one idle.
/// With receivers as fast as the machine the rate shows how busy the machine is: it moved by a fifth from round to round.
pub(crate) async fn throughput(brokers: &str, options: &Options) -> Vec<Figure> {
    let mut without = Figure::new("99 good receivers, deliveries a second", "/s", "", "");
    let mut with = Figure::new("the same while one hangs", "/s", "", "");
    let mut ratio =
        Figure::new("throughput of 99 good receivers while one hangs, against without it", "", "0.97", "0.99");
    let mut cost =
        Figure::new("good deliveries per core-second of the worker while one hangs, against without", "", "", "");
    for round in 1..=options.get("rounds") {
        // The first of one round is the second of the next.
        let (mut pair, order) = ([(0.0, 0.0); 2], [round % 2 == 0, round % 2 == 1]);
        for hangs in order {
            pair[usize::from(hangs)] = throughput_round(brokers, options, hangs).await;
        }
        without.rounds.push(pair[0].0);
        with.rounds.push(pair[1].0);
        ratio.rounds.push(pair[1].0 / pair[0].0);
        cost.rounds.push(pair[0].1 / pair[1].1);
        eprintln!(
            "round {round}: {:.0}/s without, {:.0}/s with one that hangs: {:.3}; {:.1} and {:.1} µs a delivery",
            pair[0].0,
            pair[1].0,
            pair[1].0 / pair[0].0,
            pair[0].1,
            pair[1].1
        );
    }
    vec![without, with, ratio, cost]
}

/// Good deliveries a second, and the worker's processor time for each in µs.
async fn throughput_round(brokers: &str, options: &Options, hangs: bool) -> (f64, f64) {
    let (events, answer) = (options.get("events"), Duration::from_millis(options.get("answer-ms") as u64));
    let round = Round::prepare(brokers, answer, false).await;
    let receivers = if hangs { RECEIVERS } else { RECEIVERS - 1 };
    // The good ones get the same events in both; what the hanging one gets comes on top, evenly between.
    let mut good = 0;
    let records = (0_usize..).map_while(|number| {
        let receiver = number % receivers;
        good += usize::from(receiver < RECEIVERS - 1);
        (good <= events).then(|| record(number, receiver, event(number, "company", 1024)))
    });
    produce(brokers, &round.names.events(), records);
    let mut worker = round.worker(brokers).await;
    let first = acknowledged(&worker, events as f64 * 0.05).await;
    let cpu_first = worker.cpu_time();
    let last = acknowledged(&worker, events as f64).await;
    let cpu = worker.cpu_time() - cpu_first;
    worker.sigkill();
    let delivered = last.0 - first.0;
    (delivered / (last.1 - first.1).as_secs_f64(), cpu.as_secs_f64() * 1e6 / delivered)
}

/// How many deliveries were acknowledged, and when, once they are `count`.
async fn acknowledged(worker: &Worker, count: f64) -> (f64, Instant) {
    wait_until("deliveries", 3 * PATIENCE, async || {
        let seen = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
        if seen >= count { Ok((seen, Instant::now())) } else { Err(seen) }
    })
    .await
}

/// Events at a steady rate: from the producer to a good receiver.
pub(crate) async fn latency(brokers: &str, options: &Options) -> Vec<Figure> {
    let rate = options.get("rate");
    let name = |what: &str, share: &str| format!("{share} latency, {rate} events/s to 100 receivers, {what}");
    let mut without = Figure::new(&name("all good", "p99"), "ms", "", "");
    let mut with = Figure::new(&name("one hangs", "p99"), "ms", "", "");
    let mut ratio = Figure::new("p99 latency of the 99 while one hangs, against without it", "×", "1.2", "1.05");
    for round in 1..=options.get("rounds") {
        let (mut pair, order) = ([0.0; 2], [round % 2 == 0, round % 2 == 1]);
        for hangs in order {
            pair[usize::from(hangs)] = latency_round(brokers, rate, hangs).await;
        }
        without.rounds.push(pair[0]);
        with.rounds.push(pair[1]);
        ratio.rounds.push(pair[1] / pair[0]);
        eprintln!(
            "round {round}: p99 {:.1} ms without, {:.1} ms with one that hangs: ×{:.2}",
            pair[0],
            pair[1],
            pair[1] / pair[0]
        );
    }
    vec![without, with, ratio]
}

async fn latency_round(brokers: &str, rate: usize, hangs: bool) -> f64 {
    let round = Round::prepare(brokers, GOOD_LATENCY, true).await;
    let mut worker = round.worker(brokers).await;
    let receivers = if hangs { RECEIVERS } else { RECEIVERS - 1 };
    let (brokers, topic) = (brokers.to_owned(), round.names.events());
    let total = rate * LATENCY_ROUND.as_secs() as usize;
    let good = (0..total).filter(|number| number % receivers < RECEIVERS - 1).count();
    // Paced by the iterator: the producer sends each record when it is given one.
    let sending = tokio::task::spawn_blocking(move || produce(&brokers, &topic, paced(rate, total, receivers)));
    sending.await.expect("the producer does not panic");
    acknowledged(&worker, good as f64).await;
    worker.sigkill();
    let seen = round.farm.seen();
    let latencies: Vec<_> = seen
        .iter()
        .filter_map(|seen| Some((seen.arrived_ns - seen.sent_ns.filter(|sent| *sent > 0)?) as f64 / 1e6))
        .collect();
    percentile(&latencies, 0.99)
}

/// Records at `rate` a second. Those of the first two seconds, while connections open, and those for the receiver that
/// hangs carry no time.
fn paced(rate: usize, total: usize, receivers: usize) -> impl Iterator<Item = Record> {
    let began = Instant::now();
    (0..total).map(move |number| {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let receiver = number % receivers;
        let counts = receiver < RECEIVERS - 1 && number >= 2 * rate;
        let sent = if counts { now_ns() } else { 0 };
        let value = event(number, "company", 1024).replace("00000000-20ac-176a-0000-0000060f5e88", &sent.to_string());
        record(number, receiver, value)
    })
}
