//! One shard: the lanes and hosts of its receivers, and every request to them.
//!
//! Wait-for arrows: consumers wait for room in the shard's channel; the shard waits for receivers and for Kafka's
//! acknowledgements, never for a consumer. So a full channel always empties.

mod ending;
mod maintenance;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use self::maintenance::{MAINTENANCE_EVERY, Patience};
use super::allowance::Allowance;
use super::circuit::{Admission, Circuit};
use super::connection::KeptConnection;
use super::courier::{AnswerRead, AnswerRest, Courier, Exchange};
use super::kept_pool::KeptPool;
use super::next_step::{NextRecord, NextSteps};
use super::observers::Reports;
use super::order::{OrderedQueue, Place};
use super::pace::Pace;
use super::publish::{PublishError, Sink};
use super::request::{RequestTemplate, SignedRequest};
use crate::attempt_log::entry::Entry;
use crate::clock;
use crate::domain::hash::BuildHash64;
use crate::domain::integration::Integration;
use crate::domain::outcome::{DropReason, Reason};
use crate::domain::target::Authority;
use crate::inflight::job::{DeadLetter, Delivery, Job};
use crate::inflight::partition::Active;
use crate::inflight::pressure::{HeldPublication, Pressure};
use crate::settings;
use crate::telemetry::metrics::{Metrics, TickOutcome};

/// Batches that wait for the shard: with 256 jobs each, what a consumer reads in a few ms.
pub const BATCHES_MAX: usize = 16;

/// What all shards share.
pub struct Shared {
    /// How deliveries are made.
    pub settings: settings::Delivery,
    /// How many shards there are.
    pub shards: usize,
    /// Makes requests.
    pub courier: Courier,
    /// Publishes retries and dead letters.
    pub sink: Sink,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How much the process holds.
    pub pressure: Arc<Pressure>,
    /// One permit a request under way.
    pub permits: Arc<Semaphore>,
    /// Topics of tiers and dead letters.
    pub settlements: NextSteps,
    /// Who hears of attempts.
    pub reports: Reports,
}

struct Lane {
    key: u64,
    host: usize,
    /// The requests of the webhook as the integration says at present.
    prepared: Arc<RequestTemplate>,
    prepared_from: (Arc<Integration>, usize),
    queue: OrderedQueue<Delivery>,
    in_flight: usize,
    allowance: Allowance,
    pace: Pace,
    /// Its host is at its limit and needs too long for what waits for it: see [`Shard::look_at_hosts`].
    host_is_full: bool,
    /// It stands in the shard's queue of runnable lanes, or in its host's of waiting ones.
    scheduled: bool,
    /// Its last request failed: the next one opens a new connection, since a kept one may lead to where the receiver no longer is.
    has_failed: bool,
    fed: Instant,
}

impl Lane {
    /// Whether more waits than its receiver takes in a few seconds.
    fn is_full(&self, now: Instant) -> bool {
        let abreast = (self.in_flight + self.queue.ready()).min(self.allowance.size());
        self.pace.is_full(self.queue.waiting(), self.in_flight, abreast, now)
    }

    /// Whether what waits is to be put off: the receiver has stopped answering and would need too long, or either of these
    /// and somebody waits for a partition that is being given up.
    fn is_to_shed(&self, now: Instant) -> bool {
        match (self.pace.is_stalled(self.in_flight, now), self.is_full(now)) {
            (true, true) => true,
            (false, false) => false,
            (true, false) | (false, true) => self.queue.any_waiting(|delivery| delivery.event.is_revoked()),
        }
    }
}

struct Host {
    authority: Arc<Authority>,
    in_flight: usize,
    circuit: Circuit,
    pace: Pace,
    /// Lanes that could start a request were the host's limit not reached.
    waiting: VecDeque<usize>,
    used: Instant,
}

/// What a shard does outside itself.
#[expect(clippy::large_enum_variant, reason = "nearly all of it is the largest one")]
enum Work {
    Attempt { under_way: Box<UnderWay>, attempt: SignedRequest, kept: Option<KeptConnection> },
    Answer { reading: Box<Reading>, rest: Box<AnswerRest> },
    Publish { settlement: Box<NextRecord>, active: Option<Active>, held: HeldPublication },
}

/// A request under way.
struct UnderWay {
    lane: usize,
    host: usize,
    place: Place,
    probe: bool,
    /// It has no kept connection.
    connects: bool,
    began: Instant,
    delivery: Delivery,
    active: Option<Active>,
    _permit: OwnedSemaphorePermit,
}

