//! The records that an owner writes for one partition in one transaction, and what it logs about them. [`super::owner`] decides when
//! they are written.

use std::collections::BTreeMap;

use super::records::{StateRecord, counts_record};
use super::rules::{Change, Health, IntegrationHealth};
use crate::kafka::transactions::Written;

/// Logs a change of state. A suspension is a warning with its reasons, since events are dropped from then on.
pub(super) fn log_change(integration: &str, known: &IntegrationHealth) {
    let status = known.health.word();
    if known.health != Health::Failed {
        return tracing::info!(integration, status, "the health of an integration changed");
    }
    let state = StateRecord::of(known);
    tracing::warn!(
        integration,
        status,
        failures = state.failures_in_words(),
        last_status = state.last_status(),
        last_acknowledged_at = state.last_acknowledged_at().map(tracing::field::display),
        "an integration is suspended: nothing is delivered to it until it is resumed"
    );
}

/// The records to write of one partition.
pub(super) struct Entry {
    pub(super) changes: Vec<Change>,
    pub(super) counted: Vec<(Box<str>, IntegrationHealth)>,
    pub(super) forgotten: Vec<Box<str>>,
}

impl Entry {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.counted.is_empty() && self.forgotten.is_empty()
    }

    /// The records: changes for the health topic, counts for the topic of counts.
    pub(super) fn records(&self, partition: i32, health_topic: &str, counts_topic: &str) -> Vec<Written> {
        let written = |topic: &str, key: &str, value: Option<Vec<u8>>| Written {
            topic: topic.to_owned(),
            partition,
            key: key.into(),
            value,
        };
        let changes = self.changes.iter().flat_map(|Change { key, known }| {
            [
                written(health_topic, key, Some(StateRecord::of(known).value())),
                written(counts_topic, key, Some(counts_record(known))),
            ]
        });
        let is_written = |key: &str| self.changes.iter().any(|change| &*change.key == key);
        let counted = self.counted.iter().filter(|(key, _)| !is_written(key));
        let counted = counted.map(|(key, known)| written(counts_topic, key, Some(counts_record(known))));
        let forgotten = self.forgotten.iter().map(|key| written(counts_topic, key, None));
        changes.chain(counted).chain(forgotten).collect()
    }

    /// The integrations whose counts are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|change| &*change.key).chain(self.counted.iter().map(|(key, _)| &**key))
    }
}

/// The offsets of a transaction: at least one for each partition that is written. Only for offsets does Kafka refuse the transaction
/// of a member that has lost its partitions.
pub(super) fn with_fence(
    offsets: &BTreeMap<i32, i64>,
    entries: &BTreeMap<i32, Entry>,
    committed: &BTreeMap<i32, i64>,
) -> BTreeMap<i32, i64> {
    let written = entries.iter().filter(|(_, entry)| !entry.is_empty()).map(|(partition, _)| *partition);
    let fence = written.map(|partition| (partition, committed.get(&partition).copied().unwrap_or_default()));
    let mut all: BTreeMap<i32, i64> = fence.collect();
    all.extend(offsets);
    all
}
