//! Finds the dead letters of a selection and turns them into first attempts. `tools` lists and shows them.
//!
//! A record is selected by its headers. Its value is parsed only to compare an event's id.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::known::Known;
use super::refusal::BadSelection;
use super::resend::{Judged, Notes, Prepared};
use super::selection::{Fixed, Selection};
use super::{ActionError, blocking};
use crate::clock;
use crate::deliver::publish::Outgoing;
use crate::domain::event::Envelope;
use crate::domain::headers::Wire;
use crate::domain::outcome::DeadReason;
use crate::domain::topic_names::now_topic;
use crate::inflight::job::Origin;
use crate::kafka::record_stream::RecordStream;
use crate::kafka::span::{Range, SpanRecord};
use crate::kafka::topic_range::TopicRange;
use crate::readers::same_id;
use crate::readers::scan::Bounds;
use crate::settings::{DeadLetterFilter, Settings};

impl From<&DeadLetterFilter> for Selection {
    fn from(filter: &DeadLetterFilter) -> Self {
        let DeadLetterFilter { workspace, integration, webhook, reason, from, to } = filter.clone();
        let reason = reason.map(str::to_owned);
        Self { workspace, integration, webhook, reason, from, to, ..Self::default() }
    }
}

/// Decides which records of the topic are selected.
pub(crate) struct Filter {
    wanted: Selection,
    dead_letters: String,
}

impl Filter {
    pub(crate) fn new(settings: &Settings, wanted: Selection) -> Self {
        Self { wanted, dead_letters: settings.topics.dead_letter.clone() }
    }

    /// Whether a dead letter is selected. `wire` holds its headers.
    pub(crate) fn takes(&self, record: &SpanRecord, wire: &Wire) -> bool {
        let is_same = |wanted: &Option<String>, actual: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| actual.as_ref().is_some_and(|actual| same_id(wanted, actual)))
        };
        let wanted = &self.wanted;
        let at = record.timestamp_ms;
        (wanted.workspace.is_none() || wanted.workspace == wire.workspace)
            && is_same(&wanted.integration, &wire.integration_id)
            && is_same(&wanted.webhook, &wire.webhook_id)
            && wanted.reason.as_deref().is_none_or(|wanted| wire.reason.is_some_and(|reason| reason.word() == wanted))
            && wanted.from.is_none_or(|from| at.is_some_and(|at| at >= from.as_millisecond()))
            && wanted.to.is_none_or(|to| at.is_some_and(|at| at < to.as_millisecond()))
            && self.is_named(record, wire)
    }

    /// Whether a dead letter is the one that `event` names: by its own place, by its event's place, or by the id of its delivery or
    /// its event. True if nothing is named.
    fn is_named(&self, record: &SpanRecord, wire: &Wire) -> bool {
        let Some(named) = self.wanted.event.as_deref() else { return true };
        match Origin::parse(named) {
            Some(place) if *place.topic == *self.dead_letters => {
                (place.partition, place.offset) == (record.partition, record.offset)
            }
            Some(_) => wire.origin.as_deref() == Some(named),
            None => {
                let event = || Envelope::parse(record.value.as_deref()?).ok();
                wire.delivery_id.as_deref() == Some(named) || event().is_some_and(|event| same_id(named, &event.id))
            }
        }
    }
}

