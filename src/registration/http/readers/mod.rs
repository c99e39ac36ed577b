//! The reader routes: the health of integrations, attempts, the trace of an event, dead letters, recent events.
//!
//! The API and the console serve them. This room reads the question, checks the caller's rights and bounds the number of
//! scans at once; a [`Source`] finds the rows. No answer holds a row of another workspace, because a question names
//! exactly one.

pub(super) mod described;
mod query;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::routing;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(super) use self::query::page_limit;
use self::query::{
    ATTEMPTS, ATTEMPTS_OF_ONE, DEAD_LETTERS, Draft, Find, GoOn, HEALTH, NEXT_CHARS_MAX, NoParameters, Parameters,
    WORD_CHARS_MAX, limit, word,
};
use super::auth::Tokens;
use super::rights::{Right, Rights};
use super::shares::{Share, Shares};
use super::{answers, no_method};
use crate::domain::guid::canonical;
use crate::registration::faults::is_name;
use crate::registration::question::{BadQuestion, FILTER_BYTES_MAX, Missing, Question, Source, SourceError};
use crate::telemetry::chain::chain;

/// Scans at once in a process: each has a Kafka client of its own and reads at the speed of the brokers.
const SCANS_MAX: usize = 4;
/// Those of one workspace.
const SCANS_OF_WORKSPACE_MAX: usize = 3;
/// How long one more waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Fields that hold receivers' answers or the content of events: only for tokens with the right `body`.
const BODY_FIELDS: [&str; 3] = ["answer", "body", "value"];

/// An answer that ends a request early. Boxed: it is large and rare.
type Refused = Box<Response<Body>>;

/// The reader routes and what they need.
pub(crate) struct Readers {
    tokens: Arc<Tokens>,
    source: Arc<dyn Source>,
    scans: Arc<Shares>,
}

impl Readers {
    pub(crate) fn new(tokens: Arc<Tokens>, source: Arc<dyn Source>) -> Arc<Self> {
        Arc::new(Self { tokens, source, scans: Shares::new("scans", SCANS_MAX, SCANS_OF_WORKSPACE_MAX) })
    }

    pub(crate) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// The rights of the request's token in `workspace`, or the answer of a request without any.
    fn rights(&self, headers: &HeaderMap, workspace: &str) -> Result<Rights, Refused> {
        let grant = self.tokens.grant(headers).ok_or_else(|| Box::new(answers::unauthorized()))?;
        if !is_name(workspace) {
            let expected = "expected 1 to 200 characters without spaces, slashes and control characters";
            return Err(Box::new(answers::bad_request(format!("the path's workspace: {expected}"))));
        }
        let rights = grant.rights(workspace);
        if rights.allow(Right::Read) {
            Ok(rights)
        } else {
            Err(Box::new(answers::forbidden(workspace, rights, Right::Read)))
        }
    }

    /// Asks, in turn with the other scans. A client that goes away stops the scan: its request's future is dropped.
    async fn answer(&self, workspace: String, question: Question, rights: Rights) -> Response<Body> {
        let turn = match self.turn(&workspace, &question).await {
            Ok(turn) => turn,
            Err(refused) => return *refused,
        };
        let stop = CancellationToken::new();
        let _stops_when_dropped = stop.clone().drop_guard();
        let answered = self.source.ask(workspace, question, stop).await;
        drop(turn);
        match answered {
            Ok(mut value) => {
                if !rights.allow(Right::Body) {
                    without_bodies(&mut value);
                }
                answers::json(StatusCode::OK, &value)
            }
            Err(SourceError::Bad(bad)) => answers::bad_request(chain(&bad)),
            Err(SourceError::Missing(Missing::Instance { id })) => answers::no_instance(&id),
            Err(SourceError::Missing(missing)) => answers::missing(missing.to_string()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a reader could not answer");
                answers::unavailable("Kafka can't be read now; see the log")
            }
        }
    }

    async fn turn(&self, workspace: &str, question: &Question) -> Result<Option<Share>, Refused> {
        if !question.is_scan() {
            return Ok(None);
        }
        if let Ok(share) = tokio::time::timeout(TURN_TIMEOUT, self.scans.take(workspace)).await {
            return Ok(Some(share));
        }
        self.scans
            .try_take(workspace)
            .map(Some)
            .map_err(|none| Box::new(answers::busy(format!("{none}; none ended within {} s", TURN_TIMEOUT.as_secs()))))
    }

