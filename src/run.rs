//! From a command to the part of the program that carries it out.

use std::future::Future;
use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::settings::Command;
use crate::tools::{self, receiver};
use crate::worker::Worker;

/// Carries out a command, and says with which code the process ends.
///
/// # Errors
/// What ended the command before its time.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Worker(settings) => until_stopped(|stop| async move {
            Worker::bind(*settings).await?.run(stop).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Receiver(options) => until_stopped(|stop| async move {
            let summary = receiver::run(options, stop).await?;
            tracing::info!(?summary, "stopped");
            Ok(ExitCode::SUCCESS)
        }),
        Command::TopicsPlan(settings, output) => until_stopped(|stop| async move {
            until(stop, tools::topics::run_plan(&settings, output.json, &mut io::stdout())).await
        }),
        Command::TopicsApply(settings, output) => until_stopped(|stop| async move {
            until(stop, tools::topics::run_apply(&settings, output.json, &mut io::stdout())).await
        }),
        Command::Resume(settings, selection) => until_stopped(|stop| async move {
            Ok(tools::resume::run(&settings, &selection, stop, &mut io::stdout()).await?)
        }),
        Command::Help { .. } | Command::Version => anyhow::bail!("answered before anything runs"),
        _ => anyhow::bail!("this subcommand is not built yet"),
    }
}

/// The end of a tool's work; a signal ends it where it stands.
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

/// Runs `work` on a runtime of its own, with a token that SIGTERM and SIGINT cancel. A second signal ends the process at
/// once: somebody wants that more than a clean end.
fn until_stopped<F: Future<Output = anyhow::Result<ExitCode>>>(
    work: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut signals = JoinSet::new();
        signals.spawn(watch_signals(stop.clone()));
        let ended = work(stop).await;
        signals.shutdown().await;
        ended
    })
}

async fn watch_signals(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can not be watched: only a kill ends this process");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if first {
            tracing::info!("stopping: a second signal ends the process at once");
            stop.cancel();
        } else {
            tracing::warn!("a second signal: the process ends at once");
            #[expect(clippy::exit, reason = "asked for")]
            std::process::exit(1);
        }
    }
}
