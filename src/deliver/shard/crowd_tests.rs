//! Webhooks whose receivers hang, or answer late, beside those that answer: how many of all requests each kind has under way.

use std::time::Duration;

use super::lab::{Answer, Lab, crowd, feed_each, secs, unordered};
use crate::domain::outcome::Reason;
use crate::settings::Delivery;

const SOON: Duration = Duration::from_millis(50);

/// A shard that makes 64 requests at a time: 8 probes, of the others 28 to late webhooks, 14 to silent and 7 to unknown ones at most. It
/// delivers to webhooks that hang for 30 s, answer after 1 ms (`good-*`) and after 2 s (`late-*`), each on a host of its own.
fn beside_webhooks_that_hang(hanging: usize) -> Lab {
    let urls: Vec<String> =
        [crowd("hangs", hanging), crowd("good", 4), crowd("late", 20)].into_iter().flatten().collect();
    start(&urls, 64)
}

fn start(urls: &[String], max_in_flight: usize) -> Lab {
    let urls: Vec<&str> = urls.iter().map(|url| &**url).collect();
    Lab::start(Delivery { max_in_flight, ..unordered() }, &urls, |seen| answer(&seen.webhook))
}

fn answer(webhook: &str) -> Answer {
    match webhook.split('-').next().unwrap() {
        "good" => Answer::acknowledged().after(Duration::from_millis(1)),
        "late" => Answer::acknowledged().after(secs(2)),
        _ => Answer::failed(Reason::Timeout).after(secs(30)),
    }
}

