//! The dead-letter topic: listing it, showing one record, and sending records back to delivery.
//!
//! A record is selected by its headers. Its value is parsed only to compare an event's id.

use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::render::{self, Body, or_dash, printable};
use super::table::{Column, Fixed, line_width};
use super::{INTERRUPTED, ToolError, lookup, send, write_line};
use crate::actions::Sender;
use crate::actions::dead_letters::{Filter, read};
use crate::actions::selection::Selection;
use crate::domain::event::Envelope;
use crate::domain::outcome::DeadReason;
use crate::kafka::span::SpanRecord;
use crate::readers::dead_letters::DeadLetter;
use crate::readers::may_begin_guid;
use crate::settings::{DeadLetterFilter, DeadLettersList, DeadLettersShow, NamedEvent, RecordPlace, Redrive, Settings};

/// The filter with the whole id of the integration, if only its beginning was given.
async fn whole(settings: &Settings, filter: &DeadLetterFilter) -> Result<DeadLetterFilter, ToolError> {
    let whole = lookup::whole_id(settings, filter.workspace.as_deref(), filter.integration.as_deref()).await?;
    Ok(DeadLetterFilter { integration: whole, ..filter.clone() })
}

/// What is said if no dead letter has an id that may be the beginning of one.
const WHOLE_EVENT: &str = "(The id of an event is needed whole; lists show it with --wide.)";

/// What names a record in a selection: a place or an id. Never standard input.
fn named(event: &NamedEvent) -> Option<String> {
    match event {
        NamedEvent::Place(RecordPlace { topic, partition, offset }) => Some(format!("{topic}/{partition}/{offset}")),
        NamedEvent::Id(id) | NamedEvent::Delivery(id) => Some(id.clone()),
        NamedEvent::Stdin => None,
    }
}

/// A row for people. The place comes first: it is what `show` and `redrive` take.
fn row(letter: &DeadLetter, table: &Fixed) -> String {
    let error = match (letter.error, letter.status) {
        (Some(error), Some(status)) => format!("{error} {status}"),
        (error, _) => error.unwrap_or("-").to_owned(),
    };
    let integration = match (&letter.workspace, &letter.integration_id) {
        (Some(workspace), Some(integration)) => format!("{workspace}/{integration}"),
        (Some(workspace), None) => format!("{workspace}/-"),
        (None, _) => "-".to_owned(),
    };
    table.row(&[
        &letter.place(),
        letter.timestamp.as_deref().unwrap_or("-"),
        letter.reason.unwrap_or("-"),
        &error,
        &letter.attempts.map_or_else(|| "-".to_owned(), |attempts| attempts.to_string()),
        &integration,
        &or_dash(letter.web_hook_id.as_deref()),
        &or_dash(letter.delivery_id.as_deref()),
        &letter.value_bytes.to_string(),
    ])
}

/// The columns of `list`. On a terminal the place is never cut.
const COLUMNS: [Column; 9] = [
    column("RECORD", 32, 26, 0),
    column("TIME", 24, 24, 1),
    column("REASON", 13, 13, 0),
    column("ERROR", 15, 15, 0),
    column("TRY", 3, 3, 2),
    column("INTEGRATION", 52, 18, 0),
    column("WEBHOOK", 36, 36, 4),
    column("DELIVERY", 36, 36, 3),
    column("BYTES", 8, 8, 5),
];

const fn column(title: &'static str, width: usize, least: usize, rank: u8) -> Column {
    Column { title, width, least, rank }
}

