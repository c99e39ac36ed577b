//! The routes of actions: redrive and replay, each with a preview, and resume. `crate::actions` carries them out. Here: which caller
//! asks, how many run at once, how long, and how progress is reported. A run ends when its caller goes away.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use prometheus::{IntCounter, IntCounterVec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use super::common_schema::{AnyBody, AnyRequest, Conflicting, Counts, InWorkspace};
use super::instances::{Refused, asked};
use super::shares::{Share, Shares};
use super::{Api, Caller, Names, answers};
use crate::actions::audit::Audit;
use crate::actions::refusal::BadSelection;
use crate::actions::resend::{Account, Order, Prepared, Resent, resend};
use crate::actions::resume::{Outcome, Resumed, resume};
use crate::actions::selection::Selection;
use crate::actions::{ActionError, Sender};
use crate::domain::guid;
use crate::kafka::span::SpanError;
use crate::readers::scan::Bounds;
use crate::registration::json_words;
use crate::settings::Settings;
use crate::telemetry::chain::chain;

/// Previews and runs at once in a process: each has Kafka clients of its own.
const ACTIONS_MAX: usize = 4;
/// Those of one workspace: a run may take minutes, and another workspace's resumption does not wait for it.
const ACTIONS_OF_WORKSPACE_MAX: usize = 2;
/// How long one preview reads. What it has not come to is not part of what it fixes.
const PREVIEW_MAX: Duration = Duration::from_secs(10);
/// How long a preview or a run looks for what was sent back before, and how much of it.
const KNOWN: Bounds = Bounds { bytes: 256 << 20, time: Duration::from_secs(5), ..Bounds::PAGE };
/// How long one run sends: less than a connection lives. The last line says what is left, and it can be run again.
const RUN_MAX: Duration = Duration::from_mins(9);
/// How long a resumption may take until a worker has done it: less than a request may take.
const RESUME_PATIENCE: Duration = Duration::from_secs(15);
/// Records a second unless `rate` says otherwise.
const RATE: u32 = 100;
/// The most that `rate` may say.
const RATE_MAX: u32 = 10_000;
/// Between two lines of progress.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Lines of progress that a slow caller has not taken yet. More are left out, but the last one.
const LINES_MAX: usize = 4;

/// What actions need, and the runs under way.
pub(super) struct Actions {
    settings: Arc<Settings>,
    /// The way into the audit topic, once it is open.
    audit: OnceCell<Arc<Audit>>,
    turns: Arc<Shares>,
    runs: TaskTracker,
    stop: CancellationToken,
    /// Records that the audit topic did not take.
    unrecorded: IntCounter,
}

impl Actions {
    /// `unwritten` counts, by topic, records that Kafka did not take.
    pub(super) fn new(settings: &Settings, unwritten: &IntCounterVec) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            audit: OnceCell::new(),
            turns: Shares::new("actions", ACTIONS_MAX, ACTIONS_OF_WORKSPACE_MAX),
            runs: TaskTracker::new(),
            stop: CancellationToken::new(),
            unrecorded: unwritten.with_label_values(&[&settings.topics.audit]),
        }
    }

    /// The runs, so that they can be stopped and waited for.
    pub(super) fn ending(&self) -> Ending {
        Ending { runs: self.runs.clone(), stop: self.stop.clone() }
    }

    fn turn(&self, names: &Names) -> Result<Share, Refused> {
        self.turns.try_take(&names.workspace).map_err(|none| Box::new(answers::busy(none.to_string())))
    }

    /// The way into the audit topic. It is opened once for the process: a producer takes about a second until its first record is
    /// acknowledged. If the topic cannot be reached, the next action tries again.
    async fn audit(&self) -> Result<Arc<Audit>, ActionError> {
        self.audit.get_or_try_init(|| async { Audit::open(&self.settings).await.map(Arc::new) }).await.cloned()
    }

    /// Writes the audit record of a test delivery. The delivery has happened and changed nothing, so it is answered in any case; a
    /// record that is missing is logged and counted.
    pub(super) async fn tested(&self, who: &str, names: &Names, acknowledged: bool) {
        let selection = Selection { webhook: names.webhook.clone(), ..about(names, names.id.clone()) };
        let counts = json!({ "acknowledged": u8::from(acknowledged), "failed": u8::from(!acknowledged) });
        let written = async { self.audit().await?.record(who, "test", &selection, &counts).await };
        if let Err(error) = written.await {
            self.unrecorded.inc();
            tracing::error!(who, error = chain(&error), "a test delivery leaves no record in the audit topic");
        }
    }
}

