//! Loads what an owner before has written down about the integrations of its partitions.
//!
//! The order matters: the committed offsets first, since Kafka gives them only when no transaction is open on them; then
//! where the topics really end; then reading, once all transactions up to there have ended. So whatever went with an offset
//! is read, also when its marker comes late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use super::records::{StateRecord, parse_counts};
use super::rules::{IntegrationHealth, PartitionHealth};
use crate::kafka::client::{ClientLog, table_consumer_config, uncommitted_config};
use crate::settings;
use crate::topics::names::counts_topic;

/// How long a broker may take to say where a partition ends.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the transactions of an owner before may stay open: their own time-out, and a broker's round of looking.
const OPEN_MAX: Duration = Duration::from_mins(1);
/// How long reading may take.
const READ_MAX: Duration = Duration::from_mins(2);
/// How long until a partition's end is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why nothing can be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Kafka can't be asked.
    #[error("{what}")]
    Kafka {
        /// What was done.
        what: &'static str,
        /// What the client says.
        source: KafkaError,
    },
    /// It takes too long.
    #[error("{0}")]
    Late(&'static str),
}

/// What is known of the integrations of a topic's partitions.
type Tables = BTreeMap<i32, BTreeMap<String, IntegrationHealth>>;

/// The books of some partitions. Blocks.
///
/// # Errors
/// [`LoadError`]
pub(crate) fn load(
    kafka: &settings::Kafka,
    health_topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, PartitionHealth>, LoadError> {
    let states = read(kafka, health_topic, partitions, |value| Ok(StateRecord::parse(value)?.known()))?;
    let counts = read(kafka, &counts_topic(health_topic), partitions, parse_counts)?;
    let mut books: BTreeMap<i32, PartitionHealth> =
        partitions.iter().map(|partition| (*partition, PartitionHealth::default())).collect();
    // The states first: counts know more.
    for (partition, table) in states.into_iter().chain(counts) {
        let Some(book) = books.get_mut(&partition) else { continue };
        for (key, known) in table {
            book.load(&key, known);
        }
    }
    Ok(books)
}

/// Reads some partitions of a topic to their ends.
fn read(
    kafka: &settings::Kafka,
    topic: &str,
    partitions: &[i32],
    parse: impl Fn(&[u8]) -> Result<IntegrationHealth, String>,
) -> Result<Tables, LoadError> {
    let failed = |what| move |source| LoadError::Kafka { what, source };
    let reader: BaseConsumer<ClientLog> = table_consumer_config(kafka, "health-load")
        .create_with_context(ClientLog::new("health-load"))
        .map_err(failed("no client"))?;
    wait_until_closed(kafka, &reader, topic, partitions)?;
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let added = assignment.add_partition_offset(topic, *partition, Offset::Beginning);
        added.map_err(failed("no assignment"))?;
    }
    reader.assign(&assignment).map_err(failed("no assignment"))?;
    drop(assignment);
    let deadline = Instant::now() + READ_MAX;
    let mut behind: BTreeSet<i32> = partitions.iter().copied().collect();
    let mut tables = Tables::new();
    while !behind.is_empty() {
        if Instant::now() >= deadline {
            return Err(LoadError::Late("what an owner before has written cannot be read to its end in time"));
        }
        match reader.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                let table = tables.entry(message.partition()).or_default();
                take(table, message.key(), message.payload(), &parse);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                behind.remove(&partition);
            }
            Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                return Err(LoadError::Kafka { what: "what an owner before has written cannot be read", source });
            }
            Some(Err(error)) => tracing::debug!(%error, "a poll failed"),
        }
    }
    Ok(tables)
}

/// Waits until the transactions have ended that were open on these partitions.
fn wait_until_closed(
    kafka: &settings::Kafka,
    reader: &BaseConsumer<ClientLog>,
    topic: &str,
    partitions: &[i32],
) -> Result<(), LoadError> {
    let failed = |source| LoadError::Kafka { what: "the end of a partition is not known", source };
    let asker: BaseConsumer<ClientLog> =
        uncommitted_config(kafka, "health-load").create_with_context(ClientLog::new("health-load")).map_err(failed)?;
    let deadline = Instant::now() + OPEN_MAX;
    for partition in partitions {
        let (_, end) = asker.fetch_watermarks(topic, *partition, ASK_TIMEOUT).map_err(failed)?;
        // To a client that reads what is committed, a partition ends before the first open transaction.
        while reader.fetch_watermarks(topic, *partition, ASK_TIMEOUT).map_err(failed)?.1 < end {
            if Instant::now() >= deadline {
                return Err(LoadError::Late("a transaction of an owner before is still open"));
            }
            std::thread::park_timeout(ASK_AGAIN_AFTER);
        }
    }
    Ok(())
}

fn take(
    table: &mut BTreeMap<String, IntegrationHealth>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    parse: impl Fn(&[u8]) -> Result<IntegrationHealth, String>,
) {
    let Some(key) = key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
    match value.map(parse) {
        None => {
            table.remove(key);
        }
        Some(Ok(known)) => {
            table.insert(key.to_owned(), known);
        }
        Some(Err(error)) => tracing::warn!(key, error, "what is known of an integration's health cannot be read"),
    }
}
