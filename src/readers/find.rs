//! Finds the event that a question names: by its place, by its id, or by a delivery of it.
//!
//! `gather` collects what became of the event.

use std::time::Duration;

use super::attempts::{AttemptFilter, attempts};
use super::dead_letters::{DeadLetterFilter, dead_letters};
use super::needle::Needle;
use super::scan::{Bounds, Log as _, Page, Question, Span, Watch, scan};
use super::{ReadError, is_or_begins, may_begin_guid, same_id};
use crate::domain::event::Envelope;
use crate::domain::headers::{Wire, workspace_and_source};
use crate::inflight::job::Origin;
use crate::kafka::span::{Range, SpanError};
use crate::kafka::windows::{Glance, Windows};
use crate::settings::Settings;

/// An event that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundEvent {
    pub(crate) value: Vec<u8>,
    pub(crate) workspace: Option<String>,
    /// Whether the workspace is the key of its record, which has no header of that name.
    pub(crate) is_workspace_key: bool,
    /// Where it was written.
    pub(crate) origin: Origin,
    /// When its record was written, ms since 1970.
    pub(crate) at_ms: Option<i64>,
}

/// The event at a place: in the events topic, or the one that a retry or a dead letter carries. `None` if no record is there.
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
    // Only an event's own key is its workspace: the key of a retry or a dead letter is another.
    let key = glance.key.filter(|_key| carried.is_none());
    let workspace = workspace_and_source(headers.into_iter(), key);
    Some(FoundEvent {
        value: glance.value?.to_vec(),
        workspace: workspace.map(|(name, _is_key)| name.to_owned()),
        is_workspace_key: workspace.is_some_and(|(_name, is_key)| is_key),
        at_ms: wire.event_ms.or_else(|| carried.is_none().then_some(glance.timestamp_ms)),
        origin: carried.unwrap_or_else(|| place.clone()),
    })
}

/// How long a search that has an event goes on for others whose ids have the same beginning.
const OTHERS: Bounds = Bounds { rows: NAMED_MAX, time: Duration::from_secs(2), ..Bounds::PAGE };
/// Ids that are named if several have the same beginning.
const NAMED_MAX: usize = 3;

/// The result of a search for an event.
#[derive(Debug)]
pub(crate) enum FoundById {
    /// The newest one.
    Event(Box<FoundEvent>),
    /// Several ids begin with what was given.
    Several(Vec<String>),
    /// No event, as far as the search went.
    Nothing(Searched),
}

/// How far a search went that found nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Searched {
    /// Records read.
    pub(crate) read: u64,
    /// The search read everything of this time and later, ms since 1970.
    pub(crate) back_to_ms: Option<i64>,
    /// Whether it read everything. If not, one of its bounds ended it, and what was looked for may be older.
    pub(crate) complete: bool,
}

impl Searched {
    /// Nothing was there to be read.
    const NOTHING: Self = Self { read: 0, back_to_ms: None, complete: true };

    fn of<R>(page: &Page<R>) -> Self {
        Self { read: page.read, back_to_ms: page.searched_back_to_ms, complete: page.complete }
    }

    /// How far both searches went.
    fn and(self, other: Self) -> Self {
        Self {
            read: self.read + other.read,
            back_to_ms: self.back_to_ms.max(other.back_to_ms),
            complete: self.complete && other.complete,
        }
    }
}

/// The newest event in the events topic, of `workspace` if one is named, that has that id, or a GUID that begins so.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn event_named(
    settings: &Settings,
    id: &str,
    workspace: Option<&str>,
    span: &Span,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<FoundById, ReadError> {
    let named = Named { id, workspace, is_beginning: may_begin_guid(id), other_than: None };
    let page = named.look(settings, span, Bounds { rows: 1, ..bounds }, watch)?;
    let searched = Searched::of(&page);
    let Some((found_id, event)) = page.rows.into_iter().next() else { return Ok(FoundById::Nothing(searched)) };
    if !named.is_beginning || found_id == id {
        return Ok(FoundById::Event(Box::new(event)));
    }
    let others = Named { other_than: Some(&found_id), ..named }.look(settings, span, OTHERS, watch)?;
    let mut ids: Vec<String> = others.rows.into_iter().map(|(other, _)| other).collect();
    if ids.is_empty() {
        return Ok(FoundById::Event(Box::new(event)));
    }
    ids.push(found_id);
    ids.sort_unstable();
    ids.dedup();
    Ok(FoundById::Several(ids))
}

