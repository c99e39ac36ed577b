//! The envelope of an ObjectEvent: what matching and ordering need, borrowed from the record and parsed once.
//!
//! The body itself is never changed or written again: receivers get the bytes as they are in Kafka.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::entity::Entity;
use super::event_scan::{Fields, scan};
use super::filter::{ChangeWord, EventFacts, EventWord};
use super::text::{Loose, Text};

/// How the ids of the events in test deliveries begin.
pub(crate) const TEST_PREFIX: &str = "test-";

/// What the service reads of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The event's own id.
    pub(crate) id: Cow<'a, str>,
    /// `type`: change, link, unlink, or a word this version does not know.
    pub(crate) event: EventWord,
    /// `changeData.type`; a variant of its own where it is missing.
    pub(crate) change: ChangeWord,
    /// The ids in `entityIds`: at least one.
    pub(crate) entities: Vec<Entity>,
}

/// Why a record's value is not a valid event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// Not UTF-8.
    #[error("the value is not UTF-8")]
    NotUtf8,
    /// Not JSON, not an object, or a field of the wrong type.
    #[error("the value is not an event: {0}")]
    Malformed(String),
    /// A needed field is missing.
    #[error("the event has no `{0}`")]
    Missing(&'static str),
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of `value`, checking all of it as UTF-8 and as JSON.
    ///
    /// # Errors
    /// [`InvalidEvent`] unless `value` is a JSON object with `id`, `type` and a non-empty `entityIds`.
    pub fn parse(value: &'a [u8]) -> Result<Self, InvalidEvent> {
        Self::read(value, |text| scan(text).map_or_else(|| Fields::parse(text), Ok))
    }

    /// The same without the fast path.
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn parse_by_library(value: &'a [u8]) -> Result<Self, InvalidEvent> {
        Self::read(value, Fields::parse)
    }

    fn read(
        value: &'a [u8],
        fields: impl FnOnce(&'a str) -> Result<Fields<'a>, InvalidEvent>,
    ) -> Result<Self, InvalidEvent> {
        let text = simdutf8::basic::from_utf8(value).map_err(|_invalid| InvalidEvent::NotUtf8)?;
        let fields = fields(text)?;
        let id = fields.id.ok_or(InvalidEvent::Missing("id"))?;
        let event = fields.event.ok_or(InvalidEvent::Missing("type"))?;
        if fields.entities.is_empty() {
            return Err(InvalidEvent::Missing("entityIds"));
        }
        Ok(Self { id, event, change: fields.change, entities: fields.entities })
    }

    /// What filters compare.
    pub fn facts(&self) -> EventFacts<'_> {
        EventFacts { event: self.event, change: self.change, entities: &self.entities }
    }

    /// The hashes that order first attempts: one for a change, two for a link.
    pub(crate) fn order_keys(&self) -> [Option<u64>; 2] {
        let mut keys = self.entities.iter().map(|entity| entity.order_key);
        [keys.next().flatten(), keys.next().flatten()]
    }
}

/// The parser's message with its place, and without a word of the event: payloads never reach logs.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "not an object with the fields of an event",
        serde_json::error::Category::Eof => "the JSON ends too early",
        serde_json::error::Category::Io => "unreadable",
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

