//! The dead-letter topic: listing it, showing one record, and sending records back to delivery.
//!
//! A record is chosen by what its headers say; its value is looked into only for an event's id.

use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::known::Known;
use super::render::{self, Body, or_dash, printable};
use super::resend::{self, Judged, Notes, Order};
use super::{INTERRUPTED, ToolError, blocking, lookup, write_line};
use crate::clock;
use crate::deliver::publish::Outgoing;
use crate::domain::event::Envelope;
use crate::domain::headers::Wire;
use crate::domain::outcome::DeadReason;
use crate::kafka::topic_range::{Range, RecordStream, SpanRecord, TopicRange};
use crate::readers::same_id;
use crate::settings::{DeadLetterFilter, DeadLettersList, DeadLettersShow, NamedEvent, RecordPlace, Redrive, Settings};
use crate::topics::names::now_topic;

/// Which records of the topic are meant.
struct Filter<'a> {
    wanted: &'a DeadLetterFilter,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
}

impl<'a> Filter<'a> {
    fn new(wanted: &'a DeadLetterFilter) -> Self {
        let to_ms = wanted.to.map(Timestamp::as_millisecond);
        Self { wanted, from_ms: wanted.from.map(Timestamp::as_millisecond), to_ms }
    }

    fn takes(&self, timestamp_ms: Option<i64>, wire: &Wire) -> bool {
        let is_same = |wanted: &Option<String>, actual: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| actual.as_ref().is_some_and(|actual| same_id(wanted, actual)))
        };
        let filter = self.wanted;
        (filter.workspace.is_none() || filter.workspace == wire.workspace)
            && is_same(&filter.integration, &wire.integration_id)
            && is_same(&filter.webhook, &wire.webhook_id)
            && filter.reason.is_none_or(|wanted| wire.reason.is_some_and(|reason| reason.word() == wanted))
            && self.from_ms.is_none_or(|from| timestamp_ms.is_some_and(|at| at >= from))
            && self.to_ms.is_none_or(|to| timestamp_ms.is_some_and(|at| at < to))
    }
}

/// The filter with the whole id of the integration, where only its beginning was given.
async fn whole(settings: &Settings, filter: &DeadLetterFilter) -> Result<DeadLetterFilter, ToolError> {
    let whole = lookup::whole_id(settings, filter.workspace.as_deref(), filter.integration.as_deref()).await?;
    Ok(DeadLetterFilter { integration: whole, ..filter.clone() })
}

/// Whether a dead letter is the one that is named: by its own place, which only it is read for, by its event's place, or by the
/// id of its delivery or its event.
fn is_named(settings: &Settings, named: Option<&NamedEvent>, record: &SpanRecord, wire: &Wire) -> bool {
    match named {
        None | Some(NamedEvent::Stdin) => true,
        Some(NamedEvent::Place(place)) => {
            let text = || format!("{}/{}/{}", place.topic, place.partition, place.offset);
            place.topic == settings.topics.dead_letter || wire.origin == Some(text())
        }
        Some(NamedEvent::Id(id)) => {
            let of_event = || Envelope::parse(record.value.as_deref()?).ok().map(|envelope| same_id(id, &envelope.id));
            wire.delivery_id.as_ref() == Some(id) || of_event().unwrap_or(false)
        }
    }
}

/// Begins to read the topic: only the record that is named by its place, or everything of `from` and later.
async fn read(
    settings: &Settings,
    event: Option<&NamedEvent>,
    from: Option<Timestamp>,
    role: &'static str,
) -> Result<RecordStream, ToolError> {
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.dead_letter.clone());
    let from_ms = from.map(Timestamp::as_millisecond);
    let only = match event {
        Some(NamedEvent::Place(RecordPlace { topic: named, partition, offset })) if *named == topic => {
            Some((*partition, *offset))
        }
        Some(NamedEvent::Place(RecordPlace { topic: named, .. })) if *named != settings.topics.events => {
            return Err(ToolError::Refused(format!(
                "--event: topic `{named}` is not the dead-letter topic, which is `{topic}`, nor that of the events"
            )));
        }
        Some(NamedEvent::Place(_) | NamedEvent::Id(_) | NamedEvent::Stdin) | None => None,
    };
    blocking("opening the dead-letter topic", move || {
        let span = TopicRange::open(&kafka, &topic, role)?;
        let ranges: Vec<Range> = match (only, from_ms) {
            (Some((partition, offset)), _) => vec![span.only(partition, offset)?],
            (None, None) => span.bounds().to_vec(),
            (None, Some(from_ms)) => {
                let starts = span.offsets_at(from_ms)?;
                let start_of = |range: &Range| starts.get(&range.partition).copied().unwrap_or(range.start);
                span.bounds().iter().map(|range| Range { start: start_of(range), ..*range }).collect()
            }
        };
        Ok(span.read(&ranges)?)
    })
    .await
}

