//! One shard: the lanes and hosts of its receivers, and every request to them.
//!
//! Wait-for arrows: consumers wait for room in the shard's channel; the shard waits for receivers and for Kafka's
//! acknowledgements, never for a consumer. So a full channel always empties.

mod starting;
mod ending;
mod circuits;
mod permit_waits;
mod maintenance;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::RwLock;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use self::maintenance::MAINTENANCE_EVERY;
use self::permit_waits::PermitWaits;
use super::allowance::Allowance;
use super::circuit::Circuit;
use super::courier::{AnswerBody as _, AnswerRead, Courier, Exchange};
use super::http_courier::HttpCourier;
use super::kept_pool::{KeptPool, kept_max};
use super::next_step::{NextRecord, NextSteps};
use super::observers::Reports;
use super::order::{OrderedQueue, Place};
use super::permits::Permits;
use super::promptness::{Pace, Promptness};
use super::publish::{Publish, PublishError, Sink};
use super::request::{RequestTemplate, SignedRequest};
use crate::attempt_log::entry::Entry;
use crate::clock;
use crate::domain::hash::BuildHash64;
use crate::domain::integration::Integration;
use crate::domain::outcome::{DropReason, Reason};
use crate::domain::table::Table;
use crate::domain::target::Authority;
use crate::inflight::job::{DeadLetter, Delivery, Job, Requeue};
use crate::inflight::lane_gauge::{InRequest, LaneGauge};
use crate::inflight::partition::Active;
use crate::inflight::pressure::{HeldPublication, Pressure};
use crate::settings;
use crate::telemetry::metrics::{Metrics, TickOutcome};
use crate::telemetry::never::never;
use crate::telemetry::repeats::Repeats;

/// Batches that wait for the shard: with 256 jobs each, what a consumer reads in a few ms.
pub const BATCHES_MAX: usize = 16;

/// What all shards share: `C` makes their requests, `P` publishes what follows from them.
pub struct Shared<C, P> {
    /// How deliveries are made.
    pub settings: settings::Delivery,
    /// How many shards there are.
    pub shards: usize,
    /// Makes requests.
    pub courier: C,
    /// Publishes retries and dead letters.
    pub sink: P,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The integrations as they are now.
    pub table: Arc<RwLock<Table>>,
    /// How much the process holds.
    pub pressure: &'static Pressure,
    /// One permit a request under way.
    pub permits: Arc<Permits>,
    /// Topics of tiers and dead letters.
    pub next_steps: NextSteps,
    /// Where attempts are reported.
    pub reports: Reports,
}

struct Lane {
    gauge: Arc<LaneGauge>,
    host: usize,
    /// The requests of the webhook by the integration's record as it is now.
    prepared: Arc<RequestTemplate>,
    prepared_from: Registered,
    queue: OrderedQueue<Delivery>,
    in_flight: usize,
    /// Permits that its requests hold. Probes have their own.
    permits: usize,
    /// A place in the share of a kind, for its next request. It has one after it was held back, when it is its turn.
    share: Option<(usize, OwnedSemaphorePermit)>,
    promptness: Promptness,
    allowance: Allowance,
    circuit: Circuit,
    /// Its circuit, or its host's, was open when it was looked at last.
    is_blocked: bool,
    /// It stands in the shard's queue of runnable lanes, of those held back, or in its host's of waiting ones.
    scheduled: bool,
    /// Its last request failed: the next one opens a new connection, since a kept one may lead to where the receiver no longer is.
    has_failed: bool,
    fed: Instant,
}

/// A webhook in an integration's record.
struct Registered {
    integration: Arc<Integration>,
    webhook: usize,
}

/// Requests to a webhook of which none has ended yet: a few show how soon they end.
const UNKNOWN_MAX: usize = 4;

impl Lane {
    /// Requests that may be under way now.
    fn requests_max(&self) -> usize {
        let most = self.allowance.requests();
        if self.promptness.pace() == Pace::Unknown { most.min(UNKNOWN_MAX) } else { most }
    }

