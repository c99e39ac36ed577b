//! What moves through the lanes: an event, and its deliveries to the webhooks it matched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::offsets::Sequence;
use super::partition::{Active, Assignment};
use super::pressure::HeldBytes;
use crate::domain::guid::{canonical, canonical_key};
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

/// The record that a delivery settles, and the work that its assignment allows.
#[derive(Debug)]
struct Ticket {
    assignment: Arc<Assignment>,
    /// None for a tick out of the agenda, which no record stands for.
    sequence: Option<Sequence>,
}

/// One record under delivery: its bytes, shared by its deliveries, and how many of them are open.
#[derive(Debug)]
pub(crate) struct Event {
    /// The record's value, as it is in Kafka.
    pub(crate) payload: Bytes,
    /// Where the event was first read.
    pub(crate) origin: Origin,
    /// The record's timestamp, ms since 1970: of the event, not of its retry.
    pub(crate) timestamp_ms: i64,
    /// What orders first attempts about it.
    pub(crate) order_keys: [Option<u64>; 2],
    /// Whether it is a scheduled tick: fired just now, or back out of a tier.
    pub(crate) is_tick: bool,
    open: AtomicU32,
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
            origin,
            timestamp_ms,
            order_keys: [None; 2],
            is_tick: false,
            open: AtomicU32::new(0),
            ticket: ticket
                .map(|(assignment, sequence)| Ticket { assignment: Arc::clone(assignment), sequence: Some(sequence) }),
            _held: held,
        }
    }

    /// A scheduled tick that is fired: it may begin while `assignment` is open, and settles nothing there.
    pub(crate) fn tick(
        payload: Bytes,
        origin: Origin,
        scheduled_ms: i64,
        assignment: &Arc<Assignment>,
        held: HeldBytes,
    ) -> Self {
        let ticket = Some(Ticket { assignment: Arc::clone(assignment), sequence: None });
        Self { is_tick: true, ticket, ..Self::new(payload, origin, scheduled_ms, None, held) }
    }

    /// Says how many deliveries will settle it; before the first of them is handed over.
    pub(crate) fn open(&self, deliveries: u32) {
        self.open.store(deliveries, Ordering::Release);
    }

    /// Begins work on it.
    ///
    /// # Errors
    /// Its partition is being given up, and nothing that was begun comes after it.
    pub(crate) fn begin(&self) -> Result<Option<Active>, Revoked> {
        let Some(Ticket { assignment, sequence }) = &self.ticket else { return Ok(None) };
        let begun = match sequence {
            Some(sequence) => assignment.begin(*sequence),
            None => assignment.begin_apart(),
        };
        begun.map(Some).ok_or(Revoked)
    }

    /// Whether its partition is being given up.
    pub(crate) fn is_revoked(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.assignment.is_closing())
    }

    /// Whether the next owner of its partition gets it again when it is given up here.
    pub(crate) fn is_read_again(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.sequence.is_some())
    }

    /// Settles one of its deliveries.
    pub(crate) fn settle_one(&self) {
        let before = self.open.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "more deliveries settled than opened");
        if before == 1
            && let Some(Ticket { assignment, sequence: Some(sequence) }) = &self.ticket
        {
            assignment.settle(*sequence);
        }
    }
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
    /// When the first attempt was made, ms since 1970; none before it.
    pub(crate) first_attempt_ms: Option<i64>,
    /// Of a retry: when it fell due, ms since 1970, and its tier.
    pub(crate) due: Option<Due>,
}

/// When a retry fell due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// ms since 1970.
    pub at_ms: i64,
    /// The tier it waited in.
    pub tier: usize,
}

impl Delivery {
    /// The webhook. None can't be: the place was taken from the integration itself.
    pub(crate) fn webhook(&self) -> Option<Webhook<'_>> {
        self.integration.webhook(self.webhook)
    }

    /// Settles it: nothing more is to be done for this event and this webhook.
    pub(crate) fn settle(self) {
        self.event.settle_one();
    }
}

/// What consumers hand to the shards.
#[derive(Debug)]
pub enum Job {
    /// Deliver.
    Deliver(Delivery),
    /// Put a record into the dead-letter topic.
    DeadLetter(Box<DeadLetter>),
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
    pub(crate) wire: crate::domain::headers::Wire,
}

/// The id of the delivery of an event to a webhook: the same in every process, after a crash, in a replay and when the
/// topics are mirrored, since it is made of the event's own id and not of its place.
pub(crate) fn delivery_id(integration_key: &str, webhook_id: &str, event_id: &str) -> Box<str> {
    id_of([integration_key, webhook_id, "event", event_id])
}

/// The id of the delivery of a webhook's tick at `at_ms`, ms since 1970.
pub(crate) fn tick_id(integration_key: &str, webhook_id: &str, at_ms: i64) -> Box<str> {
    id_of([integration_key, webhook_id, "tick", &at_ms.to_string()])
}

/// 128 bits of a SHA-256 over the parts, GUIDs among them in one spelling. Golden values hold it: the id of a delivery never
/// changes from one version to the next.
fn id_of(parts: [&str; 4]) -> Box<str> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let [integration_key, others @ ..] = parts;
    for part in std::iter::once(canonical_key(integration_key)).chain(others.map(canonical)) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    let mut id = String::with_capacity(36);
    id.push_str("msg_");
    push_hex(&mut id, digest.as_ref().get(..16).unwrap_or_default());
    id.into()
}

/// Appends `bytes` as lower-case hex.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_delivery_differs_in_every_part() {
        let id = delivery_id("ws/i", "w", "e");
        assert_eq!(id.len(), 36);
        for other in [
            delivery_id("wt/i", "w", "e"),
            delivery_id("ws/j", "w", "e"),
            delivery_id("ws/i", "v", "e"),
            delivery_id("ws/i", "w", "f"),
            delivery_id("ws/iw", "", "e"),
            delivery_id("ws/i", "w", "5"),
            tick_id("ws/i", "w", 5),
        ] {
            assert_ne!(id, other);
        }
        assert_ne!(delivery_id("ws/i", "w", "5"), tick_id("ws/i", "w", 5));
    }

    #[test]
    fn the_id_of_a_delivery_is_the_same_in_every_version() {
        assert_eq!(&*delivery_id("ws/i", "w", "e"), "msg_eb5a09ab70d2289a3e41cb717f4e5d8c");
        assert_eq!(&*tick_id("ws/i", "w", 1_632_827_300_000), "msg_21001c86e220dc58cd3fee7c1d40f8cf");
    }

    #[test]
    fn the_id_of_a_delivery_does_not_depend_on_the_spelling_of_guids() {
        let small = "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5";
        let capitals = small.to_ascii_uppercase();
        let of = |id: &str| delivery_id(&format!("ws/{id}"), id, id);
        assert_eq!(of(small), of(&capitals));
        assert_ne!(delivery_id("ws/i", "w", "e"), delivery_id("ws/i", "w", "E"));
    }

    #[test]
    fn origins_read_back() {
        let text = "crm.object-events/3/77";
        assert_eq!(Origin::parse(text).unwrap().to_string(), text);
        for bad in ["", "a", "a/1", "a/1/x", "a/x/1", "/1/2", "a/1/2/3"] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }
}
