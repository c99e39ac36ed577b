//! The subcommands beside the worker and the API: what operators run on a bad day (look into the dead letters, send them
//! back, replay what was missed, explain a match), the topics' tools, and the reference receiver.
//!
//! Every tool is bounded in memory and in what it waits for, writes its answer to the given output and its progress to
//! stderr, and stops between two records when asked to. Nothing here names Kafka's client or decides what matches.

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod dead_letters;
pub(crate) mod explain;
mod lookup;
mod moved_keys;
pub(crate) mod receiver;
mod receiver_log;
mod render;
pub(crate) mod query;
pub(crate) mod replay;
pub(crate) mod resume;
mod send;
mod table;
pub(crate) mod topics;
pub(crate) mod trace;
mod windows;

use std::io;

use crate::actions::ActionError;
use crate::domain::integration::Unusable;
use crate::kafka::table_reader::CompactedError;
use crate::kafka::topic_range::SpanError;
use crate::readers::ReadError;

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// A topic can't be looked through.
    #[error(transparent)]
    TopicRange(#[from] SpanError),
    /// A compacted topic can't be read.
    #[error(transparent)]
    Table(#[from] CompactedError),
    /// A question has no answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An action was not done.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// Records were too large for the tier.
    #[error("{count} records are larger than topic `{topic}` takes; raise its max.message.bytes and run it again")]
    TooLarge {
        /// How many.
        count: u64,
        /// The tier's topic.
        topic: String,
    },
    /// The answer can't be written.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// The event can't be read.
    #[error("the event cannot be read from {from}")]
    Input {
        /// A path, or standard input.
        from: String,
        /// What the system says.
        source: io::Error,
    },
    /// The integration's record can't be used.
    #[error("the record of integration `{key}` cannot be used")]
    Unusable {
        /// `<workspace>/<integration id>`
        key: String,
        /// Why.
        source: Unusable,
    },
    /// What was asked for can't be done.
    #[error("{0}")]
    Refused(String),
    /// A part of the tool ended without having said why.
    #[error("{0} ended without being asked to; see the log")]
    Ended(&'static str),
}

/// Ended by a signal: the code that shells give to SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs what blocks on a thread made for it.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| ToolError::Ended(what))?
}

/// Writes a line. Says whether anybody still reads: a closed pipe is how `head` says that it has seen enough.
fn write_line(out: &mut impl io::Write, line: &str) -> Result<bool, ToolError> {
    match writeln!(out, "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ToolError::Output(error)),
    }
}
