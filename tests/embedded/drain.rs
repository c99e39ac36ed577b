//! A partition that is given up: what is under way ends, nothing begins.

use hookstream::internals::settings::{Delivery, Ordering};
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::PATIENCE;

#[tokio::test]
async fn a_closing_assignment_ends_what_is_under_way_and_begins_nothing() {
    let gate = CancellationToken::new();
    let held = gate.clone();
    // The first shows how soon the receiver answers.
    let receiver = Receiver::start(move |request| match request.number {
        0 => Answer::ok(),
        _ => Answer::ok().once(&held),
    });
    let mut rig = Rig::start(Delivery { ordering: Ordering::None, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.feed([("w", "a")]).await;
    rig.settled().await;
    rig.feed((0..100).map(|_| ("w", "a"))).await;
    receiver.wait_for(17, PATIENCE).await;
    rig.assignment.close();
    gate.cancel();
    assert!(rig.assignment.wait_quiet(PATIENCE));
    assert_eq!(receiver.count(), 17, "nothing more began");
    assert_eq!(rig.count("hookstream_deliveries_total", &[("outcome", "acknowledged")]), 17);
    assert_eq!(rig.assignment.committable(), Some(17), "the next owner begins with the first that did not begin");
    rig.close();
    assert_eq!(receiver.count(), 17);
}

#[tokio::test]
async fn a_failure_under_way_is_put_into_its_tier_before_the_assignment_is_quiet() {
    let gate = CancellationToken::new();
    let held = gate.clone();
    let receiver = Receiver::start(move |_| Answer::status(500).once(&held));
    let mut rig = Rig::start(Delivery { ordering: Ordering::None, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.feed((0..10).map(|_| ("w", "a"))).await;
    receiver.wait_for(10, PATIENCE).await;
    rig.assignment.close();
    gate.cancel();
    assert!(rig.assignment.wait_quiet(PATIENCE));
    assert_eq!(rig.assignment.committable(), Some(10));
    assert_eq!(rig.retries().len(), 10);
    rig.close();
}
