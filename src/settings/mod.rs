//! Every option of every subcommand: read once, checked together, all mistakes reported at once.
//!
//! This is the only reader of the environment. What the rest of the program sees are the typed groups below.

mod build;
mod help;
mod completions;
mod man;
mod scan;
mod options;
mod contradictions;
mod reader;
mod given;
mod row;
mod values;
mod command;
mod subcommand;
mod kafka_property;
mod log_filter;
mod mistake;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::retry_schedule::RetrySchedule;

pub(crate) use command::{
    AttemptsQuery, Command, DeadLetterFilter, DeadLettersList, DeadLettersShow, Demo, EventSource, Explain,
    IntegrationName, Logs, NamedEvent, Parsed, Query, Receiver, RecordPlace, Redrive, Replay, Resume, Sending, Trace,
};
pub(crate) use completions::render as completions;
pub(crate) use help::render as help;
pub(crate) use log_filter::BadFilter;
pub(crate) use man::render as man;
pub(crate) use mistake::Mistake;

/// How to reach Kafka and under which group to consume.
#[derive(Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `--brokers`: bootstrap servers, comma separated.
    pub brokers: String,
    /// `--group`: the consumer group; internal groups derive from it.
    pub group: String,
    /// `--instance-id`: the name of this process in its consumer groups (`group.instance.id`); without it each start is a new member.
    pub instance_id: Option<String>,
    /// `--kafka-property`: librdkafka properties, in the order given. Values may be secrets: never logged.
    pub properties: Vec<(String, String)>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.properties.iter().map(|(key, _)| (key, "***")).collect();
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("group", &self.group)
            .field("instance_id", &self.instance_id)
            .field("properties", &keys)
            .finish()
    }
}

/// Names and shapes of the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// `--events-topic`
    pub events: String,
    /// `--integrations-topic`
    pub integrations: String,
    /// `--retry-topic-prefix`; a tier's topic is `<prefix>.<delay>`.
    pub retry_prefix: String,
    /// `--dead-letter-topic`
    pub dead_letter: String,
    /// `--attempts-topic`
    pub attempts: String,
    /// `--health-topic`
    pub health: String,
    /// `--backlog-topic`: the places of webhooks that are behind in the events topic.
    pub backlog: String,
    /// `--audit-topic`: what operators did through the API.
    pub audit: String,
    /// `--topic-partitions`: of topics that `topics apply` creates.
    pub partitions: u16,
    /// `--topic-replication-factor`: the same.
    pub replication_factor: u16,
    /// `--require-replicas`: `topics apply` creates nothing with fewer replicas than that.
    pub replicas_required: bool,
}

/// `--ordering`: which first attempts wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// First attempts of one webhook about the same entity go one after another.
    Entity,
    /// One request at a time per webhook, retries included.
    Webhook,
    /// No order.
    None,
}

/// How deliveries are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// `--retry-schedule`
    pub schedule: RetrySchedule,
    /// `--give-up-after`: how long after its first attempt a delivery may still be attempted. Not below the whole schedule.
    pub give_up_after: Duration,
    /// `--request-timeout`: from name resolution to the answer's headers.
    pub request_timeout: Duration,
    /// `--connect-timeout`: name resolution, TCP and TLS, within the above.
    pub connect_timeout: Duration,
    /// `--ordering`
    pub ordering: Ordering,
    /// `--max-in-flight`: requests under way at once in this process.
    pub max_in_flight: usize,
    /// `--max-in-flight-per-webhook`
    pub max_in_flight_per_webhook: usize,
    /// `--max-in-flight-per-host`: over all webhooks with the same scheme, host and port.
    pub max_in_flight_per_host: usize,
    /// `--max-queued-bytes`: event bytes held in memory before consumption pauses.
    pub max_queued_bytes: usize,
    /// `--delivery-threads`: 0 means one per core that the process may use.
    pub threads: usize,
    /// `--allow-private-networks`
    pub allow_private_networks: Vec<IpNet>,
    /// `--drain-timeout`
    pub drain_timeout: Duration,
}

/// When an integration counts as failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// `--errors-window`
    pub(crate) errors_window: Duration,
    /// `--errors-min-attempts`
    pub(crate) errors_min_attempts: u32,
    /// `--suspend-after`
    pub(crate) suspend_after: Duration,
    /// `--suspend-after-failures`
    pub(crate) suspend_after_failures: u32,
}

/// The registration API's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    /// `--api-listen`
    pub(crate) listen: SocketAddr,
    /// `--api-tokens-file`
    pub(crate) tokens_file: Option<PathBuf>,
    /// `--api-tls-cert` and `--api-tls-key`: PEM files, both or none.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

/// `--attempt-log`: which attempts are written to the attempts topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptLog {
    /// Every attempt.
    All,
    /// Failed attempts.
    Failures,
    /// No attempt.
    Off,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// All options that subcommands share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Connection and group.
    pub(crate) kafka: Kafka,
    /// Topic names and shapes.
    pub(crate) topics: Topics,
    /// How deliveries are made.
    pub(crate) delivery: Delivery,
    /// When an integration counts as failing.
    pub(crate) suspension: Suspension,
    /// The registration API.
    pub(crate) api: Api,
    /// `--admin-listen`
    pub(crate) admin_listen: SocketAddr,
    /// `--console-listen`: the operators' page.
    pub(crate) console_listen: SocketAddr,
    /// `--console-api-url`: where the console sends test deliveries; scheme and authority of it count.
    pub(crate) console_api_url: Option<http::Uri>,
    /// `--attempt-log`
    pub(crate) attempt_log: AttemptLog,
    /// `--log-format`
    pub(crate) log_format: LogFormat,
}

impl Default for Settings {
    /// The settings of a worker without any option.
    fn default() -> Self {
        options::defaults()
    }
}

/// Reads arguments (without the program's name) and environment. Reports everything that is wrong with them.
///
/// A flag wins over its variable. Variables of other subcommands' options are not looked at; help and version look at none.
///
/// # Errors
/// All mistakes, in the order in which they were found; never empty.
pub(crate) fn parse(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Parsed, Vec<Mistake>> {
    build::parsed(args, environment)
}

/// Reads this process's own arguments and environment.
///
/// # Errors
/// As [`parse`].
pub(crate) fn from_process() -> Result<Parsed, Vec<Mistake>> {
    parse(std::env::args_os().skip(1), std::env::vars_os())
}

/// What the environment says about the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// `NO_COLOR` is not set.
    pub(crate) colour: bool,
    /// `TERM` does not say that nothing can be drawn.
    pub(crate) draws: bool,
}

/// Asks the environment about the terminal.
pub(crate) fn terminal() -> Terminal {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Terminal { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()), draws: !dumb }
}
