//! Publishes the counts of this worker to the owners of the integrations' health: once a second, by partition, in order.
//!
//! The next report of a partition waits until the one before is acknowledged. A report that is not acknowledged is published again
//! with the same sequence, so that the owner counts it once. A partition that can't be written holds up no other. Counts that come
//! meanwhile are added up and kept within bounds. No delivery waits for this. Kafka's acknowledgements also show the brokers' time, so
//! an empty report goes out once a minute if there is nothing to report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::records::{DeltaBatch, partition_of};
use super::rules::{ReporterPosition, Rules};
use super::tally::Tally;
use super::view::HealthView;
use crate::clock;
use crate::kafka::broker_clock::BrokerClock;
use crate::kafka::client::producer_config;
use crate::kafka::listing::partitions_of;
use crate::kafka::producer::{Publication, Publisher};
use crate::settings;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::{Judging, Metrics};

/// How often counts are published.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long until a report that was not acknowledged is published again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long until the topic's partitions are asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a broker may take to answer how many there are.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the brokers' time is learned where nothing is published.
const CLOCK_EVERY: Duration = Duration::from_mins(1);
/// What Kafka has not taken for so long is unjudged: a partition gets another leader sooner.
const LATE_AFTER: Duration = Duration::from_secs(10);
/// How long the last report may take when the process stops.
const LAST_REPORT_MAX: Duration = Duration::from_secs(5);

/// A record on its way.
#[derive(Clone)]
struct Outgoing {
    partition: i32,
    key: String,
    value: Arc<[u8]>,
}

/// The records of a partition that are on their way.
#[derive(Clone, Copy)]
struct UnderWay {
    count: usize,
    /// Since when there is one.
    since: Instant,
}

/// The end of one publication.
struct Ended {
    outgoing: Outgoing,
    /// If false, it is published again.
    is_acknowledged: bool,
}

fn producer_of(kafka: &settings::Kafka) -> Result<Arc<Publisher>, KafkaError> {
    Publisher::open(&producer_config(kafka, "health-deltas"), "health-deltas").map(Arc::new)
}

/// Publishes the counts.
pub(crate) struct DeltaPublisher {
    kafka: settings::Kafka,
    producer: Arc<Publisher>,
    brokers: Arc<BrokerClock>,
    /// Records under way, by partition.
    under_way: HashMap<i32, UnderWay>,
    /// Since when it is not known how many partitions the topic has.
    unknown_since: Option<Instant>,
    /// When something was last published.
    reported: Option<Instant>,
    /// The partition that the next empty report goes to. It changes each time, since one that can't be written shows no time.
    clock_turn: i32,
    topic: String,
    tally: Arc<Tally>,
    view: Arc<HealthView>,
    metrics: Arc<Metrics>,
    collector: Collector,
    worker: String,
    process_id: u64,
    /// The last sequence by partition.
    sequences: HashMap<i32, u64>,
    /// The number of the topic's partitions, once it is known.
    partitions: Option<i32>,
    asked: Option<Instant>,
}

/// What a publisher needs.
pub(crate) struct DeltaParts<'a> {
    pub(crate) kafka: &'a settings::Kafka,
    /// Where it publishes to.
    pub(crate) topic: String,
    /// The host name of this worker.
    pub(crate) worker: String,
    /// The rules by which the health owner judges.
    pub(crate) rules: &'a Rules,
    pub(crate) tally: Arc<Tally>,
    pub(crate) health: Arc<HealthView>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) brokers: Arc<BrokerClock>,
}

