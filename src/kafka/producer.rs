//! A producer with a thread that polls for acknowledgements only while some are to come. Callers decide what is published.
//!
//! The client library's own polling thread polls ten times a second, and each poll spins for its last millisecond (rdkafka 0.39 rounds
//! what is left of a wait down to whole ones): that takes a percent of a core for each producer, also when nothing is published.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio::sync::oneshot;

use super::client::Logged;
use super::context::Own;

/// How long one poll lasts while acknowledgements are to come: bounds how long the end of the thread takes, and how often a poll spins.
const POLL: Duration = Duration::from_millis(500);
/// How often logs and errors of the client are looked for while nothing is under way.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a publication waits for a place in the client's full queue before it tries again.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// A producer and the thread that polls it. Dropping it ends the thread.
pub(crate) struct PolledProducer<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> PolledProducer<C> {
    /// A producer with this configuration.
    ///
    /// # Errors
    /// A property that librdkafka refuses, or that no thread can be made.
    pub(crate) fn new(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let producer: Arc<BaseProducer<C>> = Arc::new(config.create_with_context(context)?);
        let stop = Arc::new(AtomicBool::new(false));
        let polled = (Arc::clone(&producer), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("producer".to_owned()).spawn(move || poll(&polled.0, &polled.1));
        let thread = thread.map_err(|error| KafkaError::ClientCreation(format!("no thread polls it: {error}")))?;
        Ok(Self { producer, stop, thread: Some(thread) })
    }

    /// Hands a record to the client.
    ///
    /// # Errors
    /// What the client says, and the record.
    #[expect(clippy::result_large_err, reason = "the client's own type, as it is given")]
    pub(crate) fn send<'a>(&self, record: Sent<'a, C>) -> Result<(), (KafkaError, Sent<'a, C>)> {
        let sent = self.producer.send(record);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        sent
    }
}

/// A record with what its acknowledgement is passed to.
type Sent<'a, C> = BaseRecord<'a, [u8], [u8], <C as ProducerContext>::DeliveryOpaque>;

impl<C: ProducerContext + 'static> Deref for PolledProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for PolledProducer<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread that polls a producer panicked");
            }
        }
    }
}

fn poll<C: ProducerContext>(producer: &BaseProducer<C>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let is_waiting = producer.in_flight_count() > 0;
        producer.poll(if is_waiting { POLL } else { Duration::ZERO });
        if producer.in_flight_count() == 0 {
            // A record that is sent meanwhile ends it at once.
            std::thread::park_timeout(LOOK_EVERY);
        }
    }
}

/// The context of a producer whose publications are waited for.
pub(crate) struct Acknowledgements;

impl Own for Acknowledgements {}

impl ProducerContext for Logged<Acknowledgements> {
    type DeliveryOpaque = Box<oneshot::Sender<KafkaResult<Timestamp>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let result = match result {
            Ok(message) => Ok(rdkafka::Message::timestamp(message)),
            Err((error, _message)) => Err(error.clone()),
        };
        // If the publication was dropped, no caller waits for it.
        drop(waiting.send(result));
    }
}

/// A producer whose publications are waited for.
pub(crate) type Publisher = PolledProducer<Logged<Acknowledgements>>;

/// A record to publish.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Publication<'a> {
    pub(crate) topic: &'a str,
    /// `None`: by the hash of the key.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    /// `None`: a tombstone.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'static str, String)],
}

impl Publisher {
    /// A producer with this configuration that does `role`.
    ///
    /// # Errors
    /// A property that librdkafka refuses, or that no thread can be made.
    pub(crate) fn open(config: &ClientConfig, role: &'static str) -> KafkaResult<Self> {
        Self::new(config, Logged::new(role, Acknowledgements))
    }

    /// Publishes a record and says when it was appended. How long that is tried is the client's `message.timeout.ms`, also where its
    /// queue is full: it empties as records are acknowledged or time out.
    ///
    /// Not cancel safe: a dropped publication may still happen.
    ///
    /// # Errors
    /// What the client says.
    pub(crate) async fn publish(&self, publication: &Publication<'_>) -> KafkaResult<Timestamp> {
        loop {
            let (waiting, acknowledged) = oneshot::channel();
            match self.send(publication.record(Box::new(waiting))) {
                Ok(()) => return acknowledged.await.unwrap_or(Err(KafkaError::Canceled)),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _record)) => {
                    tokio::time::sleep(FULL_WAIT).await;
                }
                Err((error, _record)) => return Err(error),
            }
        }
    }
}

impl Publication<'_> {
    fn record(
        &self,
        waiting: <Logged<Acknowledgements> as ProducerContext>::DeliveryOpaque,
    ) -> Sent<'_, Logged<Acknowledgements>> {
        let mut record = BaseRecord::with_opaque_to(self.topic, waiting);
        (record.partition, record.key, record.payload) = (self.partition, self.key, self.value);
        if !self.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(self.headers.len());
            record.headers = Some(
                self.headers
                    .iter()
                    .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
            );
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::client::producer_config;
    use crate::kafka::test_broker::{that_refuses_a_producer, with_topic};

    const PUBLICATION: Publication<'_> =
        Publication { topic: "topic", partition: None, key: Some(b"key"), value: Some(b"value"), headers: &[] };

    #[tokio::test]
    async fn publications_are_acknowledged_with_the_time_at_which_they_were_appended() {
        let (_cluster, kafka) = with_topic("topic");
        let publisher = Publisher::open(&producer_config(&kafka, "test"), "test").unwrap();
        for _ in 0..3 {
            let appended = publisher.publish(&PUBLICATION).await.unwrap();
            assert!(appended.to_millis().is_some_and(|ms| ms > 0), "{appended:?}");
        }
    }

    #[tokio::test]
    async fn a_publication_that_can_never_be_made_ends_with_its_error() {
        let (_cluster, kafka) = that_refuses_a_producer("topic");
        let publisher = Publisher::open(&producer_config(&kafka, "test"), "test").unwrap();
        assert!(publisher.publish(&PUBLICATION).await.is_err());
        assert!(publisher.client().fatal_error().is_some());
    }
}
