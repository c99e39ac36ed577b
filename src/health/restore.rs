//! Loads what a former owner has written about the integrations of its partitions.
//!
//! The order matters. The caller asks for the committed offsets first, since Kafka returns them only when no transaction is open on
//! them. Then come the real ends of the topics; then the topics are read, once all transactions up to there have ended ([`Compacted`]
//! does both). So everything that was written together with an offset is read, also if its marker comes late.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::records::{RecordError, StateRecord, parse_counts};
use super::rules::{Health, IntegrationHealth, PartitionHealth};
use crate::domain::topic_names::{counts_topic, deltas_topic};
use crate::kafka::client::{ClientLog, uncommitted_config};
use crate::kafka::table_reader::{Compacted, CompactedError};
use crate::kafka::topic_watch::ends;
use crate::settings;
use crate::telemetry::chain::chain;

/// The name of the clients in logs.
const ROLE: &str = "health-load";
/// How long a broker may take to answer where a partition ends.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why nothing can be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// What a former owner has written can't be read to its end.
    #[error(transparent)]
    Topic(#[from] CompactedError),
    /// Kafka can't be asked where the deltas end.
    #[error("the end of a partition is not known")]
    End(#[source] KafkaError),
}

/// What is known of the integrations of a partition.
type Table = BTreeMap<String, IntegrationHealth>;

/// The health of some partitions. For a state the health topic decides: the other two topics may be older, or created again, and every
/// worker obeys the health topic. Blocks.
///
/// # Errors
/// [`LoadError`] if any of the partitions can't be read.
pub(crate) fn load(
    kafka: &settings::Kafka,
    health_topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, PartitionHealth>, LoadError> {
    let mut states = read(kafka, health_topic, partitions, |value| Ok(StateRecord::parse(value)?.known()))?;
    let mut counts = read(kafka, &counts_topic(health_topic), partitions, parse_counts)?;
    let deltas = deltas_topic(health_topic);
    let asker = uncommitted_config(kafka, ROLE).create_with_context(ClientLog::new(ROLE)).map_err(LoadError::End)?;
    let ends = ends::<ClientLog>(&asker, &deltas, partitions, ASK_TIMEOUT).map_err(LoadError::End)?;
    let mut books = BTreeMap::new();
    for partition in partitions {
        let end = ends.get(partition).copied().unwrap_or_default();
        let mut book = PartitionHealth::default();
        let mut corrected = 0;
        let (states, counts) = (states.remove(partition), counts.remove(partition));
        for (key, known) in merged(states.unwrap_or_default(), counts.unwrap_or_default()) {
            let (known, is_corrected) = of_log(known, end);
            corrected += u32::from(is_corrected);
            book.load(&key, known);
        }
        if corrected > 0 {
            tracing::error!(
                topic = deltas,
                partition,
                end,
                integrations = corrected,
                "a topic of health counts was created again; its records count from its start"
            );
        }
        books.insert(*partition, book);
    }
    Ok(books)
}

/// Counts with the states that the health topic has.
fn merged(states: Table, counts: Table) -> Table {
    let mut all = states;
    for (key, counted) in counts {
        let state = all.remove(&key).unwrap_or_default();
        let is_same = (state.health, state.since_ms) == (counted.health, counted.since_ms);
        if !is_same && (counted.health != Health::Active || state.health != Health::Active) {
            let (state, counted) = (state.health.word(), counted.health.word());
            tracing::warn!(
                key,
                state,
                counted,
                "the health topic and the counts differ; the health topic's state holds"
            );
        }
        let known = IntegrationHealth {
            health: state.health,
            since_ms: state.since_ms.or(counted.since_ms.filter(|_| is_same)),
            first_dropped: if is_same { counted.first_dropped } else { state.first_dropped },
            ..counted
        };
        all.insert(key, known);
    }
    all
}

/// What is known, with its offset set to 0 if it lies beyond the log's end; and whether it was.
fn of_log(known: IntegrationHealth, end: i64) -> (IntegrationHealth, bool) {
    if known.next_offset <= end { (known, false) } else { (IntegrationHealth { next_offset: 0, ..known }, true) }
}

/// Reads some partitions of a topic to their ends. Only the newest value of a key is parsed.
fn read(
    kafka: &settings::Kafka,
    topic: &str,
    partitions: &[i32],
    parse: impl Fn(&[u8]) -> Result<IntegrationHealth, RecordError>,
) -> Result<BTreeMap<i32, Table>, CompactedError> {
    let mut values: BTreeMap<i32, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    Compacted::open_part(kafka, topic, ROLE, partitions)?.read_to_end(|row| {
        let Ok(key) = std::str::from_utf8(row.key) else { return };
        let values = values.entry(row.partition).or_default();
        match row.value {
            Some(value) => values.insert(key.to_owned(), value.to_vec()),
            None => values.remove(key),
        };
    })?;
    Ok(values.into_iter().map(|(partition, values)| (partition, parsed(values, &parse))).collect())
}

fn parsed(values: BTreeMap<String, Vec<u8>>, parse: impl Fn(&[u8]) -> Result<IntegrationHealth, RecordError>) -> Table {
    let parsed = values.into_iter().filter_map(|(key, value)| match parse(&value) {
        Ok(known) => Some((key, known)),
        Err(error) => {
            tracing::warn!(key, error = chain(&error), "what is known of an integration's health cannot be read");
            None
        }
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(health: Health, since_ms: i64) -> IntegrationHealth {
        IntegrationHealth::default().changed(health, since_ms)
    }

    fn table(known: IntegrationHealth) -> Table {
        [("ws/i".to_owned(), known)].into()
    }

    #[test]
    fn the_state_comes_from_the_health_topic_and_the_counts_from_the_counts_topic() {
        let counted = IntegrationHealth { next_offset: 7, ..state(Health::Failed, 1_000) };
        let both = merged(table(state(Health::Active, 2_000)), table(counted.clone())).remove("ws/i").unwrap();
        assert_eq!((both.health, both.since_ms, both.next_offset), (Health::Active, Some(2_000), 7));
        let gone = merged(Table::new(), table(counted.clone())).remove("ws/i").unwrap();
        assert_eq!((gone.health, gone.since_ms), (Health::Active, None), "workers deliver to it");
        let same = merged(table(state(Health::Failed, 1_000)), table(counted.clone())).remove("ws/i").unwrap();
        assert_eq!(same, counted);
        let only = merged(table(state(Health::Failed, 1_000)), Table::new()).remove("ws/i").unwrap();
        assert_eq!((only.health, only.next_offset), (Health::Failed, 0));
    }

    #[test]
    fn an_offset_of_another_log_is_set_back() {
        let known = IntegrationHealth { next_offset: 700, ..IntegrationHealth::default() };
        assert_eq!(of_log(known.clone(), 12).0.next_offset, 0);
        assert_eq!(of_log(known, 700).0.next_offset, 700);
    }
}
