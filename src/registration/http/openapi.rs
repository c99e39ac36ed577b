//! The description of all requests and answers in `OpenAPI` 3.1, generated from the handlers and the types below, and a page
//! that shows it without any other server.
//!
//! The types here only describe. Instances are kept in the bytes in which they came, so that nothing is lost.
#![expect(
    dead_code,
    clippy::large_enum_variant,
    clippy::struct_field_names,
    reason = "these types are never made, only described"
)]

use axum::body::Body;
use axum::http::Response;
use axum::http::StatusCode;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

use super::answers::{self, Problem};
use super::readers::described;
use super::{TestAnswer, actions, auth, instances, rotation};

/// The page; everything it needs is in it.
pub(super) const PAGE: &str = include_str!("docs.html");

/// The whole description.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "hookstream registration API",
        description = "Integrations register, change and inspect their webhooks. A change is answered when it is \
                       acknowledged by Kafka's in-sync replicas and every later read shows it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    paths(instances::list, instances::get, instances::patch, instances::put, instances::delete, rotation::rotate, instances::test,
        described::health, described::overview, described::attempts_of_instance, described::attempts, described::trace, described::dead_letters,
        actions::preview_redrive, actions::redrive, actions::preview_replay, actions::replay, actions::resume_one),
    components(schemas(TestAnswer)),
    security(("bearer" = []), ("accessKey" = [])),
    modifiers(&Schemes, &OptionalNotNull, &Examples)
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let key = ApiKeyValue::new(auth::ACCESS_KEY);
        components.add_security_scheme("accessKey", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
}

/// A body for each operation that takes one, by the operation's id.
pub(super) const EXAMPLES: [(&str, &str); 8] = [
    (
        "putInstance",
        r#"{"baseUrl":"https://my-integration.example/crm/v1","webHooks":[{"id":"a5aad3c1-777b-4ae5-8ca1-60b94c0423e5",
        "relativeUrl":"/callbacks","triggerType":"entityEvent",
        "filter":{"items":[{"eventType":"change","entityType":"company","changeType":"patch"},{"entityType":"contact"}]}}]}"#,
    ),
    ("patchInstance", r#"{"operations":[{"op":"replace","path":"/status","value":"active"}]}"#),
    ("rotateSigningSecret", r#"{"keepOldFor":"24h"}"#),
    ("previewRedrive", r#"{"reason":"exhausted","from":"2026-01-31T12:00:00Z"}"#),
    ("redrive", r#"{"selection":{"reason":"exhausted","fixed":{"ranges":["0/0/5","2/0/3"]}},"rate":100}"#),
    ("previewReplay", r#"{"integration":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9","from":"2026-01-31T12:00:00Z"}"#),
    (
        "replay",
        r#"{"selection":{"integration":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9","from":"2026-01-31T12:00:00Z",
        "fixed":{"ranges":["0/100/180"],"record":"2/17"}},"rate":100}"#,
    ),
    ("resume", r#"{"integration":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9"}"#),
];

/// An example of each type in answers that its fields' own examples would not show well.
pub(super) const TYPES: [(&str, &str); 5] = [
    (
        "IntegrationInstance",
        r#"{"id":"e01c765d-7c9b-491a-b5ea-d0e67eb017d9","baseUrl":"https://my-integration.example/crm/v1","status":"active",
        "secrets":[{"id":"webhook.signingSecret","value":"***"}],"webHooks":[{"id":"a5aad3c1-777b-4ae5-8ca1-60b94c0423e5",
        "relativeUrl":"/callbacks","triggerType":"entityEvent","filter":{"items":[{"entityType":"contact"}]}}],
        "updateInfo":{"createdAt":"2026-01-31T12:00:00Z","createdWith":"hookstream-api","updatedAt":"2026-01-31T12:00:00Z",
        "updatedWith":"hookstream-api"}}"#,
    ),
    ("Selection", r#"{"reason":"exhausted","from":"2026-01-31T12:00:00Z","fixed":{"ranges":["0/0/5","2/0/3"]}}"#),
    (
        "Counts",
        r#"{"matched":5,"sent":5,"tooLarge":0,"notAcknowledged":0,"skipped":{"invalid-event":3},"sentBefore":0,
        "webhooksGone":0,"integrationsPaused":0}"#,
    ),
    (
        "Progress",
        r#"{"counts":{"matched":5,"sent":5,"tooLarge":0,"notAcknowledged":0,"skipped":{"invalid-event":3},
        "sentBefore":0,"webhooksGone":0,"integrationsPaused":0},"done":true,"stoppedEarly":false}"#,
    ),
    (
        "TestAnswer",
        r#"{"acknowledged":false,"reason":"echo-missing","error":"the answer has no header X-XCOM-Integration-Echo",
        "address":"198.51.100.7:443","deliveryId":"msg_d1f0…","url":"https://my-integration.example/crm/v1/callbacks",
        "status":200,"durationMs":12,"answer":"ok"}"#,
    ),
];