    /// A delivery waits for its turn.
    fn wait(&mut self, delivery: Delivery, ordering: settings::Ordering) {
        let keys = match ordering {
            settings::Ordering::Entity if delivery.attempt == 1 => delivery.event.order_keys,
            settings::Ordering::Entity | settings::Ordering::None => [None; 2],
            settings::Ordering::Webhook => [Some(0), None],
        };
        self.queue.push(delivery, keys);
    }

    /// Sets in the gauge whether it is blocked and slow, if first attempts go to this shard: the events thread reads it.
    fn show(&self, shard: usize) {
        if !self.gauge.is_at(shard) {
            return;
        }
        if self.is_blocked != self.gauge.is_blocked() {
            if self.is_blocked { self.gauge.block() } else { self.gauge.unblock() }
        }
        self.gauge.set_slow(self.promptness.pace() != Pace::Prompt);
    }
}

struct Host {
    authority: Arc<Authority>,
    in_flight: usize,
    circuit: Circuit,
    /// Lanes that could start a request were the host's limit not reached.
    waiting: VecDeque<usize>,
    used: Instant,
}

/// Work of a shard that takes time: requests, answers and publications.
enum Work<C: Courier> {
    Attempt { under_way: Box<UnderWay>, request: SignedRequest, kept: Option<C::Connection> },
    Answer { reading: Box<Reading>, body: Box<C::Body> },
    Publish { record: Box<NextRecord>, active: Option<Active>, held: HeldPublication },
}

/// A request under way.
struct UnderWay {
    lane: usize,
    host: usize,
    place: Place,
    probe: bool,
    began: Instant,
    delivery: Delivery,
    active: Option<Active>,
    /// If it is a first attempt: that its request is under way.
    in_request: Option<InRequest>,
    _permit: OwnedSemaphorePermit,
}

/// An answer that was judged and still comes in: it holds no place, no permit and no share of anything else.
struct Reading {
    host: usize,
    entry: Option<Entry>,
}

/// How such work ended.
enum Done<C: Courier> {
    Attempt {
        under_way: Box<UnderWay>,
        exchanged: Exchange<C>,
    },
    Answer {
        reading: Box<Reading>,
        read: AnswerRead<C::Connection>,
    },
    Publish {
        record: Box<NextRecord>,
        active: Option<Active>,
        published: Result<(), PublishError>,
        held: HeldPublication,
    },
}

async fn perform<C: Courier, P: Publish>(shared: Arc<Shared<C, P>>, work: Work<C>) -> Done<C> {
    match work {
        Work::Attempt { under_way, request, kept } => {
            let exchanged = shared.courier.attempt(&request, kept, shared.reports.keep()).await;
            Done::Attempt { under_way, exchanged }
        }
        Work::Answer { reading, body } => Done::Answer { reading, read: body.read().await },
        Work::Publish { record, active, held } => {
            // Boxed: it is rare, and would make the future of every request as large as its own.
            let published = Box::pin(publish(&shared.sink, &record)).await;
            Done::Publish { record, active, published, held }
        }
    }
}

/// Publishes a record, unless its partition has another owner: that one publishes it too.
async fn publish(sink: &impl Publish, record: &NextRecord) -> Result<(), PublishError> {
    tokio::select! {
        biased;
        () = record.event().given_up() => Err(PublishError::GivenUp),
        published = sink.publish(&record.outgoing) => published,
    }
}

/// Runs the shard at `index` of all, until all consumers have dropped their ends of `inbound` and nothing is under way.
pub async fn run_shard(index: usize, shared: Arc<Shared<HttpCourier, Sink>>, inbound: mpsc::Receiver<Vec<Job>>) {
    Shard::new(index, shared).run(inbound).await;
}

/// Lanes and hosts of some receivers.
struct Shard<C: Courier, P> {
    index: usize,
    shared: Arc<Shared<C, P>>,
    lanes: Slab<Lane>,
    /// By the ids of their gauges.
    lane_of: HashMap<u64, usize, BuildHash64>,
    hosts: Slab<Host>,
    host_of: HashMap<Arc<Authority>, usize>,
    kept: KeptPool<C::Connection>,
    /// Answers that still come in.
    readings: usize,
    runnable: VecDeque<usize>,
    waits: PermitWaits,
    /// How many lanes that are held back the metric counts.
    held_back_shown: i64,
    /// Lanes whose next delivery is a probe.
    probing: VecDeque<usize>,
    /// Work that is decided and has not begun.
    outbox: Vec<Work<C>>,
    rng: StdRng,
    repeats: Repeats,
}

