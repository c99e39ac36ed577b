//! What waits: retries in their tiers, and places of webhooks that are behind in the events topic.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::scan::Span;
use super::{ReadError, read_table, time};
use crate::backlog::record::PlaceRecord;
use crate::domain::guid::canonical_key;
use crate::domain::headers::Wire;
use crate::domain::outcome::Reason;
use crate::domain::topic_names::{now_topic, retry_group, tier_delay};
use crate::kafka::groups::committed;
use crate::kafka::span::{Range, SpanError};
use crate::kafka::table_reader::CompactedError;
use crate::kafka::windows::Glance;
use crate::settings::Settings;

/// A retry that waits in a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WaitingRetry {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Since when it waits.
    pub(crate) since: Option<String>,
    /// When it falls due: its delay after the broker has appended it.
    pub(crate) due_at: Option<String>,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// Why the last one failed.
    pub(crate) error: Option<&'static str>,
    #[serde(skip)]
    pub(crate) since_ms: i64,
    #[serde(skip)]
    pub(crate) wire: Wire,
}

impl WaitingRetry {
    fn of(topic: &str, delay_ms: i64, glance: &Glance<'_>, wire: Wire) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: glance.partition,
            offset: glance.offset,
            since: time(glance.timestamp_ms),
            due_at: time(glance.timestamp_ms.saturating_add(delay_ms)),
            attempts: wire.attempt.unwrap_or_default(),
            error: wire.error.map(Reason::word),
            since_ms: glance.timestamp_ms,
            wire,
        }
    }
}

/// A tier that exists.
pub(crate) struct Tier {
    topic: String,
    delay_ms: i64,
    committed: BTreeMap<i32, i64>,
}

impl Tier {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The part of its log that waits. `None` if no record waits.
    pub(crate) fn waiting(&self, bounds: &[Range]) -> Option<Span> {
        let waits = |range: &Range| self.committed.get(&range.partition).is_none_or(|committed| *committed < range.end);
        let is_waiting = bounds.iter().any(|range| !range.is_empty() && waits(range));
        is_waiting.then(|| Span { floors: self.committed.clone(), ..Span::default() })
    }

    /// Whether the workers have read the record at that place.
    pub(crate) fn is_read(&self, partition: i32, offset: i64) -> bool {
        self.committed.get(&partition).is_some_and(|committed| offset < *committed)
    }

    /// The retry in a record.
    pub(crate) fn retry(&self, glance: &Glance<'_>, wire: Wire) -> WaitingRetry {
        WaitingRetry::of(&self.topic, self.delay_ms, glance, wire)
    }
}

/// Every tier that exists, with its committed offsets. A retry that moves on meanwhile is in a later tier or a dead letter: so a caller
/// asks this before it opens those topics. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn tiers(settings: &Settings) -> Result<Vec<Tier>, ReadError> {
    let prefix = &settings.topics.retry_prefix;
    let now = now_topic(prefix);
    let delay_of =
        |topic: &str| if topic == now { Some(0) } else { tier_delay(topic, prefix).map(|it| it.as_millis()) };
    let group = retry_group(&settings.kafka.group);
    let committed = committed(&settings.kafka, &group, "waiting-reader", &|topic| delay_of(topic).is_some())?;
    let tiers = committed.into_iter().map(|(topic, committed)| {
        let delay_ms = delay_of(&topic).and_then(|ms| i64::try_from(ms).ok()).unwrap_or_default();
        Tier { topic, delay_ms, committed }
    });
    Ok(tiers.collect())
}

/// A webhook's place in a partition of the events topic: it has been given everything before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    pub(crate) workspace: String,
    pub(crate) integration_id: String,
    pub(crate) web_hook_id: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// `lane-full` or `circuit-open`.
    pub(crate) reason: Option<String>,
    /// Since when it is behind.
    pub(crate) since: Option<String>,
}

impl Place {
    /// The place in a record of the backlog topic that a worker of `group` wrote.
    pub(crate) fn of(group: &str, key: &[u8], value: &[u8]) -> Option<Self> {
        let (partition, workspace, integration, webhook) = Self::parts(group, key)?;
        let record: PlaceRecord = serde_json::from_slice(value).ok()?;
        Some(Self {
            workspace: workspace.to_owned(),
            integration_id: integration.to_owned(),
            web_hook_id: webhook.to_owned(),
            partition: partition.parse().ok()?,
            offset: record.offset,
            since: time(record.since_ms),
            reason: Some(record.reason),
        })
    }

    /// The parts of a key that a worker of `group` wrote: partition, workspace, integration and webhook.
    fn parts<'a>(group: &str, key: &'a [u8]) -> Option<(&'a str, &'a str, &'a str, &'a str)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(group)?.strip_prefix('/')?;
        let (partition, key) = key.split_once('/')?;
        let (workspace, key) = key.split_once('/')?;
        let (integration, webhook) = key.rsplit_once('/')?;
        Some((partition, workspace, integration, webhook))
    }

    /// The integration's key, `<workspace>/<id>`, of a key of the backlog topic.
    pub(crate) fn integration_of(group: &str, key: &[u8]) -> Option<String> {
        let (_, workspace, integration, _) = Self::parts(group, key)?;
        Some(canonical_key(&format!("{workspace}/{integration}")).into_owned())
    }

    fn since_ms(&self) -> Option<i64> {
        Some(self.since.as_deref()?.parse::<Timestamp>().ok()?.as_millisecond())
    }
}

