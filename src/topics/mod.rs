//! The topics that the program lives on: how each must be, what differs, and what a difference costs.
//!
//! No Kafka in the rules: what a cluster has comes in as [`Actual`], findings go out. `cluster` reads and changes clusters.

pub(crate) mod cluster;
mod judge;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::retry_schedule::{Delay, RetrySchedule};
use crate::domain::topic_names::{self, counts_topic, deltas_topic, now_topic, tier_topic};
use crate::settings;

/// What a topic is for; its rules follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The CRM's events. Its owner alters it, so differences are only reported.
    Events,
    /// Integrations by key.
    Integrations,
    /// Retries that wait for this delay.
    Tier(Delay),
    /// Redriven and replayed records, which are due at once.
    Now,
    /// Deliveries that were given up.
    DeadLetter,
    /// The attempt log.
    Attempts,
    /// The places of webhooks that are behind in the events topic, by key.
    Backlog,
    /// What operators did.
    Audit,
    /// The state of each integration by key.
    Health,
    /// The failure counts that all workers send to the owner of a state.
    HealthDeltas,
    /// What the owner of a state has made of them, by key.
    HealthCounts,
}

/// How one topic must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicSpec {
    pub(crate) name: String,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// Partitions to create it with.
    pub(crate) partitions: u16,
    /// Replicas to create it with, where the cluster has as many brokers.
    pub(crate) replicas: u16,
    /// Properties to create it with.
    pub(crate) properties: Vec<(&'static str, String)>,
}

impl TopicSpec {
    /// What it is created with, in words.
    fn shape(&self) -> String {
        format!("{} and {}", count(self.partitions, "partition"), count(self.replicas, "replica"))
    }
}

/// What a cluster has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actual {
    /// Brokers that are up.
    pub(crate) brokers: u16,
    /// The topics asked for that exist, by name.
    pub(crate) topics: BTreeMap<String, ActualTopic>,
}

/// One topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActualTopic {
    pub(crate) partitions: u16,
    /// The replicas of the partition that has fewest.
    pub(crate) replicas: u16,
    /// Its properties, defaults included, or why they could not be read.
    pub(crate) properties: Result<BTreeMap<String, String>, NotDescribed>,
}

/// Why a topic's properties are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDescribed {
    #[error("the cluster did not describe them")]
    Unanswered,
    #[error("brokers answer, but the question for properties (DescribeConfigs) had no answer in time")]
    Late,
    /// In the client's words.
    #[error("{why}")]
    Refused { why: String },
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Data would be lost, or the worker can't do its work: it refuses to start.
    Error,
    /// Worth changing; the worker runs.
    Warning,
}

/// What would settle a finding.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fix {
    /// `topics apply` creates the topic.
    Create,
    /// `topics apply` sets the property to this value.
    Set(String),
    /// `topics apply` adds partitions up to this number.
    Partitions(u16),
    /// A person has to.
    ByHand,
}

/// One difference between how a topic is and how it must be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub(crate) severity: Severity,
    pub(crate) topic: String,
    /// The property at fault, or `topic`, `partitions`, `replicas`.
    pub subject: &'static str,
    /// The value that it has.
    pub(crate) actual: String,
    /// The value that it must have.
    pub(crate) wanted: String,
    /// What the difference costs, as a sentence.
    pub(crate) cost: String,
    /// What would settle it.
    pub(crate) fix: Fix,
}

/// What differs, which topics are missing, and what else the user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every topic as it must be, in the order of an event's path.
    pub(crate) specs: Vec<TopicSpec>,
    /// The differences, in the same order.
    pub findings: Vec<Finding>,
    /// Sentences about what is wanted but can't be had on this cluster.
    pub(crate) notes: Vec<String>,
}

/// Retries are kept this long beyond their delay: all workers may be down for this long.
const OUTAGE: Duration = Duration::from_hours(72);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Headers and record framing on top of the largest event.
const HEADERS_BYTES_MAX: u64 = 64 * 1024;
/// Kafka's own default for `max.message.bytes`.
pub(crate) const MESSAGE_BYTES_DEFAULT: u64 = 1_048_588;
/// The largest record of the attempt log, of a state or of a count.
const SMALL_RECORD_BYTES_MAX: u64 = 64 * 1024;

impl Purpose {
    /// Compacted topics are tables: a key's partition must never change.
    fn is_table(self) -> bool {
        matches!(self, Self::Integrations | Self::Backlog | Self::Health | Self::HealthCounts)
    }

    /// How long records must be kept, where they are not kept by key.
    fn retention(self) -> Option<Duration> {
        match self {
            Self::Integrations | Self::Backlog | Self::Health | Self::HealthCounts => None,
            Self::Events | Self::Now => Some(7 * DAY),
            Self::Tier(delay) => Some((delay.duration() + OUTAGE).max(7 * DAY)),
            Self::DeadLetter => Some(30 * DAY),
            Self::Attempts => Some(3 * DAY),
            // An audit may look a year back. The records are few and small.
            Self::Audit => Some(365 * DAY),
            Self::HealthDeltas => Some(2 * DAY),
        }
    }

