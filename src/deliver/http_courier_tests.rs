//! What receivers answer, byte by byte, and what becomes of the request and its connection.

use std::net::Ipv4Addr;

use rand::SeedableRng as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::deliver::request::RequestTemplate;
use crate::domain::integration::Integration;
use crate::domain::retry_schedule::RetrySchedule;
use crate::inflight::job::{Delivery, Event, Origin};
use crate::inflight::pressure::Pressure;
use crate::net::address::AddressPolicy;

/// Long enough for a busy machine; no test waits for it to pass.
const AMPLE: Duration = Duration::from_secs(20);

fn courier(request_timeout: Duration) -> HttpCourier {
    let connector = Connector::system(AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]), AMPLE);
    HttpCourier::new(connector, request_timeout, Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap())))
}

fn request(port: u16, payload: &[u8]) -> SignedRequest {
    request_to(&format!("http://127.0.0.1:{port}"), payload)
}

fn request_to(base_url: &str, payload: &[u8]) -> SignedRequest {
    let record = json!({"baseUrl": base_url, "webHooks": [
        {"id": "w", "relativeUrl": "/cb", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
        "secrets": [{"id": "webhook.header.X-Key", "value": "k"}]});
    let integration = Integration::parse("ws/i", record.to_string().as_bytes()).unwrap();
    let template = Arc::new(RequestTemplate::new(&integration, 0).unwrap());
    let pressure = Pressure::new(usize::MAX);
    let origin = Origin { topic: "t".into(), partition: 0, offset: 0 };
    let held = pressure.hold(payload.len());
    let event = Arc::new(Event::new(Bytes::copy_from_slice(payload), origin, 0, None, held));
    let delivery = Delivery::alone(event, Arc::new(integration), 0, "msg_1".into());
    SignedRequest::new(&template, &delivery, 1_700_000_000, &mut rand::rngs::StdRng::from_os_rng())
}

/// A receiver's end, which ends with the test.
fn serve<T: Send + 'static>(server: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut serving = JoinSet::new();
    serving.spawn(server);
    serving
}

/// What it comes to.
async fn ended<T: 'static>(mut server: JoinSet<T>) -> T {
    server.join_next().await.unwrap().unwrap()
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads the head of a request and says what its token is. Nothing once the connection is closed.
async fn read_head(tcp: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let echo = head.lines().find_map(|line| line.strip_prefix("x-xcom-integration-echo: ")).unwrap().to_owned();
    Some((head, echo))
}

/// Answers the one request of each connection with `answer`, with its token in place of `{echo}`, and holds on until the other end is
/// closed.
fn answer_with(listener: TcpListener, answer: &str) -> JoinSet<()> {
    let answer = answer.to_owned();
    serve(async move {
        let mut open = JoinSet::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            let answer = answer.clone();
            open.spawn(async move {
                while let Some((_, echo)) = read_head(&mut tcp).await {
                    let answer = answer.replace("{echo}", &echo);
                    if tcp.read_u8().await.is_err() || tcp.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// How a request that is answered so ends, and whether its connection can carry another.
async fn outcome_of(answer: &str) -> (Outcome, bool) {
    let (listener, port) = listen().await;
    let server = answer_with(listener, answer);
    let exchanged = courier(AMPLE).attempt(&request(port, b"x"), None, Keep::Failures).await;
    drop(server);
    let link = match exchanged.rest {
        Rest::Read(read) => read.connection.is_some(),
        Rest::Coming(_) => false,
    };
    (exchanged.outcome, link)
}

const GOOD: &str = "X-XCOM-Integration-Echo: {echo}\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn status_200_and_the_echo_acknowledge_whatever_else_the_answer_holds() {
    let many: String = (0..399).map(|n| format!("X-{n}: {n}\r\n")).collect::<Vec<_>>().concat();
    for odd in [
        "PHP Warning:  Unable to load x.so in Unknown on line 0\r\n",
        "no colon at all\r\n",
        "Server : x\r\n",
        "X-Info: a\r\n  b\r\n\tc\r\n",
        "Bad Name: x\r\n",
        ": no name\r\n",
        "Naïve: x\r\n",
        "X-Bell: a\u{7}b\r\n",
        "X-Empty:\r\nX-Latin: \u{e9}\r\n",
        "Set-Cookie: a=b; c=\"\\\"\r\n",
        many.split_once('\n').unwrap().1.rsplit_once("X-398").unwrap().0,
    ] {
        let acknowledged = outcome_of(&format!("HTTP/1.1 200 OK\r\n{odd}{GOOD}")).await;
        assert_eq!(acknowledged, (Outcome::Acknowledged, true), "{odd:?}");
    }
    for (answer, keeps) in [
        ("HTTP/1.1 200 Всё хорошо\r\nX-XCOM-Integration-Echo: {echo}\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 200\r\nx-xcom-integration-echo:{echo}  \r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\nX-XCOM-Integration-Echo: {echo}\ncontent-length: 0\n\n", true),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo : {echo}\r\ncontent-length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo:\r\n {echo}\r\ncontent-length: 0\r\n\r\n", true),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\n\
          content-length: 5\r\n\r\nhello",
            true,
        ),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\ncontent-length: none\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nX-XCOM-Integration-Echo: {echo}\r\ncontent-length: 2\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\ntransfer-encoding: chunked, gzip\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\nwithout an end", false),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\ncontent-length: 5\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\ntransfer-encoding: chunked\r\n\r\nno chunk", false),
    ] {
        assert_eq!(outcome_of(answer).await, (Outcome::Acknowledged, keeps), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_or_no_single_echo_is_not_acknowledged() {
    for (answer, reason) in [
        (
            "HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n",
            "echo-mismatch",
        ),
        ("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}, {echo}\r\n\r\n", "echo-mismatch"),
        (
            "HTTP/1.1 200 OK\r\nPHP Warning: X-XCOM-Integration-Echo: {echo}\r\ncontent-length: 0\r\n\r\n",
            "echo-missing",
        ),
        (
            "HTTP/1.1 200 OK\r\nX-Info: a\r\n X-XCOM-Integration-Echo: {echo}\r\ncontent-length: 0\r\n\r\n",
            "echo-missing",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", "echo-missing"),
        ("HTTP/1.1 204 No Content\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", "status"),
        ("HTTP/1.1 302 Found\r\nX-XCOM-Integration-Echo: {echo}\r\nlocation: /\r\n\r\n", "status"),
        ("HTTP/1.1 200 OK\r\nX-A: a\0b\r\nX-XCOM-Integration-Echo: {echo}\r\ncontent-length: 0\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 OK\r\ncontent-length: none\r\n\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", "protocol"),
        ("SSH-2.0-OpenSSH_9.6\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", "protocol"),
        ("HTTP/1.1 abc\r\nX-XCOM-Integration-Echo: {echo}\r\n\r\n", "protocol"),
    ] {
        let Outcome::Failed { reason: found, .. } = outcome_of(answer).await.0 else { panic!("{answer:?}") };
        assert_eq!(found.word(), reason, "{answer:?}");
    }
}

#[tokio::test]
async fn the_headers_on_the_wire_are_those_of_the_contract_in_their_order() {
    let (listener, port) = listen().await;
    let seen = serve(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let head = read_head(&mut tcp).await.unwrap().0;
        drop(tcp);
        head
    });
    courier(AMPLE).attempt(&request(port, b"x"), None, Keep::Nothing).await;
    let head = ended(seen).await;
    let names: Vec<&str> = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert!(head.starts_with("POST /cb HTTP/1.1\r\n"), "{head}");
    assert_eq!(
        names,
        [
            "host",
            "accept",
            "content-type",
            "user-agent",
            "x-key",
            "x-xcom-integration-echo",
            "webhook-id",
            "webhook-timestamp",
            "x-xcom-delivery-attempt",
            "content-length"
        ]
    );
    assert!(head.contains("\r\naccept: */*\r\n"), "{head}");
}

#[tokio::test]
async fn the_verdict_does_not_wait_for_the_body_which_is_read_beside_it_up_to_its_bounds() {
    let (listener, port) = listen().await;
    let (go, gate) = tokio::sync::oneshot::channel::<()>();
    let server = serve(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 2000\r\n\r\n").await.unwrap();
        gate.await.unwrap();
        tcp.write_all(&[b'a'; 2000]).await.unwrap();
        tcp
    });
    let exchanged = courier(AMPLE).attempt(&request(port, b"x"), None, Keep::Failures).await;
    assert_eq!(exchanged.outcome, Outcome::Failed { reason: Reason::Status, status: Some(500), retry_after: None });
    assert!(matches!(exchanged.rest, Rest::Coming(_)));
    go.send(()).unwrap();
    let read = exchanged.rest.read().await;
    assert_eq!(read.body, vec![b'a'; ANSWER_BYTES_KEPT]);
    assert!(read.connection.is_some(), "the connection can carry the next request");
    drop(ended(server).await);
}

#[tokio::test]
async fn a_body_without_an_end_costs_its_connection_and_no_more_than_its_bound() {
    let (listener, port) = listen().await;
    let server = serve(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await.unwrap();
        tcp.write_all(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let mut written = 0_usize;
        while tcp.write_all(format!("1000\r\n{}\r\n", "a".repeat(4096)).as_bytes()).await.is_ok() {
            written += 4096;
        }
        written
    });
    let exchanged = courier(AMPLE).attempt(&request(port, b"x"), None, Keep::Failures).await;
    let read = exchanged.rest.read().await;
    assert!(read.connection.is_none());
    assert_eq!(read.body.len(), ANSWER_BYTES_KEPT);
    // The connection is closed, or this would never end.
    assert!(ended(server).await >= ANSWER_BYTES_MAX);
}

#[tokio::test]
async fn an_abandoned_request_closes_its_connection_within_a_second_though_the_receiver_does_not_read() {
    let (listener, port) = listen().await;
    let limit = Duration::from_millis(300);
    let payload = vec![b'x'; 16 << 20];
    let courier = courier(limit);
    let exchange = courier.attempt(&request(port, &payload), None, Keep::Nothing).await;
    let Outcome::Failed { reason, .. } = exchange.outcome else { panic!("acknowledged") };
    assert_eq!((reason, exchange.cause.unwrap().text()), (Reason::Timeout, "no answer within 300ms"));
    let (_unread, peer) = listener.accept().await.unwrap();
    assert_eq!(exchange.address.map(|address| address.port()), Some(port));
    assert!(peer.ip().is_loopback());
    courier.drivers.close();
    timeout(2 * Duration::from_secs(1), courier.drivers.wait())
        .await
        .expect("its driver ends, and with it socket and bytes");
}

#[tokio::test]
async fn an_answer_before_the_request_is_read_counts_and_its_connection_is_not_kept() {
    let (listener, port) = listen().await;
    let server = serve(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let (_, echo) = read_head(&mut tcp).await.unwrap();
        tcp.write_all(format!("HTTP/1.1 200 OK\r\n{GOOD}").replace("{echo}", &echo).as_bytes()).await.unwrap();
        tcp
    });
    let courier = courier(Duration::from_secs(1));
    let exchanged = courier.attempt(&request(port, &vec![b'x'; 16 << 20]), None, Keep::Nothing).await;
    assert_eq!(exchanged.outcome, Outcome::Acknowledged);
    assert!(exchanged.rest.read().await.connection.is_none());
    drop(ended(server).await);
}

#[tokio::test]
async fn an_answer_is_looked_for_before_a_reset_is_called_one() {
    for _ in 0..20 {
        let (listener, port) = listen().await;
        let server = serve(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            read_head(&mut tcp).await.unwrap();
            tcp.write_all(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // Closed with unread bytes: the other end gets a reset.
        });
        let exchanged = courier(AMPLE).attempt(&request(port, &vec![b'x'; 4 << 20]), None, Keep::Nothing).await;
        ended(server).await;
        assert_eq!(exchanged.outcome, Outcome::Failed { reason: Reason::Status, status: Some(413), retry_after: None });
    }
}

#[tokio::test]
async fn a_receiver_that_speaks_first_speaks_no_http() {
    let (listener, port) = listen().await;
    let server = serve(async move {
        let mut open = Vec::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            if tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.is_ok() {
                open.push(tcp);
            }
        }
    });
    for _ in 0..20 {
        let exchanged = courier(AMPLE).attempt(&request(port, b"x"), None, Keep::Nothing).await;
        assert_eq!(exchanged.outcome, Outcome::failed(Reason::Protocol), "{:?}", exchanged.cause);
        assert_ne!(exchanged.cause.unwrap().text(), "channel closed");
    }
    drop(server);
}

#[tokio::test]
async fn every_name_of_the_zoo_ends_as_expected_and_one_that_flips_into_a_private_network_is_refused() {
    use crate::net::resolver::Resolver;
    use crate::net::testing::asking_only;
    use crate::net::tls::Tls;
    use crate::net::zoo_names::{Expected, NameServer, zoo_names};

    let (listener, port) = listen().await;
    let receiver = answer_with(listener, &format!("HTTP/1.1 200 OK\r\n{GOOD}"));
    let server = NameServer::of_the_zoo((Ipv4Addr::LOCALHOST, 0).into()).await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    for name in zoo_names() {
        let silent = matches!(name.expected, Expected::Failed { reason: "timeout", .. });
        let connect_timeout = if silent { Duration::from_millis(300) } else { AMPLE };
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let connector = Connector::new(resolver.clone(), policy, Tls::trusting([]), connect_timeout);
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let courier = HttpCourier::new(connector, AMPLE, metrics);
        let attempt = request_to(&format!("http://{}:{port}", name.name), b"x");
        let mut kept = None;
        for expected in [name.expected, name.later] {
            let exchanged = courier.attempt(&attempt, kept.take(), Keep::Nothing).await;
            let cause = exchanged.cause.map(|cause| cause.text().to_owned()).unwrap_or_default();
            match expected {
                Expected::Acknowledged => {
                    assert_eq!(exchanged.outcome, Outcome::Acknowledged, "{}: {cause}", name.name);
                }
                Expected::Failed { reason, cause: wanted } => {
                    let Outcome::Failed { reason: found, .. } = exchanged.outcome else { panic!("{name:?}") };
                    assert!(
                        found.word() == reason && cause.contains(wanted),
                        "it {}: {name:?}: {found:?}: {cause}",
                        name.does
                    );
                }
            }
            kept = exchanged.rest.read().await.connection;
            if name.later != name.expected && expected == name.expected {
                let until = resolver.resolve(name.name).await.unwrap().until;
                tokio::time::sleep_until(until).await;
            }
        }
    }
    assert!(server.questions().iter().all(|(name, _)| name.ends_with(".zoo.test.")));
    drop(receiver);
}

#[tokio::test]
async fn a_stale_connection_costs_no_attempt_and_one_resend_at_most() {
    let (listener, port) = listen().await;
    let server = serve(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let (_, echo) = read_head(&mut tcp).await.unwrap();
        tcp.read_u8().await.unwrap();
        tcp.write_all(format!("HTTP/1.1 200 OK\r\n{GOOD}").replace("{echo}", &echo).as_bytes()).await.unwrap();
        // The second request over it, and the next connection, get no answer.
        read_head(&mut tcp).await.unwrap();
        drop(tcp);
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_head(&mut tcp).await.unwrap();
        drop(tcp);
        listener
    });
    let courier = courier(AMPLE);
    let first = courier.attempt(&request(port, b"x"), None, Keep::Nothing).await;
    let link = first.rest.read().await.connection;
    assert!(link.is_some());
    let second = courier.attempt(&request(port, b"x"), link, Keep::Nothing).await;
    assert_eq!(second.outcome, Outcome::failed(Reason::Reset));
    assert_eq!(courier.metrics.deliver.stale_resends.get(), 1);
    let listener = ended(server).await;
    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err(), "no third request");
}

#[tokio::test]
async fn a_kept_connection_is_used_only_while_its_name_leads_there() {
    use std::collections::HashMap;
    use std::net::IpAddr;

    use crate::net::lookup::{Family, Records};
    use crate::net::resolver::Resolver;
    use crate::net::tls::Tls;

    let (old, port) = listen().await;
    let new = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).await.unwrap();
    let here: IpAddr = old.local_addr().unwrap().ip();
    let there: IpAddr = new.local_addr().unwrap().ip();
    let servers = [old, new].map(|listener| answer_with(listener, &format!("HTTP/1.1 200 OK\r\n{GOOD}")));
    let (moves, at) = tokio::sync::watch::channel(HashMap::from([(Family::V4, here)]));
    let resolver = Resolver::with(Box::new(move |_, family| {
        let addresses = at.borrow().get(&family).copied().into_iter().collect();
        // The shortest time there is: a second.
        Box::pin(std::future::ready(Ok(Records { addresses, ttl: Duration::ZERO })))
    }));
    let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let connector = Connector::new(resolver, policy, Tls::trusting([]), AMPLE);
    let courier = HttpCourier::new(connector, AMPLE, Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap())));
    let request = request_to(&format!("http://hook.test:{port}"), b"x");
    let mut kept = None;
    for (moved, led_to, opened) in [(here, here, 1), (here, here, 1), (there, there, 2)] {
        moves.send_replace(HashMap::from([(Family::V4, moved)]));
        let exchanged = courier.attempt(&request, kept.take(), Keep::Nothing).await;
        assert_eq!((exchanged.outcome, exchanged.address.unwrap().ip()), (Outcome::Acknowledged, led_to));
        assert_eq!(courier.metrics.deliver.connections_opened.get(), opened);
        kept = exchanged.rest.read().await.connection;
        let until = kept.as_ref().unwrap().checked_until;
        tokio::time::sleep_until(until).await;
    }
    drop(servers);
}
