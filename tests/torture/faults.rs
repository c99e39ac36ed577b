//! The faults of a torture: of workers, brokers, the network between them, clocks, receivers and integrations. `account` judges the results.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::SCHEDULE;
use crate::stage::{Stage, webhook};
use crate::support::cluster::OwnCluster;
use crate::support::links::{Between, Links, Trouble};
use crate::support::process::Signal;
use crate::support::worker::{Clock, Worker};

pub(super) const WORKERS: usize = 4;
/// A member that is silent is missed after three seconds.
const OPTIONS: [&str; 8] = [
    "--kafka-property",
    "session.timeout.ms=3000",
    "--kafka-property",
    "heartbeat.interval.ms=500",
    "--request-timeout",
    "3s",
    "--drain-timeout",
    "5s",
];
/// Longer than a session.
const FREEZE: Duration = Duration::from_secs(5);
/// As slow as the way to another continent and back, several times.
const SLOW: Duration = Duration::from_millis(400);
/// More than the whole retry schedule.
const CLOCK_JUMP_SECONDS: i64 = 60;

/// How the fickle receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    Refusing,
    Resetting,
    Hanging,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    KillWorker,
    StopWorker,
    FreezeWorker,
    AddWorker,
    KillBroker,
    StopBroker,
    FreezeBroker,
    /// Another broker leads each partition, and nothing stops.
    MoveLeaders,
    /// A worker hears no broker past its session, goes on with its requests, and comes back.
    SilenceWorker,
    /// Connections to a broker are cut, and new ones refused.
    CutBroker,
    /// All data between workers and brokers is delayed.
    SlowNetwork,
    /// The clock of a worker jumps, and stays wrong.
    JumpClock,
    ChangeMood,
    Move,
    PauseAndResume,
}

pub(super) const FAULTS: [Fault; 15] = [
    Fault::KillWorker,
    Fault::StopWorker,
    Fault::FreezeWorker,
    Fault::AddWorker,
    Fault::KillBroker,
    Fault::StopBroker,
    Fault::FreezeBroker,
    Fault::MoveLeaders,
    Fault::SilenceWorker,
    Fault::CutBroker,
    Fault::SlowNetwork,
    Fault::JumpClock,
    Fault::ChangeMood,
    Fault::Move,
    Fault::PauseAndResume,
];

impl Fault {
    /// Whether work that was under way may be done again after it.
    pub(super) fn is_abrupt(self) -> bool {
        use Fault::{
            CutBroker, FreezeBroker, FreezeWorker, KillBroker, KillWorker, SilenceWorker, SlowNetwork, StopBroker,
        };
        matches!(
            self,
            KillWorker
                | FreezeWorker
                | KillBroker
                | StopBroker
                | FreezeBroker
                | SilenceWorker
                | CutBroker
                | SlowNetwork
        )
    }
}

/// A worker, its name and its clock.
struct Member {
    worker: Worker,
    /// Its `client.id`.
    name: String,
    clock: Clock,
}

/// The system under torture.
pub(super) struct Victims {
    pub(super) cluster: OwnCluster,
    links: Links,
    pub(super) stage: Stage,
    workers: Vec<Member>,
    /// Workers that were asked to stop, until their exit code was checked.
    stopped: Vec<Member>,
    started: usize,
    /// The ports in receivers' URLs.
    base: String,
    pub(super) mood: Arc<Mutex<Mood>>,
    moved: usize,
    /// How often a partition was given another leader.
    pub(super) leaders_moved: usize,
}

pub(super) fn integration(name: &str, base: &str, path: &str, status: &str) -> Value {
    json!({ "id": name, "baseUrl": base, "status": status, "webHooks": [webhook(name, path)] })
}

impl Victims {
    /// A cluster with its topics, no worker yet, receivers below `base`.
    pub(super) fn new(cluster: OwnCluster, links: Links, stage: Stage, base: String, mood: Arc<Mutex<Mood>>) -> Self {
        let (workers, stopped) = (Vec::new(), Vec::new());
        Self { cluster, links, stage, workers, stopped, started: 0, base, mood, moved: 0, leaders_moved: 0 }
    }

    pub(super) async fn start_worker(&mut self) {
        self.started += 1;
        let (name, clock) = (format!("worker-{}", self.started), Clock::new());
        let client = format!("client.id={name}");
        let options: Vec<&str> =
            ["--retry-schedule", SCHEDULE].into_iter().chain(OPTIONS).chain(["--kafka-property", &client]).collect();
        let (brokers, names) = (self.links.brokers(), &self.stage.names);
        let worker = Worker::spawn_in(&clock.environment(), &brokers, names, &options).await;
        self.workers.push(Member { worker, name, clock });
    }

    /// Waits until every worker is ready.
    pub(super) async fn ready(&self) {
        for member in &self.workers {
            member.worker.ready().await;
        }
    }

    fn some_worker(&mut self, rng: &mut StdRng) -> Member {
        let at = rng.random_range(0..self.workers.len());
        self.workers.remove(at)
    }

