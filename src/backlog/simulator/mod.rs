//! The backlog under a seeded scheduler: a log, lanes that fill and return, receivers with moods, crashes, partitions that are
//! given up in order while requests are under way, places whose writes fail, or come late out of a process that crashed. The same
//! state machines as in production: the backlog, the gauges and the offsets are the real ones.
//!
//! After each step the invariants hold; at the end every event was settled for every webhook, and none was requested twice
//! between two crashes. A seed that fails is printed and replays: `HOOKSTREAM_SIM_SEED=7 cargo test --lib simulator`.
//! `HOOKSTREAM_SIM_SEEDS` says how many run, from that seed on if both are set.

mod process;
mod seeds;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::partition::{CatchUpOffer, Look, MainOffer, Offered, Plan};
use super::place::Place;
use crate::inflight::job::{Event, Origin};

use process::{Process, Receiver, Waiting, store};

/// Seeds of one run, where nothing else is asked for: a few seconds.
const SEEDS: u64 = 300;
const WEBHOOKS: usize = 4;
const EVENT_BYTES: usize = 8 * 1024;
/// First attempts that wait in one lane at most: fewer than in production, so that lanes fill within a short log. What the seeds that
/// are kept do depends on it.
const LANE_EVENTS: usize = 256;

/// Former owners that may still have requests under way at once.
const FORMER_MAX: usize = 2;

