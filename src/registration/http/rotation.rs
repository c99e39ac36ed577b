//! The route that makes a new signing secret. The answer shows it once, and the former ones also sign for a time that the
//! request names. `domain::signature` reads signing secrets.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::common_schema::{AnyBody, AnyChange, AnyRequest, InWorkspace, OfInstance};
use super::instances::{Refused, asked, other_version, written};
use super::{Api, Names, answers};
use crate::clock;
use crate::domain::retry_schedule::{BadDuration, parse_duration};
use crate::domain::signature::{KEYS_MAX, fresh_secret};
use crate::registration::instance::Instance;
use crate::registration::instance_check::is_usable;
use crate::registration::json_words::{self, BadJson};
use crate::registration::patch::Conflict;
use crate::registration::registry::{Decision, Stored, Version};
use crate::registration::secrets::{rotated, signing_secrets};
use crate::telemetry::chain::chain;

/// How long the former secrets sign on unless the request says otherwise.
const KEEP_OLD_FOR: &str = "24h";
/// The longest that a request may ask for: a secret that was given away should end within a quarter.
const KEEP_MAX: Duration = Duration::from_hours(90 * 24);

/// A rotation.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RotateBody {
    /// How long the former signing secrets sign beside the new one: `0s` to `2160h`; a day unless given.
    #[schema(
        example = "24h",
        pattern = r"^([0-9]{1,9}ms|([0-9]{1,6}|[1-6][0-9]{6}|7[0-6][0-9]{5}|77[0-6][0-9]{4}|777[0-5][0-9]{3}|7776000)s|([0-9]{1,5}|1[01][0-9]{4}|12[0-8][0-9]{3}|129[0-5][0-9]{2}|129600)m|([0-9]{1,3}|1[0-9]{3}|20[0-9]{2}|21[0-5][0-9]|2160)h)$"
    )]
    keep_old_for: Option<String>,
}

/// The secret is made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rotated {
    is_successful: bool,
    #[schema(example = "ok")]
    response_code: &'static str,
    result: NewSecret,
}

/// A new signing secret.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewSecret {
    #[schema(example = "webhook.signingSecret")]
    id: &'static str,
    /// Shown here and never again.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    value: String,
    /// Until when the former secrets also sign. Null without former ones.
    #[schema(example = "2026-02-01T12:00:00Z")]
    former_until: Option<String>,
}

