//! Retry topics under a seeded scheduler: records that fall due, receivers that fail, writes that fail or are doubtful, crashes, owners
//! that stand still, a coordinator that does not answer, partitions that are given up in order. The state machines are those of
//! production: hands of due retries, lanes' gauges, offsets. Seeds are run as those of `backlog::simulator`.
//!
//! Nothing is requested early. Whatever is committed, each delivery is acknowledged, a dead letter, or in a record that is read again. No
//! record is requested twice between two abrupt faults. At the end every delivery has ended.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::due_buffers::{DueBuffers, Waiting};
use crate::backlog::simulator::run_seeds;
use crate::domain::headers::Wire;
use crate::inflight::job::{Event, Origin};
use crate::inflight::lane_gauge::{Admitted, LaneGauge, LaneGauges};
use crate::inflight::partition::{Active, Assignment};
use crate::inflight::pressure::Pressure;

/// Tiers, each with one partition.
const TIERS: usize = 2;
/// The delay of each, in ms.
const DELAYS_MS: [i64; TIERS] = [200, 1_500];
/// Attempts after which a delivery is a dead letter.
const ATTEMPTS_MAX: u32 = 6;
/// Requests under way at once.
const REQUESTS_MAX: usize = 8;
/// The value of each record: a hand of one partition holds sixteen.
const VALUE: &[u8] = &[0; 8 * 1024];
/// Steps in which things go wrong.
const STEPS: usize = 600;

/// A record of a tier.
#[derive(Clone, Copy)]
struct Stored {
    delivery: usize,
    attempts: u32,
    appended_ms: i64,
}

/// What Kafka has of a tier.
#[derive(Default)]
struct Tier {
    log: Vec<Stored>,
    /// The group's offset, and what is settled beyond it.
    committed: (i64, Vec<Range<i64>>),
}

impl Tier {
    fn is_read_again(&self, offset: usize) -> bool {
        let offset = i64::try_from(offset).unwrap();
        offset >= self.committed.0 && !self.committed.1.iter().any(|run| run.contains(&offset))
    }
}

/// A retry that was handed over.
struct Retry {
    tier: usize,
    record: Stored,
    event: Arc<Event>,
}

/// A request under way, or a record on its way to the tier.
struct Begun {
    retry: Retry,
    active: Option<Active>,
}

/// What a crash loses.
struct Process {
    assignments: [Arc<Assignment>; TIERS],
    position: [i64; TIERS],
    is_paused: [bool; TIERS],
    buffers: DueBuffers,
    gauge: Arc<LaneGauge>,
    pressure: &'static Pressure,
    lane: VecDeque<(Retry, Admitted)>,
    under_way: Vec<Begun>,
    publishing: Vec<Begun>,
}

impl Process {
    fn start(tiers: &[Tier; TIERS]) -> Self {
        let assignments = [0, 1].map(|tier: usize| {
            let (start, settled) = &tiers[tier].committed;
            Assignment::resumed(format!("retry.{tier}").into(), 0, Some(*start), settled.clone())
        });
        Self {
            position: [0, 1].map(|tier: usize| tiers[tier].committed.0),
            assignments,
            is_paused: [false; TIERS],
            buffers: DueBuffers::default(),
            gauge: LaneGauges::default().of("ws/i", "w"),
            pressure: Pressure::new(64 << 20),
            lane: VecDeque::new(),
            under_way: Vec::new(),
            publishing: Vec::new(),
        }
    }

    fn fetch(&mut self, tier: usize, log: &[Stored]) {
        let offset = self.position[tier];
        let Some(record) = log.get(usize::try_from(offset).unwrap()) else { return };
        if self.is_paused[tier] {
            return;
        }
        self.position[tier] += 1;
        let assignment = &self.assignments[tier];
        if assignment.admit_if_settled_before(offset) {
            return;
        }
        let waiting = Waiting {
            payload: Some(Bytes::from_static(VALUE)),
            wire: Wire { attempt: Some(record.attempts), ..Wire::default() },
            due_ms: record.appended_ms + DELAYS_MS[tier],
            offset,
            sequence: assignment.admit(offset),
        };
        self.buffers.push(tier, assignment, waiting);
    }

    fn hand_over_due(&mut self, now_ms: i64, tiers: &[Tier; TIERS]) {
        let Self { buffers, gauge, pressure, lane, publishing, .. } = self;
        buffers.take_due(
            now_ms,
            || true,
            |tier, assignment, waiting| {
                assert!(waiting.due_ms <= now_ms, "a retry is early");
                let record = tiers[tier].log[usize::try_from(waiting.offset).unwrap()];
                let origin = Origin { topic: Arc::clone(assignment.topic()), partition: 0, offset: waiting.offset };
                let (ticket, held) = ((assignment, waiting.sequence), pressure.hold(VALUE.len()));
                let event = Event::new(waiting.payload.unwrap(), origin, now_ms, Some(ticket), held);
                event.open(1);
                let retry = Retry { tier, record, event: Arc::new(event) };
                if let Some(admitted) = gauge.try_admit_retry(0, pressure) {
                    lane.push_back((retry, admitted));
                } else if let Ok(active) = retry.event.begin() {
                    // Its lane is full: it goes back as it is.
                    publishing.push(Begun { retry, active });
                }
            },
        );
        let flow = self.buffers.flow(now_ms);
        for (list, is_paused) in [(&flow.pause, true), (&flow.resume, false)] {
            for assignment in list {
                let tier = self.assignments.iter().position(|known| Arc::ptr_eq(known, assignment)).unwrap();
                self.is_paused[tier] = is_paused;
            }
        }
    }

