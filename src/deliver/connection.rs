//! A connection to a receiver that carries one request after another, and the task that drives it. The courier decides what is sent, and
//! judges the answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::net::cause::Cause;
use crate::net::read_budget::{Rationed, ReadBudget};
use crate::net::stream::Connection;

/// Bounds what one connection may buffer, and with it the headers of an answer.
const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;
/// The most that is read of a connection up to the end of an answer's headers: more than the buffer, for interim answers.
pub(super) const HEAD_BYTES_MAX: usize = 40 * 1024;
/// Headers of an answer: several times what servers behind several proxies send. The library allocates places for all of them with
/// each answer; up to 14 KB that costs 20 ns, beyond it 150.
const HEADERS_MAX: usize = 400;
/// How long a connection that is given up may take to send what it has and to close.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// The longest life of a connection. When a receiver's servers change, its connections are spread over the new ones within this time.
const AGE_MAX: Duration = Duration::from_mins(5);
/// Below the 60 to 75 s after which servers and NATs give up a quiet connection.
const IDLE_MAX: Duration = Duration::from_secs(25);

/// A connection to a receiver. Dropping it closes the connection within [`GOODBYE_MAX`], whatever the receiver does.
pub(crate) struct KeptConnection {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    pub(super) budget: ReadBudget,
    address: SocketAddr,
    /// Until when its name is known to resolve to its address.
    pub(super) checked_until: Instant,
    opened: Instant,
    /// When it was last given back.
    pub(crate) idle_since: Instant,
    _driver: DropGuard,
}

impl KeptConnection {
    /// Begins to speak HTTP/1.1 over `connection`. The task that drives it is one of `drivers`.
    ///
    /// # Errors
    /// Why the connection can't be used, in words.
    pub(super) async fn begin(connection: Connection, drivers: &TaskTracker) -> Result<Self, Cause> {
        let (address, checked_until) = (connection.remote(), connection.checked_until());
        let budget = ReadBudget::of_head(HEAD_BYTES_MAX);
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .max_headers(HEADERS_MAX)
            // Browsers and curl read all of these, so authors of receivers never saw them.
            .ignore_invalid_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(Rationed::new(connection, budget.clone())))
            .await
            .map_err(|error| Cause::of_error(&error))?;
        let dropped = CancellationToken::new();
        let guard = dropped.clone().drop_guard();
        drivers.spawn(async move {
            tokio::pin!(driver);
            let ended = tokio::select! {
                biased;
                ended = &mut driver => Some(ended),
                () = dropped.cancelled() => timeout(GOODBYE_MAX, driver).await.ok(),
            };
            // The request on a connection gets its error. Between two requests the end of a connection is not a failure.
            if let Some(Err(error)) = ended {
                tracing::trace!(%error, "a connection ended");
            }
        });
        let now = Instant::now();
        Ok(Self { sender, budget, address, checked_until, opened: now, idle_since: now, _driver: guard })
    }

    /// The receiver's end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it can carry a request at once: open, with nothing of the last one left to send, and neither idle nor open for so long
    /// that it is likely to be dead.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        self.sender.is_ready()
            && now.saturating_duration_since(self.opened) < AGE_MAX
            && now.saturating_duration_since(self.idle_since) < IDLE_MAX
    }
}