/// What is requested of a kind of webhooks, and when.
fn requested(lab: &Lab, kind: &str) -> Vec<u128> {
    let seen = lab.receivers.seen();
    seen.iter().filter(|seen| seen.webhook.starts_with(kind)).map(|seen| seen.at_ms).collect()
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_webhooks_that_hang_leave_most_permits_to_those_that_answer() {
    let mut lab = beside_webhooks_that_hang(300);
    feed_each(&mut lab, "good", 4, 1).await;
    lab.settled().await;
    feed_each(&mut lab, "hangs", 300, 2).await;
    lab.at(20_000).await;
    assert_eq!(requested(&lab, "hangs").len(), 14 + 7);
    assert_eq!(lab.metrics.deliver.webhooks_held_back.get(), 293, "of seven both events are under way");
    let began = lab.elapsed();
    feed_each(&mut lab, "good", 4, 25).await;
    lab.until("the good ones have all", |lab| requested(lab, "good").len() == 104).await;
    assert!(lab.elapsed() < began + SOON, "100 requests of 1 ms, several at a time");
    lab.until("the next ones get their turn", |lab| requested(lab, "hangs").len() > 40).await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_webhook_does_not_wait_for_those_that_hang() {
    let mut lab = beside_webhooks_that_hang(5);
    feed_each(&mut lab, "hangs", 5, 16).await;
    lab.at(10_000).await;
    let began = lab.elapsed();
    feed_each(&mut lab, "good", 1, 3).await;
    lab.until("it has all", |lab| requested(lab, "good").len() == 3).await;
    assert!(lab.elapsed() < began + SOON, "{began:?} to {:?}", lab.elapsed());
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_webhook_that_is_not_known_a_few_requests_show_how_soon_it_answers() {
    let mut lab = beside_webhooks_that_hang(0);
    feed_each(&mut lab, "late", 1, 10).await;
    lab.at(1_000).await;
    assert_eq!(lab.receivers.count(), 4);
    lab.at(1_200).await;
    assert_eq!(lab.receivers.count(), 10, "it is known that they take more than a second");
    lab.settled().await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn late_webhooks_leave_half_to_the_others_and_need_nothing_of_what_silent_ones_hold() {
    let mut lab = beside_webhooks_that_hang(40);
    feed_each(&mut lab, "late", 20, 1).await;
    feed_each(&mut lab, "good", 4, 1).await;
    lab.settled().await;
    feed_each(&mut lab, "hangs", 40, 2).await;
    feed_each(&mut lab, "late", 20, 5).await;
    let before = lab.elapsed();
    feed_each(&mut lab, "good", 4, 5).await;
    lab.until("the good ones have all", |lab| requested(lab, "good").len() == 24).await;
    assert!(lab.elapsed() < before + SOON, "{before:?} to {:?}", lab.elapsed());
    lab.until("the late ones have all", |lab| requested(lab, "late").len() == 20 + 100).await;
    let after = lab.elapsed();
    assert!((before + secs(6)..before + secs(7)).contains(&after), "28 at a time, 2 s each: {before:?} to {after:?}");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_whose_requests_wait_for_more_than_a_second_counts_as_late_with_all_that_it_holds() {
    // 14 permits, of them 7 for late ones.
    let mut lab = start(&crowd("good", 4), 16);
    feed_each(&mut lab, "good", 4, 1).await;
    lab.settled().await;
    lab.receivers.answer_with(|seen| match seen.webhook.as_str() {
        "good-0" => answer("good"),
        _ => answer("hangs"),
    });
    feed_each(&mut lab, "good", 4, 3).await;
    lab.at(2_000).await;
    feed_each(&mut lab, "good", 4, 10).await;
    lab.at(3_000).await;
    assert_eq!(requested(&lab, "good-0").len(), 1 + 3 + 10);
    assert_eq!(requested(&lab, "good").len(), 14 + 3 * (1 + 3), "those that hang get no more while they hold nine");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_webhook_does_not_notice_that_another_of_its_host_hangs_beside_a_crowd_that_does() {
    let mut urls = crowd("hangs", 40);
    urls.extend(["http://shared.example/hangs-a", "http://shared.example/good-a"].map(str::to_owned));
    let mut lab = start(&urls, 64);
    assert!(lab.feed("good-a", 1).await);
    lab.settled().await;
    feed_each(&mut lab, "hangs", 40, 2).await;
    assert!(lab.feed("hangs-a", 1).await);
    lab.until("it is its turn", |lab| requested(lab, "hangs-a").len() == 1).await;
    lab.at(u64::try_from(requested(&lab, "hangs-a")[0]).unwrap() + 30_001).await;
    let began = lab.elapsed();
    assert!(lab.feed("good-a", 1).await);
    lab.until("it is requested", |lab| requested(lab, "good-a").len() == 2).await;
    assert!(lab.elapsed() < began + SOON, "{began:?} to {:?}", lab.elapsed());
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_webhook_has_its_turn_where_its_host_is_busy_and_others_use_up_the_share_of_late_ones() {
    let mut urls = crowd("late", 40);
    urls.extend(["late-a", "good-a", "good-b", "good-c"].map(|id| format!("http://shared.example/{id}")));
    let urls: Vec<&str> = urls.iter().map(|url| &**url).collect();
    let settings = Delivery { max_in_flight: 64, max_in_flight_per_host: 4, ..unordered() };
    let mut lab = Lab::start(settings, &urls, |seen| match seen.webhook.as_str() {
        "good-a" | "good-b" | "good-c" => Answer::acknowledged().after(SOON),
        // They end one by one.
        _ => Answer::acknowledged().after(secs(2) + Duration::from_millis(seen.offset.unsigned_abs() * 37 % 1_000)),
    });
    feed_each(&mut lab, "late", 40, 1).await;
    for webhook in ["late-a", "good-a", "good-b", "good-c"] {
        assert!(lab.feed(webhook, 1).await);
    }
    lab.settled().await;
    // 60 s of work for the crowd, of which 28 are requested at a time, and all the time more for the host than it takes.
    feed_each(&mut lab, "late", 40, 21).await;
    assert!(lab.feed("late-a", 1).await);
    let began = lab.elapsed();
    while lab.elapsed() < began + secs(20) {
        for _ in 0..20 {
            lab.feed("good-a", 1).await;
            lab.feed("good-b", 1).await;
            lab.feed("good-c", 1).await;
        }
        lab.at(u64::try_from(lab.elapsed().as_millis()).unwrap() + 500).await;
    }
    assert_eq!(requested(&lab, "late-a").len(), 2, "40 others have one turn each before it");
    lab.settled().await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn receivers_that_hang_take_no_permit_of_a_probe() {
    let hosts = crowd("hangs", 7);
    let urls: Vec<&str> = ["http://r.example/hook"].into_iter().chain(hosts.iter().map(|url| &**url)).collect();
    let limits = Delivery { max_in_flight: 16, ..unordered() };
    let mut lab = Lab::start(limits, &urls, |seen| match &*seen.webhook {
        "hook" => Answer::status(500),
        _ => Answer::acknowledged(),
    });
    feed_each(&mut lab, "hangs", 7, 1).await;
    for entity in 0..20 {
        assert!(lab.feed("hook", entity).await);
    }
    lab.until("the lane is blocked", |lab| lab.gauge("hook").is_blocked()).await;
    lab.receivers.answer_with(|seen| match &*seen.webhook {
        "hook" => Answer::acknowledged(),
        _ => Answer::failed(Reason::Timeout).after(secs(600)),
    });
    feed_each(&mut lab, "hangs", 7, 2).await;
    lab.until("all other permits are taken", |lab| lab.receivers.count() == 27 + 14).await;
    lab.returned();
    lab.until("a probe is wanted", |lab| lab.gauge("hook").has_room(lab.pressure())).await;
    assert!(lab.feed("hook", 1).await);
    lab.until("the circuit closes", |lab| !lab.gauge("hook").is_blocked()).await;
    lab.at(5_000).await;
    assert_eq!(lab.receivers.count(), 27 + 14 + 1);
    lab.end().await;
}
