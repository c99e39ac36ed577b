//! What became of one event: for each webhook of its workspace whether and why it matched, and where the delivery is now.
//!
//! This file judges what `gather` has found; it reads nothing. The rule behind the account: for every event that was read and every
//! webhook that it matched there is an acknowledgement, a retry, a place in the backlog, a dead letter, or a counted drop.

use jiff::Timestamp;
use serde::Serialize;

use super::attempts::Attempt;
use super::dead_letters::DeadLetter;
use super::find::FoundEvent;
use super::time;
use super::waiting::{Place, WaitingRetry};
use crate::domain::explain::{Ruling, WebhookRuling};
use crate::domain::outcome::Reason;

/// The event, and each webhook's part in it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    pub(crate) event: TracedEvent,
    pub(crate) webhooks: Vec<TracedWebhook>,
    pub(crate) account: Account,
    /// Whether every topic that could have a record of it was read to its end.
    pub(crate) complete: bool,
    /// Where it was not, everything of this time and later was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) searched_back_to: Option<String>,
    /// The token of the next answer. `None` when complete. The next answer has the attempts of an older part of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// The event of a trace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TracedEvent {
    pub(crate) id: String,
    /// `topic/partition/offset`
    pub(crate) origin: String,
    /// When its record was written (RFC 3339).
    pub(crate) at: Option<String>,
    pub(crate) workspace: String,
    /// Type, change and entity types.
    pub(crate) about: String,
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// The receiver has acknowledged it.
    Acknowledged,
    /// It waits for a retry, behind others, or for its first attempt.
    Waiting,
    /// It is a dead letter.
    Dead,
    /// It was dropped for a reason that is counted.
    Dropped,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }
}

/// One webhook's part.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TracedWebhook {
    pub(crate) integration_id: String,
    pub(crate) web_hook_id: String,
    pub(crate) matches: bool,
    /// The filter item that matched, or of each item the field that did not.
    pub(crate) because: String,
    /// Where the delivery is. `None` where the event does not match.
    pub(crate) state: Option<State>,
    /// Why the state is concluded.
    pub(crate) state_because: Option<String>,
    pub(crate) delivery_id: Option<String>,
    /// Newest last.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) dead_letter: Option<DeadLetter>,
}

/// Where it waits.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Waiting {
    /// In a tier.
    Retry(Box<WaitingRetry>),
    /// The webhook is behind.
    Behind(Place),
}

/// A webhook's key: integration id and webhook id.
pub(super) type Hook = (String, String);

/// The sums over the matched webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    pub(crate) matched: usize,
    pub(crate) acknowledged: usize,
    pub(crate) waiting: usize,
    pub(crate) dead: usize,
    pub(crate) dropped: usize,
}

impl Account {
    /// Adds up these webhooks.
    pub(crate) fn of(webhooks: &[TracedWebhook]) -> Self {
        let mut account = Self::default();
        for webhook in webhooks.iter().filter(|webhook| webhook.matches) {
            account.matched += 1;
            match webhook.state {
                Some(State::Acknowledged) => account.acknowledged += 1,
                Some(State::Dead) => account.dead += 1,
                Some(State::Dropped) => account.dropped += 1,
                Some(State::Waiting) | None => account.waiting += 1,
            }
        }
        account
    }
}

/// What was found of one delivery.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// The logged attempts, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    /// Records of it that wait in tiers.
    pub(crate) retries: Vec<WaitingRetry>,
    /// Dead letters of it, newest first, each with the time at which it was written.
    pub(crate) dead_letters: Vec<(i64, DeadLetter)>,
    /// When a dead letter of it was last sent back and read by the workers, ms since 1970.
    pub(crate) sent_back_ms: Option<i64>,
    /// The webhook's place, where it is at or before the event.
    pub(crate) place: Option<Place>,
    /// Why nothing goes to the integration, if nothing does or did at the event's time.
    pub(crate) obstacle: Option<String>,
    /// Whether the event is settled: every delivery of it has ended.
    pub(crate) is_settled: bool,
}

/// Where the delivery is, and why that is concluded.
pub(crate) struct Finding {
    pub(crate) state: State,
    pub(crate) because: String,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) dead_letter: Option<DeadLetter>,
}

impl Evidence {
    /// Whether anything was found of the delivery itself.
    pub(crate) fn is_found(&self) -> bool {
        !(self.attempts.is_empty() && self.retries.is_empty() && self.dead_letters.is_empty())
    }

