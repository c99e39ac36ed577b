//! The routes of integration instances. They read requests; `registration::patch` decides, the registry writes and `answers`
//! answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use rand::RngCore;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::common_schema::{AnyBody, AnyChange, AnyRequest, Conflicting, InWorkspace, OfInstance};
use super::instance_schema::{Deleted, InstancesPage, IntegrationInstance, PatchBody, Success};
use super::precondition::Precondition;
use super::readers::page_limit;
use super::warnings::warnings;
use super::{Api, Caller, Names, TestAnswer, TestRequest, answers};
use crate::clock;
use crate::domain::guid;
use crate::registration::instance::{BadInstance, Instance, Stamp};
use crate::registration::patch::{Conflict, Patch, replacement, too_many_webhooks};
use crate::registration::registry::{Decision, Stored, Version};
use crate::telemetry::chain::chain;

/// The contract's bound on a body.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// How many bytes of a body are read, those that are discarded included.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Items on a page unless `limit` says otherwise.
const PAGE_ITEMS: usize = 100;
/// The most that `limit` may say.
const PAGE_ITEMS_MAX: usize = 1000;
/// The service's name in `updateInfo`.
const WRITTEN_WITH: &str = "hookstream-api";

/// An answer that ends a request early. Boxed: it is large and rare.
pub(super) type Refused = Box<Response<Body>>;

/// A decision's part of the answer.
type Decided = Result<(Instance, Option<Version>), Refused>;

/// Shows an instance. Needs the right `read`.
#[utoipa::path(
    get,
    path = "/api/v1/{workspace}/integrations/instances/{id}",
    operation_id = "getInstance",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("If-None-Match" = Option<String>, Header, description = "Versions that are known already")
    ),
    responses((status = 200, body = IntegrationInstance, description = "The instance, secret values masked", headers(("ETag" = String, description = "Its version"))), (status = 304, description = "The version is known"), (status = 409, body = Conflicting, description = "There is no such instance"), AnyRequest)
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(stored) = api.registry.view().get(&names.workspace, &names.id) else {
        return answers::no_instance(&names.id);
    };
    // A reader whose header can't be read is shown what is there.
    if Precondition::of(&headers).is_ok_and(|precondition| precondition.is_known(Some(stored.version))) {
        return answers::not_modified(stored.version);
    }
    let reader = Arc::clone(&api);
    let shown = beside(&api, move || match Instance::parse(&stored.bytes) {
        Ok(instance) => {
            let health = reader.readers.source().health(&names.workspace, &names.id);
            answers::instance(&instance, &health, stored.version)
        }
        Err(error) => answers::conflict(&Conflict::of(format!("the stored record is not an instance: {error}"))),
    });
    shown.await.unwrap_or_else(|refused| *refused)
}

/// `limit` and `after`, as they came.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    limit: Option<String>,
    after: Option<String>,
}

/// A page of instances.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Box<RawValue>>,
    has_more: bool,
    next: Option<String>,
}

/// Lists the instances of a workspace. Needs the right `read`.
#[utoipa::path(
    get,
    path = "/api/v1/{workspace}/integrations/instances",
    operation_id = "listInstances",
    tag = "instances",
    params(
        InWorkspace,
        ("limit" = Option<i64>, Query, description = "Instances on a page; 100 unless given, and never more than 1000", minimum = 1),
        ("after" = Option<String>, Query, description = "The id behind which the page begins")
    ),
    responses((status = 200, body = InstancesPage, description = "A page"), AnyRequest)
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Response<Body> {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return answers::bad_query(&error),
    };
    let Some(limit) = page_limit(query.limit.as_deref(), PAGE_ITEMS, PAGE_ITEMS_MAX) else {
        let found: String = query.limit.unwrap_or_default().chars().take(32).collect();
        return answers::bad_request(format!("limit {found:?}: expected a number from 1 on"));
    };
    let page = api.registry.view().page(&names.workspace, query.after.as_deref(), limit);
    let next = page.items.last().filter(|_| page.has_more).map(|(id, _)| id.clone());
    let shown = beside(&api, move || {
        let items = page.items.iter().map(|(id, stored)| shown(id, stored)).collect();
        answers::json(StatusCode::OK, &Page { items, has_more: page.has_more, next })
    });
    shown.await.unwrap_or_else(|refused| *refused)
}

