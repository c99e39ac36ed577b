//! The subcommands that end by themselves: dead letters, replay, resume, explain, the readers, the topics' tools, the reference receiver
//! and the demo.
//!
//! Every tool is bounded in memory and in its waits, writes its answer to the given output and its progress to stderr, and stops between
//! two records when asked to. No tool decides what matches.

pub(crate) mod topics;
mod moved_keys;
pub(crate) mod check;
pub(crate) mod trace;
pub(crate) mod query;
pub(crate) mod explain;
mod windows;
pub(crate) mod dead_letters;
pub(crate) mod replay;
pub(crate) mod resume;
mod send;
mod lookup;
mod table;
mod render;
pub(crate) mod receiver;
pub(crate) mod demo;

use std::io;

use self::explain::EVENT_BYTES_MAX;
use crate::actions::{ActionError, Ended};
use crate::domain::event::InvalidEvent;

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// Errors that tools share with the API: a topic that can't be read, a selection that is refused.
    #[error(transparent)]
    Action(ActionError),
    /// What was asked for is not valid or refused, with the option that says it.
    #[error("{0}")]
    Asked(String),
    /// Records were too large for the tier.
    #[error("{count} records are larger than topic `{topic}` takes; raise its max.message.bytes and run it again")]
    TooLarge { count: u64, topic: String },
    /// The answer can't be written.
    #[error("standard output can't be written")]
    Output(#[source] io::Error),
    /// `from` is a path, or standard input.
    #[error("the event cannot be read from {from}")]
    Input { from: String, source: io::Error },
    /// The text given for an event is not a place, and there is no such file.
    #[error(
        "there is no file {given}: an event is named by topic/partition/offset, or - for standard input; \
         `hookstream trace {given}` finds an event by its id and shows its place"
    )]
    NoEventFile { given: String },
    #[error("the event in {from} is larger than {EVENT_BYTES_MAX} bytes")]
    EventTooLarge { from: String },
    #[error("{from} is not an event and becomes a dead letter of reason invalid-event")]
    NoEvent { from: String, source: InvalidEvent },
    /// The topic does not have the record at this place any more.
    #[error("the record is gone: {record} was compacted away, aborted, or is older than its topic keeps")]
    Gone { record: String },
    #[error("the record {record} has no value: it becomes a dead letter of reason invalid-event")]
    NoValue { record: String },
    /// `of` is the id or the place that was given.
    #[error("no dead letter of topic `{topic}` is of {of}{}", .hint.map(|hint| format!(" {hint}")).unwrap_or_default())]
    NoDeadLetter { topic: String, of: String, hint: Option<&'static str> },
    /// The ids of several integrations begin with the given text.
    #[error("--integration: {count} integrations begin with `{given}`: {named}")]
    Ambiguous { given: String, count: usize, named: String },
    /// The attempts that were found belong to several events.
    #[error("--event: several events begin with `{given}`: {named}")]
    AmbiguousEvent { given: String, named: String },
}

impl<E: Into<ActionError>> From<E> for ToolError {
    fn from(error: E) -> Self {
        let error = error.into();
        error.of_question("--").map_or_else(|| Self::Action(error), Self::Asked)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::refusal::{BadSelection, Refusal};

    #[test]
    fn what_is_refused_names_the_option() {
        let (key, health) = ("ws/i".to_owned(), "webhooks.health".to_owned());
        let of = |error: ActionError| ToolError::from(error).to_string();
        assert!(of(Refusal::NoSuspension { key: key.clone(), health }.into()).starts_with("--from: is needed: "));
        let webhook = "w".to_owned();
        assert_eq!(of(Refusal::NoWebhook { key, webhook }.into()), "--webhook: integration `ws/i` has no webhook `w`");
        let events = "events".to_owned();
        assert_eq!(of(BadSelection::NoPlace { events }.into()), "--event: expected its place, such as events/3/1042");
        assert_eq!(of(Refusal::Changed.into()), Refusal::Changed.to_string());
    }
}