struct World {
    rng: StdRng,
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
    committed: (i64, Vec<Range<i64>>),
    process: Process,
    /// Those who gave the partition up and have requests under way.
    former: Vec<Process>,
    epoch: u64,
    now_ms: i64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let log_len = rng.random_range(50..1_500);
        let share = rng.random_range(0.2..1.0);
        let matches = (0..log_len).map(|_| (0..WEBHOOKS).map(|_| rng.random_bool(share)).collect()).collect();
        let receivers = (0..WEBHOOKS).map(|_| Receiver::default()).collect();
        let (committed, stored) = ((0, Vec::new()), BTreeMap::new());
        let process = Process::start(&committed, &stored, 1);
        let (entities, lane_max) = (rng.random_range(1..6), rng.random_range(1..9));
        Self {
            rng,
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
            epoch: 1,
            now_ms: 1,
        }
    }

    fn offered(offset: i64) -> Offered {
        Offered { offset, timestamp_ms: offset, bytes: EVENT_BYTES }
    }

    fn event(&self, offset: i64, sequence: Option<u64>) -> Event {
        let origin = Origin { topic: "events".into(), partition: 0, offset };
        let held = self.process.pressure.hold(EVENT_BYTES);
        let assignment = &self.process.assignment;
        match sequence {
            Some(sequence) => Event::new(Bytes::new(), origin, offset, Some((assignment, sequence)), held),
            None => Event::caught_up(Bytes::new(), origin, offset, assignment, held),
        }
    }

    fn matched(&self, offset: i64) -> Vec<usize> {
        let matches = &self.matches[usize::try_from(offset).unwrap()];
        (0..WEBHOOKS).filter(|webhook| matches[*webhook]).collect()
    }

    fn read_main(&mut self) {
        let offset = self.process.main;
        if offset >= self.log_len || self.process.is_closing {
            return;
        }
        if self.process.assignment.admit_if_settled_before(offset) {
            self.process.backlog.main_passed(offset);
            self.process.main += 1;
            return;
        }
        let pressure = Arc::clone(&self.process.pressure);
        let look = Look { pressure: &pressure, wait_max_ms: i64::MAX, now_ms: self.now_ms };
        let (mut given, mut fallen) = (Vec::new(), Vec::new());
        for webhook in self.matched(offset) {
            let gauge = Arc::clone(&self.process.gauges[webhook]);
            match self.process.backlog.offer_main(&gauge, Self::offered(offset), look) {
                MainOffer::Give(admitted) => given.push((webhook, admitted)),
                MainOffer::Behind => {}
                MainOffer::FallsBehind => fallen.push(gauge),
            }
        }
        if given.is_empty() && fallen.is_empty() {
            self.process.assignment.admit_settled(offset);
        } else {
            let sequence = self.process.assignment.admit(offset);
            let event = self.event(offset, Some(sequence));
            let gauges = given.iter().map(|(webhook, _)| &self.process.gauges[*webhook]);
            event.open_for(gauges, fallen.iter());
            let event = Arc::new(event);
            self.process.backlog.watch(&event, self.now_ms);
            self.process.assignment.set_commit_bound(self.process.backlog.commit_bound());
            for gauge in fallen {
                self.process.backlog.pin(&gauge, Arc::clone(&event));
            }
            for (webhook, admitted) in given {
                self.process.lanes[webhook].channel.push_back(Waiting { event: Arc::clone(&event), admitted });
            }
        }
        self.process.backlog.main_passed(offset);
        self.process.main += 1;
    }

    fn catch_up(&mut self) {
        let pressure = Arc::clone(&self.process.pressure);
        let look = Look { pressure: &pressure, wait_max_ms: i64::MAX, now_ms: self.now_ms };
        if self.process.is_closing || self.process.backlog.plan(look) == Plan::Rest {
            return;
        }
        for _ in 0..self.rng.random_range(1..200) {
            let Some(offset) = self.process.backlog.pass_position() else { return };
            assert!(self.process.backlog.is_next(offset), "a pass is ahead of the main reader");
            let (mut given, mut stalled) = (Vec::new(), false);
            for webhook in self.matched(offset) {
                let gauge = Arc::clone(&self.process.gauges[webhook]);
                match self.process.backlog.offer_catch_up(&gauge, Self::offered(offset), None, look) {
                    CatchUpOffer::Give(admitted) => given.push((webhook, admitted)),
                    CatchUpOffer::Skip => {}
                    CatchUpOffer::Stall => stalled = true,
                    CatchUpOffer::Drop(_) | CatchUpOffer::Expire => panic!("nothing is dropped here"),
                }
            }
            let event = Arc::new(self.event(offset, None));
            for (webhook, admitted) in given {
                self.process.lanes[webhook].channel.push_back(Waiting { event: Arc::clone(&event), admitted });
            }
            if stalled {
                return;
            }
            self.process.backlog.catch_up_passed(offset);
            if self.process.backlog.is_level_at(offset + 1) {
                self.process.backlog.caught_up();
                return;
            }
        }
    }

    fn lane(&mut self, webhook: usize) {
        match self.rng.random_range(0..10) {
            // The channel is emptied.
            0..4 => {
                let count = self.rng.random_range(0..300);
                self.process.take_in(webhook, count);
            }
            // Requests.
            4..9 => {
                self.process.recall(webhook);
                for _ in 0..self.rng.random_range(1..60) {
                    if self.rng.random_bool(0.5) {
                        self.begin(webhook);
                    } else if self.rng.random_bool(0.9) {
                        Self::end(&mut self.process, &mut self.receivers[webhook], webhook, &mut self.rng);
                    }
                }
            }
            // A circuit opens or closes.
            _ => {
                let gauge = Arc::clone(&self.process.gauges[webhook]);
                if gauge.is_blocked() {
                    if self.rng.random_bool(0.5) {
                        gauge.unblock();
                    } else {
                        gauge.want_probe(true);
                    }
                } else if self.receivers[webhook].is_down || self.rng.random_bool(0.05) {
                    gauge.block();
                    let waiting: Vec<_> = self.process.lanes[webhook].queue.drain(..).collect();
                    self.process.turn_back(webhook, waiting);
                }
            }
        }
    }

    /// Begins the request of the first delivery whose entity has none under way.
    fn begin(&mut self, webhook: usize) {
        let lane = &mut self.process.lanes[webhook];
        let entity = |event: &Event| event.origin.offset % self.entities;
        let mut busy: BTreeSet<i64> = lane.under_way.iter().map(|event| entity(event)).collect();
        let next = lane.queue.iter().position(|waiting| busy.insert(entity(&waiting.event)));
        let Some(next) = next.filter(|_| lane.under_way.len() < self.lane_max) else { return };
        let Some(waiting) = lane.queue.remove(next) else { return };
        if waiting.event.begin().is_err() {
            return self.process.turn_back(webhook, vec![waiting]);
        }
        let (offset, entity) = (waiting.event.origin.offset, entity(&waiting.event));
        let Receiver { requested, known, .. } = &mut self.receivers[webhook];
        assert!(!known.contains(&offset), "webhook {webhook}: {offset} was known to be settled");
        let later = requested.range(offset + 1..).find(|later| *later % self.entities == entity);
        assert!(later.is_none(), "webhook {webhook}: {offset} after {later:?}");
        assert!(requested.insert(offset), "webhook {webhook}: {offset} is requested twice");
        lane.under_way.push(waiting.event);
    }

    /// A request ends: acknowledged, or put into a tier.
    fn end(process: &mut Process, receiver: &mut Receiver, webhook: usize, rng: &mut StdRng) {
        let under_way = &mut process.lanes[webhook].under_way;
        if under_way.is_empty() {
            return;
        }
        let event = under_way.swap_remove(rng.random_range(0..under_way.len()));
        receiver.settled.insert(event.origin.offset);
        event.settle(Some(&process.gauges[webhook]));
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
                // A write that failed may be in Kafka all the same.
                let outcomes = [(true, true), (true, true), (false, false), (true, false)];
                let (is_stored, is_acknowledged) = outcomes[rng.random_range(0..4)];
                if is_stored {
                    store(stored, webhook, process.epoch, place);
                }
                process.backlog.written(id, is_acknowledged);
            }
        }
        while rng.random_bool(0.1)
            && let Some((epoch, webhook, place)) = self.late.pop_front()
        {
            store(stored, webhook, epoch, place);
        }
    }

    fn commit(&mut self) {
        if let Some(progress) = self.process.assignment.progress(0, 1_000) {
            assert!(progress.offset >= self.committed.0);
            self.committed = (progress.offset, progress.beyond);
        }
    }

    fn restart(&mut self) -> Process {
        for (webhook, (epoch, _)) in &self.stored {
            let id = self.process.gauges[*webhook].id();
            if *epoch < self.epoch && self.process.backlog.all().all(|behind| behind.gauge.id() != id) {
                // A former owner wrote it after this one had removed it, and this one has not seen it: it is given again.
                self.receivers[*webhook].requested.clear();
            }
        }
        for (webhook, receiver) in self.receivers.iter_mut().enumerate() {
            receiver.learn(&self.committed, self.stored.get(&webhook).map(|(_, place)| place));
        }
        self.epoch += 1;
        let next = Process::start(&self.committed, &self.stored, self.epoch);
        std::mem::replace(&mut self.process, next)
    }

    fn crash(&mut self) {
        let crashed = self.restart();
        let writes = crashed.writes.iter().map(|(webhook, _, place)| (crashed.epoch, *webhook, place.clone()));
        self.late.extend(writes);
        self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
    }

    /// The partition is given up, in steps: what waits comes back, places are held, the last commit, the next owner.
    fn give_up(&mut self) {
        if !self.process.is_closing {
            if self.former.len() < FORMER_MAX {
                self.process.is_closing = true;
                self.process.assignment.close();
            }
            return;
        }
        for webhook in 0..WEBHOOKS {
            self.process.take_in(webhook, 1_000);
            self.process.recall(webhook);
        }
        self.process.listen(self.now_ms);
        if self.process.backlog.has_open() && self.rng.random_bool(0.5) {
            return;
        }
        self.process.backlog.hold(self.now_ms);
        self.process.backlog.write_soon();
        self.write();
        self.process.assignment.set_commit_bound(self.process.backlog.commit_bound());
        self.process.assignment.set_places_stored(self.process.backlog.is_stored());
        if self.process.assignment.wait_quiet(Duration::ZERO) {
            self.commit();
            self.process.assignment.hand_over();
            let former = self.restart();
            self.former.push(former);
        }
    }

    /// Former owners go on until what was under way has ended; some die before.
    fn linger(&mut self) {
        for index in (0..self.former.len()).rev() {
            let process = &mut self.former[index];
            for (webhook, receiver) in self.receivers.iter_mut().enumerate() {
                if self.rng.random_bool(0.5) {
                    Self::end(process, receiver, webhook, &mut self.rng);
                }
            }
            process.listen(self.now_ms);
            process.backlog.release(false);
            process.backlog.write_soon();
            if !process.backlog.is_held_here() && process.backlog.is_stored() {
                process.assignment.end();
                self.former.remove(index);
            } else if self.rng.random_bool(0.01) {
                self.former.remove(index);
                self.receivers.iter_mut().for_each(|receiver| receiver.requested.clear());
            }
        }
    }

    /// The owner looks whether former owners have released places. A place whose holder is dead is released when its time has
    /// run out.
    fn follow(&mut self) {
        let held: Vec<_> = self.process.backlog.held_elsewhere().map(Arc::clone).collect();
        for gauge in held {
            let webhook = self.process.webhook(&gauge);
            let place = self.stored.get(&webhook).map(|(_, place)| place.clone()).unwrap_or_default();
            let is_alive = self.former.iter().any(|former| former.backlog.is_held_here());
            if !place.is_held || (!is_alive && self.former.is_empty()) {
                self.process.backlog.released(&gauge, &place);
            }
        }
        if !self.process.is_closing {
            for (webhook, (epoch, place)) in &self.stored {
                if *epoch < self.process.epoch {
                    self.process.backlog.remove_late(&self.process.gauges[*webhook], place, self.now_ms);
                }
            }
        }
    }

    /// What is committed is settled for each webhook, or at or after its place in Kafka; and bounds hold.
    fn check(&self) {
        let (committed, beyond) = &self.committed;
        for (webhook, receiver) in self.receivers.iter().enumerate() {
            let place = self.stored.get(&webhook).map(|(_, place)| place.clone()).unwrap_or_default();
            for offset in (0..*committed).chain(beyond.iter().cloned().flatten()) {
                let is_matched = self.matches[usize::try_from(offset).unwrap()][webhook];
                assert!(
                    !is_matched || receiver.settled.contains(&offset) || place.covers(offset),
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

    fn is_through(&self) -> bool {
        let is_level = self.process.backlog.is_empty() && self.stored.is_empty() && self.former.is_empty();
        is_level && self.committed.0 == self.log_len
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for step in 0..600 {
        world.step(false);
        if step % 20 == 0 {
            world.check();
        }
    }
    let mut steps = 0;
    while !world.is_through() {
        world.step(true);
        steps += 1;
        let state = || world.process.backlog.all().map(|behind| format!("{:?}", behind.state())).collect::<Vec<_>>();
        assert!(steps < 100_000, "no end: committed {:?} of {}, {:?}", world.committed, world.log_len, state());
    }
    world.check();
    for (webhook, receiver) in world.receivers.iter().enumerate() {
        let missing: Vec<_> = (0..world.log_len)
            .filter(|offset| {
                world.matches[usize::try_from(*offset).unwrap()][webhook] && !receiver.settled.contains(offset)
            })
            .collect();
        assert!(missing.is_empty(), "webhook {webhook} misses {missing:?}");
    }
}

#[test]
fn every_event_is_settled_for_every_webhook_in_order_whatever_the_scheduler_does() {
    #[expect(clippy::disallowed_methods, reason = "a test that is to run for longer, or to replay a seed, is told so")]
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = (number("HOOKSTREAM_SIM_SEED"), number("HOOKSTREAM_SIM_SEEDS"));
    if let (Some(seed), None) = (first, count) {
        return simulate(seed);
    }
    let first = first.unwrap_or(0);
    for seed in first..first + count.unwrap_or(SEEDS) {
        let passed = std::panic::catch_unwind(|| simulate(seed)).is_ok();
        assert!(passed, "seed {seed} fails: HOOKSTREAM_SIM_SEED={seed} replays it");
    }
}
