//! The listener, with or without TLS. It bounds the number of connections, the size of headers and every wait.
//!
//! Over TLS it speaks HTTP/2 or HTTP/1.1 as negotiated, without TLS HTTP/1.1. A connection holds its place for a bounded time,
//! regardless of its client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ApiError;
use crate::settings;

/// Connections at once; further ones wait in the listener's queue.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may wait for a request's headers, the pause between two requests included.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long TLS may take to be agreed on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After this a connection is asked to end, so that no connection holds its place for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_mins(10);
/// How long a connection asked to end may take: past the longest request.
const CONNECTION_GRACE: Duration = Duration::from_secs(45);
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Requests at once on an HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// Between tries to accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, with its TLS settings.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Listens where `option` says.
    pub(crate) async fn bind(settings: &settings::Api, option: &'static str) -> Result<Self, ApiError> {
        let tls = settings.tls.as_ref().map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let failed = |error| ApiError::Listen { address: settings.listen, option, error };
        let socket = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        tracing::info!(%address, option, tls = tls.is_some(), "listening");
        Ok(Self { socket, address, tls })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets requests under way finish for at most `drain`.
    pub(crate) async fn serve(self, router: Router, drain: Duration, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        while let Some((stream, place)) = self.next(&places, &stop).await {
            let (router, tls, stop, cut) = (router.clone(), self.tls.clone(), stop.clone(), cut.clone());
            connections.spawn(async move {
                tokio::select! {
                    biased;
                    () = cut.cancelled() => {}
                    () = connection(stream, tls, router, stop) => {}
                }
                drop(place);
            });
        }
        drop(self.socket);
        connections.close();
        if timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections cut at the end of --drain-timeout");
            cut.cancel();
            connections.wait().await;
        }
    }

    /// The next connection and its place among those at once; `None` after `stop`.
    async fn next(
        &self,
        places: &Arc<Semaphore>,
        stop: &CancellationToken,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        loop {
            let place = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                place = Arc::clone(places).acquire_owned() => place.ok()?,
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _peer)) => return Some((stream, place)),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no delay not set");
    }
    let Some(tls) = tls else { return over_http1(stream, router, stop).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Err(_elapsed) => tracing::debug!("TLS not agreed on in time"),
        Ok(Err(error)) => tracing::debug!(%error, "TLS not agreed on"),
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => over_http2(stream, router, stop).await,
        Ok(Ok(stream)) => over_http1(stream, router, stop).await,
    }
}

async fn over_http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended_with(ended),
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(CONNECTION_GRACE, connection).await {
        ended_with(ended);
    }
}

async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADERS_TIMEOUT)
        .keep_alive_timeout(HANDSHAKE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), service(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended_with(ended),
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(CONNECTION_GRACE, connection).await {
        ended_with(ended);
    }
}

fn service(
    router: Router,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = hyper::Response<Body>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone {
    TowerToHyperService::new(router)
}

/// Logs the end of a connection. Clients close connections in many ways, none of which is a fault of the service.
fn ended_with(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// TLS with this certificate chain and key.
///
/// # Errors
/// [`ApiError::Tls`]
pub(super) fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, ApiError> {
    let failed = |option, file: &Path, error: &dyn std::fmt::Display| ApiError::Tls {
        option,
        file: file.to_owned(),
        error: error.to_string(),
    };
    let bad_cert = |error: &dyn std::fmt::Display| failed("--api-tls-cert", cert, error);
    let bad_key = |error: &dyn std::fmt::Display| failed("--api-tls-key", key, error);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| bad_cert(&error))?;
    if chain.is_empty() {
        return Err(bad_cert(&"no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(&error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_cert(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad_key(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
