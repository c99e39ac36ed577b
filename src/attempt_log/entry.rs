//! The attempt log: what a record says, and how attempts get to the thread that writes them.
//!
//! A record never has a secret or an event's body. A shard hands over what it has and goes on. Where there is no room the attempt is
//! not logged, and that is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::redaction::{Secrets, query_values, repeats, shown_url};
use crate::domain::event::Envelope;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::outcome::Outcome;
use crate::inflight::ended::{Ended, Keep};
use crate::inflight::job::Origin;
use crate::net::cause::Cause;
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// Attempts that wait to be written: what the fastest worker makes in a second.
const WAITING_MAX: usize = 8_192;
/// Bytes of the events that they are about, which an answer is compared with. Apart from what deliveries may hold: a log that
/// falls behind delays no delivery.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Bytes of an answer that are logged: the contract's number.
const ANSWER_BYTES_MAX: usize = 1024;
/// Entities of an event that are logged: a link has two.
const ENTITIES_MAX: usize = 4;
/// Bytes of an entity's id or field name, beyond which it is not logged: well above any real one.
const ENTITY_ID_BYTES_MAX: usize = 200;

/// An attempt to log.
#[derive(Debug)]
pub(crate) struct Entry {
    payload: Bytes,
    is_tick: bool,
    _held: Held,
    integration: Arc<Integration>,
    webhook: usize,
    delivery_id: Box<str>,
    attempt: u32,
    outcome: Outcome,
    took: Duration,
    cause: Option<Cause>,
    address: Option<SocketAddr>,
    answer: Bytes,
    origin: Origin,
    at_ms: i64,
    next_attempt_ms: Option<i64>,
}

/// Bytes of an event that waits with its attempt.
#[derive(Debug)]
struct Held {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    /// Counts the bytes of one event. `None` beyond the bound.
    fn of(waiting: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let held = Self { waiting: Arc::clone(waiting), bytes };
        (before < WAITING_BYTES_MAX).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where shards hand attempts over.
pub(crate) struct AttemptLog {
    all: bool,
    waiting: Arc<AtomicUsize>,
    sender: SyncSender<Entry>,
    metrics: Arc<Metrics>,
}

impl AttemptLog {
    /// A log of that level, and the receiver of its entries. `None` if it is off.
    pub(crate) fn new(level: settings::AttemptLog, metrics: Arc<Metrics>) -> Option<(Self, Receiver<Entry>)> {
        let all = match level {
            settings::AttemptLog::Off => return None,
            settings::AttemptLog::Failures => false,
            settings::AttemptLog::All => true,
        };
        let (sender, receiver) = sync_channel(WAITING_MAX);
        Some((Self { all, waiting: Arc::default(), sender, metrics }, receiver))
    }

    /// Which answers' bodies are kept for the log.
    pub(crate) fn keep(&self) -> Keep {
        if self.all { Keep::All } else { Keep::Failures }
    }

    /// The entry of an attempt that ended, without its answer. `None` where it is not logged, or where too many entries wait.
    pub(crate) fn entry(&self, ended: &Ended<'_>) -> Option<Entry> {
        if !self.all && *ended.outcome == Outcome::Acknowledged {
            return None;
        }
        let delivery = ended.delivery;
        let Some(held) = Held::of(&self.waiting, delivery.event.payload.len()) else {
            self.metrics.health.attempt_log_dropped.inc();
            return None;
        };
        Some(Entry {
            payload: delivery.event.payload.clone(),
            is_tick: delivery.event.is_tick,
            _held: held,
            integration: Arc::clone(&delivery.integration),
            webhook: delivery.webhook,
            delivery_id: delivery.id.clone(),
            attempt: delivery.attempt,
            outcome: *ended.outcome,
            took: ended.took,
            cause: ended.cause.cloned(),
            address: ended.address,
            answer: Bytes::new(),
            origin: delivery.event.origin.clone(),
            at_ms: ended.at_ms,
            next_attempt_ms: ended.next_attempt_ms,
        })
    }

    /// Logs an attempt with the beginning of its answer's body. Never waits.
    pub(crate) fn write(&self, entry: Entry, answer: Bytes) {
        let entry = Entry { answer, ..entry };
        if self.sender.try_send(entry).is_err() {
            self.metrics.health.attempt_log_dropped.inc();
        }
    }
}

/// A record of the attempts topic: the contract's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    delivery_id: &'a str,
    web_hook_id: Option<String>,
    event_id: Option<String>,
    attempt: u32,
    url: Option<String>,
    outcome: &'static str,
    reason: Option<&'static str>,
    error: Option<String>,
    status: Option<u16>,
    duration_ms: u64,
    answer: Option<String>,
    address: Option<SocketAddr>,
    /// `None` for a tick, which does not come from a record.
    origin: Option<String>,
    entity_ids: Option<BTreeMap<String, Value>>,
    next_attempt_at: Option<Timestamp>,
    worker: &'a str,
    at: Timestamp,
}

impl Entry {
    pub(crate) fn key(&self) -> &str {
        self.integration.key()
    }