/// The newest event of exactly that id in the events topic, of `workspace` if one is named. Never [`FoundById::Several`].
///
/// # Errors
/// [`ReadError`]
pub(crate) fn event_of_id(
    settings: &Settings,
    id: &str,
    workspace: Option<&str>,
    span: &Span,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<FoundById, ReadError> {
    let named = Named { id, workspace, is_beginning: false, other_than: None };
    let page = named.look(settings, span, Bounds { rows: 1, ..bounds }, watch)?;
    let nothing = FoundById::Nothing(Searched::of(&page));
    Ok(page.rows.into_iter().next().map_or(nothing, |(_, event)| FoundById::Event(Box::new(event))))
}

/// The event `value`, whose record is gone, at the place that the attempt log has; of `workspace` if one is named. `None` if no
/// attempt of it is logged.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn event_of_log(
    settings: &Settings,
    value: Vec<u8>,
    workspace: Option<&str>,
    span: &Span,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Option<FoundEvent>, ReadError> {
    let Ok(id) = Envelope::parse(&value).map(|envelope| envelope.id.into_owned()) else { return Ok(None) };
    let filter = AttemptFilter { event: Some(id), workspace: workspace.map(str::to_owned), ..AttemptFilter::default() };
    let Some(log) = opened(settings, &settings.topics.attempts)? else { return Ok(None) };
    let page = attempts(&log, &filter, span.clone(), None, Bounds { rows: 1, ..bounds }, watch)?;
    let logged = page.rows.into_iter().next();
    let found = logged.and_then(|logged| Some((Origin::parse(logged.origin.as_deref()?)?, logged.workspace)));
    Ok(found.map(|(origin, workspace)| FoundEvent {
        value,
        workspace: Some(workspace),
        is_workspace_key: false,
        origin,
        at_ms: None,
    }))
}

/// Events by their id.
#[derive(Clone, Copy)]
struct Named<'a> {
    id: &'a str,
    workspace: Option<&'a str>,
    /// Also those whose id is a GUID that begins so.
    is_beginning: bool,
    other_than: Option<&'a str>,
}

impl Named<'_> {
    fn takes(&self, id: &str) -> bool {
        let is_meant = if self.is_beginning { is_or_begins(id, self.id) } else { same_id(self.id, id) };
        is_meant && self.other_than.is_none_or(|other| !same_id(other, id))
    }

    /// The newest such events with their ids.
    fn look(
        &self,
        settings: &Settings,
        span: &Span,
        bounds: Bounds,
        watch: &Watch<'_>,
    ) -> Result<Page<(String, FoundEvent)>, ReadError> {
        let log = Windows::open(&settings.kafka, &settings.topics.events, "event-reader")?;
        let needle = if self.is_beginning { Needle::beginning(self.id) } else { Needle::new(self.id) };
        let row = |glance: &Glance<'_>| {
            let value = glance.value.filter(|value| needle.may_be_in(value))?;
            let id = Envelope::parse(value).ok()?.id.into_owned();
            let place = Origin { topic: log.name().into(), partition: glance.partition, offset: glance.offset };
            let event = found_event(&place, glance).filter(|_event| self.takes(&id))?;
            let is_of = self.workspace.is_none_or(|wanted| event.workspace.as_deref() == Some(wanted));
            is_of.then_some((id, event))
        };
        let parts = vec![format!("event {}", self.id), self.workspace.unwrap_or_default().to_owned()];
        scan(&log, &Question { parts, span: span.clone(), next: None, row: &row }, bounds, watch)
    }
}

/// The place of a delivery's event, by the attempt log and the dead letters, or how far they were searched.
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
) -> Result<Result<Origin, Searched>, ReadError> {
    let bounds = Bounds { rows: 1, ..bounds };
    let workspace = workspace.map(str::to_owned);
    let filter =
        AttemptFilter { delivery: Some(delivery.to_owned()), workspace: workspace.clone(), ..AttemptFilter::default() };
    let log = opened(settings, &settings.topics.attempts)?;
    let logged = log.map(|log| attempts(&log, &filter, span.clone(), None, bounds, watch)).transpose()?;
    let searched = logged.as_ref().map_or(Searched::NOTHING, Searched::of);
    let place = logged.and_then(|page| page.rows.into_iter().next()?.origin);
    if let Some(origin) = place.as_deref().and_then(Origin::parse) {
        return Ok(Ok(origin));
    }
    let filter = DeadLetterFilter { delivery: Some(delivery.to_owned()), workspace, ..DeadLetterFilter::default() };
    let log = opened(settings, &settings.topics.dead_letter)?;
    let dead = log.map(|log| dead_letters(&log, &filter, span.clone(), None, bounds, watch));
    let dead = dead.transpose()?;
    let searched = searched.and(dead.as_ref().map_or(Searched::NOTHING, Searched::of));
    let place = dead.and_then(|page| page.rows.into_iter().next()?.origin);
    Ok(place.as_deref().and_then(Origin::parse).ok_or(searched))
}

/// A topic. `None` if it does not exist.
pub(super) fn opened(settings: &Settings, topic: &str) -> Result<Option<Windows>, ReadError> {
    match Windows::open_large(&settings.kafka, topic, "trace-reader") {
        Ok(log) => Ok(Some(log)),
        Err(SpanError::NoTopic(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_guid_takes_each_that_begins_so_and_a_whole_id_only_itself() {
        let guid = "3c75d291-0000-4000-8000-000000000001";
        let named = |id, is_beginning| Named { id, workspace: None, is_beginning, other_than: None };
        assert!(named("3C75", true).takes(guid) && !named("3c76", true).takes(guid));
        assert!(named("3c75", true).takes("3c75"), "a whole id that looks like the beginning of a GUID");
        assert!(!named("3c75", false).takes(guid) && named(guid, false).takes(&guid.to_uppercase()));
        let other = Named { other_than: Some(guid), ..named("3c75", true) };
        assert!(!other.takes(&guid.to_uppercase()) && other.takes(&guid.replace("01", "02")));
    }
}
