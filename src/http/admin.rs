//! `/metrics`, `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::telemetry::metrics::Metrics;

/// A loop that has not come round for this long stands still.
const STILL_AFTER: Duration = Duration::from_mins(1);

/// Whether the process lives and is ready: written by who knows, read by the probes.
#[derive(Debug, Default)]
pub struct Condition {
    ready: AtomicBool,
    events: Beat,
    retries: Beat,
    schedules: Beat,
}

/// When a loop last came round, ms since 1970; 0 before its first round and after its last.
#[derive(Debug, Default)]
pub struct Beat(AtomicI64);

/// The loops that must come round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The events consumer.
    Events,
    /// The retries consumer.
    Retries,
    /// The schedules.
    Schedules,
}

impl Condition {
    /// Says whether the process is ready.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A loop came round.
    pub fn beat(&self, of: Loop) {
        self.beat_of(of).0.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// A loop ended because it was told to.
    pub fn ended(&self, of: Loop) {
        self.beat_of(of).0.store(0, Ordering::Relaxed);
    }

    /// The loop that stands still, if one does at `now_ms`.
    fn still(&self, now_ms: i64) -> Option<&'static str> {
        let limit = i64::try_from(STILL_AFTER.as_millis()).unwrap_or(i64::MAX);
        let still = |beat: &Beat| {
            let last = beat.0.load(Ordering::Relaxed);
            last != 0 && now_ms - last > limit
        };
        let beats = [("events", &self.events), ("retries", &self.retries), ("schedules", &self.schedules)];
        beats.into_iter().find(|(_, beat)| still(beat)).map(|(name, _)| name)
    }

    fn beat_of(&self, of: Loop) -> &Beat {
        match of {
            Loop::Events => &self.events,
            Loop::Retries => &self.retries,
            Loop::Schedules => &self.schedules,
        }
    }
}

/// The admin server's listener.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens; before anything else is started.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn bind(listen: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        tracing::info!(address = %address, "admin listening");
        Ok(Self { listener, address })
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn run(
        self,
        metrics: Arc<Metrics>,
        condition: Arc<Condition>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(text))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state((metrics, condition));
        axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

type Served = State<(Arc<Metrics>, Arc<Condition>)>;

async fn text(State((metrics, _)): Served) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.text())
}

async fn livez(State((_, condition)): Served) -> (StatusCode, String) {
    match condition.still(clock::now_ms()) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(name) => (StatusCode::SERVICE_UNAVAILABLE, format!("the {name} loop stands still\n")),
    }
}

async fn readyz(State((_, condition)): Served) -> (StatusCode, &'static str) {
    if condition.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or stopping\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_named_and_one_that_ended_is_not() {
        let condition = Condition::default();
        assert_eq!(condition.still(i64::MAX), None);
        condition.beat(Loop::Retries);
        let now_ms = clock::now_ms();
        assert_eq!(condition.still(now_ms), None);
        assert_eq!(condition.still(now_ms + 61_000), Some("retries"));
        condition.ended(Loop::Retries);
        assert_eq!(condition.still(now_ms + 61_000), None);
    }
}
