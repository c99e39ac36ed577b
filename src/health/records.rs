//! The records of the health topics, written and read in one place.
//!
//! `<health topic>` holds changes of state, for any consumer. Beside it two topics are this program's own, with the same
//! number of partitions and an integration in the same partition of each: `.deltas` holds what workers count and requests
//! to resume, `.counts` what the owner of a partition has made of them. All are JSON; unknown fields are ignored.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::rules::{Counts, Failing, Failures, Health, IntegrationHealth, ReporterPosition, SecondCounts, Streak};
use crate::domain::outcome::Reason;

/// Why a record of a health topic cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Its key is not UTF-8.
    #[error("the record's key is not UTF-8")]
    Key(#[from] std::str::Utf8Error),
    /// It has no value, where one is needed.
    #[error("the record has no value")]
    NoValue,
    /// It is not the JSON that this topic has.
    #[error("the record's value cannot be read")]
    Json(#[from] serde_json::Error),
    /// A status that no version wrote.
    #[error("the record's status is not known")]
    Status,
    /// The id of the reporting process is not a hexadecimal number.
    #[error("`boot` is not a number")]
    ProcessId,
}

/// The partition of an integration's key, as Kafka's own clients place keys.
pub fn partition_of(key: &str, partitions: i32) -> i32 {
    let hash = murmur2(key.as_bytes()) & 0x7fff_ffff;
    i32::try_from(hash).unwrap_or(0) % partitions.max(1)
}

/// Kafka's murmur2.
fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = 0x9747_b28c ^ length;
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MIX);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ hash >> 15
}

/// Failures as JSON: `{"<reason>": count}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct ByReason(BTreeMap<Cow<'static, str>, u32>);

impl From<&Failures> for ByReason {
    fn from(failures: &Failures) -> Self {
        Self(failures.iter().map(|(reason, count)| (Cow::Borrowed(reason.word()), count)).collect())
    }
}

impl ByReason {
    fn failures(&self) -> Failures {
        self.0.iter().filter_map(|(word, count)| Some((Reason::parse(word)?, *count))).collect()
    }
}

/// What one worker counted in one second of one integration.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlotRecord {
    second: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    acknowledged: u32,
    #[serde(default, skip_serializing_if = "nothing_failed")]
    failures: ByReason,
    /// Left out if nothing was acknowledged: then it equals `failures`.
    #[serde(default, skip_serializing_if = "nothing_failed")]
    unacknowledged: ByReason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_failure_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_acknowledged_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_answer: Option<(i64, u16)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn nothing_failed(failures: &ByReason) -> bool {
    failures.0.is_empty()
}

impl From<&SecondCounts> for SlotRecord {
    fn from(slot: &SecondCounts) -> Self {
        Self {
            second: slot.second,
            acknowledged: slot.acknowledged,
            failures: (&slot.failures).into(),
            unacknowledged: slot.last_acknowledged_ms.map(|_| (&slot.unacknowledged).into()).unwrap_or_default(),
            first_failure_ms: slot.first_failure_ms,
            last_acknowledged_ms: slot.last_acknowledged_ms,
            last_answer: slot.last_answer,
        }
    }
}

impl From<SlotRecord> for SecondCounts {
    fn from(record: SlotRecord) -> Self {
        let failures = record.failures.failures();
        let unacknowledged =
            if record.last_acknowledged_ms.is_none() { failures } else { record.unacknowledged.failures() };
        Self {
            second: record.second,
            acknowledged: record.acknowledged,
            failures,
            unacknowledged,
            first_failure_ms: record.first_failure_ms,
            last_acknowledged_ms: record.last_acknowledged_ms,
            last_answer: record.last_answer,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct DeltaRecord<'a> {
    #[serde(borrow)]
    integration: Cow<'a, str>,
    slots: Vec<SlotRecord>,
}

/// A record of the deltas topic.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DeltasRecord<'a> {
    DeltaBatch {
        worker: Cow<'a, str>,
        /// Its name in the records of the first release.
        #[serde(rename = "boot")]
        process_id: Cow<'a, str>,
        sequence: u64,
        #[serde(borrow)]
        deltas: Vec<DeltaRecord<'a>>,
    },
    ResumeRequest {
        resume: ResumeRecord,
    },
}

#[derive(Serialize, Deserialize)]
struct ResumeRecord {
    integration: String,
    since: Option<Timestamp>,
}

/// A worker's report in one record: what it counted of integrations of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaBatch {
    /// The reporting process, and the sequence number of this report in this partition.
    pub reporter: ReporterPosition,
    /// By integration.
    pub deltas: Vec<(String, Vec<SecondCounts>)>,
}

