//! Reads and writes the backlog topic. `partition` decides which places there are; `intake::keeper` decides when they are written.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::partition::PlaceWrite;
use super::record::{EPOCH_HEADER, PlaceKey, PlaceRecord, PlaceTable};
use crate::inflight::settled_runs::ClusterTag;
use crate::kafka::client::{Logged, Own, producer_config};
use crate::kafka::table_reader::{Compacted, CompactedError};
use crate::settings;
use crate::telemetry::repeats::Repeats;

/// How long a poll waits for a record: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long a poll waits while a question is open.
const TAIL_WAIT: Duration = Duration::from_millis(5);
/// How often new records are read while no question is open.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How long reading to the known end of the topic may take. After that the topic is read from its start again.
const TAIL_MAX: Duration = Duration::from_secs(5);
/// How long until a topic that can't be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The most questions that wait for the reading thread: one is enough for all partitions that came together.
const QUESTIONS_MAX: usize = 1;

/// What the backlog topic held when it was asked for.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The places of this group in the partitions that were asked for.
    pub(crate) table: PlaceTable,
    /// Those partitions.
    pub(crate) of: Vec<i32>,
    /// How many partitions the topic has.
    pub(crate) partitions: i32,
}

/// The thread that reads the backlog topic has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderGone;

/// Asks the reading thread, and takes its answers.
pub(crate) struct PlaceLoader {
    questions: SyncSender<Vec<i32>>,
    answers: Receiver<Loaded>,
    is_asked: bool,
}

/// The thread that follows the backlog topic: a question waits only for what was written last.
pub(crate) struct PlaceReader {
    kafka: settings::Kafka,
    topic: String,
    questions: Receiver<Vec<i32>>,
    answers: SyncSender<Loaded>,
    question: Option<Question>,
}

/// A question that is not answered yet.
struct Question {
    /// The partitions of the events topic whose places are asked for.
    of: Vec<i32>,
    /// Where the backlog topic ended after the question came, by its partitions, and when that was known.
    ends: Option<(BTreeMap<i32, i64>, Instant)>,
}

/// Makes both ends: one asks, the other is run by the reading thread.
pub(crate) fn loader(kafka: &settings::Kafka, topic: &str) -> (PlaceLoader, PlaceReader) {
    let (asks, questions) = sync_channel(QUESTIONS_MAX);
    let (answers, answered) = sync_channel(QUESTIONS_MAX);
    let loader = PlaceLoader { questions: asks, answers: answered, is_asked: false };
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    (loader, PlaceReader { kafka, topic, questions, answers, question: None })
}

impl PlaceLoader {
    /// Asks for the places in these partitions of the events topic, as they are from now on. Returns whether that was possible:
    /// one question at a time.
    pub(crate) fn ask(&mut self, partitions: Vec<i32>) -> bool {
        if self.is_asked {
            return false;
        }
        self.is_asked = self.questions.try_send(partitions).is_ok();
        self.is_asked
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    /// The reading thread has ended.
    pub(crate) fn answer(&mut self) -> Result<Option<Loaded>, ReaderGone> {
        match self.answers.try_recv() {
            Ok(loaded) => {
                self.is_asked = false;
                Ok(Some(loaded))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ReaderGone),
        }
    }
}

impl PlaceReader {
    /// Follows the topic and answers, until `stop` or until the other end is dropped. Blocks its thread.
    pub(crate) fn run(mut self, stop: &CancellationToken) {
        let mut is_logged = false;
        while !stop.is_cancelled() {
            match self.follow(stop) {
                Ok(()) => return,
                Err(error) if std::mem::replace(&mut is_logged, true) => {
                    tracing::debug!(%error, "the backlog topic can still not be read");
                }
                Err(error) => {
                    tracing::error!(%error, "the backlog topic cannot be read: new partitions wait for it");
                }
            }
            if let Some(question) = &mut self.question {
                question.ends = None;
            }
            std::thread::park_timeout(AGAIN_AFTER);
        }
    }

