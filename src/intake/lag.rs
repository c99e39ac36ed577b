//! How far behind the events consumer is, and what keeps it from reading. Clients of its own ask the brokers, because the reader's
//! statistics stand still while a partition is paused.
//!
//! A partition's end is asked for whatever transactions are open. Markers of transactions take up offsets and are not records. So where
//! nothing seems to be read, a look from outside finds out whether records wait. A log that is not the one that was read is read again,
//! in the retry topics too. Nothing is delivered here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use super::log_changes;
use super::membership::GroupMember;
use super::outside::{self, Found};
use super::tier_watch::TierWatch;
use super::unheld::Unheld;
use crate::clock;
use crate::inflight::partition::Assignment;
use crate::kafka::client::{ClientLog, group_asker_config};
use crate::kafka::topic_watch::{LogRange, Look, TopicWatch, ends};
use crate::settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::repeats::Repeats;

/// How long brokers may take for one of the questions of a round. The first without an answer ends the round.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A partition counts as standing still when it gives nothing for this long although records wait.
const STILL_AFTER: Duration = Duration::from_mins(1);

/// What is remembered of a partition between two rounds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The next offset to be settled.
    next: i64,
    /// Since when records wait at this `next`.
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
    /// Nothing of it was read, and a look from outside found something that can't be read.
    Unreadable,
}

impl From<Found> for Waits {
    fn from(found: Found) -> Self {
        match found {
            Found::Markers => Self::Markers,
            Found::Records => Self::Records,
            Found::Unreadable => Self::Unreadable,
        }
    }
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
    unheld: Unheld,
    tiers: TierWatch,
    repeats: Repeats,
}

impl Lag {
    /// Measures the partitions of `topic` that `member` holds. `tiers` are the retry topics, which `retries` holds partitions of.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new<'a>(
        kafka: &settings::Kafka,
        topic: &str,
        member: Arc<GroupMember>,
        tiers: impl IntoIterator<Item = &'a str>,
        retries: Arc<GroupMember>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KafkaError> {
        let asker = group_asker_config(kafka, "lag", &kafka.group).create_with_context(ClientLog::new("lag"))?;
        let watch = TopicWatch::new(kafka, topic, "lag")?;
        let tiers = TierWatch::new(&watch, tiers, retries, Arc::clone(&metrics));
        let (seen, unheld, repeats) = (BTreeMap::new(), Unheld::default(), Repeats::default());
        Ok(Self { asker, watch, topic: topic.to_owned(), member, metrics, seen, unheld, tiers, repeats })
    }

