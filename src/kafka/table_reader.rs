//! Reading a compacted topic as a table: all partitions from the start to the end there was, then following it.
//!
//! No group and no committed offsets: every process reads everything. A partition is read from its start once no transaction
//! is open before the end that it had at start; then its end is where the client reports the end of the partition:
//! counting to the last offset would hang on a topic whose tail was compacted away or ends in a transaction's marker.
//! Added partitions are read as well, and a topic that was created again is an error: the table has to be read again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedHeaders;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;

use super::client::{ClientLog, is_denied, table_consumer_config};
use super::headers::readable_headers;
use super::listing::partitions_of;
use super::topic_watch::{LogRange, Look, TopicWatch, ends};
use crate::clock;
use crate::settings;

/// How long the brokers may take at start for one answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for a part of a topic, and how long its partitions may have no leader.
const PART_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at start while partitions have no leader: a topic just created gets its leaders within a second.
const LEADER_WAIT: Duration = Duration::from_millis(200);
/// How long the brokers may take later for one answer: the thread that waits has to see a stop.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the reader asks whether the topic changed its shape.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the reader asks whether the transactions that hold up the start have ended.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often the log says what holds up the start.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a poll waits where all is read to the end.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long reading to the end may get neither a record nor an end.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the transactions of a producer that is gone may stay open: their own time-out, and a broker's round of looking.
const OPEN_MAX: Duration = Duration::from_mins(1);
/// Records between two looks at whether to stop.
const BATCH: usize = 1024;

/// One record of the topic.
pub(crate) struct Row<'a> {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// When it was written, ms since 1970.
    pub(crate) timestamp_ms: i64,
    /// Its key.
    pub(crate) key: &'a [u8],
    /// Its value. `None` removes the key.
    pub(crate) value: Option<&'a [u8]>,
    headers: Option<&'a BorrowedHeaders>,
}

impl Row<'_> {
    /// The value of a header, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = readable_headers(self.headers?).find(|(known, _)| *known == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// Why a topic can't be read as a table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactedError {
    /// It is not there.
    #[error("topic `{0}` does not exist; `hookstream topics apply` creates it")]
    NoTopic(String),
    /// Kafka can't be asked.
    #[error("topic `{topic}` cannot be read")]
    Kafka {
        /// The topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
    /// It is not the topic that was read.
    #[error("topic `{0}` was created again: its table is read again from the start")]
    Recreated(String),
    /// Its records do not come.
    #[error("topic `{0}` was not read to its end in time: its table is read again from the start")]
    Late(String),
}

/// A partition whose start waits for the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldUp {
    /// The partition.
    pub(crate) partition: i32,
    /// Where the oldest open transaction begins.
    pub(crate) position: i64,
    /// The end that has to be read.
    pub(crate) end: i64,
}

/// A compacted topic under reading.
pub(crate) struct Compacted {
    consumer: BaseConsumer<ClientLog>,
    watch: TopicWatch,
    topic: String,
    partitions: BTreeSet<i32>,
    /// Whether it reads no other partitions, also if some are added.
    is_part: bool,
    /// Partitions that are not assigned yet, with the end that they had at start.
    held_up: BTreeMap<i32, HeldUp>,
    /// Partitions that have not reached their end yet.
    behind: BTreeSet<i32>,
    /// By partition, the offset up to which it was read, once it is not behind.
    read_to: BTreeMap<i32, i64>,
    looked: Instant,
    asked: Instant,
    said: Option<Instant>,
}

