//! The routes over a registry in memory: every status, every shape.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use prometheus::{IntCounterVec, Opts};
use serde_json::{Value, json};
use tower_service::Service;

use super::*;
use crate::domain::outcome::{DeadReason, Reason};
use crate::registration::registry::testing::in_memory;

const INSTANCE: &str = "/api/v1/acme/integrations/instances/i1";
const PATCH: &str = "application/json-patch+json";

struct Client {
    router: Router,
    documents: Arc<Semaphore>,
    requests: IntCounterVec,
    _tokens: tempfile::NamedTempFile,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn etag(&self) -> String {
        self.headers["etag"].to_str().unwrap().to_owned()
    }
}

fn client() -> Client {
    client_with(Arc::new(|request: TestRequest| {
        Box::pin(async move {
            Ok(TestAnswer {
                acknowledged: false,
                reason: Some("dns".to_owned()),
                error: Some("a.example: no such name".to_owned()),
                address: None,
                delivery_id: "msg_1".to_owned(),
                url: "https://a.example/cb".to_owned(),
                status: None,
                duration_ms: 5,
                answer: format!("{} {} answered", request.key, request.webhook),
            })
        })
    }))
}

fn client_with(test_delivery: TestDelivery) -> Client {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "acme-token acme\nall-token *\nreader acme:read\noperator acme:operate\nwriter acme:write\n";
    file.write_all(tokens.as_bytes()).unwrap();
    let requests = IntCounterVec::new(Opts::new("requests", "requests"), &["method", "status"]).unwrap();
    let unwritten = IntCounterVec::new(Opts::new("unwritten", "unwritten"), &["topic"]).unwrap();
    let tokens = Arc::new(Tokens::open(Some(file.path())).unwrap());
    let documents = Arc::new(Semaphore::new(DOCUMENTS_MAX));
    let api = Api {
        test_timeout: REQUEST_TIMEOUT,
        registry: in_memory(16).0,
        readers: Readers::new(Arc::clone(&tokens), Arc::new(readers::testing::MemorySource::default())),
        tokens,
        actions: Actions::new(&Settings::default(), &unwritten),
        addresses: AddressPolicy::default(),
        test_delivery,
        tests: Shares::new("test deliveries", 2, 1),
        documents: Arc::clone(&documents),
        requests: requests.clone(),
        discarded: TaskTracker::new(),
    };
    Client { router: router(Arc::new(api)), documents, requests, _tokens: file }
}

impl Client {
    async fn send(&self, request: Request) -> Answer {
        let response = self.router.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", "Bearer acme-token");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn put(&self, path: &str, body: &str) -> Answer {
        self.ask("PUT", path, &[("content-type", "application/json")], body).await
    }

