//! One topic against its spec: each rule, how much it matters, and the sentence that says what breaking it costs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    ActualTopic, DAY, Finding, Fix, HEADERS_BYTES_MAX, NotDescribed, OUTAGE, Purpose, SMALL_RECORD_BYTES_MAX, Severity,
    TopicSpec, count, min_in_sync,
};
use crate::domain::retry_schedule::format_duration;

/// The differences between a topic and how it must be. `None` is a topic that does not exist.
pub(super) fn judge(spec: &TopicSpec, actual: Option<&ActualTopic>) -> Vec<Finding> {
    let Some(actual) = actual else {
        let (severity, cost) = spec.purpose.missing();
        return vec![Finding {
            severity,
            topic: spec.name.clone(),
            subject: "topic",
            actual: "missing".to_owned(),
            wanted: spec.shape(),
            cost: format!("{cost} (a topic that this user may not describe looks missing too)"),
            fix: Fix::Create,
        }];
    };
    let mut judge = Judge { spec, findings: Vec::new() };
    judge.shape(actual);
    match &actual.properties {
        Ok(properties) => judge.properties(properties, actual.replicas),
        Err(error) => judge.findings.push(unknown(spec.name.clone(), error)),
    }
    judge.findings
}

/// The subject of what is found about properties that are not known.
pub(super) const PROPERTIES: &str = "properties";

/// The finding that the properties of a topic are not known.
pub(super) fn unknown(topic: String, error: &NotDescribed) -> Finding {
    Finding {
        severity: Severity::Warning,
        topic,
        subject: PROPERTIES,
        actual: format!("unknown: {error}"),
        wanted: wanted_of(error).to_owned(),
        cost: "whether topics keep what they are given could not be checked".to_owned(),
        fix: Fix::ByHand,
    }
}

/// What it takes to know a topic's properties.
fn wanted_of(error: &NotDescribed) -> &'static str {
    match error {
        NotDescribed::Late => {
            "an answer; brokers such as the demo's do not know the question and never give one, others may when it is asked again"
        }
        NotDescribed::Unanswered | NotDescribed::Refused { .. } => "a user that may describe them",
    }
}