    /// Asks about all partitions and sets the gauges; those of partitions that were given up, or that the topic does not have
    /// any more, disappear. Where brokers do not answer, gauges stay as they were. Blocks.
    pub(crate) fn measure(&mut self) {
        let assignments: Vec<_> = self.member.assignments();
        self.keep_only(|partition| assignments.iter().any(|assignment| assignment.partition() == partition));
        let look = self.watch.look(clock::now_ms(), ASK_TIMEOUT);
        let asked = look.and_then(|look| {
            let partitions: Vec<i32> = look.ranges.keys().copied().collect();
            Ok((ends(&self.asker, &self.topic, &partitions, ASK_TIMEOUT)?, look))
        });
        let (stable, look) = match asked {
            Ok(answered) => answered,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "no answer about the ends of partitions");
                return;
            }
        };
        self.keep_only(|partition| look.listed.contains(&partition));
        self.seen.retain(|partition, _| !look.changes.contains_key(partition));
        log_changes::follow(&self.topic, &look, &self.member, &self.metrics);
        let now = Instant::now();
        for assignment in &assignments {
            let partition = assignment.partition();
            let (Some(range), Some(stable)) = (look.ranges.get(&partition), stable.get(&partition)) else { continue };
            let before = self.seen.get(&partition).copied();
            let seen = progress_of(assignment, *range, *stable, before, now);
            self.seen.insert(partition, seen);
        }
        self.follow_others(&look, now);
        self.probe(now);
        self.export(now);
        self.tiers.look(ASK_TIMEOUT);
    }

    /// Asks what the group has committed in the partitions that this process does not hold.
    fn follow_others(&mut self, look: &Look, now: Instant) {
        let others: Vec<_> = look.ranges.iter().filter(|(partition, _)| !self.seen.contains_key(partition)).collect();
        let mut list = TopicPartitionList::new();
        for (partition, _) in &others {
            list.add_partition(&self.topic, **partition);
        }
        if others.is_empty() {
            return self.unheld.follow(&BTreeMap::new(), now);
        }
        let committed = match self.asker.committed_offsets(list, ASK_TIMEOUT) {
            Ok(committed) => committed,
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "no answer about what the group has committed");
                return;
            }
        };
        let offset = |partition: i32| match committed.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let others = others.into_iter().map(|(partition, range)| (*partition, (offset(*partition), *range)));
        self.unheld.follow(&others.collect(), now);
    }

    /// Forgets the other partitions and removes their gauges.
    fn keep_only(&mut self, is_kept: impl Fn(i32) -> bool) {
        let (topic, metrics) = (&self.topic, &self.metrics);
        self.seen.retain(|partition, _| {
            let is_kept = is_kept(*partition);
            if !is_kept {
                let labels = [topic.as_str(), &partition.to_string()];
                if let Err(error) = metrics.intake.consumer_lag.remove_label_values(&labels) {
                    tracing::debug!(%error, "no gauge of a partition that went");
                }
            }
            is_kept
        });
    }

    /// Looks from outside whether records wait where nothing is under way and nothing was read, and where others take nothing.
    fn probe(&mut self, now: Instant) {
        let is_asked = |seen: &Seen| seen.waits == Waits::Unknown && seen.next < seen.stable;
        let asked = self.seen.iter().filter(|(_, seen)| is_asked(seen));
        let held: BTreeMap<i32, i64> = asked.map(|(partition, seen)| (*partition, seen.next)).collect();
        let places = held.iter().map(|(partition, next)| (*partition, *next)).chain(self.unheld.places(now));
        let found = outside::look(&self.asker, &self.topic, places.collect());
        for (partition, seen) in self.seen.iter_mut().filter(|(partition, _)| held.contains_key(partition)) {
            seen.waits = found.get(partition).map_or(seen.waits, |found| (*found).into());
        }
        self.unheld.found(&found);
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
            } else if seen.waits == Waits::Unreadable {
                still += 1;
                if let Some(repeats) = self.repeats.of(&format!("unreadable {partition}")) {
                    tracing::error!(
                        topic = self.topic,
                        partition,
                        offset = seen.next,
                        end,
                        repeats,
                        "a partition stands still: what comes next in it cannot be read"
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
        self.export_unheld(now);
        self.metrics.intake.open_transactions.follow(&self.topic, &held_up);
    }

    fn export_unheld(&self, now: Instant) {
        let mut lag = 0;
        for (partition, offset, waiting) in self.unheld.waiting(now) {
            lag += waiting;
            if let Some(repeats) = self.repeats.of(&format!("unheld {partition}")) {
                let topic = &self.topic;
                tracing::error!(
                    topic,
                    partition,
                    offset,
                    waiting,
                    repeats,
                    "no worker takes the records of a partition"
                );
            }
        }
        self.metrics.intake.unheld_lag.set(lag);
    }
}

/// What is known of a partition now.
fn progress_of(assignment: &Assignment, range: LogRange, stable: i64, before: Option<Seen>, now: Instant) -> Seen {
    let next = log_changes::next_of(assignment, range);
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
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::intake::membership::MemberState;
    use crate::kafka::test_broker::with_topic;
    use crate::telemetry::logs::testing::logged;

    /// Of a member that holds nothing. No broker answers.
    fn lag() -> Lag {
        lag_at("127.0.0.1:1".to_owned())
    }

    fn lag_at(brokers: String) -> Lag {
        let group = "g".to_owned();
        let kafka = settings::Kafka { brokers, group, instance_id: None, properties: Vec::new() };
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let member = Arc::new(MemberState::member("events", Arc::clone(&metrics), Duration::ZERO));
        Lag::new(&kafka, "events", Arc::clone(&member), std::iter::empty(), member, metrics).unwrap()
    }

    fn idle(start: i64) -> Arc<Assignment> {
        Assignment::resumed("events".into(), 0, Some(start), Vec::new())
    }

    fn seen(assignment: &Assignment, high: i64, stable: i64, before: Option<Seen>) -> Seen {
        progress_of(assignment, LogRange { low: 0, high }, stable, before, Instant::now())
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

    #[test]
    fn a_partition_that_gives_nothing_for_a_minute_though_records_wait_is_said_and_counted() {
        let (mut lag, began) = (lag(), Instant::now());
        lag.seen.insert(3, Seen { waits: Waits::Records, since: began, ..seen(&idle(10), 12, 12, None) });
        let is_said = |seconds| logged(|| lag.export(began + Duration::from_secs(seconds))).contains("gives nothing");
        assert!(!is_said(59));
        assert_eq!(lag.metrics.intake.still_partitions.get(), 0);
        let said = logged(|| lag.export(began + STILL_AFTER));
        assert!(said.contains("gives nothing") && said.contains("partition=3") && said.contains("offset=10"), "{said}");
        assert_eq!(lag.metrics.intake.still_partitions.get(), 1);
        lag.metrics.intake.paused_partitions.set(1);
        lag.export(began + STILL_AFTER);
        assert_eq!(lag.metrics.intake.still_partitions.get(), 0, "this process reads nothing for the moment");
    }

    #[test]
    fn the_lag_stays_as_it_was_while_no_broker_answers_and_goes_with_its_partition() {
        for (is_held, shown) in [(true, 500), (false, 0)] {
            let mut lag = lag();
            if is_held {
                lag.member.hold(idle(10));
            }
            lag.seen.insert(0, seen(&idle(10), 510, 510, None));
            lag.export(Instant::now());
            lag.measure();
            assert_eq!(lag.metrics.intake.consumer_lag.with_label_values(&["events", "0"]).get(), shown);
        }
    }

    #[test]
    fn the_lag_of_a_partition_goes_when_the_topic_has_it_no_more_and_not_when_its_broker_is_silent() {
        let (cluster, kafka) = with_topic("events");
        let mut lag = lag_at(kafka.brokers);
        for partition in [0, 1] {
            lag.member.hold(Assignment::resumed("events".into(), partition, Some(0), Vec::new()));
            lag.seen.insert(partition, Seen { waits: Waits::Records, ..seen(&idle(10), 510, 510, None) });
        }
        lag.export(Instant::now());
        let shown = |lag: &Lag, partition: &str| {
            let text = String::from_utf8(lag.metrics.text()).unwrap();
            text.contains(&format!("hookstream_consumer_lag{{partition=\"{partition}\",topic=\"events\"}}"))
        };
        assert!(shown(&lag, "0") && shown(&lag, "1"));
        lag.measure();
        assert!(shown(&lag, "0") && !shown(&lag, "1"), "the topic has one partition now");
        cluster.broker_down(1).expect("the broker ends");
        lag.measure();
        assert!(shown(&lag, "0"));
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
