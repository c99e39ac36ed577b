//! Workers that stop, are killed and share partitions, and brokers that end and come back: with an account of every event and webhook.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminOptions;
use rdkafka::{Offset, TopicPartitionList};

use crate::stage::{LONG, Ledger, Stage, event_number, events, integration};
use crate::support::cluster::{Cluster, OwnCluster};
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, admin};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::Worker;

/// A member that dies is missed after this; shorter than the product's own choice, so that a test sees it.
const QUICK_SESSION: [&str; 4] =
    ["--kafka-property", "session.timeout.ms=3000", "--kafka-property", "heartbeat.interval.ms=500"];

/// Two receivers, one of which fails now and then, so that there are always retries and dead letters too.
struct Pair {
    ledger: Ledger,
    _receivers: [Receiver; 2],
}

/// One event in this number of the second webhook fails always, the others at the first attempt.
const DEAD_EVERY: usize = 500;
const FAILING_EVERY: usize = 20;
const WEBHOOKS: [&str; 2] = ["w-good", "w-flaky"];

impl Pair {
    fn on(stage: &Stage, latency: Duration) -> Self {
        let ledger = Ledger::default();
        let note = ledger.clone();
        let good = Receiver::start(move |request| note.note("w-good", request, Answer::ok().after(latency)));
        let note = ledger.clone();
        let flaky = Receiver::start(move |request| {
            let number = event_number(request);
            let fails =
                number.is_multiple_of(DEAD_EVERY) || (number.is_multiple_of(FAILING_EVERY) && request.attempt() == 1);
            note.note("w-flaky", request, Answer::status(if fails { 500 } else { 200 }))
        });
        stage.put([&integration("good", &good.url("")), &integration("flaky", &flaky.url(""))]);
        Self { ledger, _receivers: [good, flaky] }
    }

    /// Waits until there is an account of every one of `count` events and each webhook: acknowledged, or a dead letter.
    ///
    /// On a machine that stands still for seconds the attempts of a good delivery may all time out. Then it is a dead letter, as it
    /// should be.
    async fn balance(&self, stage: &Stage, count: usize, what: &str) {
        let wanted = 2 * count;
        let (balance, letters) = wait_until(&format!("the account of {what} to balance"), LONG, async || {
            let letters = stage.dead();
            let events = (0..count).map(|number| format!("e-{number}"));
            let balance = self.ledger.balance(events, &WEBHOOKS, &letters);
            if balance.lost.is_empty() {
                Ok((balance, letters.len()))
            } else {
                Err((balance.acknowledged, balance.dead, balance.lost.len(), balance.lost.into_iter().next()))
            }
        })
        .await;
        stage.settled(LONG).await;
        println!(
            "{what}: {count} events x 2 webhooks: {} acknowledged, {} dead, {} lost; {} requests, {} acknowledged again, \
             {letters} dead letters: {:?}",
            balance.acknowledged,
            balance.dead,
            balance.lost.len(),
            self.ledger.requests(),
            self.ledger.duplicates(),
            causes_of_death(stage),
        );
        assert!(balance.acknowledged + balance.dead >= wanted);
        assert!(balance.dead >= count.div_ceil(DEAD_EVERY), "those that always fail are among the dead");
    }
}