/// Collects what is found about one topic.
struct Judge<'a> {
    spec: &'a TopicSpec,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn shape(&mut self, actual: &ActualTopic) {
        let wanted = self.spec.partitions;
        let partitions = actual.partitions;
        match self.spec.purpose {
            Purpose::Tier(_) | Purpose::Now | Purpose::DeadLetter | Purpose::Attempts if partitions < wanted => {
                let cost = format!("at most {} can share the work on this topic", count(partitions, "worker"));
                self.findings.push(Finding {
                    severity: Severity::Warning,
                    topic: self.spec.name.clone(),
                    subject: "partitions",
                    actual: partitions.to_string(),
                    wanted: wanted.to_string(),
                    cost,
                    fix: Fix::Partitions(wanted),
                });
            }
            Purpose::HealthDeltas | Purpose::HealthCounts if partitions != wanted => {
                let cost = "failures of an integration would be counted where its state is not kept".to_owned();
                self.findings.push(Finding {
                    severity: Severity::Error,
                    topic: self.spec.name.clone(),
                    subject: "partitions",
                    actual: partitions.to_string(),
                    wanted: format!("{wanted}, as many as the health topic has"),
                    cost,
                    fix: if partitions < wanted { Fix::Partitions(wanted) } else { Fix::ByHand },
                });
            }
            // Tables keep the count they were made with: another would move keys away from their records.
            Purpose::Events
            | Purpose::Integrations
            | Purpose::Tier(_)
            | Purpose::Now
            | Purpose::DeadLetter
            | Purpose::Attempts
            | Purpose::Audit
            | Purpose::Backlog
            | Purpose::Health
            | Purpose::HealthDeltas
            | Purpose::HealthCounts => {}
        }
        if actual.replicas < self.spec.replicas {
            self.findings.push(Finding {
                severity: Severity::Warning,
                topic: self.spec.name.clone(),
                subject: "replicas",
                actual: actual.replicas.to_string(),
                wanted: self.spec.replicas.to_string(),
                cost: format!("the loss of {} loses this topic or stops it", count(actual.replicas, "broker")),
                fix: Fix::ByHand,
            });
        }
    }

    fn properties(&mut self, properties: &BTreeMap<String, String>, replicas: u16) {
        let text = |name: &str| properties.get(name).map(String::as_str);
        if let Some(policy) = text("cleanup.policy") {
            self.cleanup(policy);
        }
        if let Some(retention) = number(text("retention.ms")) {
            self.retention(retention);
        }
        if let Some(bytes) = number(text("retention.bytes")) {
            self.retention_bytes(bytes);
        }
        if self.spec.purpose.has_append_time() && text("message.timestamp.type").is_some_and(|it| it != "LogAppendTime")
        {
            self.set(
                Severity::Warning,
                "message.timestamp.type",
                text("message.timestamp.type"),
                "records carry the clock of the process that wrote them: one that is behind loses them early, and what one that is \
                 an hour ahead writes is refused"
                    .to_owned(),
            );
        }
        if let Some(bytes) = number(text("max.message.bytes")) {
            self.record_bytes(bytes);
        }
        if let Some(segment) = number(text("segment.ms")).filter(|millis| *millis > duration_millis(7 * DAY)) {
            self.segment(segment);
        }
        if let Some(in_sync) = number(text("min.insync.replicas")) {
            self.in_sync(in_sync, replicas);
        }
        if text("unclean.leader.election.enable") == Some("true") {
            self.set(
                Severity::Warning,
                "unclean.leader.election.enable",
                Some("true"),
                "a broker that lags may become the leader, and records that were acknowledged are lost".to_owned(),
            );
        }
    }

    fn cleanup(&mut self, policy: &str) {
        let mut words: Vec<_> = policy.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        let is_compacted = words.contains(&"compact");
        let (severity, cost) = match self.spec.purpose {
            Purpose::Integrations | Purpose::Backlog | Purpose::Health | Purpose::HealthCounts
                if words == ["compact"] =>
            {
                return;
            }
            Purpose::Backlog => (
                Severity::Error,
                "places older than the retention are forgotten, and what their webhooks are behind with is not delivered",
            ),
            Purpose::Integrations => (
                Severity::Error,
                "registrations older than the retention vanish, and what they subscribed to with them",
            ),
            Purpose::Health => (
                Severity::Error,
                "suspensions older than the retention are forgotten, and what failed is sent to again",
            ),
            Purpose::HealthCounts => {
                (Severity::Error, "counts older than the retention are forgotten, and what fails is suspended too late")
            }
            _ if words.is_empty() => (Severity::Warning, "the topic grows for ever"),
            _ if !is_compacted => return,
            Purpose::Events => (Severity::Error, "events are replaced by newer ones of their key before they are read"),
            Purpose::Tier(_) => {
                (Severity::Error, "retries are replaced by newer ones of their webhook before they are due")
            }
            Purpose::Now => {
                (Severity::Error, "redriven and replayed records are replaced by newer ones of their webhook")
            }
            Purpose::DeadLetter => (Severity::Error, "dead letters are replaced by newer ones of their webhook"),
            Purpose::HealthDeltas => (Severity::Error, "counts are replaced by newer ones before they are summed"),
            Purpose::Attempts => (Severity::Warning, "only the newest attempt of an integration is kept"),
            Purpose::Audit => (Severity::Warning, "only the newest action in a workspace is kept"),
        };
        self.set(severity, "cleanup.policy", Some(policy), cost.to_owned());
    }

    fn retention(&mut self, millis: i64) {
        // Negative keeps for ever, which loses nothing.
        let Ok(millis) = u64::try_from(millis) else { return };
        let kept = Duration::from_millis(millis);
        let text = format_duration(kept);
        let (severity, least, cost) = match self.spec.purpose {
            Purpose::Integrations | Purpose::Backlog | Purpose::Health | Purpose::HealthCounts => return,
            Purpose::Events => {
                (Severity::Warning, 3 * DAY, format!("events are lost when no worker has read them for {text}"))
            }
            Purpose::Tier(delay) if kept <= delay.duration() => {
                let cost =
                    format!("retries are deleted after {text}, before they are due after {delay}: every one is lost");
                (Severity::Error, delay.duration() + OUTAGE, cost)
            }
            Purpose::Tier(delay) => {
                let spare = format_duration(kept.saturating_sub(delay.duration()));
                let cost = format!("retries are lost when workers are down or behind for {spare} after they were due");
                (Severity::Error, delay.duration() + OUTAGE, cost)
            }
            Purpose::Now => {
                (Severity::Error, OUTAGE, format!("redriven records are lost when no worker has read them for {text}"))
            }
            Purpose::DeadLetter => {
                (Severity::Warning, 30 * DAY, format!("dead letters can't be looked into or sent again after {text}"))
            }
            Purpose::Attempts => (Severity::Warning, 3 * DAY, format!("attempts can't be looked up after {text}")),
            Purpose::Audit => (Severity::Warning, 30 * DAY, format!("what operators did is forgotten after {text}")),
            Purpose::HealthDeltas => (
                Severity::Warning,
                2 * DAY,
                format!("failures are forgotten when no worker has summed them for {text}"),
            ),
        };
        if kept < least {
            self.findings.push(Finding {
                severity,
                topic: self.spec.name.clone(),
                subject: "retention.ms",
                actual: format!("{millis} ({text})"),
                wanted: format!("at least {} ({})", least.as_millis(), format_duration(least)),
                cost,
                fix: self.fix("retention.ms"),
            });
        }
    }

    fn retention_bytes(&mut self, bytes: i64) {
        if bytes < 0 {
            return;
        }
        let (severity, what) = match self.spec.purpose {
            Purpose::Integrations | Purpose::Backlog | Purpose::Health | Purpose::HealthCounts | Purpose::Attempts => {
                return;
            }
            Purpose::Tier(_) => (Severity::Error, "the oldest retries are lost, due or not,"),
            Purpose::Now => (Severity::Error, "the oldest redriven records are lost, read or not,"),
            Purpose::Events => (Severity::Warning, "the oldest events are lost, read or not,"),
            Purpose::DeadLetter => (Severity::Warning, "the oldest dead letters are lost"),
            Purpose::Audit => (Severity::Warning, "the oldest actions are forgotten"),
            Purpose::HealthDeltas => (Severity::Warning, "the oldest counts are lost, summed or not,"),
        };
        let cost = format!("{what} once a partition has more than {bytes} bytes");
        self.set(severity, "retention.bytes", Some(&bytes.to_string()), cost);
    }

    fn record_bytes(&mut self, bytes: i64) {
        let wanted = self.wanted("max.message.bytes").and_then(|value| value.parse::<i64>().ok()).unwrap_or_default();
        let (severity, least, cost) = match self.spec.purpose {
            Purpose::Events | Purpose::Integrations => return,
            Purpose::Tier(_) => (
                Severity::Warning,
                wanted,
                "the largest events can't be put off and become dead letters when they fail once",
            ),
            Purpose::Now => (Severity::Warning, wanted, "the largest events can't be redriven or replayed"),
            // Kafka's own default for both topics leaves no room for the headers beside an event of just that size.
            Purpose::DeadLetter if bytes >= wanted - headers_bytes_max() => (
                Severity::Warning,
                wanted,
                "the very largest events, with a dead letter's headers, are dropped and counted",
            ),
            Purpose::DeadLetter => {
                (Severity::Error, wanted, "the largest events, with a dead letter's headers, could not be recorded")
            }
            Purpose::Attempts => (Severity::Warning, small_record(), "long entries of the attempt log are dropped"),
            Purpose::Audit => (Severity::Warning, small_record(), "actions with many ranges leave no record"),
            Purpose::Backlog => {
                (Severity::Error, small_record(), "places of webhooks that are behind could not be kept")
            }
            Purpose::Health => (Severity::Error, small_record(), "changes of state could not be recorded"),
            Purpose::HealthDeltas => (Severity::Error, small_record(), "failures could not be counted"),
            Purpose::HealthCounts => (Severity::Error, small_record(), "what was counted could not be kept"),
        };
        if bytes < least {
            self.findings.push(Finding {
                severity,
                topic: self.spec.name.clone(),
                subject: "max.message.bytes",
                actual: bytes.to_string(),
                wanted: format!("at least {least}"),
                cost: cost.to_owned(),
                fix: self.fix("max.message.bytes"),
            });
        }
    }

    fn segment(&mut self, millis: i64) {
        if !self.spec.purpose.is_ours() {
            return;
        }
        let longer = u64::try_from(millis)
            .map_or_else(|_| "for ever".to_owned(), |it| format_duration(Duration::from_millis(it)));
        let cost = if self.spec.purpose.is_table() {
            format!(
                "up to {longer} of changes are read by every worker that starts, since the open segment is not compacted"
            )
        } else {
            format!("records take up disk up to {longer} longer than the retention says")
        };
        self.set(Severity::Warning, "segment.ms", Some(&millis.to_string()), cost);
    }

    fn in_sync(&mut self, in_sync: i64, replicas: u16) {
        let (severity, cost) = if in_sync > i64::from(replicas) {
            let replicas = count(replicas, "replica");
            (Severity::Error, format!("with {replicas} no write is ever acknowledged, so partitions stand still"))
        } else if replicas >= 3 && in_sync == i64::from(replicas) {
            let cost = "no write is acknowledged while any broker is down, so partitions stand still";
            (Severity::Warning, cost.to_owned())
        } else if replicas >= 3 && in_sync < 2 && self.spec.purpose != Purpose::Attempts {
            let cost = "a record counts as written when one broker has it, and is lost with that broker";
            (Severity::Warning, cost.to_owned())
        } else {
            return;
        };
        let wanted = min_in_sync(replicas);
        self.findings.push(Finding {
            severity,
            topic: self.spec.name.clone(),
            subject: "min.insync.replicas",
            actual: in_sync.to_string(),
            wanted: wanted.to_owned(),
            cost,
            fix: if self.spec.purpose.is_ours() { Fix::Set(wanted.to_owned()) } else { Fix::ByHand },
        });
    }

    /// A property that should have the value it would be created with.
    fn set(&mut self, severity: Severity, property: &'static str, actual: Option<&str>, cost: String) {
        self.findings.push(Finding {
            severity,
            topic: self.spec.name.clone(),
            subject: property,
            actual: actual.unwrap_or_default().to_owned(),
            wanted: self.wanted(property).unwrap_or_default().to_owned(),
            cost,
            fix: self.fix(property),
        });
    }

    fn wanted(&self, property: &str) -> Option<&str> {
        self.spec.properties.iter().find(|(name, _)| *name == property).map(|(_, value)| value.as_str())
    }

    fn fix(&self, property: &str) -> Fix {
        match self.wanted(property) {
            Some(value) if self.spec.purpose.is_ours() => Fix::Set(value.to_owned()),
            _ => Fix::ByHand,
        }
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text.and_then(|text| text.parse().ok())
}

fn headers_bytes_max() -> i64 {
    i64::try_from(HEADERS_BYTES_MAX).unwrap_or(i64::MAX)
}

fn small_record() -> i64 {
    i64::try_from(SMALL_RECORD_BYTES_MAX).unwrap_or(i64::MAX)
}

fn duration_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