    /// Begins the next request. Returns the tier and offset of its record.
    fn begin(&mut self) -> Option<(usize, i64)> {
        if self.under_way.len() >= REQUESTS_MAX {
            return None;
        }
        let (retry, _admitted) = self.lane.pop_front()?;
        let active = retry.event.begin().ok()?;
        let place = (retry.tier, retry.event.position);
        self.under_way.push(Begun { retry, active });
        Some(place)
    }
}

/// What has become of deliveries.
#[derive(Default)]
struct Ended {
    acknowledged: BTreeSet<usize>,
    dead: BTreeSet<usize>,
}

impl Ended {
    fn has(&self, delivery: usize) -> bool {
        self.acknowledged.contains(&delivery) || self.dead.contains(&delivery)
    }
}

struct World {
    rng: StdRng,
    now_ms: i64,
    tiers: [Tier; TIERS],
    /// Deliveries that have failed for the first time, and how many will.
    failed: usize,
    failing: usize,
    ended: Ended,
    /// Tier and offset of what was requested since the last abrupt fault.
    requested: BTreeSet<(usize, i64)>,
    process: Process,
    /// Those that lost their partitions and do not know it.
    frozen: Vec<Process>,
    is_closing: bool,
    /// The coordinator answers no commits.
    is_silent: bool,
    /// A fault of the program that the invariants find: it commits what it has read.
    commits_what_is_read: bool,
}

impl World {
    fn new(seed: u64, commits_what_is_read: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (tiers, failing) = (<[Tier; TIERS]>::default(), rng.random_range(20..400));
        Self {
            process: Process::start(&tiers),
            rng,
            now_ms: 0,
            tiers,
            failed: 0,
            failing,
            ended: Ended::default(),
            requested: BTreeSet::new(),
            frozen: Vec::new(),
            is_closing: false,
            is_silent: false,
            commits_what_is_read,
        }
    }

    fn step(&mut self, is_ending: bool) {
        self.now_ms += self.rng.random_range(0..60);
        let often = if is_ending { 14 } else { 20 };
        match self.rng.random_range(0..often) {
            0 => {
                for _ in 0..self.rng.random_range(0..20).min(self.failing - self.failed) {
                    let first = Stored { delivery: self.failed, attempts: 1, appended_ms: self.now_ms };
                    self.tiers[0].log.push(first);
                    self.failed += 1;
                }
            }
            1..4 if !self.is_closing => {
                for _ in 0..self.rng.random_range(1..40) {
                    let tier = self.rng.random_range(0..TIERS);
                    self.process.fetch(tier, &self.tiers[tier].log);
                }
            }
            4..6 => self.process.hand_over_due(self.now_ms, &self.tiers),
            6..12 => (0..self.rng.random_range(1..20)).for_each(|_| self.work()),
            12 => self.commit(),
            13 if self.is_closing => self.give_up(),
            14 if self.rng.random_bool(0.1) => self.give_up(),
            15 if self.rng.random_bool(0.1) => drop(self.restart()),
            16 if self.rng.random_bool(0.1) => {
                let frozen = self.restart();
                self.frozen.push(frozen);
            }
            17 => self.wake(),
            18 if self.rng.random_bool(0.2) => self.is_silent ^= true,
            _ => {}
        }
    }

    fn work(&mut self) {
        if self.rng.random_bool(0.5)
            && let Some(place) = self.process.begin()
        {
            assert!(self.requested.insert(place), "{place:?} is requested twice");
        }
        if self.rng.random_bool(0.5) {
            Self::end(&mut self.process, &mut self.ended, &mut self.rng);
        }
        if self.rng.random_bool(0.5) {
            Self::publish(&mut self.process, &mut self.tiers, self.now_ms, &mut self.rng);
        }
    }

    /// A request ends.
    fn end(process: &mut Process, ended: &mut Ended, rng: &mut StdRng) {
        if process.under_way.is_empty() {
            return;
        }
        let mut begun = process.under_way.swap_remove(rng.random_range(0..process.under_way.len()));
        let record = &mut begun.retry.record;
        record.attempts += 1;
        if rng.random_bool(0.5) {
            ended.acknowledged.insert(record.delivery);
        } else if record.attempts >= ATTEMPTS_MAX {
            ended.dead.insert(record.delivery);
        } else {
            begun.retry.tier = usize::from(record.attempts > 2);
            return process.publishing.push(begun);
        }
        begun.retry.event.settle(None);
        drop(begun.active);
    }

