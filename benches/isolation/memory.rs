//! Memory of idle connections, and of a worker with events waiting in the tiers.

use std::process::ExitCode;
use std::time::Duration;

use super::common::farm::{Behaviour, Farm, address};
use super::common::figures::Figure;
use super::common::integrations::event;
use super::common::options::Options;
use super::common::probe;
use super::lateness::retry;
use super::support::process::Process;
use super::support::records::{Record, produce};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};

/// Receivers of one process: each takes two descriptors, of the 20,000 that are usual.
const FARM_SIZE: usize = 5_000;
/// The default schedule: five tiers.
const SCHEDULE: &str = "30s,1m,5m,15m,1h,1h,1h";
/// The pause before a worker's memory is read.
const REST: Duration = Duration::from_secs(3);

/// The child: receivers `first..first + count`, until it is ended.
pub(crate) fn farm_child(arguments: &[String]) -> ExitCode {
    let [first, count] = arguments else { return ExitCode::from(2) };
    let number = |text: &String| text.parse().expect("a number");
    let (first, count) = (number(first), number(count));
    let farm = Farm::start(first, count, Behaviour::good(Duration::ZERO), false);
    eprintln!("{}", farm.address(first));
    loop {
        std::thread::park();
    }
}

/// A worker keeps a connection to each of many hosts.
pub(crate) async fn idle_connections(brokers: &str, options: &Options) -> Vec<Figure> {
    let connections = options.get("connections");
    let name = format!("{connections} idle keep-alive connections to as many hosts: memory");
    let mut over = Figure::new(&format!("{name} over the same worker without"), "MB", "250", "150");
    let mut whole = Figure::new(&format!("{name} of the whole worker"), "MB", "", "");
    let own = std::env::current_exe().expect("the benchmark's own path").display().to_string();
    let farms: Vec<_> = (0..connections.div_ceil(FARM_SIZE))
        .map(|farm| {
            let count = FARM_SIZE.min(connections - farm * FARM_SIZE);
            let first = farm * FARM_SIZE;
            let process =
                Process::start("receivers", &own, &["farm".to_owned(), first.to_string(), count.to_string()], &[]);
            let port = process.lines().find(PATIENCE, |line| line.rsplit_once(':')?.1.parse::<u16>().ok());
            let port = port.unwrap_or_else(|| panic!("the receivers do not listen:\n{}", process.lines().tail(20)));
            (process, port)
        })
        .collect();
    for round in 1..=3 {
        let names = Names::of("idle");
        names.create(brokers, SCHEDULE, 12).await;
        let integrations = (0..connections).map(|number| {
            let host = address(number, farms[number / FARM_SIZE].1);
            let value = serde_json::json!({
                "baseUrl": format!("http://{host}"),
                "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
            });
            Record::new(format!("ws{number}/i{number}"), value.to_string())
        });
        produce(brokers, &names.integrations(), integrations);
        let mut worker = Worker::start(brokers, &names, &["--attempt-log", "off"]).await;
        tokio::time::sleep(REST).await;
        let (base, _) = probe::memory(worker.pid());
        let events = (0..connections).map(|number| {
            Record::new(format!("c{number}"), event(number, "company", 1024)).header("workspace", format!("ws{number}"))
        });
        produce(brokers, &names.events(), events);
        wait_until("a delivery to every host", PATIENCE, async || {
            let seen = worker.metric("hookstream_deliveries_total", &[("outcome", "acknowledged")]).await;
            if seen >= connections as f64 { Ok(()) } else { Err(seen) }
        })
        .await;
        // By then the worker has given back what the burst of events took, and no connection is old enough to be closed.
        tokio::time::sleep(4 * REST).await;
        let sockets = sockets(worker.pid());
        assert!(sockets >= connections, "{sockets} of {connections} connections are still open");
        let (now, _) = probe::memory(worker.pid());
        over.rounds.push(now - base);
        whole.rounds.push(now);
        eprintln!("round {round}: {:.1} MB over {base:.1} MB, {sockets} sockets", now - base);
        worker.stop();
    }
    vec![over, whole]
}

fn sockets(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the worker runs");
    let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// A worker with nothing in the tiers, and one with many events there, none of them due.
pub(crate) async fn waiting(brokers: &str, options: &Options) -> Vec<Figure> {
    let events = options.get("tier-events");
    let mut over =
        Figure::new(&format!("memory with {events} events waiting in the tiers, over none"), "MB", "64", "16");
    let names = Names::of("waiting");
    names.create(brokers, SCHEDULE, 12).await;
    let value = serde_json::json!({
        "baseUrl": "http://127.0.0.1:9",
        "webHooks": [{"id": "w", "relativeUrl": "/hook", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
    });
    produce(brokers, &names.integrations(), [Record::new("ws0/i0", value.to_string())]);
    let mut bases = Vec::new();
    for _ in 0..3 {
        bases.push(resting(brokers, &names).await);
    }
    // All go into the longest tiers. So no retry is due while the rounds last.
    for (tier, share) in [("1h", 2), ("15m", 1), ("5m", 1)] {
        let count = events * share / 4;
        produce(
            brokers,
            &names.tier(tier),
            (0..count).map(|number| retry(number, 0).in_partition(partition_of(number))),
        );
    }
    for (round, base) in bases.into_iter().enumerate() {
        let now = resting(brokers, &names).await;
        over.rounds.push(now - base);
        eprintln!("round {}: {:.1} MB over {base:.1} MB", round + 1, now - base);
    }
    vec![over]
}

async fn resting(brokers: &str, names: &Names) -> f64 {
    let mut worker = Worker::start(brokers, names, &[]).await;
    // Time for the hands to fill.
    tokio::time::sleep(3 * REST).await;
    let (memory, _) = probe::memory(worker.pid());
    let attempts = worker.metric("hookstream_attempts_total", &[]).await;
    assert!(attempts < 0.5, "{attempts} attempts were made: a retry fell due while its round lasted");
    worker.stop();
    memory
}

fn partition_of(number: usize) -> i32 {
    i32::try_from(number % 12).expect("small")
}
