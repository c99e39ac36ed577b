//! A real Kafka cluster on loopback: one node that a whole suite shares, or several that a test stops and kills.
//!
//! Each node is a combined broker and controller (`KRaft`) in a process of its own, with its data in a temporary folder.
//! Processes and folder are gone when the cluster is dropped, and also when the test process is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataPartition;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::kafka_jars;
use super::port::Port;
use super::process::{Janitor, Process, Signal};

/// A broker answers in about three seconds; a busy machine may need many times that.
const START_TIME_MAX: Duration = Duration::from_mins(2);
/// A stopping broker hands over its partitions and closes its logs.
const STOP_TIME_MAX: Duration = Duration::from_mins(1);
/// Brokers hear of an election within a second; with a replica that lags behind a test waits as long.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// Brokers that a very busy machine starts may miss each other's first answers.
const START_ATTEMPTS: usize = 3;
/// Tests of one suite that use the shared cluster at the same time, regardless of the number of test threads.
const SHARED_USERS_MAX: usize = 4;

static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
static SHARED_USERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(SHARED_USERS_MAX)));
/// Three JVMs are enough for two cores: one cluster of its own at a time.
static OWN_CLUSTERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// The shape of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Brokers, each also a controller.
    pub nodes: usize,
    /// Broker properties besides, or instead of, the ones this module sets.
    pub properties: Vec<(String, String)>,
    /// The security protocol of a second listener, such as `SASL_SSL`; its address is [`Cluster::second_brokers`].
    pub second_listener: Option<String>,
    /// Ports at which the second listener of each broker is advertised, instead of its own: those of a proxy.
    pub advertised_ports: Vec<u16>,
    /// Further arguments of `StorageTool format`, such as `--add-scram` and its value.
    pub format_arguments: Vec<String>,
    /// Further arguments of each broker's JVM.
    pub jvm_arguments: Vec<String>,
}

impl ClusterOptions {
    /// `nodes` brokers with nothing special.
    pub fn nodes(nodes: usize) -> Self {
        Self {
            nodes,
            properties: Vec::new(),
            second_listener: None,
            advertised_ports: Vec::new(),
            format_arguments: Vec::new(),
            jvm_arguments: Vec::new(),
        }
    }
}

/// A running cluster.
pub struct Cluster {
    brokers: String,
    second_brokers: Option<String>,
    nodes: Vec<Node>,
    // Dropped after the nodes: first the processes end, then the folder goes, then the janitor finds nothing to do.
    _own: Option<(TempDir, Janitor)>,
}

/// The suite's shared cluster, and a turn to use it.
pub struct SharedCluster {
    cluster: &'static Cluster,
    _turn: OwnedSemaphorePermit,
}

impl Deref for SharedCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// A cluster of a test's own, and the turn to have one.
pub struct OwnCluster {
    cluster: Cluster,
    _turn: OwnedSemaphorePermit,
}

impl Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl std::ops::DerefMut for OwnCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

struct Node {
    id: usize,
    port: u16,
    // Held while the node is stopped too: its port is free when it comes back.
    _ports: [Port; 3],
    folder: PathBuf,
    class_path: String,
    jvm_arguments: Vec<String>,
    process: Option<Process>,
}

impl Cluster {
    /// The single node that all tests of this suite share, started by the first that asks. It ends with the process.
    ///
    /// `HOOKSTREAM_TEST_BROKERS` names a cluster to use instead. A test makes topics of its own with names of its own.
    pub async fn shared() -> SharedCluster {
        let turn = Arc::clone(&SHARED_USERS).acquire_owned().await.expect("the semaphore is never closed");
        let started = tokio::task::spawn_blocking(|| {
            SHARED.get_or_init(|| match std::env::var("HOOKSTREAM_TEST_BROKERS") {
                Ok(brokers) if !brokers.is_empty() => Self::given(brokers),
                _ => Self::try_start(&ClusterOptions::nodes(1)),
            })
        });
        match started.await.expect("starting the shared cluster does not panic") {
            Ok(cluster) => SharedCluster { cluster, _turn: turn },
            Err(error) => panic!("no shared Kafka cluster: {error}"),
        }
    }