impl<'a> Fields<'a> {
    /// Reads all of JSON.
    pub(super) fn parse(text: &'a str) -> Result<Self, InvalidEvent> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let fields = deserializer.deserialize_map(FieldsVisitor);
        fields
            .and_then(|fields| deserializer.end().map(|()| fields))
            .map_err(|error| InvalidEvent::Malformed(describe(&error)))
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                // An id that some producer wrote without quotes is still an id.
                "id" => fields.id = map.next_value::<Loose<'de>>()?.0,
                "type" => fields.event = map.next_value::<Option<Text<'de>>>()?.map(|word| EventWord::parse(&word.0)),
                "changeData" => fields.change = map.next_value::<Change>()?.0,
                "entityIds" => fields.entities = map.next_value::<Entities>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// `changeData`: only its `type` is read. Any value that is not an object counts as no change.
struct Change(ChangeWord);

impl<'de> de::Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChangeVisitor;
        impl<'de> Visitor<'de> for ChangeVisitor {
            type Value = Change;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or null")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_bool<E: de::Error>(self, _no_object: bool) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_u64<E: de::Error>(self, _no_object: u64) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_i64<E: de::Error>(self, _no_object: i64) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_f64<E: de::Error>(self, _no_object: f64) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_str<E: de::Error>(self, _no_object: &str) -> Result<Self::Value, E> {
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
                while values.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Change(ChangeWord::NONE))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut word = ChangeWord::NONE;
                while let Some(Text(key)) = map.next_key()? {
                    if key == "type" {
                        let Loose(text) = map.next_value()?;
                        word = text.map_or(ChangeWord::NONE, |text| ChangeWord::parse(&text));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Change(word))
            }
        }
        deserializer.deserialize_any(ChangeVisitor)
    }
}

/// `entityIds`: a map from `<type>Id` to the id.
struct Entities(Vec<Entity>);