/// One dead letter, as `list --json` writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    reason: Option<&'static str>,
    error: Option<&'static str>,
    status: Option<u16>,
    workspace: Option<String>,
    integration_id: Option<String>,
    web_hook_id: Option<String>,
    delivery_id: Option<String>,
    attempts: Option<u32>,
    origin: Option<String>,
    value_bytes: usize,
}

impl<'a> Line<'a> {
    fn of(topic: &'a str, record: &SpanRecord, wire: Wire) -> Self {
        Self {
            topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: render::time(record.timestamp_ms),
            reason: wire.reason.map(DeadReason::word),
            error: wire.error.map(crate::domain::outcome::Reason::word),
            status: wire.status,
            workspace: wire.workspace,
            integration_id: wire.integration_id,
            web_hook_id: wire.webhook_id,
            delivery_id: wire.delivery_id,
            attempts: wire.attempt,
            origin: wire.origin,
            value_bytes: record.value.as_ref().map_or(0, Bytes::len),
        }
    }

    /// Columns for people. The place comes first: it is what `show` and `redrive` take.
    fn text(&self) -> String {
        let error = match (self.error, self.status) {
            (Some(error), Some(status)) => format!("{error} {status}"),
            (error, _) => error.unwrap_or("-").to_owned(),
        };
        let integration = match (&self.workspace, &self.integration_id) {
            (Some(workspace), Some(integration)) => format!("{workspace}/{integration}"),
            (Some(workspace), None) => format!("{workspace}/-"),
            (None, _) => "-".to_owned(),
        };
        format!(
            "{:<32} {:<24} {:<13} {:<15} {:>3} {:<52} {:<36} {:<36} {:>8}",
            format!("{}/{}/{}", self.topic, self.partition, self.offset),
            self.timestamp.as_deref().unwrap_or("-"),
            self.reason.unwrap_or("-"),
            error,
            self.attempts.map_or_else(|| "-".to_owned(), |attempts| attempts.to_string()),
            printable(&integration),
            or_dash(self.web_hook_id.as_deref()),
            or_dash(self.delivery_id.as_deref()),
            self.value_bytes,
        )
    }

    fn heading() -> String {
        format!(
            "{:<32} {:<24} {:<13} {:<15} {:>3} {:<52} {:<36} {:<36} {:>8}",
            "RECORD", "TIME", "REASON", "ERROR", "TRY", "INTEGRATION", "WEBHOOK", "DELIVERY", "BYTES"
        )
    }
}