    /// The routes. Each carries its own admission.
    pub(crate) fn routes<S: Clone + Send + Sync + 'static>(self: Arc<Self>) -> Router<S> {
        let get = |route: routing::MethodRouter<Arc<Self>>| {
            route.fallback(async |method: Method| no_method(&method, "GET, HEAD"))
        };
        Router::new()
            .route("/api/v1/{workspace}/health", get(routing::get(health)))
            .route("/api/v1/{workspace}/integrations/overview", get(routing::get(overview)))
            .route("/api/v1/{workspace}/integrations/instances/{id}/attempts", get(routing::get(attempts)))
            .route("/api/v1/{workspace}/attempts", get(routing::get(all_attempts)))
            .route("/api/v1/{workspace}/events", get(routing::get(lab)))
            .route("/api/v1/{workspace}/records/{topic}/{partition}/{offset}", get(routing::get(record)))
            .route("/api/v1/{workspace}/events/{event}/trace", get(routing::get(trace)))
            .route("/api/v1/{workspace}/events/{topic}/{partition}/{offset}/trace", get(routing::get(trace_at)))
            .route("/api/v1/{workspace}/dead-letters", get(routing::get(dead_letters)))
            .with_state(self)
    }

    /// Shows one instance; only the console serves it from here.
    pub(crate) async fn instance(&self, headers: &HeaderMap, workspace: String, id: String) -> Response<Body> {
        match self.rights(headers, &workspace) {
            Ok(rights) => self.answer(workspace, Question::Instance { id }, rights).await,
            Err(refused) => *refused,
        }
    }
}

/// Removes receivers' answers and the content of events from an answer.
fn without_bodies(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in BODY_FIELDS {
                fields.remove(field);
            }
            fields.values_mut().for_each(without_bodies);
        }
        Value::Array(items) => items.iter_mut().for_each(without_bodies),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

type PathOf<T> = Result<Path<T>, PathRejection>;
type QueryOf<T> = Result<Query<T>, QueryRejection>;

/// Reads path, rights and query, asks, and answers.
async fn respond<P, Q>(
    readers: &Readers,
    headers: &HeaderMap,
    path: PathOf<P>,
    query: QueryOf<Q>,
    question: impl FnOnce(P, Q, Rights) -> Result<(String, Question), BadQuestion>,
) -> Response<Body>
where
    P: DeserializeOwned + Workspace,
    Q: DeserializeOwned,
{
    let path = match path {
        Ok(Path(path)) => path,
        Err(error) => return answers::bad_request(error.body_text()),
    };
    let rights = match readers.rights(headers, path.workspace()) {
        Ok(rights) => rights,
        Err(refused) => return *refused,
    };
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => return answers::bad_query(&error),
    };
    match question(path, query, rights) {
        Ok((workspace, question)) => readers.answer(workspace, question, rights).await,
        Err(bad) => answers::bad_request(chain(&bad)),
    }
}

/// The path begins with a workspace.
trait Workspace {
    fn workspace(&self) -> &str;
}

impl Workspace for String {
    fn workspace(&self) -> &str {
        self
    }
}

impl Workspace for (String, String) {
    fn workspace(&self) -> &str {
        &self.0
    }
}

impl Workspace for (String, String, String, String) {
    fn workspace(&self) -> &str {
        &self.0
    }
}

async fn health(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<String>,
    query: QueryOf<Parameters>,
) -> Response<Body> {
    let question = |workspace, query: Parameters, _| Ok((workspace, Question::Health(query.asked(&HEALTH)?)));
    respond(&readers, &headers, path, query, question).await
}

async fn overview(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<String>,
    query: QueryOf<Find>,
) -> Response<Body> {
    let question = |workspace, query: Find, _| {
        let find = word("find", query.word, WORD_CHARS_MAX)?;
        let next = word("next", query.next, NEXT_CHARS_MAX)?;
        Ok((workspace, Question::Overview { find, limit: limit(query.limit.as_deref())?, next }))
    };
    respond(&readers, &headers, path, query, question).await
}

async fn attempts(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<(String, String)>,
    query: QueryOf<Parameters>,
) -> Response<Body> {
    let question = |(workspace, id): (String, String), query: Parameters, _| {
        let id = canonical(&id).into_owned();
        Ok((workspace, Question::AttemptsOf { id, asked: query.asked(&ATTEMPTS_OF_ONE)? }))
    };
    respond(&readers, &headers, path, query, question).await
}

async fn all_attempts(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<String>,
    query: QueryOf<Parameters>,
) -> Response<Body> {
    let question = |workspace, query: Parameters, _| Ok((workspace, Question::Attempts(query.asked(&ATTEMPTS)?)));
    respond(&readers, &headers, path, query, question).await
}

