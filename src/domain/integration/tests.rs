//! Records of the integrations topic: which can be used, what is read from them, and how small they are kept.

use super::period::BadPeriod;
use super::*;

const KEY: &str = "ws/e01c765d-7c9b-491a-b5ea-d0e67eb017d9";

fn record(webhook: &str) -> String {
    format!(
        r#"{{"id":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9","baseUrl":"https://my.example/crm/v1","webHooks":[{webhook}]}}"#
    )
}

fn parse(webhook: &str) -> Result<Integration, Unusable> {
    Integration::parse(KEY, record(webhook).as_bytes())
}

#[test]
fn when_the_status_was_written_is_known_if_it_is_said() {
    let parse = |info: &str| {
        Integration::parse("ws/i", format!(r#"{{"updateInfo":{info}}}"#).as_bytes()).unwrap().status_written_ms()
    };
    assert_eq!(parse(r#"{"statusUpdatedAt":"1970-01-01T00:00:07.5Z"}"#), Some(7_500));
    for said in [r#"{"statusUpdatedAt":"yesterday"}"#, r#"{"statusUpdatedAt":7}"#, "{}", "null", "[]", r#""x""#] {
        assert_eq!(parse(said), None, "{said}");
    }
}

#[test]
fn the_documented_record_is_used() {
    let value = r#"{ "id": "e01c765d-7c9b-491a-b5ea-d0e67eb017d9", "baseUrl": "https://my-integration.ru/crm/v1", "status": "active",
      "features": {}, "secrets": [ { "id": "webhook.signingSecret", "value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" },
        { "id": "webhook.header.Authorization", "value": "Bearer x" }, { "id": "other", "value": "y" } ], "settings": [],
      "webHooks": [ { "id": "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5", "relativeUrl": "/callbacks", "triggerType": "entityEvent",
        "filter": { "items": [ { "eventType": "change", "entityType": "user", "changeType": "patch" }, { "entityType": "contact" } ] },
        "schedule": {}, "disabled": false } ], "updateInfo": { "createdAt": "x" } }"#;
    let integration = Integration::parse(KEY, value.as_bytes()).unwrap();
    assert_eq!(integration.workspace(), "ws");
    assert_eq!(integration.id(), "e01c765d-7c9b-491a-b5ea-d0e67eb017d9");
    assert_eq!(integration.status(), Status::Active);
    assert!(!integration.signer().is_empty());
    assert_eq!(integration.secret_values().count(), 3);
    assert_eq!(integration.headers().collect::<Vec<_>>(), [("Authorization", "Bearer x")]);
    let webhook = integration.webhook_by_id("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5").unwrap();
    assert_eq!(webhook.id(), "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5");
    assert_eq!(webhook.url(), "https://my-integration.ru/crm/v1/callbacks");
    assert_eq!(webhook.trigger(), Trigger::EntityEvent);
    assert_eq!(webhook.items().len(), 2);
    assert!(!webhook.is_disabled());
}

#[test]
fn urls_join_with_exactly_one_slash() {
    for (base, relative, joined) in [
        ("https://a/crm", "/cb", "https://a/crm/cb"),
        ("https://a/crm", "cb", "https://a/crm/cb"),
        ("https://a/crm/", "/cb", "https://a/crm/cb"),
        ("https://a/crm//", "//cb", "https://a/crm/cb"),
        ("https://a/crm", "http://b/x", "http://b/x"),
        ("https://a/crm", "HTTPS://b/x?y=1", "HTTPS://b/x?y=1"),
        ("https://a", "cb?next=http://b", "https://a/cb?next=http://b"),
        ("https://a", "", "https://a"),
    ] {
        assert_eq!(join_url(base, relative), joined);
    }
}

#[test]
fn periods_are_days_and_a_clock() {
    assert_eq!(parse_period("00:00:10"), Ok(Duration::from_secs(10)));
    assert_eq!(parse_period("1.02:03:04"), Ok(Duration::from_secs(93_784)));
    assert_eq!(parse_period("23:59:59"), Ok(Duration::from_secs(86_399)));
    assert_eq!(parse_period("00:00:09"), Err(BadPeriod::TooShort("00:00:09".to_owned())));
    assert_eq!(parse_period("36500.23:59:59"), Ok(Duration::from_secs(36_501 * 86_400 - 1)));
    assert_eq!(parse_period("36501.00:00:00"), Err(BadPeriod::TooLong("36501.00:00:00".to_owned())));
    for bad in [
        "",
        "10",
        "0:00:10",
        "24:00:00",
        "00:60:00",
        "00:00:60",
        "x.00:00:10",
        "123456789.00:00:10",
        "00:00:10:00",
        "-1:00:10",
        "1.2.00:00:10",
    ] {
        assert_eq!(parse_period(bad), Err(BadPeriod::Malformed(bad.to_owned())), "{bad}");
    }
}

#[test]
fn an_unusable_record_gives_its_reason() {
    assert_eq!(Integration::parse("no-slash", b"{}").unwrap_err(), Unusable::Key);
    assert!(matches!(Integration::parse(KEY, b"{").unwrap_err(), Unusable::Json(_)));
    assert_eq!(Integration::parse(KEY, br#"{"id":"other"}"#).unwrap_err(), Unusable::IdMismatch);
    assert_eq!(Integration::parse(KEY, br#"{"status":"x"}"#).unwrap_err(), Unusable::Status("x".to_owned()));
    assert!(matches!(parse(r#"{"id":"a","triggerType":"nope"}"#).unwrap_err(), Unusable::Trigger { .. }));
    assert!(matches!(parse(r#"{"id":"a"}"#).unwrap_err(), Unusable::Trigger { .. }));
    assert_eq!(parse(r#"{"triggerType":"entityEvent"}"#).unwrap_err(), Unusable::WebhookId(0));
    assert!(matches!(
        parse(r#"{"id":"a","triggerType":"entityEvent","relativeUrl":"ftp://x/"}"#).unwrap_err(),
        Unusable::Url { .. }
    ));
    assert!(matches!(
        parse(r#"{"id":"a","triggerType":"schedule","schedule":{}}"#).unwrap_err(),
        Unusable::Period { .. }
    ));
    assert!(matches!(
        parse(r#"{"id":"a","triggerType":"entityEvent"},{"id":"a","triggerType":"entityEvent"}"#).unwrap_err(),
        Unusable::DuplicateWebhook(_)
    ));
}

#[test]
fn headers_that_cannot_be_sent_are_left_out_and_named() {
    let record = r#"{"secrets":[{"id":"webhook.header.Host","value":"x"},{"id":"webhook.header.X-Bad","value":"a\u0000b"},
        {"id":"webhook.header.X Y","value":"x"},{"id":"webhook.header.X-Good","value":" Bearer 1\n"},
        {"id":"webhook.header.X-Number","value":5},{"id":"other","value":{"a":1}},{"id":"another"}]}"#;
    let integration = Integration::parse(KEY, record.as_bytes()).unwrap();
    assert_eq!(integration.headers().collect::<Vec<_>>(), [("X-Good", "Bearer 1"), ("X-Number", "5")]);
    assert_eq!(integration.unsendable_headers().collect::<Vec<_>>(), ["Host", "X-Bad", "X Y"]);
}

#[test]
fn no_secret_replaces_a_header_of_ours_or_changes_how_the_request_is_read() {
    for name in [
        "User-Agent",
        "ACCEPT",
        "content-type",
        "Host",
        "Content-Length",
        "Content-Encoding",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "Upgrade",
        "Expect",
        "TE",
        "Trailer",
        "Proxy-Connection",
        "X-XCOM-Integration-Echo",
        "X-Xcom-Delivery-Attempt",
        "Webhook-Id",
        "webhook-timestamp",
        "webhook-signature",
        "webhook-anything-later",
    ] {
        assert_eq!(check_header(name, "x"), Err(pack::BadHeader::Reserved), "{name}");
        let secrets = format!(r#"[{{"id":"webhook.header.{name}","value":"x"}}]"#);
        let integration = with_secrets(&secrets).unwrap();
        assert_eq!(integration.headers().next(), None, "{name}");
        assert_eq!(integration.unsendable_headers().collect::<Vec<_>>(), [name]);
    }
    for name in ["Authorization", "X-Webhook-Key", "X-XCOM-AccessKey", "Cookie", "X-User-Agent"] {
        assert_eq!(check_header(name, "x"), Ok(()), "{name}");
    }
}

#[test]
fn a_header_that_two_secrets_have_is_sent_once_and_the_other_is_named() {
    let secret = |name: &str, value: &str| format!(r#"{{"id":"webhook.header.{name}","value":"{value}"}}"#);
    let secrets = [secret("X-Key", "1"), secret("x-key", "2"), secret("X-KEY", "a\\u0000"), secret("Y", "3")];
    let integration = with_secrets(&format!("[{}]", secrets.join(","))).unwrap();
    assert_eq!(integration.headers().collect::<Vec<_>>(), [("x-key", "2"), ("Y", "3")]);
    assert_eq!(integration.unsendable_headers().collect::<Vec<_>>(), ["X-Key", "X-KEY"]);
}

fn with_secrets(secrets: &str) -> Result<Integration, Unusable> {
    Integration::parse(KEY, format!(r#"{{"secrets":{secrets}}}"#).as_bytes())
}

const KEYS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];

fn signatures(secrets: &str, timestamp: i64) -> usize {
    let mut out = String::new();
    with_secrets(secrets).unwrap().signer().sign("id", timestamp, b"{}", &mut out);
    out.split_whitespace().count()
}

#[test]
fn several_values_of_a_secret_are_a_rotation() {
    let [one, other] = KEYS;
    let values = format!(r#"[{{"id":"webhook.signingSecret","values":["{one}","{other}"]}}]"#);
    assert_eq!(signatures(&values, 0), 2);
    let value = format!(r#"[{{"id":"webhook.signingSecret","value":["{one}","{other}"]}}]"#);
    assert_eq!(signatures(&value, 0), 2);
    let apart = format!(
        r#"[{{"id":"webhook.signingSecret","value":"{one}"}},{{"id":"webhook.signingSecret","value":"{other}"}}]"#
    );
    assert_eq!(signatures(&apart, 0), 2);
    let headers = with_secrets(r#"[{"id":"webhook.header.X","values":["new","old"]}]"#).unwrap();
    assert_eq!(headers.headers().collect::<Vec<_>>(), [("X", "new")]);
    assert_eq!(headers.secret_values().collect::<Vec<_>>(), ["new", "old"], "both are masked");
}

#[test]
fn a_secret_that_has_a_time_signs_until_then() {
    let [one, other] = KEYS;
    let secrets = format!(
        r#"[{{"id":"webhook.signingSecret","value":"{one}"}},{{"id":"webhook.signingSecret","value":"{other}","expiresAt":"1970-01-01T00:01:40Z"}}]"#
    );
    assert_eq!([99, 100].map(|timestamp| signatures(&secrets, timestamp)), [2, 1]);
}

#[test]
fn signing_secrets_beyond_the_bound_are_counted_and_those_that_have_ended_are_not() {
    let [one, other] = KEYS;
    let ended = format!(r#"{{"id":"webhook.signingSecret","value":"{other}","expiresAt":"1970-01-01T00:01:40Z"}}"#);
    let lasting = format!(r#"{{"id":"webhook.signingSecret","value":"{one}"}}"#);
    let secrets = format!("[{ended},{}]", [&*lasting; KEYS_MAX].join(","));
    assert_eq!([99, 100].map(|at_s| with_secrets(&secrets).unwrap().surplus_signing_secrets(at_s)), [1, 0]);
    assert_eq!(signatures(&secrets, 99), KEYS_MAX);
    let none = format!(r#"[{{"id":"webhook.signingSecret","value":"none"}},{}]"#, [&*lasting; KEYS_MAX].join(","));
    assert_eq!(with_secrets(&none).unwrap().surplus_signing_secrets(0), 0, "said for another reason");
}

#[test]
fn a_signing_secret_that_is_none_signs_nothing_and_is_counted() {
    for bad in ["", " ", "whsec_", "whsec_short", "whsec_not base64!", "text"] {
        let secrets = format!(r#"[{{"id":"webhook.signingSecret","value":"{bad}"}}]"#);
        assert_eq!(signatures(&secrets, 0), 0, "{bad:?}");
        assert_eq!(with_secrets(&secrets).unwrap().unusable_signing_secrets(), 1, "{bad:?}");
    }
    let unknown = with_secrets(r#"[{"id":"webhook.signingsecret","value":"x"},{"id":"mine","value":"y"}]"#).unwrap();
    assert_eq!(unknown.unknown_secrets().collect::<Vec<_>>(), ["webhook.signingsecret"]);
}

#[test]
fn a_record_beyond_the_bounds_is_unusable() {
    #[track_caller]
    fn check(record: &str, what: &str, most: usize) {
        let error = Integration::parse(KEY, record.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, Unusable::TooMany { what: found, most: bound, .. } if *found == what && *bound == most),
            "{error}"
        );
    }
    let webhook =
        |number: usize| format!(r#"{{"id":"{number}","relativeUrl":"http://a/","triggerType":"entityEvent"}}"#);
    let webhooks =
        |count: usize| format!(r#"{{"webHooks":[{}]}}"#, (0..count).map(webhook).collect::<Vec<_>>().join(","));
    assert_eq!(Integration::parse(KEY, webhooks(WEBHOOKS_MAX).as_bytes()).unwrap().len(), WEBHOOKS_MAX);
    check(&webhooks(WEBHOOKS_MAX + 1), "webhooks", WEBHOOKS_MAX);
    let items = |count: usize| {
        let items = vec!["{}"; count].join(",");
        format!(
            r#"{{"webHooks":[{{"id":"a","relativeUrl":"http://a/","triggerType":"entityEvent","filter":{{"items":[{items}]}}}}]}}"#
        )
    };
    assert!(Integration::parse(KEY, items(ITEMS_MAX).as_bytes()).is_ok());
    check(&items(ITEMS_MAX + 1), "filter items of a webhook", ITEMS_MAX);
    let secrets = |prefix: &str, count: usize, value: &str| {
        let secret = |number: usize| format!(r#"{{"id":"{prefix}{number}","value":"{value}"}}"#);
        format!(r#"{{"secrets":[{}]}}"#, (0..count).map(secret).collect::<Vec<_>>().join(","))
    };
    assert!(Integration::parse(KEY, secrets("s", SECRETS_MAX, "v").as_bytes()).is_ok());
    check(&secrets("s", SECRETS_MAX + 1, "v"), "secrets", SECRETS_MAX);
    assert!(Integration::parse(KEY, secrets("webhook.header.X", HEADER_SECRETS_MAX, "v").as_bytes()).is_ok());
    check(&secrets("webhook.header.X", HEADER_SECRETS_MAX + 1, "v"), "secrets that are headers", HEADER_SECRETS_MAX);
    check(&secrets("webhook.header.X", 3, &"v".repeat(2_800)), "bytes of secrets that are headers", HEADER_BYTES_MAX);
    let values = vec!["1"; SECRETS_MAX + 1].join(",");
    check(&format!(r#"{{"secrets":[{{"id":"a","values":[{values}]}}]}}"#), "secrets", SECRETS_MAX);
}

#[test]
fn what_would_mean_more_or_something_else_than_it_says_is_unusable() {
    let item =
        |item: &str| parse(&format!(r#"{{"id":"a","triggerType":"entityEvent","filter":{{"items":[{item}]}}}}"#));
    for field in ["entitytype", "EntityType", "entity", "event_type", "x"] {
        let error = item(&format!(r#"{{"changeType":"patch","{field}":"contact"}}"#)).unwrap_err();
        assert_eq!(error, Unusable::FilterField { webhook: "a".to_owned(), field: field.to_owned() });
    }
    assert!(item(r#"{"entityType":null,"eventType":"link","changeType":"patch"}"#).is_ok());
    assert!(matches!(item(r#"{"entityType":"a","entityType":"b"}"#).unwrap_err(), Unusable::Json(_)));
    for base in ["https://crm.example/v1#x", "https://crm.example/hook?code=abc", "https://crm.example/?"] {
        let record = format!(r#"{{"baseUrl":"{base}"}}"#);
        assert_eq!(
            Integration::parse(KEY, record.as_bytes()).unwrap_err(),
            Unusable::BaseUrl(BadUrl::QueryInBase),
            "{base}"
        );
    }
    for array in
        ["[]", r#"{"secrets":[["webhook.header.A","x"]]}"#, r#"{"webHooks":[["a","http://a/","entityEvent"]]}"#]
    {
        assert!(matches!(Integration::parse(KEY, array.as_bytes()).unwrap_err(), Unusable::Json(_)), "{array}");
    }
    assert!(matches!(
        Integration::parse(KEY, br#"{"id":"a","status":"active","status":"paused"}"#).unwrap_err(),
        Unusable::Json(_)
    ));
}

#[test]
fn guids_of_record_key_and_webhooks_may_be_in_either_case() {
    let id = "E01C765D-7C9B-491A-B5EA-D0E67EB017D9";
    let webhook =
        r#"{"id":"A5AAD3C1-777B-4AE5-8CA1-60B94C0423E5","relativeUrl":"http://a/","triggerType":"entityEvent"}"#;
    let record = format!(r#"{{"id":"{id}","webHooks":[{webhook}]}}"#);
    for key in [KEY.to_owned(), format!("ws/{id}")] {
        let integration = Integration::parse(&key, record.as_bytes()).unwrap();
        assert_eq!(integration.key(), KEY);
        assert_eq!(integration.webhook_by_id("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5").unwrap().index(), 0);
    }
    let twice = format!(r#"{{"webHooks":[{webhook},{}]}}"#, webhook.replace("A5AAD3C1", "a5aad3c1"));
    assert!(matches!(Integration::parse(KEY, twice.as_bytes()).unwrap_err(), Unusable::DuplicateWebhook(_)));
}

#[test]
fn missing_parts_have_their_meaning() {
    let integration = Integration::parse(KEY, b"{}").unwrap();
    assert!(integration.is_empty());
    assert_eq!(integration.status(), Status::Active);
    let integration = parse(r#"{"id":"A","triggerType":"ENTITYEVENT","filter":null,"schedule":null}"#).unwrap();
    let webhook = integration.webhook(0).unwrap();
    assert_eq!((webhook.id(), webhook.items().len(), webhook.is_disabled()), ("A".to_owned(), 0, false));
    assert_eq!(webhook.url(), "https://my.example/crm/v1");
}

#[test]
fn the_hash_of_a_webhook_is_the_same_in_every_version() {
    let webhook = br#"{"webHooks":[{"id":"w","relativeUrl":"http://a/","triggerType":"entityEvent"}]}"#;
    let integration = Integration::parse("ws/i", webhook).unwrap();
    // Workers of two versions fire the ticks of a schedule at one phase.
    assert_eq!(integration.webhook(0).unwrap().hash(), 0x8945_7846_62bd_b354);
}

#[test]
fn the_hash_of_a_webhook_survives_an_update_of_its_record() {
    let before = parse(r#"{"id":"a","triggerType":"entityEvent"},{"id":"b","triggerType":"entityEvent"}"#).unwrap();
    let after = parse(r#"{"id":"b","triggerType":"entityEvent","relativeUrl":"/new"}"#).unwrap();
    assert_eq!(before.webhook_by_id("b").unwrap().hash(), after.webhook_by_id("b").unwrap().hash());
    assert_ne!(before.webhook_by_id("a").unwrap().hash(), before.webhook_by_id("b").unwrap().hash());
}
