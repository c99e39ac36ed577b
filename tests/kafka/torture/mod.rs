//! Everything at once, in an order that a seed decides: three brokers that die and freeze, four workers that are killed, stopped,
//! frozen past their session and scaled, receivers that come and go, bursts, integrations that move, pause and resume. An account
//! outside of the workers says what was lost, repeated and out of order.
//!
//! The suite runs a short form. The long form is the same with figures of one's own; it writes a page and a picture to `target/tmp/torture`:
//!
//! ```text
//! HOOKSTREAM_TORTURE_EVENTS=200000 HOOKSTREAM_TORTURE_RATE=500 HOOKSTREAM_TORTURE_SEED=7 cargo test --release --test kafka -- torture --nocapture
//! ```

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

mod account;
mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use self::account::{Account, ENTITIES};
use self::report::{Mark, Sample};
use crate::stage::{Stage, event, webhook};
use crate::support::cluster::{Cluster, OwnCluster};
use crate::support::process::Signal;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::records::produce;
use crate::support::wait::wait_until;
use crate::support::worker::Worker;

const SCHEDULE: &str = "1s,2s,4s,8s";
const PARTITIONS: u16 = 8;
const WORKERS: usize = 4;
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
/// Every webhook; each is the only one of an integration of that name.
const WEBHOOKS: [&str; 6] = ["one", "two", "slow", "fickle", "moving", "pausing"];
/// Those of which every event is to be accounted for. What matches a paused integration is dropped, which only the workers count.
const COUNTED: [&str; 5] = ["one", "two", "slow", "fickle", "moving"];

/// How large it is.
struct Size {
    events: usize,
    /// Events a second, before bursts.
    rate: usize,
    seed: u64,
}

impl Size {
    fn asked_for() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
        Self {
            events: number("HOOKSTREAM_TORTURE_EVENTS").unwrap_or(4_000),
            rate: number("HOOKSTREAM_TORTURE_RATE").unwrap_or(100),
            seed: number("HOOKSTREAM_TORTURE_SEED").unwrap_or(1) as u64,
        }
    }
}

/// How the fickle receiver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Refusing,
    Resetting,
    Hanging,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillWorker,
    StopWorker,
    FreezeWorker,
    AddWorker,
    KillBroker,
    StopBroker,
    FreezeBroker,
    ChangeMood,
    Move,
    PauseAndResume,
}

const FAULTS: [Fault; 10] = [
    Fault::KillWorker,
    Fault::StopWorker,
    Fault::FreezeWorker,
    Fault::AddWorker,
    Fault::KillBroker,
    Fault::StopBroker,
    Fault::FreezeBroker,
    Fault::ChangeMood,
    Fault::Move,
    Fault::PauseAndResume,
];

/// The whole stage.
struct Torture {
    cluster: OwnCluster,
    stage: Stage,
    workers: Vec<Worker>,
    /// Ended workers, until they are known to have ended well.
    stopped: Vec<Worker>,
    base: String,
    mood: Arc<Mutex<Mood>>,
    moved: usize,
    rng: StdRng,
    began: Instant,
    marks: Vec<Mark>,
    counts: BTreeMap<String, usize>,
}

fn integration(name: &str, base: &str, path: &str, status: &str) -> Value {
    json!({ "id": name, "baseUrl": base, "status": status, "webHooks": [webhook(name, path)] })
}

impl Torture {
    fn mark(&mut self, fault: Fault) {
        let what = format!("{fault:?}");
        *self.counts.entry(what.clone()).or_default() += 1;
        self.marks.push((self.began.elapsed().as_secs_f64(), what));
    }

    async fn start_worker(&mut self) {
        let worker = self.stage.spawn(&OPTIONS).await;
        self.workers.push(worker);
    }

    fn some_worker(&mut self) -> Worker {
        let at = self.rng.random_range(0..self.workers.len());
        self.workers.remove(at)
    }

