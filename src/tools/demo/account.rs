//! The demo's own account of what became of every event: by what it produced, what its receivers acknowledged, and what is in the
//! topics at the end. It uses the worker's counters for drops only, since a drop leaves no other trace.
//!
//! Pure bookkeeping: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::outcome::DeadReason;

/// Webhooks that an account can hold.
pub(crate) const WEBHOOKS_MAX: usize = 4;
/// The number used for an invalid event: it belongs in the dead-letter topic, to no webhook.
pub(crate) const INVALID: u8 = 7;
/// Events that an account takes: it costs 20 bytes each.
pub(crate) const EVENTS_MAX: u32 = 2_000_000;
/// Missing deliveries that are named one by one.
const EXAMPLES_MAX: usize = 5;

/// One event for one webhook, both by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    /// The event's number.
    pub(crate) event: u32,
    /// The webhook's, or [`INVALID`].
    pub(crate) webhook: u8,
}

/// Numbers of webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Webhooks(u8);

impl Webhooks {
    /// The set of these numbers.
    pub(crate) fn of(numbers: &[u8]) -> Self {
        numbers.iter().fold(Self::default(), |set, number| set.with(*number))
    }

    fn bit(number: u8) -> u8 {
        1_u8.checked_shl(number.into()).unwrap_or(0)
    }

    fn with(self, number: u8) -> Self {
        Self(self.0 | Self::bit(number))
    }

    /// Whether `number` is among them.
    pub(crate) fn has(self, number: u8) -> bool {
        self.0 & Self::bit(number) != 0
    }

    /// The union of both sets.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn numbers(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |number| self.has(*number))
    }
}

/// What is known of one event.
#[derive(Clone, Copy, Default)]
struct Row {
    matched: Webhooks,
    acknowledged: Webhooks,
    dead: Webhooks,
    /// The hash of the `webhook-id` that each webhook last saw; 0 before the first.
    ids: [u32; WEBHOOKS_MAX],
}

/// Where a record lies in a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InTier {
    /// The tier's number.
    pub(crate) tier: usize,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What one webhook's receiver has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) received: u64,
    /// Requests that the receiver answered with an acknowledgement.
    pub(crate) acknowledged: u64,
    /// Acknowledgements of deliveries that were acknowledged before.
    pub(crate) duplicates: u64,
}

/// What became of every event.
#[derive(Default)]
pub(crate) struct Account {
    rows: Vec<Row>,
    /// Deliveries with a record in a tier and no end yet: the last record of each.
    in_tier: BTreeMap<Pair, InTier>,
    requests: [Requests; WEBHOOKS_MAX],
    dead: [u64; DeadReason::ALL.len()],
    invalid_dead: u64,
    unmatched: u64,
    invalid: u64,
    open: u64,
    matched: u64,
    distinct: u64,
    unexpected: u64,
    changed_ids: u64,
    unsigned: u64,
}

impl Account {
    /// Adds an event that is about to be produced for these webhooks, or for [`INVALID`]. Returns its number, or `None` if the account is
    /// full.
    pub(crate) fn produce(&mut self, webhooks: Webhooks) -> Option<u32> {
        let number = u32::try_from(self.rows.len()).ok().filter(|number| *number < EVENTS_MAX)?;
        self.rows.push(Row { matched: webhooks, ..Row::default() });
        let pairs = webhooks.numbers().count() as u64;
        self.open += pairs;
        if webhooks.has(INVALID) {
            self.invalid += 1;
        } else if pairs == 0 {
            self.unmatched += 1;
        } else {
            self.matched += pairs;
        }
        Some(number)
    }

    /// The row of a pair that was produced. Any other pair is counted as unexpected.
    fn expected(&mut self, pair: Pair) -> Option<&mut Row> {
        let row = usize::try_from(pair.event).ok().and_then(|event| self.rows.get_mut(event));
        let row = row.filter(|row| row.matched.has(pair.webhook));
        if row.is_none() {
            self.unexpected += 1;
        }
        row
    }

