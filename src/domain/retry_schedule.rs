//! The retry schedule: which delay follows which attempt, and which tiers (topics) the delays need.

use std::fmt;
use std::time::Duration;

/// In place of a delay: label and suffix of the topic whose records are due at once.
pub(crate) const NOW: &str = "now";

/// A delay of the schedule as people write it: `250ms`, `30s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Delay(Duration);

/// Why a text is not a valid [`Delay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a whole number and a unit (ms, s, m, h) such as 250ms, 30s, 5m or 1h")]
pub struct BadDuration;

/// Reads a duration written as `250ms`, `30s`, `5m` or `1h`.
///
/// # Errors
/// [`BadDuration`] for anything else, zero units or a number that does not fit included.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(BadDuration)?;
    let number: u64 = number.parse().map_err(|_not_a_number| BadDuration)?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(BadDuration),
    };
    number.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or(BadDuration)
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest unit that divides it.
pub(crate) fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, millis_per_unit) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis != 0 && millis.is_multiple_of(millis_per_unit) {
            return format!("{}{unit}", millis / millis_per_unit);
        }
    }
    format!("{millis}ms")
}

impl Delay {
    /// The delay as a duration.
    pub(crate) fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.0))
    }
}

/// Index of a tier in [`RetrySchedule::tiers`].
pub(crate) type TierIndex = usize;

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait in this tier.
    Tier(TierIndex),
    /// The schedule has ended.
    Exhausted,
}

/// The delays before each retry, and the distinct ones among them: the tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Delay>,
    tiers: Vec<Delay>,
    /// For each delay, its tier.
    tier_of: Vec<TierIndex>,
}

/// Why a list of delays is not a valid schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// No delay at all.
    #[error("at least one delay is needed")]
    Empty,
    /// A part that is not a duration.
    #[error("`{0}`: {1}")]
    Delay(String, BadDuration),
    /// A delay of zero would be a loop without a pause.
    #[error("`{0}`: a delay is at least 1ms and at most 168h")]
    OutOfRange(String),
    /// More attempts than the wire format and the receivers expect.
    #[error("at most 100 delays, not {0}")]
    TooLong(usize),
}

/// A week: longer delays outlive what operators keep in their topics.
const DELAY_MAX: Duration = Duration::from_hours(168);
/// Bounds the attempt numbers on the wire and the series per tier.
const DELAYS_MAX: usize = 100;

impl RetrySchedule {
    /// Reads `30s,1m,5m`.
    ///
    /// # Errors
    /// [`BadSchedule`] names the first delay that is not valid.
    pub fn parse(text: &str) -> Result<Self, BadSchedule> {
        if text.trim().is_empty() {
            return Err(BadSchedule::Empty);
        }
        let mut delays = Vec::new();
        for part in text.split(',').map(str::trim) {
            let delay = parse_duration(part).map_err(|error| BadSchedule::Delay(part.to_owned(), error))?;
            if delay.is_zero() || delay > DELAY_MAX {
                return Err(BadSchedule::OutOfRange(part.to_owned()));
            }
            delays.push(Delay(delay));
        }
        if delays.len() > DELAYS_MAX {
            return Err(BadSchedule::TooLong(delays.len()));
        }
        let mut tiers = delays.clone();
        tiers.sort_unstable();
        tiers.dedup();
        let tier_of = delays.iter().map(|delay| tiers.partition_point(|tier| tier < delay)).collect();
        Ok(Self { delays, tiers, tier_of })
    }

    /// The distinct delays, shortest first. Each is a tier and a topic.
    pub(crate) fn tiers(&self) -> &[Delay] {
        &self.tiers
    }

    /// The delays before each retry, in order.
    pub(crate) fn delays(&self) -> &[Delay] {
        &self.delays
    }

    /// The time from the first attempt to the last, when every request is answered at once.
    pub(crate) fn whole(&self) -> Duration {
        self.delays.iter().map(|delay| delay.duration()).sum()
    }

    /// How many attempts a delivery gets: the first and one a delay.
    #[cfg(test)]
    pub(crate) fn attempts_max(&self) -> u32 {
        u32::try_from(self.delays.len()).map_or(u32::MAX, |delays| delays + 1)
    }

