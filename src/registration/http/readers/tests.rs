//! The reader routes over a source in memory: rights, questions, bounds.

use std::io::Write as _;

use axum::extract::Request;
use http_body_util::BodyExt as _;
use serde_json::json;
use tower_service::Service as _;

use super::query::ROWS_MAX;
use super::testing::MemorySource;
use super::*;
use crate::domain::outcome::{DeadReason, Reason};
use crate::registration::question::Asked;

struct Client {
    router: Router,
    source: Arc<MemorySource>,
}

fn client(source: MemorySource) -> Client {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"all acme\nreader acme:read\nbodies acme:read,body\nwriter acme:write,operate\nother acme2:read *:body\n",
    )
    .unwrap();
    let tokens = Arc::new(Tokens::open(Some(file.path())).unwrap());
    let source = Arc::new(source);
    let routes = Readers::new(tokens, Arc::<MemorySource>::clone(&source)).routes::<()>();
    Client { router: routes.with_state(()), source }
}

impl Client {
    async fn get(&self, path: &str, token: &str) -> (StatusCode, HeaderMap, Value) {
        let request =
            Request::get(path).header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        let (parts, body) = self.router.clone().call(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&text).unwrap())
    }

    fn last(&self) -> (String, Question) {
        self.source.asked.lock().last().cloned().expect("asked")
    }
}

const ROUTES: [&str; 8] = [
    "health",
    "integrations/overview",
    "integrations/instances/i1/attempts",
    "attempts",
    "events?filter=%7B%7D",
    "events/crm%2F0%2F5/trace",
    "events/crm/0/5/trace",
    "dead-letters",
];

#[tokio::test]
async fn every_route_wants_a_token_with_the_right_to_read_in_that_workspace() {
    let client = client(MemorySource::default());
    for route in ROUTES {
        let path = format!("/api/v1/acme/{route}");
        for (token, status) in [("unknown", 401), ("other", 403), ("writer", 403), ("reader", 200), ("all", 200)] {
            let (answered, ..) = client.get(&path, token).await;
            assert_eq!(answered, status, "{route} with {token}");
        }
    }
    assert!(client.source.asked.lock().iter().all(|(workspace, _)| workspace == "acme"));
}

#[tokio::test]
async fn answers_of_receivers_are_for_tokens_that_may_see_bodies() {
    let client = client(MemorySource::default());
    for route in ROUTES {
        let path = format!("/api/v1/acme/{route}");
        let (.., read) = client.get(&path, "reader").await;
        assert_eq!(read["rows"][0], json!({"attempts": [{"reason": "status"}], "at": "now"}), "{route}");
        let (.., seen) = client.get(&path, "bodies").await;
        assert_eq!(seen["rows"][0]["attempts"][0]["answer"], "hunter22", "{route}");
    }
    let record = "/api/v1/acme/records/crm.object-events/0/5";
    assert_eq!(client.get(record, "reader").await.0, 403);
    assert_eq!(client.get(record, "bodies").await.0, 200);
    assert_eq!(client.last().1, Question::Record { place: "crm.object-events/0/5".to_owned() });
}

#[tokio::test]
async fn attempts_of_an_unknown_instance_are_answered_as_every_route_of_it_answers() {
    let client = client(MemorySource::default());
    let (status, _, answer) = client.get("/api/v1/acme/integrations/instances/nowhere/attempts", "all").await;
    assert_eq!(
        (status.as_u16(), answer),
        (409, json!({"status": "notFound", "message": "IntegrationInstance nowhere not found"}))
    );
}

#[tokio::test]
async fn a_question_is_what_path_and_query_say() {
    let client = client(MemorySource::default());
    let query = "webhook=w&reason=tls&entity=c-1&from=2026-01-31T12:00:00Z&limit=7&next=1.2";
    client.get(&format!("/api/v1/acme/integrations/instances/i1/attempts?{query}"), "all").await;
    let word = |text: &str| Some(text.to_owned());
    let expected = Asked {
        webhook: word("w"),
        reason: Some("tls"),
        entity: word("c-1"),
        from: Some("2026-01-31T12:00:00Z".parse().unwrap()),
        limit: 7,
        next: word("1.2"),
        ..Asked::default()
    };
    assert_eq!(client.last(), ("acme".to_owned(), Question::AttemptsOf { id: "i1".to_owned(), asked: expected }));
    for path in ["events/crm.object-events%2F0%2F5/trace", "events/crm.object-events/0/5/trace"] {
        client.get(&format!("/api/v1/acme/{path}"), "all").await;
        let event = "crm.object-events/0/5".to_owned();
        assert_eq!(client.last().1, Question::Trace { event: event.clone(), next: None });
        client.get(&format!("/api/v1/acme/{path}?next=1.2~3"), "all").await;
        assert_eq!(client.last().1, Question::Trace { event, next: word("1.2~3") });
    }
    client.get("/api/v1/acme/dead-letters?limit=100000", "all").await;
    assert_eq!(client.last().1, Question::DeadLetters(Asked { limit: ROWS_MAX, ..Asked::default() }));
}

