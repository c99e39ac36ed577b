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

use self::explain::EVENT_BYTES_MAX;
use crate::actions::{ActionError, Ended};
use crate::domain::event::InvalidEvent;

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// What tools share with the API: a topic that can't be read, a selection that is refused.
    #[error(transparent)]
    Action(ActionError),
    /// Records were too large for the tier.
    #[error("{count} records are larger than topic `{topic}` takes; raise its max.message.bytes and run it again")]
    TooLarge { count: u64, topic: String },
    /// The answer can't be written.
    #[error("standard output can't be written")]
    Output(#[source] io::Error),
    /// `from` is a path, or standard input.
    #[error("the event cannot be read from {from}")]
    Input { from: String, source: io::Error },
    /// What was given for an event is no place, and there is no such file.
    #[error(
        "there is no file {given}: an event is named by topic/partition/offset, or - for standard input; \
         `hookstream trace {given}` finds one by its id and says its place"
    )]
    NoEventFile { given: String },
    #[error("the event in {from} is larger than {EVENT_BYTES_MAX} bytes")]
    EventTooLarge { from: String },
    #[error("{from} is no event and becomes a dead letter of reason invalid-event")]
    NoEvent { from: String, source: InvalidEvent },
    #[error("the event does not say its workspace: --workspace is needed")]
    NoWorkspace,
    /// The place of a record that its topic has no more.
    #[error("the record is gone: {record} was compacted away, aborted, or is older than its topic keeps")]
    Gone { record: String },
    #[error("the record {record} has no value: it becomes a dead letter of reason invalid-event")]
    NoValue { record: String },
    /// `of` is the id or the place that was given.
    #[error("no dead letter of topic `{topic}` is of {of}")]
    NoDeadLetter { topic: String, of: String },
    /// More integrations than one begin with what was given.
    #[error("--integration: {count} integrations begin with `{given}`: {named}")]
    Ambiguous { given: String, count: usize, named: String },
    /// The attempts found are of more events than one.
    #[error("--event: several events begin with `{given}`: {named}")]
    AmbiguousEvent { given: String, named: String },
}

impl<E: Into<ActionError>> From<E> for ToolError {
    fn from(error: E) -> Self {
        Self::Action(error.into())
    }
}

/// Ended by a signal: the code that shells give to SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs work that blocks on a thread of its own. `what` names it in [`Ended`].
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Ended(what))?
}

/// Writes a line. Returns whether its reader is still there: `head` closes the pipe when it has seen enough.
fn write_line(out: &mut impl io::Write, line: &str) -> Result<bool, ToolError> {
    match writeln!(out, "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ToolError::Output(error)),
    }
}