    /// What follows attempt `attempt` (1 for the first) when it failed.
    ///
    /// `retry_after` is what the receiver asked for. It moves the delivery to the first delay from this one on that is at
    /// least as long, never past the last; the attempt number is not changed by it.
    pub(crate) fn after(&self, attempt: u32, retry_after: Option<Duration>) -> Next {
        let Some(index) = usize::try_from(attempt).ok().and_then(|attempt| attempt.checked_sub(1)) else {
            return self.tier_of.first().map_or(Next::Exhausted, |tier| Next::Tier(*tier));
        };
        let Some(rest) = self.delays.get(index..).filter(|rest| !rest.is_empty()) else {
            return Next::Exhausted;
        };
        let asked = retry_after.unwrap_or_default();
        let skipped = rest.iter().position(|delay| delay.0 >= asked).unwrap_or(rest.len() - 1);
        self.tier_of.get(index + skipped).map_or(Next::Exhausted, |tier| Next::Tier(*tier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standard() -> RetrySchedule {
        RetrySchedule::parse("30s,1m,5m,15m,1h,1h,1h").unwrap()
    }

    #[test]
    fn default_schedule_has_five_tiers_and_eight_attempts() {
        let schedule = standard();
        let tiers: Vec<_> = schedule.tiers().iter().map(ToString::to_string).collect();
        assert_eq!(tiers, ["30s", "1m", "5m", "15m", "1h"]);
        assert_eq!(schedule.attempts_max(), 8);
        let waits: Duration = schedule.delays().iter().map(|delay| delay.duration()).sum();
        assert_eq!(waits, Duration::from_secs(3 * 3600 + 21 * 60 + 30));
    }

    #[test]
    fn each_attempt_waits_its_own_delay_and_the_last_is_exhausted() {
        let schedule = standard();
        let tiers: Vec<_> = (1..=8).map(|attempt| schedule.after(attempt, None)).collect();
        let expected = [0, 1, 2, 3, 4, 4, 4].map(Next::Tier).into_iter().chain([Next::Exhausted]).collect::<Vec<_>>();
        assert_eq!(tiers, expected);
        assert_eq!(schedule.after(9, None), Next::Exhausted);
    }

    #[test]
    fn retry_after_moves_to_a_longer_delay_never_past_the_last() {
        let schedule = standard();
        let after = |attempt, seconds| schedule.after(attempt, Some(Duration::from_secs(seconds)));
        assert_eq!(after(1, 10), Next::Tier(0));
        assert_eq!(after(1, 30), Next::Tier(0));
        assert_eq!(after(1, 31), Next::Tier(1));
        assert_eq!(after(1, 600), Next::Tier(3));
        assert_eq!(after(3, 1), Next::Tier(2), "never back to a shorter delay");
        assert_eq!(after(1, 86_400), Next::Tier(4));
        assert_eq!(after(8, 1), Next::Exhausted);
    }

    #[test]
    fn bad_schedules_say_which_part_is_wrong() {
        assert_eq!(RetrySchedule::parse(" "), Err(BadSchedule::Empty));
        assert_eq!(RetrySchedule::parse("30s,x"), Err(BadSchedule::Delay("x".to_owned(), BadDuration)));
        assert_eq!(RetrySchedule::parse("30s,,1m"), Err(BadSchedule::Delay(String::new(), BadDuration)));
        assert_eq!(RetrySchedule::parse("0s"), Err(BadSchedule::OutOfRange("0s".to_owned())));
        assert!(RetrySchedule::parse(&vec!["1s"; 101].join(",")).is_err());
    }

    #[test]
    fn durations_reject_what_they_cannot_hold() {
        for bad in ["", "5", "s", "5 s", "-5s", "1.5s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse_duration(bad), Err(BadDuration), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 0u64..1_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn the_next_tier_is_never_shorter_than_the_schedule_or_what_was_asked_for(
            delays in prop::collection::vec(1u64..5_000, 1..12),
            attempt in 1u32..14,
            asked in prop::option::of(0u64..6_000),
        ) {
            let text = delays.iter().map(|delay| format!("{delay}ms")).collect::<Vec<_>>().join(",");
            let schedule = RetrySchedule::parse(&text).unwrap();
            let asked = asked.map(Duration::from_millis);
            match schedule.after(attempt, asked) {
                Next::Exhausted => prop_assert!(attempt as usize > delays.len()),
                Next::Tier(tier) => {
                    let rest = &schedule.delays()[attempt as usize - 1..];
                    let asked = asked.unwrap_or_default();
                    let naive = rest.iter().find(|d| d.duration() >= asked).or(rest.last()).unwrap();
                    prop_assert_eq!(schedule.tiers()[tier], *naive);
                }
            }
        }
    }
}
