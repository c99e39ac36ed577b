//! What waits in the lane of one webhook, seen from outside of its shard: consumer threads ask here whether the lane takes
//! more, before they hand anything over.
//!
//! A gauge is shared by the consumer threads and the shard that owns the lane. It holds counts and flags only: the queue, the
//! circuits and the requests belong to the shard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::delivery_id::DeliveryIds;
use super::pressure::Pressure;
use crate::domain::hash::BuildHash64;
use crate::domain::integration::Integration;
use crate::settings;

/// First attempts that wait in one lane: what a receiver of 10,000 requests a second gets in a tenth of a second. So a burst that it
/// takes at once is not read a second time. The process's own bounds hold for all lanes together.
const LANE_EVENTS_MAX: usize = 1_024;
/// Bytes of first attempts that wait in one lane. One delivery of any size is always taken.
pub(crate) const LANE_BYTES_MAX: usize = 1 << 20;
/// Retries that wait in one lane, counted separately from first attempts: a webhook that is behind still makes its retries.
pub(crate) const LANE_RETRIES_MAX: usize = 64;
/// The lane of a webhook that does not answer promptly takes this part of its bounds: a receiver that is fast needs a long lane, and
/// hundreds of others are not to take what the process holds.
const SLOW_LANE_PART: usize = 8;
/// A lane takes no more than this part of the bytes that the process has left, so that some are left for the others.
const FREE_BYTES_SHARE: usize = 8;
/// A lane also takes no more than this part of the first attempts that may still wait in the process. One lane alone fills to its own
/// bound, and each of a thousand has room for some 60.
const FREE_EVENTS_SHARE: usize = 32;

/// The shard wants no probe.
const PROBE_NONE: u8 = 0;
/// The shard wants a retry to probe with.
const PROBE_RETRY: u8 = 1;
/// The shard wants a retry or a first attempt to probe with.
const PROBE_ANY: u8 = 2;

/// The gauge of one webhook's lane.
#[derive(Debug)]
pub(crate) struct LaneGauge {
    id: u64,
    integration: Box<str>,
    webhook: Box<str>,
    delivery_ids: DeliveryIds,
    lane: OfLane,
    events: AtomicUsize,
    bytes: AtomicUsize,
    retries: AtomicUsize,
    /// Its circuit, or its host's, is open.
    blocked: AtomicBool,
    /// Whether the shard wants a delivery to probe with, and of which kind.
    probe: AtomicU8,
    /// Its requests take long, or are not known to take less.
    is_slow: AtomicBool,
    /// How many times the shard has returned what waited.
    returned: AtomicU64,
    /// How many of these returns the events thread has noted.
    noted: AtomicU64,
    /// The shard that deliveries in order go to.
    shard: AtomicUsize,
    /// Deliveries in order whose request is under way.
    in_request: AtomicUsize,
    /// Deliveries in order are to go to another shard, and wait for those before them.
    is_moving: AtomicBool,
}

/// Numbers of returns that the events thread has not taken note of: a few for each lane, since it admits no delivery meanwhile.
type Returns = Mutex<Vec<(Arc<LaneGauge>, u64)>>;

/// What kind of delivery asks to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Event(usize),
    Retry,
}

/// A delivery's place in its lane, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    gauge: Arc<LaneGauge>,
    kind: Kind,
    generation: u64,
    _queued: Queued,
}

