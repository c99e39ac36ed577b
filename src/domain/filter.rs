//! Filter items: which events a webhook subscribed to, packed so that comparing one costs a few instructions.

use super::entity::{ENTITY_MASK, Entity, EntityType};

/// The word in an event's `type`, as one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventWord(u8);

/// The word in `changeData.type`, as one bit; link and unlink have [`ChangeWord::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeWord(u8);

/// Words that a filter item's `eventType` accepts.
pub(crate) const EVENT_WORDS: [&str; 3] = ["change", "link", "unlink"];
/// Words that a filter item's `changeType` accepts.
pub(crate) const CHANGE_WORDS: [&str; 4] = ["create", "patch", "delete", "restore"];

/// All of [`EVENT_WORDS`] and the bit of unknown words.
const ANY_EVENT: u8 = 0b1111;
/// All of [`CHANGE_WORDS`], [`ChangeWord::NONE`] and the bit of unknown words.
const ANY_CHANGE: u8 = 0b11_1111;
/// The entity part of an item that takes any entity.
const ANY_ENTITY: u64 = 0;

fn bit_of(word: &str, words: &[&str]) -> Option<u8> {
    words.iter().position(|known| known.eq_ignore_ascii_case(word)).map(|index| 1 << index)
}

impl EventWord {
    /// Reads a word, without case. An unknown one matches only items that name no event type.
    pub(crate) fn parse(word: &str) -> Self {
        Self(bit_of(word, &EVENT_WORDS).unwrap_or(0b1000))
    }

    /// Whether this is one of [`EVENT_WORDS`].
    pub(crate) fn is_known(self) -> bool {
        self.0 != 0b1000
    }
}

impl ChangeWord {
    /// No change: link, unlink, or an event without `changeData.type`.
    pub(crate) const NONE: Self = Self(0b1_0000);

    /// Reads a word, without case. An unknown one matches only items that name no change type.
    pub(crate) fn parse(word: &str) -> Self {
        Self(bit_of(word, &CHANGE_WORDS).unwrap_or(0b10_0000))
    }

    /// Whether this is one of [`CHANGE_WORDS`].
    pub(crate) fn is_known(self) -> bool {
        self.0 < Self::NONE.0
    }
}

impl Default for ChangeWord {
    fn default() -> Self {
        Self::NONE
    }
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct EventFacts<'a> {
    /// `type`
    pub(crate) event: EventWord,
    /// `changeData.type`
    pub(crate) change: ChangeWord,
    /// The entities of `entityIds`.
    pub(crate) entities: &'a [Entity],
}

impl EventFacts<'_> {
    /// A bit for each of its entities: an item whose [`FilterItem::interest`] has no such bit does not match.
    pub(crate) fn interest(&self) -> u64 {
        self.entities.iter().fold(0, |bits, entity| bits | entity.entity_type.bit())
    }
}

/// One filter item: event mask in bits 60.., change mask in bits 52.., entity hash below. In two halves, so that it needs no
/// padding next to a `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilterItem([u32; 2]);

impl FilterItem {
    /// An item from the words of a record; a missing word matches anything, an unknown one nothing.
    pub(crate) fn new(event: Option<&str>, entity: Option<&str>, change: Option<&str>) -> Self {
        let event_mask = event.map_or(ANY_EVENT, |word| bit_of(word, &EVENT_WORDS).unwrap_or(0));
        let change_mask = change.map_or(ANY_CHANGE, |word| bit_of(word, &CHANGE_WORDS).unwrap_or(0));
        // An item with a change type never matches link or unlink, whatever such an event carries as changeData.
        let event_mask = if change.is_some() { event_mask & !0b110 } else { event_mask };
        let entity_hash = entity.map_or(ANY_ENTITY, |name| EntityType::of(name).0);
        let bits = u64::from(event_mask) << 60 | u64::from(change_mask) << 52 | entity_hash;
        Self([u32::try_from(bits >> 32).unwrap_or(0), u32::try_from(bits & 0xffff_ffff).unwrap_or(0)])
    }

    fn bits(self) -> u64 {
        u64::from(self.0[0]) << 32 | u64::from(self.0[1])
    }

    /// The bit of the entity type it wants, or all if it takes any.
    pub(crate) fn interest(self) -> u64 {
        match self.bits() & ENTITY_MASK {
            ANY_ENTITY => u64::MAX,
            wanted => EntityType(wanted).bit(),
        }
    }

    /// Whether every field the item has matches the event.
    #[inline]
    pub(crate) fn matches(self, facts: &EventFacts<'_>) -> bool {
        let bits = self.bits();
        let wanted = bits & ENTITY_MASK;
        bits >> 60 & u64::from(facts.event.0) != 0
            && bits >> 52 & u64::from(facts.change.0) != 0
            && (wanted == ANY_ENTITY || facts.entities.iter().any(|entity| entity.entity_type.0 == wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(event: &str, change: Option<&str>, entities: &'a [Entity]) -> EventFacts<'a> {
        EventFacts {
            event: EventWord::parse(event),
            change: change.map_or(ChangeWord::NONE, ChangeWord::parse),
            entities,
        }
    }

    fn entities(names: &[&str]) -> Vec<Entity> {
        names.iter().map(|name| Entity { entity_type: EntityType::of(name), order_key: None }).collect()
    }

    #[track_caller]
    fn check(item: [Option<&str>; 3], event: &str, change: Option<&str>, names: &[&str], expected: bool) {
        let [event_type, entity_type, change_type] = item;
        let entities = entities(names);
        let got = FilterItem::new(event_type, entity_type, change_type).matches(&facts(event, change, &entities));
        assert_eq!(got, expected, "{item:?} on {event} {change:?} {names:?}");
    }

    #[test]
    fn a_missing_field_matches_anything() {
        check([None, None, None], "change", Some("patch"), &["company"], true);
        check([None, None, None], "link", None, &["a", "b"], true);
        check([None, None, None], "surprise", Some("merge"), &["a"], true);
        check([None, Some("contact"), None], "unlink", None, &["company", "contact"], true);
        check([None, Some("contact"), None], "change", Some("delete"), &["company"], false);
    }

    #[test]
    fn words_compare_without_case() {
        check([Some("CHANGE"), Some("CatalogITEM"), Some("Patch")], "Change", Some("PATCH"), &["catalogItem"], true);
        check([None, Some("ÄRZTE"), None], "change", None, &["ärzte"], true);
    }

    #[test]
    fn an_item_with_a_change_type_never_matches_link_or_unlink() {
        check([None, None, Some("patch")], "link", None, &["a", "b"], false);
        check([None, None, Some("patch")], "unlink", Some("patch"), &["a", "b"], false);
        check([Some("link"), None, Some("patch")], "link", Some("patch"), &["a", "b"], false);
        check([None, None, Some("patch")], "change", None, &["a"], false);
    }

    #[test]
    fn unknown_words_in_an_item_match_nothing() {
        check([Some("surprise"), None, None], "surprise", None, &["a"], false);
        check([None, None, Some("merge")], "change", Some("merge"), &["a"], false);
    }
}