    /// Counts a request that a receiver is about to answer. `id` is the hash of its `webhook-id`.
    pub(crate) fn request(&mut self, pair: Pair, id: u32, acknowledged: bool) {
        let Some(row) = self.expected(pair) else { return };
        // 0 means that no id was seen yet.
        let id = id.max(1);
        let webhook = usize::from(pair.webhook);
        let known = row.ids.get(webhook).copied().unwrap_or_default();
        if let Some(seen) = row.ids.get_mut(webhook) {
            *seen = id;
        }
        let was_open = !row.acknowledged.has(pair.webhook) && !row.dead.has(pair.webhook);
        let duplicate = acknowledged && row.acknowledged.has(pair.webhook);
        if acknowledged {
            row.acknowledged = row.acknowledged.with(pair.webhook);
        }
        self.distinct += u64::from(known == 0);
        self.changed_ids += u64::from(known != 0 && known != id);
        if let Some(requests) = self.requests.get_mut(webhook) {
            requests.received += 1;
            requests.acknowledged += u64::from(acknowledged);
            requests.duplicates += u64::from(duplicate);
        }
        if acknowledged {
            self.end(pair, was_open);
        }
    }

    /// Counts a request that a receiver refused because of its signature.
    pub(crate) fn refuse_signature(&mut self) {
        self.unsigned += 1;
    }

    /// Notes a record that was found in a tier.
    pub(crate) fn find_in_tier(&mut self, pair: Pair, place: InTier) {
        let Some(row) = self.expected(pair) else { return };
        if !row.acknowledged.has(pair.webhook) && !row.dead.has(pair.webhook) {
            self.in_tier.insert(pair, place);
        }
    }

    /// Notes a record that was found in the dead-letter topic.
    pub(crate) fn find_dead(&mut self, pair: Pair, reason: Option<DeadReason>) {
        let Some(row) = self.expected(pair) else { return };
        if row.dead.has(pair.webhook) {
            return;
        }
        row.dead = row.dead.with(pair.webhook);
        let was_open = !row.acknowledged.has(pair.webhook);
        if pair.webhook == INVALID {
            self.invalid_dead += 1;
        } else if let Some(count) = reason.and_then(|reason| self.dead.get_mut(reason as usize)) {
            *count += 1;
        }
        self.end(pair, was_open);
    }

    /// Counts a request or a record that the demo never produced.
    pub(crate) fn find_unexpected(&mut self) {
        self.unexpected += 1;
    }

    fn end(&mut self, pair: Pair, was_open: bool) {
        self.in_tier.remove(&pair);
        self.open -= u64::from(was_open);
    }

    /// Deliveries and invalid events that have not ended yet.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// Events produced.
    pub(crate) fn produced(&self) -> u64 {
        self.rows.len() as u64
    }

    /// What the receiver of a webhook has seen.
    pub(crate) fn requests(&self, webhook: u8) -> Requests {
        self.requests.get(usize::from(webhook)).copied().unwrap_or_default()
    }

    /// Draws the balance from what remains in the topics.
    pub(crate) fn balance(&self, remains: &Remains) -> Balance {
        let mut balance = Balance {
            produced: self.produced(),
            unmatched: self.unmatched,
            invalid: self.invalid,
            invalid_dead: self.invalid_dead,
            matched: self.matched,
            distinct: self.distinct,
            unexpected: self.unexpected,
            changed_ids: self.changed_ids,
            unsigned: self.unsigned,
            ..Balance::default()
        };
        for requests in self.requests {
            balance.requests.received += requests.received;
            balance.requests.acknowledged += requests.acknowledged;
            balance.requests.duplicates += requests.duplicates;
        }
        for (event, row) in self.rows.iter().enumerate() {
            let Ok(event) = u32::try_from(event) else { break };
            for webhook in row.matched.numbers() {
                self.add(&mut balance, Pair { event, webhook }, row, remains);
            }
        }
        // Drops in other workspaces are part of the worker's number: a surplus comes from them.
        balance.dropped = remains.dropped.min(balance.missing);
        balance.missing -= balance.dropped;
        balance
    }