/// An instance for a page. A record that is not an instance is shown as invalid, not left out.
fn shown(id: &str, stored: &Stored) -> Box<RawValue> {
    Instance::parse(&stored.bytes).map_or_else(
        |error| {
            let mut unusable = Instance::default();
            unusable.fields.set_text("id", id);
            unusable.fields.set_text("unusable", &error.to_string());
            answers::masked(&unusable)
        },
        |instance| answers::masked(&instance),
    )
}

/// Changes an instance: all operations or none. Needs the right `write`.
#[utoipa::path(
    patch,
    path = "/api/v1/{workspace}/integrations/instances/{id}",
    operation_id = "patchInstance",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("If-Match" = Option<String>, Header, description = "The version to change: an ETag, a list of them, or *")
    ),
    request_body(content = PatchBody, content_type = "application/json-patch+json"),
    responses((status = 200, body = Success, description = "The change is made", headers(("ETag" = String, description = "Its version"))), AnyRequest, AnyChange, AnyBody)
)]
pub(super) async fn patch(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    request: Request,
) -> Response<Body> {
    let (precondition, body) = match asked(&api, request, &["application/json-patch+json"]).await {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let patch = match beside(&api, move || Patch::parse(&body)).await {
        Ok(Ok(patch)) => patch,
        Ok(Err(error)) => return answers::bad_request(error.to_string()),
        Err(refused) => return *refused,
    };
    let Names { id, .. } = names.clone();
    let key = names.key();
    changed(&api, &names, move |stored| {
        let Some(stored) = stored else { return (Decision::Keep, Err(Box::new(answers::no_instance(&id)))) };
        if !precondition.allows(Some(stored.version)) {
            return (Decision::Keep, Err(Box::new(other_version(Some(stored.version)))));
        }
        match patch.apply(&key, &stored.bytes, &mut fresh_id) {
            Err(conflict) => (Decision::Keep, Err(Box::new(answers::conflict(&conflict)))),
            // The patch only had tests, which passed: nothing to write.
            Ok(patched) if !patched.is_written => (Decision::Keep, Ok((patched.instance, Some(stored.version)))),
            Ok(patched) => written(patched.instance, Some(stored), patched.status_written),
        }
    })
    .await
}

/// Creates an instance, or replaces it as a whole. Needs the right `write`.
#[utoipa::path(
    put,
    path = "/api/v1/{workspace}/integrations/instances/{id}",
    operation_id = "putInstance",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("If-Match" = Option<String>, Header, description = "The version to change: an ETag, a list of them, or *"),
        ("If-None-Match" = Option<String>, Header, description = "Versions that are known already")
    ),
    request_body(content = IntegrationInstance, content_type = "application/json"),
    responses((status = 200, body = Success, description = "The instance is stored", headers(("ETag" = String, description = "Its version"))), AnyRequest, AnyChange, AnyBody)
)]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    request: Request,
) -> Response<Body> {
    // Where the request leaves it out, it is the only value that is accepted.
    let (precondition, body) = match asked(&api, request, &["application/json", ""]).await {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let mut instance = match beside(&api, move || Instance::parse(&body)).await {
        Ok(Ok(instance)) => instance,
        Ok(Err(error @ BadInstance::NotAnObject(_))) => return answers::bad_request(error.to_string()),
        Ok(Err(error)) => return answers::conflict(&Conflict::of(error.to_string())),
        Err(refused) => return *refused,
    };
    if let Some(conflict) = too_many_webhooks(&instance) {
        return answers::conflict(&conflict);
    }
    // A reader's copy, written back: what the service shows besides the record is not stored.
    instance.fields.remove(answers::HEALTH);
    if instance.fields.get("id").is_none() {
        instance.fields.set_text("id", &names.id);
    }
    let key = names.key();
    changed(&api, &names, move |stored| {
        let version = stored.map(|stored| stored.version);
        if !precondition.allows(version) {
            return (Decision::Keep, Err(Box::new(other_version(version))));
        }
        match replacement(&key, instance.clone(), stored.map(|stored| &*stored.bytes), &mut fresh_id) {
            Err(conflict) => (Decision::Keep, Err(Box::new(answers::conflict(&conflict)))),
            Ok(instance) => written(instance, stored, false),
        }
    })
    .await
}

/// Removes an instance. Needs the right `write`.
#[utoipa::path(
    delete,
    path = "/api/v1/{workspace}/integrations/instances/{id}",
    operation_id = "deleteInstance",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("If-Match" = Option<String>, Header, description = "The version to change: an ETag, a list of them, or *")
    ),
    responses((status = 200, body = Deleted, description = "The instance is gone"), AnyRequest, AnyChange)
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    headers: HeaderMap,
) -> Response<Body> {
    let precondition = match precondition(&headers) {
        Ok(precondition) => precondition,
        Err(refused) => return *refused,
    };
    let Names { id, .. } = names.clone();
    let decide = move |stored: Option<&Stored>| match stored.map(|stored| stored.version) {
        None => (Decision::Keep, Err(Box::new(answers::no_instance(&id)))),
        Some(version) if !precondition.allows(Some(version)) => {
            (Decision::Keep, Err(Box::new(other_version(Some(version)))))
        }
        Some(_) => (Decision::Delete, Ok(())),
    };
    match api.registry.change(&names.workspace, &names.id, decide).await {
        Ok((Ok(()), _)) => answers::done(None, &[], None),
        Ok((Err(refused), _)) => *refused,
        Err(error) => answers::not_written(&error),
    }
}

