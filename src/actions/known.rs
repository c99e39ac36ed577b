//! What a redrive should know before it sends: which deliveries were sent back before, which webhooks are gone, and which
//! integrations are paused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_util::sync::CancellationToken;

use crate::domain::guid;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::topic_names::now_topic;
use crate::kafka::span::SpanError;
use crate::kafka::windows::Windows;
use crate::readers::scan::{Bounds, Watch, walk};
use crate::readers::{ReadError, read_table};
use crate::settings::Settings;

/// Deliveries remembered as sent back: some 100 MB. Further ones are not remembered.
const SENT_MAX: usize = 1_000_000;

/// What is known about the deliveries, webhooks and integrations of dead letters.
pub(crate) struct Known {
    /// By delivery id, when it was last sent back, ms since 1970.
    sent: HashMap<Box<str>, i64>,
    /// By integration key. `None` where the integrations topic could not be read.
    integrations: Option<BTreeMap<String, Registered>>,
}

/// An integration as it is registered now.
struct Registered {
    webhooks: BTreeSet<String>,
    /// Its own status lets it get events.
    delivers: bool,
}

impl Known {
    /// Reads the topic through which records are sent back, as far back as it is kept, and the integrations topic. Blocks for a
    /// bounded time. A missing topic is no error: nothing is known from it.
    ///
    /// # Errors
    /// [`ReadError`]
    pub(crate) fn read(settings: &Settings, bounds: Bounds, stop: &CancellationToken) -> Result<Self, ReadError> {
        Ok(Self { sent: sent(settings, bounds, stop)?, integrations: integrations(settings, stop)? })
    }

    /// Whether the dead letter of `wire`, written at `at_ms`, was sent back after that.
    pub(crate) fn was_sent(&self, wire: &Wire, at_ms: Option<i64>) -> bool {
        let sent = wire.delivery_id.as_deref().and_then(|id| self.sent.get(id));
        sent.is_some_and(|sent| at_ms.is_none_or(|at| *sent >= at))
    }

    /// Whether its webhook is not registered any more, so that nothing is delivered to it.
    pub(crate) fn is_gone(&self, wire: &Wire) -> bool {
        let (Some(by_key), Some(key), Some(webhook)) = (&self.integrations, wire.integration_key(), &wire.webhook_id)
        else {
            return false;
        };
        let integration = by_key.get(&*guid::canonical_key(&key));
        integration.is_none_or(|integration| !integration.webhooks.contains(&*guid::canonical(webhook)))
    }

    /// Whether nothing is delivered to its integration now: its own status is paused, not configured or failed.
    pub(crate) fn is_paused(&self, wire: &Wire) -> bool {
        let (Some(by_key), Some(key)) = (&self.integrations, wire.integration_key()) else { return false };
        by_key.get(&*guid::canonical_key(&key)).is_some_and(|integration| !integration.delivers)
    }
}

fn sent(settings: &Settings, bounds: Bounds, stop: &CancellationToken) -> Result<HashMap<Box<str>, i64>, ReadError> {
    let mut sent: HashMap<Box<str>, i64> = HashMap::new();
    let log = match Windows::open(&settings.kafka, &now_topic(&settings.topics.retry_prefix), "redrive-known") {
        Ok(log) => log,
        Err(SpanError::NoTopic(_)) => return Ok(sent),
        Err(error) => return Err(error.into()),
    };
    let watch = Watch { wanted: &|| !stop.is_cancelled(), progress: &|_| {} };
    let is_whole = walk(&log, log.bounds(), bounds, &watch, &mut |glance| {
        let wire = Wire::read((glance.headers)().into_iter());
        let Some(id) = wire.delivery_id else { return };
        if let Some(at_ms) = sent.get_mut(&*id) {
            *at_ms = (*at_ms).max(glance.timestamp_ms);
        } else if sent.len() < SENT_MAX {
            sent.insert(id.into(), glance.timestamp_ms);
        }
    })?;
    if !is_whole || sent.len() >= SENT_MAX {
        tracing::warn!(known = sent.len(), "the list of what was sent back before is incomplete");
    }
    Ok(sent)
}

fn integrations(
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Option<BTreeMap<String, Registered>>, ReadError> {
    let mut by_key = BTreeMap::new();
    let read =
        read_table(&settings.kafka, &settings.topics.integrations, "redrive-known", &|| !stop.is_cancelled(), |row| {
            let Ok(key) = std::str::from_utf8(row.key) else { return };
            let canonical = guid::canonical_key(key).into_owned();
            match row.value.map(|value| Integration::parse(key, value)) {
                None => drop(by_key.remove(&canonical)),
                Some(Ok(integration)) => {
                    let ids = integration.webhooks().map(Webhook::id).map(|id| guid::canonical(&id).into_owned());
                    let delivers = integration.status().delivers();
                    by_key.insert(canonical, Registered { webhooks: ids.collect(), delivers });
                }
                // The record before it stays in force.
                Some(Err(_)) => {}
            }
        });
    match read {
        Ok(()) => Ok(Some(by_key)),
        Err(ReadError::Topic(SpanError::NoTopic(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(delivery: &str, webhook: &str) -> Wire {
        Wire {
            workspace: Some("ws".to_owned()),
            integration_id: Some("i".to_owned()),
            webhook_id: Some(webhook.to_owned()),
            delivery_id: Some(delivery.to_owned()),
            ..Wire::default()
        }
    }

    #[test]
    fn a_dead_letter_newer_than_its_sending_was_not_sent_back() {
        let known = Known { sent: HashMap::from([("d".into(), 10)]), integrations: None };
        assert!(known.was_sent(&wire("d", "w"), Some(9)));
        assert!(!known.was_sent(&wire("d", "w"), Some(11)));
        assert!(!known.was_sent(&wire("e", "w"), Some(9)));
    }

    #[test]
    fn a_webhook_is_gone_when_the_integrations_are_known_and_do_not_have_it() {
        let known = registered(true);
        assert!(!known.is_gone(&wire("d", "w")));
        assert!(known.is_gone(&wire("d", "x")));
        assert!(known.is_gone(&Wire { integration_id: Some("j".to_owned()), ..wire("d", "w") }));
        let unknown = Known { sent: HashMap::new(), integrations: None };
        assert!(!unknown.is_gone(&wire("d", "x")));
    }

    #[test]
    fn an_integration_is_paused_by_its_own_status_and_not_where_it_is_gone() {
        assert!(registered(false).is_paused(&wire("d", "w")));
        assert!(!registered(true).is_paused(&wire("d", "w")));
        let elsewhere = Wire { integration_id: Some("j".to_owned()), ..wire("d", "w") };
        assert!(!registered(false).is_paused(&elsewhere));
    }

    fn registered(delivers: bool) -> Known {
        let integration = Registered { webhooks: BTreeSet::from(["w".to_owned()]), delivers };
        Known { sent: HashMap::new(), integrations: Some(BTreeMap::from([("ws/i".to_owned(), integration)])) }
    }
}
