//! One receiver's trouble is nobody else's: hanging, refusing and dripping ones beside a good one, and catching up.

use std::time::Duration;

use crate::stage::{LONG, Stage, events, integration};
use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_a_refusing_and_a_dripping_receiver_cost_a_good_one_nothing() {
    const EVENTS: usize = 1000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "isolation", "1h", 1).await;
    let good = Receiver::start(|_| Answer::ok());
    let hanging = Receiver::start(|_| Answer::misbehave(Misbehaviour::Hang));
    let dripping = Receiver::start(|_| Answer::misbehave(Misbehaviour::DripHead(Duration::from_secs(1))));
    let chattering = Receiver::start(|_| Answer::misbehave(Misbehaviour::EndlessInterim));
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    stage.put([
        &integration("good", &good.url("")),
        &integration("hanging", &hanging.url("")),
        &integration("dripping", &dripping.url("")),
        &integration("chattering", &chattering.url("")),
        &integration("refusing", &format!("http://{refusing}")),
    ]);
    // A time-out that no test waits for: whatever the good one gets, it gets while the others hang.
    let worker = stage.worker(&["--request-timeout", "2m", "--drain-timeout", "2m"]).await;
    stage.send(events("e", EVENTS));
    crate::support::wait::wait_until("the good one to have all", LONG, async || {
        if good.count() >= EVENTS {
            return Ok(());
        }
        let text = worker.metrics().await;
        let telling =
            ["queued", "in_flight", "circuits", "attempts_total", "slots", "paused", "publish", "kafka_errors"];
        let told = |line: &&str| {
            !line.starts_with('#') && telling.iter().any(|name| line.contains(name)) && !line.ends_with(" 0")
        };
        Err((good.count(), text.lines().filter(told).map(str::to_owned).collect::<Vec<_>>()))
    })
    .await;
    stage.knows(&worker, "hookstream_deliveries_total", &[("outcome", "acknowledged")], 1000.0).await;
    assert_eq!(
        worker.metric("hookstream_attempts_total", &[("reason", "timeout")]).await.to_bits(),
        0,
        "they hang still"
    );
    for (receiver, what) in [(&hanging, "hanging"), (&dripping, "dripping")] {
        assert!(receiver.open_connections() >= 1, "{what}");
        assert!(receiver.count() <= 16, "{what}: no more than its share of requests: {}", receiver.count());
    }
    // It is cut off after some thousand interim answers, until the circuit opens.
    assert!(chattering.count() < EVENTS / 4, "chattering: {}", chattering.count());
    assert_eq!(good.count(), EVENTS);
    let log = worker.lines().tail(20);
    println!("memory with 4 receivers in trouble: {} MiB", worker.memory() >> 20);
    crate::support::wait::wait_until("the four to be behind, so that nothing waits in memory", LONG, async || {
        let behind = worker.metric("hookstream_webhooks_behind", &[]).await;
        if behind > 3.5 { Ok(()) } else { Err(behind) }
    })
    .await;
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catching_up_puts_nothing_off_for_a_receiver_that_keeps_pace() {
    const BACKLOG: usize = 20_000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "backlog", "1h", 6).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(5)));
    stage.put([&integration("i", &receiver.url(""))]);
    stage.send(events("e", BACKLOG));
    let worker = stage.worker(&["--max-in-flight-per-webhook", "32"]).await;
    stage.settled(LONG).await;
    assert_eq!(receiver.count(), BACKLOG, "each once");
    assert_eq!(stage.tier("1h").len(), 0);
    println!("memory after a backlog of {BACKLOG}: {} MiB", worker.memory() >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_to_an_idle_receiver_of_ordinary_pace_is_not_put_off() {
    const BURST: usize = 600;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "burst", "1h", 1).await;
    // 16 at a time and 60 ms each: 266 a second, so 600 need little more than two seconds.
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(60)));
    stage.put([&integration("i", &receiver.url(""))]);
    let _worker = stage.worker(&[]).await;
    stage.send(events("first", 5));
    stage.settled(LONG).await;
    // It is idle now, and its pace is known.
    stage.send(events("burst", BURST));
    stage.settled(LONG).await;
    assert_eq!(receiver.count(), BURST + 5);
    assert_eq!(stage.tier("1h").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_paces_each_gets_its_own() {
    const BACKLOG: usize = 3000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "paces", "1h", 3).await;
    let fast = Receiver::start(|_| Answer::ok());
    let slow = Receiver::start(|_| Answer::ok().after(Duration::from_millis(100)));
    stage.put([&integration("fast", &fast.url("")), &integration("slow", &slow.url(""))]);
    stage.send(events("e", BACKLOG));
    let worker = stage.worker(&[]).await;
    fast.wait_for(BACKLOG, LONG).await;
    // 160 a second: what it had taken by then is far from all.
    let taken = slow.count();
    println!("when the fast one had all {BACKLOG}, the slow one had taken {taken}");
    assert!(taken < BACKLOG / 2);
    slow.wait_for(BACKLOG, LONG).await;
    stage.settled(LONG).await;
    assert_eq!((fast.count(), slow.count(), stage.tier("1h").len()), (BACKLOG, BACKLOG, 0), "each once");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_webhooks_of_one_host_take_turns_and_none_is_forgotten() {
    const WEBHOOKS: usize = 60;
    const EVENTS: usize = 20;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "one-host", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok().after(Duration::from_millis(2)));
    let integrations: Vec<_> =
        (0..WEBHOOKS).map(|number| integration(&format!("i{number}"), &receiver.url(&format!("/{number}")))).collect();
    stage.put(&integrations);
    let worker = stage.worker(&["--max-in-flight-per-host", "4", "--max-in-flight-per-webhook", "2"]).await;
    stage.send(events("e", EVENTS));
    stage.settled(LONG).await;
    assert_eq!(receiver.count(), WEBHOOKS * EVENTS);
    assert!(receiver.under_way_max() <= 4, "{}", receiver.under_way_max());
    drop(worker);
}
