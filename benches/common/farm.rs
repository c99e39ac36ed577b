//! Many receivers on loopback addresses of their own: each a host to the worker. They echo; some hang.
//!
//! They speak just enough HTTP/1.1 for what the worker sends, because they share the machine with it.
#![expect(clippy::string_slice, reason = "heads of requests are ASCII")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How receivers behave.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    /// From the request's last byte to the answer.
    pub(crate) latency: Duration,
    /// Receivers from this one on never answer.
    pub(crate) hang_from: usize,
    /// Requests that one receiver works on at a time; what comes beyond is answered 503 at once.
    pub(crate) takes: usize,
}

impl Behaviour {
    /// Echoes after `latency`.
    pub(crate) fn good(latency: Duration) -> Self {
        Self { latency, hang_from: usize::MAX, takes: usize::MAX }
    }
}

/// A request as a receiver saw it.
#[derive(Clone)]
pub(crate) struct Seen {
    /// Its `webhook-id`.
    pub(crate) delivery_id: String,
    /// The event's field `offset`: when the benchmark made it, where it says so.
    pub(crate) sent_ns: Option<u64>,
    /// When its last byte had come.
    pub(crate) arrived_ns: u64,
}

/// ns since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before the year 2554")
}

/// Running receivers, ended when dropped.
pub(crate) struct Farm {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Farm {
    /// Starts receivers `first..first + count` on a thread of their own. They remember requests if `remember`.
    pub(crate) fn start(first: usize, count: usize, behaviour: Behaviour, remember: bool) -> Self {
        let (stop, seen) = (CancellationToken::new(), Arc::<Mutex<Vec<Seen>>>::default());
        let (listening, started) = std::sync::mpsc::sync_channel(1);
        let stopped = stop.clone();
        let memory = remember.then(|| Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (port, listeners) = listen(first, count).await;
                listening.send(port).expect("the caller waits");
                let mut receivers = JoinSet::new();
                for (number, listener) in listeners.into_iter().enumerate() {
                    let hangs = number >= behaviour.hang_from;
                    receivers.spawn(accept(listener, behaviour, hangs, memory.clone()));
                }
                stopped.cancelled().await;
            });
        });
        let port = started.recv().expect("the receivers listen");
        Self { port, seen, stop, thread: Some(thread) }
    }

    /// Host and port of receiver `number`.
    pub(crate) fn address(&self, number: usize) -> String {
        address(number, self.port)
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the receivers do not panic");
        }
    }
}

/// Host and port of receiver `number`: 127.1.0.0 and up.
pub(crate) fn address(number: usize, port: u16) -> String {
    SocketAddrV4::new(ip(number), port).to_string()
}

pub(crate) fn ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + u32::try_from(number).expect("an address"))
}

/// All of them on one port that is free on each address.
async fn listen(first: usize, count: usize) -> (u16, Vec<TcpListener>) {
    'ports: for _ in 0..100 {
        let port = rand::random_range(15_000..32_000);
        let mut listeners = Vec::with_capacity(count);
        for number in first..first + count {
            match TcpListener::bind(SocketAddrV4::new(ip(number), port)).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue 'ports,
                Err(error) => panic!("receiver {number}: {error}"),
            }
        }
        return (port, listeners);
    }
    panic!("no port is free on {count} loopback addresses")
}

type Memory = Option<Arc<Mutex<Vec<Seen>>>>;

async fn accept(listener: TcpListener, behaviour: Behaviour, hangs: bool, memory: Memory) {
    let at_work = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a connection");
                connections.spawn(serve(stream, behaviour, Arc::clone(&at_work), hangs, memory.clone()));
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => ended.expect("a connection does not panic"),
        }
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, at_work: Arc<AtomicUsize>, hangs: bool, memory: Memory) {
    stream.set_nodelay(true).expect("no delay");
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let Some((head, whole)) = request(&mut stream, &mut buffer).await else { return };
        let text = String::from_utf8_lossy(&buffer[..whole]).into_owned();
        if let Some(memory) = &memory {
            let sent_ns =
                text[head..].split_once(r#""offset":""#).and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
            let delivery_id = header(&text[..head], "webhook-id").to_owned();
            let seen = Seen { delivery_id, sent_ns, arrived_ns: now_ns() };
            memory.lock().push(seen);
        }
        if hangs {
            std::future::pending::<()>().await;
        }
        let status = if at_work.fetch_add(1, Ordering::Relaxed) < behaviour.takes { "200 OK" } else { "503 Busy" };
        if status == "200 OK" && !behaviour.latency.is_zero() {
            tokio::time::sleep(behaviour.latency).await;
        }
        at_work.fetch_sub(1, Ordering::Relaxed);
        let token = header(&text[..head], "x-xcom-integration-echo");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nX-XCOM-Integration-Echo: {token}\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        buffer.drain(..whole);
    }
}

/// Reads until one request is whole: the lengths of its head, and of all of it.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(usize, usize)> {
    loop {
        if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..head]);
            let body: usize = header(&text, "content-length").parse().ok()?;
            let whole = head + 4 + body;
            if buffer.len() >= whole {
                return Some((head + 4, whole));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The value of a header; its name in lower case, as the worker writes them.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.split("\r\n");
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}
