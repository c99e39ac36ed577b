//! Tells the owners of the integrations' health what this worker has counted: once a second, by partition, in order.
//!
//! The next telling waits until the one before is acknowledged, and one that is not is told again with its sequence, so
//! that the owner can tell a repetition from news. What is counted meanwhile is added up and kept within bounds. Nothing
//! here is waited for by a delivery.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::records::{DeltaBatch, partition_of};
use super::rules::{ReporterPosition, Rules};
use super::tally::Tally;
use super::view::HealthView;
use crate::clock;
use crate::kafka::client::{ClientLog, producer_config};
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How often what was counted is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long until a telling that was not acknowledged is made again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long until the topic's partitions are asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a broker may take to say them.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last telling may take when the process stops.
const LAST_TELLING_MAX: Duration = Duration::from_secs(5);

/// A record on its way.
#[derive(Clone)]
struct Outgoing {
    partition: i32,
    key: String,
    value: Arc<[u8]>,
}

/// Tells what is counted.
pub(crate) struct DeltaPublisher {
    producer: FutureProducer<ClientLog>,
    topic: String,
    tally: Arc<Tally>,
    standings: Arc<HealthView>,
    metrics: Arc<Metrics>,
    collector: Collector,
    worker: String,
    process_id: u64,
    /// The last sequence by partition.
    sequences: HashMap<i32, u64>,
    /// Of the topic, once known.
    partitions: Option<i32>,
    asked: Option<Instant>,
}

impl DeltaPublisher {
    /// To `topic`, by the worker of that host name, for an owner who judges by these rules.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        (topic, worker, rules): (String, String, &Rules),
        tally: Arc<Tally>,
        standings: Arc<HealthView>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let producer = producer_config(kafka, "health-deltas").create_with_context(ClientLog::new("health-deltas"))?;
        let collector = Collector::new(rules);
        let (sequences, partitions, asked) = (HashMap::new(), None, None);
        let process_id = rand::random();
        Ok(Self {
            producer,
            topic,
            tally,
            standings,
            metrics,
            collector,
            worker,
            process_id,
            sequences,
            partitions,
            asked,
        })
    }

    /// Tells until `stop`, then tells what is left. Blocks its thread while it asks for the topic's partitions.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way: FuturesUnordered<BoxFuture<'static, Result<(), Outgoing>>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(told) = under_way.next(), if !under_way.is_empty() => {
                    if let Err(outgoing) = told {
                        under_way.push(self.publish(outgoing, AGAIN_AFTER));
                    }
                }
                _ = ticks.tick() => {
                    self.collect();
                    if under_way.is_empty() {
                        under_way.extend(self.tell(false).into_iter().map(|it| self.publish(it, Duration::ZERO)));
                    }
                }
            }
        }
        let last = async {
            while let Some(told) = under_way.next().await {
                if let Err(outgoing) = told {
                    under_way.push(self.publish(outgoing, AGAIN_AFTER));
                }
            }
        };
        let deadline = Instant::now() + LAST_TELLING_MAX;
        let mut in_time = tokio::time::timeout_at(deadline, last).await.is_ok();
        self.collect();
        let last: FuturesUnordered<_> =
            self.tell(true).into_iter().map(|it| self.publish(it, Duration::ZERO)).collect();
        let last = tokio::time::timeout_at(deadline, last.collect::<Vec<_>>()).await;
        in_time &= last.is_ok_and(|told| told.iter().all(Result::is_ok));
        if !in_time {
            tracing::warn!("the last attempts of this process could not be told and do not count for health");
        }
    }

    fn collect(&mut self) {
        let guarded = self.collector.collect(&self.tally, clock::now_ms());
        let was_guarded = self.metrics.health.guard_active.get() == 1;
        self.metrics.health.guard_active.set(i64::from(guarded));
        if guarded && !was_guarded {
            tracing::warn!("most integrations fail for reasons of the network: attempts do not count for their health");
        } else if was_guarded && !guarded {
            tracing::info!("most integrations can be reached again: attempts count for their health");
        }
    }

    /// The records that tell what is to be told now, or all that is left. Nothing while the topic can't be asked for its partitions.
    fn tell(&mut self, last: bool) -> Vec<Outgoing> {
        let Some(partitions) = self.known_partitions() else { return Vec::new() };
        let mut outgoing = Vec::new();
        for (partition, deltas) in
            self.collector.take_chunks(clock::now_ms(), last, |key| partition_of(key, partitions))
        {
            let sequence = self.sequences.entry(partition).or_default();
            *sequence += 1;
            let telling =
                DeltaBatch { told: ReporterPosition { process_id: self.process_id, sequence: *sequence }, deltas };
            let value = telling.record(&self.worker).into();
            outgoing.push(Outgoing { partition, key: self.worker.clone(), value });
        }
        outgoing.extend(self.standings.take_wishes().into_iter().map(|wish| Outgoing {
            partition: partition_of(&wish.key, partitions),
            value: wish.record().into(),
            key: wish.key,
        }));
        outgoing
    }

    fn known_partitions(&mut self) -> Option<i32> {
        if self.partitions.is_some() {
            return self.partitions;
        }
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN_AFTER) {
            return None;
        }
        let first = self.asked.replace(Instant::now()).is_none();
        match partitions_of(&self.producer, &self.topic) {
            Ok(partitions) => self.partitions = Some(partitions),
            Err(error) if first => {
                tracing::error!(topic = self.topic, error, "what is counted for health can not be told yet");
            }
            Err(error) => tracing::debug!(topic = self.topic, error, "what is counted for health can not be told yet"),
        }
        self.partitions
    }

    /// Publishes a record after a wait; gives it back when it was not acknowledged.
    fn publish(&self, outgoing: Outgoing, after: Duration) -> BoxFuture<'static, Result<(), Outgoing>> {
        let (producer, topic, metrics) = (self.producer.clone(), self.topic.clone(), Arc::clone(&self.metrics));
        async move {
            tokio::time::sleep(after).await;
            let record = FutureRecord::to(&topic).partition(outgoing.partition).key(&outgoing.key);
            match producer.send(record.payload(&*outgoing.value), Duration::ZERO).await {
                Ok(_delivery) => Ok(()),
                Err((error, _record)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    tracing::error!(topic, "what is counted for health is larger than its topic takes and is dropped");
                    Ok(())
                }
                Err((error, _record)) => {
                    metrics.deliver.publish_errors.with_label_values(&[&topic]).inc();
                    tracing::debug!(topic, %error, "what is counted for health was not told and is told again");
                    Err(outgoing)
                }
            }
        }
        .boxed()
    }
}

/// How many partitions a topic has. Blocks.
pub(super) fn partitions_of(producer: &FutureProducer<ClientLog>, topic: &str) -> Result<i32, String> {
    let metadata = producer.client().fetch_metadata(Some(topic), ASK_TIMEOUT).map_err(|error| error.to_string())?;
    let found: BTreeMap<_, _> = metadata
        .topics()
        .iter()
        .filter(|found| found.error().is_none())
        .map(|found| (found.name(), found.partitions().len()))
        .collect();
    match found.get(topic).map(|partitions| i32::try_from(*partitions)) {
        Some(Ok(partitions)) if partitions > 0 => Ok(partitions),
        _ => Err("the topic does not exist; `hookstream topics apply` creates it".to_owned()),
    }
}
