//! Collects all records about one event, from the topics where they can be, and hands them to `trace`, which judges them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::attempts::{Attempt, AttemptFilter, attempts, key_partitions};
use super::dead_letters::{DeadLetter, DeadLetterFilter};
use super::integrations::HealthRow;
use super::scan::{Bounds, Log as _, Page, Question, Span, Watch, scan};
use super::trace::{Account, Evidence, Trace, TracedEvent, TracedWebhook};
use super::waiting::{Place, WaitingRetry, places, retries};
use super::{ReadError, parts_of, read_table, same_id, time};
use crate::domain::event::Envelope;
use crate::domain::explain::{EventWords, Explanation, Obstacle, Ruling, WebhookRuling, explain, items_of};
use crate::domain::headers::{Wire, workspace_of};
use crate::domain::integration::Integration;
use crate::health::rules::Health;
use crate::inflight::job::Origin;
use crate::kafka::groups::committed;
use crate::kafka::table_reader::CompactedError;
use crate::kafka::topic_range::{Range, SpanError};
use crate::kafka::windows::{Glance, Windows};
use crate::settings::Settings;

/// The clocks of the workers that wrote the records differ by at most this, ms.
const CLOCKS_DIFFER_MAX_MS: i64 = 60_000;
/// Rows that are looked at of one topic: a workspace's webhooks times their attempts.
const ROWS_MAX: usize = 20_000;

/// An event that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundEvent {
    pub(crate) value: Vec<u8>,
    pub(crate) workspace: Option<String>,
    pub(crate) origin: Option<Origin>,
    /// When its record was written, ms since 1970.
    pub(crate) at_ms: Option<i64>,
}

/// The event at a place: in the events topic, or the one that a retry or a dead letter carries. `None` when nothing is there.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn event_at(
    settings: &Settings,
    place: &Origin,
    wanted: &dyn Fn() -> bool,
) -> Result<Option<FoundEvent>, ReadError> {
    let log = Windows::open(&settings.kafka, &place.topic, "event-reader")?;
    let holds = |range: &&Range| range.partition == place.partition && (range.start..range.end).contains(&place.offset);
    if log.bounds().iter().find(holds).is_none() {
        return Ok(None);
    }
    let range = Range { partition: place.partition, start: place.offset, end: place.offset + 1 };
    let mut found = None;
    log.read(&[range], wanted, &mut |glance| found = found_event(place, glance))?;
    Ok(found)
}

fn found_event(place: &Origin, glance: &Glance<'_>) -> Option<FoundEvent> {
    let headers = (glance.headers)();
    let wire = Wire::read(headers.iter().copied());
    let carried = wire.origin.as_deref().and_then(Origin::parse);
    Some(FoundEvent {
        value: glance.value?.to_vec(),
        workspace: workspace_of(headers.into_iter(), glance.key).map(str::to_owned),
        at_ms: wire.event_ms.or_else(|| carried.is_none().then_some(glance.timestamp_ms)),
        origin: carried.or_else(|| Some(place.clone())),
    })
}

/// The newest event of that id in the events topic, of `workspace` if one is named, and how far it was looked for.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn event_of_id(
    settings: &Settings,
    id: &str,
    workspace: Option<&str>,
    span: Span,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Page<FoundEvent>, ReadError> {
    let log = Windows::open(&settings.kafka, &settings.topics.events, "event-reader")?;
    // In the form of JSON: an id with a quote or a control character is searched for without them.
    let needle = memchr::memmem::Finder::new(id.split(['"', '\\']).next().unwrap_or_default());
    let row = |glance: &Glance<'_>| {
        let value = glance.value.filter(|value| needle.find(value).is_some())?;
        let envelope = Envelope::parse(value).ok()?;
        if !same_id(id, &envelope.id) {
            return None;
        }
        let place = Origin { topic: log.name().into(), partition: glance.partition, offset: glance.offset };
        found_event(&place, glance)
            .filter(|event| workspace.is_none_or(|wanted| event.workspace.as_deref() == Some(wanted)))
    };
    let parts = vec![format!("event {id}"), workspace.unwrap_or_default().to_owned()];
    let question = Question { parts, span, next: None, row: &row };
    scan(&log, &question, Bounds { rows: 1, ..bounds }, watch)
}