    /// The record's value. `worker` is the host name of this worker.
    pub(crate) fn record(&self, worker: &str) -> Vec<u8> {
        let webhook = self.integration.webhook(self.webhook);
        let url = webhook.map(Webhook::url);
        let in_url = query_values(url.as_deref().unwrap_or_default());
        let secrets = Secrets::of(self.integration.secret_values().chain(in_url));
        let (outcome, reason, status) = match self.outcome {
            Outcome::Acknowledged => ("acknowledged", None, Some(200)),
            Outcome::Failed { reason, status, .. } => ("failed", Some(reason.word()), status),
        };
        let event_id = Envelope::parse(&self.payload).ok().map(|envelope| envelope.id.into_owned());
        let record = Record {
            delivery_id: &self.delivery_id,
            web_hook_id: webhook.map(Webhook::id),
            event_id: event_id.filter(|_| !self.is_tick),
            attempt: self.attempt,
            url: url.as_deref().map(|url| secrets.masked(&shown_url(url))),
            outcome,
            reason,
            error: self.cause.as_ref().map(|cause| secrets.masked(cause.text())),
            status,
            duration_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            answer: self.shown_answer(&secrets),
            address: self.address,
            origin: (!self.is_tick).then(|| self.origin.to_string()),
            entity_ids: if self.is_tick { None } else { entity_ids(&self.payload) },
            next_attempt_at: self.next_attempt_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            worker,
            at: Timestamp::from_millisecond(self.at_ms).unwrap_or_default(),
        };
        // Text and numbers are always JSON.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// The answer as it may be written down. `None` if it repeats the event.
    fn shown_answer(&self, secrets: &Secrets) -> Option<String> {
        let kept = self.answer.get(..ANSWER_BYTES_MAX.min(self.answer.len())).unwrap_or_default();
        if repeats(kept, &self.payload) {
            return None;
        }
        let text = String::from_utf8_lossy(kept);
        let masked = secrets.masked(text.trim_end_matches(char::REPLACEMENT_CHARACTER));
        // The replacements of a byte that is not text, and of a short secret, are longer than what they replace.
        let mut end = masked.len().min(ANSWER_BYTES_MAX);
        while !masked.is_char_boundary(end) {
            end -= 1;
        }
        masked.get(..end).map(str::to_owned)
    }
}

/// The ids of an event's entities, by field. Values that are not ids are left out, and the number is bounded.
fn entity_ids(event: &[u8]) -> Option<BTreeMap<String, Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entities {
        entity_ids: BTreeMap<String, Value>,
    }
    let Entities { entity_ids } = serde_json::from_slice(event).ok()?;
    let is_id = |value: &Value| match value {
        Value::String(id) => id.len() <= ENTITY_ID_BYTES_MAX,
        Value::Number(_) => true,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    };
    let is_named = |name: &str| name.len() <= ENTITY_ID_BYTES_MAX;
    Some(entity_ids.into_iter().filter(|(name, id)| is_named(name) && is_id(id)).take(ENTITIES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Reason;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::inflight::job::{Delivery, Event, Origin};
    use crate::inflight::pressure::Pressure;
    use serde_json::{Value, json};

    const EVENT: &str = r#"{"id":"e-1","type":"change","entityIds":{"companyId":"a9a2f13c-0d1e-4f2a-8b3c-4d5e6f7a8b9c"},"changeData":{"type":"create","new":{"name":"secretive customer"}}}"#;

    fn delivery() -> Delivery {
        let value = json!({"baseUrl": "https://a.b/x/t0k3n-in-path", "secrets": [
            {"id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
            {"id": "webhook.header.Authorization", "value": "Bearer t0k3n-in-path"}],
            "webHooks": [{"id": "w-1", "relativeUrl": "cb?key=1", "triggerType": "entityEvent"}]});
        let integration = Integration::parse("ws/i-1", value.to_string().as_bytes()).unwrap();
        let origin = Origin { topic: "events".into(), partition: 0, offset: 7 };
        let held = Pressure::new(1_000_000).hold(EVENT.len());
        let event = Event::new(Bytes::from_static(EVENT.as_bytes()), origin, 5, None, held);
        Delivery { attempt: 3, ..Delivery::alone(Arc::new(event), Arc::new(integration), 0, "msg_1".into()) }
    }

    fn log(level: settings::AttemptLog) -> Option<(AttemptLog, Receiver<Entry>)> {
        AttemptLog::new(level, Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap())))
    }

    fn record(level: settings::AttemptLog, outcome: Outcome, answer: &[u8]) -> Option<Value> {
        let (log, entries) = log(level)?;
        let (delivery, answer) = (delivery(), Bytes::copy_from_slice(answer));
        let took = Duration::from_micros(12_900);
        let ended = Ended {
            shard: 0,
            delivery: &delivery,
            outcome: &outcome,
            cause: Some(&Cause::new("the receiver 10.1.2.3:443 said t0k3n-in-path")),
            address: Some("93.184.216.34:443".parse().unwrap()),
            took,
            at_ms: 1_632_827_306_903,
            next_attempt_ms: Some(1_632_827_336_903),
        };
        log.write(log.entry(&ended)?, answer);
        let entry = entries.try_recv().ok()?;
        assert_eq!(entry.key(), "ws/i-1");
        Some(serde_json::from_slice(&entry.record("host-1")).unwrap())
    }

    const FAILED: Outcome = Outcome::Failed { reason: Reason::Status, status: Some(503), retry_after: None };

    #[test]
    fn a_record_says_what_is_documented_and_no_more() {
        let mut expected = json!({
            "deliveryId": "msg_1", "webHookId": "w-1", "eventId": "e-1", "attempt": 3,
            "url": "https://a.b/x/***/cb", "outcome": "failed", "reason": "status", "status": 503,
            "durationMs": 12, "answer": "no: ***", "worker": "host-1", "at": "2021-09-28T11:08:26.903Z",
            "error": "the receiver 10.1.2.3:443 said ***", "address": "93.184.216.34:443", "origin": "events/0/7",
            "entityIds": {"companyId": "a9a2f13c-0d1e-4f2a-8b3c-4d5e6f7a8b9c"}, "nextAttemptAt": "2021-09-28T11:08:56.903Z",
        });
        let answer = b"no: t0k3n-in-path";
        assert_eq!(record(settings::AttemptLog::Failures, FAILED, answer), Some(expected.clone()));
        expected["outcome"] = json!("acknowledged");
        expected["reason"] = Value::Null;
        expected["status"] = json!(200);
        assert_eq!(record(settings::AttemptLog::All, Outcome::Acknowledged, answer), Some(expected));
    }

    #[test]
    fn of_an_event_only_ids_of_a_usual_size_are_logged() {
        let long = "x".repeat(ENTITY_ID_BYTES_MAX + 1);
        let event = json!({"entityIds": {"aId": {"name": "secretive"}, "bId": long, "cId": ["1"], "dId": "d", "eId": 5, "fId": "f",
            "gId": "g", "hId": "h"}});
        let ids = entity_ids(event.to_string().as_bytes()).unwrap();
        assert_eq!(json!(ids), json!({"dId": "d", "eId": 5, "fId": "f", "gId": "g"}));
        assert_eq!(entity_ids(b"no event"), None);
    }

    #[test]
    fn the_level_says_which_attempts_are_logged() {
        assert!(log(settings::AttemptLog::Off).is_none());
        assert_eq!(record(settings::AttemptLog::Failures, Outcome::Acknowledged, b""), None);
        let timed_out = record(settings::AttemptLog::Failures, Outcome::failed(Reason::Timeout), b"").unwrap();
        assert_eq!((&timed_out["reason"], &timed_out["status"]), (&json!("timeout"), &Value::Null));
        assert_eq!(timed_out["answer"], json!(""));
    }

    #[test]
    fn an_answer_that_repeats_the_event_is_left_out_and_a_long_one_is_cut() {
        let echo = json!({"received": EVENT}).to_string();
        assert_eq!(record(settings::AttemptLog::All, FAILED, echo.as_bytes()).unwrap()["answer"], Value::Null);
        let long = "й".repeat(600);
        let shown = record(settings::AttemptLog::All, FAILED, &long.as_bytes()[..1024]).unwrap();
        assert_eq!(shown["answer"], json!("й".repeat(512)));
        let cut = format!("{}Bearer t0k3n", "x".repeat(1012));
        let shown = record(settings::AttemptLog::All, FAILED, cut.as_bytes()).unwrap();
        assert_eq!(shown["answer"].as_str().unwrap().trim_start_matches('x'), "***");
        let binary = record(settings::AttemptLog::All, FAILED, &[0xff; 1024]).unwrap();
        assert!(binary["answer"].as_str().unwrap().len() <= 1024);
    }

    #[test]
    fn waiting_entries_hold_a_bounded_number_of_event_bytes() {
        let waiting = Arc::default();
        let held: Vec<_> = (0..100).map_while(|_| Held::of(&waiting, 1 << 20)).collect();
        assert_eq!(held.len(), WAITING_BYTES_MAX >> 20);
        drop(held);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_room_an_attempt_is_counted_and_not_waited_for() {
        let (log, entries) = log(settings::AttemptLog::Failures).unwrap();
        let delivery = delivery();
        for _ in 0..WAITING_MAX + 3 {
            let ended = Ended {
                shard: 0,
                delivery: &delivery,
                outcome: &FAILED,
                cause: None,
                address: None,
                took: Duration::ZERO,
                at_ms: 0,
                next_attempt_ms: None,
            };
            log.write(log.entry(&ended).unwrap(), Bytes::new());
        }
        assert_eq!(log.metrics.health.attempt_log_dropped.get(), 3);
        assert_eq!(entries.try_iter().count(), WAITING_MAX);
    }
}
