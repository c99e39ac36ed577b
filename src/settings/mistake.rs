//! The mistakes of a command line, one on each line: the option, the value, and what is accepted.
//!
//! A mistake never shows a value that may be a secret, and never spans two lines.

use std::fmt;

/// Longest part of a value that is shown.
const SHOWN_CHARS_MAX: usize = 120;
/// Longest word that gets a suggestion: a longer one is not a typing mistake, and the search is quadratic.
const SUGGESTED_CHARS_MAX: usize = 64;

/// One mistake, as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    line: String,
}

impl Mistake {
    /// A mistake of `subject`, which is an option or a word.
    pub(super) fn new(subject: &str, text: &str) -> Self {
        Self { line: one_line(&format!("{subject}: {text}")) }
    }

    /// A value of `subject` that is not what `accepted` says.
    pub(super) fn value(subject: &str, value: &str, accepted: &str) -> Self {
        Self::new(&format!("{subject} {}", shown(value)), accepted)
    }

    /// The same for a value that may be a secret.
    pub(super) fn secret(subject: &str, accepted: &str) -> Self {
        Self::new(&format!("{subject} (value not shown)"), accepted)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// A value between back quotes, shortened, without control characters.
pub(super) fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("`{}`", one_line(&text))
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// The candidate that the user probably meant by `word`.
pub(super) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > SUGGESTED_CHARS_MAX {
        return None;
    }
    let slips_max = (length / 3).clamp(1, 3);
    candidates
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(slips, candidate)| *slips <= slips_max || (length >= 4 && candidate.starts_with(word)))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distant_word_has_no_suggestion() {
        let names = ["worker", "api", "demo"];
        assert_eq!(closest("wroker", names.into_iter()), Some("worker"), "a swap is one slip");
        assert_eq!(closest("nonsense", names.into_iter()), None);
        assert_eq!(closest(&"w".repeat(10_000), names.into_iter()), None);
    }

    #[test]
    fn a_mistake_is_one_line_whatever_the_value() {
        let mistake =
            Mistake::value("--group", &format!("a\nb\u{1b}[2J\u{2028}{}", "x".repeat(500)), "expected a name");
        let line = mistake.to_string();
        assert!(!line.contains(['\n', '\u{1b}', '\u{2028}']), "{line}");
        assert!(line.starts_with("--group `a\\nb\\u{1b}[2J\\u{2028}xxx"), "{line}");
        assert!(line.ends_with("x…`: expected a name"), "{line}");
    }
}