    /// A cluster of this test's own, whose nodes it may stop, kill and start again. Waits until no other test has one.
    pub async fn start(nodes: usize) -> OwnCluster {
        Self::start_with(ClusterOptions::nodes(nodes)).await
    }

    /// The same, with options.
    pub async fn start_with(options: ClusterOptions) -> OwnCluster {
        let turn = Arc::clone(&OWN_CLUSTERS).acquire_owned().await.expect("the semaphore is never closed");
        let started = tokio::task::spawn_blocking(move || Self::try_start(&options)).await;
        match started.expect("starting a cluster does not panic") {
            Ok(cluster) => OwnCluster { cluster, _turn: turn },
            Err(error) => panic!("no Kafka cluster: {error}"),
        }
    }

    /// The bootstrap servers, without authentication.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The bootstrap servers of [`ClusterOptions::second_listener`].
    pub fn second_brokers(&self) -> &str {
        self.second_brokers.as_deref().expect("the cluster was started with a second listener")
    }

    /// Asks node `index` to stop and waits until it has.
    pub fn stop(&mut self, index: usize) {
        self.end(index, Signal::Term);
    }

    /// Ends node `index` as a power cut does.
    pub fn kill(&mut self, index: usize) {
        self.end(index, Signal::Kill);
    }

    /// Freezes node `index` with its connections open, until [`Cluster::thaw`].
    pub fn freeze(&mut self, index: usize) {
        self.process(index).signal(Signal::Stop);
    }

    /// Ends a freeze.
    pub fn thaw(&mut self, index: usize) {
        self.process(index).signal(Signal::Continue);
    }

    /// Starts node `index` again, on its ports and with its data, and waits until all running nodes answer.
    pub fn restart(&mut self, index: usize) {
        let node = self.nodes.get_mut(index).unwrap_or_else(|| panic!("the cluster has no node {index}"));
        assert!(node.process.is_none(), "node {index} is running");
        node.start();
        self.wait_ready().unwrap_or_else(|error| panic!("restart node {index}: {error}"));
    }

