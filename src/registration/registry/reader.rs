//! The thread that follows the integrations topic and fills the view: all partitions by `assign`, from the beginning,
//! committed records only. It is ready when it has read everything that was there when it began.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{BROKER_TIMEOUT, Log, ROLE, RegistryError, Running, Version, View, consumer_config, run_thread};
use crate::domain::key_homes::KeyHomes;
use crate::kafka::client::ClientLog;
use crate::kafka::listing::partitions_of;

/// How long the thread waits for a record before it looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);
/// How often it looks whether the topic has more partitions than before.
const PARTITIONS_EVERY: Duration = Duration::from_secs(30);
/// How long the registry opens while no broker answers. Then the process ends with an error.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// Of the many errors of one outage, one is logged in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(super) fn start(log: Log, view: Arc<View>) -> Running {
    run_thread("reader", move |ready| {
        let consumer = match open(&log) {
            Ok(consumer) => consumer,
            Err(error) => {
                // Only the opener hears of it: it is still waiting.
                drop(ready.send(Err(error)));
                return Ok(());
            }
        };
        let (unread, homes) = (BTreeSet::new(), KeyHomes::default());
        Reader { log, view, consumer, ready: Some(ready), unread, partitions: 0, homes, warned: None }.run()
    })
}

fn open(log: &Log) -> Result<BaseConsumer<ClientLog>, RegistryError> {
    consumer_config(&log.kafka).create_with_context(ClientLog::new(ROLE)).map_err(log.error("creating the consumer"))
}

/// How long brokers have given no answer while the registry opens: bounded, and said now and then.
pub(super) struct Silence {
    since: Instant,
    said: Option<Instant>,
}

impl Silence {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), said: None }
    }

    /// An answer came.
    fn heard(&mut self) {
        self.since = Instant::now();
    }

    /// Says whether `what` is to be said again now.
    fn is_to_be_said(&mut self) -> bool {
        let is_to_be_said = self.said.is_none_or(|said| said.elapsed() >= WARN_EVERY);
        if is_to_be_said {
            self.said = Some(Instant::now());
        }
        is_to_be_said
    }

    /// No answer came. Waits a little.
    ///
    /// # Errors
    /// It has lasted too long: the process ends, and its supervisor starts it again.
    pub(super) fn lasts(&mut self, log: &Log, doing: &'static str, error: KafkaError) -> Result<(), RegistryError> {
        if log.stop.is_cancelled() {
            return Err(RegistryError::Stopped);
        }
        if self.since.elapsed() >= SILENCE_MAX {
            return Err(log.error(doing)(error));
        }
        if self.is_to_be_said() {
            tracing::warn!(topic = %log.topic, doing, %error, "no broker answers, trying again");
        }
        pause();
        Ok(())
    }
}

/// The topic's partitions. Tried again for a bounded time while the brokers can't be reached.
pub(super) fn partitions(log: &Log, consumer: &BaseConsumer<ClientLog>) -> Result<Vec<i32>, RegistryError> {
    const DOING: &str = "reading its partitions";
    let mut silence = Silence::begin();
    loop {
        match partitions_of(consumer.client(), &log.topic, BROKER_TIMEOUT) {
            Ok(partitions) if partitions.is_empty() => return Err(RegistryError::NoTopic(log.topic.clone())),
            Ok(partitions) => return Ok(partitions),
            Err(error) => silence.lasts(log, DOING, error)?,
        }
    }
}