impl Compacted {
    /// Starts to read `topic` from its beginning. Blocks its thread for as long as the brokers take to answer.
    ///
    /// # Errors
    /// [`CompactedError`]
    pub(crate) fn open(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, CompactedError> {
        Self::open_with(kafka, topic, role, None)
    }

    /// As [`Compacted::open`], for these partitions only.
    ///
    /// # Errors
    /// [`CompactedError`]
    pub(crate) fn open_part(
        kafka: &settings::Kafka,
        topic: &str,
        role: &'static str,
        partitions: &[i32],
    ) -> Result<Self, CompactedError> {
        Self::open_with(kafka, topic, role, Some(partitions))
    }

    /// As [`Compacted::open`], for the partitions that can be read now. Also returns those that cannot.
    ///
    /// # Errors
    /// [`CompactedError`], also if no partition can be read.
    pub(crate) fn open_readable(
        kafka: &settings::Kafka,
        topic: &str,
        role: &'static str,
    ) -> Result<(Self, Vec<i32>), CompactedError> {
        let failed = |source| CompactedError::Kafka { topic: topic.to_owned(), source };
        let client: BaseConsumer<ClientLog> =
            table_consumer_config(kafka, role).create_with_context(ClientLog::new(role)).map_err(failed)?;
        let all = partitions_of(client.client(), topic, OPEN_TIMEOUT).map_err(failed)?;
        let is_readable = |partition: &i32| ends(&client, topic, &[*partition], LOOK_TIMEOUT).is_ok();
        let (readable, others): (Vec<i32>, Vec<i32>) = all.into_iter().partition(is_readable);
        if readable.is_empty() {
            return Err(CompactedError::NoTopic(topic.to_owned()));
        }
        Ok((Self::open_part(kafka, topic, role, &readable)?, others))
    }

    /// Whether all of these partitions, which it does not read, can be read now. Blocks for a bounded time.
    pub(crate) fn are_readable(&self, others: &[i32]) -> bool {
        ends(&self.consumer, &self.topic, others, LOOK_TIMEOUT).is_ok()
    }

    fn open_with(
        kafka: &settings::Kafka,
        topic: &str,
        role: &'static str,
        part: Option<&[i32]>,
    ) -> Result<Self, CompactedError> {
        let failed = |source| CompactedError::Kafka { topic: topic.to_owned(), source };
        let consumer = table_consumer_config(kafka, role).create_with_context(ClientLog::new(role)).map_err(failed)?;
        let mut watch = TopicWatch::new(kafka, topic, role).map_err(failed)?;
        if let Some(part) = part {
            watch.look_only_at(part);
        }
        // A reader of a part has others to go on with meanwhile.
        let patience = if part.is_some() { PART_TIMEOUT } else { OPEN_TIMEOUT };
        let look = first_look(&mut watch, patience).map_err(failed)?;
        let wanted = part.map_or(1, <[i32]>::len);
        if look.ranges.len() < wanted {
            return Err(CompactedError::NoTopic(topic.to_owned()));
        }
        let now = Instant::now();
        let mut opened = Self {
            consumer,
            watch,
            topic: topic.to_owned(),
            partitions: look.ranges.keys().copied().collect(),
            is_part: part.is_some(),
            held_up: BTreeMap::new(),
            behind: look.ranges.keys().copied().collect(),
            // Its end-of-partition event says that it was read up to there, whatever compaction has left.
            read_to: look.ranges.iter().map(|(partition, range)| (*partition, range.high)).collect(),
            looked: now,
            asked: now,
            said: None,
        };
        for (partition, LogRange { high, .. }) in look.ranges {
            opened.held_up.insert(partition, HeldUp { partition, position: 0, end: high });
        }
        opened.start_closed(patience)?;
        Ok(opened)
    }

    /// Whether every partition has been read to the end it had.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.behind.is_empty()
    }

    /// How many partitions it has.
    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// By partition, where it ends now. Blocks for a bounded time.
    ///
    /// # Errors
    /// A broker does not answer.
    pub(crate) fn ends(&self) -> Result<BTreeMap<i32, i64>, CompactedError> {
        let partitions: Vec<i32> = self.partitions.iter().copied().collect();
        ends(&self.consumer, &self.topic, &partitions, LOOK_TIMEOUT)
            .map_err(|source| CompactedError::Kafka { topic: self.topic.clone(), source })
    }

    /// Whether it was read up to these offsets.
    pub(crate) fn has_read(&self, ends: &BTreeMap<i32, i64>) -> bool {
        let has_read = |partition, end: i64| self.read_to.get(partition).copied().unwrap_or(0) >= end;
        self.is_caught_up() && ends.iter().all(|(partition, end)| has_read(partition, *end))
    }

