//! Why a selection is not valid, or cannot be acted on: the thing, and what is accepted instead.
//!
//! The caller decides what it makes of it: a status, an exit code, and how it writes the name of the field.

use crate::domain::word::UnknownWord;

/// The longest id or place, in characters.
pub(super) const WORD_CHARS_MAX: usize = 1024;

/// A selection from outside that can't be understood. [`BadSelection::field`] says what of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSelection {
    #[error("expected at most {WORD_CHARS_MAX} characters and no control character")]
    Word { field: &'static str },
    #[error("expected what a preview answered with")]
    Fixed,
    #[error("expected an earlier time than the end")]
    Times,
    #[error("{0}")]
    Reason(UnknownWord),
    #[error("has no effect on this {action}; accepted: {}", .accepted.join(", "))]
    NoEffect { field: &'static str, action: &'static str, accepted: &'static [&'static str] },
    #[error("topic `{topic}` is not the dead-letter topic, which is `{dead_letters}`, nor that of the events")]
    ForeignTopic { topic: String, dead_letters: String },
    #[error("expected its place, such as {events}/3/1042")]
    NoPlace { events: String },
    #[error("is missing; a replay is for one integration")]
    NoIntegrationNamed,
}

impl BadSelection {
    /// The field of the selection that is wrong.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Word { field } | Self::NoEffect { field, .. } => field,
            Self::Fixed => "fixed",
            Self::Times => "from",
            Self::Reason(_) => "reason",
            Self::ForeignTopic { .. } | Self::NoPlace { .. } => "event",
            Self::NoIntegrationNamed => "integration",
        }
    }
}

/// What is selected, and why nothing can be done with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("there is no integration `{key}` in topic `{topic}`")]
    NoIntegration { key: String, topic: String },
    #[error("the integration was changed since the preview: preview again")]
    Changed,
    #[error("integration `{key}` is {status}: nothing is delivered to it; set its status to active first")]
    Inactive { key: String, status: &'static str },
    #[error(
        "integration `{key}` is suspended since {since}: what is replayed now would become dead letters; resume it first"
    )]
    Suspended { key: String, since: String },
    #[error("integration `{key}` has no webhook `{webhook}`")]
    NoWebhook { key: String, webhook: String },
    #[error("webhook `{webhook}` is disabled: nothing is delivered to it")]
    Disabled { webhook: String },
    #[error("webhook `{webhook}` is scheduled: events do not fire it")]
    Scheduled { webhook: String },
    #[error("is needed: no suspension of `{key}` is recorded in topic `{health}`, where a replay would begin")]
    NoSuspension { key: String, health: String },
}

impl Refusal {
    /// The field of the selection that leads to it, if it is one.
    pub(super) fn field(&self) -> Option<&'static str> {
        match self {
            Self::NoIntegration { .. } => Some("integration"),
            Self::NoWebhook { .. } | Self::Disabled { .. } | Self::Scheduled { .. } => Some("webhook"),
            Self::NoSuspension { .. } => Some("from"),
            Self::Changed | Self::Inactive { .. } | Self::Suspended { .. } => None,
        }
    }
}