/// The time since which the webhook that is behind the longest is behind.
pub(crate) fn behind_since<'a>(places: impl Iterator<Item = &'a Place>) -> Option<String> {
    places.filter_map(Place::since_ms).min().and_then(time)
}

/// By integration (`<workspace>/<id>`), since when a webhook of it is behind. `meant` selects by that key. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn behind_by_integration(
    settings: &Settings,
    wanted: &dyn Fn() -> bool,
    meant: &dyn Fn(&[u8]) -> bool,
) -> Result<BTreeMap<String, String>, ReadError> {
    let mut by_key: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for place in places(settings, wanted, &|_| true)? {
        let key = canonical_key(&format!("{}/{}", place.workspace, place.integration_id)).into_owned();
        if meant(key.as_bytes()) {
            by_key.entry(key).or_default().push(place);
        }
    }
    Ok(by_key.into_iter().filter_map(|(key, places)| Some((key, behind_since(places.iter())?))).collect())
}

/// The places of webhooks that are behind and that `meant` takes. A missing topic has none. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn places(
    settings: &Settings,
    wanted: &dyn Fn() -> bool,
    meant: &dyn Fn(&Place) -> bool,
) -> Result<Vec<Place>, ReadError> {
    let mut places = Places::new(&settings.kafka.group, meant);
    let read = read_table(&settings.kafka, &settings.topics.backlog, "backlog-reader", wanted, |row| {
        places.take(row.key, row.value);
    });
    match read {
        Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_)) | ReadError::Table(CompactedError::NoTopic(_))) => {
            Ok(places.all().collect())
        }
        Err(error) => Err(error),
    }
}

/// The places of one group that `meant` takes, out of the records of the backlog topic.
pub(crate) struct Places<'a> {
    group: &'a str,
    meant: &'a dyn Fn(&Place) -> bool,
    by_key: BTreeMap<Vec<u8>, Place>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(group: &'a str, meant: &'a dyn Fn(&Place) -> bool) -> Self {
        Self { group, meant, by_key: BTreeMap::new() }
    }

    /// Takes the next record of a key.
    pub(crate) fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        let place = value.and_then(|value| Place::of(self.group, key, value)).filter(|place| (self.meant)(place));
        match place {
            Some(place) => self.by_key.insert(key.to_vec(), place),
            None => self.by_key.remove(key),
        };
    }

    /// The places that are left: those of webhooks that are behind.
    pub(crate) fn all(self) -> impl Iterator<Item = Place> {
        self.by_key.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::place::Place as Offsets;
    use crate::backlog::record::PlaceKey;
    use crate::domain::outcome::BehindReason;

    /// A record as a worker writes it.
    fn written(group: &str, since_ms: i64) -> (String, String) {
        let key = PlaceKey { group, partition: 7, integration: "acme/i-1", web_hook: "w-1" };
        let place = Offsets::new(std::iter::empty(), Some(42));
        let record = PlaceRecord::new(key, &place, BehindReason::CircuitOpen, since_ms, 3);
        (key.to_string(), record.value())
    }

    #[test]
    fn a_place_is_read_as_a_worker_writes_it_and_only_of_the_own_group() {
        let (key, value) = written("hooks/eu", 1_632_827_306_903);
        let place = Place::of("hooks/eu", key.as_bytes(), value.as_bytes()).unwrap();
        let ids = (place.workspace.as_str(), place.integration_id.as_str(), place.web_hook_id.as_str());
        assert_eq!((ids, place.partition, place.offset), (("acme", "i-1", "w-1"), 7, 42));
        assert_eq!(place.reason.as_deref(), Some("circuit-open"));
        assert_eq!(place.since.as_deref(), Some("2021-09-28T11:08:26.903Z"));
        assert_eq!(Place::integration_of("hooks/eu", key.as_bytes()).as_deref(), Some("acme/i-1"));
        for other in ["hooks/7/acme/i-1/w-1", "hooks/eu2/7/acme/i-1/w-1", "hooks/eu/x/acme/i-1/w-1", "hooks/eu/7/acme"]
        {
            assert_eq!(Place::of("hooks/eu", other.as_bytes(), value.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn an_integration_is_behind_since_the_oldest_of_its_places() {
        let places = [1_700_000_002_000, 1_700_000_000_500, 1_700_000_001_000].map(|since_ms| {
            let (key, value) = written("g", since_ms);
            Place::of("g", key.as_bytes(), value.as_bytes()).unwrap()
        });
        assert_eq!(behind_since(places.iter()).as_deref(), Some("2023-11-14T22:13:20.500Z"));
        assert_eq!(behind_since(std::iter::empty()), None);
    }
}
