//! The reference receiver: what a well-behaved integration's endpoint does, and on request an ill-behaved one.
//!
//! Verifies Standard Webhooks signatures, echoes the token, counts. The demo and the tests deliver to it too, so it speaks
//! HTTP/1.1 and HTTP/2 without TLS, and can listen on any free port.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::receiver_log::{Lines, Output};
use crate::clock;
use crate::domain::hash::hash_bytes;
use crate::domain::signature::{BadSecret, Signer, SigningKey};
use crate::net::server::{Incoming, Limits, WhenFull, serve};
use crate::settings::Receiver as Options;

const ECHO: HeaderName = HeaderName::from_static("x-xcom-integration-echo");
const ATTEMPT: &str = "x-xcom-delivery-attempt";

/// Twice the largest event that Kafka takes by default.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// More than one worker opens by default.
const CONNECTIONS_MAX: usize = 4096;
/// How long a client may take for its headers, and for its body.
const PATIENCE: Duration = Duration::from_mins(1);
/// How far a signature's timestamp may be from now, as Standard Webhooks recommends: older ones may be replays.
const TOLERANCE_SECONDS: u64 = 300;
/// How long requests under way may take to end once the receiver stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Ids remembered in each of two generations, to tell duplicates.
const IDS_MAX: usize = 65_536;
/// How long the last lines may take to be printed.
const PRINT_PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no receiver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiverError {
    /// The secret can't be one.
    #[error("--secret cannot be used")]
    Secret(#[from] BadSecret),
    /// Nothing can listen there.
    #[error("--listen {address}: cannot listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// What was received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// POSTs.
    pub(crate) received: u64,
    /// Answered with 200 and the echo.
    pub(crate) acknowledged: u64,
    /// All others.
    pub(crate) failed: u64,
    /// Of the acknowledged: those whose `webhook-id` had been acknowledged before.
    pub(crate) duplicates: u64,
    /// Of the failed: those with a secret given and no valid signature.
    pub(crate) invalid_signatures: u64,
}

/// Reads the counts, also while the receiver runs and after it ended.
#[derive(Clone)]
pub(crate) struct Counters(Arc<State>);

impl Counters {
    /// The counts now.
    pub(crate) fn summary(&self) -> Summary {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.0.counts;
        Summary {
            received: of(&counts.received),
            acknowledged: of(&counts.acknowledged),
            failed: of(&counts.failed),
            duplicates: of(&counts.duplicates),
            invalid_signatures: of(&counts.invalid_signatures),
        }
    }
}

/// A receiver that listens, and will serve once it runs.
pub(crate) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    options: Options,
    signer: Option<Signer>,
    counts: Counts,
    ids: Mutex<Ids>,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    duplicates: AtomicU64,
    invalid_signatures: AtomicU64,
}

/// Hashes of the ids acknowledged last.
#[derive(Default)]
struct Ids {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// What is answered to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Acknowledged,
    WithoutEcho(&'static str),
    Failed(StatusCode),
    InvalidSignature(&'static str),
    BadBody(StatusCode),
}

/// Listens and serves until `stop`, and prints what it receives.
///
/// # Errors
/// [`ReceiverError`] when it can't begin.
pub(crate) async fn run(options: Options, stop: CancellationToken) -> Result<Summary, ReceiverError> {
    let receiver = Receiver::bind(options).await?;
    tracing::info!(address = %receiver.address(), verifies = receiver.state.signer.is_some(), "receiver listening");
    Ok(receiver.run(Output::Stdout, stop).await)
}

impl Receiver {
    /// Listens.
    ///
    /// # Errors
    /// [`ReceiverError`] for a secret that is not valid, and an address that cannot be listened on.
    pub(crate) async fn bind(options: Options) -> Result<Self, ReceiverError> {
        let signer = match &options.secret {
            None => None,
            Some(secret) => Some(Signer::new(vec![SigningKey::parse(secret, None)?])),
        };
        let failed = |source| ReceiverError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State { options, signer, counts: Counts::default(), ids: Mutex::default() });
        Ok(Self { listener, address, state })
    }

    /// The address listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counts, to be read from elsewhere.
    pub(crate) fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.state))
    }

    /// Serves until `stop`, then lets what is under way end for a short while.
    pub(crate) async fn run(self, output: Output, stop: CancellationToken) -> Summary {
        let counters = self.counters();
        let (lines, printer) = Lines::new(output);
        let mut printing = JoinSet::new();
        printing.spawn(printer);
        let drain = DRAIN + self.state.options.latency;
        let limits = Limits { connections_max: CONNECTIONS_MAX, when_full: WhenFull::Wait, patience: PATIENCE, drain };
        let service = Arc::new(Service { state: self.state, lines });
        serve(self.listener, limits, stop, move |request| Arc::clone(&service).answer(request)).await;
        // The service is gone with the last connection, and with it the end of the lines that the printer waits for.
        if timeout(PRINT_PATIENCE, printing.join_next()).await.is_err() {
            tracing::warn!("the last lines are not printed: standard output is not read");
        }
        counters.summary()
    }
}