    /// A record is written to its tier, or not, and is acknowledged, or not: then it is written again.
    fn publish(process: &mut Process, tiers: &mut [Tier; TIERS], now_ms: i64, rng: &mut StdRng) {
        let Some(begun) = process.publishing.pop() else { return };
        let (is_stored, is_acknowledged) =
            [(true, true), (true, true), (false, false), (true, false)][rng.random_range(0..4)];
        if is_stored {
            tiers[begun.retry.tier].log.push(Stored { appended_ms: now_ms, ..begun.retry.record });
        }
        if is_acknowledged {
            begun.retry.event.settle(None);
            drop(begun.active);
        } else {
            process.publishing.insert(0, begun);
        }
    }

    fn commit(&mut self) {
        for (tier, assignment) in self.tiers.iter_mut().zip(&self.process.assignments) {
            let Some(progress) = assignment.progress(0, 1_000).filter(|_| !self.is_silent) else { continue };
            assert!(progress.offset >= tier.committed.0, "a commit goes back");
            tier.committed = (progress.offset, progress.beyond);
        }
        if self.commits_what_is_read {
            (0..TIERS).for_each(|tier| self.tiers[tier].committed.0 = self.process.position[tier]);
        }
    }

    /// Another owner begins where the commits say. The former one is returned as it was.
    fn restart(&mut self) -> Process {
        self.requested.clear();
        self.is_closing = false;
        std::mem::replace(&mut self.process, Process::start(&self.tiers))
    }

    /// An owner that stood still goes on until it hears that its partitions are another's. What it has not written then it leaves.
    fn wake(&mut self) {
        let Some(mut woken) = self.frozen.pop() else { return };
        _ = woken.begin();
        for _ in 0..self.rng.random_range(0..10) {
            Self::end(&mut woken, &mut self.ended, &mut self.rng);
            Self::publish(&mut woken, &mut self.tiers, self.now_ms, &mut self.rng);
        }
        for assignment in &woken.assignments {
            assignment.close();
            assignment.end();
        }
    }

    /// The partitions are given up, in steps: what was begun ends, the last commit, the next owner. Now and then the drain is over first.
    fn give_up(&mut self) {
        if !std::mem::replace(&mut self.is_closing, true) {
            return self.process.assignments.iter().for_each(|assignment| assignment.close());
        }
        let is_quiet = self.process.assignments.iter().all(|assignment| assignment.wait_quiet(Duration::ZERO));
        let is_over = self.rng.random_bool(0.01);
        if !is_quiet && !is_over {
            return;
        }
        self.commit();
        let requested = std::mem::take(&mut self.requested);
        let former = self.restart();
        former.assignments.iter().for_each(|assignment| assignment.hand_over());
        if is_quiet && !self.is_silent {
            self.requested = requested;
        }
    }

    /// No delivery is lost: what has not ended is in a record that is read again.
    fn check(&self) {
        let records = || self.tiers.iter().flat_map(|tier| (0..tier.log.len()).map(move |offset| (tier, offset)));
        let read_again = records().filter(|(tier, offset)| tier.is_read_again(*offset));
        let waits: BTreeSet<usize> = read_again.map(|(tier, offset)| tier.log[offset].delivery).collect();
        let lost: Vec<_> = (0..self.failed).filter(|it| !self.ended.has(*it) && !waits.contains(it)).collect();
        assert!(
            lost.is_empty(),
            "{lost:?} are lost: committed {:?}",
            [0, 1].map(|tier: usize| &self.tiers[tier].committed)
        );
    }

    fn is_through(&self) -> bool {
        let is_committed = |tier: &Tier| usize::try_from(tier.committed.0).unwrap() == tier.log.len();
        self.failed == self.failing && self.tiers.iter().all(is_committed)
    }
}

fn simulate(mut world: World) {
    for step in 0..STEPS {
        world.step(false);
        if step % 20 == 0 {
            world.check();
        }
    }
    world.is_silent = false;
    while !world.frozen.is_empty() {
        world.wake();
    }
    let mut steps = 0;
    while !world.is_through() {
        world.step(true);
        steps += 1;
        assert!(steps < 100_000, "no end");
    }
    world.check();
    assert!((0..world.failing).all(|delivery| world.ended.has(delivery)));
}

#[test]
fn every_retry_ends_and_none_is_early_or_lost_whatever_the_scheduler_does() {
    run_seeds(|seed| simulate(World::new(seed, false)));
}

#[test]
#[should_panic(expected = "are lost")]
fn a_commit_of_what_is_only_read_is_found() {
    (0..20).for_each(|seed| simulate(World::new(seed, true)));
}
