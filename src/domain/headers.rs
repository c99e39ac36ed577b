//! The headers of retry records and dead letters, in one place: written and read by the same table.

use super::outcome::{DeadReason, Reason};

/// The workspace of an event by its record's headers and key: the last header of that name with a value, or the key where
/// there is none. `None` where it is empty or not UTF-8.
pub(crate) fn workspace_of<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    key: Option<&'a [u8]>,
) -> Option<&'a str> {
    workspace_and_source(headers, key).map(|(workspace, _is_key)| workspace)
}

/// As [`workspace_of`], and whether the workspace is the record's key.
pub(crate) fn workspace_and_source<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    key: Option<&'a [u8]>,
) -> Option<(&'a str, bool)> {
    let header = headers.filter(|(name, _)| *name == WORKSPACE).map(|(_, value)| value).last();
    let name = std::str::from_utf8(header.or(key)?).ok().filter(|name| !name.is_empty())?;
    Some((name, header.is_none()))
}

/// The workspace.
pub(crate) const WORKSPACE: &str = "workspace";
const INTEGRATION: &str = "hookstream-integration-id";
const WEBHOOK: &str = "hookstream-webhook-id";
const DELIVERY: &str = "hookstream-delivery-id";
/// How the ids of deliveries begin.
pub(crate) const DELIVERY_ID_PREFIX: &str = "msg_";
const ATTEMPT: &str = "hookstream-attempt";
const FIRST_ATTEMPT: &str = "hookstream-first-attempt-ms";
const DUE: &str = "hookstream-due-ms";
const ORIGIN: &str = "hookstream-origin";
const ERROR: &str = "hookstream-error";
const STATUS: &str = "hookstream-status";
const REASON: &str = "hookstream-reason";
/// When the event record was written: what the latency of a delivery is counted from.
const EVENT_TIME: &str = "hookstream-event-ms";

/// What the headers of a retry record or dead letter say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// `workspace`
    pub workspace: Option<String>,
    /// `hookstream-integration-id`
    pub integration_id: Option<String>,
    /// `hookstream-webhook-id`
    pub webhook_id: Option<String>,
    /// `hookstream-delivery-id`
    pub delivery_id: Option<String>,
    /// `hookstream-attempt`: attempts made.
    pub attempt: Option<u32>,
    /// `hookstream-first-attempt-ms`, since 1970.
    pub first_attempt_ms: Option<i64>,
    /// `hookstream-due-ms`, since 1970.
    pub due_ms: Option<i64>,
    /// `hookstream-origin`: `topic/partition/offset`.
    pub origin: Option<String>,
    /// `hookstream-error`: the last attempt's reason word.
    pub error: Option<Reason>,
    /// `hookstream-status`: the last attempt's HTTP status.
    pub status: Option<u16>,
    /// `hookstream-reason`, of dead letters.
    pub reason: Option<DeadReason>,
    /// `hookstream-event-ms`: the event record's timestamp.
    pub event_ms: Option<i64>,
}

