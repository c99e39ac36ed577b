//! The membership of the group that owns the integrations' health: what its rebalances do, and whether its topics have the same number
//! of partitions. [`super::owner`] reads the deltas.

use std::cell::Cell;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use tokio::time::Instant;

use crate::kafka::client::{Logged, Own};
use crate::kafka::listing::partitions_of;
use crate::telemetry::metrics::{Judging, Metrics};

/// How long the brokers may take to answer how many partitions a topic has.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the topics of health can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicsError {
    #[error("the topics cannot be asked for")]
    Kafka(#[from] KafkaError),
    #[error("the health topics must have as many partitions each ({0}); `hookstream topics apply` creates them")]
    Partitions(String),
}

/// What a rebalance did.
pub(super) enum Move {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
}

/// Remembers what rebalances do; they happen within polls.
pub(super) struct Moves {
    moves: Mutex<Vec<Move>>,
}

impl Moves {
    pub(super) fn context() -> Logged<Self> {
        Logged::new("health-owner", Self { moves: Mutex::default() })
    }

    fn push(&self, partitions: &TopicPartitionList, kind: fn(Vec<i32>) -> Move) {
        let partitions = partitions.elements().into_iter().map(|element| element.partition());
        self.moves.lock().push(kind(partitions.collect()));
    }

    /// Takes what rebalances did since the last call.
    pub(super) fn take(&self) -> Vec<Move> {
        std::mem::take(&mut *self.moves.lock())
    }
}

impl Own for Moves {}

impl ConsumerContext for Logged<Moves> {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.push(partitions, Move::Revoked),
            Rebalance::Assign(_) => {}
            Rebalance::Error(error) => tracing::warn!(group_member = self.role(), %error, "a rebalance failed"),
        }
    }

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.push(partitions, Move::Assigned);
        }
    }
}

/// Checks that the three topics have the same number of partitions: an integration is in the same partition of each.
pub(super) fn check_partitions(consumer: &BaseConsumer<Logged<Moves>>, topics: [&str; 3]) -> Result<(), TopicsError> {
    let mut counts = Vec::new();
    for topic in topics {
        counts.push((topic, partitions_of(consumer.client(), topic, ASK_TIMEOUT)?.len()));
    }
    let same = counts.iter().all(|(_, count)| *count > 0 && counts.first().is_some_and(|first| first.1 == *count));
    if same {
        return Ok(());
    }
    let counts: Vec<_> = counts.iter().map(|(topic, count)| format!("{topic} has {count}")).collect();
    Err(TopicsError::Partitions(counts.join(", ")))
}

/// Whether integrations that this process owns are not judged, and since when.
pub(super) struct Unjudged<'a> {
    metrics: &'a Metrics,
    since: Cell<Option<Instant>>,
}

impl<'a> Unjudged<'a> {
    pub(super) fn of(metrics: &'a Metrics) -> Self {
        Self { metrics, since: Cell::default() }
    }

    /// From now on they are not judged, if they were.
    pub(super) fn begin(&self) {
        self.set(Some(self.since.get().unwrap_or_else(Instant::now)));
    }

    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        self.since.set(since);
        self.metrics.health.set_unjudged(Judging::Owns, since);
    }
}