/// `dead-letters list`: writes the records that the filter selects, newest last; with a limit only the newest.
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn list(
    settings: &Settings,
    options: &DeadLettersList,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let options = &DeadLettersList { filter: whole(settings, &options.filter).await?, ..options.clone() };
    let selection = Selection::from(&options.filter);
    let (mut reading, _ranges) = read(settings, &selection, "dead-letters").await?;
    let topic = reading.topic().to_owned();
    let filter = Filter::new(settings, selection);
    let mut listing = Listing::new(options, out);
    let mut read = 0_u64;
    let is_interrupted = loop {
        let Some(next) = stop.run_until_cancelled(reading.next()).await else { break true };
        let Some(record) = next? else { break false };
        read += 1;
        let wire = record.wire();
        if filter.takes(&record, &wire) && !listing.take(&DeadLetter::of_record(&topic, &record, wire))? {
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Listing { matched, json, .. } = listing;
    let left_out = listing.left_out();
    listing.finish()?;
    if is_interrupted {
        tracing::warn!(topic, read, matched, "interrupted: there may be more");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if json {
        tracing::info!(topic, read, matched, shown = matched - left_out, "all dead letters were looked at");
    } else if matched == 0 {
        write_line(out, &format!("Nothing matches; {} read", render::records_were(read)))?;
    } else if let Some(more) = render::more(usize::try_from(left_out).unwrap_or(usize::MAX), "match") {
        write_line(out, &more)?;
    }
    if matched == 0 {
        let DeadLetterFilter { workspace, integration, webhook, .. } = options.filter.clone();
        lookup::say_unregistered(settings, &lookup::Names { workspace, integration, webhook }, json, out).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes lines as they come, or, with a limit, keeps the newest for the end.
struct Listing<'a, W> {
    out: &'a mut W,
    json: bool,
    table: Fixed,
    limit: Option<usize>,
    kept: VecDeque<String>,
    matched: u64,
}

impl<'a, W: io::Write> Listing<'a, W> {
    fn new(options: &DeadLettersList, out: &'a mut W) -> Self {
        let limit = options.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let table = Fixed::new(&COLUMNS, line_width(options.wide));
        Self { out, json: options.json, table, limit, kept: VecDeque::new(), matched: 0 }
    }

    /// Takes a dead letter. Returns whether the reader of the output is still there.
    fn take(&mut self, letter: &DeadLetter) -> Result<bool, ToolError> {
        let text = if self.json { json(letter)? } else { row(letter, &self.table) };
        let is_first = self.matched == 0;
        self.matched += 1;
        if is_first && !self.json && !write_line(self.out, &self.table.heading())? {
            return Ok(false);
        }
        let Some(limit) = self.limit else { return write_line(self.out, &text) };
        if self.kept.len() >= limit {
            self.kept.pop_front();
        }
        self.kept.push_back(text);
        Ok(true)
    }

    /// How many of those that matched the limit keeps back: the older ones.
    fn left_out(&self) -> u64 {
        self.limit.map_or(0, |limit| self.matched.saturating_sub(limit as u64))
    }

    fn finish(self) -> Result<(), ToolError> {
        for text in &self.kept {
            if !write_line(self.out, text)? {
                break;
            }
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Result<String, ToolError> {
    serde_json::to_string(value).map_err(|error| ToolError::Output(error.into()))
}

/// One record, as `show --json` writes it. At most one of `value`, `value_text` and `value_escaped` is set. None is set for a record
/// without a value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Option<String>,
    headers: Vec<ShownHeader<'a>>,
    /// What is wrong with an invalid event. Left out for other dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_text: Option<&'a str>,
    /// Not UTF-8: its bytes, those that are not printable as `\xNN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_escaped: Option<String>,
}

#[derive(Serialize)]
struct ShownHeader<'a> {
    name: &'a str,
    value: Option<String>,
}

/// UTF-8 as it is, other bytes escaped.
fn text_of(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_invalid| bytes.escape_ascii().to_string(), str::to_owned)
}

/// `dead-letters show`: one record with all its headers and its value.
///
/// # Errors
/// [`ToolError`], also when there is no such record.
pub(crate) async fn show(
    settings: &Settings,
    options: &DeadLettersShow,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let selection = Selection { event: named(&options.event), ..Selection::default() };
    let (mut reading, _ranges) = read(settings, &selection, "dead-letters").await?;
    let topic = reading.topic().to_owned();
    let filter = Filter::new(settings, selection);
    // Among several with that id the newest is shown.
    let mut found = None;
    loop {
        let Some(next) = stop.run_until_cancelled(reading.next()).await else { return Ok(ExitCode::from(INTERRUPTED)) };
        let Some(record) = next? else { break };
        if filter.takes(&record, &record.wire()) {
            found = Some(record);
        }
    }
    let record = found.ok_or_else(|| {
        let topic = topic.clone();
        let (of, hint) = match &options.event {
            NamedEvent::Id(id) if may_begin_guid(id) => (id.clone(), Some(WHOLE_EVENT)),
            NamedEvent::Id(id) | NamedEvent::Delivery(id) => (id.clone(), lookup::id_hint(Some(&options.event), None)),
            NamedEvent::Place(place) if place.topic != topic => (format!("the event {place}"), None),
            NamedEvent::Place(place) => return ToolError::Gone { record: place.to_string() },
            NamedEvent::Stdin => ("standard input".to_owned(), None),
        };
        ToolError::NoDeadLetter { topic, of, hint }
    })?;
    let text = if options.json { shown_as_json(&topic, &record)? } else { shown(&topic, &record) };
    write_line(out, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with an invalid event. `None` for other dead letters.
fn invalid(record: &SpanRecord) -> Option<String> {
    let wire = record.wire();
    if wire.reason != Some(DeadReason::InvalidEvent) {
        return None;
    }
    let Some(value) = record.value.as_deref() else { return Some("the record has no value".to_owned()) };
    match Envelope::parse(value) {
        Err(why) => Some(why.to_string()),
        Ok(_) if record.workspace().is_none() => Some("the record has no workspace".to_owned()),
        Ok(_) => None,
    }
}

fn shown_as_json(topic: &str, record: &SpanRecord) -> Result<String, ToolError> {
    let headers = record.headers.iter();
    let body = record.value.as_deref().map(Body::of);
    let (value, value_text, value_escaped) = match body {
        Some(Body::Json(text)) => (RawValue::from_string(render::compact(text)).ok(), None, None),
        Some(Body::Text(text)) => (None, Some(text), None),
        Some(Body::Bytes(bytes)) => (None, None, Some(bytes.escape_ascii().to_string())),
        None => (None, None, None),
    };
    json(&Shown {
        topic,
        partition: record.partition,
        offset: record.offset,
        timestamp: render::time(record.timestamp_ms),
        key: record.key.as_deref().map(text_of),
        headers: headers.map(|(name, value)| ShownHeader { name, value: value.as_deref().map(text_of) }).collect(),
        cause: invalid(record),
        value,
        value_text,
        value_escaped,
    })
}

fn shown(topic: &str, record: &SpanRecord) -> String {
    let mut lines = vec![
        format!("record     {topic}/{}/{}", record.partition, record.offset),
        format!("timestamp  {}", render::time(record.timestamp_ms).unwrap_or_else(|| "-".to_owned())),
        format!(
            "key        {}",
            record.key.as_deref().map_or_else(|| "-".to_owned(), |key| printable(&text_of(key)).into_owned())
        ),
        "headers".to_owned(),
    ];
    for (name, value) in &record.headers {
        let value = value.as_deref().map_or_else(|| "(no value)".to_owned(), text_of);
        lines.push(format!("  {}: {}", printable(name), printable(&value)));
    }
    if let Some(cause) = invalid(record) {
        lines.push(format!("cause      {}", printable(&cause)));
    }
    match record.value.as_deref() {
        Some(value) => {
            lines.push(format!("value      {} bytes", value.len()));
            lines.push(Body::of(value).shown());
        }
        None => lines.push("value      none".to_owned()),
    }
    lines.join("\n")
}

/// `dead-letters redrive`: sends the records that the filter takes back as first attempts, with their delivery ids.
///
/// # Errors
/// [`ToolError`]; the account is written nevertheless.
pub(crate) async fn redrive(
    settings: &Settings,
    options: &Redrive,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let options = &Redrive { filter: whole(settings, &options.filter).await?, ..options.clone() };
    let selection = Selection {
        event: options.event.as_ref().and_then(named),
        skip_sent: options.skip_sent,
        ..Selection::from(&options.filter)
    };
    send::send(settings, Sender::Redrive, selection, options.sending, stop, out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_event_is_shown_with_its_cause() {
        let record = |value: Option<&str>, reason: &str| SpanRecord {
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: value.map(|value| value.to_owned().into()),
            headers: vec![("hookstream-reason".to_owned(), Some(reason.to_owned().into()))],
        };
        let cause = |value, reason| invalid(&record(value, reason)).unwrap_or_default();
        assert!(cause(Some("{}"), "invalid-event").contains("`id`"));
        assert_eq!(cause(None, "invalid-event"), "the record has no value");
        let event = r#"{"id":"e","type":"change","entityIds":{"companyId":"1"}}"#;
        assert_eq!(cause(Some(event), "invalid-event"), "the record has no workspace");
        assert_eq!(cause(Some("{}"), "exhausted"), "");
        assert!(shown("t", &record(Some("{}"), "invalid-event")).contains("cause      the event has no `id`"));
    }

    #[test]
    fn a_shown_record_has_every_header_and_obeys_no_control_character() {
        let record = SpanRecord {
            partition: 1,
            offset: 2,
            timestamp_ms: Some(0),
            key: Some(b"k\x1b".to_vec().into()),
            value: Some(b"{\"a\" :1}".to_vec().into()),
            headers: vec![("one".to_owned(), Some(b"\xff".to_vec().into())), ("two".to_owned(), None)],
        };
        assert_eq!(
            shown("dead", &record),
            "record     dead/1/2\ntimestamp  1970-01-01T00:00:00.000Z\nkey        k\\u{1b}\nheaders\n  one: \\xff\n  \
             two: (no value)\nvalue      8 bytes\n{\n  \"a\": 1\n}"
        );
        let json: serde_json::Value = serde_json::from_str(&shown_as_json("dead", &record).unwrap()).unwrap();
        assert_eq!(json["value"], serde_json::json!({"a": 1}));
        assert_eq!(json["headers"][1], serde_json::json!({"name": "two", "value": null}));
    }
}
