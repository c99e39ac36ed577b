//! How an attempt ended, and what follows from it.

use std::time::{Duration, SystemTime};

use super::retry_schedule::{Next, RetrySchedule};

/// Why an attempt failed: the contract's reason words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A status other than 200.
    Status,
    /// 200 without the echo header.
    EchoMissing,
    /// 200 with another echo, or with more than one.
    EchoMismatch,
    /// The name could not be resolved.
    Dns,
    /// Refused or unreachable.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// A deadline passed.
    Timeout,
    /// The connection was closed or reset before the answer.
    Reset,
    /// The name resolves to an address that is not allowed.
    RefusedAddress,
    /// The answer is not HTTP, or breaks a limit.
    Protocol,
    /// No request: its circuit, or its host's, was open for too long.
    CircuitOpen,
}

impl Reason {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [Self; 11] = [
        Self::Status,
        Self::EchoMissing,
        Self::EchoMismatch,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::RefusedAddress,
        Self::Protocol,
        Self::CircuitOpen,
    ];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::EchoMissing => "echo-missing",
            Self::EchoMismatch => "echo-mismatch",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::RefusedAddress => "refused-address",
            Self::Protocol => "protocol",
            Self::CircuitOpen => "circuit-open",
        }
    }

    /// The words of failed requests: those that attempts have.
    pub(crate) fn words_of_attempts() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(|reason| reason.is_attempt()).map(Self::word)
    }

    /// Reads a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// Whether a request was made: only then does it count against the integration.
    pub(crate) fn is_attempt(self) -> bool {
        self != Self::CircuitOpen
    }

    /// Whether the fault may be our own network's.
    pub(crate) fn is_network(self) -> bool {
        // Where a name server maps every address to that of a translator (DNS64), all of them are refused.
        matches!(self, Self::Dns | Self::Connect | Self::Tls | Self::Timeout | Self::RefusedAddress)
    }
}

/// How one slot of a delivery's schedule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 with the right echo.
    Acknowledged,
    /// Anything else.
    Failed {
        /// Why.
        reason: Reason,
        /// The HTTP status, if there was an answer.
        status: Option<u16>,
        /// The receiver's `Retry-After`, if it sent one with 429 or 503.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// A failure without an answer.
    pub fn failed(reason: Reason) -> Self {
        Self::Failed { reason, status: None, retry_after: None }
    }
}

/// Judges an answer: its status, its echo headers and the token that was sent.
///
/// # Errors
/// Why it is not an acknowledgement.
pub(crate) fn judge<'a>(status: u16, mut echoes: impl Iterator<Item = &'a [u8]>, token: &[u8]) -> Result<(), Reason> {
    if status != 200 {
        return Err(Reason::Status);
    }
    match (echoes.next(), echoes.next()) {
        (None, _) => Err(Reason::EchoMissing),
        (Some(echo), None) if echo == token => Ok(()),
        (Some(_), _) => Err(Reason::EchoMismatch),
    }
}

/// Why a record is a dead letter: the contract's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// All attempts failed.
    Exhausted,
    /// The record is not a valid event.
    InvalidEvent,
    /// A retry fell due while its integration is failed.
    Suspended,
    /// The retry record is larger than its topic takes.
    TooLarge,
}

impl DeadReason {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Exhausted, Self::InvalidEvent, Self::Suspended, Self::TooLarge];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::InvalidEvent => "invalid-event",
            Self::Suspended => "suspended",
            Self::TooLarge => "too-large",
        }
    }

    /// All words.
    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::word)
    }
}

/// Why a webhook is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BehindReason {
    /// Its lane was full.
    LaneFull,
    /// Its circuit, or its host's, was open.
    CircuitOpen,
}

impl BehindReason {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::LaneFull, Self::CircuitOpen];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::LaneFull => "lane-full",
            Self::CircuitOpen => "circuit-open",
        }
    }
}

/// Why something was dropped without a dead letter; each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DropReason {
    /// The integration is failed: the event matched it and was not sent.
    Suspended,
    /// A retry whose integration was removed.
    IntegrationGone,
    /// The integration is paused or not configured: an event matched it, or a retry fell due.
    IntegrationInactive,
    /// A retry whose webhook was removed.
    WebhookGone,
    /// A retry whose webhook was disabled.
    WebhookDisabled,
    /// A retry record that can't be read: not one of ours.
    UnreadableRetry,
    /// A retry of a scheduled tick that would come after the next tick.
    TickOver,
    /// A scheduled tick that could not be fired in time: late, or while this worker may not be its owner any more.
    TickMissed,
    /// Too large even for the dead-letter topic.
    TooLarge,
    /// The log was cut before a webhook that is behind was given it.
    Expired,
}

