//! The circuit of a host that keeps failing.

use std::time::Duration;

use hookstream::internals::Health;
use hookstream::internals::Wire;
use hookstream::internals::settings::Delivery;
use tokio::time::Instant;

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::{PATIENCE, wait_until};

#[tokio::test]
async fn a_circuit_opens_lets_probes_through_and_closes_when_one_is_acknowledged() {
    let failing = Receiver::start(|_| Answer::status(503));
    let healthy = Receiver::start(|_| Answer::ok());
    let mut rig = Rig::start(settings());
    rig.integrate("failing", &failing.url(""), &[webhook("failing")]);
    rig.integrate("healthy", &healthy.url(""), &[webhook("healthy")]);
    let open = |rig: &Rig| rig.count("hookstream_circuits", &[("state", "open")]);
    let fed = Instant::now();
    rig.feed((0..300).map(|_| ("failing", "a"))).await;
    rig.settled().await;
    assert_eq!(open(&rig), 1);
    let attempts = failing.count();
    assert_eq!(attempts, 20, "one at a time, so that nothing was under way when it opened");
    assert_eq!(rig.slots("circuit-open"), 280);
    assert_eq!(rig.count("hookstream_attempts_total", &[("outcome", "failed")]), attempts);
    assert_eq!(rig.retries().len(), 300);
    // Another host has its own.
    rig.feed([("healthy", "a")]).await;
    rig.settled().await;
    assert_eq!(healthy.count(), 1);
    // Probes come when there is something to deliver, no more often than they may.
    while failing.count() < attempts + 2 {
        assert!(fed.elapsed() < PATIENCE, "no probes: {}", failing.count());
        rig.feed([("failing", "a")]).await;
        rig.settled().await;
    }
    assert!(fed.elapsed() >= Duration::from_secs(3), "after one second and two more: {:?}", fed.elapsed());
    assert_eq!(open(&rig), 1);
    failing.answer_with(|_| Answer::ok());
    let mut events = 0;
    while open(&rig) > 0 {
        assert!(fed.elapsed() < PATIENCE, "it does not close");
        rig.feed([("failing", "a")]).await;
        rig.settled().await;
        events += 1;
    }
    let before = failing.count();
    rig.feed((0..50).map(|_| ("failing", "a"))).await;
    rig.settled().await;
    assert_eq!(failing.count(), before + 50, "closed by one acknowledgement, after {events} were fed");
}

#[tokio::test]
async fn failures_here_and_there_open_no_circuit() {
    let receiver = Receiver::start(|request| if request.number % 10 == 0 { Answer::ok() } else { Answer::status(500) });
    let mut rig = Rig::start(settings());
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.feed((0..200).map(|_| ("w", "a"))).await;
    rig.settled().await;
    assert_eq!(receiver.count(), 200);
    assert_eq!(rig.slots("circuit-open"), 0);
    wait_until("the refused ones in the tier", PATIENCE, async || match rig.retries().len() {
        180 => Ok(()),
        count => Err(count),
    })
    .await;
}

#[tokio::test]
async fn what_waits_when_its_integration_is_suspended_is_not_sent() {
    let receiver = Receiver::start(|_| Answer::status(500).after(Duration::from_millis(200)));
    let healthy = Receiver::start(|_| Answer::ok());
    let mut rig = Rig::start(Delivery { max_in_flight_per_webhook: 1, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.integrate("healthy", &healthy.url(""), &[webhook("healthy")]);
    let retry = Wire {
        workspace: Some("w".to_owned()),
        integration_id: Some("w".to_owned()),
        webhook_id: Some("hook".to_owned()),
        delivery_id: Some("d-1".to_owned()),
        attempt: Some(0),
        ..Wire::default()
    };
    rig.feed([("w", "a")]).await;
    receiver.wait_for(1, PATIENCE).await;
    rig.feed((0..10).map(|_| ("w", "a"))).await;
    rig.retry(b"{}", retry, 1_795_577_640_000).await;
    rig.integration("w").set_health(Health::Failed);
    rig.feed((0..5).map(|_| ("healthy", "a"))).await;
    rig.settled().await;
    assert_eq!((receiver.count(), healthy.count()), (1, 5));
    assert_eq!(rig.count("hookstream_dropped_total", &[("reason", "suspended")]), 10);
    // The one under way, and the retry, which becomes a dead letter when it falls due.
    assert_eq!((rig.retries().len(), rig.slots("circuit-open")), (2, 1));
}
