//! One shard: the lanes and hosts of its receivers, and every request to them.
//!
//! Wait-for arrows: consumers wait for room in the shard's channel; the shard waits for receivers and for Kafka's
//! acknowledgements, never for a consumer. So a full channel always empties.

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

use super::circuit::{Admission, Circuit};
use super::order::{OrderedQueue, Place};
use super::pace::Pace;
use super::pressure::Pressure;
use super::settlement::{Failure, Settlement, Settlements};
use crate::assignment::Active;
use crate::clock;
use crate::delivery::{Burial, Delivery, Job};
use crate::domain::hash::BuildHash64;
use crate::domain::integration::Integration;
use crate::domain::outcome::{DropReason, Outcome, Reason, Verdict, verdict};
use crate::domain::target::Authority;
use crate::http::courier::{Attempt, Courier, Exchanged, Link, Prepared};
use crate::kafka::sink::{PublishError, Sink};
use crate::report::{Ended, Reports};
use crate::settings;
use crate::telemetry::metrics::{Metrics, TickOutcome};

/// How often a shard looks after its lanes: paces, stalled and idle ones.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Weight of the newest look in a shard's pace: half of it comes from the last half second.
const PACE_WEIGHT: f64 = 0.125;
/// A lane that was fed within this counts as fed.
const FED_WITHIN: Duration = Duration::from_secs(5);
/// A lane or host without work is forgotten after this; a circuit's state with it.
const FORGET_AFTER: Duration = Duration::from_mins(2);
/// Batches that wait for the shard: with 256 jobs each, what a consumer reads in a few ms.
pub const BATCHES_MAX: usize = 16;

/// What all shards share.
pub struct Shared {
    /// How deliveries are made.
    pub settings: settings::Delivery,
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
    pub settlements: Settlements,
    /// Who hears of attempts.
    pub reports: Reports,
}

struct Lane {
    key: u64,
    host: usize,
    /// The requests of the webhook as the integration says at present.
    prepared: Arc<Prepared>,
    prepared_from: (Arc<Integration>, usize),
    queue: OrderedQueue<Delivery>,
    in_flight: usize,
    pace: Pace,
    /// Its host is at its limit and needs too long for what waits for it: see [`Shard::look_at_hosts`].
    host_is_full: bool,
    /// It stands in the shard's queue of runnable lanes, or in its host's of waiting ones.
    scheduled: bool,
    fed: Instant,
}

impl Lane {
    /// Whether more waits than its receiver takes in a few seconds.
    fn is_full(&self, limit: usize, now: Instant) -> bool {
        let abreast = (self.in_flight + self.queue.ready()).min(limit);
        self.pace.is_full(self.queue.waiting(), self.in_flight, abreast, now)
    }

    /// Whether what waits is to be put off: the receiver has stopped answering and would need too long, or either of these
    /// and somebody waits for a partition that is being given up.
    fn is_to_shed(&self, limit: usize, now: Instant) -> bool {
        match (self.pace.is_stalled(self.in_flight, now), self.is_full(limit, now)) {
            (true, true) => true,
            (false, false) => false,
            (true, false) | (false, true) => self.queue.any_waiting(|delivery| delivery.event.is_revoked()),
        }
    }
}

struct Host {
    authority: Arc<Authority>,
    idle: Vec<Link>,
    in_flight: usize,
    circuit: Circuit,
    pace: Pace,
    /// Lanes that could start a request were the host's limit not reached.
    waiting: VecDeque<usize>,
    used: Instant,
}

/// What a shard does outside itself.
enum Work {
    Attempt { under_way: Box<UnderWay>, attempt: Attempt, kept: Option<Link> },
    Publish { settlement: Box<Settlement>, active: Option<Active> },
}

/// A request under way.
struct UnderWay {
    lane: usize,
    host: usize,
    place: Place,
    probe: bool,
    /// It has no kept connection.
    connects: bool,
    delivery: Delivery,
    active: Option<Active>,
    _permit: OwnedSemaphorePermit,
}