impl<C: Courier, P: Publish> Shard<C, P> {
    fn new(index: usize, shared: Arc<Shared<C, P>>) -> Self {
        let waits = PermitWaits::new(&shared.permits);
        let kept_max = kept_max(shared.settings.max_in_flight, shared.shards);
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
            waits,
            held_back_shown: 0,
            probing: VecDeque::new(),
            outbox: Vec::new(),
            rng: StdRng::from_os_rng(),
            repeats: Repeats::default(),
        }
    }

    async fn run(mut self, mut inbound: mpsc::Receiver<Vec<Job>>) {
        let mut work = FuturesUnordered::new();
        let mut looks = tokio::time::interval(MAINTENANCE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        while open || !work.is_empty() {
            let wants_permit = !self.runnable.is_empty();
            tokio::select! {
                biased;
                // First: there may be other work in each round.
                _ = looks.tick() => self.look(),
                Some(done) = work.next(), if !work.is_empty() => self.finish(done),
                jobs = inbound.recv(), if open => if let Some(jobs) = jobs {
                    self.accept(jobs);
                } else {
                    open = false;
                    self.give_up_lost();
                },
                () = poll_fn(|context| self.waits.poll(wants_permit, context)) => {}
            }
            // Other work that has ended by now goes into the same round.
            while let Some(Some(done)) = work.next().now_or_never() {
                self.finish(done);
            }
            self.start();
            work.extend(self.outbox.drain(..).map(|work| perform(Arc::clone(&self.shared), work)));
            // The tasks that drive connections share this thread: a round that always finds something must not keep them out.
            tokio::task::yield_now().await;
        }
        for (_, lane) in &mut self.lanes {
            lane.queue.drain_waiting().iter().for_each(|delivery| give_up(&self.shared.metrics, delivery));
        }
    }

    fn accept(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            match job {
                Job::Deliver(delivery) => self.enqueue(delivery),
                Job::DeadLetter(dead_letter) => self.dead_letter(*dead_letter),
                Job::Requeue(requeue) => self.requeue(*requeue),
            }
        }
    }

    fn dead_letter(&mut self, dead_letter: DeadLetter) {
        let Ok(active) = dead_letter.event.begin_publication() else { return };
        let record = Box::new(self.shared.next_steps.dead_letter(dead_letter));
        let held = self.shared.pressure.publish();
        self.outbox.push(Work::Publish { record, active, held });
    }

    fn requeue(&mut self, requeue: Requeue) {
        let Ok(active) = requeue.event.begin() else { return };
        let record = Box::new(self.shared.next_steps.requeue(requeue, clock::now_ms()));
        let held = self.shared.pressure.publish();
        self.outbox.push(Work::Publish { record, active, held });
    }

    fn enqueue(&mut self, delivery: Delivery) {
        let now = Instant::now();
        let Some(lane_index) = self.lane_for(&delivery, now) else {
            // A URL that the table accepted and the courier does not.
            return self.put_off(delivery, Reason::Protocol);
        };
        let is_blocked = self.is_blocked(lane_index);
        let ordering = self.shared.settings.ordering;
        let Some(lane) = self.lanes.get_mut(lane_index) else { return never("a lane that is in use is gone") };
        lane.fed = now;
        let is_outdated = delivery.admitted.as_ref().is_none_or(|admitted| lane.gauge.is_outdated(admitted));
        if is_blocked {
            lane.is_blocked = true;
            lane.show(self.index);
        }
        // An open circuit keeps one delivery, to probe with.
        let is_refused = is_blocked && lane.queue.waiting() > 0;
        if is_outdated || is_refused || delivery.event.is_recalled() {
            return self.turn_back(lane_index, vec![delivery]);
        }
        lane.wait(delivery, ordering);
        if is_blocked {
            // The shard has what it probes with.
            lane.gauge.block();
        } else {
            self.schedule(lane_index);
        }
    }

    /// The lane of a delivery's webhook, a new one where it is missing, with its requests as the integration says now.
    fn lane_for(&mut self, delivery: &Delivery, now: Instant) -> Option<usize> {
        let key = delivery.gauge.id();
        let known = self.lane_of.get(&key).copied();
        if let Some(index) = known
            && let Some(lane) = self.lanes.get(index)
            && Arc::ptr_eq(&lane.prepared_from.integration, &delivery.integration)
            && lane.prepared_from.webhook == delivery.webhook
        {
            return Some(index);
        }
        let prepared_from = Registered { integration: Arc::clone(&delivery.integration), webhook: delivery.webhook };
        if let Some(index) = known {
            // A batch that was matched before the record changed brings the record before.
            let is_older = self.lanes.get(index).is_some_and(|lane| self.is_current(&lane.prepared_from.integration));
            return (is_older || self.prepare_again(index, prepared_from, now)).then_some(index);
        }
        let prepared = Arc::new(RequestTemplate::new(&delivery.integration, delivery.webhook).ok()?);
        let host = self.host_for(prepared.authority(), now);
        delivery.gauge.set_slow(true);
        let index = self.lanes.insert(Lane {
            gauge: Arc::clone(&delivery.gauge),
            host,
            prepared,
            prepared_from,
            queue: OrderedQueue::default(),
            in_flight: 0,
            permits: 0,
            share: None,
            promptness: Promptness::unknown(now),
            allowance: Allowance::new(self.shared.settings.max_in_flight_per_webhook),
            circuit: Circuit::default(),
            is_blocked: false,
            scheduled: false,
            has_failed: false,
            fed: now,
        });
        self.lane_of.insert(key, index);
        Some(index)
    }

    /// Whether the table has that record. Not known while the table is written: then the next look sets it right.
    fn is_current(&self, integration: &Arc<Integration>) -> bool {
        let table = self.shared.table.try_read();
        table.is_some_and(|table| table.get(integration.key()).is_some_and(|now| Arc::ptr_eq(now, integration)))
    }

    /// Makes the requests of a lane as another record says. Returns whether requests can be made of it.
    fn prepare_again(&mut self, index: usize, from: Registered, now: Instant) -> bool {
        let Ok(prepared) = RequestTemplate::new(&from.integration, from.webhook).map(Arc::new) else { return false };
        let host = self.host_for(prepared.authority(), now);
        let Some(lane) = self.lanes.get_mut(index) else {
            never("a lane that is in use is gone");
            return false;
        };
        lane.prepared = prepared;
        lane.prepared_from = from;
        let before = std::mem::replace(&mut lane.host, host);
        self.leave_host(index, before);
        self.follow_circuits(index);
        true
    }

    /// A lane that waits for its host leaves that host's queue when it goes to another host.
    fn leave_host(&mut self, lane_index: usize, before: usize) {
        let Some(lane) = self.lanes.get(lane_index).filter(|lane| lane.host != before) else { return };
        let Some(host) = self.hosts.get_mut(before) else { return };
        if let Some(place) = host.waiting.iter().position(|waiting| *waiting == lane_index) {
            host.waiting.remove(place);
            self.runnable.push_back(lane_index);
        } else if lane.scheduled {
            // It may have had its former host's turn.
            self.wake_next(before);
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
            waiting: VecDeque::new(),
            used: now,
        });
        self.host_of.insert(Arc::clone(authority), index);
        index
    }
}

/// Leaves a delivery to the next owner of its partition. What no next owner makes is dropped: a tick, and a delivery whose record the log
/// has lost.
fn give_up(metrics: &Metrics, delivery: &Delivery) {
    if delivery.event.is_recalled() {
        let gauge = &delivery.gauge;
        let is_new = delivery.admitted.as_ref().is_some_and(|admitted| !gauge.is_outdated(admitted));
        let number = is_new.then(|| gauge.begin_return());
        delivery.event.give_back(gauge);
        if let Some(number) = number {
            gauge.end_return(number);
        }
    } else if delivery.event.is_lost() {
        metrics.drop_delivery(DropReason::Expired);
    } else if !delivery.event.is_read_again() {
        metrics.drop_delivery(DropReason::TickMissed);
        metrics.tick(TickOutcome::Dropped);
    }
}

fn seconds_between(from_ms: i64, to_ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(0)).as_secs_f64()
}

#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
pub(crate) mod lab;
#[cfg(test)]
mod tests;