/// Waits until everything before the partition's end is settled: no transaction of another producer is open before it.
/// Then the consumer's own end, which is that of committed records, has reached the end the log had.
fn wait_settled(
    log: &Log,
    partition: i32,
    settled: &BaseConsumer<ClientLog>,
    all: &BaseConsumer<ClientLog>,
) -> Result<(), RegistryError> {
    const DOING: &str = "reading the end of a partition";
    let mut silence = Silence::begin();
    let mut end = None;
    loop {
        let asked = end.map_or_else(|| high(log, partition, all), Ok);
        let (known, stable) = match asked.and_then(|end| Ok((end, high(log, partition, settled)?))) {
            Ok(answered) => answered,
            Err(error) => {
                silence.lasts(log, DOING, error)?;
                continue;
            }
        };
        if stable >= known {
            return Ok(());
        }
        end = Some(known);
        silence.heard();
        if log.stop.is_cancelled() {
            return Err(RegistryError::Stopped);
        }
        if silence.is_to_be_said() {
            tracing::warn!(topic = %log.topic, partition, offset = stable, end, "an open transaction holds up reading");
        }
        pause();
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

struct Reader {
    log: Log,
    view: Arc<View>,
    consumer: BaseConsumer<ClientLog>,
    ready: Option<oneshot::Sender<Result<(), RegistryError>>>,
    /// Partitions whose end at the start has not been reached.
    unread: BTreeSet<i32>,
    partitions: usize,
    homes: KeyHomes,
    warned: Option<Instant>,
}

impl Reader {
    fn run(mut self) -> Result<(), RegistryError> {
        match self.assign_all() {
            Ok(()) => {}
            Err(error) => {
                if let Some(ready) = self.ready.take() {
                    drop(ready.send(Err(error)));
                }
                return Ok(());
            }
        }
        let mut looked = Instant::now();
        while !self.log.stop.is_cancelled() {
            if let Some(event) = self.consumer.poll(POLL) {
                match event {
                    Ok(message) => apply(&self.view, &mut self.homes, &message),
                    Err(error) => self.on_error(error)?,
                }
            }
            if self.unread.is_empty() && looked.elapsed() > PARTITIONS_EVERY {
                looked = Instant::now();
                self.look_for_partitions()?;
            }
        }
        Ok(())
    }

    fn assign_all(&mut self) -> Result<(), RegistryError> {
        let partitions = partitions(&self.log, &self.consumer)?;
        let mut config = consumer_config(&self.log.kafka);
        let all: BaseConsumer<ClientLog> = config
            .set("isolation.level", "read_uncommitted")
            .create_with_context(ClientLog::new(ROLE))
            .map_err(self.log.error("creating the consumer"))?;
        for partition in &partitions {
            wait_settled(&self.log, *partition, &self.consumer, &all)?;
        }
        self.consumer.assign(&self.list(&partitions)?).map_err(self.log.error("assigning its partitions"))?;
        self.partitions = partitions.len();
        self.unread = partitions.into_iter().collect();
        Ok(())
    }

    fn list(&self, partitions: &[i32]) -> Result<TopicPartitionList, RegistryError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.log.topic, *partition, Offset::Beginning)
                .map_err(self.log.error("listing its partitions"))?;
        }
        Ok(list)
    }

    /// Partitions added later would take records that nobody here sees.
    fn look_for_partitions(&mut self) -> Result<(), RegistryError> {
        let Ok(mut now) = partitions_of(self.consumer.client(), &self.log.topic, BROKER_TIMEOUT) else {
            return Ok(());
        };
        if now.len() > self.partitions {
            let new = now.split_off(self.partitions);
            tracing::error!(
                topic = %self.log.topic,
                added = new.len(),
                "partitions were added to a table: keys have moved, and the newer of two records of a key counts"
            );
            self.consumer
                .incremental_assign(&self.list(&new)?)
                .map_err(self.log.error("assigning added partitions"))?;
            self.partitions += new.len();
        }
        Ok(())
    }

    fn on_error(&mut self, error: KafkaError) -> Result<(), RegistryError> {
        match error {
            KafkaError::PartitionEOF(partition) => {
                self.unread.remove(&partition);
                if self.unread.is_empty()
                    && let Some(ready) = self.ready.take()
                {
                    drop(ready.send(Ok(())));
                }
                Ok(())
            }
            KafkaError::MessageConsumptionFatal(_)
            | KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => {
                let kept = self.log.error("reading")(error.clone());
                if let Some(ready) = self.ready.take() {
                    drop(ready.send(Err(kept)));
                    return Ok(());
                }
                Err(self.log.error("reading")(error))
            }
            error => {
                if self.warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    self.warned = Some(Instant::now());
                    tracing::warn!(topic = %self.log.topic, %error, "reading is held up");
                }
                Ok(())
            }
        }
    }
}

fn apply(view: &View, homes: &mut KeyHomes, message: &impl Message) {
    let version = Version { partition: message.partition(), offset: message.offset() };
    let (partition, offset) = (version.partition, version.offset);
    let written_ms = message.timestamp().to_millis().unwrap_or_default();
    if !homes.takes(message.key().unwrap_or_default(), partition, written_ms) {
        tracing::debug!(partition, offset, "a newer record of the key stands in another partition");
        return view.pass(version);
    }
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    if !view.apply(key, message.payload().map(Bytes::copy_from_slice), version) {
        tracing::warn!(
            topic = message.topic(),
            partition,
            offset,
            "key is not <workspace>/<integration id>, passed by"
        );
    }
}