    fn follow(&mut self, stop: &CancellationToken) -> Result<(), CompactedError> {
        let mut places = Places::open(&self.kafka, &self.topic)?;
        while !stop.is_cancelled() {
            if !places.topic.is_caught_up() {
                places.read(POLL_WAIT)?;
            } else if self.question.is_some() {
                self.answer(&mut places)?;
            } else {
                match self.questions.recv_timeout(FOLLOW_EVERY) {
                    Ok(of) => self.question = Some(Question { of, ends: None }),
                    Err(RecvTimeoutError::Timeout) => while places.read(Duration::ZERO)? > 0 && !stop.is_cancelled() {},
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Goes on with the question: reads the tail, and answers when all of it was read.
    fn answer(&mut self, places: &mut Places) -> Result<(), CompactedError> {
        let Some(question) = &mut self.question else { return Ok(()) };
        let (ends, since) = match &question.ends {
            Some(known) => known,
            None => question.ends.insert((places.topic.ends()?, Instant::now())),
        };
        if !places.topic.has_read(ends) {
            if since.elapsed() >= TAIL_MAX {
                return Err(CompactedError::Late(self.topic.clone()));
            }
            places.read(TAIL_WAIT)?;
            return Ok(());
        }
        let loaded = Loaded {
            table: places.table.of(&question.of),
            of: std::mem::take(&mut question.of),
            partitions: places.topic.partition_count(),
        };
        self.question = None;
        // The thread that asked may have ended.
        if self.answers.try_send(loaded).is_err() {
            tracing::debug!("the places that were read are not waited for any more");
        }
        Ok(())
    }
}

/// The places of the group, read from the topic.
struct Places {
    topic: Compacted,
    table: PlaceTable,
    of_group: String,
}

impl Places {
    fn open(kafka: &settings::Kafka, topic: &str) -> Result<Self, CompactedError> {
        let topic = Compacted::open(kafka, topic, "backlog")?;
        let cluster = topic.cluster_id().map(|id| ClusterTag::of(&id));
        if cluster.is_none() {
            tracing::warn!("the brokers do not say the cluster's id; a handover then repeats what is under way");
        }
        Ok(Self { topic, table: PlaceTable::on(cluster), of_group: format!("{}/", kafka.group) })
    }

    /// Reads up to a batch, waiting at most `wait` for its first record. Returns how many records there were.
    fn read(&mut self, wait: Duration) -> Result<usize, CompactedError> {
        let Self { topic, table, of_group } = self;
        topic.read(wait, |row| {
            if !row.key.starts_with(of_group.as_bytes()) {
                return;
            }
            let removed_by = row.header(EPOCH_HEADER).and_then(|epoch| epoch.parse().ok());
            if let Err(error) = table.take(row.key, row.value, removed_by) {
                let (partition, offset) = (row.partition, row.offset);
                tracing::warn!(partition, offset, %error, "a record of the backlog topic cannot be used");
            }
        })
    }
}

/// Reads the places of the group to the end that the topic has now, unless `is_over` says so before. Blocks.
///
/// # Errors
/// The topic can't be read.
pub(crate) fn read(
    kafka: &settings::Kafka,
    topic: &str,
    is_over: impl Fn() -> bool,
) -> Result<PlaceTable, CompactedError> {
    let mut places = Places::open(kafka, topic)?;
    while !places.topic.is_caught_up() && !is_over() {
        places.read(POLL_WAIT)?;
    }
    Ok(places.table)
}

/// The place that a write belongs to.
#[derive(Clone, Copy, Debug)]
struct WriteOf {
    owner: u64,
    webhook: u64,
}

/// A write that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// The number that the caller gave with the write.
    pub(crate) owner: u64,
    /// The id of the webhook's gauge.
    pub(crate) webhook: u64,
    /// Whether the in-sync replicas have it.
    pub(crate) is_acknowledged: bool,
}

/// Collects how writes ended.
#[derive(Default)]
struct Acknowledgements {
    ended: Mutex<Vec<Written>>,
    repeats: Repeats,
}

impl Acknowledgements {
    fn refused(&self, error: &KafkaError) {
        let error = error.to_string();
        if let Some(repeats) = self.repeats.of(&error) {
            tracing::warn!(error, repeats, "a place was not written and is written again");
        }
    }
}

impl Own for Acknowledgements {}

impl ProducerContext for Logged<Acknowledgements> {
    type DeliveryOpaque = Box<WriteOf>;

    fn delivery(&self, result: &DeliveryResult<'_>, of: Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            self.refused(error);
        }
        let WriteOf { owner, webhook } = *of;
        self.ended.lock().push(Written { owner, webhook, is_acknowledged: result.is_ok() });
    }
}

/// Writes places. Polled by the thread that writes.
pub(crate) struct PlaceWriter {
    producer: BaseProducer<Logged<Acknowledgements>>,
    topic: String,
    group: String,
    /// How long a place is held at most, in ms.
    hold_ms: i64,
    /// How many partitions the topic has; 0 before it was read.
    pub(crate) partitions: i32,
    /// The cluster; without it a place is everything from its first offset on.
    pub(crate) cluster: Option<ClusterTag>,
}

impl PlaceWriter {
    /// Writes to `topic`. A place is held for `hold` at most.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(kafka: &settings::Kafka, topic: &str, hold: Duration) -> Result<Self, KafkaError> {
        let acknowledgements = Logged::new("backlog", Acknowledgements::default());
        let producer = producer_config(kafka, "backlog").create_with_context(acknowledgements)?;
        let hold_ms = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            group: kafka.group.clone(),
            hold_ms,
            partitions: 0,
            cluster: None,
        })
    }

    /// Begins a write for a partition of the events topic. [`PlaceWriter::ended`] returns how it ended.
    pub(crate) fn write(&self, owner: u64, partition: i32, epoch: i64, write: &PlaceWrite) {
        let gauge = &write.gauge;
        let (integration, web_hook) = (gauge.integration(), gauge.webhook());
        let place = PlaceKey { group: &self.group, partition, integration, web_hook };
        let key = place.to_string();
        let value = (!write.place.is_none()).then(|| {
            let record = PlaceRecord::new(place, &write.place, write.reason, write.since_ms, epoch);
            match self.cluster {
                Some(cluster) => record.exactly(&write.place, cluster, self.hold_ms).value(),
                None => record.value(),
            }
        });
        let of = Box::new(WriteOf { owner, webhook: gauge.id() });
        let mut record =
            BaseRecord::with_opaque_to(&self.topic, of).key(&key).partition(partition % self.partitions.max(1));
        record = match &value {
            Some(value) => record.payload(value),
            None => record
                .headers(OwnedHeaders::new().insert(Header { key: EPOCH_HEADER, value: Some(&epoch.to_string()) })),
        };
        if let Err((error, record)) = self.producer.send(record) {
            self.producer.context().refused(&error);
            let WriteOf { owner, webhook } = *record.delivery_opaque;
            self.producer.context().ended.lock().push(Written { owner, webhook, is_acknowledged: false });
        }
    }

    /// The writes that ended since the last time.
    pub(crate) fn ended(&self) -> Vec<Written> {
        self.producer.poll(Duration::ZERO);
        std::mem::take(&mut *self.producer.context().ended.lock())
    }
}