    /// Causes the fault and ends it, except for a clock that is wrong: that stays wrong.
    pub(super) async fn suffer(&mut self, fault: Fault, rng: &mut StdRng) {
        match fault {
            Fault::KillWorker
            | Fault::StopWorker
            | Fault::FreezeWorker
            | Fault::AddWorker
            | Fault::SilenceWorker
            | Fault::JumpClock => self.worker_fault(fault, rng).await,
            Fault::KillBroker | Fault::StopBroker | Fault::FreezeBroker | Fault::CutBroker => {
                self.broker_fault(fault, rng.random_range(0..3)).await;
            }
            Fault::MoveLeaders => {
                let moved = tokio::task::block_in_place(|| self.cluster.move_leaders());
                println!("{moved} partitions have another leader");
                self.leaders_moved += moved;
            }
            Fault::SlowNetwork => self.trouble(Trouble::Slow(SLOW), Between::All).await,
            Fault::ChangeMood => {
                let moods = [Mood::Well, Mood::Refusing, Mood::Resetting, Mood::Hanging];
                *self.mood.lock() = moods[rng.random_range(0..moods.len())];
            }
            Fault::Move => {
                self.moved += 1;
                let path = format!("/moving/{}", self.moved);
                tokio::task::block_in_place(|| self.stage.put([&integration("moving", &self.base, &path, "active")]));
            }
            Fault::PauseAndResume => {
                let ended = ["paused", "failed"][rng.random_range(0..2)];
                for status in [ended, "active"] {
                    let record = integration("pausing", &self.base, "/pausing", status);
                    tokio::task::block_in_place(|| self.stage.put([&record]));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn trouble(&self, trouble: Trouble, between: Between) {
        self.links.trouble(trouble, between);
        tokio::time::sleep(FREEZE).await;
        self.links.calm();
    }

    async fn worker_fault(&mut self, fault: Fault, rng: &mut StdRng) {
        if matches!(fault, Fault::AddWorker) {
            if self.workers.len() <= WORKERS {
                self.start_worker().await;
            }
            return;
        }
        let mut member = self.some_worker(rng);
        match fault {
            Fault::KillWorker => {
                tokio::task::block_in_place(|| member.worker.sigkill());
                member.keep_log();
                self.start_worker().await;
                return;
            }
            Fault::StopWorker => {
                member.worker.sigterm();
                self.stopped.push(member);
                if self.workers.len() < WORKERS {
                    self.start_worker().await;
                }
                return;
            }
            Fault::FreezeWorker => {
                member.worker.signal(Signal::Stop);
                tokio::time::sleep(FREEZE).await;
                member.worker.signal(Signal::Continue);
            }
            Fault::SilenceWorker => self.trouble(Trouble::Silent, Between::Client(member.name.clone())).await,
            _ => member.clock.set_ahead([-CLOCK_JUMP_SECONDS, 0, CLOCK_JUMP_SECONDS][rng.random_range(0..3)]),
        }
        self.workers.push(member);
    }

    async fn broker_fault(&mut self, fault: Fault, broker: usize) {
        match fault {
            Fault::CutBroker => self.trouble(Trouble::Cut, Between::Broker(broker)).await,
            Fault::FreezeBroker => {
                self.cluster.freeze(broker);
                tokio::time::sleep(FREEZE).await;
                self.cluster.thaw(broker);
            }
            Fault::KillBroker => tokio::task::block_in_place(|| {
                self.cluster.kill(broker);
                self.cluster.restart(broker);
            }),
            _ => tokio::task::block_in_place(|| {
                self.cluster.stop(broker);
                self.cluster.restart(broker);
            }),
        }
    }

    /// Fails if a worker ended by itself, or if a worker that was asked to stop ended with an error.
    pub(super) fn look_after_workers(&mut self) {
        for Member { worker, name, .. } in &mut self.workers {
            assert!(worker.is_running(), "{name} ended by itself:\n{}", worker.lines().tail(40));
        }
        self.stopped.retain_mut(|Member { worker, name, .. }| {
            let is_running = worker.is_running();
            if !is_running {
                let code = worker.wait_exit(Duration::ZERO);
                assert_eq!(code, 0, "{name} was asked to stop:\n{}", worker.lines().tail(40));
            }
            is_running
        });
    }

    /// How often workers logged that they lost partitions before they could give them up: by a fault, or because the machine is too busy
    /// for a session of three seconds.
    pub(super) fn lost_assignments(&self) -> usize {
        let members = self.workers.iter().chain(&self.stopped);
        members
            .map(|member| member.worker.lines().all().iter().filter(|line| line.contains(r#""lost":true"#)).count())
            .sum()
    }

    /// For each worker, by its own metrics: webhooks that are behind, the age of the oldest event that they wait for, requests under way.
    pub(super) async fn behind(&self) -> Vec<String> {
        let mut said = Vec::new();
        for Member { worker, name, .. } in &self.workers {
            let behind = worker.metric("hookstream_webhooks_behind", &[]).await;
            let age = worker.metric("hookstream_backlog_age_seconds", &[]).await;
            let in_flight = worker.metric("hookstream_in_flight_requests", &[]).await;
            said.push(format!("{name}: {behind} behind, {age} s old, {in_flight} requests under way"));
        }
        said
    }

    /// Ends all workers in order.
    pub(super) fn stop(&mut self) {
        for mut member in self.workers.drain(..).chain(self.stopped.drain(..)) {
            member.worker.stop();
            member.keep_log();
        }
    }
}

impl Member {
    /// Keeps what the worker logged.
    fn keep_log(&self) {
        let (folder, lines) = (folder(), self.worker.lines().all().join("\n"));
        let path = folder.join(format!("{}.log", self.name));
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, lines));
        written.unwrap_or_else(|error| println!("{}: {error}", path.display()));
    }
}

/// Prints the end of the workers' logs if the trial fails.
impl Drop for Victims {
    fn drop(&mut self) {
        self.workers.iter().chain(&self.stopped).for_each(Member::keep_log);
    }
}

/// The folder into which a trial writes its files.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("torture")
}