/// The event that a delivery is of, by the attempt log and the dead letters.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn origin_of_delivery(
    settings: &Settings,
    delivery: &str,
    workspace: Option<&str>,
    span: &Span,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Option<Origin>, ReadError> {
    let bounds = Bounds { rows: 1, ..bounds };
    let workspace = workspace.map(str::to_owned);
    let filter =
        AttemptFilter { delivery: Some(delivery.to_owned()), workspace: workspace.clone(), ..AttemptFilter::default() };
    let log = opened(settings, &settings.topics.attempts)?;
    let logged = log.map(|log| attempts(&log, &filter, span.clone(), None, bounds, watch)).transpose()?;
    let place = logged.and_then(|page| page.rows.into_iter().next()?.origin);
    if let Some(origin) = place.as_deref().and_then(Origin::parse) {
        return Ok(Some(origin));
    }
    let filter = DeadLetterFilter { delivery: Some(delivery.to_owned()), workspace, ..DeadLetterFilter::default() };
    let log = opened(settings, &settings.topics.dead_letter)?;
    let dead = log.map(|log| super::dead_letters::dead_letters(&log, &filter, span.clone(), None, bounds, watch));
    let place = dead.transpose()?.and_then(|page| page.rows.into_iter().next()?.origin);
    Ok(place.as_deref().and_then(Origin::parse))
}

/// A topic. `None` if it does not exist.
fn opened(settings: &Settings, topic: &str) -> Result<Option<Windows>, ReadError> {
    match Windows::open(&settings.kafka, topic, "trace-reader") {
        Ok(log) => Ok(Some(log)),
        Err(SpanError::NoTopic(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An integration of the event's workspace.
struct Registered {
    integration: Integration,
    value: Vec<u8>,
    written_ms: i64,
}

/// A webhook's key: integration id and webhook id.
type Hook = (String, String);

/// All that was found of one event.
#[derive(Default)]
struct Gathered {
    attempts: BTreeMap<Hook, Vec<Attempt>>,
    retries: BTreeMap<Hook, Vec<WaitingRetry>>,
    dead_letters: BTreeMap<Hook, Vec<(i64, DeadLetter)>>,
    places: BTreeMap<Hook, Place>,
    /// By integration id, its states in their order: since when, and which.
    health: BTreeMap<String, Vec<(i64, Health)>>,
    is_settled: bool,
    complete: bool,
}

/// What is looked for, where, and how far.
struct Search<'a> {
    settings: &'a Settings,
    event: &'a FoundEvent,
    /// The event's id.
    id: &'a str,
    workspace: &'a str,
    bounds: Bounds,
    watch: &'a Watch<'a>,
}

impl Search<'_> {
    /// From a little before the event on.
    fn span(&self) -> Span {
        Span { from_ms: self.event.at_ms.map(|ms| ms.saturating_sub(CLOCKS_DIFFER_MAX_MS)), ..Span::default() }
    }
}

/// Says what became of `event`, an event of `workspace`. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn trace(
    settings: &Settings,
    event: &FoundEvent,
    workspace: &str,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Option<Trace>, ReadError> {
    let Ok(envelope) = Envelope::parse(&event.value) else { return Ok(None) };
    let Ok(words) = EventWords::parse(&event.value, &envelope) else { return Ok(None) };
    let registered = registered(settings, workspace, watch.wanted)?;
    let bounds = Bounds { rows: ROWS_MAX, ..bounds };
    let search = Search { settings, event, id: &words.id, workspace, bounds, watch };
    let mut found = gather(&search, &registered)?;
    let mut webhooks = Vec::new();
    for Registered { integration, value, written_ms } in &registered {
        let items = items_of(value).unwrap_or_default();
        let explanation = explain(integration, &items, &words, &envelope.facts(), Some(workspace));
        for ruling in &explanation.webhooks {
            let Some(webhook) = integration.webhook(ruling.index) else { continue };
            let hook = (integration.id().to_owned(), webhook.id());
            let obstacle = found.obstacle(event, &hook.0, &explanation);
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
            origin: event.origin.as_ref().map(ToString::to_string),
            at: event.at_ms.and_then(time),
            workspace: workspace.to_owned(),
            about: words.to_string(),
            id: words.id,
        },
        account: Account::of(&webhooks),
        webhooks,
        complete: found.complete,
    }))
}