struct Examples;

impl Modify for Examples {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let types = document.components.iter_mut().flat_map(|components| components.schemas.iter_mut());
        for (name, schema) in types {
            let example = TYPES.iter().find(|(of, _)| of == name).and_then(|(_, text)| serde_json::from_str(text).ok());
            if let (RefOr::T(Schema::Object(object)), Some(example)) = (schema, example) {
                object.example = Some(example);
            }
        }
        for path in document.paths.paths.values_mut() {
            for operation in [&mut path.put, &mut path.post, &mut path.patch].into_iter().flatten() {
                let id = operation.operation_id.as_deref();
                let example = EXAMPLES
                    .iter()
                    .find(|(of, _)| Some(*of) == id)
                    .and_then(|(_, text)| serde_json::from_str(text).ok());
                for content in operation.request_body.iter_mut().flat_map(|body| body.content.values_mut()) {
                    content.example.clone_from(&example);
                }
            }
        }
    }
}

/// A parameter that may be left out is not one that may be null.
struct OptionalNotNull;

impl Modify for OptionalNotNull {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for path in document.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch] {
                let parameters = operation.iter_mut().flat_map(|operation| operation.parameters.iter_mut().flatten());
                parameters.for_each(|parameter| without_null(&mut parameter.schema));
            }
        }
    }
}

fn without_null(schema: &mut Option<RefOr<Schema>>) {
    if let Some(RefOr::T(Schema::Object(object))) = schema
        && let SchemaType::Array(types) = &object.schema_type
        && let Some(only) = types.iter().find(|one| **one != Type::Null)
    {
        object.schema_type = SchemaType::Type(only.clone());
    }
}

pub(super) async fn document() -> Response<Body> {
    answers::json(StatusCode::OK, &Document::openapi())
}

/// An integration and its webhooks. Further fields are kept as they are.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct IntegrationInstance {
    /// The id in the path, if given at all.
    id: Option<String>,
    /// The beginning of webhooks' relative URLs: http or https.
    #[schema(example = "https://my-integration.ru/crm/v1")]
    base_url: Option<String>,
    status: Option<Status>,
    /// Anything.
    features: Option<utoipa::openapi::Object>,
    /// Values are shown as `***`; given as `***` they stay as they are stored.
    secrets: Option<Vec<Secret>>,
    /// Anything.
    settings: Option<Vec<serde_json::Value>>,
    web_hooks: Option<Vec<WebHook>>,
    /// Written by the service.
    update_info: Option<UpdateInfo>,
    /// Its health. Shown by GET alone; a value in a request is not stored.
    #[schema(read_only)]
    health: Option<described::InstanceHealth>,
}

/// Delivered to are `active` (also without a status) and `hasErrors`. Read without case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum Status {
    Active,
    HasErrors,
    Paused,
    NotConfigured,
    Failed,
}

/// A secret. `webhook.signingSecret` signs deliveries, `webhook.header.<Name>` is sent as the header `<Name>`.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Secret {
    #[schema(min_length = 1, example = "webhook.signingSecret")]
    id: String,
    /// The value. Needed, unless there are `values`.
    value: Option<String>,
    /// Several values in a rotation, the newest first.
    values: Option<Vec<String>>,
    /// Until when the values are in force; for good without it. Written by a rotation.
    expires_at: Option<String>,
}