/// One of the deliveries that wait in this process, until it is dropped.
#[derive(Debug)]
struct Queued(&'static Pressure);

impl Queued {
    fn new(pressure: &'static Pressure) -> Self {
        pressure.queue();
        Self(pressure)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.unqueue();
    }
}

impl LaneGauge {
    fn new(id: u64, integration: &str, webhook: &str, lane: OfLane) -> Arc<Self> {
        Arc::new(Self {
            id,
            integration: integration.into(),
            webhook: webhook.into(),
            delivery_ids: DeliveryIds::new(integration, webhook),
            lane,
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            retries: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            probe: AtomicU8::new(PROBE_NONE),
            is_slow: AtomicBool::new(false),
            returned: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            shard: AtomicUsize::new(usize::MAX),
            in_request: AtomicUsize::new(0),
            is_moving: AtomicBool::new(false),
        })
    }

    /// The gauge of a delivery that waits in no lane.
    pub(crate) fn alone(integration: &str) -> Arc<Self> {
        Self::new(
            0,
            integration,
            "",
            OfLane { events_max: LANE_EVENTS_MAX, orders_retries: false, returns: Arc::default() },
        )
    }

    /// Names the webhook within this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The key of the integration.
    pub(crate) fn integration(&self) -> &str {
        &self.integration
    }

    /// The id of the webhook.
    pub(crate) fn webhook(&self) -> &str {
        &self.webhook
    }

    /// Makes the ids of the webhook's deliveries.
    pub(crate) fn delivery_ids(&self) -> &DeliveryIds {
        &self.delivery_ids
    }

    /// Deliveries in order go to that shard from now on, since the webhook's host is there. Until those that wait or are under way in
    /// another shard have ended, it takes no other, which would overtake them. Where retries are in order too, several threads call it:
    /// each reads `shard` from the table, and admits its delivery before it lets the table go, so all of them name the same shard.
    pub(crate) fn go_to(&self, shard: usize) {
        let is_there = self.shard.load(Ordering::Relaxed) == shard;
        if is_there && !self.is_moving.load(Ordering::Relaxed) {
            return;
        }
        let may_go = is_there || self.is_empty();
        if may_go {
            self.shard.store(shard, Ordering::Relaxed);
        }
        self.is_moving.store(!may_go, Ordering::Relaxed);
    }

    /// Whether deliveries in order go to that shard. Until the webhook's host is forgotten there, the shard of its former host has a lane for
    /// this gauge too, and is not to set what it says.
    pub(crate) fn is_at(&self, shard: usize) -> bool {
        [shard, usize::MAX].contains(&self.shard.load(Ordering::Relaxed))
    }

    /// Whether no delivery in order waits or is under way.
    fn is_empty(&self) -> bool {
        // In this order, since a delivery that begins counts as under way before it stops waiting.
        let waits = self.events.load(Ordering::Acquire) > 0
            || self.lane.orders_retries && self.retries.load(Ordering::Acquire) > 0;
        !waits && self.in_request.load(Ordering::Acquire) == 0
    }

    /// Whether deliveries of that kind have an order among them.
    fn is_in_order(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Event(_)) || self.lane.orders_retries
    }

    /// Takes a first attempt of an event of `bytes` bytes, if there is room for it. Only the events thread asks.
    pub(crate) fn try_admit_event(self: &Arc<Self>, bytes: usize, pressure: &'static Pressure) -> Option<Admitted> {
        let noted = self.noted.load(Ordering::Acquire);
        // What was returned comes before this one: it is given first.
        if self.returned.load(Ordering::Acquire) != noted || self.is_moving.load(Ordering::Relaxed) {
            return None;
        }
        if self.is_blocked() {
            self.take_probe(PROBE_ANY)?;
        } else if !self.takes(bytes, 1, pressure) {
            return None;
        }
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (gauge, kind) = (Arc::clone(self), Kind::Event(bytes));
        Some(Admitted { gauge, kind, generation: noted, _queued: Queued::new(pressure) })
    }

    /// Takes a retry or a tick for `shard`, if there is room for it. Where retries are in order, it waits as first attempts do for what
    /// is in another shard: see [`LaneGauge::go_to`].
    pub(crate) fn try_admit_retry(self: &Arc<Self>, shard: usize, pressure: &'static Pressure) -> Option<Admitted> {
        if self.lane.orders_retries {
            self.go_to(shard);
            if self.is_moving.load(Ordering::Relaxed) {
                return None;
            }
        }
        if self.is_blocked() {
            self.take_probe(PROBE_RETRY)?;
        } else if self.retries.load(Ordering::Relaxed) >= LANE_RETRIES_MAX {
            return None;
        }
        self.retries.fetch_add(1, Ordering::Relaxed);
        let gauge = Arc::clone(self);
        Some(Admitted { gauge, kind: Kind::Retry, generation: 0, _queued: Queued::new(pressure) })
    }

    /// Whether the lane has room for `bytes` more when its bounds are divided by `part`.
    fn takes(&self, bytes: usize, part: usize, pressure: &Pressure) -> bool {
        let Some(free) = pressure.free_for_events() else { return false };
        let (events, waiting) = (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let slow_part = if self.is_slow.load(Ordering::Relaxed) { SLOW_LANE_PART } else { 1 };
        let events_max = (self.lane.events_max / slow_part).min(free.events / FREE_EVENTS_SHARE);
        let bytes_max = (LANE_BYTES_MAX / slow_part).min(free.bytes / FREE_BYTES_SHARE);
        events == 0 || (events < events_max / part && waiting + bytes <= bytes_max / part)
    }

    /// Whether its requests take long, or are not known to take less.
    pub(crate) fn set_slow(&self, is_slow: bool) {
        self.is_slow.store(is_slow, Ordering::Relaxed);
    }

    /// Whether it is worth while to read for this webhook: its lane is at most half full, or wants a probe.
    pub(crate) fn has_room(&self, pressure: &Pressure) -> bool {
        if self.returned.load(Ordering::Acquire) != self.noted.load(Ordering::Acquire) {
            return false;
        }
        if self.is_moving.load(Ordering::Relaxed) && !self.is_empty() {
            return false;
        }
        if self.is_blocked() { self.probe.load(Ordering::Acquire) == PROBE_ANY } else { self.takes(0, 2, pressure) }
    }

    fn take_probe(&self, from: u8) -> Option<()> {
        let taken = self
            .probe
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| (wanted >= from).then_some(PROBE_NONE));
        taken.ok().map(|_wanted| ())
    }

    /// Whether its circuit, or its host's, is open.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    /// A circuit opened: only what the shard wants for a probe is taken.
    pub(crate) fn block(&self) {
        self.probe.store(PROBE_NONE, Ordering::Release);
        self.blocked.store(true, Ordering::Release);
    }

    /// Its circuit and its host's are closed.
    pub(crate) fn unblock(&self) {
        self.blocked.store(false, Ordering::Release);
        self.probe.store(PROBE_NONE, Ordering::Release);
    }

    /// The shard wants one retry to probe with.
    pub(crate) fn want_retry_as_probe(&self) {
        self.probe.store(PROBE_RETRY, Ordering::Release);
    }

    /// The shard wants one delivery to probe with, a retry or not.
    pub(crate) fn want_any_as_probe(&self) {
        self.probe.store(PROBE_ANY, Ordering::Release);
    }

    /// Whether a delivery that was admitted with `admitted` comes after some that were returned since.
    pub(crate) fn is_outdated(&self, admitted: &Admitted) -> bool {
        matches!(admitted.kind, Kind::Event(_)) && admitted.generation < self.returned.load(Ordering::Acquire)
    }

    /// The shard is about to return what waits. Returns the number of this return.
    pub(crate) fn begin_return(&self) -> u64 {
        self.returned.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// All of that return was reported.
    pub(crate) fn end_return(self: &Arc<Self>, number: u64) {
        self.lane.returns.lock().push((Arc::clone(self), number));
    }

    /// The events thread has taken note of all that was returned up to `generation`.
    pub(crate) fn note_return(&self, generation: u64) {
        self.noted.fetch_max(generation, Ordering::AcqRel);
    }
}

/// A delivery in order whose request is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct InRequest(Arc<LaneGauge>);

impl Admitted {
    /// The delivery stops waiting: its request begins. `None` where it is in no order.
    pub(crate) fn begin(self) -> Option<InRequest> {
        self.gauge.is_in_order(self.kind).then(|| {
            self.gauge.in_request.fetch_add(1, Ordering::Release);
            InRequest(Arc::clone(&self.gauge))
        })
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.in_request.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        match self.kind {
            Kind::Event(bytes) => {
                self.gauge.events.fetch_sub(1, Ordering::Release);
                self.gauge.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            Kind::Retry => {
                self.gauge.retries.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

/// The gauges of all webhooks that have work in this process.
#[derive(Debug)]
pub struct LaneGauges {
    known: Mutex<Known>,
    lane: OfLane,
}

impl Default for LaneGauges {
    fn default() -> Self {
        Self::with_lanes_of(LANE_EVENTS_MAX)
    }
}

/// What the gauges of all lanes have in common.
#[derive(Clone, Debug)]
struct OfLane {
    /// How many first attempts may wait in one.
    events_max: usize,
    /// Retries and ticks are in one order with first attempts.
    orders_retries: bool,
    returns: Arc<Returns>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the integration's key and the webhook's id. Both come from outside: the standard library's seeded hash.
    gauges: HashMap<Box<str>, HashMap<Box<str>, Arc<LaneGauge>>>,
    /// The same by the address of the integration and the webhook's place in it: most events find their webhooks here.
    by_address: HashMap<(usize, usize), AtAddress, BuildHash64>,
    next_id: u64,
    /// How many there are, and at how many those that are not used any more are forgotten.
    count: usize,
    sweep_at: usize,
}

/// The gauge of a webhook of the integration at an address.
#[derive(Debug)]
struct AtAddress {
    /// The gauge's id.
    id: u64,
    gauge: Arc<LaneGauge>,
    /// Keeps the address from being used for another.
    _integration: Weak<Integration>,
}

/// Fewer gauges than this are not searched for unused ones.
const SWEEP_AT_MIN: usize = 1024;

impl LaneGauges {
    /// The gauges of lanes in which at most `events_max` first attempts wait each.
    pub(crate) fn with_lanes_of(events_max: usize) -> Self {
        let lane = OfLane { events_max, orders_retries: false, returns: Arc::default() };
        Self { known: Mutex::default(), lane }
    }

    /// The gauges of all lanes under that ordering.
    pub(crate) fn ordered(ordering: settings::Ordering) -> Self {
        let mut gauges = Self::default();
        gauges.lane.orders_retries = ordering == settings::Ordering::Webhook;
        gauges
    }

    /// The gauge of a webhook; a new one where it is missing.
    pub(crate) fn of(&self, integration: &str, webhook: &str) -> Arc<LaneGauge> {
        self.known.lock().of(integration, webhook, &self.lane)
    }

    /// The gauge of the webhook at `place` of an integration; a new one where it is missing. `None` if the integration has no such place.
    pub(crate) fn of_place(&self, integration: &Arc<Integration>, place: usize) -> Option<Arc<LaneGauge>> {
        self.at_place(integration, place, |at| Arc::clone(&at.gauge))
    }

    /// The id of that gauge. The gauge itself is not touched: shards change it all the time.
    pub(crate) fn id_of_place(&self, integration: &Arc<Integration>, place: usize) -> Option<u64> {
        self.at_place(integration, place, |at| at.id)
    }

    fn at_place<R>(&self, integration: &Arc<Integration>, place: usize, take: impl Fn(&AtAddress) -> R) -> Option<R> {
        let mut known = self.known.lock();
        let address = (Arc::as_ptr(integration).addr(), place);
        if let Some(at) = known.by_address.get(&address) {
            return Some(take(at));
        }
        let webhook = integration.webhook(place)?.id();
        let gauge = known.of(integration.key(), &webhook, &self.lane);
        // Integrations whose record changed have left theirs.
        if known.by_address.len() >= 2 * known.count.max(SWEEP_AT_MIN) {
            known.by_address.clear();
        }
        let at = AtAddress { id: gauge.id(), gauge, _integration: Arc::downgrade(integration) };
        let taken = take(&at);
        known.by_address.insert(address, at);
        Some(taken)
    }

    /// Takes the numbers of returns that are complete: nothing that was admitted before is still on its way to the lane, from where
    /// it would come back later.
    pub(crate) fn take_returns(&self) -> Vec<(Arc<LaneGauge>, u64)> {
        let mut returns = self.lane.returns.lock();
        returns.extract_if(.., |(gauge, _)| gauge.events.load(Ordering::Acquire) == 0).collect()
    }
}

impl Known {
    fn of(&mut self, integration: &str, webhook: &str, lane: &OfLane) -> Arc<LaneGauge> {
        if let Some(gauge) = self.gauges.get(integration).and_then(|webhooks| webhooks.get(webhook)) {
            return Arc::clone(gauge);
        }
        self.sweep();
        self.next_id += 1;
        self.count += 1;
        let gauge = LaneGauge::new(self.next_id, integration, webhook, lane.clone());
        self.gauges.entry(integration.into()).or_default().insert(webhook.into(), Arc::clone(&gauge));
        gauge
    }

    fn sweep(&mut self) {
        if self.count < self.sweep_at.max(SWEEP_AT_MIN) {
            return;
        }
        self.by_address.clear();
        self.gauges.retain(|_, webhooks| {
            webhooks.retain(|_, gauge| Arc::strong_count(gauge) > 1);
            !webhooks.is_empty()
        });
        self.count = self.gauges.values().map(HashMap::len).sum();
        self.sweep_at = 2 * self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge() -> (Arc<LaneGauge>, &'static Pressure) {
        (LaneGauges::default().of("ws/i", "w"), Pressure::new(64 << 20))
    }

    #[test]
    fn a_lane_is_full_by_number_and_has_room_when_it_is_half_empty() {
        let (gauge, pressure) = gauge();
        let mut taken: Vec<_> = (0..LANE_EVENTS_MAX).map(|_| gauge.try_admit_event(10, pressure).unwrap()).collect();
        assert!(gauge.try_admit_event(10, pressure).is_none());
        taken.truncate(LANE_EVENTS_MAX / 2);
        assert!(!gauge.has_room(pressure));
        taken.pop();
        assert!(gauge.has_room(pressure));
        assert_eq!(pressure.queued(), LANE_EVENTS_MAX / 2 - 1);
    }

    #[test]
    fn a_lane_is_full_by_bytes_but_takes_one_event_of_any_size() {
        let (gauge, pressure) = gauge();
        let first = gauge.try_admit_event(2 * LANE_BYTES_MAX, pressure).unwrap();
        assert!(gauge.try_admit_event(1, pressure).is_none());
        drop(first);
        assert!(gauge.try_admit_event(1, pressure).is_some());
    }

    #[test]
    fn lanes_leave_some_of_the_process_to_each_other() {
        let pressure = Pressure::new(1 << 20);
        let gauges = LaneGauges::default();
        let (greedy, modest) = (gauges.of("ws/i", "greedy"), gauges.of("ws/i", "modest"));
        let mut held = Vec::new();
        while let Some(admitted) = greedy.try_admit_event(1 << 10, pressure) {
            held.push((admitted, pressure.hold(1 << 10)));
        }
        assert!((64..=128).contains(&held.len()), "{} KiB of one MiB", held.len());
        assert!(modest.try_admit_event(1 << 10, pressure).is_some());
    }

    #[test]
    fn a_hundred_full_lanes_leave_another_room_for_a_burst() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(1 << 30));
        let fill = |webhook: &str| {
            let gauge = gauges.of("ws/i", webhook);
            std::iter::from_fn(|| gauge.try_admit_event(10, pressure)).collect::<Vec<_>>()
        };
        let lanes: Vec<_> = (0..100).map(|webhook| fill(&webhook.to_string())).collect();
        assert_eq!(lanes[0].len(), LANE_EVENTS_MAX);
        let another = fill("another").len();
        assert!((100..LANE_EVENTS_MAX).contains(&another), "{another}");
    }

    #[test]
    fn hundreds_of_slow_webhooks_with_full_lanes_leave_room_to_a_prompt_one() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(64 << 20));
        let fill = |webhook: &str, is_slow| {
            let gauge = gauges.of("ws/i", webhook);
            gauge.set_slow(is_slow);
            std::iter::from_fn(|| gauge.try_admit_event(1_024, pressure)).collect::<Vec<_>>()
        };
        let lanes: Vec<_> = (0..300).map(|webhook| fill(&webhook.to_string(), true)).collect();
        assert_eq!(lanes[0].len(), LANE_EVENTS_MAX / SLOW_LANE_PART);
        assert!(fill("prompt", false).len() > 100);
    }

    #[test]
    fn retries_have_room_of_their_own() {
        let (gauge, pressure) = gauge();
        let _events: Vec<_> = (0..LANE_EVENTS_MAX).map(|_| gauge.try_admit_event(1, pressure).unwrap()).collect();
        let retries: Vec<_> = (0..LANE_RETRIES_MAX).map(|_| gauge.try_admit_retry(0, pressure).unwrap()).collect();
        assert!(gauge.try_admit_retry(0, pressure).is_none());
        drop(retries);
        assert!(gauge.try_admit_retry(0, pressure).is_some());
    }

    #[test]
    fn a_blocked_lane_takes_one_delivery_a_probe_and_a_retry_first() {
        let (gauge, pressure) = gauge();
        gauge.block();
        assert!(gauge.try_admit_event(1, pressure).is_none() && gauge.try_admit_retry(0, pressure).is_none());
        gauge.want_retry_as_probe();
        assert!(!gauge.has_room(pressure) && gauge.try_admit_event(1, pressure).is_none());
        assert!(gauge.try_admit_retry(0, pressure).is_some());
        assert!(gauge.try_admit_retry(0, pressure).is_none());
        gauge.want_any_as_probe();
        assert!(gauge.has_room(pressure) && gauge.try_admit_event(1, pressure).is_some());
        assert!(gauge.try_admit_event(1, pressure).is_none());
        gauge.unblock();
        assert!(gauge.try_admit_event(1, pressure).is_some());
    }

    #[test]
    fn nothing_is_taken_for_another_shard_while_some_wait_or_are_under_way_in_the_one_before() {
        let (gauge, pressure) = gauge();
        gauge.go_to(0);
        let waiting = gauge.try_admit_event(1, pressure).unwrap();
        gauge.go_to(1);
        assert!(gauge.try_admit_event(1, pressure).is_none() && !gauge.has_room(pressure), "one waits");
        let under_way = waiting.begin();
        gauge.go_to(1);
        assert!(gauge.try_admit_event(1, pressure).is_none() && !gauge.has_room(pressure), "it is under way");
        gauge.go_to(0);
        assert!(gauge.try_admit_event(1, pressure).is_some(), "the host is where it was");
        gauge.go_to(1);
        drop(under_way);
        assert!(gauge.has_room(pressure), "it is worth while to ask again");
        gauge.go_to(1);
        assert!(gauge.try_admit_event(1, pressure).is_some());
    }

    #[test]
    fn retries_wait_for_what_is_in_another_shard_where_they_are_in_order_and_first_attempts_wait_for_them() {
        let pressure = Pressure::new(64 << 20);
        let in_order = LaneGauges::ordered(settings::Ordering::Webhook).of("ws/i", "w");
        in_order.go_to(0);
        let event = in_order.try_admit_event(1, pressure).unwrap();
        assert!(in_order.try_admit_retry(1, pressure).is_none(), "an event waits in the other shard");
        let event = event.begin();
        assert!(in_order.try_admit_retry(1, pressure).is_none(), "it is under way");
        drop(event);
        let retry = in_order.try_admit_retry(1, pressure).unwrap();
        for place in [None, retry.begin()] {
            in_order.go_to(0);
            assert!(in_order.try_admit_event(1, pressure).is_none() && !in_order.has_room(pressure));
            drop(place);
        }
        in_order.go_to(0);
        assert!(in_order.try_admit_event(1, pressure).is_some());
        for ordering in [settings::Ordering::Entity, settings::Ordering::None] {
            let gauge = LaneGauges::ordered(ordering).of("ws/i", "w");
            gauge.go_to(0);
            let _event = gauge.try_admit_event(1, pressure).unwrap();
            assert!(gauge.try_admit_retry(1, pressure).is_some_and(|retry| retry.begin().is_none()));
        }
    }

    #[test]
    fn nothing_is_taken_between_a_return_and_the_note_of_it() {
        let (gauge, pressure) = gauge();
        let before = gauge.try_admit_event(1, pressure).unwrap();
        let returned = gauge.begin_return();
        assert!(gauge.is_outdated(&before) && gauge.try_admit_event(1, pressure).is_none());
        drop(before);
        gauge.note_return(returned);
        let after = gauge.try_admit_event(1, pressure).unwrap();
        assert!(!gauge.is_outdated(&after));
    }

    #[test]
    fn a_return_is_complete_when_nothing_is_on_its_way_any_more() {
        let (gauges, pressure) = (LaneGauges::default(), Pressure::new(64 << 20));
        let gauge = gauges.of("ws/i", "w");
        let on_its_way = gauge.try_admit_event(1, pressure).unwrap();
        let returned = gauge.begin_return();
        gauge.end_return(returned);
        assert!(gauges.take_returns().is_empty());
        drop(on_its_way);
        assert_eq!(gauges.take_returns().len(), 1);
        assert!(gauges.take_returns().is_empty());
    }

    #[test]
    fn a_webhook_keeps_its_gauge_when_its_integration_changes_and_addresses_are_bounded() {
        let gauges = LaneGauges::default();
        let record = br#"{"baseUrl":"https://example.com","webHooks":[{"id":"w","triggerType":"entityEvent"}]}"#;
        let kept = gauges.of("ws/i", "w");
        for _change in 0..10 * SWEEP_AT_MIN {
            let integration = Arc::new(Integration::parse("ws/i", record).unwrap());
            assert_eq!(gauges.of_place(&integration, 0).unwrap().id(), kept.id());
            assert_eq!(gauges.of_place(&integration, 0).unwrap().id(), kept.id());
            assert!(gauges.of_place(&integration, 1).is_none());
        }
        assert!(gauges.known.lock().by_address.len() <= 2 * SWEEP_AT_MIN);
    }

    #[test]
    fn each_webhook_has_its_gauge_and_those_that_are_not_used_are_forgotten() {
        let gauges = LaneGauges::default();
        let kept = gauges.of("ws/i", "w");
        assert_eq!(gauges.of("ws/i", "w").id(), kept.id());
        let others: Vec<_> = (0..SWEEP_AT_MIN).map(|n| gauges.of("ws/i", &format!("{n}")).id()).collect();
        assert!(!others.contains(&kept.id()) && gauges.of("ws/iw", "").id() != kept.id());
        assert!(gauges.known.lock().count < 8);
        assert_eq!(gauges.of("ws/i", "w").id(), kept.id());
    }
}
