//! How soon a host answers: what decides how many of the process's requests may be under way to hosts like it.

use std::time::Duration;

use tokio::time::Instant;

/// A request that ends within this time holds its permit for so short that it keeps no other host waiting.
const PROMPT: Duration = Duration::from_secs(1);

/// How a host's requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Within [`PROMPT`], in whatever way.
    Prompt,
    /// With an answer that comes later.
    Late,
    /// Without an answer, later; or none has ended yet.
    Silent,
}

/// What is known of a host's pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promptness {
    pace: Pace,
    /// When the last request ended, or the first one that is under way began, if that is later.
    heard: Instant,
    is_unknown: bool,
}

impl Promptness {
    /// Of a host that had no request yet.
    pub(crate) fn unknown(now: Instant) -> Self {
        Self { pace: Pace::Silent, heard: now, is_unknown: true }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// Whether no request has ended yet.
    pub(crate) fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    /// A request begins beside `in_flight` others.
    pub(crate) fn began(&mut self, in_flight: usize, now: Instant) {
        if in_flight == 0 {
            self.heard = now;
        }
    }

    /// A request ended that `began` then, with an answer or without.
    pub(crate) fn ended(&mut self, began: Instant, is_answered: bool, now: Instant) {
        self.pace = if now.saturating_duration_since(began) <= PROMPT {
            Pace::Prompt
        } else if is_answered {
            Pace::Late
        } else {
            Pace::Silent
        };
        (self.heard, self.is_unknown) = (now, false);
    }

    /// Requests are under way: a prompt host that has ended none of them for [`PROMPT`] is late.
    pub(crate) fn look(&mut self, now: Instant) {
        if self.pace == Pace::Prompt && now.saturating_duration_since(self.heard) > PROMPT {
            self.pace = Pace::Late;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_host_has_the_pace_of_its_last_request_and_is_silent_before_the_first() {
        let mut host = Promptness::unknown(Instant::now());
        assert!(host.is_unknown());
        assert_eq!(host.pace(), Pace::Silent);
        for (takes, is_answered, pace) in [
            (PROMPT, false, Pace::Prompt),
            (PROMPT + MOMENT, true, Pace::Late),
            (PROMPT + MOMENT, false, Pace::Silent),
            (MOMENT, true, Pace::Prompt),
        ] {
            let began = Instant::now();
            host.began(0, began);
            tokio::time::advance(takes).await;
            host.ended(began, is_answered, Instant::now());
            assert_eq!((host.pace(), host.is_unknown()), (pace, false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_host_is_late_once_it_has_ended_none_of_its_requests_for_a_second() {
        let mut host = Promptness::unknown(Instant::now());
        host.ended(Instant::now(), true, Instant::now());
        tokio::time::advance(PROMPT * 5).await;
        let began = Instant::now();
        host.began(0, began);
        tokio::time::advance(PROMPT).await;
        host.began(1, Instant::now());
        host.look(Instant::now());
        assert_eq!(host.pace(), Pace::Prompt);
        tokio::time::advance(MOMENT).await;
        host.look(Instant::now());
        assert_eq!(host.pace(), Pace::Late);
        host.ended(Instant::now(), true, Instant::now());
        host.look(Instant::now());
        assert_eq!(host.pace(), Pace::Prompt, "one of them answers: it is at work");
    }
}
