//! Notices that a topic changed its shape: partitions were added, or its logs are not the ones that were looked at before.
//!
//! The client library goes on at its old offset in a topic that was deleted and created again, without an error. Brokers tell
//! clients no topic id through the binding, so a log is known by three things that never get smaller while it lives: where it
//! begins, where it ends, and the first offset that is not older than a given time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use super::client::{ClientLog, uncommitted_config};
use super::listing::partitions_of;
use super::span::Range;
use crate::settings;

/// How many looks in a row must find a log shorter before it counts: a new leader may be a moment behind the one before.
const SHORTER_LOOKS: u32 = 2;
/// What brokers take for a time when the first and the last offset are asked for.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Where a partition begins and ends, whatever transactions are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// The first offset that is kept.
    pub(crate) low: i64,
    /// The offset after the last record or marker.
    pub(crate) high: i64,
}

/// How a partition's log differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogChange {
    /// It is another log: the topic was deleted and created again.
    Recreated {
        /// Where the former log ended when it was last looked at.
        end_before: i64,
        /// Where this one ends.
        end: i64,
    },
    /// It is the same log and lost its last records.
    Truncated {
        /// Where it ended before.
        end_before: i64,
        /// Where it ends.
        end: i64,
    },
}

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The topic's partitions; empty: the topic does not exist.
    pub(crate) listed: BTreeSet<i32>,
    /// Where the log of each begins and ends, as far as brokers said it.
    pub(crate) ranges: BTreeMap<i32, LogRange>,
    /// Partitions whose log is not the one before.
    pub(crate) changes: BTreeMap<i32, LogChange>,
}

/// What is remembered of a partition's log.
#[derive(Clone, Copy, Debug)]
struct Mark {
    range: LogRange,
    since: Since,
    /// Looks in a row that found it shorter.
    shorter: u32,
}

/// Which records are not older than a time.
#[derive(Clone, Copy, Debug)]
struct Since {
    /// Ms since 1970.
    time_ms: i64,
    /// The first of them, or where the log ended when there was none.
    first: i64,
}

/// Looks at one topic.
pub(crate) struct TopicWatch {
    client: Arc<BaseConsumer<ClientLog>>,
    topic: String,
    /// The partitions that it looks at. `None`: all.
    only: Option<Vec<i32>>,
    marks: BTreeMap<i32, Mark>,
}

impl TopicWatch {
    /// A watch on `topic`, about which nothing is known yet. `role` names the client in logs.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn new(kafka: &settings::Kafka, topic: &str, role: &'static str) -> Result<Self, KafkaError> {
        let client = Arc::new(uncommitted_config(kafka, role).create_with_context(ClientLog::new(role))?);
        Ok(Self { client, topic: topic.to_owned(), only: None, marks: BTreeMap::new() })
    }

    /// From now on it looks at these partitions, and does not depend on the leaders of others.
    pub(crate) fn look_only_at(&mut self, partitions: &[i32]) {
        self.only = Some(partitions.to_vec());
    }

    /// A watch on another topic, with the same client.
    pub(crate) fn sharing(&self, topic: &str) -> Self {
        Self { client: Arc::clone(&self.client), topic: topic.to_owned(), only: None, marks: BTreeMap::new() }
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// Asks the brokers at `now_ms`; each of four questions may take `patience`. Blocks.
    ///
    /// # Errors
    /// A broker does not answer. What is remembered stays.
    pub(crate) fn look(&mut self, now_ms: i64, patience: Duration) -> Result<Look, KafkaError> {
        let mut partitions = partitions_of(self.client.client(), &self.topic, patience)?;
        if let Some(only) = &self.only {
            partitions.retain(|partition| only.contains(partition));
        }
        let all = |time: i64| partitions.iter().map(|partition| (*partition, time)).collect::<Vec<_>>();
        let first_not_older = |asked: &[(i32, i64)]| first_not_older(&self.client, &self.topic, asked, patience);
        let lows = first_not_older(&all(EARLIEST))?;
        let highs = first_not_older(&all(LATEST))?;
        let asked = self.marks.iter().filter(|(partition, _)| partitions.contains(partition));
        let asked: Vec<_> = asked.map(|(partition, mark)| (*partition, mark.since.time_ms)).collect();
        let again = first_not_older(&asked)?;
        let since = first_not_older(&all(now_ms))?;
        let mut look = Look { listed: partitions.iter().copied().collect(), ..Look::default() };
        for partition in partitions {
            let (Some(Some(low)), Some(Some(high))) = (lows.get(&partition), highs.get(&partition)) else { continue };
            let range = LogRange { low: *low, high: *high };
            let first = since.get(&partition).copied().flatten().unwrap_or(*high);
            let since = Since { time_ms: now_ms, first };
            look.ranges.insert(partition, range);
            let again = again.get(&partition).copied().flatten();
            let (mark, change) = compare(self.marks.get(&partition), range, since, again);
            self.marks.insert(partition, mark);
            if let Some(change) = change {
                look.changes.insert(partition, change);
            }
        }
        Ok(look)
    }
}

