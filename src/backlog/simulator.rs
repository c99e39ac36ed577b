//! The backlog under a seeded scheduler: a log, lanes that fill and return, receivers with moods, crashes, places whose writes
//! fail. The same state machines as in production: nothing of the backlog, the gauges or the offsets is rebuilt here.
//!
//! After each step the invariants hold; at the end every event was settled for every webhook. A seed that fails is printed and
//! replays: `HOOKSTREAM_SIM_SEED=7 cargo test --lib simulator`. `HOOKSTREAM_SIM_SEEDS` says how many run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::partition::{CatchUpOffer, Look, MainOffer, Offered, PartitionBacklog, Plan};
use crate::domain::outcome::BehindReason;
use crate::inflight::job::{Event, Origin};
use crate::inflight::lane_gauge::{Admitted, LANE_EVENTS_MAX, LaneGauge, LaneGauges};
use crate::inflight::partition::{Assignment, FromLane};
use crate::inflight::pressure::Pressure;

/// Seeds of one run, where nothing else is asked for: a few seconds.
const SEEDS: u64 = 300;
const WEBHOOKS: usize = 4;
const EVENT_BYTES: usize = 8 * 1024;

/// Of one webhook: what it settled, and the highest offset that was requested since the last crash. All events are about one
/// entity, so every delivery of a webhook is ordered.
#[derive(Default)]
struct Receiver {
    settled: BTreeSet<i64>,
    requested: Option<i64>,
    is_down: bool,
}

/// A delivery in the simulated shard.
struct Waiting {
    event: Arc<Event>,
    admitted: Admitted,
}

/// A shard: a channel, lanes, requests under way.
#[derive(Default)]
struct Lane {
    channel: VecDeque<Waiting>,
    queue: VecDeque<Waiting>,
    under_way: Vec<Arc<Event>>,
}

struct World {
    rng: StdRng,
    log_len: i64,
    /// By webhook: whether an event matches it.
    matches: Vec<Vec<bool>>,
    receivers: Vec<Receiver>,
    /// What Kafka has: places by webhook, and the committed offset.
    stored: BTreeMap<usize, i64>,
    committed: i64,
    process: Process,
    now_ms: i64,
}

/// What a crash loses.
struct Process {
    gauges: Vec<Arc<LaneGauge>>,
    registry: LaneGauges,
    pressure: Arc<Pressure>,
    assignment: Arc<Assignment>,
    backlog: PartitionBacklog,
    lanes: Vec<Lane>,
    /// The next offset of the main reader.
    main: i64,
    writes: VecDeque<(usize, u64, Option<i64>)>,
}

impl Process {
    fn start(committed: i64, stored: &BTreeMap<usize, i64>) -> Self {
        let registry = LaneGauges::default();
        let gauges: Vec<_> = (0..WEBHOOKS).map(|webhook| registry.of("ws/i", &webhook.to_string())).collect();
        let assignment = Assignment::resumed("events".into(), 0, Some(committed), Vec::new());
        assignment.has_places();
        let mut backlog = PartitionBacklog::new(committed);
        for (webhook, place) in stored {
            backlog.restore(&gauges[*webhook], *place, (BehindReason::LaneFull, 0));
        }
        let lanes = (0..WEBHOOKS).map(|_| Lane::default()).collect();
        let (pressure, main, writes) = (Pressure::new(64 << 20), committed, VecDeque::new());
        Self { gauges, registry, pressure, assignment, backlog, lanes, main, writes }
    }

