//! A word of a closed set, as a caller writes it: the word, or which words are accepted. The sets themselves stand with their rules.

/// A text that is not a word of the set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: {}", .accepted.join(", "))]
pub(crate) struct UnknownWord {
    accepted: Vec<&'static str>,
}

/// The word of `accepted` that `text` is.
///
/// # Errors
/// [`UnknownWord`]: it names the accepted words, and never repeats `text`.
pub(crate) fn one_of(
    text: &str,
    accepted: impl IntoIterator<Item = &'static str>,
) -> Result<&'static str, UnknownWord> {
    let accepted: Vec<&'static str> = accepted.into_iter().collect();
    let found = accepted.iter().copied().find(|word| *word == text);
    found.ok_or(UnknownWord { accepted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_taken_as_it_is_and_any_other_is_answered_with_the_accepted_ones() {
        assert_eq!(one_of("tls", ["dns", "tls"]), Ok("tls"));
        for other in ["", "TLS", "tl", "tls "] {
            assert_eq!(
                one_of(other, ["dns", "tls"]).unwrap_err().to_string(),
                "expected one of: dns, tls",
                "{other:?}"
            );
        }
    }
}
