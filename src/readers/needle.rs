//! Looks for an id in the bytes of a JSON record, so that a scan parses only the few records that can hold it.
//!
//! Nothing here parses: a record that may hold the id is parsed and compared by the caller.

use memchr::memchr2_iter;
use memchr::memmem::Finder;

use super::is_guid;

/// The beginning of the other spelling that JSON has for a printable ASCII character: its number.
const NUMBERED: &str = "\\u00";
/// The beginning of any other spelling of a character in JSON.
const ESCAPED: &str = "\\";

/// An id that is looked for.
pub(crate) struct Needle {
    spelling: Spelling,
    /// A record that contains this may spell the id with escapes.
    escape: Finder<'static>,
}

enum Spelling {
    /// A GUID, or the beginning of one: letters in either case.
    AnyCase(Vec<u8>),
    /// Any other id, letter for letter.
    Exact(Box<Finder<'static>>),
}

impl Needle {
    /// Looks for `id`.
    pub(crate) fn new(id: &str) -> Self {
        let is_plain = id.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/'));
        let spelling = if is_guid(id) {
            Spelling::AnyCase(id.as_bytes().to_vec())
        } else {
            Spelling::Exact(Box::new(Finder::new(id).into_owned()))
        };
        Self { spelling, escape: Finder::new(if is_plain { NUMBERED } else { ESCAPED }).into_owned() }
    }

    /// Looks for ids that begin with `prefix`, in either case.
    pub(crate) fn beginning(prefix: &str) -> Self {
        let spelling = Spelling::AnyCase(prefix.as_bytes().to_vec());
        Self { spelling, escape: Finder::new(NUMBERED).into_owned() }
    }

    /// Whether a string in `json` may be the id. `false` is certain.
    pub(crate) fn may_be_in(&self, json: &[u8]) -> bool {
        self.spelling.is_in(json) || self.escape.find(json).is_some()
    }
}

impl Spelling {
    fn is_in(&self, json: &[u8]) -> bool {
        match self {
            Self::Exact(finder) => finder.find(json).is_some(),
            Self::AnyCase(id) => id.first().is_some_and(|first| {
                memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), json)
                    .any(|at| json.get(at..at + id.len()).is_some_and(|found| found.eq_ignore_ascii_case(id)))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::readers::same_id;

    const GUID: &str = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";

    #[test]
    fn an_id_is_seen_however_json_spells_it() {
        let mixed = GUID.replacen('e', "E", 1);
        for (id, json) in [
            ("ev-1", r#"{"id":"ev-1"}"#),
            ("ev-1", r#"{"id":"\u0065v-1"}"#),
            ("a/b", r#"{"id":"a\/b"}"#),
            ("a\"b", r#"{"id":"a\"b"}"#),
            ("a\nb", r#"{"id":"a\nb"}"#),
            ("é", r#"{"id":"\u00e9"}"#),
            ("заказ", r#"{"id":"заказ"}"#),
            (GUID, &json!({ "id": GUID }).to_string()),
            (GUID, &json!({ "id": GUID.to_uppercase() }).to_string()),
            (GUID, &json!({ "id": mixed }).to_string()),
            (&GUID.to_uppercase(), &json!({ "id": GUID }).to_string()),
        ] {
            assert!(Needle::new(id).may_be_in(json.as_bytes()), "{id} in {json}");
        }
    }

    #[test]
    fn a_record_without_the_id_is_not_parsed_for_its_quotes_and_line_feeds() {
        let answer = json!({ "eventId": "ev-2", "answer": "{\"error\":\"no\"}\n" }).to_string();
        assert!(!Needle::new("ev-1").may_be_in(answer.as_bytes()));
        assert!(!Needle::new(GUID).may_be_in(answer.as_bytes()));
    }

    proptest! {
        #[test]
        fn no_record_that_holds_the_id_is_passed_over(id in ".{1,12}", before in ".{0,40}", numbered in any::<bool>()) {
            let mut json = json!({ "answer": before, "eventId": id }).to_string();
            if numbered {
                let units = id.encode_utf16();
                let spelled = units.fold(String::new(), |text, unit| text + &format!("\\u{unit:04x}"));
                json = format!("{{\"eventId\":\"{spelled}\"}}");
            }
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert!(same_id(read["eventId"].as_str().unwrap(), &id));
            prop_assert!(Needle::new(&id).may_be_in(json.as_bytes()));
        }
    }
}
