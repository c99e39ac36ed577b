//! Looks from outside whether records wait at places of a topic, with a client that commits nothing. Decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use crate::kafka::client::ClientLog;
use crate::kafka::waits::whole_millis;

/// How long a whole look may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// What was found at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Markers of transactions, up to the end.
    Markers,
    /// A record.
    Records,
    /// Something that the client can't decode, such as a batch that gets too large when it is decompressed.
    Unreadable,
}

/// Finds out, for each partition, what is at this offset. A partition about which there was no answer in time is left out. Blocks for at
/// most [`LOOK_MAX`].
pub(super) fn look(client: &BaseConsumer<ClientLog>, topic: &str, places: BTreeMap<i32, i64>) -> BTreeMap<i32, Found> {
    let deadline = Instant::now() + LOOK_MAX;
    let mut found = BTreeMap::new();
    if places.is_empty() {
        return found;
    }
    let is_readable = look_at(client, topic, &places, deadline, &mut found);
    // The client does not name the partition whose batch can't be read. So each of the other partitions is looked at alone.
    let left = places.into_iter().filter(|_| !is_readable);
    for (partition, offset) in left.filter(|(partition, _)| !found.contains_key(partition)).collect::<Vec<_>>() {
        if !look_at(client, topic, &BTreeMap::from([(partition, offset)]), deadline, &mut found) {
            found.insert(partition, Found::Unreadable);
        }
    }
    if let Err(error) = client.unassign() {
        tracing::debug!(topic, %error, "the look whether records wait did not end");
    }
    found
}

/// Looks at these places together. Returns whether all that came could be read.
fn look_at(
    client: &BaseConsumer<ClientLog>,
    topic: &str,
    places: &BTreeMap<i32, i64>,
    deadline: Instant,
    found: &mut BTreeMap<i32, Found>,
) -> bool {
    let mut list = TopicPartitionList::new();
    let listed = places
        .iter()
        .try_for_each(|(partition, offset)| list.add_partition_offset(topic, *partition, Offset::Offset(*offset)));
    if let Err(error) = listed.and_then(|()| client.assign(&list)) {
        tracing::debug!(topic, %error, "no look whether records wait");
        return true;
    }
    while places.keys().any(|partition| !found.contains_key(partition)) && Instant::now() < deadline {
        let (partition, stands) = match client.poll(whole_millis(deadline.saturating_duration_since(Instant::now()))) {
            Some(Ok(message)) => (message.partition(), Found::Records),
            Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Found::Markers),
            Some(Err(error)) if is_unreadable(&error) => return false,
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "a poll failed");
                continue;
            }
            None => break,
        };
        if places.contains_key(&partition) {
            found.entry(partition).or_insert(stands);
        }
    }
    true
}

/// Whether the error is about what a batch holds, so that it comes again however often it is asked for.
fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, InvalidMessage, MessageSizeTooLarge, NotImplemented};
    matches!(
        error,
        KafkaError::MessageConsumption(
            BadCompression | BadMessage | InvalidMessage | MessageSizeTooLarge | NotImplemented
        )
    )
}