impl<'de> de::Deserialize<'de> for Entities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntitiesVisitor;
        impl<'de> Visitor<'de> for EntitiesVisitor {
            type Value = Entities;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of ids")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Entities(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entities = Vec::with_capacity(2);
                while let Some(Text(key)) = map.next_key()? {
                    let Loose(id) = map.next_value()?;
                    entities.push(Entity::of(&key, id.as_deref()));
                }
                Ok(Entities(entities))
            }
        }
        deserializer.deserialize_any(EntitiesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entity::EntityType;

    fn invalid(value: &[u8]) -> InvalidEvent {
        Envelope::parse(value).unwrap_err()
    }

    #[test]
    fn the_envelope_of_the_documented_event_is_read() {
        let value = br#"{ "id": "3c75d291", "offset": "0", "type": "change",
            "createInfo": { "createdAt": "2021-09-28T11:08:26.903198+00:00" },
            "entityIds": { "companyId": "a9a2f13c" },
            "changeData": { "type": "patch", "old": { "a": [1, {"b": null}] }, "new": { } }, "more": 1 }"#;
        let envelope = Envelope::parse(value).unwrap();
        assert_eq!(envelope.id, "3c75d291");
        assert_eq!(envelope.event, EventWord::parse("change"));
        assert_eq!(envelope.change, ChangeWord::parse("patch"));
        assert_eq!(envelope.entities.len(), 1);
        assert_eq!(envelope.entities[0].entity_type, EntityType::of("company"));
        assert_eq!(envelope.order_keys()[1], None);
    }

    #[test]
    fn a_link_has_two_entities_and_the_entity_type_loses_only_its_id() {
        let value = br#"{"id":"1","type":"link","entityIds":{"catalogItemId":"x","contactId":"y"},"changeData":null}"#;
        let envelope = Envelope::parse(value).unwrap();
        assert_eq!(envelope.entities[0].entity_type, EntityType::of("catalogItem"));
        assert_eq!(envelope.entities[1].entity_type, EntityType::of("contact"));
        assert!(envelope.order_keys()[1].is_some());
    }

    #[test]
    fn escapes_and_numbers_are_no_obstacle() {
        let value = br#"{"\u0069d":7,"ty\u0070e":"ch\u0061nge","entityIds":{"company\u0049d":"\u0061"}}"#;
        let envelope = Envelope::parse(value).unwrap();
        assert_eq!(envelope.id, "7");
        assert_eq!(envelope.event, EventWord::parse("CHANGE"));
        let plain = Envelope::parse(br#"{"id":"8","type":"change","entityIds":{"companyId":"a"}}"#).unwrap();
        assert_eq!(envelope.order_keys(), plain.order_keys());
    }

    #[test]
    fn entities_are_distinguished_by_type_and_id() {
        let keys = |entities: &str| {
            let value = format!(r#"{{"id":"1","type":"change","entityIds":{entities}}}"#);
            Envelope::parse(value.as_bytes()).unwrap().order_keys()
        };
        assert_eq!(keys(r#"{"companyId":"1"}"#), keys(r#"{"companyId":1}"#));
        assert_ne!(keys(r#"{"companyId":"1"}"#), keys(r#"{"companyId":"2"}"#));
        assert_ne!(keys(r#"{"companyId":"1"}"#), keys(r#"{"contactId":"1"}"#));
        let [company, contact] = keys(r#"{"companyId":"1","contactId":"1"}"#);
        assert_eq!([company, None], keys(r#"{"companyId":"1"}"#));
        assert_eq!([contact, None], keys(r#"{"contactId":"1"}"#));
        // GUIDs come in both spellings.
        let guid = r#"{"companyId":"A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5"}"#;
        assert_eq!(keys(guid), keys(&guid.to_lowercase().replace("companyid", "companyId")));
        assert_ne!(keys(r#"{"companyId":"A"}"#), keys(r#"{"companyId":"a"}"#));
        // Without an id there is no order to keep.
        for none in ["null", "[\"1\"]", "{\"a\":[{}]}"] {
            assert_eq!(keys(&format!(r#"{{"companyId":{none}}}"#)), [None; 2], "{none}");
        }
        assert!(keys(r#"{"companyId":true}"#)[0].is_some());
    }

    #[test]
    fn what_is_no_object_with_a_type_is_no_change() {
        let change = |data: &str| {
            let value = format!(r#"{{"id":"1","type":"change","entityIds":{{"aId":"1"}},"changeData":{data}}}"#);
            Envelope::parse(value.as_bytes()).unwrap().change
        };
        for none in ["null", "\"patch\"", "[{\"type\":\"patch\"}]", "5", "-5", "5.5", "true", "{}", "{\"type\":[1]}"] {
            assert_eq!(change(none), ChangeWord::NONE, "{none}");
        }
        assert_eq!(change(r#"{"type":"patch"}"#), ChangeWord::parse("patch"));
        assert_eq!(change(r#"{"type":5}"#), ChangeWord::parse("an unknown word"));
    }

    #[test]
    fn a_deeply_nested_body_does_not_overflow_the_stack() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let value = format!(r#"{{"id":"1","type":"change","entityIds":{{"aId":"1"}},"x":{deep}}}"#);
        assert!(Envelope::parse(value.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_no_event_says_why_without_repeating_it() {
        assert_eq!(invalid(b"\xff"), InvalidEvent::NotUtf8);
        assert_eq!(invalid(br#"{"id":"1","type":"change"}"#), InvalidEvent::Missing("entityIds"));
        assert_eq!(invalid(br#"{"id":"1","type":"change","entityIds":{}}"#), InvalidEvent::Missing("entityIds"));
        assert_eq!(invalid(br#"{"id":"1","type":"change","entityIds":null}"#), InvalidEvent::Missing("entityIds"));
        assert_eq!(invalid(br#"{"type":"change","entityIds":{"aId":"1"}}"#), InvalidEvent::Missing("id"));
        assert_eq!(invalid(br#"{"id":null,"type":"change","entityIds":{"aId":"1"}}"#), InvalidEvent::Missing("id"));
        assert_eq!(invalid(br#"{"id":"1","entityIds":{"aId":"1"}}"#), InvalidEvent::Missing("type"));
        for malformed in [
            &b""[..],
            b"secret",
            b"[]",
            b"null",
            b"\"x\"",
            b"{",
            br#"{"id":"1","type":"change","entityIds":{"aId":"1"}} trailing"#,
            br#"{"id":"1","type":"change","entityIds":["secret"]}"#,
            br#"{"id":"1","type":1,"entityIds":{"aId":"1"}}"#,
            br#"{"id":"1","type":"change","entityIds":{"aId":"1"},}"#,
        ] {
            let error = invalid(malformed);
            assert!(matches!(error, InvalidEvent::Malformed(_)), "{error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(
            invalid(b"{\"id\":\"1\",\"type\":\"change\",\"entityIds\":{\"aId\":\"1\"},\"x\":\"\xff\"}"),
            InvalidEvent::NotUtf8
        );
    }
}