/// An answer that was judged and still comes in: it holds no place, no permit and no share of anything else.
struct Reading {
    host: usize,
    entry: Option<Entry>,
}

/// How that ended.
enum Done {
    Attempt {
        under_way: Box<UnderWay>,
        exchanged: Exchange,
    },
    Answer {
        reading: Box<Reading>,
        read: AnswerRead,
    },
    Publish {
        settlement: Box<NextRecord>,
        active: Option<Active>,
        published: Result<(), PublishError>,
        held: HeldPublication,
    },
}

async fn perform(shared: Arc<Shared>, work: Work) -> Done {
    match work {
        Work::Attempt { under_way, attempt, kept } => {
            let exchanged = shared.courier.exchange(&attempt, kept, shared.reports.keep()).await;
            Done::Attempt { under_way, exchanged }
        }
        Work::Answer { reading, rest } => Done::Answer { reading, read: rest.read().await },
        Work::Publish { settlement, active, held } => {
            // Boxed: it is rare, and would make the future of every request as large as its own.
            let published = Box::pin(shared.sink.publish(&settlement.outgoing)).await;
            Done::Publish { settlement, active, published, held }
        }
    }
}

/// Lanes and hosts of some receivers.
pub struct Shard {
    index: usize,
    shared: Arc<Shared>,
    lanes: Slab<Lane>,
    lane_of: HashMap<u64, usize, BuildHash64>,
    hosts: Slab<Host>,
    host_of: HashMap<Arc<Authority>, usize>,
    kept: KeptPool,
    /// Answers that still come in.
    readings: usize,
    runnable: VecDeque<usize>,
    /// A permit in hand, waited for when runnable lanes had none.
    permit: Option<OwnedSemaphorePermit>,
    /// What was decided and is not begun.
    outbox: Vec<Work>,
    rng: StdRng,
    /// Requests ended since the last look, and when that was.
    finished: usize,
    looked: Instant,
    /// When the shard last came round.
    awake: Instant,
    pace: Option<f64>,
    patience: Patience,
}

