//! The backlog under a seeded scheduler: a log, lanes that fill and return, receivers that fail at times, crashes, partitions that are
//! given up in order while requests are under way, places whose writes fail, or come late out of a process that crashed. Each world also
//! has some of the faults in [`Fault`]. The state machines are those of production: backlog, gauges, offsets.
//!
//! After each step the invariants hold. At the end every event is settled or dropped for every webhook. No event is requested twice
//! between two abrupt faults. A seed that fails is printed and replays: `HOOKSTREAM_SIM_SEED=7 cargo test --lib simulator`.
//! `HOOKSTREAM_SIM_SEEDS` says how many run, from that seed on if both are set. What waits in retry topics is not simulated here but in
//! `intake::tier_simulator`: other partitions of another group, which share no state with these.

mod faults;
mod seeds;
mod work;
mod process;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::behind::Standing;
use super::place::Place;

use faults::Fault;
use process::{Committed, Process, Receiver, store};

/// Seeds of one run, where nothing else is asked for: a minute on two cores, without optimisation.
const SEEDS: u64 = 2_000;
const WEBHOOKS: usize = 4;
const EVENT_BYTES: usize = 8 * 1024;
/// First attempts that wait in one lane at most: fewer than in production, so that lanes fill within a short log. What the seeds that
/// are kept do depends on it.
const LANE_EVENTS: usize = 256;

/// Former owners that may still have requests under way at once.
const FORMER_MAX: usize = 2;

struct World {
    rng: StdRng,
    /// Decides about `faults`.
    fate: StdRng,
    faults: Vec<Fault>,
    log_len: i64,
    /// By webhook: whether an event matches it.
    matches: Vec<Vec<bool>>,
    /// Events of one entity are requested one after another.
    entities: i64,
    /// Requests under way at once.
    lane_max: usize,
    receivers: Vec<Receiver>,
    /// What Kafka has: places by webhook with the epoch that wrote them, the committed offset, and what is settled beyond it.
    stored: BTreeMap<usize, (u64, Place)>,
    /// What processes that crashed had on its way there: by epoch, webhook and place.
    late: VecDeque<(u64, usize, Place)>,
    committed: Committed,
    process: Process,
    /// Former owners of the partition that have requests under way.
    former: Vec<Process>,
    /// Owners that lost the partition and do not know it.
    frozen: Vec<Process>,
    /// By webhook: what the integrations table says.
    table: Vec<Standing>,
    /// Whether the coordinator answers no commits, and since which step.
    is_silent: bool,
    silent_since: u64,
    steps: u64,
    epoch: u64,
    now_ms: i64,
}

impl World {
    /// Without `has_all` there are only the faults that the first simulator had: a seed that was kept then replays as it was.
    fn new(seed: u64, has_all: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut fate = StdRng::seed_from_u64(!seed);
        let faults = if has_all { Fault::some(&mut fate) } else { Vec::new() };
        let log_len = rng.random_range(50..1_500);
        let share = rng.random_range(0.2..1.0);
        let matches = (0..log_len).map(|_| (0..WEBHOOKS).map(|_| rng.random_bool(share)).collect()).collect();
        let receivers = (0..WEBHOOKS).map(|_| Receiver::default()).collect();
        let (committed, stored) = (Committed::default(), BTreeMap::new());
        let process = Process::start(&committed, &stored, 1);
        let (entities, lane_max) = (rng.random_range(1..6), rng.random_range(1..9));
        Self {
            rng,
            fate,
            faults,
            log_len,
            matches,
            entities,
            lane_max,
            receivers,
            stored,
            late: VecDeque::new(),
            committed,
            process,
            former: Vec::new(),
            frozen: Vec::new(),
            table: vec![Standing::Delivered; WEBHOOKS],
            is_silent: false,
            silent_since: 0,
            steps: 0,
            epoch: 1,
            now_ms: 1,
        }
    }

    fn write(&mut self) {
        let (now_ms, rng, stored) = (self.now_ms, &mut self.rng, &mut self.stored);
        for process in std::iter::once(&mut self.process).chain(&mut self.former) {
            for write in process.backlog.writes_due(now_ms) {
                let webhook = process.webhook(&write.gauge);
                process.writes.push_back((webhook, write.gauge.id(), write.place));
            }
            while rng.random_bool(0.7)
                && let Some((webhook, id, place)) = process.writes.pop_front()
            {
                // A write that failed may be in Kafka nevertheless.
                let outcomes = [(true, true), (true, true), (false, false), (true, false)];
                let (is_stored, is_acknowledged) = outcomes[rng.random_range(0..4)];
                if is_stored {
                    store(stored, webhook, process.epoch, place);
                }
                process.backlog.written(id, is_acknowledged);
            }
            process.assignment.set_commit_bound(process.backlog.commit_bound());
        }
        while rng.random_bool(0.1)
            && let Some((epoch, webhook, place)) = self.late.pop_front()
        {
            store(stored, webhook, epoch, place);
        }
    }