    /// Reads all partitions to the end that they had, for as long as something comes: a record, or the end of a partition. An open
    /// transaction holds it up for [`OPEN_MAX`] at most. Blocks.
    ///
    /// # Errors
    /// The consumer can't go on, the topic is another, or it takes too long.
    pub(crate) fn read_to_end(&mut self, row: impl FnMut(Row<'_>)) -> Result<(), CompactedError> {
        self.read_while_it_comes(SILENCE_MAX, row)
    }

    /// [`Compacted::read_to_end`], given up when nothing has come for `silence_max`.
    fn read_while_it_comes(
        &mut self,
        silence_max: Duration,
        mut row: impl FnMut(Row<'_>),
    ) -> Result<(), CompactedError> {
        let (began, mut heard) = (Instant::now(), Instant::now());
        while !self.is_caught_up() {
            if self.read(POLL_WAIT, &mut row)? > 0 {
                heard = Instant::now();
            }
            let patience = if self.held_up.is_empty() { silence_max } else { OPEN_MAX };
            if heard.elapsed() >= patience || !self.held_up.is_empty() && began.elapsed() >= OPEN_MAX {
                return Err(CompactedError::Late(self.topic.clone()));
            }
        }
        Ok(())
    }

    /// The partitions that wait for the end of a transaction.
    pub(crate) fn held_up(&self) -> impl Iterator<Item = &HeldUp> {
        self.held_up.values()
    }

    /// The id of the cluster. `None` if the brokers do not say.
    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.consumer.client().fetch_cluster_id(LOOK_TIMEOUT)
    }

    /// Reads up to a batch, waiting at most `wait` for its first record. Returns how many records and ends of partitions came:
    /// an error of the client is not one, so that brokers that are away count as silent.
    ///
    /// # Errors
    /// The consumer can't go on, the topic is another, or it was not read to its end yet and may not be read.
    pub(crate) fn read(&mut self, wait: Duration, mut row: impl FnMut(Row<'_>)) -> Result<usize, CompactedError> {
        self.look()?;
        let (mut wait, mut came) = (wait, 0);
        for _ in 0..BATCH {
            match self.consumer.poll(wait) {
                None => return Ok(came),
                Some(Ok(message)) => {
                    came += 1;
                    let read_to = self.read_to.entry(message.partition()).or_default();
                    *read_to = message.offset().saturating_add(1).max(*read_to);
                    row(Row {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
                        key: message.key().unwrap_or_default(),
                        value: message.payload(),
                        headers: message.headers(),
                    });
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.behind.remove(&partition);
                    return Ok(came + 1);
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(CompactedError::Kafka { topic: self.topic.clone(), source });
                }
                Some(Err(source)) if is_denied(&source) => {
                    if !self.is_caught_up() {
                        return Err(CompactedError::Kafka { topic: self.topic.clone(), source });
                    }
                    // The client says it once for each partition.
                    tracing::error!(topic = self.topic, error = %source, "a topic may not be read any more: changes in it are not seen");
                }
                Some(Err(error)) => tracing::debug!(topic = self.topic, %error, "a poll failed"),
            }
            wait = Duration::ZERO;
        }
        Ok(came)
    }

    /// Assigns the partitions that no transaction holds up any more, and looks whether the topic changed its shape.
    fn look(&mut self) -> Result<(), CompactedError> {
        if !self.held_up.is_empty() && self.asked.elapsed() >= ASK_EVERY {
            self.start_closed(LOOK_TIMEOUT)?;
            self.asked = Instant::now();
        }
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        let look = self.watch.look(clock::now_ms(), LOOK_TIMEOUT);
        self.looked = Instant::now();
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the topic could not be looked at");
                return Ok(());
            }
        };
        if let Some((partition, change)) = look.changes.first_key_value() {
            tracing::error!(topic = self.topic, partition, ?change, "a topic is not the one that was read");
            return Err(CompactedError::Recreated(self.topic.clone()));
        }
        let is_added = |partition: &&i32| !self.partitions.contains(partition);
        let added: Vec<i32> = look.ranges.keys().filter(is_added).copied().collect();
        if !added.is_empty() && !self.is_part {
            tracing::error!(
                topic = self.topic,
                partitions = self.partitions.len(),
                added = added.len(),
                "partitions were added to a table: keys have moved, and the newer of two records of a key counts"
            );
            self.assign(&added)?;
            self.partitions.extend(added);
        }
        Ok(())
    }

    /// Assigns the partitions before whose end no transaction is open any more.
    fn start_closed(&mut self, patience: Duration) -> Result<(), CompactedError> {
        let mut closed = Vec::new();
        let partitions: Vec<i32> = self.held_up.keys().copied().collect();
        // For a client that reads committed records only, a partition ends before the first open transaction.
        let stable = ends(&self.consumer, &self.topic, &partitions, patience).unwrap_or_else(|error| {
            tracing::debug!(topic = self.topic, %error, "no answer about the partitions' ends");
            BTreeMap::new()
        });
        for held in self.held_up.values_mut() {
            match stable.get(&held.partition) {
                Some(stable) if *stable >= held.end => closed.push(held.partition),
                Some(stable) => held.position = *stable,
                None => {}
            }
        }
        self.assign(&closed)?;
        self.held_up.retain(|partition, _| !closed.contains(partition));
        if self.held_up.is_empty() || self.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return Ok(());
        }
        self.said = Some(Instant::now());
        for HeldUp { partition, position, end } in self.held_up.values() {
            tracing::warn!(
                topic = self.topic,
                partition,
                position,
                end,
                "an open transaction holds up the reading of a table"
            );
        }
        Ok(())
    }

    fn assign(&self, partitions: &[i32]) -> Result<(), CompactedError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let failed = |source| CompactedError::Kafka { topic: self.topic.clone(), source };
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, *partition, Offset::Beginning).map_err(failed)?;
        }
        self.consumer.incremental_assign(&list).map_err(failed)
    }
}

