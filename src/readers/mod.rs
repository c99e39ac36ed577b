//! Answers the questions of operators: whether an event arrived, why not, and when the next try is.
//!
//! A library over Kafka's topics: the command line, the HTTP readers and the page use it. Every answer says how far it looked.
//! Nothing here knows HTTP or a terminal, keeps anything between two questions, or writes to Kafka. Every function blocks its
//! thread for a bounded time.

pub(crate) mod gather;
pub(crate) mod trace;
pub(crate) mod integrations;
pub(crate) mod waiting;
pub(crate) mod find;
pub(crate) mod dead_letters;
pub(crate) mod attempts;
mod needle;
pub(crate) mod scan;
pub(crate) mod token;

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::guid;
use crate::kafka::span::SpanError;
use crate::kafka::table_reader::{Compacted, CompactedError, Row};
use crate::kafka::topic_range::check_topic;
use crate::settings;

/// How long the brokers may give nothing while a compacted topic is read.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long one read of a compacted topic waits.
const READ_WAIT: Duration = Duration::from_millis(100);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// A topic can't be opened or read.
    #[error(transparent)]
    Topic(#[from] SpanError),
    /// A compacted topic can't be read.
    #[error(transparent)]
    Table(#[from] CompactedError),
    /// A compacted topic can't be read to its end.
    #[error("topic `{topic}` cannot be read to its end: nothing came for {} s", SILENCE_MAX.as_secs())]
    Silent { topic: String },
    /// The token is of another question, or is not a token.
    #[error("the token `next` is not one of this question; begin without it")]
    Token,
    /// The system gives no thread.
    #[error("no thread could be started to read with")]
    Thread(#[source] std::io::Error),
    /// The caller wants no answer any more.
    #[error("stopped before the end")]
    Stopped,
}

/// Reads a compacted topic to the end it has, and shows each record to `take`, those of one key in their order. Blocks.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn read_table(
    kafka: &settings::Kafka,
    topic: &str,
    role: &'static str,
    wanted: &dyn Fn() -> bool,
    mut take: impl FnMut(&Row<'_>),
) -> Result<(), ReadError> {
    check_topic(kafka, topic, role)?;
    let mut rows = Compacted::open(kafka, topic, role)?;
    let mut last_read = Instant::now();
    while !rows.is_caught_up() {
        if !wanted() {
            return Err(ReadError::Stopped);
        }
        let read = rows.read(READ_WAIT, |row| take(&row))?;
        if read > 0 {
            last_read = Instant::now();
        } else if last_read.elapsed() >= SILENCE_MAX {
            return Err(ReadError::Silent { topic: topic.to_owned() });
        }
    }
    Ok(())
}

/// The result of a thread of a question.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, ReadError>>) -> Result<T, ReadError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A time of RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(ms: i64) -> Option<String> {
    Some(format!("{:.3}", jiff::Timestamp::from_millisecond(ms).ok()?))
}

/// The two parts of `<workspace>/<integration id>`.
fn parts_of(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once('/')
}

/// Whether two ids are the same: GUIDs without regard to case, others letter for letter.
pub(crate) fn same_id(one: &str, other: &str) -> bool {
    guid::canonical(one) == guid::canonical(other)
}

/// Beginnings of ids that are shorter than this count as whole ids: too many ids begin with them.
const PREFIX_CHARS_MIN: usize = 4;

/// Whether a text can be the beginning of a GUID, and is not a whole one.
pub(crate) fn may_begin_guid(text: &str) -> bool {
    let is_part = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    text.len() >= PREFIX_CHARS_MIN && is_part && !is_guid(text)
}

/// Whether `id` is `given`, or a GUID that begins so.
fn is_or_begins(id: &str, given: &str) -> bool {
    let begins = || id.get(..given.len()).is_some_and(|start| start.eq_ignore_ascii_case(given));
    id == given || (is_guid(id) && begins())
}

/// Whether a text is written like `e01c765d-7c9b-491a-b5ea-d0e67eb017d9`.
pub(crate) fn is_guid(text: &str) -> bool {
    guid::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_compare_without_case_and_other_ids_with_it() {
        let guid = "e01c765d-7c9b-491a-b5ea-d0e67eb017d9";
        assert!(same_id(guid, &guid.to_uppercase()));
        assert!(!same_id(guid, &guid.replace('e', "f")));
        assert!(same_id("Shop", "Shop") && !same_id("Shop", "shop"));
        assert!(!is_guid("e01c765d-7c9b-491a-b5ea-d0e67eb017dg") && !is_guid("") && !is_guid(&"é".repeat(18)));
    }
}
