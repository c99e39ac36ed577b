//! A resumption: ends the suspension of an integration.
//!
//! The request goes where the workers' counts go, to the owner of the integration's health; then the health topic is followed
//! until it says that the integration is active.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ActionError, blocking};
use crate::domain::guid;
use crate::domain::topic_names::deltas_topic;
use crate::health::records::{ResumeRequest, StateRecord};
use crate::health::resume;
use crate::health::rules::Health;
use crate::kafka::table_reader::Compacted;
use crate::readers::ReadError;
use crate::readers::integrations::{IntegrationFilter, integrations};
use crate::settings::Settings;

/// How long reading the health topic may take.
const READ_MAX: Duration = Duration::from_mins(1);
/// How long a poll waits.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// How a resumption ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It is active again.
    Resumed,
    /// It would have been resumed.
    WouldResume,
    /// It was not suspended.
    NotSuspended,
    /// The request is written, and no worker has resumed the integration yet.
    Pending,
    /// Its own status is `failed`, which keeps all events from it. A resumption does not change that.
    OwnStatusFailed,
    /// There is no such integration.
    Unknown,
}

impl Outcome {
    /// Whether a request to resume was written.
    pub(crate) fn is_asked(self) -> bool {
        matches!(self, Self::Resumed | Self::Pending)
    }

    /// The counts for the audit topic.
    pub(crate) fn counts(self) -> Value {
        json!({ "resumed": u8::from(self == Self::Resumed), "pending": u8::from(self == Self::Pending) })
    }
}

/// The result of a resumption.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resumed {
    /// `<workspace>/<integration id>`
    pub(crate) integration: String,
    pub(crate) outcome: Outcome,
    /// The integration's own status. `None` if the integration does not exist.
    pub(crate) status: Option<&'static str>,
    /// The record of the health topic before.
    pub(crate) before: Option<StateRecord>,
    /// The record of the health topic afterwards.
    pub(crate) now: Option<StateRecord>,
}

/// Resumes the integration of that key, and waits at most `patience` until a worker has done it. A preview writes no request.
///
/// # Errors
/// [`ActionError`]
pub(crate) async fn resume(
    settings: &Settings,
    key: &str,
    is_preview: bool,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Resumed, ActionError> {
    let key = guid::canonical_key(key).into_owned();
    let (settings, stop) = (settings.clone(), stop.clone());
    blocking("resuming", move || {
        let status = own_status(&settings, &key, &stop)?;
        let (outcome, before, now) =
            Asking { settings: &settings, key: &key, stop: &stop, patience }.resume(status, is_preview)?;
        Ok(Resumed { integration: key, outcome, status, before, now })
    })
    .await
}

/// The status in the integration's own record. `None` if there is no record. Blocks.
fn own_status(settings: &Settings, key: &str, stop: &CancellationToken) -> Result<Option<&'static str>, ActionError> {
    let Some((workspace, integration)) = key.split_once('/') else { return Ok(None) };
    let filter = IntegrationFilter {
        workspace: Some(workspace.to_owned()),
        integration: Some(integration.to_owned()),
        ..IntegrationFilter::default()
    };
    let listed = match integrations(settings, &filter, &|| !stop.is_cancelled()) {
        Err(ReadError::Stopped) => return Err(ActionError::Stopped),
        listed => listed?,
    };
    Ok(listed.rows.into_iter().next().map(|row| row.status.unwrap_or("unusable")))
}

struct Asking<'a> {
    settings: &'a Settings,
    key: &'a str,
    stop: &'a CancellationToken,
    patience: Duration,
}

impl Asking<'_> {
    /// Blocks.
    fn resume(
        &self,
        status: Option<&str>,
        is_preview: bool,
    ) -> Result<(Outcome, Option<StateRecord>, Option<StateRecord>), ActionError> {
        let Self { settings, key, .. } = self;
        let mut topic = Compacted::open(&settings.kafka, &settings.topics.health, "resume")?;
        let mut state = None;
        let deadline = Instant::now() + READ_MAX;
        while !topic.is_caught_up() {
            self.follow(&mut topic, &mut state)?;
            if Instant::now() >= deadline {
                return Err(ReadError::Silent { topic: settings.topics.health.clone() }.into());
            }
        }
        match status {
            None => return Ok((Outcome::Unknown, state, None)),
            Some("failed") => return Ok((Outcome::OwnStatusFailed, state, None)),
            Some(_) => {}
        }
        let Some(before) = state.clone().filter(|it| it.health() == Health::Failed) else {
            return Ok((Outcome::NotSuspended, state, None));
        };
        if is_preview {
            return Ok((Outcome::WouldResume, state, None));
        }
        let request = ResumeRequest { key: (*key).to_owned(), since_ms: Some(before.since_ms()) };
        let deltas = deltas_topic(&settings.topics.health);
        Handle::current().block_on(resume::publish(&settings.kafka, &deltas, &request))?;
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            self.follow(&mut topic, &mut state)?;
            if state.as_ref().is_some_and(|it| it.health() != Health::Failed) {
                return Ok((Outcome::Resumed, Some(before), state));
            }
        }
        Ok((Outcome::Pending, Some(before), state))
    }

    fn follow(&self, topic: &mut Compacted, state: &mut Option<StateRecord>) -> Result<(), ActionError> {
        topic.read(POLL_WAIT, |row| {
            if row.key == self.key.as_bytes() {
                *state = row.value.and_then(|value| StateRecord::parse(value).ok());
            }
        })?;
        if self.stop.is_cancelled() { Err(ActionError::Stopped) } else { Ok(()) }
    }
}
