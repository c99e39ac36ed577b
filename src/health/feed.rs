//! Keeps what this worker knows of the integrations' health like the health topic: a second table beside the
//! integrations.
//!
//! Delivery does not depend on it: where the topic can't be read, that is said once and tried again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::records::StateRecord;
use super::view::{HealthState, HealthView};
use crate::domain::table::Table;
use crate::kafka::table_reader::{Compacted, CompactedError, Row};
use crate::settings;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::Metrics;

/// How long a poll waits for a change: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long until a topic that can't be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How often the integrations are counted anew after changes.
const CENSUS_EVERY: Duration = Duration::from_secs(5);

/// Follows the health topic on a thread of its own.
pub(crate) struct HealthFeed {
    /// How to reach Kafka.
    pub(crate) kafka: settings::Kafka,
    /// The topic.
    pub(crate) topic: String,
    /// The integrations that are told.
    pub(crate) table: Arc<RwLock<Table>>,
    /// What is known.
    pub(crate) standings: Arc<HealthView>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
}

impl HealthFeed {
    /// Reads to the end there was, tells `ready`, and follows until `stop`. Tells `ready` also when the topic can't be read.
    /// Blocks its thread.
    pub(crate) fn run(self, ready: oneshot::Sender<()>, stop: &CancellationToken) {
        let mut ready = Some(ready);
        let mut is_told = false;
        while !stop.is_cancelled() {
            let Err(error) = self.follow(&mut ready, stop) else { break };
            if std::mem::replace(&mut is_told, true) {
                tracing::debug!(error = chain(&error), "the health topic still cannot be read");
            } else {
                tracing::error!(
                    error = chain(&error),
                    "the health topic cannot be read: suspended integrations are delivered to"
                );
            }
            tell(&mut ready);
            let until = Instant::now() + AGAIN_AFTER;
            while !stop.is_cancelled() && Instant::now() < until {
                std::thread::park_timeout(POLL_WAIT);
            }
        }
    }

    fn follow(&self, ready: &mut Option<oneshot::Sender<()>>, stop: &CancellationToken) -> Result<(), CompactedError> {
        let mut topic = Compacted::open(&self.kafka, &self.topic, "health")?;
        let mut counted = Instant::now();
        let mut is_stale = false;
        while !stop.is_cancelled() {
            topic.read(POLL_WAIT, |row| is_stale |= self.take(&row))?;
            if ready.is_some() && topic.is_caught_up() {
                tell(ready);
            }
            if is_stale && counted.elapsed() >= CENSUS_EVERY {
                let census = self.table.read().census();
                self.metrics.table.set_census(&census);
                (counted, is_stale) = (Instant::now(), false);
            }
        }
        Ok(())
    }

    /// Takes over a record. Says whether it says anything.
    fn take(&self, row: &Row<'_>) -> bool {
        let parsed = std::str::from_utf8(row.key).map_err(|error| error.to_string()).and_then(|key| {
            let record = row.value.map(StateRecord::parse).transpose()?;
            Ok((key, record.map(|record| HealthState { health: record.health(), since_ms: record.since_ms() })))
        });
        match parsed {
            Ok((key, standing)) => {
                let table = self.table.read();
                self.standings.said(key, standing, table.get(key).map(|integration| &**integration));
                true
            }
            Err(error) => {
                let (partition, offset) = (row.partition, row.offset);
                tracing::warn!(partition, offset, error, "a record of the health topic cannot be used");
                false
            }
        }
    }
}

/// Nobody waits any more when the process is stopping.
fn tell(ready: &mut Option<oneshot::Sender<()>>) {
    if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
        tracing::debug!("nobody waits for the health topic");
    }
}
