//! The reader routes for the API's description: their parameters and the types of their answers. Nothing here runs;
//! `registration::lookup` makes the answers, and `tests/kafka/api_contract.rs` compares them with these types.
#![expect(
    dead_code,
    unused_qualifications,
    reason = "these functions and types are never used, only described; utoipa names them with `self`"
)]

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use super::query::WORD_CHARS_MAX;
use crate::domain::outcome::{DeadReason, Reason};
use crate::registration::http::answers::Problem;
use crate::registration::http::common_schema::{AnyRequest, InWorkspace, OfInstance};

/// Further answers of the reader routes.
#[derive(IntoResponses)]
enum AnyReader {
    /// Too many scans are under way; `Retry-After` says when to ask again.
    #[response(status = 429)]
    Busy(#[to_schema] Problem),
}

/// An id or a search word.
struct Word;

impl PartialSchema for Word {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(WORD_CHARS_MAX));
        text.pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$")).into()
    }
}

impl ToSchema for Word {}

/// Why a request failed.
struct AttemptReason;

impl PartialSchema for AttemptReason {
    fn schema() -> RefOr<Schema> {
        one_of(Reason::words_of_attempts())
    }
}

impl ToSchema for AttemptReason {}

/// Why a record is a dead letter.
struct DeadLetterReason;

impl PartialSchema for DeadLetterReason {
    fn schema() -> RefOr<Schema> {
        one_of(DeadReason::words())
    }
}

impl ToSchema for DeadLetterReason {}

fn one_of(words: impl Iterator<Item = &'static str>) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

/// The size and the beginning of a page.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// Rows of an answer; 50 unless given, and never more than 200
    #[param(minimum = 1)]
    limit: Option<i64>,
    /// The `next` of the answer before, with the same question
    next: Option<String>,
}

/// A range of time.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct Between {
    /// Only of this time and later
    #[param(format = "date-time")]
    from: Option<String>,
    /// Only before this time
    #[param(format = "date-time")]
    to: Option<String>,
}

/// Which integration.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct OfIntegration {
    /// Only of this integration
    #[param(inline)]
    integration: Option<Word>,
}

/// Which webhook.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct OfWebhook {
    /// Only of this webhook
    #[param(inline)]
    webhook: Option<Word>,
}

/// Why a request failed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct OfFailure {
    /// Only failures of this reason word
    #[param(inline)]
    reason: Option<AttemptReason>,
}

/// Which attempts.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct OfAttempt {
    /// Only of this event: its id, or its place `topic/partition/offset`
    #[param(inline)]
    event: Option<Word>,
    /// Only of this delivery: the header `webhook-id`
    #[param(inline)]
    delivery: Option<Word>,
    /// Only about this entity: an id among the event's `entityIds`
    #[param(inline)]
    entity: Option<Word>,
}

/// Which dead letters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct OfDeadLetter {
    /// Only of this reason word
    #[param(inline)]
    reason: Option<DeadLetterReason>,
    /// Only of the event at this place: `topic/partition/offset`
    #[param(inline)]
    event: Option<Word>,
    /// Only of this delivery: the header `webhook-id`
    #[param(inline)]
    delivery: Option<Word>,
}

/// The states of the workspace's integrations in the health topic, the newest change first. Needs the right `read`.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/health", operation_id = "listHealth", tag = "readers",
    params(InWorkspace, OfIntegration, OfWebhook, OfFailure, Between, Paging),
    responses((status = 200, body = HealthPage, description = "A page"), AnyReader, AnyRequest)
)]
pub(crate) fn health() {}

/// The workspace's integrations with their states, the worst first. Needs the right `read`.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/integrations/overview", operation_id = "overview", tag = "readers",
    params(InWorkspace, ("find" = inline(Option<Word>), Query, description = "Only those whose id, URL, state or reason holds this"), Paging),
    responses((status = 200, body = OverviewPage, description = "A page"), AnyReader, AnyRequest)
)]
pub(crate) fn overview() {}

