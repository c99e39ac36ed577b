//! One request to one receiver: built, sent over a kept or a new connection, judged, under one deadline.
//!
//! Connections are handed in and out by value, so that whoever keeps them needs no lock. A kept connection may have been
//! closed by the receiver at the very moment the request left: then it is sent once more on a new connection, which is no
//! attempt of its own.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::RngCore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::outcome::{Outcome, Reason, judge, parse_retry_after};
use crate::domain::retry_schedule::format_duration;
use crate::domain::signature::Signer;
use crate::domain::target::{Authority, BadUrl, Target};
use crate::inflight::job::Delivery;
use crate::net::cause::Cause;
use crate::net::connector::Connector;
use crate::net::read_budget::{Rationed, ReadBudget};
use crate::telemetry::metrics::Metrics;

const ECHO: HeaderName = HeaderName::from_static("x-xcom-integration-echo");
const ATTEMPT: HeaderName = HeaderName::from_static("x-xcom-delivery-attempt");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The contract's: more of an answer's body is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The contract's: what the attempt log keeps of it.
const ANSWER_BYTES_KEPT: usize = 1024;
/// The contract's: the body of an answer may take this long after its headers, within the request's deadline.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Bounds what one connection may buffer, and with it the headers of an answer.
const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;
/// The most that is read of a connection up to the end of an answer's headers: more than the buffer, for interim answers.
const HEAD_BYTES_MAX: usize = 40 * 1024;
/// The most that is read of an answer's body: what is wanted of it, into however small chunks it is cut.
const BODY_BYTES_MAX: usize = 4 * ANSWER_BYTES_MAX;

/// All of a webhook's requests that does not change from one to the next.
pub(crate) struct RequestTemplate {
    authority: Arc<Authority>,
    path: Uri,
    headers: HeaderMap,
    signer: Signer,
}

impl RequestTemplate {
    /// Prepares the requests of a webhook.
    ///
    /// # Errors
    /// [`BadUrl`] can't be for a webhook of the table: its URL was checked there.
    pub(crate) fn new(integration: &Integration, webhook: usize) -> Result<Self, BadUrl> {
        let url = integration.webhook(webhook).map(Webhook::url).unwrap_or_default();
        let target = Target::parse(&url)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("hookstream/", env!("CARGO_PKG_VERSION"))));
        headers.insert(HOST, target.host_header().clone());
        for (name, value) in integration.headers() {
            // Checked when the record was read.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        // A copy has no spare places: 2 KB for each of many webhooks.
        let headers = headers.clone();
        Ok(Self { authority: target.authority(), path: target.path().clone(), headers, signer: integration.signer() })
    }

    /// Scheme, host and port.
    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// One request: what of it is its own.
pub(crate) struct SignedRequest {
    prepared: Arc<RequestTemplate>,
    body: Bytes,
    /// Echo token, delivery id, timestamp, attempt and signature, one after another: one allocation for five headers.
    text: Bytes,
    ends: [usize; 5],
}

/// Hex digits of an echo token: 128 bits.
const TOKEN_LEN: usize = 32;

impl SignedRequest {
    /// Writes the headers of an attempt of `delivery` at `timestamp` (seconds since 1970).
    pub(crate) fn new(
        prepared: &Arc<RequestTemplate>,
        delivery: &Delivery,
        timestamp: i64,
        rng: &mut impl RngCore,
    ) -> Self {
        let mut text = String::with_capacity(TOKEN_LEN + 36 + 10 + 2 + 48);
        let mut token = [0u8; TOKEN_LEN / 2];
        rng.fill_bytes(&mut token);
        crate::inflight::job::push_hex(&mut text, &token);
        let mut ends = [text.len(); 5];
        text.push_str(&delivery.id);
        ends[1] = text.len();
        push_decimal(&mut text, timestamp.unsigned_abs());
        ends[2] = text.len();
        push_decimal(&mut text, u64::from(delivery.attempt));
        ends[3] = text.len();
        prepared.signer.sign(&delivery.id, timestamp, &delivery.event.payload, &mut text);
        ends[4] = text.len();
        Self { prepared: Arc::clone(prepared), body: delivery.event.payload.clone(), text: Bytes::from(text), ends }
    }

    fn part(&self, index: usize) -> Bytes {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.text.slice(start..end)
    }

    fn token(&self) -> &[u8] {
        self.text.get(..TOKEN_LEN).unwrap_or_default()
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.prepared.path.clone();
        let mut headers = self.prepared.headers.clone();
        headers.reserve(self.ends.len());
        for (index, name) in [ECHO, WEBHOOK_ID, WEBHOOK_TIMESTAMP, ATTEMPT, WEBHOOK_SIGNATURE].into_iter().enumerate() {
            let part = self.part(index);
            if part.is_empty() {
                continue;
            }
            // Hex, digits and base64, and a delivery id that was read from a header: always a value.
            if let Ok(value) = HeaderValue::from_maybe_shared(part) {
                headers.insert(name, value);
            }
        }
        *request.headers_mut() = headers;
        request
    }
}

