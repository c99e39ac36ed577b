//! The account in words: what became of everything, and what is wrong if it does not balance.

use super::account::{Balance, Fault, INVALID, Pair};
use super::sample::{event_id, name_of_webhook};
use crate::domain::outcome::DeadReason;

/// The summary: one line for each number, always in the same words.
pub(crate) fn lines(balance: &Balance, tiers: &[String], dead: &[(DeadReason, u64)]) -> Vec<String> {
    let named = |names: Vec<String>| if names.is_empty() { String::new() } else { format!("   {}", names.join("   ")) };
    let waiting = balance.in_tier.iter().filter_map(|(tier, count)| Some(format!("{} {count}", tiers.get(*tier)?)));
    let dead = dead.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{} {count}", reason.word()));
    let invalid = balance.invalid;
    let (requests, distinct) = (balance.requests, balance.distinct);
    let mut lines = vec![
        "what became of everything, from what receivers answered and topics hold:".to_owned(),
        row("events produced", balance.produced, ""),
        row(
            "  for no webhook",
            balance.unmatched,
            "   of workspace playground; what its own webhooks got is not counted here",
        ),
        row("  not events", invalid, &format!("   dead letters {}", balance.invalid_dead)),
        row("deliveries", balance.matched, "   an event and a webhook that it matches"),
        row("  acknowledged", balance.acknowledged, ""),
        row("  in a tier", balance.in_tier.values().sum(), &named(waiting.collect())),
        row("  dead letters", balance.dead, &named(dead.collect())),
        row("  dropped", balance.dropped, ""),
        row("  behind", balance.behind, "   they wait in the events topic for their webhook"),
        row("  not yet read", balance.unread, ""),
        row("  missing", balance.missing, ""),
        row(
            "requests",
            requests.received,
            &format!("   distinct deliveries {distinct}   duplicates {}", requests.duplicates),
        ),
    ];
    if balance.acknowledged_and_dead > 0 {
        let late = balance.acknowledged_and_dead;
        lines.push(format!("{late} deliveries were acknowledged and are dead letters: the answer came too late"));
    }
    lines
}

fn row(name: &str, count: u64, rest: &str) -> String {
    format!("  {name:<20}{count:>9}{rest}")
}

/// The last lines: that the account balances, or why it does not.
pub(crate) fn verdict(faults: &[Fault]) -> Vec<String> {
    if faults.is_empty() {
        return vec!["the account balances: nothing is missing".to_owned()];
    }
    faults.iter().map(|fault| format!("the account does not balance: {}", text(fault))).collect()
}

fn text(fault: &Fault) -> String {
    match fault {
        Fault::Missing { count, examples } => {
            let names: Vec<String> = examples.iter().map(|pair| name(*pair)).collect();
            format!("{count} missing, neither acknowledged nor in a topic; without a trace are {}", names.join(", "))
        }
        Fault::Unexpected(count) => {
            format!("{count} requests or records for a webhook that their event does not match")
        }
        Fault::ChangedIds(count) => format!("{count} requests with another webhook-id than the attempt before"),
        Fault::Unsigned(count) => format!("{count} requests without the right signature"),
    }
}

fn name(pair: Pair) -> String {
    let event = event_id(pair.event);
    if pair.webhook == INVALID {
        format!("{event} (not an event)")
    } else {
        format!("{event} to {}", name_of_webhook(pair.webhook))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_every_end() {
        let balance = Balance {
            produced: 10,
            unmatched: 1,
            invalid: 2,
            invalid_dead: 2,
            matched: 12,
            acknowledged: 5,
            acknowledged_and_dead: 1,
            dead: 4,
            in_tier: [(1, 2)].into(),
            behind: 3,
            unread: 1,
            ..Balance::default()
        };
        let tiers = ["1s".to_owned(), "2s".to_owned()];
        let text = lines(&balance, &tiers, &[(DeadReason::Exhausted, 4)]).join("\n");
        for part in [
            "2   2s 2",
            "4   exhausted 4",
            "dead letters 2",
            "behind                    3",
            "came too late",
            "no webhook            1   of workspace playground",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(verdict(&[]), ["the account balances: nothing is missing"]);
    }

    #[test]
    fn a_verdict_names_what_is_missing() {
        let missing = Fault::Missing {
            count: 2,
            examples: vec![Pair { event: 26, webhook: 2 }, Pair { event: 49, webhook: INVALID }],
        };
        let lines = verdict(&[missing, Fault::ChangedIds(3)]);
        for part in ["2 missing", "00000000001a to billing: new and changed companies", "000000000031 (not an event)"] {
            assert!(lines[0].contains(part), "{part} is missing in {lines:?}");
        }
        assert!(lines[1].contains("3 requests with another webhook-id"));
    }
}
