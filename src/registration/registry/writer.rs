//! The one writer: a thread that makes one change after the other, each a transaction of one record.
//!
//! If the broker's answer is not clear, the writer reads the log instead of guessing the outcome. If a newer process fenced it,
//! or its producer failed for good, it settles the change under way and ends; it never takes the id back.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::patience::{Silence, high, partitions, pause};
use super::{
    BROKER_TIMEOUT, Change, Job, Log, ROLE, RegistryError, Running, SILENT, Version, View, WriteError, consumer_config,
    run_thread, transactional_id,
};
use crate::kafka::client::{ClientLog, Logged, Own, fix, producer_config};
use crate::kafka::producer::PolledProducer;

/// How long the broker waits for the end of a transaction before it ends it itself.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the client tries to deliver the record of a transaction.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long commit and abort are tried again in a process that stops: longer than the broker waits itself. A process that does not
/// stop tries until Kafka answers; meanwhile its requesters get the answer that Kafka does not answer.
const COMMIT_PATIENCE: Duration = Duration::from_secs(45);
/// How long the log may take to show whether a record is in it.
const RESOLVE_PATIENCE: Duration = Duration::from_mins(1);
/// How often a record that the client purged before it was sent is tried again.
const PURGES_MAX: u32 = 3;
/// How long a commit waits for the end of a delivery report.
const REPORT_PATIENCE: Duration = Duration::from_millis(20);
/// The time between two warnings that the view has not caught up.
const VIEW_WARN_EVERY: Duration = Duration::from_secs(10);
/// The client refuses a larger record; below this size the topic's own limit decides.
const RECORD_BYTES_MAX: usize = 16 << 20;

pub(super) fn start(log: Log, view: Arc<View>, jobs: mpsc::Receiver<Job>) -> Running {
    let runtime = Runtime::current();
    run_thread("writer", move |ready| {
        match Writer::open(log, view) {
            Ok(writer) => {
                drop(ready.send(Ok(())));
                writer.run(&runtime, jobs)
            }
            Err(error) => {
                // The caller that opens the registry waits for the error.
                drop(ready.send(Err(error)));
                Ok(())
            }
        }
    })
}

/// The result of a record's delivery, with the number under which it was sent.
type Delivered = (u64, Result<Version, RDKafkaErrorCode>);

/// Gives the writer the result of a record's delivery.
struct Deliveries {
    sender: std_mpsc::Sender<Delivered>,
}

impl Own for Deliveries {}

impl ProducerContext for Logged<Deliveries> {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        let delivered = match result {
            Ok(message) => Ok(Version { partition: message.partition(), offset: message.offset() }),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        if self.sender.send((*number, delivered)).is_err() {
            tracing::debug!(number = *number, "delivered after the writer ended");
        }
    }
}

/// How a change ended.
enum Failure {
    /// The next one can be tried. With the client library's error, for the log.
    Passing(WriteError, String),
    /// This process writes no more.
    Final(WriteError, Box<RegistryError>),
}

/// The writer's first step.
const TAKING_ID: &str = "taking the transactional id";

/// A record to write.
struct Record<'a> {
    key: &'a str,
    /// None removes the key.
    value: Option<&'a [u8]>,
    /// The partition of the key's record, if there is one; else the key's hash decides.
    home: Option<i32>,
}

struct Writer {
    log: Log,
    view: Arc<View>,
    producer: PolledProducer<Logged<Deliveries>>,
    delivered: std_mpsc::Receiver<Delivered>,
    /// The number of the last record sent.
    number: u64,
}

