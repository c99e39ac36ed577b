//! Reads the topics of a cluster, creates missing ones and alters those that differ. The rules are in `topics`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigEntry, ConfigSource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;

use super::{Actual, ActualTopic, Finding, Fix, NotDescribed, Plan, Severity, TopicSpec};
use crate::domain::retry_schedule::RetrySchedule;
use crate::domain::topic_names::tier_delay;
use crate::kafka::client::{ClientLog, admin_config, table_consumer_config};
use crate::kafka::first_answer::{NoAnswer, first_answer};
use crate::settings;
use crate::telemetry::chain::chain;

/// A cluster that has not answered by then is as good as unreachable.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Brokers that don't know the request at all never answer it; the check goes on without.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Creating and altering waits for the controller.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// What was changed takes a moment to reach all brokers.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// Why topics could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// A property that the client library refuses.
    #[error("the Kafka client can't be configured so")]
    Configuration(#[source] KafkaError),
    /// The brokers answer, but not with the topics.
    #[error("the topics can't be listed")]
    Refused(#[source] KafkaError),
    /// No broker answered.
    #[error(
        "no broker of {brokers} answered within {}: {reason}",
        crate::domain::retry_schedule::format_duration(REACH_TIMEOUT)
    )]
    Unreachable {
        /// The bootstrap servers.
        brokers: String,
        /// What the client said last.
        reason: String,
    },
    /// All replicas are required, and brokers for them are missing.
    #[error(
        "nothing was created: the cluster has fewer brokers than --topic-replication-factor ({0}); give it that many brokers, \
         lower the factor, or do without --require-replicas"
    )]
    FewBrokers(u16),
}

/// Why a worker must not start.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Topics could not be read.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// Data would be lost, or a topic is missing: every finding of severity error.
    #[error("the topics are not fit to run on: {}", sentences(.0))]
    Unfit(Vec<Finding>),
}

/// What a worker needs to know of topics that are fit to run on.
#[derive(Debug)]
pub struct Checked {
    /// What is worth changing or could not be checked; to be logged.
    pub warnings: Vec<Finding>,
    /// The largest event, as the events topic has it.
    pub event_bytes_max: u64,
    /// Partitions of each topic, by name.
    pub partitions: BTreeMap<String, u16>,
    /// Tiers that exist and are no longer in the schedule, with their delays: retries may wait in them.
    pub(crate) former_tiers: Vec<(Arc<str>, Duration)>,
}

/// What `apply` did.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was changed, a line each.
    pub(crate) done: Vec<String>,
    /// What could not be changed and why, a line each.
    pub failed: Vec<String>,
    /// How the topics are now.
    pub left: Plan,
}

/// A finding as one sentence, for logs and errors.
pub(crate) fn sentence(finding: &Finding) -> String {
    let Finding { topic, subject, actual, wanted, cost, .. } = finding;
    if *subject == "topic" {
        format!("{topic} is missing: {cost}")
    } else {
        format!("{topic} has {subject} {actual}, wanted {wanted}: {cost}")
    }
}

fn sentences(findings: &[Finding]) -> String {
    findings.iter().map(sentence).collect::<Vec<_>>().join("; ")
}

/// Compares the cluster's topics with how they must be.
///
/// # Errors
/// When the cluster can't be reached.
pub(crate) async fn plan(
    kafka: &settings::Kafka,
    topics: &settings::Topics,
    schedule: &RetrySchedule,
) -> Result<Plan, TopicsError> {
    let actual = read(kafka, &names(topics, schedule), Some(&topics.retry_prefix)).await?;
    let mut plan = super::plan(topics, schedule, &actual);
    plan.notes.extend(super::other_schedule(topics, &plan, &actual));
    Ok(plan)
}

/// What a worker calls before it reads anything.
///
/// # Errors
/// When the cluster can't be reached, or when running on these topics would lose data or do nothing.
pub async fn check_for_worker(
    kafka: &settings::Kafka,
    topics: &settings::Topics,
    schedule: &RetrySchedule,
) -> Result<Checked, CheckError> {
    let names = names(topics, schedule);
    let actual = read(kafka, &names, Some(&topics.retry_prefix)).await?;
    let plan = super::plan(topics, schedule, &actual);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        plan.findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(CheckError::Unfit(errors));
    }
    let event_bytes_max = super::events_bytes_max(topics, &actual);
    let former = actual.topics.keys().filter(|name| !names.contains(name));
    let former_tiers = former.filter_map(|name| Some((name.as_str().into(), tier_delay(name, &topics.retry_prefix)?)));
    let former_tiers = former_tiers.collect();
    let partitions = actual.topics.into_iter().map(|(name, topic)| (name, topic.partitions)).collect();
    Ok(Checked { warnings, event_bytes_max, partitions, former_tiers })
}

