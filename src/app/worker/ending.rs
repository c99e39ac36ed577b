//! How a worker ends: what is asked to stop in which order, and how long each part may take. Every thread that `roles` starts is joined
//! here, except for the feeds, which `super` joins last.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::threads::Threads;
use crate::deliver::publish::Sink;
use crate::intake::membership::LEAVE_MAX;

/// How long the producer may take, after the drain, to send its last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long shards may take to end, once publications are not tried again.
const SHARDS_MAX: Duration = Duration::from_secs(5);
/// How long the health and attempt-log publishers may take to publish the last attempts. With the other bounds and the drain a stop takes
/// about a minute at worst: the chart and the compose file wait longer before they kill the process.
const REPORTERS_MAX: Duration = Duration::from_secs(10);
/// How long the tables may take to close.
pub(super) const FEEDS_MAX: Duration = Duration::from_secs(2);

/// What ends the parts of a worker, in the order in which they end.
#[derive(Default)]
pub(super) struct Stops {
    /// Ends the consumers and the health owner. The stop of the worker ends them too.
    pub(super) consumers: CancellationToken,
    /// Ends what still waits for the producer.
    pub(super) sink: CancellationToken,
    /// Ends the publishers of attempt results, after the last attempts.
    pub(super) reports: CancellationToken,
}

/// The running parts of a worker.
pub(super) struct Running {
    pub(super) consumers: Threads,
    pub(super) shards: Threads,
    pub(super) reporters: Threads,
    pub(super) sink: Sink,
    pub(super) stops: Stops,
}

impl Running {
    /// Stops all of it in order. Consumers have `drain` for what is under way.
    pub(super) async fn stop(self, drain: Duration) {
        self.stops.consumers.cancel();
        self.consumers.join(drain + LEAVE_MAX).await;
        // From here on nothing under way is waited for: the next owner gets what is left.
        self.stops.sink.cancel();
        self.shards.join(SHARDS_MAX).await;
        flush(self.sink).await;
        // The last attempts are counted and logged by now.
        self.stops.reports.cancel();
        self.reporters.join(REPORTERS_MAX).await;
    }
}

async fn flush(sink: Sink) {
    // Twice the time: a client that is dropped closes its connections first.
    let flushing = tokio::task::spawn_blocking(move || sink.flush(FLUSH_TIMEOUT));
    match tokio::time::timeout(2 * FLUSH_TIMEOUT, flushing).await {
        Ok(Ok(Ok(()))) => tracing::info!("drained"),
        Ok(Ok(Err(error))) => tracing::warn!(%error, "records were left in the producer; their events are read again"),
        Ok(Err(error)) => tracing::error!(%error, "the producer was not flushed"),
        Err(_elapsed) => tracing::error!("the producer did not close in time and is left behind"),
    }
}