/// A request to make a suspended integration active again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResumeRequest {
    /// The integration's key.
    pub(crate) key: String,
    /// The beginning of the suspension to end, ms since 1970. A later suspension is not ended. `None` ends any.
    pub(crate) since_ms: Option<i64>,
}

/// A record of the deltas topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// What a worker counted.
    DeltaBatch(DeltaBatch),
    /// A request to resume.
    ResumeRequest(ResumeRequest),
}

impl DeltaBatch {
    /// The record's value. `worker` is the host name of this worker.
    pub fn record(&self, worker: &str) -> Vec<u8> {
        json(&DeltasRecord::DeltaBatch {
            worker: worker.into(),
            process_id: format!("{:016x}", self.reporter.process_id).into(),
            sequence: self.reporter.sequence,
            deltas: self
                .deltas
                .iter()
                .map(|(key, slots)| DeltaRecord {
                    integration: key.as_str().into(),
                    slots: slots.iter().map(SlotRecord::from).collect(),
                })
                .collect(),
        })
    }
}

impl ResumeRequest {
    /// The record's value.
    pub(crate) fn record(&self) -> Vec<u8> {
        let since = self.since_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        json(&DeltasRecord::ResumeRequest { resume: ResumeRecord { integration: self.key.clone(), since } })
    }
}

impl Delta {
    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn parse(value: &[u8]) -> Result<Self, RecordError> {
        match serde_json::from_slice(value)? {
            DeltasRecord::DeltaBatch { process_id, sequence, deltas, .. } => {
                let process_id = u64::from_str_radix(&process_id, 16).map_err(|_invalid| RecordError::ProcessId)?;
                let deltas = deltas.into_iter().map(|delta| {
                    (delta.integration.into_owned(), delta.slots.into_iter().map(SecondCounts::from).collect())
                });
                Ok(Self::DeltaBatch(DeltaBatch {
                    reporter: ReporterPosition { process_id, sequence },
                    deltas: deltas.collect(),
                }))
            }
            DeltasRecord::ResumeRequest { resume } => Ok(Self::ResumeRequest(ResumeRequest {
                key: resume.integration,
                since_ms: resume.since.map(Timestamp::as_millisecond),
            })),
        }
    }
}

/// A record of the health topic: the contract's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StateRecord {
    status: String,
    since: Timestamp,
    #[serde(default)]
    failures: ByReason,
    #[serde(default)]
    last_status: Option<u16>,
    #[serde(default)]
    last_acknowledged_at: Option<Timestamp>,
    #[serde(default)]
    first_dropped: BTreeMap<i32, i64>,
}

impl StateRecord {
    /// The record of what is known.
    pub(crate) fn of(known: &IntegrationHealth) -> Self {
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        Self {
            status: known.health.word().to_owned(),
            since: known.since_ms.and_then(time).unwrap_or_default(),
            failures: (&known.failures()).into(),
            last_status: known.counts.last_answer.map(|(_, status)| status),
            last_acknowledged_at: known.counts.last_acknowledged_ms.and_then(time),
            first_dropped: known.first_dropped.clone(),
        }
    }

