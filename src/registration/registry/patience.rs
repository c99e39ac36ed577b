//! How the registry waits for brokers while it opens, and its small requests to them. `reader` reads and `writer` writes.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::time::Instant;

use super::{BROKER_TIMEOUT, Log, RegistryError};
use crate::kafka::client::ClientLog;
use crate::kafka::listing::partitions_of;

/// How long the registry tries to open while no broker answers. Then the process ends with an error.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// The time between two logged errors of one outage.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The time without an answer from a broker while the registry opens: bounded, and logged at intervals.
pub(super) struct Silence {
    since: Instant,
    logged: Option<Instant>,
}

impl Silence {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), logged: None }
    }

    /// Waits a short time after a request without an answer.
    ///
    /// # Errors
    /// The silence has lasted too long: the process ends, and its supervisor starts it again.
    pub(super) fn wait(&mut self, log: &Log, doing: &'static str, error: KafkaError) -> Result<(), RegistryError> {
        if log.stop.is_cancelled() {
            return Err(RegistryError::Stopped);
        }
        if self.since.elapsed() >= SILENCE_MAX {
            return Err(log.error(doing)(error));
        }
        if self.logged.is_none_or(|logged| logged.elapsed() >= WARN_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(topic = %log.topic, doing, %error, "no broker answers, trying again");
        }
        pause();
        Ok(())
    }
}

/// Looks up the topic's partitions; tries again for a bounded time while the brokers can't be reached.
pub(super) fn partitions(log: &Log, consumer: &BaseConsumer<ClientLog>) -> Result<Vec<i32>, RegistryError> {
    const DOING: &str = "reading its partitions";
    let mut silence = Silence::begin();
    loop {
        match partitions_of(consumer.client(), &log.topic, BROKER_TIMEOUT) {
            Ok(partitions) if partitions.is_empty() => return Err(RegistryError::NoTopic(log.topic.clone())),
            Ok(partitions) => return Ok(partitions),
            Err(error) => silence.wait(log, DOING, error)?,
        }
    }
}

/// The partition's end as that consumer's isolation level sees it.
pub(super) fn high(log: &Log, partition: i32, consumer: &BaseConsumer<ClientLog>) -> Result<i64, KafkaError> {
    consumer.fetch_watermarks(&log.topic, partition, BROKER_TIMEOUT).map(|(_low, high)| high)
}

/// A short wait between tries on the reader's and the writer's own threads.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, not one of the runtime")]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}
