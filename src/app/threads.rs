//! The threads of a worker: how they are started and joined. What runs on them is in the rooms that they are named after.
//!
//! A worker has these, in the order in which they start. They stop in four groups, each joined before the next is asked to stop.
//!
//! | thread | room | stops with |
//! | --- | --- | --- |
//! | `health`, `integrations` | `health::feed`, `intake::table_feed` | 4: the feeds, after everything that reads the table |
//! | `health-deltas`, `attempt-log` | `health::publisher`, `attempt_log::writer` | 3: after the last attempt has ended |
//! | `health-owner` | `health::owner` | asked to stop with 1, joined with 3 |
//! | `shard-N`, one for each core | `deliver::shard` | 2: when their senders are dropped |
//! | `schedules`, `events-group`, `retries-group`, `events`, `retries` | `intake` | 1: first, after the drain |
//! | `places` | `backlog::places` | with 1 |
//!
//! `main` runs the admin server and measures lag; it starts all others and joins them. Only the thread `producer` belongs to its producer
//! (`kafka::producer`): dropping the producer ends it.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two looks at whether threads have ended.
const JOIN_EVERY: Duration = Duration::from_millis(10);

/// A thread cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("thread `{name}` cannot be started")]
pub(crate) struct StartError {
    pub(super) name: String,
    pub(super) source: io::Error,
}

/// The threads of a worker, by name. A thread that panics ends the worker.
pub(super) struct Threads {
    started: Vec<(String, JoinHandle<()>)>,
    fatal: CancellationToken,
}

impl Threads {
    pub(super) fn new(fatal: &CancellationToken) -> Self {
        Self { started: Vec::new(), fatal: fatal.clone() }
    }

    pub(super) fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let failed = |source| StartError { name: name.to_owned(), source };
        let unless_it_ends = self.fatal.clone().drop_guard();
        let guarded = move || {
            run();
            unless_it_ends.disarm();
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(guarded).map_err(failed)?;
        self.started.push((name.to_owned(), handle));
        Ok(())
    }

    /// Joins all. A thread that has not ended after `patience`, because brokers do not answer, is left behind: the process ends
    /// without it.
    pub(super) async fn join(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.started.iter().any(|(_, handle)| !handle.is_finished()) && Instant::now() < deadline {
            tokio::time::sleep(JOIN_EVERY).await;
        }
        for (name, handle) in self.started.drain(..) {
            if !handle.is_finished() {
                tracing::error!(thread = name, ?patience, "a thread did not end in time and is left behind");
            } else if handle.join().is_err() {
                tracing::error!(thread = name, "a thread panicked");
            }
        }
    }
}