/// Creates what is missing and alters what differs, as far as it may, then looks again.
///
/// Running it again does nothing more.
///
/// # Errors
/// When the cluster can't be reached, or has too few brokers for replicas that are required. What could not be changed is in
/// [`Applied::failed`].
pub async fn apply(
    kafka: &settings::Kafka,
    topics: &settings::Topics,
    schedule: &RetrySchedule,
) -> Result<Applied, TopicsError> {
    let names = names(topics, schedule);
    let admin = admin_client(kafka)?;
    let plan = plan(kafka, topics, schedule).await?;
    if super::lacks_required_replicas(topics, &plan) {
        return Err(TopicsError::FewBrokers(topics.replication_factor));
    }
    let mut applied = Applied::default();
    create(&admin, &plan, &mut applied).await;
    alter(&admin, &plan, &mut applied).await;
    add_partitions(&admin, &plan, &mut applied).await;
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        applied.left = super::plan(topics, schedule, &read(kafka, &names, None).await?);
        let unsettled = applied.left.findings.iter().any(|finding| finding.fix != Fix::ByHand);
        if !unsettled || !applied.failed.is_empty() || applied.done.is_empty() || Instant::now() >= deadline {
            return Ok(applied);
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

fn names(topics: &settings::Topics, schedule: &RetrySchedule) -> Vec<String> {
    super::expected(topics, schedule, super::MESSAGE_BYTES_DEFAULT, 1).into_iter().map(|spec| spec.name).collect()
}

fn admin_client(kafka: &settings::Kafka) -> Result<AdminClient<ClientLog>, TopicsError> {
    admin_config(kafka).create_with_context(ClientLog::new("admin")).map_err(TopicsError::Configuration)
}

/// Reads the named topics from the cluster. With a prefix, all its retry tiers too. Asks for all topics, since a request for one
/// may create it.
async fn read(kafka: &settings::Kafka, names: &[String], tiers: Option<&str>) -> Result<Actual, TopicsError> {
    let names: BTreeSet<String> = names.iter().cloned().collect();
    let tiers = tiers.map(str::to_owned);
    let is_tier = move |name: &str| tiers.as_ref().is_some_and(|prefix| tier_delay(name, prefix).is_some());
    let wanted = move |name: &str| names.contains(name) || is_tier(name);
    let config = table_consumer_config(kafka, "topics");
    let brokers = kafka.brokers.clone();
    let metadata = tokio::task::spawn_blocking(move || fetch_shapes(&config, &brokers, wanted));
    let mut actual = match metadata.await {
        Ok(actual) => actual?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    describe(kafka, &mut actual).await?;
    Ok(actual)
}

fn fetch_shapes(config: &ClientConfig, brokers: &str, wanted: impl Fn(&str) -> bool) -> Result<Actual, TopicsError> {
    let connect = || config.create_with_context(ClientLog::of_tool("topics")).map(Arc::new);
    let asked = first_answer(brokers, REACH_TIMEOUT, connect, |client, wait| client.fetch_metadata(None, wait));
    let (_client, metadata) = asked.map_err(|error| match error {
        NoAnswer::Away { cause } => {
            let reason = cause.unwrap_or_else(|| "no answer".to_owned());
            TopicsError::Unreachable { brokers: brokers.to_owned(), reason }
        }
        NoAnswer::Configuration(source) => TopicsError::Configuration(source),
        NoAnswer::Refused(source) => TopicsError::Refused(source),
    })?;
    let size = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let known = metadata.topics().iter().filter(|topic| wanted(topic.name()) && !topic.partitions().is_empty());
    let topics = known.map(|topic| {
        let replicas = topic.partitions().iter().map(|partition| size(partition.replicas().len())).min();
        let shape = ActualTopic {
            partitions: size(topic.partitions().len()),
            replicas: replicas.unwrap_or_default(),
            properties: Err(NotDescribed::Unanswered),
        };
        (topic.name().to_owned(), shape)
    });
    Ok(Actual { brokers: size(metadata.brokers().len()), topics: topics.collect() })
}

/// Fills in the properties of the topics that exist, where the cluster answers in time.
async fn describe(kafka: &settings::Kafka, actual: &mut Actual) -> Result<(), TopicsError> {
    if actual.topics.is_empty() {
        return Ok(());
    }
    let admin = admin_client(kafka)?;
    let names: Vec<_> = actual.topics.keys().cloned().collect();
    match entries(&admin, &names).await {
        Ok(mut entries) => {
            for (name, topic) in &mut actual.topics {
                if let Some(entries) = entries.remove(name).filter(|entries| !entries.is_empty()) {
                    let values = entries.into_iter().filter_map(|entry| entry.value.map(|value| (entry.name, value)));
                    topic.properties = Ok(values.collect());
                }
            }
        }
        Err(error) => {
            for topic in actual.topics.values_mut() {
                topic.properties = Err(not_described(&error));
            }
        }
    }
    Ok(())
}

fn not_described(error: &KafkaError) -> NotDescribed {
    // The client library gives no code for what became of an admin operation.
    let code = if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() };
    match code {
        Some(
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown,
        ) => NotDescribed::Late,
        Some(_) | None => NotDescribed::Refused { why: chain(error) },
    }
}

/// The properties of each topic. No entry for a topic whose properties this user may not see.
async fn entries(
    admin: &AdminClient<ClientLog>,
    names: &[String],
) -> Result<BTreeMap<String, Vec<ConfigEntry>>, KafkaError> {
    let specifiers: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(DESCRIBE_TIMEOUT));
    // The client's own time-out is the one that counts; the other is for a client that does not keep it.
    let described = tokio::time::timeout(DESCRIBE_TIMEOUT * 2, admin.describe_configs(&specifiers, &options)).await;
    let described = described.unwrap_or(Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut)))?;
    let by_topic = described.into_iter().flatten().filter_map(|resource| match resource.specifier {
        OwnedResourceSpecifier::Topic(name) => Some((name, resource.entries)),
        OwnedResourceSpecifier::Group(_) | OwnedResourceSpecifier::Broker(_) => None,
    });
    Ok(by_topic.collect())
}

