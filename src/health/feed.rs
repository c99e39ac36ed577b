//! Follows the health topic and keeps the states of the integrations' health in this worker up to date.
//!
//! Delivery does not depend on it: if the topic can't be read, or gives nothing, that is logged and tried again. A topic that was
//! created again is read again, and what is not in it any more is forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::records::{RecordError, StateRecord};
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
/// How long reading at start may go on without a record or the end. Then delivery begins without the states.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often the integrations are counted again after changes.
const CENSUS_EVERY: Duration = Duration::from_secs(5);

/// Follows the health topic on a thread of its own.
pub(crate) struct HealthFeed {
    pub(crate) kafka: settings::Kafka,
    /// The health topic.
    pub(crate) topic: String,
    /// The integrations whose health is set.
    pub(crate) table: Arc<RwLock<Table>>,
    /// The states as this worker knows them.
    pub(crate) view: Arc<HealthView>,
    pub(crate) metrics: Arc<Metrics>,
}

impl HealthFeed {
    /// Reads to the end at start, signals `ready`, and follows until `stop`. Signals `ready` also when the topic cannot be read.
    /// Blocks its thread.
    pub(crate) fn run(self, ready: oneshot::Sender<()>, stop: &CancellationToken) {
        let mut ready = Some(ready);
        let mut is_acknowledged = false;
        while !stop.is_cancelled() {
            let error = match self.follow(&mut ready, stop) {
                Ok(()) => break,
                Err(CompactedError::Recreated(_)) => continue,
                Err(error) => error,
            };
            if std::mem::replace(&mut is_acknowledged, true) {
                tracing::debug!(error = chain(&error), "the health topic still cannot be read");
            } else {
                tracing::error!(
                    error = chain(&error),
                    "the health topic cannot be read: suspended integrations are delivered to"
                );
            }
            self.follow_readable(&mut ready, stop);
            signal(&mut ready);
            let until = Instant::now() + AGAIN_AFTER;
            while !stop.is_cancelled() && Instant::now() < until {
                std::thread::park_timeout(POLL_WAIT);
            }
        }
    }

    fn follow(&self, ready: &mut Option<oneshot::Sender<()>>, stop: &CancellationToken) -> Result<(), CompactedError> {
        let mut topic = Compacted::open(&self.kafka, &self.topic, "health")?;
        let mut census = Census::default();
        let mut last_read = Instant::now();
        // What was known before and is not in the topic any more is forgotten.
        let mut unread: Option<HashSet<Box<str>>> = Some(self.view.keys().into_iter().collect());
        while !stop.is_cancelled() {
            let read = topic.read(POLL_WAIT, |row| {
                if let (Some(unread), Ok(key)) = (&mut unread, std::str::from_utf8(row.key)) {
                    unread.remove(key);
                }
                census.is_stale |= self.take(&row);
            })?;
            if read > 0 {
                last_read = Instant::now();
            }
            if topic.is_caught_up() {
                unread.take().into_iter().flatten().for_each(|key| self.apply_health(&key, None));
                signal(ready);
            } else if ready.is_some() && last_read.elapsed() >= SILENCE_MAX {
                tracing::error!(
                    topic = self.topic,
                    "the health topic gives nothing: suspended integrations may be delivered to"
                );
                signal(ready);
            }
            census.look(self);
        }
        Ok(())
    }

    /// While some partitions cannot be read, follows the others: their integrations are suspended and resumed. What is known of any
    /// integration stays known. Returns when all can be read, or nothing can.
    fn follow_readable(&self, ready: &mut Option<oneshot::Sender<()>>, stop: &CancellationToken) {
        let Ok((mut topic, others)) = Compacted::open_readable(&self.kafka, &self.topic, "health") else { return };
        if others.is_empty() {
            return;
        }
        tracing::warn!(topic = self.topic, partitions = ?others, "partitions of the health topic cannot be read at present");
        let (began, mut asked, mut census) = (Instant::now(), Instant::now(), Census::default());
        while !stop.is_cancelled() {
            if let Err(error) = topic.read(POLL_WAIT, |row| census.is_stale |= self.take(&row)) {
                tracing::debug!(error = chain(&error), "the health topic still cannot be read");
                return;
            }
            if topic.is_caught_up() || began.elapsed() >= SILENCE_MAX {
                signal(ready);
            }
            census.look(self);
            if asked.elapsed() >= AGAIN_AFTER {
                if topic.are_readable(&others) {
                    return;
                }
                asked = Instant::now();
            }
        }
    }

    fn apply_health(&self, key: &str, state: Option<HealthState>) {
        let table = self.table.read();
        self.view.apply_health(key, state, table.get(key).map(|integration| &**integration));
    }

    /// Applies a record. Returns whether it could be used.
    fn take(&self, row: &Row<'_>) -> bool {
        let parsed = std::str::from_utf8(row.key).map_err(RecordError::from).and_then(|key| {
            let record = row.value.map(StateRecord::parse).transpose()?;
            Ok((key, record.map(|record| HealthState { health: record.health(), since_ms: record.since_ms() })))
        });
        match parsed {
            Ok((key, state)) => {
                self.apply_health(key, state);
                true
            }
            Err(error) => {
                let (partition, offset) = (row.partition, row.offset);
                tracing::warn!(partition, offset, error = chain(&error), "a record of the health topic cannot be used");
                false
            }
        }
    }
}

/// When the integrations were counted by their health, and whether that has changed since.
struct Census {
    counted: Instant,
    is_stale: bool,
}

impl Default for Census {
    fn default() -> Self {
        Self { counted: Instant::now(), is_stale: false }
    }
}

impl Census {
    fn look(&mut self, feed: &HealthFeed) {
        if self.is_stale && self.counted.elapsed() >= CENSUS_EVERY {
            let census = feed.table.read().census();
            feed.metrics.table.set_census(&census);
            *self = Self::default();
        }
    }
}

/// Signals that delivery may begin. The receiver is gone when the process is stopping.
fn signal(ready: &mut Option<oneshot::Sender<()>>) {
    if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
        tracing::debug!("the start does not wait for the health topic any more");
    }
}