/// `dead-letters list`: the records that the filter takes, newest last; with a limit only the newest.
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
    let mut reading = read(settings, None, options.filter.from, "dead-letters").await?;
    let topic = reading.topic().to_owned();
    let filter = Filter::new(&options.filter);
    let mut listing = Listing::new(options, out);
    let mut read = 0_u64;
    let is_interrupted = loop {
        let Some(next) = stop.run_until_cancelled(reading.next()).await else { break true };
        let Some(record) = next? else { break false };
        read += 1;
        let wire = record.wire();
        if filter.takes(record.timestamp_ms, &wire) && !listing.take(&Line::of(&topic, &record, wire))? {
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Listing { matched, .. } = listing;
    listing.finish()?;
    if is_interrupted {
        tracing::warn!(topic, read, matched, "interrupted: there may be more");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    tracing::info!(topic, read, matched, "all dead letters were looked at");
    Ok(ExitCode::SUCCESS)
}

/// Writes lines as they come, or, with a limit, keeps the newest for the end.
struct Listing<'a, W> {
    out: &'a mut W,
    json: bool,
    limit: Option<usize>,
    kept: VecDeque<String>,
    matched: u64,
}

impl<'a, W: io::Write> Listing<'a, W> {
    fn new(options: &DeadLettersList, out: &'a mut W) -> Self {
        let limit = options.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self { out, json: options.json, limit, kept: VecDeque::new(), matched: 0 }
    }

    /// Takes one line. Says whether anybody still reads.
    fn take(&mut self, line: &Line<'_>) -> Result<bool, ToolError> {
        let text = if self.json { json(line)? } else { line.text() };
        let is_first = self.matched == 0;
        self.matched += 1;
        if is_first && !self.json && !write_line(self.out, &Line::heading())? {
            return Ok(false);
        }
        let Some(limit) = self.limit else { return write_line(self.out, &text) };
        if self.kept.len() >= limit {
            self.kept.pop_front();
        }
        self.kept.push_back(text);
        Ok(true)
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

/// One record, as `show --json` writes it. Of `value` and the two after it at most one is there; none for a record
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
    /// Of an invalid event: why it is none.
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
    let mut reading = read(settings, Some(&options.event), None, "dead-letters").await?;
    let topic = reading.topic().to_owned();
    // Of several with that id the newest is meant.
    let mut found = None;
    loop {
        let Some(next) = stop.run_until_cancelled(reading.next()).await else { return Ok(ExitCode::from(INTERRUPTED)) };
        let Some(record) = next? else { break };
        if is_named(settings, Some(&options.event), &record, &record.wire()) {
            found = Some(record);
        }
    }
    let record = found.ok_or_else(|| {
        ToolError::Refused(match &options.event {
            NamedEvent::Id(id) => format!("no dead letter of topic `{topic}` is of {id}"),
            NamedEvent::Place(place) if place.topic != topic => {
                let RecordPlace { topic: events, partition, offset } = place;
                format!("no dead letter of topic `{topic}` is of the event {events}/{partition}/{offset}")
            }
            NamedEvent::Place(_) | NamedEvent::Stdin => {
                "the record is gone: compacted away, aborted, or older than the topic keeps".to_owned()
            }
        })
    })?;
    let text = if options.json { shown_as_json(&topic, &record)? } else { shown(&topic, &record) };
    write_line(out, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Why an invalid event is none; nothing for other dead letters.
fn invalid(record: &SpanRecord) -> Option<String> {
    let wire = record.wire();
    if wire.reason != Some(DeadReason::InvalidEvent) {
        return None;
    }
    let Some(value) = record.value.as_deref() else { return Some("the record has no value".to_owned()) };
    match Envelope::parse(value) {
        Err(why) => Some(why.to_string()),
        Ok(_) if record.workspace().is_none() => Some("the record says no workspace".to_owned()),
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
/// [`ToolError`]; the account is written all the same.
pub(crate) async fn redrive(
    settings: &Settings,
    options: &Redrive,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let options = &Redrive { filter: whole(settings, &options.filter).await?, ..options.clone() };
    let reading = read(settings, options.event.as_ref(), options.filter.from, "redrive").await?;
    let requeue = resend::requeue(settings, options.sending, "redrive").await?;
    let known = blocking("looking what was sent back before", {
        let (settings, stop) = (settings.clone(), stop.clone());
        move || Ok(Known::read(&settings, &stop)?)
    });
    let known = known.await?;
    let now: std::sync::Arc<str> = now_topic(&settings.topics.retry_prefix).into();
    let filter = Filter::new(&options.filter);
    let judge = |record: &SpanRecord| {
        let wire = record.wire();
        if !filter.takes(record.timestamp_ms, &wire) || !is_named(settings, options.event.as_ref(), record, &wire) {
            return Judged::Other;
        }
        let notes =
            Notes { sent_before: known.was_sent(&wire, record.timestamp_ms), webhook_gone: known.is_gone(&wire) };
        if notes.sent_before && options.skip_sent {
            return Judged::Skipped("sent-before");
        }
        match first_attempt(wire, clock::now_ms()) {
            Ok(wire) => {
                let outgoing = Outgoing {
                    topic: std::sync::Arc::clone(&now),
                    key: wire.webhook_id.clone().map(Bytes::from),
                    payload: record.value.clone(),
                    headers: wire.headers(),
                };
                Judged::Send(vec![outgoing], notes)
            }
            Err(why) => Judged::Skipped(why),
        }
    };
    resend::resend(Order { name: "redrive", sending: options.sending, requeue, stop }, reading, judge, out).await
}

/// The headers with which a dead letter becomes a first attempt that is due at once, or why it can't.
fn first_attempt(wire: Wire, now_ms: i64) -> Result<Wire, &'static str> {
    if wire.reason == Some(DeadReason::InvalidEvent) {
        return Err(DeadReason::InvalidEvent.word());
    }
    if wire.integration_key().is_none() || wire.webhook_id.is_none() || wire.delivery_id.is_none() {
        return Err("headers-missing");
    }
    Ok(Wire {
        attempt: Some(0),
        due_ms: Some(now_ms),
        first_attempt_ms: None,
        error: None,
        status: None,
        reason: None,
        ..wire
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Reason;

    fn wire() -> Wire {
        Wire {
            workspace: Some("w".to_owned()),
            integration_id: Some("i".to_owned()),
            webhook_id: Some("h".to_owned()),
            delivery_id: Some("d".to_owned()),
            attempt: Some(8),
            first_attempt_ms: Some(4),
            due_ms: None,
            origin: Some("t/1/2".to_owned()),
            error: Some(Reason::Timeout),
            status: Some(500),
            reason: Some(DeadReason::Exhausted),
            event_ms: Some(6),
        }
    }

    #[test]
    fn a_redriven_record_keeps_what_names_the_delivery_and_nothing_of_its_attempts() {
        let expected = Wire {
            attempt: Some(0),
            due_ms: Some(99),
            first_attempt_ms: None,
            error: None,
            status: None,
            reason: None,
            ..wire()
        };
        assert_eq!(first_attempt(wire(), 99), Ok(expected));
    }

    #[test]
    fn what_can_not_be_sent_is_named() {
        let invalid = Wire { reason: Some(DeadReason::InvalidEvent), ..wire() };
        assert_eq!(first_attempt(invalid, 0), Err("invalid-event"));
        for missing in [
            Wire { workspace: None, ..wire() },
            Wire { integration_id: None, ..wire() },
            Wire { webhook_id: None, ..wire() },
            Wire { delivery_id: None, ..wire() },
        ] {
            assert_eq!(first_attempt(missing, 0), Err("headers-missing"));
        }
        assert!(first_attempt(Wire { reason: None, origin: None, event_ms: None, ..wire() }, 0).is_ok());
    }

    #[track_caller]
    fn check(filter: &DeadLetterFilter, expected: bool) {
        assert_eq!(Filter::new(filter).takes(Some(1_000), &wire()), expected, "{filter:?}");
    }

    #[test]
    fn every_field_of_a_filter_narrows_it() {
        let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
        check(&DeadLetterFilter::default(), true);
        check(&DeadLetterFilter { workspace: Some("w".to_owned()), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { workspace: Some("x".to_owned()), ..DeadLetterFilter::default() }, false);
        check(&DeadLetterFilter { integration: Some("i".to_owned()), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { integration: Some("x".to_owned()), ..DeadLetterFilter::default() }, false);
        check(&DeadLetterFilter { webhook: Some("h".to_owned()), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { webhook: Some("x".to_owned()), ..DeadLetterFilter::default() }, false);
        check(&DeadLetterFilter { reason: Some("exhausted"), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { reason: Some("suspended"), ..DeadLetterFilter::default() }, false);
        check(&DeadLetterFilter { from: at(1_000), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { from: at(1_001), ..DeadLetterFilter::default() }, false);
        check(&DeadLetterFilter { to: at(1_001), ..DeadLetterFilter::default() }, true);
        check(&DeadLetterFilter { to: at(1_000), ..DeadLetterFilter::default() }, false);
    }

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
        assert_eq!(cause(Some(event), "invalid-event"), "the record says no workspace");
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
