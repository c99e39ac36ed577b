//! What a shard promises, a test a claim, on tokio's paused clock: no receiver, no Kafka.

use std::time::Duration;

use serde_json::json;

use super::MAINTENANCE_EVERY;
use super::lab::{Answer, Lab, Seen, secs, settings, unordered};
use crate::clock::now_ms;
use crate::domain::health::Health;
use crate::domain::integration::Integration;
use crate::domain::outcome::{DropReason, Reason};
use crate::settings::{Delivery, Ordering};

const ONE: &[&str] = &["http://r.example/hook"];
/// The failures in a row that open a circuit: more than one delivery's schedule.
const FAILURES_TO_OPEN: u64 = 20;

/// A lab whose one webhook failed until its circuit opened.
async fn with_open_circuit(urls: &[&str], answer: fn() -> Answer) -> Lab {
    let mut lab = Lab::start(unordered(), urls, move |_| answer());
    for entity in 0..FAILURES_TO_OPEN {
        assert!(lab.feed("hook", entity).await);
    }
    lab.until("the lane is blocked", |lab| lab.gauge("hook").is_blocked()).await;
    lab
}

fn record_of(url: &str) -> serde_json::Value {
    json!({"webHooks": [{"id": "hook", "relativeUrl": url, "triggerType": "entityEvent"}]})
}