    /// Gives each partition another leader, in order as an operator's tool does: nothing stops, and no record is copied. Returns how many
    /// partitions have another leader then; replicas that lag behind can't be given one.
    pub fn move_leaders(&self) -> usize {
        let (before, plan) = (self.leaders(), self.rotated_replicas());
        let node = self.nodes.first().unwrap_or_else(|| panic!("the cluster is not ours to change"));
        node.write("reassignment.json", &plan).unwrap_or_else(|error| panic!("{error}"));
        let file = node.path("reassignment.json");
        let reassign = ["reassign.ReassignPartitionsCommand", "--execute", "--reassignment-json-file", &file];
        let elect = ["LeaderElectionCommand", "--election-type", "PREFERRED", "--all-topic-partitions"];
        for [class, arguments @ ..] in [reassign, elect] {
            let (code, last) = self.tool(class, &arguments);
            // An election fails where one replica is not in sync, and succeeds elsewhere.
            assert!(code == 0 || class == elect[0], "{class} ended with code {code}:\n{last}");
        }
        // A broker may not have heard of the election yet; a replica that lags behind never becomes the leader.
        let deadline = Instant::now() + ELECTION_TIME_MAX;
        loop {
            let after = self.leaders();
            let has_moved =
                |(partition, leader): (&(String, i32), &i32)| after.get(partition).is_some_and(|it| it != leader);
            let moved = before.iter().filter(|of| has_moved(*of)).count();
            if moved == before.len() || Instant::now() > deadline {
                return moved;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Lets `user` do everything with a topic but read it.
    pub fn deny_read(&self, user: &str, topic: &str) {
        let principal = format!("User:{user}");
        for [rule, operation] in [["--allow-principal", "All"], ["--deny-principal", "Read"]] {
            let arguments = ["--add", rule, &principal, "--operation", operation, "--topic", topic, "--force"];
            let (code, last) = self.tool("AclCommand", &arguments);
            assert_eq!(code, 0, "{last}");
        }
    }

    /// Takes back [`Cluster::deny_read`].
    pub fn allow_read(&self, user: &str, topic: &str) {
        let principal = format!("User:{user}");
        let arguments =
            ["--remove", "--deny-principal", &principal, "--operation", "Read", "--topic", topic, "--force"];
        let (code, last) = self.tool("AclCommand", &arguments);
        assert_eq!(code, 0, "{last}");
    }

    /// Runs one of Kafka's own tools. Returns its exit code and its last lines.
    fn tool(&self, class: &str, arguments: &[&str]) -> (i32, String) {
        let node = self.nodes.first().unwrap_or_else(|| panic!("the cluster is not ours to change"));
        let main: Vec<String> = [format!("org.apache.kafka.tools.{class}")]
            .into_iter()
            .chain(["--bootstrap-server", &self.brokers].map(str::to_owned))
            .chain(arguments.iter().map(|argument| (*argument).to_owned()))
            .collect();
        let mut tool = node.java(class, &[String::from("-XX:TieredStopAtLevel=1")], &main);
        (tool.wait(START_TIME_MAX), tool.lines().tail(20))
    }

    /// The leader of each partition.
    fn leaders(&self) -> BTreeMap<(String, i32), i32> {
        self.partitions(|topic, partition| ((topic.to_owned(), partition.id()), partition.leader()))
            .into_iter()
            .collect()
    }

    /// For the tool that reassigns partitions: the replicas of each in another order, so that another is the preferred leader.
    fn rotated_replicas(&self) -> String {
        let partitions = self.partitions(|topic, partition| {
            let mut replicas = partition.replicas().to_vec();
            let leader = replicas.iter().position(|replica| *replica == partition.leader()).unwrap_or_default();
            let next = (leader + 1) % replicas.len();
            replicas.rotate_left(next);
            serde_json::json!({ "topic": topic, "partition": partition.id(), "replicas": replicas })
        });
        serde_json::json!({ "version": 1, "partitions": partitions }).to_string()
    }

    fn partitions<T>(&self, what: impl Fn(&str, &MetadataPartition) -> T) -> Vec<T> {
        let metadata = client(&self.brokers).fetch_metadata(None, START_TIME_MAX);
        let metadata = metadata.unwrap_or_else(|error| panic!("what the cluster has: {error}"));
        let topics = metadata.topics().iter();
        topics.flat_map(|topic| topic.partitions().iter().map(|partition| what(topic.name(), partition))).collect()
    }

    fn end(&mut self, index: usize, signal: Signal) {
        self.process(index).signal(signal);
        self.process(index).wait(STOP_TIME_MAX);
        self.nodes[index].process = None;
    }

    fn process(&mut self, index: usize) -> &mut Process {
        let node = self.nodes.get_mut(index);
        let node =
            node.unwrap_or_else(|| panic!("node {index} is not ours to stop: start a cluster of the test's own"));
        node.process.as_mut().unwrap_or_else(|| panic!("node {index} is not running"))
    }

    fn given(brokers: String) -> Result<Self, String> {
        let cluster = Self { brokers, second_brokers: None, nodes: Vec::new(), _own: None };
        let known = known_brokers(&cluster.brokers, START_TIME_MAX);
        if known.is_empty() {
            return Err(format!("no broker of HOOKSTREAM_TEST_BROKERS ({}) answers", cluster.brokers));
        }
        Ok(cluster)
    }

    fn try_start(options: &ClusterOptions) -> Result<Self, String> {
        let class_path = kafka_jars::class_path()?;
        let mut failures = Vec::new();
        for _ in 0..START_ATTEMPTS {
            match Self::start_once(options, &class_path) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => failures.push(error),
            }
        }
        Err(failures.join("\n"))
    }

    fn start_once(options: &ClusterOptions, class_path: &str) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("hookstream-kafka-").tempdir();
        let folder = folder.map_err(|error| format!("create a temporary folder: {error}"))?;
        let janitor = Janitor::of(folder.path());
        let ports = Ports::hold(options.nodes);
        let nodes = (0..options.nodes).map(|index| Node::new(index, options, &ports, folder.path(), class_path));
        let mut cluster = Self {
            brokers: addresses(&ports.plain),
            second_brokers: options.second_listener.is_some().then(|| addresses(&ports.second)),
            nodes: nodes.collect::<Result<_, _>>()?,
            _own: Some((folder, janitor)),
        };
        format_storage(&cluster.nodes, options)?;
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Until every running node answers a client, and names all of them.
    fn wait_ready(&mut self) -> Result<(), String> {
        let wanted: BTreeSet<u16> =
            self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.port).collect();
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            for node in &mut self.nodes {
                if let Some(process) = &mut node.process
                    && let Some(code) = process.exit_code()
                {
                    return Err(format!("node {} ended with code {code}:\n{}", node.id, process.lines().tail(40)));
                }
            }
            // Each of them is asked: the others name one that was killed until its session ends, and one that starts is not done then.
            let mut asked = wanted.iter().map(|port| format!("127.0.0.1:{port}"));
            if asked.all(|broker| known_brokers(&broker, Duration::from_millis(500)).is_superset(&wanted)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let wrote: Vec<_> = self.nodes.iter().filter_map(|node| node.process.as_ref()).collect();
                let wrote: Vec<_> = wrote.iter().map(|process| process.lines().tail(20)).collect();
                return Err(format!("Kafka does not answer after {START_TIME_MAX:?}:\n{}", wrote.join("\n---\n")));
            }
        }
    }
}