/// Reasons and last errors of the dead letters there are.
fn causes_of_death(stage: &Stage) -> std::collections::BTreeMap<String, usize> {
    let mut causes = std::collections::BTreeMap::new();
    for letter in stage.dead() {
        let [reason, error] =
            ["hookstream-reason", "hookstream-error"].map(|name| letter.header(name).unwrap_or("none"));
        *causes.entry(format!("{reason} after {error}")).or_default() += 1;
    }
    causes
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_in_time_with_nothing_lost_and_nothing_done_twice() {
    const EVENTS: usize = 600;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "sigterm", "400ms,800ms", 3).await;
    let pair = Pair::on(&stage, Duration::from_millis(150));
    let mut first = stage.worker(&[]).await;
    stage.send(events("e", EVENTS));
    pair.ledger.wait_for(EVENTS / 2, PATIENCE).await;
    let asked = Instant::now();
    first.sigterm();
    assert_eq!(first.wait_exit(PATIENCE), 0, "{}", first.lines().tail(40));
    let took = asked.elapsed();
    println!("SIGTERM in mid-stream: drained in {took:?}, {} acknowledged", pair.ledger.acknowledged());
    assert!(pair.ledger.acknowledged() < 2 * EVENTS, "it stopped in mid-stream");
    let mut second = stage.worker(&[]).await;
    pair.balance(&stage, EVENTS, "SIGTERM").await;
    let duplicates = pair.ledger.duplicates();
    assert_eq!(
        duplicates,
        0,
        "deliveries under way ended and were committed; the first worker wrote:\n{}",
        first.lines().tail(40)
    );
    second.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_five_times_lose_nothing() {
    const EVENTS: usize = 10_000;
    const KILLS: usize = 5;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "sigkill", "300ms,600ms", 6).await;
    let pair = Pair::on(&stage, Duration::ZERO);
    stage.send(events("e", EVENTS));
    let mut workers: Vec<Worker> = vec![stage.spawn(&QUICK_SESSION).await, stage.spawn(&QUICK_SESSION).await];
    for kill in 1..=KILLS {
        // Each time some way further on, with either of the two.
        pair.ledger.wait_for(2 * EVENTS * kill / (KILLS + 2), LONG).await;
        let mut victim = workers.remove(0);
        victim.sigkill();
        workers.push(stage.spawn(&QUICK_SESSION).await);
    }
    pair.balance(&stage, EVENTS, "kill -9, five times").await;
    let duplicates = pair.ledger.duplicates();
    // A kill repeats what was not committed: at most two seconds of work or so, here on a generous bound.
    assert!(duplicates < 2 * EVENTS, "{duplicates}");
}

