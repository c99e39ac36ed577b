//! `trace`: what became of one event at each webhook of its workspace, and whether all is accounted for.

use std::fmt;
use std::io;
use std::process::ExitCode;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::explain::bounded;
use super::query::{result, show, spinner};
use super::render::{more, printable};
use super::{INTERRUPTED, ToolError, blocking, lookup, write_line};
use crate::domain::event::{Envelope, InvalidEvent};
use crate::inflight::job::Origin;
use crate::readers::find::{
    FoundById, FoundEvent, Searched, event_at, event_named, event_of_id, event_of_log, origin_of_delivery,
};
use crate::readers::gather::{Inquiry, trace};
use crate::readers::scan::{Bounds, Span, Watch};
use crate::readers::trace::{Account, State, Trace, TracedWebhook, Waiting};
use crate::readers::{same_id, time};
use crate::settings::{NamedEvent, Settings, Trace as Options};

/// There is no such event.
const NOT_FOUND: u8 = 1;

/// The result of a trace.
enum Answer {
    /// And how many attempts the limit keeps back.
    Traced(Box<Trace>, usize),
    NotFound(NotFound),
    Stopped,
}

/// Why there is nothing to trace.
#[derive(Debug, thiserror::Error)]
enum NotFound {
    #[error(
        "the event is of workspace `{actual}`{}, not of `{wanted}`",
        if *.is_key { ", the key of its record, which has no header `workspace`" } else { "" }
    )]
    OtherWorkspace { wanted: String, actual: String, is_key: bool },
    #[error("its record has neither a header `workspace` nor a key: it becomes a dead letter of reason invalid-event")]
    NoWorkspace,
    /// The selection has no webhook.
    #[error("{0}")]
    Unregistered(String),
    #[error("it is not an event: it becomes a dead letter of reason invalid-event")]
    NoEvent,
    #[error("standard input holds no event: {0}")]
    NoEventGiven(InvalidEvent),
    #[error("there is no record {place}: it is gone, or was never there")]
    NoRecord { place: Origin },
    #[error("Nothing is known of delivery {id}: no failed attempt of it is logged, and it is not a dead letter{rest}")]
    UnknownDelivery { id: String, rest: Rest },
    #[error("the event of delivery {delivery}, {place}, is gone")]
    EventGone { delivery: String, place: Origin },
    #[error(
        "No event {}of topic `{topic}` has id {id}; {read} {} read{}{rest}",
        .workspace.as_ref().map(|name| format!("of workspace `{name}` ")).unwrap_or_default(),
        if *.read == 1 { "was" } else { "were" },
        .back_to.as_ref().map(|time| format!(", back to {time}")).unwrap_or_default()
    )]
    UnknownEvent {
        topic: String,
        workspace: Option<String>,
        id: String,
        read: u64,
        back_to: Option<String>,
        rest: Rest,
    },
    #[error("{0}. No attempt of it is logged either")]
    UnknownAndUnattempted(Box<NotFound>),
}

/// What a search left unread: nothing, or what is older than where a bound ended it.
#[derive(Clone, Debug)]
struct Rest {
    complete: bool,
    back_to: Option<String>,
}

impl Rest {
    fn of(searched: Searched) -> Self {
        Self { complete: searched.complete, back_to: searched.back_to_ms.and_then(time) }
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.complete, &self.back_to) {
            (true, _) => Ok(()),
            (false, Some(time)) => write!(f, "; not all was searched: --to {time} searches before that"),
            (false, None) => f.write_str("; not all was searched"),
        }
    }
}

