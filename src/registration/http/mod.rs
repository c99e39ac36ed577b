//! The registration API over HTTP, by which integrations register, change and inspect their webhooks. `server` accepts
//! connections, `openapi` describes all routes, `instances` reads what a request changes, `auth` decides which caller may ask, and
//! `answers` writes the answer.
//!
//! The rules of an instance are in `registration::patch` and the two checks, and the registry stores it.

mod server;
mod openapi;
mod rotation;
mod actions;
mod instances;
mod instance_schema;
mod precondition;
mod warnings;
pub(crate) mod readers;
mod common_schema;
mod auth;
pub(crate) mod answers;
mod rights;
mod shares;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{Method, Response};
use axum::middleware::{self, Next};
use axum::response::{Html, Redirect};
use axum::routing;
use prometheus::IntCounterVec;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use self::actions::Actions;
pub(crate) use self::auth::{ACCESS_KEY, BadTokens, Tokens};
use self::readers::Readers;
pub(crate) use self::rights::Right;
use self::rights::Rights;
pub(crate) use self::server::{CONNECTIONS_MAX, Listener};
use self::shares::Shares;
use super::faults::is_name;
use super::lookup::{Directory, Followers, Lookup};
use super::registry::{Handle, Registry, RegistryError};
use crate::deliver::request::BadRequest;
use crate::domain::guid::canonical;
use crate::domain::integration::Unusable;
use crate::net::address::AddressPolicy;
use crate::settings::{self, Settings};
use crate::telemetry::chain::chain;

/// How long a request may take, its body and the commit included; a change that is not settled by then is answered with
/// "not known".
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a test delivery may take beyond `--request-timeout`, for the answer's body and its masking.
const TEST_MARGIN: Duration = Duration::from_secs(5);
/// Test deliveries under way at once.
const TESTS_MAX: usize = 64;
/// Those of one workspace: receivers that hang hold no more than these, for as long as a request may take.
const TESTS_OF_WORKSPACE_MAX: usize = 4;
/// Documents that are read, and answers with documents that are written, at once: each may take tens of milliseconds of a processor and
/// tens of MiB.
const DOCUMENTS_MAX: usize = 4;

/// Why the API can't be started, or had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The address can't be listened on.
    #[error("can't listen on {address} ({option})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that names it.
        option: &'static str,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The certificate or its key can't be used.
    #[error("{option} {file}: {error}; expected a PEM file that can be read")]
    Tls {
        /// The option that named the file.
        option: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        error: String,
    },
    /// The tokens can't be used.
    #[error(transparent)]
    Tokens(#[from] BadTokens),
    /// The registry can't be opened or can't go on.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A webhook to send a test delivery to. Without `Debug`, because it holds secrets.
#[derive(Clone)]
pub(crate) struct TestRequest {
    /// `<workspace>/<integration id>`: the record's key.
    pub(crate) key: String,
    /// The integration's record.
    pub(crate) record: Bytes,
    /// The webhook's id; the record has one of it.
    pub(crate) webhook: String,
}

/// How a receiver answered a test delivery.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestAnswer {
    /// Whether it was acknowledged.
    pub(crate) acknowledged: bool,
    /// Why not, as one word. Null when it was.
    #[schema(example = "echo-missing")]
    pub(crate) reason: Option<String>,
    /// The cause in words. Null when it was acknowledged.
    #[schema(example = "the certificate is refused: it expired at 2026-01-01T00:00:00Z", max_length = 300)]
    pub(crate) error: Option<String>,
    /// The address that was connected to, or that was tried last. Null when there was none, or it was refused.
    #[schema(example = "198.51.100.7:443")]
    pub(crate) address: Option<String>,
    /// The delivery's id, as the receiver got it in `webhook-id`.
    pub(crate) delivery_id: String,
    /// Where it was sent, without the query.
    pub(crate) url: String,
    /// The HTTP status, if there was an answer.
    #[schema(minimum = 100, maximum = 999)]
    pub(crate) status: Option<u16>,
    /// How long it took.
    pub(crate) duration_ms: u64,
    /// The beginning of the answer's body, at most 1 KiB.
    pub(crate) answer: String,
}

