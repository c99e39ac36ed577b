//! The worker under measurement: its own process, fed from a broker that holds the events already.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;

use super::options::{Broker, Options};
use super::support::process::{Process, Signal};
use super::support::records::{Record, produce};
use super::{PATIENCE, own_cpu};

/// The mock cluster keeps 5 MiB a partition: less than that, with room for what a record has around it.
const EMBEDDED_PARTITION_BYTES: usize = 4 << 20;
const KAFKA_PARTITIONS: i32 = 12;
const EVENTS: &str = "events";
/// Of events that come at a rate, how many come together.
const PACED_TOGETHER: usize = 20;

/// A worker's CPU time, and how fast it was.
pub(crate) struct Measured {
    pub(crate) micros: f64,
    pub(crate) rate: f64,
    /// Of it the parts that ran in threads of these names, µs.
    pub(crate) by_thread: BTreeMap<String, f64>,
}

/// The events in their topic, and how to start a worker on them.
pub(crate) struct Bench {
    brokers: String,
    options: Options,
    /// Of a topic of events.
    partitions: i32,
    _mock: Option<Process>,
}

impl Bench {
    pub(crate) fn prepare(options: &Options, brokers: Option<String>, sink: &str) -> Self {
        let embedded_partitions = (options.events * (options.size + 100)).div_ceil(EMBEDDED_PARTITION_BYTES);
        let embedded_partitions = i32::try_from(embedded_partitions).expect("few");
        let mock = brokers.is_none().then(|| start_mock(embedded_partitions, options));
        let brokers = brokers.unwrap_or_else(|| {
            let lines = mock.as_ref().expect("without a Kafka there is a mock").lines();
            lines.find(Duration::from_secs(10), |line| Some(line.to_owned())).expect("the mock says where it listens")
        });
        let partitions = if options.broker == Broker::Kafka { KAFKA_PARTITIONS } else { embedded_partitions };
        if options.broker == Broker::Kafka {
            for topic in events_topics(options) {
                create_topics(&brokers, &topic, partitions);
            }
        }
        let bench = Self { brokers, options: options.clone(), partitions, _mock: mock };
        bench.register(sink);
        if options.rate.is_none() {
            produce(&bench.brokers, EVENTS, bench.events());
        }
        bench
    }

