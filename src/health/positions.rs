//! How far the events consumer group has come. It is asked without membership in the group.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use tokio::time::Instant;

use crate::backlog::places;
use crate::backlog::record::PlaceTable;
use crate::kafka::client::{ClientLog, group_asker_config};
use crate::kafka::listing::partitions_of;
use crate::kafka::table_reader::CompactedError;
use crate::settings;

/// How long a broker may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the backlog topic may take to be read.
const PLACES_TIMEOUT: Duration = Duration::from_secs(30);

/// Why it is not known how far the group has come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PositionsError {
    /// A broker does not say what is committed.
    #[error("the committed offsets are not known")]
    Committed(#[from] KafkaError),
    /// The backlog topic can't be read.
    #[error("the places of webhooks that are behind are not known")]
    Places(#[from] CompactedError),
    /// The backlog topic was not read to its end in time.
    #[error("the backlog topic takes longer than {PLACES_TIMEOUT:?} to read")]
    Late,
}

/// Asks how far a group has come.
pub(crate) struct Positions {
    asker: BaseConsumer<ClientLog>,
    topic: String,
}

impl Positions {
    /// Asks for the group that reads `topic`.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(kafka: &settings::Kafka, topic: &str) -> Result<Self, KafkaError> {
        let config = group_asker_config(kafka, "positions", &kafka.group);
        Ok(Self { asker: config.create_with_context(ClientLog::new("positions"))?, topic: topic.to_owned() })
    }

    /// By partition, a lower bound for the offsets of all events that are settled from now on: the committed offset, or the beginning of
    /// the partition. Blocks.
    ///
    /// # Errors
    /// A broker does not answer.
    pub(crate) fn committed(&self) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let partitions = partitions_of(self.asker.client(), &self.topic, ASK_TIMEOUT)?;
        let mut asked = TopicPartitionList::new();
        for partition in &partitions {
            asked.add_partition(&self.topic, *partition);
        }
        let answered = self.asker.committed_offsets(asked, ASK_TIMEOUT)?;
        let mut positions = BTreeMap::new();
        for element in answered.elements() {
            let (low, _) = match element.offset() {
                Offset::Offset(offset) => (offset, offset),
                _ => self.asker.fetch_watermarks(&self.topic, element.partition(), ASK_TIMEOUT)?,
            };
            positions.insert(element.partition(), low);
        }
        Ok(positions)
    }

    /// The same as [`Positions::committed`], with the places of webhooks that are behind. Blocks.
    ///
    /// # Errors
    /// [`PositionsError`]
    pub(crate) fn with_places(
        &self,
        kafka: &settings::Kafka,
        backlog_topic: &str,
    ) -> Result<(BTreeMap<i32, i64>, PlaceTable), PositionsError> {
        // The order matters: the places are read after the offsets, so an offset that is committed meanwhile has its place.
        let positions = self.committed()?;
        let deadline = Instant::now() + PLACES_TIMEOUT;
        let is_over = || Instant::now() >= deadline;
        let table = places::read(kafka, backlog_topic, is_over)?;
        if is_over() { Err(PositionsError::Late) } else { Ok((positions, table)) }
    }
}

/// By partition, the earliest offset from which events may be dropped when an integration is suspended: the group's, or the place of one
/// of its webhooks.
pub(crate) fn first_dropped(positions: &BTreeMap<i32, i64>, places: &PlaceTable, key: &str) -> BTreeMap<i32, i64> {
    let mut first = positions.clone();
    for place in places.places().filter(|place| place.integration == key) {
        let offset = first.entry(place.partition).or_insert(place.offset);
        *offset = place.offset.min(*offset);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_begin_at_the_place_of_the_integrations_webhook_or_at_the_groups_offset() {
        let mut places = PlaceTable::default();
        for (key, integration, partition, offset) in [
            ("a", "ws/i", 0, 5),
            ("b", "ws/i", 0, 7),
            ("c", "ws/i", 2, 3),
            ("d", "ws/other", 1, 1),
            ("e", "ws/i", 1, 90),
        ] {
            let value = format!(
                r#"{{"version":1,"group":"g","partition":{partition},"integration":"{integration}","webHook":"{key}","offset":{offset},"reason":"lane-full","sinceMs":7,"epoch":1}}"#
            );
            places.take(key.as_bytes(), Some(value.as_bytes()), None).unwrap();
        }
        let positions = BTreeMap::from([(0, 40), (1, 50), (3, 60)]);
        let first = first_dropped(&positions, &places, "ws/i");
        assert_eq!(first, BTreeMap::from([(0, 5), (1, 50), (2, 3), (3, 60)]));
    }
}
