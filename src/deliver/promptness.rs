//! How soon a webhook's requests end. That decides how many of the process's requests may be under way to webhooks like it.

use std::time::Duration;

use tokio::time::Instant;

/// A request that ends within this time holds its permit for so short that it keeps no other webhook waiting.
const PROMPT: Duration = Duration::from_secs(1);

/// How a webhook's requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Within [`PROMPT`], acknowledged or not.
    Prompt,
    /// Later, with an answer.
    Late,
    /// Later, without an answer.
    Silent,
    /// None has ended yet.
    Unknown,
}

/// What is known of a webhook's pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promptness {
    pace: Pace,
    /// When the last request ended, or the first one that is under way began, if that is later.
    heard: Instant,
}

impl Promptness {
    /// The pace of a webhook that had no request yet.
    pub(crate) fn unknown(now: Instant) -> Self {
        Self { pace: Pace::Unknown, heard: now }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// A request begins beside `in_flight` others.
    pub(crate) fn began(&mut self, in_flight: usize, now: Instant) {
        if in_flight == 0 {
            self.heard = now;
        }
    }

    /// A request ended that `began` then, with an answer or without.
    pub(crate) fn ended(&mut self, began: Instant, is_answered: bool, now: Instant) {
        self.heard = now;
        self.pace = if now.saturating_duration_since(began) <= PROMPT {
            Pace::Prompt
        } else if is_answered {
            Pace::Late
        } else {
            Pace::Silent
        };
    }

    /// The new pace of a webhook whose requests are under way, if none of them has ended for [`PROMPT`]. `None` if its pace stays the
    /// same.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Pace> {
        let is_overdue = now.saturating_duration_since(self.heard) > PROMPT;
        match self.pace {
            Pace::Prompt if is_overdue => Some(Pace::Late),
            Pace::Unknown if is_overdue => Some(Pace::Silent),
            Pace::Prompt | Pace::Unknown | Pace::Late | Pace::Silent => None,
        }
    }

    /// Sets its pace, until a request ends.
    pub(crate) fn set(&mut self, pace: Pace) {
        self.pace = pace;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_webhook_has_the_pace_of_its_last_request() {
        let mut webhook = Promptness::unknown(Instant::now());
        assert_eq!(webhook.pace(), Pace::Unknown);
        for (takes, is_answered, pace) in [
            (PROMPT, false, Pace::Prompt),
            (PROMPT + MOMENT, true, Pace::Late),
            (PROMPT + MOMENT, false, Pace::Silent),
            (MOMENT, true, Pace::Prompt),
        ] {
            let began = Instant::now();
            webhook.began(0, began);
            tokio::time::advance(takes).await;
            webhook.ended(began, is_answered, Instant::now());
            assert_eq!(webhook.pace(), pace);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_overdue_once_none_of_its_requests_has_ended_for_a_second() {
        let mut webhook = Promptness::unknown(Instant::now());
        tokio::time::advance(PROMPT + MOMENT).await;
        assert_eq!(webhook.overdue(Instant::now()), Some(Pace::Silent));
        webhook.ended(Instant::now(), true, Instant::now());
        tokio::time::advance(PROMPT * 5).await;
        webhook.began(0, Instant::now());
        tokio::time::advance(PROMPT).await;
        webhook.began(1, Instant::now());
        assert_eq!(webhook.overdue(Instant::now()), None);
        tokio::time::advance(MOMENT).await;
        assert_eq!(webhook.overdue(Instant::now()), Some(Pace::Late));
        webhook.ended(Instant::now(), true, Instant::now());
        assert_eq!(webhook.overdue(Instant::now()), None, "one of them is answered: the receiver is at work");
    }
}
