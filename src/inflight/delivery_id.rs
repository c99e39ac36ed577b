//! The ids of deliveries, which receivers see as `webhook-id`. Nothing else about deliveries is here.

use ring::digest::{Context, SHA256};

use crate::domain::guid::{canonical, canonical_key};
use crate::domain::headers::DELIVERY_ID_PREFIX;
use crate::domain::text::push_hex;

/// The id of the delivery of an event to a webhook: the same in every process, after a crash, in a replay and when the
/// topics are mirrored, since it is made of the event's own id and not of its place.
pub(crate) fn delivery_id(integration_key: &str, webhook_id: &str, event_id: &str) -> Box<str> {
    DeliveryIds::new(integration_key, webhook_id).of_event(event_id)
}

/// Makes the ids of one webhook's deliveries. What their digests begin with is digested once.
///
/// An id is 128 bits of a SHA-256 over integration key, webhook id, what is delivered and its own id, GUIDs among them in one
/// spelling. Golden values hold it: the id of a delivery never changes from one version to the next.
pub(crate) struct DeliveryIds(Context);

impl DeliveryIds {
    /// Makes the ids of the webhook `webhook_id` of an integration.
    pub(crate) fn new(integration_key: &str, webhook_id: &str) -> Self {
        let mut context = Context::new(&SHA256);
        update(&mut context, &canonical_key(integration_key));
        update(&mut context, &canonical(webhook_id));
        Self(context)
    }

    /// The id of the delivery of an event: see [`delivery_id`].
    pub(crate) fn of_event(&self, event_id: &str) -> Box<str> {
        self.of("event", event_id)
    }

    /// The id of the delivery of the webhook's tick at `at_ms`, ms since 1970.
    pub(crate) fn of_tick(&self, at_ms: i64) -> Box<str> {
        self.of("tick", &at_ms.to_string())
    }

    fn of(&self, kind: &str, id: &str) -> Box<str> {
        let mut context = self.0.clone();
        update(&mut context, kind);
        update(&mut context, &canonical(id));
        let digest = context.finish();
        let mut id = String::with_capacity(36);
        id.push_str(DELIVERY_ID_PREFIX);
        push_hex(&mut id, digest.as_ref().get(..16).unwrap_or_default());
        id.into()
    }
}

impl std::fmt::Debug for DeliveryIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeliveryIds")
    }
}

fn update(context: &mut Context, part: &str) {
    context.update(&(part.len() as u64).to_be_bytes());
    context.update(part.as_bytes());
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
            DeliveryIds::new("ws/i", "w").of_tick(5),
        ] {
            assert_ne!(id, other);
        }
        assert_ne!(delivery_id("ws/i", "w", "5"), DeliveryIds::new("ws/i", "w").of_tick(5));
    }

    #[test]
    fn the_id_of_a_delivery_is_the_same_in_every_version() {
        assert_eq!(&*delivery_id("ws/i", "w", "e"), "msg_eb5a09ab70d2289a3e41cb717f4e5d8c");
        assert_eq!(&*DeliveryIds::new("ws/i", "w").of_tick(1_632_827_300_000), "msg_21001c86e220dc58cd3fee7c1d40f8cf");
    }

    #[test]
    fn the_id_of_a_delivery_does_not_depend_on_the_spelling_of_guids() {
        let small = "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5";
        let capitals = small.to_ascii_uppercase();
        let of = |id: &str| delivery_id(&format!("ws/{id}"), id, id);
        assert_eq!(of(small), of(&capitals));
        assert_ne!(delivery_id("ws/i", "w", "e"), delivery_id("ws/i", "w", "E"));
    }
}