    /// Concludes where the delivery is.
    pub(crate) fn finding(self) -> Finding {
        let found =
            |state, because: &str| Finding { state, because: because.to_owned(), waiting: None, dead_letter: None };
        let dead = self.dead_letters.into_iter().max_by_key(|(at_ms, _)| *at_ms);
        if let Some(acknowledged) = self.attempts.iter().rev().find(|attempt| attempt.is_acknowledged()) {
            return found(State::Acknowledged, &acknowledged_in_words(acknowledged, dead.as_ref()));
        }
        let attempted = self.attempts.iter().map(|attempt| attempt.attempt).max().unwrap_or_default();
        let retry = self.retries.into_iter().max_by_key(|retry| retry.since_ms);
        // A dead letter that was sent back begins again.
        let is_over = |retry: &WaitingRetry| dead.as_ref().is_some_and(|(at_ms, _)| *at_ms > retry.since_ms);
        // Records are committed a little after they are settled: a later attempt shows that the record is settled.
        let is_used = |retry: &WaitingRetry| dead.is_none() && attempted > retry.attempts;
        if let Some(retry) = retry.filter(|retry| !is_over(retry) && !is_used(retry)) {
            let behind_circuit = retry.error == Some(Reason::CircuitOpen.word());
            let because = if behind_circuit {
                "its retry is in a tier; it waits for a circuit that is open"
            } else {
                "its retry is in a tier"
            };
            let waiting = Some(Waiting::Retry(Box::new(retry)));
            return Finding { waiting, ..found(State::Waiting, because) };
        }
        if let Some((at_ms, dead)) = dead {
            if let Some(sent_ms) = self.sent_back_ms.filter(|sent_ms| *sent_ms >= at_ms) {
                let (place, sent) = (dead.place(), time(sent_ms).unwrap_or_default());
                let sent = format!(
                    "after a redrive: its dead letter {place} was sent back at {sent}, and nothing is left of that"
                );
                return match self.obstacle {
                    Some(obstacle) => found(State::Dropped, &format!("{sent}; {obstacle}")),
                    None => {
                        found(State::Acknowledged, &format!("{sent}; the log lists no acknowledgements by default"))
                    }
                };
            }
            let because = dead_in_words(&dead);
            return Finding { dead_letter: Some(dead), ..found(State::Dead, because) };
        }
        if let Some(place) = self.place {
            return Finding { waiting: Some(Waiting::Behind(place)), ..found(State::Waiting, "the webhook is behind") };
        }
        if let Some(obstacle) = self.obstacle {
            return found(State::Dropped, &obstacle);
        }
        if !self.is_settled {
            return found(State::Waiting, "its event is not settled yet");
        }
        let last_failed = self.attempts.last().is_some_and(|attempt| attempt.next_attempt_at.is_none());
        if last_failed && attempted > 0 {
            return found(State::Dropped, "its last attempt failed and nothing of it is left");
        }
        found(
            State::Acknowledged,
            "its event is settled and nothing else is left of it; the log lists no acknowledgements by default",
        )
    }
}

/// How an acknowledged delivery ended, and that it was a dead letter before.
fn acknowledged_in_words(attempt: &Attempt, dead: Option<&(i64, DeadLetter)>) -> String {
    let at = &attempt.at;
    let at_ms = at.parse::<Timestamp>().map_or(i64::MAX, Timestamp::as_millisecond);
    match dead.filter(|(dead_ms, _)| *dead_ms <= at_ms) {
        Some((_, dead)) => format!("acknowledged at {at}, after a redrive of its dead letter {}", dead.place()),
        None => format!("acknowledged at {at}: the attempt log says so"),
    }
}

/// Why a delivery is dead, where its reason does not say it: behind an open circuit nothing is requested.
fn dead_in_words(dead: &DeadLetter) -> &'static str {
    match (dead.error == Some(Reason::CircuitOpen.word()), dead.attempts) {
        (true, Some(0) | None) => {
            "it waited behind an open circuit for longer than the whole schedule, without a request; it is in the dead-letter topic"
        }
        (true, Some(_)) => "it waited behind an open circuit until it was given up; it is in the dead-letter topic",
        (false, _) => "it is in the dead-letter topic",
    }
}

