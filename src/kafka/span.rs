//! What the tools read of a topic: which offsets, a record of them, and why they can't be read.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use super::headers::every_header;
use crate::domain::headers::{Wire, workspace_of};

/// How long the brokers may take for one answer before a tool gives up.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a partition may give nothing, neither a record nor its end. Above it the brokers are gone.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Why a topic can't be looked through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpanError {
    /// No broker answers.
    #[error("no broker of `{brokers}` answers within {} s{}", ANSWER_TIMEOUT.as_secs(), behind_colon(cause.as_deref()))]
    NoBroker {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said last about a connection.
        cause: Option<String>,
    },
    /// It is not there.
    #[error(transparent)]
    NoTopic(MissingTopic),
    /// A record is not there.
    #[error("there is no record {topic}/{partition}/{offset}: {instead}")]
    NoRecord {
        /// The topic asked for.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// What there is.
        instead: String,
    },
    /// The brokers stopped to answer.
    #[error("nothing came from {topic}/{partition}/{offset} for {} s: the brokers do not answer", SILENCE_MAX.as_secs())]
    Silent {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was to come.
        offset: i64,
    },
    /// Kafka refuses.
    #[error("topic `{topic}` cannot be read")]
    Kafka {
        /// The topic.
        topic: String,
        /// What the client says.
        source: KafkaError,
    },
    /// The reading thread ended without having said why.
    #[error("the reading of topic `{0}` ended without being asked to; see the log")]
    Ended(String),
}

/// A topic that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic `{topic}` does not exist{}", meant(near.as_deref()))]
pub(crate) struct MissingTopic {
    /// Its name, as it was given.
    pub(crate) topic: String,
    /// A topic of nearly that name.
    pub(crate) near: Option<String>,
}

fn meant(near: Option<&str>) -> String {
    near.map_or_else(
        || "; `hookstream topics apply` creates it".to_owned(),
        |near| format!(", but `{near}` does; if the name is right, `hookstream topics apply` creates it"),
    )
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanRecord {
    /// Its partition.
    pub(crate) partition: i32,
    /// Its offset.
    pub(crate) offset: i64,
    /// ms since 1970.
    pub(crate) timestamp_ms: Option<i64>,
    /// Its key.
    pub(crate) key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
    /// Its headers, in order. One whose name is not UTF-8 is left out.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

impl SpanRecord {
    /// What its headers say.
    pub(crate) fn wire(&self) -> Wire {
        Wire::read(self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?))))
    }

    /// The workspace of an event, as the worker reads it.
    pub(crate) fn workspace(&self) -> Option<&str> {
        let headers = self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        workspace_of(headers, self.key.as_deref())
    }

    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            every_header(headers).map(|(name, value)| (name.to_owned(), value.map(Bytes::copy_from_slice))).collect()
        });
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: headers.unwrap_or_default(),
        }
    }
}

/// Offsets of one partition: from `start`, up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The partition.
    pub(crate) partition: i32,
    /// The first offset.
    pub(crate) start: i64,
    /// The first offset that is not read.
    pub(crate) end: i64,
}

impl Range {
    /// How many offsets it spans: no fewer than it has records.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn behind_colon(text: Option<&str>) -> String {
    text.map(|text| format!(": {text}")).unwrap_or_default()
}
