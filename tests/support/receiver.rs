//! An endpoint that records every request and answers by a script, well or as badly as receivers do.
//!
//! It speaks HTTP/1.1 by hand, so that it can break every rule, on a thread of its own, so that a test may block.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::port::Port;
use super::wait::wait_until;

/// The header whose value must come back.
pub const ECHO: &str = "x-xcom-integration-echo";

/// How many lines or answers that never end are sent by one write.
const AT_ONCE: usize = 1_000;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its number among all requests, from 0.
    pub number: usize,
    /// The number of its connection among all connections, from 0.
    pub connection: usize,
    /// How many requests are under way with it, itself among them.
    pub under_way: usize,
    /// Method, such as `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// When its last byte had come.
    pub arrived: Instant,
    /// The same in milliseconds since 1970.
    pub arrived_ms: i64,
}

impl Recorded {
    /// The first value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The header `webhook-id`.
    pub fn delivery_id(&self) -> &str {
        self.header("webhook-id").expect("the request has a webhook-id")
    }

    /// The header `x-xcom-delivery-attempt`.
    pub fn attempt(&self) -> u32 {
        let attempt = self.header("x-xcom-delivery-attempt").expect("the request has an attempt number");
        attempt.parse().unwrap_or_else(|error| panic!("attempt number {attempt:?}: {error}"))
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("request {}: {error}", self.number))
    }
}

/// How the echo token is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// It comes back as it was.
    Right,
    /// It does not come back.
    Missing,
    /// Another comes back.
    Wrong,
    /// It comes back in two headers.
    Twice,
}

/// An action of an endpoint instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Closes the connection without a byte.
    Close,
    /// Resets the connection without a byte.
    Reset,
    /// Sends what it has to send, then resets the connection.
    ResetAfter,
    /// Says nothing and keeps the connection open.
    Hang,
    /// Sends a good answer's head a byte at a time, with this pause.
    DripHead(Duration),
    /// Sends headers that never end.
    EndlessHeaders,
    /// Sends interim answers (103) that never end.
    EndlessInterim,
    /// Sends a good head, then a body that never ends.
    EndlessBody,
    /// Sends a good head, then none of the body it announced.
    StalledBody,
    /// Sends text that is not HTTP.
    Garbage,
    /// Answers as it should, then closes the connection without an announcement.
    CloseAfter,
}

/// The answer of an endpoint.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// How the echo token is answered.
    pub echo: Echo,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How long it takes.
    pub delay: Duration,
    /// It waits, after the delay, until the test cancels this.
    pub gate: Option<CancellationToken>,
    /// Its action instead, after the delay.
    pub misbehaviour: Option<Misbehaviour>,
    /// Whether it closes the connection after this answer.
    pub close: bool,
    /// The exact bytes that it sends instead of all of the above; `{echo}` in them is the request's token.
    pub text: Option<Bytes>,
}

