//! Receivers that misbehave before they have read a request, so each has a port of its own.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::names::Expected::{self, Acknowledged};
use super::names::failed;
use super::{Animal, Housed};
use crate::support::port::Port;

const LATE: Expected = failed("timeout", "no answer within");

/// A free port of loopback whose queue takes `waiting` connections.
pub(super) fn listen(waiting: i32) -> StdListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(waiting).expect("a listener");
    socket.into()
}

/// Starts all of them.
pub(super) fn start(serving: &mut JoinSet<()>) -> Vec<Animal> {
    vec![
        not_listening(serving),
        keep(serving, Housed::new("never-accepts", "listens, and takes no connection", LATE, listen(1024)), Vec::new()),
        full_queue(serving),
        every(
            serving,
            "reset-at-once",
            "resets each connection when a request comes, and reads none of it",
            failed("reset", "Connection reset by peer"),
            async |tcp| {
                if tcp.peek(&mut [0]).await.is_ok() {
                    reset(&tcp);
                }
            },
        ),
        every(
            serving,
            "reset-in-request",
            "resets the connection within the request's head",
            failed("reset", "Connection reset by peer"),
            async |mut tcp| {
                if tcp.read_u8().await.is_ok() {
                    reset(&tcp);
                }
            },
        ),
        every(
            serving,
            "half-closed",
            "ends its side of the connection at once and reads on",
            failed("reset", "closed"),
            async |mut tcp| {
                if tcp.shutdown().await.is_ok() {
                    read_on(&mut tcp).await;
                }
            },
        ),
        every(serving, "stops-reading", "takes the connection and never reads", LATE, async |tcp| {
            SockRef::from(&tcp).set_recv_buffer_size(1).expect("a small buffer");
            std::future::pending::<()>().await;
        }),
        half_open(serving),
        every(serving, "speaks-first", "greets as another protocol does", failed("protocol", ""), async |mut tcp| {
            if tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.is_ok() {
                read_on(&mut tcp).await;
            }
        }),
        every(serving, "early-answer", "answers before it has read the body", Acknowledged, async |mut tcp| {
            while let Some(head) = read_head(&mut tcp).await {
                if answer(&mut tcp, &head).await.is_none() || skip(&mut tcp, head.length).await.is_none() {
                    return;
                }
            }
        }),
    ]
}

/// A connection that is open for the sender alone, as after a firewall or a machine has forgotten it and sent nothing.
fn half_open(serving: &mut JoinSet<()>) -> Animal {
    let does = "answers the first request of a connection, then forgets the connection without closing it";
    let animal = every(serving, "half-open", does, Acknowledged, async |mut tcp| {
        if let Some(head) = read_head(&mut tcp).await
            && skip(&mut tcp, head.length).await.is_some()
            && answer(&mut tcp, &head).await.is_some()
        {
            std::future::pending::<()>().await;
        }
    });
    Animal { again: Some(LATE), ..animal }
}

/// The head of a request.
pub(super) struct Head {
    echo: String,
    length: usize,
}

/// The next head of a connection; nothing once the peer has closed it.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Head> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8_lossy(&bytes);
    let value = |wanted: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    Some(Head { echo: value("x-xcom-integration-echo").unwrap_or_default(), length })
}

/// Acknowledges.
pub(super) async fn answer(stream: &mut (impl AsyncWrite + Unpin), head: &Head) -> Option<()> {
    let text = format!("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {}\r\ncontent-length: 0\r\n\r\n", head.echo);
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

/// Reads a body and forgets it.
pub(super) async fn skip(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Option<()> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok().map(drop)
}

/// Acknowledges every request of a connection.
pub(super) async fn serve_well(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(head) = read_head(&mut stream).await {
        if skip(&mut stream, head.length).await.is_none() || answer(&mut stream, &head).await.is_none() {
            return;
        }
    }
}

/// Closes by a reset: a linger time of zero.
pub(super) fn reset(tcp: &TcpStream) {
    SockRef::from(tcp).set_linger(Some(Duration::ZERO)).expect("a linger time");
}

async fn read_on(tcp: &mut TcpStream) {
    let mut bytes = [0; 1024];
    while tcp.read(&mut bytes).await.unwrap_or(0) > 0 {}
}

/// One that does `what` with each connection.
fn every<F>(
    serving: &mut JoinSet<()>,
    name: &'static str,
    does: &'static str,
    expected: Expected,
    what: impl Fn(TcpStream) -> F + Send + 'static,
) -> Animal
where
    F: Future<Output = ()> + Send + 'static,
{
    let housed = Housed::new(name, does, expected, listen(1024));
    let animal = housed.animal();
    accept(serving, housed, what);
    animal
}

/// Takes connections for ever, each in a task of its own.
pub(super) fn accept<F>(serving: &mut JoinSet<()>, housed: Housed, what: impl Fn(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(housed.listener).expect("a listener");
    serving.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Ok((tcp, _)) = listener.accept() => drop(open.spawn(what(tcp))),
                Some(ended) = open.join_next() => ended.expect("a receiver of the zoo does not panic"),
            }
        }
    });
}

/// Holds a listener, and what fills its queue, until the zoo ends.
fn keep(serving: &mut JoinSet<()>, housed: Housed, fill: Vec<Socket>) -> Animal {
    let animal = housed.animal();
    serving.spawn(async move {
        let _held = (housed, fill);
        std::future::pending::<()>().await;
    });
    animal
}

/// The system leaves connections beyond a full queue without an answer.
fn full_queue(serving: &mut JoinSet<()>) -> Animal {
    let late = failed("timeout", "TCP took longer than");
    let housed = Housed::new("full-queue", "leaves connections without an answer, as a firewall does", late, listen(0));
    let address = housed.listener.local_addr().expect("a listener has an address");
    let fill = (0..8).map(|_| {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_nonblocking(true).expect("a socket that does not block");
        // Under way, or never: both fill the queue.
        assert!(client.connect(&address.into()).is_err());
        client
    });
    let fill = fill.collect();
    keep(serving, housed, fill)
}

/// Its port is held and nothing listens on it.
fn not_listening(serving: &mut JoinSet<()>) -> Animal {
    let (name, port) = ("not-listening", Port::hold());
    let expected = failed("connect", "Connection refused");
    let url = format!("http://{}/{name}", port.address());
    serving.spawn(async move {
        let _held = port;
        std::future::pending::<()>().await;
    });
    Animal { name, does: "has nothing on its port", expected, again: None, url }
}
