//! One request over a pipe in memory: a real exchange without a network, whose receiver is a string of bytes. Fuzzing feeds it. Built
//! for fuzzing and for tests only; nothing is decided here.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connection::KeptConnection;
use super::courier::{Courier as _, Exchange, Rest};
use super::http_courier::HttpCourier;
use super::request::SignedRequest;
use crate::domain::retry_schedule::RetrySchedule;
use crate::inflight::ended::Keep;
use crate::net::address::AddressPolicy;
use crate::net::connector::Connector;
use crate::net::resolver::Resolver;
use crate::net::stream::Connection;
use crate::net::tls::Tls;
use crate::telemetry::metrics::Metrics;

/// What the pipe holds: less than an answer may have, so that both ends wait for each other.
const PIPE_BYTES: usize = 4 * 1024;
/// There is no reason to wait for a receiver that has hung up: an exchange that takes this long is a defect.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The address that the pipe is said to lead to. It is one that is refused, so no other connection is opened instead.
const REMOTE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

/// What a receiver sends before it hangs up, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script<'a> {
    /// Every byte of it.
    pub(crate) bytes: &'a [u8],
    /// How many bytes are sent at a time. At least 1.
    pub(crate) chunk: usize,
    /// Sends without waiting for the request's head.
    pub(crate) speaks_first: bool,
}

/// A courier that can open no connection.
pub(crate) fn courier() -> Option<HttpCourier> {
    let connector =
        Connector::new(Resolver::fixed([].into()), AddressPolicy::default(), Tls::trusting([]), REQUEST_TIMEOUT);
    let schedule = RetrySchedule::parse("1s").ok()?;
    Some(HttpCourier::new(connector, REQUEST_TIMEOUT, Arc::new(Metrics::new(&schedule))))
}

/// Sends `request` to a receiver that follows `script`; and the beginning of its answer's body.
pub(crate) async fn exchange(
    courier: &HttpCourier,
    request: &SignedRequest,
    script: Script<'_>,
) -> (Exchange<HttpCourier>, Vec<u8>) {
    let (here, there) = duplex(PIPE_BYTES);
    let until = Instant::now() + Duration::from_secs(60);
    let drivers = TaskTracker::new();
    let sender = async {
        let connection = Connection::pipe(here, REMOTE, until);
        let mut kept = KeptConnection::begin(connection, &drivers).await.ok();
        if let Some(kept) = &mut kept {
            // A connection that ended already is seen as such by the courier.
            drop(kept.sender.ready().await);
        }
        let mut exchange = courier.attempt(request, kept, Keep::All).await;
        let rest = std::mem::replace(&mut exchange.rest, Rest::none());
        (exchange, rest.read().await.body.to_vec())
    };
    tokio::pin!(sender);
    tokio::select! {
        ended = &mut sender => ended,
        () = follow(there, script) => sender.await,
    }
}

/// Plays the receiver, and hangs up. Errors mean that the sender hung up first, which it may.
async fn follow(mut pipe: DuplexStream, script: Script<'_>) {
    let mut head = Vec::new();
    while !script.speaks_first && !head.ends_with(b"\r\n\r\n") {
        match pipe.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_closed) => return,
        }
    }
    for chunk in script.bytes.chunks(script.chunk.max(1)) {
        if pipe.write_all(chunk).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