/// Opens the topic. Reads the fixed ranges if there are any, else the one record that a place names, else everything from `from`
/// on. Returns the stream and the ranges that it reads.
///
/// # Errors
/// [`ActionError`]
pub(crate) async fn read(
    settings: &Settings,
    selection: &Selection,
    role: &'static str,
) -> Result<(RecordStream, Vec<Range>), ActionError> {
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.dead_letter.clone());
    let from_ms = selection.from.map(Timestamp::as_millisecond);
    let only = match selection.event.as_deref().and_then(Origin::parse) {
        Some(place) if *place.topic == *topic => Some((place.partition, place.offset)),
        Some(place) if *place.topic != *settings.topics.events => {
            return Err(BadSelection::ForeignTopic { topic: place.topic.to_string(), dead_letters: topic }.into());
        }
        Some(_) | None => None,
    };
    let selection = selection.clone();
    blocking("opening the dead-letter topic", move || {
        let span = TopicRange::open(&kafka, &topic, role)?;
        let ranges = selection.ranges(span.bounds(), || match (only, from_ms) {
            (Some((partition, offset)), _) => Ok(vec![span.only(partition, offset)?]),
            (None, None) => Ok(span.bounds().to_vec()),
            (None, Some(from_ms)) => {
                let starts = span.offsets_at(from_ms)?;
                let start_of = |range: &Range| starts.get(&range.partition).copied().unwrap_or(range.start);
                Ok::<_, ActionError>(
                    span.bounds().iter().map(|range| Range { start: start_of(range), ..*range }).collect(),
                )
            }
        })?;
        Ok((span.read(&ranges)?, ranges))
    })
    .await
}

/// Opens the selected records, to send them back as first attempts with their delivery ids.
///
/// # Errors
/// [`ActionError`]
pub(super) async fn prepare(
    settings: &Settings,
    selection: Selection,
    known: Bounds,
    stop: &CancellationToken,
) -> Result<Prepared, ActionError> {
    let (reading, ranges) = read(settings, &selection, "redrive").await?;
    let looking = blocking("reading what was sent back before", {
        let (settings, stop) = (settings.clone(), stop.clone());
        move || Ok(Known::read(&settings, known, &stop)?)
    });
    let known = looking.await?;
    let now: Arc<str> = now_topic(&settings.topics.retry_prefix).into();
    let (filter, skip_sent) = (Filter::new(settings, selection.clone()), selection.skip_sent);
    let judge = move |record: &SpanRecord| {
        let wire = record.wire();
        if !filter.takes(record, &wire) {
            return Judged::Other;
        }
        let notes = Notes {
            sent_before: known.was_sent(&wire, record.timestamp_ms),
            webhook_gone: known.is_gone(&wire),
            integration_paused: known.is_paused(&wire),
        };
        if notes.sent_before && skip_sent {
            return Judged::Skipped("sent-before");
        }
        match first_attempt(wire, clock::now_ms()) {
            Ok(wire) => {
                let outgoing = Outgoing {
                    topic: Arc::clone(&now),
                    key: wire.webhook_id.clone().map(Bytes::from),
                    payload: record.value.clone(),
                    headers: wire.headers(),
                };
                Judged::Send(vec![outgoing], notes)
            }
            Err(why) => Judged::Skipped(why),
        }
    };
    let selection = Selection { fixed: Some(Fixed::of(&ranges)), ..selection };
    Ok(Prepared { reading, judge: Box::new(judge), selection })
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
    fn a_record_that_cannot_be_sent_is_skipped_with_its_reason() {
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
        let filter = Filter::new(&Settings::default(), filter.into());
        let record = SpanRecord {
            partition: 0,
            offset: 7,
            timestamp_ms: Some(1_000),
            key: None,
            value: Some(Bytes::from_static(br#"{"id":"e","type":"change","entityIds":{"companyId":"1"}}"#)),
            headers: Vec::new(),
        };
        assert_eq!(filter.takes(&record, &wire()), expected, "{:?}", filter.wanted);
        for (event, is_it) in [("t/1/2", true), ("t/1/3", false), ("d", true), ("e", true), ("x", false)]
            .into_iter()
            .chain([("webhooks.dead-letter/0/7", true), ("webhooks.dead-letter/0/8", false)])
        {
            let wanted = Selection { event: Some(event.to_owned()), ..filter.wanted.clone() };
            let named = Filter::new(&Settings::default(), wanted);
            assert_eq!(named.takes(&record, &wire()), expected && is_it, "{event}");
        }
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
}