struct Service {
    state: Arc<State>,
    lines: Lines,
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, _) => self.delivery(request).await,
            (&Method::GET, "/") => self.counts(),
            _ => {
                let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET"));
                answer
            }
        }
    }

    fn counts(&self) -> Response<Full<Bytes>> {
        let summary = Counters(Arc::clone(&self.state)).summary();
        let json = serde_json::to_vec(&summary).expect("numbers are always JSON");
        let mut answer = Response::new(Full::new(json.into()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    async fn delivery(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let announced = text(&head.headers, "content-length").parse().unwrap_or(0);
        let (verdict, bytes) = match read(body, announced).await {
            Ok(body) => (self.state.judge(&head.headers, &body), body.len()),
            Err(status) => (Verdict::BadBody(status), announced),
        };
        if !self.state.options.latency.is_zero() {
            sleep(self.state.options.latency).await;
        }
        let id = text(&head.headers, "webhook-id");
        let is_duplicate = self.state.count(&verdict, id);
        self.tell(&head.headers, bytes, &verdict, is_duplicate);
        response(&verdict, &head.headers, self.state.options.no_echo)
    }

    fn tell(&self, headers: &HeaderMap, bytes: usize, verdict: &Verdict, is_duplicate: bool) {
        let (id, attempt) = (text(headers, "webhook-id"), text(headers, ATTEMPT));
        if let Verdict::InvalidSignature(why) = verdict {
            tracing::warn!(delivery_id = id, attempt, reason = why, "signature refused");
        }
        let again = if is_duplicate { ", a duplicate" } else { "" };
        let said = match verdict {
            Verdict::Acknowledged => format!("acknowledged{again}"),
            Verdict::WithoutEcho(why) => format!("200 without echo: {why}"),
            Verdict::Failed(status) => format!("failed with {}", status.as_u16()),
            Verdict::InvalidSignature(why) => format!("refused with 401: {why}"),
            Verdict::BadBody(status) => format!("refused with {}: no whole body", status.as_u16()),
        };
        let text = format!("{id:<36}  attempt {attempt:<2}  {bytes:>7} B  {said}");
        self.lines.add(text, *verdict == Verdict::Acknowledged);
    }
}

async fn read(body: Incoming, announced: usize) -> Result<Bytes, StatusCode> {
    if announced > BODY_BYTES_MAX {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match timeout(PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_elapsed) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

impl State {
    fn judge(&self, headers: &HeaderMap, body: &[u8]) -> Verdict {
        if let Some(signer) = &self.signer
            && let Err(why) = verify(signer, headers, body)
        {
            return Verdict::InvalidSignature(why);
        }
        let Options { fail_rate, status, no_echo, .. } = self.options;
        let chosen =
            status.and_then(|status| StatusCode::from_u16(status).ok()).filter(|status| *status != StatusCode::OK);
        // A status alone is for every request; with a share it is what that share gets.
        let fails = if fail_rate > 0.0 { rand::random::<f64>() < fail_rate } else { chosen.is_some() };
        if fails {
            return Verdict::Failed(chosen.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        }
        if no_echo {
            Verdict::WithoutEcho("told to leave it out")
        } else if headers.contains_key(&ECHO) {
            Verdict::Acknowledged
        } else {
            Verdict::WithoutEcho("the request has no token")
        }
    }

    /// Counts a delivery, and says whether it was acknowledged for the second time.
    fn count(&self, verdict: &Verdict, id: &str) -> bool {
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        add(&self.counts.received);
        match verdict {
            Verdict::Acknowledged => {
                add(&self.counts.acknowledged);
                let is_duplicate = self.ids.lock().is_known(id);
                if is_duplicate {
                    add(&self.counts.duplicates);
                }
                return is_duplicate;
            }
            Verdict::InvalidSignature(_) => {
                add(&self.counts.invalid_signatures);
                add(&self.counts.failed);
            }
            Verdict::WithoutEcho(_) | Verdict::Failed(_) | Verdict::BadBody(_) => {
                add(&self.counts.failed);
            }
        }
        false
    }
}

impl Ids {
    /// Whether `id` was seen before, and remembers it. No id at all is never known.
    fn is_known(&mut self, id: &str) -> bool {
        let hash = hash_bytes(id.as_bytes());
        if id.is_empty() {
            return false;
        }
        if self.young.contains(&hash) {
            return true;
        }
        if self.young.len() >= IDS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
        self.old.contains(&hash)
    }
}

fn verify(signer: &Signer, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| text(headers, name));
    if id.is_empty() || timestamp.is_empty() || signature.is_empty() {
        return Err("webhook-id, webhook-timestamp or webhook-signature is missing");
    }
    let timestamp: i64 = timestamp.parse().map_err(|_no_number| "webhook-timestamp is no number")?;
    if timestamp.abs_diff(clock::now_ms() / 1000) > TOLERANCE_SECONDS {
        return Err("webhook-timestamp is more than five minutes from now");
    }
    if signer.verify(id, timestamp, body, signature) {
        Ok(())
    } else {
        Err("the signature is not of this secret and body")
    }
}

/// A header as text; empty if it is missing or none.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn response(verdict: &Verdict, request: &HeaderMap, no_echo: bool) -> Response<Full<Bytes>> {
    let status = match verdict {
        Verdict::Acknowledged | Verdict::WithoutEcho(_) => StatusCode::OK,
        Verdict::Failed(status) | Verdict::BadBody(status) => *status,
        Verdict::InvalidSignature(_) => StatusCode::UNAUTHORIZED,
    };
    let mut answer = empty(status);
    if let Some(token) = request.get(&ECHO).filter(|_| !no_echo) {
        answer.headers_mut().insert(ECHO, token.clone());
    }
    answer
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;
    use crate::telemetry::chain::chain;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn options() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            fail_rate: 0.0,
            latency: Duration::ZERO,
            status: None,
            no_echo: false,
            secret: None,
        }
    }

    /// A receiver that runs, and a client for it.
    struct Running {
        url: String,
        address: SocketAddr,
        counters: Counters,
        stop: CancellationToken,
        tasks: JoinSet<Summary>,
        client: Client<HttpConnector, Full<Bytes>>,
    }

    async fn start(options: Options) -> Running {
        let receiver = Receiver::bind(options).await.unwrap();
        let (address, counters, stop) = (receiver.address(), receiver.counters(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(receiver.run(Output::Silent, stop.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Running { url: format!("http://{address}/any/path?x"), address, counters, stop, tasks, client }
    }

    impl Running {
        async fn send(&self, headers: &[(&str, &str)], body: &[u8]) -> Response<Incoming> {
            let mut request = Request::post(&self.url).header("x-xcom-integration-echo", "token-1");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let body = Full::new(Bytes::copy_from_slice(body));
            self.client.request(request.body(body).unwrap()).await.unwrap()
        }

        /// Sends one signed delivery, its timestamp this many seconds from now.
        async fn send_signed(&self, secret: &str, seconds: i64, body: &[u8], sent: &[u8]) -> StatusCode {
            let timestamp = clock::now_ms() / 1000 + seconds;
            let mut signature = String::new();
            Signer::new(vec![SigningKey::parse(secret, None).unwrap()]).sign("id-1", timestamp, body, &mut signature);
            let timestamp = timestamp.to_string();
            let headers =
                [("webhook-id", "id-1"), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)];
            self.send(&headers, sent).await.status()
        }

        async fn stopped(mut self) -> Summary {
            self.stop.cancel();
            self.tasks.join_next().await.unwrap().unwrap()
        }
    }

    #[track_caller]
    fn check(answer: &Response<Incoming>, status: u16, echo: Option<&str>) {
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().get(&ECHO).map(|echo| echo.to_str().unwrap()), echo);
    }

    #[tokio::test]
    async fn deliveries_are_acknowledged_and_duplicates_counted() {
        let running = start(options()).await;
        for id in ["a", "b", "a"] {
            check(&running.send(&[("webhook-id", id)], b"{}").await, 200, Some("token-1"));
        }
        check(&running.send(&[], b"{}").await, 200, Some("token-1"));
        check(&running.send(&[], b"{}").await, 200, Some("token-1"));
        let summary = running.stopped().await;
        assert_eq!(summary, Summary { received: 5, acknowledged: 5, duplicates: 1, ..Summary::default() });
    }

    #[tokio::test]
    async fn the_counts_are_served_as_json() {
        let running = start(options()).await;
        running.send(&[], b"{}").await;
        let get = Request::get(format!("http://{}/", running.address)).body(Full::default()).unwrap();
        let answer = running.client.request(get).await.unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let expected = r#"{"received":1,"acknowledged":1,"failed":0,"duplicates":0,"invalidSignatures":0}"#;
        assert_eq!(body, expected);
        let put = Request::put(&running.url).body(Full::default()).unwrap();
        let answer = running.client.request(put).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()[ALLOW]), (405, &HeaderValue::from_static("POST, GET")));
    }

    #[tokio::test]
    async fn it_fails_as_it_is_told_to() {
        let fails = start(Options { fail_rate: 1.0, ..options() }).await;
        check(&fails.send(&[], b"{}").await, 500, Some("token-1"));
        let busy = start(Options { fail_rate: 1.0, status: Some(503), ..options() }).await;
        check(&busy.send(&[], b"{}").await, 503, Some("token-1"));
        let gone = start(Options { status: Some(410), ..options() }).await;
        check(&gone.send(&[], b"{}").await, 410, Some("token-1"));
        let mute = start(Options { no_echo: true, ..options() }).await;
        check(&mute.send(&[], b"{}").await, 200, None);
        for running in [fails, busy, gone, mute] {
            assert_eq!(running.stopped().await, Summary { received: 1, failed: 1, ..Summary::default() });
        }
    }

    #[tokio::test]
    async fn a_share_of_the_deliveries_fails() {
        let running = start(Options { fail_rate: 0.5, ..options() }).await;
        for _ in 0..200 {
            running.send(&[], b"{}").await;
        }
        let summary = running.stopped().await;
        assert!((40..160).contains(&summary.failed), "{summary:?}");
        assert_eq!(summary.failed + summary.acknowledged, 200);
    }

    #[tokio::test]
    async fn the_answer_waits_as_it_is_told_to() {
        let latency = Duration::from_millis(60);
        let running = start(Options { latency, ..options() }).await;
        let start = Instant::now();
        running.send(&[], b"{}").await;
        assert!(start.elapsed() >= latency);
    }

    #[tokio::test]
    async fn signatures_are_verified() {
        let running = start(Options { secret: Some(SECRET.to_owned()), ..options() }).await;
        assert_eq!(running.send_signed(SECRET, 0, b"{}", b"{}").await, 200);
        assert_eq!(running.send_signed(SECRET, -290, b"{}", b"{}").await, 200);
        assert_eq!(running.send_signed(SECRET, -310, b"{}", b"{}").await, 401);
        assert_eq!(running.send_signed(SECRET, 310, b"{}", b"{}").await, 401);
        assert_eq!(running.send_signed("whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0, b"{}", b"{}").await, 401);
        assert_eq!(running.send_signed(SECRET, 0, b"{}", b"{ }").await, 401);
        assert_eq!(running.send(&[], b"{}").await.status(), 401);
        assert_eq!(
            running
                .send(&[("webhook-id", "a"), ("webhook-timestamp", "x"), ("webhook-signature", "v1,")], b"")
                .await
                .status(),
            401
        );
        let expected = Summary { received: 8, acknowledged: 2, failed: 6, duplicates: 1, invalid_signatures: 6 };
        assert_eq!(running.stopped().await, expected);
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        let running = start(options()).await;
        assert_eq!(running.send(&[], &vec![b' '; BODY_BYTES_MAX]).await.status(), 200);
        // One that says so is refused before its body comes, one that does not as soon as it is over the bound.
        let announced = format!("content-length: {}\r\n\r\n", BODY_BYTES_MAX + 1);
        let unannounced =
            format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{}", BODY_BYTES_MAX + 1, " ".repeat(BODY_BYTES_MAX + 1));
        for rest in [announced, unannounced] {
            let mut tcp = TcpStream::connect(running.address).await.unwrap();
            tcp.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\n{rest}").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            tcp.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 413");
        }
        assert_eq!(running.stopped().await, Summary { received: 3, acknowledged: 1, failed: 2, ..Summary::default() });
    }

    #[tokio::test]
    async fn http2_is_served_too() {
        let running = start(options()).await;
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<Bytes>>();
        let request = Request::post(&running.url).header(&ECHO, "token-2").body(Empty::new()).unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        check(&answer, 200, Some("token-2"));
    }

    #[tokio::test]
    async fn stopping_lets_the_request_under_way_end_and_closes_the_others() {
        let running = start(Options { latency: Duration::from_millis(100), ..options() }).await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        let mut busy = TcpStream::connect(running.address).await.unwrap();
        let request = "POST / HTTP/1.1\r\nhost: x\r\nx-xcom-integration-echo: t\r\ncontent-length: 0\r\n\r\n";
        busy.write_all(request.as_bytes()).await.unwrap();
        // One that was answered proves that both before it have been accepted and read.
        running.send(&[], b"{}").await;
        let (counters, address) = (running.counters.clone(), running.address);
        running.stopped().await;
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(counters.summary().acknowledged, 2);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_receiver_that_cannot_begin_says_why() {
        let bad = Receiver::bind(Options { secret: Some("whsec_?".to_owned()), ..options() }).await.err().unwrap();
        let bad = chain(&bad);
        assert!(bad.starts_with("--secret cannot be used: no base64 follows whsec_"), "{bad}");
        let first = Receiver::bind(options()).await.unwrap();
        let taken = Receiver::bind(Options { listen: first.address(), ..options() }).await.err().unwrap();
        assert!(taken.to_string().contains(&first.address().to_string()), "{taken}");
    }

    #[test]
    fn ids_are_remembered_for_two_generations() {
        let mut ids = Ids::default();
        assert!(!ids.is_known("a"));
        assert!(ids.is_known("a"));
        assert!(!ids.is_known("") && !ids.is_known(""));
        (1..IDS_MAX).for_each(|number| assert!(!ids.is_known(&number.to_string())));
        assert!(!ids.is_known("next generation"));
        assert!(ids.is_known("1"));
        (0..2 * IDS_MAX).for_each(|number| assert!(!ids.is_known(&format!("x{number}"))));
        assert!(!ids.is_known("2"), "forgotten");
        assert!(ids.young.len() <= IDS_MAX && ids.old.len() <= IDS_MAX);
    }
}
