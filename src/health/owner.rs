//! The owner of the integrations' health: sums what all workers count, and writes changes of state.
//!
//! Every worker is a member of a group of its own on the deltas topic; who is given a partition owns the integrations
//! in it. What it makes of the deltas and how far it has read are written in one transaction, which Kafka refuses to a
//! member that has lost its partitions: so each change of state is one record, and each delta counts once, even if a worker dies.
//! Whatever goes wrong here is said and tried again, and no delivery waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientContext, Message as _, TopicPartitionList};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::positions::Positions;
use super::records::{Delta, StateRecord, counts_record};
use super::restore::{LoadError, load};
use super::rules::{Change, Health, PartitionHealth, Rules};
use crate::clock;
use crate::kafka::client::{ClientLog, health_consumer_config};
use crate::kafka::transactions::{TransactionError, Transactions, Written};
use crate::settings;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::Metrics;
use crate::topics::names::{counts_topic, deltas_topic, health_group};

/// How long a poll waits when there is nothing: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Deltas read between two looks at the time.
const BATCH: usize = 256;
/// How often states are judged and changes written.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// Counts are written down when they are so old, ms: bounds what the next owner reads again.
const WRITE_AFTER_MS: i64 = 10_000;
/// Integrations written down in one transaction.
const WRITE_MAX: usize = 2_000;
/// How often the idle are looked for, and since when they are idle.
const FORGET_EVERY: Duration = Duration::from_hours(1);
const FORGET_AFTER_MS: i64 = 7 * 24 * 3_600_000;
/// How long until a session that ended is begun again; it doubles up to the longest.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_mins(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{what}")]
    Kafka { what: &'static str, source: KafkaError },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Transaction(TransactionError),
    #[error("{0}")]
    Topics(String),
}

/// What a rebalance did.
enum Move {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Remembers what rebalances do; they happen within polls.
struct Moves {
    log: ClientLog,
    moves: Mutex<Vec<Move>>,
}

impl Moves {
    fn push(&self, partitions: &TopicPartitionList, kind: fn(Vec<i32>) -> Move) {
        let partitions = partitions.elements().into_iter().map(|element| element.partition());
        self.moves.lock().push(kind(partitions.collect()));
    }

    fn take(&self) -> Vec<Move> {
        std::mem::take(&mut *self.moves.lock())
    }
}

impl ClientContext for Moves {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for Moves {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.push(partitions, Move::Revoked),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(group_member = self.log.role(), %error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.push(partitions, Move::Assigned);
        }
    }
}

/// Sums and judges, on a thread of its own.
pub(crate) struct HealthOwner {
    /// How to reach Kafka.
    pub(crate) kafka: settings::Kafka,
    /// The health topic.
    pub(crate) health_topic: String,
    /// The events topic: what a suspension drops is named by its offsets.
    pub(crate) events_topic: String,
    /// When an integration fails.
    pub(crate) rules: Rules,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
}

impl HealthOwner {
    /// Works until `stop`. Blocks its thread.
    pub(crate) fn run(self, stop: &CancellationToken) {
        let mut wait = AGAIN_MIN;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let Err(error) = Session::begin(&self).and_then(|mut session| session.run(stop)) else { return };
            if began.elapsed() > AGAIN_MAX {
                wait = AGAIN_MIN;
            }
            // At most once a minute when it lasts.
            tracing::warn!(error = chain(&error), "the integrations' health is not judged here for the moment");
            let until = Instant::now() + wait;
            wait = (wait * 2).min(AGAIN_MAX);
            while !stop.is_cancelled() && Instant::now() < until {
                std::thread::park_timeout(POLL_WAIT);
            }
        }
    }
}

/// From joining the group to the first thing that leaves what is known in doubt.
struct Session<'a> {
    owner: &'a HealthOwner,
    deltas_topic: String,
    counts_topic: String,
    consumer: BaseConsumer<Moves>,
    transactions: Transactions,
    positions: Positions,
    books: BTreeMap<i32, PartitionHealth>,
    /// What was last committed.
    committed: BTreeMap<i32, i64>,
    turned: Instant,
    swept: Instant,
}

impl<'a> Session<'a> {
    fn begin(owner: &'a HealthOwner) -> Result<Self, SessionError> {
        let failed = |what| move |source| SessionError::Kafka { what, source };
        let HealthOwner { kafka, health_topic, events_topic, .. } = owner;
        let (deltas_topic, counts_topic) = (deltas_topic(health_topic), counts_topic(health_topic));
        let group = health_group(&kafka.group);
        let context = Moves { log: ClientLog::new("health-owner"), moves: Mutex::default() };
        let consumer: BaseConsumer<Moves> =
            health_consumer_config(kafka, &group).create_with_context(context).map_err(failed("no consumer"))?;
        check_partitions(&consumer, [health_topic, &deltas_topic, &counts_topic])?;
        let id = format!("{group}-{:016x}", rand::random::<u64>());
        let transactions =
            Transactions::new(kafka, "health-owner", &id).map_err(failed("no transactions can be begun"))?;
        let positions = Positions::new(kafka, events_topic).map_err(failed("no client"))?;
        consumer.subscribe(&[&deltas_topic]).map_err(failed("no subscription"))?;
        let (books, committed, now) = (BTreeMap::new(), BTreeMap::new(), Instant::now());
        Ok(Self {
            owner,
            deltas_topic,
            counts_topic,
            consumer,
            transactions,
            positions,
            books,
            committed,
            turned: now,
            swept: now,
        })
    }

