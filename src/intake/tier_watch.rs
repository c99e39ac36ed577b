//! Notices that the log of a tier is not the one that was read: a topic that was deleted and created again, or that lost its
//! last records. What is due and when belongs to `retries`.

use std::sync::Arc;
use std::time::Duration;

use super::log_changes;
use super::membership::GroupMember;
use crate::clock;
use crate::kafka::topic_watch::TopicWatch;
use crate::telemetry::metrics::Metrics;

/// Looks at the retry topics.
pub(crate) struct TierWatch {
    watches: Vec<TopicWatch>,
    member: Arc<GroupMember>,
    metrics: Arc<Metrics>,
}

impl TierWatch {
    /// A watch on the topics `tiers`, of which `member` holds partitions. It uses the client of `watch`.
    pub(crate) fn new<'a>(
        watch: &TopicWatch,
        tiers: impl IntoIterator<Item = &'a str>,
        member: Arc<GroupMember>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let watches = tiers.into_iter().map(|topic| watch.sharing(topic)).collect();
        Self { watches, member, metrics }
    }

    /// Looks at every topic. Each of four questions about one may take `patience`; where brokers do not answer, the look ends.
    pub(super) fn look(&mut self, patience: Duration) {
        for watch in &mut self.watches {
            match watch.look(clock::now_ms(), patience) {
                Ok(look) => log_changes::follow(watch.topic(), &look, &self.member, &self.metrics),
                Err(error) => {
                    tracing::debug!(topic = watch.topic(), %error, "no answer about the ends of partitions");
                    return;
                }
            }
        }
    }
}
