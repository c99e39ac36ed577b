//! One integration as the workers know it: its record in the integrations topic, and its state in the health topic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{ToolError, blocking};
use crate::domain::guid::canonical_key;
use crate::domain::integration::Integration;
use crate::health::records::StateRecord;
use crate::health::rules;
use crate::kafka::table_reader::Compacted;
use crate::kafka::topic_range::{SpanError, check_topic};
use crate::readers::{ReadError, is_guid, read_table};
use crate::settings::{IntegrationName, Kafka, Settings};

/// How long the brokers may give nothing.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long one read waits.
const READ_WAIT: Duration = Duration::from_millis(100);

/// Fewer characters of an id are taken as they are: too many begin so.
const PREFIX_CHARS_MIN: usize = 4;
/// Ids that are named where several begin alike.
const NAMED_MAX: usize = 5;

/// The whole id of the only integration whose id begins with `given`, if that can be the beginning of a GUID; otherwise what was
/// given. An id that is there stays as it is.
pub(super) async fn whole_id(
    settings: &Settings,
    workspace: Option<&str>,
    given: Option<&str>,
) -> Result<Option<String>, ToolError> {
    let Some(given) = given else { return Ok(None) };
    let is_part = given.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if given.len() < PREFIX_CHARS_MIN || is_guid(given) || !is_part {
        return Ok(Some(given.to_owned()));
    }
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.integrations.clone());
    let (workspace, prefix) = (workspace.map(str::to_owned), given.to_ascii_lowercase());
    let found = blocking("reading the integrations topic", move || {
        let mut found = BTreeSet::new();
        let read = read_table(&kafka, &topic, "id-lookup", &|| true, |row| {
            let key = std::str::from_utf8(row.key).ok().and_then(|key| key.split_once('/'));
            let Some((of, id)) = key else { return };
            let is_meant = workspace.as_deref().is_none_or(|wanted| wanted == of)
                && (id.to_ascii_lowercase().starts_with(&prefix));
            if is_meant && row.value.is_some() {
                found.insert(id.to_owned());
            } else if is_meant {
                found.remove(id);
            }
        });
        match read {
            Ok(()) | Err(ReadError::Topic(SpanError::NoTopic(_))) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(found)
    })
    .await?;
    if found.contains(given) || found.is_empty() {
        return Ok(Some(given.to_owned()));
    }
    if found.len() > 1 {
        let named: Vec<&str> = found.iter().take(NAMED_MAX).map(String::as_str).collect();
        return Err(ToolError::Refused(format!(
            "--integration: {} integrations begin with `{given}`: {}{}",
            found.len(),
            named.join(", "),
            if found.len() > NAMED_MAX { ", …" } else { "" }
        )));
    }
    Ok(found.into_iter().next())
}

/// The name with the whole id.
pub(super) async fn whole_name(settings: &Settings, name: &IntegrationName) -> Result<IntegrationName, ToolError> {
    let IntegrationName { workspace, integration } = name;
    let whole = whole_id(settings, Some(workspace), Some(integration)).await?;
    Ok(IntegrationName { workspace: workspace.clone(), integration: whole.unwrap_or_else(|| integration.clone()) })
}

/// The integration that is in force.
pub(super) struct Found {
    pub(super) integration: Integration,
    /// The value of its record. Holds secrets.
    pub(super) value: Vec<u8>,
}

/// Looks for the integration of that key. The last good record counts, as it does for the workers.
pub(super) async fn integration(settings: &Settings, key: &str) -> Result<Found, ToolError> {
    let (kafka, topic, wanted) = (settings.kafka.clone(), settings.topics.integrations.clone(), key.to_owned());
    let (found, problem) = blocking("reading the integrations topic", move || {
        let mut found = None;
        let mut problem = None;
        rows_of(&kafka, &topic, "explain-integrations", &wanted, |value| {
            let Some(value) = value else {
                (found, problem) = (None, None);
                return;
            };
            match Integration::parse(&wanted, value) {
                Ok(integration) => {
                    found = Some(Found { integration, value: value.to_vec() });
                    problem = None;
                }
                Err(error) => problem = Some(error),
            }
        })?;
        Ok((found, problem))
    })
    .await?;
    match (found, problem) {
        (Some(found), problem) => {
            if let Some(error) = problem {
                tracing::warn!(key, %error, "the newest record cannot be used; the one before it is in force");
            }
            Ok(found)
        }
        (None, Some(source)) => Err(ToolError::Unusable { key: key.to_owned(), source }),
        (None, None) => Err(ToolError::Refused(format!(
            "there is no integration `{key}` in topic `{}`: check --workspace and --integration",
            settings.topics.integrations
        ))),
    }
}

