//! What moves through the lanes: an event, and its deliveries to the webhooks it matched.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::lane_gauge::{Admitted, LaneGauge};
use super::offsets::Sequence;
use super::partition::{Active, Assignment, FromLane};
use super::pressure::HeldBytes;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::outcome::DeadReason;

/// Where an event was first read: it names the event in logs and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl Origin {
    /// Reads `topic/partition/offset`. A topic's name has no slash.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (topic, partition, offset) = (parts.next()?, parts.next()?, parts.next()?);
        if topic.is_empty() || parts.next().is_some() {
            return None;
        }
        Some(Self { topic: topic.into(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
    }
}

/// What a delivery settles, and the work that its assignment allows.
#[derive(Debug)]
enum Ticket {
    /// A record that was read of the assignment.
    Record(Arc<Assignment>, Sequence),
    /// An event that was read a second time, for webhooks that are behind: their places cover it.
    Place(Arc<Assignment>),
    /// A tick out of the agenda. It has no record.
    Tick(Arc<Assignment>),
}

impl Ticket {
    fn assignment(&self) -> &Arc<Assignment> {
        match self {
            Self::Record(assignment, _) | Self::Place(assignment) | Self::Tick(assignment) => assignment,
        }
    }
}

/// A delivery of a record to one webhook.
#[derive(Debug)]
struct OpenDelivery {
    /// The gauge's id.
    id: u64,
    gauge: Arc<LaneGauge>,
    /// The webhook has a place that is to cover it: the events thread gets a report when it ends.
    has_place: bool,
    /// The record does not wait for it any more.
    is_released: bool,
}

/// The deliveries that a record waits for.
#[derive(Debug, Default)]
struct Deliveries {
    /// Those that no place can cover: retries, and records that are not valid events.
    plain: u32,
    /// In the order of their ids: an event may have thousands.
    of_webhooks: Vec<OpenDelivery>,
    /// How many of `of_webhooks` are not released.
    unreleased: usize,
}

impl Deliveries {
    fn of(&mut self, gauge: Option<&Arc<LaneGauge>>) -> Option<&mut OpenDelivery> {
        let id = gauge?.id();
        let index = self.of_webhooks.binary_search_by_key(&id, |open| open.id).ok()?;
        self.of_webhooks.get_mut(index)
    }

    /// Releases the delivery to that webhook. Returns whether nothing is left that the record waits for; false if it was released before.
    fn release(&mut self, gauge: Option<&Arc<LaneGauge>>) -> bool {
        let is_new = self.of(gauge).is_some_and(|open| !std::mem::replace(&mut open.is_released, true));
        self.unreleased -= usize::from(is_new);
        is_new && self.are_released()
    }

    fn are_released(&self) -> bool {
        self.plain == 0 && self.unreleased == 0
    }
}

/// One record under delivery: its bytes, shared by its deliveries, and which of them are open.
#[derive(Debug)]
pub(crate) struct Event {
    /// The record's value, as it is in Kafka.
    pub(crate) payload: Bytes,
    /// Where the event was first read.
    pub(crate) origin: Origin,
    /// The record's timestamp, ms since 1970: of the event, not of its retry.
    pub(crate) timestamp_ms: i64,
    /// The hashes of its entities, which order first attempts.
    pub(crate) order_keys: [Option<u64>; 2],
    /// Whether it is a scheduled tick, fired just now or read from a tier.
    pub(crate) is_tick: bool,
    /// The offset of its record in the partition that was read: of a retry another than the event's.
    pub(crate) position: i64,
    open: Mutex<Deliveries>,
    ticket: Option<Ticket>,
    _held: HeldBytes,
}

impl Event {
    /// An event that `open` deliveries will settle.
    pub(crate) fn new(
        payload: Bytes,
        origin: Origin,
        timestamp_ms: i64,
        ticket: Option<(&Arc<Assignment>, Sequence)>,
        held: HeldBytes,
    ) -> Self {
        Self {
            payload,
            position: origin.offset,
            origin,
            timestamp_ms,
            order_keys: [None; 2],
            is_tick: false,
            open: Mutex::default(),
            ticket: ticket.map(|(assignment, sequence)| Ticket::Record(Arc::clone(assignment), sequence)),
            _held: held,
        }
    }

    /// An event that was read a second time, for webhooks that are behind in `assignment`.
    pub(crate) fn caught_up(
        payload: Bytes,
        origin: Origin,
        timestamp_ms: i64,
        assignment: &Arc<Assignment>,
        held: HeldBytes,
    ) -> Self {
        let ticket = Some(Ticket::Place(Arc::clone(assignment)));
        Self { ticket, ..Self::new(payload, origin, timestamp_ms, None, held) }
    }

    /// A scheduled tick that is fired: it may begin while `assignment` is open, and settles nothing there.
    pub(crate) fn tick(
        payload: Bytes,
        origin: Origin,
        scheduled_ms: i64,
        assignment: &Arc<Assignment>,
        held: HeldBytes,
    ) -> Self {
        let ticket = Some(Ticket::Tick(Arc::clone(assignment)));
        Self { is_tick: true, ticket, ..Self::new(payload, origin, scheduled_ms, None, held) }
    }

    /// Sets how many deliveries settle it, where no place can cover any of them. Called before the first is handed over.
    pub(crate) fn open(&self, deliveries: u32) {
        self.open.lock().plain = deliveries;
    }

    /// Sets for which webhooks it has deliveries: for those that it is given to, and those that fall behind at this event. Called before
    /// the first is handed over.
    pub(crate) fn open_for<'a>(
        &self,
        given: impl Iterator<Item = &'a Arc<LaneGauge>>,
        fallen: impl Iterator<Item = &'a Arc<LaneGauge>>,
    ) {
        let open = |gauge: &Arc<LaneGauge>, has_place| OpenDelivery {
            id: gauge.id(),
            gauge: Arc::clone(gauge),
            has_place,
            is_released: false,
        };
        let all = given.map(|gauge| open(gauge, false)).chain(fallen.map(|gauge| open(gauge, true)));
        let mut deliveries = self.open.lock();
        deliveries.of_webhooks.extend(all);
        deliveries.of_webhooks.sort_unstable_by_key(|open| open.id);
        deliveries.unreleased = deliveries.of_webhooks.len();
    }

    /// Marks the deliveries that are still open as covered by a place: the events thread gets a report when they end. Returns their
    /// webhooks.
    pub(crate) fn cover_open(&self) -> Vec<Arc<LaneGauge>> {
        let mut open = self.open.lock();
        let uncovered = open.of_webhooks.iter_mut().filter(|open| !open.has_place && !open.is_released);
        uncovered
            .map(|open| {
                open.has_place = true;
                Arc::clone(&open.gauge)
            })
            .collect()
    }

    /// How many of its deliveries its record waits for.
    pub(crate) fn unreleased(&self) -> usize {
        self.open.lock().unreleased
    }

    /// Whether a delivery is open that no place is to cover.
    pub(crate) fn has_open(&self) -> bool {
        self.open.lock().of_webhooks.iter().any(|open| !open.has_place && !open.is_released)
    }

    /// The record does not wait any more for the delivery to that webhook: a place covers it, or it has ended.
    pub(crate) fn release(&self, gauge: &Arc<LaneGauge>) {
        let is_last = self.open.lock().release(Some(gauge));
        if is_last && let Some(Ticket::Record(assignment, sequence)) = &self.ticket {
            assignment.settle(*sequence);
        }
    }

    /// Begins work on it.
    ///
    /// # Errors
    /// Its partition is being given up, and nothing that was begun comes after it.
    pub(crate) fn begin(&self) -> Result<Option<Active>, Revoked> {
        let Some(ticket) = &self.ticket else { return Ok(None) };
        if self.is_lost() {
            return Ok(Some(ticket.assignment().begin_lost()));
        }
        let begun = match ticket {
            Ticket::Record(assignment, sequence) => assignment.begin(*sequence),
            Ticket::Place(assignment) | Ticket::Tick(assignment) => assignment.begin_apart(),
        };
        begun.map(Some).ok_or(Revoked)
    }

    /// Begins its publication as a dead letter without an attempt.
    ///
    /// # Errors
    /// As [`Event::begin`].
    pub(crate) fn begin_publication(&self) -> Result<Option<Active>, Revoked> {
        match &self.ticket {
            _ if self.is_lost() => self.begin(),
            Some(Ticket::Record(assignment, sequence)) => {
                assignment.begin_publication(Some(*sequence)).map(Some).ok_or(Revoked)
            }
            Some(Ticket::Place(assignment)) => assignment.begin_publication(None).map(Some).ok_or(Revoked),
            Some(Ticket::Tick(_)) | None => self.begin(),
        }
    }

    /// Whether the lane in which it waits has to return it.
    pub(crate) fn is_recalled(&self) -> bool {
        match &self.ticket {
            _ if self.is_lost() => false,
            Some(Ticket::Record(assignment, sequence)) => assignment.is_recalled(Some(*sequence)),
            Some(Ticket::Place(assignment)) => assignment.is_recalled(None),
            Some(Ticket::Tick(_)) | None => false,
        }
    }

    /// Whether the next owner of its partition gets it again when it is given up here.
    pub(crate) fn is_read_again(&self) -> bool {
        !matches!(self.ticket, Some(Ticket::Tick(_))) && !self.is_lost()
    }

    /// Whether its log has lost it since it was read: work that is not done here is not done at all.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.ticket {
            Some(Ticket::Record(assignment, _) | Ticket::Place(assignment)) => assignment.is_lost(self.position),
            Some(Ticket::Tick(_)) | None => false,
        }
    }

    /// Waits until its partition is the next owner's, which gets it again; never ends where no next owner gets it.
    pub(crate) async fn given_up(&self) {
        match &self.ticket {
            Some(Ticket::Record(assignment, _) | Ticket::Place(assignment)) => assignment.passed_on().await,
            Some(Ticket::Tick(_)) | None => std::future::pending().await,
        }
    }

    /// Settles one of its deliveries: the one to the webhook of `gauge`.
    pub(crate) fn settle(&self, gauge: Option<&Arc<LaneGauge>>) {
        match &self.ticket {
            Some(Ticket::Record(assignment, sequence)) => match self.settle_of_record(gauge) {
                Settled::Last => assignment.settle(*sequence),
                Settled::OfMany => {}
                Settled::HasPlace => self.report_settled(assignment, gauge),
            },
            Some(Ticket::Place(assignment)) => self.report_settled(assignment, gauge),
            Some(Ticket::Tick(_)) | None => {}
        }
    }

    fn settle_of_record(&self, gauge: Option<&Arc<LaneGauge>>) -> Settled {
        let mut open = self.open.lock();
        match open.of(gauge).map(|delivery| delivery.has_place) {
            Some(true) => Settled::HasPlace,
            Some(false) if open.release(gauge) => Settled::Last,
            Some(false) => Settled::OfMany,
            None => {
                debug_assert!(open.plain > 0, "more deliveries settled than opened");
                open.plain = open.plain.saturating_sub(1);
                if open.are_released() { Settled::Last } else { Settled::OfMany }
            }
        }
    }

    fn report_settled(&self, assignment: &Assignment, gauge: Option<&Arc<LaneGauge>>) {
        if let Some(gauge) = gauge {
            assignment.report(FromLane::Settled { gauge: Arc::clone(gauge), offset: self.origin.offset });
        }
    }

    /// The webhook's lane returns it to the events thread, which gives it again later.
    pub(crate) fn give_back(self: &Arc<Self>, gauge: &Arc<LaneGauge>) {
        let Some(ticket) = &self.ticket else { return };
        let had_place = match self.open.lock().of(Some(gauge)) {
            Some(open) => std::mem::replace(&mut open.has_place, true),
            None => false,
        };
        let pinned = matches!(ticket, Ticket::Record(..)) && !had_place;
        let (gauge, event) = (Arc::clone(gauge), Arc::clone(self));
        ticket.assignment().report(FromLane::Returned { gauge, event, pinned });
    }
}

