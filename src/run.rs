//! From a command to the part of the program that carries it out.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::api::Api;
use crate::app::console::ConsoleProcess;
use crate::app::worker::Worker;
use crate::kafka::usable;
use crate::registration::http::unusable_files;
use crate::settings::Command;
use crate::telemetry::chain::chain;
use crate::tools::demo::{self, StopSignals};
use crate::tools::{check, dead_letters, explain, query, receiver, replay, resume, topics, trace};

/// Mistakes that are seen only when an option's value is used, such as a file that can't be read: one line for each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

/// Why a tool did not do what it was asked: one line for the person that runs it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolFailed(String);

/// Carries out a command. Returns the exit code of the process.
///
/// # Errors
/// [`Mistakes`] before anything is done; [`ToolFailed`] of a tool; otherwise what ended the command before its time.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let unusable = unusable(&command);
    if !unusable.is_empty() {
        return Err(Mistakes(unusable).into());
    }
    match command {
        Command::Worker(settings) => until_stopped(|[stop]| async move {
            let worker = Worker::bind(*settings).await.map_err(|error| unbound(&[error]))?;
            worker.run(stop).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Api(settings) => until_terminated(|[stop]| async move {
            let api = Api::bind(*settings).await.map_err(|errors| unbound(&errors))?;
            api.run(stop).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Console(settings) => until_terminated(|[stop]| async move {
            let console = ConsoleProcess::bind(*settings).await.map_err(|errors| unbound(&errors))?;
            console.run(stop).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Demo(settings, demo) => until_stopped(|[finish, hurry]| async move {
            let balances = demo::run(*settings, demo, StopSignals { finish, hurry }).await?;
            Ok(if balances { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
        Command::Receiver(options) => until_stopped(|[stop]| async move {
            let receiver = receiver::bind(options).await.map_err(|error| unbound(&[error]))?;
            let summary = receiver.run(receiver::Output::Stdout, stop).await;
            let receiver::Summary { received, acknowledged, failed, duplicates, invalid_signatures } = summary;
            tracing::info!(received, acknowledged, failed, duplicates, invalid_signatures, "stopped");
            Ok(ExitCode::SUCCESS)
        }),
        tool => run_tool(tool).map_err(|error| ToolFailed(chain(error.as_ref())).into()),
    }
}

/// What of the options can't be used, as far as that is known before Kafka or an address is touched. `check` has it in its summary.
fn unusable(command: &Command) -> Vec<String> {
    match command.settings() {
        Some(settings) if !matches!(command, Command::Check(..)) => {
            let mut lines = usable::unusable(&settings.kafka);
            lines.extend(unusable_files(&settings.api));
            lines
        }
        Some(_) | None => Vec::new(),
    }
}

/// The mistake of each address that can't be listened on.
fn unbound<E: std::error::Error + 'static>(errors: &[E]) -> Mistakes {
    let line = |error: &E| format!("{}; expected an address of this machine and a free port", chain(error));
    Mistakes(errors.iter().map(line).collect())
}

/// Carries out a tool: it looks at a cluster, answers on standard output and ends by itself.
fn run_tool(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::DeadLettersList(settings, options) => until_stopped(|[stop]| async move {
            Ok(dead_letters::list(&settings, &options, &stop, &mut io::stdout()).await?)
        }),
        Command::DeadLettersShow(settings, options) => until_stopped(|[stop]| async move {
            Ok(dead_letters::show(&settings, &options, &stop, &mut io::stdout()).await?)
        }),
        Command::DeadLettersRedrive(settings, options) => until_stopped(|[stop]| async move {
            Ok(dead_letters::redrive(&settings, &options, &stop, &mut io::stdout()).await?)
        }),
        Command::Replay(settings, options) => {
            until_stopped(
                |[stop]| async move { Ok(replay::replay(&settings, &options, &stop, &mut io::stdout()).await?) },
            )
        }
        Command::Explain(settings, options) => {
            until_stopped(
                |[stop]| async move { Ok(explain::run(&settings, &options, &stop, &mut io::stdout()).await?) },
            )
        }
        Command::Integrations(settings, query) => until_stopped(|[stop]| async move {
            Ok(query::integrations(&settings, &query, &stop, &mut io::stdout()).await?)
        }),
        Command::Health(settings, query) => {
            until_stopped(|[stop]| async move { Ok(query::health(&settings, &query, &stop, &mut io::stdout()).await?) })
        }
        Command::Attempts(settings, query) => until_stopped(|[stop]| async move {
            Ok(query::list_attempts(&settings, &query, &stop, &mut io::stdout()).await?)
        }),
        Command::Trace(settings, options) => {
            until_stopped(|[stop]| async move { Ok(trace::run(&settings, &options, &stop, &mut io::stdout()).await?) })
        }
        Command::Check(settings, json) => {
            until_stopped(|[stop]| async move { Ok(check::run(&settings, json, &stop, &mut io::stdout()).await?) })
        }
        Command::TopicsPlan(settings, output) => until_stopped(|[stop]| async move {
            until(stop, topics::run_plan(&settings, output.json, &mut io::stdout())).await
        }),
        Command::TopicsApply(settings, output) => until_stopped(|[stop]| async move {
            until(stop, topics::run_apply(&settings, output.json, &mut io::stdout())).await
        }),
        Command::ResumeRequest(settings, options) => {
            until_stopped(|[stop]| async move { Ok(resume::run(&settings, &options, stop, &mut io::stdout()).await?) })
        }
        Command::Worker(_) | Command::Api(_) | Command::Console(_) | Command::Demo(..) | Command::Receiver(_) => {
            anyhow::bail!("runs until it is stopped")
        }
        Command::Help { .. } | Command::Version | Command::Completions(_) | Command::Man => {
            anyhow::bail!("answered before anything runs")
        }
    }
}

/// Waits for a tool's work. A signal ends it at once.
async fn until<E: Into<anyhow::Error>>(
    stop: CancellationToken,
    work: impl Future<Output = Result<ExitCode, E>>,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(ExitCode::FAILURE),
        ended = work => ended.map_err(Into::into),
    }
}

/// How long a thread that was left waiting (for standard input, say) may hold up the end of an interrupted tool.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(1);

/// Runs `work` on a runtime of its own, with tokens that SIGTERM, SIGINT and SIGHUP (a terminal that is closed) cancel, one after
/// another. One more signal ends the process at once: the operator wants that more than a clean end.
fn until_stopped<const STOPS: usize, F: Future<Output = anyhow::Result<ExitCode>>>(
    work: impl FnOnce([CancellationToken; STOPS]) -> F,
) -> anyhow::Result<ExitCode> {
    run_until(vec![SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()], work)
}

/// As [`until_stopped`], for a process that reads its files again on SIGHUP and does not stop then.
fn until_terminated<const STOPS: usize, F: Future<Output = anyhow::Result<ExitCode>>>(
    work: impl FnOnce([CancellationToken; STOPS]) -> F,
) -> anyhow::Result<ExitCode> {
    run_until(vec![SignalKind::terminate(), SignalKind::interrupt()], work)
}

fn run_until<const STOPS: usize, F: Future<Output = anyhow::Result<ExitCode>>>(
    kinds: Vec<SignalKind>,
    work: impl FnOnce([CancellationToken; STOPS]) -> F,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(async {
        let stops = std::array::from_fn(|_| CancellationToken::new());
        let mut signals = JoinSet::new();
        signals.spawn(watch_signals(kinds, stops.clone()));
        let ended = work(stops).await;
        signals.shutdown().await;
        ended
    });
    runtime.shutdown_timeout(LEFT_BEHIND_MAX);
    ended
}

async fn watch_signals<const STOPS: usize>(kinds: Vec<SignalKind>, stops: [CancellationToken; STOPS]) {
    let Ok(mut signals) = kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>() else {
        tracing::error!("signals cannot be watched: only a kill ends this process");
        return;
    };
    for stop in stops.iter().map(Some).chain([None]) {
        futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
        if let Some(stop) = stop {
            tracing::info!("stopping; signal again to stop faster");
            stop.cancel();
        } else {
            tracing::warn!("signalled again: exit at once");
            #[expect(clippy::exit, reason = "asked for")]
            std::process::exit(1);
        }
    }
}
