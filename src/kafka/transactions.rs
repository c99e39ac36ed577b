//! Transactions, one after another: each writes records and commits the offsets that they come from, together or not at all.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use tokio::time::Instant;

use super::client::{Logged, Own, transactional_config};
use crate::settings;

/// How long each step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a poll waits for acknowledgements. Waiting here instead of in the commit saves its steps of 100 ms.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_millis(5);
/// How many times a commit is tried that may be tried again.
const COMMITS_MAX: u32 = 3;

/// A record of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Its topic.
    pub(crate) topic: String,
    /// Its partition.
    pub(crate) partition: i32,
    /// Its key.
    pub(crate) key: Box<str>,
    /// Its value. `None` removes the key.
    pub(crate) value: Option<Vec<u8>>,
}

/// How a transaction failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    /// It did not happen: it may be tried again.
    #[error("a transaction was given up: {0}")]
    Aborted(KafkaError),
    /// It is not known what happened, or this producer may not go on.
    #[error("transactions cannot go on: {0}")]
    Unknown(KafkaError),
}

/// The context of the producer. The transaction says whether records were written.
struct Records;

impl Own for Records {}

impl ProducerContext for Logged<Records> {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, _opaque: ()) {}
}

/// A producer of transactions.
pub(crate) struct Transactions {
    producer: BaseProducer<Logged<Records>>,
}

impl Transactions {
    /// Makes it ready. Blocks.
    ///
    /// # Errors
    /// The brokers refuse or do not answer.
    pub(crate) fn new(kafka: &settings::Kafka, role: &'static str, id: &str) -> Result<Self, KafkaError> {
        let producer: BaseProducer<Logged<Records>> =
            transactional_config(kafka, role, id).create_with_context(Logged::new(role, Records))?;
        producer.init_transactions(STEP_TIMEOUT)?;
        Ok(Self { producer })
    }

    /// Writes records and commits offsets as a member of a group, or does nothing. Blocks.
    ///
    /// # Errors
    /// [`TransactionError`]
    pub(crate) fn commit(
        &self,
        records: &[Written],
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), TransactionError> {
        self.producer.begin_transaction().map_err(TransactionError::Unknown)?;
        let written =
            self.write(records).and_then(|()| self.producer.send_offsets_to_transaction(offsets, group, STEP_TIMEOUT));
        if let Err(error) = written {
            return Err(self.abort(error));
        }
        let mut tries = 0;
        loop {
            let Err(error) = self.producer.commit_transaction(STEP_TIMEOUT) else { return Ok(()) };
            tries += 1;
            match &error {
                KafkaError::Transaction(cause) if cause.txn_requires_abort() => return Err(self.abort(error)),
                KafkaError::Transaction(cause) if cause.is_retriable() && tries < COMMITS_MAX => {}
                _ => return Err(TransactionError::Unknown(error)),
            }
        }
    }

    fn write(&self, records: &[Written]) -> Result<(), KafkaError> {
        for written in records {
            let mut record: BaseRecord<'_, str, [u8]> =
                BaseRecord::to(&written.topic).partition(written.partition).key(&written.key);
            if let Some(value) = &written.value {
                record = record.payload(value);
            }
            while let Err((error, refused)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                self.producer.poll(ACKNOWLEDGEMENT_WAIT);
                record = refused;
            }
        }
        let deadline = Instant::now() + STEP_TIMEOUT;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(ACKNOWLEDGEMENT_WAIT);
        }
        Ok(())
    }

    fn abort(&self, error: KafkaError) -> TransactionError {
        match &error {
            KafkaError::Transaction(cause) if cause.is_fatal() => return TransactionError::Unknown(error),
            _ => {}
        }
        match self.producer.abort_transaction(STEP_TIMEOUT) {
            Ok(()) => TransactionError::Aborted(error),
            Err(error) => TransactionError::Unknown(error),
        }
    }
}
