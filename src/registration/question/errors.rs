//! Why a reader's question has no answer: what is wrong with it, what is missing, or why Kafka can't be asked.
//!
//! The texts are for callers and hold no payload. Which status follows is decided in the routes.

use serde_json::Error as JsonError;

use super::FILTER_BYTES_MAX;
use crate::domain::integration::Unusable;
use crate::domain::word::UnknownWord;
use crate::readers::ReadError;
use crate::registration::instance::BadInstance;
use crate::registration::json_words::BadJson;

/// A question that can't be understood: the field, and what is expected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadQuestion {
    #[error("limit: expected a number from 1 on")]
    Limit,
    #[error("{name}: expected at most {chars_max} characters without control characters")]
    Word { name: &'static str, chars_max: usize },
    /// A word of a closed set.
    #[error("{name}: {unknown}")]
    UnknownWord { name: &'static str, unknown: UnknownWord },
    /// The route does not use it.
    #[error("{name}: not a parameter of this route, which takes {}, from, to, limit and next", .taken.join(", "))]
    Field { name: String, taken: &'static [&'static str] },
    #[error("{name}: expected a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z")]
    Time { name: &'static str },
    #[error("from: expected a time before `to`")]
    Times,
    #[error("next: expected what the page before said")]
    Next,
    /// The token belongs to another question.
    #[error(transparent)]
    Token(ReadError),
    #[error("expected a place: topic/partition/offset")]
    Place,
    #[error("event: the ids of several events begin so: {}", .ids.join(", "))]
    SeveralEvents { ids: Vec<String> },
    #[error("filter: expected at most {FILTER_BYTES_MAX} bytes")]
    LongFilter,
    #[error("filter")]
    NoJson(#[source] BadJson),
    #[error("filter")]
    Filter(#[source] Unusable),
}

/// A thing that the workspace does not have. A thing of another workspace counts as missing too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    #[error("IntegrationInstance {id} not found")]
    Instance { id: String },
    #[error(
        "there is no event {event} of this workspace{}",
        .searched_back_to.as_ref().map(|time| format!("; searched back to {time}")).unwrap_or_default()
    )]
    Event { event: String, searched_back_to: Option<String> },
    /// A bound ended the search, so it may be there.
    #[error(
        "{event} was not found{}, as far as one request searches; if it is older, ask with the event's place, topic/partition/offset",
        .back_to.as_ref().map(|time| format!(" back to {time}")).unwrap_or_default()
    )]
    NotReached { event: String, back_to: Option<String> },
    #[error(
        "no logged attempt and no dead letter of this workspace has the delivery id {delivery}; unless all attempts are logged, a \
         delivery that was acknowledged at once has neither: ask with the id of its event"
    )]
    Delivery { delivery: String },
    #[error("there is no record {place} of this workspace")]
    Record { place: String },
    #[error("it is not an event: it becomes a dead letter of reason invalid-event")]
    NoEvent,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(transparent)]
    Bad(#[from] BadQuestion),
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Kafka can't be asked now.
    #[error(transparent)]
    Unavailable(ReadError),
    #[error("the stored record is not an instance")]
    NoInstance(#[from] BadInstance),
    #[error("the answer can't be written as JSON")]
    Answer(#[from] JsonError),
    /// The thread that reads panicked.
    #[error("a reader ended early")]
    Ended(#[from] tokio::task::JoinError),
}

impl From<ReadError> for SourceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Token => Self::Bad(BadQuestion::Token(error)),
            _ => Self::Unavailable(error),
        }
    }
}
