//! Collects all records about one event, from the topics where they can be, and hands them to `trace`, which judges them.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{Builder, scope};

use bytes::Bytes;
use jiff::Timestamp;

use super::attempts::{Attempt, AttemptFilter, key_partitions};
use super::dead_letters::{DeadLetter, DeadLetterFilter};
use super::find::{FoundEvent, opened};
use super::integrations::HealthRow;
use super::scan::{Bounds, Log as _, Page, Question, Span, Watch, name_of, scan, walk};
use super::token::{Token, Tokens, digest};
use super::trace::{Account, Evidence, Hook, Trace, TracedEvent, matched, traced};
use super::waiting::{Place, Places, Tier, WaitingRetry, tiers};
use super::{ReadError, joined, parts_of, read_table, time};
use crate::domain::event::Envelope;
use crate::domain::explain::{EventWords, Explanation, Obstacle, explain, items_of};
use crate::domain::headers::Wire;
use crate::domain::integration::Integration;
use crate::domain::topic_names::now_topic;
use crate::health::rules::Health;
use crate::inflight::job::Origin;
use crate::kafka::groups::committed;
use crate::kafka::span::SpanError;
use crate::kafka::windows::{Glance, WindowReader, Windows};
use crate::settings::Settings;

/// The clocks of the workers that wrote the records differ by at most this, ms.
const CLOCKS_DIFFER_MAX_MS: i64 = 60_000;
/// The clock of the CRM, which dates events, is ahead of the brokers', which date what waits, by at most this, ms.
const CRM_AHEAD_MAX_MS: i64 = 3_600_000;
/// Rows that are read of one topic: a workspace's webhooks times their attempts.
const ROWS_MAX: usize = 20_000;

/// Clients that read the attempt log side by side, each its share of the partitions: one thread takes fewer records a second out of
/// a client than brokers give. More would need more memory, and more cores than a small machine has.
const LOG_READERS: i32 = 2;

/// A question about one event.
pub(crate) struct Inquiry<'a> {
    pub(crate) event: &'a FoundEvent,
    /// The event's workspace.
    pub(crate) workspace: &'a str,
    /// The workspace's integrations in the order of their ids, if the caller knows them. Without them their topic is read.
    pub(crate) registered: Option<Vec<Registered>>,
    /// The `next` of a former answer.
    pub(crate) next: Option<&'a str>,
}

/// An integration of the event's workspace.
pub(crate) struct Registered {
    integration: Integration,
    value: Bytes,
    written_ms: i64,
}

impl Registered {
    /// The integration in a record of the integrations topic, written at that time. `None` if the record can't be used.
    pub(crate) fn parse(key: &str, value: Bytes, written_ms: i64) -> Option<Self> {
        Some(Self { integration: Integration::parse(key, &value).ok()?, value, written_ms })
    }
}

/// The records of one kind, by webhook.
type ByHook<R> = BTreeMap<Hook, Vec<R>>;

/// All that was found of one event.
#[derive(Default)]
struct Gathered {
    attempts: ByHook<Attempt>,
    deliveries: Deliveries,
}

/// Where deliveries of the event are.
#[derive(Default)]
struct Deliveries {
    retries: ByHook<WaitingRetry>,
    dead_letters: ByHook<(i64, DeadLetter)>,
    /// When a dead letter was last sent back and read by the workers, ms since 1970.
    sent_back: BTreeMap<Hook, i64>,
    places: BTreeMap<Hook, Place>,
    is_settled: bool,
    /// By integration id, its states in their order, each with its beginning, ms since 1970.
    health: BTreeMap<String, Vec<(i64, Health)>>,
}

/// Where the scans that met a bound go on, and how far they have come.
#[derive(Default)]
struct Left {
    tokens: Vec<Token>,
    back_to_ms: Option<i64>,
}

impl Left {
    /// Takes the rows of a page and keeps the rest of it.
    fn rows<R>(&mut self, page: Page<R>) -> Vec<R> {
        if let Some(token) = page.next {
            self.tokens.push(token);
            self.back_to_ms = self.back_to_ms.max(page.searched_back_to_ms);
        }
        page.rows
    }

    fn and(mut self, other: Self) -> Self {
        self.tokens.extend(other.tokens);
        Self { back_to_ms: self.back_to_ms.max(other.back_to_ms), ..self }
    }
}