/// Sends one signed test delivery to a webhook now, whatever its state, and says what the receiver answered. Needs the right
/// `operate`.
#[utoipa::path(
    post,
    path = "/api/v1/{workspace}/integrations/instances/{id}/webhooks/{webhook}/test",
    operation_id = "testWebhook",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("webhook" = String, Path, description = "The webhook's id", min_length = 1, max_length = 200, pattern = r"^[^\s/\u0000-\u001f\u007f-\u009f]+$")
    ),
    responses((status = 200, body = TestAnswer, description = "The receiver's answer"), (status = 409, body = Conflicting, description = "There is no such instance or webhook, or nothing can be sent to it"), (status = 429, body = answers::Problem, description = "Too many test deliveries are under way"), AnyRequest)
)]
pub(super) async fn test(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    let Some(stored) = api.registry.view().get(&names.workspace, &names.id) else {
        return answers::no_instance(&names.id);
    };
    let record = stored.bytes.clone();
    let instance = match beside(&api, move || Instance::parse(&record)).await {
        Ok(Ok(instance)) => instance,
        Ok(Err(_)) => return answers::conflict(&Conflict::of("the stored record is not an instance")),
        Err(refused) => return *refused,
    };
    let webhook = names.webhook.clone().unwrap_or_default();
    let is_it = |known: &str| guid::canonical(known) == guid::canonical(&webhook);
    if !instance.webhooks.iter().any(|known| known.text("id").is_some_and(|known| is_it(&known))) {
        return answers::no_webhook(&webhook);
    }
    let (who, rights) = (caller.name, caller.rights.to_string());
    tracing::info!(who, rights, key = names.key(), webhook, "a test delivery was asked for");
    // Each holds a connection to somewhere for as long as it takes.
    let _place = match api.tests.try_take(&names.workspace) {
        Ok(place) => place,
        Err(none) => return answers::busy(none.to_string()),
    };
    let request = TestRequest { key: names.key(), record: stored.bytes.clone(), webhook };
    match (api.test_delivery)(request).await {
        Ok(answer) => {
            api.actions.tested(&who, &names, answer.acknowledged).await;
            answers::json(StatusCode::OK, &answer)
        }
        Err(error) => answers::conflict(&Conflict::of(chain(&error))),
    }
}

/// Does what may take long with a document, on a thread where no other request waits for it. At most [`super::DOCUMENTS_MAX`] at once.
///
/// # Errors
/// The answer, if the work could not be done.
pub(super) async fn beside<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let failed = || Box::new(answers::unavailable("the document could not be read"));
    let permit = Arc::clone(&api.documents).acquire_owned().await.map_err(|_closed| failed())?;
    let working = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    working.await.map_err(|error| {
        tracing::error!(%error, "the work on a document failed");
        failed()
    })
}

/// Makes the change and answers it.
async fn changed(
    api: &Arc<Api>,
    names: &Names,
    decide: impl FnMut(Option<&Stored>) -> (Decision, Decided) + Send + 'static,
) -> Response<Body> {
    match api.registry.change(&names.workspace, &names.id, decide).await {
        Ok((Ok((instance, kept)), version)) => {
            let answering = Arc::clone(api);
            let done = beside(api, move || {
                answers::done(Some(&instance), &warnings(&instance, &answering.addresses), version.or(kept))
            });
            done.await.unwrap_or_else(|refused| *refused)
        }
        Ok((Err(refused), _)) => *refused,
        Err(error) => answers::not_written(&error),
    }
}

