//! When a scheduled webhook fires: at computed times, not "now and a period later".
//!
//! The ticks of a webhook are the instants `phase + n × period` since 1970, with a phase of its own, so that webhooks of
//! one period spread over it and every process computes the same ticks.

use std::time::Duration;

/// The ticks of one webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    period_ms: i64,
    phase_ms: i64,
}

impl Ticks {
    /// The ticks of the webhook with this hash.
    pub fn new(webhook_hash: u64, period: Duration) -> Self {
        let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1);
        let phase_ms = i64::try_from(webhook_hash % period_ms.unsigned_abs()).unwrap_or(0);
        Self { period_ms, phase_ms }
    }

    /// The first tick after `ms` (since 1970).
    pub fn after(self, ms: i64) -> i64 {
        let into = (ms - self.phase_ms).rem_euclid(self.period_ms);
        ms - into + self.period_ms
    }

    /// The last tick at or before `ms` (since 1970).
    pub(crate) fn at_or_before(self, ms: i64) -> i64 {
        self.after(ms) - self.period_ms
    }

    /// How many ticks there are from the tick `from_ms` on and before the tick `until_ms`.
    pub(crate) fn between(self, from_ms: i64, until_ms: i64) -> u64 {
        u64::try_from(until_ms.saturating_sub(from_ms) / self.period_ms).unwrap_or(0)
    }
}

/// What is posted for a tick: scheduled at `at_ms`, ms since 1970.
pub fn body(webhook_id: &str, at_ms: i64) -> String {
    // A clock never shows a time that the calendar does not hold. The epoch is written instead of one.
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let id = serde_json::Value::from(webhook_id);
    format!(r#"{{"webHookId":{id},"triggerType":"schedule","scheduledAt":"{at:.3}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn webhooks_of_one_period_differ_in_phase() {
        let period = Duration::from_mins(1);
        let first = Ticks::new(1, period).after(0);
        let second = Ticks::new(59_999, period).after(0);
        assert_eq!((first, second), (1, 59_999));
    }

    #[test]
    fn the_body_is_the_documented_one() {
        assert_eq!(
            body("a5aad3c1", 1_632_827_306_903),
            r#"{"webHookId":"a5aad3c1","triggerType":"schedule","scheduledAt":"2021-09-28T11:08:26.903Z"}"#
        );
        assert_eq!(
            body("a\"b", 0),
            r#"{"webHookId":"a\"b","triggerType":"schedule","scheduledAt":"1970-01-01T00:00:00.000Z"}"#
        );
    }

    proptest! {
        #[test]
        fn ticks_are_a_period_apart(hash: u64, period in 10u64..100_000, ms in 0i64..4_000_000_000_000) {
            let ticks = Ticks::new(hash, Duration::from_secs(period));
            let next = ticks.after(ms);
            prop_assert!(next > ms && next - ms <= i64::try_from(period * 1000).unwrap());
            prop_assert!(ticks.at_or_before(ms) <= ms);
            prop_assert_eq!(ticks.after(next) - next, i64::try_from(period * 1000).unwrap());
            prop_assert_eq!(ticks.at_or_before(next), next);
        }
    }
}
