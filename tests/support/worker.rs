//! The built program as a worker process, its topics, and its answers on `/metrics` and `/readyz`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::process::{Lines, Process, Signal};
use super::records::unique;
use super::wait::{PATIENCE, wait_until};
use hookstream::internals::RetrySchedule;
use hookstream::internals::settings;

/// The group and the topics of one test; no other test has them.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with `claim`, a word for their test.
    pub fn of(claim: &str) -> Self {
        Self { prefix: unique(claim) }
    }

    /// `--group`
    pub fn group(&self) -> String {
        self.prefix.clone()
    }

    /// `--events-topic`
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// `--integrations-topic`
    pub fn integrations(&self) -> String {
        format!("{}.integrations", self.prefix)
    }

    /// `--retry-topic-prefix`
    pub fn retry_prefix(&self) -> String {
        format!("{}.retry", self.prefix)
    }

    /// The topic of the tier with this delay, such as `30s`.
    pub fn tier(&self, delay: &str) -> String {
        format!("{}.{delay}", self.retry_prefix())
    }

    /// The topic of what is due at once.
    pub fn now(&self) -> String {
        format!("{}.now", self.retry_prefix())
    }

    /// `--dead-letter-topic`
    pub fn dead_letter(&self) -> String {
        format!("{}.dead-letter", self.prefix)
    }

    /// `--attempts-topic`
    pub fn attempts(&self) -> String {
        format!("{}.attempts", self.prefix)
    }

    /// `--health-topic`
    pub fn health(&self) -> String {
        format!("{}.health", self.prefix)
    }

    /// `--backlog-topic`
    pub fn backlog(&self) -> String {
        format!("{}.backlog", self.prefix)
    }

    /// `--audit-topic`
    pub fn audit(&self) -> String {
        format!("{}.audit", self.prefix)
    }

    /// The same as settings, with `partitions` partitions and one replica.
    pub fn settings(&self, partitions: u16) -> settings::Topics {
        settings::Topics {
            events: self.events(),
            integrations: self.integrations(),
            retry_prefix: self.retry_prefix(),
            dead_letter: self.dead_letter(),
            attempts: self.attempts(),
            health: self.health(),
            backlog: self.backlog(),
            audit: self.audit(),
            partitions,
            replication_factor: 1,
            replicas_required: false,
        }
    }

    /// The options that name them, and where the cluster is.
    pub fn arguments(&self, brokers: &str) -> Vec<String> {
        let named = [
            ("--brokers", brokers.to_owned()),
            ("--group", self.group()),
            ("--events-topic", self.events()),
            ("--integrations-topic", self.integrations()),
            ("--retry-topic-prefix", self.retry_prefix()),
            ("--dead-letter-topic", self.dead_letter()),
            ("--attempts-topic", self.attempts()),
            ("--health-topic", self.health()),
            ("--backlog-topic", self.backlog()),
            ("--audit-topic", self.audit()),
        ];
        named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    /// The same without some of them.
    pub fn arguments_beside(&self, brokers: &str, given: &[&str]) -> Vec<String> {
        let all = self.arguments(brokers);
        all.chunks(2).filter(|pair| !given.contains(&pair[0].as_str())).flatten().cloned().collect()
    }

    /// Creates all topics as `topics apply` does, for the tiers of `schedule`.
    pub async fn create(&self, brokers: &str, schedule: &str, partitions: u16) {
        self.create_as(brokers, schedule, &self.settings(partitions)).await;
    }

    /// The same with replicas.
    pub async fn create_replicated(&self, brokers: &str, schedule: &str, partitions: u16, replicas: u16) {
        let topics = settings::Topics { replication_factor: replicas, ..self.settings(partitions) };
        self.create_as(brokers, schedule, &topics).await;
    }

    async fn create_as(&self, brokers: &str, schedule: &str, topics: &settings::Topics) {
        let kafka = kafka_settings(brokers, &self.group());
        let schedule = RetrySchedule::parse(schedule).expect("a schedule");
        // Again if a broker was not ready: what is there already stays as it is.
        wait_until(&format!("the topics of {}", self.prefix), PATIENCE, async || {
            match hookstream::internals::cluster::apply(&kafka, topics, &schedule).await {
                Ok(applied) if applied.failed.is_empty() && applied.left.findings.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

/// How a test's own library calls reach the cluster.
pub fn kafka_settings(brokers: &str, group: &str) -> settings::Kafka {
    settings::Kafka { brokers: brokers.to_owned(), group: group.to_owned(), instance_id: None, properties: Vec::new() }
}

/// A wall clock of a worker's own, to be set while it runs. Its monotonic clock is right.
pub struct Clock {
    library: String,
    file: tempfile::NamedTempFile,
}

impl Clock {
    /// A clock that is right.
    pub fn new() -> Self {
        let clock = Self { library: clock_shift(), file: tempfile::NamedTempFile::new().expect("a temporary file") };
        clock.set_ahead(0);
        clock
    }

    /// Sets it this many seconds ahead of the machine's, or behind it if they are negative.
    pub fn set_ahead(&self, seconds: i64) {
        std::fs::OpenOptions::new()
            .write(true)
            .open(self.file.path())
            .and_then(|mut file| std::io::Write::write_all(&mut file, &seconds.to_ne_bytes()))
            .expect("a file of ours");
    }

    /// The environment of a worker.
    pub fn environment(&self) -> [(&str, &str); 2] {
        let path = self.file.path().to_str().expect("a path in UTF-8");
        [("LD_PRELOAD", &self.library), ("TEST_CLOCK_SHIFT_FILE", path)]
    }
}

/// Builds the library that shifts a process's wall clock. The C compiler is the one that links this test.
fn clock_shift() -> String {
    let library = format!("{}/clock_shift.so", env!("CARGO_TARGET_TMPDIR"));
    let built = format!("{library}.{}", std::process::id());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock_shift.c");
    let arguments = ["-shared", "-fPIC", "-O1", "-o", &built, source, "-ldl"];
    let status = std::process::Command::new("cc").args(arguments).status().expect("a C compiler");
    assert!(status.success(), "{source} is built");
    std::fs::rename(&built, &library).expect("in the same folder");
    library
}

/// A worker process.
pub struct Worker {
    process: Process,
    admin: SocketAddr,
}

impl Worker {
    /// Starts one and waits until it is ready.
    ///
    /// It may send to loopback, listens for admin requests on a free port, and logs JSON. `extra` options come last.
    pub async fn start(brokers: &str, names: &Names, extra: &[&str]) -> Self {
        let worker = Self::spawn(brokers, names, extra).await;
        worker.ready().await;
        worker
    }

    /// Starts one without waiting for more than its admin listener.
    pub async fn spawn(brokers: &str, names: &Names, extra: &[&str]) -> Self {
        Self::listening(Self::process(brokers, names, extra)).await
    }

    /// The same of the first release's program, which knows fewer topics.
    pub async fn spawn_former(program: &str, brokers: &str, names: &Names, extra: &[&str]) -> Self {
        let mut arguments = Self::arguments(brokers, names, extra);
        for later in ["--backlog-topic", "--audit-topic"] {
            if let Some(place) = arguments.iter().position(|argument| argument == later) {
                arguments.drain(place..place + 2);
            }
        }
        Self::listening(Process::start("a former worker", program, &arguments, &[])).await
    }

    /// Starts a worker that may have this many files and connections open, and waits until it is ready.
    pub async fn with_files(files: usize, brokers: &str, names: &Names, extra: &[&str]) -> Self {
        let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        let mut arguments = vec!["-c".to_owned(), limited, env!("CARGO_BIN_EXE_hookstream").to_owned()];
        arguments.extend(Self::arguments(brokers, names, extra));
        let worker = Self::listening(Process::start("a worker", "sh", &arguments, &[])).await;
        worker.ready().await;
        worker
    }

    /// Starts one whose wall clock is `seconds` ahead, and waits until it is ready. Its monotonic clock is right.
    pub async fn ahead(seconds: i64, brokers: &str, names: &Names, extra: &[&str]) -> Self {
        let library = clock_shift();
        let shift = seconds.to_string();
        let environment = [("LD_PRELOAD", library.as_str()), ("TEST_CLOCK_SHIFT", shift.as_str())];
        Self::start_in(&environment, brokers, names, extra).await
    }

    /// Starts one with these variables in its environment, and waits until it is ready.
    pub async fn start_in(environment: &[(&str, &str)], brokers: &str, names: &Names, extra: &[&str]) -> Self {
        let worker = Self::spawn_in(environment, brokers, names, extra).await;
        worker.ready().await;
        worker
    }

    /// Starts one with these variables in its environment, without waiting for more than its admin listener.
    pub async fn spawn_in(environment: &[(&str, &str)], brokers: &str, names: &Names, extra: &[&str]) -> Self {
        Self::listening(Self::process_in(brokers, names, extra, environment)).await
    }

    async fn listening(process: Process) -> Self {
        let lines = process.lines().clone();
        let found = tokio::task::spawn_blocking(move || lines.find(PATIENCE, admin_address)).await;
        let admin = found.expect("looking through lines does not panic");
        let admin = admin.unwrap_or_else(|| panic!("the worker does not listen:\n{}", process.lines().tail(40)));
        Self { process, admin }
    }

    /// The bare process, for a test that expects it to end before it listens.
    pub fn process(brokers: &str, names: &Names, extra: &[&str]) -> Process {
        Self::process_in(brokers, names, extra, &[])
    }

    fn process_in(brokers: &str, names: &Names, extra: &[&str], environment: &[(&str, &str)]) -> Process {
        let arguments = Self::arguments(brokers, names, extra);
        Process::start("the worker", env!("CARGO_BIN_EXE_hookstream"), &arguments, environment)
    }

    fn arguments(brokers: &str, names: &Names, extra: &[&str]) -> Vec<String> {
        let mut arguments = vec![String::from("worker")];
        arguments.extend(names.arguments(brokers));
        let fixed = ["--admin-listen", "127.0.0.1:0", "--log-format", "json"];
        let fixed = fixed.into_iter().chain(["--allow-private-networks", "127.0.0.0/8"]);
        arguments.extend(fixed.map(str::to_owned));
        arguments.extend(extra.iter().map(|option| (*option).to_owned()));
        arguments
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&self) {
        wait_until("a ready worker", PATIENCE, async || match self.get("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => {
                assert!(!self.lines().ended(), "the worker has ended:\n{}", self.lines().tail(20));
                Err((other, self.lines().tail(20)))
            }
        })
        .await;
    }

    /// Its log so far.
    pub fn lines(&self) -> &Lines {
        self.process.lines()
    }

    /// Waits for a line of its log that has all of `parts`, and gives it. A line may come later than what it is about.
    pub async fn logged(&self, parts: &[&str]) -> String {
        wait_until(&format!("a line with {parts:?}"), PATIENCE, async || {
            let found = self.lines().find_now(|line| parts.iter().all(|part| line.contains(part)));
            found.ok_or_else(|| self.lines().tail(20))
        })
        .await
    }

    /// Waits until the sum of [`Worker::metric`] is as `is_right` wants it, and gives it.
    pub async fn metric_is(&self, name: &str, labels: &[(&str, &str)], is_right: impl Fn(f64) -> bool) -> f64 {
        wait_until(&format!("{name} {labels:?}"), PATIENCE, async || {
            let value = self.metric(name, labels).await;
            if is_right(value) { Ok(value) } else { Err(value) }
        })
        .await
    }

    /// The address of its `/metrics`.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Processor time it has used.
    pub fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }

    /// Resident memory in bytes, now.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.expect("a running process has resident memory") * 1024
    }

    /// Asks it to stop.
    pub fn sigterm(&mut self) {
        self.process.signal(Signal::Term);
    }

    /// Ends it at once, as a power cut does, and waits until it is gone.
    pub fn sigkill(&mut self) {
        self.process.signal(Signal::Kill);
        self.process.wait(PATIENCE);
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for its end and gives the exit code.
    pub fn wait_exit(&mut self, patience: Duration) -> i32 {
        self.process.wait(patience)
    }

    /// Asks it to stop and expects a clean end.
    pub fn stop(&mut self) {
        self.sigterm();
        let code = self.wait_exit(PATIENCE);
        assert_eq!(code, 0, "the worker ended with {code}:\n{}", self.lines().tail(40));
    }

    /// The sum of the samples of `name` that have all of `labels`; 0 without such samples.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.metrics().await, name, labels)
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        match self.get("/metrics").await {
            Ok((200, text)) => text,
            other => panic!("/metrics gave {other:?}; the worker wrote last:\n{}", self.lines().tail(20)),
        }
    }

    /// Status and body of an admin path.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        tokio::time::timeout(PATIENCE, get(self.admin, path))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
    }
}

/// The address on which the worker listens, from its log.
fn admin_address(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line.get("message")? != "admin listening" {
        return None;
    }
    line.get("address")?.as_str()?.parse().ok()
}

/// The sum of the samples of `name` in a Prometheus text that have all of `labels`.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        if !series.is_empty() && !series.starts_with('{') {
            return None;
        }
        let has = |(label, value): &(&str, &str)| {
            let pair = format!("{label}=\"{value}\"");
            series.contains(&format!("{{{pair}")) || series.contains(&format!(",{pair}"))
        };
        if labels.iter().all(has) { value.parse::<f64>().ok() } else { None }
    });
    samples.sum()
}

/// Status and body of a GET.
///
/// # Errors
/// When the exchange fails.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = hyper::Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