/// How that ended.
enum Done {
    Attempt { under_way: Box<UnderWay>, exchanged: Exchanged },
    Publish { settlement: Box<Settlement>, active: Option<Active>, published: Result<(), PublishError> },
}

async fn perform(shared: Arc<Shared>, work: Work) -> Done {
    match work {
        Work::Attempt { under_way, attempt, kept } => {
            let exchanged = shared.courier.exchange(&attempt, kept, shared.reports.wants_answer()).await;
            Done::Attempt { under_way, exchanged }
        }
        Work::Publish { settlement, active } => {
            // Boxed: it is rare, and would make the future of every request as large as its own.
            let published = Box::pin(shared.sink.publish(&settlement.outgoing)).await;
            Done::Publish { settlement, active, published }
        }
    }
}

/// What the lanes say to those who read.
#[derive(Clone, Copy)]
struct Reported {
    starving: bool,
    brimming: bool,
}

/// For how many looks reading may wait for receivers that keep pace, until all have caught up: a minute. A receiver that
/// gets more than it takes for longer does not catch up; then its lane overflows, and the others go on.
const PATIENCE_LOOKS: u32 = 600;

/// What is left of [`PATIENCE_LOOKS`].
struct Patience(u32);

impl Patience {
    /// Whether reading is to wait after this look.
    fn spend(&mut self, brimming: bool, caught_up: bool) -> bool {
        if caught_up {
            self.0 = PATIENCE_LOOKS;
        }
        if brimming {
            self.0 = self.0.saturating_sub(1);
        }
        brimming && self.0 > 0
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
        Self {
            index,
            shared,
            lanes: Slab::new(),
            lane_of: HashMap::default(),
            hosts: Slab::new(),
            host_of: HashMap::default(),
            runnable: VecDeque::new(),
            permit: None,
            outbox: Vec::new(),
            rng: StdRng::from_os_rng(),
            finished: 0,
            looked: Instant::now(),
            awake: Instant::now(),
            pace: None,
            patience: Patience(PATIENCE_LOOKS),
        }
    }