/// What is looked for, where, and how far.
struct Search<'a> {
    settings: &'a Settings,
    event: &'a FoundEvent,
    /// The event's id.
    id: &'a str,
    workspace: &'a str,
    /// Where a former answer's scans ended.
    tokens: Tokens<'a>,
    bounds: Bounds,
    watch: &'a Watch<'a>,
}

/// Collects and judges what became of an event. `None` if its value is not an event. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn trace(
    settings: &Settings,
    inquiry: Inquiry<'_>,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Option<Trace>, ReadError> {
    let Inquiry { event, workspace, registered, next } = inquiry;
    let Ok(envelope) = Envelope::parse(&event.value) else { return Ok(None) };
    let Ok(words) = EventWords::parse(&event.value, &envelope) else { return Ok(None) };
    let origin = event.origin.to_string();
    let question = digest(&["trace", workspace, &words.id, &origin]);
    let bounds = Bounds { rows: ROWS_MAX, ..bounds };
    let tokens = Tokens::parse(next, &question)?;
    let search = Search { settings, event, id: &words.id, workspace, tokens, bounds, watch };
    let (registered, mut found, left) = search.gather(registered)?;
    let mut webhooks = Vec::new();
    for Registered { integration, value, written_ms } in &registered {
        let items = items_of(value).unwrap_or_default();
        let explanation = explain(integration, &items, &words, &envelope.facts(), Some(workspace));
        for ruling in &explanation.webhooks {
            let Some(webhook) = integration.webhook(ruling.index) else { continue };
            let hook = (integration.id().to_owned(), webhook.id());
            let obstacle = found.why_not_sent(event, &hook.0, &explanation);
            let evidence = found.take(&hook, obstacle);
            webhooks.push(traced(hook, ruling, evidence, event, *written_ms));
        }
    }
    for hook in found.others() {
        let evidence = found.take(&hook, None);
        let because = "it is not registered any more; what was found of it says that it matched".to_owned();
        webhooks.push(matched(hook, because, evidence));
    }
    Ok(Some(Trace {
        event: TracedEvent {
            origin,
            at: event.at_ms.and_then(time),
            workspace: workspace.to_owned(),
            about: words.to_string(),
            id: words.id,
        },
        account: Account::of(&webhooks),
        webhooks,
        complete: left.tokens.is_empty(),
        searched_back_to: left.back_to_ms.and_then(time),
        next: Tokens::text(&question, &left.tokens),
    }))
}

