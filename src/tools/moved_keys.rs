//! Finds out whether partitions were added to the integrations topic, by the partitions of its keys. Reads only.
//!
//! A key keeps its partition unless partitions are added. Then its next record, a tombstone too, goes to another partition, and the old
//! record stays. Workers use the newer record. Other programs that read the topic as a table may not.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::health::records::partition_of;
use crate::kafka::table_reader::{Compacted, CompactedError};
use crate::settings::Settings;

/// How long the reading may take: a person waits for the plan.
const READ_MAX: Duration = Duration::from_secs(10);
/// How long to wait for the next records.
const WAIT: Duration = Duration::from_millis(100);
/// How many keys are remembered, 100 bytes each: enough to conclude.
const KEYS_MAX: usize = 100_000;

/// The partitions of a topic's keys.
#[derive(Debug, Default)]
struct Places {
    /// By key, the partition of its latest record.
    by_key: HashMap<Vec<u8>, i32>,
    /// Keys with records in more than one partition.
    in_two: HashSet<Vec<u8>>,
}

impl Places {
    fn take(&mut self, key: &[u8], partition: i32) {
        match self.by_key.get(key) {
            Some(other) if *other != partition => {
                self.in_two.insert(key.to_vec());
            }
            None if self.by_key.len() < KEYS_MAX => {
                self.by_key.insert(key.to_vec(), partition);
            }
            Some(_) | None => {}
        }
    }

    /// A sentence if keys are in other partitions than Kafka's own partitioner would use for `partitions`, or in two of them. `None` if not.
    fn note(&self, topic: &str, partitions: i32) -> Option<String> {
        let is_elsewhere = |(key, partition): &(&Vec<u8>, &i32)| {
            std::str::from_utf8(key).is_ok_and(|key| partition_of(key, partitions) != **partition)
        };
        let (keys, in_two) = (self.by_key.len(), self.in_two.len());
        let elsewhere = self.by_key.iter().filter(is_elsewhere).count();
        if in_two > 0 {
            return Some(format!(
                "{topic} was widened to {partitions} partitions: {in_two} of the {keys} keys read have records in two partitions; \
                 workers and the API use the newer one"
            ));
        }
        (elsewhere > 0).then(|| {
            format!(
                "{topic} may have been widened to {partitions} partitions: {elsewhere} of the {keys} keys read are not where Kafka's \
                usual partitioner would put them; the next record of such a key may go to another partition, and \
                workers and the API use the newer one"
            )
        })
    }
}

/// A sentence about the integrations topic if its keys have moved. `None` if not, or if the topic can't be read: the plan reports that.
pub(super) async fn note(settings: &Settings) -> Option<String> {
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.integrations.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let mut table = Compacted::open(&kafka, &topic, "topics")?;
        let (mut places, deadline) = (Places::default(), Instant::now() + READ_MAX);
        while !table.is_caught_up() && Instant::now() < deadline {
            table.read(WAIT, |row| places.take(row.key, row.partition))?;
        }
        Ok::<_, CompactedError>(places.note(&topic, table.partition_count()))
    });
    match reading.await {
        Ok(Ok(note)) => note,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the partitions of the keys of the integrations topic are not known");
            None
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = String> {
        (0..50).map(|number| format!("ws/integration-{number}"))
    }

    #[test]
    fn keys_in_their_partitions_give_no_note() {
        let mut places = Places::default();
        for key in keys() {
            places.take(key.as_bytes(), partition_of(&key, 12));
            places.take(key.as_bytes(), partition_of(&key, 12));
        }
        assert_eq!(places.note("integrations", 12), None);
        assert_eq!(Places::default().note("integrations", 12), None);
    }

    #[test]
    fn a_widened_topic_gives_a_note_before_and_after_its_first_new_record() {
        let mut places = Places::default();
        for key in keys() {
            places.take(key.as_bytes(), partition_of(&key, 2));
        }
        let note = places.note("integrations", 12).unwrap();
        assert!(note.contains("may have been widened to 12 partitions"), "{note}");
        let moved = keys().find(|key| partition_of(key, 2) != partition_of(key, 12)).unwrap();
        places.take(moved.as_bytes(), partition_of(&moved, 12));
        let note = places.note("integrations", 12).unwrap();
        assert!(note.contains("1 of the 50 keys read have records in two partitions"), "{note}");
    }
}