/// The end of the runs.
pub(super) struct Ending {
    runs: TaskTracker,
    stop: CancellationToken,
}

impl Ending {
    /// Ends them between two records.
    pub(super) fn begin(&self) {
        self.stop.cancel();
    }

    /// Waits until each has written its audit record.
    pub(super) async fn wait(self) {
        self.runs.close();
        self.runs.wait().await;
    }
}

/// The records that a run sends, as a preview fixed them.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RunBody {
    selection: Selection,
    /// Records a second, at most; 100 unless given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    rate: Option<f64>,
}

/// What would be sent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Preview {
    /// What a run takes. It fixes the records: what is written from now on is not part of it.
    selection: Selection,
    #[schema(value_type = Counts)]
    counts: Value,
    /// Whether all selected records are fixed. Otherwise the preview reached its time bound, and the run sends the older part.
    complete: bool,
    /// If nothing is selected: that the integration or the webhook asked for is not registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// One line of a run's progress, a JSON object each. The last one is `done`, or says the error.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    #[schema(value_type = Counts)]
    counts: Value,
    /// The run has ended and its record is in the audit topic.
    done: bool,
    /// The run was stopped, or reached its time bound; `selection` says how far it came.
    stopped_early: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<Selection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The integration to resume.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResumeBody {
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\s/\u0000-\u001f\u007f-\u009f]+$")]
    integration: String,
}

/// The result of a resumption.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResumeAnswer {
    /// `resumed`, `not-suspended`, or `pending` if the request is written and no worker has granted it yet.
    #[schema(value_type = String, example = "resumed")]
    outcome: Outcome,
    /// The same in words.
    message: String,
}

/// Counts the dead letters that a redrive would send, and fixes them. Needs the right `operate`.
#[utoipa::path(
    post, path = "/api/v1/{workspace}/actions/redrive/preview", operation_id = "previewRedrive", tag = "actions",
    params(InWorkspace),
    request_body(content = Selection, content_type = "application/json"),
    responses((status = 200, body = Preview, description = "What would be sent"), (status = 409, body = Conflicting, description = "It can't be sent; the message says why"), (status = 429, body = answers::Problem, description = "Too many actions are under way"), AnyRequest, AnyBody)
)]
pub(super) async fn preview_redrive(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    request: Request,
) -> Response<Body> {
    either(preview(&api, &names, Sender::Redrive, request).await)
}

/// Counts the deliveries that a replay would make, and fixes them. Needs the right `operate`.
#[utoipa::path(
    post, path = "/api/v1/{workspace}/actions/replay/preview", operation_id = "previewReplay", tag = "actions",
    params(InWorkspace),
    request_body(content = Selection, content_type = "application/json"),
    responses((status = 200, body = Preview, description = "What would be sent"), (status = 409, body = Conflicting, description = "It can't be sent; the message says why"), (status = 429, body = answers::Problem, description = "Too many actions are under way"), AnyRequest, AnyBody)
)]
pub(super) async fn preview_replay(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    request: Request,
) -> Response<Body> {
    either(preview(&api, &names, Sender::Replay, request).await)
}