    async fn fault(&mut self, fault: Fault) {
        self.mark(fault);
        match fault {
            Fault::KillWorker => {
                let mut worker = self.some_worker();
                tokio::task::block_in_place(|| worker.sigkill());
                self.start_worker().await;
            }
            Fault::StopWorker => {
                let mut worker = self.some_worker();
                worker.sigterm();
                self.stopped.push(worker);
                if self.workers.len() < WORKERS {
                    self.start_worker().await;
                }
            }
            Fault::FreezeWorker => {
                let mut worker = self.some_worker();
                worker.signal(Signal::Stop);
                tokio::time::sleep(FREEZE).await;
                worker.signal(Signal::Continue);
                self.workers.push(worker);
            }
            Fault::AddWorker if self.workers.len() <= WORKERS => self.start_worker().await,
            Fault::AddWorker => {}
            Fault::KillBroker | Fault::StopBroker | Fault::FreezeBroker => self.broker_fault(fault).await,
            Fault::ChangeMood => {
                let moods = [Mood::Well, Mood::Refusing, Mood::Resetting, Mood::Hanging];
                *self.mood.lock() = moods[self.rng.random_range(0..moods.len())];
            }
            Fault::Move => {
                self.moved += 1;
                let path = format!("/moving/{}", self.moved);
                tokio::task::block_in_place(|| self.stage.put([&integration("moving", &self.base, &path, "active")]));
            }
            Fault::PauseAndResume => {
                for status in ["paused", "active"] {
                    let record = integration("pausing", &self.base, "/pausing", status);
                    tokio::task::block_in_place(|| self.stage.put([&record]));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn broker_fault(&mut self, fault: Fault) {
        let broker = self.rng.random_range(0..3);
        match fault {
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

    /// Fails if a worker ended that was not asked to, or one that was asked to did not end well.
    fn look_after_workers(&mut self) {
        for worker in &mut self.workers {
            assert!(worker.is_running(), "a worker ended by itself:\n{}", worker.lines().tail(40));
        }
        self.stopped.retain_mut(|worker| {
            let is_running = worker.is_running();
            if !is_running {
                let code = worker.wait_exit(Duration::ZERO);
                assert_eq!(code, 0, "a worker was asked to stop:\n{}", worker.lines().tail(40));
            }
            is_running
        });
    }
}

/// Writes all events, at the rate and now and then in a burst of ten seconds' worth.
fn write_events(brokers: &str, topic: &str, size: &Size, written: &AtomicU64) {
    let mut rng = StdRng::seed_from_u64(size.seed ^ 1);
    let began = Instant::now();
    let (mut next, mut due) = (0, 0.0);
    while next < size.events {
        let burst = if rng.random_ratio(1, 60) { 10 } else { 1 };
        let count = (size.rate * burst / 2).clamp(1, size.events - next);
        let events =
            (next..next + count).map(|number| event(&format!("e-{number}"), &format!("c-{}", number % ENTITIES)));
        produce(brokers, topic, events);
        next += count;
        written.store(next as u64, Ordering::Relaxed);
        due += 0.5;
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(began.elapsed()));
    }
}

fn receivers(account: &Account, mood: &Arc<Mutex<Mood>>) -> Receiver {
    let (account, mood) = (account.clone(), Arc::clone(mood));
    Receiver::forgetful(move |request| {
        let name = request.path.split('/').nth(1).unwrap_or_default();
        let answer = match (name, *mood.lock()) {
            ("fickle", Mood::Refusing) => Answer::status(503),
            ("fickle", Mood::Resetting) => Answer::misbehave(Misbehaviour::Reset),
            ("fickle", Mood::Hanging) => Answer::misbehave(Misbehaviour::Hang),
            ("slow", _) => Answer::ok().after(Duration::from_millis(30)),
            _ => Answer::ok(),
        };
        account.note(name, request, answer.status == 200 && answer.misbehaviour.is_none());
        answer
    })
}

async fn set_up(size: &Size, account: &Account) -> (Torture, Receiver) {
    let cluster = Cluster::start(3).await;
    let stage = Stage::replicated(&cluster, "torture", SCHEDULE, PARTITIONS, 3).await;
    let mood = Arc::new(Mutex::new(Mood::Well));
    let receiver = receivers(account, &mood);
    let base = receiver.url("");
    let integrations = WEBHOOKS.map(|name| integration(name, &base, &format!("/{name}"), "active"));
    stage.put(&integrations);
    let torture = Torture {
        cluster,
        stage,
        workers: Vec::new(),
        stopped: Vec::new(),
        base,
        mood,
        moved: 0,
        rng: StdRng::seed_from_u64(size.seed),
        began: Instant::now(),
        marks: Vec::new(),
        counts: BTreeMap::new(),
    };
    (torture, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_brokers_workers_and_receivers_nothing_is_lost_and_order_holds_up_to_repeats() {
    let size = Size::asked_for();
    let account = Account::of(&WEBHOOKS, size.events);
    let (mut torture, _receiver) = set_up(&size, &account).await;
    for _ in 0..WORKERS {
        torture.start_worker().await;
    }
    for worker in &torture.workers {
        worker.ready().await;
    }
    torture.began = Instant::now();
    let written = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (brokers, topic) = (torture.cluster.brokers().to_owned(), torture.stage.names.events());
        let (size, written) = (Size { ..size }, Arc::clone(&written));
        move || write_events(&brokers, &topic, &size, &written)
    });
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sampling = tokio::spawn({
        let (samples, account, written, began) =
            (Arc::clone(&samples), account.clone(), Arc::clone(&written), torture.began);
        async move {
            loop {
                let (acknowledged, repeated, _) = account.counts();
                let (at, events) = (began.elapsed().as_secs_f64(), written.load(Ordering::Relaxed));
                samples.lock().push(Sample { at, events, acknowledged, repeated });
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    // Every fault once, in an order of the seed's, then any, as long as events are written.
    let mut to_come = FAULTS.to_vec();
    while !writer.is_finished() || !to_come.is_empty() {
        let at = torture.rng.random_range(0..to_come.len().max(FAULTS.len()));
        let fault = if to_come.is_empty() { FAULTS[at] } else { to_come.remove(at % to_come.len()) };
        torture.fault(fault).await;
        torture.look_after_workers();
        let rest = torture.rng.random_range(500..2_500);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    writer.join().expect("writing events does not panic");
    *torture.mood.lock() = Mood::Well;
    settle(&mut torture, &size, &account).await;
    sampling.abort();
    let page = judge(&torture, &size, &account);
    let samples = samples.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("torture");
    report::write(&folder, &page, &samples, &torture.marks, WEBHOOKS.len() as u64);
    println!("{page}");
}

/// Waits until every event is accounted for, then ends the workers in order.
async fn settle(torture: &mut Torture, size: &Size, account: &Account) {
    // As long again as writing took, for a machine that was slower than the rate.
    let patience = Duration::from_mins(2) + Duration::from_secs_f64(size.events as f64 / size.rate as f64);
    wait_until("every event to be accounted for", patience, async || {
        let balance = account.balance(&COUNTED, &torture.stage.dead());
        if balance.lost.is_empty() { Ok(()) } else { Err((balance.lost.len(), balance.lost.into_iter().next())) }
    })
    .await;
    torture.stage.settled(patience).await;
    for mut worker in torture.workers.drain(..).chain(torture.stopped.drain(..)) {
        tokio::task::block_in_place(|| worker.stop());
    }
}

/// What was counted, in words; fails if it is not as promised.
fn judge(torture: &Torture, size: &Size, account: &Account) -> String {
    let balance = account.balance(&COUNTED, &torture.stage.dead());
    let (acknowledged, repeated, of_another_id) = account.counts();
    let out_of_order = account.out_of_order();
    let abrupt = ["KillWorker", "FreezeWorker", "KillBroker", "StopBroker", "FreezeBroker"];
    let abrupt: usize = abrupt.iter().filter_map(|name| torture.counts.get(*name)).sum();
    let page = format!(
        "# Torture\n\nSeed {}, {} events at {} a second to {} webhooks; {:.0} s; faults: {:?}.\n\n\
         {} requests, {acknowledged} deliveries acknowledged, {} of {} accounted for, dead letters {:?}, {} lost, \
         {repeated} acknowledged again ({abrupt} abrupt faults), {of_another_id} under another id, {out_of_order} out of order by entity.\n",
        size.seed,
        size.events,
        size.rate,
        WEBHOOKS.len(),
        torture.began.elapsed().as_secs_f64(),
        torture.counts,
        account.requests(),
        COUNTED.len() * size.events - balance.lost.len(),
        COUNTED.len() * size.events,
        balance.dead,
        balance.lost.len(),
    );
    assert_eq!((balance.lost.len(), of_another_id, out_of_order), (0, 0, 0), "{page}");
    // What was under way, and what was settled since the last commit: here two seconds of work, on a generous bound.
    let bound = abrupt * (WORKERS * 16 * WEBHOOKS.len() + 2 * size.rate * WEBHOOKS.len());
    assert!(repeated <= bound as u64, "at most {bound}: {page}");
    page
}