/// What the health topic says of an integration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// The newest record's `status`.
    pub(super) status: Option<String>,
    /// The newest record's `since`.
    pub(super) since: Option<String>,
    /// Of the newest record that has it: a resumed integration's suspension is still what a replay begins with.
    pub(super) first_dropped: BTreeMap<i32, i64>,
}

impl Health {
    pub(super) fn is_suspended(&self) -> bool {
        self.status.as_deref() == Some(rules::Health::Failed.word())
    }

    fn follow(&mut self, value: Option<&[u8]>) -> Result<(), String> {
        let record = value.map(StateRecord::parse).transpose()?;
        self.status = record.as_ref().map(|record| record.health().word().to_owned());
        self.since = record.as_ref().map(|record| record.since().to_string());
        if let Some(first_dropped) =
            record.as_ref().map(StateRecord::first_dropped).filter(|offsets| !offsets.is_empty())
        {
            self.first_dropped.clone_from(first_dropped);
        }
        Ok(())
    }
}

/// What the health topic says of that key; none where there is no such topic.
pub(super) async fn health(settings: &Settings, key: &str) -> Result<Option<Health>, ToolError> {
    let (kafka, topic, key) = (settings.kafka.clone(), settings.topics.health.clone(), key.to_owned());
    blocking("reading the health topic", move || {
        let mut health = Health::default();
        let read = rows_of(&kafka, &topic, "explain-health", &key, |value| {
            if let Err(error) = health.follow(value) {
                tracing::warn!(key, error, "a record of the health topic cannot be read and is passed over");
            }
        });
        match read {
            Ok(()) => Ok(Some(health)),
            Err(ToolError::TopicRange(SpanError::NoTopic(_))) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Reads a compacted topic to its end and hands over the values of one key, oldest first. Blocks for a bounded time.
fn rows_of(
    kafka: &Kafka,
    topic: &str,
    role: &'static str,
    key: &str,
    mut take: impl FnMut(Option<&[u8]>),
) -> Result<(), ToolError> {
    check_topic(kafka, topic, role)?;
    let mut rows = Compacted::open(kafka, topic, role)?;
    let mut heard = Instant::now();
    while !rows.is_caught_up() {
        let read = rows.read(READ_WAIT, |row| {
            if std::str::from_utf8(row.key).is_ok_and(|found| canonical_key(found) == canonical_key(key)) {
                take(row.value);
            }
        })?;
        if read > 0 {
            heard = Instant::now();
        } else if heard.elapsed() >= SILENCE_MAX {
            return Err(ToolError::Refused(format!(
                "topic `{topic}` cannot be read to its end: nothing came for {} s",
                SILENCE_MAX.as_secs()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_offsets_of_a_suspension_outlive_its_end() {
        let mut health = Health::default();
        let mut follow =
            |value: serde_json::Value| health.follow(Some(value.to_string().as_bytes())).map(|()| health.clone());
        let early = follow(json!({"status": "hasErrors", "since": "2023-11-14T22:13:20Z"})).unwrap();
        assert_eq!(early.first_dropped.len(), 0);
        let begin = json!({"0": 5, "11": 7});
        let failed = json!({"status": "failed", "since": "2023-11-14T22:13:30Z", "firstDropped": begin, "more": 1});
        assert!(follow(failed).unwrap().is_suspended());
        let resumed = follow(json!({"status": "active", "since": "2023-11-14T22:14:00Z", "firstDropped": {}})).unwrap();
        assert!(!resumed.is_suspended());
        assert_eq!(resumed.since.as_deref(), Some("2023-11-14T22:14:00Z"));
        assert_eq!(resumed.first_dropped, BTreeMap::from([(0, 5), (11, 7)]));
        let again = json!({"status": "failed", "since": "2023-11-14T23:00:00Z", "firstDropped": {"0": 9}});
        assert_eq!(follow(again).unwrap().first_dropped, BTreeMap::from([(0, 9)]), "the newest suspension counts");
        assert!(follow(json!({"status": "strange", "since": "2023-11-14T23:00:00Z"})).is_err());
        assert!(health.is_suspended(), "what can't be read changes nothing");
        health.follow(None).unwrap();
        assert_eq!((health.status, health.first_dropped.len()), (None, 1));
    }
}
