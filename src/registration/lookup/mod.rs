//! Answers the reader routes: integrations and their health from memory, the rest by scans of the topics.
//!
//! Threads of this room (`follow`) keep the directory in memory up to date. A scan runs on a thread that may block, and ends when
//! its caller no longer waits. Nothing is written, and nothing about HTTP lives here.

mod directory;
mod follow;
mod lab;
mod record;

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) use self::directory::Directory;
pub(crate) use self::follow::Followers;
use super::question::{Answering, Asked, BadQuestion, Missing, Question, Source, SourceError};
use crate::domain::guid::canonical;
use crate::domain::headers::DELIVERY_ID_PREFIX;
use crate::inflight::job::Origin;
use crate::kafka::windows::Windows;
use crate::readers::attempts::{Attempt, AttemptFilter, attempts};
use crate::readers::dead_letters::{DeadLetterFilter, dead_letters};
use crate::readers::find::{FoundById, FoundEvent, Searched, event_at, event_named, origin_of_delivery};
use crate::readers::gather::{Inquiry, trace};
use crate::readers::scan::{Bounds, Page, Span, Watch};
use crate::readers::{ReadError, time};
use crate::settings::Settings;

/// Answers from one Kafka.
pub(crate) struct Lookup {
    settings: Arc<Settings>,
    directory: Arc<Directory>,
}

impl Lookup {
    /// A source that reads the topics of the settings. `directory` holds the integrations in memory.
    pub(crate) fn new(settings: Arc<Settings>, directory: Arc<Directory>) -> Self {
        Self { settings, directory }
    }
}

impl Source for Lookup {
    fn ask(&self, workspace: String, question: Question, stop: CancellationToken) -> Answering {
        let (settings, directory) = (Arc::clone(&self.settings), Arc::clone(&self.directory));
        Box::pin(async move {
            let work = tokio::task::spawn_blocking(move || answer(&settings, &directory, &workspace, question, &stop));
            work.await?
        })
    }

    fn workspaces(&self) -> Vec<String> {
        self.directory.workspaces()
    }

    fn health(&self, workspace: &str, id: &str) -> Value {
        self.directory.health_of(workspace, id)
    }

    fn unregistered(&self, workspace: &str, integration: Option<&str>, webhook: Option<&str>) -> Option<String> {
        unregistered(&self.directory, workspace, integration, webhook)
    }
}

/// Blocks for a bounded time.
fn answer(
    settings: &Settings,
    directory: &Directory,
    workspace: &str,
    question: Question,
    stop: &CancellationToken,
) -> Result<Value, SourceError> {
    let is_wanted = || !stop.is_cancelled();
    let watch = Watch { wanted: &is_wanted, progress: &|_| {} };
    match question {
        Question::Overview { find, limit, next } => {
            directory.overview(workspace, find.as_deref(), limit, next.as_deref())
        }
        Question::Instance { id } => directory.instance(workspace, &id),
        Question::Health(asked) => {
            let page = directory.health(workspace, &asked)?;
            Ok(with_hint(page, directory, workspace, asked.integration.as_deref(), asked.webhook.as_deref()))
        }
        Question::Attempts(asked) => {
            let (integration, webhook) = (asked.integration.clone(), asked.webhook.clone());
            let page = rows(of_attempts(settings, workspace, asked, &watch)?)?;
            Ok(with_hint(page, directory, workspace, integration.as_deref(), webhook.as_deref()))
        }
        Question::AttemptsOf { id, asked } => {
            let (is_first, webhook) = (asked.next.is_none(), asked.webhook.clone());
            let asked = Asked { integration: Some(id.clone()), ..asked };
            let page = of_attempts(settings, workspace, asked, &watch)?;
            let is_nothing = is_first && page.complete && page.rows.is_empty();
            // A deleted integration may still have attempts.
            if is_nothing && !directory.knows(workspace, &id) {
                return Err(Missing::Instance { id }.into());
            }
            Ok(with_hint(rows(page)?, directory, workspace, Some(&id), webhook.as_deref()))
        }
        Question::DeadLetters(asked) => {
            let (integration, webhook) = (asked.integration.clone(), asked.webhook.clone());
            let page = of_dead_letters(settings, workspace, asked, &watch)?;
            Ok(with_hint(page, directory, workspace, integration.as_deref(), webhook.as_deref()))
        }
        Question::Trace { event, next } => {
            let found = found_event(settings, workspace, &event, Bounds::PAGE, &watch)?;
            let registered = directory.registered(workspace);
            let inquiry = Inquiry { event: &found, workspace, registered, next: next.as_deref() };
            let traced = trace(settings, inquiry, Bounds::TRACE, &watch)?;
            Ok(serde_json::to_value(&traced.ok_or(Missing::NoEvent)?)?)
        }
        Question::Record { place } => record::show(settings, workspace, &place, &watch),
        Question::Lab { filter } => lab::judge(settings, workspace, &filter, &watch),
    }
}

fn of_attempts(
    settings: &Settings,
    workspace: &str,
    asked: Asked,
    watch: &Watch<'_>,
) -> Result<Page<Attempt>, ReadError> {
    let (span, bounds, next) = (span(&asked), bounds(&asked), asked.next);
    let filter = AttemptFilter {
        workspace: Some(workspace.to_owned()),
        integration: asked.integration,
        webhook: asked.webhook,
        reason: asked.reason.map(str::to_owned),
        event: asked.event,
        event_prefix: None,
        delivery: asked.delivery,
        entity: asked.entity,
    };
    let log = Windows::open(&settings.kafka, &settings.topics.attempts, "attempts-reader")?;
    attempts(&log, &filter, span, next.as_deref(), bounds, watch)
}

