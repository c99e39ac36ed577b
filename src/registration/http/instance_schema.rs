//! How the API describes an instance, its parts, a patch of it, and the answers that hold it.
//!
//! The types here only describe. Instances are kept in the bytes in which they came, so that nothing is lost.
#![expect(dead_code, clippy::struct_field_names, reason = "these types are never made, only described")]

use utoipa::ToSchema;

use super::readers::described;

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