    /// Adds one delivery to the balance, under the first end that applies.
    fn add(&self, balance: &mut Balance, pair: Pair, row: &Row, remains: &Remains) {
        if row.acknowledged.has(pair.webhook) {
            balance.acknowledged += 1;
            balance.acknowledged_and_dead += u64::from(row.dead.has(pair.webhook));
        } else if row.dead.has(pair.webhook) {
            balance.dead += u64::from(pair.webhook != INVALID);
        } else if let Some(place) = self.in_tier.get(&pair).filter(|place| remains.is_unread_in_tier(place)) {
            *balance.in_tier.entry(place.tier).or_default() += 1;
        } else if remains.behind.contains(&pair) {
            balance.behind += 1;
        } else if remains.unread_events.contains(&pair.event) {
            balance.unread += 1;
        } else {
            balance.missing += 1;
            if balance.examples.len() < EXAMPLES_MAX {
                balance.examples.push(pair);
            }
        }
    }

    /// Dead letters of deliveries, by reason.
    pub(crate) fn dead_by_reason(&self) -> impl Iterator<Item = (DeadReason, u64)> {
        DeadReason::ALL.into_iter().zip(self.dead)
    }

    /// Deliveries that wait in a tier.
    pub(crate) fn waiting(&self, tier: usize) -> u64 {
        self.in_tier.values().filter(|place| place.tier == tier).count() as u64
    }
}

/// What is in the topics when the worker has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// The committed offsets of the retries' group: records from there on still wait.
    pub(crate) committed: BTreeMap<(String, i32), i64>,
    /// Events that the events' group has not committed.
    pub(crate) unread_events: BTreeSet<u32>,
    /// Deliveries that a webhook's place in the backlog topic covers: they wait in the events topic.
    pub(crate) behind: BTreeSet<Pair>,
    /// Deliveries that the worker dropped by a rule, by its own count, in all workspaces. A drop leaves no other trace.
    pub(crate) dropped: u64,
}

impl Remains {
    fn is_unread_in_tier(&self, place: &InTier) -> bool {
        let committed = self.committed.get(&(place.topic.clone(), place.partition));
        committed.is_none_or(|committed| place.offset >= *committed)
    }
}

/// Every delivery once, by what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Events produced.
    pub(crate) produced: u64,
    /// Events that are for no webhook.
    pub(crate) unmatched: u64,
    /// Records that are not valid events.
    pub(crate) invalid: u64,
    /// Invalid events in the dead-letter topic.
    pub(crate) invalid_dead: u64,
    /// Deliveries: pairs of an event and a webhook it matches.
    pub(crate) matched: u64,
    /// Acknowledged by their receivers.
    pub(crate) acknowledged: u64,
    /// Acknowledged deliveries that are also in the dead-letter topic: the acknowledgement came too late for the worker.
    pub(crate) acknowledged_and_dead: u64,
    /// In the dead-letter topic.
    pub(crate) dead: u64,
    /// Waiting, by tier.
    pub(crate) in_tier: BTreeMap<usize, u64>,
    /// In the events topic, at or after the place of a webhook that is behind.
    pub(crate) behind: u64,
    /// In the events topic, not committed.
    pub(crate) unread: u64,
    /// Without a trace, and dropped by a rule by the worker's count.
    pub(crate) dropped: u64,
    /// Without a trace.
    pub(crate) missing: u64,
    /// Some of those without a trace.
    pub(crate) examples: Vec<Pair>,
    /// What all receivers have seen.
    pub(crate) requests: Requests,
    /// Deliveries that reached their receiver at least once.
    pub(crate) distinct: u64,
    /// Requests and records that belong to nothing that was produced or matched.
    pub(crate) unexpected: u64,
    /// Requests with another `webhook-id` than the attempt before.
    pub(crate) changed_ids: u64,
    /// Requests without the right signature.
    pub(crate) unsigned: u64,
}

