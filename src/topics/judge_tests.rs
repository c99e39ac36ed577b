//! The rules of topics, each by the cost that a finding names.

use super::*;
use crate::domain::retry_schedule::RetrySchedule;
use crate::settings;
use crate::topics::{Actual, NotDescribed, expected, lacks_required_replicas, plan};

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
fn fewer_brokers_than_replicas_are_a_note_and_not_a_finding() {
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
        assert_eq!(lacks_required_replicas(wanted, &plan(wanted, &schedule(), &actual)), lacks, "{}", actual.brokers);
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
    check("retry.1h", "retention.ms", &before_due, Severity::Error, "before they are due after 1h: every one is lost");
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
fn wrong_clocks_segments_and_replicas_are_warnings() {
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
        topic.properties = Err(NotDescribed::Refused { why: "no permission".to_owned() });
    }
    let plan = plan(&topics(), &schedule(), &actual);
    assert_eq!(plan.findings.len(), 1, "it is the same for all topics, and said once");
    assert!(plan.findings.iter().all(|it| it.severity == Severity::Warning && it.actual.contains("no permission")));
    assert_eq!(plan.findings[0].topic, "every topic");
    let one = actual.topics.values_mut().next().unwrap();
    one.properties = Err(NotDescribed::Unanswered);
    let plan = super::super::plan(&topics(), &schedule(), &actual);
    assert_eq!(plan.findings.len(), plan.specs.len(), "each has its own cause");
}

#[test]
fn brokers_that_did_not_answer_in_time_are_not_a_missing_right() {
    let mut actual = right(3);
    for topic in actual.topics.values_mut() {
        topic.properties = Err(NotDescribed::Late);
    }
    let plan = plan(&topics(), &schedule(), &actual);
    let [finding] = &*plan.findings else { panic!("{:?}", plan.findings) };
    assert!(finding.actual.contains("had no answer in time") && !finding.wanted.contains("a user"), "{finding:?}");
    assert!(finding.actual.starts_with("unknown: brokers answer"), "the metadata came: {finding:?}");
}

#[test]
fn missing_tiers_beside_those_of_another_schedule_are_a_note() {
    let actual = right(3);
    let note = |schedule: &str| {
        let plan = plan(&topics(), &RetrySchedule::parse(schedule).unwrap(), &actual);
        super::super::other_schedule(&topics(), &plan, &actual)
    };
    assert_eq!(note("30s,1h"), None);
    assert_eq!(note("30s"), None, "no tier is missing");
    let note = note("2s,1h").unwrap();
    assert!(note.contains("another schedule (retry.30s)") && note.contains("--retry-schedule"), "{note}");
}

#[test]
fn the_events_topic_is_its_owners_to_alter() {
    assert_eq!(finding("events", "retention.ms", "1000").fix, Fix::ByHand);
    assert_eq!(finding("events", "cleanup.policy", "compact").fix, Fix::ByHand);
    assert_eq!(finding("events", "min.insync.replicas", "1").fix, Fix::ByHand);
}
