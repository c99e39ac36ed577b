//! `integrations`, `health` and `attempts`: the readers at the command line. Rows go to stdout, newest first. How far the search went
//! stands below the rows, or with `--json` in the log.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{INTERRUPTED, ToolError, blocking, lookup, render, table, write_line};
use crate::domain::guid::canonical;
use crate::kafka::windows::Windows;
use crate::readers::attempts::{Attempt, AttemptFilter, attempts};
use crate::readers::integrations::{HealthRow, IntegrationFilter, IntegrationRow, Listed, since};
use crate::readers::scan::{Bounds, Page, Progress, Span, Watch};
use crate::readers::{ReadError, integrations as reader, may_begin_guid, time};
use crate::settings::{AttemptsQuery, NamedEvent, Query, Settings};

/// Pages between the thread that reads and the one that writes.
const PAGES_AHEAD: usize = 2;
/// A question that takes less time shows no progress.
const SILENT: Duration = Duration::from_secs(1);

impl Query {
    fn filter(&self) -> IntegrationFilter {
        IntegrationFilter {
            workspace: self.workspace.clone(),
            integration: self.integration.clone(),
            webhook: self.webhook.clone(),
            reason: self.reason.map(str::to_owned),
            from_ms: self.from.map(Timestamp::as_millisecond),
            to_ms: self.to.map(Timestamp::as_millisecond),
        }
    }
}

/// The question with the whole id of the integration, if only its beginning was given.
async fn resolved(settings: &Settings, query: &Query) -> Result<Query, ToolError> {
    let integration = lookup::whole_id(settings, query.workspace.as_deref(), query.integration.as_deref()).await?;
    Ok(Query { integration, ..query.clone() })
}

/// `integrations`
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn integrations(
    settings: &Settings,
    query: &Query,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let query = resolved(settings, query).await?;
    let listed = listed(settings, &query, stop, reader::integrations).await?;
    let heading = ["INTEGRATION", "STATUS", "HEALTH", "SINCE", "BEHIND SINCE", "WEBHOOKS", "CHANGED", "URLS"];
    write_rows(&query, &listed, &heading, integration_cells, out)?;
    ended(settings, &query, listed.rows.is_empty(), out).await
}

fn integration_cells(row: &IntegrationRow) -> Vec<String> {
    let health = row.health.as_ref().map(|health| &health.state);
    let disabled = row.web_hooks.iter().filter(|webhook| webhook.disabled).count();
    let webhooks = match disabled {
        0 => row.web_hooks.len().to_string(),
        disabled => format!("{} ({disabled} disabled)", row.web_hooks.len()),
    };
    let mut urls: Vec<&str> = row.web_hooks.iter().map(|webhook| webhook.url.as_str()).collect();
    urls.dedup();
    vec![
        format!("{}/{}", row.workspace, row.integration_id),
        row.problem.as_ref().map_or(row.status, |_problem| Some("unusable")).unwrap_or("-").to_owned(),
        health.map_or("-", |state| state.health().word()).to_owned(),
        health.map_or_else(|| "-".to_owned(), |state| since(state.since())),
        row.behind_since.clone().unwrap_or_else(|| "-".to_owned()),
        webhooks,
        row.updated_at.clone().unwrap_or_default(),
        row.problem.clone().unwrap_or_else(|| urls.join(", ")),
    ]
}

/// `health`
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn health(
    settings: &Settings,
    query: &Query,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let query = resolved(settings, query).await?;
    let listed = listed(settings, &query, stop, reader::health_of).await?;
    let heading = ["INTEGRATION", "HEALTH", "SINCE", "BEHIND SINCE", "LAST STATUS", "LAST ACKNOWLEDGED", "FAILURES"];
    write_rows(&query, &listed, &heading, health_cells, out)?;
    ended(settings, &query, listed.rows.is_empty(), out).await
}

