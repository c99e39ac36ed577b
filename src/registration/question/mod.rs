//! What a reader may ask about one workspace, and who answers. The routes make the question; `lookup` answers it.

mod errors;

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(crate) use self::errors::{BadQuestion, Missing, SourceError};

/// A draft filter: a thousand items.
pub(super) const FILTER_BYTES_MAX: usize = 64 * 1024;

/// The rows asked for: the conditions that every reader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) integration: Option<String>,
    pub(crate) webhook: Option<String>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) event: Option<String>,
    pub(crate) delivery: Option<String>,
    pub(crate) entity: Option<String>,
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
    pub(crate) limit: usize,
    /// Where the answer before ended.
    pub(crate) next: Option<String>,
}

/// A question about one workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Integrations with their states, worst first; `find` looks into ids, URLs, states and reasons.
    Overview { find: Option<String>, limit: usize, next: Option<String> },
    /// One instance, masked, with its health.
    Instance { id: String },
    /// States of integrations.
    Health(Asked),
    /// Attempts, newest first.
    Attempts(Asked),
    /// Attempts of one integration, newest first. One that is not registered and of which nothing is logged is missing.
    AttemptsOf { id: String, asked: Asked },
    /// Dead letters, newest first.
    DeadLetters(Asked),
    /// The trace of an event, named by its place or its id.
    Trace { event: String, next: Option<String> },
    /// One record of the events or the dead-letter topic, with its value.
    Record { place: String },
    /// How a draft filter judges recent events.
    Lab { filter: String },
}

impl Question {
    /// Whether it reads through topics, and so needs a place among the scans.
    pub(super) fn is_scan(&self) -> bool {
        !matches!(self, Self::Overview { .. } | Self::Instance { .. } | Self::Health(_))
    }
}

/// An answer on its way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Value, SourceError>> + Send>>;

/// Finds the rows of an answer.
pub(crate) trait Source: Send + Sync + 'static {
    /// Answers a question about `workspace`; ends early when `stop` is cancelled.
    fn ask(&self, workspace: String, question: Question, stop: CancellationToken) -> Answering;

    /// The workspaces that have integrations, for tokens that cover all.
    fn workspaces(&self) -> Vec<String>;

    /// The state of an integration in the health topic.
    fn health(&self, workspace: &str, id: &str) -> Value;

    /// Says that the integration or the webhook is not registered, or the webhook not in that integration. `None` if each that is
    /// named is registered.
    fn unregistered(&self, workspace: &str, integration: Option<&str>, webhook: Option<&str>) -> Option<String>;
}
