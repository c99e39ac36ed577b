//! The description of all requests and answers in `OpenAPI` 3.1, generated from the handlers and the schema types, and a page
//! that shows it without any other server.

use axum::body::Body;
use axum::http::Response;
use axum::http::StatusCode;
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::answers;
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

/// What GET of an instance adds to the example of one.
const HEALTH: &str = r#"{"status":"hasErrors","since":"2026-01-31T12:00:00Z","failures":{"timeout":12},"lastStatus":503,
    "lastAcknowledgedAt":"2026-01-31T11:48:00Z","behindSince":"2026-01-31T11:50:00Z"}"#;

/// The example of the answer of GET of an instance.
fn with_health() -> Option<Value> {
    let (_, instance) = TYPES.iter().find(|(name, _)| *name == "IntegrationInstance")?;
    let mut instance: Value = serde_json::from_str(instance).ok()?;
    instance.as_object_mut()?.insert("health".to_owned(), serde_json::from_str(HEALTH).ok()?);
    Some(instance)
}

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
        let gets = document.paths.paths.values_mut().filter_map(|path| path.get.as_mut());
        for get in gets.filter(|get| get.operation_id.as_deref() == Some("getInstance")) {
            if let Some(RefOr::T(found)) = get.responses.responses.get_mut("200") {
                found.content.values_mut().for_each(|content| content.example = with_health());
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
