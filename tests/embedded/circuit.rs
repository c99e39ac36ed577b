//! The circuits of webhooks and hosts that keep failing.

use std::time::Duration;

use hookstream::internals::Health;
use hookstream::internals::Wire;
use hookstream::internals::settings::Delivery;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, settings, webhook};
use crate::support::port::Port;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::{PATIENCE, equal, wait_until};

#[tokio::test]
async fn a_webhooks_circuit_opens_lets_probes_through_and_closes_when_one_is_acknowledged() {
    let failing = Receiver::start(|_| Answer::status(503));
    let mut rig = Rig::start(settings());
    // Two webhooks of one host: the host answers, so its circuit stays closed.
    rig.integrate("failing", &failing.url(""), &[webhook("failing")]);
    rig.integrate("healthy", &failing.url(""), &[webhook("healthy")]);
    failing.answer_with(|request| if request.path == "/failing" { Answer::status(503) } else { Answer::ok() });
    let open = |rig: &Rig| rig.count("hookstream_webhook_circuits_open", &[]);
    let fed = Instant::now();
    rig.feed((0..300).map(|_| ("failing", "a"))).await;
    wait_until("the circuit to open", PATIENCE, async || match open(&rig) {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    rig.feed([("healthy", "a")]).await;
    wait_until("two probes", PATIENCE, async || {
        rig.turn().await;
        let probes = failing.recorded().iter().filter(|request| request.path == "/failing").count() - 20;
        if probes >= 2 { Ok(()) } else { Err(probes) }
    })
    .await;
    assert!(fed.elapsed() >= Duration::from_secs(3), "after one second and two more: {:?}", fed.elapsed());
    // A busy machine may make another probe before these lines are reached. Each record follows its request.
    wait_until("as many retries as requests", PATIENCE, async || {
        let requests = failing.recorded().iter().filter(|request| request.path == "/failing").count();
        equal(rig.retries().len(), &requests).map(drop)
    })
    .await;
    assert_eq!((open(&rig), rig.count("hookstream_circuits", &[("state", "open")])), (1, 0));
    failing.answer_with(|_| Answer::ok());
    rig.settled().await;
    assert_eq!(open(&rig), 0, "closed by one acknowledgement");
    let requests = failing.recorded();
    assert_eq!(requests.len(), 301, "each event is requested once");
    let ids: Vec<u64> = requests
        .iter()
        .filter(|request| request.path == "/failing")
        .map(|request| request.json()["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(ids.is_sorted(), "in event order: {ids:?}");
}

#[tokio::test]
async fn a_hosts_circuit_opens_when_it_is_unreachable_and_closes_with_any_answer() {
    let port = Port::hold();
    let mut rig = Rig::start(settings());
    let base = format!("http://{}", port.address());
    rig.integrate("one", &base, &[webhook("one")]);
    rig.integrate("other", &base, &[webhook("other")]);
    let open = |rig: &Rig| rig.count("hookstream_circuits", &[("state", "open")]);
    rig.feed((0..100).map(|number| (["one", "other"][number % 2], "a"))).await;
    wait_until("the host's circuit to open", PATIENCE, async || match open(&rig) {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    let back = Receiver::start_on(&port, |request| match request.path.as_str() {
        "/one" => Answer::status(410),
        _ => Answer::ok(),
    });
    wait_until("the host's circuit to close", PATIENCE, async || {
        rig.turn().await;
        match open(&rig) {
            0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    wait_until("the good webhook to have what it missed", PATIENCE, async || {
        rig.turn().await;
        let acknowledged = rig.count("hookstream_deliveries_total", &[("outcome", "acknowledged")]);
        let failed = rig.retries().iter().filter(|retry| retry.header("workspace") == Some("other")).count();
        if acknowledged + failed >= 50 { Ok(()) } else { Err((acknowledged, failed, back.count())) }
    })
    .await;
}

#[tokio::test]
async fn failures_between_acknowledgements_open_no_circuit() {
    let receiver = Receiver::start(|request| if request.number % 10 == 0 { Answer::ok() } else { Answer::status(500) });
    let mut rig = Rig::start(settings());
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.feed((0..200).map(|_| ("w", "a"))).await;
    rig.settled().await;
    assert_eq!(receiver.count(), 200);
    wait_until("the refused ones in the tier", PATIENCE, async || match rig.retries().len() {
        180 => Ok(()),
        count => Err(count),
    })
    .await;
}

#[tokio::test]
async fn a_waiting_delivery_is_not_sent_once_its_integration_is_suspended() {
    let gate = CancellationToken::new();
    let held = gate.clone();
    let receiver = Receiver::start(move |_| Answer::status(500).once(&held));
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
    rig.retry(b"{}", retry, jiff::Timestamp::now().as_millisecond()).await;
    rig.integration("w").set_health(Health::Failed);
    gate.cancel();
    rig.feed((0..5).map(|_| ("healthy", "a"))).await;
    rig.settled().await;
    assert_eq!((receiver.count(), healthy.count()), (1, 5));
    assert_eq!(rig.count("hookstream_dropped_total", &[("reason", "suspended")]), 10);
    assert_eq!(rig.retries().len(), 1, "the one that was under way");
    assert_eq!(rig.count("hookstream_dead_letters_total", &[("reason", "suspended")]), 1, "the retry");
}