/// Where the offsets of these partitions begin and, by the isolation of `client`, end. Blocks for at most twice `patience`.
///
/// # Errors
/// A broker does not answer.
pub(super) fn bounds<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    patience: Duration,
) -> Result<Vec<Range>, KafkaError> {
    let asked: Vec<_> = partitions.iter().map(|partition| (*partition, EARLIEST)).collect();
    let starts = first_not_older(client, topic, &asked, patience)?;
    let ends = ends(client, topic, partitions, patience)?;
    let bounds = partitions.iter().map(|partition| {
        let start = starts.get(partition).copied().flatten().unwrap_or_default();
        let end = ends.get(partition).copied().unwrap_or(start);
        Range { partition: *partition, start, end: end.max(start) }
    });
    Ok(bounds.collect())
}

/// Where these partitions end for `client`: by its isolation, before the first open transaction or behind it. Blocks for at
/// most `patience`.
///
/// # Errors
/// A broker does not answer.
pub(crate) fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    patience: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let asked: Vec<_> = partitions.iter().map(|partition| (*partition, LATEST)).collect();
    let answered = first_not_older(client, topic, &asked, patience)?;
    Ok(answered.into_iter().filter_map(|(partition, end)| Some((partition, end?))).collect())
}

/// By partition, the first offset that is not older than the time asked for. `None` where there is no such record.
fn first_not_older<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    asked: &[(i32, i64)],
    patience: Duration,
) -> Result<BTreeMap<i32, Option<i64>>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, time) in asked {
        list.add_partition_offset(topic, *partition, Offset::from_raw(*time))?;
    }
    if list.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let answered = client.offsets_for_times(list, patience)?;
    let mut offsets = BTreeMap::new();
    for element in answered.elements() {
        element.error()?;
        let offset = if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None };
        offsets.insert(element.partition(), offset);
    }
    Ok(offsets)
}

/// What is remembered of a log from now on, and how it differs from the one before. `again` is the answer to the former mark's question,
/// asked again.
fn compare(before: Option<&Mark>, range: LogRange, since: Since, again: Option<i64>) -> (Mark, Option<LogChange>) {
    let mark = Mark { range, since, shorter: 0 };
    let Some(before) = before else { return (mark, None) };
    let (end_before, end) = (before.range.high, range.high);
    if range.low < before.range.low || again.is_some_and(|first| first < before.since.first) {
        return (mark, Some(LogChange::Recreated { end_before, end }));
    }
    if end >= end_before {
        return (mark, None);
    }
    let shorter = before.shorter + 1;
    if shorter < SHORTER_LOOKS {
        return (Mark { shorter, ..*before }, None);
    }
    let is_empty = range.low == end;
    let change =
        if is_empty { LogChange::Recreated { end_before, end } } else { LogChange::Truncated { end_before, end } };
    (mark, Some(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(low: i64, high: i64, first: i64) -> Mark {
        Mark { range: LogRange { low, high }, since: Since { time_ms: 1_000, first }, shorter: 0 }
    }

    fn change(before: &Mark, low: i64, high: i64, again: Option<i64>) -> Option<LogChange> {
        compare(Some(before), LogRange { low, high }, Since { time_ms: 2_000, first: high }, again).1
    }

    #[test]
    fn a_log_that_grows_and_loses_its_oldest_records_is_the_same() {
        let before = mark(10, 100, 100);
        assert_eq!(change(&before, 10, 100, None), None);
        assert_eq!(change(&before, 90, 400, Some(100)), None);
        assert_eq!(change(&before, 300, 400, Some(300)), None, "what was first then is deleted");
        assert_eq!(
            compare(None, LogRange { low: 0, high: 5 }, Since { time_ms: 1, first: 5 }, None).1,
            None,
            "the first look"
        );
    }

    #[test]
    fn a_longer_log_whose_records_all_came_later_is_another() {
        let created_again = Some(LogChange::Recreated { end_before: 100, end: 400 });
        assert_eq!(change(&mark(0, 100, 100), 0, 400, Some(0)), created_again);
        assert_eq!(change(&mark(10, 100, 100), 0, 400, None), created_again, "a log never begins earlier");
    }

    #[test]
    fn a_shorter_log_counts_when_it_is_found_twice() {
        let before = mark(5, 100, 100);
        let shorter = LogRange { low: 5, high: 60 };
        let (once, none) = compare(Some(&before), shorter, Since { time_ms: 2_000, first: 60 }, None);
        assert_eq!(none, None, "a new leader is behind for a moment");
        let (_, twice) = compare(Some(&once), shorter, Since { time_ms: 3_000, first: 60 }, None);
        assert_eq!(twice, Some(LogChange::Truncated { end_before: 100, end: 60 }));
        let (_, back) =
            compare(Some(&once), LogRange { low: 5, high: 101 }, Since { time_ms: 3_000, first: 101 }, None);
        assert_eq!(back, None);
        let empty = LogRange { low: 0, high: 0 };
        let (once, _) = compare(Some(&mark(0, 100, 100)), empty, Since { time_ms: 2_000, first: 0 }, None);
        let (_, twice) = compare(Some(&once), empty, Since { time_ms: 3_000, first: 0 }, None);
        assert_eq!(twice, Some(LogChange::Recreated { end_before: 100, end: 0 }));
    }
}