/// Why an account does not balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Deliveries or invalid events without any trace.
    Missing {
        count: u64,
        /// Some of all that left no trace, dropped ones included.
        examples: Vec<Pair>,
    },
    /// Requests or records that belong to nothing that was produced for that webhook.
    Unexpected(u64),
    /// A delivery's id changed between two attempts.
    ChangedIds(u64),
    /// Requests had no valid signature.
    Unsigned(u64),
}

impl Balance {
    /// Why it does not balance. Empty if it does.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.missing > 0 {
            faults.push(Fault::Missing { count: self.missing, examples: self.examples.clone() });
        }
        if self.unexpected > 0 {
            faults.push(Fault::Unexpected(self.unexpected));
        }
        if self.changed_ids > 0 {
            faults.push(Fault::ChangedIds(self.changed_ids));
        }
        if self.unsigned > 0 {
            faults.push(Fault::Unsigned(self.unsigned));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to an account, in words of one step each.
    #[derive(Clone, Copy)]
    enum Step {
        Ack(u32, u8),
        Refuse(u32, u8),
        Tier(u32, u8, i64),
        Dead(u32, u8),
    }
    use Step::{Ack, Dead, Refuse, Tier};

    /// Event 0 is for webhooks 0 and 1, event 1 for webhook 1, event 2 for no webhook. Event 3 is invalid.
    fn account(steps: &[Step]) -> Account {
        let mut account = Account::default();
        for (number, webhooks) in [&[0, 1][..], &[1], &[], &[INVALID]].into_iter().enumerate() {
            assert_eq!(account.produce(Webhooks::of(webhooks)), u32::try_from(number).ok());
        }
        for step in steps {
            match *step {
                Ack(event, webhook) => account.request(Pair { event, webhook }, 100 + event, true),
                Refuse(event, webhook) => account.request(Pair { event, webhook }, 100 + event, false),
                Tier(event, webhook, offset) => account.find_in_tier(
                    Pair { event, webhook },
                    InTier { tier: 1, topic: "tier".to_owned(), partition: 0, offset },
                ),
                Dead(event, webhook) => account.find_dead(Pair { event, webhook }, Some(DeadReason::Exhausted)),
            }
        }
        account
    }

    /// The retries' group has committed up to 10.
    fn remains() -> Remains {
        Remains { committed: [(("tier".to_owned(), 0), 10)].into(), ..Remains::default() }
    }

    #[track_caller]
    fn check(steps: &[Step], expected: &[Fault]) -> Balance {
        let balance = account(steps).balance(&remains());
        assert_eq!(balance.faults(), expected);
        balance
    }

    fn missing(count: u64, examples: &[(u32, u8)]) -> Fault {
        let examples = examples.iter().map(|(event, webhook)| Pair { event: *event, webhook: *webhook }).collect();
        Fault::Missing { count, examples }
    }

    #[test]
    fn every_delivery_has_one_end_and_is_counted_once() {
        let balance = check(&[Ack(0, 0), Refuse(0, 1), Tier(0, 1, 12), Dead(1, 1), Dead(3, INVALID)], &[]);
        assert_eq!((balance.produced, balance.matched, balance.unmatched, balance.invalid), (4, 3, 1, 1));
        assert_eq!((balance.acknowledged, balance.dead, balance.invalid_dead, balance.missing), (1, 1, 1, 0));
        assert_eq!(balance.in_tier, [(1, 1)].into());
        assert_eq!((balance.requests.received, balance.distinct), (2, 2));
    }

    #[test]
    fn a_delivery_without_a_trace_is_missing() {
        check(&[], &[missing(4, &[(0, 0), (0, 1), (1, 1), (3, INVALID)])]);
        check(&[Ack(0, 0), Ack(0, 1), Ack(1, 1)], &[missing(1, &[(3, INVALID)])]);
        check(&[Ack(0, 0), Refuse(0, 1), Ack(1, 1), Dead(3, INVALID)], &[missing(1, &[(0, 1)])]);
    }

    #[test]
    fn a_committed_retry_without_an_end_is_missing() {
        check(&[Ack(0, 0), Tier(0, 1, 9), Ack(1, 1), Dead(3, INVALID)], &[missing(1, &[(0, 1)])]);
        check(&[Ack(0, 0), Tier(0, 1, 9), Tier(0, 1, 10), Ack(1, 1), Dead(3, INVALID)], &[]);
    }

    #[test]
    fn an_event_that_the_worker_did_not_commit_is_not_missing() {
        let remains = Remains { unread_events: [1, 3].into(), ..remains() };
        let balance = account(&[Ack(0, 0), Ack(0, 1)]).balance(&remains);
        assert_eq!((balance.faults(), balance.unread), (vec![], 2));
    }

    #[test]
    fn a_delivery_that_a_place_covers_is_not_missing() {
        let behind = [Pair { event: 0, webhook: 1 }, Pair { event: 1, webhook: 1 }].into();
        let balance = account(&[Ack(0, 0), Ack(0, 1), Dead(3, INVALID)]).balance(&Remains { behind, ..remains() });
        assert_eq!((balance.faults(), balance.behind), (vec![], 1));
    }

    #[test]
    fn drops_explain_as_many_deliveries_without_a_trace() {
        let all_but_one = [Ack(0, 0), Ack(0, 1), Dead(3, INVALID)];
        for (dropped, counted, expected) in [(0, 0, vec![missing(1, &[(1, 1)])]), (1, 1, vec![]), (2, 1, vec![])] {
            let balance = account(&all_but_one).balance(&Remains { dropped, ..remains() });
            assert_eq!((balance.dropped, balance.faults()), (counted, expected), "{dropped} dropped");
        }
    }

    #[test]
    fn a_pair_that_was_not_produced_or_matched_is_a_fault() {
        let all = [Ack(0, 0), Ack(0, 1), Ack(1, 1), Dead(3, INVALID)];
        for other in [Ack(1, 0), Ack(2, 0), Ack(9, 0), Dead(0, INVALID), Tier(3, 1, 10), Refuse(3, 0)] {
            check(&[&all[..], &[other]].concat(), &[Fault::Unexpected(1)]);
        }
    }

    #[test]
    fn an_acknowledgement_comes_before_other_ends_and_repeats_are_duplicates() {
        let steps =
            [Ack(0, 0), Ack(0, 0), Dead(0, 0), Ack(0, 1), Tier(0, 1, 11), Dead(1, 1), Dead(1, 1), Dead(3, INVALID)];
        let balance = check(&steps, &[]);
        assert_eq!((balance.acknowledged, balance.acknowledged_and_dead, balance.dead), (2, 1, 1));
        assert_eq!((balance.requests.acknowledged, balance.requests.duplicates, balance.distinct), (3, 1, 2));
        assert!(balance.in_tier.is_empty());
    }

    #[test]
    fn an_id_that_changes_and_a_wrong_signature_are_faults() {
        let mut account = account(&[Ack(0, 0), Ack(0, 1), Refuse(1, 1), Dead(3, INVALID)]);
        account.request(Pair { event: 1, webhook: 1 }, 7, true);
        account.refuse_signature();
        assert_eq!(account.balance(&remains()).faults(), [Fault::ChangedIds(1), Fault::Unsigned(1)]);
    }

    #[test]
    fn open_falls_to_zero_once_with_each_end() {
        let mut account = account(&[]);
        assert_eq!(account.open(), 4);
        for (step, open) in [(Ack(0, 0), 3), (Ack(0, 0), 3), (Dead(0, 0), 3), (Dead(0, 1), 2), (Ack(0, 1), 2)] {
            match step {
                Ack(event, webhook) => account.request(Pair { event, webhook }, 1, true),
                Dead(event, webhook) => account.find_dead(Pair { event, webhook }, None),
                Refuse(..) | Tier(..) => {}
            }
            assert_eq!(account.open(), open);
        }
        account.find_dead(Pair { event: 3, webhook: INVALID }, Some(DeadReason::InvalidEvent));
        account.request(Pair { event: 1, webhook: 1 }, 1, true);
        assert_eq!(account.open(), 0);
    }
}