    /// Whether records carry the broker's time: in every topic that we write. By it they fall due or expire in the order they were
    /// written, and brokers refuse the time of a process whose clock is an hour ahead.
    fn has_append_time(self) -> bool {
        self.is_ours()
    }

    /// Whether `topics apply` may change a topic of this purpose that exists.
    fn is_ours(self) -> bool {
        self != Self::Events
    }

    fn record_bytes_max(self, events_bytes_max: u64) -> Option<u64> {
        match self {
            Self::Events | Self::Integrations => None,
            Self::Tier(_) | Self::Now | Self::DeadLetter => Some(events_bytes_max.saturating_add(HEADERS_BYTES_MAX)),
            Self::Attempts | Self::Audit | Self::Backlog | Self::Health | Self::HealthDeltas | Self::HealthCounts => {
                Some(SMALL_RECORD_BYTES_MAX)
            }
        }
    }

    fn missing(self) -> (Severity, &'static str) {
        match self {
            Self::Events => (Severity::Error, "there is nothing to read events from"),
            Self::Integrations => (Severity::Error, "no integration is known, so nothing can be delivered"),
            Self::Tier(_) => (Severity::Error, "what fails could not be put off, and its partition would stand still"),
            Self::Backlog => (Severity::Error, "a webhook that cannot take more would have nowhere to keep its place"),
            Self::Now => (Severity::Warning, "nothing can be redriven or replayed"),
            Self::DeadLetter => {
                (Severity::Error, "what is given up could not be recorded, and its partition would stand still")
            }
            Self::Attempts => (Severity::Warning, "the attempt log is dropped and only counted"),
            Self::Audit => (Severity::Warning, "the API refuses to redrive, replay and resume"),
            Self::Health => (Severity::Warning, "which integrations are suspended could be neither known nor recorded"),
            Self::HealthDeltas => (Severity::Warning, "failures of all workers together could not be counted"),
            Self::HealthCounts => (Severity::Warning, "what was counted could not be kept over a restart"),
        }
    }
}

/// How the topics must be, on a cluster with `brokers` brokers whose events have at most `events_bytes_max` bytes.
pub(crate) fn expected(
    topics: &settings::Topics,
    schedule: &RetrySchedule,
    events_bytes_max: u64,
    brokers: u16,
) -> Vec<TopicSpec> {
    let mut all = vec![(topics.events.clone(), Purpose::Events), (topics.integrations.clone(), Purpose::Integrations)];
    let tiers = schedule.tiers().iter();
    all.extend(tiers.map(|delay| (tier_topic(&topics.retry_prefix, *delay), Purpose::Tier(*delay))));
    all.push((now_topic(&topics.retry_prefix), Purpose::Now));
    all.push((topics.dead_letter.clone(), Purpose::DeadLetter));
    all.push((topics.backlog.clone(), Purpose::Backlog));
    all.push((topics.attempts.clone(), Purpose::Attempts));
    all.push((topics.audit.clone(), Purpose::Audit));
    all.push((topics.health.clone(), Purpose::Health));
    all.push((deltas_topic(&topics.health), Purpose::HealthDeltas));
    all.push((counts_topic(&topics.health), Purpose::HealthCounts));
    let replicas = topics.replication_factor.min(brokers.max(1));
    let specs = all.into_iter().map(|(name, purpose)| TopicSpec {
        name,
        purpose,
        partitions: topics.partitions,
        replicas,
        properties: properties(purpose, events_bytes_max, replicas),
    });
    specs.collect()
}