    /// The value to write.
    pub(crate) fn value(&self) -> Vec<u8> {
        json(self)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`]
    pub(crate) fn parse(value: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(value)?;
        match Health::parse(&record.status) {
            Some(_) => Ok(record),
            None => Err(RecordError::Status),
        }
    }

    pub(crate) fn health(&self) -> Health {
        Health::parse(&self.status).unwrap_or_default()
    }

    /// Since when the state is.
    pub(crate) fn since(&self) -> Timestamp {
        self.since
    }

    /// Since when the state is, ms since 1970.
    pub(crate) fn since_ms(&self) -> i64 {
        self.since.as_millisecond()
    }

    /// Whether it counts a failure of this reason.
    pub(crate) fn failed_for(&self, reason: &str) -> bool {
        self.failures.0.get(reason).is_some_and(|count| *count > 0)
    }

    /// The failures by reason, for people: the most frequent first.
    pub(crate) fn failures_in_words(&self) -> String {
        let mut failures: Vec<_> = self.failures.0.iter().collect();
        failures.sort_by(|left, right| right.1.cmp(left.1).then_with(|| left.0.cmp(right.0)));
        failures.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }

    /// The HTTP status of the last answer.
    pub(crate) fn last_status(&self) -> Option<u16> {
        self.last_status
    }

    /// When the integration last acknowledged.
    pub(crate) fn last_acknowledged_at(&self) -> Option<Timestamp> {
        self.last_acknowledged_at
    }

    /// By partition of the events topic, the offset from which the last suspension dropped events.
    pub(crate) fn first_dropped(&self) -> &BTreeMap<i32, i64> {
        &self.first_dropped
    }

    /// What is known if there is only this record.
    pub(crate) fn known(&self) -> IntegrationHealth {
        IntegrationHealth {
            health: self.health(),
            since_ms: Some(self.since_ms()),
            first_dropped: self.first_dropped.clone(),
            ..IntegrationHealth::default()
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FailingRecord {
    second: u32,
    first_ms: i64,
    failures: ByReason,
}

impl From<&Failing> for FailingRecord {
    fn from(failing: &Failing) -> Self {
        Self { second: failing.second, first_ms: failing.first_ms, failures: (&failing.failures).into() }
    }
}

impl From<FailingRecord> for Failing {
    fn from(record: FailingRecord) -> Self {
        Self { second: record.second, first_ms: record.first_ms, failures: record.failures.failures() }
    }
}

/// A record of the counts topic: all that is known of an integration.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct CountsRecord {
    status: String,
    since_ms: Option<i64>,
    first_dropped: BTreeMap<i32, i64>,
    next_offset: i64,
    #[serde(rename = "told")]
    reported: Vec<(u64, u64)>,
    acknowledged: Vec<(u32, u32)>,
    failed: Vec<(u32, ByReason)>,
    streak_older: Option<FailingRecord>,
    streak: Vec<FailingRecord>,
    last_acknowledged_ms: Option<i64>,
    last_answer: Option<(i64, u16)>,
    begun_after: Option<u32>,
}

/// The counts record of what is known.
pub fn counts_record(known: &IntegrationHealth) -> Vec<u8> {
    let counts = &known.counts;
    json(&CountsRecord {
        status: known.health.word().to_owned(),
        since_ms: known.since_ms,
        first_dropped: known.first_dropped.clone(),
        next_offset: known.next_offset,
        reported: known.reported.iter().map(|reported| (reported.process_id, reported.sequence)).collect(),
        acknowledged: counts.acknowledged.clone(),
        failed: counts.failed.iter().map(|(part, failures)| (*part, failures.into())).collect(),
        streak_older: counts.streak.older.as_ref().map(FailingRecord::from),
        streak: counts.streak.recent.iter().map(FailingRecord::from).collect(),
        last_acknowledged_ms: counts.last_acknowledged_ms,
        last_answer: counts.last_answer,
        begun_after: counts.begun_after,
    })
}

/// Reads a counts record.
///
/// # Errors
/// [`RecordError`]
pub fn parse_counts(value: &[u8]) -> Result<IntegrationHealth, RecordError> {
    let record: CountsRecord = serde_json::from_slice(value)?;
    let health = Health::parse(&record.status).ok_or(RecordError::Status)?;
    Ok(IntegrationHealth {
        health,
        since_ms: record.since_ms,
        first_dropped: record.first_dropped,
        next_offset: record.next_offset,
        reported: record
            .reported
            .into_iter()
            .map(|(process_id, sequence)| ReporterPosition { process_id, sequence })
            .collect(),
        counts: Counts {
            acknowledged: record.acknowledged,
            failed: record.failed.into_iter().map(|(part, failures)| (part, failures.failures())).collect(),
            streak: Streak {
                older: record.streak_older.map(Failing::from),
                recent: record.streak.into_iter().map(Failing::from).collect(),
            },
            last_acknowledged_ms: record.last_acknowledged_ms,
            last_answer: record.last_answer,
            begun_after: record.begun_after,
        },
    })
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("maps with text keys and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn keys_are_placed_as_kafka_places_them() {
        // From the tests of Kafka's own Utils.murmur2.
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
        assert!((0..100).all(|n| (0..12).contains(&partition_of(&format!("ws/{n}"), 12))));
    }

    #[test]
    fn the_state_record_is_the_documented_one() {
        let mut known = IntegrationHealth::default().changed(Health::Failed, 1_632_827_306_903);
        known.counts.last_acknowledged_ms = Some(1_632_820_000_000);
        known.counts.last_answer = Some((1_632_827_300_000, 503));
        known.counts.streak.recent = vec![Failing {
            second: 1_632_827_300,
            first_ms: 1_632_827_300_000,
            failures: [(Reason::Status, 119), (Reason::EchoMissing, 1)].into_iter().collect(),
        }];
        known.first_dropped = BTreeMap::from([(0, 4711), (11, 0)]);
        let record = StateRecord::of(&known);
        let value: Value = serde_json::from_slice(&record.value()).unwrap();
        assert_eq!(
            value,
            json!({
                "status": "failed",
                "since": "2021-09-28T11:08:26.903Z",
                "failures": {"status": 119, "echo-missing": 1},
                "lastStatus": 503,
                "lastAcknowledgedAt": "2021-09-28T09:06:40Z",
                "firstDropped": {"0": 4711, "11": 0},
            })
        );
        assert_eq!(StateRecord::parse(&record.value()).ok(), Some(record));
        let bare = StateRecord::parse(br#"{"status":"hasErrors","since":"2021-09-28T11:08:26Z"}"#).unwrap();
        assert_eq!((bare.health(), bare.since_ms()), (Health::HasErrors, 1_632_827_306_000));
        assert!(StateRecord::parse(br#"{"status":"paused","since":"2021-09-28T11:08:26Z"}"#).is_err());
        assert!(StateRecord::parse(b"{").is_err());
    }

    fn any_failures() -> impl Strategy<Value = Failures> {
        let reasons: Vec<Reason> = Reason::ALL.into_iter().filter(|reason| reason.is_attempt()).collect();
        prop::collection::vec((prop::sample::select(reasons), 1..9u32), 0..4)
            .prop_map(|counted| counted.into_iter().collect())
    }

    fn any_slot() -> impl Strategy<Value = SecondCounts> {
        let at = || prop::option::of(any::<i64>());
        let failures = (any_failures(), any_failures());
        (any::<u32>(), any::<u32>(), failures, at(), at(), prop::option::of(any::<(i64, u16)>())).prop_map(
            |(second, acknowledged, (failures, later), first_failure_ms, last_acknowledged_ms, last_answer)| {
                SecondCounts {
                    second,
                    acknowledged,
                    failures,
                    unacknowledged: if last_acknowledged_ms.is_none() { failures } else { later },
                    first_failure_ms,
                    last_acknowledged_ms,
                    last_answer,
                }
            },
        )
    }

    fn any_failing() -> impl Strategy<Value = Failing> {
        (any::<u32>(), any::<i64>(), any_failures()).prop_map(|(second, first_ms, failures)| Failing {
            second,
            first_ms,
            failures,
        })
    }

    proptest! {
        #[test]
        fn deltas_read_back(
            process_id in any::<u64>(), sequence in any::<u64>(),
            deltas in prop::collection::vec(("[a-zä\"/]{1,9}", prop::collection::vec(any_slot(), 0..3)), 0..3),
            key in "[a-zß/]{1,9}", since_ms in prop::option::of(0..9_000_000_000_000i64),
        ) {
            let report = DeltaBatch { reporter: ReporterPosition { process_id, sequence }, deltas };
            prop_assert_eq!(Delta::parse(&report.record("host")).ok(), Some(Delta::DeltaBatch(report)));
            let resume = ResumeRequest { key, since_ms };
            prop_assert_eq!(Delta::parse(&resume.record()).ok(), Some(Delta::ResumeRequest(resume)));
        }

        #[test]
        fn counts_read_back(
            health in prop::sample::select(Health::ALL.to_vec()),
            times in any::<(Option<i64>, Option<i64>, Option<(i64, u16)>, Option<u32>, i64)>(),
            first_dropped in any::<BTreeMap<i32, i64>>(),
            reported in any::<Vec<(u64, u64)>>(),
            acknowledged in any::<Vec<(u32, u32)>>(),
            failed in prop::collection::vec((any::<u32>(), any_failures()), 0..4),
            older in prop::option::of(any_failing()),
            recent in prop::collection::vec(any_failing(), 0..4),
        ) {
            let known = IntegrationHealth {
                health,
                since_ms: times.0,
                first_dropped,
                next_offset: times.4,
                reported: reported.into_iter().map(|(process_id, sequence)| ReporterPosition { process_id, sequence }).collect(),
                counts: Counts {
                    acknowledged,
                    failed,
                    streak: Streak { older, recent },
                    last_acknowledged_ms: times.1,
                    last_answer: times.2,
                    begun_after: times.3,
                },
            };
            prop_assert_eq!(parse_counts(&counts_record(&known)).ok(), Some(known));
        }
    }
}
