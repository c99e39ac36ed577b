//! Keeps the table of integrations up to date with the integrations topic.
//!
//! A record that can't be used changes nothing: it is counted, logged with its key and the reason, and the previous good record of its
//! key, if this process has read one, stays in force. Of two records of one key in two partitions, which happens when partitions were
//! added, the newer one counts. A topic that was created again is read from its start; the table stays in force until that is done. Then
//! what is not in the topic any more is removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::table_writer::{Change, TableWriter};
use crate::clock;
use crate::domain::guid::canonical_key;
use crate::domain::integration::{Integration, Unusable};
use crate::domain::key_homes::KeyHomes;
use crate::domain::signature::KEYS_MAX;
use crate::domain::table::Table;
use crate::health::view::HealthView;
use crate::kafka::table_reader::{Compacted, CompactedError, Row};
use crate::settings;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::Metrics;

/// The longest that a poll waits for a change: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// The shortest time between two counts of the whole table.
const CENSUS_EVERY: Duration = Duration::from_secs(1);
/// How long until a topic that was created again and can't be read yet is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the feed fills and informs.
pub(crate) struct TableTargets {
    /// The table.
    pub(crate) table: Arc<RwLock<Table>>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
    /// Gets each integration that is read.
    pub(crate) health: Arc<HealthView>,
}

/// Follows the integrations topic on a thread of its own.
pub(crate) struct TableFeed {
    kafka: settings::Kafka,
    name: String,
    topic: Compacted,
    table: Arc<RwLock<Table>>,
    writer: TableWriter,
    metrics: Arc<Metrics>,
    homes: KeyHomes,
    /// Keys that were read since the topic was opened again. `None`: it was opened only once.
    reread: Option<HashSet<Box<str>>>,
}

impl TableFeed {
    /// Starts to read the topic. Blocks.
    ///
    /// # Errors
    /// [`CompactedError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: &str, targets: TableTargets) -> Result<Self, CompactedError> {
        let TableTargets { table, metrics, health } = targets;
        Ok(Self {
            kafka: kafka.clone(),
            name: topic.to_owned(),
            topic: Compacted::open(kafka, topic, ROLE)?,
            writer: TableWriter::new(Arc::clone(&table), health),
            table,
            metrics,
            homes: KeyHomes::default(),
            reread: None,
        })
    }

    /// Reads to the end at start, signals `ready`, and follows until `stop`. Blocks its thread.
    ///
    /// # Errors
    /// The consumer can't go on.
    pub(crate) fn run(mut self, ready: oneshot::Sender<()>, stop: &CancellationToken) -> Result<(), CompactedError> {
        let began = Instant::now();
        let mut ready = Some(ready);
        let (mut counted, mut uncounted) = (began, false);
        while !stop.is_cancelled() {
            match self.read() {
                Err(CompactedError::Recreated(_)) => {
                    self.reopen(stop);
                    continue;
                }
                read => read?,
            }
            self.export_held_up();
            if self.topic.is_caught_up() {
                self.forget_unread();
            }
            uncounted |= self.writer.write_due();
            if ready.is_some() && self.topic.is_caught_up() {
                self.writer.begin();
                self.census();
                self.say_read(began.elapsed());
                // The receiver is gone when the process is stopping.
                if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
                    return Ok(());
                }
            }
            if uncounted && ready.is_none() && counted.elapsed() >= CENSUS_EVERY {
                self.census();
                (counted, uncounted) = (Instant::now(), false);
            }
        }
        Ok(())
    }

    /// Reads a batch, until the next write is due at the latest.
    fn read(&mut self) -> Result<(), CompactedError> {
        let wait = self.writer.due_in(Instant::now()).map_or(POLL_WAIT, |due| due.min(POLL_WAIT));
        let Self { topic, writer, metrics, homes, reread, .. } = self;
        topic.read(wait, |row| {
            if !homes.takes(row.key, row.partition, row.timestamp_ms) {
                return;
            }
            let Some(change) = change_of(&row, metrics) else { return };
            if let Some(reread) = reread {
                match &change {
                    Change::Put { integration, .. } => _ = reread.insert(integration.key().into()),
                    Change::Remove(key) => _ = reread.remove(key),
                }
            }
            writer.take(change);
        })?;
        Ok(())
    }

    fn say_read(&self, took: Duration) {
        self.metrics.table.bootstrap_seconds.set(took.as_secs_f64());
        let integrations = self.table.read().len();
        tracing::info!(integrations, seconds = took.as_secs_f64(), "the integrations topic is read");
    }

    /// Reads the topic again from its start. What is known stays in force until that is done.
    fn reopen(&mut self, stop: &CancellationToken) {
        self.writer.write_all();
        self.homes = KeyHomes::default();
        self.reread = Some(HashSet::new());
        while !stop.is_cancelled() {
            match Compacted::open(&self.kafka, &self.name, ROLE) {
                Ok(topic) => {
                    self.topic = topic;
                    return;
                }
                Err(error) => tracing::warn!(error = chain(&error), "the integrations topic is not there again yet"),
            }
            std::thread::park_timeout(AGAIN_AFTER);
        }
    }

    /// Removes integrations that are not in the topic any more, after it was read again.
    fn forget_unread(&mut self) {
        let Some(read) = self.reread.take() else { return };
        let table = self.table.read();
        let keys = table.iter().map(|integration| integration.key());
        let gone: Vec<Box<str>> = keys.filter(|key| !read.contains(*key)).map(Into::into).collect();
        drop(table);
        tracing::warn!(read = read.len(), removed = gone.len(), "the integrations topic is read again");
        for key in gone {
            self.writer.take(Change::Remove(key));
        }
        self.writer.write_all();
        self.census();
    }

    fn census(&self) {
        let census = self.table.read().census();
        self.metrics.table.set_census(&census);
    }

    fn export_held_up(&mut self) {
        let held: Vec<i32> = self.topic.held_up().map(|held| held.partition).collect();
        self.metrics.intake.open_transactions.follow(&self.name, &held);
    }
}

