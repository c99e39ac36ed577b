//! Every topic and group whose name derives from an option. No other file builds such a name.

use std::time::Duration;

use super::retry_schedule::{Delay, NOW, parse_duration};

/// The topic of the tier with this delay.
pub(crate) fn tier_topic(retry_prefix: &str, delay: Delay) -> String {
    format!("{retry_prefix}.{delay}")
}

/// The topic whose records are due at once: redriven and replayed ones.
pub(crate) fn now_topic(retry_prefix: &str) -> String {
    format!("{retry_prefix}.{NOW}")
}

/// The delay of a retry tier by its topic's name.
pub(crate) fn tier_delay(topic: &str, retry_prefix: &str) -> Option<Duration> {
    parse_duration(topic.strip_prefix(retry_prefix)?.strip_prefix('.')?).ok().filter(|delay| !delay.is_zero())
}

/// The topic of the failure counts that belong to a health topic.
pub(crate) fn deltas_topic(health: &str) -> String {
    format!("{health}.deltas")
}

/// The topic of the sums that the owner of a state keeps.
pub(crate) fn counts_topic(health: &str) -> String {
    format!("{health}.counts")
}

/// The group that reads the retry tiers and the topic of what is due at once.
pub(crate) fn retry_group(group: &str) -> String {
    format!("{group}-retry")
}

/// The group that divides scheduled webhooks among workers.
pub(crate) fn schedule_group(group: &str) -> String {
    format!("{group}-schedule")
}

/// The group that sums failure counts.
pub(crate) fn health_group(group: &str) -> String {
    format!("{group}-health")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;

    #[test]
    fn the_topic_of_what_is_due_at_once_is_not_a_tier() {
        let schedule = RetrySchedule::parse("30s,1h").unwrap();
        let topic = tier_topic("webhooks.retry", schedule.tiers()[1]);
        assert_eq!(
            (topic.as_str(), tier_delay(&topic, "webhooks.retry")),
            ("webhooks.retry.1h", Some(Duration::from_hours(1)))
        );
        assert_eq!(now_topic("webhooks.retry"), "webhooks.retry.now");
        assert_eq!(tier_delay("webhooks.retry.now", "webhooks.retry"), None);
    }

    #[test]
    fn a_topic_is_a_tier_only_behind_its_prefix_and_a_point() {
        assert_eq!(tier_delay("webhooks.retries.1h", "webhooks.retry"), None);
        assert_eq!(tier_delay("webhooks.retry1h", "webhooks.retry"), None);
        assert_eq!(tier_delay("webhooks.retry.0s", "webhooks.retry"), None);
    }
}
