//! The exact shape of every answer. Nothing is decided here.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::rights::{Right, Rights};
use crate::registration::instance::Instance;
use crate::registration::json_words;
use crate::registration::patch::Conflict;
use crate::registration::registry::{Version, WriteError};

/// A short answer that says what went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// One word for programs.
    #[schema(example = "notFound")]
    pub(crate) status: &'static str,
    /// What is wrong and what is accepted, for people.
    pub(crate) message: String,
}

/// A change that was made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Success<'a> {
    is_successful: bool,
    response_code: &'static str,
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

/// A change that can't be made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    is_successful: bool,
    response_code: &'static str,
    error_info: ErrorInfo<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorInfo<'a> {
    invalid_paths: &'a [Box<RawValue>],
    invalid_value_types: &'a [Box<RawValue>],
    invalid_datas: &'a [Box<RawValue>],
    invalid_constraints: Nothing,
    status: &'static str,
    message: &'a str,
}

/// `{}`: part of the shape, never filled.
#[derive(Serialize)]
struct Nothing {}

/// The answer's body as JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_bytes(status, bytes),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            with_bytes(StatusCode::INTERNAL_SERVER_ERROR, br#"{"status":"internal","message":"see the log"}"#.to_vec())
        }
    }
}

fn with_bytes(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Instances are a tenant's own.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn problem(status: StatusCode, word: &'static str, message: impl Into<String>) -> Response<Body> {
    json(status, &Problem { status: word, message: message.into() })
}

fn with_header(mut response: Response<Body>, name: HeaderName, value: HeaderValue) -> Response<Body> {
    response.headers_mut().insert(name, value);
    response
}

/// The tag of a version.
pub(crate) fn etag(version: Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits, a dash and quotes are a header's value")
}

/// The instance, its secrets masked, as raw JSON.
pub(crate) fn masked(instance: &Instance) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&instance.masked_bytes()).into_owned();
    RawValue::from_string(text).expect("an instance is written as JSON")
}

/// 200: the change is made. `warnings`: what the caller may not have meant.
pub(crate) fn done(result: Option<&Instance>, warnings: &[String], version: Option<Version>) -> Response<Body> {
    let result = result.map(masked);
    versioned(&Success { is_successful: true, response_code: "ok", result: result.as_deref(), warnings }, version)
}

/// 200: what a change made, and the version it is at.
pub(crate) fn versioned<T: Serialize>(made: &T, version: Option<Version>) -> Response<Body> {
    let response = json(StatusCode::OK, made);
    match version {
        Some(version) => with_header(response, ETAG, etag(version)),
        None => response,
    }
}

/// 200: an instance as it is stored, and its health. The version is the record's: health is not part of it.
pub(crate) fn instance(instance: &Instance, health: &Value, version: Version) -> Response<Body> {
    let mut shown = instance.masked();
    if let Ok(health) = serde_json::value::to_raw_value(health) {
        shown.fields.set(HEALTH, health);
    }
    let text = String::from_utf8_lossy(&shown.to_bytes()).into_owned();
    let raw = RawValue::from_string(text).expect("an instance is written as JSON");
    with_header(json(StatusCode::OK, &raw), ETAG, etag(version))
}

/// The field of an instance in which its health is shown. It is never stored.
pub(crate) const HEALTH: &str = "health";

/// 304
pub(crate) fn not_modified(version: Version) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    with_header(response, ETAG, etag(version))
}

/// 409: the change can't be made.
pub(crate) fn conflict(conflict: &Conflict) -> Response<Body> {
    let error_info = ErrorInfo {
        invalid_paths: &conflict.invalid_paths,
        invalid_value_types: &conflict.invalid_value_types,
        invalid_datas: &conflict.invalid_datas,
        invalid_constraints: Nothing {},
        status: "invalidArgs",
        message: &conflict.message,
    };
    json(StatusCode::CONFLICT, &Refusal { is_successful: false, response_code: "conflict", error_info })
}