fn push_decimal(text: &mut String, mut number: u64) {
    let start = text.len();
    loop {
        // A digit, so it fits.
        text.insert(start, char::from(b'0' + u8::try_from(number % 10).unwrap_or(0)));
        number /= 10;
        if number == 0 {
            return;
        }
    }
}

/// A connection to a receiver, between two requests.
pub(crate) struct KeptConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    ration: ReadBudget,
    address: SocketAddr,
    opened: Instant,
    /// When it was last given back.
    pub(crate) idle_since: Instant,
}

impl KeptConnection {
    /// Whether it may carry another request: open, and not so old that a change of the receiver's addresses goes unseen.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        !self.sender.is_closed()
            && now.saturating_duration_since(self.opened) < LINK_AGE_MAX
            && now.saturating_duration_since(self.idle_since) < LINK_IDLE_MAX
    }
}

/// Names are resolved again for a new connection, so a receiver's move is followed within this.
const LINK_AGE_MAX: Duration = Duration::from_mins(5);
/// Below the 60 to 75 s after which servers and NATs give up a quiet connection.
const LINK_IDLE_MAX: Duration = Duration::from_secs(25);

/// How a request ended.
pub(crate) struct Exchange {
    /// Acknowledged, or why not.
    pub(crate) outcome: Outcome,
    /// Why it failed, in words. None of an acknowledgement.
    pub(crate) cause: Option<Cause>,
    /// The receiver's address, where a connection to it was tried. None of a refused one.
    pub(crate) address: Option<SocketAddr>,
    /// From its start to the answer's headers, or to the failure.
    pub(crate) took: Duration,
    /// The beginning of the answer's body, where there was one and it was wanted.
    pub(crate) answer: Bytes,
    /// The connection, if it may be used again.
    pub(crate) link: Option<KeptConnection>,
}

/// Makes requests.
pub struct Courier {
    connector: Connector,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    /// Owns the tasks that drive connections; each ends when its [`KeptConnection`] is dropped.
    drivers: TaskTracker,
}

impl Courier {
    /// A courier whose every request ends within `request_timeout` and the time for the answer's body.
    pub fn new(connector: Connector, request_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self { connector, request_timeout, metrics, drivers: TaskTracker::new() }
    }

    /// Sends `attempt`, over `kept` if that still works, and judges the answer. `keep_answer` asks for the beginning of
    /// its body.
    ///
    /// Not cancel safe: dropping it closes the connection, and the receiver may have had the request.
    pub(crate) async fn exchange(
        &self,
        attempt: &SignedRequest,
        kept: Option<KeptConnection>,
        keep_answer: bool,
    ) -> Exchange {
        let start = Instant::now();
        let deadline = start + self.request_timeout;
        let answered = self.answer(attempt, kept, deadline).await;
        let took = start.elapsed();
        let (response, link) = match answered {
            Ok(answered) => answered,
            Err(Failed { reason, cause, address }) => {
                let outcome = Outcome::failed(reason);
                return Exchange { outcome, cause: Some(cause), address, took, answer: Bytes::new(), link: None };
            }
        };
        link.ration.renew(BODY_BYTES_MAX);
        let address = Some(link.address);
        let outcome = judge_response(&response, attempt.token());
        let cause = cause_of(&outcome);
        let body = response.into_body();
        if body.is_end_stream() {
            return Exchange { outcome, cause, address, took, answer: Bytes::new(), link: Some(link) };
        }
        let body_deadline = deadline.min(Instant::now() + ANSWER_TIME_MAX);
        let mut answer = BytesMut::new();
        let kept_bytes = if keep_answer { ANSWER_BYTES_KEPT } else { 0 };
        let drained = timeout_at(body_deadline, drain(body, kept_bytes, &mut answer)).await;
        let link = matches!(drained, Ok(true)).then_some(link);
        Exchange { outcome, cause, address, took, answer: answer.freeze(), link }
    }

    async fn answer(
        &self,
        attempt: &SignedRequest,
        kept: Option<KeptConnection>,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, KeptConnection), Failed> {
        if let Some(mut link) = kept {
            // Not ready: closed before the request left, which is no attempt.
            if link.sender.is_ready() {
                link.ration.renew(HEAD_BYTES_MAX);
                let sent = timeout_at(deadline, link.sender.try_send_request(attempt.request())).await;
                match sent.map_err(|_elapsed| self.too_late(Some(link.address)))? {
                    Ok(response) => return Ok((response, link)),
                    Err(mut failed) => {
                        let unsent = failed.take_message().is_some();
                        if !unsent && !is_stale(failed.error()) {
                            return Err(Failed::of(failed.error(), link.address));
                        }
                    }
                }
            }
            self.metrics.deliver.stale_resends.inc();
        }
        // Boxed: connections are opened rarely, and their futures are large.
        let opened = timeout_at(deadline, Box::pin(self.open(&attempt.prepared.authority))).await;
        let mut link = opened.map_err(|_elapsed| self.too_late(None))??;
        let address = link.address;
        let answered = timeout_at(deadline, async {
            link.sender.ready().await?;
            link.sender.send_request(attempt.request()).await
        });
        match answered.await.map_err(|_elapsed| self.too_late(Some(address)))? {
            Ok(response) => Ok((response, link)),
            Err(error) => Err(Failed::of(&error, address)),
        }
    }

