//! The next tick of every scheduled webhook, and the decision whether this worker fires a tick that is due.
//!
//! The agenda holds the webhooks of all workers. Which worker fires a tick is decided when the tick is due, so a rebalance rebuilds
//! nothing. Each webhook is planned at its first tick after the last look.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::integration::{Integration, Trigger, Webhook};
use super::outcome::DropReason;
use super::ticks::Ticks;

/// A tick is not fired later than this: half of the shortest period, so that it never comes close to the next one.
const LATE_MAX: Duration = Duration::from_secs(5);
/// When the clock is set back by less than this, the agenda waits for it. When it is set back by more, the agenda begins again at the
/// time that the clock shows.
const SET_BACK_MAX: Duration = Duration::from_mins(1);

/// A tick whose time has come.
#[derive(Clone, Debug)]
pub struct Tick {
    /// Its time, ms since 1970: `scheduledAt`.
    pub at_ms: i64,
    /// The integration.
    pub integration: Arc<Integration>,
    /// The webhook's index in the integration.
    pub webhook: usize,
    /// How many earlier ticks the webhook had since the last look. They are missed.
    pub skipped: u64,
}

/// What becomes of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickDecision {
    /// This worker fires it.
    Fire,
    /// Another worker fires it, or it came before this worker held the partition.
    Leave,
    /// No worker fires it.
    Drop(DropReason),
}

impl Tick {
    /// The webhook.
    pub(crate) fn of(&self) -> Option<Webhook<'_>> {
        self.integration.webhook(self.webhook)
    }

    /// Decides what becomes of it at `now_ms`. The worker has held its partition since `held_since_ms`; with `None` it does not hold it.
    pub(crate) fn decide(&self, held_since_ms: Option<i64>, now_ms: i64) -> TickDecision {
        if held_since_ms.is_none_or(|since| self.at_ms <= since) {
            return TickDecision::Leave;
        }
        if self.integration.is_suspended() {
            return TickDecision::Drop(DropReason::Suspended);
        }
        if now_ms.saturating_sub(self.at_ms) > millis(LATE_MAX) {
            return TickDecision::Drop(DropReason::TickMissed);
        }
        TickDecision::Fire
    }
}

/// The partitions of the integrations topic that this worker holds: it fires the webhooks of these partitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Since when, ms since 1970.
    since_ms: HashMap<i32, i64>,
}

impl Held {
    /// A partition came at `now_ms`: another worker fires the ticks that were due before.
    pub(crate) fn add(&mut self, partition: i32, now_ms: i64) {
        self.since_ms.insert(partition, now_ms);
    }

    /// A partition went.
    pub(crate) fn remove(&mut self, partition: i32) {
        self.since_ms.remove(&partition);
    }

    /// Since when the partition is held, if it is.
    pub(crate) fn since_ms(&self, partition: i32) -> Option<i64> {
        self.since_ms.get(&partition).copied()
    }

    /// The clock was set back to `now_ms`: nothing can be held since later.
    pub(crate) fn set_back(&mut self, now_ms: i64) {
        self.since_ms.values_mut().for_each(|since| *since = now_ms.min(*since));
    }
}

/// The partition of `partitions` that a webhook's schedule belongs to.
pub(crate) fn partition_of(webhook: Webhook<'_>, partitions: u32) -> i32 {
    i32::try_from(webhook.hash() % u64::from(partitions.max(1))).unwrap_or(0)
}

/// The next tick of every scheduled webhook.
#[derive(Debug)]
pub(crate) struct Agenda {
    planned: HashMap<Arc<str>, Arc<Integration>>,
    /// Time, key of the integration, place of the webhook.
    due: BTreeSet<(i64, Arc<str>, usize)>,
    looked_ms: i64,
}

impl Agenda {
    /// An empty agenda that begins after `now_ms`.
    pub(crate) fn new(now_ms: i64) -> Self {
        Self { planned: HashMap::default(), due: BTreeSet::new(), looked_ms: now_ms }
    }

    /// Forgets everything planned.
    pub(crate) fn clear(&mut self) {
        self.planned.clear();
        self.due.clear();
    }

