//! `resume`: ends the suspension of an integration, and prints the result.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ToolError, lookup, send};
use crate::actions::resume::{Outcome, Resumed, resume};
use crate::actions::selection::Selection;
use crate::settings::{Resume, Settings};

/// How long the owner may take: long enough for a failover and its next turn.
const GRANT_MAX: Duration = Duration::from_mins(1);

/// Resumes the selected integration and prints the result. The exit code is 0 if the integration is (or would be) not suspended. It is 1
/// if no worker has granted the request in time, if its own status is `failed`, or if it is unknown.
///
/// # Errors
/// [`ToolError`]
pub(crate) async fn run(
    settings: &Settings,
    options: &Resume,
    stop: CancellationToken,
    out: &mut impl Write,
) -> Result<ExitCode, ToolError> {
    let name = lookup::whole_name(settings, &options.integration).await?;
    let audit = if options.dry_run { None } else { send::audit(settings).await };
    let resumed = resume(settings, &name.key(), options.dry_run, GRANT_MAX, &stop).await?;
    if let Some(audit) = audit.filter(|_| resumed.outcome.is_asked()) {
        let selection =
            Selection { workspace: Some(name.workspace), integration: Some(name.integration), ..Selection::default() };
        send::record(&audit, "resume", &selection, &resumed.outcome.counts()).await;
    }
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &resumed).map_err(|error| ToolError::Output(error.into()))?;
        writeln!(out).map_err(ToolError::Output)?;
    } else {
        print(out, &resumed).map_err(ToolError::Output)?;
    }
    Ok(match resumed.outcome {
        Outcome::Resumed | Outcome::WouldResume | Outcome::NotSuspended => ExitCode::SUCCESS,
        Outcome::Pending | Outcome::OwnStatusFailed | Outcome::Unknown => ExitCode::FAILURE,
    })
}

fn print(out: &mut impl Write, resumed: &Resumed) -> io::Result<()> {
    let Resumed { integration: key, outcome, status, before, now: _ } = resumed;
    let since = before.as_ref().map(|before| format!(", failed since {},", before.since())).unwrap_or_default();
    match outcome {
        Outcome::Resumed => writeln!(out, "{key}{since} is active again"),
        Outcome::WouldResume => writeln!(out, "{key}{since} would be set active again"),
        Outcome::NotSuspended => {
            let health = match before {
                Some(before) => format!("it is {}", before.health().word()),
                None => "no change of health is recorded".to_owned(),
            };
            let own = match status {
                Some(status) if *status != "active" => format!("; its own status is {status}"),
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
        Outcome::Unknown => {
            let name = key.split_once('/');
            writeln!(out, "{}", lookup::no_integration(name.map(|(workspace, _)| workspace), name.map(|(_, id)| id)))
        }
    }
}