impl Shard {
    /// The shard at `index` of all.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        let kept_max = KeptPool::max_of(shared.settings.max_in_flight, shared.shards);
        Self {
            index,
            shared,
            lanes: Slab::new(),
            lane_of: HashMap::default(),
            hosts: Slab::new(),
            host_of: HashMap::default(),
            kept: KeptPool::new(kept_max),
            readings: 0,
            runnable: VecDeque::new(),
            permit: None,
            outbox: Vec::new(),
            rng: StdRng::from_os_rng(),
            finished: 0,
            looked: Instant::now(),
            awake: Instant::now(),
            pace: None,
            patience: Patience::new(),
        }
    }

    /// Works until all consumers have dropped their ends of `inbound` and nothing is under way.
    pub async fn run(mut self, mut inbound: mpsc::Receiver<Vec<Job>>) {
        let mut work = FuturesUnordered::new();
        let mut looks = tokio::time::interval(MAINTENANCE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        while open || !work.is_empty() {
            let permits = Arc::clone(&self.shared.permits);
            let wants_permit = self.permit.is_none() && !self.runnable.is_empty();
            tokio::select! {
                biased;
                Some(done) = work.next(), if !work.is_empty() => self.finish(done),
                jobs = inbound.recv(), if open => match jobs {
                    Some(jobs) => self.accept(jobs),
                    None => open = false,
                },
                Ok(permit) = permits.acquire_owned(), if wants_permit => self.permit = Some(permit),
                _ = looks.tick() => self.look(),
            }
            // Whatever else has ended by now goes into the same round.
            while let Some(Some(done)) = work.next().now_or_never() {
                self.finish(done);
            }
            self.start();
            self.awake = Instant::now();
            work.extend(self.outbox.drain(..).map(|work| perform(Arc::clone(&self.shared), work)));
            // The tasks that drive connections share this thread: a round that always finds something must not keep them out.
            tokio::task::yield_now().await;
        }
    }

    fn accept(&mut self, jobs: Vec<Job>) {
        self.notice_standstill(Instant::now());
        for job in jobs {
            match job {
                Job::Deliver(delivery) => self.enqueue(delivery),
                Job::DeadLetter(dead_letter) => {
                    self.shared.pressure.unqueue(self.index, 1);
                    self.dead_letter(*dead_letter);
                }
            }
        }
    }

    fn dead_letter(&mut self, dead_letter: DeadLetter) {
        let Ok(active) = dead_letter.event.begin() else { return };
        let settlement = Box::new(self.shared.settlements.dead_letter(dead_letter));
        let held = self.shared.pressure.publish();
        self.outbox.push(Work::Publish { settlement, active, held });
    }

    fn enqueue(&mut self, delivery: Delivery) {
        let now = Instant::now();
        let Some(lane_index) = self.lane_for(&delivery, now) else {
            // A URL that the table accepted and the courier does not.
            self.shared.pressure.unqueue(self.index, 1);
            self.put_off(delivery, Reason::Protocol);
            return;
        };
        let ordering = self.shared.settings.ordering;
        let Some(lane) = self.lanes.get_mut(lane_index) else { return };
        lane.fed = now;
        // Of a host that is full, who has something waiting waits no more; who has nothing keeps a turn.
        let is_full = lane.is_full(now);
        if is_full || (lane.host_is_full && lane.queue.waiting() > 0) {
            self.shared.pressure.unqueue(self.index, 1);
            self.put_off(delivery, Reason::Overloaded);
            return;
        }
        let keys = match ordering {
            settings::Ordering::Entity if delivery.attempt == 1 => delivery.event.order_keys,
            settings::Ordering::Entity | settings::Ordering::None => [None; 2],
            settings::Ordering::Webhook => [Some(0), None],
        };
        lane.queue.push(delivery, keys);
        self.schedule(lane_index);
    }

    /// The lane of a delivery's webhook, made if there is none, with its requests as the integration says now.
    fn lane_for(&mut self, delivery: &Delivery, now: Instant) -> Option<usize> {
        let key = delivery.webhook()?.hash();
        let known = self.lane_of.get(&key).copied();
        if let Some(index) = known
            && let Some(lane) = self.lanes.get(index)
            && Arc::ptr_eq(&lane.prepared_from.0, &delivery.integration)
            && lane.prepared_from.1 == delivery.webhook
        {
            return Some(index);
        }
        let prepared = Arc::new(RequestTemplate::new(&delivery.integration, delivery.webhook).ok()?);
        let host = self.host_for(prepared.authority(), now);
        let prepared_from = (Arc::clone(&delivery.integration), delivery.webhook);
        if let Some(index) = known
            && let Some(lane) = self.lanes.get_mut(index)
        {
            lane.prepared = prepared;
            lane.prepared_from = prepared_from;
            let before = std::mem::replace(&mut lane.host, host);
            self.leave_host(index, before);
            return known;
        }
        let index = self.lanes.insert(Lane {
            key,
            host,
            prepared,
            prepared_from,
            queue: OrderedQueue::default(),
            in_flight: 0,
            allowance: Allowance::new(self.shared.settings.max_in_flight_per_webhook),
            pace: Pace::new(now),
            host_is_full: false,
            scheduled: false,
            has_failed: false,
            fed: now,
        });
        self.lane_of.insert(key, index);
        Some(index)
    }

    /// A lane that waits for a host takes its turn with it when it goes to another.
    fn leave_host(&mut self, lane_index: usize, before: usize) {
        if self.lanes.get(lane_index).is_some_and(|lane| lane.host == before) {
            return;
        }
        if let Some(host) = self.hosts.get_mut(before)
            && let Some(place) = host.waiting.iter().position(|waiting| *waiting == lane_index)
        {
            host.waiting.remove(place);
            self.runnable.push_back(lane_index);
        }
    }

    fn host_for(&mut self, authority: &Arc<Authority>, now: Instant) -> usize {
        if let Some(index) = self.host_of.get(authority) {
            return *index;
        }
        let index = self.hosts.insert(Host {
            authority: Arc::clone(authority),
            in_flight: 0,
            circuit: Circuit::default(),
            pace: Pace::new(now),
            waiting: VecDeque::new(),
            used: now,
        });
        self.host_of.insert(Arc::clone(authority), index);
        index
    }

    fn schedule(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return };
        if !lane.scheduled && lane.queue.has_ready() && lane.in_flight < lane.allowance.requests() {
            lane.scheduled = true;
            self.runnable.push_back(lane_index);
        }
    }

    /// Starts requests, one a lane and turn, until no lane may start one or no permit is left.
    fn start(&mut self) {
        let now = Instant::now();
        while let Some(lane_index) = self.runnable.front().copied() {
            let permit = match self.permit.take() {
                Some(permit) => permit,
                None => match Arc::clone(&self.shared.permits).try_acquire_owned() {
                    Ok(permit) => permit,
                    Err(_) => return,
                },
            };
            self.runnable.pop_front();
            if let Some(lane) = self.lanes.get_mut(lane_index) {
                lane.scheduled = false;
                self.permit = self.start_one(lane_index, permit, now);
            }
        }
        self.permit = None;
    }

    /// Starts the next request of a lane, or gives the permit back.
    fn start_one(
        &mut self,
        lane_index: usize,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let host_limit = self.shared.settings.max_in_flight_per_host;
        let lane = self.lanes.get_mut(lane_index)?;
        let host_index = lane.host;
        // A cut since it was scheduled: it comes again when one of its requests ends.
        if lane.in_flight >= lane.allowance.requests() {
            self.wake_next(host_index);
            return Some(permit);
        }
        let host = self.hosts.get_mut(host_index)?;
        if host.in_flight >= host_limit {
            lane.scheduled = true;
            host.waiting.push_back(lane_index);
            return Some(permit);
        }
        let admission = host.circuit.admit(now);
        if admission == Admission::Refuse {
            let waiting = lane.queue.drain_waiting();
            self.shared.pressure.unqueue(self.index, waiting.len());
            for delivery in waiting {
                self.put_off(delivery, Reason::CircuitOpen);
            }
            self.wake_next(host_index);
            return Some(permit);
        }
        let probe = admission == Admission::Probe;
        let Some((place, active, delivery)) = self.next_of(lane_index) else {
            if probe && let Some(host) = self.hosts.get_mut(host_index) {
                host.circuit.probe_abandoned();
            }
            self.wake_next(host_index);
            return Some(permit);
        };
        self.begin(
            UnderWay {
                lane: lane_index,
                host: host_index,
                place,
                probe,
                connects: true,
                began: now,
                delivery,
                active,
                _permit: permit,
            },
            now,
        );
        self.schedule(lane_index);
        None
    }

    /// Lets the next lane try that waits for the host: the lane that had the turn does not need it.
    fn wake_next(&mut self, host_index: usize) {
        if let Some(host) = self.hosts.get_mut(host_index)
            && let Some(waiting) = host.waiting.pop_front()
        {
            self.runnable.push_back(waiting);
        }
    }

    /// The next delivery of a lane whose partition is not being given up.
    fn next_of(&mut self, lane_index: usize) -> Option<(Place, Option<Active>, Delivery)> {
        while let Some(lane) = self.lanes.get_mut(lane_index)
            && let Some((place, delivery)) = lane.queue.pop()
        {
            self.shared.pressure.unqueue(self.index, 1);
            if delivery.integration.is_suspended() {
                lane.queue.finish(place);
                self.suspended(delivery);
                continue;
            }
            if let Ok(active) = delivery.event.begin() {
                return Some((place, active, delivery));
            }
            lane.queue.finish(place);
            give_up(&self.shared.metrics, &delivery);
        }
        None
    }

    fn begin(&mut self, mut under_way: UnderWay, now: Instant) {
        let (Some(lane), Some(host)) = (self.lanes.get_mut(under_way.lane), self.hosts.get_mut(under_way.host)) else {
            return;
        };
        if lane.in_flight == 0 {
            lane.pace.wakes(now);
        }
        if host.in_flight == 0 {
            host.pace.wakes(now);
        }
        lane.in_flight += 1;
        host.in_flight += 1;
        host.used = now;
        let wants_new = under_way.probe || std::mem::take(&mut lane.has_failed);
        let kept = if wants_new { None } else { self.kept.take(under_way.host, now) };
        under_way.connects = kept.is_none();
        let now_ms = clock::now_ms();
        let metrics = &self.shared.metrics;
        metrics.deliver.in_flight_requests.inc();
        let delivery = &mut under_way.delivery;
        delivery.first_attempt_ms.get_or_insert(now_ms);
        if let Some(due) = delivery.due
            && let Some(lateness) = metrics.intake.retry_lateness.get(due.tier)
        {
            lateness.observe(seconds_between(due.at_ms, now_ms));
        }
        // What is sent is the newest record's: reports on it mask that record's secrets and name its URL.
        let (integration, webhook) = &lane.prepared_from;
        (delivery.integration, delivery.webhook) = (Arc::clone(integration), *webhook);
        let attempt = SignedRequest::new(&lane.prepared, delivery, now_ms / 1000, &mut self.rng);
        self.outbox.push(Work::Attempt { under_way: Box::new(under_way), attempt, kept });
    }
}

/// A delivery is left to the next owner of its partition. A tick has none: the next owner fires only later ones.
fn give_up(metrics: &Metrics, delivery: &Delivery) {
    if !delivery.event.is_read_again() {
        metrics.drop_delivery(DropReason::TickMissed);
        metrics.tick(TickOutcome::Dropped);
    }
}

fn seconds_between(from_ms: i64, to_ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(0)).as_secs_f64()
}
