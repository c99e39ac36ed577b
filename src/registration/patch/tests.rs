//! Patches as callers send them: which are applied, which are refused with which message, and how long the worst take.

use serde_json::Value;

use super::*;
use crate::registration::faults::FAULTS_MAX;
use crate::registration::instance::MASK;

const KEY: &str = "ws/e01c765d";
const FIRST: &str = r#"{"id":"one","relativeUrl":"/a","triggerType":"entityEvent","filter":{"items":[{}]},"schedule":{},"disabled":false,"custom":1.50}"#;
const SECOND: &str =
    r#"{"id":"two","relativeUrl":"https://b.example/x","triggerType":"schedule","schedule":{"period":"00:01:00"}}"#;
const ZERO: &str = "00000000-0000-0000-0000-000000000000";

fn stored() -> String {
    format!(
        r#"{{"id":"e01c765d","baseUrl":"https://a.example/v1","status":"active","x-unknown":1e400,"secrets":[{{"id":"webhook.signingSecret","value":"whsec_s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3"}}],"webHooks":[{FIRST},{SECOND}]}}"#
    )
}

fn hook(id: &str) -> String {
    format!(r#"{{"id":"{id}","relativeUrl":"/n","triggerType":"entityEvent","filter":{{"items":[{{}}]}}}}"#)
}

fn apply(operations: &str) -> Result<Patched, Conflict> {
    let patch = Patch::parse(format!(r#"{{"operations":[{operations}]}}"#).as_bytes()).unwrap();
    let mut next = 0;
    patch.apply(KEY, stored().as_bytes(), &mut || {
        next += 1;
        format!("fresh-{next}")
    })
}

/// Asserts that the patch applies and that each pointer then shows its value.
#[track_caller]
fn applies(operations: &str, shows: &[(&str, Option<&str>)]) {
    let patched = apply(operations).unwrap_or_else(|conflict| panic!("{operations}: {}", conflict.message));
    let bytes = patched.instance.to_bytes();
    // The number that no value can hold survives beside whatever the patch did.
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(r#""x-unknown":1e400"#), "{text}");
    let value: Value = serde_json::from_str(&text.replace("1e400", "1")).unwrap();
    for (pointer, expected) in shows {
        let expected = expected.map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(value.pointer(pointer), expected.as_ref(), "{operations}: {pointer} in {value}");
    }
}

/// Asserts that the patch is refused: the last operation alone is at fault, in that list, and the message has these parts.
#[track_caller]
fn refuses(operations: &[&str], list: List, parts: &[&str]) {
    let mut conflict = apply(&operations.join(",")).expect_err(operations.last().unwrap());
    let sent: Vec<String> =
        list.of_conflict(&mut conflict).drain(..).map(|operation| operation.get().to_owned()).collect();
    assert_eq!(sent, [operations.last().unwrap().to_owned()], "{}", conflict.message);
    let others = conflict.invalid_paths.len() + conflict.invalid_value_types.len() + conflict.invalid_datas.len();
    assert_eq!(others, 0, "{operations:?}");
    for part in parts {
        assert!(conflict.message.contains(part), "{part:?} in {:?}", conflict.message);
    }
}

fn op(verb: &str, path: &str, value: &str) -> String {
    format!(r#"{{"op":"{verb}","path":"{path}","value":{value}}}"#)
}

#[test]
fn the_manuals_example_appends() {
    let value = r#"{"id":"a5aad3c1-777b-4ae5-8ca1-60b94c0423e5","relativeUrl":"https://publicUrl.ru/callbacks","triggerType":"entityEvent","filter":{"items":[{"eventType":"change","entityType":"company","changeType":"patch"},{"entityType":"contact"}]},"schedule":{},"disabled":false}"#;
    applies(&op("Add", "/IntegrationInstance", value), &[("/webHooks/2", Some(value)), ("/webHooks/0", Some(FIRST))]);
}

#[test]
fn webhooks_are_added_at_the_end_or_at_the_index_in_the_path() {
    for (verb, path, at) in [
        ("add", "/webHooks", 2),
        ("ADD", "/IntegrationInstance", 2),
        ("add", "/webHooks/-", 2),
        ("aDd", "/webHooks/2", 2),
        ("add", "/webHooks/0", 0),
        ("add", "/webHooks/new", 2),
    ] {
        applies(&op(verb, path, &hook("new")), &[(&format!("/webHooks/{at}"), Some(&hook("new")))]);
    }
}

#[test]
fn the_operation_that_brought_a_bad_value_is_at_fault() {
    refuses(&[&op("add", "/webHooks/0", &hook("two"))], List::Datas, &["has this id already"]);
    refuses(&[&op("add", "/webHooks", &hook("one"))], List::Datas, &["has this id already"]);
    let twice = r#"{"id":"n","relativeUrl":"/n","triggerType":"entityEvent","filter":{"items":[{}],"items":[{}]}}"#;
    refuses(&[&op("add", "/webHooks", twice)], List::Datas, &["/webHooks/2/filter/items", "given twice"]);
}

#[test]
fn ids_are_given_and_kept() {
    applies(&op("add", "/webHooks", &hook(ZERO)), &[("/webHooks/2/id", Some(r#""fresh-1""#))]);
    let without = r#"{"relativeUrl":"/n","triggerType":"entityEvent","filter":{"items":[{}]}}"#;
    applies(&op("add", "/webHooks", without), &[("/webHooks/2/id", Some(r#""fresh-1""#))]);
    applies(&op("add", "/webHooks/named", without), &[("/webHooks/2/id", Some(r#""named""#))]);
    applies(&op("replace", "/webHooks/two", &hook("other")), &[("/webHooks/1", Some(&hook("two")))]);
    applies(&op("replace", "/webHooks/1", &hook(ZERO)), &[("/webHooks/1", Some(&hook("two")))]);
    applies(&op("add", "/webHooks/one", &hook("other")), &[("/webHooks/0", Some(&hook("one")))]);
}

#[test]
fn webhooks_are_found_by_id_and_by_index() {
    for path in ["/webHooks/one", "/webHooks/0"] {
        applies(
            &format!(r#"{{"op":"remove","path":"{path}"}}"#),
            &[("/webHooks/0", Some(SECOND)), ("/webHooks/1", None)],
        );
        applies(&op("replace", &format!("{path}/disabled"), "true"), &[("/webHooks/0/disabled", Some("true"))]);
        applies(&op("test", path, FIRST), &[("/webHooks/0", Some(FIRST))]);
    }
    applies(r#"{"op":"remove","path":"/webHooks/one/schedule"}"#, &[("/webHooks/0/schedule", None)]);
    applies(&op("add", "/webHooks/two/disabled", "true"), &[("/webHooks/1/disabled", Some("true"))]);
    applies(&op("replace", "/webHooks/one/custom", "2"), &[("/webHooks/0/custom", Some("2"))]);
}

#[test]
fn the_list_of_webhooks_is_replaced_and_emptied_as_a_whole() {
    applies(
        &op("replace", "/webHooks", &format!("[{}]", hook(ZERO))),
        &[("/webHooks", Some(&format!("[{}]", hook("fresh-1"))))],
    );
    applies(r#"{"op":"remove","path":"/webHooks"}"#, &[("/webHooks", Some("[]"))]);
    applies(&op("test", "/webHooks", &format!("[{FIRST},{SECOND}]")), &[]);
}

#[test]
fn own_fields_are_set_and_removed() {
    for (path, value) in [
        ("/baseUrl", r#""https://c.example""#),
        ("/status", r#""paused""#),
        ("/features", r#"{"a":{"b":1}}"#),
        ("/settings", r#"[{"x":1}]"#),
        ("/secrets", r#"[{"id":"webhook.header.Authorization","value":"Bearer x"}]"#),
    ] {
        applies(&op("add", path, value), &[(path, Some(value))]);
        applies(&op("replace", path, value), &[(path, Some(value))]);
    }
    applies(r#"{"op":"remove","path":"/status"}"#, &[("/status", None)]);
}

#[test]
fn a_masked_secret_keeps_its_value() {
    let value = r#"[{"id":"webhook.signingSecret","value":"***"},{"id":"n","value":"v"}]"#;
    applies(
        &op("replace", "/secrets", value),
        &[("/secrets/0/value", Some(r#""whsec_s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3""#))],
    );
    applies(&op("test", "/secrets", r#"[{"id":"webhook.signingSecret","value":"***"}]"#), &[]);
    refuses(&[&op("replace", "/secrets", r#"[{"id":"n","value":"***"}]"#)], List::Datas, &["/secrets", r#""n""#]);
}

#[test]
fn a_written_status_is_reported_even_if_it_is_the_same() {
    assert!(apply(&op("replace", "/status", r#""active""#)).unwrap().status_written);
    assert!(!apply(&op("test", "/status", r#""active""#)).unwrap().status_written);
    assert!(!apply(&op("replace", "/features", "{}")).unwrap().status_written);
    assert!(!apply(&op("test", "/status", r#""active""#)).unwrap().is_written);
    assert!(!apply("").unwrap().is_written);
}

#[test]
fn a_failed_test_stops_the_patch() {
    for (path, value) in [
        ("/status", r#""paused""#),
        ("/features", "{}"),
        ("/webHooks/one", "{}"),
        ("/webHooks/two/disabled", "true"),
        ("/webHooks", "[]"),
        ("/secrets", r#"[{"id":"webhook.signingSecret","value":"***"},{}]"#),
    ] {
        let guard = op("test", path, value);
        let conflict = apply(&format!("{guard},{}", op("replace", "/status", r#""paused""#))).unwrap_err();
        assert_eq!(conflict.invalid_datas.len(), 1, "{guard}");
        assert!(conflict.message.contains(path), "{}", conflict.message);
    }
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    for path in [
        "",
        "webHooks",
        "/",
        "/webhooks",
        "/nope",
        "/id",
        "/updateInfo",
        "/baseUrl/x",
        "/features/a",
        "/webHooks/one/filter/items",
        "/webHooks/two/custom",
        "/webHooks/one/id",
        "/webHooks/9",
        "/webHooks/00",
        "/webHooks/",
        "/webHooks/three",
        "/webHooks/~2",
        "/webHooks/one/",
        "/IntegrationInstance/x",
        "/webHooks/-",
        "/IntegrationInstance",
    ] {
        let operation = op("replace", path, r#""x""#);
        // A path that is not a name is shown as it came.
        refuses(&[&operation], List::Paths, &[path, "operation 0"]);
    }
    for path in ["/webHooks/3", "/webHooks/with space", "/webHooks/a~1b"] {
        refuses(&[&op("add", path, &hook("new"))], List::Paths, &["operation 0"]);
    }
    refuses(&[r#"{"op":"remove","path":"/features"}"#], List::Paths, &["/features"]);
    refuses(&[r#"{"op":"remove","path":"/webHooks/two/disabled"}"#], List::Paths, &["/webHooks/two/disabled"]);
    refuses(&[r#"{"op":"add","value":{}}"#], List::Paths, &["no path", "/webHooks"]);
    refuses(&[r#"{"op":"add","path":7,"value":{}}"#], List::Paths, &["7", "/webHooks"]);
}

#[test]
fn escaped_pointers_are_unescaped() {
    let first = op("add", "/webHooks", &hook("a~b"));
    applies(
        &format!("{first},{}", op("replace", "/webHooks/a~0b/disabled", "true")),
        &[("/webHooks/2/disabled", Some("true"))],
    );
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    for (path, value) in [
        ("/baseUrl", "7"),
        ("/status", "true"),
        ("/features", "[]"),
        ("/settings", "{}"),
        ("/secrets", "{}"),
        ("/webHooks/one/disabled", r#""yes""#),
        ("/webHooks/one/relativeUrl", "null"),
        ("/webHooks/one/triggerType", "1"),
        ("/webHooks/one/filter", "[]"),
        ("/webHooks/one/filter", r#"{"items":{}}"#),
        ("/webHooks/one/filter", r#"{"items":[1]}"#),
        ("/webHooks/one/filter", r#"{"items":[{"eventType":1}]}"#),
        ("/webHooks/one/schedule", "[]"),
        ("/webHooks/two/schedule", r#"{"period":10}"#),
        ("/webHooks/one", "[]"),
        ("/webHooks", "{}"),
    ] {
        refuses(&[&op("replace", path, value)], List::ValueTypes, &["expected"]);
    }
    refuses(&[&op("add", "/webHooks", "[]")], List::ValueTypes, &["/webHooks", "[]", "WebHook"]);
    refuses(&[r#"{"op":"add","path":"/webHooks"}"#], List::ValueTypes, &["value"]);
    refuses(&["17"], List::ValueTypes, &["17", "op, path and value"]);
}

#[test]
fn values_that_are_not_valid_are_refused() {
    for (path, value, parts) in [
        ("/status", r#""stopped""#, ["stopped", "notConfigured"]),
        ("/baseUrl", r#""ftp://x""#, ["/baseUrl", "ftp"]),
        ("/webHooks/one/relativeUrl", r#""ftp://x/y""#, ["/webHooks/0/relativeUrl", "ftp"]),
        ("/webHooks/one/triggerType", r#""cron""#, ["cron", "entityEvent, schedule"]),
        ("/webHooks/one/triggerType", r#""schedule""#, ["/webHooks/0/schedule/period", "missing"]),
        ("/webHooks/two/triggerType", r#""entityEvent""#, ["/webHooks/1/filter/items", "at least one"]),
        ("/webHooks/one/filter", r#"{"items":[]}"#, ["/webHooks/0/filter/items", "[]"]),
        ("/webHooks/one/filter", "null", ["/webHooks/0/filter/items", "missing"]),
        ("/webHooks/one/filter", r#"{"items":[{"eventType":"chnge"}]}"#, ["chnge", "change, link, unlink"]),
        (
            "/webHooks/one/filter",
            r#"{"items":[{},{"changeType":"x"}]}"#,
            ["/items/1/changeType", "create, patch, delete, restore"],
        ),
        ("/webHooks/one/filter", r#"{"items":[{"entityType":""}]}"#, ["/items/0/entityType", "entity type"]),
        ("/webHooks/two/schedule", r#"{"period":"00:00:09"}"#, ["00:00:09", "00:00:10"]),
        ("/webHooks/two/schedule", "{}", ["/webHooks/1/schedule/period", "hh:mm:ss"]),
    ] {
        refuses(&[&op("replace", path, value)], List::Datas, &parts);
    }
    refuses(&[&op("add", "/webHooks", &hook("one"))], List::Datas, &["/webHooks/2/id", "one", "already"]);
    refuses(&[&op("add", "/webHooks/new", &hook("other"))], List::Datas, &["/webHooks/new", "id"]);
    refuses(&[&op("move", "/webHooks", "{}")], List::Datas, &["move", "add, replace, remove or test"]);
    refuses(&[r#"{"path":"/webHooks","value":{}}"#], List::Datas, &["no op"]);
    for twice in [
        r#"{"op":"add","op":"remove","path":"/status","value":"active"}"#,
        r#"{"op":"add","path":"/baseUrl","path":"/status","value":"active"}"#,
        r#"{"op":"add","path":"/status","value":"active","value":"paused"}"#,
    ] {
        refuses(&[twice], List::Datas, &["is given twice"]);
    }
    refuses(&[r#"{"op":"remove","path":"/baseUrl"}"#], List::Datas, &["/webHooks/0/relativeUrl"]);
}

#[test]
fn a_bad_period_and_the_accepted_form_are_named_once() {
    for (period, expected) in [("00:00:09", "00:00:10"), ("soon", "hh:mm:ss"), ("40000.00:00:00", "days")] {
        let value = format!(r#"{{"period":"{period}"}}"#);
        let message = apply(&op("replace", "/webHooks/two/schedule", &value)).unwrap_err().message;
        for part in [period, expected, "expected"] {
            assert_eq!(message.matches(part).count(), 1, "{part} in {message}");
        }
    }
}

#[test]
fn a_value_that_a_later_operation_corrects_is_not_a_fault() {
    let first = op("add", "/webHooks", r#"{"id":"n","relativeUrl":"/n","triggerType":"entityEvent"}"#);
    applies(&format!("{first},{}", op("add", "/webHooks/n/filter", r#"{"items":[{}]}"#)), &[]);
}

#[test]
fn every_operation_at_fault_is_listed_and_nothing_is_applied() {
    let bad_path = op("replace", "/nope", "1");
    let bad_type = op("replace", "/features", "1");
    let good = op("replace", "/status", r#""paused""#);
    let conflict = apply(&format!("{bad_path},{good},{bad_type}")).unwrap_err();
    assert_eq!(conflict.invalid_paths.iter().map(|sent| sent.get()).collect::<Vec<_>>(), [bad_path]);
    let conflict = apply(&format!("{bad_type},{good},{}", op("replace", "/settings", "1"))).unwrap_err();
    assert_eq!(conflict.invalid_value_types.len(), 2);
}

#[test]
fn secret_values_never_come_back() {
    for (verb, path, value) in [
        ("replace", "/secrets", r#"[{"id":"webhook.header.Host","value":"hunter2"}]"#),
        ("replace", "/secrets", r#"[{"id":"","value":"hunter2"}]"#),
        ("replace", "/secrets", r#""hunter2""#),
        ("replace", "/secrets", r#"[{"id":"x","value":{"a":"hunter2"}}]"#),
        ("test", "/secrets", r#"[{"id":"webhook.signingSecret","value":"hunter2"}]"#),
        ("add", "/secrets/0", r#"{"id":"x","value":"hunter2"}"#),
        ("nope", "/secrets", r#"[{"id":"x","value":"hunter2"}]"#),
    ] {
        let operation = op(verb, path, value);
        let patch = Patch::parse(format!(r#"{{"operations":[{operation}]}}"#).as_bytes()).unwrap();
        let conflict = apply(&operation).unwrap_err();
        let shown = format!("{conflict:?} {patch:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("s3cr3t"), "{shown}");
    }
}

#[test]
fn faults_that_the_worker_accepts_do_not_prevent_other_patches() {
    // Written past the API: no filter items. It matches nothing, and the worker uses the record.
    let stored = br#"{"webHooks":[{"id":"w","relativeUrl":"https://a/","triggerType":"entityEvent"}]}"#;
    let patch = Patch::parse(br#"{"operations":[{"op":"replace","path":"/status","value":"paused"}]}"#).unwrap();
    assert!(patch.apply(KEY, stored, &mut String::new).is_ok());
    let stored = br#"{"webHooks":[{"id":"w","relativeUrl":"ftp://a/","triggerType":"entityEvent"}]}"#;
    let conflict = patch.apply(KEY, stored, &mut String::new).unwrap_err();
    assert!(conflict.message.contains("/webHooks/0/relativeUrl"), "{}", conflict.message);
}

#[test]
fn bodies_that_are_not_a_patch_are_refused() {
    for bad in ["", "{}", r#"{"operations":{}}"#, r#"{"operations":[1,}"#, r#"{"operations":null}"#, "null"] {
        assert!(matches!(Patch::parse(bad.as_bytes()), Err(BadPatch::Malformed(_))), "{bad}");
    }
    for none in ["[]", r#"[[{"op":"test"}]]"#, " [{}]"] {
        assert_eq!(Patch::parse(none.as_bytes()).unwrap_err(), BadPatch::Array, "{none}");
    }
    let many = format!(r#"{{"operations":[{}1]}}"#, "1,".repeat(OPERATIONS_MAX));
    assert_eq!(Patch::parse(many.as_bytes()).unwrap_err(), BadPatch::TooMany(OPERATIONS_MAX + 1));
}

#[test]
fn a_stored_record_that_is_not_an_instance_can_only_be_replaced() {
    let patch = Patch::parse(br#"{"operations":[]}"#).unwrap();
    assert!(patch.apply(KEY, b"[]", &mut String::new).unwrap_err().message.contains("replace it"));
}

#[test]
fn a_replacement_is_checked_as_a_whole() {
    let parse = |text: &str| Instance::parse(text.as_bytes()).unwrap();
    let good = parse(&stored().replace("whsec_s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3", "***"));
    let kept = replacement(KEY, good, Some(stored().as_bytes()), &mut String::new).unwrap();
    assert_eq!(String::from_utf8(kept.to_bytes()).unwrap(), stored());
    let bad = parse(r#"{"id":"other","status":7,"webHooks":[{"id":"w","relativeUrl":"ftp://x"}]}"#);
    let conflict = replacement(KEY, bad, None, &mut String::new).unwrap_err();
    let paths = |list: &[Box<RawValue>]| list.iter().map(|fault| fault.get().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        paths(&conflict.invalid_datas),
        [r#"{"path":"/id","value":"other"}"#, r#"{"path":"/webHooks/0/relativeUrl","value":"ftp://x"}"#]
    );
    assert_eq!(
        paths(&conflict.invalid_value_types),
        [r#"{"path":"/status","value":7}"#, r#"{"path":"/webHooks/0/triggerType"}"#]
    );
    assert!(conflict.message.contains("e01c765d"));
}

/// How long a document of 1 MiB may keep a processor busy here. A debug build needs seconds where a release build needs tenths of them;
/// work that grows with the square needs minutes or hours.
const PROCESSOR_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// How long this thread has had a processor: other work of the machine does not count.
fn processor_time() -> std::time::Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    std::time::Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

#[track_caller]
fn is_quick<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let before = processor_time();
    let result = work();
    let took = processor_time().saturating_sub(before);
    println!("{what}: {took:?}");
    assert!(took < PROCESSOR_MAX, "{what}: {took:?}");
    result
}

fn patched(stored: &[u8], operations: &str) -> Result<Patched, Conflict> {
    let body = format!(r#"{{"operations":[{operations}]}}"#);
    Patch::parse(body.as_bytes()).unwrap().apply("ws/i", stored, &mut String::new)
}

fn listed(conflict: &Conflict) -> usize {
    let lists = [&conflict.invalid_paths, &conflict.invalid_value_types, &conflict.invalid_datas];
    lists.into_iter().flatten().count()
}

const MIB: usize = 1 << 20;

#[test]
fn a_million_faults_are_reported_as_a_hundred_and_the_number_of_the_others() {
    let empty = vec!["{}"; MIB / 3].join(",");
    let replaced = format!(r#"{{"op":"replace","path":"/webHooks","value":[{empty}]}}"#);
    let conflict = is_quick("1 MiB of {} in a patch", || patched(b"{}", &replaced)).unwrap_err();
    assert_eq!((listed(&conflict), conflict.message.contains("at most 1000")), (1, true));
    let put = Instance::parse(format!(r#"{{"webHooks":[{empty}]}}"#).as_bytes()).unwrap();
    let conflict = is_quick("1 MiB of {} in a PUT", || replacement("ws/i", put, None, &mut String::new)).unwrap_err();
    assert!(conflict.message.ends_with("webhooks; expected at most 1000"), "{}", conflict.message);
    let most = vec!["{}"; WEBHOOKS_MAX].join(",");
    let put = Instance::parse(format!(r#"{{"webHooks":[{most}]}}"#).as_bytes()).unwrap();
    let conflict = replacement("ws/i", put, None, &mut String::new).unwrap_err();
    assert_eq!(listed(&conflict), FAULTS_MAX);
    assert!(conflict.message.contains("; and "), "{}", conflict.message);
    assert!(conflict.message.ends_with(" more"), "{}", conflict.message);
}

#[test]
fn the_cost_of_a_thousand_faulty_webhooks_grows_with_their_length_only() {
    let hook = |number: usize| {
        let note = "x".repeat(180);
        format!(
            r#"{{"op":"add","path":"/webHooks","value":{{"id":"{number}","relativeUrl":"http://a/","triggerType":"cron","filter":{{"items":[{{}}]}},"note":"{note}"}}}}"#
        )
    };
    let operations = (0..1_000).map(hook).collect::<Vec<_>>().join(",");
    let conflict = is_quick("1,000 operations at fault", || patched(b"{}", &operations)).unwrap_err();
    assert_eq!(listed(&conflict), FAULTS_MAX);
    assert!(conflict.message.ends_with("; and 990 more"), "{}", conflict.message);
    let list = (0..1_000).map(|number| format!(r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"cron","filter":{{"items":[{{}}]}},"note":"{}"}}"#, "x".repeat(800)));
    let replaced = format!(r#"{{"op":"replace","path":"/webHooks","value":[{}]}}"#, list.collect::<Vec<_>>().join(","));
    let conflict = is_quick("one operation of 1,000 faults", || patched(b"{}", &replaced)).unwrap_err();
    assert_eq!(listed(&conflict), 1);
}

#[test]
fn two_thousand_tests_of_a_large_instance_are_quick() {
    let many = (0..60_000).map(|number| format!(r#""x{number}":[{number}]"#)).collect::<Vec<_>>().join(",");
    let hook = format!(
        r#"{{"id":"w","relativeUrl":"http://a/","triggerType":"entityEvent","filter":{{"items":[{{}}]}},{many}}}"#
    );
    let secret = |number: usize| format!(r#"{{"id":"s{number}","value":"{number}"}}"#);
    let secrets = (0..99).map(secret).collect::<Vec<_>>().join(",");
    let stored = format!(r#"{{"secrets":[{secrets}],"features":{{{many}}},"webHooks":[{hook}]}}"#);
    for (path, value) in [
        ("/webHooks", "[{}]"),
        ("/webHooks/w", "{}"),
        ("/features", "{}"),
        ("/secrets", r#"[{"id":"s1","value":"***"}]"#),
    ] {
        let test = format!(r#"{{"op":"test","path":"{path}","value":{value}}}"#);
        let write = r#"{"op":"replace","path":"/webHooks/w/disabled","value":true}"#;
        let operations = vec![format!("{test},{write}"); OPERATIONS_MAX / 2].join(",");
        let conflict = is_quick(path, || patched(stored.as_bytes(), &operations)).unwrap_err();
        assert_eq!(conflict.invalid_datas.len(), 1, "one text, listed once");
        assert!(conflict.message.ends_with("; and 990 more"), "{}", conflict.message);
    }
}

#[test]
fn twenty_thousand_masks_are_filled_quickly() {
    let list = |value: &str| {
        (0..20_000).map(|number| format!(r#"{{"id":"{number}","value":"{value}"}}"#)).collect::<Vec<_>>().join(",")
    };
    let stored = format!(r#"{{"secrets":[{}]}}"#, list("v"));
    let masked = format!(r#"{{"op":"replace","path":"/secrets","value":[{}]}}"#, list(MASK));
    let conflict = is_quick("20,000 masks", || patched(stored.as_bytes(), &masked)).unwrap_err();
    assert!(conflict.message.contains("20000 secrets; expected at most 100"), "{}", conflict.message);
    let one = r#"{"op":"replace","path":"/secrets","value":[{"id":"7","value":"***"}]}"#;
    let operations = vec![one; OPERATIONS_MAX].join(",");
    let patched = is_quick("2,000 lists of one mask", || patched(stored.as_bytes(), &operations)).unwrap();
    assert_eq!(patched.instance.to_bytes(), br#"{"secrets":[{"id":"7","value":"v"}]}"#);
}

#[test]
fn numbers_of_a_test_are_compared_as_written_and_not_as_rounded_floats() {
    let stored = br#"{"features":{"n":9007199254740993}}"#;
    let test = |value: &str| patched(stored, &format!(r#"{{"op":"test","path":"/features","value":{{"n":{value}}}}}"#));
    assert!(test("9007199254740993").is_ok() && test("9007199254740993.0").is_ok());
    assert!(test("9007199254740992").is_err());
}
