//! The console's routes over a source in memory, and an API on loopback that answers with what it got.

use std::io::Write as _;

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower_service::Service as _;

use super::*;
use crate::registration::http::readers::testing::MemorySource;

fn router_with(forward: Option<Forward>) -> Router {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"reader acme:read\nall *\n").unwrap();
    let tokens = Arc::new(Tokens::open(Some(file.path())).unwrap());
    let readers = Readers::new(Arc::clone(&tokens), Arc::new(MemorySource::default()));
    router(Console { tokens, readers, forward })
}

async fn send(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let (parts, body) = router.clone().call(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(text.to_vec()).unwrap())
}

const PAGE: (&str, &str) = ("x-hookstream-console", "1");

async fn cookie(router: &Router, token: &str) -> String {
    let (status, headers, _) = send(router, "POST", "/session", &[PAGE], &json!({"token": token}).to_string()).await;
    assert_eq!(status, 204);
    headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn every_answer_keeps_the_page_to_its_own_origin() {
    let router = router_with(None);
    for path in ["/", "/app.js", "/app.css", "/session", "/api/v1/acme/health", "/nowhere"] {
        let (_, headers, _) = send(&router, "GET", path, &[], "").await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{path}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
    }
}

#[tokio::test]
async fn a_pasted_token_becomes_a_session_with_its_rights() {
    let router = router_with(None);
    let cookie_of_reader = cookie(&router, "reader").await;
    let (status, _, text) = send(&router, "GET", "/session", &[("cookie", &cookie_of_reader)], "").await;
    let expected = json!({"workspaces": [{"name": "acme", "rights": ["read"]}], "actions": false});
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, expected));
    let cookie_of_all = cookie(&router, "all").await;
    let (_, _, text) = send(&router, "GET", "/session", &[("cookie", &cookie_of_all)], "").await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["workspaces"].as_array().unwrap().len(), 2);
    let (status, ..) = send(&router, "GET", "/api/v1/acme/attempts", &[("cookie", &cookie_of_reader)], "").await;
    assert_eq!(status, 200);
    let (status, ..) = send(&router, "GET", "/api/v1/other/attempts", &[("cookie", &cookie_of_reader)], "").await;
    assert_eq!(status, 403);
    for (token, status) in [("unknown", 401), ("", 400)] {
        let body = json!({"token": token}).to_string();
        assert_eq!(send(&router, "POST", "/session", &[PAGE], &body).await.0, status, "{token}");
    }
}

#[tokio::test]
async fn another_site_can_neither_begin_a_session_nor_act() {
    let router = router_with(None);
    let body = json!({"token": "all"}).to_string();
    assert_eq!(send(&router, "POST", "/session", &[], &body).await.0, 400);
    let cookie = cookie(&router, "all").await;
    let test = "/api/v1/acme/integrations/instances/i/webhooks/w/test";
    assert_eq!(send(&router, "POST", test, &[("cookie", &cookie)], "").await.0, 401);
    assert_eq!(send(&router, "POST", test, &[("cookie", &cookie), PAGE], "").await.0, 503, "actions are off");
}

#[tokio::test]
async fn an_action_reaches_the_api_with_the_users_token_and_no_cookie() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let api = Router::new().fallback(|request: Request| async move {
        let headers = request.headers();
        let shown = json!({
            "path": request.uri().path(), "token": headers["authorization"].to_str().unwrap(),
            "cookie": headers.contains_key("cookie"),
        });
        let mut response = Response::new(Body::from(shown.to_string()));
        *response.status_mut() = StatusCode::CONFLICT;
        response
    });
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        let limits = crate::net::server::Limits {
            connections_max: 4,
            when_full: crate::net::server::WhenFull::Wait,
            patience: std::time::Duration::from_secs(5),
            drain: std::time::Duration::from_secs(1),
        };
        crate::net::server::serve(listener, limits, stopping, move |request| {
            let mut api = api.clone();
            async move {
                let answered = api.call(request.map(Body::new)).await.unwrap();
                let (parts, body) = answered.into_parts();
                Response::from_parts(parts, http_body_util::Full::new(body.collect().await.unwrap().to_bytes()))
            }
        })
        .await;
    });
    let router = router_with(Some(Forward::to(&url.parse().unwrap()).unwrap()));
    let cookie = cookie(&router, "all").await;
    let actions = ["redrive/preview", "redrive", "replay/preview", "replay", "resume"];
    let paths = actions.map(|action| format!("/api/v1/acme/actions/{action}"));
    let path = "/api/v1/acme/integrations/instances/i/webhooks/w/test";
    for path in paths.iter().map(String::as_str).chain([path]) {
        let (status, headers, text) = send(&router, "POST", path, &[("cookie", &cookie), PAGE], "{}").await;
        let expected = json!({"path": path, "token": "Bearer all", "cookie": false});
        assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (409, expected));
        assert!(headers.contains_key("content-security-policy"));
    }
    stop.cancel();
    serving.join_next().await.unwrap().unwrap();
    assert_eq!(send(&router, "POST", path, &[("cookie", &cookie), PAGE], "{}").await.0, 503, "the API is gone");
}
