//! All results that are not an acknowledgement: each failure has its own reason word, in the retry record and in the metrics.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::stage::{Stage, event, integration};
use crate::support::cluster::Cluster;
use crate::support::port::Port;
use crate::support::receiver::{Answer, ECHO, Echo, Misbehaviour, Receiver, Recorded};
use crate::support::wait::PATIENCE;

/// As an HTTP date.
#[expect(clippy::disallowed_methods, reason = "the worker under test compares it with the wall clock")]
fn in_50_seconds() -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(50))
}

/// Receivers of all kinds, each the only webhook of an integration of its own.
#[derive(Default)]
struct Cases {
    receivers: Vec<Receiver>,
    integrations: Vec<Value>,
    /// Reason word and status by integration; none for an acknowledgement.
    expected: BTreeMap<String, Option<(String, Option<String>)>>,
}

impl Cases {
    fn url(&mut self, id: &str, url: &str, reason: &str) {
        self.integrations.push(integration(id, url));
        self.expected.insert(id.to_owned(), Some((reason.to_owned(), None)));
    }

    fn answers(
        &mut self,
        id: &str,
        reason: &str,
        status: Option<u16>,
        script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static,
    ) {
        let receiver = Receiver::start(script);
        self.integrations.push(integration(id, &receiver.url("")));
        self.receivers.push(receiver);
        self.expected.insert(id.to_owned(), Some((reason.to_owned(), status.map(|status| status.to_string()))));
    }

    fn misbehaves(&mut self, id: &str, reason: &str, misbehaviour: Misbehaviour) {
        self.answers(id, reason, None, move |_| Answer::misbehave(misbehaviour));
    }

    fn acknowledges(&mut self, id: &str, script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) {
        self.answers(id, "", None, script);
        self.expected.insert(id.to_owned(), None);
    }
}

fn token(request: &Recorded) -> String {
    request.header(ECHO).unwrap().to_owned()
}

/// A listener whose queue is full: connecting to it hangs.
fn black_hole() -> (Vec<Socket>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..8 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        // Under way, or never: both fill the queue.
        assert!(client.connect(&address.into()).is_err());
        sockets.push(client);
    }
    (sockets, address)
}

/// Speaks TLS with a certificate that no authority has signed.
async fn untrusted(tasks: &mut JoinSet<()>) -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            assert!(acceptor.accept(tcp).await.is_err(), "no client may trust this certificate");
        }
    });
    address
}

/// Answers every connection at once with plain HTTP, without reading its request.
async fn plain(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _written = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    address
}

fn add_answers(cases: &mut Cases, trap: &Receiver) {
    for status in [201, 202, 204, 400, 404, 410, 429, 500, 503] {
        cases.answers(&format!("status-{status}"), "status", Some(status), move |_| Answer::status(status));
    }
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = trap.url("/redirected");
        cases.answers(&format!("redirect-{status}"), "status", Some(status), move |_| {
            Answer::status(status).header("location", &elsewhere)
        });
    }
    let ok = Some(200);
    cases.answers("echo-none", "echo-missing", ok, |_| Answer::echo(Echo::Missing));
    cases.answers("echo-other", "echo-mismatch", ok, |_| Answer::echo(Echo::Wrong));
    cases.answers("echo-twice", "echo-mismatch", ok, |_| Answer::echo(Echo::Twice));
    cases.answers("echo-list", "echo-mismatch", ok, |request| {
        Answer::echo(Echo::Missing).header(ECHO, &format!("{0}, {0}", token(request)))
    });
    cases.answers("echo-longer", "echo-mismatch", ok, |request| {
        Answer::echo(Echo::Missing).header(ECHO, &format!("{}0", token(request)))
    });
    cases.answers("echo-empty", "echo-mismatch", ok, |_| Answer::echo(Echo::Missing).header(ECHO, ""));
    cases.misbehaves("hang", "timeout", Misbehaviour::Hang);
    cases.misbehaves("byte-a-second", "timeout", Misbehaviour::DripHead(Duration::from_secs(1)));
    cases.misbehaves("interim-without-end", "protocol", Misbehaviour::EndlessInterim);
    cases.misbehaves("closes", "reset", Misbehaviour::Close);
    cases.misbehaves("resets", "reset", Misbehaviour::Reset);
    cases.misbehaves("no-http", "protocol", Misbehaviour::Garbage);
    cases.misbehaves("headers-without-end", "protocol", Misbehaviour::EndlessHeaders);
    cases.acknowledges("good", |_| Answer::ok());
    cases.acknowledges("body-without-end", |_| Answer::misbehave(Misbehaviour::EndlessBody));
    cases.acknowledges("body-that-stalls", |_| Answer::misbehave(Misbehaviour::StalledBody));
    cases.acknowledges("body-of-a-megabyte", |_| Answer::ok().body(vec![b'x'; 1 << 20]));
    cases.acknowledges("no-gzip-at-all", |_| Answer::ok().header("content-encoding", "gzip").body("not gzip"));
}

