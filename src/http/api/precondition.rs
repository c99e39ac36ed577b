//! `If-Match` and `If-None-Match`: which version of an instance a request is about.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName};

use crate::kafka::registry::Version;

/// Why a precondition can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: expected * or a list of entity tags such as \"0-17\"")]
pub(super) struct BadPrecondition(&'static str);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// No header.
    Unasked,
    /// `*`
    Any,
    /// Tags without their quotes, and whether each is weak.
    Listed(Vec<(bool, String)>),
}

/// What a request says about the version it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Precondition {
    matches: Tags,
    none_matches: Tags,
}

impl Precondition {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`BadPrecondition`] for what is no list of tags: passing it by would change what was to be guarded.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, BadPrecondition> {
        Ok(Self {
            matches: tags(headers, &IF_MATCH).ok_or(BadPrecondition("If-Match"))?,
            none_matches: tags(headers, &IF_NONE_MATCH).ok_or(BadPrecondition("If-None-Match"))?,
        })
    }

    /// Whether a change of the stored version may go on.
    pub(super) fn allows(&self, stored: Option<Version>) -> bool {
        let is_wanted = match (&self.matches, stored) {
            (Tags::Unasked, _) | (Tags::Any, Some(_)) => true,
            (Tags::Any | Tags::Listed(_), None) => false,
            // Strong comparison: a weak tag never matches.
            (Tags::Listed(tags), Some(version)) => {
                tags.iter().any(|(is_weak, tag)| !is_weak && *tag == version.to_string())
            }
        };
        is_wanted && !self.is_known(stored)
    }

    /// Whether a reader has the stored version already.
    pub(super) fn is_known(&self, stored: Option<Version>) -> bool {
        match (&self.none_matches, stored) {
            (Tags::Unasked, _) | (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(tags), Some(version)) => tags.iter().any(|(_, tag)| *tag == version.to_string()),
        }
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Tags> {
    let mut listed = Vec::new();
    for value in headers.get_all(name) {
        let text = value.to_str().ok()?.trim();
        if text == "*" {
            return Some(Tags::Any);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (is_weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
            let (tag, behind) = quoted.strip_prefix('"')?.split_once('"')?;
            listed.push((is_weak, tag.to_owned()));
            let behind = behind.trim_start();
            rest = match behind.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if behind.is_empty() => behind,
                None => return None,
            };
        }
    }
    let asked = headers.contains_key(name);
    match (asked, listed.is_empty()) {
        (false, _) => Some(Tags::Unasked),
        (true, true) => None,
        (true, false) => Some(Tags::Listed(listed)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const STORED: Option<Version> = Some(Version { partition: 3, offset: 17 });

    #[track_caller]
    fn check(name: HeaderName, value: &'static str, allowed_stored: bool, allowed_new: bool) {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let precondition = Precondition::parse(&headers).unwrap();
        assert_eq!(precondition.allows(STORED), allowed_stored, "{value}");
        assert_eq!(precondition.allows(None), allowed_new, "{value}");
    }

    #[test]
    fn without_a_precondition_everything_is_allowed() {
        let precondition = Precondition::parse(&HeaderMap::new()).unwrap();
        assert!(precondition.allows(STORED) && precondition.allows(None) && !precondition.is_known(STORED));
    }

    #[test]
    fn if_match_wants_the_stored_version() {
        check(IF_MATCH, r#""3-17""#, true, false);
        check(IF_MATCH, r#""3-16""#, false, false);
        check(IF_MATCH, r#""3-16", "3-17""#, true, false);
        check(IF_MATCH, r#""a, b","3-17""#, true, false);
        check(IF_MATCH, r#"W/"3-17""#, false, false);
        check(IF_MATCH, "*", true, false);
    }

    #[test]
    fn if_none_match_wants_another_or_none() {
        check(IF_NONE_MATCH, "*", false, true);
        check(IF_NONE_MATCH, r#"W/"3-17""#, false, true);
        check(IF_NONE_MATCH, r#""3-16""#, true, true);
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for bad in ["", "3-17", r#""3-17"#, r#""a" "b""#, "W/", r#"w/"a""#, ","] {
            let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(bad))]);
            assert_eq!(Precondition::parse(&headers), Err(BadPrecondition("If-Match")), "{bad}");
        }
    }
}