/// Sends the dead letters that a preview fixed. Closing the connection stops it between two records. Needs the right `operate`.
#[utoipa::path(
    post, path = "/api/v1/{workspace}/actions/redrive", operation_id = "redrive", tag = "actions",
    params(InWorkspace),
    request_body(content = RunBody, content_type = "application/json"),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson", description = "Progress, a line each"), (status = 409, body = Conflicting, description = "It can't be sent; the message says why"), (status = 429, body = answers::Problem, description = "Too many actions are under way"), AnyRequest, AnyBody)
)]
pub(super) async fn redrive(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response<Body> {
    either(run(&api, &names, caller, Sender::Redrive, request).await)
}

/// Makes the deliveries that a preview fixed, with the ids they had. Closing the connection stops it between two records. Needs the
/// right `operate`.
#[utoipa::path(
    post, path = "/api/v1/{workspace}/actions/replay", operation_id = "replay", tag = "actions",
    params(InWorkspace),
    request_body(content = RunBody, content_type = "application/json"),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson", description = "Progress, a line each"), (status = 409, body = Conflicting, description = "It can't be sent; the message says why"), (status = 429, body = answers::Problem, description = "Too many actions are under way"), AnyRequest, AnyBody)
)]
pub(super) async fn replay(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response<Body> {
    either(run(&api, &names, caller, Sender::Replay, request).await)
}

/// Ends the suspension of an integration. Needs the right `operate`.
#[utoipa::path(
    post, path = "/api/v1/{workspace}/actions/resume", operation_id = "resume", tag = "actions",
    params(InWorkspace),
    request_body(content = ResumeBody, content_type = "application/json"),
    responses((status = 200, body = ResumeAnswer, description = "The result"), (status = 409, body = Conflicting, description = "There is no such integration, or its own status is failed"), (status = 429, body = answers::Problem, description = "Too many actions are under way"), AnyRequest, AnyBody)
)]
pub(super) async fn resume_one(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response<Body> {
    either(resumed(&api, &names, caller, request).await)
}

fn either(answered: Result<Response<Body>, Refused>) -> Response<Body> {
    answered.unwrap_or_else(|refused| *refused)
}

async fn preview(api: &Api, names: &Names, sender: Sender, request: Request) -> Result<Response<Body>, Refused> {
    let given = body(api, request, "a selection, such as {\"integration\":\"…\"}").await?;
    let selection = selection(api, names, sender, given)?;
    let _turn = api.actions.turn(names)?;
    let settings = &api.actions.settings;
    let stop = api.actions.stop.child_token();
    let _stops_when_dropped = stop.clone().drop_guard();
    let prepared = sender.prepare(settings, selection, true, KNOWN, &stop).await.map_err(refused)?;
    let until = Some(Instant::now() + PREVIEW_MAX);
    let order = Order { name: sender.word(), rate: RATE_MAX, requeue: None, until, stop: &stop };
    let Resent { account, selection, ended } = resend(order, prepared, &mut |_, _| {}).await;
    let complete = !ended.map_err(refused)?;
    let is_nothing = account.matched == 0 && account.skipped.is_empty();
    let hint = is_nothing.then(|| {
        let (integration, webhook) = (selection.integration.as_deref(), selection.webhook.as_deref());
        api.readers.source().unregistered(&names.workspace, integration, webhook)
    });
    let (counts, hint) = (account.counts(), hint.flatten());
    Ok(answers::json(StatusCode::OK, &Preview { selection, counts, complete, hint }))
}

async fn run(
    api: &Api,
    names: &Names,
    caller: Caller,
    sender: Sender,
    request: Request,
) -> Result<Response<Body>, Refused> {
    let expected = "{\"selection\":…} with what a preview answered";
    let RunBody { selection: given, rate } = body(api, request, expected).await?;
    let rate = rate_of(rate).map_err(|bad| Box::new(answers::bad_request(bad.to_string())))?;
    let selection = selection(api, names, sender, given)?;
    if selection.fixed.is_none() {
        return Err(Box::new(answers::refused("selection.fixed is missing: a run takes what a preview answered")));
    }
    let turn = api.actions.turn(names)?;
    let settings = &api.actions.settings;
    let audit = api.actions.audit().await.map_err(refused)?;
    let stop = api.actions.stop.child_token();
    let prepared = sender.prepare(settings, selection, false, KNOWN, &stop).await.map_err(refused)?;
    let requeue = sender.requeue(settings).await.map_err(refused)?;
    tracing::info!(who = caller.name, action = sender.word(), workspace = names.workspace, rate, "an action begins");
    let (lines, mut progress) = mpsc::channel(LINES_MAX);
    let unrecorded = api.actions.unrecorded.clone();
    api.actions.runs.spawn(async move {
        let until = Some(Instant::now() + RUN_MAX);
        let order = Order { name: sender.word(), rate, requeue: Some(Arc::clone(&requeue)), until, stop: &stop };
        let resent = sending(order, prepared, &lines).await;
        // The end of its thread may take half a second, in which this one serves others.
        let closing = tokio::task::spawn_blocking(move || drop(requeue));
        let last = ended(&audit, &unrecorded, &caller.name, sender, resent).await;
        if let Err(error) = closing.await {
            tracing::error!(%error, "a producer could not be closed");
        }
        drop(turn);
        if lines.send(line(&last)).await.is_err() {
            tracing::info!(who = caller.name, action = sender.word(), "the caller of an action went away");
        }
    });
    let lines = futures_util::stream::poll_fn(move |context| {
        progress.poll_recv(context).map(|line| line.map(Ok::<_, std::io::Error>))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rate: expected a whole number from 1 to {RATE_MAX}")]
struct BadRate;

/// Records a second. JSON does not distinguish `100.0` from `100`.
fn rate_of(given: Option<f64>) -> Result<u32, BadRate> {
    let Some(given) = given else { return Ok(RATE) };
    let rate = (1..=RATE_MAX).find(|rate| f64::from(*rate).total_cmp(&given).is_eq());
    rate.ok_or(BadRate)
}

/// Sends, and reports its progress. If the caller closes the connection, the run stops.
async fn sending(order: Order<'_>, prepared: Prepared, lines: &mpsc::Sender<Bytes>) -> Resent {
    let stop = order.stop.clone();
    let mut last_report = Instant::now();
    let mut report = |account: &Account, _: &[_]| {
        if last_report.elapsed() >= REPORT_EVERY {
            last_report = Instant::now();
            let counts = account.counts();
            // If the caller does not read, this line is left out. The last line is always sent.
            drop(lines.try_send(line(&Progress {
                counts,
                done: false,
                stopped_early: false,
                selection: None,
                error: None,
            })));
        }
    };
    let sent = resend(order, prepared, &mut report);
    until_gone(sent, lines.closed(), &stop).await
}

/// Waits for the end of `sent`; `gone` asks for an early one.
async fn until_gone<T>(sent: impl Future<Output = T>, gone: impl Future<Output = ()>, stop: &CancellationToken) -> T {
    let mut sent = std::pin::pin!(sent);
    tokio::select! {
        biased;
        resent = sent.as_mut() => return resent,
        () = gone => stop.cancel(),
    }
    sent.await
}

/// Writes the audit record of a run, and returns how it ended.
async fn ended(audit: &Audit, unrecorded: &IntCounter, who: &str, sender: Sender, resent: Resent) -> Progress {
    let Resent { account, selection, ended } = resent;
    let counts = account.counts();
    tracing::info!(who, action = sender.word(), matched = account.matched, sent = account.sent, "an action ended");
    let recorded = audit.record(who, sender.word(), &selection, &counts).await.inspect_err(|_error| unrecorded.inc());
    let error = match (&ended, recorded) {
        (Err(error), _) => {
            tracing::error!(who, action = sender.word(), error = chain(error), "an action could not go on");
            Some("it could not go on: Kafka can't be read or written now; see the log".to_owned())
        }
        (Ok(_), Err(error)) => {
            tracing::error!(who, action = sender.word(), error = chain(&error), "an action left no record");
            Some("it is done, but its record could not be written to the audit topic; see the log".to_owned())
        }
        (Ok(_), Ok(())) => None,
    };
    let stopped_early = ended.unwrap_or(true);
    Progress { counts, done: error.is_none(), stopped_early, selection: Some(selection), error }
}

fn line(progress: &Progress) -> Bytes {
    let mut line = serde_json::to_vec(progress).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn resumed(api: &Api, names: &Names, caller: Caller, request: Request) -> Result<Response<Body>, Refused> {
    let ResumeBody { integration } = body(api, request, "{\"integration\":\"…\"}").await?;
    let selection = selection(api, names, Sender::Replay, about(names, integration))?;
    let _turn = api.actions.turn(names)?;
    let settings = &api.actions.settings;
    let audit = api.actions.audit().await.map_err(refused)?;
    let stop = api.actions.stop.child_token();
    let _stops_when_dropped = stop.clone().drop_guard();
    let id = selection.integration.clone().unwrap_or_default();
    let key = format!("{}/{id}", names.workspace);
    let Resumed { outcome, .. } = resume(settings, &key, false, RESUME_PATIENCE, &stop).await.map_err(refused)?;
    tracing::info!(who = caller.name, action = "resume", key, ?outcome, "an action ended");
    let message = match outcome {
        Outcome::Unknown => return Err(Box::new(answers::no_instance(&id))),
        Outcome::OwnStatusFailed => {
            let message = "its own status is failed: a PATCH of /status to active ends that and the suspension";
            return Err(Box::new(answers::refused(message)));
        }
        Outcome::Resumed | Outcome::WouldResume => "The integration is active again.",
        Outcome::NotSuspended => "The integration is not suspended.",
        Outcome::Pending => "The request is written, and no worker has granted it yet. A worker that starts will.",
    };
    let recorded = audit.record(&caller.name, "resume", &selection, &outcome.counts()).await;
    recorded.inspect_err(|_error| api.actions.unrecorded.inc()).map_err(refused)?;
    Ok(answers::json(StatusCode::OK, &ResumeAnswer { outcome, message: message.to_owned() }))
}

/// The integration of the path's workspace.
fn about(names: &Names, integration: String) -> Selection {
    let (workspace, integration) = (Some(names.workspace.clone()), Some(integration));
    Selection { workspace, integration, ..Selection::default() }
}

/// Reads the body; `expected` says what is accepted.
async fn body<T: DeserializeOwned>(api: &Api, request: Request, expected: &str) -> Result<T, Refused> {
    let (_precondition, body) = asked(api, request, &["application/json"]).await?;
    // An array would be taken for the fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Box::new(answers::bad_request(format!("expected {expected}"))));
    }
    json_words::read(&body).map_err(|bad| Box::new(answers::bad_request(format!("expected {expected}; {bad}"))))
}

/// The selection in the path's workspace. An integration that is not there has nothing to replay.
fn selection(api: &Api, names: &Names, sender: Sender, given: Selection) -> Result<Selection, Refused> {
    let given = given.checked(sender).map_err(refused)?;
    let integration = given.integration.as_deref().map(|id| guid::canonical(id).into_owned());
    if sender == Sender::Replay {
        let id = integration.as_deref().unwrap_or_default();
        if id.is_empty() {
            return Err(refused(BadSelection::NoIntegrationNamed.into()));
        }
        if api.registry.view().get(&names.workspace, id).is_none() {
            return Err(Box::new(answers::no_instance(id)));
        }
    }
    Ok(Selection { workspace: Some(names.workspace.clone()), integration, ..given })
}

#[expect(clippy::unnecessary_box_returns, reason = "the type of every refusal here")]
#[expect(clippy::needless_pass_by_value, reason = "map_err gives it")]
fn refused(error: ActionError) -> Refused {
    let of_question = error.of_question("").unwrap_or_default();
    Box::new(match error {
        ActionError::Bad(_) | ActionError::Refused(_) => answers::refused(of_question),
        ActionError::Unusable { .. } => answers::refused(chain(&error)),
        ActionError::TopicRange(SpanError::NoRecord { .. }) => answers::refused(error.to_string()),
        ActionError::TopicRange(SpanError::NoTopic(_)) => answers::unavailable(error.to_string()),
        _ => {
            tracing::warn!(error = chain(&error), "an action was not done");
            answers::unavailable("Kafka can't be asked now; see the log")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::test_broker;

    #[test]
    fn a_rate_is_a_whole_number_within_its_bounds() {
        assert_eq!(rate_of(None), Ok(100));
        assert_eq!(rate_of(Some(1.0)), Ok(1));
        assert_eq!(rate_of(Some(10_000.0)), Ok(10_000));
        for refused in [0.0, -1.0, 1.5, 10_001.0, f64::MAX] {
            assert!(rate_of(Some(refused)).is_err(), "{refused}");
        }
    }

    /// Each record would else wait for a new client.
    #[tokio::test]
    async fn the_way_into_the_audit_topic_is_opened_once_and_again_only_where_it_failed() {
        let mut settings = Settings::default();
        let (cluster, kafka) = test_broker::with_topic(&settings.topics.events);
        settings.kafka = kafka;
        let unwritten = IntCounterVec::new(prometheus::Opts::new("unwritten", "unwritten"), &["topic"]).unwrap();
        let actions = Actions::new(&settings, &unwritten);
        assert!(actions.audit().await.is_err(), "there is no audit topic yet");
        cluster.create_topic(&settings.topics.audit, 1, 1).unwrap();
        let first = actions.audit().await.unwrap();
        assert!(Arc::ptr_eq(&first, &actions.audit().await.unwrap()));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_asks_for_an_early_end_which_is_waited_for() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let sent = async move {
            stopped.cancelled().await;
            tokio::task::yield_now().await;
            "account"
        };
        assert_eq!(until_gone(sent, std::future::ready(()), &stop).await, "account");
    }
}