fn change_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CHANGE_TIMEOUT)).operation_timeout(Some(CHANGE_TIMEOUT))
}

async fn create(admin: &AdminClient<ClientLog>, plan: &Plan, applied: &mut Applied) {
    let missing = |spec: &&TopicSpec| {
        plan.findings.iter().any(|finding| finding.topic == spec.name && finding.fix == Fix::Create)
    };
    let specs: Vec<&TopicSpec> = plan.specs.iter().filter(missing).collect();
    if specs.is_empty() {
        return;
    }
    let topics: Vec<_> = specs.iter().map(|spec| new_topic(spec)).collect();
    match admin.create_topics(&topics, &change_options()).await {
        Ok(results) => {
            for result in results {
                match result {
                    Ok(name) => {
                        let shape =
                            specs.iter().find(|spec| spec.name == name).map(|spec| format!(" with {}", spec.shape()));
                        applied.done.push(format!("created {name}{}", shape.unwrap_or_default()));
                    }
                    // Another apply was faster; what it made is looked at below.
                    Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((name, code)) => applied.failed.push(format!("{name} could not be created: {code}")),
                }
            }
        }
        Err(error) => applied.failed.push(format!("topics could not be created: {error}")),
    }
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    let replicas = TopicReplication::Fixed(i32::from(spec.replicas));
    let topic = NewTopic::new(&spec.name, i32::from(spec.partitions), replicas);
    spec.properties.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
}

/// Sets properties. The request replaces all that were set on the topic, so those go with it.
async fn alter(admin: &AdminClient<ClientLog>, plan: &Plan, applied: &mut Applied) {
    let mut wanted: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for finding in &plan.findings {
        if let Fix::Set(value) = &finding.fix {
            wanted.entry(&finding.topic).or_default().push((finding.subject, value));
        }
    }
    for (topic, properties) in wanted {
        let said = properties.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ");
        match set(admin, topic, &properties).await {
            Ok(()) => applied.done.push(format!("set {said} on {topic}")),
            Err(error) => applied.failed.push(format!("{said} could not be set on {topic}: {error}")),
        }
    }
}

async fn set(admin: &AdminClient<ClientLog>, topic: &str, properties: &[(&str, &str)]) -> Result<(), KafkaError> {
    let described = entries(admin, &[topic.to_owned()]).await?.remove(topic).unwrap_or_default();
    let own = described.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    let mut all: BTreeMap<String, String> =
        own.filter_map(|entry| entry.value.map(|value| (entry.name, value))).collect();
    for (name, value) in properties {
        all.insert((*name).to_owned(), (*value).to_owned());
    }
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let change = all.iter().fold(change, |change, (name, value)| change.set(name, value));
    match admin.alter_configs([&change], &change_options()).await?.pop() {
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
        Some(Ok(_)) | None => Ok(()),
    }
}

async fn add_partitions(admin: &AdminClient<ClientLog>, plan: &Plan, applied: &mut Applied) {
    for finding in &plan.findings {
        let Fix::Partitions(wanted) = finding.fix else { continue };
        let topic = &finding.topic;
        let partitions = NewPartitions::new(topic, usize::from(wanted));
        let result = match admin.create_partitions([&partitions], &change_options()).await {
            Ok(mut results) => {
                results.pop().unwrap_or(Ok(String::new())).map_err(|(_, code)| KafkaError::AdminOp(code))
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => applied.done.push(format!("raised {topic} from {} to {wanted} partitions", finding.actual)),
            Err(error) => applied.failed.push(format!("{topic} could not be given {wanted} partitions: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_not_a_missing_right() {
        for late in
            [RDKafkaErrorCode::OperationTimedOut, RDKafkaErrorCode::RequestTimedOut, RDKafkaErrorCode::AllBrokersDown]
        {
            assert_eq!(not_described(&KafkaError::AdminOp(late)), NotDescribed::Late, "{late}");
        }
        let refused = not_described(&KafkaError::AdminOp(RDKafkaErrorCode::ClusterAuthorizationFailed));
        assert!(matches!(refused, NotDescribed::Refused { .. }), "{refused}");
    }
}
