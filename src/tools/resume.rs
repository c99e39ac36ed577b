//! `resume`: ends the suspension of an integration.
//!
//! The request goes where the workers' counts go, to the owner of the integration's health; then the health topic is followed
//! until it says that the integration is active.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ToolError, lookup};
use crate::domain::guid;
use crate::health::records::{ResumeRequest, StateRecord};
use crate::health::resume::{self, ResumeRequestError};
use crate::health::rules::Health;
use crate::kafka::table_reader::{Compacted, CompactedError};
use crate::readers::ReadError;
use crate::readers::integrations::{IntegrationFilter, integrations};
use crate::settings::{Resume, Settings};
use crate::topics::names::deltas_topic;

/// How long reading the health topic may take.
const READ_MAX: Duration = Duration::from_mins(1);
/// How long the owner may take: a failover, and its turn.
const GRANT_MAX: Duration = Duration::from_mins(1);
/// How long a poll waits.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// Why the integration could not be resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    /// The health topic can't be read.
    #[error(transparent)]
    Read(#[from] CompactedError),
    /// The integrations can't be read.
    #[error(transparent)]
    Integrations(#[from] ReadError),
    /// Which integration is meant is not known.
    #[error(transparent)]
    Name(#[from] Box<ToolError>),
    /// It takes too long.
    #[error("the health topic could not be read to its end within {} s", READ_MAX.as_secs())]
    Late,
    /// The request could not be written.
    #[error(transparent)]
    ResumeRequest(#[from] ResumeRequestError),
    /// Somebody wanted it to end.
    #[error("interrupted; a request that was written stands")]
    Stopped,
    /// The work was lost.
    #[error("the work ended without being asked to")]
    Ended(#[from] tokio::task::JoinError),
    /// Nobody reads what is printed.
    #[error("the result could not be printed")]
    Print(#[from] io::Error),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// It is active again.
    Resumed,
    /// It would have been resumed.
    WouldResume,
    /// It was not suspended.
    NotSuspended,
    /// The request stands, and no worker has granted it yet.
    Pending,
    /// Its own status keeps everything from it, whatever its health is.
    OwnStatusFailed,
    /// There is no such integration.
    Unknown,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    integration: &'a str,
    outcome: Outcome,
    /// The integration's own status; none where there is no such integration.
    status: Option<&'static str>,
    /// What the health topic said before, and says now.
    before: Option<&'a StateRecord>,
    now: Option<&'a StateRecord>,
}

/// Resumes the selected integration and prints what came of it. Ends with 0 when it is (or would be) not suspended, with 1 when
/// no worker has granted the request in time, when its own status is `failed`, or when it is unknown.
///
/// # Errors
/// [`ResumeError`]
pub(crate) async fn run(
    settings: &Settings,
    options: &Resume,
    stop: CancellationToken,
    out: &mut impl Write,
) -> Result<ExitCode, ResumeError> {
    let name = lookup::whole_name(settings, &options.integration).await.map_err(Box::new)?;
    let key = guid::canonical_key(&name.key()).into_owned();
    let (settings, dry_run, wanted) = (settings.clone(), options.dry_run, key.clone());
    let (status, (outcome, before, now)) = tokio::task::spawn_blocking(move || {
        let status = own_status(&settings, &wanted, &stop)?;
        let resumed = resume(&settings, &wanted, status, dry_run, &stop)?;
        Ok::<_, ResumeError>((status, resumed))
    })
    .await??;
    if options.json {
        let report = Report { integration: &key, outcome, status, before: before.as_ref(), now: now.as_ref() };
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(out, &key, status, outcome, before.as_ref())?;
    }
    Ok(match outcome {
        Outcome::Resumed | Outcome::WouldResume | Outcome::NotSuspended => ExitCode::SUCCESS,
        Outcome::Pending | Outcome::OwnStatusFailed | Outcome::Unknown => ExitCode::FAILURE,
    })
}

/// The status in the integration's own record; none where there is no such record. Blocks.
fn own_status(settings: &Settings, key: &str, stop: &CancellationToken) -> Result<Option<&'static str>, ResumeError> {
    let Some((workspace, integration)) = key.split_once('/') else { return Ok(None) };
    let filter = IntegrationFilter {
        workspace: Some(workspace.to_owned()),
        integration: Some(integration.to_owned()),
        ..IntegrationFilter::default()
    };
    let listed = match integrations(settings, &filter, &|| !stop.is_cancelled()) {
        Err(ReadError::Stopped) => return Err(ResumeError::Stopped),
        listed => listed?,
    };
    Ok(listed.rows.into_iter().next().map(|row| row.status.unwrap_or("unusable")))
}

fn print(
    out: &mut impl Write,
    key: &str,
    status: Option<&str>,
    outcome: Outcome,
    before: Option<&StateRecord>,
) -> io::Result<()> {
    let since = before.map(StateRecord::since).map(|since| format!(", failed since {since},")).unwrap_or_default();
    match outcome {
        Outcome::Resumed => writeln!(out, "{key}{since} is active again"),
        Outcome::WouldResume => writeln!(out, "{key}{since} would be set active again"),
        Outcome::NotSuspended => {
            let health = match before {
                Some(before) => format!("it is {}", before.health().word()),
                None => "nothing was ever held against it".to_owned(),
            };
            let own = match status {
                Some(status) if status != "active" => format!("; its own status is {status}"),
                _ => String::new(),
            };
            writeln!(out, "{key} is not suspended: {health}{own}")
        }
        Outcome::Pending => writeln!(
            out,
            "{key}{since} is not active yet: no worker has taken the request up within {} s; one that starts will",
            GRANT_MAX.as_secs()
        ),
        Outcome::OwnStatusFailed => writeln!(
            out,
            "{key} is not resumed: its own status is failed, so nothing is delivered to it, whatever its health; \
             a PATCH of /status to active ends both"
        ),
        Outcome::Unknown => writeln!(out, "there is no integration {key}: check --workspace and --integration"),
    }
}

type Resumed = (Outcome, Option<StateRecord>, Option<StateRecord>);

/// Blocks.
fn resume(
    settings: &Settings,
    key: &str,
    status: Option<&str>,
    dry_run: bool,
    stop: &CancellationToken,
) -> Result<Resumed, ResumeError> {
    let mut topic = Compacted::open(&settings.kafka, &settings.topics.health, "resume")?;
    let mut state = None;
    let deadline = Instant::now() + READ_MAX;
    while !topic.is_caught_up() {
        follow(&mut topic, key, &mut state, stop)?;
        if Instant::now() >= deadline {
            return Err(ResumeError::Late);
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
    if dry_run {
        return Ok((Outcome::WouldResume, state, None));
    }
    let request = ResumeRequest { key: key.to_owned(), since_ms: Some(before.since_ms()) };
    let deltas = deltas_topic(&settings.topics.health);
    Handle::current().block_on(resume::publish(&settings.kafka, &deltas, &request))?;
    let deadline = Instant::now() + GRANT_MAX;
    while Instant::now() < deadline {
        follow(&mut topic, key, &mut state, stop)?;
        if state.as_ref().is_some_and(|it| it.health() != Health::Failed) {
            return Ok((Outcome::Resumed, Some(before), state));
        }
    }
    Ok((Outcome::Pending, Some(before), state))
}

fn follow(
    topic: &mut Compacted,
    key: &str,
    state: &mut Option<StateRecord>,
    stop: &CancellationToken,
) -> Result<(), ResumeError> {
    topic.read(POLL_WAIT, |row| {
        if row.key == key.as_bytes() {
            *state = row.value.and_then(|value| StateRecord::parse(value).ok());
        }
    })?;
    if stop.is_cancelled() { Err(ResumeError::Stopped) } else { Ok(()) }
}
