//! What `redrive` and `replay` share at the command line: a preview or a run, its progress, its account and its exit code.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{INTERRUPTED, ToolError, lookup, write_line};
use crate::actions::audit::{Audit, command_line};
use crate::actions::resend::{Account, Order, Resent, resend};
use crate::actions::selection::Selection;
use crate::actions::{ActionError, Sender};
use crate::kafka::span::Range;
use crate::readers::scan::Bounds;
use crate::settings::{Sending, Settings};
use crate::telemetry::chain::chain;

/// How long a tool waits for its record to be written. If the brokers are gone, the account does not wait for long.
const RECORD_MAX: Duration = Duration::from_secs(5);
/// Between two changes of the progress bar's text.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Sends the selected records, or only counts them, and writes the account. A run leaves a record in the audit topic.
///
/// # Errors
/// [`ToolError`]. Once sending has begun, the account is written also after an error.
pub(super) async fn send(
    settings: &Settings,
    sender: Sender,
    selection: Selection,
    sending: Sending,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let prepared = match sender.prepare(settings, selection, sending.dry_run, Bounds::PATIENT, stop).await {
        Err(ActionError::Stopped) => return Ok(ExitCode::from(INTERRUPTED)),
        prepared => prepared?,
    };
    let (requeue, audit) =
        if sending.dry_run { (None, None) } else { (Some(sender.requeue(settings).await?), audit(settings).await) };
    let topic = requeue.as_ref().map(|requeue| requeue.topic().to_string()).unwrap_or_default();
    let mut bar = Bar::new(sender.word(), prepared.reading.ranges());
    let order = Order { name: sender.word(), rate: sending.rate, requeue, until: None, stop };
    let resent = resend(order, prepared, &mut |account, ranges| bar.redraw(account, ranges)).await;
    bar.shown.finish_and_clear();
    let Resent { account, selection, ended } = resent;
    if let Some(audit) = audit {
        record(&audit, sender.word(), &selection, &account.counts()).await;
    }
    let text = if sending.json {
        serde_json::to_string(&account).map_err(|error| ToolError::Output(error.into()))?
    } else {
        account.text()
    };
    write_line(out, &text)?;
    let found_nothing = sender == Sender::Redrive && account.matched == 0 && account.skipped.is_empty();
    if found_nothing {
        let Selection { workspace, integration, webhook, .. } = selection;
        lookup::say_unregistered(settings, &lookup::Names { workspace, integration, webhook }, sending.json, out)
            .await?;
    }
    if ended? {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    match account.too_large {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(ToolError::TooLarge { count, topic }),
    }
}

/// Opens the audit topic. If that fails, the tool works without it and logs a warning.
pub(super) async fn audit(settings: &Settings) -> Option<Audit> {
    let opened = Audit::open(settings).await;
    if let Err(error) = &opened {
        tracing::warn!(error = chain(error), "the action leaves no record in the audit topic");
    }
    opened.ok()
}

/// Writes the record of an action. If that fails it logs an error, since the action has happened.
pub(super) async fn record(audit: &Audit, action: &'static str, selection: &Selection, counts: &serde_json::Value) {
    let who = command_line();
    let written = tokio::time::timeout(RECORD_MAX, audit.record(&who, action, selection, counts)).await;
    let error = match written {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain(&error),
        Err(_elapsed) => format!("not acknowledged within {} s", RECORD_MAX.as_secs()),
    };
    tracing::error!(action, error, "the action leaves no record in the audit topic");
}

/// A progress bar on stderr, shown only on a terminal.
struct Bar {
    shown: ProgressBar,
    redrawn: Instant,
}

impl Bar {
    fn new(name: &'static str, ranges: &[Range]) -> Self {
        let total = ranges.iter().map(Range::len).sum();
        let shown = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} read, {msg}") {
            shown.set_style(style);
        }
        shown.set_prefix(name);
        shown.set_message("nothing sent yet");
        Self { shown, redrawn: Instant::now() }
    }

    fn redraw(&mut self, account: &Account, ranges: &[Range]) {
        if self.shown.is_hidden() || self.redrawn.elapsed() < REDRAW_EVERY {
            return;
        }
        self.redrawn = Instant::now();
        self.shown.set_position(account.done(ranges));
        let (verb, count) = if account.dry_run { ("would send", account.matched) } else { ("sent", account.sent) };
        self.shown.set_message(format!("{verb} {count}"));
    }
}