fn add_refused(cases: &mut Cases, loopback6: SocketAddr) {
    let port = loopback6.port();
    for (id, host) in [
        ("private", "10.0.0.1".to_owned()),
        ("hex", "0x0a000001".to_owned()),
        ("decimal", "167772161".to_owned()),
        ("octal", "012.0.0.1".to_owned()),
        ("short", "10.1".to_owned()),
        ("home", "192.168.1.1:8080".to_owned()),
        ("metadata", "169.254.169.254".to_owned()),
        ("carrier", "100.64.0.1".to_owned()),
        ("this-host", "0.0.0.0".to_owned()),
        ("multicast", "224.0.0.1".to_owned()),
        ("benchmark", "198.18.0.1".to_owned()),
        ("documentation", "203.0.113.7".to_owned()),
        ("reserved", "240.0.0.1".to_owned()),
        ("broadcast", "255.255.255.255".to_owned()),
        ("loopback6", format!("[::1]:{port}")),
        ("mapped", "[::ffff:10.0.0.1]".to_owned()),
        ("mapped-hex", "[::ffff:a00:1]".to_owned()),
        ("nat64", "[64:ff9b::10.0.0.1]".to_owned()),
        ("6to4", "[2002:a00:1::1]".to_owned()),
        ("teredo", "[2001:0:1:2:3:4:f5ff:fffe]".to_owned()),
        ("link-local6", "[fe80::1]".to_owned()),
        ("unique-local6", "[fd00::1]".to_owned()),
    ] {
        cases.url(&format!("refused-{id}"), &format!("http://{host}/x"), "refused-address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_failure_has_its_own_reason_and_is_counted_by_it() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "failures", "1h", 1).await;
    let mut tasks = JoinSet::new();
    let trap = Receiver::start(|_| Answer::ok());
    let trap6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    trap6.set_nonblocking(true).unwrap();
    let refusing = Port::hold();
    let (_black_hole, black_hole) = black_hole();
    let mut cases = Cases::default();
    add_answers(&mut cases, &trap);
    add_refused(&mut cases, trap6.local_addr().unwrap());
    cases.url("no-name", "http://no-such-host.invalid", "dns");
    cases.url("nothing-listens", &format!("http://{}", refusing.address()), "connect");
    cases.url("connecting-hangs", &format!("http://{black_hole}"), "timeout");
    cases.url("untrusted", &format!("https://{}", untrusted(&mut tasks).await), "tls");
    cases.url("no-tls", &format!("https://{}", plain(&mut tasks).await), "tls");
    stage.put(&cases.integrations);
    let worker = stage.worker(&["--request-timeout", "15s", "--connect-timeout", "8s"]).await;
    stage.send([event("e", "c")]);
    stage.settled(PATIENCE).await;

    let found: BTreeMap<_, _> = stage
        .tier("1h")
        .iter()
        .map(|retry| {
            let header = |name: &str| retry.header(name).map(str::to_owned);
            let id = header("hookstream-integration-id").unwrap();
            (id, Some((header("hookstream-error").unwrap(), header("hookstream-status"))))
        })
        .collect();
    let mut found_or_acknowledged: BTreeMap<_, _> = cases.expected.keys().map(|id| (id.clone(), None)).collect();
    found_or_acknowledged.extend(found);
    assert_eq!(found_or_acknowledged, cases.expected);
    assert_eq!(trap.count(), 0, "redirects are never followed");
    assert!(trap6.accept().is_err(), "a refused address gets no connection");

    let mut counted: BTreeMap<&str, f64> = BTreeMap::new();
    for outcome in cases.expected.values() {
        *counted.entry(outcome.as_ref().map_or("", |(reason, _)| reason)).or_default() += 1.0;
    }
    let words: BTreeSet<_> = counted.keys().copied().collect();
    let all = ["", "connect", "dns", "echo-mismatch", "echo-missing", "protocol", "refused-address", "reset", "status"];
    assert_eq!(words, all.into_iter().chain(["timeout", "tls"]).collect(), "every word of a request has a case");
    for (reason, count) in counted {
        stage.knows(&worker, "hookstream_attempts_total", &[("reason", reason)], count).await;
    }
    let total = f64::from(u32::try_from(cases.expected.len()).unwrap());
    stage.knows(&worker, "hookstream_attempt_duration_seconds_count", &[], total).await;
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_moves_a_delivery_to_the_first_tier_that_is_long_enough() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "retry-after", "30s,1m,1h", 1).await;
    let requested = [
        ("exact", 429, "60", "1m"),
        ("between", 429, "61", "1h"),
        ("date", 503, "in 50 s", "1m"),
        ("past-the-last", 503, "100000", "1h"),
        ("huge", 503, "18446744073709551616", "1h"),
        ("short", 503, "0", "30s"),
        ("negative", 429, "-60", "30s"),
        ("words", 429, "soon", "30s"),
        ("other-status", 500, "60", "30s"),
        ("good-status", 202, "60", "30s"),
        ("none", 429, "", "30s"),
    ];
    let mut cases = Cases::default();
    for (id, status, retry_after, _) in requested {
        let retry_after = retry_after.to_owned();
        cases.answers(id, "status", Some(status), move |_| match retry_after.as_str() {
            "" => Answer::status(status),
            "in 50 s" => Answer::status(status).header("retry-after", &in_50_seconds()),
            retry_after => Answer::status(status).header("retry-after", retry_after),
        });
    }
    stage.put(&cases.integrations);
    let _worker = stage.worker(&[]).await;
    stage.send([event("e", "c")]);
    stage.settled(PATIENCE).await;
    let mut found = BTreeMap::new();
    for tier in ["30s", "1m", "1h"] {
        for retry in stage.tier(tier) {
            assert_eq!(retry.header("hookstream-attempt"), Some("1"), "the attempt number does not change");
            found.insert(retry.header("hookstream-integration-id").unwrap().to_owned(), tier);
        }
    }
    assert_eq!(found, requested.into_iter().map(|(id, _, _, tier)| (id.to_owned(), tier)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_stale_connection_is_sent_again_without_another_attempt() {
    // One less than what opens a circuit fails.
    const EVENTS: usize = 20;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "stale", "1h", 1).await;
    // Closes on the second request of a connection, having read it: what a keep-alive that ran out looks like.
    let used = Mutex::new(HashSet::new());
    let closes_at_the_next = Receiver::start(move |request| {
        let first = used.lock().insert(request.connection);
        if first { Answer::ok() } else { Answer::misbehave(Misbehaviour::Close) }
    });
    let closes_after = Receiver::start(|_| Answer::misbehave(Misbehaviour::CloseAfter));
    let announces = Receiver::start(|_| Answer { close: true, ..Answer::ok() });
    // The first answer is good; then every connection dies, the fresh one too.
    let dies = Receiver::start(|request| match request.number {
        0 => Answer::ok(),
        _ => Answer::misbehave(Misbehaviour::Close),
    });
    stage.put([
        &integration("next", &closes_at_the_next.url("")),
        &integration("after", &closes_after.url("")),
        &integration("announced", &announces.url("")),
        &integration("dies", &dies.url("")),
    ]);
    let worker = stage.worker(&[]).await;
    // One entity: one request after another, so that connections are used again.
    stage.send((0..EVENTS).map(|number| event(&format!("e-{number}"), "c")));
    stage.settled(PATIENCE).await;

    for (receiver, what) in [(&closes_after, "closes after"), (&announces, "announces")] {
        let requests = receiver.recorded();
        assert!(requests.iter().all(|request| request.attempt() == 1), "{what}");
        let answered: BTreeSet<_> = requests.iter().map(|request| request.delivery_id().to_owned()).collect();
        assert_eq!(answered.len(), EVENTS, "{what}");
    }
    let requests = closes_at_the_next.recorded();
    assert!(requests.iter().all(|request| request.attempt() == 1));
    assert_eq!(
        requests.len(),
        2 * EVENTS - 1,
        "all but the first are sent on a kept connection, and once more on a new one"
    );
    let resends = worker.metric("hookstream_stale_resends_total", &[]).await;
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let kept = (EVENTS - 1) as f64;
    assert!(resends >= kept, "{resends}");

    let retries = stage.tier("1h");
    let failed: BTreeSet<_> = retries.iter().map(|retry| retry.header("hookstream-integration-id").unwrap()).collect();
    assert_eq!(failed, BTreeSet::from(["dies"]), "only a receiver that fails on a fresh connection too is put off");
    for retry in &retries {
        assert_eq!(retry.header("hookstream-attempt"), Some("1"));
    }
    // The first event, the second on a kept and a fresh connection, then fresh ones only.
    let second: Vec<_> = dies.recorded().into_iter().skip(1).take(2).collect();
    assert_eq!(second[0].delivery_id(), second[1].delivery_id(), "one resend");
    assert_ne!(dies.recorded()[3].delivery_id(), second[0].delivery_id(), "and no second one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_spends_no_slot_and_closes_when_the_receiver_is_back() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "circuit", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::status(500));
    stage.put([&integration("i", &receiver.url(""))]);
    let worker = stage.worker(&[]).await;
    // One entity: one request after another.
    stage.send((0..200).map(|number| event(&format!("e-{number}"), "c")));
    stage.read_through(PATIENCE).await;
    stage.knows(&worker, "hookstream_webhook_circuits_open", &[], 1.0).await;
    let failed = receiver.count();
    assert!((20..30).contains(&failed), "the failures that opened it, and probes: {failed}");
    receiver.answer_with(|_| Answer::ok());
    // A probe comes at least every ten seconds; then all that waited, without another event.
    receiver.wait_for(200, PATIENCE).await;
    stage.knows(&worker, "hookstream_webhook_circuits_open", &[], 0.0).await;
    let retries = stage.tier("1h");
    assert!(retries.iter().all(|retry| retry.header("hookstream-error") == Some("status")));
    assert_eq!(receiver.count(), 200, "each event is requested once");
}
