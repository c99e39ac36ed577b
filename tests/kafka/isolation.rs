//! One receiver's trouble costs the others nothing: hanging, refusing and dripping ones next to a good one, and catching up.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::stage::{LONG, Stage, event, events, integration, record};
use crate::support::cluster::Cluster;
use crate::support::port::Port;
use crate::support::receiver::{Answer, Misbehaviour, Receiver};
use crate::support::wait::PATIENCE;
use crate::support::worker::Worker;

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_refuse_and_drip_do_not_delay_a_good_one() {
    // More than wait in a lane, so that a receiver which hangs falls behind.
    const EVENTS: usize = 2000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "isolation", "1h", 1).await;
    let good = Receiver::start(|_| Answer::ok());
    let hanging = Receiver::start(|_| Answer::misbehave(Misbehaviour::Hang));
    let dripping = Receiver::start(|_| Answer::misbehave(Misbehaviour::DripHead(Duration::from_secs(1))));
    let chattering = Receiver::start(|_| Answer::misbehave(Misbehaviour::EndlessInterim));
    let refusing = Port::hold();
    stage.put([
        &integration("good", &good.url("")),
        &integration("hanging", &hanging.url("")),
        &integration("dripping", &dripping.url("")),
        &integration("chattering", &chattering.url("")),
        &integration("refusing", &format!("http://{}", refusing.address())),
    ]);
    // A time-out that no test waits for: the good one gets all its events while the others hang.
    let worker = stage.worker(&["--request-timeout", "4m", "--drain-timeout", "4m"]).await;
    stage.send(events("e", EVENTS));
    crate::support::wait::wait_until("the good one to have all", LONG, async || {
        if good.count() >= EVENTS {
            return Ok(());
        }
        let text = worker.metrics().await;
        let telling =
            ["queued", "in_flight", "circuits", "attempts_total", "slots", "paused", "publish", "kafka_errors"];
        let is_logged = |line: &&str| {
            !line.starts_with('#') && telling.iter().any(|name| line.contains(name)) && !line.ends_with(" 0")
        };
        Err((good.count(), text.lines().filter(is_logged).map(str::to_owned).collect::<Vec<_>>()))
    })
    .await;
    stage.knows(&worker, "hookstream_deliveries_total", &[("outcome", "acknowledged")], 2000.0).await;
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
async fn a_backlog_is_delivered_without_retries_to_a_receiver_that_keeps_pace() {
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
async fn a_burst_to_an_idle_receiver_needs_no_retry() {
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
async fn a_fast_receiver_does_not_wait_for_a_slow_one() {
    const BACKLOG: usize = 3000;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "paces", "1h", 3).await;
    let fast = Receiver::start(|_| Answer::ok());
    // 16 in two seconds, until the fast one has all: on any machine it is far behind by then.
    let slow = Receiver::start(|_| Answer::ok().after(Duration::from_secs(2)));
    stage.put([&integration("fast", &fast.url("")), &integration("slow", &slow.url(""))]);
    stage.send(events("e", BACKLOG));
    let worker = stage.worker(&[]).await;
    fast.wait_for(BACKLOG, LONG).await;
    let taken = slow.count();
    println!("when the fast one had all {BACKLOG}, the slow one had taken {taken}");
    assert!(taken < BACKLOG / 2);
    slow.answer_with(|_| Answer::ok());
    slow.wait_for(BACKLOG, LONG).await;
    stage.settled(LONG).await;
    assert_eq!((fast.count(), slow.count(), stage.tier("1h").len()), (BACKLOG, BACKLOG, 0), "each once");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_webhooks_of_one_host_take_turns_and_all_get_their_events() {
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

/// Receivers on all addresses of loopback and one port, which are as many hosts. They echo and keep their connections.
pub(crate) struct Hosts {
    port: u16,
    open: Arc<AtomicUsize>,
    open_max: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Hosts {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, open_max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, highest) = (Arc::clone(&open), Arc::clone(&open_max));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, from)) = listener.accept().await {
                if !from.ip().is_loopback() {
                    continue;
                }
                highest.fetch_max(counted.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let counted = Arc::clone(&counted);
                connections.spawn(async move {
                    echo(tcp).await;
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, open, open_max, _serving: serving }
    }

    pub(crate) fn url(&self, number: usize) -> String {
        let address = Ipv4Addr::from(0x7f01_0000 + u32::try_from(number).unwrap());
        format!("http://{address}:{}", self.port)
    }
}

/// Acknowledges every request of a connection until the other end closes it.
async fn echo(mut tcp: TcpStream) {
    let mut seen = Vec::new();
    loop {
        let Some(head) = seen.windows(4).position(|window| window == b"\r\n\r\n") else {
            match tcp.read_buf(&mut seen).await {
                Ok(bytes) if bytes > 0 => continue,
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&seen[..head]).into_owned();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let whole = head + 4 + value("content-length: ").parse::<usize>().unwrap();
        while seen.len() < whole {
            if !tcp.read_buf(&mut seen).await.is_ok_and(|bytes| bytes > 0) {
                return;
            }
        }
        seen.drain(..whole);
        let token = value("x-xcom-integration-echo: ");
        let answer = format!("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {token}\r\ncontent-length: 0\r\n\r\n");
        if tcp.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_hundred_hosts_leave_files_for_another_customer_and_for_probes() {
    const HOSTS: usize = 1_200;
    const FILES: usize = 1_024;
    const OTHERS: usize = 20;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "hosts", "1h", 3).await;
    let (hosts, other) = (Hosts::start().await, Receiver::start(|_| Answer::ok()));
    let of_type = |id: &str, url: &str, entity: &str| {
        let mut value = integration(id, url);
        value["webHooks"][0]["filter"] = json!({ "items": [{ "entityType": entity }] });
        value
    };
    let mut integrations: Vec<_> =
        (0..HOSTS).map(|number| of_type(&format!("i{number}"), &hosts.url(number), "company")).collect();
    integrations.push(of_type("other", &other.url(""), "contact"));
    stage.put(&integrations);
    let options = ["--retry-schedule", "1h"];
    let worker = Worker::with_files(FILES, cluster.brokers(), &stage.names, &options).await;
    let says_so = |line: &str| line.contains("the limit of open files is too low").then_some(());
    assert!(worker.lines().find(PATIENCE, says_so).is_some(), "{}", worker.lines().tail(20));
    stage.send([event("one", "c"), event("two", "c")]);
    for number in 0..OTHERS {
        let value =
            json!({ "id": format!("o-{number}"), "type": "change", "entityIds": { "contactId": number.to_string() } });
        stage.send([record("k", value.to_string())]);
        assert_eq!(worker.get("/livez").await.unwrap().0, 200);
    }
    assert!(other.wait_for(OTHERS, PATIENCE).await.iter().all(|request| request.attempt() == 1));
    stage.settled(LONG).await;
    let acknowledged = worker.metric("hookstream_attempts_total", &[("outcome", "acknowledged")]).await;
    let (open, open_max) = (hosts.open.load(Ordering::Relaxed), hosts.open_max.load(Ordering::Relaxed));
    println!("{HOSTS} hosts, {FILES} files: {acknowledged} acknowledged, {open_max} connections at most, {open} kept");
    assert!((acknowledged - f64::from(u32::try_from(2 * HOSTS + OTHERS).unwrap())).abs() < 1e-9, "{acknowledged}");
    assert!(open_max < FILES && open <= FILES / 3 + 64, "{open_max} and {open}");
    assert_eq!((other.count(), stage.tier("1h").len(), stage.dead().len()), (OTHERS, 0, 0));
}
