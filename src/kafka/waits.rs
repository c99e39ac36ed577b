//! How long a poll of a consumer waits.

use std::time::Duration;

/// The wait in whole milliseconds, rounded up. The client library waits whole milliseconds and spins for what is left of them (rdkafka
/// 0.39): a wait that is computed from a clock would cost up to a millisecond of a core each time.
pub(crate) fn whole_millis(wait: Duration) -> Duration {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_to_whole_milliseconds() {
        for (nanos, millis) in [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2), (50_000_000, 50)] {
            assert_eq!(whole_millis(Duration::from_nanos(nanos)), Duration::from_millis(millis));
        }
        assert_eq!(whole_millis(Duration::MAX), Duration::from_millis(u64::MAX));
    }
}
