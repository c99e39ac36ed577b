//! `If-Match` and `If-None-Match`: which version of an instance a request is about. A header that is not a list of tags is
//! refused, because a precondition that can't be read protects nothing.

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName};

use crate::registration::registry::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// No header.
    Absent,
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
    /// The name of the header that is not a list of tags.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, HeaderName> {
        Ok(Self { matches: tags(headers, IF_MATCH)?, none_matches: tags(headers, IF_NONE_MATCH)? })
    }

    /// Whether a change of the stored version may go on.
    pub(super) fn allows(&self, stored: Option<Version>) -> bool {
        let is_wanted = match (&self.matches, stored) {
            (Tags::Absent, _) | (Tags::Any, Some(_)) => true,
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
            (Tags::Absent, _) | (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(tags), Some(version)) => tags.iter().any(|(_, tag)| *tag == version.to_string()),
        }
    }
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Result<Tags, HeaderName> {
    if !headers.contains_key(&name) {
        return Ok(Tags::Absent);
    }
    let values: Vec<&str> =
        headers.get_all(&name).iter().map(|value| value.to_str().unwrap_or_default().trim()).collect();
    if values == ["*"] {
        return Ok(Tags::Any);
    }
    let listed = values.into_iter().try_fold(Vec::new(), |mut listed, value| {
        listed.extend(list(value).filter(|tags| !tags.is_empty())?);
        Some(listed)
    });
    listed.map(Tags::Listed).ok_or(name)
}

/// The tags of a list; `None` if any tag is malformed.
fn list(text: &str) -> Option<Vec<(bool, String)>> {
    let mut listed = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (is_weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
        let (tag, rest_of_list) = quoted.strip_prefix('"')?.split_once('"')?;
        listed.push((is_weak, tag.to_owned()));
        let rest_of_list = rest_of_list.trim_start();
        rest = match rest_of_list.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if rest_of_list.is_empty() => rest_of_list,
            None => return None,
        };
    }
    Some(listed)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const STORED: Option<Version> = Some(Version { partition: 3, offset: 17 });

    #[track_caller]
    fn check(name: HeaderName, value: &'static str, allowed_stored: bool, allowed_new: bool) {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let precondition = Precondition::of(&headers).unwrap();
        assert_eq!(precondition.allows(STORED), allowed_stored, "{value}");
        assert_eq!(precondition.allows(None), allowed_new, "{value}");
    }

    #[test]
    fn without_a_precondition_everything_is_allowed() {
        let precondition = Precondition::of(&HeaderMap::new()).unwrap();
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
    fn a_header_that_is_not_a_list_of_tags_is_refused() {
        for bad in [
            "",
            "3-17",
            r#""3-17"#,
            r#""3-17" "b""#,
            "W/",
            r#"w/"3-17""#,
            ",",
            "**",
            "'*'",
            r#""*"#,
            r#""a", b"#,
            r#""a", *"#,
        ] {
            for name in [IF_MATCH, IF_NONE_MATCH] {
                let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(bad))]);
                assert_eq!(Precondition::of(&headers), Err(name), "{bad}");
            }
        }
        let star = HeaderValue::from_static("*");
        let mut twice = HeaderMap::from_iter([(IF_MATCH, star.clone())]);
        twice.append(IF_MATCH, HeaderValue::from_static(r#""3-17""#));
        assert_eq!(Precondition::of(&twice), Err(IF_MATCH));
        let bytes = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_bytes(b"\"\xff\"").unwrap())]);
        assert_eq!(Precondition::of(&bytes), Err(IF_MATCH));
    }
}
