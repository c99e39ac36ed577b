//! A whole worker on a real Kafka that holds the records in a compacted topic.

use std::time::{Duration, Instant};

use super::common::figures::Figure;
use super::common::integrations::{Population, event};
use super::common::options::Options;
use super::common::probe;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::records::{Record, produce};
use super::support::worker::{Names, Worker};

/// How long one step may take at most.
const PATIENCE: Duration = Duration::from_mins(3);
/// As `topics apply` has it.
const PARTITIONS: u16 = 12;
/// How long a worker rests before its memory is read. By then it has given back the buffers of its start.
const REST: Duration = Duration::from_secs(3);

pub(crate) async fn measure(population: Population, options: &Options) -> Vec<Figure> {
    let mut cluster = ClusterOptions::nodes(1);
    cluster.jvm_arguments.push("-Xmx1g".to_owned());
    let cluster = Cluster::start_with(cluster).await;
    let brokers = cluster.brokers();
    let (empty, full) = (Names::of("empty"), Names::of("full"));
    for names in [&empty, &full] {
        names.create(brokers, "30s", PARTITIONS).await;
    }
    let records = population.records().map(|(key, value)| Record::new(key, value));
    produce(brokers, &full.integrations(), records);

    let mut memory = Figure::new("resident memory over an empty worker", "MB", "400", "150");
    let mut peak = Figure::new("the same at its highest, during the bootstrap", "MB", "", "");
    let mut bootstrap = Figure::new("bootstrap from the topic", "s", "10", "3");
    let mut cpu = Figure::new("processor time of the bootstrap", "s", "", "");
    let mut unmatched = Figure::new("events that match nothing, per core-second", "", "300000", "1000000");
    for round in 1..=options.get("rounds") {
        let (base, _) = resting(brokers, &empty, |_| ()).await;
        let mut took = (0.0, 0.0);
        let (now, highest) = resting(brokers, &full, |figures| took = figures).await;
        memory.rounds.push(now - base);
        peak.rounds.push(highest - base);
        bootstrap.rounds.push(took.0);
        cpu.rounds.push(took.1);
        unmatched.rounds.push(1e6 / per_event(brokers, &full, population, options).await);
        eprintln!(
            "round {round}: {:.0} MB over {base:.0}, at most {:.0}; {:.2} s ({:.2} s CPU); {:.0} events per core-second",
            now - base,
            highest - base,
            took.0,
            took.1,
            unmatched.rounds.last().unwrap_or(&f64::NAN)
        );
    }
    vec![memory, peak, bootstrap, cpu, unmatched]
}

/// Memory of a worker that has nothing to do, now and at its highest; `started` gets seconds and processor seconds of its
/// bootstrap.
async fn resting(brokers: &str, names: &Names, mut started: impl FnMut((f64, f64))) -> (f64, f64) {
    let mut worker = Worker::start(brokers, names, &["--retry-schedule", "30s"]).await;
    let bootstrap = worker.metric("hookstream_integrations_bootstrap_seconds", &[]).await;
    started((bootstrap, worker.cpu_time().as_secs_f64()));
    tokio::time::sleep(REST).await;
    let memory = probe::memory(worker.pid());
    worker.stop();
    memory
}

/// Processor µs of an event in a workspace that has webhooks, of which none wants it.
async fn per_event(brokers: &str, names: &Names, population: Population, options: &Options) -> f64 {
    let (events, size) = (options.get("events"), options.get("size"));
    let records = (0..events).map(|number| {
        // Workspaces in no order.
        let workspace = population.workspace(number.wrapping_mul(7_919) % population.integrations);
        let partition = i32::try_from(number % usize::from(PARTITIONS)).expect("small");
        Record::new(format!("c{number}"), event(number, "note", size))
            .header("workspace", workspace)
            .in_partition(partition)
    });
    produce(brokers, &names.events(), records);
    let mut worker = Worker::start(brokers, names, &["--retry-schedule", "30s"]).await;
    let first = reached(&worker, events as f64 * 0.05).await;
    let last = reached(&worker, events as f64).await;
    worker.stop();
    (last.1 - first.1).as_secs_f64() * 1e6 / (last.0 - first.0)
}

/// How many events matched nothing, once they are `count`, and the processor time at that moment.
async fn reached(worker: &Worker, count: f64) -> (f64, Duration) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = worker.metric("hookstream_events_total", &[("outcome", "unmatched")]).await;
        let cpu = worker.cpu_time();
        if seen >= count {
            return (seen, cpu);
        }
        assert!(Instant::now() < deadline, "{seen} of {count} events:\n{}", worker.lines().tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