    fn register(&self, sink: &str) {
        let secrets = if self.options.signed {
            serde_json::json!([{"id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}])
        } else {
            serde_json::json!([])
        };
        let integration = serde_json::json!({
            "id": "i", "baseUrl": format!("http://{sink}"), "secrets": secrets,
            "webHooks": [{"id": "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5", "relativeUrl": "/hook", "triggerType": "entityEvent",
                "filter": {"items": [{"entityType": "company", "changeType": "patch"}]}}],
        });
        let integrations = self.options.integrations;
        let matched = (0..integrations).map(|number| Record::new(format!("ws{number}/i"), integration.to_string()));
        produce(&self.brokers, "matched.integrations", matched);
        produce(&self.brokers, "unmatched.integrations", [Record::new("other/i", integration.to_string())]);
    }

    fn events(&self) -> impl Iterator<Item = Record> {
        let partitions = usize::try_from(self.partitions).expect("positive");
        let (size, integrations) = (self.options.size, self.options.integrations);
        (0..self.options.events).map(move |number| {
            Record::new(format!("c{number}"), event(number, size))
                .header("workspace", format!("ws{}", number % integrations))
                .in_partition(i32::try_from(number % partitions).expect("small"))
        })
    }

    /// The same at `rate` a second.
    fn paced(&self, rate: usize) -> impl Iterator<Item = Record> {
        let began = Instant::now();
        self.events().enumerate().map(move |(number, record)| {
            let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
            if number % PACED_TOGETHER == 0 {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            record
        })
    }

    /// CPU per delivery when every event matches one webhook.
    pub(crate) fn deliveries(&self, round: usize) -> Measured {
        self.measure("matched", round, "hookstream_deliveries_total{outcome=\"acknowledged\"}")
    }

    /// CPU per event when none matches.
    pub(crate) fn unmatched(&self, round: usize) -> Measured {
        self.measure("unmatched", round, "hookstream_events_total{outcome=\"unmatched\"}")
    }

    fn measure(&self, kind: &str, round: usize, series: &str) -> Measured {
        let group = format!("bench-{kind}-{round}");
        let integrations = format!("{kind}.integrations");
        let topic = if self.options.rate.is_some() { format!("{EVENTS}-{round}") } else { EVENTS.to_owned() };
        let in_flight = self.options.in_flight.to_string();
        let arguments = [
            "worker",
            "--brokers",
            &self.brokers,
            "--group",
            &group,
            "--events-topic",
            &topic,
            "--integrations-topic",
            &integrations,
            "--max-in-flight",
            &in_flight,
            "--max-in-flight-per-webhook",
            &in_flight,
            "--max-in-flight-per-host",
            &in_flight,
            "--allow-private-networks",
            "127.0.0.0/8",
            "--admin-listen",
            "127.0.0.1:0",
            "--attempt-log",
            "off",
            "--log-format",
            "json",
        ];
        let mut worker = Process::start("worker", env!("CARGO_BIN_EXE_hookstream"), &arguments, &[]);
        let admin = worker
            .lines()
            .find(PATIENCE, |line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                (line["message"] == "admin listening").then(|| line["address"].as_str().map(str::to_owned)).flatten()
            })
            .unwrap_or_else(|| panic!("the worker does not listen:\n{}", worker.lines().tail(20)));
        let total = self.options.events as f64;
        let (first, last) = std::thread::scope(|scope| {
            if let Some(rate) = self.options.rate {
                scope.spawn(move || produce(&self.brokers, &topic, self.paced(rate)));
            }
            // At a rate, what came before the worker had its partitions is delivered by half time.
            let begin = if self.options.rate.is_some() { 0.5 } else { 0.02 };
            let first = wait_for(&mut worker, &admin, series, total * begin);
            (first, wait_for(&mut worker, &admin, series, total))
        });
        worker.signal(Signal::Term);
        let code = worker.wait(PATIENCE);
        assert_eq!(code, 0, "the worker ends well:\n{}", worker.lines().tail(20));
        let count = last.count - first.count;
        let by_thread = last.threads.into_iter().map(|(name, cpu)| {
            let before = first.threads.get(&name).copied().unwrap_or_default();
            (name, cpu.saturating_sub(before).as_secs_f64() * 1e6 / count)
        });
        Measured {
            micros: (last.cpu - first.cpu).as_secs_f64() * 1e6 / count,
            rate: count / (last.at - first.at).as_secs_f64(),
            by_thread: by_thread.collect(),
        }
    }
}

struct Sample {
    count: f64,
    cpu: Duration,
    threads: BTreeMap<String, Duration>,
    at: Instant,
}

/// Each read of the metrics costs the worker a fraction of a millisecond. Prometheus reads them every 15 s or so.
const MAINTENANCE_EVERY: Duration = Duration::from_millis(250);

/// Reads the series at intervals until it has reached `count`.
fn wait_for(worker: &mut Process, admin: &str, series: &str, count: f64) -> Sample {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = value_of(admin, series);
        let (cpu, at) = (worker.cpu_time(), Instant::now());
        if seen >= count {
            return Sample { count: seen, cpu, threads: worker.cpu_time_by_thread(), at };
        }
        let waits = worker.is_running() && Instant::now() < deadline;
        assert!(waits, "{series} is {seen}, not {count}:\n{}", worker.lines().tail(20));
        std::thread::sleep(MAINTENANCE_EVERY);
    }
}

fn value_of(admin: &str, series: &str) -> f64 {
    let mut answer = String::new();
    let asked = TcpStream::connect(admin).and_then(|mut stream| {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    if asked.is_err() {
        return 0.0;
    }
    let line = answer.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

/// One that holds the events of all rounds; at a rate, one for each round.
fn events_topics(options: &Options) -> Vec<String> {
    match options.rate {
        Some(_) => (1..=options.rounds).map(|round| format!("{EVENTS}-{round}")).collect(),
        None => vec![EVENTS.to_owned()],
    }
}

/// As an operator creates them.
fn create_topics(brokers: &str, events: &str, partitions: i32) {
    let partitions = partitions.to_string();
    for kind in ["matched", "unmatched"] {
        let integrations = format!("{kind}.integrations");
        let output = Command::new(env!("CARGO_BIN_EXE_hookstream"))
            .args(["topics", "apply", "--brokers", brokers, "--events-topic", events])
            .args(["--integrations-topic", &integrations])
            .args(["--topic-partitions", &partitions, "--topic-replication-factor", "1"])
            .output()
            .expect("the worker's own program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn event(number: usize, size: usize) -> String {
    let head = format!(
        r#"{{"id":"3c75d291-{number:08}","offset":"00000000-20ac-176a-0000-0000060f5e88","type":"change","createInfo":{{"createdAt":"2021-09-28T11:08:26.903198+00:00","createdByUserId":"7489f14b","createdWith":"WebApp"}},"entityIds":{{"companyId":"c{number}"}},"changeData":{{"type":"patch","old":{{"name":"Old name {number}","tags":["a","b",1,2.5,null]}},"new":{{"text":""#
    );
    let tail = r#""}}}"#;
    let words = "lorem ipsum dolor sit amet ".chars().cycle();
    let filling: String = words.take(size.saturating_sub(head.len() + tail.len())).collect();
    format!("{head}{filling}{tail}")
}

fn start_mock(partitions: i32, options: &Options) -> Process {
    let own = std::env::current_exe().expect("the benchmark's own path").display().to_string();
    let (partitions, topics) = (partitions.to_string(), events_topics(options).join(","));
    Process::start("mock cluster", &own, &["mock", &partitions, &topics], &[])
}

/// The child: a mock cluster until its parent is gone.
pub(crate) fn mock_child(arguments: &[String]) -> ExitCode {
    let event_partitions = arguments.first().and_then(|count| count.parse().ok()).expect("how many partitions");
    let cluster = MockCluster::new(1).expect("a mock cluster");
    for topic in arguments.get(1).expect("the topics of events").split(',') {
        cluster.create_topic(topic, event_partitions, 1).expect("a topic");
    }
    for topic in [
        "matched.integrations",
        "unmatched.integrations",
        "webhooks.dead-letter",
        "webhooks.attempts",
        "webhooks.backlog",
        "webhooks.health",
        "webhooks.health.deltas",
        "webhooks.health.counts",
    ] {
        cluster.create_topic(topic, 1, 1).expect("a topic");
    }
    for tier in ["30s", "1m", "5m", "15m", "1h"] {
        cluster.create_topic(&format!("webhooks.retry.{tier}"), 1, 1).expect("a topic");
    }
    eprintln!("{}", cluster.bootstrap_servers());
    loop {
        std::thread::park();
        // A thread may wake without a reason. The process is ended from outside.
        let _so_far = own_cpu();
    }
}