    /// Follows a change of the integration of that key. `None`: it was removed.
    pub(crate) fn follow(&mut self, key: &str, integration: Option<&Arc<Integration>>) {
        if let Some((key, old)) = self.planned.remove_entry(key) {
            for (place, ticks) in schedules(&old) {
                self.due.remove(&(ticks.after(self.looked_ms), Arc::clone(&key), place));
            }
        }
        let Some(integration) = integration.filter(|integration| schedules(integration).next().is_some()) else {
            return;
        };
        let key: Arc<str> = key.into();
        self.due.extend(
            schedules(integration).map(|(place, ticks)| (ticks.after(self.looked_ms), Arc::clone(&key), place)),
        );
        self.planned.insert(key, Arc::clone(integration));
    }

    /// When the next tick comes.
    pub(crate) fn next_ms(&self) -> Option<i64> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Whether no tick is planned.
    pub(crate) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Whether the clock was set back so far that waiting for it would silence schedules.
    pub(crate) fn is_set_back(&self, now_ms: i64) -> bool {
        self.looked_ms.saturating_sub(now_ms) > millis(SET_BACK_MAX)
    }

    /// Begins again at `now_ms` with the same webhooks.
    pub(crate) fn restart(&mut self, now_ms: i64) {
        self.looked_ms = now_ms;
        let planned = std::mem::take(&mut self.planned);
        self.due.clear();
        #[expect(clippy::iter_over_hash_type, reason = "what they become is ordered by time")]
        for (key, integration) in planned {
            self.follow(&key, Some(&integration));
        }
    }

    /// The ticks that came since the last look, the latest of each webhook, oldest first.
    pub(crate) fn take_due(&mut self, now_ms: i64) -> Vec<Tick> {
        if now_ms <= self.looked_ms {
            return Vec::new();
        }
        let mut came = Vec::new();
        while let Some(entry) = self.due.pop_first() {
            if entry.0 > now_ms {
                self.due.insert(entry);
                break;
            }
            came.push(entry);
        }
        self.looked_ms = now_ms;
        came.into_iter().filter_map(|(first_ms, key, place)| self.latest(first_ms, key, place)).collect()
    }

    /// The latest tick until now of a webhook whose first was at `first_ms`; plans the next one.
    fn latest(&mut self, first_ms: i64, key: Arc<str>, place: usize) -> Option<Tick> {
        let integration = Arc::clone(self.planned.get(&key)?);
        let ticks = integration.webhook(place).and_then(ticks_of)?;
        let at_ms = ticks.at_or_before(self.looked_ms);
        let skipped = ticks.between(first_ms, at_ms);
        self.due.insert((ticks.after(self.looked_ms), key, place));
        Some(Tick { at_ms, integration, webhook: place, skipped })
    }
}

/// The webhooks of an integration that fire by a schedule at present, by their places.
fn schedules(integration: &Integration) -> impl Iterator<Item = (usize, Ticks)> {
    let delivers = integration.status().delivers();
    integration
        .webhooks()
        .filter(move |webhook| delivers && !webhook.is_disabled())
        .filter_map(|webhook| Some((webhook.index(), ticks_of(webhook)?)))
}

fn ticks_of(webhook: Webhook<'_>) -> Option<Ticks> {
    match webhook.trigger() {
        Trigger::EntityEvent => None,
        Trigger::Schedule(period) => Some(Ticks::new(webhook.hash(), period)),
    }
}

