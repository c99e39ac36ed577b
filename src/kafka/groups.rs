//! Asking which topics there are and what a group has committed, without being a member of it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;

use super::client::{ClientLog, group_asker_config};
use super::topic_range::SpanError;
use crate::settings;

/// How long the brokers may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Partitions and the first offset that is not committed, by topic.
pub(crate) type Committed = BTreeMap<String, BTreeMap<i32, i64>>;

/// What `group` has committed of the topics that `wanted` takes; a topic that it has never read has no offsets. Every such topic there
/// is has an entry. Blocks for a bounded time.
///
/// # Errors
/// [`SpanError::Kafka`]
pub(crate) fn committed(
    kafka: &settings::Kafka,
    group: &str,
    role: &'static str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Committed, SpanError> {
    let failed = |source| SpanError::Kafka { topic: format!("of group {group}"), source };
    let client: BaseConsumer<ClientLog> =
        group_asker_config(kafka, role, group).create_with_context(ClientLog::of_tool(role)).map_err(failed)?;
    let metadata = client.fetch_metadata(None, ANSWER_TIMEOUT).map_err(failed)?;
    let mut asked = TopicPartitionList::new();
    let mut committed = Committed::new();
    for topic in metadata.topics().iter().filter(|topic| wanted(topic.name())) {
        committed.entry(topic.name().to_owned()).or_default();
        for partition in topic.partitions() {
            asked.add_partition(topic.name(), partition.id());
        }
    }
    if asked.count() == 0 {
        return Ok(committed);
    }
    let answered = client.committed_offsets(asked, ANSWER_TIMEOUT).map_err(failed)?;
    for element in answered.elements() {
        if let Offset::Offset(offset) = element.offset() {
            committed.entry(element.topic().to_owned()).or_default().insert(element.partition(), offset);
        }
    }
    Ok(committed)
}