impl Answer {
    /// Status 200 and the right echo: the one answer that acknowledges.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// The right echo with this status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            echo: Echo::Right,
            headers: Vec::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            gate: None,
            misbehaviour: None,
            close: false,
            text: None,
        }
    }

    /// Exactly these bytes, with `{echo}` replaced by the request's token.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { text: Some(text.into()), ..Self::ok() }
    }

    /// Status 200 and this echo.
    pub fn echo(echo: Echo) -> Self {
        Self { echo, ..Self::ok() }
    }

    /// The same answer, and then or meanwhile this.
    #[must_use]
    pub fn but(mut self, misbehaviour: Misbehaviour) -> Self {
        self.misbehaviour = Some(misbehaviour);
        self
    }

    /// The same answer, after which the connection is closed.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// No answer but this.
    pub fn misbehave(misbehaviour: Misbehaviour) -> Self {
        Self { misbehaviour: Some(misbehaviour), ..Self::ok() }
    }

    /// The same answer, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same answer, when the test cancels `gate`: until then the request is under way, however slow the machine is.
    #[must_use]
    pub fn once(mut self, gate: &CancellationToken) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same answer with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes of the head, and of the body where it has an end.
    fn bytes(&self, request: &Recorded) -> Vec<u8> {
        let token = request.header(ECHO).unwrap_or_default();
        if let Some(text) = &self.text {
            return replaced(text, token);
        }
        let echoes: &[&str] = match self.echo {
            Echo::Right => &[token],
            Echo::Missing => &[],
            Echo::Wrong => &["not-the-token"],
            Echo::Twice => &[token, token],
        };
        let mut lines = vec![format!("HTTP/1.1 {} Scripted", self.status)];
        lines.extend(echoes.iter().map(|echo| format!("X-XCOM-Integration-Echo: {echo}")));
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.extend(self.close.then(|| "connection: close".to_owned()));
        lines.push(match self.misbehaviour {
            Some(Misbehaviour::EndlessBody) => "transfer-encoding: chunked".to_owned(),
            Some(Misbehaviour::StalledBody) => "content-length: 1000".to_owned(),
            _ => format!("content-length: {}", self.body.len()),
        });
        let head = lines.join("\r\n") + "\r\n\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// `text` with the token in the place of every `{echo}`.
fn replaced(text: &[u8], token: &str) -> Vec<u8> {
    const PLACE: &[u8] = b"{echo}";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(PLACE.len()).position(|window| window == PLACE) {
        bytes.extend_from_slice(&rest[..at]);
        bytes.extend_from_slice(token.as_bytes());
        rest = &rest[at + PLACE.len()..];
    }
    bytes.extend_from_slice(rest);
    bytes
}

type Script = Arc<dyn Fn(&Recorded) -> Answer + Send + Sync>;

struct Shared {
    script: RwLock<Script>,
    recorded: Mutex<Vec<Recorded>>,
    /// Whether requests are kept once they are answered.
    keeps: bool,
    requests: AtomicUsize,
    connections: AtomicUsize,
    open_connections: AtomicUsize,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    /// Microseconds from requests to their answers, of all together.
    busy_us: AtomicU64,
}

/// A running endpoint; dropping it ends its listener and all its connections.
pub struct Receiver {
    port: Port,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens on a port of its own and answers with the result of `script`.
    pub fn start(script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(&Port::hold(), true, script)
    }

    /// The same on a port that the test holds, as one that comes back does.
    pub fn start_on(port: &Port, script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(port, true, script)
    }

    /// One that keeps no request, for millions of them: [`Receiver::recorded`] stays empty.
    pub fn forgetful(script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(&Port::hold(), false, script)
    }

    fn serve(port: &Port, keeps: bool, script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        let (port, listener) = (port.share(), port.listen());
        listener.set_nonblocking(true).expect("a socket that does not block");
        let shared = Arc::new(Shared {
            script: RwLock::new(Arc::new(script)),
            recorded: Mutex::default(),
            keeps,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open_connections: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            under_way_max: AtomicUsize::new(0),
            busy_us: AtomicU64::new(0),
        });
        let stop = CancellationToken::new();
        let thread = std::thread::spawn({
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(accept(listener, &shared, &stop));
                // Dropping the runtime drops every connection.
            }
        });
        Self { port, shared, stop, thread: Some(thread) }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Ends it. Its port stays the test's and refuses connections, until another receiver is started on it.
    pub fn into_port(self) -> Port {
        self.port.share()
    }

    /// The URL of a path on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Answers with the results of another script from now on.
    pub fn answer_with(&self, script: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) {
        *self.shared.script.write() = Arc::new(script);
    }

    /// Every request so far, in the order they came.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().clone()
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The most requests that were under way at once.
    pub fn under_way_max(&self) -> usize {
        self.shared.under_way_max.load(Ordering::Relaxed)
    }

    /// The time from each request that was answered to its answer, of all together: what the receiver itself took.
    pub fn busy(&self) -> Duration {
        Duration::from_micros(self.shared.busy_us.load(Ordering::Relaxed))
    }

    /// How many connections were ever made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open_connections.load(Ordering::Relaxed)
    }

    /// Waits until at least `count` requests have come, and gives them.
    pub async fn wait_for(&self, count: usize, patience: Duration) -> Vec<Recorded> {
        let what = format!("{count} requests at {}", self.address());
        wait_until(&what, patience, async || if self.count() >= count { Ok(()) } else { Err(self.count()) }).await;
        self.recorded()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the receiver's thread panicked");
        }
    }
}

async fn accept(listener: StdListener, shared: &Arc<Shared>, stop: &CancellationToken) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("accepting on loopback");
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                shared.open_connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(shared);
                connections.spawn(async move {
                    serve(stream, number, &shared).await;
                    shared.open_connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(ended) = connections.join_next() => ended.expect("serving a connection does not panic"),
        }
    }
}

