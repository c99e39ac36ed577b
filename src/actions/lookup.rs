//! One integration as the workers know it: its record in the integrations topic, and its state in the health topic.

use std::collections::BTreeMap;

use super::refusal::Refusal;
use super::{ActionError, blocking};
use crate::domain::guid::canonical_key;
use crate::domain::integration::Integration;
use crate::health::records::{RecordError, StateRecord};
use crate::health::rules;
use crate::kafka::span::SpanError;
use crate::kafka::table_reader::Row;
use crate::readers::{ReadError, read_table};
use crate::settings::{Kafka, Settings};
use crate::telemetry::chain::chain;

/// The integration that is in force.
pub(crate) struct Found {
    pub(crate) integration: Integration,
    /// The value of its record. Holds secrets.
    pub(crate) value: Vec<u8>,
    /// The place of its record.
    pub(crate) record: String,
}

/// Finds the integration of that key. The last good record counts, as it does for the workers.
pub(crate) async fn integration(settings: &Settings, key: &str) -> Result<Found, ActionError> {
    let (kafka, topic, wanted) = (settings.kafka.clone(), settings.topics.integrations.clone(), key.to_owned());
    let (found, problem) = blocking("reading the integrations topic", move || {
        let mut found = None;
        let mut problem = None;
        rows_of(&kafka, &topic, "explain-integrations", &wanted, |row| {
            let Some(value) = row.value else {
                (found, problem) = (None, None);
                return;
            };
            match Integration::parse(&wanted, value) {
                Ok(integration) => {
                    let record = format!("{topic}/{}/{}", row.partition, row.offset);
                    found = Some(Found { integration, value: value.to_vec(), record });
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
        (None, Some(source)) => Err(ActionError::Unusable { key: key.to_owned(), source }),
        (None, None) => {
            let topic = settings.topics.integrations.clone();
            Err(Refusal::NoIntegration { key: key.to_owned(), topic }.into())
        }
    }
}

/// The state of an integration in the health topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// The newest record's `status`.
    pub(crate) status: Option<String>,
    /// The newest record's `since`.
    pub(crate) since: Option<String>,
    /// From the newest record that has offsets. They stay after a resumption, since a replay begins with them.
    pub(crate) first_dropped: BTreeMap<i32, i64>,
}

impl Health {
    pub(crate) fn is_suspended(&self) -> bool {
        self.status.as_deref() == Some(rules::Health::Failed.word())
    }

    fn follow(&mut self, value: Option<&[u8]>) -> Result<(), RecordError> {
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

/// The health of the integration of that key. `None` if the health topic does not exist.
pub(crate) async fn health(settings: &Settings, key: &str) -> Result<Option<Health>, ActionError> {
    let (kafka, topic, key) = (settings.kafka.clone(), settings.topics.health.clone(), key.to_owned());
    blocking("reading the health topic", move || {
        let mut health = Health::default();
        let read = rows_of(&kafka, &topic, "explain-health", &key, |row| {
            if let Err(error) = health.follow(row.value) {
                tracing::warn!(
                    key,
                    error = chain(&error),
                    "a record of the health topic cannot be read and is passed over"
                );
            }
        });
        match read {
            Ok(()) => Ok(Some(health)),
            Err(ReadError::Topic(SpanError::NoTopic(_))) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Reads a compacted topic to its end and hands over the records of one key, oldest first. Blocks for a bounded time.
fn rows_of(
    kafka: &Kafka,
    topic: &str,
    role: &'static str,
    key: &str,
    mut take: impl FnMut(&Row<'_>),
) -> Result<(), ReadError> {
    read_table(kafka, topic, role, &|| true, |row| {
        if std::str::from_utf8(row.key).is_ok_and(|found| canonical_key(found) == canonical_key(key)) {
            take(row);
        }
    })
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
