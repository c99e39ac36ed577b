//! Finds the event that a question names: by its place, by its id, or by a delivery of it.
//!
//! What became of the event is looked for in `gather`.

use super::attempts::{AttemptFilter, attempts};
use super::dead_letters::{DeadLetterFilter, dead_letters};
use super::needle::Needle;
use super::scan::{Bounds, Log as _, Page, Question, Span, Watch, scan};
use super::{ReadError, same_id};
use crate::domain::event::Envelope;
use crate::domain::headers::{Wire, workspace_of};
use crate::inflight::job::Origin;
use crate::kafka::topic_range::{Range, SpanError};
use crate::kafka::windows::{Glance, Windows};
use crate::settings::Settings;

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
    let needle = Needle::new(id);
    let row = |glance: &Glance<'_>| {
        let value = glance.value.filter(|value| needle.may_be_in(value))?;
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
    let dead = log.map(|log| dead_letters(&log, &filter, span.clone(), None, bounds, watch));
    let place = dead.transpose()?.and_then(|page| page.rows.into_iter().next()?.origin);
    Ok(place.as_deref().and_then(Origin::parse))
}

/// A topic. `None` if it does not exist.
pub(super) fn opened(settings: &Settings, topic: &str) -> Result<Option<Windows>, ReadError> {
    match Windows::open_large(&settings.kafka, topic, "trace-reader") {
        Ok(log) => Ok(Some(log)),
        Err(SpanError::NoTopic(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
