//! Writes the attempt log: takes what shards handed over, makes records of it and gives them to a producer of its own.
//!
//! Nothing waits: where the producer has no room, and where Kafka does not take a record in time, it is dropped and
//! counted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use crate::kafka::client::{ClientLog, fix, producer_config};
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long to wait for an attempt: bounds how late a stop is seen.
const WAIT: Duration = Duration::from_millis(200);
/// How long the last records may take when the process stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Records in the producer, and their kilobytes: what the fastest worker logs in a few seconds.
const QUEUE_RECORDS_MAX: &str = "50000";
const QUEUE_KILOBYTES_MAX: &str = "32768";

/// Counts what Kafka did not take.
struct Deliveries {
    log: ClientLog,
    metrics: Arc<Metrics>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if result.is_err() {
            self.metrics.health.attempt_log_dropped.inc();
        }
    }
}

/// Writes the attempt log.
pub(crate) struct AttemptLogWriter {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    worker: String,
    metrics: Arc<Metrics>,
}

impl AttemptLogWriter {
    /// Into `topic`, by the worker of that host name.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        topic: String,
        worker: String,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let context = Deliveries { log: ClientLog::new("attempts"), metrics: Arc::clone(&metrics) };
        let mut config = producer_config(kafka, "attempts");
        fix(&mut config, "queue.buffering.max.messages", QUEUE_RECORDS_MAX);
        fix(&mut config, "queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX);
        // Nobody waits for these records, and larger batches cost less.
        fix(&mut config, "linger.ms", "50");
        Ok(Self { producer: config.create_with_context(context)?, topic, worker, metrics })
    }

    /// Writes until `stop`, and then what has been handed over by then. Blocks its thread.
    pub(crate) fn run(self, entries: &Receiver<Entry>, stop: &CancellationToken) {
        loop {
            match entries.recv_timeout(WAIT) {
                Ok(entry) => self.write(&entry),
                Err(RecvTimeoutError::Timeout) if !stop.is_cancelled() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = self.producer.flush(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last records of the attempt log were not written");
        }
    }

    fn write(&self, entry: &Entry) {
        let record = entry.record(&self.worker);
        let sent = self.producer.send(BaseRecord::to(&self.topic).key(entry.key()).payload(&record));
        if sent.is_err() {
            self.metrics.health.attempt_log_dropped.inc();
        }
    }
}
