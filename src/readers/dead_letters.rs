//! The dead letters, newest first, by what their headers say. Their values are never looked into.

use bytes::Bytes;
use serde::Serialize;

use super::attempts::key_partitions;
use super::scan::{Bounds, Log, Page, Question, Span, Watch, scan};
use super::{ReadError, same_id, time};
use crate::domain::headers::Wire;
use crate::domain::outcome::{DeadReason, Reason};
use crate::kafka::span::SpanRecord;
use crate::kafka::windows::Glance;

/// One dead letter, without its event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetter {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<String>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) error: Option<&'static str>,
    pub(crate) status: Option<u16>,
    pub(crate) workspace: Option<String>,
    pub(crate) integration_id: Option<String>,
    pub(crate) web_hook_id: Option<String>,
    pub(crate) delivery_id: Option<String>,
    pub(crate) attempts: Option<u32>,
    pub(crate) origin: Option<String>,
    pub(crate) value_bytes: usize,
}

impl DeadLetter {
    /// Its place: `topic/partition/offset`.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    /// Made of a record of `topic` and its headers.
    pub(crate) fn of(topic: &str, glance: &Glance<'_>, wire: Wire) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: glance.partition,
            offset: glance.offset,
            timestamp: time(glance.timestamp_ms),
            value_bytes: glance.value.map_or(0, <[u8]>::len),
            ..Self::without_place(wire)
        }
    }

    /// Made of a record of `topic` that a tool read, and its headers.
    pub(crate) fn of_record(topic: &str, record: &SpanRecord, wire: Wire) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp_ms.and_then(time),
            value_bytes: record.value.as_ref().map_or(0, Bytes::len),
            ..Self::without_place(wire)
        }
    }

    fn without_place(wire: Wire) -> Self {
        Self {
            reason: wire.reason.map(DeadReason::word),
            error: wire.error.map(Reason::word),
            status: wire.status,
            workspace: wire.workspace,
            integration_id: wire.integration_id,
            web_hook_id: wire.webhook_id,
            delivery_id: wire.delivery_id,
            attempts: wire.attempt,
            origin: wire.origin,
            ..Self::default()
        }
    }
}

/// Selects the dead letters that match every field that is set.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeadLetterFilter {
    pub(crate) workspace: Option<String>,
    pub(crate) integration: Option<String>,
    pub(crate) webhook: Option<String>,
    /// The reason word of a dead letter.
    pub(crate) reason: Option<String>,
    /// A delivery's id: the header `webhook-id`.
    pub(crate) delivery: Option<String>,
    /// The event's place `topic/partition/offset`.
    pub(crate) origin: Option<String>,
}

impl DeadLetterFilter {
    fn parts(&self) -> Vec<String> {
        let Self { workspace, integration, webhook, reason, delivery, origin } = self;
        [workspace, integration, webhook, reason, delivery, origin]
            .into_iter()
            .map(|part| part.as_ref().map_or_else(|| "-".to_owned(), |part| format!("={part}")))
            .collect()
    }

    /// Whether a dead letter with these headers is selected.
    pub(crate) fn takes(&self, wire: &Wire) -> bool {
        let is = |wanted: &Option<String>, actual: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| actual.as_ref().is_some_and(|actual| same_id(wanted, actual)))
        };
        // A workspace is compared letter for letter, unlike an id: otherwise a caller could see another workspace's.
        self.workspace.as_ref().is_none_or(|wanted| wire.workspace.as_ref() == Some(wanted))
            && is(&self.integration, &wire.integration_id)
            && is(&self.webhook, &wire.webhook_id)
            && self.reason.as_ref().is_none_or(|wanted| wire.reason.is_some_and(|reason| reason.word() == wanted))
            && self.delivery.as_ref().is_none_or(|wanted| wire.delivery_id.as_ref() == Some(wanted))
            && self.origin.as_ref().is_none_or(|wanted| wire.origin.as_ref() == Some(wanted))
    }
}

/// The dead letters that `filter` takes, newest first. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn dead_letters(
    log: &dyn Log,
    filter: &DeadLetterFilter,
    span: Span,
    next: Option<&str>,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Page<DeadLetter>, ReadError> {
    let of_webhook = || filter.webhook.as_ref().map(|webhook| key_partitions("", webhook, log.bounds().len()));
    let partitions = span.partitions.or_else(of_webhook);
    let row = |glance: &Glance<'_>| {
        let wire = Wire::read((glance.headers)().into_iter());
        filter.takes(&wire).then(|| DeadLetter::of(log.name(), glance, wire))
    };
    let question = Question { parts: filter.parts(), span: Span { partitions, ..span }, next, row: &row };
    scan(log, &question, bounds, watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_only_its_own_workspace_and_ids() {
        let wire = Wire {
            workspace: Some("acme".to_owned()),
            webhook_id: Some("A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5".to_owned()),
            reason: Some(DeadReason::Exhausted),
            ..Wire::default()
        };
        let takes = |change: &dyn Fn(&mut DeadLetterFilter)| {
            let mut filter = DeadLetterFilter::default();
            change(&mut filter);
            filter.takes(&wire)
        };
        assert!(takes(&|filter| filter.workspace = Some("acme".to_owned())));
        assert!(!takes(&|filter| filter.workspace = Some("ACME".to_owned())));
        assert!(takes(&|filter| filter.webhook = Some("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5".to_owned())));
        assert!(!takes(&|filter| filter.integration = Some("i".to_owned())), "an unknown integration does not match");
        assert!(takes(&|filter| filter.reason = Some("exhausted".to_owned())));
        assert!(!takes(&|filter| filter.reason = Some("suspended".to_owned())));
    }
}