/// Why no test delivery can be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untestable {
    #[error("no delivery can be made from the stored record")]
    Record(#[from] Unusable),
    #[error("no such webhook")]
    NoWebhook,
    #[error("no request can be made for the webhook")]
    Request(#[from] BadRequest),
}

/// A test delivery on its way.
pub(crate) type Testing = Pin<Box<dyn Future<Output = Result<TestAnswer, Untestable>> + Send>>;

/// Sends one signed test delivery.
pub(crate) type TestDelivery = Arc<dyn Fn(TestRequest) -> Testing + Send + Sync>;

/// The methods that requests are counted by.
const METHODS: [&str; 6] = ["GET", "PATCH", "PUT", "DELETE", "POST", "other"];
/// The classes of status that they are counted by.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The parts of the process that the API uses.
pub(crate) struct ApiContext {
    /// Sends test deliveries.
    pub(crate) test_delivery: TestDelivery,
    /// Requests by `method` and class of `status`.
    pub(crate) requests: IntCounterVec,
    /// Records that Kafka did not take, by `topic`.
    pub(crate) unwritten: IntCounterVec,
    /// Called with true when the API can be used, and with false when it can't any more.
    pub(crate) ready: Box<dyn Fn(bool) + Send + Sync>,
}

/// The state that all requests share.
struct Api {
    registry: Handle,
    tokens: Arc<Tokens>,
    readers: Arc<Readers>,
    actions: Actions,
    /// The addresses that this process may send to. The workers have options of their own, which should be the same.
    addresses: AddressPolicy,
    test_delivery: TestDelivery,
    tests: Arc<Shares>,
    test_timeout: Duration,
    /// Places of documents that are read.
    documents: Arc<Semaphore>,
    requests: IntCounterVec,
    /// Reads the rest of bodies that were too large, after their requests were answered: at most one a connection, for a bounded time.
    discarded: TaskTracker,
}

/// The names in a path.
#[derive(Clone, Debug)]
struct Names {
    workspace: String,
    /// Empty for a list.
    id: String,
    webhook: Option<String>,
}

impl Names {
    /// The record's key.
    fn key(&self) -> String {
        format!("{}/{}", self.workspace, self.id)
    }
}

/// The API, listening, not yet answering.
pub(crate) struct BoundApi {
    listener: Listener,
    tokens: Arc<Tokens>,
}

impl BoundApi {
    /// Reads tokens and certificates and listens, before Kafka is touched.
    ///
    /// # Errors
    /// [`ApiError`] names the option at fault.
    pub(crate) async fn bind(settings: &Settings) -> Result<Self, ApiError> {
        let tokens = Arc::new(Tokens::open(settings.api.tokens_file.as_deref())?);
        Self::bind_with(settings, tokens).await
    }

    /// Listens with these tokens in the place of a tokens file.
    ///
    /// # Errors
    /// [`ApiError`] names the option at fault.
    pub(crate) async fn bind_with(settings: &Settings, tokens: Arc<Tokens>) -> Result<Self, ApiError> {
        Ok(Self { listener: Listener::bind(&settings.api, "--api-listen").await?, tokens })
    }

    /// The address listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The tokens in force.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// Serves until `shutdown`, or until the registry can't go on.
    ///
    /// # Errors
    /// [`ApiError::Registry`]: Kafka refuses for good, or a newer process fenced this one.
    pub(crate) async fn run(
        self,
        settings: &Settings,
        context: ApiContext,
        shutdown: CancellationToken,
    ) -> Result<(), ApiError> {
        let stop = CancellationToken::new();
        let opening = Registry::open(&settings.kafka, &settings.topics.integrations, stop.clone());
        let mut registry = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                stop.cancel();
                return Ok(());
            }
            opened = opening => opened?,
        };
        let ApiContext { test_delivery, requests, unwritten, ready } = context;
        for (method, class) in METHODS.into_iter().flat_map(|method| CLASSES.map(|class| (method, class))) {
            requests.with_label_values(&[method, class]);
        }
        let tests = Shares::new("test deliveries", TESTS_MAX, TESTS_OF_WORKSPACE_MAX);
        let test_timeout = settings.delivery.request_timeout + TEST_MARGIN;
        let (registry_handle, tokens) = (registry.handle(), Arc::clone(&self.tokens));
        let discarded = TaskTracker::new();
        let reading = discarded.clone();
        let directory = Arc::new(Directory::new(registry_handle.shared_view()));
        let mut followers = Followers::start(settings, &directory, &stop);
        followers.ready().await;
        let readers = Readers::new(Arc::clone(&tokens), Arc::new(Lookup::new(Arc::new(settings.clone()), directory)));
        let actions = Actions::new(settings, &unwritten);
        let ending = actions.ending();
        let api = Api {
            registry: registry_handle,
            tokens,
            readers,
            actions,
            addresses: AddressPolicy::new(settings.delivery.allow_private_networks.clone()),
            test_delivery,
            tests,
            test_timeout,
            documents: Arc::new(Semaphore::new(DOCUMENTS_MAX)),
            requests,
            discarded,
        };
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.listener.serve(router(Arc::new(api)), settings.delivery.drain_timeout, closing.clone()));
        tasks.spawn(reload_on_hangup(self.tokens, closing.clone()));
        ready(true);
        let failed = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            error = registry.failed() => Some(error),
        };
        ready(false);
        ending.begin();
        closing.cancel();
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the API failed");
            }
        }
        ending.wait().await;
        // The connections are gone, and with them the bodies that came over them.
        reading.close();
        reading.wait().await;
        stop.cancel();
        followers.ended().await;
        registry.close().await;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Why files that the options name can't be used, a line each: the option, the file and what is accepted. Blocks.
