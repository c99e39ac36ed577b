//! The fast path of [`super::event`]: reads the envelope of an event that is spelled plainly, in one pass over its bytes.
//!
//! The parser of `serde_json` reads every event that the scan reads, with the same result. A test of random documents and a fuzz target
//! compare the two. The scan gives up at everything rare and at everything wrong. That parser then reads the event, or says what is wrong.

use std::borrow::Cow;

use super::entity::Entity;
use super::filter::{ChangeWord, EventWord};

/// How deep values may be nested: one bit each.
const DEPTH_MAX: u32 = u64::BITS;
/// How many bytes of a string are looked at together: one vector register.
const CHUNK: usize = 16;

/// The fields of an event that are read, before it is known whether those that it needs are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) event: Option<EventWord>,
    pub(super) change: ChangeWord,
    pub(super) entities: Vec<Entity>,
}

/// The fields of the event that `text` holds. `None`: it is not spelled plainly, or no event.
pub(super) fn scan(text: &str) -> Option<Fields<'_>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut fields = Fields::default();
    scanner.members(|scanner, key| {
        match key {
            "id" => fields.id = Some(Cow::Borrowed(scanner.plain()?)),
            "type" => fields.event = Some(EventWord::parse(scanner.plain()?)),
            "changeData" => fields.change = scanner.change()?,
            "entityIds" => fields.entities = scanner.entities()?,
            _ => scanner.skip()?,
        }
        Some(())
    })?;
    scanner.is_at_end().then_some(fields)
}

/// Whether the byte ends a string, begins an escape or may not stand in a string.
#[expect(clippy::needless_bitwise_bool, reason = "without a jump the compiler makes vector code of many")]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

