//! `topics plan`, `topics apply` and the worker's own check, against clusters that are empty, right and wrong.

use std::time::Duration;

use serde_json::Value;

use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::load::Load;
use crate::support::process::{Lines, Process};
use crate::support::records::{Record, create_topic, partition_count, produce, read_all};
use crate::support::wait::PATIENCE;
use crate::support::worker::{Names, Worker, kafka_settings};
use hookstream::internals::RetrySchedule;
use hookstream::internals::cluster::{self, CheckError};

const SCHEDULE: &str = "30s,1h";

/// How the built program ended, and what it printed on standard output.
pub(crate) fn run(subcommand: &str, brokers: &str, names: &Names, extra: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hookstream"));
    command.args(["topics", subcommand, "--retry-schedule", SCHEDULE]).args(names.arguments(brokers)).args(extra);
    let output = command.output().expect("the built program runs");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let code = output.status.code().expect("no signal ends it");
    (code, if text.is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { text })
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// `(topic, subject)` of each finding.
fn findings(plan: &Value) -> Vec<(String, String)> {
    let word = |finding: &Value, field: &str| finding[field].as_str().expect(field).to_owned();
    let all = plan["findings"].as_array().expect("findings").iter();
    all.map(|finding| (word(finding, "topic"), word(finding, "subject"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_is_planned_then_filled_then_left_alone() {
    let cluster = Cluster::shared().await;
    let names = Names::of("topics-empty");
    let partitions = ["--topic-partitions", "3"];
    let (code, text) = run("plan", cluster.brokers(), &names, &partitions);
    assert_eq!(code, 1, "{text}");
    for topic in [&names.events(), &names.integrations(), &names.tier("30s"), &names.tier("1h"), &names.dead_letter()] {
        assert!(text.contains(topic.as_str()), "{topic} in:\n{text}");
    }
    assert!(text.contains("its partition would stand still"), "{text}");
    assert_eq!(partition_count(cluster.brokers(), &names.events()), None, "planning creates nothing");
    let (code, text) = run("apply", cluster.brokers(), &names, &["--require-replicas"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("fewer brokers than --topic-replication-factor (3)"), "{text}");
    assert_eq!(partition_count(cluster.brokers(), &names.events()), None, "what is refused creates nothing");
    let (code, text) = run("apply", cluster.brokers(), &names, &partitions);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("created {}", names.tier("1h"))), "{text}");
    assert!(text.contains("the cluster has 1 of the 3 brokers"), "replicas there can't be are named:\n{text}");
    assert_eq!(partition_count(cluster.brokers(), &names.tier("1h")), Some(3));
    assert_eq!(partition_count(cluster.brokers(), &format!("{}.deltas", names.health())), Some(3));
    let (code, text) = run("plan", cluster.brokers(), &names, &partitions);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nothing to do: 12 topics"), "{text}");
    let (code, text) = run("apply", cluster.brokers(), &names, &["--topic-partitions", "3", "--json"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(json(&text)["done"], serde_json::json!([]), "a second apply changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cluster_gets_an_explained_plan_and_keeps_its_other_settings_when_altered() {
    let cluster = Cluster::shared().await;
    let brokers = cluster.brokers();
    let names = Names::of("topics-wrong");
    create_topic(brokers, &names.events(), 2, &[]).await;
    create_topic(brokers, &names.integrations(), 2, &[("cleanup.policy", "delete")]).await;
    let short = [("retention.ms", "1800000"), ("cleanup.policy", "compact"), ("file.delete.delay.ms", "12345")];
    create_topic(brokers, &names.tier("1h"), 1, &short).await;
    create_topic(brokers, &names.health(), 2, &[("cleanup.policy", "compact")]).await;
    create_topic(brokers, &format!("{}.deltas", names.health()), 1, &[]).await;
    let partitions = ["--topic-partitions", "4"];
    let (code, text) = run("plan", brokers, &names, &partitions);
    assert_eq!(code, 1, "{text}");
    for said in [
        "retries are deleted after 30m, before they are due after 1h: every one is lost",
        "retries are replaced by newer ones of their webhook",
        "registrations older than the retention vanish",
        "failures of an integration would be counted where its state is not kept",
        "the largest events can't be put off and become dead letters when they fail once",
        "apply: raise it to 4 partitions",
    ] {
        assert!(text.contains(said), "{said:?} in:\n{text}");
    }
    let kafka = kafka_settings(brokers, "topics-wrong");
    let schedule = RetrySchedule::parse(SCHEDULE).unwrap();
    let refused = cluster::check_for_worker(&kafka, &names.settings(4), &schedule).await;
    assert!(matches!(&refused, Err(CheckError::Unfit(errors)) if !errors.is_empty()), "{refused:?}");

    let (code, text) = run("apply", brokers, &names, &partitions);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run("plan", brokers, &names, &["--topic-partitions", "4", "--json"]);
    assert_eq!((code, findings(&json(&text))), (0, vec![]), "{text}");
    assert_eq!(partition_count(brokers, &names.tier("1h")), Some(4));
    assert_eq!(partition_count(brokers, &names.integrations()), Some(2), "a table keeps its partitions");
    assert_eq!(partition_count(brokers, &format!("{}.deltas", names.health())), Some(2));
    assert_eq!(property(brokers, &names.tier("1h"), "file.delete.delay.ms").await, "12345");
    assert_eq!(property(brokers, &names.tier("1h"), "message.timestamp.type").await, "LogAppendTime");
    let fit = cluster::check_for_worker(&kafka, &names.settings(4), &schedule).await.unwrap();
    assert_eq!((fit.event_bytes_max, fit.partitions[&names.events()]), (1_048_588, 2));
    assert_eq!(fit.warnings, []);
}

async fn property(brokers: &str, topic: &str, name: &str) -> String {
    use rdkafka::admin::{AdminOptions, ResourceSpecifier};
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let admin = crate::support::records::admin(brokers);
    let mut described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await.unwrap();
    let resource = described.remove(0).unwrap();
    resource.get(name).and_then(|entry| entry.value.clone()).unwrap_or_else(|| panic!("{topic} has {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_as_large_as_it_can_be_fits_into_its_tier() {
    let cluster = Cluster::shared().await;
    let names = Names::of("topics-large");
    names.create(cluster.brokers(), SCHEDULE, 1).await;
    // The largest value that the events topic takes: its limit less the framing of a batch of one record.
    let largest = vec![b'x'; 1_048_588 - 200];
    let event = Record::new("k", largest.clone());
    produce(cluster.brokers(), &names.events(), [event.clone()]);
    let retry = event.header("hookstream-error", vec![b'h'; 4096]);
    produce(cluster.brokers(), &names.tier("1h"), [retry.clone()]);
    produce(cluster.brokers(), &names.dead_letter(), [retry]);
    assert_eq!(read_all(cluster.brokers(), &names.dead_letter())[0].value.as_deref(), Some(&largest[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_may_run_twice_at_the_same_time() {
    let cluster = Cluster::shared().await;
    let names = Names::of("topics-twice");
    tokio::join!(names.create(cluster.brokers(), SCHEDULE, 2), names.create(cluster.brokers(), SCHEDULE, 2),);
    assert_eq!(run("plan", cluster.brokers(), &names, &["--topic-partitions", "2"]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_is_a_clear_error_in_bounded_time() {
    let names = Names::of("topics-unreachable");
    let (load, begun) = (Load::watch(), tokio::time::Instant::now());
    let (code, text) = run("plan", "127.0.0.1:9", &names, &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no broker of 127.0.0.1:9 answered within 15s"), "{text}");
    assert!(text.contains("refused"), "the reason is named: {text}");
    load.assert_within("a plan without a broker", begun.elapsed(), Duration::from_secs(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_gives_no_properties_is_a_warning_within_seconds() {
    // The client library's own mock cluster knows topics but not their properties.
    let mock = rdkafka::mocking::MockCluster::new(1).unwrap();
    let names = Names::of("topics-mock");
    let settings = names.settings(1);
    let schedule = RetrySchedule::parse("1s").unwrap();
    let deltas = format!("{}.deltas", names.health());
    for topic in
        [&settings.events, &settings.integrations, &names.tier("1s"), &settings.dead_letter, &settings.attempts]
    {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let counts = format!("{}.counts", names.health());
    for topic in [&names.now(), &settings.backlog, &settings.health, &settings.audit, &deltas, &counts] {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let (load, begun) = (Load::watch(), tokio::time::Instant::now());
    let kafka = kafka_settings(&mock.bootstrap_servers(), "topics-mock");
    let checked = cluster::check_for_worker(&kafka, &settings, &schedule).await.unwrap();
    assert_eq!(checked.warnings.len(), 1, "all topics have one cause: {:?}", checked.warnings);
    assert!(checked.warnings.iter().all(|warning| warning.subject == "properties"), "{:?}", checked.warnings);
    load.assert_within("a check without properties", begun.elapsed(), Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_get_three_replicas_of_which_two_must_be_in_sync() {
    let cluster = Cluster::start_with(ClusterOptions::nodes(3)).await;
    let names = Names::of("topics-replicas");
    create_topic(cluster.brokers(), &names.tier("1h"), 1, &[]).await;
    let (code, text) = run("apply", cluster.brokers(), &names, &["--topic-partitions", "1"]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("note:"), "{text}");
    assert_eq!(property(cluster.brokers(), &names.dead_letter(), "min.insync.replicas").await, "2");
    let (code, text) = run("plan", cluster.brokers(), &names, &["--topic-partitions", "1", "--json"]);
    assert_eq!(code, 1, "{text}");
    assert_eq!(findings(&json(&text)), [(names.tier("1h"), "replicas".to_owned())], "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_to_run_where_data_would_be_lost_and_says_why() {
    let cluster = Cluster::shared().await;
    let names = Names::of("topics-refused");
    names.create(cluster.brokers(), "1h", 1).await;
    let ends_with = |schedule: &'static str| {
        let names = names.clone();
        let brokers = cluster.brokers().to_owned();
        async move {
            let mut process: Process = Worker::process(&brokers, &names, &["--retry-schedule", schedule]);
            let lines: Lines = process.lines().clone();
            let code = tokio::task::spawn_blocking(move || process.wait(PATIENCE)).await.unwrap();
            (code, lines.tail(50))
        }
    };
    let (code, log) = ends_with("1h,2h").await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains(&format!("{} is missing", names.tier("2h"))), "{log}");
    create_topic(cluster.brokers(), &names.tier("3h"), 1, &[("retention.ms", "3600000")]).await;
    let (code, log) = ends_with("1h,3h").await;
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("before they are due after 3h: every one is lost"), "{log}");
}
