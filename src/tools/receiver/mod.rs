//! The reference receiver: an integration's endpoint that behaves well, or badly if an option says so.
//!
//! Verifies Standard Webhooks signatures, echoes the token, counts. The demo and the tests deliver to it too, so it speaks
//! HTTP/1.1 and HTTP/2 without TLS, and can listen on any free port.

mod signature;
mod ids;
pub(super) mod log;

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

use self::ids::Ids;
use self::log::Lines;
pub(crate) use self::log::Output;
use self::signature::{text, verify};
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
/// How long requests under way may take to end once the receiver stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last lines may take to be printed.
const PRINT_PATIENCE: Duration = Duration::from_secs(1);

/// Why the receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiverError {
    /// The secret is not valid.
    #[error("--secret cannot be used")]
    Secret(#[from] BadSecret),
    /// The address can't be listened on.
    #[error("--listen {address}: cannot listen")]
    Listen { address: SocketAddr, source: std::io::Error },
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
    /// Acknowledged deliveries whose `webhook-id` had been acknowledged before.
    pub(crate) duplicates: u64,
    /// Failed deliveries that had no valid signature although a secret is set.
    pub(crate) invalid_signatures: u64,
}

/// The counts, readable while the receiver runs and after it has ended.
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

/// The answer to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Acknowledged,
    WithoutEcho(&'static str),
    Failed(StatusCode),
    InvalidSignature(&'static str),
    BadBody(StatusCode),
}

/// Listens, for [`Receiver::run`].
///
/// # Errors
/// [`ReceiverError`] when it can't begin.
pub(crate) async fn bind(options: Options) -> Result<Receiver, ReceiverError> {
    let receiver = Receiver::bind(options).await?;
    tracing::info!(address = %receiver.address(), verifies = receiver.state.signer.is_some(), "receiver listening");
    Ok(receiver)
}

impl Receiver {
    /// Listens on the address of `options`.
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

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle to the counts.
    pub(crate) fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.state))
    }

    /// Serves until `stop`, then waits a short while for requests under way.
    pub(crate) async fn run(self, output: Output, stop: CancellationToken) -> Summary {
        let counters = self.counters();
        let (lines, printer) = Lines::new(output);
        let mut printing = JoinSet::new();
        printing.spawn(printer);
        let drain = DRAIN + self.state.options.latency;
        let limits = Limits { connections_max: CONNECTIONS_MAX, when_full: WhenFull::Wait, patience: PATIENCE, drain };
        let service = Arc::new(Service { state: self.state, lines });
        serve(self.listener, limits, stop, move |request| Arc::clone(&service).answer(request)).await;
        // The service ends with the last connection, and its end of the lines with it: then the printer ends too.
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
        self.log(&head.headers, bytes, &verdict, is_duplicate);
        response(&verdict, &head.headers, self.state.options.no_echo)
    }

    fn log(&self, headers: &HeaderMap, bytes: usize, verdict: &Verdict, is_duplicate: bool) {
        let (id, attempt) = (text(headers, "webhook-id"), text(headers, ATTEMPT));
        if let Verdict::InvalidSignature(why) = verdict {
            tracing::warn!(delivery_id = id, attempt, reason = why, "signature refused");
        }
        let again = if is_duplicate { ", a duplicate" } else { "" };
        let result = match verdict {
            Verdict::Acknowledged => format!("acknowledged{again}"),
            Verdict::WithoutEcho(why) => format!("200 without echo: {why}"),
            Verdict::Failed(status) => format!("failed with {}", status.as_u16()),
            Verdict::InvalidSignature(why) => format!("refused with 401: {why}"),
            Verdict::BadBody(status) => format!("refused with {}: no whole body", status.as_u16()),
        };
        let text = format!("{id:<36}  attempt {attempt:<2}  {bytes:>7} B  {result}");
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
        // A status without a share goes to every request; with a share only to that share.
        let fails = if fail_rate > 0.0 { rand::random::<f64>() < fail_rate } else { chosen.is_some() };
        if fails {
            return Verdict::Failed(chosen.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        }
        if no_echo {
            Verdict::WithoutEcho("an option leaves it out")
        } else if headers.contains_key(&ECHO) {
            Verdict::Acknowledged
        } else {
            Verdict::WithoutEcho("the request has no token")
        }
    }

    /// Counts a delivery, and returns whether it was acknowledged for the second time.
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
mod tests;