#[tokio::test]
async fn a_query_that_is_not_valid_is_refused_and_nothing_is_looked_up() {
    let client = client(MemorySource::default());
    for path in [
        "acme/attempts?from=yesterday",
        "acme/attempts?limit=0",
        "acme/attempts?limit=many",
        "acme/attempts?limit=%2B5",
        "acme/attempts?resaon=tls",
        "acme/attempts?from=2026-01-31T12:00:00Z&to=2026-01-31T12:00:00Z",
        "acme/attempts?event=a%0Ab",
        "a%2Fb/attempts",
        "acme/events",
    ] {
        let (status, _, answer) = client.get(&format!("/api/v1/{path}"), "all").await;
        assert_eq!((status.as_u16(), &answer["status"]), (400, &json!("badRequest")), "{path}: {answer}");
        assert!(!answer["message"].as_str().unwrap().contains("deserialize"), "{path}: {answer}");
    }
    assert_eq!(client.source.asked.lock().len(), 0);
}

#[tokio::test]
async fn an_unknown_reason_word_is_answered_with_the_known_ones() {
    let client = client(MemorySource::default());
    let (attempts, dead) = (Reason::words_of_attempts().collect::<Vec<_>>(), DeadReason::words().collect::<Vec<_>>());
    for (route, accepted) in [
        ("attempts", &attempts),
        ("integrations/instances/i1/attempts", &attempts),
        ("health", &attempts),
        ("dead-letters", &dead),
    ] {
        for unknown in ["tsl", "TLS", "circuit-open"] {
            let (status, _, answer) = client.get(&format!("/api/v1/acme/{route}?reason={unknown}"), "all").await;
            let message = format!("reason: expected one of: {}", accepted.join(", "));
            assert_eq!((status.as_u16(), &answer["message"]), (400, &json!(message)), "{route}");
        }
        for word in accepted {
            let (status, ..) = client.get(&format!("/api/v1/acme/{route}?reason={word}"), "all").await;
            assert_eq!(status, 200, "{word} of {route}");
        }
    }
    let asked = client.source.asked.lock();
    assert_eq!(asked.len(), 3 * attempts.len() + dead.len(), "what is refused is not asked");
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_use_is_refused_with_those_that_it_takes() {
    let client = client(MemorySource::default());
    for path in [
        "health?entity=e",
        "health?delivery=msg_1",
        "dead-letters?entity=e",
        "integrations/instances/i1/attempts?integration=i2",
        "integrations/instances/i1/attempts?reasn=tls",
        "health?reasn=tls",
        "dead-letters?reasn=suspended",
    ] {
        let (status, _, answer) = client.get(&format!("/api/v1/acme/{path}"), "all").await;
        assert_eq!(status, 400, "{path}");
        let message = answer["message"].as_str().unwrap();
        let (route, query) = path.split_once('?').unwrap();
        let named = query.split('=').next().unwrap();
        let (begin, taken) = message.split_once(" which takes ").unwrap();
        assert_eq!(begin, format!("{named}: not a parameter of this route,"));
        for parameter in taken.replace(" and ", ", ").split(", ") {
            let value = match parameter {
                "reason" => {
                    if route == "dead-letters" {
                        "suspended"
                    } else {
                        "tls"
                    }
                }
                "limit" => "1",
                "from" | "to" => "2026-01-31T12:00:00Z",
                _ => "x",
            };
            let (status, _, answer) = client.get(&format!("/api/v1/acme/{route}?{parameter}={value}"), "all").await;
            assert_eq!(status, 200, "{route} says that it takes {parameter}: {answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn scans_are_bounded_for_each_workspace_and_in_all_and_the_next_is_answered_with_a_time_to_retry() {
    let held = CancellationToken::new();
    let client = Arc::new(client(MemorySource { held: Some(held.clone()), ..MemorySource::default() }));
    let mut scans = tokio::task::JoinSet::new();
    let mut begin = |workspace: &'static str, token: &'static str, number: usize| {
        let asking = Arc::clone(&client);
        scans.spawn(async move { asking.get(&format!("/api/v1/{workspace}/attempts"), token).await.0 });
        let begun = Arc::clone(&client);
        async move {
            while begun.source.asked.lock().len() < number {
                tokio::task::yield_now().await;
            }
        }
    };
    let busy = async |workspace: &str, token: &str, part: &str| {
        let (status, headers, answer) = client.get(&format!("/api/v1/{workspace}/attempts"), token).await;
        assert_eq!((status.as_u16(), &answer["status"]), (429, &json!("busy")));
        assert_eq!(headers["retry-after"], "2");
        assert!(answer["message"].as_str().unwrap().contains(part), "{answer}");
    };
    for number in 1..=SCANS_OF_WORKSPACE_MAX {
        begin("acme", "all", number).await;
    }
    busy("acme", "all", "3 scans of this workspace are under way").await;
    begin("acme2", "other", SCANS_MAX).await;
    busy("acme2", "other", "4 scans are under way").await;
    held.cancel();
    assert!(scans.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(client.get("/api/v1/acme/attempts", "all").await.0, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_scan() {
    let client = client(MemorySource { held: Some(CancellationToken::new()), ..MemorySource::default() });
    let asking = client.get("/api/v1/acme/attempts", "all");
    let gone = tokio::time::timeout(Duration::from_millis(20), asking).await;
    assert!(gone.is_err());
    let stop = client.source.stops.lock().pop().expect("a scan began");
    stop.cancelled().await;
}