/// 409: no such instance.
pub(crate) fn no_instance(id: &str) -> Response<Body> {
    problem(StatusCode::CONFLICT, "notFound", format!("IntegrationInstance {id} not found"))
}

/// 409: no such webhook.
pub(crate) fn no_webhook(id: &str) -> Response<Body> {
    problem(StatusCode::CONFLICT, "notFound", format!("WebHook {id} not found"))
}

/// 409: an action that can't be done.
pub(crate) fn refused(message: impl Into<String>) -> Response<Body> {
    problem(StatusCode::CONFLICT, "refused", message)
}

/// 400
pub(crate) fn bad_request(message: impl Into<String>) -> Response<Body> {
    problem(StatusCode::BAD_REQUEST, "badRequest", message)
}

/// 400: a query that can't be read, without the words of the library that reads it.
pub(crate) fn bad_query(rejection: &QueryRejection) -> Response<Body> {
    let text = rejection.body_text();
    let said = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    bad_request(json_words::of_query(said))
}

/// 401
pub(crate) fn unauthorized() -> Response<Body> {
    let message = "a known token is needed: Authorization: Bearer …, or X-XCOM-AccessKey: …";
    let response = problem(StatusCode::UNAUTHORIZED, "unauthorized", message);
    with_header(response, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// 403
pub(crate) fn forbidden(workspace: &str, has: Rights, needed: Right) -> Response<Body> {
    let message = if has.is_empty() {
        format!("the token is not for the workspace {workspace}")
    } else {
        format!("the token does not have the right `{}` in the workspace {workspace}; it has {has}", needed.word())
    };
    problem(StatusCode::FORBIDDEN, "forbidden", message)
}

/// 404: not an instance, a route.
pub(crate) fn no_route(path: &str) -> Response<Body> {
    let path: String = path.chars().take(200).collect();
    problem(StatusCode::NOT_FOUND, "noSuchRoute", format!("{path} is not a route; see /api/v1/docs"))
}

/// 404: the route exists, but not the thing that it names.
pub(crate) fn missing(message: impl Into<String>) -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "notFound", message)
}

/// 429
pub(crate) fn busy(message: impl Into<String>) -> Response<Body> {
    let response = problem(StatusCode::TOO_MANY_REQUESTS, "busy", message);
    with_header(response, RETRY_AFTER, HeaderValue::from_static("2"))
}

/// 405
pub(crate) fn no_method(method: &str, allowed: &'static str) -> Response<Body> {
    let message = format!("{method} is not accepted here; accepted: {allowed}");
    let response = problem(StatusCode::METHOD_NOT_ALLOWED, "methodNotAllowed", message);
    with_header(response, ALLOW, HeaderValue::from_static(allowed))
}

/// 408
pub(crate) fn too_slow() -> Response<Body> {
    problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the request's body did not come in time")
}

/// 412
pub(crate) fn precondition_failed(message: impl Into<String>) -> Response<Body> {
    problem(StatusCode::PRECONDITION_FAILED, "preconditionFailed", message)
}

/// 413
pub(crate) fn too_large(message: impl Into<String>) -> Response<Body> {
    problem(StatusCode::PAYLOAD_TOO_LARGE, "tooLarge", message)
}

/// 415
pub(crate) fn unsupported(accepted: &str) -> Response<Body> {
    problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupportedMediaType", format!("content type {accepted} is accepted"))
}

/// 503
pub(crate) fn unavailable(message: impl Into<String>) -> Response<Body> {
    let response = problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    with_header(response, RETRY_AFTER, HeaderValue::from_static("1"))
}

/// The answer to a failed write.
pub(crate) fn not_written(error: &WriteError) -> Response<Body> {
    match error {
        WriteError::TooLarge => too_large(error.to_string()),
        WriteError::Full
        | WriteError::Changed
        | WriteError::NotWritten(_)
        | WriteError::Unknown
        | WriteError::Unanswered
        | WriteError::Closed => unavailable(error.to_string()),
    }
}