impl Search<'_> {
    /// Looks into the attempt log and the other topics side by side: most of the time goes into waiting for brokers.
    fn gather(&self, registered: Option<Vec<Registered>>) -> Result<(Vec<Registered>, Gathered, Left), ReadError> {
        scope(|threads| {
            let thread = Builder::new().name("trace-topics".to_owned());
            let deliveries = thread.spawn_scoped(threads, || self.deliveries()).map_err(ReadError::Thread)?;
            let registered = registered.map_or_else(|| self.registered(), Ok)?;
            let (attempts, left) = self.attempts(&registered)?;
            let (deliveries, left_there) = joined(deliveries)?;
            Ok((registered, Gathered { attempts, deliveries }, left.and(left_there)))
        })
    }

    /// The integrations of the workspace, in the order of their ids.
    fn registered(&self) -> Result<Vec<Registered>, ReadError> {
        let mut by_key: BTreeMap<String, Registered> = BTreeMap::new();
        let Settings { kafka, topics, .. } = self.settings;
        read_table(kafka, &topics.integrations, "trace-integrations", self.watch.wanted, |row| {
            if parts_of(row.key).is_none_or(|(of, _)| of != self.workspace) {
                return;
            }
            let Ok(key) = std::str::from_utf8(row.key) else { return };
            match row.value {
                None => drop(by_key.remove(key)),
                // Of a record that can't be used, the one before it stays in force.
                Some(value) => {
                    if let Some(entry) = Registered::parse(key, Bytes::copy_from_slice(value), row.timestamp_ms) {
                        by_key.insert(key.to_owned(), entry);
                    }
                }
            }
        })?;
        Ok(by_key.into_values().collect())
    }

    /// The part of a topic from a little before the event on.
    fn span(&self) -> Span {
        Span { from_ms: self.event.at_ms.map(|ms| ms.saturating_sub(CLOCKS_DIFFER_MAX_MS)), ..Span::default() }
    }

    /// Looks for rows in one topic, from where a former answer ended.
    fn page<R>(
        &self,
        log: &Windows,
        parts: Vec<String>,
        span: Span,
        row: &dyn Fn(&Glance<'_>) -> Option<R>,
    ) -> Result<Page<R>, ReadError> {
        let next = self.tokens.of(&name_of(log, &parts));
        scan(log, &Question { parts, span, next, row }, self.bounds, self.watch)
    }

    /// The logged attempts, oldest first.
    fn attempts(&self, registered: &[Registered]) -> Result<(ByHook<Attempt>, Left), ReadError> {
        scope(|threads| {
            let read = |share: i32| move || self.attempts_of_share(registered, share);
            let spawned = (1..LOG_READERS).map(|share| {
                let thread = Builder::new().name(format!("trace-attempts-{share}"));
                thread.spawn_scoped(threads, read(share)).map_err(ReadError::Thread)
            });
            let spawned = spawned.collect::<Result<Vec<_>, _>>()?;
            let (mut found, mut left) = self.attempts_of_share(registered, 0)?;
            for thread in spawned {
                let (others, left_there) = joined(thread)?;
                left = left.and(left_there);
                for (hook, attempts) in others {
                    let all = found.entry(hook).or_default();
                    all.extend(attempts);
                    // The records of one key are in two partitions where its GUID is spelled in two ways.
                    all.sort_by(|one, other| one.at.cmp(&other.at));
                }
            }
            Ok((found, left))
        })
    }

    /// The logged attempts in the partitions of one reader.
    fn attempts_of_share(&self, registered: &[Registered], share: i32) -> Result<(ByHook<Attempt>, Left), ReadError> {
        let (mut found, mut left) = (ByHook::new(), Left::default());
        let Some(log) = opened(self.settings, &self.settings.topics.attempts)? else { return Ok((found, left)) };
        let count = log.bounds().len();
        let prefix = format!("{}/", self.workspace);
        let partitions = registered.iter().flat_map(|it| key_partitions(&prefix, it.integration.id(), count));
        let partitions: BTreeSet<i32> = partitions.filter(|partition| partition % LOG_READERS == share).collect();
        let span = Span { partitions: Some(partitions.into_iter().collect()), ..self.span() };
        let filter = AttemptFilter {
            workspace: Some(self.workspace.to_owned()),
            event: Some(self.id.to_owned()),
            ..AttemptFilter::default()
        };
        // The token of one share is not that of another.
        let parts = [filter.parts(), vec![format!("share {share}")]].concat();
        let page = self.page(&log, parts, span, &filter.rows())?;
        // Two events may have one id: the place distinguishes them where the log knows it.
        let origin = self.event.origin.to_string();
        let is_meant = |attempt: &Attempt| attempt.origin.as_ref().is_none_or(|logged| *logged == origin);
        for attempt in left.rows(page).into_iter().rev().filter(is_meant) {
            let hook = (attempt.integration_id.clone(), attempt.web_hook_id.clone().unwrap_or_default());
            found.entry(hook).or_default().push(attempt);
        }
        Ok((found, left))
    }

    /// Where the deliveries are now, and what is left of the integrations' history. A delivery that moves meanwhile is not missed: each
    /// topic is read after the one that a delivery comes from, and a moving delivery is written to its new topic first.
    fn deliveries(&self) -> Result<(Deliveries, Left), ReadError> {
        let at = &self.event.origin;
        let kafka = &self.settings.kafka;
        let mut reader = WindowReader::new(kafka, "trace-reader")?;
        scope(|threads| {
            let named = |name: &str| Builder::new().name(format!("trace-{name}"));
            let settled = named("group").spawn_scoped(threads, || self.is_settled(at)).map_err(ReadError::Thread)?;
            let tiers = named("tiers").spawn_scoped(threads, || tiers(self.settings)).map_err(ReadError::Thread)?;
            let health = self.health(&mut reader)?;
            let is_settled = joined(settled)?;
            let places = self.places(&mut reader, at)?;
            let tiers = joined(tiers)?;
            let (retries, left) = self.retries(&mut reader, at, &tiers)?;
            let (dead_letters, left_dead) = self.dead_letters(&mut reader, at)?;
            let oldest_ms = dead_letters.values().flatten().map(|(at_ms, _)| *at_ms).min();
            let (sent_back, left_sent) = self.sent_back(&mut reader, at, &tiers, oldest_ms)?;
            let left = left.and(left_dead).and(left_sent);
            Ok((Deliveries { retries, dead_letters, sent_back, places, is_settled, health }, left))
        })
    }

    /// Whether the group has committed the event.
    fn is_settled(&self, at: &Origin) -> Result<bool, ReadError> {
        let kafka = &self.settings.kafka;
        let group = committed(kafka, &kafka.group, "trace-group", &|topic| *topic == *at.topic)?;
        let next = group.get(&*at.topic).and_then(|partitions| partitions.get(&at.partition));
        Ok(next.is_some_and(|next| *next > at.offset))
    }

    fn places(&self, reader: &mut WindowReader, at: &Origin) -> Result<BTreeMap<Hook, Place>, ReadError> {
        let behind = |place: &Place| {
            place.workspace == self.workspace && place.partition == at.partition && place.offset <= at.offset
        };
        let mut places = Places::new(&self.settings.kafka.group, &behind);
        self.table(reader, &self.settings.topics.backlog, &mut |glance| {
            places.take(glance.key.unwrap_or_default(), glance.value);
        })?;
        Ok(places.all().map(|place| ((place.integration_id.clone(), place.web_hook_id.clone()), place)).collect())
    }

    /// Shows the records of a compacted topic, those of one key in their order. A missing topic has no records.
    fn table(
        &self,
        reader: &mut WindowReader,
        topic: &str,
        take: &mut dyn FnMut(&Glance<'_>),
    ) -> Result<(), ReadError> {
        let log = match reader.open(topic) {
            Ok(log) => log,
            Err(SpanError::NoTopic(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let is_whole = walk(&log, log.bounds(), Bounds::TABLE, self.watch, take)?;
        if is_whole { Ok(()) } else { Err(ReadError::Stopped) }
    }

    fn retries(
        &self,
        reader: &mut WindowReader,
        at: &Origin,
        tiers: &[Tier],
    ) -> Result<(ByHook<WaitingRetry>, Left), ReadError> {
        let origin = at.to_string();
        let is_meant =
            |wire: &Wire| wire.workspace.as_deref() == Some(self.workspace) && wire.origin.as_ref() == Some(&origin);
        let from_ms = self.event.at_ms.map(|ms| ms.saturating_sub(CRM_AHEAD_MAX_MS));
        let (mut found, mut left) = (ByHook::new(), Left::default());
        for tier in tiers {
            let log = reader.open(tier.topic())?;
            let Some(waiting) = tier.waiting(log.bounds()) else { continue };
            let row = |glance: &Glance<'_>| {
                let wire = Wire::read((glance.headers)().into_iter());
                is_meant(&wire).then(|| tier.retry(glance, wire))
            };
            let page = self.page(&log, vec![origin.clone()], Span { from_ms, ..waiting }, &row)?;
            for retry in left.rows(page) {
                if let (Some(integration), Some(webhook)) =
                    (retry.wire.integration_id.clone(), retry.wire.webhook_id.clone())
                {
                    found.entry((integration, webhook)).or_default().push(retry);
                }
            }
        }
        Ok((found, left))
    }

    /// By webhook, when a dead letter of the event was last sent back, as far as the workers have read what was sent. Without dead
    /// letters, the oldest of which was written at `since_ms`, nothing is read.
    fn sent_back(
        &self,
        reader: &mut WindowReader,
        at: &Origin,
        tiers: &[Tier],
        since_ms: Option<i64>,
    ) -> Result<(BTreeMap<Hook, i64>, Left), ReadError> {
        let (mut found, mut left) = (BTreeMap::new(), Left::default());
        let now = now_topic(&self.settings.topics.retry_prefix);
        let Some((tier, since_ms)) = tiers.iter().find(|tier| tier.topic() == now).zip(since_ms) else {
            return Ok((found, left));
        };
        let log = reader.open(&now)?;
        let origin = at.to_string();
        let row = |glance: &Glance<'_>| {
            let wire = Wire::read((glance.headers)().into_iter());
            let is_meant = tier.is_read(glance.partition, glance.offset)
                && wire.workspace.as_deref() == Some(self.workspace)
                && wire.origin.as_ref() == Some(&origin);
            is_meant.then_some((wire.integration_id?, wire.webhook_id?)).map(|hook| (hook, glance.timestamp_ms))
        };
        let span = Span { from_ms: Some(since_ms.saturating_sub(CLOCKS_DIFFER_MAX_MS)), ..Span::default() };
        let page = self.page(&log, vec!["sent back".to_owned(), origin.clone()], span, &row)?;
        for (hook, at_ms) in left.rows(page) {
            let newest = found.entry(hook).or_insert(at_ms);
            *newest = at_ms.max(*newest);
        }
        Ok((found, left))
    }

    fn dead_letters(
        &self,
        reader: &mut WindowReader,
        at: &Origin,
    ) -> Result<(ByHook<(i64, DeadLetter)>, Left), ReadError> {
        let (mut found, mut left) = (ByHook::new(), Left::default());
        let log = match reader.open(&self.settings.topics.dead_letter) {
            Ok(log) => log,
            Err(SpanError::NoTopic(_)) => return Ok((found, left)),
            Err(error) => return Err(error.into()),
        };
        let filter = DeadLetterFilter {
            workspace: Some(self.workspace.to_owned()),
            origin: Some(at.to_string()),
            ..DeadLetterFilter::default()
        };
        let row = |glance: &Glance<'_>| {
            let wire = Wire::read((glance.headers)().into_iter());
            let letter = filter.takes(&wire).then(|| DeadLetter::of(log.name(), glance, wire))?;
            Some((glance.timestamp_ms, letter))
        };
        let page = self.page(&log, vec![at.to_string()], self.span(), &row)?;
        for (at_ms, letter) in left.rows(page) {
            if let (Some(integration), Some(webhook)) = (letter.integration_id.clone(), letter.web_hook_id.clone()) {
                found.entry((integration, webhook)).or_default().push((at_ms, letter));
            }
        }
        Ok((found, left))
    }

    /// What is left of the integrations' history in the health topic.
    fn health(&self, reader: &mut WindowReader) -> Result<BTreeMap<String, Vec<(i64, Health)>>, ReadError> {
        let mut found: BTreeMap<String, Vec<(i64, Health)>> = BTreeMap::new();
        self.table(reader, &self.settings.topics.health, &mut |glance| {
            let health = glance.key.zip(glance.value).and_then(|(key, value)| HealthRow::of(key, value));
            if let Some(health) = health.filter(|health| health.workspace == self.workspace) {
                let state = (health.state.since_ms(), health.state.health());
                found.entry(health.integration_id).or_default().push(state);
            }
        })?;
        Ok(found)
    }
}

impl Gathered {
    /// Why nothing goes to an integration now, or went at the event's time. `None` if deliveries go to it.
    fn why_not_sent(&self, event: &FoundEvent, integration: &str, explanation: &Explanation) -> Option<String> {
        let is_own = |obstacle: &&Obstacle| matches!(obstacle, Obstacle::Status(_));
        if let Some(obstacle) = explanation.obstacles.iter().find(is_own) {
            return Some(obstacle.to_string());
        }
        let at_ms = event.at_ms?;
        let states = self.deliveries.health.get(integration)?;
        let (since, state) = states.iter().rev().find(|(since, _)| *since <= at_ms).or_else(|| states.last())?;
        let was_suspended = *state == Health::Failed && *since <= at_ms;
        let since = Timestamp::from_millisecond(*since).ok()?;
        was_suspended.then(|| format!("the integration was suspended since {since:.0}"))
    }

    fn take(&mut self, hook: &Hook, obstacle: Option<String>) -> Evidence {
        Evidence {
            attempts: self.attempts.remove(hook).unwrap_or_default(),
            retries: self.deliveries.retries.remove(hook).unwrap_or_default(),
            dead_letters: self.deliveries.dead_letters.remove(hook).unwrap_or_default(),
            sent_back_ms: self.deliveries.sent_back.remove(hook),
            place: self.deliveries.places.remove(hook),
            obstacle,
            is_settled: self.deliveries.is_settled,
        }
    }

    /// Webhooks of which something was found and not taken yet.
    fn others(&self) -> BTreeSet<Hook> {
        let Deliveries { retries, dead_letters, .. } = &self.deliveries;
        let hooks = self.attempts.keys().chain(retries.keys()).chain(dead_letters.keys());
        hooks.cloned().collect()
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
