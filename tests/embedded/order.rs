//! The order modes, under load and while deliveries fail.

use std::collections::HashMap;
use std::time::Duration;

use hookstream::internals::settings::{Delivery, Ordering};

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Receiver, Recorded};

const ENTITIES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn event_id(request: &Recorded) -> u64 {
    request.json()["id"].as_str().unwrap().parse().unwrap()
}

/// As many as may be under way at once in any mode.
const FIRST: usize = 16;

/// Uneven: one in five is refused, and each takes its own time.
fn uneven(request: &Recorded) -> Answer {
    let id = event_id(request);
    let answer = if id % 5 == 3 { Answer::status(500) } else { Answer::ok() };
    // The first take so long that all which may begin meanwhile do so, on a busy machine too.
    answer.after(Duration::from_millis(if request.number < FIRST { 150 } else { id * 7 % 23 }))
}

/// The requests that a receiver gets for 400 events about eight entities, which come in batches.
async fn deliver(ordering: Ordering) -> (Rig, Receiver) {
    let receiver = Receiver::start(uneven);
    let mut rig = Rig::start(Delivery { ordering, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    for batch in 0..10 {
        rig.feed((0..40).map(|n| ("w", ENTITIES[(n * 3 + batch) % ENTITIES.len()]))).await;
    }
    rig.settled().await;
    assert_eq!(receiver.count(), 400, "each event is one request");
    assert_eq!(rig.retries().len(), 80, "each refused one waits in the tier");
    (rig, receiver)
}

#[tokio::test]
async fn events_of_one_entity_go_in_order_and_others_side_by_side() {
    let (_rig, receiver) = deliver(Ordering::Entity).await;
    let mut of_entity: HashMap<String, Vec<u64>> = HashMap::new();
    for request in receiver.recorded() {
        let entity = request.json()["entity"].as_str().unwrap().to_owned();
        of_entity.entry(entity).or_default().push(event_id(&request));
    }
    assert_eq!(of_entity.len(), ENTITIES.len());
    assert!(of_entity.values().all(|ids| ids.is_sorted()), "{of_entity:?}");
    assert_eq!(receiver.under_way_max(), ENTITIES.len(), "one request an entity");
}

#[tokio::test]
async fn a_webhook_in_order_gets_one_request_at_a_time() {
    let (_rig, receiver) = deliver(Ordering::Webhook).await;
    assert!(receiver.recorded().iter().map(event_id).is_sorted());
    assert_eq!(receiver.under_way_max(), 1);
}

#[tokio::test]
async fn without_order_a_webhook_gets_as_many_at_once_as_it_may() {
    let (_rig, receiver) = deliver(Ordering::None).await;
    assert_eq!(receiver.under_way_max(), settings().max_in_flight_per_webhook);
}