impl Wire {
    /// The headers to write: those that have a value.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        [
            (WORKSPACE, self.workspace.clone()),
            (INTEGRATION, self.integration_id.clone()),
            (WEBHOOK, self.webhook_id.clone()),
            (DELIVERY, self.delivery_id.clone()),
            (ATTEMPT, self.attempt.map(|attempt| attempt.to_string())),
            (FIRST_ATTEMPT, self.first_attempt_ms.map(|ms| ms.to_string())),
            (DUE, self.due_ms.map(|ms| ms.to_string())),
            (ORIGIN, self.origin.clone()),
            (ERROR, self.error.map(|reason| reason.word().to_owned())),
            (STATUS, self.status.map(|status| status.to_string())),
            (REASON, self.reason.map(|reason| reason.word().to_owned())),
            (EVENT_TIME, self.event_ms.map(|ms| ms.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .collect()
    }

    /// Reads the headers there are; of a repeated one the last counts, an unreadable one counts as missing.
    pub(crate) fn read<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut wire = Self::default();
        for (name, value) in headers {
            let Ok(text) = std::str::from_utf8(value) else { continue };
            match name {
                WORKSPACE => wire.workspace = Some(text.to_owned()),
                INTEGRATION => wire.integration_id = Some(text.to_owned()),
                WEBHOOK => wire.webhook_id = Some(text.to_owned()),
                DELIVERY => wire.delivery_id = Some(text.to_owned()),
                ATTEMPT => wire.attempt = text.parse().ok(),
                FIRST_ATTEMPT => wire.first_attempt_ms = text.parse().ok(),
                DUE => wire.due_ms = text.parse().ok(),
                ORIGIN => wire.origin = Some(text.to_owned()),
                ERROR => wire.error = Reason::parse(text),
                STATUS => wire.status = text.parse().ok(),
                REASON => wire.reason = DeadReason::ALL.into_iter().find(|reason| reason.word() == text),
                EVENT_TIME => wire.event_ms = text.parse().ok(),
                _ => {}
            }
        }
        wire
    }

    /// The key of the integration, `<workspace>/<integration id>`, if both are there.
    pub(crate) fn integration_key(&self) -> Option<String> {
        Some(format!("{}/{}", self.workspace.as_ref()?, self.integration_id.as_ref()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_wire() -> impl Strategy<Value = Wire> {
        let text = || prop::option::of("[ -~äß€]{1,20}");
        let ms = || prop::option::of(any::<i64>());
        let ids = (text(), text(), text(), text(), text());
        let numbers = (prop::option::of(any::<u32>()), ms(), ms(), ms(), prop::option::of(any::<u16>()));
        let words = (
            prop::option::of(prop::sample::select(&Reason::ALL[..])),
            prop::option::of(prop::sample::select(&DeadReason::ALL[..])),
        );
        (ids, numbers, words).prop_map(|(ids, numbers, words)| Wire {
            workspace: ids.0,
            integration_id: ids.1,
            webhook_id: ids.2,
            delivery_id: ids.3,
            origin: ids.4,
            attempt: numbers.0,
            first_attempt_ms: numbers.1,
            due_ms: numbers.2,
            event_ms: numbers.3,
            status: numbers.4,
            error: words.0,
            reason: words.1,
        })
    }

    proptest! {
        #[test]
        fn headers_round_trip(wire in any_wire()) {
            let headers = wire.headers();
            let read = Wire::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
            prop_assert_eq!(read, wire);
        }
    }

    #[test]
    fn header_names_are_the_documented_ones() {
        let wire = Wire {
            workspace: Some("w".to_owned()),
            integration_id: Some("i".to_owned()),
            webhook_id: Some("h".to_owned()),
            delivery_id: Some("d".to_owned()),
            attempt: Some(3),
            first_attempt_ms: Some(4),
            due_ms: Some(5),
            origin: Some("t/1/2".to_owned()),
            error: Some(Reason::EchoMismatch),
            status: Some(200),
            reason: Some(DeadReason::Exhausted),
            event_ms: Some(6),
        };
        let headers: Vec<_> = wire.headers().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            headers,
            [
                "workspace=w",
                "hookstream-integration-id=i",
                "hookstream-webhook-id=h",
                "hookstream-delivery-id=d",
                "hookstream-attempt=3",
                "hookstream-first-attempt-ms=4",
                "hookstream-due-ms=5",
                "hookstream-origin=t/1/2",
                "hookstream-error=echo-mismatch",
                "hookstream-status=200",
                "hookstream-reason=exhausted",
                "hookstream-event-ms=6",
            ]
        );
    }

    #[test]
    fn an_unreadable_header_counts_as_missing() {
        let headers = [(ATTEMPT, &b"x"[..]), (WORKSPACE, b"\xff"), (STATUS, b"99999"), ("other", b"1"), (DUE, b"7")];
        let wire = Wire::read(headers.into_iter());
        assert_eq!(wire, Wire { due_ms: Some(7), ..Wire::default() });
    }
}
