//! Keeps the table of integrations like the integrations topic.
//!
//! A record that can't be used changes nothing: it is counted, logged with its key and the reason, and the previous good
//! record of its key, if this process has read one, stays in force.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::integration::{Integration, Unusable};
use crate::domain::table::Table;
use crate::health::view::HealthView;
use crate::kafka::table_reader::{Compacted, CompactedError, Row};
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long a poll waits for a change: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// The shortest time between two counts of the whole table.
const CENSUS_EVERY: Duration = Duration::from_secs(1);

/// Follows the integrations topic on a thread of its own.
pub(crate) struct TableFeed {
    topic: Compacted,
    table: Arc<RwLock<Table>>,
    metrics: Arc<Metrics>,
    /// Asked and told of each integration that comes.
    standings: Arc<HealthView>,
}

impl TableFeed {
    /// Starts to read the topic. Blocks.
    ///
    /// # Errors
    /// [`CompactedError`]
    pub(crate) fn open(
        kafka: &settings::Kafka,
        topic: &str,
        table: Arc<RwLock<Table>>,
        metrics: Arc<Metrics>,
        standings: Arc<HealthView>,
    ) -> Result<Self, CompactedError> {
        Ok(Self { topic: Compacted::open(kafka, topic, "integrations")?, table, metrics, standings })
    }

    /// Reads to the end there was, tells `ready`, and follows until `stop`. Blocks its thread.
    ///
    /// # Errors
    /// The consumer can't go on.
    pub(crate) fn run(mut self, ready: oneshot::Sender<()>, stop: &CancellationToken) -> Result<(), CompactedError> {
        let began = Instant::now();
        let mut ready = Some(ready);
        let (mut counted, mut uncounted) = (began, false);
        while !stop.is_cancelled() {
            let mut changes = Vec::new();
            let read = self.topic.read(POLL_WAIT, |row| changes.extend(change_of(&row, &self.metrics)))?;
            let bootstrapping = ready.is_some();
            if !changes.is_empty() {
                self.apply(changes, !bootstrapping);
            }
            if bootstrapping && self.topic.is_caught_up() {
                self.apply(Vec::new(), true);
                self.census();
                let took = began.elapsed();
                self.metrics.table.bootstrap_seconds.set(took.as_secs_f64());
                let integrations = self.table.read().len();
                tracing::info!(integrations, seconds = took.as_secs_f64(), "the integrations topic is read");
                // Nobody waits any more when the process is stopping.
                if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
                    return Ok(());
                }
            }
            uncounted |= read > 0;
            if uncounted && ready.is_none() && counted.elapsed() >= CENSUS_EVERY {
                self.census();
                (counted, uncounted) = (Instant::now(), false);
            }
        }
        Ok(())
    }

    /// Takes over changes: `live` ones, or those that were there before this process. The lock is held for the changes
    /// of one batch.
    fn apply(&self, changes: Vec<Change>, live: bool) {
        let mut table = self.table.write();
        for change in changes {
            match change {
                Change::Put(integration, written_ms) => {
                    let before = table.get(integration.key());
                    self.standings.apply_integration(before.map(|before| &**before), &integration, written_ms, live);
                    table.put(integration);
                }
                Change::Remove(key) => {
                    table.remove(&key);
                }
            }
        }
        if live {
            table.settle();
        }
    }

    fn census(&self) {
        let census = self.table.read().census();
        self.metrics.table.set_census(&census);
    }
}

enum Change {
    /// With the time at which its record was written, ms since 1970.
    Put(Arc<Integration>, i64),
    Remove(String),
}

fn change_of(row: &Row<'_>, metrics: &Metrics) -> Option<Change> {
    let parsed = std::str::from_utf8(row.key).map_err(|_invalid| Unusable::Key).and_then(|key| match row.value {
        None => Ok(Change::Remove(key.to_owned())),
        Some(value) => Integration::parse(key, value).map(|integration| {
            for header in integration.unsendable_headers() {
                let header: String = header.chars().take(64).collect();
                tracing::warn!(key, header, "a header of an integration's secrets can not be sent and is left out");
            }
            Change::Put(Arc::new(integration), row.timestamp_ms)
        }),
    });
    match parsed {
        Ok(change) => {
            match &change {
                Change::Put(..) => metrics.table.records_used.inc(),
                Change::Remove(_) => metrics.table.records_removed.inc(),
            }
            Some(change)
        }
        Err(error) => {
            metrics.table.records_unusable.inc();
            let key = String::from_utf8_lossy(row.key).chars().take(128).collect::<String>();
            tracing::warn!(
                key,
                partition = row.partition,
                offset = row.offset,
                %error,
                "a record of the integrations topic can not be used; the one before, if there is one, stays in force here"
            );
            None
        }
    }
}
