//! The owner of the integrations' health: sums what all workers count, and writes changes of state.
//!
//! Every worker is a member of a group on the deltas topic. The worker that is assigned a partition owns its integrations.
//! It writes states and its read position in one transaction; Kafka rejects the transaction of a worker that lost the
//! partition. So each change of state is one record and each delta counts once, even if a worker dies. Kafka checks the
//! membership only for offsets, so every transaction has some. A partition that cannot be read or written holds up no other.
//! What fails here is logged and tried again, and no delivery waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, log_change, with_fence};
use super::moves::{Move, Moves, TopicsError, Unjudged, check_partitions};
use super::positions::{Positions, first_dropped};
use super::records::{Delta, RecordError};
use super::restore::load;
use super::rules::{Change, Health, PartitionHealth, Reported, Rules};
use crate::clock;
use crate::domain::topic_names::{counts_topic, deltas_topic, health_group};
use crate::kafka::client::{Logged, health_consumer_config, is_denied};
use crate::kafka::groups::leave_empty_handed;
use crate::kafka::transactions::{TransactionError, Transactions, Written};
use crate::settings;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;

/// How long a poll waits when there is nothing: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Deltas that are read before the time is checked again.
const BATCH: usize = 256;
/// How often states are judged and changes written.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// Counts are written when they are this old, ms: it bounds what the next owner reads again.
const WRITE_AFTER_MS: i64 = 10_000;
/// Integrations written in one transaction.
const WRITE_MAX: usize = 2_000;
/// How often idle integrations are looked for, and for how long an integration has been idle when it is forgotten.
const FORGET_EVERY: Duration = Duration::from_hours(1);
const FORGET_AFTER_MS: i64 = 7 * 24 * 3_600_000;
/// How long the coordinator may take to answer what is committed: the transactions of a former owner end by then.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a partition that could not be loaded or written is left alone.
const APART: Duration = Duration::from_secs(30);
/// How long a member waits for its partitions at most before it counts as one that owns none.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// How often the log says that a partition cannot be loaded.
const SAY_EVERY: Duration = Duration::from_mins(5);
/// How long until a session that ended is begun again; it doubles up to the longest.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_mins(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{what}")]
    Kafka { what: &'static str, source: KafkaError },
    #[error(transparent)]
    Transaction(TransactionError),
    #[error(transparent)]
    Topics(#[from] TopicsError),
    #[error("the client does not know its group")]
    NoGroup,
}

/// Sums and judges, on a thread of its own.
pub(crate) struct HealthOwner {
    pub(crate) kafka: settings::Kafka,
    /// The health topic.
    pub(crate) health_topic: String,
    /// The events topic: what a suspension drops is named by its offsets.
    pub(crate) events_topic: String,
    /// The backlog topic: what a webhook is behind with is dropped from its place on.
    pub(crate) backlog_topic: String,
    /// When an integration fails.
    pub(crate) rules: Rules,
    pub(crate) metrics: Arc<Metrics>,
}

impl HealthOwner {
    /// Works until `stop`. Blocks its thread.
    pub(crate) fn run(self, stop: &CancellationToken) {
        let mut wait = AGAIN_MIN;
        let unjudged = Unjudged::of(&self.metrics);
        while !stop.is_cancelled() {
            let began = Instant::now();
            unjudged.begin();
            let session = Session::begin(&self, &unjudged);
            let Err(error) = session.and_then(|mut session| session.run(stop)) else { return };
            unjudged.begin();
            if began.elapsed() > AGAIN_MAX {
                wait = AGAIN_MIN;
            }
            // While the fault lasts, this comes at most once a minute.
            tracing::warn!(error = chain(&error), "the integrations' health is not judged here at present");
            let until = Instant::now() + wait;
            wait = (wait * 2).min(AGAIN_MAX);
            while !stop.is_cancelled() && Instant::now() < until {
                std::thread::park_timeout(POLL_WAIT);
            }
        }
    }
}

/// From joining the group to the first error after which the known state may be wrong.
struct Session<'a> {
    owner: &'a HealthOwner,
    deltas_topic: String,
    counts_topic: String,
    consumer: BaseConsumer<Logged<Moves>>,
    transactions: Transactions,
    positions: Positions,
    books: BTreeMap<i32, PartitionHealth>,
    /// By partition, the offset that was last committed, or where the assignment began.
    committed: BTreeMap<i32, i64>,
    /// Partitions that gave neither a record nor their end since they were loaded.
    unheard: BTreeSet<i32>,
    /// Partitions that could not be loaded, and until when no other try is made.
    unloaded: BTreeMap<i32, Instant>,
    /// Partitions that could not be written, and until when no other try is made.
    unwritten: BTreeMap<i32, Instant>,
    unjudged: &'a Unjudged<'a>,
    unloadable: Repeats,
    bad: Repeats,
    began: Instant,
    turned: Instant,
    swept: Instant,
}