/// Stamps the instance and asks for it to be written.
pub(super) fn written(mut instance: Instance, stored: Option<&Stored>, status_written: bool) -> (Decision, Decided) {
    let before = stored.and_then(|stored| Instance::parse(&stored.bytes).ok());
    let now_ms = clock::now_ms();
    let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default().to_string();
    instance.drop_expired_secrets(now_ms);
    instance.stamp(before.as_ref(), &Stamp { now: &now, with: WRITTEN_WITH, status_written });
    (Decision::Put(instance.to_bytes()), Ok((instance, None)))
}

pub(super) fn other_version(stored: Option<Version>) -> Response<Body> {
    let found =
        stored.map_or_else(|| "there is no such instance".to_owned(), |version| format!("it is at \"{version}\""));
    answers::precondition_failed(format!("the instance is not at the version asked for: {found}"))
}

/// The version that a request is about.
fn precondition(headers: &HeaderMap) -> Result<Precondition, Refused> {
    Precondition::of(headers).map_err(|name| {
        let what = "expected *, or a list of ETags in quotes as they were answered";
        Box::new(answers::bad_request(format!("{name}: {what}")))
    })
}

/// Checks the headers of a request about its body and version, and reads the body. The first content type is the preferred one.
pub(super) async fn asked(
    api: &Api,
    request: Request,
    content_types: &[&str],
) -> Result<(Precondition, Bytes), Refused> {
    let (parts, body) = request.into_parts();
    let sent = parts.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?")).unwrap_or_default();
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if !content_types.iter().any(|accepted| media_type.eq_ignore_ascii_case(accepted)) {
        return Err(Box::new(answers::unsupported(content_types.first().unwrap_or(&""))));
    }
    let precondition = precondition(&parts.headers)?;
    let too_large = || Box::new(answers::too_large(format!("the body is larger than {BODY_BYTES_MAX} bytes")));
    let announced = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
        // A client that waits to be asked for it sends nothing.
        if !parts.headers.contains_key(EXPECT) {
            api.discarded.spawn(tokio::time::timeout(BODY_TIMEOUT, whole(body)));
        }
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, whole(body)).await {
        Err(_elapsed) => Err(Box::new(answers::too_slow())),
        Ok(Err(error)) => Err(Box::new(answers::bad_request(format!("the body could not be read: {error}")))),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Ok(Some(body))) => Ok((precondition, body)),
    }
}

/// Reads a body; `None` if it is too large. The rest of it is then read up to a bound and discarded: many clients look for
/// an answer only when all is sent, and lose it when the connection is closed while they send.
async fn whole(mut body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut read = 0;
    let mut kept = BytesMut::new();
    while read <= DISCARDED_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame?.into_data() else { continue };
        read += data.len();
        if read <= BODY_BYTES_MAX {
            kept.extend_from_slice(&data);
        } else {
            kept = BytesMut::new();
        }
    }
    Ok((read <= BODY_BYTES_MAX).then(|| kept.freeze()))
}

/// A random GUID.
fn fresh_id() -> String {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    guid::random(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body of `pieces` pieces of 1 KiB, and a count of those that were asked for.
    fn body(pieces: usize) -> (Body, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let pieces = (0..pieces).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b'x'; 1024])
        });
        (Body::from_stream(futures_util::stream::iter(pieces)), asked)
    }

    #[tokio::test]
    async fn the_rest_of_a_body_that_is_too_large_is_read_to_a_bound_and_discarded() {
        for (pieces, kept, read) in [(1024, Some(1 << 20), 1024), (1025, None, 1025), (5_000, None, 5_000)] {
            let (body, asked) = body(pieces);
            assert_eq!(whole(body).await.unwrap().map(|body| body.len()), kept, "{pieces}");
            assert_eq!(asked.load(Ordering::Relaxed), read, "{pieces}");
        }
        let (body, asked) = body(1_000_000);
        assert_eq!(whole(body).await.unwrap(), None);
        assert_eq!(asked.load(Ordering::Relaxed), DISCARDED_BYTES_MAX / 1024 + 1);
    }
}
