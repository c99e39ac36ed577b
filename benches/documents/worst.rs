//! The documents: each the worst of its kind that fits into a request of a mebibyte. Those that fuzzing found stand here too.

use hyper::Method;

const MIB: usize = 1 << 20;
/// What stands around the parts of a document.
const ROOM: usize = 512;

/// A request that costs much.
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) method: Method,
    pub(crate) body: String,
    /// What is stored before, where it matters.
    pub(crate) stored: Option<String>,
}

fn document(name: &str, method: Method, body: String, stored: Option<String>) -> Document {
    assert!(body.len() <= MIB, "{name} has {} bytes", body.len());
    Document { name: name.to_owned(), method, body, stored }
}

/// As many parts as fit into a mebibyte, at most so many.
fn filled(most: usize, part: impl Fn(usize) -> String) -> String {
    let mut text = String::with_capacity(MIB);
    for number in 0..most {
        let part = part(number);
        if text.len() + part.len() + 1 > MIB - ROOM {
            break;
        }
        if number > 0 {
            text.push(',');
        }
        text.push_str(&part);
    }
    text
}

fn patch(operations: &str) -> String {
    format!(r#"{{"operations":[{operations}]}}"#)
}

fn hook(number: usize, kind: &str, note: usize) -> String {
    let note = "x".repeat(note);
    format!(
        r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"{kind}","filter":{{"items":[{{}}]}},"note":"{note}"}}"#
    )
}

fn good_hook(number: usize) -> String {
    let note = "x".repeat(800);
    format!(
        r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"entityEvent","filter":{{"items":[{{}}]}},"note":"{note}"}}"#
    )
}

/// All of them.
pub(crate) fn documents() -> Vec<Document> {
    let empty = filled(usize::MAX, |_| "{}".to_owned());
    let large = format!(r#"{{"webHooks":[{}]}}"#, filled(1_000, good_hook));
    let fields = filled(60_000, |number| format!(r#""x{number}":[{number}]"#));
    let wide = format!(r#"{{"features":{{{fields}}}}}"#);
    let tests = |path: &str, value: &str| {
        let test = format!(r#"{{"op":"test","path":"{path}","value":{value}}}"#);
        patch(&filled(2_000, |_| test.clone()))
    };
    let secrets = |value: &str| filled(20_000, |number| format!(r#"{{"id":"{number}","value":"{value}"}}"#));
    let operation = |value: &str| patch(&format!(r#"{{"op":"replace","path":"/webHooks","value":[{value}]}}"#));
    let put = Method::PUT;
    vec![
        document("PUT, 1,000 webhooks", put.clone(), large.clone(), None),
        document("PUT, a mebibyte of empty webhooks", put.clone(), format!(r#"{{"webHooks":[{empty}]}}"#), None),
        document("PUT, 20,000 masked secrets", put.clone(), format!(r#"{{"secrets":[{}]}}"#, secrets("***")), None),
        document("PUT, brackets in brackets", put, format!("{}{}", "[".repeat(MIB / 2), "]".repeat(MIB / 2)), None),
        document("PATCH, a mebibyte of empty webhooks", Method::PATCH, operation(&empty), None),
        document(
            "PATCH, one list with 1,000 faults",
            Method::PATCH,
            operation(&filled(1_000, |number| hook(number, "cron", 800))),
            None,
        ),
        document(
            "PATCH, operations at fault",
            Method::PATCH,
            patch(&filled(2_000, |number| {
                format!(r#"{{"op":"add","path":"/webHooks","value":{}}}"#, hook(number, "cron", 180))
            })),
            None,
        ),
        document(
            "PATCH, 2,000 tests of 1,000 webhooks",
            Method::PATCH,
            tests("/webHooks", "[{}]"),
            Some(large.clone()),
        ),
        document("PATCH, 2,000 tests of 60,000 fields", Method::PATCH, tests("/features", "{}"), Some(wide.clone())),
        document(
            "PATCH, 1,000 changes and 1,000 tests in turn",
            Method::PATCH,
            patch(&filled(1_000, |number| {
                let is_off = number % 2 == 0;
                format!(
                    r#"{{"op":"replace","path":"/webHooks/0/disabled","value":{is_off}}},{{"op":"test","path":"/webHooks/999/disabled","value":true}}"#
                )
            })),
            Some(large.clone()),
        ),
        document(
            "PATCH, 60,000 fields compared with themselves",
            Method::PATCH,
            patch(&format!(r#"{{"op":"test","path":"/features","value":{{{fields}}}}}"#)),
            Some(wide),
        ),
        document(
            "PATCH, names that differ little from known ones",
            Method::PATCH,
            patch(&format!(
                r#"{{"op":"add","path":"/webHooks","value":{{{}}}}}"#,
                filled(60_000, |number| format!(r#""relativeUr{number}":1"#))
            )),
            Some(large),
        ),
    ]
}
