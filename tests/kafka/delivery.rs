//! The path of an event to a receiver: which receiver gets a request, and each of its bytes.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::stage::{Stage, event, event_id, integration, record, webhook};
use crate::support::cluster::Cluster;
use crate::support::process::Signal;
use crate::support::receiver::{Answer, ECHO, Receiver, Recorded};
use crate::support::wait::PATIENCE;

/// The signature of a request by the Standard Webhooks specification, computed here and not by the product.
fn signature(secret: &str, request: &Recorded) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let timestamp = request.header("webhook-timestamp").unwrap();
    let mut text = format!("{}.{timestamp}.", request.delivery_id()).into_bytes();
    text.extend_from_slice(&request.body);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &text);
    format!("v1,{}", STANDARD.encode(tag))
}

/// All header names of a request, each once.
fn names(request: &Recorded) -> Vec<&str> {
    let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_header_is_the_documented_one_and_the_body_is_the_events_bytes() {
    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    // Odd spaces, an escape, unicode, a repeated unknown field and a number that a parser would write otherwise.
    const BODY: &str = "\t{ \"id\" :\"e-1\",\n \"type\": \"change\",\"entityIds\":{\"companyId\":\"c\\u0031\"},\n\
        \"changeData\":{\"type\":\"patch\",\"new\":{\"имя\":\"Ёлка 🎄\",\"n\":1.50e+3}} , \"x\":1, \"x\":2 }\r\n ";
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "headers", "200ms,400ms", 3).await;
    // Two failures, then an acknowledgement: three attempts.
    let receiver = Receiver::start(|request| Answer::status(if request.attempt() < 3 { 500 } else { 200 }));
    let unsigned = Receiver::start(|_| Answer::ok());
    let mut signed = integration("signed", &receiver.url("/crm/v1"));
    signed["secrets"] = json!([
        { "id": "webhook.signingSecret", "value": NEW }, { "id": "webhook.signingSecret", "value": OLD },
        { "id": "webhook.header.Authorization", "value": "Bearer top-secret" },
        { "id": "webhook.header.X-Tenant", "value": "t 1" }, { "id": "other", "value": "never sent" }
    ]);
    stage.put([&signed, &integration("unsigned", &unsigned.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send([record("c1", BODY)]);
    let requests = receiver.wait_for(3, PATIENCE).await;
    stage.settled(PATIENCE).await;

    let version = format!("hookstream/{}", env!("CARGO_PKG_VERSION"));
    for (number, request) in requests.iter().enumerate() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/crm/v1/hook"));
        assert_eq!(request.body, BODY, "the event's bytes, untouched");
        let header = |name: &str| request.header(name).unwrap_or_else(|| panic!("{name} in {request:?}"));
        assert_eq!(header("content-type"), "application/json; charset=utf-8");
        assert_eq!(header("user-agent"), version);
        assert_eq!(header("host"), receiver.address().to_string());
        assert_eq!(header("content-length"), BODY.len().to_string());
        assert_eq!(header("authorization"), "Bearer top-secret");
        assert_eq!(header("x-tenant"), "t 1");
        assert_eq!(header("x-xcom-delivery-attempt"), (number + 1).to_string());
        let sent_at: i64 = header("webhook-timestamp").parse().unwrap();
        assert!((request.arrived_ms / 1000 - sent_at).abs() <= 60, "{sent_at} is the time of this attempt");
        let signatures: BTreeSet<_> = header("webhook-signature").split(' ').map(str::to_owned).collect();
        assert_eq!(signatures, BTreeSet::from([signature(OLD, request), signature(NEW, request)]));
        // 128 bits need at least 22 characters of base64, or 32 of hex.
        assert!(header(ECHO).len() >= 22, "{}", header(ECHO));
        let expected = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "webhook-id",
            "webhook-signature",
            "webhook-timestamp",
            "x-tenant",
            "x-xcom-delivery-attempt",
            ECHO,
        ];
        assert_eq!(names(request), expected, "and no other");
    }
    let ids: BTreeSet<_> = requests.iter().map(Recorded::delivery_id).collect();
    assert_eq!(ids.len(), 1, "one delivery, one id: {ids:?}");
    let echoes: BTreeSet<_> = requests.iter().map(|request| request.header(ECHO).unwrap()).collect();
    assert_eq!(echoes.len(), 3, "a fresh token an attempt");

    let plain = unsigned.wait_for(1, PATIENCE).await;
    assert_eq!(plain[0].header("webhook-signature"), None, "no secret, no signature");
    assert_ne!(plain[0].delivery_id(), requests[0].delivery_id(), "another webhook, another delivery");
    worker.stop();
    assert_eq!((receiver.count(), unsigned.count()), (3, 1));
    let log = worker.lines().all().join("\n");
    for secret in ["top-secret", OLD, NEW, "t 1", "never sent", "Ёлка"] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
}

/// Integrations of every status, and one with webhooks of every kind of filter.
fn filtered(receiver: &Receiver) -> Vec<serde_json::Value> {
    let with_items = |id: &str, items| {
        let mut hook = webhook(id, &format!("/{id}"));
        hook["filter"]["items"] = items;
        hook
    };
    let mut all = integration("all", &receiver.url("/"));
    all["webHooks"] = json!([
        with_items("patch-of-user", json!([{ "eventType": "CHANGE", "entityType": "user", "changeType": "Patch" }])),
        with_items("any-contact", json!([{ "entityType": "contact" }])),
        with_items("everything", json!([{}])),
        with_items("nothing", json!([])),
        with_items("links", json!([{ "eventType": "link" }])),
        with_items("any-patch", json!([{ "changeType": "patch" }])),
        with_items("twice", json!([{ "entityType": "User" }, { "eventType": "change" }])),
        { "id": "disabled", "relativeUrl": "/disabled", "triggerType": "entityEvent", "filter": { "items": [{}] },
            "disabled": true },
        { "id": "absolute", "relativeUrl": receiver.url("/elsewhere?x=1"), "triggerType": "entityEvent",
            "filter": { "items": [{ "entityType": "catalogItem" }] } },
    ]);
    let of_status = |status: &str| {
        let mut integration = integration(status, &receiver.url(&format!("/{status}/")));
        integration["status"] = json!(status);
        integration["webHooks"] = json!([with_items("w", json!([{ "entityType": "catalogItem" }]))]);
        integration
    };
    let statuses = ["active", "hasErrors", "paused", "notConfigured", "failed"].map(of_status);
    let mut without_status = of_status("none");
    without_status.as_object_mut().unwrap().remove("status");
    [all, without_status].into_iter().chain(statuses).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_reaches_exactly_the_webhooks_whose_filters_match() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "filters", "1h", 3).await;
    let receiver = Receiver::start(|_| Answer::ok());
    stage.put(&filtered(&receiver));
    let worker = stage.worker(&[]).await;
    let of = |id: &str, kind: &str, entities: serde_json::Value, change: serde_json::Value| {
        record(id, json!({ "id": id, "type": kind, "entityIds": entities, "changeData": change }).to_string())
    };
    stage.send([
        of("user-patch", "change", json!({ "userId": "u" }), json!({ "type": "patch" })),
        of("user-create", "Change", json!({ "userId": "u" }), json!({ "type": "create", "old": null })),
        of("link", "link", json!({ "contactId": "c", "companyId": "d" }), json!(null)),
        of("unlink", "unlink", json!({ "companyId": "d", "userId": "u" }), json!({ "type": "patch" })),
        of("item", "change", json!({ "catalogItemId": "i" }), json!({ "type": "delete" })),
        // Without the header the key is the workspace.
        crate::support::records::Record::new(
            "ws",
            json!({ "id": "keyed", "type": "change", "entityIds": { "contactId": "c" } }).to_string(),
        ),
        crate::support::records::Record::new("other", event("alien", "c").value.unwrap()),
    ]);
    stage.settled(PATIENCE).await;
    let found: BTreeSet<_> =
        receiver.recorded().iter().map(|request| format!("{} {}", event_id(request), request.path)).collect();
    let expected = [
        "user-patch /patch-of-user",
        "user-patch /everything",
        "user-patch /any-patch",
        "user-patch /twice",
        "user-create /everything",
        "user-create /twice",
        "link /any-contact",
        "link /everything",
        "link /links",
        "unlink /everything",
        "unlink /twice",
        "item /everything",
        "item /twice",
        "item /elsewhere?x=1",
        "item /active/w",
        "item /hasErrors/w",
        "item /none/w",
        "keyed /any-contact",
        "keyed /everything",
        "keyed /twice",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    assert_eq!(receiver.count(), expected.len(), "each at most once");
    stage.knows(&worker, "hookstream_events_total", &[("outcome", "matched")], 6.0).await;
    stage.knows(&worker, "hookstream_events_total", &[("outcome", "unmatched")], 1.0).await;
    stage.knows(&worker, "hookstream_deliveries_total", &[("outcome", "acknowledged")], 20.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_entity_arrive_in_order_and_side_by_side_with_others() {
    const ENTITIES: usize = 4;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "order", "1h", 1).await;
    // Every fifth fails at once: a failure holds nothing back and changes no order.
    let receiver = Receiver::start(|request| {
        let fails = crate::stage::event_number(request).is_multiple_of(5);
        // The first of each entity take so long that the others begin meanwhile, on a busy machine too.
        let millis = if request.number < ENTITIES { 2_000 } else { request.number % 7 };
        Answer::status(if fails { 500 } else { 200 })
            .after(std::time::Duration::from_millis(u64::try_from(millis).unwrap()))
    });
    stage.put([&integration("i", &receiver.url(""))]);
    let _worker = stage.worker(&[]).await;
    stage.send((0..200).map(|number| event(&format!("e-{number}"), &format!("c-{}", number % ENTITIES))));
    stage.settled(PATIENCE).await;
    let arrived: Vec<_> = receiver.recorded().iter().map(crate::stage::event_number).collect();
    assert_eq!(arrived.len(), 200);
    for entity in 0..ENTITIES {
        let of_entity: Vec<_> = arrived.iter().filter(|number| *number % ENTITIES == entity).collect();
        assert!(of_entity.is_sorted(), "events of entity {entity} arrived in the order {of_entity:?}");
    }
    assert_eq!(receiver.under_way_max(), ENTITIES, "entities go side by side, events of one do not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_a_worker_in_order() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "hangup", "1h", 1).await;
    let gate = CancellationToken::new();
    let held = gate.clone();
    let receiver = Receiver::start(move |_| Answer::ok().once(&held));
    stage.put([&integration("i", &receiver.url(""))]);
    let mut worker = stage.worker(&[]).await;
    stage.send([event("e-1", "c-1")]);
    receiver.wait_for(1, PATIENCE).await;
    worker.signal(Signal::Hup);
    worker.logged(&["stopping"]).await;
    gate.cancel();
    assert_eq!(worker.wait_exit(PATIENCE), 0, "{}", worker.lines().tail(40));
    // What was under way was finished and committed: the next worker repeats nothing.
    let _next = stage.worker(&[]).await;
    stage.settled(PATIENCE).await;
    assert_eq!(receiver.count(), 1);
}
