//! The courier of workers and of test deliveries: one request to one receiver, sent over a kept or a new connection, and judged, under
//! one deadline. The shard decides what is sent and when.
//!
//! The verdict falls at the headers of the answer. What has not come by then is an [`HttpBody`]. Only the connection and the attempt log
//! wait for it. The receiver may have closed a kept connection when the request was sent. Then the request is sent once more on a new
//! connection, which does not count as an attempt.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::connection::{HEAD_BYTES_MAX, KeptConnection};
use super::courier::{AnswerBody, AnswerRead, Courier, Exchange, Rest};
use super::head::Head;
use super::request::{ECHO, SignedRequest};
use crate::clock;
use crate::domain::outcome::{Outcome, Reason, judge, parse_retry_after};
use crate::domain::retry_schedule::format_duration;
use crate::domain::target::Authority;
use crate::inflight::ended::Keep;
use crate::net::cause::Cause;
use crate::net::connector::Connector;
use crate::net::failure::{classify, is_stale};
use crate::telemetry::metrics::Metrics;

/// The contract's: more of an answer's body is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The contract's: what the attempt log keeps of it.
const ANSWER_BYTES_KEPT: usize = 1024;
/// The contract's: the body of an answer may take this long after its headers, within the request's deadline.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// The most that is read from the connection for an answer's body: what is wanted of it and the overhead of small chunks.
const BODY_BYTES_MAX: usize = 4 * ANSWER_BYTES_MAX;

/// The body of an answer as it comes over a connection.
pub(crate) struct HttpBody {
    incoming: Incoming,
    connection: KeptConnection,
    deadline: Instant,
    kept: BytesMut,
    kept_max: usize,
    bytes: usize,
}

impl AnswerBody for HttpBody {
    type Connection = KeptConnection;

    async fn read(mut self) -> AnswerRead<KeptConnection> {
        let reusable = matches!(timeout_at(self.deadline, self.come()).await, Ok(true));
        self.into_read(reusable)
    }

    fn cut_off(self) -> AnswerRead<KeptConnection> {
        self.into_read(false)
    }
}

impl HttpBody {
    fn into_read(self, reusable: bool) -> AnswerRead<KeptConnection> {
        AnswerRead { body: self.kept.freeze(), connection: reusable.then_some(self.connection) }
    }

    /// Reads a body to its end and waits until the connection can carry the next request. Returns whether it can.
    ///
    /// Cancel safe: what was read so far stays.
    async fn come(&mut self) -> bool {
        while let Some(frame) = self.incoming.frame().await {
            let Ok(frame) = frame else { return false };
            let Some(data) = frame.data_ref() else { continue };
            let room = self.kept_max.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            self.bytes += data.len();
            if self.bytes > ANSWER_BYTES_MAX {
                return false;
            }
        }
        // A receiver may answer before it has read the request.
        self.connection.sender.ready().await.is_ok()
    }
}

/// Makes requests over HTTP/1.1.
pub struct HttpCourier {
    connector: Connector,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    /// Owns the tasks that drive connections; each ends soon after its [`KeptConnection`] is dropped.
    drivers: TaskTracker,
}

impl Courier for HttpCourier {
    type Connection = KeptConnection;
    type Body = HttpBody;

    async fn attempt(&self, request: &SignedRequest, kept: Option<KeptConnection>, keep: Keep) -> Exchange<Self> {
        let start = Instant::now();
        let deadline = start + self.request_timeout;
        let answered = self.answer(request, kept, start).await;
        let took = start.elapsed();
        let (response, connection) = match answered {
            Ok(answered) => answered,
            Err(failed) if failed.acknowledges(request.token()) => {
                let (outcome, address) = (Outcome::Acknowledged, failed.address);
                return Exchange { outcome, cause: None, address, took, rest: Rest::none() };
            }
            Err(Failed { reason, cause, address, .. }) => {
                let (outcome, cause) = (Outcome::failed(reason), Some(cause));
                return Exchange { outcome, cause, address, took, rest: Rest::none() };
            }
        };
        let address = Some(connection.address());
        let outcome = judge_response(&response, request.token());
        let cause = cause_of(&outcome);
        let wanted = match keep {
            Keep::Nothing => false,
            Keep::Failures => outcome != Outcome::Acknowledged,
            Keep::All => true,
        };
        let rest = rest_of(response, connection, wanted, deadline);
        Exchange { outcome, cause, address, took, rest }
    }
}

impl HttpCourier {
    /// A courier whose every request ends within `request_timeout`.
    pub fn new(connector: Connector, request_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self { connector, request_timeout, metrics, drivers: TaskTracker::new() }
    }