/// The integrations of a workspace, in the order of their ids.
fn registered(settings: &Settings, workspace: &str, wanted: &dyn Fn() -> bool) -> Result<Vec<Registered>, ReadError> {
    let mut by_key: BTreeMap<String, Registered> = BTreeMap::new();
    read_table(&settings.kafka, &settings.topics.integrations, "trace-integrations", wanted, |row| {
        let Some((of, _)) = parts_of(row.key).filter(|(of, _)| *of == workspace) else { return };
        tracing::trace!(workspace = of, "an integration was read");
        let Ok(key) = std::str::from_utf8(row.key) else { return };
        match row.value {
            None => drop(by_key.remove(key)),
            // Of a record that can't be used, the one before it stays in force.
            Some(value) => {
                if let Ok(integration) = Integration::parse(key, value) {
                    let entry = Registered { integration, value: value.to_vec(), written_ms: row.timestamp_ms };
                    by_key.insert(key.to_owned(), entry);
                }
            }
        }
    })?;
    Ok(by_key.into_values().collect())
}

fn gather(search: &Search<'_>, registered: &[Registered]) -> Result<Gathered, ReadError> {
    let Search { settings, event, workspace, bounds, watch, .. } = *search;
    let mut found = Gathered { complete: true, ..Gathered::default() };
    let origin = event.origin.as_ref().map(ToString::to_string);
    found.attempts(search, origin.as_deref(), registered)?;
    let (Some(origin), Some(at)) = (origin, &event.origin) else { return Ok(found) };
    found.dead_letters(search, &origin)?;
    let meant =
        |wire: &Wire| wire.workspace.as_deref() == Some(workspace) && wire.origin.as_deref() == Some(origin.as_str());
    let (waiting, complete) = retries(settings, bounds, watch, &meant)?;
    found.complete &= complete;
    for retry in waiting {
        let hook = (retry.wire.integration_id.clone(), retry.wire.webhook_id.clone());
        if let (Some(integration), Some(webhook)) = hook {
            found.retries.entry((integration, webhook)).or_default().push(retry);
        }
    }
    let behind =
        |place: &Place| place.workspace == workspace && place.partition == at.partition && place.offset <= at.offset;
    for place in places(settings, watch.wanted, &behind)? {
        found.places.insert((place.integration_id.clone(), place.web_hook_id.clone()), place);
    }
    found.health(settings, workspace, watch.wanted)?;
    let group = committed(&settings.kafka, &settings.kafka.group, "trace-reader", &|topic| *topic == *at.topic)?;
    let next = group.get(&*at.topic).and_then(|partitions| partitions.get(&at.partition));
    found.is_settled = next.is_some_and(|next| *next > at.offset);
    Ok(found)
}

impl Gathered {
    fn attempts(
        &mut self,
        search: &Search<'_>,
        origin: Option<&str>,
        registered: &[Registered],
    ) -> Result<(), ReadError> {
        let Search { settings, id, workspace, bounds, watch, .. } = *search;
        let Some(log) = opened(settings, &settings.topics.attempts)? else { return Ok(()) };
        let count = log.bounds().len();
        let prefix = format!("{workspace}/");
        let partitions = registered.iter().flat_map(|it| key_partitions(&prefix, it.integration.id(), count));
        let partitions: BTreeSet<i32> = partitions.collect();
        let span = Span { partitions: Some(partitions.into_iter().collect()), ..search.span() };
        let filter = AttemptFilter {
            workspace: Some(workspace.to_owned()),
            event: Some(id.to_owned()),
            ..AttemptFilter::default()
        };
        let page = attempts(&log, &filter, span, None, bounds, watch)?;
        self.complete &= page.complete;
        // Two events may have one id: the place distinguishes them where the log knows it.
        let is_meant =
            |attempt: &Attempt| attempt.origin.as_deref().zip(origin).is_none_or(|(logged, origin)| logged == origin);
        for attempt in page.rows.into_iter().rev().filter(is_meant) {
            let hook = (attempt.integration_id.clone(), attempt.web_hook_id.clone().unwrap_or_default());
            self.attempts.entry(hook).or_default().push(attempt);
        }
        Ok(())
    }