/// The attempts of one integration, newest first. Needs the right `read`, and `body` for receivers' answers.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/integrations/instances/{id}/attempts", operation_id = "listAttemptsOfInstance", tag = "readers",
    params(InWorkspace, OfInstance,
        OfWebhook, OfFailure, OfAttempt, Between, Paging),
    responses((status = 200, body = AttemptsPage, description = "A page"), (status = 409, body = Problem, description = "There is no such instance, and nothing is logged of one"), AnyReader, AnyRequest)
)]
pub(crate) fn attempts_of_instance() {}

/// The attempts of the workspace, newest first. Needs the right `read`, and `body` for receivers' answers.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/attempts", operation_id = "listAttempts", tag = "readers",
    params(InWorkspace, OfIntegration, OfWebhook, OfFailure, OfAttempt, Between, Paging),
    responses((status = 200, body = AttemptsPage, description = "A page"), AnyReader, AnyRequest)
)]
pub(crate) fn attempts() {}

/// What became of one event: for each webhook of the workspace whether and why it matched, its attempts, where it waits, its dead
/// letter, and the account. Needs the right `read`.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/events/{event}/trace", operation_id = "traceEvent", tag = "readers",
    params(InWorkspace, ("event" = String, Path, description = "The event's id, the beginning of it if no other id begins so, a delivery's id, or its place `topic/partition/offset` with `/` written as `%2F`", min_length = 1, max_length = 1024, pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$"),
        ("next" = Option<String>, Query, description = "What the answer before gave as `next`: the attempts of the part before follow")),
    responses((status = 200, body = EventTrace, description = "The event and its account"), (status = 404, body = Problem, description = "There is no such event in this workspace"), AnyReader, AnyRequest)
)]
pub(crate) fn trace() {}

/// Dead letters without their events, newest first. Needs the right `read`.
#[utoipa::path(
    get, path = "/api/v1/{workspace}/dead-letters", operation_id = "listDeadLetters", tag = "readers",
    params(InWorkspace, OfIntegration, OfWebhook, OfDeadLetter, Between, Paging),
    responses((status = 200, body = DeadLettersPage, description = "A page"), AnyReader, AnyRequest)
)]
pub(crate) fn dead_letters() {}

/// The health of an integration.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(crate) struct InstanceHealth {
    /// `active`, `hasErrors` or `failed`.
    status: String,
    /// When it changed to that.
    since: Option<String>,
    /// Failed attempts by reason word, at the time of `since`.
    failures: Option<Object>,
    /// The HTTP status of the last answer, at the time of `since`.
    last_status: Option<u16>,
    /// When the last attempt was acknowledged, at the time of `since`.
    last_acknowledged_at: Option<String>,
    /// Where a suspension began to drop: an offset of the events topic by partition.
    first_dropped: Option<Object>,
    /// Since when a webhook of it is behind; left out where no webhook is.
    behind_since: Option<String>,
}

/// A state of the health topic.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct HealthState {
    workspace: String,
    integration_id: String,
    #[serde(flatten)]
    #[schema(inline)]
    health: InstanceHealth,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct HealthPage {
    rows: Vec<HealthState>,
    /// Always null: memory holds all states.
    searched_back_to: Option<String>,
    /// Whether these are the last.
    complete: bool,
    /// The `next` to give for more.
    next: Option<String>,
    /// Without rows: that the integration or the webhook asked for is not registered.
    hint: Option<String>,
}

/// An integration of the overview.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct IntegrationState {
    integration_id: String,
    /// Its own status if that keeps events from it, else its state in the health topic; `unusable` if its record can't be used.
    status: String,
    /// Why its record can't be used.
    problem: Option<String>,
    /// How many it has.
    web_hooks: u64,
    /// Of its first webhook, without its query.
    url: Option<String>,
    since: Option<String>,
    failures: Option<Object>,
    last_status: Option<u16>,
    last_acknowledged_at: Option<String>,
    first_dropped: Option<Object>,
    /// Since when a webhook of it is behind.
    behind_since: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct OverviewPage {
    rows: Vec<IntegrationState>,
    /// How many match.
    total: u64,
    /// Always null: memory holds all integrations.
    searched_back_to: Option<String>,
    /// Whether these are the last.
    complete: bool,
    /// The `next` to give for more.
    next: Option<String>,
}

