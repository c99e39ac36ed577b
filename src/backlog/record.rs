//! A record of the backlog topic: the place of one webhook in one partition of the events topic. No Kafka client here.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::domain::outcome::BehindReason;

/// The version that is written. The first one had only `offset`: everything from there on. It reads what is written now as that.
const VERSION: u32 = 2;

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
    /// The first offset that the webhook is to be given.
    pub(crate) offset: i64,
    /// The offsets that it is to be given, as runs from `offset` on: gap and length in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    todo: Vec<i64>,
    /// And everything from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
    /// For how long at most its writer has requests under way and nobody else gives it anything, in ms; none: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_ms: Option<i64>,
    /// Why it is behind: a word of [`BehindReason`].
    pub(crate) reason: String,
    /// Since when, ms since 1970.
    pub(crate) since_ms: i64,
    /// Of the owner of the partition that wrote it: of two writes the higher one counts.
    pub(crate) epoch: i64,
}

/// What names a place: its record's key.
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
    /// A place to write. If it is held, it is for `hold_ms` at most.
    pub(crate) fn new(
        key: PlaceKey<'_>,
        (place, hold_ms): (&Place, i64),
        (reason, since_ms): (BehindReason, i64),
        epoch: i64,
    ) -> Self {
        Self {
            version: VERSION,
            group: key.group.to_owned(),
            partition: key.partition,
            integration: key.integration.to_owned(),
            web_hook: key.web_hook.to_owned(),
            offset: place.first().unwrap_or_default(),
            todo: place.runs(),
            next: place.next(),
            hold_ms: place.is_held.then_some(hold_ms),
            reason: reason.word().to_owned(),
            since_ms,
            epoch,
        }
    }

    /// What the webhook is to be given. One that can't be read counts as everything from its first offset on.
    pub(crate) fn place(&self) -> Place {
        let has_runs = self.version >= VERSION;
        let place = has_runs.then(|| Place::of_runs(self.offset, &self.todo, self.next)).flatten();
        let mut place = place.filter(|place| !place.is_none()).unwrap_or_else(|| Place::from(self.offset));
        place.is_held = self.hold_ms.is_some();
        place
    }

    /// Why the webhook is behind. A word that is not known here counts as the harmless one.
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
}

impl PlaceTable {
    /// Takes a record. One that can't be read is an error, and changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let Some(value) = value else {
            self.places.remove(key);
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
        Self { places: of.map(|(key, place)| (key.clone(), place.clone())).collect(), epoch: self.epoch }
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

    fn record(offset: i64, epoch: i64) -> String {
        PlaceRecord::new(KEY, (&Place::from(offset), 0), (BehindReason::CircuitOpen, 7), epoch).value()
    }

    #[test]
    fn a_place_with_single_offsets_reads_back_and_says_whether_it_is_held() {
        let mut place = Place::new([5, 6, 9].into_iter(), Some(20));
        place.is_held = true;
        let record = PlaceRecord::new(KEY, (&place, 25_000), (BehindReason::LaneFull, 7), 1);
        let record: PlaceRecord = serde_json::from_str(&record.value()).unwrap();
        assert_eq!((record.place(), record.offset, record.hold_ms), (place, 5, Some(25_000)));
        let current = Place::new([5].into_iter(), None);
        assert_eq!(PlaceRecord::new(KEY, (&current, 0), (BehindReason::LaneFull, 7), 1).place(), current);
    }

    #[test]
    fn a_place_of_the_first_version_is_everything_from_its_offset_on() {
        let first = record(5, 1).replace("\"version\":2", "\"version\":1").replace(",\"next\":5", "");
        assert!(!first.contains("next"), "{first}");
        let record: PlaceRecord = serde_json::from_str(&first).unwrap();
        assert_eq!(record.place(), Place::from(5));
    }

    #[test]
    fn a_place_reads_back_and_says_whose_it_is() {
        let mut table = PlaceTable::default();
        table.take(KEY.to_string().as_bytes(), Some(record(5, 1).as_bytes())).unwrap();
        let place = table.into_places().next().unwrap();
        assert_eq!((place.offset, place.since_ms, place.reason()), (5, 7, BehindReason::CircuitOpen));
        assert_eq!((&*place.group, place.partition, &*place.integration, &*place.web_hook), ("g", 3, "ws/i", "w"));
        assert_eq!(KEY.to_string(), "g/3/ws/i/w");
    }

    #[test]
    fn a_late_write_of_a_former_owner_changes_nothing() {
        let mut table = PlaceTable::default();
        for (offset, epoch) in [(5, 1), (9, 1), (4, 2), (11, 1)] {
            table.take(b"k", Some(record(offset, epoch).as_bytes())).unwrap();
        }
        assert_eq!(table.places.values().next().unwrap().offset, 4);
        assert_eq!(table.epoch, 2);
        table.take(b"k", None).unwrap();
        assert_eq!(table.places.len(), 0);
    }

    #[test]
    fn a_record_that_can_not_be_read_changes_nothing() {
        let mut table = PlaceTable::default();
        table.take(b"k", Some(record(5, 1).as_bytes())).unwrap();
        assert!(table.take(b"k", Some(b"{}")).is_err());
        assert_eq!(table.places.len(), 1);
    }
}
