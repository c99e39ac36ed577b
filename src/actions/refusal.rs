//! Why a selection is not valid, or cannot be acted on: the thing, and what is accepted instead.
//!
//! The caller decides what it makes of it: a status, an exit code.

/// The longest id or place, in characters.
pub(super) const WORD_CHARS_MAX: usize = 1024;
use crate::domain::word::UnknownWord;

/// A selection from outside that can't be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSelection {
    #[error("{field}: expected at most {WORD_CHARS_MAX} characters and no control character")]
    Word { field: &'static str },
    #[error("fixed: expected what a preview answered with")]
    Fixed,
}

/// What is selected, and why nothing can be done with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("from: expected a time before `to`")]
    Times,
    #[error("reason: {0}")]
    Reason(UnknownWord),
    #[error("event: topic `{topic}` is not the dead-letter topic, which is `{dead_letters}`, nor that of the events")]
    ForeignTopic { topic: String, dead_letters: String },
    #[error("event: expected its place, such as {events}/3/1042")]
    NoPlace { events: String },
    #[error("integration: is missing; a replay is for one integration")]
    NoIntegrationNamed,
    #[error("there is no integration `{key}` in topic `{topic}`: check --workspace and --integration")]
    NoIntegration { key: String, topic: String },
    #[error("the integration was changed since the preview: preview again")]
    Changed,
    #[error("integration `{key}` is {status}: nothing is delivered to it; set its status to active first")]
    Inactive { key: String, status: &'static str },
    #[error(
        "integration `{key}` is suspended since {since}: what is replayed now would become dead letters; resume it first"
    )]
    Suspended { key: String, since: String },
    #[error("webhook: integration `{key}` has no webhook `{webhook}`")]
    NoWebhook { key: String, webhook: String },
    #[error("webhook: webhook `{webhook}` is disabled: nothing is delivered to it")]
    Disabled { webhook: String },
    #[error("webhook: webhook `{webhook}` is scheduled: events do not fire it")]
    Scheduled { webhook: String },
    #[error("no suspension of `{key}` is recorded in topic `{health}`: say with `from` where to begin")]
    NoSuspension { key: String, health: String },
}