pub(crate) fn unusable_files(settings: &settings::Api) -> Vec<String> {
    let tokens = settings.tokens_file.as_deref().and_then(|file| auth::read(file).err());
    let tls = settings.tls.as_ref().and_then(|(cert, key)| server::acceptor(cert, key).err());
    tokens.map(ApiError::from).into_iter().chain(tls).map(|error| chain(&error)).collect()
}

/// What may not be meant in files that can be used, a line each. Blocks.
pub(crate) fn doubts_of_files(settings: &settings::Api) -> Vec<String> {
    let set = settings.tokens_file.as_deref().and_then(|file| Some((file, auth::read(file).ok()?)));
    let doubts = set.map(|(file, set)| (file, set.doubts()));
    let lines = doubts.into_iter().flat_map(|(file, doubts)| doubts.into_iter().map(move |doubt| (file, doubt)));
    lines.map(|(file, doubt)| format!("--api-tokens-file {}: {doubt}", file.display())).collect()
}

/// Reads the tokens again on each SIGHUP, until `stop`.
pub(crate) async fn reload_on_hangup(tokens: Arc<Tokens>, stop: CancellationToken) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(%error, "SIGHUP can't be waited for: the tokens are not read again");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            received = hangup.recv() => {
                if received.is_none() {
                    return;
                }
                let tokens = Arc::clone(&tokens);
                // A file is read on a thread that may wait for a disk.
                if let Err(error) = tokio::task::spawn_blocking(move || tokens.reload()).await {
                    tracing::error!(%error, "reading the tokens again failed");
                }
            }
        }
    }
}