    fn webhook(&self, gauge: &LaneGauge) -> usize {
        self.gauges.iter().position(|known| known.id() == gauge.id()).unwrap()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let log_len = rng.random_range(50..1_500);
        let share = rng.random_range(0.2..1.0);
        let matches = (0..log_len).map(|_| (0..WEBHOOKS).map(|_| rng.random_bool(share)).collect()).collect();
        let receivers = (0..WEBHOOKS).map(|_| Receiver::default()).collect();
        let process = Process::start(0, &BTreeMap::new());
        Self { rng, log_len, matches, receivers, stored: BTreeMap::new(), committed: 0, process, now_ms: 1 }
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
        if offset >= self.log_len {
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
            event.open(u32::try_from(given.len() + fallen.len()).unwrap());
            let event = Arc::new(event);
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
        if self.process.backlog.plan(look) == Plan::Rest {
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

    fn listen(&mut self) {
        let returns = self.process.registry.take_returns();
        for from_lane in self.process.assignment.told_by_lanes() {
            match from_lane {
                FromLane::Settled { gauge, offset } => self.process.backlog.settled(&gauge, offset),
                FromLane::Returned { gauge, event, pinned } => {
                    self.process.backlog.returned(&gauge, &event, pinned, self.now_ms);
                }
            }
        }
        for (gauge, number) in returns {
            gauge.note_return(number);
        }
    }

    /// What waits in a lane goes back, as a shard does it.
    fn turn_back(&mut self, webhook: usize, waiting: Vec<Waiting>) {
        let gauge = &self.process.gauges[webhook];
        let begins = waiting.iter().any(|waiting| !gauge.is_outdated(&waiting.admitted));
        let number = begins.then(|| gauge.begin_return());
        for waiting in waiting {
            waiting.event.give_back(gauge);
        }
        if let Some(number) = number {
            gauge.end_return(number);
        }
    }

    fn lane(&mut self, webhook: usize) {
        match self.rng.random_range(0..10) {
            // The channel is emptied.
            0..4 => {
                let count = self.rng.random_range(0..300);
                for _ in 0..count {
                    let Some(waiting) = self.process.lanes[webhook].channel.pop_front() else { break };
                    let is_blocked = self.process.gauges[webhook].is_blocked();
                    let is_full = is_blocked && !self.process.lanes[webhook].queue.is_empty();
                    if is_full || self.process.gauges[webhook].is_outdated(&waiting.admitted) {
                        self.turn_back(webhook, vec![waiting]);
                    } else {
                        self.process.lanes[webhook].queue.push_back(waiting);
                    }
                }
            }
            // Requests: one entity, so one at a time.
            4..9 => {
                for _ in 0..self.rng.random_range(1..60) {
                    if self.process.lanes[webhook].under_way.is_empty() {
                        self.begin(webhook);
                    } else if self.rng.random_bool(0.9) {
                        self.end(webhook);
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
                    self.turn_back(webhook, waiting);
                }
            }
        }
    }

    fn begin(&mut self, webhook: usize) {
        let Some(waiting) = self.process.lanes[webhook].queue.pop_front() else { return };
        let offset = waiting.event.origin.offset;
        let receiver = &mut self.receivers[webhook];
        assert!(
            receiver.requested.is_none_or(|before| offset > before),
            "webhook {webhook}: {offset} after {:?}",
            receiver.requested
        );
        receiver.requested = Some(offset);
        self.process.lanes[webhook].under_way.push(waiting.event);
    }

    fn end(&mut self, webhook: usize) {
        let Some(event) = self.process.lanes[webhook].under_way.pop() else { return };
        // Acknowledged, or put into a tier: settled either way.
        self.receivers[webhook].settled.insert(event.origin.offset);
        event.settle(Some(&self.process.gauges[webhook]));
    }

    fn write(&mut self) {
        let now_ms = self.now_ms;
        for write in self.process.backlog.writes_due(now_ms) {
            let webhook = self.process.webhook(&write.gauge);
            self.process.writes.push_back((webhook, write.gauge.id(), write.place));
        }
        while self.rng.random_bool(0.7)
            && let Some((webhook, id, place)) = self.process.writes.pop_front()
        {
            // A write that failed may be in Kafka all the same.
            let (is_stored, is_acknowledged) =
                [(true, true), (true, true), (true, false), (false, false)][self.rng.random_range(0..4)];
            if is_stored {
                match place {
                    Some(place) => self.stored.insert(webhook, place),
                    None => self.stored.remove(&webhook),
                };
            }
            self.process.backlog.written(id, is_acknowledged);
        }
    }

    fn commit(&mut self) {
        if let Some(offset) = self.process.assignment.committable() {
            assert!(offset >= self.committed);
            self.committed = offset;
        }
    }

    fn crash(&mut self) {
        self.process = Process::start(self.committed, &self.stored);
        self.receivers.iter_mut().for_each(|receiver| receiver.requested = None);
    }

    /// What is committed is settled for each webhook, or at or after its place in Kafka; and bounds hold.
    fn check(&self) {
        for (webhook, receiver) in self.receivers.iter().enumerate() {
            let place = self.stored.get(&webhook).copied().unwrap_or(i64::MAX);
            for offset in 0..self.committed.min(place) {
                let is_matched = self.matches[usize::try_from(offset).unwrap()][webhook];
                assert!(
                    !is_matched || receiver.settled.contains(&offset),
                    "webhook {webhook} loses {offset}: committed {}, place {place}",
                    self.committed
                );
            }
        }
        for behind in self.process.backlog.all() {
            let (todo, open, next) = behind.state();
            assert!(todo.len() + open.len() <= 2 * LANE_EVENTS_MAX + 2, "{} and {}", todo.len(), open.len());
            assert!(todo.iter().all(|offset| *offset < next && !open.contains(offset)));
            assert!(behind.pinned() <= LANE_EVENTS_MAX + 2);
        }
    }

    fn step(&mut self, is_ending: bool) {
        self.now_ms += self.rng.random_range(0..60);
        match self.rng.random_range(0..20) {
            0..6 => (0..self.rng.random_range(1..100)).for_each(|_| self.read_main()),
            6..9 => self.catch_up(),
            9..11 => self.listen(),
            11..13 => self.write(),
            13..14 => self.commit(),
            14 if !is_ending => {
                let webhook = self.rng.random_range(0..WEBHOOKS);
                self.receivers[webhook].is_down ^= true;
            }
            15 if !is_ending && self.rng.random_bool(0.05) => self.crash(),
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
        self.process.backlog.is_empty() && self.committed == self.log_len && self.stored.is_empty()
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
        assert!(steps < 100_000, "no end: committed {} of {}, {:?}", world.committed, world.log_len, state());
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
    if let Some(seed) = number("HOOKSTREAM_SIM_SEED") {
        return simulate(seed);
    }
    for seed in 0..number("HOOKSTREAM_SIM_SEEDS").unwrap_or(SEEDS) {
        let passed = std::panic::catch_unwind(|| simulate(seed)).is_ok();
        assert!(passed, "seed {seed} fails: HOOKSTREAM_SIM_SEED={seed} replays it");
    }
}

/// What was still on its way to a lane when the lane returned what waited came back after later events had been given.
#[test]
fn what_is_on_its_way_to_a_lane_that_returns_comes_before_what_is_given_next() {
    simulate(1);
}
