//! What operators do: send dead letters back, replay past events, resume an integration.
//!
//! A library: the command line, the API and the page use it. One [`Selection`] says what is meant; a preview counts it and fixes
//! it; a run sends exactly that. Each action leaves one record in the audit topic. Nothing here knows HTTP or a terminal.

pub(crate) mod dead_letters;
mod known;
pub(crate) mod replay;
pub(crate) mod lookup;
pub(crate) mod resume;
pub(crate) mod resend;
pub(crate) mod audit;
pub(crate) mod requeue;
pub(crate) mod selection;
pub(crate) mod refusal;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::refusal::{BadSelection, Refusal};
use self::requeue::{RequeueError, TierProducer};
use self::resend::Prepared;
use self::selection::Selection;
use crate::domain::integration::Unusable;
use crate::domain::topic_names::now_topic;
use crate::health::resume::ResumeRequestError;
use crate::kafka::span::SpanError;
use crate::kafka::table_reader::CompactedError;
use crate::readers::ReadError;
use crate::readers::scan::Bounds;
use crate::settings::Settings;

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// A topic can't be opened or read.
    #[error(transparent)]
    TopicRange(#[from] SpanError),
    /// A compacted topic can't be read.
    #[error(transparent)]
    Table(#[from] CompactedError),
    /// A topic can't be searched.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record was not put back.
    #[error("what was sent before is in the account above; running it again sends the same records again")]
    NotSent(#[source] RequeueError),
    /// The record about the action was not written.
    #[error("the record about the action was not written")]
    Audit(#[source] RequeueError),
    /// The request to resume was not written.
    #[error(transparent)]
    ResumeRequest(#[from] ResumeRequestError),
    /// The integration's record can't be used.
    #[error("the record of integration `{key}` cannot be used")]
    Unusable {
        /// `<workspace>/<integration id>`
        key: String,
        /// Why.
        source: Unusable,
    },
    /// The selection is not valid.
    #[error(transparent)]
    Bad(#[from] BadSelection),
    /// What was asked for can't be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller asked it to end.
    #[error("interrupted")]
    Stopped,
    /// A part of the action ended early.
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl ActionError {
    /// What is wrong with what was asked for, with its field in front, written behind `prefix`: nothing in a request, `--` at the
    /// command line. `None` if something else failed.
    pub(crate) fn of_question(&self, prefix: &str) -> Option<String> {
        let (field, text) = match self {
            Self::Bad(bad) => (Some(bad.field()), bad.to_string()),
            Self::Refused(why) => (why.field(), why.to_string()),
            _ => return None,
        };
        Some(field.map_or_else(|| text.clone(), |field| format!("{prefix}{field}: {text}")))
    }
}

/// The actions that send records back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Dead letters.
    Redrive,
    /// Past events.
    Replay,
}

impl Sender {
    /// Its word, in accounts and in the audit topic.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Replay => "replay",
        }
    }

    /// Opens the selected records. Where a preview only warns, a run is refused. `known` bounds the search for what was sent back
    /// before.
    ///
    /// # Errors
    /// [`ActionError`]
    pub(crate) async fn prepare(
        self,
        settings: &Settings,
        selection: Selection,
        is_preview: bool,
        known: Bounds,
        stop: &CancellationToken,
    ) -> Result<Prepared, ActionError> {
        match self {
            Self::Redrive => dead_letters::prepare(settings, selection, known, stop).await,
            Self::Replay => replay::prepare(settings, selection, is_preview, stop).await,
        }
    }

    /// A producer for the topic whose records are due at once.
    ///
    /// # Errors
    /// [`ActionError::TopicRange`]
    pub(crate) async fn requeue(self, settings: &Settings) -> Result<Arc<TierProducer>, ActionError> {
        let (kafka, topic) = (settings.kafka.clone(), now_topic(&settings.topics.retry_prefix).into());
        let role = self.word();
        let opened = blocking("opening the topic", move || Ok(TierProducer::open(&kafka, topic, role)?));
        Ok(Arc::new(opened.await?))
    }
}

/// A part that panicked; the panic itself is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} ended early; see the log")]
pub(crate) struct Ended(pub(crate) &'static str);

/// Runs work that blocks on a thread of its own. `what` names it in [`Ended`].
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, ActionError> + Send + 'static,
) -> Result<T, ActionError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Ended(what))?
}
