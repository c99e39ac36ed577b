//! `/metrics`, `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::readiness::Readiness;
use crate::net::server::{Incoming, Limits, WhenFull, serve};

/// Prometheus and the probes need a few connections; deliveries share the process's descriptors. A probe always gets through: where
/// others keep all connections, the oldest of those is closed.
const LIMITS: Limits = Limits {
    connections_max: 64,
    when_full: WhenFull::CloseOldest,
    patience: Duration::from_secs(30),
    drain: Duration::from_secs(1),
};

/// The admin server's listener.
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens on `listen`. The process calls this before it starts anything else.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub(crate) async fn bind(listen: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        tracing::info!(address = %address, "admin listening");
        Ok(Self { listener, address })
    }

    /// The address that it listens on, with the port that the system chose for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. A client that stands still holds up neither the others nor the end.
    pub(crate) async fn run(self, metrics: Arc<Metrics>, condition: Arc<Readiness>, stop: CancellationToken) {
        let answer = move |request: Request<Incoming>| {
            let answer = answer(request.method(), request.uri().path(), &metrics, &condition);
            std::future::ready(answer)
        };
        serve(self.listener, LIMITS, stop, answer).await;
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, condition: &Readiness) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, text: Vec<u8>| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    if !matches!(path, "/metrics" | "/livez" | "/readyz") {
        return text(StatusCode::NOT_FOUND, b"there is /metrics, /livez and /readyz\n".to_vec());
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, b"GET and HEAD only\n".to_vec());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics.text());
            let of_prometheus = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, of_prometheus);
            response
        }
        "/livez" => match condition.stalled_loop(Instant::now()) {
            None => text(StatusCode::OK, b"ok\n".to_vec()),
            Some(name) => text(StatusCode::SERVICE_UNAVAILABLE, format!("the {name} loop stands still\n").into_bytes()),
        },
        _ if condition.is_ready() => text(StatusCode::OK, b"ready\n".to_vec()),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, b"not ready: starting or stopping\n".to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;

    #[test]
    fn known_paths_are_answered_and_no_others() {
        let (metrics, condition) = (Metrics::new(&RetrySchedule::parse("1s").unwrap()), Readiness::default());
        let status = |method: Method, path: &str| answer(&method, path, &metrics, &condition).status().as_u16();
        assert_eq!([status(Method::GET, "/metrics"), status(Method::HEAD, "/livez")], [200, 200]);
        assert_eq!(status(Method::GET, "/readyz"), 503);
        condition.set_ready(true);
        assert_eq!(status(Method::GET, "/readyz"), 200);
        assert_eq!([status(Method::GET, "/"), status(Method::POST, "/metrics")], [404, 405]);
    }

    #[tokio::test]
    async fn a_probe_gets_through_beside_clients_that_keep_connections() {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.address();
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(admin.run(metrics, Arc::default(), CancellationToken::new()));
        let mut kept = Vec::new();
        for number in 0..3 * LIMITS.connections_max {
            let mut other = tokio::net::TcpStream::connect(address).await.unwrap();
            if number % 2 == 0 {
                // Asked once, and kept open.
                tokio::io::AsyncWriteExt::write_all(&mut other, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = [0; 15];
                tokio::io::AsyncReadExt::read_exact(&mut other, &mut answer).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 200 OK");
            }
            kept.push(other);
        }
        let mut probe = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut probe, b"GET /livez HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut probe, &mut text).await.unwrap();
        assert!(text.ends_with("ok\n"), "{text}");
    }

    #[tokio::test]
    async fn a_client_that_stands_still_does_not_hold_up_the_end() {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut silent = tokio::net::TcpStream::connect(admin.address()).await.unwrap();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(admin.run(metrics, Arc::default(), stop.clone()));
        tokio::io::AsyncWriteExt::write_all(&mut silent, b"GET /metr").await.unwrap();
        // Answered, so the other connection is accepted too.
        let mut asking = tokio::net::TcpStream::connect(silent.peer_addr().unwrap()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut asking, b"GET /livez HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut asking, &mut text).await.unwrap();
        assert!(text.ends_with("ok\n"), "{text}");
        stop.cancel();
        tokio::time::timeout(LIMITS.drain * 10, serving.join_next()).await.expect("an end").unwrap().unwrap();
    }
}