/// What it means for a record that one of its deliveries is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    /// It is settled.
    Last,
    /// It waits for others.
    OfMany,
    /// A place covers the delivery: the events thread gets a report.
    HasPlace,
}

/// The partition is being given up: the next owner does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revoked;

/// One event to one webhook.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub(crate) event: Arc<Event>,
    /// The integration as it was when the event matched, or when the retry fell due.
    pub(crate) integration: Arc<Integration>,
    /// The webhook's place in it.
    pub(crate) webhook: usize,
    /// The attempt about to be made: 1 for the first.
    pub(crate) attempt: u32,
    /// The same for every attempt of this event to this webhook.
    pub(crate) id: Box<str>,
    /// When the first attempt was made, ms since 1970. `None` before it.
    pub(crate) first_attempt_ms: Option<i64>,
    /// `None` for a first attempt and for a tick.
    pub(crate) retry: Option<Box<Retry>>,
    /// The gauge of the webhook's lane.
    pub(crate) gauge: Arc<LaneGauge>,
    /// Its place in the lane, while it waits there.
    pub(crate) admitted: Option<Admitted>,
}

/// When a retry fell due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// ms since 1970.
    pub at_ms: i64,
    /// The tier it waited in.
    pub tier: usize,
}

/// What is known of a delivery that came out of a retry topic.
#[derive(Debug)]
pub(crate) struct Retry {
    pub(crate) due: Due,
    /// The headers that it came with. They are needed if it goes back without an attempt.
    pub(crate) wire: Wire,
}

