//! Reads and writes the backlog topic. Which places there are, and when they are written, is `keeper`'s and `partition`'s.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio_util::sync::CancellationToken;

use super::partition::PlaceWrite;
use super::record::{PlaceKey, PlaceRecord, PlaceTable};
use crate::kafka::client::{ClientLog, producer_config};
use crate::kafka::table_reader::{Compacted, CompactedError};
use crate::settings;

/// How long a poll waits for a record: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long until a topic that can't be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Requests that wait for the reading thread: one is enough for all partitions that came together.
const REQUESTS_MAX: usize = 1;

/// What the backlog topic held when it was asked for.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The places of this group.
    pub(crate) table: PlaceTable,
    /// How many partitions the topic has.
    pub(crate) partitions: i32,
}

/// The thread that reads the backlog topic has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderGone;

/// Asks the reading thread, and takes its answers.
pub(crate) struct PlaceLoader {
    requests: SyncSender<()>,
    answers: Receiver<Loaded>,
    is_asked: bool,
}

/// The thread that reads the backlog topic when it is asked.
pub(crate) struct PlaceReader {
    kafka: settings::Kafka,
    topic: String,
    requests: Receiver<()>,
    answers: SyncSender<Loaded>,
}

/// The two ends.
pub(crate) fn loader(kafka: &settings::Kafka, topic: &str) -> (PlaceLoader, PlaceReader) {
    let (requests, asked) = sync_channel(REQUESTS_MAX);
    let (answers, answered) = sync_channel(REQUESTS_MAX);
    let loader = PlaceLoader { requests, answers: answered, is_asked: false };
    (loader, PlaceReader { kafka: kafka.clone(), topic: topic.to_owned(), requests: asked, answers })
}

impl PlaceLoader {
    /// Asks for all places, as they are from now on. Says whether that was possible: one question at a time.
    pub(crate) fn ask(&mut self) -> bool {
        if self.is_asked {
            return false;
        }
        self.is_asked = self.requests.try_send(()).is_ok();
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
    /// Answers until `stop`, or until nobody asks any more. Blocks its thread.
    pub(crate) fn run(self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match self.requests.recv_timeout(POLL_WAIT) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut is_told = false;
            while !stop.is_cancelled() {
                match self.read(stop) {
                    Ok(loaded) => {
                        // Who asked may have ended.
                        if self.answers.try_send(loaded).is_err() {
                            tracing::debug!("nobody waits for the backlog topic");
                        }
                        break;
                    }
                    Err(error) if std::mem::replace(&mut is_told, true) => {
                        tracing::debug!(%error, "the backlog topic can still not be read");
                    }
                    Err(error) => {
                        tracing::error!(%error, "the backlog topic cannot be read: new partitions wait for it");
                    }
                }
                std::thread::park_timeout(AGAIN_AFTER);
            }
        }
    }

    fn read(&self, stop: &CancellationToken) -> Result<Loaded, CompactedError> {
        read(&self.kafka, &self.topic, || stop.is_cancelled())
    }
}

/// Reads the places of the group to the end that the topic has now, unless `is_over` says so before. Blocks.
///
/// # Errors
/// The topic can't be read.
pub(crate) fn read(kafka: &settings::Kafka, topic: &str, is_over: impl Fn() -> bool) -> Result<Loaded, CompactedError> {
    let mut topic = Compacted::open(kafka, topic, "backlog")?;
    let partitions = topic.partition_count();
    let mut table = PlaceTable::default();
    let of_group = format!("{}/", kafka.group);
    while !topic.is_caught_up() && !is_over() {
        topic.read(POLL_WAIT, |row| {
            if !row.key.starts_with(of_group.as_bytes()) {
                return;
            }
            if let Err(error) = table.take(row.key, row.value) {
                let (partition, offset) = (row.partition, row.offset);
                tracing::warn!(partition, offset, %error, "a record of the backlog topic cannot be used");
            }
        })?;
    }
    Ok(Loaded { table, partitions })
}

/// Which place a write was of.
#[derive(Clone, Copy, Debug)]
struct WriteOf {
    owner: u64,
    webhook: u64,
}

/// A write that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Who wrote it: a number of the caller's.
    pub(crate) owner: u64,
    /// The id of the webhook's gauge.
    pub(crate) webhook: u64,
    /// The in-sync replicas have it.
    pub(crate) is_acknowledged: bool,
}

/// Collects what becomes of writes.
struct Acknowledgements {
    log: ClientLog,
    ended: Mutex<Vec<Written>>,
}

impl ClientContext for Acknowledgements {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = Box<WriteOf>;

    fn delivery(&self, result: &DeliveryResult<'_>, of: Self::DeliveryOpaque) {
        if let Err((error, _)) = result {
            tracing::warn!(%error, "a place was not written and is written again");
        }
        let WriteOf { owner, webhook } = *of;
        self.ended.lock().push(Written { owner, webhook, is_acknowledged: result.is_ok() });
    }
}

/// Writes places. Polled by the thread that writes.
pub(crate) struct PlaceWriter {
    producer: BaseProducer<Acknowledgements>,
    topic: String,
    group: String,
    /// How many partitions the topic has; none before it was read.
    pub(crate) partitions: i32,
}

impl PlaceWriter {
    /// Writes to `topic`.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(kafka: &settings::Kafka, topic: &str) -> Result<Self, KafkaError> {
        let acknowledgements = Acknowledgements { log: ClientLog::new("backlog"), ended: Mutex::default() };
        let producer = producer_config(kafka, "backlog").create_with_context(acknowledgements)?;
        Ok(Self { producer, topic: topic.to_owned(), group: kafka.group.clone(), partitions: 0 })
    }

    /// Begins a write for a partition of the events topic. Its end is told by [`PlaceWriter::ended`].
    pub(crate) fn write(&self, owner: u64, partition: i32, epoch: i64, write: &PlaceWrite) {
        let gauge = &write.gauge;
        let (integration, web_hook) = (gauge.integration(), gauge.webhook());
        let place = PlaceKey { group: &self.group, partition, integration, web_hook };
        let key = place.to_string();
        let value =
            write.place.map(|offset| PlaceRecord::new(place, offset, (write.reason, write.since_ms), epoch).value());
        let of = Box::new(WriteOf { owner, webhook: gauge.id() });
        let mut record =
            BaseRecord::with_opaque_to(&self.topic, of).key(&key).partition(partition % self.partitions.max(1));
        if let Some(value) = &value {
            record = record.payload(value);
        }
        if let Err((error, record)) = self.producer.send(record) {
            tracing::warn!(%error, "a place was not written and is written again");
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