impl DropReason {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::Suspended,
        Self::IntegrationGone,
        Self::IntegrationInactive,
        Self::WebhookGone,
        Self::WebhookDisabled,
        Self::UnreadableRetry,
        Self::TickOver,
        Self::TickMissed,
        Self::TooLarge,
        Self::Expired,
    ];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::IntegrationGone => "integration-gone",
            Self::IntegrationInactive => "integration-inactive",
            Self::WebhookGone => "webhook-gone",
            Self::WebhookDisabled => "webhook-disabled",
            Self::UnreadableRetry => "unreadable-retry",
            Self::TickOver => "tick-over",
            Self::TickMissed => "tick-missed",
            Self::TooLarge => "too-large",
            Self::Expired => "expired",
        }
    }
}

/// What follows a slot of a delivery's schedule that ended without an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Into a tier.
    Retry(usize),
    /// Into the dead-letter topic.
    Dead(DeadReason),
}

impl Verdict {
    /// A retry of a delivery whose first attempt was made `give_up_after` ago or earlier is a dead letter instead. Times are
    /// in ms since 1970.
    pub(crate) fn unless_given_up(self, first_attempt_ms: Option<i64>, give_up_after: Duration, now_ms: i64) -> Self {
        let age = first_attempt_ms.map_or(0, |first| now_ms.saturating_sub(first));
        let is_given_up = Duration::from_millis(u64::try_from(age).unwrap_or(0)) >= give_up_after;
        if is_given_up && matches!(self, Self::Retry(_)) { Self::Dead(DeadReason::Exhausted) } else { self }
    }
}

/// What follows when attempt `attempt` (1 for the first) failed and the receiver asked for `retry_after`.
pub(crate) fn verdict(schedule: &RetrySchedule, attempt: u32, retry_after: Option<Duration>) -> Verdict {
    match schedule.after(attempt, retry_after) {
        Next::Tier(tier) => Verdict::Retry(tier),
        Next::Exhausted => Verdict::Dead(DeadReason::Exhausted),
    }
}

/// Reads a `Retry-After`: seconds, or a date, which is compared with `now`. Longer than a million seconds is cut to that.
pub(crate) fn parse_retry_after(status: u16, value: Option<&[u8]>, now: SystemTime) -> Option<Duration> {
    if !matches!(status, 429 | 503) {
        return None;
    }
    let text = std::str::from_utf8(value?).ok()?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds still ask for a very long wait.
        text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

/// Longer than any schedule: keeps the arithmetic of tiers small.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, echoes: &[&str], expected: Result<(), Reason>) {
        assert_eq!(judge(status, echoes.iter().map(|echo| echo.as_bytes()), b"token"), expected);
    }

    #[test]
    fn acknowledged_is_exactly_200_and_one_right_echo() {
        check(200, &["token"], Ok(()));
        check(200, &[], Err(Reason::EchoMissing));
        check(200, &["Token"], Err(Reason::EchoMismatch));
        check(200, &["token "], Err(Reason::EchoMismatch));
        check(200, &["token", "token"], Err(Reason::EchoMismatch));
        check(200, &["token, token"], Err(Reason::EchoMismatch));
        for status in [201, 202, 204, 301, 307, 400, 429, 500] {
            check(status, &["token"], Err(Reason::Status));
        }
    }

    #[test]
    fn the_fault_may_be_our_networks_where_no_receiver_was_reached() {
        let network = Reason::ALL.into_iter().filter(|reason| reason.is_network()).map(Reason::word);
        assert_eq!(network.collect::<Vec<_>>(), ["dns", "connect", "tls", "timeout", "refused-address"]);
    }

    #[test]
    fn reason_words_read_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.word()), Some(reason));
        }
        assert_eq!(Reason::parse("nope"), None);
    }

    #[test]
    fn the_verdict_follows_the_schedule() {
        let schedule = RetrySchedule::parse("1s,2s").unwrap();
        assert_eq!(verdict(&schedule, 1, None), Verdict::Retry(0));
        assert_eq!(verdict(&schedule, 2, None), Verdict::Retry(1));
        assert_eq!(verdict(&schedule, 3, None), Verdict::Dead(DeadReason::Exhausted));
        assert_eq!(verdict(&schedule, 1, Some(Duration::from_secs(9))), Verdict::Retry(1));
    }

    #[test]
    fn retry_after_counts_on_429_and_503_only() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:27:00 GMT").unwrap();
        let parse = |status, value: &str| parse_retry_after(status, Some(value.as_bytes()), now);
        assert_eq!(parse(429, "120"), Some(Duration::from_secs(120)));
        assert_eq!(parse(503, " 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse(500, "120"), None);
        assert_eq!(parse_retry_after(429, None, now), None);
        for bad in ["-1", "+120", "1.5", "0x10"] {
            assert_eq!(parse(429, bad), None, "{bad}");
        }
        assert_eq!(parse(429, "Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(parse(429, "Wed, 21 Oct 2015 07:20:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse(429, "18446744073709551615"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse(429, "18446744073709551616"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse(429, ""), None);
    }
}
