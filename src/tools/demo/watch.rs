//! Watches the topics for the account: reads the tiers and the dead-letter topic while the worker runs, and at the end what is left in
//! the topics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::account::{INVALID, InTier, Pair, Remains};
use super::observer::{Observer, ObserverError, Seen, committed};
use super::sample::{PLAYGROUND, number_of_event, number_of_webhook};
use super::{Ledger, lock};
use crate::backlog::place::Place;
use crate::backlog::places;
use crate::domain::outcome::DeadReason;
use crate::domain::topic_names::{retry_group, tier_topic};
use crate::settings::{Kafka, Settings};

/// How long a poll waits: bounds how late the end is seen.
const POLL_WAIT: Duration = Duration::from_millis(50);

/// Reads the topics for the account.
pub(crate) struct Watch {
    kafka: Kafka,
    events: String,
    backlog: String,
    dead_letters: String,
    tiers: Vec<String>,
    ledger: Ledger,
}

/// The topics of the tiers, in their order.
pub(crate) fn tier_topics(settings: &Settings) -> Vec<String> {
    let tiers = settings.delivery.schedule.tiers().iter();
    tiers.map(|delay| tier_topic(&settings.topics.retry_prefix, *delay)).collect()
}

impl Watch {
    /// A watch over the topics of these settings.
    pub(crate) fn new(settings: &Settings, ledger: &Ledger) -> Self {
        Self {
            kafka: settings.kafka.clone(),
            events: settings.topics.events.clone(),
            backlog: settings.topics.backlog.clone(),
            dead_letters: settings.topics.dead_letter.clone(),
            tiers: tier_topics(settings),
            ledger: Ledger::clone(ledger),
        }
    }

    /// Reads until the worker has `ended`, then to the end of the topics. Returns what is left. Blocks its thread.
    ///
    /// # Errors
    /// The broker does not answer, or an end is not reached.
    pub(crate) fn run(self, ended: &CancellationToken) -> Result<Remains, ObserverError> {
        let topics: Vec<String> = self.tiers.iter().cloned().chain([self.dead_letters.clone()]).collect();
        let mut observer = Observer::open(&self.kafka, &topics)?;
        while !ended.is_cancelled() {
            observer.read(POLL_WAIT, |seen| self.take(&seen))?;
        }
        observer.read_to_end(|seen| self.take(&seen))?;
        let retries_group = retry_group(&self.kafka.group);
        Ok(Remains {
            committed: committed(&self.kafka, &retries_group, &self.tiers)?,
            unread_events: self.unread_events()?,
            behind: self.behind()?,
            dropped: 0,
        })
    }

    fn unread_events(&self) -> Result<BTreeSet<u32>, ObserverError> {
        let next = committed(&self.kafka, &self.kafka.group, std::slice::from_ref(&self.events))?;
        let mut unread = BTreeSet::new();
        let mut observer = Observer::open_at(&self.kafka, next)?;
        observer.read_to_end(|seen| unread.extend(seen.value.and_then(number_of_event)))?;
        Ok(unread)
    }

    /// The deliveries that places of the demo's webhooks cover.
    fn behind(&self) -> Result<BTreeSet<Pair>, ObserverError> {
        let table = places::read(&self.kafka, &self.backlog, || false)?;
        let cluster = table.cluster;
        let mut places: BTreeMap<i32, Vec<(u8, Place)>> = BTreeMap::new();
        for record in table.into_places() {
            if let Some(webhook) = number_of_webhook(&record.web_hook) {
                places.entry(record.partition).or_default().push((webhook, record.place(cluster)));
            }
        }
        let first = |places: &[(u8, Place)]| places.iter().filter_map(|(_, place)| place.first()).min();
        let next =
            places.iter().filter_map(|(partition, places)| Some(((self.events.clone(), *partition), first(places)?)));
        let mut observer = Observer::open_at(&self.kafka, next.collect())?;
        let mut behind = BTreeSet::new();
        observer.read_to_end(|seen| {
            let Some(event) = seen.value.and_then(number_of_event) else { return };
            let places = places.get(&seen.partition).map_or(&[][..], Vec::as_slice);
            let covered = places.iter().filter(|(_, place)| place.covers(seen.offset));
            behind.extend(covered.map(|(webhook, _)| Pair { event, webhook: *webhook }));
        })?;
        Ok(behind)
    }

    fn take(&self, seen: &Seen<'_>) {
        if seen.wire.workspace.as_deref() == Some(PLAYGROUND) {
            return;
        }
        let mut account = lock(&self.ledger);
        let Some(event) = seen.value.and_then(number_of_event) else {
            account.find_unexpected();
            return;
        };
        let webhook = match seen.wire.reason {
            Some(DeadReason::InvalidEvent) => Some(INVALID),
            _ => seen.wire.webhook_id.as_deref().and_then(number_of_webhook),
        };
        let Some(webhook) = webhook else {
            account.find_unexpected();
            return;
        };
        let pair = Pair { event, webhook };
        match self.tiers.iter().position(|topic| topic == seen.topic) {
            None => account.find_dead(pair, seen.wire.reason),
            Some(tier) => {
                let topic = seen.topic.to_owned();
                account.find_in_tier(pair, InTier { tier, topic, partition: seen.partition, offset: seen.offset });
            }
        }
    }
}