/// The part of a registered webhook, by its filter and by what was found of it. `written_ms` is when its integration's record was
/// written.
pub(super) fn traced(
    hook: Hook,
    ruling: &WebhookRuling,
    evidence: Evidence,
    event: &FoundEvent,
    written_ms: i64,
) -> TracedWebhook {
    let because = because(ruling);
    if !matches!(ruling.ruling, Ruling::Matches { .. }) {
        if evidence.is_found() {
            let because = format!("it matched when the event was read; by its filter of today: {because}");
            return matched(hook, because, evidence);
        }
        return unmatched(hook, because);
    }
    let is_newer = event.at_ms.is_some_and(|at_ms| written_ms > at_ms);
    if is_newer && !evidence.is_found() && evidence.place.is_none() {
        let written = time(written_ms).unwrap_or_default();
        return matched(hook, format!("{because} (as the integration is registered since {written})"), evidence);
    }
    matched(hook, because, evidence)
}

fn because(ruling: &WebhookRuling) -> String {
    match ruling.ruling {
        Ruling::Matches { item } => {
            let words = ruling.items.get(item).map(|item| item.item.to_string()).unwrap_or_default();
            format!("item {item} {words} matches")
        }
        Ruling::Disabled => "the webhook is disabled".to_owned(),
        Ruling::Scheduled => "the webhook is scheduled: events do not fire it".to_owned(),
        Ruling::NoItems => "the filter has no items, and so matches nothing".to_owned(),
        Ruling::NoItemMatches => {
            let items = ruling.items.iter().enumerate().map(|(index, item)| {
                let why: Vec<String> = item.why_not.iter().map(ToString::to_string).collect();
                format!("item {index} {}: {}", item.item, why.join(", "))
            });
            items.collect::<Vec<_>>().join("; ")
        }
    }
}

fn unmatched((integration_id, web_hook_id): Hook, because: String) -> TracedWebhook {
    TracedWebhook {
        integration_id,
        web_hook_id,
        matches: false,
        because,
        state: None,
        state_because: None,
        delivery_id: None,
        attempts: Vec::new(),
        waiting: None,
        dead_letter: None,
    }
}