/// Makes a new signing secret. The former ones also sign for the time that the request names. Needs the right `write`.
#[utoipa::path(
    post,
    path = "/api/v1/{workspace}/integrations/instances/{id}/secrets/rotate",
    operation_id = "rotateSigningSecret",
    tag = "instances",
    params(
        InWorkspace,
        OfInstance,
        ("If-Match" = Option<String>, Header, description = "The version to change: an ETag, a list of them, or *")
    ),
    request_body(content = Option<RotateBody>, content_type = "application/json"),
    responses((status = 200, body = Rotated, description = "The secret is made"), AnyRequest, AnyChange, AnyBody)
)]
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(names): Extension<Names>,
    request: Request,
) -> Response<Body> {
    let (precondition, body) = match asked(&api, request, &["application/json", ""]).await {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let keep = match keep_old_for(&body) {
        Ok(keep) => keep,
        Err(bad) => return answers::bad_request(chain(&bad)),
    };
    let secret = fresh_secret(rand::random());
    let now_ms = clock::now_ms();
    let until_ms = now_ms.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
    let until = jiff::Timestamp::from_millisecond(until_ms).unwrap_or_default().to_string();
    let made = NewSecret { id: crate::domain::integration::SIGNING_SECRET, value: secret.clone(), former_until: None };
    let (id, key) = (names.id.clone(), names.key());
    let decide = move |stored: Option<&Stored>| {
        let Some(stored) = stored else { return keeping(answers::no_instance(&id)) };
        if !precondition.allows(Some(stored.version)) {
            return keeping(other_version(Some(stored.version)));
        }
        let Ok(mut instance) = Instance::parse(&stored.bytes) else {
            return keeping(answers::conflict(&Conflict::of(
                "the stored instance can't be changed, replace it as a whole",
            )));
        };
        match rotated(instance.fields.get("secrets"), &secret, &until) {
            Ok(secrets) => instance.fields.set("secrets", secrets),
            Err(what) => return keeping(answers::conflict(&Conflict::of(what))),
        }
        let (decision, decided) = written(instance, Some(stored), false);
        match decided {
            Ok((instance, _)) if !is_usable(&key, &instance) => {
                keeping(answers::conflict(&Conflict::of("with one secret more the instance could not be used")))
            }
            Ok((instance, _)) => match instance.fields.get("secrets").map_or(0, signing_secrets) {
                signing if signing > KEYS_MAX => keeping(answers::conflict(&Conflict::of(format!(
                    "with the new one {signing} signing secrets would be in force; expected at most {KEYS_MAX}: with keepOldFor 0s the \
                     former ones end now"
                )))),
                signing => (decision, Ok((signing > 1).then(|| until.clone()))),
            },
            Err(refused) => (Decision::Keep, Err(refused)),
        }
    };
    match api.registry.change(&names.workspace, &names.id, decide).await {
        Ok((Ok(former_until), version)) => answered(NewSecret { former_until, ..made }, version),
        Ok((Err(refused), _)) => *refused,
        Err(error) => answers::not_written(&error),
    }
}

fn keeping<T>(refused: Response<Body>) -> (Decision, Result<T, Refused>) {
    (Decision::Keep, Err(Box::new(refused)))
}

fn answered(made: NewSecret, version: Option<Version>) -> Response<Body> {
    answers::versioned(&Rotated { is_successful: true, response_code: "ok", result: made }, version)
}

/// A request whose time can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum BadKeep {
    #[error("expected {{\"keepOldFor\":\"24h\"}}, or no body; {0}")]
    Body(BadJson),
    #[error("expected {{\"keepOldFor\":\"24h\"}}, or no body")]
    NotAnObject,
    #[error("keepOldFor: expected 0s to {}h", KEEP_MAX.as_secs() / 3_600)]
    TooLong,
    #[error("keepOldFor")]
    Duration(#[from] BadDuration),
}

/// Reads how long the former secrets stay; without a body, or with `null`, a day.
fn keep_old_for(body: &[u8]) -> Result<Duration, BadKeep> {
    let is_object = body.trim_ascii_start().first().is_none_or(|first| *first == b'{');
    let asked = match body.trim_ascii() {
        [] | b"null" => None,
        body => {
            let asked = json_words::read::<RotateBody>(body).map_err(BadKeep::Body)?;
            if !is_object {
                return Err(BadKeep::NotAnObject);
            }
            asked.keep_old_for
        }
    };
    let keep = parse_duration(asked.as_deref().unwrap_or(KEEP_OLD_FOR))?;
    if keep > KEEP_MAX { Err(BadKeep::TooLong) } else { Ok(keep) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_former_secrets_is_a_day_unless_it_is_named() {
        let hours = Duration::from_hours;
        for (body, keep) in [
            ("", Some(hours(24))),
            ("{}", Some(hours(24))),
            (" null ", Some(hours(24))),
            (r#"{"keepOldFor":null}"#, Some(hours(24))),
            (r#"{"keepOldFor":"1h"}"#, Some(hours(1))),
            (r#"{"keepOldFor":"0s"}"#, Some(Duration::ZERO)),
            (r#"{"keepOldFor":"2160h"}"#, Some(hours(2_160))),
            (r#"{"keepOldFor":"2161h"}"#, None),
            (r#"{"keepOldFor":24}"#, None),
            (r#"{"keepOldFor":"soon"}"#, None),
            (r#"{"keepoldfor":"1h"}"#, None),
            (r#"["1h"]"#, None),
            ("x", None),
        ] {
            assert_eq!(keep_old_for(body.as_bytes()).ok(), keep, "{body}");
        }
    }

    #[test]
    fn a_time_that_cannot_be_used_is_named_with_what_is_accepted() {
        for (body, said) in [
            (r#"{"keepOldFor":"2161h"}"#, "keepOldFor: expected 0s to 2160h"),
            (r#"{"keepOldFor":24}"#, r#"expected {"keepOldFor":"24h"}, or no body; keepOldFor: expected a string"#),
            (
                r#"{"keepoldfor":"1h"}"#,
                r#"expected {"keepOldFor":"24h"}, or no body; keepoldfor: is not accepted; accepted: keepOldFor"#,
            ),
            (r#"["1h"]"#, r#"expected {"keepOldFor":"24h"}, or no body"#),
        ] {
            assert_eq!(keep_old_for(body.as_bytes()).map_err(|bad| chain(&bad)), Err(said.to_owned()), "{body}");
        }
    }
}
