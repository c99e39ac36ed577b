//! `replay`: past events, delivered again to one integration or one of its webhooks. `actions::replay` decides what is sent.

use std::io;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::{ToolError, lookup, send};
use crate::actions::Sender;
use crate::actions::selection::Selection;
use crate::settings::{IntegrationName, Replay, Settings};

/// Sends the matching events of a range to delivery again.
///
/// # Errors
/// [`ToolError`]. Once sending has begun, the account is written also after an error.
pub(crate) async fn replay(
    settings: &Settings,
    options: &Replay,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let IntegrationName { workspace, integration } = lookup::whole_name(settings, &options.integration).await?;
    let selection = Selection {
        workspace: Some(workspace),
        integration: Some(integration),
        webhook: options.webhook.clone(),
        from: options.from,
        to: options.to,
        ..Selection::default()
    };
    send::send(settings, Sender::Replay, selection, options.sending, stop, out).await
}