/// A request that was made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct LoggedAttempt {
    at: String,
    workspace: String,
    integration_id: String,
    web_hook_id: Option<String>,
    delivery_id: String,
    event_id: Option<String>,
    /// The event's place.
    origin: Option<String>,
    entity_ids: Option<Object>,
    /// 1 for the first.
    attempt: u32,
    /// Without its query.
    url: Option<String>,
    /// The address that was connected to.
    address: Option<String>,
    /// `acknowledged` or `failed`.
    outcome: String,
    /// The reason word of a failure.
    reason: Option<String>,
    /// Its cause in words.
    error: Option<String>,
    /// The HTTP status.
    status: Option<u16>,
    duration_ms: u64,
    /// The receiver's answer; only for tokens with the right `body`.
    answer: Option<String>,
    next_attempt_at: Option<String>,
    worker: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AttemptsPage {
    rows: Vec<LoggedAttempt>,
    /// The time of the oldest record that the search read.
    searched_back_to: Option<String>,
    /// Whether the search read everything that the topic still holds.
    complete: bool,
    /// The `next` to give to go on.
    next: Option<String>,
    /// Without rows: that the integration or the webhook asked for is not registered.
    hint: Option<String>,
}

/// A dead letter, without its event.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeadLetterRow {
    topic: String,
    partition: i32,
    offset: i64,
    /// When it was written.
    timestamp: Option<String>,
    /// `exhausted`, `invalid-event`, `suspended` or `too-large`.
    reason: Option<String>,
    /// The reason word of the last failure.
    error: Option<String>,
    /// Its HTTP status.
    status: Option<u16>,
    workspace: Option<String>,
    integration_id: Option<String>,
    web_hook_id: Option<String>,
    delivery_id: Option<String>,
    /// Attempts made.
    attempts: Option<u32>,
    /// The event's place.
    origin: Option<String>,
    value_bytes: u64,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeadLettersPage {
    rows: Vec<DeadLetterRow>,
    /// The time of the oldest record that the search read.
    searched_back_to: Option<String>,
    /// Whether the search read everything that the topic still holds.
    complete: bool,
    /// The `next` to give to go on.
    next: Option<String>,
    /// Without rows: that the integration or the webhook asked for is not registered.
    hint: Option<String>,
}

/// An event, each webhook's part in it, and the account: matched = acknowledged + waiting + dead + dropped.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EventTrace {
    event: TracedEventRow,
    webhooks: Vec<TracedWebhookRow>,
    account: EventAccount,
    /// Whether the search read every record that could be about the event.
    complete: bool,
    /// If it did not: it read everything of this time and later.
    searched_back_to: Option<String>,
    /// If it did not: the `next` to give to go on. The answer then has the attempts of the part before.
    next: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct TracedEventRow {
    id: String,
    /// Its place.
    origin: String,
    at: Option<String>,
    workspace: String,
    /// Type, change and entity types.
    about: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct TracedWebhookRow {
    integration_id: String,
    web_hook_id: String,
    matches: bool,
    /// The filter item that matched, or of each item the field that did not.
    because: String,
    /// `acknowledged`, `waiting`, `dead` or `dropped`; null where it does not match.
    state: Option<String>,
    /// The record that shows it.
    state_because: Option<String>,
    delivery_id: Option<String>,
    /// Newest last.
    attempts: Vec<LoggedAttempt>,
    /// A retry in its tier (`topic`, `dueAt`, …), or the place of a webhook that is behind (`since`, `reason`, …).
    waiting: Option<Object>,
    dead_letter: Option<DeadLetterRow>,
}

#[derive(ToSchema)]
struct EventAccount {
    matched: u64,
    acknowledged: u64,
    waiting: u64,
    dead: u64,
    dropped: u64,
}