fn health_cells(row: &HealthRow) -> Vec<String> {
    let state = &row.state;
    let failures = state.failures_in_words();
    vec![
        format!("{}/{}", row.workspace, row.integration_id),
        state.health().word().to_owned(),
        since(state.since()),
        row.behind_since.clone().unwrap_or_else(|| "-".to_owned()),
        state.last_status().map_or_else(|| "-".to_owned(), |status| status.to_string()),
        state.last_acknowledged_at().map_or_else(|| "-".to_owned(), since),
        if failures.is_empty() { "-".to_owned() } else { failures },
    ]
}

/// Where nothing was found, a name may be wrong.
async fn ended(
    settings: &Settings,
    query: &Query,
    is_nothing: bool,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    if is_nothing {
        let Query { workspace, integration, webhook, json, .. } = query.clone();
        lookup::say_unregistered(settings, &lookup::Names { workspace, integration, webhook }, json, out).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn listed<R: Send + 'static>(
    settings: &Settings,
    query: &Query,
    stop: &CancellationToken,
    read: impl FnOnce(&Settings, &IntegrationFilter, &dyn Fn() -> bool) -> Result<Listed<R>, ReadError> + Send + 'static,
) -> Result<Listed<R>, ToolError> {
    let (settings, filter, stop) = (settings.clone(), query.filter(), stop.clone());
    blocking("reading", move || Ok(read(&settings, &filter, &|| !stop.is_cancelled())?)).await
}

fn write_rows<R: Serialize>(
    query: &Query,
    listed: &Listed<R>,
    heading: &[&str],
    cells: impl Fn(&R) -> Vec<String>,
    out: &mut impl io::Write,
) -> Result<(), ToolError> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let shown = listed.rows.get(..limit.min(listed.rows.len())).unwrap_or_default();
    if query.json {
        for row in shown {
            if !write_line(out, &json(row)?)? {
                break;
            }
        }
        tracing::info!(
            read = listed.read,
            matched = listed.rows.len(),
            shown = shown.len(),
            "all records were looked at"
        );
        return Ok(());
    }
    if listed.rows.is_empty() {
        write_line(out, &format!("Nothing matches; {} read", render::records_were(listed.read)))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = shown.iter().map(cells).collect();
    for line in table::lines(heading, &rows, table::line_width(query.wide)) {
        if !write_line(out, &line)? {
            return Ok(());
        }
    }
    if let Some(more) = render::more(listed.rows.len() - shown.len(), "match") {
        write_line(out, &more)?;
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String, ToolError> {
    serde_json::to_string(value).map_err(|error| ToolError::Output(error.into()))
}

/// `attempts`
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn list_attempts(
    settings: &Settings,
    options: &AttemptsQuery,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let query = resolved(settings, &options.query).await?;
    let filter = attempt_filter(&query, options);
    let (sender, mut pages) = mpsc::channel(PAGES_AHEAD);
    let reading = tokio::task::spawn_blocking({
        let (settings, query, stop) = (settings.clone(), query.clone(), stop.clone());
        move || read_pages(&settings, &query, &filter, &stop, &sender)
    });
    let mut listing = Listing {
        query: &query,
        out,
        shown: 0,
        id_hint: lookup::id_hint(options.event.as_ref(), options.delivery.as_deref()),
    };
    while let Some(page) = pages.recv().await {
        if !listing.write(&page)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let looked = reading.await.map_err(|_panicked| crate::actions::Ended("reading the attempts"))??;
    let is_nothing = listing.shown == 0;
    listing.finish(&looked)?;
    ended(settings, &query, is_nothing, out).await?;
    Ok(if stop.is_cancelled() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn attempt_filter(query: &Query, options: &AttemptsQuery) -> AttemptFilter {
    let filter = AttemptFilter {
        workspace: query.workspace.clone(),
        integration: query.integration.clone(),
        webhook: query.webhook.clone(),
        reason: query.reason.map(str::to_owned),
        delivery: options.delivery.clone(),
        entity: options.entity.clone(),
        ..AttemptFilter::default()
    };
    match options.event.clone() {
        Some(NamedEvent::Place(place)) => AttemptFilter { event: Some(place.to_string()), ..filter },
        Some(NamedEvent::Id(id)) if may_begin_guid(&id) => AttemptFilter { event_prefix: Some(id), ..filter },
        Some(NamedEvent::Id(id)) => AttemptFilter { event: Some(id), ..filter },
        Some(NamedEvent::Delivery(id)) => AttemptFilter { delivery: Some(id), ..filter },
        Some(NamedEvent::Stdin) | None => filter,
    }
}

/// Adds the events of a page to those of the pages before. Only one event's id may begin with `given`.
fn check_events(given: &str, page: &Page<Attempt>, events: &mut BTreeSet<String>) -> Result<(), ToolError> {
    events.extend(page.rows.iter().filter_map(|row| Some(canonical(row.event_id.as_deref()?).into_owned())));
    if events.len() <= 1 {
        return Ok(());
    }
    Err(ToolError::AmbiguousEvent { given: given.to_owned(), named: lookup::named(events) })
}

/// How far the search went.
struct Looked {
    read: u64,
    back_to_ms: Option<i64>,
    complete: bool,
}

/// Reads pages until there are enough rows, everything was read, or the caller wants no more. Blocks.
fn read_pages(
    settings: &Settings,
    query: &Query,
    filter: &AttemptFilter,
    stop: &CancellationToken,
    pages: &mpsc::Sender<Page<Attempt>>,
) -> Result<Looked, ToolError> {
    let log = Windows::open(&settings.kafka, &settings.topics.attempts, "attempts-reader")?;
    let began = Instant::now();
    let bar = spinner();
    let (mut looked, mut left, mut next, mut events) =
        (Looked { read: 0, back_to_ms: None, complete: false }, query.limit, None::<String>, BTreeSet::new());
    while left > 0 {
        let read_before = looked.read;
        let watch = Watch {
            wanted: &|| !stop.is_cancelled() && !pages.is_closed(),
            progress: &|progress| show(&bar, began, read_before, progress),
        };
        let rows = Bounds::PATIENT.rows.min(usize::try_from(left).unwrap_or(usize::MAX));
        let bounds = Bounds { rows, time: Bounds::PATIENT.time.saturating_sub(began.elapsed()), ..Bounds::PATIENT };
        let page = attempts(&log, filter, span(query), next.as_deref(), bounds, &watch)?;
        looked = Looked {
            read: looked.read + page.read,
            back_to_ms: page.searched_back_to_ms.or(looked.back_to_ms),
            complete: page.complete,
        };
        if let Some(given) = &filter.event_prefix {
            check_events(given, &page, &mut events)?;
        }
        left = left.saturating_sub(page.rows.len() as u64);
        next = page.next.as_ref().map(crate::readers::token::Token::text);
        let is_over = looked.complete || !(watch.wanted)() || began.elapsed() >= Bounds::PATIENT.time;
        if bar.is_hidden() || !page.rows.is_empty() {
            bar.finish_and_clear();
        }
        if pages.blocking_send(page).is_err() || is_over {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(looked)
}

fn span(query: &Query) -> Span {
    Span {
        from_ms: query.from.map(Timestamp::as_millisecond),
        to_ms: query.to.map(Timestamp::as_millisecond),
        ..Span::default()
    }
}

/// A progress display on stderr, shown only on a terminal.
pub(super) fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

pub(super) fn show(bar: &ProgressBar, began: Instant, read_before: u64, progress: Progress) {
    if began.elapsed() >= SILENT {
        let back = progress.searched_back_to_ms.and_then(time).map(|time| format!(", back to {time}"));
        bar.set_message(format!("{} records read{}", read_before + progress.read, back.unwrap_or_default()));
        bar.tick();
    }
}

/// Writes pages as they come.
struct Listing<'a, W> {
    query: &'a Query,
    out: &'a mut W,
    shown: usize,
    /// The hint about the id, if nothing is found.
    id_hint: Option<&'static str>,
}

const ATTEMPTS_HEADING: [&str; 9] =
    ["AT", "INTEGRATION", "WEBHOOK", "EVENT", "TRY", "RESULT", "TOOK", "NEXT ATTEMPT", "CAUSE"];

impl<W: io::Write> Listing<'_, W> {
    /// Writes a page. Returns whether the reader of the output is still there.
    fn write(&mut self, page: &Page<Attempt>) -> Result<bool, ToolError> {
        let lines = if self.query.json {
            page.rows.iter().map(json).collect::<Result<Vec<_>, _>>()?
        } else if page.rows.is_empty() {
            Vec::new()
        } else {
            let rows: Vec<Vec<String>> = page.rows.iter().map(attempt_cells).collect();
            let mut lines = table::lines(&ATTEMPTS_HEADING, &rows, table::line_width(self.query.wide));
            if self.shown > 0 {
                lines.remove(0);
            }
            lines
        };
        self.shown += page.rows.len();
        for line in lines {
            if !write_line(self.out, &line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(self, looked: &Looked) -> Result<(), ToolError> {
        let back_to = looked.back_to_ms.and_then(time);
        if self.query.json {
            let (read, complete) = (looked.read, looked.complete);
            tracing::info!(read, shown = self.shown, searched_back_to = back_to, complete, "attempts were searched");
            return Ok(());
        }
        let back = back_to.as_ref().map(|time| format!(", back to {time}")).unwrap_or_default();
        let is_limited = self.shown as u64 >= self.query.limit;
        let mut lines = Vec::new();
        if self.shown == 0 {
            lines.push(format!("Nothing matches; {} read{back}", render::records_were(looked.read)));
            lines.push("(Acknowledged attempts are in the log only with --attempt-log all.)".to_owned());
            lines.extend(self.id_hint.map(str::to_owned));
        }
        match (&back_to, looked.complete) {
            (Some(time), false) if is_limited => {
                lines.push(format!(
                    "The newest {}; there may be more before {time}: --limit or --to shows them",
                    self.shown
                ));
            }
            (Some(time), false) => lines.push(format!("Stopped at {time}; go on with --to {time}")),
            (None, false) => lines.push("Stopped before anything was looked at".to_owned()),
            (_, true) => {}
        }
        for line in lines {
            write_line(self.out, &line)?;
        }
        Ok(())
    }
}

/// An attempt in columns.
fn attempt_cells(row: &Attempt) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        row.at.clone(),
        format!("{}/{}", row.workspace, row.integration_id),
        row.web_hook_id.clone().unwrap_or_else(dash),
        row.event_id.clone().unwrap_or_else(dash),
        row.attempt.to_string(),
        result(row),
        format!("{}ms", row.duration_ms),
        row.next_attempt_at.clone().unwrap_or_else(dash),
        row.error.clone().unwrap_or_else(dash),
    ]
}

/// How an attempt ended, in two words.
pub(super) fn result(row: &Attempt) -> String {
    let word = row.reason.as_deref().unwrap_or(&row.outcome);
    match row.status {
        Some(status) => format!("{word} {status}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(events: &[&str]) -> Page<Attempt> {
        let row = |id: &&str| Attempt { event_id: Some((*id).to_owned()), ..Attempt::default() };
        let rows = events.iter().map(row).collect();
        Page { rows, searched_back_to_ms: None, complete: true, read: 0, next: None }
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_if_one_event_has_it() {
        let one = "3c75d291-0000-4000-8000-000000000001";
        let other = "3c75d291-0000-4000-8000-000000000002";
        let mut events = BTreeSet::new();
        assert!(check_events("3c75", &page(&[]), &mut events).is_ok());
        assert!(check_events("3c75", &page(&[one, &one.to_uppercase()]), &mut events).is_ok());
        let refused = check_events("3c75", &page(&[other]), &mut events).unwrap_err();
        assert_eq!(refused.to_string(), format!("--event: several events begin with `3c75`: {one}, {other}"));
    }
}