impl DeltaPublisher {
    /// A publisher of these parts.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(parts: DeltaParts<'_>) -> Result<Self, KafkaError> {
        let DeltaParts { kafka, topic, worker, rules, tally, health, metrics, brokers } = parts;
        let producer = producer_of(kafka)?;
        let collector = Collector::new(rules);
        let (sequences, partitions, asked) = (HashMap::new(), None, None);
        let process_id = rand::random();
        Ok(Self {
            kafka: kafka.clone(),
            producer,
            brokers,
            under_way: HashMap::new(),
            unknown_since: None,
            reported: None,
            clock_turn: 0,
            topic,
            tally,
            view: health,
            metrics,
            collector,
            worker,
            process_id,
            sequences,
            partitions,
            asked,
        })
    }

    /// Publishes until `stop`, then publishes what is left. Blocks its thread while it asks for the topic's partitions.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = under_way.next(), if !under_way.is_empty() => under_way.extend(self.ended(ended)),
                _ = ticks.tick() => {
                    self.collect();
                    self.metrics.health.set_unjudged(Judging::Reports, self.late_since(Instant::now()));
                    for outgoing in self.report(false) {
                        under_way.push(self.publish(outgoing));
                    }
                }
            }
        }
        let last = async {
            while let Some(ended) = under_way.next().await {
                under_way.extend(self.ended(ended));
            }
        };
        let deadline = Instant::now() + LAST_REPORT_MAX;
        let mut in_time = tokio::time::timeout_at(deadline, last).await.is_ok();
        self.collect();
        self.under_way.clear();
        let last: Vec<_> = self.report(true);
        let last: FuturesUnordered<_> = last.into_iter().map(|it| self.publish(it)).collect();
        let last = tokio::time::timeout_at(deadline, last.collect::<Vec<_>>()).await;
        in_time &= last.is_ok_and(|ended| ended.iter().all(|ended| ended.is_acknowledged));
        if !in_time {
            tracing::warn!("the last attempts of this process could not be reported and do not count for health");
        }
    }

    /// Since when something could not be reported; `None` while that is not late.
    fn late_since(&self, now: Instant) -> Option<Instant> {
        late(self.under_way.values().map(|it| it.since).chain(self.unknown_since), now)
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

    /// The records to publish now; with `last` all that are left. Empty while the topic's partitions are not known.
    fn report(&mut self, last: bool) -> Vec<Outgoing> {
        let Some(partitions) = self.known_partitions() else { return Vec::new() };
        let under_way = &self.under_way;
        let free =
            |key: &str| Some(partition_of(key, partitions)).filter(|partition| !under_way.contains_key(partition));
        let mut chunks = self.collector.take_chunks(clock::now_ms(), last, free);
        if chunks.is_empty() && !last && self.reported.is_none_or(|reported| reported.elapsed() >= CLOCK_EVERY) {
            self.clock_turn = (self.clock_turn + 1) % partitions;
            chunks.push((self.clock_turn, Vec::new()));
        }
        let mut outgoing = Vec::new();
        for (partition, deltas) in chunks {
            self.reported = Some(Instant::now());
            let sequence = self.sequences.entry(partition).or_default();
            *sequence += 1;
            let report =
                DeltaBatch { reporter: ReporterPosition { process_id: self.process_id, sequence: *sequence }, deltas };
            let value = report.record(&self.worker).into();
            outgoing.push(Outgoing { partition, key: self.worker.clone(), value });
        }
        outgoing.extend(self.view.take_resume_requests().into_iter().map(|request| Outgoing {
            partition: partition_of(&request.key, partitions),
            value: request.record().into(),
            key: request.key,
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
        self.unknown_since = self.unknown_since.or(self.asked);
        match partition_count(&self.producer, &self.topic) {
            Ok(partitions) => (self.partitions, self.unknown_since) = (Some(partitions), None),
            Err(error) if first => {
                tracing::error!(
                    topic = self.topic,
                    error = chain(&error),
                    "what is counted for health cannot be reported yet"
                );
            }
            Err(error) => tracing::debug!(
                topic = self.topic,
                error = chain(&error),
                "what is counted for health cannot be reported yet"
            ),
        }
        self.partitions
    }

    /// Handles the end of a publication. Returns the next one if the record must be published again.
    fn ended(&mut self, ended: Ended) -> Option<BoxFuture<'static, Ended>> {
        if ended.is_acknowledged {
            if let Some(under_way) = self.under_way.get_mut(&ended.outgoing.partition) {
                under_way.count -= 1;
                if under_way.count == 0 {
                    self.under_way.remove(&ended.outgoing.partition);
                }
            }
            return None;
        }
        if let Some((code, text)) = self.producer.client().fatal_error() {
            tracing::error!(
                topic = self.topic,
                ?code,
                text,
                "the producer of health counts cannot go on and is replaced"
            );
            match producer_of(&self.kafka) {
                Ok(producer) => self.producer = producer,
                Err(error) => tracing::error!(%error, "the producer of health counts cannot be replaced"),
            }
        }
        Some(self.send(ended.outgoing, AGAIN_AFTER))
    }

    /// Publishes a record that was not published before.
    fn publish(&mut self, outgoing: Outgoing) -> BoxFuture<'static, Ended> {
        let none = UnderWay { count: 0, since: Instant::now() };
        self.under_way.entry(outgoing.partition).or_insert(none).count += 1;
        self.send(outgoing, Duration::ZERO)
    }

    /// Sends a record after a wait.
    fn send(&self, outgoing: Outgoing, after: Duration) -> BoxFuture<'static, Ended> {
        let (producer, topic, metrics) = (Arc::clone(&self.producer), self.topic.clone(), Arc::clone(&self.metrics));
        let brokers = Arc::clone(&self.brokers);
        async move {
            tokio::time::sleep(after).await;
            let sent = Instant::now();
            let (key, value) = (Some(outgoing.key.as_bytes()), Some(&*outgoing.value));
            let (partition, headers) = (Some(outgoing.partition), &[][..]);
            let is_acknowledged = match producer
                .publish(&Publication { topic: &topic, partition, key, value, headers })
                .await
            {
                Ok(appended) => {
                    brokers.acknowledged(sent, appended);
                    true
                }
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    tracing::error!(topic, "what is counted for health is larger than its topic takes and is dropped");
                    true
                }
                Err(error) => {
                    metrics.deliver.publish_errors.with_label_values(&[&topic]).inc();
                    tracing::debug!(topic, %error, "what is counted for health was not reported and is reported again");
                    false
                }
            };
            Ended { outgoing, is_acknowledged }
        }
        .boxed()
    }
}

