//! Publishing retries and dead letters: until Kafka's in-sync replicas have the record, however long that takes.
//!
//! Every real loss found in systems of this kind was a failed publication that counted as done. Here a publication ends
//! in one of four ways: acknowledged, too large for its topic, or the record stays unsettled, because the process ends or because
//! the partition has another owner, which makes the delivery again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Timestamp;
use rdkafka::producer::Producer as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kafka::broker_clock::BrokerClock;
use crate::kafka::client::{producer_config, single_record_producer_config};
use crate::kafka::producer::{Publication, Publisher};
use crate::settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;

/// The first wait before a failed publication is tried again; it doubles up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Kafka's own retries within a publication make longer waits useless.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A record to publish.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// Topic.
    pub(crate) topic: Arc<str>,
    /// Key.
    pub(crate) key: Option<Bytes>,
    /// Value. `None` for the dead letter of a record without one.
    pub(crate) payload: Option<Bytes>,
    /// Headers.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Why a record was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// The topic does not take records of this size.
    #[error("the record is larger than its topic takes")]
    TooLarge,
    /// The process ends.
    #[error("the process ends")]
    Stopped,
    /// The partition of the event has another owner.
    #[error("the partition has another owner")]
    GivenUp,
}

/// Publishes records, each until Kafka's in-sync replicas have it.
pub(crate) trait Publish {
    /// Publishes a record, trying again until it is acknowledged.
    ///
    /// Not cancel safe: a dropped publication may still happen.
    ///
    /// # Errors
    /// [`PublishError`]
    async fn publish(&self, outgoing: &Outgoing) -> Result<(), PublishError>;
}

/// Publishes records to Kafka. Cheap to clone.
#[derive(Clone)]
pub struct Sink {
    producer: Arc<Publisher>,
    /// Sends each record alone; made when a batch was too large for a topic, which says nothing about its records.
    lone: Arc<OnceLock<Publisher>>,
    repeats: Arc<Repeats>,
    kafka: Arc<settings::Kafka>,
    brokers: Arc<BrokerClock>,
    metrics: Arc<Metrics>,
    /// Cancelled when publications are not tried again any more.
    stop: CancellationToken,
    /// Cancelled by the sink when the producer can never publish again: the process must end.
    fatal: CancellationToken,
}

impl Publish for Sink {
    async fn publish(&self, outgoing: &Outgoing) -> Result<(), PublishError> {
        let mut backoff = BACKOFF_MIN;
        let mut producer = &*self.producer;
        loop {
            let sent = Instant::now();
            let published = tokio::select! {
                biased;
                published = publish_once(producer, outgoing) => published,
                () = self.stop.cancelled() => return Err(PublishError::Stopped),
            };
            let error = match published {
                Ok(appended) => {
                    self.brokers.acknowledged(sent, appended);
                    return Ok(());
                }
                Err(error) => error,
            };
            if is_too_large(&error) {
                if !std::ptr::eq(producer, &raw const *self.producer) {
                    return Err(PublishError::TooLarge);
                }
                // It may have been too large only together with others.
                if let Some(lone) = self.lone_producer() {
                    producer = lone;
                    continue;
                }
            }
            self.metrics.deliver.publish_errors.with_label_values(&[&outgoing.topic]).inc();
            if let Some((code, text)) = producer.client().fatal_error() {
                tracing::error!(topic = &*outgoing.topic, ?code, text, "the producer cannot go on");
                self.fatal.cancel();
                return Err(PublishError::Stopped);
            }
            if let Some(repeats) = self.repeats.of(&outgoing.topic) {
                tracing::warn!(topic = &*outgoing.topic, repeats, %error, "a record was not published and is tried again");
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(PublishError::Stopped),
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }
}

impl Sink {
    /// Makes the producer. `stop` ends all waiting; the sink cancels `fatal` when the producer can never publish again.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn new(
        kafka: &settings::Kafka,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
        fatal: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let producer = Arc::new(Publisher::open(&producer_config(kafka, "sink"), "sink")?);
        Ok(Self {
            producer,
            lone: Arc::default(),
            repeats: Arc::default(),
            kafka: Arc::new(kafka.clone()),
            brokers: Arc::new(BrokerClock::new()),
            metrics,
            stop,
            fatal,
        })
    }

    /// The brokers' clock, which acknowledgements bring.
    pub(crate) fn brokers(&self) -> Arc<BrokerClock> {
        Arc::clone(&self.brokers)
    }

    /// The producer that sends each record alone. `None` when it can't be made, which is logged; its configuration was good
    /// for the other one.
    fn lone_producer(&self) -> Option<&Publisher> {
        if self.lone.get().is_none() {
            match Publisher::open(&single_record_producer_config(&self.kafka, "sink-alone"), "sink-alone") {
                // Another thread may have made one at the same time: one of the two producers is dropped.
                Ok(made) => drop(self.lone.set(made)),
                Err(error) => tracing::error!(%error, "no producer for single records"),
            }
        }
        self.lone.get()
    }

    /// Waits until what was handed to the client is out, at most `patience`. Blocks the thread.
    ///
    /// # Errors
    /// Records are left.
    pub(crate) fn flush(&self, patience: Duration) -> Result<(), KafkaError> {
        let began = Instant::now();
        self.producer.flush(patience)?;
        self.lone.get().map_or(Ok(()), |lone| lone.flush(patience.saturating_sub(began.elapsed())))
    }
}

/// Publishes a record and says when it was appended. The client's `message.timeout.ms` bounds how long it tries.
pub(crate) async fn publish_once(producer: &Publisher, outgoing: &Outgoing) -> Result<Timestamp, KafkaError> {
    let Outgoing { topic, key, payload, headers } = outgoing;
    let (key, value) = (key.as_deref(), payload.as_deref());
    producer.publish(&Publication { topic, partition: None, key, value, headers }).await
}

/// The broker's word for a batch beyond the topic's limit, and for one beyond its segments.
fn is_too_large(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    code == Some(RDKafkaErrorCode::MessageSizeTooLarge) || code == Some(RDKafkaErrorCode::MessageBatchTooLarge)
}
