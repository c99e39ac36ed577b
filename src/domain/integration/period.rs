//! The period of a scheduled webhook, `[d.]hh:mm:ss`, read strictly.

use std::time::Duration;

/// Why a schedule's period is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeriod {
    /// A schedule needs one.
    #[error("a webhook of trigger type schedule needs schedule.period")]
    Missing,
    /// Not `[d.]hh:mm:ss`.
    #[error("period `{0}`: {expected}", expected = self.expected())]
    Malformed(String),
    /// Shorter than allowed.
    #[error("period `{0}`: {expected}", expected = self.expected())]
    TooShort(String),
    /// Longer than allowed.
    #[error("period `{0}`: {expected}", expected = self.expected())]
    TooLong(String),
}

impl BadPeriod {
    /// What is accepted instead.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Missing => "expected [d.]hh:mm:ss, since the trigger type is schedule".to_owned(),
            Self::Malformed(_) => "expected [d.]hh:mm:ss with hours 00-23, minutes and seconds 00-59".to_owned(),
            Self::TooShort(_) => "expected at least 00:00:10".to_owned(),
            Self::TooLong(_) => format!("expected at most {PERIOD_DAYS_MAX} days"),
        }
    }
}

/// The shortest period: the contract's.
const PERIOD_MIN: Duration = Duration::from_secs(10);
/// A hundred years of days: their seconds fit 32 bits.
const PERIOD_DAYS_MAX: u64 = 36_500;

/// Reads a period written `[d.]hh:mm:ss`.
///
/// # Errors
/// [`BadPeriod`] when it is written otherwise or shorter than ten seconds.
pub(crate) fn parse_period(text: &str) -> Result<Duration, BadPeriod> {
    let malformed = || BadPeriod::Malformed(text.chars().take(64).collect());
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) => {
            let days = digits(days, 1, 8).ok_or_else(malformed)?;
            if days > PERIOD_DAYS_MAX {
                return Err(BadPeriod::TooLong(text.to_owned()));
            }
            (days, clock)
        }
        None => (0, text),
    };
    let mut parts = clock.split(':').map(|part| digits(part, 2, 2));
    let (Some(Some(hours)), Some(Some(minutes)), Some(Some(seconds)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return Err(malformed());
    }
    let period = Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + seconds);
    if period < PERIOD_MIN { Err(BadPeriod::TooShort(text.to_owned())) } else { Ok(period) }
}

fn digits(text: &str, length_min: usize, length_max: usize) -> Option<u64> {
    let fits = (length_min..=length_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}