/// The first of these times, if it is long enough ago for a report to be late.
fn late(began: impl Iterator<Item = Instant>, now: Instant) -> Option<Instant> {
    began.min().filter(|since| now.saturating_duration_since(*since) >= LATE_AFTER)
}

/// Why it is not known how many partitions a topic has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopicError {
    /// A broker does not answer.
    #[error("its partitions are not known")]
    Unknown(#[from] KafkaError),
    /// There is no such topic.
    #[error("the topic does not exist; `hookstream topics apply` creates it")]
    Missing,
}

/// How many partitions a topic has, at least one. Blocks.
///
/// # Errors
/// [`TopicError`]
pub(super) fn partition_count(producer: &Publisher, topic: &str) -> Result<i32, TopicError> {
    let partitions = partitions_of(producer.client(), topic, ASK_TIMEOUT)?;
    match i32::try_from(partitions.len()) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(TopicError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::kafka::client::table_consumer_config;
    use crate::kafka::test_broker::that_refuses_a_producer;

    #[tokio::test(start_paused = true)]
    async fn what_a_partition_does_not_take_is_late_after_a_while_and_what_others_take_is_not() {
        let began = Instant::now();
        let late = |since: &[u64]| late(since.iter().map(|since| began + secs(*since)), began + secs(60));
        assert_eq!([late(&[]), late(&[51, 60]), late(&[20, 59])], [None, None, Some(began + secs(20))]);
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_producer_that_has_failed_for_good_is_replaced_and_the_counts_are_reported() {
        let (_cluster, kafka) = that_refuses_a_producer("deltas");
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let publisher = DeltaPublisher::new(DeltaParts {
            kafka: &kafka,
            topic: "deltas".to_owned(),
            worker: "w".to_owned(),
            rules: &Rules {
                errors_window_s: 60,
                errors_min_attempts: 20,
                suspend_after_ms: 10_000,
                suspend_after_failures: 5,
            },
            tally: Arc::new(Tally::new(1)),
            health: Arc::default(),
            metrics: Arc::clone(&metrics),
            brokers: Arc::new(BrokerClock::new()),
        })
        .unwrap();
        let stop = CancellationToken::new();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(publisher.run(stop.clone()));
        // The first report goes out at once, to learn the brokers' time.
        let reported = tokio::task::spawn_blocking(move || {
            let reader: BaseConsumer = table_consumer_config(&kafka, "test").create().unwrap();
            let mut list = rdkafka::TopicPartitionList::new();
            list.add_partition_offset("deltas", 0, rdkafka::Offset::Beginning).unwrap();
            reader.assign(&list).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while Instant::now() < deadline {
                if let Some(Ok(_)) = reader.poll(Duration::from_millis(100)) {
                    return true;
                }
            }
            false
        });
        assert!(reported.await.unwrap(), "nothing was reported");
        assert!(metrics.deliver.publish_errors.with_label_values(&["deltas"]).get() > 0, "the first producer failed");
        stop.cancel();
        running.join_next().await.unwrap().unwrap();
    }
}
