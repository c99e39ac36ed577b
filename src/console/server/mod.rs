//! The console's listener and its routes: files, session, readers, and the actions that are passed on to the API.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{AUTHORIZATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::{Router, routing};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Forward, page, session};
use crate::registration::http::readers::Readers;
use crate::registration::http::{ApiError, Listener, Right, Tokens, answers, reload_on_hangup};
use crate::settings::{self, Settings};
use crate::telemetry::chain::chain;

/// Bytes of a request's body. The largest is a selection with the ranges that a preview fixed.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// What the console needs to serve.
pub(crate) struct Console {
    /// Which caller may see what.
    pub(crate) tokens: Arc<Tokens>,
    /// Integrations, attempts, dead letters, events.
    pub(crate) readers: Arc<Readers>,
    /// The address of the API that carries out actions. Without it the page offers no actions.
    pub(crate) forward: Option<Forward>,
}

/// The console, listening, not yet answering.
pub(crate) struct BoundConsole(Listener);

impl BoundConsole {
    /// Listens at `--console-listen`, with the API's certificate where there is one.
    ///
    /// # Errors
    /// [`ApiError`] names the option at fault.
    pub(crate) async fn bind(settings: &Settings) -> Result<Self, ApiError> {
        let listened = settings::Api { listen: settings.console_listen, ..settings.api.clone() };
        Ok(Self(Listener::bind(&listened, "--console-listen").await?))
    }

    /// The address that it listens on, with the port that the system chose for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Serves until `stop`.
    pub(crate) async fn run(self, console: Console, settings: &Settings, stop: CancellationToken) {
        let reloading = reload_on_hangup(Arc::clone(&console.tokens), stop.clone());
        let serving = self.0.serve(router(console), settings.delivery.drain_timeout, stop.clone());
        tokio::join!(reloading, serving);
    }
}

struct Served {
    tokens: Arc<Tokens>,
    readers: Arc<Readers>,
    forward: Option<Forward>,
}

fn router(console: Console) -> Router {
    let Console { tokens, readers, forward } = console;
    let served = Arc::new(Served { tokens, readers: Arc::clone(&readers), forward });
    let actions = ["redrive/preview", "redrive", "replay/preview", "replay", "resume"];
    let actions = actions.into_iter().fold(page::routes(), |router, action| {
        router.route(&format!("/api/v1/{{workspace}}/actions/{action}"), routing::post(forward_on))
    });
    let router = actions
        .route("/session", routing::get(session_of).post(enter).delete(leave))
        .route("/api/v1/{workspace}/integrations/instances/{id}", routing::get(instance))
        .route("/api/v1/{workspace}/integrations/instances/{id}/webhooks/{webhook}/test", routing::post(forward_on))
        .merge(readers.routes())
        .fallback(|request: Request| async move { answers::no_route(request.uri().path()) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(async |mut request: Request, next: Next| {
            let method = request.method().clone();
            session::admit(&method, request.headers_mut());
            next.run(request).await
        }))
        .with_state(served);
    page::guarded(router)
}

/// What the page gets to know about its session.
#[derive(Serialize)]
struct Session {
    workspaces: Vec<WorkspaceOf>,
    /// Whether actions can be passed on to the API.
    actions: bool,
}

#[derive(Serialize)]
struct WorkspaceOf {
    name: String,
    rights: Vec<&'static str>,
}

async fn session_of(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response<Body> {
    let Some(grant) = served.tokens.grant(&headers) else { return answers::unauthorized() };
    let mut names: Vec<String> = grant.workspaces().map(str::to_owned).collect();
    if grant.covers_every() {
        names.extend(served.readers.source().workspaces());
    }
    names.sort_unstable();
    names.dedup();
    let workspaces = names.into_iter().filter(|name| grant.rights(name).allow(Right::Read)).map(|name| {
        let rights = grant.rights(&name);
        let rights = Right::ALL.into_iter().filter(|right| rights.allow(*right)).map(Right::word).collect();
        WorkspaceOf { name, rights }
    });
    let session = Session { workspaces: workspaces.collect(), actions: served.forward.is_some() };
    answers::json(StatusCode::OK, &session)
}

#[derive(Deserialize)]
struct Entry {
    token: String,
}

async fn enter(State(served): State<Arc<Served>>, mut headers: HeaderMap, body: Bytes) -> Response<Body> {
    if !headers.contains_key(session::PAGE_HEADER) {
        return answers::bad_request(format!(
            "a session begins on the page: the header {} is missing",
            session::PAGE_HEADER
        ));
    }
    let token = serde_json::from_slice::<Entry>(&body).map(|entry| entry.token);
    let Some((cookie, token)) = token.ok().and_then(|token| Some((session::kept(&token)?, token))) else {
        return answers::bad_request("expected {\"token\": \"…\"}");
    };
    headers.clear();
    match format!("Bearer {token}").try_into() {
        Ok(bearer) => headers.insert(AUTHORIZATION, bearer),
        Err(_) => return answers::bad_request("a token has no control characters"),
    };
    if served.tokens.grant(&headers).is_none() {
        return answers::unauthorized();
    }
    with_cookie(cookie)
}

async fn leave() -> Response<Body> {
    with_cookie(session::ended())
}

fn with_cookie(cookie: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
}

async fn instance(
    State(served): State<Arc<Served>>,
    headers: HeaderMap,
    Path((workspace, id)): Path<(String, String)>,
) -> Response<Body> {
    served.readers.instance(&headers, workspace, id).await
}

/// Passes an action on. Its body is small, so it is read whole; the answer is not.
async fn forward_on(State(served): State<Arc<Served>>, request: Request) -> Response<Body> {
    if served.tokens.grant(request.headers()).is_none() {
        return answers::unauthorized();
    }
    let Some(forward) = &served.forward else {
        return answers::unavailable("actions are off: the console was started without --console-api-url");
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return answers::too_large(format!("expected a body of at most {BODY_BYTES_MAX} bytes"));
    };
    match forward.send(Request::from_parts(parts, body.into())).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(error = chain(&error), "an action did not reach the API");
            answers::unavailable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests;