async fn dead_letters(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<String>,
    query: QueryOf<Parameters>,
) -> Response<Body> {
    let question =
        |workspace, query: Parameters, _| Ok((workspace, Question::DeadLetters(query.asked(&DEAD_LETTERS)?)));
    respond(&readers, &headers, path, query, question).await
}

async fn trace(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<(String, String)>,
    query: QueryOf<GoOn>,
) -> Response<Body> {
    let question = |(workspace, event): (String, String), query: GoOn, _| {
        let event = word("event", Some(event), WORD_CHARS_MAX)?.unwrap_or_default();
        Ok((workspace, Question::Trace { event, next: word("next", query.next, NEXT_CHARS_MAX)? }))
    };
    respond(&readers, &headers, path, query, question).await
}

async fn trace_at(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<(String, String, String, String)>,
    query: QueryOf<GoOn>,
) -> Response<Body> {
    let question = |(workspace, topic, partition, offset): (String, String, String, String), query: GoOn, _| {
        let event = word("event", Some(format!("{topic}/{partition}/{offset}")), WORD_CHARS_MAX)?.unwrap_or_default();
        Ok((workspace, Question::Trace { event, next: word("next", query.next, NEXT_CHARS_MAX)? }))
    };
    respond(&readers, &headers, path, query, question).await
}

async fn record(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<(String, String, String, String)>,
    query: QueryOf<NoParameters>,
) -> Response<Body> {
    let question = |(workspace, topic, partition, offset): (String, String, String, String), _: NoParameters, _| {
        let place = word("place", Some(format!("{topic}/{partition}/{offset}")), WORD_CHARS_MAX)?.unwrap_or_default();
        Ok((workspace, Question::Record { place }))
    };
    if let Ok(Path((workspace, ..))) = &path
        && let Ok(rights) = readers.rights(&headers, workspace)
        && !rights.allow(Right::Body)
    {
        return answers::forbidden(workspace, rights, Right::Body);
    }
    respond(&readers, &headers, path, query, question).await
}

async fn lab(
    State(readers): State<Arc<Readers>>,
    headers: HeaderMap,
    path: PathOf<String>,
    query: QueryOf<Draft>,
) -> Response<Body> {
    let question = |workspace, query: Draft, _| {
        if query.filter.len() > FILTER_BYTES_MAX {
            return Err(BadQuestion::LongFilter);
        }
        Ok((workspace, Question::Lab { filter: query.filter }))
    };
    respond(&readers, &headers, path, query, question).await
}

/// A source in memory, for tests of routes.
#[cfg(test)]
pub(crate) mod testing {
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::registration::question::Answering;

    /// An integration that does not exist.
    pub(crate) const NOWHERE: &str = "nowhere";

    /// Remembers what it was asked and always gives the same rows, except for [`NOWHERE`].
    #[derive(Default)]
    pub(crate) struct MemorySource {
        /// What it was asked.
        pub(crate) asked: Mutex<Vec<(String, Question)>>,
        /// Answers wait until this is cancelled.
        pub(crate) held: Option<CancellationToken>,
        /// Of each question, what is cancelled when its answer is not wanted any more.
        pub(crate) stops: Mutex<Vec<CancellationToken>>,
    }

    impl Source for MemorySource {
        fn ask(&self, workspace: String, question: Question, stop: CancellationToken) -> Answering {
            let missing = match &question {
                Question::AttemptsOf { id, .. } if id == NOWHERE => Some(Missing::Instance { id: id.clone() }),
                _ => None,
            };
            self.asked.lock().push((workspace, question));
            self.stops.lock().push(stop);
            let held = self.held.clone();
            Box::pin(async move {
                if let Some(missing) = missing {
                    return Err(missing.into());
                }
                if let Some(held) = held {
                    held.cancelled().await;
                }
                let attempt = json!({"reason": "status", "answer": "hunter22"});
                Ok(json!({"rows": [{"answer": "hunter22", "attempts": [attempt], "at": "now"}], "complete": true}))
            })
        }

        fn workspaces(&self) -> Vec<String> {
            vec!["acme".to_owned(), "<script>".to_owned()]
        }

        fn health(&self, _workspace: &str, _id: &str) -> Value {
            json!({"status": "active"})
        }

        fn unregistered(&self, _workspace: &str, _integration: Option<&str>, _webhook: Option<&str>) -> Option<String> {
            None
        }
    }
}

#[cfg(test)]
mod tests;