async fn rebalance(claim: &str, options: &[&str]) {
    // What one worker does before another comes, and events for each look at whether that has partitions.
    const FIRST: usize = 3_000;
    const MORE: usize = 200;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, claim, "300ms,600ms", 6).await;
    let pair = Pair::on(&stage, Duration::from_millis(20));
    let mut first = stage.worker(options).await;
    stage.send(events("e", FIRST));
    pair.ledger.wait_for(FIRST / 2, LONG).await;
    let mut second = stage.spawn(options).await;
    let sent = AtomicUsize::new(FIRST);
    let more = || {
        let from = sent.fetch_add(MORE, Ordering::Relaxed);
        stage.send(events("e", from + MORE).skip(from));
    };
    // In mid-stream, however long it takes to start.
    wait_until("the second worker to have partitions", LONG, async || {
        more();
        let text = second.metrics().await;
        if text.contains("hookstream_consumer_lag{") { Ok(()) } else { Err(text.len()) }
    })
    .await;
    more();
    pair.ledger.wait_for(pair.ledger.acknowledged() + MORE, LONG).await;
    first.stop();
    let count = sent.load(Ordering::Relaxed);
    pair.balance(&stage, count, claim).await;
    let duplicates = pair.ledger.duplicates();
    assert!(
        duplicates <= count / 10,
        "{duplicates} deliveries were made twice; the first worker wrote:\n{}",
        first.lines().tail(40)
    );
    second.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_in_mid_stream_loses_nothing_with_the_classic_protocol() {
    rebalance("rebalance-classic", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_in_mid_stream_loses_nothing_with_the_new_protocol() {
    rebalance("rebalance-new", &["--kafka-property", "group.protocol=consumer"]).await;
}

/// Sends and waits until the stream has moved on by `count` acknowledgements since.
async fn send_and_move_on(stage: &Stage, pair: &Pair, events: impl Iterator<Item = Record>, count: usize) {
    let before = pair.ledger.acknowledged();
    stage.send(events);
    pair.ledger.wait_for(before + count, LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_that_fail_one_after_another_lose_nothing() {
    const PART: usize = 800;
    let mut cluster: OwnCluster = Cluster::start(3).await;
    let stage = Stage::replicated(&cluster, "three-brokers", "500ms,1s", 3, 3).await;
    let pair = Pair::on(&stage, Duration::ZERO);
    let mut worker = stage.worker(&[]).await;
    let part = |number: usize| events("e", 3 * PART).skip(number * PART).take(PART);
    send_and_move_on(&stage, &pair, part(0), 200).await;
    cluster.kill(0);
    send_and_move_on(&stage, &pair, part(1), 200).await;
    cluster.restart(0);
    cluster.stop(1);
    send_and_move_on(&stage, &pair, part(2), 200).await;
    cluster.restart(1);
    pair.balance(&stage, 3 * PART, "three brokers, one killed and one stopped").await;
    worker.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_move_between_brokers_lose_and_repeat_nothing() {
    const PART: usize = 1_000;
    let cluster: OwnCluster = Cluster::start(3).await;
    let stage = Stage::replicated(&cluster, "leaders", "500ms,1s", 6, 3).await;
    let pair = Pair::on(&stage, Duration::from_millis(2));
    let mut worker = stage.worker(&[]).await;
    for part in 0..3 {
        let events = events("e", 3 * PART).skip(part * PART).take(PART);
        send_and_move_on(&stage, &pair, events, 200).await;
        // While most of the part is on its way.
        let moved = tokio::task::block_in_place(|| cluster.move_leaders());
        println!("{moved} partitions have another leader");
        assert!(moved > 0);
    }
    pair.balance(&stage, 3 * PART, "leaders that moved three times").await;
    assert_eq!(pair.ledger.duplicates(), 0, "a worker that kept its partitions repeats nothing");
    worker.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_broker_dies_and_comes_back_and_nothing_is_lost() {
    const PART: usize = 400;
    let mut cluster: OwnCluster = Cluster::start(1).await;
    let stage = Stage::on(&cluster, "one-broker", "500ms,1s", 2).await;
    let pair = Pair::on(&stage, Duration::from_millis(5));
    let mut worker = stage.worker(&["--request-timeout", "5s", "--drain-timeout", "10s"]).await;
    send_and_move_on(&stage, &pair, events("e", 2 * PART).take(PART), 200).await;
    // What is under way ends while nothing can be published; it is published when the broker is back.
    cluster.kill(0);
    let down = pair.ledger.acknowledged();
    cluster.restart(0);
    stage.send(events("e", 2 * PART).skip(PART));
    pair.balance(&stage, 2 * PART, "the only broker, killed and started again").await;
    println!("{down} were acknowledged when the broker died");
    assert!(worker.is_running());
    // Without a broker a worker stops too, in bounded time.
    cluster.kill(0);
    let asked = Instant::now();
    worker.sigterm();
    let code = worker.wait_exit(LONG);
    assert_eq!(code, 0, "{}", worker.lines().tail(20));
    println!("without a broker a worker stops in {:?} with code {code}", asked.elapsed());
}

/// Lets a worker deliver five events and stop; its offsets are committed.
async fn five_delivered(stage: &Stage) -> Receiver {
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put([&integration("i", &receiver.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send(events("e", 5));
    stage.settled(PATIENCE).await;
    worker.stop();
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_deleted_before_they_were_read_are_logged() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "deleted", "1h", 1).await;
    let receiver = five_delivered(&stage).await;
    stage.send(events("late", 5));
    let mut kept = TopicPartitionList::new();
    kept.add_partition_offset(&stage.names.events(), 0, Offset::Offset(8)).unwrap();
    admin(cluster.brokers()).delete_records(&kept, &AdminOptions::new()).await.unwrap();
    let worker = stage.worker(&[]).await;
    receiver.wait_for(7, PATIENCE).await;
    let said =
        worker.lines().find(PATIENCE, |line| line.contains("records may have been skipped").then(|| line.to_owned()));
    let said = said.expect("a warning");
    assert!(said.contains("WARN") && said.contains(&stage.names.events()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_over_a_partition_reports_no_lag_at_once() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "lag", "1h", 1).await;
    let _receiver = five_delivered(&stage).await;
    let worker = stage.worker(&[]).await;
    wait_until("the lag", PATIENCE, async || {
        // There is a series only once it was measured.
        let text = worker.metrics().await;
        let series = format!("hookstream_consumer_lag{{partition=\"0\",topic=\"{}\"}} ", stage.names.events());
        let lag = text.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned)).ok_or(text)?;
        assert_eq!(lag, "0", "nothing has been read, and all was committed");
        Ok::<_, String>(())
    })
    .await;
}
