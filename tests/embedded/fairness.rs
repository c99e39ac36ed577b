//! One receiver does not delay the others.

use std::time::Duration;

use hookstream::internals::settings::{Delivery, Ordering};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::rig::{Rig, settings, webhook};
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::wait::PATIENCE;

#[tokio::test]
async fn a_webhook_with_a_hundred_times_the_events_does_not_starve_the_others() {
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(2)));
    // Fewer permits than the busy webhook may use alone.
    let mut rig = Rig::start(Delivery { max_in_flight: 8, ordering: Ordering::None, ..settings() });
    rig.integrate("busy", &receiver.url(""), &[webhook("busy")]);
    for quiet in ["one", "two", "three"] {
        rig.integrate(quiet, &receiver.url(""), &[webhook(quiet)]);
    }
    rig.feed((0..2_000).map(|_| ("busy", "a"))).await;
    rig.feed((0..60).map(|n| (["one", "two", "three"][n % 3], "a"))).await;
    rig.settled().await;
    let requests = receiver.recorded();
    assert_eq!(requests.len(), 2_060, "nothing was put off");
    let last_quiet = requests.iter().rposition(|request| request.path != "/busy").unwrap();
    // Round robin gives each of the four every fourth request.
    assert!(last_quiet < 400, "the quiet ones had to wait until request {last_quiet}");
}

#[tokio::test]
async fn webhooks_whose_ids_were_made_to_collide_get_their_own_events_with_their_own_secrets() {
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(2)));
    let mut rig = Rig::start(settings());
    for (workspace, id) in [("wa", "aadgq^^LaO,+'-x"), ("wb", "aaazyu|j{%-<_-x")] {
        let mut hook = webhook("hook");
        hook["relativeUrl"] = json!(workspace);
        let secrets = json!([{ "id": "webhook.header.X-Own", "value": workspace }]);
        let record = json!({ "baseUrl": receiver.url(""), "secrets": secrets, "webHooks": [hook] });
        rig.integrate_record(&format!("{workspace}/{id}"), &record);
    }
    rig.feed((0..40).map(|n| (["wa", "wb"][n % 2], ["a", "b"][n % 2]))).await;
    rig.settled().await;
    let requests = receiver.recorded();
    let to = |path: &str| requests.iter().filter(|request| request.path == path).count();
    assert_eq!((to("/wa"), to("/wb")), (20, 20));
    for request in &requests {
        assert_eq!(request.header("x-own"), Some(request.path.trim_start_matches('/')));
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_delay_a_fast_one() {
    let hanging = Receiver::start(|_| Answer::misbehave(Misbehaviour::Hang));
    let fast = Receiver::start(|_| Answer::ok());
    // A request that hangs does so for longer than the test lasts.
    let request_timeout = Duration::from_mins(10);
    let mut rig = Rig::start(Delivery { ordering: Ordering::None, request_timeout, ..settings() });
    rig.integrate("hanging", &hanging.url(""), &[webhook("hanging")]);
    rig.integrate("fast", &fast.url(""), &[webhook("fast")]);
    rig.feed((0..400).map(|n| (["hanging", "fast"][n % 2], "a"))).await;
    fast.wait_for(200, PATIENCE).await;
    hanging.wait_for(settings().max_in_flight_per_webhook, PATIENCE).await;
    assert_eq!(hanging.count(), settings().max_in_flight_per_webhook, "no more than its share");
    assert_eq!(rig.count("hookstream_retries_total", &[]), 0, "what waits spends no slot");
}

#[tokio::test]
async fn a_burst_of_any_size_is_requested_at_the_receivers_pace() {
    // 20 ms a request and 16 at a time: 800 a second.
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(20)));
    let mut rig = Rig::start(Delivery { ordering: Ordering::None, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    rig.feed((0..2_000).map(|_| ("w", "a"))).await;
    rig.settled().await;
    assert_eq!((receiver.count(), rig.count("hookstream_retries_total", &[])), (2_000, 0));
}

#[tokio::test]
async fn more_webhooks_than_their_host_takes_at_once_all_settle() {
    let receiver = Receiver::start(|_| Answer::status(500).after(Duration::from_millis(5)));
    let limits = Delivery { max_in_flight_per_webhook: 2, max_in_flight_per_host: 2, ..settings() };
    let mut rig = Rig::start(limits);
    let hooks: Vec<_> = (0..30).map(|n| webhook(&format!("hook-{n}"))).collect();
    rig.integrate("w", &receiver.url(""), &hooks);
    rig.feed((0..3).map(|_| ("w", "a"))).await;
    rig.settled().await;
    assert_eq!(rig.retries().len(), 90);
    assert!(receiver.under_way_max() <= 2);
}

#[tokio::test]
async fn a_receiver_that_refuses_more_than_four_at_a_time_soon_gets_no_more() {
    let receiver = Receiver::start(|request| match request.under_way {
        0..=4 => Answer::ok().after(Duration::from_millis(30)),
        _ => Answer::status(503),
    });
    let mut rig = Rig::start(Delivery { ordering: Ordering::None, ..settings() });
    rig.integrate("w", &receiver.url(""), &[webhook("hook")]);
    for _ in 0..8 {
        rig.feed((0..64).map(|_| ("w", "a"))).await;
        rig.settled().await;
    }
    let refused = rig.retries().len();
    assert!((1..=64).contains(&refused), "{refused} of 512 were refused");
}

#[tokio::test]
async fn a_webhook_that_moves_to_another_host_leaves_its_turn_to_those_that_wait() {
    let gate = CancellationToken::new();
    let held = gate.clone();
    let receiver = Receiver::start(move |_| Answer::ok().once(&held));
    let other = Receiver::start(|_| Answer::ok());
    let mut rig = Rig::start(Delivery { max_in_flight_per_webhook: 1, max_in_flight_per_host: 1, ..settings() });
    for id in ["first", "moves", "stays"] {
        rig.integrate(id, &receiver.url(""), &[webhook(id)]);
    }
    rig.feed([("first", "a")]).await;
    receiver.wait_for(1, PATIENCE).await;
    rig.feed([("moves", "a"), ("stays", "a")]).await;
    // While the first is at work and the others wait.
    rig.integrate("moves", &other.url(""), &[webhook("moves")]);
    rig.feed([("moves", "b")]).await;
    other.wait_for(2, PATIENCE).await;
    gate.cancel();
    rig.settled().await;
    assert_eq!((receiver.count(), other.count()), (2, 2));
}