    fn too_late(&self, address: Option<SocketAddr>) -> Failed {
        let limit = format_duration(self.request_timeout);
        Failed { reason: Reason::Timeout, cause: Cause::new(format!("no answer within {limit}")), address }
    }

    async fn open(&self, authority: &Authority) -> Result<KeptConnection, Failed> {
        let connection = self.connector.connect(authority).await.map_err(|error| Failed {
            reason: error.reason(),
            cause: error.cause().clone(),
            address: error.address(),
        })?;
        let address = connection.remote();
        let ration = ReadBudget::new(HEAD_BYTES_MAX);
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .handshake(TokioIo::new(Rationed::new(connection, ration.clone())))
            .await
            .map_err(|error| Failed::of(&error, address))?;
        // What ends a connection is told to the request it carried; between requests it is nobody's failure.
        self.drivers.spawn(async move {
            if let Err(error) = driver.await {
                tracing::trace!(%error, "a connection ended");
            }
        });
        self.metrics.deliver.connections_opened.inc();
        let now = Instant::now();
        Ok(KeptConnection { sender, ration, address, opened: now, idle_since: now })
    }
}

/// Why there is no answer.
struct Failed {
    reason: Reason,
    cause: Cause,
    address: Option<SocketAddr>,
}

impl Failed {
    fn of(error: &hyper::Error, address: SocketAddr) -> Self {
        Self { reason: classify(error), cause: Cause::of_error(error), address: Some(address) }
    }
}

/// What an answer says about its failure, in words.
fn cause_of(outcome: &Outcome) -> Option<Cause> {
    let Outcome::Failed { reason, status, .. } = outcome else { return None };
    Some(match (reason, status) {
        (Reason::Status, Some(status)) => Cause::new(format!("the answer has status {status}, not 200")),
        (Reason::EchoMissing, _) => Cause::new("the answer has no header X-XCOM-Integration-Echo"),
        (Reason::EchoMismatch, _) => {
            Cause::new("the answer's X-XCOM-Integration-Echo is not the request's, or is there more than once")
        }
        _ => Cause::new(reason.word()),
    })
}

fn judge_response(response: &Response<Incoming>, token: &[u8]) -> Outcome {
    let status = response.status().as_u16();
    let echoes = response.headers().get_all(ECHO).iter().map(HeaderValue::as_bytes);
    match judge(status, echoes, token) {
        Ok(()) => Outcome::Acknowledged,
        Err(reason) => {
            let wish = response.headers().get(RETRY_AFTER).map(HeaderValue::as_bytes);
            let retry_after = parse_retry_after(status, wish, clock::now());
            Outcome::Failed { reason, status: Some(status), retry_after }
        }
    }
}

/// Reads a body to its end, keeping its first `kept_bytes`. Says whether the end came within the limit.
///
/// Cancel safe: what was kept so far stays in `kept`.
async fn drain(mut body: Incoming, kept_bytes: usize, kept: &mut BytesMut) -> bool {
    use http_body_util::BodyExt as _;
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let Some(data) = frame.data_ref() else { continue };
        let room = kept_bytes.saturating_sub(kept.len());
        kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        read += data.len();
        if read > ANSWER_BYTES_MAX {
            return false;
        }
    }
    true
}

/// Whether a kept connection failed in the way one does that its other end had closed.
fn is_stale(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io_kind(error).is_some()
}

fn io_kind(error: &hyper::Error) -> Option<std::io::ErrorKind> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let kind = error.source()?.downcast_ref::<std::io::Error>()?.kind();
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof).then_some(kind)
}

/// Whether TLS failed: in TLS 1.3 a receiver refuses a client without a certificate only after the handshake.
fn is_tls(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let within: Option<&rustls::Error> = within.and_then(|within| within.downcast_ref());
        if within.is_some() || cause.is::<rustls::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The reason word of a request that got no answer.
pub(crate) fn classify(error: &hyper::Error) -> Reason {
    if is_tls(error) {
        Reason::Tls
    } else if error.is_parse() || error.is_parse_too_large() {
        Reason::Protocol
    } else if error.is_timeout() {
        Reason::Timeout
    } else if is_stale(error) {
        Reason::Reset
    } else {
        Reason::Protocol
    }
}