/// A record that moves the webhook to a host of the second of two shards.
fn record_elsewhere() -> serde_json::Value {
    let shard_of = |record: &serde_json::Value| {
        let integration = Integration::parse("ws/i", record.to_string().as_bytes()).unwrap();
        integration.webhook(0).unwrap().host_hash() % 2
    };
    let records = (0..100).map(|number| record_of(&format!("http://r{number}.example/hook")));
    records.into_iter().find(|record| shard_of(record) == 1).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_event_waits_for_the_one_before_it_about_its_entity_and_for_no_other() {
    let mut lab = Lab::start(settings(), ONE, |seen| match seen.offset {
        0 => Answer::acknowledged().after(secs(5)),
        _ => Answer::acknowledged().after(secs(1)),
    });
    for entity in [1, 1, 2, 1, 2] {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    assert_eq!(lab.receivers.times(), [(0, 0), (2, 0), (4, 1_000), (1, 5_000), (3, 6_000)]);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_put_off_holds_back_none_of_its_entity() {
    let mut lab = Lab::start(settings(), ONE, |seen| match seen.offset {
        0 => Answer::failed(Reason::Timeout).after(secs(10)),
        _ => Answer::acknowledged(),
    });
    lab.topics.set_up(false);
    assert!(lab.feed("hook", 1).await && lab.feed("hook", 1).await);
    lab.until("the second is requested", |lab| lab.receivers.count() == 2).await;
    assert_eq!(lab.receivers.times(), [(0, 0), (1, 10_000)], "though Kafka does not have the first one's retry yet");
    lab.topics.set_up(true);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_settled_only_when_kafka_has_what_follows() {
    let mut lab = Lab::start(unordered(), ONE, |_| Answer::status(500));
    lab.topics.set_up(false);
    assert!(lab.feed("hook", 1).await);
    lab.at(60_000).await;
    assert_eq!((lab.receivers.count(), lab.assignment.committable()), (1, None));
    lab.topics.set_up(true);
    lab.settled().await;
    assert_eq!(lab.topics.written(), [("retry.1s".to_owned(), "1".to_owned())]);
    lab.end().await;
}

/// A lab in which Kafka takes nothing: one failed delivery waits for it, another for its receiver.
async fn with_two_that_fail_without_kafka() -> Lab {
    let mut lab = Lab::start(unordered(), ONE, |seen| Answer::status(500).after(secs(20 * seen.offset.unsigned_abs())));
    lab.topics.set_up(false);
    assert!(lab.feed("hook", 1).await && lab.feed("hook", 2).await);
    lab.at(10_000).await;
    assert_eq!(lab.receivers.count(), 2);
    lab
}

#[tokio::test(start_paused = true)]
async fn what_kafka_does_not_have_when_a_partition_is_lost_is_left_to_its_next_owner() {
    let mut lab = with_two_that_fail_without_kafka().await;
    lab.assignment.close();
    lab.assignment.end();
    lab.at(30_000).await;
    assert_eq!(lab.metrics.deliver.publications_given_up.get(), 2);
    lab.topics.set_up(true);
    lab.end().await;
    assert_eq!((lab.topics.written().len(), lab.assignment.committable()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn what_kafka_does_not_have_when_a_log_has_lost_its_records_is_still_published() {
    let mut lab = with_two_that_fail_without_kafka().await;
    lab.assignment.end_with_its_log(0);
    lab.at(30_000).await;
    lab.topics.set_up(true);
    lab.end().await;
    assert_eq!((lab.topics.written().len(), lab.metrics.deliver.publications_given_up.get()), (2, 0));
}

/// A lab whose receiver takes one request of 10 s at a time, of 18 deliveries that wait for it: 16 first attempts and two retries. The
/// record at offset 2 and all after it are lost.
async fn with_a_lost_log(takes: Duration) -> Lab {
    let limits = Delivery { max_in_flight_per_webhook: 1, ..unordered() };
    let mut lab = Lab::start(limits, ONE, move |_| Answer::acknowledged().after(takes));
    for entity in 0..16 {
        assert!(lab.feed("hook", entity).await);
    }
    for _ in 0..2 {
        lab.retry("hook", 1, 0).await;
    }
    lab.until("one is under way", |lab| lab.receivers.count() == 1).await;
    lab.assignment.end_with_its_log(2);
    lab
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_lane_is_requested_though_its_log_has_lost_it_and_what_is_read_again_is_not() {
    let mut lab = with_a_lost_log(secs(1)).await;
    lab.until("all that is lost is requested", |lab| lab.receivers.count() == 17).await;
    lab.end().await;
    let requested: Vec<_> = lab.receivers.seen().iter().map(|seen| seen.offset).collect();
    assert_eq!(requested, [0].into_iter().chain(2..18).collect::<Vec<_>>(), "1 is read again");
    assert_eq!(lab.metrics.deliver.deliveries_acknowledged.get(), 17);
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_is_lost_with_its_log_is_counted_where_it_cannot_be_requested() {
    let mut lab = with_a_lost_log(secs(10)).await;
    lab.until("another is under way", |lab| lab.receivers.count() == 2).await;
    lab.end().await;
    let dropped = lab.metrics.dropped().find(|(of, _)| *of == DropReason::Expired).map(|(_, count)| count);
    assert_eq!((lab.receivers.count(), dropped), (2, Some(15)), "the process ends");
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_failure_is_the_tier_of_its_attempt_or_a_dead_letter() {
    for (attempts, answer, topic) in [
        (1, Answer::status(500), "retry.5s"),
        (2, Answer::failed(Reason::Dns), "retry.1m"),
        (3, Answer::status(404), "dead-letter"),
        (1, Answer::retry_after(secs(6)), "retry.1m"),
        (2, Answer::retry_after(secs(6000)), "retry.1m"),
        (3, Answer::retry_after(secs(1)), "dead-letter"),
    ] {
        let mut answer = Some(answer);
        let mut lab = Lab::start(settings(), ONE, move |_| answer.take().expect("one request"));
        lab.retry("hook", attempts, 0).await;
        lab.settled().await;
        assert_eq!(lab.receivers.seen()[0].attempt, attempts + 1);
        assert_eq!(lab.topics.written(), [(topic.to_owned(), (attempts + 1).to_string())]);
        lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_log_names_the_url_that_was_requested_and_masks_the_secret_that_was_sent() {
    let mut lab = Lab::start(settings(), ONE, |_| Answer::status(401).after(secs(5)));
    for _ in 0..3 {
        assert!(lab.feed("hook", 1).await);
    }
    lab.at(1_000).await;
    let mut rotated = record_of("http://r.example/t0k3n-of-now");
    rotated["secrets"] = json!([{"id": "webhook.header.Authorization", "value": "Bearer t0k3n-of-now"}]);
    lab.change(&rotated);
    lab.settled().await;
    let requested: Vec<_> = lab.receivers.seen().into_iter().map(|seen| seen.webhook).collect();
    assert_eq!(requested, ["hook", "t0k3n-of-now", "t0k3n-of-now"]);
    let logged: Vec<_> = lab.logged().into_iter().map(|record| record["url"].clone()).collect();
    assert_eq!(logged, ["http://r.example/hook", "http://r.example/***", "http://r.example/***"]);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_attempt_log_names_a_next_attempt_only_where_one_follows() {
    let day_ms = i64::try_from(settings().give_up_after.as_millis()).unwrap();
    for (attempts, first_attempt_ms, follows) in
        [(1, now_ms(), true), (1, now_ms() - day_ms, false), (3, now_ms(), false)]
    {
        let mut lab = Lab::start(settings(), ONE, |_| Answer::status(500));
        lab.first_attempt_ms = Some(first_attempt_ms);
        lab.retry("hook", attempts, 0).await;
        lab.settled().await;
        let topic = if follows { "retry.5s" } else { "dead-letter" };
        assert_eq!(lab.topics.written()[0].0, topic);
        assert_eq!(lab.logged()[0]["nextAttemptAt"].is_string(), follows, "{topic}");
        lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_too_large_for_its_tier_is_a_dead_letter_and_one_too_large_for_that_is_dropped_and_counted() {
    let mut lab = Lab::start(settings(), ONE, |_| Answer::status(500));
    lab.topics.refuse_as_too_large("retry.1s");
    assert!(lab.feed("hook", 1).await);
    lab.settled().await;
    assert_eq!(lab.topics.reasons(), ["too-large"]);
    lab.topics.refuse_as_too_large("dead-letter");
    assert!(lab.feed("hook", 1).await);
    lab.settled().await;
    let dropped = lab.metrics.dropped().find(|(reason, _)| reason.word() == "too-large").unwrap().1;
    assert_eq!((lab.topics.written().len(), dropped), (1, 1));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_after_twenty_failures_in_a_row_and_lets_a_probe_through_after_1_2_4_8_and_10_seconds() {
    let mut lab = with_open_circuit(ONE, || Answer::status(500)).await;
    assert_eq!(lab.metrics.deliver.webhook_circuits_open.get(), 1);
    assert!(!lab.feed("hook", 1).await, "nothing is taken but what a probe needs");
    while lab.receivers.count() < 27 {
        lab.returned();
        lab.until("a probe is wanted", |lab| lab.gauge("hook").has_room(lab.pressure())).await;
        let before = lab.receivers.count();
        assert!(lab.feed("hook", 1).await && !lab.feed("hook", 2).await, "one probe at a time");
        lab.until("it is requested", |lab| lab.receivers.count() > before).await;
    }
    let times: Vec<u128> = lab.receivers.seen().iter().map(|seen| seen.at_ms).skip(19).collect();
    let waits = times.windows(2).map(|pair| pair[1] - pair[0]);
    for (wait, expected) in waits.zip([1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]) {
        // A shard looks ten times a second.
        assert!((expected..expected + 200).contains(&wait), "{times:?}");
    }
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_late_by_what_the_worker_makes_it_wait_and_not_by_the_wait_for_a_probe() {
    let counted = |lab: &Lab| -> u64 {
        (0..3)
            .filter_map(|tier| lab.metrics.intake.retry_lateness.get(tier))
            .map(prometheus::Histogram::get_sample_count)
            .sum()
    };
    let mut lab = Lab::start(settings(), ONE, |_| Answer::acknowledged());
    lab.retry("hook", 2, 1).await;
    lab.settled().await;
    assert_eq!(counted(&lab), 1);
    lab.end().await;
    let mut lab = with_open_circuit(ONE, || Answer::status(500)).await;
    lab.retry("hook", 2, 1).await;
    lab.until("it probes", |lab| lab.receivers.count() == 21).await;
    assert_eq!(counted(&lab), 0);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn failures_with_acknowledgements_between_them_open_no_circuit() {
    let script = |seen: &Seen| if seen.offset % 20 == 19 { Answer::acknowledged() } else { Answer::status(500) };
    let mut lab = Lab::start(Delivery { ordering: Ordering::Webhook, ..settings() }, ONE, script);
    for entity in 0..200 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    assert_eq!((lab.receivers.count(), lab.returned().len()), (200, 0));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_circuit_goes_back_where_it_came_from_unspent() {
    let mut lab = Lab::start(Delivery { max_in_flight_per_webhook: 1, ..unordered() }, ONE, |_| {
        Answer::failed(Reason::Connect).after(Duration::from_millis(1))
    });
    for entity in 0..FAILURES_TO_OPEN {
        assert!(lab.feed("hook", entity).await);
    }
    lab.retry("hook", 2, 1).await;
    assert!(lab.feed("hook", 1).await);
    lab.until("the circuit opens", |lab| lab.gauge("hook").is_blocked()).await;
    lab.until("the retry is in its tier", |lab| lab.topics.written().len() == 21).await;
    assert!(lab.topics.written().contains(&("retry.5s".to_owned(), "2".to_owned())));
    assert_eq!((lab.receivers.count(), lab.returned()), (20, vec![21]));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_probe_closes_the_circuit_and_a_refused_one_does_not() {
    let mut lab = with_open_circuit(ONE, || Answer::status(500)).await;
    for (answer, is_blocked) in [(Answer::status(500), true), (Answer::acknowledged(), false)] {
        let mut answer = Some(answer);
        lab.receivers.answer_with(move |_| answer.take().unwrap_or_else(Answer::acknowledged));
        lab.returned();
        lab.until("a probe is wanted", |lab| lab.gauge("hook").has_room(lab.pressure())).await;
        assert!(lab.feed("hook", 1).await);
        lab.settled().await;
        assert_eq!(lab.gauge("hook").is_blocked(), is_blocked);
    }
    for entity in 0..100 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    assert_eq!((lab.receivers.count(), lab.metrics.deliver.webhook_circuits_open.get()), (122, 0));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn any_answer_closes_a_hosts_circuit_for_all_its_webhooks() {
    let urls = ["http://r.example/hook", "http://r.example/other", "http://elsewhere.example/third"];
    let mut lab = with_open_circuit(&urls, || Answer::failed(Reason::Connect)).await;
    assert_eq!(lab.metrics.deliver.circuits_open.get(), 1);
    lab.receivers.answer_with(|seen| match &*seen.webhook {
        "other" => Answer::status(410),
        _ => Answer::acknowledged(),
    });
    // It was not known that its host does not answer: the first one is kept, to probe with.
    assert!(lab.feed("other", 1).await);
    assert!(lab.feed("third", 1).await);
    lab.until("the host's circuit closes", |lab| lab.metrics.deliver.circuits_open.get() == 0).await;
    let last: Vec<_> = lab.receivers.seen().into_iter().skip(20).map(|seen| (seen.webhook, seen.at_ms)).collect();
    assert!(last[0].0 == "third" && last[0].1 < 100, "{last:?}");
    assert!(last[1].0 == "other" && (1_000..1_200).contains(&last[1].1), "{last:?}");
    assert!(!lab.gauge("other").is_blocked() && lab.gauge("hook").is_blocked(), "the webhook's own is open too");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_a_webhook_has_left_does_not_say_that_its_circuit_is_closed() {
    let mut lab = Lab::start(Delivery { threads: 2, ..unordered() }, ONE, |_| Answer::acknowledged());
    assert!(lab.feed("hook", 1).await);
    lab.settled().await;
    // As the other shard does, where the host's circuit is open.
    let gauge = lab.gauge("hook");
    gauge.go_to(1);
    gauge.block();
    lab.change(&record_elsewhere());
    lab.at(300_000).await;
    assert!(gauge.is_blocked());
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_four_at_a_time_soon_gets_no_more() {
    let mut lab = Lab::start(unordered(), ONE, |seen| match seen.under_way {
        0..=4 => Answer::acknowledged().after(Duration::from_millis(50)),
        _ => Answer::status(503),
    });
    let mut restricted = 0;
    for round in 0..10 {
        for entity in 0..100 {
            assert!(lab.feed("hook", entity).await, "round {round}");
        }
        lab.settled().await;
        restricted = restricted.max(lab.metrics.deliver.webhooks_restricted.get());
    }
    let refused = lab.topics.written().len();
    assert!((1..=60).contains(&refused), "{refused} of 1,000 were refused");
    assert_eq!((restricted, lab.metrics.deliver.webhook_circuits_open.get()), (1, 0));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_gets_as_many_requests_at_a_time_as_it_may_and_a_host_as_many_as_it_may() {
    let urls = ["http://r.example/hook", "http://r.example/other"];
    let limits = Delivery { max_in_flight_per_webhook: 3, max_in_flight_per_host: 5, ..unordered() };
    let mut lab = Lab::start(limits, &urls, |_| Answer::acknowledged().after(secs(1)));
    for entity in 0..9 {
        assert!(lab.feed("hook", entity).await && lab.feed("other", entity).await);
    }
    lab.settled().await;
    let under_way_max = lab.receivers.seen().iter().map(|seen| seen.under_way).max();
    assert_eq!(under_way_max, Some(5));
    let at_once = |webhook: &str| {
        let seen = lab.receivers.seen();
        (0..10).map(|second| seen.iter().filter(|it| it.webhook == webhook && it.at_ms / 1_000 == second).count()).max()
    };
    assert_eq!((at_once("hook"), at_once("other")), (Some(3), Some(3)));
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_keeps_its_host_busy_lets_the_next_one_in_first() {
    let urls = ["http://r.example/busy", "http://r.example/quiet"];
    let limits = Delivery { max_in_flight_per_host: 2, ..unordered() };
    let mut lab = Lab::start(limits, &urls, |_| Answer::acknowledged().after(secs(1)));
    for entity in 0..40 {
        assert!(lab.feed("busy", entity).await);
    }
    assert!(lab.feed("quiet", 1).await);
    lab.settled().await;
    let quiet = lab.receivers.seen().into_iter().find(|seen| seen.webhook == "quiet").unwrap();
    assert_eq!(quiet.at_ms, 1_000, "with the first place that is free");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_delivery_does_not_wait_for_the_body_and_the_one_after_it_has_the_connection_again() {
    let limits = Delivery { max_in_flight_per_webhook: 1, ..unordered() };
    let mut lab = Lab::start(limits, ONE, |_| Answer::acknowledged().after(secs(1)).body_takes(secs(1)));
    for entity in 0..3 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    assert_eq!(lab.receivers.times(), [(0, 0), (1, 1_000), (2, 2_000)]);
    let kept: Vec<bool> = lab.receivers.seen().iter().map(|seen| seen.is_kept).collect();
    assert_eq!(kept, [false, false, true]);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn bodies_that_come_slowly_are_bounded_in_number_and_the_rest_is_cut_off() {
    let mut lab = Lab::start(unordered(), ONE, |_| Answer::acknowledged().body_takes(secs(2)));
    for entity in 0..200 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    assert_eq!((lab.receivers.count(), lab.receivers.cut_off()), (200, 72), "128 are read");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_request_after_a_failure_opens_a_new_connection() {
    let limits = Delivery { ordering: Ordering::Webhook, ..settings() };
    let mut lab = Lab::start(limits, ONE, |seen| match seen.offset {
        2 => Answer::status(500),
        5 => Answer::failed(Reason::Reset),
        _ => Answer::acknowledged(),
    });
    for entity in 0..8 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.settled().await;
    let kept: Vec<bool> = lab.receivers.seen().iter().map(|seen| seen.is_kept).collect();
    assert_eq!(kept, [false, true, true, false, true, true, false, true]);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_partition_that_is_given_up_what_waits_comes_back_and_what_is_under_way_ends() {
    let limits = Delivery { max_in_flight_per_webhook: 1, ..unordered() };
    let mut lab = Lab::start(limits, ONE, |_| Answer::acknowledged().after(secs(5)));
    for entity in 0..4 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.until("the first is under way", |lab| lab.receivers.count() == 1).await;
    lab.assignment.close();
    lab.at(1_000).await;
    assert_eq!((lab.returned(), lab.assignment.committable()), (vec![1, 2, 3], None));
    lab.until("the first is settled", |lab| lab.assignment.committable() == Some(1)).await;
    assert_eq!(lab.receivers.times(), [(0, 0)]);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_partition_that_is_given_up_what_waits_for_its_hosts_places_comes_back() {
    let urls = ["http://r.example/busy", "http://r.example/quiet"];
    let limits = Delivery { max_in_flight_per_host: 2, ..unordered() };
    let mut lab = Lab::start(limits, &urls, |_| Answer::acknowledged().after(secs(8)));
    for entity in 0..3 {
        assert!(lab.feed("busy", entity).await);
    }
    assert!(lab.feed("quiet", 1).await);
    lab.until("the host has as many as it may", |lab| lab.receivers.count() == 2).await;
    lab.assignment.close();
    lab.at(1_000).await;
    let mut returned = lab.returned();
    returned.sort_unstable();
    assert_eq!(returned, [2, 3], "neither webhook is slow or blocked yet");
    lab.at(60_000).await;
    assert_eq!(lab.receivers.count(), 2);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_looks_after_its_lanes_though_requests_end_in_each_round() {
    const EVENTS: usize = 120;
    let limits = Delivery { max_in_flight_per_webhook: 1, ..unordered() };
    let mut lab = Lab::start(limits, ONE, |seen| match seen.at_ms {
        0 => Answer::acknowledged().after(Duration::from_millis(50)),
        _ => Answer::acknowledged(),
    });
    for entity in 0..EVENTS as u64 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.at(50).await;
    let mut paused = record_of(ONE[0]);
    paused["status"] = json!("paused");
    lab.change(&paused);
    // From here on a request ends in each round, so the clock goes on only by `advance`.
    tokio::time::advance(MAINTENANCE_EVERY).await;
    lab.at(1_000).await;
    let (requested, returned) = (lab.receivers.count(), lab.returned().len());
    assert_eq!(requested + returned, EVENTS);
    assert!(requested < EVENTS / 2, "{requested} were requested after the webhook was paused");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_without_consumers_ends_with_its_last_request_and_its_publication() {
    let mut lab = Lab::start(unordered(), ONE, |_| Answer::failed(Reason::Timeout).after(secs(10)));
    assert!(lab.feed("hook", 1).await);
    lab.end().await;
    assert_eq!(lab.topics.written(), [("retry.1s".to_owned(), "1".to_owned())]);
    assert_eq!(lab.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_where_the_record_says_now_though_no_newer_delivery_brings_it_and_an_older_one_comes() {
    let mut lab = Lab::start(settings(), ONE, |_| Answer::acknowledged().after(secs(5)));
    for _ in 0..3 {
        assert!(lab.feed("hook", 1).await);
    }
    lab.at(1_000).await;
    lab.change(&record_of("http://r.example/moved"));
    // Matched before the change, it comes between the last look and the next request.
    lab.at(4_950).await;
    assert!(lab.feed("hook", 1).await);
    lab.settled().await;
    let webhooks: Vec<_> = lab.receivers.seen().into_iter().map(|seen| (seen.offset, seen.webhook)).collect();
    assert_eq!(
        webhooks,
        [(0, "hook"), (1, "moved"), (2, "moved"), (3, "moved")].map(|(offset, at)| (offset, at.to_owned()))
    );
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_webhook_that_is_paused_or_goes_to_another_shards_host_goes_back() {
    let mut paused = record_of(ONE[0]);
    paused["status"] = json!("paused");
    for record in [paused, record_elsewhere()] {
        let settings = Delivery { threads: 2, ..settings() };
        let mut lab = Lab::start(settings, ONE, |_| Answer::acknowledged().after(secs(5)));
        for _ in 0..3 {
            assert!(lab.feed("hook", 1).await);
        }
        lab.at(1_000).await;
        lab.change(&record);
        lab.at(2_000).await;
        assert_eq!(lab.returned(), [1, 2], "{record}");
        lab.at(20_000).await;
        assert_eq!(lab.receivers.count(), 1, "{record}");
        lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_circuit_does_not_hold_a_webhook_whose_host_is_another_shards_by_now() {
    let settings = Delivery { threads: 2, ..unordered() };
    let mut lab = Lab::start(settings, ONE, |_| Answer::status(500));
    for entity in 0..FAILURES_TO_OPEN {
        assert!(lab.feed("hook", entity).await);
    }
    lab.until("the lane is blocked", |lab| lab.gauge("hook").is_blocked()).await;
    lab.change(&record_elsewhere());
    lab.until("the lane is free", |lab| !lab.gauge("hook").is_blocked()).await;
    assert_eq!(lab.metrics.deliver.webhook_circuits_open.get(), 0);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_webhook_that_is_gone_is_dropped_and_counted() {
    let disabled = json!({"id": "hook", "relativeUrl": ONE[0], "triggerType": "entityEvent", "disabled": true});
    let record = |hooks: &[serde_json::Value]| json!({"webHooks": hooks});
    for (record, reason) in [(record(&[]), DropReason::WebhookGone), (record(&[disabled]), DropReason::WebhookDisabled)]
    {
        let mut lab = Lab::start(settings(), ONE, |_| Answer::acknowledged().after(secs(5)));
        for _ in 0..3 {
            assert!(lab.feed("hook", 1).await);
        }
        lab.at(1_000).await;
        lab.change(&record);
        lab.settled().await;
        let dropped = lab.metrics.dropped().find(|(of, _)| *of == reason).map(|(_, count)| count);
        assert_eq!((lab.receivers.count(), dropped), (1, Some(2)), "{record}");
        lab.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_while_its_integration_is_suspended_is_dropped_and_a_retry_is_a_dead_letter_with_that_reason() {
    let limits = Delivery { max_in_flight_per_webhook: 1, ..unordered() };
    let mut lab = Lab::start(limits, ONE, |_| Answer::acknowledged().after(secs(5)));
    assert!(lab.feed("hook", 1).await && lab.feed("hook", 2).await);
    lab.retry("hook", 6, 0).await;
    lab.at(1_000).await;
    lab.integration.set_health(Health::Failed);
    lab.settled().await;
    let dropped: Vec<_> = lab.metrics.dropped().filter(|(_, count)| *count > 0).collect();
    assert_eq!((lab.receivers.count(), dropped), (1, vec![(DropReason::Suspended, 1)]));
    assert_eq!(lab.topics.reasons(), ["suspended"]);
    lab.end().await;
}
