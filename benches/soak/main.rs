//! A worker at full speed for minutes, its memory read every second: 99 good receivers and one that hangs, and always
//! more events than it can take.
//!
//! `cargo bench --bench soak -- --minutes 10`; `--help` lists the options. Writes `soak.json` beside the target's other
//! temporary files; `benches/soak/plot.py` makes the picture of it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a benchmark prints, fails by a panic with a clear text, and computes in floats by the wall clock"
)]

#[path = "../common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::farm::{Behaviour, Farm};
use common::figures::{Figure, percentile, report};
use common::integrations::event;
use common::options::Options;
use common::probe;
use common::runtime;
use common::support;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use support::cluster::{Cluster, ClusterOptions};
use support::records::{Record, admin, produce};
use support::worker::{Names, Worker};

const OPTIONS: [(&str, usize, &str); 3] =
    [("minutes", 10, "how long"), ("receivers", 100, "receivers"), ("hanging", 1, "how many of them hang")];
const PARTITIONS: u16 = 12;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Memory counts as flat from here on: buffers, lanes and hands are full by then.
const WARM_UP: Duration = Duration::from_mins(2);
/// Events written at a time, and how far the producer may be ahead.
const CHUNK: u64 = 25_000;
const AHEAD_MAX: u64 = 100_000;

/// What was seen at one moment.
struct Sample {
    seconds: f64,
    memory: f64,
    deliveries: f64,
    cpu: f64,
}

fn main() -> ExitCode {
    let options = match Options::of_arguments(&OPTIONS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let runtime = runtime();
    let samples = runtime.block_on(run(&options));
    summary(&options, &samples);
    ExitCode::SUCCESS
}

async fn run(options: &Options) -> Vec<Sample> {
    let mut cluster = ClusterOptions::nodes(1);
    cluster.properties.push(("log.retention.check.interval.ms".to_owned(), "5000".to_owned()));
    let cluster = Cluster::start_with(cluster).await;
    let brokers = cluster.brokers();
    let names = Names::of("soak");
    names.create(brokers, "30s,1m,5m,15m,1h,1h,1h", PARTITIONS).await;
    keep_little(brokers, &names.events()).await;
    let (receivers, hanging) = (options.get("receivers"), options.get("hanging"));
    let behaviour = Behaviour { hang_from: receivers - hanging, ..Behaviour::good(Duration::ZERO) };
    let farm = Farm::start(0, receivers, behaviour, false);
    let integrations = (0..receivers).map(|number| {
        let value = serde_json::json!({
            "baseUrl": format!("http://{}", farm.address(number)),
            "secrets": [{"id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}],
            "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
        });
        Record::new(format!("ws{number}/i{number}"), value.to_string())
    });
    produce(brokers, &names.integrations(), integrations);
    let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let feeding = tokio::task::spawn_blocking({
        let (brokers, topic, stop, read) = (brokers.to_owned(), names.events(), Arc::clone(&stop), Arc::clone(&read));
        move || feed(&brokers, &topic, receivers, &stop, &read)
    });
    let mut worker = Worker::start(brokers, &names, &["--attempt-log", "off"]).await;
    let samples = watch(&worker, Duration::from_secs(60 * options.get("minutes") as u64), &read).await;
    stop.store(true, Ordering::Relaxed);
    let fed = feeding.await.expect("the producer does not panic");
    eprintln!("{fed} events were written");
    worker.stop();
    samples
}

/// Lets the broker drop what was read: a soak writes more than a disk should hold.
async fn keep_little(brokers: &str, topic: &str) {
    let resource = ResourceSpecifier::Topic(topic);
    let altered = AlterConfig::new(resource)
        .set("segment.bytes", "16777216")
        .set("retention.bytes", "50331648")
        .set("message.timestamp.type", "CreateTime");
    let results = admin(brokers).alter_configs([&altered], &AdminOptions::new()).await;
    for result in results.unwrap_or_else(|error| panic!("alter {topic}: {error}")) {
        result.unwrap_or_else(|(_, error)| panic!("alter {topic}: {error}"));
    }
}

/// Writes events, always some way ahead of the worker, until `stop`. Returns how many.
fn feed(brokers: &str, topic: &str, receivers: usize, stop: &AtomicBool, read: &AtomicU64) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        if written > read.load(Ordering::Relaxed) + AHEAD_MAX {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let chunk = (written..written + CHUNK).map(|number| {
            let number = usize::try_from(number).expect("64 bits");
            Record::new(format!("c{number}"), event(number, "company", 1024))
                .header("workspace", format!("ws{}", number % receivers))
                .in_partition(i32::try_from(number % usize::from(PARTITIONS)).expect("small"))
        });
        produce(brokers, topic, chunk);
        written += CHUNK;
    }
    written
}

async fn watch(worker: &Worker, lasts: Duration, read: &AtomicU64) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY / 4);
    while began.elapsed() < lasts {
        ticks.tick().await;
        let matched = worker.metric("hookstream_events_total", &[("outcome", "matched")]).await;
        read.store(matched as u64, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        if samples.last().is_some_and(|last: &Sample| seconds - last.seconds < SAMPLE_EVERY.as_secs_f64() - 0.1) {
            continue;
        }
        let deliveries = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
        let (memory, _) = probe::memory(worker.pid());
        samples.push(Sample { seconds, memory, deliveries, cpu: worker.cpu_time().as_secs_f64() });
        if samples.len() % 60 == 0 {
            eprintln!("{:.0} min: {memory:.1} MB, {deliveries} deliveries", seconds / 60.0);
        }
    }
    samples
}

fn summary(options: &Options, samples: &[Sample]) {
    let warm: Vec<_> = samples.iter().filter(|sample| sample.seconds >= WARM_UP.as_secs_f64()).collect();
    let figure = |name: &str, unit, value| {
        let mut figure = Figure::new(name, unit, "", "");
        figure.rounds.push(value);
        figure
    };
    let memory: Vec<_> = warm.iter().map(|sample| sample.memory).collect();
    let half = memory.len() / 2;
    let (first, last) = (warm.first(), warm.last());
    let rate = first
        .zip(last)
        .map_or(f64::NAN, |(first, last)| (last.deliveries - first.deliveries) / (last.seconds - first.seconds));
    let cpu = first
        .zip(last)
        .map_or(f64::NAN, |(first, last)| (last.cpu - first.cpu) * 1e6 / (last.deliveries - first.deliveries));
    let figures = [
        figure("memory, median of the first half after two minutes", "MB", percentile(&memory[..half], 0.5)),
        figure("memory, median of the second half", "MB", percentile(&memory[half..], 0.5)),
        figure("memory, highest", "MB", percentile(&memory, 1.0)),
        figure("deliveries a second", "/s", rate),
        figure("processor time a delivery", "µs", cpu),
    ];
    let setting = format!(
        "{} minutes at full speed, {} receivers, {} of them hanging, 1 KiB events, a real Kafka",
        options.get("minutes"),
        options.get("receivers"),
        options.get("hanging")
    );
    report("soak", &setting, &figures);
    let rows: Vec<_> = samples
        .iter()
        .map(|sample| serde_json::json!([sample.seconds, sample.memory, sample.deliveries, sample.cpu]))
        .collect();
    let json = serde_json::json!({ "setting": setting, "columns": ["seconds", "MB", "deliveries", "cpuSeconds"], "rows": rows });
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak-samples.json");
    std::fs::write(&path, format!("{json}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("\npython3 benches/soak/plot.py {} benches/soak.png   # needs matplotlib", path.display());
}
