//! One topic against its spec: each rule, how much it matters, and the sentence that says what breaking it costs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    ActualTopic, DAY, Finding, Fix, HEADERS_BYTES_MAX, OUTAGE, Purpose, SMALL_RECORD_BYTES_MAX, Severity, TopicSpec,
    count, min_in_sync,
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
            wanted: format!("{} and {}", count(spec.partitions, "partition"), count(spec.replicas, "replica")),
            cost: format!("{cost} (a topic that this user may not describe looks missing too)"),
            fix: Fix::Create,
        }];
    };
    let mut judge = Judge { spec, findings: Vec::new() };
    judge.shape(actual);
    match &actual.properties {
        Ok(properties) => judge.properties(properties, actual.replicas),
        Err(error) => judge.add(
            "properties",
            (format!("unknown: {error}"), "a user that may describe them".to_owned()),
            (Severity::Warning, "whether this topic keeps what it is given could not be checked".to_owned()),
            Fix::ByHand,
        ),
    }
    judge.findings
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
                let values = (partitions.to_string(), wanted.to_string());
                self.add("partitions", values, (Severity::Warning, cost), Fix::Partitions(wanted));
            }
            Purpose::HealthDeltas | Purpose::HealthCounts if partitions != wanted => {
                let cost = "failures of an integration would be counted where its state is not kept".to_owned();
                let values = (partitions.to_string(), format!("{wanted}, as many as the health topic has"));
                let fix = if partitions < wanted { Fix::Partitions(wanted) } else { Fix::ByHand };
                self.add("partitions", values, (Severity::Error, cost), fix);
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
            self.add(
                "replicas",
                (actual.replicas.to_string(), self.spec.replicas.to_string()),
                (
                    Severity::Warning,
                    format!("the loss of {} loses this topic or stops it", count(actual.replicas, "broker")),
                ),
                Fix::ByHand,
            );
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
            self.add(
                "retention.ms",
                (format!("{millis} ({text})"), format!("at least {} ({})", least.as_millis(), format_duration(least))),
                (severity, cost),
                self.fix("retention.ms"),
            );
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
            self.add(
                "max.message.bytes",
                (bytes.to_string(), format!("at least {least}")),
                (severity, cost.to_owned()),
                self.fix("max.message.bytes"),
            );
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
        let fix = if self.spec.purpose.is_ours() { Fix::Set(wanted.to_owned()) } else { Fix::ByHand };
        self.add("min.insync.replicas", (in_sync.to_string(), wanted.to_owned()), (severity, cost), fix);
    }

    /// A property that should have the value it would be created with.
    fn set(&mut self, severity: Severity, property: &'static str, actual: Option<&str>, cost: String) {
        let wanted = self.wanted(property).unwrap_or_default().to_owned();
        let fix = self.fix(property);
        self.add(property, (actual.unwrap_or_default().to_owned(), wanted), (severity, cost), fix);
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

    fn add(
        &mut self,
        subject: &'static str,
        (actual, wanted): (String, String),
        (severity, cost): (Severity, String),
        fix: Fix,
    ) {
        let topic = self.spec.name.clone();
        self.findings.push(Finding { severity, topic, subject, actual, wanted, cost, fix });
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
mod tests {
    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::settings;
    use crate::topics::{Actual, expected, lacks_required_replicas, plan};

    fn topics() -> settings::Topics {
        settings::Topics {
            events: "events".to_owned(),
            integrations: "integrations".to_owned(),
            retry_prefix: "retry".to_owned(),
            dead_letter: "dead".to_owned(),
            attempts: "attempts".to_owned(),
            health: "health".to_owned(),
            backlog: "backlog".to_owned(),
            audit: "audit".to_owned(),
            partitions: 12,
            replication_factor: 3,
            replicas_required: false,
        }
    }

    fn schedule() -> RetrySchedule {
        RetrySchedule::parse("30s,1h").unwrap()
    }

    /// A cluster on which every topic is as it would be created.
    fn right(brokers: u16) -> Actual {
        let specs = expected(&topics(), &schedule(), 1_048_588, brokers);
        let topic = |spec: &TopicSpec| ActualTopic {
            partitions: spec.partitions,
            replicas: spec.replicas,
            properties: Ok(spec.properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()),
        };
        Actual { brokers, topics: specs.iter().map(|spec| (spec.name.clone(), topic(spec))).collect() }
    }

    /// The one finding there is when `topic` alone has `property` at `value`.
    #[track_caller]
    fn finding(topic: &str, property: &str, value: &str) -> Finding {
        let mut actual = right(3);
        let properties = actual.topics.get_mut(topic).unwrap().properties.as_mut().unwrap();
        properties.insert(property.to_owned(), value.to_owned());
        let mut findings = plan(&topics(), &schedule(), &actual).findings;
        assert_eq!(findings.len(), 1, "{topic} with {property}={value}: {findings:?}");
        let finding = findings.remove(0);
        assert_eq!((finding.topic.as_str(), finding.subject), (topic, property));
        finding
    }

    #[track_caller]
    fn check(topic: &str, property: &str, value: &str, severity: Severity, cost: &str) {
        let finding = finding(topic, property, value);
        assert_eq!(finding.severity, severity, "{finding:?}");
        assert!(finding.cost.contains(cost), "{finding:?}");
    }

    #[track_caller]
    fn check_fine(topic: &str, property: &str, value: &str) {
        let mut actual = right(3);
        let properties = actual.topics.get_mut(topic).unwrap().properties.as_mut().unwrap();
        properties.insert(property.to_owned(), value.to_owned());
        assert_eq!(plan(&topics(), &schedule(), &actual).findings, [], "{topic} with {property}={value}");
    }

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn topics_as_created_leave_nothing_to_do() {
        for brokers in [1, 2, 3, 9] {
            assert_eq!(plan(&topics(), &schedule(), &right(brokers)).findings, [], "{brokers} brokers");
        }
        assert_eq!(plan(&topics(), &schedule(), &right(3)).notes, [] as [&str; 0]);
    }

    #[test]
    fn each_missing_topic_is_named_with_its_cost() {
        let plan = plan(&topics(), &schedule(), &Actual { brokers: 3, topics: BTreeMap::new() });
        let missing: Vec<_> = plan.findings.iter().map(|finding| (finding.topic.as_str(), finding.severity)).collect();
        let error = Severity::Error;
        assert_eq!(
            missing,
            [
                ("events", error),
                ("integrations", error),
                ("retry.30s", error),
                ("retry.1h", error),
                ("retry.now", Severity::Warning),
                ("dead", error),
                ("backlog", error),
                ("attempts", Severity::Warning),
                ("audit", Severity::Warning),
                ("health", Severity::Warning),
                ("health.deltas", Severity::Warning),
                ("health.counts", Severity::Warning)
            ]
        );
        assert!(plan.findings.iter().all(|finding| finding.fix == Fix::Create && finding.subject == "topic"));
    }

    #[test]
    fn fewer_brokers_than_replicas_are_told_and_not_held_against_topics() {
        let plan = plan(&topics(), &schedule(), &Actual { brokers: 1, topics: BTreeMap::new() });
        assert!(plan.specs.iter().all(|spec| spec.replicas == 1), "{:?}", plan.specs);
        assert_eq!(plan.notes.len(), 1);
        assert!(plan.notes[0].contains("1 of the 3 brokers"), "{}", plan.notes[0]);
    }

    #[test]
    fn required_replicas_that_a_cluster_has_no_brokers_for_stop_the_creation_of_topics_alone() {
        let required = settings::Topics { replicas_required: true, ..topics() };
        let empty = |brokers| Actual { brokers, topics: BTreeMap::new() };
        for (wanted, actual, lacks) in [
            (&required, empty(2), true),
            (&required, empty(3), false),
            (&required, Actual { brokers: 2, ..right(3) }, false),
            (&topics(), empty(1), false),
        ] {
            assert_eq!(
                lacks_required_replicas(wanted, &plan(wanted, &schedule(), &actual)),
                lacks,
                "{}",
                actual.brokers
            );
        }
    }

    #[test]
    fn retention_that_loses_retries_is_an_error_that_says_when() {
        let hour_and_outage = (73 * HOUR_MS).to_string();
        check_fine("retry.1h", "retention.ms", &hour_and_outage);
        check_fine("retry.1h", "retention.ms", "-1");
        let one_less = (73 * HOUR_MS - 1).to_string();
        check("retry.1h", "retention.ms", &one_less, Severity::Error, "retries are lost when workers are down");
        let before_due = (HOUR_MS / 2).to_string();
        check(
            "retry.1h",
            "retention.ms",
            &before_due,
            Severity::Error,
            "before they are due after 1h: every one is lost",
        );
        check("retry.30s", "retention.ms", "30000", Severity::Error, "every one is lost");
        check("retry.30s", "retention.ms", "0", Severity::Error, "every one is lost");
        check("retry.30s", "retention.bytes", "1000", Severity::Error, "more than 1000 bytes");
    }

    #[test]
    fn retention_elsewhere_is_a_warning() {
        for topic in ["events", "dead", "attempts", "health.deltas"] {
            check(topic, "retention.ms", "60000", Severity::Warning, "1m");
            check_fine(topic, "retention.ms", &(31 * 24 * HOUR_MS).to_string());
        }
        for topic in ["events", "dead", "health.deltas"] {
            check(topic, "retention.bytes", "5000", Severity::Warning, "5000 bytes");
        }
        check_fine("attempts", "retention.bytes", "5000");
        check_fine("integrations", "retention.ms", "1");
        check_fine("health", "retention.bytes", "1");
    }

    #[test]
    fn tables_must_be_compacted_and_nothing_else_may_be() {
        for topic in ["integrations", "health", "health.counts"] {
            for policy in ["delete", "compact,delete", "delete,compact", ""] {
                check(topic, "cleanup.policy", policy, Severity::Error, "older than the retention");
            }
        }
        for topic in ["events", "retry.30s", "dead", "health.deltas"] {
            check(topic, "cleanup.policy", "compact", Severity::Error, "replaced by newer ones");
            check(topic, "cleanup.policy", "compact, delete", Severity::Error, "replaced by newer ones");
        }
        check("attempts", "cleanup.policy", "compact", Severity::Warning, "only the newest");
        check("dead", "cleanup.policy", "", Severity::Warning, "for ever");
    }

    #[test]
    fn records_must_fit() {
        let fits = (1_048_588 + 65_536).to_string();
        let short = (1_048_588 + 65_535).to_string();
        for topic in ["retry.1h", "dead"] {
            check_fine(topic, "max.message.bytes", &fits);
            check(topic, "max.message.bytes", &short, Severity::Warning, "largest events");
            // Kafka's own.
            check(topic, "max.message.bytes", "1048588", Severity::Warning, "largest events");
        }
        check("retry.1h", "max.message.bytes", "1000", Severity::Warning, "dead letters when they fail once");
        check("dead", "max.message.bytes", "1048587", Severity::Error, "could not be recorded");
        check("health", "max.message.bytes", "1000", Severity::Error, "changes of state");
        check("health.deltas", "max.message.bytes", "1000", Severity::Error, "failures");
        check("attempts", "max.message.bytes", "1000", Severity::Warning, "dropped");
        check_fine("integrations", "max.message.bytes", "1000");
    }

    #[test]
    fn larger_events_need_larger_tiers() {
        let mut actual = right(3);
        let events = actual.topics.get_mut("events").unwrap().properties.as_mut().unwrap();
        events.insert("max.message.bytes".to_owned(), "5000000".to_owned());
        let findings = plan(&topics(), &schedule(), &actual).findings;
        let said: Vec<_> = findings.iter().map(|finding| (finding.topic.as_str(), finding.fix.clone())).collect();
        let fix = Fix::Set("5065536".to_owned());
        assert_eq!(
            said,
            [("retry.30s", fix.clone()), ("retry.1h", fix.clone()), ("retry.now", fix.clone()), ("dead", fix)]
        );
    }

    #[test]
    fn clocks_segments_and_replicas_are_warned_of() {
        for topic in ["retry.30s", "dead", "integrations", "backlog", "attempts", "audit", "health", "health.deltas"] {
            check(topic, "message.timestamp.type", "CreateTime", Severity::Warning, "an hour ahead writes is refused");
        }
        check_fine("events", "message.timestamp.type", "CreateTime");
        check("retry.30s", "segment.ms", &(200 * HOUR_MS).to_string(), Severity::Warning, "200h longer");
        check("health", "segment.ms", &(200 * HOUR_MS).to_string(), Severity::Warning, "every worker that starts");
        check_fine("events", "segment.ms", &(200 * HOUR_MS).to_string());
        check("dead", "min.insync.replicas", "1", Severity::Warning, "when one broker has it");
        check("dead", "min.insync.replicas", "3", Severity::Warning, "while any broker is down");
        check("dead", "min.insync.replicas", "4", Severity::Error, "no write is ever acknowledged");
        check_fine("attempts", "min.insync.replicas", "1");
        check("dead", "unclean.leader.election.enable", "true", Severity::Warning, "acknowledged are lost");
    }

    #[test]
    fn a_fix_for_replicas_follows_the_replicas_that_are_there() {
        let mut actual = right(3);
        let dead = actual.topics.get_mut("dead").unwrap();
        dead.replicas = 1;
        let findings = plan(&topics(), &schedule(), &actual).findings;
        let said: Vec<_> = findings.iter().map(|finding| (finding.subject, finding.fix.clone())).collect();
        assert_eq!(said, [("replicas", Fix::ByHand), ("min.insync.replicas", Fix::Set("1".to_owned()))]);
        assert_eq!(findings[1].severity, Severity::Error);
    }

    #[test]
    fn partitions_are_added_where_no_key_moves_away() {
        let subjects = |topic: &str, partitions: u16| {
            let mut actual = right(3);
            actual.topics.get_mut(topic).unwrap().partitions = partitions;
            let findings = plan(&topics(), &schedule(), &actual).findings.into_iter();
            findings.map(|finding| (finding.topic, finding.severity, finding.fix)).collect::<Vec<_>>()
        };
        for topic in ["retry.1h", "dead", "attempts"] {
            assert_eq!(subjects(topic, 3), [(topic.to_owned(), Severity::Warning, Fix::Partitions(12))]);
            assert_eq!(subjects(topic, 100), []);
        }
        for topic in ["events", "integrations"] {
            assert_eq!(subjects(topic, 3), []);
            assert_eq!(subjects(topic, 100), []);
        }
        let deltas = "health.deltas".to_owned();
        assert_eq!(subjects("health.deltas", 3), [(deltas.clone(), Severity::Error, Fix::Partitions(12))]);
        assert_eq!(subjects("health.deltas", 24), [(deltas.clone(), Severity::Error, Fix::ByHand)]);
        let counts = "health.counts".to_owned();
        assert_eq!(
            subjects("health", 24),
            [(deltas, Severity::Error, Fix::Partitions(24)), (counts.clone(), Severity::Error, Fix::Partitions(24))],
            "as many as health has"
        );
        assert_eq!(subjects("health.counts", 3), [(counts, Severity::Error, Fix::Partitions(12))]);
    }

    #[test]
    fn unknown_properties_are_a_warning_and_the_default_size_is_assumed() {
        let mut actual = right(3);
        for topic in actual.topics.values_mut() {
            topic.properties = Err(super::super::NotDescribed::Refused { why: "no permission".to_owned() });
        }
        let plan = plan(&topics(), &schedule(), &actual);
        assert_eq!(plan.findings.len(), plan.specs.len());
        assert!(plan.findings.iter().all(|it| it.severity == Severity::Warning && it.actual.contains("no permission")));
    }

    #[test]
    fn the_events_topic_is_its_owners_to_alter() {
        assert_eq!(finding("events", "retention.ms", "1000").fix, Fix::ByHand);
        assert_eq!(finding("events", "cleanup.policy", "compact").fix, Fix::ByHand);
        assert_eq!(finding("events", "min.insync.replicas", "1").fix, Fix::ByHand);
    }
}