fn of_dead_letters(
    settings: &Settings,
    workspace: &str,
    asked: Asked,
    watch: &Watch<'_>,
) -> Result<Value, SourceError> {
    let (span, bounds, next) = (span(&asked), bounds(&asked), asked.next);
    let filter = DeadLetterFilter {
        workspace: Some(workspace.to_owned()),
        integration: asked.integration,
        webhook: asked.webhook,
        reason: asked.reason.map(str::to_owned),
        delivery: asked.delivery,
        origin: asked.event,
    };
    let topic = &settings.topics.dead_letter;
    let log = Windows::open(&settings.kafka, topic, "dead-letters-reader").map_err(ReadError::from)?;
    rows(dead_letters(&log, &filter, span, next.as_deref(), bounds, watch)?)
}

/// The event named by its place, its id, or a delivery of it. An event of another workspace gets the answer of an unknown one.
fn found_event(
    settings: &Settings,
    workspace: &str,
    event: &str,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<FoundEvent, SourceError> {
    let missing = || Missing::Event { event: event.to_owned(), searched_back_to: None };
    let span = Span::default();
    let found = match Origin::parse(event) {
        Some(place) => {
            check_holds_events(settings, &place).ok_or_else(missing)?;
            event_at(settings, &place, watch.wanted)?
        }
        None if event.starts_with(DELIVERY_ID_PREFIX) => {
            let place = origin_of_delivery(settings, event, Some(workspace), &span, bounds, watch)?;
            let place = place.map_err(|searched| {
                let delivery = || Missing::Delivery { delivery: event.to_owned() };
                cut_short(event, searched).unwrap_or_else(delivery)
            })?;
            event_at(settings, &place, watch.wanted)?
        }
        None => match event_named(settings, event, Some(workspace), &span, bounds, watch)? {
            FoundById::Event(event) => Some(*event),
            FoundById::Several(ids) => return Err(BadQuestion::SeveralEvents { ids }.into()),
            FoundById::Nothing(searched) => {
                let searched_back_to = searched.back_to_ms.and_then(time);
                let unknown = Missing::Event { event: event.to_owned(), searched_back_to };
                return Err(cut_short(event, searched).unwrap_or(unknown).into());
            }
        },
    };
    found.filter(|found| found.workspace.as_deref() == Some(workspace)).ok_or_else(|| missing().into())
}

/// Says of a search that a bound ended that the event may be older. `None` if it looked at everything.
fn cut_short(event: &str, searched: Searched) -> Option<Missing> {
    let back_to = searched.back_to_ms.and_then(time);
    (!searched.complete).then(|| Missing::NotReached { event: event.to_owned(), back_to })
}

/// Whether a place is in a topic with events of workspaces: no other topic is read for a caller.
fn check_holds_events(settings: &Settings, place: &Origin) -> Option<()> {
    let topics = &settings.topics;
    let is_tier = place.topic.strip_prefix(topics.retry_prefix.as_str()).is_some_and(|rest| rest.starts_with('.'));
    (*place.topic == *topics.events || *place.topic == *topics.dead_letter || is_tier).then_some(())
}

fn span(asked: &Asked) -> Span {
    let ms = |time: Option<Timestamp>| time.map(Timestamp::as_millisecond);
    Span { from_ms: ms(asked.from), to_ms: ms(asked.to), ..Span::default() }
}

fn bounds(asked: &Asked) -> Bounds {
    Bounds { rows: asked.limit, ..Bounds::PAGE }
}

/// A page as every reader gives it. How many records were read stays out: they are of other workspaces too.
fn rows<R: Serialize>(page: Page<R>) -> Result<Value, SourceError> {
    let rows = serde_json::to_value(page.rows)?;
    Ok(json!({
        "rows": rows,
        "searchedBackTo": page.searched_back_to_ms.and_then(time),
        "complete": page.complete,
        "next": page.next.map(|token| token.text()),
    }))
}

/// Says of a page without rows that the integration or the webhook it is about is not registered: a name with a slip finds nothing too.
fn with_hint(
    mut page: Value,
    directory: &Directory,
    workspace: &str,
    integration: Option<&str>,
    webhook: Option<&str>,
) -> Value {
    let is_empty = page.get("rows").and_then(Value::as_array).is_some_and(Vec::is_empty);
    if let Some(fields) = page.as_object_mut().filter(|_fields| is_empty)
        && let Some(hint) = unregistered(directory, workspace, integration, webhook)
    {
        fields.insert("hint".to_owned(), hint.into());
    }
    page
}

/// Says that the integration or the webhook is not registered, or the webhook not in that integration.
fn unregistered(
    directory: &Directory,
    workspace: &str,
    integration: Option<&str>,
    webhook: Option<&str>,
) -> Option<String> {
    let unknown = integration.filter(|id| !directory.knows(workspace, &canonical(id)));
    match (unknown, integration, webhook) {
        (Some(id), _, _) => Some(format!("no integration {id} is registered in workspace {workspace}")),
        (None, Some(id), Some(webhook)) if !directory.has_webhook(workspace, &canonical(id), webhook) => {
            Some(format!("no webhook {webhook} of integration {id} is registered in workspace {workspace}"))
        }
        (None, None, Some(webhook)) if !directory.has_webhook_anywhere(workspace, webhook) => {
            Some(format!("no webhook {webhook} is registered in workspace {workspace}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