fn router(api: Arc<Api>) -> Router {
    // Authentication applies to existing methods only: an unknown method gets 405 without a key.
    let may = |right| middleware::from_fn_with_state((Arc::clone(&api), right), admit);
    let page = routing::get(instances::list)
        .route_layer(may(Right::Read))
        .fallback(async |method: Method| no_method(&method, "GET, HEAD"));
    let bare = || middleware::from_fn(without_query);
    let changes = routing::patch(instances::patch).put(instances::put).delete(instances::delete).route_layer(bare());
    let instance = routing::get(instances::get)
        .route_layer(bare())
        .route_layer(may(Right::Read))
        .merge(changes.route_layer(may(Right::Write)))
        .fallback(async |method: Method| no_method(&method, "GET, HEAD, PATCH, PUT, DELETE"));
    let test = routing::post(instances::test)
        .route_layer(bare())
        .route_layer(may(Right::Operate))
        .fallback(async |method: Method| no_method(&method, "POST"));
    let rotate = routing::post(rotation::rotate)
        .route_layer(bare())
        .route_layer(may(Right::Write))
        .fallback(async |method: Method| no_method(&method, "POST"));
    let act = |post: routing::MethodRouter<Arc<Api>>| {
        post.route_layer(bare())
            .route_layer(may(Right::Operate))
            .fallback(async |method: Method| no_method(&method, "POST"))
    };
    let open =
        |get: routing::MethodRouter<Arc<Api>>| get.fallback(async |method: Method| no_method(&method, "GET, HEAD"));
    Router::new()
        .route("/api/v1/{workspace}/integrations/instances", page)
        .route("/api/v1/{workspace}/integrations/instances/{id}", instance)
        .route("/api/v1/{workspace}/integrations/instances/{id}/webhooks/{webhook}/test", test)
        .route("/api/v1/{workspace}/integrations/instances/{id}/secrets/rotate", rotate)
        .route("/api/v1/{workspace}/actions/redrive/preview", act(routing::post(actions::preview_redrive)))
        .route("/api/v1/{workspace}/actions/redrive", act(routing::post(actions::redrive)))
        .route("/api/v1/{workspace}/actions/replay/preview", act(routing::post(actions::preview_replay)))
        .route("/api/v1/{workspace}/actions/replay", act(routing::post(actions::replay)))
        .route("/api/v1/{workspace}/actions/resume", act(routing::post(actions::resume_one)))
        .merge(Arc::clone(&api.readers).routes())
        .route("/api/v1/openapi.json", open(routing::get(openapi::document)))
        .route("/api/v1/docs", open(routing::get(|| async { Html(openapi::PAGE) })))
        // The page names the description beside it: so it has one address, whatever a proxy puts before it.
        .route("/api/v1/docs/", open(routing::get(|| async { Redirect::permanent("../docs") })))
        .fallback(|request: Request| async move { answers::no_route(request.uri().path()) })
        .layer(middleware::from_fn_with_state(Arc::clone(&api), bounded))
        .with_state(api)
}

fn no_method(method: &Method, allowed: &'static str) -> Response<Body> {
    answers::no_method(method.as_str(), allowed)
}

/// The caller, and its rights in the workspace of the request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The token's name for the audit trail; never the token.
    pub(crate) name: String,
    /// Its rights in the workspace.
    pub(crate) rights: Rights,
}

/// Admits callers with that right in the workspace. The names in the path must be such as a record's key can hold.
async fn admit(
    State((api, right)): State<(Arc<Api>, Right)>,
    path: Result<Path<Vec<(String, String)>>, axum::extract::rejection::PathRejection>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let Some(grant) = api.tokens.grant(request.headers()) else { return answers::unauthorized() };
    let segments = match path {
        Ok(Path(segments)) => segments,
        Err(error) => return answers::bad_request(error.body_text()),
    };
    let mut names = Names { workspace: String::new(), id: String::new(), webhook: None };
    for (name, segment) in segments {
        if !is_name(&segment) {
            let what = "expected 1 to 200 characters without spaces, slashes and control characters";
            return answers::bad_request(format!("the path's {name}: {what}"));
        }
        match name.as_str() {
            "workspace" => names.workspace = segment,
            "id" => names.id = canonical(&segment).into_owned(),
            _ => names.webhook = Some(segment),
        }
    }
    let rights = grant.rights(&names.workspace);
    if !rights.allow(right) {
        return answers::forbidden(&names.workspace, rights, right);
    }
    request.extensions_mut().insert(Caller { name: grant.name().to_owned(), rights });
    request.extensions_mut().insert(names);
    next.run(request).await
}

/// Refuses a query where the route takes none: something else would be done than the caller asked for.
async fn without_query(request: Request, next: Next) -> Response<Body> {
    if request.uri().query().is_some_and(|query| !query.is_empty()) {
        return answers::bad_request("the query: expected none; this route takes no parameters");
    }
    next.run(request).await
}

/// Bounds the time a request takes, and counts it.
async fn bounded(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response<Body> {
    let method = match *request.method() {
        Method::GET | Method::HEAD => "GET",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::POST => "POST",
        _ => "other",
    };
    // A test delivery ends by itself, in a time that the options say.
    let is_test = request.uri().path().ends_with("/test");
    let longest = if is_test { REQUEST_TIMEOUT.max(api.test_timeout) } else { REQUEST_TIMEOUT };
    let response = tokio::time::timeout(longest, next.run(request)).await.unwrap_or_else(|_elapsed| {
        answers::unavailable("no answer in time: it is not known whether a change was written, read it again")
    });
    let class = match response.status().as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    api.requests.with_label_values(&[method, class]).inc();
    response
}

#[cfg(test)]
mod tests;
