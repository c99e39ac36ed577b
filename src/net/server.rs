//! A small HTTP server without TLS, for the reference receiver, metrics and probes. The first bytes of a client decide between
//! HTTP/1.1 and HTTP/2.
//!
//! Connections, waits and the end are bounded. The registration API has a server of its own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A request's body as it comes in.
pub(crate) use hyper::body::Incoming;

/// The pause after a connection could not be accepted: by then there may be a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What happens to a new connection when the bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It waits until one ends.
    Wait,
    /// The oldest is closed for it, so that no client keeps the others out.
    CloseOldest,
}

/// The bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections served at once.
    pub(crate) connections_max: usize,
    /// What happens to one more.
    pub(crate) when_full: WhenFull,
    /// How long a client may take for its first byte and for the headers of a request.
    pub(crate) patience: Duration,
    /// How long requests under way may take to end once the server stops.
    pub(crate) drain: Duration,
}

/// Answers every request with `answer`, until `stop`; then lets what is under way end.
pub(crate) async fn serve<A, F>(listener: TcpListener, limits: Limits, stop: CancellationToken, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let places = match limits.when_full {
        WhenFull::Wait => limits.connections_max,
        WhenFull::CloseOldest => Semaphore::MAX_PERMITS,
    };
    let permits = Arc::new(Semaphore::new(places));
    let mut connections = JoinSet::new();
    let mut oldest = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((tcp, permit)) => {
                let (stop, answer) = (stop.clone(), answer.clone());
                let served = connections.spawn(async move {
                    connection(tcp, limits.patience, stop, answer).await;
                    drop(permit);
                });
                if limits.when_full == WhenFull::CloseOldest {
                    oldest.push_back(served);
                    close_oldest(&mut oldest, limits.connections_max);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "requests still under way are given up");
        connections.shutdown().await;
    }
}

/// Closes the oldest connections beyond the bound. Those that have ended do not count any more.
fn close_oldest(oldest: &mut VecDeque<AbortHandle>, connections_max: usize) {
    oldest.retain(|served| !served.is_finished());
    while oldest.len() > connections_max {
        if let Some(served) = oldest.pop_front() {
            served.abort();
        }
    }
}

/// Cancel safe: a permit without a connection goes back, a connection is only taken together with its permit.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, _peer) = listener.accept().await?;
    Ok((tcp, permit))
}

async fn connection<A, F>(tcp: TcpStream, patience: Duration, stop: CancellationToken, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    // Detects the protocol here: hyper-util would wait for the first bytes without an end.
    let mut beginning = [0; 3];
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        first = timeout(patience, tcp.peek(&mut beginning)) => first,
    };
    let is_http2 = match first {
        Ok(Ok(bytes)) if bytes > 0 => beginning == *b"PRI",
        Ok(Ok(_) | Err(_)) | Err(_) => return,
    };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "answers may be delayed");
    }
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(patience);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(patience);
    let server = if is_http2 { server.http2_only() } else { server.http1_only() };
    let answered = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let exchange = server.serve_connection(TokioIo::new(tcp), answered);
    tokio::pin!(exchange);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            exchange.as_mut().graceful_shutdown();
            exchange.await
        }
        ended = exchange.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}