impl Delivery {
    /// A first attempt of a test. It waits in no lane and has no place.
    pub(crate) fn alone(event: Arc<Event>, integration: Arc<Integration>, webhook: usize, id: Box<str>) -> Self {
        let gauge = LaneGauge::alone(integration.key());
        let (first_attempt_ms, retry, admitted) = (None, None, None);
        Self { event, integration, webhook, attempt: 1, id, first_attempt_ms, retry, gauge, admitted }
    }

    /// The webhook. It is never missing, because the index was taken from the integration itself.
    pub(crate) fn webhook(&self) -> Option<Webhook<'_>> {
        self.integration.webhook(self.webhook)
    }

    /// Settles it: this event needs nothing more for this webhook.
    pub(crate) fn settle(self) {
        self.event.settle(Some(&self.gauge));
    }
}

/// What consumers hand to the shards.
#[derive(Debug)]
pub enum Job {
    /// Deliver.
    Deliver(Delivery),
    /// Put a record into the dead-letter topic.
    DeadLetter(Box<DeadLetter>),
    /// Put a retry back into its tier, without an attempt.
    Requeue(Box<Requeue>),
}

/// A retry that was due and can't be requested now.
#[derive(Debug)]
pub struct Requeue {
    /// The record.
    pub(crate) event: Arc<Event>,
    /// Its headers, as they were.
    pub(crate) wire: Wire,
    /// The tier it waited in.
    pub(crate) tier: usize,
}