    fn dead_letters(&mut self, search: &Search<'_>, origin: &str) -> Result<(), ReadError> {
        let Search { settings, workspace, bounds, watch, .. } = *search;
        let Some(log) = opened(settings, &settings.topics.dead_letter)? else { return Ok(()) };
        let filter = DeadLetterFilter {
            workspace: Some(workspace.to_owned()),
            origin: Some(origin.to_owned()),
            ..DeadLetterFilter::default()
        };
        let row = |glance: &Glance<'_>| {
            let wire = Wire::read((glance.headers)().into_iter());
            let letter = filter.takes(&wire).then(|| DeadLetter::of(log.name(), glance, wire))?;
            Some((glance.timestamp_ms, letter))
        };
        let question = Question { parts: vec![origin.to_owned()], span: search.span(), next: None, row: &row };
        let page = scan(&log, &question, bounds, watch)?;
        self.complete &= page.complete;
        for (at_ms, letter) in page.rows {
            if let (Some(integration), Some(webhook)) = (letter.integration_id.clone(), letter.web_hook_id.clone()) {
                self.dead_letters.entry((integration, webhook)).or_default().push((at_ms, letter));
            }
        }
        Ok(())
    }

    /// What is left of the integrations' history in the health topic.
    fn health(&mut self, settings: &Settings, workspace: &str, wanted: &dyn Fn() -> bool) -> Result<(), ReadError> {
        let read = read_table(&settings.kafka, &settings.topics.health, "trace-health", wanted, |row| {
            let health = row.value.and_then(|value| HealthRow::of(row.key, value));
            if let Some(health) = health.filter(|health| health.workspace == workspace) {
                let state = (health.state.since_ms(), health.state.health());
                self.health.entry(health.integration_id).or_default().push(state);
            }
        });
        match read {
            Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_)) | ReadError::Table(CompactedError::NoTopic(_))) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Why nothing goes to an integration, or went at the event's time.
    fn obstacle(&self, event: &FoundEvent, integration: &str, explanation: &Explanation) -> Option<String> {
        let is_own = |obstacle: &&Obstacle| matches!(obstacle, Obstacle::Status(_));
        if let Some(obstacle) = explanation.obstacles.iter().find(is_own) {
            return Some(obstacle.to_string());
        }
        let at_ms = event.at_ms?;
        let states = self.health.get(integration)?;
        let (since, state) = states.iter().rev().find(|(since, _)| *since <= at_ms).or_else(|| states.last())?;
        let was_suspended = *state == Health::Failed && *since <= at_ms;
        let since = Timestamp::from_millisecond(*since).ok()?;
        was_suspended.then(|| format!("the integration was suspended since {since:.0}"))
    }

    fn take(&mut self, hook: &Hook, obstacle: Option<String>) -> Evidence {
        Evidence {
            attempts: self.attempts.remove(hook).unwrap_or_default(),
            retries: self.retries.remove(hook).unwrap_or_default(),
            dead_letters: self.dead_letters.remove(hook).unwrap_or_default(),
            place: self.places.remove(hook),
            obstacle,
            is_settled: self.is_settled,
        }
    }

    /// Webhooks of which something was found and not taken yet.
    fn others(&self) -> BTreeSet<Hook> {
        let hooks = self.attempts.keys().chain(self.retries.keys()).chain(self.dead_letters.keys());
        hooks.cloned().collect()
    }
}

fn traced(
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

fn matched(hook: Hook, because: String, evidence: Evidence) -> TracedWebhook {
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
