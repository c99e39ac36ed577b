//! The rules of an instance, each by a value that breaks it and the message about that value.

use super::*;
use crate::domain::integration::ITEMS_MAX;

fn found(text: &str) -> Found {
    faults("ws/i", &Instance::parse(text.as_bytes()).unwrap(), &|_place| true)
}

/// The one fault of an instance.
#[track_caller]
fn refused(text: &str, path: &str, part: &str) {
    let found = found(text);
    let messages: Vec<&str> = found.listed.iter().map(|fault| &*fault.message).collect();
    assert_eq!(found.listed.len(), 1, "{text}: {messages:?}");
    assert_eq!(found.listed[0].path, path, "{text}");
    assert!(messages[0].contains(part), "{part:?} in {messages:?}");
}

#[track_caller]
fn accepted(text: &str) {
    let messages: Vec<_> = found(text).listed.into_iter().map(|fault| fault.message).collect();
    assert!(messages.is_empty(), "{text}: {messages:?}");
}

fn with_webhook(fields: &str) -> String {
    format!(r#"{{"webHooks":[{{"id":"w","relativeUrl":"http://a/","triggerType":"entityEvent",{fields}}}]}}"#)
}

fn with_item(item: &str) -> String {
    with_webhook(&format!(r#""filter":{{"items":[{item}]}}"#))
}

#[test]
fn a_misspelt_known_field_is_reported_and_other_fields_are_accepted() {
    refused(r#"{"baseurl":"http://a/"}"#, "/baseurl", "did you mean baseUrl?");
    refused(r#"{"webhooks":[]}"#, "/webhooks", "did you mean webHooks?");
    refused(r#"{"web_hooks":[]}"#, "/web_hooks", "did you mean webHooks?");
    refused(r#"{"setings":[]}"#, "/setings", "did you mean settings?");
    refused(
        &with_webhook(r#""filter":{"items":[{}]},"Disabled":true"#),
        "/webHooks/0/Disabled",
        "did you mean disabled?",
    );
    refused(&with_webhook(r#""filter":{"items":[{}],"Items":[]}"#), "/webHooks/0/filter/Items", "did you mean items?");
    refused(r#"{"secrets":[{"id":"a","value":"b","Value":"c"}]}"#, "/secrets/0/Value", "did you mean value?");
    let own = r#""name":"x","uid":"y","base":"z","note":1,"statistics":{},"owner_id":1,"secretary":1"#;
    accepted(&format!("{{{own}}}"));
    accepted(&with_webhook(&format!(r#""filter":{{"items":[{{}}],{own}}},{own}"#)));
}

#[test]
fn a_field_given_twice_is_refused_wherever_it_stands() {
    refused(r#"{"status":"active","status":"paused"}"#, "/status", "given twice");
    refused(
        &with_webhook(r#""filter":{"items":[{}]},"disabled":true,"disabled":false"#),
        "/webHooks/0/disabled",
        "given twice",
    );
    refused(
        &with_item(r#"{"entityType":"a","entityType":"b"}"#),
        "/webHooks/0/filter/items/0/entityType",
        "given twice",
    );
}

#[test]
fn an_item_that_matches_more_or_less_than_it_says_is_refused() {
    for (name, meant) in [("entitytype", "entityType"), ("event_type", "eventType"), ("ChangeType", "changeType")] {
        let path = format!("/webHooks/0/filter/items/0/{name}");
        refused(&with_item(&format!(r#"{{"{name}":"patch"}}"#)), &path, &format!("did you mean {meant}?"));
    }
    refused(&with_item(r#"{"entity":"contact"}"#), "/webHooks/0/filter/items/0/entity", "no such field");
    for word in ["link", "UNLINK"] {
        let item = format!(r#"{{"eventType":"{word}","changeType":"patch"}}"#);
        refused(&with_item(&item), "/webHooks/0/filter/items/0/changeType", "matches nothing");
    }
    accepted(&with_item(r#"{"eventType":"Change","changeType":"patch"},{"eventType":"link","changeType":null},{}"#));
}

#[test]
fn secrets_that_would_not_do_what_they_look_like_are_refused() {
    let secret = |id: &str, value: &str| format!(r#"{{"secrets":[{{"id":"{id}","value":"{value}"}}]}}"#);
    for bad in ["", " ", "whsec_", "whsec_short", "whsec_not base64!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        let text = secret("webhook.signingSecret", bad);
        refused(&text, "/secrets/0", "24 to 64");
        let message = found(&text).listed.remove(0).message;
        let (_, proposed) = message.rsplit_once(' ').unwrap();
        assert!(SigningKey::parse(proposed, None).is_ok(), "{message}");
        assert!(bad.trim().len() < 7 || !message.contains(bad), "{message}");
    }
    refused(&secret("webhook.signingsecret", "x"), "/secrets/0", "webhook.signingSecret");
    refused(&secret("webhook.header.", "x"), "/secrets/0", "webhook.header.<Name>");
    refused(&secret("webhook.header.X Y", "x"), "/secrets/0", "id \"webhook.header.X Y\": expected a header's name");
    refused(
        &secret("webhook.header.Host", "x"),
        "/secrets/0",
        "id \"webhook.header.Host\": every request has this header",
    );
    let unsendable = secret("webhook.header.X", "hunter\\n22");
    refused(&unsendable, "/secrets/0", "id \"webhook.header.X\": the value can't be sent");
    assert!(!found(&unsendable).listed.remove(0).message.contains("hunter"));
    let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    accepted(&secret("webhook.signingSecret", good));
    accepted(&format!(r#"{{"secrets":[{{"id":"webhook.signingSecret","values":["{good}","{good}"]}}]}}"#));
    accepted(&secret("mine", "x"));
    for none in
        [r#"{"id":"a"}"#, r#"{"id":"a","values":[]}"#, r#"{"id":"a","value":7}"#, r#"{"id":"a","values":["x",1]}"#]
    {
        refused(&format!(r#"{{"secrets":[{none}]}}"#), "/secrets/0", "value");
    }
    refused(r#"{"secrets":[{"id":"a","value":"b","expiresAt":"soon"}]}"#, "/secrets/0/expiresAt", "RFC 3339");
}

#[test]
fn the_bounds_are_reported_and_nothing_beyond_them_is_read() {
    let hook = |number: usize| {
        format!(
            r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"entityEvent","filter":{{"items":[{{}}]}}}}"#
        )
    };
    let hooks = |count: usize| format!(r#"{{"webHooks":[{}]}}"#, (0..count).map(hook).collect::<Vec<_>>().join(","));
    accepted(&hooks(WEBHOOKS_MAX));
    refused(&hooks(WEBHOOKS_MAX + 1), "/webHooks", "at most 1000");
    accepted(&with_item(&vec!["{}"; ITEMS_MAX].join(",")));
    refused(&with_item(&vec!["{}"; ITEMS_MAX + 1].join(",")), "/webHooks/0/filter/items", "at most 1000");
    let secrets = |prefix: &str, count: usize, value: &str| {
        let secret = |number: usize| format!(r#"{{"id":"{prefix}{number}","value":"{value}"}}"#);
        format!(r#"{{"secrets":[{}]}}"#, (0..count).map(secret).collect::<Vec<_>>().join(","))
    };
    accepted(&secrets("s", SECRETS_MAX, "v"));
    refused(&secrets("s", SECRETS_MAX + 1, "v"), "/secrets", "at most 100");
    refused(&secrets("webhook.header.X", HEADER_SECRETS_MAX + 1, "v"), "/secrets", "at most 32");
    refused(&secrets("webhook.header.X", 3, &"v".repeat(2_800)), "/secrets", "at most 8192");
}

#[test]
fn two_secrets_of_one_header_are_refused() {
    let secrets = |other: &str| {
        let secret = |name: &str| format!(r#"{{"id":"webhook.header.{name}","value":"x"}}"#);
        format!(r#"{{"secrets":[{},{}]}}"#, secret("X-Key"), secret(other))
    };
    refused(&secrets("x-key"), "/secrets/1", "id \"webhook.header.x-key\": another secret is this header already");
    accepted(&secrets("X-Key-2"));
}

#[test]
fn a_ninth_signing_secret_in_force_is_refused() {
    let of = |ends: &str| {
        format!(r#"{{"id":"webhook.signingSecret","value":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"{ends}}}"#)
    };
    let secrets = |ends: &str| format!(r#"{{"secrets":[{},{}]}}"#, [&*of(""); KEYS_MAX].join(","), of(ends));
    refused(&secrets(""), "/secrets", "9 signing secrets; expected at most 8");
    accepted(&secrets(r#","expiresAt":"2020-01-01T00:00:00Z""#));
}

#[test]
fn a_secret_that_replaces_a_header_of_ours_is_refused_like_one_that_breaks_the_request() {
    for name in ["User-Agent", "accept", "Content-Length", "Connection", "webhook-id", "Webhook-Later"] {
        let text = format!(r#"{{"secrets":[{{"id":"webhook.header.{name}","value":"x"}}]}}"#);
        refused(&text, "/secrets/0", &format!("id \"webhook.header.{name}\": every request has this header already"));
    }
}

#[test]
fn a_base_url_that_drops_the_relative_url_is_refused() {
    for base in ["https://a.example/v1#x", "https://a.example/hook?code=abc"] {
        refused(&format!(r#"{{"baseUrl":"{base}"}}"#), "/baseUrl", "no ?");
    }
}