/// Where the scan is.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// `changeData`: its `type`.
    fn change(&mut self) -> Option<ChangeWord> {
        let mut word = ChangeWord::NONE;
        if self.peek()? == b'n' {
            return self.literal("null").map(|()| word);
        }
        self.members(|scanner, key| {
            if key == "type" {
                word = ChangeWord::parse(scanner.plain()?);
                return Some(());
            }
            scanner.skip()
        })?;
        Some(word)
    }

    fn entities(&mut self) -> Option<Vec<Entity>> {
        let mut entities = Vec::with_capacity(2);
        self.members(|scanner, key| {
            entities.push(Entity::of(key, Some(scanner.plain()?)));
            Some(())
        })?;
        Some(entities)
    }

    /// Takes an object; `member` takes the value of each key.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let key = self.plain()?;
            self.expect(b':')?;
            member(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Takes a string without escapes.
    fn plain(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        self.skip_plain()?;
        let plain = self.text.get(start..self.at)?;
        self.expect_here(b'"')?;
        Some(plain)
    }

    /// Takes any value.
    fn skip(&mut self) -> Option<()> {
        // The innermost object or array is the lowest bit: 1 for an object.
        let (mut depth, mut nesting) = (0, 0_u64);
        loop {
            let opened = match self.peek()? {
                b'{' => Some((1, b'}')),
                b'[' => Some((0, b']')),
                _ => {
                    self.scalar()?;
                    None
                }
            };
            let mut is_open = false;
            if let Some((bit, close)) = opened {
                if depth == DEPTH_MAX {
                    return None;
                }
                self.at += 1;
                (depth, nesting) = (depth + 1, nesting << 1 | bit);
                is_open = self.peek()? != close;
            }
            while !is_open {
                if depth == 0 {
                    return Some(());
                }
                match (self.next()?, nesting & 1) {
                    (b',', _) => is_open = true,
                    (b'}', 1) | (b']', 0) => (depth, nesting) = (depth - 1, nesting >> 1),
                    _ => return None,
                }
            }
            if nesting & 1 == 1 {
                self.string()?;
                self.expect(b':')?;
            }
        }
    }

    /// Takes a value that is neither an object nor an array.
    fn scalar(&mut self) -> Option<()> {
        match self.here()? {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    /// Takes a string, with or without escapes.
    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.skip_plain()?;
            match self.here()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let code = *self.bytes().get(self.at + 1)?;
        self.at += 2;
        match code {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    /// Goes on to the end of the string, an escape or a control character.
    fn skip_plain(&mut self) -> Option<()> {
        let mut rest = self.bytes().get(self.at..)?;
        // Chunk by chunk without a jump inside, which the compiler makes vector code of.
        while let Some((chunk, more)) = rest.split_first_chunk::<CHUNK>()
            && !chunk.iter().fold(false, |any, &byte| any | is_special(byte))
        {
            rest = more;
        }
        self.at = self.text.len() - rest.len() + rest.iter().position(|&byte| is_special(byte))?;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.here()? == b'-' {
            self.at += 1;
        }
        if self.here()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.here() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.here(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.here(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// Takes at least one digit.
    fn digits(&mut self) -> Option<()> {
        let digits = self.bytes().get(self.at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        let is_it = self.bytes().get(self.at..)?.starts_with(word.as_bytes());
        self.at += word.len();
        is_it.then_some(())
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn here(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    /// The next byte that is no blank, which stays.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.here()? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Takes the next byte that is no blank.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn expect_here(&mut self, byte: u8) -> Option<()> {
        let is_it = self.here()? == byte;
        self.at += 1;
        is_it.then_some(())
    }

    fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Any JSON, with the names that are read in it more often than by chance.
    fn json() -> impl Strategy<Value = Value> {
        let word = || prop_oneof![Just("change".to_owned()), Just("patch".to_owned()), ".{0,40}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word().prop_map(Value::from),
        ];
        let name = prop_oneof![
            proptest::sample::select(vec!["id", "type", "changeData", "entityIds", "companyId"])
                .prop_map(str::to_owned),
            "[a-zA-Z\\\\\"]{0,12}",
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::hash_map(name.clone(), inner, 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    /// An event in which each field may be missing or be anything.
    fn event() -> impl Strategy<Value = Value> {
        let entities = prop_oneof![
            4 => proptest::collection::hash_map("[a-zA-Z]{1,8}Id", "[a-zA-Z0-9-]{0,40}", 0..4).prop_map(|ids| {
                ids.into_iter().map(|(key, id)| (key, Value::from(id))).collect::<Value>()
            }),
            1 => json(),
        ];
        let fields = (".{0,40}", "[a-z]{0,8}", entities, json(), json(), json());
        fields.prop_map(|(id, event, entities, change, other, more)| {
            serde_json::json!({"id": id, "other": other, "type": event, "entityIds": entities,
                "changeData": {"type": "patch", "old": change, "new": more}, "more": more})
        })
    }

    fn same_or_left(text: &str) -> Result<bool, TestCaseError> {
        let Some(scanned) = scan(text) else { return Ok(false) };
        prop_assert_eq!(Ok(scanned), Fields::parse(text), "{}", text);
        Ok(true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_the_scan_reads_is_what_the_parser_reads(event in event(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&event) } else { serde_json::to_string(&event) };
            same_or_left(&text.unwrap())?;
        }

        #[test]
        fn the_scan_reads_nothing_that_the_parser_refuses(
            event in event(), at in any::<prop::sample::Index>(), with in "[\\x00-\\x7f]{0,2}", cut in 0..3_usize
        ) {
            let mut text = serde_json::to_string(&event).unwrap();
            let at = at.index(text.len());
            prop_assume!(text.is_char_boundary(at) && text.is_char_boundary((at + cut).min(text.len())));
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &with);
            same_or_left(&text)?;
        }
    }

    #[test]
    fn an_event_as_documented_is_spelled_plainly() {
        let documented = r#"{ "id": "3c75d291", "offset": "0", "type": "change",
            "createInfo": { "createdAt": "2021-09-28T11:08:26.903198+00:00", "by": null, "new": true, "old": false },
            "entityIds": { "companyId": "a9a2f13c", "contactId": "ä" },
            "changeData": { "type": "patch", "old": { "a": [1, -2.5e+3, [], {}, {"b": null}] },
                "new": { "text": "a line of more than sixteen bytes\nwith \u00e4 \\ and \"" } }, "more": 1 }"#;
        let spelled = documented.replace("bytes\n", "bytes\\n").replace("\\ and \"\"", "\\\\ and \\\"\"");
        assert!(same_or_left(&spelled).unwrap());
        assert!(same_or_left(r#"{"id":"1","type":"link","entityIds":{"a":"x"},"changeData":null}"#).unwrap());
    }

    #[test]
    fn what_is_no_json_is_left_to_the_parser() {
        for value in [
            "tru",
            "nul",
            "01",
            "-",
            "1.",
            "1e",
            "+1",
            ".5",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[}",
            "{]",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\u{1}\"",
            "\"a line of sixteen\u{1f}\"",
            "\"",
            "[",
            "{\"a\":1",
            "",
            "1}",
            "'a'",
        ] {
            let text = format!(r#"{{"id":"1","type":"change","entityIds":{{"aId":"1"}},"x":{value}}}"#);
            assert_eq!(scan(&text), None, "{value}");
            assert!(Fields::parse(&text).is_err(), "{value}");
        }
        assert_eq!(scan(r#"{"id":"1"} x"#), None);
    }
}