/// The last change of an instance: its author and its time.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct UpdateInfo {
    created_at: Option<String>,
    created_with: Option<String>,
    updated_at: Option<String>,
    updated_with: Option<String>,
    /// When a patch last wrote the status.
    status_updated_at: Option<String>,
}

/// A subscription. Further fields are kept as they are.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct WebHook {
    /// Without one, or with the all-zero UUID, it gets a fresh one.
    #[schema(example = "a5aad3c1-777b-4ae5-8ca1-60b94c0423e5")]
    id: Option<String>,
    /// An absolute URL stands as it is; any other continues `baseUrl`.
    #[schema(example = "https://publicUrl.ru/callbacks")]
    relative_url: String,
    trigger_type: TriggerType,
    /// Needed, with at least one item, for `entityEvent`.
    filter: Option<Filter>,
    /// Needed, with a period, for `schedule`.
    schedule: Option<Schedule>,
    disabled: Option<bool>,
}

/// The kind of trigger of a webhook. Read without case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum TriggerType {
    EntityEvent,
    Schedule,
}

/// Matches an event when any item does.
#[derive(ToSchema)]
struct Filter {
    items: Option<Vec<FilterItem>>,
}

/// Matches an event when every field it has does; `{}` matches every event. Words are read without case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct FilterItem {
    event_type: Option<EventType>,
    #[schema(min_length = 1, example = "company")]
    entity_type: Option<String>,
    change_type: Option<ChangeType>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum EventType {
    Change,
    Link,
    Unlink,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum ChangeType {
    Create,
    Patch,
    Delete,
    Restore,
}

/// When a scheduled webhook fires.
#[derive(ToSchema)]
struct Schedule {
    /// `[d.]hh:mm:ss`, at least `00:00:10`.
    #[schema(pattern = r"^(\d{1,5}\.)?([01]\d|2[0-3]):[0-5]\d:[0-5]\d$", example = "00:05:00")]
    period: Option<String>,
}

/// A change: its operations are applied in order, all of them or none.
#[derive(ToSchema)]
pub(super) struct PatchBody {
    #[schema(max_items = 2000)]
    operations: Vec<Operation>,
}

/// One operation.
#[derive(ToSchema)]
struct Operation {
    op: Op,
    /// A JSON pointer: `/webHooks` (add appends one), `/webHooks/{id or index}`, `/webHooks/{id or index}/{field}`,
    /// `/IntegrationInstance` (add appends a webhook), `/baseUrl`, `/status`, `/features`, `/settings`, `/secrets`.
    #[schema(example = "/IntegrationInstance")]
    path: String,
    /// Needed except for `remove`.
    #[schema(required = false)]
    value: serde_json::Value,
}

/// Read without case.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
enum Op {
    Add,
    Replace,
    Remove,
    Test,
}

/// The change is made.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Success {
    is_successful: bool,
    #[schema(example = "ok")]
    response_code: String,
    result: IntegrationInstance,
    /// Effects of the change that the caller may not have meant, such as an address that workers refuse. Left out without such effects.
    warnings: Option<Vec<String>>,
}

/// The instance is gone.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Deleted {
    is_successful: bool,
    #[schema(example = "ok")]
    response_code: String,
    /// Always null.
    result: Option<String>,
}

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

/// A page of instances in the order of their ids.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct InstancesPage {
    items: Vec<IntegrationInstance>,
    /// Whether there are more.
    has_more: bool,
    /// The `after` to give for the next page.
    next: Option<String>,
}

/// The workspace of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only described")]
pub(super) struct InWorkspace {
    /// The workspace
    #[param(min_length = 1, max_length = 200, pattern = r"^[^\s/\u0000-\u001f\u007f-\u009f]+$")]
    workspace: String,
}

/// The integration of a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only described")]
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
