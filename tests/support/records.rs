//! Topics and records of a test: make, write, read to the end, and see what a group has committed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::wait::PATIENCE;

/// A name that no other test, nor another run on the same cluster, uses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:08x}", rand::random::<u32>())
}

/// An admin client for a test's own purposes.
pub fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    config(brokers).create().expect("the configuration is valid")
}

/// Creates a topic with one replica a partition.
pub async fn create_topic(brokers: &str, name: &str, partitions: i32, properties: &[(&str, &str)]) {
    create_replicated_topic(brokers, name, partitions, 1, properties).await;
}

/// Creates a topic and waits until the cluster shows it.
pub async fn create_replicated_topic(
    brokers: &str,
    name: &str,
    partitions: i32,
    replicas: i32,
    properties: &[(&str, &str)],
) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
    for (property, value) in properties {
        topic = topic.set(property, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    super::wait::wait_until(&format!("topic {name} to be created"), PATIENCE, async || {
        match admin(brokers).create_topics([&topic], &options).await.map(|mut results| results.pop()) {
            // An earlier try whose answer was lost.
            Ok(Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    super::wait::wait_until(&format!("topic {name} in the metadata"), PATIENCE, async || {
        match partition_count(brokers, name) {
            Some(known) if known == partitions => Ok(()),
            known => Err(known),
        }
    })
    .await;
}

/// Asks again until there is an answer: leaders and coordinators move, and a broker that just started knows little.
fn asked<T>(what: &str, mut ask: impl FnMut() -> Result<T, KafkaError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How many partitions a topic has. Waits for a topic that the asked broker does not know yet.
pub fn partitions_of(brokers: &str, topic: &str) -> i32 {
    asked(&format!("the partitions of {topic}"), || {
        let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        partition_count(brokers, topic).ok_or(unknown)
    })
}

/// How many partitions a topic has, if it exists.
pub fn partition_count(brokers: &str, name: &str) -> Option<i32> {
    let client: BaseConsumer = config(brokers).create().expect("the configuration is valid");
    // All topics: asking for one by name may create it on clusters that do so.
    let metadata = asked("the topics", || client.fetch_metadata(None, PATIENCE));
    let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
    i32::try_from(topic.partitions().len()).ok()
}

/// A record to write.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Where to; without one the partitioner decides.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value. Without one the record is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Creation time in ms since 1970. Without one it is now.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record with a key and a value.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    /// A record that removes a key.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// The same record with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same record for one partition.
    #[must_use]
    pub fn in_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Writes records and waits until all in-sync replicas have them.
pub fn produce(brokers: &str, topic: &str, records: impl IntoIterator<Item = Record>) {
    produce_compressed(brokers, topic, "none", records);
}

/// The same, compressed by this codec.
pub fn produce_compressed(brokers: &str, topic: &str, codec: &str, records: impl IntoIterator<Item = Record>) {
    let producer: ThreadedProducer<Failures> = config(brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "60000")
        .set("message.max.bytes", "10000000")
        .set("compression.type", codec)
        .set("partitioner", "murmur2_random")
        .create_with_context(Failures::default())
        .expect("the configuration is valid");
    for record in records {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (name, value) in &record.headers {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let mut message = BaseRecord::<Vec<u8>, Vec<u8>>::to(topic).headers(headers);
        message.partition = record.partition;
        message.key = record.key.as_ref();
        message.payload = record.value.as_ref();
        message.timestamp = record.timestamp.inspect(|ms| check_is_kept(*ms));
        while let Err((error, again)) = producer.send(message) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "produce to {topic}: {error}");
            std::thread::sleep(Duration::from_millis(5));
            message = again;
        }
    }
    producer.flush(PATIENCE).unwrap_or_else(|error| panic!("flush records of {topic}: {error}"));
    let failures = producer.context().0.lock().clone();
    assert!(failures.is_empty(), "produce to {topic}: {failures:?}");
}

/// Brokers look every five minutes for records that are older than the retention: a test that writes such records fails when
/// they look in the middle of it. Panics if `timestamp_ms` is more than an hour ago, the least retention of a topic here.
fn check_is_kept(timestamp_ms: i64) {
    let oldest = jiff::Timestamp::now().as_millisecond() - 3_600_000;
    assert!(timestamp_ms > oldest, "retention may delete a record of {timestamp_ms} at any time: write a later one");
}

#[derive(Default)]
struct Failures(parking_lot::Mutex<Vec<String>>);

impl rdkafka::ClientContext for Failures {}

impl rdkafka::producer::ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().push(error.to_string());
        }
    }
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value. Without one the record is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order, repeated ones too.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970, as the broker has it.
    pub timestamp: Option<i64>,
}

impl Read {
    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The key as text, empty without one.
    pub fn key_text(&self) -> &str {
        self.key.as_deref().map_or("", |key| std::str::from_utf8(key).expect("the key is text"))
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        let value = self.value.as_deref().expect("the record has a value");
        serde_json::from_slice(value).unwrap_or_else(|error| panic!("offset {} is no JSON: {error}", self.offset))
    }
}

/// All committed records of a topic up to the end it has now, in the order of partition and offset.
///
/// It blocks; within a test call it as it is, on a multi-thread runtime.
pub fn read_all(brokers: &str, topic: &str) -> Vec<Read> {
    let partitions = partitions_of(brokers, topic);
    read_partitions(brokers, topic, &(0..partitions).collect::<Vec<_>>())
}

/// The same of some partitions.
pub fn read_partitions(brokers: &str, topic: &str, partitions: &[i32]) -> Vec<Read> {
    let consumer: BaseConsumer = config(brokers)
        .set("group.id", "hookstream-test-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "20")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("the configuration is valid");
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset to begin at");
    }
    consumer.assign(&assignment).unwrap_or_else(|error| panic!("assign {topic}: {error}"));
    let mut records = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    // The client reports a partition's end once it is reached. For a partition that grows meanwhile it reports again, which is not counted.
    let mut at_end = std::collections::BTreeSet::new();
    while at_end.len() < partitions.len() {
        assert!(Instant::now() < deadline, "{topic} is not read to its end: {} records so far", records.len());
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                records.push(read(&message));
                deadline = Instant::now() + PATIENCE;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
            }
            // Transport errors heal; the deadline bounds them.
            Some(Err(error)) => assert!(consumer.client().fatal_error().is_none(), "read {topic}: {error}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn read(message: &impl Message) -> Read {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    Read {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp: match message.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => Some(millis),
        },
    }
}

/// The offsets that `group` has committed for `topic`, by partition; partitions without one are left out.
pub fn committed(brokers: &str, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = config(brokers).set("group.id", group).create().expect("the configuration is valid");
    let partitions = partitions_of(brokers, topic);
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let committed = asked(&format!("the offsets of {group}"), || consumer.committed_offsets(list.clone(), PATIENCE));
    let offsets = committed.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    offsets.collect()
}

/// The state of a group as the brokers name it, and how many members it has.
pub fn group_state(brokers: &str, group: &str) -> (String, usize) {
    let client = admin(brokers);
    let found = asked(&format!("the state of {group}"), || client.inner().fetch_group_list(Some(group), PATIENCE));
    let found = found.groups().iter().find(|found| found.name() == group);
    found.map_or_else(Default::default, |found| (found.state().to_owned(), found.members().len()))
}

/// The first offset after the last record of each partition.
pub fn ends(brokers: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = config(brokers).create().expect("the configuration is valid");
    let partitions = partitions_of(brokers, topic);
    let watermarks = (0..partitions).map(|partition| {
        let what = format!("the end of {topic}/{partition}");
        let (_, high) = asked(&what, || consumer.fetch_watermarks(topic, partition, PATIENCE));
        (partition, high)
    });
    watermarks.collect()
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("reconnect.backoff.max.ms", "500");
    config
}

/// Raises the number of a topic's partitions and waits until the cluster shows them.
pub async fn add_partitions(brokers: &str, name: &str, partitions: i32) {
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let wanted = NewPartitions::new(name, usize::try_from(partitions).expect("partitions are counted"));
    let added = admin(brokers).create_partitions([&wanted], &options).await;
    for result in added.unwrap_or_else(|error| panic!("widen {name}: {error}")) {
        result.unwrap_or_else(|(name, error)| panic!("widen {name}: {error}"));
    }
    super::wait::wait_until(&format!("topic {name} with {partitions} partitions"), PATIENCE, async || {
        match partition_count(brokers, name) {
            Some(known) if known == partitions => Ok(()),
            known => Err(known),
        }
    })
    .await;
}

/// Deletes a topic and creates it again as soon as the cluster takes it, with one replica a partition.
pub async fn recreate(brokers: &str, name: &str, partitions: i32, properties: &[(&str, &str)]) {
    recreate_as(brokers, NewTopic::new(name, partitions, TopicReplication::Fixed(1)), properties).await;
}

/// The same with the replicas of each partition: ids of brokers.
pub async fn recreate_on(brokers: &str, name: &str, replicas: &[&[i32]], properties: &[(&str, &str)]) {
    let partitions = i32::try_from(replicas.len()).expect("partitions are counted");
    recreate_as(brokers, NewTopic::new(name, partitions, TopicReplication::Variable(replicas)), properties).await;
}

async fn recreate_as<'a>(brokers: &str, topic: NewTopic<'a>, properties: &[(&'a str, &'a str)]) {
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let (client, name) = (admin(brokers), topic.name);
    for result in client.delete_topics(&[name], &options).await.unwrap_or_else(|error| panic!("delete {name}: {error}"))
    {
        result.unwrap_or_else(|(name, error)| panic!("delete {name}: {error}"));
    }
    let topic = properties.iter().fold(topic, |topic, (property, value)| topic.set(property, value));
    super::wait::wait_until(&format!("topic {name} again"), PATIENCE, async || {
        match client.create_topics([&topic], &options).await.map(|mut results| results.pop()) {
            Ok(Some(Ok(_))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// A producer whose records are read only once they are committed.
pub struct Transaction {
    producer: ThreadedProducer<Failures>,
}

impl Transaction {
    /// Begins it.
    pub fn begin(brokers: &str) -> Self {
        let producer: ThreadedProducer<Failures> = config(brokers)
            .set("transactional.id", unique("transaction"))
            .set("transaction.timeout.ms", "120000")
            .create_with_context(Failures::default())
            .expect("the configuration is valid");
        producer.init_transactions(PATIENCE).expect("transactions can be begun");
        producer.begin_transaction().expect("one can be begun");
        Self { producer }
    }

    /// Writes a record into one partition and waits until it stands there.
    pub fn write(&self, topic: &str, partition: i32, key: &str, value: &str) {
        let record = BaseRecord::<str, str>::to(topic).partition(partition).key(key).payload(value);
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("write to {topic}: {error}"));
        self.producer.flush(PATIENCE).unwrap_or_else(|error| panic!("flush records of {topic}: {error}"));
    }

    /// Makes its records readable.
    pub fn commit(self) {
        self.producer.commit_transaction(PATIENCE).expect("a commit");
    }
}

/// Commits an offset of a group that has no members.
pub fn commit(brokers: &str, group: &str, topic: &str, partition: i32, offset: i64) {
    let client: BaseConsumer = config(brokers).set("group.id", group).create().expect("the configuration is valid");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    asked(&format!("a commit of {topic}"), || client.commit(&list, rdkafka::consumer::CommitMode::Sync));
}