/// The part of a webhook that the event matched.
pub(super) fn matched(hook: Hook, because: String, evidence: Evidence) -> TracedWebhook {
    let attempts = evidence.attempts.clone();
    let of_retry = evidence.retries.iter().find_map(|retry| retry.wire.delivery_id.clone());
    let of_letter = || evidence.dead_letters.iter().find_map(|(_, letter)| letter.delivery_id.clone());
    let of_attempt = || attempts.first().map(|attempt| attempt.delivery_id.clone());
    let delivery_id = of_retry.or_else(of_letter).or_else(of_attempt);
    let finding = evidence.finding();
    TracedWebhook {
        matches: true,
        state: Some(finding.state),
        state_because: Some(finding.because),
        delivery_id,
        attempts,
        waiting: finding.waiting,
        dead_letter: finding.dead_letter,
        ..unmatched(hook, because)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::headers::Wire;

    fn attempt(number: u32, outcome: &str) -> Attempt {
        Attempt {
            attempt: number,
            outcome: outcome.to_owned(),
            next_attempt_at: Some("then".to_owned()),
            ..Attempt::default()
        }
    }

    fn retry(attempts: u32, since_ms: i64) -> WaitingRetry {
        WaitingRetry {
            topic: "r.1h".to_owned(),
            partition: 0,
            offset: 0,
            since: None,
            due_at: None,
            attempts,
            error: None,
            since_ms,
            wire: Wire::default(),
        }
    }

    fn dead() -> DeadLetter {
        DeadLetter {
            topic: "d".to_owned(),
            partition: 0,
            offset: 0,
            timestamp: None,
            reason: Some("exhausted"),
            error: None,
            status: None,
            workspace: None,
            integration_id: None,
            web_hook_id: None,
            delivery_id: None,
            attempts: None,
            origin: None,
            value_bytes: 0,
        }
    }

    #[track_caller]
    fn check(evidence: Evidence, expected: State) -> Finding {
        let finding = evidence.finding();
        assert_eq!(finding.state, expected, "{}", finding.because);
        finding
    }

    fn settled() -> Evidence {
        Evidence { is_settled: true, ..Evidence::default() }
    }

    #[test]
    fn nothing_but_a_settled_event_means_acknowledged() {
        check(settled(), State::Acknowledged);
        check(Evidence::default(), State::Waiting);
        check(Evidence { obstacle: Some("it was suspended".to_owned()), ..settled() }, State::Dropped);
        check(Evidence { attempts: vec![attempt(1, "failed")], ..settled() }, State::Acknowledged);
    }

    #[test]
    fn a_retry_waits_until_an_attempt_follows_it() {
        let failed = |number| (1..=number).map(|number| attempt(number, "failed")).collect::<Vec<_>>();
        let of = |attempts, retries| Evidence { attempts, retries, ..settled() };
        assert!(matches!(check(of(failed(2), vec![retry(2, 5)]), State::Waiting).waiting, Some(Waiting::Retry(_))));
        check(of(failed(3), vec![retry(2, 5)]), State::Acknowledged);
        let mut acknowledged = failed(2);
        acknowledged.push(attempt(3, "acknowledged"));
        check(of(acknowledged, vec![retry(2, 5)]), State::Acknowledged);
    }

    #[test]
    fn a_dead_letter_is_dead_until_it_is_sent_back() {
        let of = |retries| Evidence {
            retries,
            dead_letters: vec![(10, dead())],
            attempts: vec![attempt(8, "failed")],
            ..settled()
        };
        assert!(check(of(vec![]), State::Dead).dead_letter.is_some());
        check(of(vec![retry(7, 9)]), State::Dead);
        check(of(vec![retry(0, 11)]), State::Waiting);
    }

    #[test]
    fn what_happened_last_is_said_after_a_redrive() {
        let mut logged = attempt(1, "acknowledged");
        logged.at = "1970-01-01T00:00:01Z".to_owned();
        let of =
            |attempts, sent_back_ms| Evidence { attempts, sent_back_ms, dead_letters: vec![(10, dead())], ..settled() };
        let because = |evidence, state| check(evidence, state).because;
        let words = because(of(vec![attempt(8, "failed"), logged.clone()], Some(11)), State::Acknowledged);
        assert_eq!(words, "acknowledged at 1970-01-01T00:00:01Z, after a redrive of its dead letter d/0/0");
        let words = because(Evidence { attempts: vec![logged], ..settled() }, State::Acknowledged);
        assert_eq!(words, "acknowledged at 1970-01-01T00:00:01Z: the attempt log says so");
        // By default the log lists no acknowledgement.
        let words = because(of(vec![attempt(8, "failed")], Some(11)), State::Acknowledged);
        assert!(words.starts_with("after a redrive: its dead letter d/0/0 was sent back at 1970-01-01"), "{words}");
        let paused = Evidence { obstacle: Some("it is paused".to_owned()), ..of(vec![], Some(11)) };
        assert!(because(paused, State::Dropped).ends_with("nothing is left of that; it is paused"));
        check(of(vec![attempt(8, "failed")], Some(9)), State::Dead);
        let waits = Evidence { retries: vec![retry(0, 11)], ..of(vec![], Some(11)) };
        check(waits, State::Waiting);
    }

    #[test]
    fn a_dead_letter_that_waited_behind_a_circuit_says_so() {
        let of = |attempts| {
            let dead = DeadLetter { error: Some("circuit-open"), attempts: Some(attempts), ..dead() };
            check(Evidence { dead_letters: vec![(10, dead)], ..settled() }, State::Dead).because
        };
        assert!(
            of(0).starts_with("it waited behind an open circuit for longer than the whole schedule, without a request")
        );
        assert!(of(3).starts_with("it waited behind an open circuit until it was given up"));
        let waits = WaitingRetry { error: Some("circuit-open"), ..retry(2, 5) };
        let finding = check(Evidence { retries: vec![waits], ..settled() }, State::Waiting);
        assert!(finding.because.ends_with("a circuit that is open"), "{}", finding.because);
    }

    #[test]
    fn a_webhook_that_is_behind_waits_for_the_event() {
        let place = Place {
            workspace: "w".to_owned(),
            integration_id: "i".to_owned(),
            web_hook_id: "h".to_owned(),
            partition: 0,
            offset: 3,
            reason: None,
            since: None,
        };
        let finding = check(Evidence { place: Some(place), ..settled() }, State::Waiting);
        assert!(matches!(finding.waiting, Some(Waiting::Behind(_))));
    }

    #[test]
    fn an_account_adds_up() {
        let webhook = |matches, state| TracedWebhook {
            integration_id: String::new(),
            web_hook_id: String::new(),
            matches,
            because: String::new(),
            state,
            state_because: None,
            delivery_id: None,
            attempts: Vec::new(),
            waiting: None,
            dead_letter: None,
        };
        let webhooks = [
            webhook(true, Some(State::Acknowledged)),
            webhook(true, Some(State::Dropped)),
            webhook(true, Some(State::Dead)),
            webhook(true, Some(State::Waiting)),
            webhook(false, None),
        ];
        let account = Account::of(&webhooks);
        assert_eq!(account, Account { matched: 4, acknowledged: 1, waiting: 1, dead: 1, dropped: 1 });
    }
}