fn client(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("reconnect.backoff.max.ms", "200")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
        .create()
        .expect("the configuration is valid")
}

/// The ports of the brokers that are in the metadata of `brokers`.
fn known_brokers(brokers: &str, timeout: Duration) -> BTreeSet<u16> {
    match client(brokers).fetch_metadata(None, timeout) {
        Ok(metadata) => metadata.brokers().iter().filter_map(|broker| u16::try_from(broker.port()).ok()).collect(),
        Err(_) => BTreeSet::new(),
    }
}

/// The ports of a cluster's nodes.
struct Ports {
    plain: Vec<Port>,
    second: Vec<Port>,
    controller: Vec<Port>,
}

impl Ports {
    fn hold(nodes: usize) -> Self {
        let held = || (0..nodes).map(|_| Port::hold()).collect();
        Self { plain: held(), second: held(), controller: held() }
    }
}

impl Node {
    fn new(
        index: usize,
        options: &ClusterOptions,
        ports: &Ports,
        folder: &Path,
        class_path: &str,
    ) -> Result<Self, String> {
        let folder = folder.join(format!("node-{}", index + 1));
        std::fs::create_dir_all(&folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
        let node = Self {
            id: index + 1,
            port: ports.plain[index].number(),
            _ports: [&ports.plain, &ports.second, &ports.controller].map(|of| of[index].share()),
            folder,
            class_path: class_path.to_owned(),
            jvm_arguments: options.jvm_arguments.clone(),
            process: None,
        };
        node.write("server.properties", &server_properties(index, options, ports, &node.folder))?;
        node.write("log4j2.properties", LOG4J)?;
        Ok(node)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("write {}: {error}", path.display()))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn java(&self, name: &str, jvm_arguments: &[String], main: &[String]) -> Process {
        let mut arguments = vec![
            String::from("-Xms128m"),
            String::from("-Xmx384m"),
            // Test brokers are many and small: no concurrent collector threads, and no data left in /tmp.
            String::from("-XX:+UseSerialGC"),
            String::from("-XX:-UsePerfData"),
            String::from("-Djava.awt.headless=true"),
            format!("-Dlog4j2.configurationFile={}", self.path("log4j2.properties")),
            format!("-Djava.io.tmpdir={}", self.folder.display()),
        ];
        arguments.extend(jvm_arguments.iter().cloned());
        arguments.extend([String::from("-cp"), self.class_path.clone()]);
        arguments.extend(main.iter().cloned());
        Process::start(name, "java", &arguments, &[])
    }

    fn start(&mut self) {
        let main = [String::from("kafka.Kafka"), self.path("server.properties")];
        self.process = Some(self.java(&format!("Kafka node {}", self.id), &self.jvm_arguments, &main));
    }
}

/// Writes each node's storage, all under one cluster id.
fn format_storage(nodes: &[Node], options: &ClusterOptions) -> Result<(), String> {
    const CLUSTER_ID: &str = "aG9va3N0cmVhbS10ZXN0cw";
    let mut running = Vec::new();
    for node in nodes {
        let mut main = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"].map(str::to_owned).to_vec();
        main.push(node.path("server.properties"));
        main.extend(options.format_arguments.iter().cloned());
        // A program of one second is not worth an optimising compiler.
        running.push(node.java("StorageTool", &[String::from("-XX:TieredStopAtLevel=1")], &main));
    }
    for mut format in running {
        let code = format.wait(START_TIME_MAX);
        if code != 0 {
            return Err(format!("formatting Kafka's storage ended with code {code}:\n{}", format.lines().tail(20)));
        }
    }
    Ok(())
}

const LOG4J: &str = "\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1} %m%n
";

fn addresses(ports: &[Port]) -> String {
    ports.iter().map(|port| port.address().to_string()).collect::<Vec<_>>().join(",")
}

fn server_properties(index: usize, options: &ClusterOptions, ports: &Ports, folder: &Path) -> String {
    let nodes = options.nodes;
    let voters: Vec<_> = (0..nodes).map(|node| format!("{}@{}", node + 1, ports.controller[node].address())).collect();
    let mut listeners = format!("PLAINTEXT://{}", ports.plain[index].address());
    let mut advertised = listeners.clone();
    let mut protocols = String::from("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT");
    if let Some(protocol) = &options.second_listener {
        let port = ports.second[index].number();
        listeners = format!("{listeners},SECOND://127.0.0.1:{port}");
        let port = options.advertised_ports.get(index).unwrap_or(&port);
        advertised = format!("{advertised},SECOND://127.0.0.1:{port}");
        protocols = format!("{protocols},SECOND:{protocol}");
    }
    let copies = nodes.min(3).to_string();
    let in_sync = if nodes >= 3 { "2" } else { "1" };
    let own = [
        ("node.id", (index + 1).to_string()),
        ("process.roles", String::from("broker,controller")),
        ("controller.quorum.voters", voters.join(",")),
        ("controller.listener.names", String::from("CONTROLLER")),
        ("listeners", format!("{listeners},CONTROLLER://{}", ports.controller[index].address())),
        ("advertised.listeners", advertised),
        ("listener.security.protocol.map", protocols),
        ("inter.broker.listener.name", String::from("PLAINTEXT")),
        ("log.dirs", folder.join("data").to_string_lossy().into_owned()),
        ("auto.create.topics.enable", String::from("false")),
        ("default.replication.factor", copies.clone()),
        ("min.insync.replicas", in_sync.to_owned()),
        ("offsets.topic.replication.factor", copies.clone()),
        ("offsets.topic.num.partitions", String::from("5")),
        ("transaction.state.log.replication.factor", copies),
        ("transaction.state.log.min.isr", in_sync.to_owned()),
        ("transaction.state.log.num.partitions", String::from("5")),
        ("group.initial.rebalance.delay.ms", String::from("0")),
        ("group.coordinator.rebalance.protocols", String::from("classic,consumer")),
        // Tests that kill a consumer do not want to wait for the default minimum of six seconds.
        ("group.min.session.timeout.ms", String::from("1000")),
        ("group.consumer.min.session.timeout.ms", String::from("1000")),
        ("group.consumer.min.heartbeat.interval.ms", String::from("100")),
        // A busy machine delays heartbeats by seconds: a broker that is missed for less is not dead. A restart may wait for as long.
        ("broker.session.timeout.ms", String::from("9000")),
        ("broker.heartbeat.interval.ms", String::from("500")),
        ("num.network.threads", String::from("2")),
        ("num.io.threads", String::from("2")),
        ("log.cleaner.dedupe.buffer.size", String::from("8388608")),
    ];
    let replaced = |name: &str| options.properties.iter().any(|(property, _)| property == name);
    let own = own.into_iter().filter(|(name, _)| !replaced(name)).map(|(name, value)| (name.to_owned(), value));
    let all = own.chain(options.properties.iter().cloned());
    all.map(|(name, value)| format!("{name}={value}\n")).collect()
}