/// Serves one connection until either side closes it.
async fn serve(mut stream: TcpStream, connection: usize, shared: &Shared) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = BytesMut::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, connection, shared).await {
        let script = Arc::clone(&shared.script.read());
        let answer = script(&request);
        let goes_on = reply(&mut stream, &request, &answer).await;
        let busy_us = u64::try_from(request.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.busy_us.fetch_add(busy_us, Ordering::Relaxed);
        shared.under_way.fetch_sub(1, Ordering::Relaxed);
        if !goes_on || answer.close {
            return;
        }
    }
}

/// The next request of a connection; `None` when the peer has closed it.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    connection: usize,
    shared: &Shared,
) -> Option<Recorded> {
    let head_bytes = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.split_to(head_bytes).to_vec()).expect("a head of text");
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let length: usize = length.parse().unwrap_or_else(|error| panic!("content-length {length:?}: {error}"));
    while buffer.len() < length {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = buffer.split_to(length).freeze();
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let arrived_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    let under_way = shared.under_way.fetch_add(1, Ordering::Relaxed) + 1;
    shared.under_way_max.fetch_max(under_way, Ordering::Relaxed);
    let mut recorded = shared.recorded.lock();
    let (number, arrived) = (shared.requests.fetch_add(1, Ordering::Relaxed), Instant::now());
    let request = Recorded { number, connection, under_way, method, path, headers, body, arrived, arrived_ms };
    if shared.keeps {
        recorded.push(request.clone());
    }
    Some(request)
}

/// Answers; whether the connection can take another request.
async fn reply(stream: &mut TcpStream, request: &Recorded, answer: &Answer) -> bool {
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    if let Some(gate) = &answer.gate {
        gate.cancelled().await;
    }
    match answer.misbehaviour {
        None => stream.write_all(&answer.bytes(request)).await.is_ok(),
        Some(Misbehaviour::Close) => false,
        Some(Misbehaviour::Reset) => reset(stream),
        Some(Misbehaviour::ResetAfter) => {
            // Whether it could be written or not, the connection ends.
            let _written = stream.write_all(&answer.bytes(request)).await;
            reset(stream)
        }
        Some(Misbehaviour::Hang) => until_closed(stream).await,
        Some(Misbehaviour::DripHead(pause)) => {
            for byte in answer.bytes(request) {
                tokio::time::sleep(pause).await;
                if stream.write_all(&[byte]).await.is_err() {
                    return false;
                }
            }
            true
        }
        Some(Misbehaviour::EndlessHeaders) => {
            let begun = stream.write_all(b"HTTP/1.1 200 OK\r\n").await.is_ok();
            // Many at once: any bound is reached at once too, also on a busy machine.
            let lines = b"x-more: and-more-and-more-and-more\r\n".repeat(AT_ONCE);
            while begun && stream.write_all(&lines).await.is_ok() {}
            false
        }
        Some(Misbehaviour::EndlessInterim) => {
            let answers = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(AT_ONCE);
            while stream.write_all(&answers).await.is_ok() {}
            false
        }
        Some(Misbehaviour::EndlessBody) => {
            let begun = stream.write_all(&answer.bytes(request)).await.is_ok();
            let chunk = [b"1000\r\n".as_slice(), &[b'a'; 0x1000], b"\r\n"].concat();
            while begun && stream.write_all(&chunk).await.is_ok() {}
            false
        }
        Some(Misbehaviour::StalledBody) => {
            if stream.write_all(&answer.bytes(request)).await.is_ok() {
                until_closed(stream).await;
            }
            false
        }
        Some(Misbehaviour::CloseAfter) => {
            // Whether it could be written or not, the connection ends.
            let _written = stream.write_all(&answer.bytes(request)).await;
            false
        }
        Some(Misbehaviour::Garbage) => {
            if stream.write_all(b"this is no HTTP at all\r\n\r\n").await.is_ok() {
                until_closed(stream).await;
            }
            false
        }
    }
}

/// Makes closing a reset, by a linger time of zero. The connection can't go on.
fn reset(stream: &TcpStream) -> bool {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a linger time");
    false
}

/// Reads and forgets until the peer closes.
async fn until_closed(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.unwrap_or(0) > 0 {}
    false
}
