//! What the descriptions of several operations share: the parameters of a path, and the answers to requests that are refused. The types
//! here only describe.
#![expect(dead_code, clippy::large_enum_variant, reason = "these types are never made, only described")]

use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::Problem;

/// The change can't be made, or there is no such instance.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum Conflicting {
    /// The change can't be made; nothing was.
    Refused(Refused),
    /// There is no such instance or webhook.
    Missing(Problem),
}

/// The change can't be made; nothing was.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Refused {
    is_successful: bool,
    #[schema(example = "conflict")]
    response_code: String,
    error_info: ErrorInfo,
}

/// The operations at fault, as they were sent (texts of secrets masked).
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct ErrorInfo {
    /// Their path leads nowhere.
    invalid_paths: Vec<serde_json::Value>,
    /// Their value has another JSON type than the place takes.
    invalid_value_types: Vec<serde_json::Value>,
    /// Their value can't be, or a test failed.
    invalid_datas: Vec<serde_json::Value>,
    /// Always empty.
    invalid_constraints: utoipa::openapi::Object,
    #[schema(example = "invalidArgs")]
    status: String,
    /// Path, value and what is accepted, for each fault.
    message: String,
}

/// The workspace of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct InWorkspace {
    /// The workspace
    #[param(min_length = 1, max_length = 200, pattern = r"^[^\s/\u0000-\u001f\u007f-\u009f]+$")]
    workspace: String,
}

/// The integration of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfInstance {
    /// The integration's id
    #[param(min_length = 1, max_length = 200, pattern = r"^[^\s/\u0000-\u001f\u007f-\u009f]+$")]
    id: String,
}

/// Answers that any request may get.
#[derive(IntoResponses)]
pub(super) enum AnyRequest {
    /// A name in the path, a parameter, a header or the body can't be read.
    #[response(status = 400)]
    BadRequest(#[to_schema] Problem),
    /// No token, or an unknown one.
    #[response(status = 401)]
    Unauthorized(#[to_schema] Problem),
    /// The token is not for this workspace.
    #[response(status = 403)]
    Forbidden(#[to_schema] Problem),
    /// Not possible now; the message says whether anything may have been written.
    #[response(status = 503)]
    Unavailable(#[to_schema] Problem),
}

/// Further answers that any change may get.
#[derive(IntoResponses)]
pub(super) enum AnyChange {
    /// The change can't be made, or there is no such instance.
    #[response(status = 409)]
    Conflict(#[to_schema] Conflicting),
    /// The instance is at another version than `If-Match` asks for.
    #[response(status = 412)]
    PreconditionFailed(#[to_schema] Problem),
}

/// Further answers that any request with a body may get.
#[derive(IntoResponses)]
pub(super) enum AnyBody {
    /// The body did not come in time.
    #[response(status = 408)]
    TooSlow(#[to_schema] Problem),
    /// The body is over 1 MiB, or the record over what the topic takes.
    #[response(status = 413)]
    TooLarge(#[to_schema] Problem),
    /// Another content type than accepted.
    #[response(status = 415)]
    Unsupported(#[to_schema] Problem),
}

/// What was counted.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Counts {
    /// Records that are selected and can be sent.
    matched: u64,
    /// Records that Kafka's in-sync replicas have.
    sent: u64,
    too_large: u64,
    not_acknowledged: u64,
    /// Selected records that can't be sent, by reason.
    #[schema(value_type = Object)]
    skipped: serde_json::Value,
    /// Of those that match, how many were sent back before.
    sent_before: u64,
    /// Of those that match, how many are for webhooks that are not registered any more.
    webhooks_gone: u64,
    /// Of those that match, how many are for integrations that get nothing by their own status, such as `paused`.
    integrations_paused: u64,
}
