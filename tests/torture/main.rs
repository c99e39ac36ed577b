//! Everything at once, in an order that a seed decides: three brokers that die and freeze, leaders that move, four workers that are killed,
//! stopped, frozen past their session and scaled, a network between them that is cut, silent and slow, clocks that jump, receivers that come and
//! go, bursts, integrations that move, are paused, suspended and resumed. An account outside of the workers counts what was lost, repeated
//! and out of order.
//!
//! The suite runs a short form. The long form is the same with figures of one's own; it writes a page and a picture to `target/tmp/torture`:
//!
//! ```text
//! HOOKSTREAM_TORTURE_EVENTS=200000 HOOKSTREAM_TORTURE_RATE=500 HOOKSTREAM_TORTURE_SEED=7 cargo test --release --test torture -- --nocapture
//! ```

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, in their helpers too, and print what they measured by the wall clock"
)]

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../support/mod.rs"]
mod support;

#[expect(dead_code, reason = "each suite uses a part of what they share")]
#[path = "../kafka/stage.rs"]
mod stage;

mod account;
mod faults;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use self::account::{Account, ENTITIES};
use self::faults::{FAULTS, Fault, Mood, Victims, WORKERS, folder, integration};
use self::report::{Mark, Sample};
use crate::stage::{Stage, event};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::links::Links;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::records::produce;
use crate::support::wait::wait_until;

const SCHEDULE: &str = "1s,2s,4s,8s";
const PARTITIONS: u16 = 8;
/// Every webhook; each is the only one of an integration of that name.
const WEBHOOKS: [&str; 6] = ["one", "two", "slow", "fickle", "moving", "pausing"];
/// Integrations of which each event is accounted for. What matches a paused integration is dropped, which only the workers count.
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

/// The whole trial.
struct Torture {
    victims: Victims,
    rng: StdRng,
    began: Instant,
    marks: Vec<Mark>,
    counts: BTreeMap<String, usize>,
    /// Faults after which work that was under way may be done again.
    abrupt: usize,
}

impl Torture {
    async fn fault(&mut self, fault: Fault) {
        let what = format!("{fault:?}");
        *self.counts.entry(what.clone()).or_default() += 1;
        self.abrupt += usize::from(fault.is_abrupt());
        // Shown where the trial fails.
        println!("{:.1} s: {what}", self.began.elapsed().as_secs_f64());
        self.marks.push(Mark { at: self.began.elapsed().as_secs_f64(), what, is_abrupt: fault.is_abrupt() });
        self.victims.suffer(fault, &mut self.rng).await;
        self.victims.look_after_workers();
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
    let links = Links::new(3);
    // Workers reach the brokers through the links, everything else does so without them.
    let cluster = Cluster::start_with(ClusterOptions {
        second_listener: Some("PLAINTEXT".to_owned()),
        advertised_ports: links.ports().to_vec(),
        ..ClusterOptions::nodes(3)
    });
    let cluster = cluster.await;
    links.lead_to(cluster.second_brokers());
    let stage = Stage::replicated(&cluster, "torture", SCHEDULE, PARTITIONS, 3).await;
    let mood = Arc::new(Mutex::new(Mood::Well));
    let receiver = receivers(account, &mood);
    let base = receiver.url("");
    stage.put(&WEBHOOKS.map(|name| integration(name, &base, &format!("/{name}"), "active")));
    let mut victims = Victims::new(cluster, links, stage, base, mood);
    for _ in 0..WORKERS {
        victims.start_worker().await;
    }
    victims.ready().await;
    let (rng, began) = (StdRng::seed_from_u64(size.seed), account.begin());
    (Torture { victims, rng, began, marks: Vec::new(), counts: BTreeMap::new(), abrupt: 0 }, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_brokers_workers_and_receivers_lose_nothing_and_keep_order_up_to_repeats() {
    let size = Size::asked_for();
    let account = Account::of(&WEBHOOKS, size.events);
    let (mut torture, _receiver) = set_up(&size, &account).await;
    let written = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (brokers, topic) = (torture.victims.cluster.brokers().to_owned(), torture.victims.stage.names.events());
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
        let rest = torture.rng.random_range(500..2_500);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    writer.join().expect("writing events does not panic");
    *torture.victims.mood.lock() = Mood::Well;
    let lost = settle(&mut torture, &size, &account).await;
    sampling.abort();
    let page = judge(&torture, &size, &account, lost);
    let samples = samples.lock();
    report::write(&folder(), &page, &samples, &torture.marks, WEBHOOKS.len() as u64);
    println!("{page}");
}

/// Waits until every event is accounted for, then ends the workers in order. Returns how often they had lost partitions.
async fn settle(torture: &mut Torture, size: &Size, account: &Account) -> usize {
    // As long again as writing took, for a machine that was slower than the rate.
    let patience = Duration::from_mins(2) + Duration::from_secs_f64(size.events as f64 / size.rate as f64);
    wait_until("every event to be accounted for", patience, async || {
        let balance = account.balance(&COUNTED, &torture.victims.stage.dead());
        if balance.lost.is_empty() {
            return Ok(());
        }
        Err((balance.lost.len(), balance.lost.into_iter().next(), torture.victims.behind().await))
    })
    .await;
    torture.victims.stage.read_through(patience).await;
    wait_until("no webhook to be behind", patience, async || {
        let places = torture.victims.stage.places();
        if places.is_empty() { Ok(()) } else { Err((places, torture.victims.behind().await)) }
    })
    .await;
    let lost = torture.victims.lost_assignments();
    tokio::task::block_in_place(|| torture.victims.stop());
    lost
}

/// The counts in words; fails if they break a promise.
fn judge(torture: &Torture, size: &Size, account: &Account, lost: usize) -> String {
    let balance = account.balance(&COUNTED, &torture.victims.stage.dead());
    let (acknowledged, repeated, of_another_id) = account.counts();
    let out_of_order = account.out_of_order();
    let abrupt = torture.abrupt;
    let by_fault = report::by_fault(&torture.marks, &account.repeats());
    let page = format!(
        "# Torture\n\nSeed {}, {} events at {} a second to {} webhooks; {:.0} s; faults: {:?}.\n\n\
         {} requests, {acknowledged} deliveries acknowledged, {} of {} accounted for, dead letters {:?}, {} lost, \
         {repeated} acknowledged again ({abrupt} abrupt faults, {lost} times a worker lost partitions), {of_another_id} under another id, {out_of_order} out of order by entity.\n\n{}",
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
        report::table(&torture.marks, &by_fault),
    );
    assert!(torture.victims.leaders_moved > 0, "no leader ever moved: {page}");
    assert_eq!((balance.lost.len(), of_another_id, out_of_order), (0, 0, 0), "{page}");
    // What was under way, and what was settled since the last commit: here two seconds of work, on a generous bound.
    let in_flight = WORKERS * 16 * WEBHOOKS.len();
    let bound = abrupt * (in_flight + 2 * size.rate * WEBHOOKS.len());
    assert!(repeated <= bound as u64, "at most {bound}: {page}");
    // A coordinator that is silent for a second lets nothing more be handed over. A burst is five seconds' worth at once.
    let bound = in_flight + (2 + 5) * size.rate * WEBHOOKS.len();
    let most = by_fault.iter().map(|of| of.count).max().unwrap_or_default();
    assert!(most <= bound, "at most {bound} a fault: {page}");
    page
}