impl<'a> Session<'a> {
    fn begin(owner: &'a HealthOwner, unjudged: &'a Unjudged<'a>) -> Result<Self, SessionError> {
        let failed = |what| move |source| SessionError::Kafka { what, source };
        let HealthOwner { kafka, health_topic, events_topic, .. } = owner;
        let (deltas_topic, counts_topic) = (deltas_topic(health_topic), counts_topic(health_topic));
        let group = health_group(&kafka.group);
        let consumer: BaseConsumer<Logged<Moves>> = health_consumer_config(kafka, &group)
            .create_with_context(Moves::context())
            .map_err(failed("no consumer"))?;
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
            unheard: BTreeSet::new(),
            unloaded: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            unjudged,
            unloadable: Repeats::every(SAY_EVERY),
            bad: Repeats::default(),
            began: now,
            turned: now,
            swept: now,
        })
    }

    fn run(&mut self, stop: &CancellationToken) -> Result<(), SessionError> {
        while !stop.is_cancelled() {
            self.read()?;
            if self.turned.elapsed() >= TURN_EVERY {
                self.load_again()?;
                self.turn(WRITE_AFTER_MS)?;
                if self.is_judging() {
                    self.unjudged.end();
                }
                self.turned = Instant::now();
            }
        }
        // The next owner need not read again what is written now.
        self.turn(0)?;
        // The callbacks do not count rounds: only the brokers' answer counts, and each call counts as a round.
        let looks = AtomicU64::new(0);
        leave_empty_handed(&self.consumer, &health_group(&self.owner.kafka.group), || {
            looks.fetch_add(1, Ordering::Relaxed)
        });
        Ok(())
    }

    /// Whether it can read and write all that it owns. It may own nothing.
    fn is_judging(&self) -> bool {
        let has_joined = !self.books.is_empty() || self.began.elapsed() >= JOIN_MAX;
        has_joined && self.unheard.is_empty() && self.unloaded.is_empty() && self.unwritten.is_empty()
    }

    /// Reads up to a batch, waiting only for its first delta.
    fn read(&mut self) -> Result<(), SessionError> {
        let mut wait = POLL_WAIT;
        for _ in 0..BATCH {
            let polled = self.consumer.poll(wait);
            // The message borrows the consumer, and a rebalance changes the other fields.
            let polled = polled.map(|polled| {
                polled.map(|message| (message.partition(), message.offset(), message.payload().map(<[u8]>::to_vec)))
            });
            for moved in self.consumer.context().take() {
                self.follow(moved)?;
            }
            match polled {
                None => return Ok(()),
                Some(Ok((partition, offset, value))) => {
                    self.unheard.remove(&partition);
                    // If the partition was revoked meanwhile, its next owner reads the record.
                    if let Some(book) = self.books.get_mut(&partition) {
                        if book.is_passed(offset) {
                            let topic = self.deltas_topic.as_str();
                            tracing::error!(
                                topic,
                                partition,
                                offset,
                                "a topic of health counts was created again; its records count from its start"
                            );
                            book.begin_again();
                            self.committed.insert(partition, offset);
                        }
                        take(book, offset, value.as_deref(), &self.owner.rules, &self.bad);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.unheard.remove(&partition);
                }
                Some(Err(source @ KafkaError::MessageConsumptionFatal(_))) => {
                    return Err(SessionError::Kafka { what: "the consumer cannot go on", source });
                }
                Some(Err(source)) if is_denied(&source) => {
                    return Err(SessionError::Kafka { what: "the counts of health may not be read", source });
                }
                Some(Err(error)) => tracing::debug!(%error, "a poll failed"),
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Judges, and writes what changed and what was counted `write_after_ms` ago.
    fn turn(&mut self, write_after_ms: i64) -> Result<(), SessionError> {
        let now_ms = clock::now_ms();
        let sweeps = self.swept.elapsed() >= FORGET_EVERY;
        let mut entries: BTreeMap<i32, Entry> = BTreeMap::new();
        let now = Instant::now();
        self.unwritten.retain(|partition, until| *until > now && self.books.contains_key(partition));
        for (partition, book) in self.books.iter_mut().filter(|(partition, _)| !self.unwritten.contains_key(partition))
        {
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
        let Some(error) = self.write(&entries, &offsets)? else {
            self.settle(entries);
            return Ok(());
        };
        tracing::info!(%error, "changes of health were not written and are written again, by partition");
        for (partition, entry) in entries {
            let offsets: BTreeMap<i32, i64> =
                offsets.get(&partition).map(|offset| (partition, *offset)).into_iter().collect();
            let entries = BTreeMap::from([(partition, entry)]);
            match self.write(&entries, &offsets)? {
                None => self.settle(entries),
                Some(error) => {
                    tracing::warn!(partition, %error, "the health of a partition's integrations cannot be written at present");
                    self.unjudged.begin();
                    self.unwritten.insert(partition, Instant::now() + APART);
                }
            }
        }
        Ok(())
    }

    /// Writes entries and offsets. Returns an error if nothing was written and another try may succeed.
    fn write(
        &mut self,
        entries: &BTreeMap<i32, Entry>,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<Option<KafkaError>, SessionError> {
        let (health, counts) = (self.owner.health_topic.as_str(), self.counts_topic.as_str());
        let records: Vec<Written> =
            entries.iter().flat_map(|(partition, entry)| entry.records(*partition, health, counts)).collect();
        let offsets = with_fence(offsets, entries, &self.committed);
        match self.commit(&records, &offsets) {
            Ok(()) => {
                self.committed.extend(offsets);
                Ok(None)
            }
            Err(SessionError::Transaction(TransactionError::Aborted(error))) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Follows a rebalance.
    fn follow(&mut self, moved: Move) -> Result<(), SessionError> {
        match moved {
            Move::Revoked(partitions) => {
                for partition in &partitions {
                    self.books.remove(partition);
                    self.committed.remove(partition);
                    self.unheard.remove(partition);
                    self.unloaded.remove(partition);
                }
                tracing::info!(?partitions, "the health of these partitions' integrations is judged elsewhere");
            }
            Move::Assigned(partitions) if partitions.is_empty() => {}
            Move::Assigned(partitions) => {
                // Kafka returns the committed offsets only when no transaction of a former owner is open on them.
                let mut list = TopicPartitionList::new();
                for partition in &partitions {
                    list.add_partition(&self.deltas_topic, *partition);
                }
                let failed = |source| SessionError::Kafka { what: "the committed offsets are not known", source };
                let answered = self.consumer.committed_offsets(list, COMMITTED_TIMEOUT).map_err(failed)?;
                for element in answered.elements() {
                    if let Offset::Offset(offset) = element.offset() {
                        self.committed.insert(element.partition(), offset);
                    }
                }
                self.load(&partitions)?;
            }
        }
        Ok(())
    }

    /// Loads what is known of partitions: all at once, or one by one if that fails. A partition that can't be loaded is paused.
    fn load(&mut self, partitions: &[i32]) -> Result<(), SessionError> {
        let (kafka, topic) = (&self.owner.kafka, &self.owner.health_topic);
        let mut loaded = BTreeMap::new();
        self.unjudged.begin();
        match load(kafka, topic, partitions) {
            Ok(books) => loaded = books,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the health of partitions is loaded one by one");
                for partition in partitions {
                    match load(kafka, topic, &[*partition]) {
                        Ok(books) => loaded.extend(books),
                        Err(error) => {
                            if let Some(repeats) = self.unloadable.of(&partition.to_string()) {
                                tracing::error!(
                                    partition,
                                    error = chain(&error),
                                    repeats,
                                    "the health of a partition's integrations is not judged at present"
                                );
                            }
                            self.unloaded.insert(*partition, Instant::now() + APART);
                        }
                    }
                }
            }
        }
        let failed = |source| SessionError::Kafka { what: "a partition cannot be paused", source };
        let mut paused = TopicPartitionList::new();
        self.unloaded.keys().for_each(|partition| {
            paused.add_partition(&self.deltas_topic, *partition);
        });
        self.consumer.pause(&paused).map_err(failed)?;
        let integrations: usize = loaded.values().map(PartitionHealth::len).sum();
        let partitions: Vec<i32> = loaded.keys().copied().collect();
        self.unheard.extend(&partitions);
        self.books.extend(loaded);
        if !partitions.is_empty() {
            tracing::info!(?partitions, integrations, "the health of these partitions' integrations is judged here");
        }
        Ok(())
    }

    /// Tries again to load what could not be loaded.
    fn load_again(&mut self) -> Result<(), SessionError> {
        let due = self.unloaded.iter().find(|(_, until)| **until <= Instant::now());
        let Some(partition) = due.map(|(partition, _)| *partition) else { return Ok(()) };
        self.unloaded.remove(&partition);
        self.load(&[partition])?;
        if !self.books.contains_key(&partition) {
            return Ok(());
        }
        // Records that came before the pause were not counted.
        let failed = |source| SessionError::Kafka { what: "a partition cannot be read again", source };
        let start = self.committed.get(&partition).map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.deltas_topic, partition);
        self.consumer.resume(&list).map_err(failed)?;
        self.consumer.seek(&self.deltas_topic, partition, start, COMMITTED_TIMEOUT).map_err(failed)
    }

    /// Records in each suspension how far the events have been read. If that is not known, the suspension waits until the next turn.
    fn mark_first_dropped(&self, entries: &mut BTreeMap<i32, Entry>) {
        let fails = |change: &Change| change.known.health == Health::Failed;
        if !entries.values().any(|entry| entry.changes.iter().any(fails)) {
            return;
        }
        match self.positions.with_places(&self.owner.kafka, &self.owner.backlog_topic) {
            Ok((positions, table)) => {
                let changes = entries.values_mut().flat_map(|entry| &mut entry.changes);
                for change in changes.filter(|change| fails(change)) {
                    change.known.first_dropped = first_dropped(&positions, &table, &change.key);
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "suspensions paused: committed offsets or places cannot be read");
                for entry in entries.values_mut() {
                    entry.changes.retain(|change| !fails(change));
                }
            }
        }
    }

    /// The offsets to commit: those that differ from what is committed.
    fn offsets(&self, entries: &BTreeMap<i32, Entry>) -> BTreeMap<i32, i64> {
        let next = entries.iter().filter_map(|(partition, entry)| {
            Some((*partition, self.books.get(partition)?.next_offset_with(entry.written())?))
        });
        next.filter(|(partition, offset)| self.committed.get(partition) != Some(offset)).collect()
    }

    /// Whether enough was read to commit it in a transaction of its own.
    fn is_far(&self, offsets: &BTreeMap<i32, i64>) -> bool {
        let far = |(partition, offset): (&i32, &i64)| {
            self.committed
                .get(partition)
                .is_none_or(|committed| offset - committed >= i64::try_from(BATCH).unwrap_or(256))
        };
        offsets.iter().any(far)
    }

    fn commit(&self, records: &[Written], offsets: &BTreeMap<i32, i64>) -> Result<(), SessionError> {
        let failed = |what| move |source| SessionError::Kafka { what, source };
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.deltas_topic, *partition, Offset::Offset(*offset));
            added.map_err(failed("an offset cannot be listed"))?;
        }
        let group = self.consumer.group_metadata().ok_or(SessionError::NoGroup)?;
        self.transactions.commit(records, &list, &group).map_err(SessionError::Transaction)
    }

    /// Takes over what was written.
    fn settle(&mut self, entries: BTreeMap<i32, Entry>) {
        for (partition, entry) in entries {
            for Change { key, known } in &entry.changes {
                self.owner.metrics.health.transitions.with_label_values(&[known.health.word()]).inc();
                log_change(key, known);
            }
            let Some(book) = self.books.get_mut(&partition) else { continue };
            let Entry { changes, counted, forgotten } = entry;
            book.written(changes, counted.iter().map(|(key, _)| &**key), forgotten.iter().map(|key| &**key));
        }
    }
}

fn take(book: &mut PartitionHealth, offset: i64, value: Option<&[u8]>, rules: &Rules, bad: &Repeats) {
    match value.ok_or(RecordError::NoValue).and_then(Delta::parse) {
        Ok(Delta::DeltaBatch(report)) => {
            let now_ms = clock::now_ms();
            for (key, slots) in &report.deltas {
                let reported = Reported { reporter: report.reporter, key, slots };
                book.count(offset, &reported, rules, now_ms);
            }
        }
        Ok(Delta::ResumeRequest(resume)) => book.request_resume(&resume.key, resume.since_ms),
        Err(error) => {
            if let Some(repeats) = bad.of("bad") {
                tracing::warn!(offset, error = chain(&error), repeats, "a record of the deltas topic cannot be used");
            }
        }
    }
    book.skip(offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(forgotten: &[&str]) -> Entry {
        let forgotten = forgotten.iter().map(|key| (*key).into()).collect();
        Entry { changes: Vec::new(), counted: Vec::new(), forgotten }
    }

    #[test]
    fn no_partition_is_written_without_an_offset_of_it() {
        let entries =
            BTreeMap::from([(0, entry(&["ws/a"])), (1, entry(&["ws/b"])), (2, entry(&["ws/c"])), (3, entry(&[]))]);
        let (changed, committed) = (BTreeMap::from([(0, 7)]), BTreeMap::from([(0, 5), (1, 6)]));
        let offsets = with_fence(&changed, &entries, &committed);
        assert_eq!(offsets, BTreeMap::from([(0, 7), (1, 6), (2, 0)]), "the same offset again is enough");
    }
}