fn properties(purpose: Purpose, events_bytes_max: u64, replicas: u16) -> Vec<(&'static str, String)> {
    let millis = |duration: Duration| duration.as_millis().to_string();
    let mut properties = Vec::new();
    if let Some(retention) = purpose.retention() {
        properties.push(("cleanup.policy", "delete".to_owned()));
        properties.push(("retention.ms", millis(retention)));
        properties.push(("retention.bytes", "-1".to_owned()));
        // Kafka deletes whole segments: with its default of a week, records stay up to a week longer.
        properties.push(("segment.ms", millis(if retention > 7 * DAY { DAY } else { HOUR })));
    } else {
        properties.push(("cleanup.policy", "compact".to_owned()));
        // The open segment is never compacted, and the next owner of a partition reads all of it. Counts and places are written
        // all the time.
        let is_busy = matches!(purpose, Purpose::HealthCounts | Purpose::Backlog);
        properties.push(("segment.ms", millis(if is_busy { HOUR } else { DAY })));
        if is_busy {
            properties.push(("segment.bytes", (64 * 1024 * 1024).to_string()));
        }
        if purpose == Purpose::Backlog {
            // The late write of a former owner stands beside the owner's own for this long.
            properties.push(("min.compaction.lag.ms", millis(HOUR)));
        }
        properties.push(("max.compaction.lag.ms", millis(if purpose == Purpose::HealthCounts { HOUR } else { DAY })));
        properties.push(("min.cleanable.dirty.ratio", "0.1".to_owned()));
        properties.push(("delete.retention.ms", millis(7 * DAY)));
    }
    if purpose.has_append_time() {
        properties.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    let record_bytes = purpose.record_bytes_max(events_bytes_max).unwrap_or(0).max(MESSAGE_BYTES_DEFAULT);
    properties.push(("max.message.bytes", record_bytes.to_string()));
    properties.push(("min.insync.replicas", min_in_sync(replicas).to_owned()));
    properties.push(("unclean.leader.election.enable", "false".to_owned()));
    properties
}

/// Compares what a cluster has with how it must be.
pub(crate) fn plan(topics: &settings::Topics, schedule: &RetrySchedule, actual: &Actual) -> Plan {
    let mut specs = expected(topics, schedule, events_bytes_max(topics, actual), actual.brokers);
    let health_partitions = actual.topics.get(&topics.health).map_or(topics.partitions, |health| health.partitions);
    for spec in &mut specs {
        if matches!(spec.purpose, Purpose::HealthDeltas | Purpose::HealthCounts) {
            spec.partitions = health_partitions;
        }
    }
    let mut findings: Vec<_> =
        specs.iter().flat_map(|spec| judge::judge(spec, actual.topics.get(&spec.name))).collect();
    if let Some(error) = undescribed(actual) {
        findings.retain(|finding| finding.subject != judge::PROPERTIES);
        findings.push(judge::unknown("every topic".to_owned(), error));
    }
    let mut notes = Vec::new();
    if actual.brokers < topics.replication_factor {
        notes.push(format!(
            "the cluster has {} of the {} brokers that the wanted replicas need, so topics are created with {} and live \
             only as long as those brokers do",
            actual.brokers,
            topics.replication_factor,
            count(actual.brokers.max(1), "replica")
        ));
    }
    Plan { specs, findings, notes }
}

/// Why no topic's properties are known, if it is the same for all of them: then one finding says it.
fn undescribed(actual: &Actual) -> Option<&NotDescribed> {
    let mut errors = actual.topics.values().map(|topic| topic.properties.as_ref().err());
    let first = errors.next().flatten()?;
    errors.all(|error| error == Some(first)).then_some(first)
}

/// A note if tiers are missing while those of another schedule exist: the workers may have a schedule that was not given here.
fn other_schedule(topics: &settings::Topics, plan: &Plan, actual: &Actual) -> Option<String> {
    let is_tier = |name: &str| topic_names::tier_delay(name, &topics.retry_prefix);
    plan.findings.iter().find(|finding| finding.fix == Fix::Create && is_tier(&finding.topic).is_some())?;
    let is_expected = |name: &str| plan.specs.iter().any(|spec| spec.name == name);
    let others = actual.topics.keys().filter(|name| !is_expected(name));
    let mut others: Vec<_> = others.filter_map(|name| Some((is_tier(name)?, name.as_str()))).collect();
    others.sort_unstable();
    let named: Vec<_> = others.into_iter().map(|(_, name)| name).collect();
    (!named.is_empty()).then(|| {
        format!(
            "there are tiers of another schedule ({}): if the workers have it, give it here too, with --retry-schedule",
            named.join(", ")
        )
    })
}

/// Whether `topics apply` would create a topic with fewer replicas than wanted although all of them are required. Topics that exist
/// already are no reason: a broker that is down for an hour must not fail an upgrade.
fn lacks_required_replicas(topics: &settings::Topics, plan: &Plan) -> bool {
    let creates = plan.findings.iter().any(|finding| finding.fix == Fix::Create);
    topics.replicas_required && creates && plan.specs.iter().any(|spec| spec.replicas < topics.replication_factor)
}

/// The largest event that the events topic takes; Kafka's default when that is not known.
pub(crate) fn events_bytes_max(topics: &settings::Topics, actual: &Actual) -> u64 {
    let events = actual.topics.get(&topics.events).and_then(|topic| topic.properties.as_ref().ok());
    let limit = events.and_then(|properties| properties.get("max.message.bytes")).and_then(|value| value.parse().ok());
    limit.unwrap_or(MESSAGE_BYTES_DEFAULT)
}

/// How many replicas must have a record before it counts as written.
fn min_in_sync(replicas: u16) -> &'static str {
    if replicas >= 3 { "2" } else { "1" }
}

/// `1 partition`, `2 partitions`.
fn count(number: u16, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
