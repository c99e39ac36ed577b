//! How far behind the events consumer is, and what keeps it from reading: asked of the brokers by clients of its own, because
//! the reader's statistics stand still while a partition is paused.
//!
//! A partition's end is asked for whatever transactions are open. Markers of transactions take up offsets and are no
//! records, so where nothing seems to be read, a look from outside says whether records wait. A log that is not the one
//! that was read is begun again. Nothing is delivered here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use super::membership::GroupMember;
use crate::clock;
use crate::inflight::partition::Assignment;
use crate::kafka::client::{ClientLog, table_consumer_config};
use crate::kafka::topic_watch::{LogChange, LogRange, TopicWatch, ends};
use crate::settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;

/// How long brokers may take for one of the five questions of a round: a stop waits for no more than all of them.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the look from outside may take.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// A partition that gives nothing for so long although records wait stands still.
const STILL_AFTER: Duration = Duration::from_mins(1);

/// What is remembered of a partition between two rounds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The next offset to be settled.
    next: i64,
    /// Since when that is so.
    since: Instant,
    /// Where its log begins and ends.
    range: LogRange,
    /// Where the oldest open transaction begins, or the end.
    stable: i64,
    /// Whether a transaction was open at the same place in the round before.
    is_held_up: bool,
    waits: Waits,
}

/// What lies between the next offset and the partition's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// There is nothing.
    Nothing,
    /// Some of it was read and is not settled yet.
    UnderWay,
    /// Nothing of it was read.
    Unknown,
    /// Nothing of it was read, and a look from outside found only markers.
    Markers,
    /// Nothing of it was read, and a look from outside found records.
    Records,
}

impl Seen {
    fn lag(&self) -> i64 {
        if self.waits == Waits::Markers { 0 } else { (self.range.high - self.next).max(0) }
    }
}

/// Measures the lag.
pub(crate) struct Lag {
    asker: BaseConsumer<ClientLog>,
    watch: TopicWatch,
    topic: String,
    member: Arc<GroupMember>,
    metrics: Arc<Metrics>,
    seen: BTreeMap<i32, Seen>,
    repeats: Repeats,
}

impl Lag {
    /// Of the partitions of `topic` that `member` holds.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(
        kafka: &settings::Kafka,
        topic: &str,
        member: Arc<GroupMember>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let asker = table_consumer_config(kafka, "lag").create_with_context(ClientLog::new("lag"))?;
        let watch = TopicWatch::new(kafka, topic, "lag")?;
        let (seen, repeats) = (BTreeMap::new(), Repeats::default());
        Ok(Self { asker, watch, topic: topic.to_owned(), member, metrics, seen, repeats })
    }

    /// Asks about all partitions held and sets the gauges; those of partitions that went disappear. Where brokers do not
    /// answer, gauges stay as they were. Blocks.
    pub(crate) fn measure(&mut self) {
        let assignments: Vec<_> = self.member.assignments();
        self.forget_others(&assignments);
        let partitions: Vec<i32> = assignments.iter().map(|assignment| assignment.partition()).collect();
        let look = self.watch.look(clock::now_ms(), ASK_TIMEOUT);
        let asked = look.and_then(|look| Ok((ends(&self.asker, &self.topic, &partitions, ASK_TIMEOUT)?, look)));
        let (stable, look) = match asked {
            Ok(answered) => answered,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "no answer about the ends of partitions");
                return;
            }
        };
        for (partition, change) in &look.changes {
            if let Some(range) = look.ranges.get(partition) {
                self.begin_again(*partition, *change, *range);
            }
        }
        let now = Instant::now();
        for assignment in &assignments {
            let partition = assignment.partition();
            let (Some(range), Some(stable)) = (look.ranges.get(&partition), stable.get(&partition)) else { continue };
            let before = self.seen.get(&partition).copied();
            let seen = see(assignment, *range, *stable, before, now);
            self.seen.insert(partition, seen);
        }
        self.probe();
        self.export(now);
    }

    fn forget_others(&mut self, assignments: &[Arc<Assignment>]) {
        let (topic, metrics) = (&self.topic, &self.metrics);
        self.seen.retain(|partition, _| {
            let is_held = assignments.iter().any(|assignment| assignment.partition() == *partition);
            if !is_held {
                let labels = [topic.as_str(), &partition.to_string()];
                if let Err(error) = metrics.intake.consumer_lag.remove_label_values(&labels) {
                    tracing::debug!(%error, "no gauge of a partition that went");
                }
            }
            is_held
        });
    }

    /// The log is not the one that was read: the partition begins where nothing of the new one is left out.
    fn begin_again(&mut self, partition: i32, change: LogChange, range: LogRange) {
        let (kind, end_before, start) = match change {
            LogChange::Anew { end_before, .. } => ("anew", end_before, range.low),
            LogChange::Truncated { end_before, .. } => ("truncated", end_before, range.high),
        };
        tracing::error!(
            topic = self.topic,
            partition,
            kind,
            end_before,
            end = range.high,
            start,
            "a partition's log is not the one that was read; it is read from another offset"
        );
        self.metrics.intake.logs_changed.with_label_values(&[kind]).inc();
        self.seen.remove(&partition);
        self.member.begin_again(&self.topic, partition, start);
    }

    /// Looks from outside whether records wait where nothing is under way and nothing was read.
    fn probe(&mut self) {
        let is_asked = |seen: &Seen| seen.waits == Waits::Unknown && seen.next < seen.stable;
        let asked = self.seen.iter().filter(|(_, seen)| is_asked(seen));
        let mut asked: BTreeMap<i32, i64> = asked.map(|(partition, seen)| (*partition, seen.next)).collect();
        if asked.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        let listed = asked.iter().try_for_each(|(partition, next)| {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))
        });
        if let Err(error) = listed.and_then(|()| self.asker.assign(&list)) {
            tracing::debug!(topic = self.topic, %error, "no look whether records wait");
            return;
        }
        let deadline = Instant::now() + PROBE_MAX;
        while !asked.is_empty() && Instant::now() < deadline {
            let (partition, waits) = match self.asker.poll(deadline.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => (message.partition(), Waits::Records),
                Some(Err(KafkaError::PartitionEOF(partition))) => (partition, Waits::Markers),
                Some(Err(error)) => {
                    tracing::debug!(topic = self.topic, %error, "a poll failed");
                    continue;
                }
                None => break,
            };
            let is_asked = asked.remove(&partition).is_some();
            if let Some(seen) = self.seen.get_mut(&partition).filter(|_| is_asked) {
                seen.waits = waits;
            }
        }
        if let Err(error) = self.asker.unassign() {
            tracing::debug!(topic = self.topic, %error, "the look whether records wait did not end");
        }
    }

    fn export(&self, now: Instant) {
        let (mut held_up, mut still) = (Vec::new(), 0);
        let is_paused = self.metrics.intake.paused_partitions.get() > 0;
        for (partition, seen) in &self.seen {
            let labels = [self.topic.as_str(), &partition.to_string()];
            self.metrics.intake.consumer_lag.with_label_values(&labels).set(seen.lag());
            let (partition, position, end) = (*partition, seen.stable, seen.range.high);
            let waits = now.saturating_duration_since(seen.since);
            if seen.is_held_up {
                held_up.push(partition);
                if let Some(repeats) = self.repeats.of(&format!("open {partition}")) {
                    tracing::warn!(
                        topic = self.topic,
                        partition,
                        position,
                        end,
                        repeats,
                        "an open transaction holds up the reading of events"
                    );
                }
            } else if seen.waits == Waits::Records && waits >= STILL_AFTER && !is_paused {
                still += 1;
                if let Some(repeats) = self.repeats.of(&format!("still {partition}")) {
                    let seconds = waits.as_secs();
                    tracing::error!(
                        topic = self.topic,
                        partition,
                        offset = seen.next,
                        end,
                        seconds,
                        repeats,
                        "a partition gives nothing although records wait in it"
                    );
                }
            }
        }
        self.metrics.intake.still_partitions.set(still);
        self.metrics.intake.open_transactions.follow(&self.topic, &held_up);
    }
}