impl Writer {
    /// Creates the producer and takes the transactional id, which settles the changes that an older process had under way.
    fn open(log: Log, view: Arc<View>) -> Result<Self, RegistryError> {
        let (sender, delivered) = std_mpsc::channel();
        let mut config = producer_config(&log.kafka, ROLE);
        for (key, value) in [
            ("transactional.id", transactional_id(&log.kafka.group)),
            ("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string()),
            ("message.timeout.ms", MESSAGE_TIMEOUT.as_millis().to_string()),
            // The client library refuses a longer one than the transaction's.
            ("socket.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string()),
            // One record at a time: nothing to wait for, and its own size is what the topic's limit is about.
            ("linger.ms", "0".to_owned()),
            ("compression.type", "none".to_owned()),
            ("message.max.bytes", RECORD_BYTES_MAX.to_string()),
            ("queue.buffering.max.messages", "1000".to_owned()),
        ] {
            fix(&mut config, key, &value);
        }
        let producer = PolledProducer::new(&config, Logged::new(ROLE, Deliveries { sender }))
            .map_err(log.error("creating the producer"))?;
        let checker: BaseConsumer<ClientLog> = consumer_config(&log.kafka)
            .create_with_context(ClientLog::new(ROLE))
            .map_err(log.error("creating the consumer"))?;
        // A missing topic is reported first: otherwise an older process would be fenced for nothing.
        partitions(&log, &checker)?;
        let mut silence = Silence::begin();
        loop {
            match producer.init_transactions(BROKER_TIMEOUT) {
                Ok(()) => return Ok(Self { log, view, producer, delivered, number: 0 }),
                Err(error) if is_retriable(&error) => silence.wait(&log, TAKING_ID, error)?,
                Err(error) => return Err(log.error(TAKING_ID)(error)),
            }
        }
    }

    fn run(mut self, runtime: &Runtime, mut jobs: mpsc::Receiver<Job>) -> Result<(), RegistryError> {
        while let Some(job) = next(runtime, &mut jobs, &self.log.stop) {
            if job.reply.is_closed() || !job.begin() {
                continue;
            }
            let stored = self.view.get(&job.workspace, &job.id);
            if stored.as_ref().map(|stored| stored.version) != job.expected {
                // It was decided on an older record: its requester decides again.
                drop(job.reply.send(Err(WriteError::Changed)));
                continue;
            }
            // A GUID may be in the topic in capitals: the change replaces that record and does not add a second one.
            let spelling = stored.as_ref().and_then(|stored| stored.spelling.as_deref());
            let key = spelling.map_or_else(|| format!("{}/{}", job.workspace, job.id), str::to_owned);
            // If partitions were added, a key's record may be in another partition than its hash says: it is replaced there.
            let home = stored.as_ref().map(|stored| stored.version.partition);
            let value = match &job.change {
                Change::Put(bytes) => Some(bytes.as_slice()),
                Change::Delete => None,
            };
            let (result, end) = self.settled(&Record { key: &key, value, home });
            // A requester that has gone meanwhile reads the outcome from the instance.
            drop(job.reply.send(result));
            if let Some(cause) = end {
                tracing::error!(error = %cause, "no more changes are written");
                return Err(cause);
            }
        }
        Ok(())
    }

    /// Writes a record. Returns the requester's answer, and the reason if this process must end.
    fn settled(&mut self, record: &Record<'_>) -> (Result<Version, WriteError>, Option<RegistryError>) {
        match self.write(record) {
            Ok(version) if self.wait_shown(version) => (Ok(version), None),
            Ok(_) => (Err(WriteError::Unknown), None),
            Err(Failure::Passing(WriteError::TooLarge, _)) => (Err(WriteError::TooLarge), None),
            Err(Failure::Passing(reply, error)) => {
                tracing::warn!(error, topic = %self.log.topic, "change not written");
                (Err(reply), None)
            }
            Err(Failure::Final(error, cause)) => (Err(error), Some(*cause)),
        }
    }

    /// Waits until the view shows a committed record. No other change is decided until then.
    fn wait_shown(&self, version: Version) -> bool {
        while !self.view.wait_for(version, VIEW_WARN_EVERY) {
            if self.log.stop.is_cancelled() {
                return false;
            }
            let (partition, offset) = (version.partition, version.offset);
            tracing::warn!(topic = %self.log.topic, partition, offset, "record committed but not yet visible to the reader");
        }
        true
    }

    fn write(&mut self, record: &Record<'_>) -> Result<Version, Failure> {
        let mut purged = 0;
        loop {
            self.producer.begin_transaction().map_err(|error| self.unusable(&error, WriteError::Closed))?;
            let code = match self.send(record) {
                Ok(version) => return self.commit(version),
                Err(code) => code,
            };
            let failure = self.give_up(code);
            // The purge of the abort before can still hit this record: it was not sent at all.
            if code != RDKafkaErrorCode::PurgeQueue || purged == PURGES_MAX || matches!(failure, Failure::Final(..)) {
                return Err(failure);
            }
            tracing::debug!(purged, "record purged with the transaction before, trying again");
            purged += 1;
        }
    }

    fn send(&mut self, record: &Record<'_>) -> Result<Version, RDKafkaErrorCode> {
        self.number += 1;
        let mut sent = BaseRecord::with_opaque_to(&self.log.topic, Box::new(self.number)).key(record.key.as_bytes());
        sent.payload = record.value;
        sent.partition = record.home;
        self.producer.send(sent).map_err(|(error, _record)| code_of(&error))?;
        self.wait_delivered()
    }

    fn wait_delivered(&self) -> Result<Version, RDKafkaErrorCode> {
        loop {
            // The client itself gives up first.
            match self.delivered.recv_timeout(MESSAGE_TIMEOUT * 2) {
                Ok((number, delivered)) if number == self.number => return delivered,
                // The report belongs to a change that was abandoned.
                Ok(_) => {}
                Err(_) => return Err(RDKafkaErrorCode::MessageTimedOut),
            }
        }
    }

    /// Ends the transaction of a record that was not accepted.
    fn give_up(&self, code: RDKafkaErrorCode) -> Failure {
        let error = match code {
            RDKafkaErrorCode::MessageSizeTooLarge => WriteError::TooLarge,
            code => WriteError::NotWritten(in_words(code)),
        };
        match self.abort() {
            Ok(()) => Failure::Passing(error, code.to_string()),
            // Without a commit the transaction can only end aborted, so nothing was written either way.
            Err(cause) => Failure::Final(error, Box::new(cause)),
        }
    }

    fn abort(&self) -> Result<(), RegistryError> {
        let since = Instant::now();
        loop {
            match self.producer.abort_transaction(BROKER_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(error) if is_retriable(&error) && self.has_patience(since) => pause(),
                Err(error) => return Err(self.ended_by(&error)),
            }
        }
    }

    /// Whether what was begun at `since` is tried once more.
    fn has_patience(&self, since: Instant) -> bool {
        !self.log.stop.is_cancelled() || since.elapsed() < COMMIT_PATIENCE
    }

    fn commit(&self, version: Version) -> Result<Version, Failure> {
        let since = Instant::now();
        // The report is counted as under way until its callback has returned, and a commit meanwhile waits a tenth of a
        // second for it.
        while self.producer.in_flight_count() > 0 && since.elapsed() < REPORT_PATIENCE {
            std::thread::yield_now();
        }
        loop {
            let error = match self.producer.commit_transaction(BROKER_TIMEOUT) {
                Ok(()) => return Ok(version),
                Err(error) => error,
            };
            if is_retriable(&error) && self.has_patience(since) {
                tracing::warn!(%error, "commit not answered, asking again");
                pause();
                continue;
            }
            // An abort that succeeds is proof that the commit did not happen.
            if requires_abort(&error) && self.abort().is_ok() {
                return Err(Failure::Passing(WriteError::NotWritten(in_words(code_of(&error))), error.to_string()));
            }
            return self.resolve(version, &error);
        }
    }

    /// Looks into the log, because the answer to the commit is lost and this producer can't get another.
    fn resolve(&self, version: Version, error: &KafkaError) -> Result<Version, Failure> {
        let cause = Box::new(self.ended_by(error));
        let (partition, offset) = (version.partition, version.offset);
        match self.is_in_log(version) {
            Some(true) => {
                tracing::warn!(partition, offset, "the commit's answer was lost; the log has the record");
                // The requester gets this error. The next change meets the same producer and ends the process.
                Ok(version)
            }
            Some(false) => Err(Failure::Final(WriteError::NotWritten(in_words(code_of(error))), cause)),
            None => {
                tracing::error!(partition, offset, "it is not known whether the record was written");
                Err(Failure::Final(WriteError::Unknown, cause))
            }
        }
    }

    /// Whether a committed record is at that place, once the transactions before and at it are settled.
    fn is_in_log(&self, version: Version) -> Option<bool> {
        let deadline = Instant::now() + RESOLVE_PATIENCE;
        let made = consumer_config(&self.log.kafka).create_with_context(ClientLog::new(ROLE));
        let consumer: BaseConsumer<ClientLog> = match made {
            Ok(consumer) => consumer,
            Err(error) => {
                tracing::error!(%error, "the log cannot be read: no consumer could be created");
                return None;
            }
        };
        while high(&self.log, version.partition, &consumer).ok().is_none_or(|stable| stable <= version.offset) {
            if Instant::now() > deadline {
                return None;
            }
            pause();
        }
        let mut place = TopicPartitionList::new();
        let assigned = place
            .add_partition_offset(&self.log.topic, version.partition, Offset::Offset(version.offset))
            .and_then(|()| consumer.assign(&place));
        if let Err(error) = assigned {
            tracing::error!(%error, "the log cannot be read");
            return None;
        }
        while Instant::now() < deadline {
            match consumer.poll(BROKER_TIMEOUT) {
                Some(Ok(message)) => return Some(message.offset() == version.offset),
                Some(Err(KafkaError::PartitionEOF(_))) => return Some(false),
                Some(Err(error)) => tracing::warn!(%error, "reading the log failed, trying again"),
                None => {}
            }
        }
        None
    }

    /// The failure of a call that the producer refused, for good or only this time.
    fn unusable(&self, error: &KafkaError, reply: WriteError) -> Failure {
        if is_retriable(error) {
            return Failure::Passing(WriteError::NotWritten(in_words(code_of(error))), error.to_string());
        }
        Failure::Final(reply, Box::new(self.ended_by(error)))
    }

    /// The error with which this process ends.
    fn ended_by(&self, error: &KafkaError) -> RegistryError {
        let id = transactional_id(&self.log.kafka.group);
        let fatal = self.producer.client().fatal_error();
        let code = fatal.as_ref().map_or_else(|| code_of(error), |(code, _)| *code);
        if is_fencing(code) || is_fencing(code_of(error)) {
            return RegistryError::Fenced(id);
        }
        RegistryError::Fatal { id, error: fatal.map_or_else(|| error.to_string(), |(_, text)| text) }
    }
}

/// The next change; `None` if no more will come, or the process stops.
fn next(runtime: &Runtime, jobs: &mut mpsc::Receiver<Job>, stop: &CancellationToken) -> Option<Job> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            job = jobs.recv() => job,
        }
    })
}

/// The requester's answer for an error code of the client library.
fn in_words(code: RDKafkaErrorCode) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageTimedOut
        | Code::RequestTimedOut
        | Code::OperationTimedOut
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::AllBrokersDown
        | Code::BrokerTransportFailure => SILENT,
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            "too few replicas of the integrations topic are in sync"
        }
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => "Kafka does not let the API write the integrations topic",
        _ => "Kafka did not take the record",
    }
}

fn is_fencing(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
        KafkaError::Flush(_) => true,
        _ => false,
    }
}

fn requires_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}