/// Looks until every partition has a leader, for `patience` at most. Blocks.
fn first_look(watch: &mut TopicWatch, patience: Duration) -> Result<Look, KafkaError> {
    let deadline = Instant::now() + patience;
    loop {
        match watch.look(clock::now_ms(), patience) {
            Err(error) if passes_soon(&error) && Instant::now() < deadline => {
                tracing::debug!(%error, "the ends of a topic are not known yet");
                #[expect(clippy::disallowed_methods, reason = "the table's own thread, which waits here anyway")]
                std::thread::sleep(LEADER_WAIT);
            }
            ended => return ended,
        }
    }
}

/// Whether the error says that a partition has no leader yet, or another one than the client knows, or that the client has let go of the
/// broker that it asked: all pass.
fn passes_soon(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        DestroyBroker, FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(NotLeaderForPartition | LeaderNotAvailable | FencedLeaderEpoch | UnknownLeaderEpoch | DestroyBroker)
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::kafka::client::producer_config;

    #[test]
    fn an_answer_that_a_broker_took_with_it_is_asked_for_again() {
        assert!(passes_soon(&KafkaError::MetadataFetch(RDKafkaErrorCode::DestroyBroker)));
        assert!(!passes_soon(&KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed)));
    }

    #[test]
    fn a_topic_whose_partitions_have_no_leader_yet_or_another_one_is_waited_for() {
        use RDKafkaRespErr::{
            RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH as FENCED, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NO_LEADER,
        };
        for error in [NO_LEADER, FENCED] {
            opens_in_spite_of(error);
        }
    }

    fn kafka(cluster: &MockCluster<'static, DefaultProducerContext>) -> settings::Kafka {
        settings::Kafka {
            brokers: cluster.bootstrap_servers(),
            group: "hookstream".to_owned(),
            instance_id: None,
            properties: Vec::new(),
        }
    }

    #[test]
    fn a_part_of_a_table_is_read_to_its_end_and_no_other_partition() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("table", 3, 1).expect("a topic");
        let config = producer_config(&kafka(&cluster), "test");
        let producer: BaseProducer = config.create().expect("a producer");
        for (partition, key) in [(0, "a"), (1, "b"), (2, "c"), (1, "d")] {
            producer.send(BaseRecord::to("table").partition(partition).key(key).payload("1")).expect("it is queued");
        }
        producer.flush(Duration::from_secs(20)).expect("Kafka has them");
        let mut table = Compacted::open_part(&kafka(&cluster), "table", "test", &[1, 2]).expect("a table");
        let mut read = Vec::new();
        table.read_to_end(|row| read.push((row.partition, row.key.to_vec()))).expect("it is read to its end");
        read.sort();
        assert_eq!(read, [(1, b"b".to_vec()), (1, b"d".to_vec()), (2, b"c".to_vec())]);
        let lacks_one = Compacted::open_part(&kafka(&cluster), "table", "test", &[2, 3]);
        assert!(matches!(lacks_one, Err(CompactedError::NoTopic(_))));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the reader itself is slow, on the test's own thread")]
    fn a_table_is_given_up_when_nothing_of_it_comes_and_not_because_all_of_it_takes_long() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("table", 1, 1).expect("a topic");
        let producer: BaseProducer = producer_config(&kafka(&cluster), "test").create().expect("a producer");
        for key in ["a", "b", "c"] {
            // Each in a batch of its own.
            producer.send(BaseRecord::to("table").key(key).payload("1")).expect("it is queued");
            producer.flush(Duration::from_secs(20)).expect("Kafka has it");
        }
        let silence_max = Duration::from_secs(2);
        let mut table = Compacted::open(&kafka(&cluster), "table", "test").expect("a table");
        let began = Instant::now();
        let mut keys = 0;
        let slowly = table.read_while_it_comes(silence_max, |_row| {
            keys += 1;
            std::thread::sleep(silence_max / 2);
        });
        assert!(slowly.is_ok() && keys == 3, "{keys} came");
        assert!(began.elapsed() > silence_max, "all of it takes longer than nothing may come");
        let mut silent = Compacted::open(&kafka(&cluster), "table", "test").expect("a table");
        cluster.broker_down(1).expect("the broker ends");
        assert!(matches!(silent.read_while_it_comes(silence_max, |_row| ()), Err(CompactedError::Late(_))));
    }

    fn opens_in_spite_of(error: RDKafkaRespErr) {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("table", 2, 1).expect("a topic");
        // More than the client's own tries.
        cluster.request_errors(RDKafkaApiKey::ListOffsets, &[error; 8]);
        let table = Compacted::open(&kafka(&cluster), "table", "test").expect("a table");
        assert_eq!(table.partition_count(), 2);
    }
}
