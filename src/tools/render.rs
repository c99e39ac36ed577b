//! Makes records readable on a terminal: times, texts from outside without control characters, JSON without changing a token.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::de::IgnoredAny;

/// Deeper levels are indented no further, so that the output stays in proportion to the input.
const INDENT_MAX: usize = 32;

/// A time of RFC 3339 in UTC, to the millisecond.
pub(super) fn time(timestamp_ms: Option<i64>) -> Option<String> {
    let timestamp = Timestamp::from_millisecond(timestamp_ms?).ok()?;
    Some(format!("{timestamp:.3}"))
}

/// A text without characters that a terminal would obey.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text
        .chars()
        .map(|letter| if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() });
    Cow::Owned(escaped.collect())
}

/// A count of records with its verb.
pub(super) fn records_were(count: u64) -> String {
    if count == 1 { "1 was".to_owned() } else { format!("{count} were") }
}

/// A count with the word for what is counted.
pub(super) fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// A line about the rows that a limit leaves out; `None` if it leaves out none.
pub(super) fn more(count: usize, what: &str) -> Option<String> {
    (count > 0).then(|| format!("{count} more {what}: --limit shows more"))
}

/// The text, or a dash without one.
pub(super) fn or_dash(text: Option<&str>) -> Cow<'_, str> {
    text.map_or(Cow::Borrowed("-"), printable)
}

/// A record's value, by its form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// JSON, as it stands.
    Json(&'a str),
    /// Other text.
    Text(&'a str),
    /// Not UTF-8.
    Bytes(&'a [u8]),
}

impl<'a> Body<'a> {
    /// Finds the form of a value.
    pub(super) fn of(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => Self::Json(text),
            Ok(text) => Self::Text(text),
            Err(_) => Self::Bytes(value),
        }
    }

    /// The value for a terminal.
    pub(super) fn shown(&self) -> String {
        match self {
            // The only control characters outside of strings are line ends and tabs, which go.
            Self::Json(text) => indented(text).split('\n').map(printable).collect::<Vec<_>>().join("\n"),
            Self::Text(text) => printable(text).into_owned(),
            Self::Bytes(bytes) => bytes.escape_ascii().to_string(),
        }
    }
}

/// JSON over several lines. Every token stays as it is, also numbers that no float holds.
fn indented(json: &str) -> String {
    let mut walker = Walker { text: String::with_capacity(json.len() * 2), depth: 0, opened: false };
    walk(json, |token| walker.token(token));
    walker.text
}

/// JSON on one line. Every token stays as it is.
pub(super) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    walk(json, |token| match token {
        Token::Mark(mark) => text.push(mark),
        Token::Inner(letter) => text.push(letter),
    });
    text
}

/// A piece of JSON: a mark between values, or a character of a value.
#[derive(Clone, Copy)]
enum Token {
    Mark(char),
    Inner(char),
}

fn walk(json: &str, mut take: impl FnMut(Token)) {
    let (mut in_string, mut escaped) = (false, false);
    for letter in json.chars() {
        if in_string {
            in_string = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            take(Token::Inner(letter));
        } else if matches!(letter, '{' | '}' | '[' | ']' | ',' | ':') {
            take(Token::Mark(letter));
        } else if !letter.is_ascii_whitespace() {
            in_string = letter == '"';
            take(Token::Inner(letter));
        }
    }
}

struct Walker {
    text: String,
    depth: usize,
    /// A bracket was opened and nothing came since: an empty one stays on its line.
    opened: bool,
}

impl Walker {
    fn token(&mut self, token: Token) {
        match token {
            Token::Mark(mark @ ('}' | ']')) => {
                self.depth = self.depth.saturating_sub(1);
                if !std::mem::take(&mut self.opened) {
                    self.line();
                }
                self.text.push(mark);
            }
            Token::Mark(mark) => {
                self.begin_value();
                self.text.push(mark);
                match mark {
                    '{' | '[' => {
                        self.depth += 1;
                        self.opened = true;
                    }
                    ',' => self.line(),
                    _ => self.text.push(' '),
                }
            }
            Token::Inner(letter) => {
                self.begin_value();
                self.text.push(letter);
            }
        }
    }

    fn begin_value(&mut self) {
        if std::mem::take(&mut self.opened) {
            self.line();
        }
    }

    fn line(&mut self) {
        self.text.push('\n');
        for _ in 0..self.depth.min(INDENT_MAX) {
            self.text.push_str("  ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_without_changing_a_token() {
        let json = "{\"a\" : [1.50,{ },\t[]],\"b{\\\"\":\"x, [y]\\\\\",\"n\":123456789012345678901234567890}";
        let expected = "{\n  \"a\": [\n    1.50,\n    {},\n    []\n  ],\n  \"b{\\\"\": \"x, [y]\\\\\",\n  \
                        \"n\": 123456789012345678901234567890\n}";
        assert_eq!(indented(json), expected);
        assert_eq!(compact(expected), json.replace([' ', '\t'], "").replace("x,[y]", "x, [y]"));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}"), "a\\u{1b}[2Jb\\u{9b}");
        assert_eq!(Body::of(b"not json\x07").shown(), "not json\\u{7}");
        assert_eq!(Body::of(b"\xff{").shown(), "\\xff{");
        assert_eq!(Body::of("{\"a\":\"\u{9b}\"}".as_bytes()).shown(), "{\n  \"a\": \"\\u{9b}\"\n}");
    }

    #[test]
    fn deep_nesting_stays_in_proportion() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let shown = Body::of(deep.as_bytes()).shown();
        assert!(shown.len() < deep.len() * (2 * INDENT_MAX + 2), "{}", shown.len());
    }

    #[test]
    fn times_are_rfc_3339_to_the_millisecond() {
        assert_eq!(time(Some(1_700_000_000_120)).as_deref(), Some("2023-11-14T22:13:20.120Z"));
        assert_eq!(time(None), None);
        assert_eq!(time(Some(i64::MAX)), None);
    }
}
