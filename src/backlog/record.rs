//! A record of the backlog topic: the place of one webhook in one partition of the events topic. No Kafka client here.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::domain::outcome::BehindReason;
use crate::inflight::settled_runs::ClusterTag;

/// The version that is written.
const VERSION: u32 = 1;
/// The header of a record without a value: the epoch of the owner that removed the place.
pub(crate) const EPOCH_HEADER: &str = "hookstream-epoch";

/// A place as it stands in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaceRecord {
    version: u32,
    /// The consumer group whose place it is.
    pub(crate) group: String,
    /// The partition of the events topic.
    pub(crate) partition: i32,
    /// `<workspace>/<integration id>`
    pub(crate) integration: String,
    /// The webhook's id.
    pub(crate) web_hook: String,
    /// The first offset that the webhook still has to get.
    pub(crate) offset: i64,
    /// Which of the offsets from there on. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<Exact>,
    /// Why it is behind: a word of [`BehindReason`].
    pub(crate) reason: String,
    /// Since when, ms since 1970.
    pub(crate) since_ms: i64,
    /// The epoch of the owner that wrote it: of two writes the one with the higher epoch counts.
    pub(crate) epoch: i64,
}

/// What a place says beyond its first offset. Tools that move places to another cluster, and older versions, know `offset`
/// only. So it is bound to the cluster and to that offset, and counts nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exact {
    /// `<cluster>.<offset>`
    of: String,
    /// The offsets that the webhook still has to get, as runs from the first one on: a gap and a length for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    todo: Vec<i64>,
    /// And everything from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
    /// The writer has requests to the webhook under way. For this long at most, in ms, no other owner gives the webhook anything. Without
    /// it there are no such requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold_ms: Option<i64>,
}

/// The key of a place's record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceKey<'a> {
    /// The consumer group.
    pub(crate) group: &'a str,
    /// The partition of the events topic.
    pub(crate) partition: i32,
    /// `<workspace>/<integration id>`
    pub(crate) integration: &'a str,
    /// The webhook's id.
    pub(crate) web_hook: &'a str,
}

impl std::fmt::Display for PlaceKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}/{}", self.group, self.partition, self.integration, self.web_hook)
    }
}

impl PlaceRecord {
    /// A place to write: everything from its first offset on.
    pub(crate) fn new(key: PlaceKey<'_>, place: &Place, reason: BehindReason, since_ms: i64, epoch: i64) -> Self {
        Self {
            version: VERSION,
            group: key.group.to_owned(),
            partition: key.partition,
            integration: key.integration.to_owned(),
            web_hook: key.web_hook.to_owned(),
            offset: place.first().unwrap_or_default(),
            exact: None,
            reason: reason.word().to_owned(),
            since_ms,
            epoch,
        }
    }

    /// Adds what the place says beyond its first offset. A place that is held is held for `hold_ms` at most.
    pub(crate) fn exactly(mut self, place: &Place, cluster: ClusterTag, hold_ms: i64) -> Self {
        self.exact = Some(Exact {
            of: self.binding(cluster),
            todo: place.runs(),
            next: place.next(),
            hold_ms: place.is_held.then_some(hold_ms),
        });
        self
    }

    fn binding(&self, cluster: ClusterTag) -> String {
        format!("{cluster}.{}", self.offset)
    }

    fn exact(&self, cluster: Option<ClusterTag>) -> Option<&Exact> {
        let exact = self.exact.as_ref()?;
        (exact.of == self.binding(cluster?)).then_some(exact)
    }

    /// What the webhook still has to get, on this cluster. One that can't be read counts as everything from its first offset on.
    pub(crate) fn place(&self, cluster: Option<ClusterTag>) -> Place {
        let exact = self.exact(cluster).and_then(|exact| Place::of_runs(self.offset, &exact.todo, exact.next));
        let mut place = exact.filter(|place| !place.is_none()).unwrap_or_else(|| Place::from(self.offset));
        place.is_held = self.hold_ms(cluster).is_some();
        place
    }

    /// For how long at most no other owner gives the webhook anything, in ms, because the writer has requests under way. `None` if it has
    /// none.
    pub(crate) fn hold_ms(&self, cluster: Option<ClusterTag>) -> Option<i64> {
        self.exact(cluster)?.hold_ms
    }

    /// Why the webhook is behind. A word that is not known here counts as [`BehindReason::LaneFull`], which expires nothing.
    pub(crate) fn reason(&self) -> BehindReason {
        let known = BehindReason::ALL.into_iter().find(|reason| reason.word() == self.reason);
        known.unwrap_or(BehindReason::LaneFull)
    }

