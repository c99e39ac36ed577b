//! Groups: what a group has committed, asked without being a member, and how a member joins and leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use super::client::{ClientLog, group_asker_config};
use super::first_answer::{NoAnswer, first_answer};
use super::span::{ANSWER_TIMEOUT, SpanError};
use crate::settings;

/// How long a member that leaves waits until it has joined: clients join at most once a second, and a rebalance has two rounds.
const JOIN_MAX: Duration = Duration::from_secs(3);
/// How long a poll waits meanwhile.
const SERVE_FOR: Duration = Duration::from_millis(20);
/// How long the brokers may take to say how the group is.
const STATE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the brokers may take to describe a topic, which is asked only to bring the next round forward.
const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How brokers name the states of a group in which its members join, in the classic protocol.
const JOINING: [&str; 2] = ["PreparingRebalance", "CompletingRebalance"];

/// Partitions and the first offset that is not committed, by topic.
pub(crate) type Committed = BTreeMap<String, BTreeMap<i32, i64>>;

/// What `group` has committed of the topics that `wanted` takes; a topic that it has never read has no offsets. Every such topic there
/// is has an entry. Blocks for a bounded time.
///
/// # Errors
/// [`SpanError::NoBroker`], [`SpanError::Kafka`]
pub(crate) fn committed(
    kafka: &settings::Kafka,
    group: &str,
    role: &'static str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Committed, SpanError> {
    let failed = |source| SpanError::Kafka { topic: format!("of group {group}"), source };
    let config = group_asker_config(kafka, role, group);
    let connect = || config.create_with_context(ClientLog::of_tool(role)).map(Arc::new);
    let listed =
        first_answer(&kafka.brokers, ANSWER_TIMEOUT, connect, |client, wait| client.fetch_metadata(None, wait));
    let (client, metadata) = listed.map_err(|error| match error {
        NoAnswer::Away { cause } => SpanError::NoBroker { brokers: kafka.brokers.clone(), cause },
        NoAnswer::Configuration(source) | NoAnswer::Refused(source) => failed(source),
    })?;
    let mut asked = TopicPartitionList::new();
    let mut committed = Committed::new();
    for topic in metadata.topics().iter().filter(|topic| wanted(topic.name())) {
        committed.entry(topic.name().to_owned()).or_default();
        for partition in topic.partitions() {
            asked.add_partition(topic.name(), partition.id());
        }
    }
    if asked.count() == 0 {
        return Ok(committed);
    }
    let answered = client.committed_offsets(asked, ANSWER_TIMEOUT).map_err(failed)?;
    for element in answered.elements() {
        if let Offset::Offset(offset) = element.offset() {
            committed.entry(element.topic().to_owned()).or_default().insert(element.partition(), offset);
        }
    }
    Ok(committed)
}

/// Leaves the group of a consumer that is about to be dropped and holds nothing. Dropping it would not leave the group: the client
/// library tells the group that it leaves after it has given up partitions, and without any it tells nothing. A rebalance that is under
/// way would wait for it, and partitions would stand still, until its session is over. A consumer that holds partitions leaves when it is
/// dropped. `rounds` says how often the group has given it an assignment, empty ones included. Blocks for a bounded time.
pub(crate) fn leave_empty_handed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    rounds: impl Fn() -> u64,
) {
    let deadline = Instant::now() + JOIN_MAX;
    let mut round = 0;
    while holds_nothing(consumer) {
        // While it joins, the client library puts off that it leaves, and ends before it does. It joins until it has heard from the group
        // after the last round that the brokers know of.
        let heard = rounds();
        if is_joining(consumer, group) {
            round = heard;
        }
        if rounds() > round || Instant::now() >= deadline {
            return consumer.unsubscribe();
        }
        // An error ends with the consumer.
        drop(consumer.poll(SERVE_FOR));
    }
}

/// Lets a member whose round has ended join the next one at once. A rebalance that moves partitions has two rounds, and what moves stands
/// still between them. By itself the client library joins at most once a second, whether the round before failed or not; an answer about
/// a topic ends that wait. Called once in each round, so rounds that fail are still a second apart. Blocks for a bounded time.
pub(crate) fn join_next_round_at_once<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) {
    if let Err(error) = consumer.client().fetch_metadata(Some(topic), DESCRIBE_TIMEOUT) {
        tracing::debug!(topic, %error, "no answer about a topic; the next round of the group may come a second later");
    }
}

/// Lets the client do what is due: it sends a heartbeat, by which a member hears of the next round. By itself the client looks once a
/// second, and when it is asked for something, whatever `heartbeat.interval.ms` says. Nothing is sent for the question itself.
pub(crate) fn wake<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    // The answer is not needed, and an error comes again with the next poll.
    drop(consumer.assignment());
}

fn holds_nothing<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    consumer.assignment().is_ok_and(|partitions| partitions.count() == 0)
}

/// Whether the group is in a rebalance.
fn is_joining<C: ConsumerContext>(consumer: &BaseConsumer<C>, group: &str) -> bool {
    match consumer.client().fetch_group_list(Some(group), STATE_TIMEOUT) {
        Ok(found) => found.groups().iter().any(|found| found.name() == group && JOINING.contains(&found.state())),
        Err(error) => {
            tracing::debug!(group, %error, "no answer about the state of a group that is left");
            false
        }
    }
}
