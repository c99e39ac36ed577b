//! Writes the attempt log: takes what shards handed over, makes records of it and gives them to a producer of its own.
//!
//! Nothing waits: where the producer has no room, and where Kafka does not take a record in time, it is dropped and
//! counted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use crate::kafka::client::{Logged, Own, fix, producer_config};
use crate::kafka::producer::PolledProducer;
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long to wait for an attempt: bounds how late a stop is seen.
const WAIT: Duration = Duration::from_millis(200);
/// How long the last records may take when the process stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a producer may be replaced: the fault is at the brokers and may last.
const REPLACE_EVERY: Duration = Duration::from_secs(5);
/// Records in the producer, and their kilobytes: what the fastest worker logs in a few seconds.
const QUEUE_RECORDS_MAX: &str = "50000";
const QUEUE_KILOBYTES_MAX: &str = "32768";

/// Counts what Kafka did not take.
struct Deliveries {
    metrics: Arc<Metrics>,
}

impl Own for Deliveries {}

impl ProducerContext for Logged<Deliveries> {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if result.is_err() {
            self.metrics.health.attempt_log_dropped.inc();
        }
    }
}

/// Writes the attempt log.
pub(crate) struct AttemptLogWriter {
    kafka: settings::Kafka,
    producer: PolledProducer<Logged<Deliveries>>,
    /// When the producer was last replaced.
    replaced: Option<Instant>,
    topic: String,
    worker: String,
    metrics: Arc<Metrics>,
}

fn producer_of(
    kafka: &settings::Kafka,
    metrics: &Arc<Metrics>,
) -> Result<PolledProducer<Logged<Deliveries>>, KafkaError> {
    let context = Logged::new("attempts", Deliveries { metrics: Arc::clone(metrics) });
    let mut config = producer_config(kafka, "attempts");
    fix(&mut config, "queue.buffering.max.messages", QUEUE_RECORDS_MAX);
    fix(&mut config, "queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX);
    // Nothing waits for these records, and larger batches cost less.
    fix(&mut config, "linger.ms", "50");
    PolledProducer::new(&config, context)
}

impl AttemptLogWriter {
    /// A writer to `topic`. `worker` is the host name of this worker.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        topic: String,
        worker: String,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let producer = producer_of(kafka, &metrics)?;
        Ok(Self { kafka: kafka.clone(), producer, replaced: None, topic, worker, metrics })
    }

    /// Writes until `stop`, and then what has been handed over by then. Blocks its thread.
    pub(crate) fn run(mut self, entries: &Receiver<Entry>, stop: &CancellationToken) {
        loop {
            match entries.recv_timeout(WAIT) {
                Ok(entry) => {
                    let record = entry.record(&self.worker);
                    self.write(entry.key(), &record);
                }
                Err(RecvTimeoutError::Timeout) if !stop.is_cancelled() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = self.producer.flush(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last records of the attempt log were not written");
        }
    }

    fn write(&mut self, key: &str, record: &[u8]) {
        if let Err((error, _)) = self.producer.send(BaseRecord::to(&self.topic).key(key.as_bytes()).payload(record)) {
            self.metrics.health.attempt_log_dropped.inc();
            tracing::debug!(topic = self.topic, %error, "an attempt was not logged");
            self.replace_if_fatal();
        }
    }

    /// A producer that has failed for good takes nothing any more: another takes its place, at most once in
    /// [`REPLACE_EVERY`].
    fn replace_if_fatal(&mut self) {
        let Some((code, text)) = self.producer.client().fatal_error() else { return };
        if self.replaced.is_some_and(|replaced| replaced.elapsed() < REPLACE_EVERY) {
            return;
        }
        self.replaced = Some(Instant::now());
        tracing::error!(
            topic = self.topic,
            ?code,
            text,
            "the producer of the attempt log cannot go on and is replaced"
        );
        match producer_of(&self.kafka, &self.metrics) {
            Ok(producer) => self.producer = producer,
            Err(error) => tracing::error!(%error, "the producer of the attempt log cannot be replaced"),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::kafka::test_broker::that_refuses_a_producer;

    #[test]
    fn a_producer_that_has_failed_for_good_is_replaced_and_attempts_are_logged_again() {
        let (_cluster, kafka) = that_refuses_a_producer("attempts");
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let mut writer = AttemptLogWriter::new(&kafka, "attempts".to_owned(), "w".to_owned(), metrics).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // Until the broker has refused the producer, attempts wait in it.
        while writer.replaced.is_none() {
            assert!(Instant::now() < deadline, "the producer does not fail");
            writer.write("ws/i", b"{}");
            drop(writer.producer.flush(Duration::from_millis(10)));
        }
        let dropped = writer.metrics.health.attempt_log_dropped.get();
        writer.write("ws/i", b"{}");
        writer.producer.flush(Duration::from_secs(30)).expect("the new producer writes");
        assert_eq!(writer.metrics.health.attempt_log_dropped.get(), dropped);
    }
}
