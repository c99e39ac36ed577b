//! The connection of a request, and the cost of an answer.

use std::time::Duration;

use tokio::time::Instant;

use super::rig::{Rig, settings, webhook};
use crate::support::load::Load;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};

#[tokio::test]
async fn a_request_after_a_failure_and_every_probe_open_a_new_connection() {
    let receiver = Receiver::start(|request| if request.number < 3 { Answer::ok() } else { Answer::status(500) });
    let mut rig = Rig::start(settings());
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    // Three are acknowledged and twenty fail, which opens the circuit of the webhook. Two probes follow.
    for _ in 0..25 {
        rig.feed([("w", "a")]).await;
        rig.settled().await;
    }
    assert_eq!(rig.count("hookstream_webhook_circuits_open", &[]), 1);
    assert_eq!(receiver.count(), 25);
    let connections: Vec<usize> = receiver.recorded().iter().map(|request| request.connection).collect();
    let (kept, failing) = connections.split_at(4);
    assert!(kept.iter().all(|connection| *connection == kept[0]), "{connections:?}");
    let mut distinct = failing.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), failing.len(), "{connections:?}");
}

#[tokio::test]
async fn a_body_that_never_comes_or_never_ends_delays_no_other_delivery() {
    for misbehaviour in [Misbehaviour::StalledBody, Misbehaviour::EndlessBody] {
        let receiver = Receiver::start(move |_| Answer::misbehave(misbehaviour));
        let mut rig = Rig::start(settings());
        rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
        let (load, start) = (Load::watch(), Instant::now());
        // One entity: each waits for the one before it.
        rig.feed((0..100).map(|_| ("w", "a"))).await;
        rig.settled().await;
        assert_eq!(receiver.count(), 100);
        assert_eq!(rig.count("hookstream_deliveries_total", &[("outcome", "acknowledged")]), 100);
        // 2 s each if they were waited for.
        load.assert_within("a hundred bodies", start.elapsed(), Duration::from_secs(60));
    }
}