    async fn patch(&self, operations: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", PATCH)];
        all.extend(headers);
        self.ask("PATCH", INSTANCE, &all, &format!(r#"{{"operations":{operations}}}"#)).await
    }

    async fn seed(&self) -> Answer {
        let answer = self.put(INSTANCE, &seed()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    }
}

fn seed() -> String {
    json!({
        "id": "i1", "baseUrl": "https://a.example", "secrets": [{"id": "webhook.header.X", "value": "hunter22"}],
        "webHooks": [{"id": "w1", "relativeUrl": "/cb", "triggerType": "entityEvent", "filter": {"items": [{}]}}],
        "mine": {"z": 1}
    })
    .to_string()
}

#[tokio::test]
async fn a_change_that_names_a_private_address_is_made_with_a_warning() {
    let client = client();
    assert_eq!(client.seed().await.json()["warnings"], Value::Null);
    let answer = client.patch(r#"[{"op":"replace","path":"/baseUrl","value":"http://10.1.2.3/v1"}]"#, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let warnings = answer.json()["warnings"].clone();
    assert!(warnings[0].as_str().is_some_and(|text| text.starts_with("/baseUrl: 10.1.2.3")), "{warnings}");
    let read = client.ask("GET", INSTANCE, &[], "").await.json();
    assert_eq!((&read["baseUrl"], &read["warnings"]), (&json!("http://10.1.2.3/v1"), &Value::Null));
}

#[tokio::test]
async fn documents_are_read_beside_the_threads_that_serve_a_few_at_a_time() {
    let client = client();
    client.seed().await;
    let (patch, json) = ([("content-type", PATCH)], [("content-type", "application/json")]);
    let list = "/api/v1/acme/integrations/instances";
    let test = format!("{INSTANCE}/webhooks/w1/test");
    for (method, path, headers, body, status) in [
        ("GET", INSTANCE, &[][..], "", 200),
        ("GET", list, &[], "", 200),
        ("PATCH", INSTANCE, &patch, "{", 400),
        ("PUT", INSTANCE, &json, "{", 400),
        ("POST", &test, &[], "", 200),
    ] {
        let taken = client.documents.acquire_many(DOCUMENTS_MAX.try_into().unwrap()).await.unwrap();
        let mut asked = std::pin::pin!(client.ask(method, path, headers, body));
        assert!(futures_util::poll!(&mut asked).is_pending(), "{method} {path}");
        drop(taken);
        assert_eq!(asked.await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn an_instance_is_put_shown_and_deleted() {
    let client = client();
    let put = client.seed().await;
    assert_eq!(put.json()["isSuccessful"], true);
    assert_eq!(put.json()["responseCode"], "ok");
    assert_eq!(put.json()["result"]["updateInfo"]["createdWith"], "hookstream-api");
    let shown = client.ask("GET", INSTANCE, &[], "").await;
    assert_eq!((shown.status, shown.etag()), (StatusCode::OK, put.etag()));
    assert_eq!(shown.json()["secrets"], json!([{"id": "webhook.header.X", "value": "***"}]));
    assert_eq!(shown.json()["mine"], json!({"z": 1}));
    assert!(!put.text.contains("hunter22") && !shown.text.contains("hunter22"));
    let deleted = client.ask("DELETE", INSTANCE, &[], "").await;
    assert_eq!(deleted.json(), json!({"isSuccessful": true, "responseCode": "ok", "result": null}));
    for method in ["GET", "DELETE"] {
        let gone = client.ask(method, INSTANCE, &[], "").await;
        assert_eq!(gone.status, 409);
        assert_eq!(gone.json(), json!({"status": "notFound", "message": "IntegrationInstance i1 not found"}));
    }
    let gone = client.patch("[]", &[]).await;
    assert_eq!(gone.json(), json!({"status": "notFound", "message": "IntegrationInstance i1 not found"}));
}

#[tokio::test]
async fn a_patch_answers_the_new_instance_or_the_operations_at_fault() {
    let client = client();
    client.seed().await;
    let done = client.patch(r#"[{"op":"Replace","path":"/status","value":"paused"}]"#, &[]).await;
    assert_eq!(done.status, 200);
    assert_eq!(done.json()["result"]["status"], "paused");
    assert_eq!(
        done.json()["result"]["updateInfo"]["updatedAt"],
        done.json()["result"]["updateInfo"]["statusUpdatedAt"]
    );
    assert_eq!(done.etag(), client.ask("GET", INSTANCE, &[], "").await.etag());
    let bad = r#"{"op":"replace","path":"/status","value":"x"}"#;
    let refused = client.patch(&format!(r#"[{{"op":"remove","path":"/webHooks/w1"}},{bad}]"#), &[]).await;
    assert_eq!(refused.status, 409);
    let message = refused.json()["errorInfo"]["message"].clone();
    assert!(message.as_str().unwrap().contains("notConfigured"), "{message}");
    let bad: Value = serde_json::from_str(bad).unwrap();
    assert_eq!(
        refused.json(),
        json!({"isSuccessful": false, "responseCode": "conflict", "errorInfo": {
            "invalidPaths": [], "invalidValueTypes": [], "invalidDatas": [bad], "invalidConstraints": {},
            "status": "invalidArgs", "message": message
        }})
    );
    assert_eq!(client.ask("GET", INSTANCE, &[], "").await.json()["webHooks"][0]["id"], "w1");
}

#[tokio::test]
async fn a_patch_of_passed_tests_writes_nothing() {
    let client = client();
    let before = client.seed().await;
    let tested = client.patch(r#"[{"op":"test","path":"/baseUrl","value":"https://a.example"}]"#, &[]).await;
    assert_eq!((tested.status, tested.etag()), (StatusCode::OK, before.etag()));
}

#[tokio::test]
async fn a_put_keeps_masked_secrets_and_refuses_values_that_are_not_valid() {
    let client = client();
    client.seed().await;
    assert_eq!(client.put(INSTANCE, &seed().replace("hunter22", "***")).await.status, 200);
    let refused = client.put(INSTANCE, &seed().replace("/cb", "ftp://x").replace("hunter22", "***")).await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.json()["errorInfo"]["invalidDatas"][0]["path"], "/webHooks/0/relativeUrl");
    let other = client.put("/api/v1/acme/integrations/instances/i2", &seed()).await;
    assert_eq!(other.json()["errorInfo"]["invalidDatas"][0]["path"], "/id");
}

#[tokio::test]
async fn if_match_guards_every_change() {
    let client = client();
    let etag = client.seed().await.etag();
    for (tag, status) in [(r#""0-999""#, 412), ("W/\"0-0\"", 412), (etag.as_str(), 200)] {
        let answer = client.patch("[]", &[("if-match", tag)]).await;
        assert_eq!(answer.status, status, "{tag}: {}", answer.text);
    }
    let json = ("content-type", "application/json");
    let stale = client.ask("PUT", INSTANCE, &[json, ("if-match", "\"0-999\"")], &seed()).await;
    assert_eq!(
        (stale.status, stale.json()["status"].clone()),
        (StatusCode::PRECONDITION_FAILED, json!("preconditionFailed"))
    );
    let exists = client.ask("PUT", INSTANCE, &[json, ("if-none-match", "*")], &seed()).await;
    assert_eq!(exists.status, 412);
    let missing = client.ask("PUT", "/api/v1/acme/integrations/instances/new", &[json, ("if-match", "*")], "{}").await;
    assert_eq!(missing.status, 412);
    assert_eq!(client.ask("DELETE", INSTANCE, &[("if-match", "\"0-999\"")], "").await.status, 412);
    assert_eq!(client.ask("GET", INSTANCE, &[("if-none-match", &etag)], "").await.status, 304);
    assert_eq!(client.ask("DELETE", INSTANCE, &[("if-match", &etag)], "").await.status, 200);
}

#[tokio::test]
async fn a_change_with_a_precondition_that_is_not_valid_is_refused() {
    let client = client();
    let etag = client.seed().await.etag();
    let unquoted = etag.trim_matches('"');
    for (header, value) in [("if-match", unquoted), ("if-none-match", unquoted), ("if-none-match", "\"*")] {
        for (method, content_type) in [("PUT", "application/json"), ("PATCH", PATCH), ("DELETE", "")] {
            let headers = [("content-type", content_type), (header, value)];
            let answer = client.ask(method, INSTANCE, &headers, &seed()).await;
            assert_eq!(answer.status, 400, "{method} {header}: {value}: {}", answer.text);
            assert!(answer.json()["message"].as_str().unwrap().contains(header), "{}", answer.text);
        }
    }
    assert_eq!(client.ask("GET", INSTANCE, &[], "").await.etag(), etag);
}

#[tokio::test]
async fn a_token_does_what_it_has_the_right_to_and_nothing_else() {
    let client = client();
    client.seed().await;
    let test = format!("{INSTANCE}/webhooks/w1/test");
    let list = "/api/v1/acme/integrations/instances";
    let asked = [
        ("GET", list),
        ("GET", INSTANCE),
        ("POST", &test),
        ("PUT", INSTANCE),
        ("PATCH", INSTANCE),
        ("DELETE", INSTANCE),
    ];
    for (token, allowed) in [("reader", &asked[..2]), ("operator", &asked[2..3]), ("writer", &asked[3..])] {
        for (method, path) in asked {
            let headers = [("authorization", &*format!("Bearer {token}")), ("if-match", "\"9-9\"")];
            let answer = client.ask(method, path, &headers, "").await;
            let is_allowed = allowed.contains(&(method, path));
            assert_eq!(answer.status != StatusCode::FORBIDDEN, is_allowed, "{token} {method}: {}", answer.text);
        }
        let bearer = format!("Bearer {token}");
        let list = "/api/v1/other/integrations/instances";
        assert_eq!(client.ask("GET", list, &[("authorization", &*bearer)], "").await.status, 403);
    }
}

#[tokio::test]
async fn an_id_that_is_a_guid_is_found_in_either_case() {
    let client = client();
    let (small, capitals) = ("e01c765d-7c9b-491a-b5ea-d0e67eb017d9", "E01C765D-7C9B-491A-B5EA-D0E67EB017D9");
    let path = |id: &str| format!("/api/v1/acme/integrations/instances/{id}");
    let put = client.put(&path(capitals), &seed().replace("i1", capitals)).await;
    assert_eq!(put.status, 200, "{}", put.text);
    for id in [small, capitals] {
        assert_eq!(client.ask("GET", &path(id), &[], "").await.etag(), put.etag());
    }
    let again = client.put(&path(small), &seed().replace("i1", capitals)).await;
    assert_eq!(again.status, 200, "{}", again.text);
    let list = client.ask("GET", "/api/v1/acme/integrations/instances", &[], "").await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_rotation_answers_the_new_secret_once_and_keeps_the_former_for_a_time() {
    let client = client();
    let old = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let with_key = seed().replace("webhook.header.X", "webhook.signingSecret").replace("hunter22", old);
    assert_eq!(client.put(INSTANCE, &with_key).await.status, 200);
    let rotate = format!("{INSTANCE}/secrets/rotate");
    let answer = client.ask("POST", &rotate, &[("content-type", "application/json")], r#"{"keepOldFor":"1h"}"#).await;
    assert_eq!(
        (answer.status, answer.json()["responseCode"].clone()),
        (StatusCode::OK, json!("ok")),
        "{}",
        answer.text
    );
    let result = &answer.json()["result"];
    let new = result["value"].as_str().unwrap();
    assert_eq!(
        (result["id"].clone(), new.starts_with("whsec_"), new == old),
        (json!("webhook.signingSecret"), true, false)
    );
    let shown = client.ask("GET", INSTANCE, &[], "").await;
    assert_eq!(shown.etag(), answer.etag());
    assert!(!shown.text.contains(new) && !shown.text.contains(old));
    let until = result["formerUntil"].clone();
    let expected = json!([{"id": "webhook.signingSecret", "value": "***"}, {"id": "webhook.signingSecret", "value": "***", "expiresAt": until}]);
    assert_eq!(shown.json()["secrets"], expected);
    // Nothing of the former is left where it ends at once.
    let at_once = client.ask("POST", &rotate, &[], r#"{"keepOldFor":"0s"}"#).await;
    assert_eq!((at_once.status, &at_once.json()["result"]["formerUntil"]), (StatusCode::OK, &Value::Null));
    let left = client.ask("GET", INSTANCE, &[], "").await.json()["secrets"].clone();
    assert_eq!(left, json!([{"id": "webhook.signingSecret", "value": "***"}]));
    for (path, headers, body, status) in [
        (&*rotate, ("if-match", "\"9-9\""), "{}", 412),
        (&rotate, ("authorization", "Bearer operator"), "{}", 403),
        (&rotate, ("content-type", "application/json"), r#"{"keepOldFor":"1w"}"#, 400),
        ("/api/v1/acme/integrations/instances/none/secrets/rotate", ("content-type", "application/json"), "", 409),
    ] {
        let refused = client.ask("POST", path, &[headers], body).await;
        assert_eq!(refused.status, status, "{}", refused.text);
    }
    assert_eq!(client.ask("GET", &rotate, &[], "").await.status, 405);
}

#[tokio::test]
async fn a_length_over_the_bound_is_refused_before_the_body_comes() {
    let client = client();
    for content_type in [PATCH, "application/json"] {
        let method = if content_type == PATCH { "PATCH" } else { "PUT" };
        let request = Request::builder()
            .method(method)
            .uri(INSTANCE)
            .header("authorization", "Bearer acme-token")
            .header("content-type", content_type)
            .header("content-length", "50000000")
            .body(Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>()))
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(5), client.send(request)).await.expect("at once");
        assert_eq!(answer.status, 413);
    }
}

#[tokio::test]
async fn only_tokens_of_the_workspace_are_let_in() {
    let client = client();
    client.seed().await;
    for header in ["Bearer wrong", "Basic acme-token", "Bearer"] {
        let answer = client.ask("GET", INSTANCE, &[("authorization", header)], "").await;
        assert_eq!(answer.status, 401, "{header}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.json()["status"], "unauthorized");
    }
    let keyed = [("authorization", ""), ("x-xcom-accesskey", "acme-token")];
    assert_eq!(client.ask("GET", INSTANCE, &keyed, "").await.status, 200);
    let other = "/api/v1/other/integrations/instances/i1";
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        assert_eq!(client.ask(method, other, &[], "").await.status, 403, "{method}");
        assert_eq!(client.ask(method, other, &[("authorization", "Bearer no")], "").await.status, 401, "{method}");
    }
    let all = [("authorization", "Bearer all-token")];
    assert_eq!(client.ask("GET", other, &all, "").await.status, 409);
    // Before anything is read of the body.
    assert_eq!(client.ask("PATCH", other, &[("content-type", PATCH)], &" ".repeat(2 << 20)).await.status, 403);
}

#[tokio::test]
async fn bodies_are_bounded_typed_and_json() {
    let client = client();
    client.seed().await;
    for content_type in ["application/json", "text/plain", ""] {
        let answer = client.ask("PATCH", INSTANCE, &[("content-type", content_type)], "{}").await;
        assert_eq!(answer.status, 415, "{content_type}");
    }
    let charset = "Application/JSON-Patch+json; charset=utf-8";
    assert_eq!(client.ask("PATCH", INSTANCE, &[("content-type", charset)], r#"{"operations":[]}"#).await.status, 200);
    assert_eq!(client.ask("PUT", INSTANCE, &[("content-type", PATCH)], "{}").await.status, 415);
    for body in ["", "{", "[]", r#"{"operations":1}"#] {
        assert_eq!(client.ask("PATCH", INSTANCE, &[("content-type", PATCH)], body).await.status, 400, "{body}");
    }
    assert_eq!(client.put(INSTANCE, "[1]").await.status, 400);
    let large = format!(r#"{{"operations":[{}]}}"#, " ".repeat(1 << 20));
    assert_eq!(client.ask("PATCH", INSTANCE, &[("content-type", PATCH)], &large).await.status, 413);
    // The same without a length announced.
    let stream = futures_util::stream::iter(large.into_bytes().chunks(1 << 16).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let chunked = Body::from_stream(futures_util::StreamExt::map(stream, Ok::<_, std::io::Error>));
    let request = Request::patch(INSTANCE)
        .header("authorization", "Bearer acme-token")
        .header("content-type", PATCH)
        .body(chunked)
        .unwrap();
    assert_eq!(client.send(request).await.status, 413);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_given_up() {
    let client = client();
    let request = Request::patch(INSTANCE)
        .header("authorization", "Bearer acme-token")
        .header("content-type", PATCH)
        .body(Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>()))
        .unwrap();
    assert_eq!(client.send(request).await.status, 408);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_answered_in_json() {
    let client = client();
    for path in ["/", "/api/v1", "/api/v2/acme/integrations/instances", "/api/v1/acme/integrations/instances/a/b"] {
        let answer = client.ask("GET", path, &[], "").await;
        assert_eq!(
            (answer.status, answer.json()["status"].clone()),
            (StatusCode::NOT_FOUND, json!("noSuchRoute")),
            "{path}"
        );
    }
    let hook = "/api/v1/acme/integrations/instances/i1/webhooks/w1/test";
    for (method, path, allowed) in [
        ("POST", INSTANCE, "GET, HEAD, PATCH, PUT, DELETE"),
        ("DELETE", "/api/v1/acme/integrations/instances", "GET, HEAD"),
        ("GET", hook, "POST"),
        ("POST", "/api/v1/openapi.json", "GET, HEAD"),
    ] {
        let answer = client.ask(method, path, &[], "").await;
        assert_eq!(
            (answer.status, answer.headers["allow"].to_str().unwrap()),
            (StatusCode::METHOD_NOT_ALLOWED, allowed)
        );
        assert_eq!(answer.json()["status"], "methodNotAllowed");
    }
}

#[tokio::test]
async fn names_that_do_not_fit_into_keys_are_refused() {
    let client = client();
    let all = [("authorization", "Bearer all-token")];
    let long = "x".repeat(201);
    for name in ["a%2Fb", "%20", "a%0Ab", "%00", &long, "%ff"] {
        for path in
            [format!("/api/v1/{name}/integrations/instances"), format!("/api/v1/acme/integrations/instances/{name}")]
        {
            let answer = client.ask("GET", &path, &all, "").await;
            assert_eq!(
                (answer.status, answer.json()["status"].clone()),
                (StatusCode::BAD_REQUEST, json!("badRequest")),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let client = client();
    let list = "/api/v1/acme/integrations/instances";
    assert_eq!(client.ask("GET", list, &[], "").await.json(), json!({"items": [], "hasMore": false, "next": null}));
    for number in 0..5 {
        assert_eq!(client.put(&format!("{list}/i{number}"), "{}").await.status, 200);
    }
    let page = client.ask("GET", &format!("{list}?limit=2&after=i0"), &[], "").await.json();
    assert_eq!((page["items"][0]["id"].clone(), page["items"][1]["id"].clone()), (json!("i1"), json!("i2")));
    assert_eq!((page["hasMore"].clone(), page["next"].clone()), (json!(true), json!("i2")));
    let tail = client.ask("GET", &format!("{list}?limit=5000&after=i2"), &[], "").await.json();
    assert_eq!((tail["items"].as_array().unwrap().len(), tail["next"].clone()), (2, Value::Null));
    for bad in ["limit=0", "limit=-1", "limit=x", "limit=", "limit=%2B5", "limit=1&limit=2", "limt=5"] {
        assert_eq!(client.ask("GET", &format!("{list}?{bad}"), &[], "").await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_take_is_refused_whatever_the_route() {
    let client = client();
    client.seed().await;
    let description = client.ask("GET", "/api/v1/openapi.json", &[], "").await.json();
    let operations = operations(&description);
    for (path, method, what) in &operations {
        let named = path.replace("{workspace}", "acme").replace("{id}", "i1").replace("{webhook}", "w1");
        let takes_a_query =
            what["parameters"].as_array().is_some_and(|all| all.iter().any(|parameter| parameter["in"] == "query"));
        let kind = if method == "PATCH" { PATCH } else { "application/json" };
        for (query, is_foreign) in [("rate=5", true), ("", false)] {
            let headers = [("content-type", kind)];
            let answer = client.ask(method, &format!("{named}?{query}"), &headers, "{}").await;
            let message = answer.json()["message"].to_string();
            let is_refused = message.contains("rate: ") || message.contains("the query: ");
            assert_eq!(is_refused, is_foreign, "{method} {path}?{query}: {} {message}", answer.status);
            if is_refused {
                assert_eq!(answer.status, 400, "{method} {path}?{query}");
                assert_eq!(message.contains("the query: "), !takes_a_query, "{method} {path}: {message}");
            }
        }
    }
    assert!(operations.len() > 15, "{}", operations.len());
}

#[tokio::test]
async fn a_field_without_an_effect_on_the_action_is_refused_with_those_that_have_one() {
    let client = client();
    client.seed().await;
    let json_body = [("content-type", "application/json")];
    let message = "reason: has no effect on this replay; accepted: integration, webhook, event, from, to, fixed";
    let selection = r#"{"integration":"i1","reason":"exhausted"}"#;
    for (route, body) in
        [("replay/preview", selection.to_owned()), ("replay", format!(r#"{{"selection":{selection}}}"#))]
    {
        let answer = client.ask("POST", &format!("/api/v1/acme/actions/{route}"), &json_body, &body).await;
        assert!(answer.status == 409 && answer.text.contains(message), "{route}: {}", answer.text);
    }
}

/// What a library says of a text that it cannot read.
const NOT_OUR_WORDS: [&str; 6] =
    [" at line ", "missing field", "unknown field", "invalid type", "struct ", "Failed to deserialize"];

#[tokio::test]
async fn each_route_says_what_is_wrong_with_a_body_or_a_query_in_our_words() {
    let client = client();
    client.seed().await;
    let actions = ["redrive", "redrive/preview", "replay", "replay/preview", "resume"];
    let mut routes: Vec<(&str, String, &str)> =
        actions.iter().map(|action| ("POST", format!("/api/v1/acme/actions/{action}"), "application/json")).collect();
    routes.push(("POST", format!("{INSTANCE}/secrets/rotate"), "application/json"));
    routes.push(("PUT", INSTANCE.to_owned(), "application/json"));
    routes.push(("PATCH", INSTANCE.to_owned(), PATCH));
    let bodies = [
        "",
        "{",
        "[]",
        "7",
        "\"text\"",
        "null",
        "{\"\":1}",
        "{} {}",
        "{\"operations\":7}",
        "{\"operations\":[7,{}]}",
        "{\"selection\":7}",
        "{\"integration\":[]}",
        "{\"selection\":{\"fixed\":{}}}",
        "{\"keepOldFor\":7}",
        "{\"webHooks\":[7]}",
        "{\"operations\":[{\"op\":\"add\",\"path\":\"/webHooks\",\"value\":[]}]}",
        "{\"secrets\":7,\"settings\":7,\"baseUrl\":[]}",
    ];
    for (method, path, kind) in &routes {
        for body in bodies {
            let answer = client.ask(method, path, &[("content-type", *kind)], body).await;
            let foreign = NOT_OUR_WORDS.iter().find(|words| answer.text.contains(*words));
            assert_eq!(foreign, None, "{method} {path} {body}: {}", answer.text);
        }
    }
    let answer = client.ask("POST", &routes[0].1, &[("content-type", "application/json")], "{}").await;
    let said = "expected {\"selection\":…} with what a preview answered; selection: is missing";
    assert_eq!((answer.status, &answer.json()["message"]), (StatusCode::BAD_REQUEST, &json!(said)));
    for path in [
        "attempts",
        "dead-letters",
        "health",
        "events",
        "integrations/overview",
        "integrations/instances",
        "events/e/trace",
    ] {
        for query in ["nope=1", "limit=x", "limit=1&limit=2", "from=1h", "filter=x", "filter=1&filter=2", "next=%ff"] {
            let answer = client.ask("GET", &format!("/api/v1/acme/{path}?{query}"), &[], "").await;
            let foreign = NOT_OUR_WORDS.iter().find(|words| answer.text.contains(*words));
            assert_eq!(foreign, None, "{path}?{query}: {}", answer.text);
        }
    }
    let answer = client.ask("GET", "/api/v1/acme/events", &[], "").await;
    assert_eq!((answer.status, &answer.json()["message"]), (StatusCode::BAD_REQUEST, &json!("filter: is missing")));
}

#[tokio::test]
async fn a_test_delivery_shows_the_receivers_answer_and_why_it_failed() {
    let client = client();
    client.seed().await;
    let path = format!("{INSTANCE}/webhooks/w1/test");
    let said = client.ask("POST", &path, &[], "").await;
    assert_eq!(
        said.json(),
        json!({"acknowledged": false, "reason": "dns", "error": "a.example: no such name", "address": null,
            "deliveryId": "msg_1", "url": "https://a.example/cb", "status": null, "durationMs": 5,
            "answer": "acme/i1 w1 answered"})
    );
    let missing = client.ask("POST", &format!("{INSTANCE}/webhooks/w9/test"), &[], "").await;
    assert_eq!(
        (missing.status, missing.json()["message"].clone()),
        (StatusCode::CONFLICT, json!("WebHook w9 not found"))
    );
    let missing = client.ask("POST", "/api/v1/acme/integrations/instances/i9/webhooks/w1/test", &[], "").await;
    assert_eq!((missing.status, missing.json()["status"].clone()), (StatusCode::CONFLICT, json!("notFound")));
}

#[tokio::test]
async fn hanging_test_deliveries_keep_no_other_workspaces_out() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let client = client_with(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }));
    let path = |workspace: &str| format!("/api/v1/{workspace}/integrations/instances/i1/webhooks/w1/test");
    let all = [("authorization", "Bearer all-token")];
    let stored = [("authorization", "Bearer all-token"), ("content-type", "application/json")];
    let paths = ["acme", "initech", "umbrella"].map(path);
    for workspace in ["acme", "initech", "umbrella"] {
        let instance = format!("/api/v1/{workspace}/integrations/instances/i1");
        assert_eq!(client.ask("PUT", &instance, &stored, ONE_WEBHOOK).await.status, 200);
    }
    let mut hanging = Vec::new();
    for (number, path) in paths[..2].iter().enumerate() {
        let mut sent = Box::pin(client.ask("POST", path, &all, ""));
        tokio::select! {
            biased;
            _ = &mut sent => panic!("it never ends"),
            () = async {
                while begun.load(Ordering::Relaxed) <= number {
                    tokio::task::yield_now().await;
                }
            } => hanging.push(sent),
        }
    }
    for (path, why) in
        [(&paths[0], "1 test deliveries of this workspace"), (&paths[2], "2 test deliveries are under way")]
    {
        let refused = client.ask("POST", path, &all, "").await;
        assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].to_str().unwrap()), (429, "2"));
        assert!(refused.text.contains(why), "{}", refused.text);
    }
    drop(hanging);
}

const ONE_WEBHOOK: &str = r#"{"webHooks":[{"id":"w1","relativeUrl":"http://a.example/","triggerType":"entityEvent","filter":{"items":[{}]}}]}"#;

#[tokio::test]
async fn the_description_and_its_page_need_no_token_and_nothing_from_outside() {
    let client = client();
    let description = client.ask("GET", "/api/v1/openapi.json", &[("authorization", "")], "").await.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths.len(), 15, "{paths:?}");
    let page = client.ask("GET", "/api/v1/docs", &[("authorization", "")], "").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "an outside asset");
    let slash = client.ask("GET", "/api/v1/docs/", &[("authorization", "")], "").await;
    assert_eq!(
        (slash.status, slash.headers["location"].to_str().unwrap()),
        (StatusCode::PERMANENT_REDIRECT, "../docs")
    );
}

/// The operations of the description: path, method and what is said of it.
fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, what) in methods.as_object().unwrap() {
            found.push((path.clone(), method.to_uppercase(), what.clone()));
        }
    }
    found
}

#[tokio::test]
async fn every_operation_that_takes_a_body_has_an_example_and_those_of_instances_are_accepted() {
    let client = client();
    let description = client.ask("GET", "/api/v1/openapi.json", &[], "").await.json();
    let mut tried = Vec::new();
    for (path, method, what) in operations(&description) {
        let Some(content) = what["requestBody"]["content"].as_object() else { continue };
        let id = what["operationId"].as_str().unwrap();
        for (media, body) in content {
            assert!(body["example"].is_object(), "{id} has no example");
            tried.push(id.to_owned());
            if path.contains("/actions/") {
                continue;
            }
            client.put(INSTANCE, &seed()).await;
            let path = path.replace("{workspace}", "acme").replace("{id}", "i1");
            let answer = client.ask(&method, &path, &[("content-type", media)], &body["example"].to_string()).await;
            assert_eq!(answer.status, 200, "{id}: {}", answer.text);
        }
    }
    tried.sort();
    let mut listed = openapi::EXAMPLES.map(|(id, _)| id);
    listed.sort_unstable();
    assert_eq!(tried, listed, "an example of an operation that is gone");
    for (name, _) in openapi::TYPES {
        let described = &description["components"]["schemas"][name];
        let example = described["example"].as_object().unwrap_or_else(|| panic!("{name} has no example"));
        for field in example.keys() {
            assert!(described["properties"][field].is_object(), "the example of {name} has the unknown field {field}");
        }
    }
}

#[tokio::test]
async fn the_example_of_get_has_every_field_that_is_answered() {
    let client = client();
    client.seed().await;
    let description = client.ask("GET", "/api/v1/openapi.json", &[], "").await.json();
    let get = &description["paths"]["/api/v1/{workspace}/integrations/instances/{id}"]["get"];
    let example = get["responses"]["200"]["content"]["application/json"]["example"].as_object().unwrap();
    let answered = client.ask("GET", INSTANCE, &[], "").await.json();
    let described = &description["components"]["schemas"]["IntegrationInstance"]["properties"];
    for field in answered.as_object().unwrap().keys().filter(|field| described[field.as_str()].is_object()) {
        assert!(example.contains_key(field), "{field} is not in the example of GET");
    }
    assert!(example.contains_key("health"));
    let health = &description["components"]["schemas"]["InstanceHealth"]["properties"];
    for field in example["health"].as_object().unwrap().keys() {
        assert!(health[field].is_object(), "{field} is no field of the health");
    }
    let page = client.ask("GET", "/api/v1/docs", &[], "").await.text;
    assert!(page.contains(r#"METHODS = ["put", "get", "patch", "delete", "post"]"#), "the order of the operations");
    for (_, method, _) in operations(&description) {
        assert!(page.contains(&format!("{:?}", method.to_lowercase())), "{method} has no place in the order");
    }
}

#[tokio::test]
async fn the_description_lists_the_accepted_reasons_and_describes_each_parameter() {
    let description = client().ask("GET", "/api/v1/openapi.json", &[], "").await.json();
    let mut listed = BTreeMap::new();
    for (path, method, what) in operations(&description) {
        for parameter in what["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(parameter["description"].is_string(), "{method} {path}: {name}");
            if name == "reason" {
                listed.insert(path.clone(), parameter["schema"]["enum"].clone());
            }
        }
    }
    let attempts = json!(Reason::words_of_attempts().collect::<Vec<_>>());
    let under = |route: &str| format!("/api/v1/{{workspace}}/{route}");
    let expected = BTreeMap::from([
        (under("attempts"), attempts.clone()),
        (under("dead-letters"), json!(DeadReason::words().collect::<Vec<_>>())),
        (under("health"), attempts.clone()),
        (under("integrations/instances/{id}/attempts"), attempts),
    ]);
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn the_page_shows_how_to_authenticate_and_errors_as_they_are_answered() {
    let client = client();
    client.seed().await;
    let page = client.ask("GET", "/api/v1/docs", &[], "").await.text;
    // A `{name}` that stays in an example's URL is one that curl takes for a pattern.
    let description = client.ask("GET", "/api/v1/openapi.json", &[], "").await.json();
    for (path, ..) in operations(&description) {
        for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            assert!(page.contains(&format!(r#".replace("{{{name}}}", "$"#)), "an example keeps {{{name}}}");
        }
    }
    let refused = client.patch(r#"[{"op":"replace","path":"/status","value":"activ"}]"#, &[]).await.json();
    let message = refused["errorInfo"]["message"].as_str().unwrap();
    for part in ["Authorization: Bearer", "X-XCOM-AccessKey", "color-scheme: light dark", ":focus-visible", message] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    for field in refused["errorInfo"].as_object().unwrap().keys() {
        assert!(page.contains(field.as_str()), "the page's example of a refusal lacks {field}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_method_and_class() {
    let client = client();
    client.seed().await;
    client.ask("GET", "/nope", &[], "").await;
    assert_eq!(client.requests.with_label_values(&["PUT", "2xx"]).get(), 1);
    assert_eq!(client.requests.with_label_values(&["GET", "4xx"]).get(), 1);
    let known = METHODS.into_iter().flat_map(|method| CLASSES.map(|class| (method, class)));
    let counts: Vec<u64> =
        known.map(|(method, class)| client.requests.with_label_values(&[method, class]).get()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 2, "nothing is counted beside the series that start at zero");
}