/// What the clients of the feed are called in logs.
const ROLE: &str = "integrations";

/// Logs which secrets of a record cannot be used at `now_s`, seconds since 1970, and returns whether there are any: their owner has no
/// other way to see it.
fn say_what_is_left_out(key: &str, integration: &Integration, now_s: i64) -> bool {
    let short = |name: &str| name.chars().take(64).collect::<String>();
    let mut left_out = false;
    for header in integration.unsendable_headers() {
        left_out = true;
        tracing::warn!(
            key,
            header = short(header),
            "a header of an integration's secrets cannot be sent and is left out"
        );
    }
    for secret in integration.unknown_secrets() {
        left_out = true;
        tracing::warn!(
            key,
            secret = short(secret),
            "a secret of an integration has an id that means nothing and is not used"
        );
    }
    let secrets = integration.unusable_signing_secrets();
    if secrets > 0 {
        tracing::warn!(
            key,
            secrets,
            "a signing secret of an integration is not whsec_ and base64 of 24 to 64 bytes: it signs nothing"
        );
    }
    let surplus = integration.surplus_signing_secrets(now_s);
    if surplus > 0 {
        tracing::warn!(
            key,
            surplus,
            most = KEYS_MAX,
            "an integration has more signing secrets than sign a delivery: the last of them sign nothing"
        );
    }
    left_out || secrets > 0 || surplus > 0
}

fn change_of(row: &Row<'_>, metrics: &Metrics) -> Option<Change> {
    let parsed = std::str::from_utf8(row.key).map_err(|_invalid| Unusable::Key).and_then(|key| match row.value {
        None => Ok(Change::Remove(canonical_key(key).into())),
        Some(value) => Integration::parse(key, value).map(|integration| {
            let left_out = say_what_is_left_out(key, &integration, clock::now_ms() / 1_000);
            let metrics = &metrics.table;
            if left_out { &metrics.records_used_in_part } else { &metrics.records_used }.inc();
            Change::Put { integration: Arc::new(integration), written_ms: row.timestamp_ms }
        }),
    });
    match parsed {
        Ok(change) => {
            if let Change::Remove(_) = &change {
                metrics.table.records_removed.inc();
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
                "integration record rejected; this worker keeps the previous version, if any"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logs::testing::logged;

    #[test]
    fn what_of_a_record_has_no_effect_is_said_once_and_without_the_secret() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signing = |value: &str| format!(r#"{{"id":"webhook.signingSecret","value":"{value}"}}"#);
        let header = |name: &str| format!(r#"{{"id":"webhook.header.{name}","value":"hunter22"}}"#);
        let said = |secrets: &[String]| {
            let record = format!(r#"{{"secrets":[{}]}}"#, secrets.join(","));
            let integration = Integration::parse("ws/i", record.as_bytes()).unwrap();
            let mut left_out = false;
            let said = logged(|| left_out = say_what_is_left_out("ws/i", &integration, 0));
            assert_eq!(left_out, !said.is_empty());
            assert!(!said.contains("whsec_M") && !said.contains("hunter22"), "{said}");
            said
        };
        assert_eq!(said(&[header("X-Key"), signing(key)]), "");
        for (secrets, part) in [
            (vec![header("User-Agent")], "header=\"User-Agent\""),
            (vec![header("Content-Length")], "header=\"Content-Length\""),
            (vec![signing("hunter22")], "signs nothing"),
            (vec![signing(key); KEYS_MAX + 1], "surplus=1 most=8"),
        ] {
            let said = said(&secrets);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
