//! 100 good receivers, alone and beside a thousand bad ones of one kind: names that do not exist, names whose name server never
//! answers, hosts that take a connection and never answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::common::farm::{self, Behaviour, Farm, now_ns};
use super::common::figures::{Figure, percentile};
use super::common::integrations::event;
use super::common::options::Options;
use super::support::records::{Record, produce};
use super::support::wait::{PATIENCE, wait_until};
use super::support::worker::{Names, Worker};
use super::support::zoo::names::{Family, NameServer, Reply};

/// Good receivers.
const GOOD: usize = 100;
const PARTITIONS: u16 = 12;
/// Nothing falls due while a round lasts.
const SCHEDULE: &str = "1h";
/// One event in this number is for a bad receiver.
const BAD_OF: usize = 3;
/// The length of a round: longer than a request may take, so that circuits open within it.
const ROUND: Duration = Duration::from_secs(25);
/// Events before are not counted: connections open and names are looked up.
const WARM_UP: Duration = Duration::from_secs(2);
/// The address of the benchmark's name server, if it may listen there.
const NAME_SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 53);

/// The fault of the bad receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    /// Only the good receivers: the baseline.
    None,
    /// They never answer.
    Hosts,
    /// Their names do not exist.
    DeadNames,
    /// Their name server never answers.
    SilentNames,
}

/// Rounds of each kind in turn, and what their p99 is against that of the good ones alone.
pub(crate) async fn measure(brokers: &str, options: &Options) -> Vec<Figure> {
    let (rate, bad, has_names) = (options.get("crowd-rate"), options.get("crowd"), options.get("names") == 1);
    // The name server answers for as long as the benchmark lasts.
    let _names = if has_names { Some(NameServer::start_on(NAME_SERVER, says).await) } else { None };
    let kinds = if has_names { &[Bad::Hosts, Bad::DeadNames, Bad::SilentNames][..] } else { &[Bad::Hosts][..] };
    let mut alone = Figure::new(&format!("p99 latency of {GOOD} good receivers, {rate} events/s"), "ms", "", "");
    let mut figures: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let name = format!("the same beside {bad} {}", words(*kind));
            (Figure::new(&name, "ms", "", ""), Figure::new("against alone", "×", "1.2", ""))
        })
        .collect();
    for round in 1..=options.get("rounds") {
        let base = measured(brokers, rate, (Bad::None, 0), has_names).await;
        alone.rounds.push(base);
        for (kind, (figure, ratio)) in kinds.iter().zip(&mut figures) {
            let beside = measured(brokers, rate, (*kind, bad), has_names).await;
            eprintln!("round {round}: p99 {base:.1} ms alone, {beside:.1} ms beside {bad} {}", words(*kind));
            figure.rounds.push(beside);
            ratio.rounds.push(beside / base);
        }
    }
    [alone].into_iter().chain(figures.into_iter().flat_map(|(figure, ratio)| [figure, ratio])).collect()
}

fn words(bad: Bad) -> &'static str {
    match bad {
        Bad::None => "none",
        Bad::Hosts => "hosts that never answer",
        Bad::DeadNames => "names that do not exist",
        Bad::SilentNames => "names whose look-up never ends",
    }
}

/// The name server's answers: `good-N` is receiver N, `silent-N` gets no answer, and nothing else exists.
fn says(name: &str, family: Family) -> Reply {
    let (kind, rest) = name.split_once('-').unwrap_or_default();
    let number = rest.split('.').next().and_then(|number| number.parse().ok());
    match (kind, number, family) {
        ("good", Some(number), Family::V4) => Reply::Addresses(vec![farm::ip(number).into()], 300),
        ("good", Some(_), Family::V6) => Reply::Empty,
        ("silent", ..) => Reply::Silence,
        _ => Reply::NoSuchName,
    }
}

fn record(workspace: &str, number: usize, value: String) -> Record {
    Record::new(format!("c{number}"), value)
        .header("workspace", workspace)
        .in_partition(i32::try_from(number % usize::from(PARTITIONS)).expect("small"))
}

/// The p99 of one round in ms, from the producer to a good receiver.
async fn measured(brokers: &str, rate: usize, (kind, bad): (Bad, usize), has_names: bool) -> f64 {
    let names = Names::of("crowd");
    names.create(brokers, SCHEDULE, PARTITIONS).await;
    let hosts = if kind == Bad::Hosts { bad } else { 0 };
    let behaviour = Behaviour { hang_from: GOOD, ..Behaviour::good(Duration::from_millis(5)) };
    let farm = Farm::start(0, GOOD + hosts, behaviour, true);
    let port = farm.address(0).rsplit_once(':').expect("an address has a port").1.to_owned();
    let base = |number: usize| match kind {
        _ if number < GOOD && has_names => format!("http://good-{number}.crowd.test:{port}"),
        Bad::Hosts | Bad::None => format!("http://{}", farm.address(number)),
        _ if number < GOOD => format!("http://{}", farm.address(number)),
        Bad::DeadNames => format!("http://dead-{number}.crowd.test:{port}"),
        Bad::SilentNames => format!("http://silent-{number}.crowd.test:{port}"),
    };
    let integrations = (0..GOOD + bad).map(|number| {
        let value = serde_json::json!({ "baseUrl": base(number), "webHooks": [{ "id": "w", "relativeUrl": "/hook",
            "triggerType": "entityEvent", "filter": { "items": [{}] } }] });
        Record::new(format!("ws{number}/i{number}"), value.to_string())
    });
    produce(brokers, &names.integrations(), integrations);
    let mut worker = Worker::start(brokers, &names, &["--retry-schedule", SCHEDULE, "--attempt-log", "off"]).await;
    let (to, topic) = (brokers.to_owned(), names.events());
    let good = rate * ROUND.as_secs() as usize;
    let sending = tokio::task::spawn_blocking(move || produce(&to, &topic, paced(rate, good, bad)));
    sending.await.expect("the producer does not panic");
    let arrived = wait_until("the good receivers' events", PATIENCE, async || {
        let seen = farm.seen();
        // Those for bad receivers carry no time.
        let came = seen.iter().filter(|seen| seen.sent_ns.is_some()).count();
        if came >= good { Ok(seen) } else { Err((came, good)) }
    })
    .await;
    worker.sigkill();
    let latencies: Vec<_> = arrived
        .iter()
        .filter_map(|seen| Some((seen.arrived_ns - seen.sent_ns.filter(|sent| *sent > 0)?) as f64 / 1e6))
        .collect();
    percentile(&latencies, 0.99)
}

/// Events for good receivers at `rate` a second, and some between them for the `bad` ones in turn.
fn paced(rate: usize, good: usize, bad: usize) -> impl Iterator<Item = Record> {
    let began = Instant::now();
    (0..good).flat_map(move |number| {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let sent = if due >= WARM_UP { now_ns() } else { 0 };
        let value = event(number, "company", 1024).replace("00000000-20ac-176a-0000-0000060f5e88", &sent.to_string());
        let beside = (bad > 0 && number % BAD_OF == 0).then(|| {
            let receiver = GOOD + number / BAD_OF % bad;
            record(&format!("ws{receiver}"), number, event(good + number, "company", 1024))
        });
        [Some(record(&format!("ws{}", number % GOOD), number, value)), beside].into_iter().flatten()
    })
}
