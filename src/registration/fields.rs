//! A JSON object kept as it was written, members in their order and to the byte, so that unknown members survive a change.
//! `instance` has the meaning of the members.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json_equality::{Digest, MemberDigest, digest};

/// One member of an object.
#[derive(Clone)]
struct Member {
    name: String,
    value: Box<RawValue>,
    /// Computed when it is first compared.
    digest: OnceCell<MemberDigest>,
}

impl Member {
    fn new(name: String, value: Box<RawValue>) -> Self {
        Self { name, value, digest: OnceCell::new() }
    }

    fn digest(&self) -> MemberDigest {
        *self.digest.get_or_init(|| MemberDigest::new(&self.name, digest(&self.value)))
    }
}

/// A JSON object whose members keep their order and their bytes. Of a name given twice the last value counts, and that it was
/// given twice is remembered.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    members: Vec<Member>,
    /// The first name that was given twice.
    repeated: Option<String>,
    /// Of the whole object; computed when it is first compared, and again after a change.
    digest: OnceCell<Box<Digest>>,
}

impl Fields {
    /// The member's bytes.
    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.iter().find(|member| member.name == name).map(|member| &*member.value)
    }

    /// The member, if it is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// The members in their order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &RawValue)> {
        self.members.iter().map(|member| (&*member.name, &*member.value))
    }

    /// The first name that was given twice, if one was.
    pub(super) fn repeated(&self) -> Option<&str> {
        self.repeated.as_deref()
    }

    /// Sets the member, in its place if it is there, else at the end.
    pub(crate) fn set(&mut self, name: &str, value: Box<RawValue>) {
        self.digest = OnceCell::new();
        match self.members.iter_mut().find(|member| member.name == name) {
            Some(member) => (member.value, member.digest) = (value, OnceCell::new()),
            None => self.members.push(Member::new(name.to_owned(), value)),
        }
    }

    /// Sets the member to a string.
    pub(crate) fn set_text(&mut self, name: &str, text: &str) {
        self.set(name, raw(&text));
    }

    /// Takes the member out; returns whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.digest = OnceCell::new();
        let before = self.members.len();
        self.members.retain(|member| member.name != name);
        self.members.len() != before
    }

    /// The digest of a member's value; each is computed once.
    pub(super) fn digest_of(&self, name: &str) -> Option<Digest> {
        self.members.iter().find(|member| member.name == name).map(|member| member.digest().value)
    }

    /// The digest of the whole object.
    pub(super) fn digest(&self) -> Digest {
        **self.digest.get_or_init(|| Box::new(Digest::of_object(self.members.iter().map(Member::digest))))
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for member in &self.members {
            map.serialize_entry(&member.name, &member.value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

/// Up to this many members are compared with each other. For more, a map is made, so that the cost stays linear.
const COMPARED_MAX: usize = 16;

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            let known = if places.is_empty() {
                fields.members.iter().position(|member| member.name == name)
            } else {
                places.get(&name).copied()
            };
            if let Some(member) = known.and_then(|place| fields.members.get_mut(place)) {
                member.value = value;
                fields.repeated.get_or_insert(name);
                continue;
            }
            if places.is_empty() && fields.members.len() == COMPARED_MAX {
                places =
                    fields.members.iter().enumerate().map(|(place, member)| (member.name.clone(), place)).collect();
            }
            if !places.is_empty() {
                places.insert(name.clone(), fields.members.len());
            }
            fields.members.push(Member::new(name, value));
        }
        Ok(fields)
    }
}

/// Writes a value as raw JSON.
pub(super) fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("strings, values and raw members always serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_an_object_follows_its_changes() {
        let of = |text: &str| serde_json::from_str::<Fields>(text).unwrap();
        let mut fields = of(r#"{"a":1,"b":2}"#);
        assert_eq!(fields.digest(), of(r#"{"b":2,"a":1}"#).digest());
        fields.set("a", raw(&3));
        assert_eq!(fields.digest(), of(r#"{"a":3,"b":2}"#).digest());
        fields.remove("b");
        assert_eq!(fields.digest(), of(r#"{"a":3}"#).digest());
        fields.set("c", raw(&4));
        assert_eq!(fields.digest(), of(r#"{"a":3,"c":4}"#).digest());
    }

    #[test]
    fn a_name_given_twice_keeps_its_last_value_and_is_remembered() {
        let many = (0..COMPARED_MAX * 2).map(|number| format!(r#""x{number}":0"#)).collect::<Vec<_>>().join(",");
        for (text, repeated) in [
            (r#"{"a":1,"b":2,"a":3}"#.to_owned(), Some("a")),
            (r#"{"a":1,"b":2}"#.to_owned(), None),
            (format!("{{{many}}}"), None),
            (format!(r#"{{{many},"x3":1,"x31":1}}"#), Some("x3")),
        ] {
            let fields: Fields = serde_json::from_str(&text).unwrap();
            assert_eq!(fields.repeated(), repeated, "{text}");
        }
        let fields: Fields = serde_json::from_str(r#"{"a":1,"b":2,"a":3}"#).unwrap();
        assert_eq!(raw(&fields).get(), r#"{"a":3,"b":2}"#);
    }
}
