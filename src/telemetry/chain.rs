//! An error with its causes, in one line: for logs. An error's own text never holds its cause.

use std::error::Error;

use super::client_words::plain;

/// Causes within a cause. Real chains have three or four.
const DEPTH_MAX: usize = 8;

/// The texts of an error and of its causes, separated by `: `. Text that was there already is left out, since some libraries
/// print their cause themselves. Errors of the Kafka client are in plain words.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    for _ in 0..DEPTH_MAX {
        let Some(cause) = next else { break };
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    plain(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn every_cause_is_there_once() {
        let of = |text| chain(&Outer { text, source: io::Error::other("port taken") });
        assert_eq!(of("cannot listen"), "cannot listen: port taken");
        assert_eq!(of("cannot listen: port taken"), "cannot listen: port taken");
    }
}
