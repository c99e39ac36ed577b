//! Why a request failed, in words for people: at most 300 characters, on one line, without secrets. The reason word that programs
//! read is [`crate::domain::outcome::Reason`].

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Characters of a cause: the contract's number. A certificate may hold any number of names.
const CHARS_MAX: usize = 300;
/// Causes within a cause that are printed. Real chains have three or four.
const DEPTH_MAX: usize = 8;

/// Why a request failed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    text: Arc<str>,
    shown: Option<Arc<str>>,
}

impl Cause {
    /// A cause that operators and outsiders get in the same words.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: cut(&text.into()), shown: None }
    }

    /// `text` for operators, `shown` for outsiders.
    pub(crate) fn with_shown(text: impl Into<String>, shown: impl Into<String>) -> Self {
        Self { text: cut(&text.into()), shown: Some(cut(&shown.into())) }
    }

    /// An error and its causes, each text once.
    pub(crate) fn of_error(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut within = error.source();
        for _ in 0..DEPTH_MAX {
            let Some(cause) = within else { break };
            let words = cause.to_string();
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            within = cause.source();
        }
        Self::new(text)
    }

    /// For operators.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// For outsiders, such as customers: without addresses of our own network.
    pub(crate) fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.text)
    }
}

/// For operators.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One line of at most [`CHARS_MAX`] characters: a peer's words may hold anything.
fn cut(text: &str) -> Arc<str> {
    text.chars().take(CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char }).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_line_of_at_most_300_characters() {
        let cause = Cause::new(format!("a\r\nb\u{1b}[2J{}", "я".repeat(400)));
        assert_eq!(cause.text().chars().count(), 300);
        assert!(cause.text().starts_with("a  b [2Jя"), "{cause}");
    }

    #[test]
    fn outsiders_get_only_the_text_that_is_for_them() {
        let cause = Cause::with_shown("10.1.2.3 is refused", "refused");
        assert_eq!((cause.text(), cause.shown()), ("10.1.2.3 is refused", "refused"));
        assert_eq!(Cause::new("expired").shown(), "expired");
    }

    #[test]
    fn a_cause_holds_each_text_of_an_error_and_its_causes_once() {
        let error = std::io::Error::other(std::io::Error::other("the end"));
        assert_eq!(Cause::of_error(&error).text(), "the end");
    }
}
