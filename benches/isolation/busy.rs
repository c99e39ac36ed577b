//! A receiver that takes few requests at a time and says so, with 503.

use std::time::{Duration, Instant};

use super::common::farm::{Behaviour, Farm};
use super::common::figures::Figure;
use super::common::integrations::event;
use super::common::options::Options;
use super::support::records::{Record, produce};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};

/// Half of what a webhook gets by default.
const TAKES: usize = 8;
const LATENCY: Duration = Duration::from_millis(20);
/// Nothing falls due while a round lasts.
const SCHEDULE: &str = "1h";

/// A backlog for one such receiver: the share that is acknowledged at the first attempt, and the share of the receiver's time that
/// is used, by a worker that has to find out the number, and by one that has it as an option.
pub(crate) async fn measure(brokers: &str, options: &Options) -> Vec<Figure> {
    let name = format!("a receiver that takes {TAKES} at a time");
    let mut found = [
        Figure::new(&format!("{name}: acknowledged at the first attempt"), "", "", ""),
        Figure::new("the same: of its time used, from the worker's start", "", "", ""),
    ];
    let mut configured = [
        Figure::new(
            &format!("{name}, --max-in-flight-per-webhook {TAKES}: acknowledged at the first attempt"),
            "",
            "",
            "",
        ),
        Figure::new("the same: of its time used, from the worker's start", "", "", ""),
    ];
    let limit = TAKES.to_string();
    let fixed = ["--max-in-flight-per-webhook", &limit];
    for _ in 0..options.get("rounds") {
        for (figures, limits) in [(&mut found, &[][..]), (&mut configured, &fixed[..])] {
            let (acknowledged, used) = round(brokers, options.get("busy-events"), limits).await;
            eprintln!("{limits:?}: {acknowledged:.3} acknowledged, {used:.3} of its time");
            figures[0].rounds.push(acknowledged);
            figures[1].rounds.push(used);
        }
    }
    found.into_iter().chain(configured).collect()
}

async fn round(brokers: &str, events: usize, limits: &[&str]) -> (f64, f64) {
    let names = Names::of("busy");
    names.create(brokers, SCHEDULE, 12).await;
    let farm = Farm::start(0, 1, Behaviour { takes: TAKES, ..Behaviour::good(LATENCY) }, false);
    let value = serde_json::json!({
        "baseUrl": format!("http://{}", farm.address(0)),
        "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
    });
    produce(brokers, &names.integrations(), [Record::new("ws0/i0", value.to_string())]);
    let records = (0..events)
        .map(|number| Record::new(format!("c{number}"), event(number, "company", 1024)).header("workspace", "ws0"));
    produce(brokers, &names.events(), records);
    let arguments = [&["--retry-schedule", SCHEDULE, "--attempt-log", "off"], limits].concat();
    let began = Instant::now();
    let worker = Worker::start(brokers, &names, &arguments).await;
    let acknowledged = wait_until("all events to be acknowledged or put off", PATIENCE, async || {
        let [acknowledged, retried] = [deliveries(&worker, "acknowledged").await, deliveries(&worker, "retried").await];
        if acknowledged + retried >= events as f64 { Ok(acknowledged) } else { Err((acknowledged, retried)) }
    })
    .await;
    let took = began.elapsed();
    let work = acknowledged * LATENCY.as_secs_f64();
    (acknowledged / events as f64, work / (took.as_secs_f64() * TAKES as f64))
}

async fn deliveries(worker: &Worker, outcome: &str) -> f64 {
    worker.metric("hookstream_deliveries_total", &[("outcome", outcome)]).await
}