    /// Works until all consumers have dropped their ends of `inbound` and nothing is under way.
    pub async fn run(mut self, mut inbound: mpsc::Receiver<Vec<Job>>) {
        let mut work = FuturesUnordered::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
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
                Job::Bury(burial) => {
                    self.shared.pressure.unqueue(self.index, 1);
                    self.bury(*burial);
                }
            }
        }
    }

    /// A machine or a thread that stands still, for seconds at worst, makes every receiver look slow.
    fn notice_standstill(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.awake).saturating_sub(LOOK_EVERY);
        self.awake = now;
        if late < LOOK_EVERY {
            return;
        }
        self.lanes.iter_mut().for_each(|(_, lane)| lane.pace.stood_still(late, now));
        self.hosts.iter_mut().for_each(|(_, host)| host.pace.stood_still(late, now));
    }

    fn bury(&mut self, burial: Burial) {
        let Ok(active) = burial.event.begin() else { return };
        let settlement = Box::new(self.shared.settlements.burial(burial));
        self.outbox.push(Work::Publish { settlement, active });
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
        let is_full = lane.is_full(self.shared.settings.max_in_flight_per_webhook, now);
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
        let prepared = Arc::new(Prepared::new(&delivery.integration, delivery.webhook).ok()?);
        let host = self.host_for(prepared.authority(), now);
        let prepared_from = (Arc::clone(&delivery.integration), delivery.webhook);
        if let Some(lane) = known.and_then(|index| self.lanes.get_mut(index)) {
            lane.prepared = prepared;
            lane.prepared_from = prepared_from;
            lane.host = host;
            return known;
        }
        let index = self.lanes.insert(Lane {
            key,
            host,
            prepared,
            prepared_from,
            queue: OrderedQueue::default(),
            in_flight: 0,
            pace: Pace::new(now),
            host_is_full: false,
            scheduled: false,
            fed: now,
        });
        self.lane_of.insert(key, index);
        Some(index)
    }

    fn host_for(&mut self, authority: &Arc<Authority>, now: Instant) -> usize {
        if let Some(index) = self.host_of.get(authority) {
            return *index;
        }
        let index = self.hosts.insert(Host {
            authority: Arc::clone(authority),
            idle: Vec::new(),
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
        let limit = self.shared.settings.max_in_flight_per_webhook;
        let Some(lane) = self.lanes.get_mut(lane_index) else { return };
        if !lane.scheduled && lane.queue.has_ready() && lane.in_flight < limit {
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
                delivery,
                active,
                _permit: permit,
            },
            now,
        );
        self.schedule(lane_index);
        None
    }

    /// Lets the next lane try that waits for the host: whoever had the turn has no use for it.
    fn wake_next(&mut self, host_index: usize) {
        if let Some(host) = self.hosts.get_mut(host_index)
            && let Some(waiting) = host.waiting.pop_front()
        {
            self.runnable.push_back(waiting);
        }
    }

    /// The next delivery of a lane whose partition is not being given up.
    fn next_of(&mut self, lane_index: usize) -> Option<(Place, Option<Active>, Delivery)> {
        let lane = self.lanes.get_mut(lane_index)?;
        while let Some((place, delivery)) = lane.queue.pop() {
            self.shared.pressure.unqueue(self.index, 1);
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
        let mut kept = host.idle.pop();
        while kept.as_ref().is_some_and(|link| !link.is_usable(now)) {
            kept = host.idle.pop();
        }
        under_way.connects = kept.is_none();
        let now_ms = clock::now_ms();
        let metrics = &self.shared.metrics;
        metrics.in_flight_requests.inc();
        let delivery = &mut under_way.delivery;
        delivery.first_attempt_ms.get_or_insert(now_ms);
        if let Some(due) = delivery.due
            && let Some(lateness) = metrics.retry_lateness.get(due.tier)
        {
            lateness.observe(seconds_between(due.at_ms, now_ms));
        }
        let attempt = Attempt::new(&lane.prepared, delivery, now_ms / 1000, &mut self.rng);
        self.outbox.push(Work::Attempt { under_way: Box::new(under_way), attempt, kept });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Attempt { under_way, exchanged } => self.attempt_ended(*under_way, exchanged),
            Done::Publish { settlement, active, published } => match published {
                Ok(()) => settlement.complete(&self.shared.metrics),
                Err(PublishError::TooLarge) => self.too_large(*settlement, active),
                // The process ends: the record stays unsettled and is read again.
                Err(PublishError::Stopped) => {}
            },
        }
    }

    fn too_large(&mut self, settlement: Settlement, active: Option<Active>) {
        let origin = settlement.event().origin.to_string();
        match self.shared.settlements.after_too_large(settlement) {
            Ok(settlement) => {
                tracing::warn!(origin, "a retry record is too large for its tier and becomes a dead letter");
                self.outbox.push(Work::Publish { settlement: Box::new(settlement), active });
            }
            Err(event) => {
                tracing::error!(origin, "a record is too large for the dead-letter topic and is dropped");
                self.shared.metrics.drop_delivery(DropReason::TooLarge);
                event.settle_one();
            }
        }
    }

    fn attempt_ended(&mut self, under_way: UnderWay, exchanged: Exchanged) {
        let now = Instant::now();
        self.finished += 1;
        let acknowledged = exchanged.outcome == Outcome::Acknowledged;
        self.free(&under_way, exchanged.link, exchanged.took, now);
        self.turn_circuit(&under_way, acknowledged, now);
        let UnderWay { delivery, active, .. } = under_way;
        let at_ms = clock::now_ms();
        let metrics = &self.shared.metrics;
        metrics.attempt_duration.observe(exchanged.took.as_secs_f64());
        self.shared.reports.attempt_ended(&Ended {
            shard: self.index,
            delivery: &delivery,
            outcome: &exchanged.outcome,
            took: exchanged.took,
            answer: &exchanged.answer,
            at_ms,
        });
        match exchanged.outcome {
            Outcome::Acknowledged => {
                metrics.attempt_acknowledged();
                metrics.deliveries_acknowledged.inc();
                metrics.delivery_latency.observe(seconds_between(delivery.event.timestamp_ms, at_ms));
                if delivery.event.is_tick {
                    metrics.tick(TickOutcome::Acknowledged);
                }
                delivery.settle();
            }
            Outcome::Failed { reason, status, .. } => {
                metrics.attempt_failed(reason);
                let verdict = verdict(&self.shared.settings.schedule, delivery.attempt, &exchanged.outcome);
                self.succeed(delivery, active, verdict, Failure { reason, status }, at_ms);
            }
        }
    }

    /// Gives back what a request held: its place in the order, its share of lane and host, its connection.
    fn free(&mut self, under_way: &UnderWay, link: Option<Link>, took: Duration, now: Instant) {
        self.shared.metrics.in_flight_requests.dec();
        if let Some(lane) = self.lanes.get_mut(under_way.lane) {
            lane.in_flight -= 1;
            lane.pace.ended(took, under_way.connects, now);
            lane.queue.finish(under_way.place);
        }
        if let Some(host) = self.hosts.get_mut(under_way.host) {
            host.in_flight -= 1;
            host.pace.ended(took, under_way.connects, now);
            host.used = now;
            if let Some(mut link) = link {
                link.idle_since = now;
                host.idle.push(link);
            }
        }
        // Who waits for the host comes first, or a busy lane would keep its place from all others.
        self.wake_next(under_way.host);
        self.schedule(under_way.lane);
    }

    fn turn_circuit(&mut self, under_way: &UnderWay, acknowledged: bool, now: Instant) {
        let Some(host) = self.hosts.get_mut(under_way.host) else { return };
        if acknowledged {
            if host.circuit.acknowledged() {
                self.shared.metrics.circuits_open.dec();
                tracing::info!("a circuit closed: the receiver acknowledges again");
            }
        } else if host.circuit.failed(under_way.probe, now) {
            self.shared.metrics.circuits_open.inc();
            tracing::warn!("a circuit opened: no requests to a receiver that keeps failing, but probes");
        }
    }

    /// Spends a slot without a request.
    fn put_off(&mut self, mut delivery: Delivery, reason: Reason) {
        let Ok(active) = delivery.event.begin() else { return give_up(&self.shared.metrics, &delivery) };
        let now_ms = clock::now_ms();
        delivery.first_attempt_ms.get_or_insert(now_ms);
        self.shared.metrics.attempt_failed(reason);
        let verdict = verdict(&self.shared.settings.schedule, delivery.attempt, &Outcome::failed(reason));
        self.succeed(delivery, active, verdict, Failure { reason, status: None }, now_ms);
    }

    fn succeed(&mut self, delivery: Delivery, active: Option<Active>, verdict: Verdict, failure: Failure, now_ms: i64) {
        match self.shared.settlements.after(delivery, verdict, failure, now_ms) {
            Ok(settlement) => self.outbox.push(Work::Publish { settlement: Box::new(settlement), active }),
            Err((reason, delivery)) => {
                self.shared.metrics.drop_delivery(reason);
                self.shared.metrics.tick(TickOutcome::Dropped);
                delivery.settle();
            }
        }
    }

    /// Looks after what no event does: stalled lanes, idle connections, forgotten lanes and hosts, the pace.
    fn look(&mut self) {
        let now = Instant::now();
        self.notice_standstill(now);
        let limit = self.shared.settings.max_in_flight_per_webhook;
        let mut starving = false;
        let mut brimming = false;
        let mut stalled = Vec::new();
        let mut forgotten = Vec::new();
        for (index, lane) in &mut self.lanes {
            lane.pace.look(lane.queue.waiting(), now);
            let quiet = now.saturating_duration_since(lane.fed);
            if lane.queue.waiting() > 0 {
                brimming |= lane.pace.is_brimming(lane.queue.waiting(), lane.in_flight, now);
                if lane.is_to_shed(limit, now) {
                    stalled.push(index);
                }
            } else if quiet < FED_WITHIN && lane.in_flight < limit {
                starving = true;
            } else if quiet > FORGET_AFTER && lane.queue.is_empty() && !lane.scheduled {
                forgotten.push(index);
            }
        }
        for index in stalled {
            self.shed(index);
        }
        self.look_for_full_hosts(now);
        for index in forgotten {
            let lane = self.lanes.remove(index);
            self.lane_of.remove(&lane.key);
        }
        self.look_at_hosts(now);
        let brimming = self.patience.spend(brimming, self.lanes.iter().all(|(_, lane)| lane.queue.waiting() == 0));
        self.report_pace(Reported { starving, brimming }, now);
    }

    /// Puts off what waits for a receiver that has stopped answering, so that it does not count as work at hand.
    fn shed(&mut self, lane_index: usize) {
        let Some(lane) = self.lanes.get_mut(lane_index) else { return };
        let waiting = lane.queue.drain_waiting();
        self.shared.pressure.unqueue(self.index, waiting.len());
        for delivery in waiting {
            self.put_off(delivery, Reason::Overloaded);
        }
    }

    /// Finds the hosts that are at their limit and need too long for all that waits for them together. A lane can't tell:
    /// it may have nothing under way at all.
    fn look_for_full_hosts(&mut self, now: Instant) {
        let mut waiting = vec![0; self.hosts.capacity()];
        for (_, lane) in &self.lanes {
            waiting.get_mut(lane.host).into_iter().for_each(|waiting| *waiting += lane.queue.waiting());
        }
        for (index, host) in &mut self.hosts {
            host.pace.look(waiting.get(index).copied().unwrap_or(0), now);
        }
        let limit = self.shared.settings.max_in_flight_per_host;
        let mut over = Vec::new();
        for (index, lane) in &mut self.lanes {
            let Some(host) = self.hosts.get(lane.host) else { continue };
            let waiting = waiting.get(lane.host).copied().unwrap_or(0);
            lane.host_is_full =
                host.in_flight >= limit && host.pace.is_full(waiting, host.in_flight, host.in_flight, now);
            if lane.host_is_full && host.pace.is_stalled(host.in_flight, now) && lane.queue.waiting() > 0 {
                over.push(index);
            }
        }
        for index in over {
            self.shed(index);
        }
    }

    fn look_at_hosts(&mut self, now: Instant) {
        let in_use: std::collections::HashSet<usize> = self.lanes.iter().map(|(_, lane)| lane.host).collect();
        let mut forgotten = Vec::new();
        for (index, host) in &mut self.hosts {
            host.idle.retain(|link| link.is_usable(now));
            let quiet = now.saturating_duration_since(host.used) > FORGET_AFTER;
            if quiet && host.in_flight == 0 && !in_use.contains(&index) {
                forgotten.push(index);
            }
        }
        for index in forgotten {
            let host = self.hosts.remove(index);
            self.host_of.remove(&host.authority);
            if host.circuit.is_open() {
                self.shared.metrics.circuits_open.dec();
            }
        }
    }

    fn report_pace(&mut self, Reported { starving, brimming }: Reported, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked).as_secs_f64();
        let queued = self.lanes.iter().any(|(_, lane)| lane.queue.waiting() > 0);
        if queued && elapsed > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let pace = self.finished as f64 / elapsed;
            self.pace = Some(self.pace.map_or(pace, |before| before + PACE_WEIGHT * (pace - before)));
        }
        self.finished = 0;
        self.looked = now;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let pace = self.pace.map(|pace| pace.ceil() as usize);
        self.shared.pressure.report(self.index, pace, starving, brimming);
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