/// Traces one event. The exit code is 0 if it was found, and 1 if not.
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn run(
    settings: &Settings,
    options: &Options,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let answer = async {
        let integration =
            lookup::whole_id(settings, options.workspace.as_deref(), options.integration.as_deref()).await?;
        let options = Options { integration, ..options.clone() };
        let answer = blocking("tracing the event", {
            let (settings, options, stop) = (settings.clone(), options.clone(), stop.clone());
            move || traced(&settings, &options, &stop)
        });
        registered(settings, &options, answer.await?).await
    };
    // A thread that waits for standard input is left behind.
    let Some(answer) = stop.run_until_cancelled(answer).await else { return Ok(ExitCode::from(INTERRUPTED)) };
    let (trace, left_out) = match answer? {
        Answer::Traced(trace, left_out) => (trace, left_out),
        Answer::NotFound(why) => {
            if options.json {
                tracing::warn!(why = %why, "there is nothing to trace");
            } else {
                write_line(out, &why.to_string())?;
                if let Some(hint) = lookup::id_hint(Some(&options.event), None) {
                    write_line(out, hint)?;
                }
            }
            return Ok(ExitCode::from(NOT_FOUND));
        }
        Answer::Stopped => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let text = if options.json {
        serde_json::to_string(&trace).map_err(|error| ToolError::Output(error.into()))?
    } else {
        text_of(&trace)
    };
    write_line(out, &text)?;
    match more(left_out, "attempts") {
        Some(_) if options.json => tracing::warn!(left_out, "more attempts than --limit shows"),
        Some(more) => drop(write_line(out, &more)?),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer. A trace of no webhook is none if what was selected is not registered.
async fn registered(settings: &Settings, options: &Options, answer: Answer) -> Result<Answer, ToolError> {
    let Answer::Traced(trace, _) = &answer else { return Ok(answer) };
    let Options { integration, webhook, .. } = options.clone();
    if !trace.webhooks.is_empty() || (&integration, &webhook) == (&None, &None) {
        return Ok(answer);
    }
    let names = lookup::Names { workspace: Some(trace.event.workspace.clone()), integration, webhook };
    let why = lookup::unregistered(settings, &names).await?;
    Ok(why.map_or(answer, |why| Answer::NotFound(NotFound::Unregistered(why))))
}

/// Blocks.
fn traced(settings: &Settings, options: &Options, stop: &CancellationToken) -> Result<Answer, ToolError> {
    let (bar, began) = (spinner(), Instant::now());
    let watch = Watch { wanted: &|| !stop.is_cancelled(), progress: &|progress| show(&bar, began, 0, progress) };
    let found = find(settings, options, &watch)?;
    let event = match found {
        Ok(event) => event,
        Err(why) => return Ok(if stop.is_cancelled() { Answer::Stopped } else { Answer::NotFound(why) }),
    };
    let workspace = match (&event.workspace, &options.workspace) {
        (Some(actual), Some(wanted)) if actual != wanted => {
            let (wanted, actual, is_key) = (wanted.clone(), actual.clone(), event.is_workspace_key);
            return Ok(Answer::NotFound(NotFound::OtherWorkspace { wanted, actual, is_key }));
        }
        (Some(workspace), _) => workspace.clone(),
        (None, _) => return Ok(Answer::NotFound(NotFound::NoWorkspace)),
    };
    let inquiry = Inquiry { event: &event, workspace: &workspace, registered: None, next: None };
    let traced = trace(settings, inquiry, Bounds::PATIENT_TRACE, &watch)?;
    bar.finish_and_clear();
    if stop.is_cancelled() {
        return Ok(Answer::Stopped);
    }
    Ok(match traced {
        Some(trace) => {
            let (trace, left_out) = shown(trace, options);
            Answer::Traced(Box::new(trace), left_out)
        }
        None => Answer::NotFound(NotFound::NoEvent),
    })
}

/// The event, or why it was not found.
fn find(settings: &Settings, options: &Options, watch: &Watch<'_>) -> Result<Result<FoundEvent, NotFound>, ToolError> {
    let span = Span {
        from_ms: options.from.map(Timestamp::as_millisecond),
        to_ms: options.to.map(Timestamp::as_millisecond),
        ..Span::default()
    };
    let workspace = options.workspace.as_deref();
    match &options.event {
        NamedEvent::Place(place) => {
            let origin =
                Origin { topic: place.topic.as_str().into(), partition: place.partition, offset: place.offset };
            let found = event_at(settings, &origin, watch.wanted)?;
            Ok(found.ok_or(NotFound::NoRecord { place: origin }))
        }
        NamedEvent::Delivery(id) => {
            let origin = origin_of_delivery(settings, id, workspace, &span, Bounds::PATIENT, watch)?;
            let origin = match origin {
                Ok(origin) => origin,
                Err(searched) => {
                    return Ok(Err(NotFound::UnknownDelivery { id: id.clone(), rest: Rest::of(searched) }));
                }
            };
            let found = event_at(settings, &origin, watch.wanted)?;
            Ok(found.ok_or_else(|| NotFound::EventGone { delivery: id.clone(), place: origin }))
        }
        NamedEvent::Id(id) => match event_named(settings, id, workspace, &span, Bounds::PATIENT, watch)? {
            FoundById::Event(event) => Ok(Ok(*event)),
            FoundById::Several(ids) => {
                let named = lookup::named(&ids.into_iter().collect());
                Err(ToolError::AmbiguousEvent { given: id.clone(), named })
            }
            FoundById::Nothing(searched) => Ok(Err(unknown(settings, options, id, searched))),
        },
        NamedEvent::Stdin => {
            let value = bounded(io::stdin().lock(), "standard input")?;
            let id = match Envelope::parse(&value) {
                Ok(envelope) => envelope.id.into_owned(),
                Err(error) => return Ok(Err(NotFound::NoEventGiven(error))),
            };
            let found = event_of_id(settings, &id, workspace, &span, Bounds::PATIENT, watch)?;
            let searched = match found {
                FoundById::Event(event) => return Ok(Ok(*event)),
                FoundById::Several(ids) => {
                    let named = lookup::named(&ids.into_iter().collect());
                    return Err(ToolError::AmbiguousEvent { given: id, named });
                }
                FoundById::Nothing(searched) => searched,
            };
            // Retention may have deleted the event after it was delivered.
            let logged = event_of_log(settings, value, workspace, &span, Bounds::PATIENT, watch)?;
            let unknown = || unknown(settings, options, &id, searched);
            Ok(logged.ok_or_else(|| NotFound::UnknownAndUnattempted(Box::new(unknown()))))
        }
    }
}

/// No event has that id, as far as the search went.
fn unknown(settings: &Settings, options: &Options, id: &str, searched: Searched) -> NotFound {
    let (topic, workspace) = (settings.topics.events.clone(), options.workspace.clone());
    let (read, rest) = (searched.read, Rest::of(searched));
    NotFound::UnknownEvent { topic, workspace, id: id.to_owned(), read, back_to: rest.back_to.clone(), rest }
}

/// The trace with only the selected webhooks and attempts, and the number of attempts that the limit leaves out. The account is that
/// of the selected webhooks.
fn shown(mut trace: Trace, options: &Options) -> (Trace, usize) {
    let is = |wanted: &Option<String>, actual: &str| wanted.as_ref().is_none_or(|wanted| same_id(wanted, actual));
    trace.webhooks.retain(|webhook| {
        is(&options.integration, &webhook.integration_id) && is(&options.webhook, &webhook.web_hook_id)
    });
    trace.account = Account::of(&trace.webhooks);
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let mut left_out = 0;
    for webhook in &mut trace.webhooks {
        webhook
            .attempts
            .retain(|attempt| options.reason.is_none_or(|wanted| attempt.reason.as_deref() == Some(wanted)));
        // Newest first, as everywhere.
        webhook.attempts.reverse();
        left_out += webhook.attempts.len().saturating_sub(limit);
        webhook.attempts.truncate(limit);
    }
    (trace, left_out)
}

fn text_of(trace: &Trace) -> String {
    let event = &trace.event;
    let origin = &event.origin;
    let at = event.at.as_ref().map(|at| format!(", written {at}")).unwrap_or_default();
    let mut lines = vec![format!("event {} ({origin}{at}), workspace {}: {}", event.id, event.workspace, event.about)];
    for traced in &trace.webhooks {
        webhook_lines(traced, &mut lines);
    }
    if trace.webhooks.is_empty() {
        lines.push(format!("workspace {} has no webhooks, or none of the selected integration", event.workspace));
    }
    let account = &trace.account;
    lines.push(format!(
        "account: {} matched = {} acknowledged + {} waiting + {} dead + {} dropped",
        account.matched, account.acknowledged, account.waiting, account.dead, account.dropped
    ));
    if !trace.complete {
        let back = trace.searched_back_to.as_ref();
        lines.push(back.map_or_else(
            || "not everything could be looked at within the bounds of a scan: there may be more attempts".to_owned(),
            |back| {
                format!(
                    "stopped at {back}, within the bounds of a scan: there may be older attempts; `hookstream attempts --event {} \
                     --to {back}` goes on",
                    event.id
                )
            },
        ));
    }
    lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
}

fn webhook_lines(webhook: &TracedWebhook, lines: &mut Vec<String>) {
    let state = webhook.state.map_or("does not match", State::word);
    lines.push(format!("webhook {}/{}: {state}", webhook.integration_id, webhook.web_hook_id));
    lines.push(format!("  why: {}", webhook.because));
    if let Some(because) = &webhook.state_because {
        lines.push(format!("  {state}: {because}"));
    }
    for attempt in &webhook.attempts {
        let cause = attempt.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let next = attempt.next_attempt_at.as_ref().map(|next| format!(", next at {next}")).unwrap_or_default();
        let (number, at, took) = (attempt.attempt, &attempt.at, attempt.duration_ms);
        lines.push(format!("  attempt {number} at {at}: {} in {took} ms{cause}{next}", result(attempt)));
    }
    match &webhook.waiting {
        Some(Waiting::Retry(retry)) => {
            let due = retry.due_at.as_deref().unwrap_or("-");
            lines.push(format!("  waits in {}/{}/{} until {due}", retry.topic, retry.partition, retry.offset));
        }
        Some(Waiting::Behind(place)) => {
            let reason = place.reason.as_deref().unwrap_or("behind");
            let since = place.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
            lines.push(format!(
                "  is behind ({reason}){since}, at offset {} of partition {}",
                place.offset, place.partition
            ));
        }
        None => {}
    }
    if let Some(letter) = &webhook.dead_letter {
        let (place, reason) = (format!("{}/{}/{}", letter.topic, letter.partition, letter.offset), letter.reason);
        let at = letter.timestamp.as_deref().unwrap_or("-");
        let error = letter.error.map(|error| format!(" ({error})")).unwrap_or_default();
        lines.push(format!("  dead letter {place} since {at}: {}{error}", reason.unwrap_or("-")));
    }
}
