//! What `--log-level` may be. Logging itself is set up in `telemetry`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A filter that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected error, warn, info, debug, trace or off, or directives such as info,hookstream::http=debug")]
pub(crate) struct BadFilter;

/// Checks the directives of a filter.
///
/// # Errors
/// [`BadFilter`] when they can't be used. A lone word must be a level: the library would read any other word as the name of a part of the
/// program, and log that part alone.
pub(crate) fn check_filter(directives: &str) -> Result<(), BadFilter> {
    // The library also reads numbers and the empty word as levels.
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_level = |word: &str| is_word(word) && word.parse::<LevelFilter>().is_ok();
    let is_directive = |part: &str| part.contains(['=', '[', '{', ']', '}']) || is_level(part);
    if !directives.split(',').map(str::trim).all(is_directive) {
        return Err(BadFilter);
    }
    EnvFilter::try_new(directives).map(|_| ()).map_err(|_parse_error| BadFilter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_directives() {
        for good in ["info", "off", "WARN", "info,hookstream::http=debug", "hookstream[delivery{attempt}]=trace,warn"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["", "loud", "info,", "3", "hookstream=loud", "info,hyper", "[", "a=b=c"] {
            assert_eq!(check_filter(bad), Err(BadFilter), "{bad}");
        }
    }
}