    fn commit(&mut self) {
        if let Some(progress) = self.process.assignment.progress(0, 1_000).filter(|_| !self.is_silent) {
            assert!(progress.offset >= self.committed.offset);
            self.committed = Committed { offset: progress.offset, beyond: progress.beyond };
        }
    }

    /// What is committed is settled for each webhook, or at or after its place in Kafka; and bounds hold.
    fn check(&self) {
        let committed = self.committed.offset;
        for (webhook, receiver) in self.receivers.iter().enumerate() {
            let place = self.stored.get(&webhook).map(|(_, place)| place.clone()).unwrap_or_default();
            for offset in self.committed.settled() {
                let is_matched = self.matches[usize::try_from(offset).unwrap()][webhook];
                assert!(
                    !is_matched || receiver.has_ended(offset) || place.covers(offset),
                    "webhook {webhook} loses {offset}: committed {committed}, {place:?}"
                );
            }
        }
        for behind in self.process.backlog.all() {
            let (todo, open, _) = behind.state();
            assert!(todo.len() + open.len() <= 2 * LANE_EVENTS + 20, "{} and {}", todo.len(), open.len());
            assert!(todo.is_disjoint(open));
            assert!(behind.pinned() <= 2 * LANE_EVENTS + 20);
        }
    }

    fn step(&mut self, is_ending: bool) {
        self.now_ms += self.rng.random_range(0..60);
        if !is_ending {
            self.maybe_fail();
        }
        match self.rng.random_range(0..22) {
            0..6 => (0..self.rng.random_range(1..100)).for_each(|_| self.read_main()),
            6..9 => self.catch_up(),
            9..11 => self.process.listen(self.now_ms),
            11..13 => self.write(),
            13..14 => self.commit(),
            14 if !is_ending => {
                let webhook = self.rng.random_range(0..WEBHOOKS);
                self.receivers[webhook].is_down ^= true;
            }
            15 if !is_ending && self.rng.random_bool(0.05) => self.crash(),
            16 => {
                let before_ms = self.now_ms - self.rng.random_range(0..500);
                self.process.backlog.cover_open(before_ms, self.now_ms);
            }
            17 if self.process.is_closing || (!is_ending && self.rng.random_bool(0.1)) => self.give_up(),
            18 => {
                self.linger();
                self.follow();
            }
            _ => {
                let webhook = self.rng.random_range(0..WEBHOOKS);
                if is_ending {
                    self.receivers[webhook].is_down = false;
                    self.process.gauges[webhook].unblock();
                }
                self.lane(webhook);
            }
        }
    }

    fn state(&self) -> String {
        let Process { backlog, is_closing, .. } = &self.process;
        let behind: Vec<_> =
            backlog.all().map(|it| (it.state(), it.pinned(), it.place().is_held, it.standing)).collect();
        let (committed, stored, former) = (&self.committed, &self.stored, self.former.len());
        format!(
            "committed {committed:?} of {}, {behind:?}, {stored:?}, closing {is_closing}, former {former}",
            self.log_len
        )
    }

    fn is_through(&self) -> bool {
        let is_level = self.process.backlog.is_empty() && self.stored.is_empty() && self.former.is_empty();
        is_level && self.committed.offset == self.log_len
    }
}

fn simulate(mut world: World) {
    for step in 0..600 {
        world.step(false);
        if step % 20 == 0 {
            world.check();
        }
    }
    world.calm();
    let mut steps = 0;
    while !world.is_through() {
        world.step(true);
        steps += 1;
        assert!(steps < 100_000, "no end: {}", world.state());
    }
    world.check();
    for (webhook, receiver) in world.receivers.iter().enumerate() {
        let missing: Vec<_> = (0..world.log_len)
            .filter(|offset| world.matches[usize::try_from(*offset).unwrap()][webhook] && !receiver.has_ended(*offset))
            .collect();
        assert!(missing.is_empty(), "webhook {webhook} misses {missing:?}");
    }
}

/// Runs seeds on all cores, as many as are asked for. Those that fail are named.
pub(crate) fn run_seeds(simulate: impl Fn(u64) + Sync) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test that is to run for longer, or replays a seed, is configured by variables"
    )]
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = (number("HOOKSTREAM_SIM_SEED"), number("HOOKSTREAM_SIM_SEEDS"));
    if let (Some(seed), None) = (first, count) {
        return simulate(seed);
    }
    let first = first.unwrap_or(0);
    let (next, end) = (AtomicU64::new(first), first + count.unwrap_or(SEEDS));
    let failed = Mutex::new(Vec::new());
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(seed))).is_err() {
                failed.lock().push(seed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| _ = scope.spawn(run)));
    assert!(failed.lock().is_empty(), "seeds {failed:?} fail; HOOKSTREAM_SIM_SEED=<one of them> replays it");
}

#[test]
fn every_event_is_settled_for_every_webhook_in_order_whatever_the_scheduler_does() {
    run_seeds(|seed| simulate(World::new(seed, true)));
}