    /// The record's value.
    pub(crate) fn value(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The places of one group, put together from the topic's records in their order.
#[derive(Debug, Default)]
pub(crate) struct PlaceTable {
    places: HashMap<Vec<u8>, PlaceRecord>,
    /// The highest epoch of any record read.
    pub(crate) epoch: i64,
    /// The cluster that it was read from. `None` if the brokers do not say.
    pub(crate) cluster: Option<ClusterTag>,
}

impl PlaceTable {
    /// An empty one, of that cluster.
    pub(crate) fn on(cluster: Option<ClusterTag>) -> Self {
        Self { cluster, ..Self::default() }
    }

    /// Takes a record. One without a value has the epoch of its writer in a header: `removed_by`. One that can't be read is an
    /// error, and changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn take(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        removed_by: Option<i64>,
    ) -> Result<(), serde_json::Error> {
        let Some(value) = value else {
            let is_late = |known: &PlaceRecord| removed_by.is_some_and(|epoch| epoch < known.epoch);
            if !self.places.get(key).is_some_and(is_late) {
                self.places.remove(key);
            }
            return Ok(());
        };
        let record: PlaceRecord = serde_json::from_slice(value)?;
        self.epoch = self.epoch.max(record.epoch);
        // A former owner's write that came late.
        if self.places.get(key).is_none_or(|known| known.epoch <= record.epoch) {
            self.places.insert(key.to_vec(), record);
        }
        Ok(())
    }

    /// The places there are.
    pub(crate) fn places(&self) -> impl Iterator<Item = &PlaceRecord> {
        self.places.values()
    }

    /// The places in these partitions of the events topic.
    pub(crate) fn of(&self, partitions: &[i32]) -> Self {
        let of = self.places.iter().filter(|(_, place)| partitions.contains(&place.partition));
        let places = of.map(|(key, place)| (key.clone(), place.clone())).collect();
        Self { places, epoch: self.epoch, cluster: self.cluster }
    }

    /// The places there are.
    pub(crate) fn into_places(self) -> impl Iterator<Item = PlaceRecord> {
        self.places.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PlaceKey<'_> = PlaceKey { group: "g", partition: 3, integration: "ws/i", web_hook: "w" };

    const REASON: BehindReason = BehindReason::CircuitOpen;
    const SINCE_MS: i64 = 7;

    fn record(offset: i64, epoch: i64) -> String {
        PlaceRecord::new(KEY, &Place::from(offset), REASON, SINCE_MS, epoch).value()
    }

    fn exact(place: &Place, cluster: ClusterTag) -> String {
        PlaceRecord::new(KEY, place, REASON, SINCE_MS, 1).exactly(place, cluster, 25_000).value()
    }

    #[test]
    fn a_place_with_single_offsets_reads_back_and_says_whether_it_is_held() {
        let cluster = ClusterTag::of("here");
        let mut held = Place::new([5, 6, 9].into_iter(), Some(20));
        held.is_held = true;
        let record: PlaceRecord = serde_json::from_str(&exact(&held, cluster)).unwrap();
        assert_eq!((record.place(Some(cluster)), record.offset), (held, 5));
        assert_eq!(record.hold_ms(Some(cluster)), Some(25_000));
        let of_a_current_webhook = Place::new([5].into_iter(), None);
        let record: PlaceRecord = serde_json::from_str(&exact(&of_a_current_webhook, cluster)).unwrap();
        assert_eq!((record.place(Some(cluster)), record.hold_ms(Some(cluster))), (of_a_current_webhook, None));
    }

    #[test]
    fn a_place_that_was_moved_is_everything_from_its_offset_on_and_is_not_held() {
        let (here, there) = (ClusterTag::of("here"), ClusterTag::of("there"));
        let mut held = Place::new([5, 6, 9].into_iter(), Some(20));
        held.is_held = true;
        let record: PlaceRecord = serde_json::from_str(&exact(&held, here)).unwrap();
        assert_eq!(record.place(Some(there)), Place::from(5), "on another cluster");
        assert_eq!(record.place(None), Place::from(5), "on a cluster that has no id");
        let translated = exact(&held, here).replace("\"offset\":5", "\"offset\":3");
        let record: PlaceRecord = serde_json::from_str(&translated).unwrap();
        assert_eq!(record.place(Some(here)), Place::from(3), "the offset was translated");
        let record: PlaceRecord = serde_json::from_str(&record_of_the_first_release()).unwrap();
        assert_eq!(record.place(Some(here)), Place::from(5));
    }

    fn record_of_the_first_release() -> String {
        let text = r#"{"version":1,"group":"g","partition":3,"integration":"ws/i","webHook":"w","offset":5,"reason":"lane-full","sinceMs":7,"epoch":1}"#;
        text.to_owned()
    }

    #[test]
    fn a_place_that_a_former_owner_removes_late_stays() {
        let mut table = PlaceTable::default();
        table.take(b"k", Some(record(5, 2).as_bytes()), None).unwrap();
        table.take(b"k", None, Some(1)).unwrap();
        assert_eq!(table.places.len(), 1);
        table.take(b"k", None, Some(2)).unwrap();
        assert_eq!(table.places.len(), 0);
    }

    #[test]
    fn a_place_reads_back_and_says_whose_it_is() {
        let mut table = PlaceTable::default();
        table.take(KEY.to_string().as_bytes(), Some(record(5, 1).as_bytes()), None).unwrap();
        let place = table.into_places().next().unwrap();
        assert_eq!((place.offset, place.since_ms, place.reason()), (5, 7, BehindReason::CircuitOpen));
        assert_eq!((&*place.group, place.partition, &*place.integration, &*place.web_hook), ("g", 3, "ws/i", "w"));
        assert_eq!(KEY.to_string(), "g/3/ws/i/w");
    }

    #[test]
    fn a_late_write_of_a_former_owner_changes_nothing() {
        let mut table = PlaceTable::default();
        for (offset, epoch) in [(5, 1), (9, 1), (4, 2), (11, 1)] {
            table.take(b"k", Some(record(offset, epoch).as_bytes()), None).unwrap();
        }
        assert_eq!(table.places.values().next().unwrap().offset, 4);
        assert_eq!(table.epoch, 2);
        table.take(b"k", None, None).unwrap();
        assert_eq!(table.places.len(), 0);
    }

    #[test]
    fn an_unreadable_record_changes_nothing() {
        let mut table = PlaceTable::default();
        table.take(b"k", Some(record(5, 1).as_bytes()), None).unwrap();
        assert!(table.take(b"k", Some(b"{}"), None).is_err());
        assert_eq!(table.places.len(), 1);
    }
}