    async fn answer(
        &self,
        request: &SignedRequest,
        kept: Option<KeptConnection>,
        start: Instant,
    ) -> Result<(Response<Incoming>, KeptConnection), Failed> {
        let deadline = start + self.request_timeout;
        if let Some(mut connection) = kept {
            // Nothing is sent over a connection that is not usable, so the next sending is the first.
            let is_known = start < connection.checked_until;
            if connection.is_usable(start)
                && (is_known || self.still_leads(request.authority(), &mut connection, deadline).await)
            {
                connection.budget.renew_for_head(HEAD_BYTES_MAX);
                let sent = timeout_at(deadline, connection.sender.try_send_request(request.request())).await;
                match sent.map_err(|_elapsed| self.too_late(Some(connection.address())))? {
                    Ok(response) => return Ok((response, connection)),
                    Err(mut failed) => {
                        let unsent = failed.take_message().is_some();
                        if !unsent && !is_stale(failed.error()) {
                            return Err(Failed::of(failed.error(), &connection));
                        }
                    }
                }
                self.metrics.deliver.stale_resends.inc();
            }
        }
        // Boxed: connections are opened rarely, and their futures are large.
        let opened = timeout_at(deadline, Box::pin(self.open(request.authority()))).await;
        let mut connection = opened.map_err(|_elapsed| self.too_late(None))??;
        let address = connection.address();
        let answered = timeout_at(deadline, async {
            connection.sender.ready().await?;
            connection.sender.send_request(request.request()).await
        });
        match answered.await.map_err(|_elapsed| self.too_late(Some(address)))? {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Failed::of(&error, &connection)),
        }
    }

    /// Asks whether the receiver's name still resolves to the connection's address.
    async fn still_leads(&self, authority: &Authority, connection: &mut KeptConnection, deadline: Instant) -> bool {
        let leads = timeout_at(deadline, Box::pin(self.connector.leads_to(authority, connection.address().ip()))).await;
        connection.checked_until = leads.ok().flatten().unwrap_or(connection.checked_until);
        Instant::now() < connection.checked_until
    }

    fn too_late(&self, address: Option<SocketAddr>) -> Failed {
        let limit = format_duration(self.request_timeout);
        Failed::new(Reason::Timeout, Cause::new(format!("no answer within {limit}")), address)
    }

    async fn open(&self, authority: &Authority) -> Result<KeptConnection, Failed> {
        let connection = self
            .connector
            .connect(authority)
            .await
            .map_err(|error| Failed::new(error.reason(), error.cause().clone(), error.address()))?;
        let address = Some(connection.remote());
        let connection = KeptConnection::begin(connection, &self.drivers).await;
        let connection = connection.map_err(|cause| Failed::new(Reason::Protocol, cause, address))?;
        self.metrics.deliver.connections_opened.inc();
        Ok(connection)
    }
}

/// What follows the headers of an answer: read as far as it has come already. A body that ends with its connection is only read where
/// it is wanted: the connection carries no other request.
fn rest_of(
    response: Response<Incoming>,
    connection: KeptConnection,
    wanted: bool,
    deadline: Instant,
) -> Rest<HttpCourier> {
    if hyper::body::Body::is_end_stream(response.body()) {
        // Most answers end here.
        if connection.sender.is_ready() {
            return Rest::Read(AnswerRead { body: Bytes::new(), connection: Some(connection) });
        }
    } else if !wanted && ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| response.headers().contains_key(name)) {
        return Rest::none();
    }
    connection.budget.renew_for_body(BODY_BYTES_MAX);
    let mut body = HttpBody {
        incoming: response.into_body(),
        connection,
        deadline: deadline.min(Instant::now() + ANSWER_TIME_MAX),
        kept: BytesMut::new(),
        kept_max: if wanted { ANSWER_BYTES_KEPT } else { 0 },
        bytes: 0,
    };
    match body.come().now_or_never() {
        Some(reusable) => Rest::Read(body.into_read(reusable)),
        None => Rest::Coming(Box::new(body)),
    }
}

/// Why there is no answer.
struct Failed {
    reason: Reason,
    cause: Cause,
    address: Option<SocketAddr>,
    /// What came of an answer that the library does not accept as HTTP.
    unread: Vec<u8>,
}

impl Failed {
    fn new(reason: Reason, cause: Cause, address: Option<SocketAddr>) -> Self {
        Self { reason, cause, address, unread: Vec::new() }
    }

    fn of(error: &hyper::Error, connection: &KeptConnection) -> Self {
        let is_unsent = error.is_canceled() || error.is_closed();
        let unread = if error.is_parse() || is_unsent { connection.budget.head() } else { Vec::new() };
        if is_unsent {
            // The library says only that the connection is gone.
            let (reason, words) = if unread.is_empty() {
                (Reason::Reset, "the receiver closed the connection before it had the request")
            } else {
                (Reason::Protocol, "the receiver spoke before it had the request: it speaks another protocol")
            };
            return Self::new(reason, Cause::new(words), Some(connection.address()));
        }
        Self { unread, ..Self::new(classify(error), Cause::of_error(error), Some(connection.address())) }
    }

    /// Whether the answer acknowledges nevertheless: by its status and echo, where only what it says about its body is wrong.
    fn acknowledges(&self, token: &[u8]) -> bool {
        Head::parse(&self.unread, ECHO.as_str())
            .is_some_and(|head| judge(head.status, head.echoes.into_iter(), token).is_ok())
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
            let asked = response.headers().get(RETRY_AFTER).map(HeaderValue::as_bytes);
            let retry_after = parse_retry_after(status, asked, clock::now());
            Outcome::Failed { reason, status: Some(status), retry_after }
        }
    }
}

#[cfg(test)]
#[path = "http_courier_tests.rs"]
mod tests;