/// A record on its way to the dead-letter topic without an attempt.
#[derive(Debug)]
pub struct DeadLetter {
    /// The record.
    pub(crate) event: Arc<Event>,
    /// Why.
    pub(crate) reason: DeadReason,
    /// Its key, if it is to keep it; otherwise the webhook's id becomes the key.
    pub(crate) key: Option<Bytes>,
    /// Its value, or none for a record without one.
    pub(crate) value: Option<Bytes>,
    /// Its headers in the dead-letter topic, beyond the reason.
    pub(crate) wire: Wire,
    /// The webhook it was for, if it was for one.
    pub(crate) gauge: Option<Arc<LaneGauge>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::lane_gauge::LaneGauges;
    use crate::inflight::pressure::Pressure;

    #[test]
    fn origins_read_back() {
        let text = "crm.object-events/3/77";
        assert_eq!(Origin::parse(text).unwrap().to_string(), text);
        for bad in ["", "a", "a/1", "a/1/x", "a/x/1", "/1/2", "a/1/2/3"] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }

    /// An event of a partition whose webhooks have places.
    fn event(assignment: &Arc<Assignment>, offset: i64, is_caught_up: bool) -> Event {
        let held = Pressure::new(1 << 20).hold(0);
        let origin = Origin { topic: Arc::clone(assignment.topic()), partition: 0, offset };
        if is_caught_up {
            return Event::caught_up(Bytes::new(), origin, 0, assignment, held);
        }
        let sequence = assignment.admit(offset);
        Event::new(Bytes::new(), origin, 0, Some((assignment, sequence)), held)
    }

    #[test]
    fn a_dead_letter_without_an_attempt_is_published_while_its_partition_is_given_up_and_no_attempt_begins() {
        for is_caught_up in [false, true] {
            let assignment = Assignment::new("events".into(), 0);
            assignment.use_places();
            let event = event(&assignment, 5, is_caught_up);
            assignment.close();
            assert!(event.begin().is_err() && event.begin_publication().is_ok());
            assignment.end();
            assert!(event.begin_publication().is_err(), "the next owner does it");
        }
    }

    #[test]
    fn an_event_for_thousands_of_webhooks_is_settled_with_the_last_of_them_in_any_order() {
        const WEBHOOKS: usize = 3_000;
        let (assignment, gauges) = (Assignment::new("events".into(), 0), LaneGauges::default());
        let mut gauges: Vec<_> = (0..WEBHOOKS).map(|number| gauges.of("ws/i", &number.to_string())).collect();
        let event = event(&assignment, 5, false);
        // Neither the order of their ids nor that in which they matched.
        gauges.sort_by_key(|gauge| (gauge.id() * 7_919) % 3_001);
        event.open_for(gauges.iter().take(2_000), gauges.iter().skip(2_000));
        gauges.reverse();
        for gauge in &gauges {
            assert_eq!(assignment.committable(), None);
            event.release(gauge);
            event.release(gauge);
        }
        assert_eq!(assignment.committable(), Some(6));
    }
}