/// What is known of a partition now.
fn see(assignment: &Assignment, range: LogRange, stable: i64, before: Option<Seen>, now: Instant) -> Seen {
    // Before anything is settled all that there is counts from where the group had left off.
    let next = assignment.committable().or_else(|| assignment.start()).or_else(|| assignment.first_read());
    let next = next.unwrap_or(range.low).max(range.low);
    let was_open = before.is_some_and(|before| before.stable == stable && before.range.high > stable);
    let before = before.filter(|before| before.next == next);
    let only_markers = before.is_some_and(|before| before.range.high == range.high && before.waits == Waits::Markers);
    let waits = match before {
        _ if range.high <= next => Waits::Nothing,
        _ if only_markers => Waits::Markers,
        _ if assignment.unsettled_len() > 0 => Waits::UnderWay,
        _ => Waits::Unknown,
    };
    // Counted from when records began to wait behind what was read.
    let since = before.filter(|before| before.waits == Waits::Records).map_or(now, |before| before.since);
    Seen { next, since, range, stable, is_held_up: was_open && stable < range.high, waits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(start: i64) -> Arc<Assignment> {
        Assignment::resumed("events".into(), 0, Some(start), Vec::new())
    }

    fn seen(assignment: &Assignment, high: i64, stable: i64, before: Option<Seen>) -> Seen {
        see(assignment, LogRange { low: 0, high }, stable, before, Instant::now())
    }

    #[tokio::test]
    async fn what_a_look_from_outside_found_holds_until_the_end_moves() {
        let assignment = idle(10);
        let first = seen(&assignment, 11, 11, None);
        assert_eq!((first.waits, first.lag()), (Waits::Unknown, 1));
        let markers = Seen { waits: Waits::Markers, ..first };
        assert_eq!(seen(&assignment, 11, 11, Some(markers)).lag(), 0);
        let moved = seen(&assignment, 13, 13, Some(markers));
        assert_eq!((moved.waits, moved.lag()), (Waits::Unknown, 3));
        assert_eq!(seen(&idle(11), 11, 11, Some(first)).waits, Waits::Nothing);
    }

    #[tokio::test]
    async fn records_under_way_are_no_standstill() {
        let assignment = idle(10);
        assignment.admit(10);
        assert_eq!(seen(&assignment, 20, 20, None).waits, Waits::UnderWay);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_counts_from_when_records_began_to_wait() {
        let assignment = idle(10);
        let found = Seen { waits: Waits::Records, ..seen(&assignment, 12, 12, None) };
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(seen(&assignment, 15, 15, Some(found)).since.elapsed(), Duration::from_secs(70));
        assert_eq!(seen(&idle(11), 15, 15, Some(found)).since.elapsed(), Duration::ZERO, "it gave something");
    }

    #[tokio::test]
    async fn a_transaction_holds_reading_up_when_two_rounds_find_it_open_at_one_place() {
        let assignment = idle(10);
        let open = seen(&assignment, 510, 10, None);
        assert_eq!((open.is_held_up, open.lag()), (false, 500));
        assert!(seen(&assignment, 520, 10, Some(open)).is_held_up);
        assert!(!seen(&assignment, 520, 400, Some(open)).is_held_up, "another one");
        assert!(!seen(&assignment, 520, 520, Some(open)).is_held_up, "it ended");
    }
}
