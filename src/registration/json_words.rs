//! What is wrong with a request's JSON or query, in our words: the field, and what is accepted. No value that was sent is repeated,
//! because it may be a secret. What a route makes of the text is decided there.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// A text that cannot be read as what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadJson(String);

/// Reads `json`.
///
/// # Errors
/// [`BadJson`]: it is not JSON, and where; or which field is not as it should be, and what is accepted.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, BadJson> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = serde_path_to_error::deserialize(&mut reader);
    read.map_err(|error| {
        let path = error.path().to_string();
        described(Some(&path), error.inner())
    })
    .and_then(|value| reader.end().map(|()| value).map_err(|error| described(None, &error)))
}

/// The same for an error of the library that was met elsewhere.
pub(crate) fn words_of(error: &serde_json::Error) -> BadJson {
    described(None, error)
}

fn described(path: Option<&str>, error: &serde_json::Error) -> BadJson {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let said = text.strip_suffix(&place).unwrap_or(&text);
    BadJson(match error.classify() {
        Category::Data => in_words(path, said),
        Category::Eof if error.column() == 0 && error.line() <= 1 => "not valid JSON: it is empty".to_owned(),
        Category::Eof => {
            format!("not valid JSON: it ends too early, in line {}, column {}", error.line(), error.column())
        }
        Category::Syntax | Category::Io => {
            format!("not valid JSON in line {}, column {}: {said}", error.line(), error.column())
        }
    })
}

/// What the library that reads queries says, in our words. It puts the field before its words where it knows it.
pub(crate) fn of_query(said: &str) -> String {
    const LIBRARY: [&str; 4] = ["missing field ", "duplicate field ", "unknown field ", "invalid "];
    match said.split_once(": ") {
        Some((path, words)) if LIBRARY.iter().any(|library| words.starts_with(library)) => in_words(Some(path), words),
        _ => in_words(None, said),
    }
}

/// The words of the library that reads JSON, in ours. `path` names the field that was being read, `.` none.
fn in_words(path: Option<&str>, said: &str) -> String {
    let path = path.filter(|path| *path != "." && !path.is_empty());
    let under = |name: &str| match path {
        // The path of an unknown field ends with the field.
        Some(path) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(path) => format!("{path}.{name}"),
        None => name.to_owned(),
    };
    if let Some(name) = said.strip_prefix("missing field ") {
        return format!("{}: is missing", under(bare(name)));
    }
    if let Some(name) = said.strip_prefix("duplicate field ") {
        return format!("{}: is given more than once", under(bare(name)));
    }
    if let Some(rest) = said.strip_prefix("unknown field ") {
        let name = rest.split('`').nth(1).unwrap_or_default();
        return format!("{}: is not accepted; {}", under(name), accepted(rest));
    }
    let of_path = |text: &str| path.map_or_else(|| text.to_owned(), |path| format!("{path}: {text}"));
    if said.starts_with("unknown variant ") {
        return of_path(&accepted(said));
    }
    let expected = said.starts_with("invalid ").then(|| said.rsplit_once(", expected ")).flatten();
    match expected {
        Some((_value, expected)) => of_path(&format!("expected {}", plain(expected))),
        // Words of our own, which name the field themselves.
        None if said.contains(": ") => said.to_owned(),
        None => of_path(said),
    }
}

fn bare(name: &str) -> &str {
    name.trim_matches('`')
}

/// The kinds of values, without names of Rust.
fn plain(expected: &str) -> &str {
    match expected {
        "a map" => "an object",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "f64" | "f32" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    }
}

fn accepted(said: &str) -> String {
    let names: Vec<&str> =
        said.rsplit_once(", expected ").map_or("", |(_, names)| names).split('`').skip(1).step_by(2).collect();
    if names.is_empty() { "no field is accepted here".to_owned() } else { format!("accepted: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Asked {
        selection: Inner,
        rate: Option<f64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        web_hook: String,
        #[serde(default)]
        ranges: Vec<u32>,
    }

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(read::<Asked>(json.as_bytes()).unwrap_err().to_string(), expected, "{json}");
    }

    #[test]
    fn an_error_names_the_field_and_what_is_accepted_and_repeats_no_value() {
        check("{}", "selection: is missing");
        check(r#"{"selection":{}}"#, "selection.webHook: is missing");
        check(
            r#"{"selection":{"webHook":"w","webhok":1}}"#,
            "selection.webhok: is not accepted; accepted: webHook, ranges",
        );
        check(r#"{"selecton":{}}"#, "selecton: is not accepted; accepted: selection, rate");
        check(r#"{"selection":{"webHook":7}}"#, "selection.webHook: expected a string");
        check(r#"{"selection":"s3cret"}"#, "selection: expected an object");
        check(r#"{"selection":{"webHook":"w","ranges":{}}}"#, "selection.ranges: expected a list");
        check(
            r#"{"selection":{"webHook":"w","ranges":[1,-2]}}"#,
            "selection.ranges[1]: expected a whole number from 0 on",
        );
        check(r#"{"selection":{"webHook":"w"},"rate":"fast"}"#, "rate: expected a number");
        check(r#"{"rate":1,"rate":2}"#, "rate: is given more than once");
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_with_the_place() {
        check("{\n \"rate\": }", "not valid JSON in line 2, column 10: expected value");
        check("", "not valid JSON: it is empty");
        for cut in [
            "{",
            "{\"",
            "{\"rate\"",
            "{\"rate\":",
            "{\"rate\":1",
            "{\"selection\":{\"ranges\":[1,",
            "{\"selection\":{\"webHook\":\"w",
        ] {
            check(cut, &format!("not valid JSON: it ends too early, in line 1, column {}", cut.len()));
        }
        check(r#"{"selection":{"webHook":"w"}} x"#, "not valid JSON in line 1, column 31: trailing characters");
    }

    #[test]
    fn a_query_is_refused_in_the_same_words() {
        for (said, expected) in [
            ("missing field `filter`", "filter: is missing"),
            ("nope: unknown field `nope`, expected `limit` or `next`", "nope: is not accepted; accepted: limit, next"),
            ("nope: unknown field `nope`, there are no fields", "nope: is not accepted; no field is accepted here"),
            ("limit: duplicate field `limit`", "limit: is given more than once"),
            ("limit: invalid digit found in string", "limit: invalid digit found in string"),
        ] {
            assert_eq!(of_query(said), expected);
        }
    }

    #[test]
    fn words_of_our_own_stay() {
        let expected = "from, to: expected a time";
        assert_eq!(in_words(Some("selection.from"), expected), expected);
        assert_eq!(
            in_words(Some("ranges[0]"), "expected partition/start/end"),
            "ranges[0]: expected partition/start/end"
        );
    }
}
