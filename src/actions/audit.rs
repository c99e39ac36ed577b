//! The audit topic: one record for each action. Its key is the workspace, `*` where an action is about all of them.
//!
//! A record names the caller, the selection and what was counted. It never holds a token, a secret or an event.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::requeue::TierProducer;
use super::selection::Selection;
use super::{ActionError, blocking};
use crate::clock;
use crate::deliver::observers::host_name;
use crate::deliver::publish::Outgoing;
use crate::readers::time;
use crate::settings::Settings;

/// The key of an action that is about every workspace.
const EVERY_WORKSPACE: &str = "*";

/// The record of one action.
#[derive(Serialize)]
struct Record<'a> {
    at: Option<String>,
    who: &'a str,
    action: &'static str,
    selection: &'a Selection,
    counts: &'a Value,
}

/// Writes to the audit topic.
pub(crate) struct Audit(TierProducer);

impl Audit {
    /// Opens the topic. An action calls this before it does anything, so that a missing topic stops it.
    ///
    /// # Errors
    /// [`ActionError::TopicRange`]
    pub(crate) async fn open(settings: &Settings) -> Result<Self, ActionError> {
        let (kafka, topic) = (settings.kafka.clone(), settings.topics.audit.as_str().into());
        blocking("opening the audit topic", move || Ok(Self(TierProducer::open(&kafka, topic, "audit")?))).await
    }

    /// Writes the record of one action and waits until the in-sync replicas have it, for a bounded time.
    ///
    /// # Errors
    /// [`ActionError::Audit`]
    pub(crate) async fn record(
        &self,
        who: &str,
        action: &'static str,
        selection: &Selection,
        counts: &Value,
    ) -> Result<(), ActionError> {
        let outgoing = Outgoing {
            topic: Arc::clone(self.0.topic()),
            key: Some(Bytes::from(selection.workspace.clone().unwrap_or_else(|| EVERY_WORKSPACE.to_owned()))),
            payload: Some(written(clock::now_ms(), who, action, selection, counts)),
            headers: Vec::new(),
        };
        self.0.send(&outgoing).await.map_err(ActionError::Audit)
    }
}

fn written(now_ms: i64, who: &str, action: &'static str, selection: &Selection, counts: &Value) -> Bytes {
    let record = Record { at: time(now_ms), who, action, selection, counts };
    serde_json::to_vec(&record).unwrap_or_default().into()
}

/// The caller of a tool: the command line of this host.
pub(crate) fn command_line() -> String {
    format!("cli@{}", host_name())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_says_when_who_what_and_how_many() {
        let selection =
            Selection { workspace: Some("ws".to_owned()), integration: Some("i".to_owned()), ..Selection::default() };
        let record = written(0, "token-12ab34cd", "redrive", &selection, &json!({"sent": 2}));
        let expected = json!({"at": "1970-01-01T00:00:00.000Z", "who": "token-12ab34cd", "action": "redrive",
            "selection": {"integration": "i"}, "counts": {"sent": 2}});
        assert_eq!(serde_json::from_slice::<Value>(&record).unwrap(), expected);
    }
}
