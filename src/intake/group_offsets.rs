//! What a group has committed and where its partitions end, as the client library gives and takes it. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaErrorCode;

use crate::kafka::topic_watch::ends;
use crate::telemetry::panics::caught;

/// How long the coordinator may take to say where a new partition was left off. It is asked again at the next turn.
pub(super) const OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);
/// Together the two seconds that a coordinator may need to hand out an assignment.
const COMMIT_TRIES: u32 = 20;
/// Between two tries.
const COMMIT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Topic and number.
pub(super) type Partition = (Arc<str>, i32);

/// Commits and waits for the answer. While the members of a group agree on a new assignment, its coordinator takes no commits. That ends
/// soon, and without the help of this thread.
pub(super) fn commit_now<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
) -> KafkaResult<()> {
    let mut tries = COMMIT_TRIES;
    loop {
        let committed = consumer.commit(offsets, CommitMode::Sync);
        tries -= 1;
        match committed {
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::RebalanceInProgress)) if tries > 0 => {
                #[expect(clippy::disallowed_methods, reason = "the member's own thread, which waits here anyway")]
                std::thread::sleep(COMMIT_AGAIN_AFTER);
            }
            committed => return committed,
        }
    }
}

/// Where the partitions of `list` end, as far as brokers answer in time.
pub(super) fn ends_of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> BTreeMap<Partition, i64> {
    let mut by_topic: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for element in list.elements() {
        by_topic.entry(element.topic().into()).or_default().push(element.partition());
    }
    let mut all = BTreeMap::new();
    for (topic, partitions) in by_topic {
        match ends(consumer, &topic, &partitions, OFFSETS_TIMEOUT) {
            Ok(ends) => all.extend(ends.into_iter().map(|(partition, end)| ((Arc::clone(&topic), partition), end))),
            Err(error) => tracing::debug!(topic = &*topic, %error, "no answer about the ends of new partitions"),
        }
    }
    all
}

/// The metadata of an offset; empty where it is not UTF-8: the client library panics on it, and what a strange tool has
/// committed must not end the worker.
pub(super) fn metadata_of(element: &TopicPartitionListElem<'_>) -> String {
    caught(|| element.metadata().to_owned()).unwrap_or_default()
}