    fn run(&mut self, stop: &CancellationToken) -> Result<(), SessionError> {
        while !stop.is_cancelled() {
            self.read()?;
            if self.turned.elapsed() >= TURN_EVERY {
                self.turn(WRITE_AFTER_MS)?;
                self.turned = Instant::now();
            }
        }
        // What is written down now need not be read again by the next owner.
        self.turn(0)
    }

    /// Reads up to a batch, waiting only for its first delta.
    fn read(&mut self) -> Result<(), SessionError> {
        let mut wait = POLL_WAIT;
        for _ in 0..BATCH {
            let polled = self.consumer.poll(wait);
            for moved in self.consumer.context().take() {
                follow(moved, self.owner, &self.consumer, &self.deltas_topic, &mut self.books)?;
            }
            match polled {
                None => return Ok(()),
                Some(Ok(message)) => {
                    // Of a partition that went meanwhile the next owner reads it.
                    if let Some(book) = self.books.get_mut(&message.partition()) {
                        take(book, message.offset(), message.payload(), &self.owner.rules);
                    }
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(SessionError::Kafka { what: "the consumer cannot go on", source });
                }
                Some(Err(error)) => tracing::debug!(%error, "a poll failed"),
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Judges, and writes down what changed and what was counted `write_after_ms` ago.
    fn turn(&mut self, write_after_ms: i64) -> Result<(), SessionError> {
        let now_ms = clock::now_ms();
        let sweeps = self.swept.elapsed() >= FORGET_EVERY;
        let mut entries: BTreeMap<i32, Entry> = BTreeMap::new();
        for (partition, book) in &mut self.books {
            let changes = book.changes(&self.owner.rules, now_ms);
            let counted = book.unwritten(now_ms - write_after_ms, WRITE_MAX);
            let forgotten = if sweeps { book.forgettable(now_ms - FORGET_AFTER_MS, WRITE_MAX) } else { Vec::new() };
            entries.insert(*partition, Entry { changes, counted, forgotten });
        }
        if sweeps {
            self.swept = Instant::now();
        }
        self.mark_first_dropped(&mut entries);
        let offsets = self.offsets(&entries);
        let nothing = entries.values().all(Entry::is_empty);
        if nothing && (offsets.is_empty() || write_after_ms > 0 && !self.is_far(&offsets)) {
            self.settle(entries);
            return Ok(());
        }
        let records: Vec<Written> =
            entries.iter().flat_map(|(partition, entry)| self.records(*partition, entry)).collect();
        match self.commit(&records, &offsets) {
            Ok(()) => {
                self.committed.extend(offsets);
                self.settle(entries);
                Ok(())
            }
            Err(SessionError::Transaction(TransactionError::Aborted(error))) => {
                tracing::info!(%error, "changes of health were not written and are written again");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Before an integration is suspended: how far the events have been read. Where nobody says, it waits a turn.
    fn mark_first_dropped(&self, entries: &mut BTreeMap<i32, Entry>) {
        let fails = |change: &Change| change.known.health == Health::Failed;
        if !entries.values().any(|entry| entry.changes.iter().any(fails)) {
            return;
        }
        match self.positions.committed() {
            Ok(positions) => {
                let changes = entries.values_mut().flat_map(|entry| &mut entry.changes);
                changes.filter(|change| fails(change)).for_each(|it| it.known.first_dropped.clone_from(&positions));
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "suspensions paused: committed offsets cannot be read");
                for entry in entries.values_mut() {
                    entry.changes.retain(|change| !fails(change));
                }
            }
        }
    }

    /// The offsets to commit: those that differ from what is committed.
    fn offsets(&self, entries: &BTreeMap<i32, Entry>) -> BTreeMap<i32, i64> {
        let next = self.books.iter().filter_map(|(partition, book)| {
            let written = entries.get(partition).into_iter().flat_map(Entry::written);
            Some((*partition, book.next_offset_with(written)?))
        });
        next.filter(|(partition, offset)| self.committed.get(partition) != Some(offset)).collect()
    }

    /// Whether so much was read that committing it is worth a transaction of its own.
    fn is_far(&self, offsets: &BTreeMap<i32, i64>) -> bool {
        let far = |(partition, offset): (&i32, &i64)| {
            self.committed
                .get(partition)
                .is_none_or(|committed| offset - committed >= i64::try_from(BATCH).unwrap_or(256))
        };
        offsets.iter().any(far)
    }

    fn records(&self, partition: i32, entry: &Entry) -> Vec<Written> {
        let written = |topic: &str, key: &str, value: Option<Vec<u8>>| Written {
            topic: topic.to_owned(),
            partition,
            key: key.into(),
            value,
        };
        let changes = entry.changes.iter().flat_map(|Change { key, known }| {
            [
                written(&self.owner.health_topic, key, Some(StateRecord::of(known).value())),
                written(&self.counts_topic, key, Some(counts_record(known))),
            ]
        });
        let is_written = |key: &str| entry.changes.iter().any(|change| &*change.key == key);
        let counted = entry.counted.iter().filter(|(key, _)| !is_written(key));
        let counted = counted.map(|(key, known)| written(&self.counts_topic, key, Some(counts_record(known))));
        let forgotten = entry.forgotten.iter().map(|key| written(&self.counts_topic, key, None));
        changes.chain(counted).chain(forgotten).collect()
    }

    fn commit(&self, records: &[Written], offsets: &BTreeMap<i32, i64>) -> Result<(), SessionError> {
        let failed = |what| move |source| SessionError::Kafka { what, source };
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.deltas_topic, *partition, Offset::Offset(*offset));
            added.map_err(failed("an offset cannot be listed"))?;
        }
        let group = self.consumer.group_metadata().ok_or_else(|| SessionError::Topics("no group".to_owned()))?;
        self.transactions.commit(records, &list, &group).map_err(SessionError::Transaction)
    }

    /// It is written: the books follow.
    fn settle(&mut self, entries: BTreeMap<i32, Entry>) {
        for (partition, entry) in entries {
            for Change { key, known } in &entry.changes {
                let status = known.health.word();
                self.owner.metrics.health.transitions.with_label_values(&[status]).inc();
                tracing::info!(integration = &**key, status, "the health of an integration changed");
            }
            let Some(book) = self.books.get_mut(&partition) else { continue };
            let Entry { changes, counted, forgotten } = entry;
            book.written(changes, counted.iter().map(|(key, _)| &**key), forgotten.iter().map(|key| &**key));
        }
    }
}

/// What is to be written of one partition.
struct Entry {
    changes: Vec<Change>,
    counted: Vec<(Box<str>, super::rules::IntegrationHealth)>,
    forgotten: Vec<Box<str>>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.counted.is_empty() && self.forgotten.is_empty()
    }

    /// The integrations whose counts are written.
    fn written(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|change| &*change.key).chain(self.counted.iter().map(|(key, _)| &**key))
    }
}

/// Follows a rebalance.
fn follow(
    moved: Move,
    owner: &HealthOwner,
    consumer: &BaseConsumer<Moves>,
    deltas_topic: &str,
    books: &mut BTreeMap<i32, PartitionHealth>,
) -> Result<(), SessionError> {
    match moved {
        Move::Revoked(partitions) => {
            books.retain(|partition, _| !partitions.contains(partition));
            tracing::info!(?partitions, "the health of these partitions' integrations is judged elsewhere");
        }
        Move::Assigned(partitions) if partitions.is_empty() => {}
        Move::Assigned(partitions) => {
            // Kafka gives the committed offsets only once no transaction of an owner before is open on them.
            let mut list = TopicPartitionList::new();
            for partition in &partitions {
                list.add_partition(deltas_topic, *partition);
            }
            let failed = |source| SessionError::Kafka { what: "the committed offsets are not known", source };
            drop(consumer.committed_offsets(list, Duration::from_secs(30)).map_err(failed)?);
            let loaded = load(&owner.kafka, &owner.health_topic, &partitions)?;
            let integrations: usize = loaded.values().map(PartitionHealth::len).sum();
            books.extend(loaded);
            tracing::info!(?partitions, integrations, "the health of these partitions' integrations is judged here");
        }
    }
    Ok(())
}

fn take(book: &mut PartitionHealth, offset: i64, value: Option<&[u8]>, rules: &Rules) {
    match value.map_or_else(|| Err("no value".to_owned()), Delta::parse) {
        Ok(Delta::DeltaBatch(telling)) => {
            let now_ms = clock::now_ms();
            for (key, slots) in &telling.deltas {
                book.count(offset, telling.told, (key, slots), rules, now_ms);
            }
        }
        Ok(Delta::ResumeRequest(resume)) => book.wish(&resume.key, resume.since_ms),
        Err(error) => tracing::warn!(offset, error, "a record of the deltas topic cannot be used"),
    }
    book.pass(offset);
}

/// An integration is in the same partition of all three topics.
fn check_partitions(consumer: &BaseConsumer<Moves>, topics: [&str; 3]) -> Result<(), SessionError> {
    let mut counts = Vec::new();
    for topic in topics {
        let failed = |source| SessionError::Kafka { what: "the topics cannot be asked for", source };
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).map_err(failed)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        counts.push((topic, found.map_or(0, |found| found.partitions().len())));
    }
    let same = counts.iter().all(|(_, count)| *count > 0 && counts.first().is_some_and(|first| first.1 == *count));
    if same {
        return Ok(());
    }
    let counts: Vec<_> = counts.iter().map(|(topic, count)| format!("{topic} has {count}")).collect();
    Err(SessionError::Topics(format!(
        "the health topics must have as many partitions each ({}); `hookstream topics apply` creates them",
        counts.join(", ")
    )))
}
