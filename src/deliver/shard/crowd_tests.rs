//! Hosts that hang, or answer late, beside those that answer: how many of all requests each kind has under way.

use std::time::Duration;

use super::lab::{Answer, Lab, crowd, feed_each, secs, unordered};
use crate::domain::outcome::Reason;
use crate::settings::Delivery;

/// A shard that makes 16 requests at a time, 2 of them probes, for a crowd of hosts that hang, and for hosts that answer after 1 ms
/// (`good-*`) and after 2 s (`late-*`).
fn beside_hosts_that_hang(hanging: usize) -> Lab {
    let urls: Vec<String> =
        [crowd("hangs", hanging), crowd("good", 4), crowd("late", 20)].into_iter().flatten().collect();
    let urls: Vec<&str> = urls.iter().map(|url| &**url).collect();
    let limits = Delivery { max_in_flight: 16, ..unordered() };
    Lab::start(limits, &urls, |seen| match seen.webhook.split_once('-').unwrap().0 {
        "good" => Answer::acknowledged().after(Duration::from_millis(1)),
        "late" => Answer::acknowledged().after(secs(2)),
        _ => Answer::failed(Reason::Timeout).after(secs(30)),
    })
}

/// What is requested of a kind of webhooks, and when.
fn requested(lab: &Lab, kind: &str) -> Vec<u128> {
    let seen = lab.receivers.seen();
    seen.iter().filter(|seen| seen.webhook.starts_with(kind)).map(|seen| seen.at_ms).collect()
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_hosts_that_hang_leave_half_of_the_permits_to_those_that_answer() {
    let mut lab = beside_hosts_that_hang(900);
    feed_each(&mut lab, "good", 4, 1).await;
    lab.until("the good ones answered", |lab| lab.assignment.committable() == Some(4)).await;
    feed_each(&mut lab, "hangs", 900, 2).await;
    lab.until("the hosts that hang have their share", |lab| requested(lab, "hangs").len() == 7).await;
    lab.until("the others are shown", |lab| lab.metrics.deliver.webhooks_held_back.get() == 893).await;
    let began = lab.elapsed();
    feed_each(&mut lab, "good", 4, 25).await;
    lab.until("the good ones have all", |lab| requested(lab, "good").len() == 104).await;
    assert!(lab.elapsed() - began < Duration::from_millis(50), "100 requests of 1 ms, several at a time");
    assert_eq!(requested(&lab, "hangs").len(), 7);
    lab.until("the next ones get their turn", |lab| requested(lab, "hangs").len() == 21).await;
    assert!(lab.receivers.seen().iter().all(|seen| seen.under_way <= 14));
}

#[tokio::test(start_paused = true)]
async fn a_new_host_waits_for_one_permit_of_those_that_hang_and_not_for_its_turn_among_them() {
    let mut lab = beside_hosts_that_hang(200);
    feed_each(&mut lab, "hangs", 200, 2).await;
    lab.at(10_000).await;
    feed_each(&mut lab, "good", 1, 3).await;
    lab.until("it has all", |lab| requested(lab, "good").len() == 3).await;
    assert!(lab.elapsed() < Duration::from_millis(30_200), "the first requests ended after 30 s: {:?}", lab.elapsed());
}

#[tokio::test(start_paused = true)]
async fn hosts_that_answer_late_leave_a_quarter_to_those_that_are_prompt_and_need_none_of_what_silent_ones_hold() {
    let mut lab = beside_hosts_that_hang(40);
    feed_each(&mut lab, "late", 20, 1).await;
    feed_each(&mut lab, "good", 4, 1).await;
    lab.settled().await;
    let (began, before) = (lab.elapsed(), requested(&lab, "late").len());
    feed_each(&mut lab, "hangs", 40, 2).await;
    feed_each(&mut lab, "late", 20, 5).await;
    feed_each(&mut lab, "good", 4, 5).await;
    lab.until("the good ones have all", |lab| requested(lab, "good").len() == 24).await;
    assert!(lab.elapsed() - began < Duration::from_millis(50), "{:?}", lab.elapsed() - began);
    assert_eq!(requested(&lab, "hangs").len() + requested(&lab, "late").len() - before, 11, "of 14");
    lab.until("the late ones have all", |lab| requested(lab, "late").len() == 20 + 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_requests_wait_for_more_than_a_second_counts_as_late_at_once() {
    let mut lab = beside_hosts_that_hang(0);
    feed_each(&mut lab, "good", 4, 1).await;
    lab.settled().await;
    lab.receivers.answer_with(|seen| match seen.webhook.as_str() {
        "good-0" => Answer::acknowledged().after(Duration::from_millis(1)),
        _ => Answer::failed(Reason::Timeout).after(secs(30)),
    });
    for number in 1..4 {
        for entity in 0..3 {
            assert!(lab.feed(&format!("good-{number}"), entity).await);
        }
    }
    lab.at(2_000).await;
    feed_each(&mut lab, "good", 4, 10).await;
    lab.at(3_000).await;
    assert_eq!(requested(&lab, "good-0").len(), 11);
    assert_eq!(
        requested(&lab, "good").len(),
        4 + 11 + 10,
        "of the three that hang eleven requests are under way, of 14"
    );
    lab.end().await;
}