/// Whether a retry at `retry_ms` of the webhook's tick at `tick_ms` comes too late: not before the next tick.
pub(crate) fn is_too_late(webhook: Webhook<'_>, tick_ms: i64, retry_ms: i64) -> bool {
    // A webhook that has no schedule any more gets no retry of a tick.
    ticks_of(webhook).is_none_or(|ticks| retry_ms >= ticks.after(tick_ms))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOON: i64 = 1_700_000_000_000;

    fn integration(status: &str, webhooks: &[Value]) -> Arc<Integration> {
        let value = json!({"status": status, "webHooks": webhooks});
        Arc::new(Integration::parse("ws/i", value.to_string().as_bytes()).unwrap())
    }

    fn hook(id: &str, period: &str) -> Value {
        json!({"id": id, "relativeUrl": "http://r/", "triggerType": "schedule", "schedule": {"period": period}})
    }

    fn fires(agenda: &mut Agenda, from: i64, until: i64, step: usize) -> Vec<(String, i64)> {
        let mut fired = Vec::new();
        for now in (from..=until).step_by(step) {
            for tick in agenda.take_due(now) {
                assert_eq!(tick.skipped, 0);
                assert!(tick.at_ms > now - i64::try_from(step).unwrap() && tick.at_ms <= now);
                fired.push((tick.of().unwrap().id(), tick.at_ms));
            }
        }
        fired
    }

    #[test]
    fn each_webhook_ticks_once_a_period_at_its_own_phase() {
        let mut agenda = Agenda::new(NOON);
        let both = integration("active", &[hook("a", "00:00:10"), hook("b", "00:00:10"), hook("c", "1.00:00:00")]);
        agenda.follow("ws/i", Some(&both));
        let fired = fires(&mut agenda, NOON, NOON + 60_000, 70);
        for id in ["a", "b"] {
            let of: Vec<_> = fired.iter().filter(|(of, _)| of == id).map(|(_, at)| *at).collect();
            assert_eq!(of.len(), 6, "{id}");
            assert!(of.windows(2).all(|pair| pair[1] - pair[0] == 10_000));
        }
        assert_ne!(fired[0].1 % 10_000, fired[1].1 % 10_000, "phases differ");
    }

    #[test]
    fn a_webhook_that_is_not_delivered_to_has_no_ticks() {
        let mut disabled = hook("a", "00:00:10");
        disabled["disabled"] = json!(true);
        let event = json!({"id": "e", "relativeUrl": "http://r/", "triggerType": "entityEvent"});
        let mut agenda = Agenda::new(NOON);
        for status in ["paused", "notConfigured", "failed"] {
            agenda.follow("ws/i", Some(&integration(status, &[hook("a", "00:00:10")])));
            assert!(agenda.is_empty(), "{status}");
        }
        agenda.follow("ws/i", Some(&integration("active", &[disabled, event])));
        assert!(agenda.is_empty() && agenda.planned.is_empty());
        agenda.follow("ws/i", Some(&integration("hasErrors", &[hook("a", "00:00:10")])));
        assert_eq!(agenda.due.len(), 1);
    }

    #[test]
    fn a_change_replaces_what_was_planned_and_a_removal_ends_it() {
        let mut agenda = Agenda::new(NOON);
        agenda.follow("ws/i", Some(&integration("active", &[hook("a", "00:10:00"), hook("b", "00:00:10")])));
        agenda.take_due(NOON + 3_333);
        agenda.follow("ws/i", Some(&integration("active", &[hook("a", "00:00:20")])));
        assert_eq!(agenda.due.len(), 1);
        assert_eq!(fires(&mut agenda, NOON + 3_333, NOON + 63_333, 100).len(), 3, "the new period holds at once");
        agenda.follow("ws/i", None);
        assert!(agenda.is_empty() && agenda.next_ms().is_none());
        agenda.follow("ws/unknown", None);
    }

    #[test]
    fn after_a_standstill_the_latest_tick_comes_alone() {
        let mut agenda = Agenda::new(NOON);
        agenda.follow("ws/i", Some(&integration("active", &[hook("a", "00:00:10")])));
        let first = agenda.next_ms().unwrap();
        let came = agenda.take_due(first + 60_001);
        assert_eq!(came.len(), 1);
        assert_eq!((came[0].at_ms, came[0].skipped), (first + 60_000, 6));
        assert_eq!(agenda.next_ms(), Some(first + 70_000));
    }

    #[test]
    fn a_clock_set_back_a_little_repeats_nothing_and_set_back_far_does_not_silence() {
        let mut agenda = Agenda::new(NOON);
        agenda.follow("ws/i", Some(&integration("active", &[hook("a", "00:00:10")])));
        assert_eq!(fires(&mut agenda, NOON, NOON + 30_000, 100).len(), 3);
        assert!(!agenda.is_set_back(NOON));
        assert!(agenda.take_due(NOON + 20_000).is_empty(), "those came already");
        assert_eq!(fires(&mut agenda, NOON + 20_000, NOON + 40_000, 100).len(), 1);
        let long_ago = NOON - 86_400_000;
        assert!(agenda.is_set_back(long_ago));
        agenda.restart(long_ago);
        assert_eq!(fires(&mut agenda, long_ago, long_ago + 30_000, 100).len(), 3);
        let mut held = Held::default();
        held.add(3, NOON);
        held.set_back(long_ago);
        assert_eq!(held.since_ms(3), Some(long_ago));
    }

    #[test]
    fn what_becomes_of_a_tick() {
        let of = integration("active", &[hook("a", "00:00:10")]);
        let tick = Tick { at_ms: NOON, integration: Arc::clone(&of), webhook: 0, skipped: 0 };
        for (held_since_ms, now_ms, expected) in [
            (None, NOON, TickDecision::Leave),
            (Some(NOON + 1), NOON + 2, TickDecision::Leave),
            (Some(NOON), NOON + 1, TickDecision::Leave),
            (Some(NOON - 1), NOON, TickDecision::Fire),
            (Some(NOON - 1), NOON + 5_000, TickDecision::Fire),
            (Some(NOON - 1), NOON + 5_001, TickDecision::Drop(DropReason::TickMissed)),
        ] {
            assert_eq!(tick.decide(held_since_ms, now_ms), expected, "{held_since_ms:?} {now_ms}");
        }
        of.set_health(crate::domain::health::Health::Failed);
        assert_eq!(tick.decide(Some(NOON - 1), NOON), TickDecision::Drop(DropReason::Suspended));
        assert_eq!(tick.decide(None, NOON), TickDecision::Leave, "counted by its owner alone");
    }

    #[test]
    fn a_retry_is_over_when_the_next_tick_has_come() {
        let of = integration(
            "active",
            &[
                hook("a", "00:00:10"),
                hook("b", "01:00:00"),
                json!({"id": "e", "relativeUrl": "http://r/", "triggerType": "entityEvent"}),
            ],
        );
        let tick = |place: usize| {
            let webhook = of.webhook(place).unwrap();
            (webhook, ticks_of(webhook).unwrap().after(NOON))
        };
        let (a, at) = tick(0);
        assert!(is_too_late(a, at, at + 30_000), "the first delay of the default schedule is longer than the period");
        assert!(is_too_late(a, at, at + 10_000));
        assert!(!is_too_late(a, at, at + 9_999));
        let (b, at) = tick(1);
        assert!(!is_too_late(b, at, at + 30_000));
        assert!(is_too_late(b, at, at + 3_600_000));
        assert!(is_too_late(of.webhook(2).unwrap(), NOON, NOON), "it has no schedule any more");
    }

    proptest! {
        /// Workers hand one partition over now and then, with a gap of less than a period between two owners; one may be killed
        /// (it holds until then and another only later) or give it up. All look at their own pace.
        #[test]
        fn no_tick_is_doubled_and_a_handover_loses_at_most_one(
            handovers in prop::collection::vec((5_000i64..60_000, 0i64..8_000), 1..8),
            paces in prop::collection::vec(20usize..400, 8),
            id in "[a-z]{1,8}",
        ) {
            let of = integration("active", &[hook(&id, "00:00:10")]);
            let ticks = ticks_of(of.webhook(0).unwrap()).unwrap();
            let mut fired = Vec::new();
            let mut from = NOON;
            for ((holds, gap), pace) in handovers.iter().zip(paces) {
                let mut agenda = Agenda::new(NOON - 1_000);
                agenda.follow("ws/i", Some(&of));
                let mut held = Held::default();
                held.add(0, from);
                for now in (from..=from + holds).step_by(pace) {
                    for tick in agenda.take_due(now) {
                        if tick.decide(held.since_ms(0), now) == TickDecision::Fire {
                            fired.push(tick.at_ms);
                        }
                    }
                }
                from += holds + gap;
            }
            prop_assert!(fired.windows(2).all(|pair| pair[0] < pair[1]), "doubled or out of order: {fired:?}");
            // After the last handover the last owner may not have looked at the very end.
            let all = ticks.between(ticks.after(NOON), ticks.after(from));
            prop_assert!(fired.len() + handovers.len() + 1 >= usize::try_from(all).unwrap(), "{} of {all}", fired.len());
        }
    }
}
