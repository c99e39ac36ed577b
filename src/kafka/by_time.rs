//! The first record of a time or later in each partition of a topic. Brokers are asked; where they keep no index by time, as the
//! embedded one of the demo, records are looked at. Nothing here reads a record's contents.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use super::client::ClientLog;
use super::record_stream::is_transient;
use super::span::{ANSWER_TIMEOUT, Range};

/// How long one look at a record may take. A partition that gives nothing for so long has no record there.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long one poll waits.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// For each of `bounds` the first offset of a record of that time or later, or its end. Blocks for a bounded time.
///
/// # Errors
/// Kafka refuses, or does not answer.
pub(super) fn offsets_at(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    bounds: &[Range],
    timestamp_ms: i64,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let found = asked_at(consumer, topic, bounds, timestamp_ms)?;
    // Every record is younger than 1970. Brokers that find no record in a partition that has some keep no index.
    let is_open = bounds.iter().any(|range| !range.is_empty() && !found.contains_key(&range.partition));
    let has_index = !is_open || !asked_at(consumer, topic, bounds, 0)?.is_empty();
    let mut offsets = BTreeMap::new();
    for range in bounds {
        let at = match found.get(&range.partition) {
            Some(offset) => (*offset).min(range.end),
            None if has_index => range.end,
            None => first_not_older(consumer, topic, *range, timestamp_ms)?,
        };
        offsets.insert(range.partition, at);
    }
    Ok(offsets)
}

/// The offset that brokers name for that time, by partition. A partition without such a record is left out.
fn asked_at(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    bounds: &[Range],
    timestamp_ms: i64,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    for range in bounds {
        asked.add_partition_offset(topic, range.partition, Offset::Offset(timestamp_ms.max(0)))?;
    }
    let mut offsets = BTreeMap::new();
    for element in consumer.offsets_for_times(asked, ANSWER_TIMEOUT)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}

/// Where the first record that is not older than `timestamp_ms` stands in `range`, or the range's end. Halves the range with each look,
/// so it blocks for the logarithm of its length times [`LOOK_MAX`] at worst.
///
/// # Errors
/// Kafka refuses.
fn first_not_older(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    range: Range,
    timestamp_ms: i64,
) -> Result<i64, KafkaError> {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match look(consumer, topic, range.partition, middle)? {
            Some((offset, at)) if offset < high && at < timestamp_ms => low = offset + 1,
            Some(_) | None => high = middle,
        }
    }
    consumer.unassign()?;
    Ok(low)
}

/// Offset and time of the first record at `offset` or after it.
fn look(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<(i64, i64)>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&assignment)?;
    let until = Instant::now() + LOOK_MAX;
    while Instant::now() < until {
        match consumer.poll(POLL_WAIT) {
            Some(Ok(message)) if message.partition() == partition && message.offset() >= offset => {
                return Ok(Some((message.offset(), message.timestamp().to_millis().unwrap_or_default())));
            }
            Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => return Ok(None),
            Some(Err(error)) if !is_transient(&error) => return Err(error),
            Some(_) | None => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;
    use crate::kafka::topic_range::TopicRange;
    use crate::settings;

    #[test]
    fn a_time_is_found_on_brokers_that_keep_no_index_by_time() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("log", 2, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        for at in [1_000, 2_000, 2_000, 3_000, 5_000] {
            let record = BaseRecord::<(), str>::to("log").partition(0).payload("x").timestamp(at);
            producer.send(record).map_err(|(error, _)| error).expect("a record");
            producer.flush(Duration::from_secs(10)).expect("its acknowledgement");
        }
        let kafka =
            settings::Kafka { brokers, group: "hookstream".to_owned(), instance_id: None, properties: Vec::new() };
        let log = TopicRange::open(&kafka, "log", "test").expect("the topic");
        for (at, offset) in [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (2_001, 3), (4_000, 4), (5_000, 4), (5_001, 5)]
        {
            let found = log.offsets_at(at).expect("an answer");
            assert_eq!((found[&0], found[&1]), (offset, 0), "at {at}");
        }
    }
}
