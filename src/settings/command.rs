//! What the command line asks for: one variant for each subcommand, with all that it needs and nothing else.
//!
//! Only shapes live here; how they are read is in `scan`, `values` and `build`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

pub(crate) use super::subcommand::Subcommand;
use super::{LogFormat, Settings};

/// What a help text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HelpTopic {
    /// The program: all subcommands.
    Program,
    /// `topics` or `dead-letters`: the members of that family.
    Family(&'static str),
    /// One subcommand and its options.
    Subcommand(Subcommand),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// `worker`
    Worker(Box<Settings>),
    /// `api`
    Api(Box<Settings>),
    /// `console`
    Console(Box<Settings>),
    /// `demo`
    Demo(Box<Settings>, Demo),
    /// `receiver`
    Receiver(Receiver),
    /// `topics plan`
    TopicsPlan(Box<Settings>, TopicsOutput),
    /// `topics apply`
    TopicsApply(Box<Settings>, TopicsOutput),
    /// `dead-letters list`
    DeadLettersList(Box<Settings>, DeadLettersList),
    /// `dead-letters show`
    DeadLettersShow(Box<Settings>, DeadLettersShow),
    /// `dead-letters redrive`
    DeadLettersRedrive(Box<Settings>, Redrive),
    /// `replay`
    Replay(Box<Settings>, Replay),
    /// `resume`
    ResumeRequest(Box<Settings>, Resume),
    /// `explain`
    Explain(Box<Settings>, Explain),
    /// `integrations`
    Integrations(Box<Settings>, Query),
    /// `health`
    Health(Box<Settings>, Query),
    /// `attempts`
    Attempts(Box<Settings>, AttemptsQuery),
    /// `trace`
    Trace(Box<Settings>, Trace),
    /// `check`, and whether with `--json`
    Check(Box<Settings>, bool),
    /// `completions`
    Completions(Shell),
    /// `man`
    Man,
    /// `help`, `--help`, or no argument at all.
    Help {
        /// The subject of the help text.
        topic: HelpTopic,
        /// False when the program was started without any argument: a mistake, reported on stderr.
        asked: bool,
    },
    /// `--version`
    Version,
}

impl Command {
    /// The settings that it has. `None` if it takes none of the options that subcommands share.
    pub(crate) fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Worker(settings)
            | Self::Api(settings)
            | Self::Console(settings)
            | Self::Demo(settings, _)
            | Self::TopicsPlan(settings, _)
            | Self::TopicsApply(settings, _)
            | Self::DeadLettersList(settings, _)
            | Self::DeadLettersShow(settings, _)
            | Self::DeadLettersRedrive(settings, _)
            | Self::Replay(settings, _)
            | Self::ResumeRequest(settings, _)
            | Self::Explain(settings, _)
            | Self::Integrations(settings, _)
            | Self::Health(settings, _)
            | Self::Attempts(settings, _)
            | Self::Trace(settings, _)
            | Self::Check(settings, _) => Some(settings),
            Self::Receiver(_) | Self::Completions(_) | Self::Man | Self::Help { .. } | Self::Version => None,
        }
    }
}

/// How the topic tools answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicsOutput {
    /// `--json`
    pub(crate) json: bool,
}

/// `demo`: how long and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demo {
    /// `--for`. Without it the demo runs until it is interrupted.
    pub(crate) duration: Option<Duration>,
    /// `--rate`: sample events a second.
    pub(crate) rate: u32,
}

/// `receiver`: where it listens and how it misbehaves.
#[derive(Clone, PartialEq)]
pub(crate) struct Receiver {
    /// `--listen`
    pub(crate) listen: SocketAddr,
    /// `--fail-rate`: the share of requests answered with a failure, 0 to 1.
    pub(crate) fail_rate: f64,
    /// `--latency`: waits this long before it answers.
    pub(crate) latency: Duration,
    /// `--status`: answers with this instead of 200.
    pub(crate) status: Option<u16>,
    /// `--no-echo`: leaves the echo header out.
    pub(crate) no_echo: bool,
    /// `--secret`: signatures are verified with it. Never logged.
    pub(crate) secret: Option<String>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("listen", &self.listen)
            .field("fail_rate", &self.fail_rate)
            .field("latency", &self.latency)
            .field("status", &self.status)
            .field("no_echo", &self.no_echo)
            .field("secret", &self.secret.as_ref().map(|_| "***"))
            .finish()
    }
}

/// The place of a record: `topic/partition/offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, offset } = self;
        write!(f, "{topic}/{partition}/{offset}")
    }
}

/// `--event`: where an event comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventSource {
    /// A record in Kafka.
    Record(RecordPlace),
    /// A file that holds the event's JSON.
    File(PathBuf),
    /// `-`: the event's JSON on standard input.
    Stdin,
}

/// An event, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedEvent {
    /// A record in Kafka.
    Place(RecordPlace),
    /// The id of an event.
    Id(String),
    /// The id of a delivery: the header `webhook-id`.
    Delivery(String),
    /// `-`: the event's JSON on standard input.
    Stdin,
}

/// The integration that a tool is about: `--workspace` and `--integration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IntegrationName {
    pub(crate) workspace: String,
    pub(crate) integration: String,
}

impl IntegrationName {
    /// The key of its records: `<workspace>/<integration id>`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.workspace, self.integration)
    }
}

/// Which dead letters a tool takes: those that agree with every field that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadLetterFilter {
    /// `--workspace`
    pub(crate) workspace: Option<String>,
    /// `--integration`
    pub(crate) integration: Option<String>,
    /// `--webhook`
    pub(crate) webhook: Option<String>,
    /// `--reason`: a word of `DeadReason`.
    pub(crate) reason: Option<&'static str>,
    /// `--from`: records of this time and later.
    pub(crate) from: Option<Timestamp>,
    /// `--to`: records before this time.
    pub(crate) to: Option<Timestamp>,
}

/// `dead-letters list`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLettersList {
    pub(crate) filter: DeadLetterFilter,
    /// `--limit`: only this many of the newest records.
    pub(crate) limit: Option<u64>,
    pub(crate) json: bool,
    /// `--wide`: whole columns on a terminal too.
    pub(crate) wide: bool,
}

/// `dead-letters show`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLettersShow {
    /// Never standard input.
    pub(crate) event: NamedEvent,
    pub(crate) json: bool,
}

/// How records are sent back to delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    /// `--rate`: records a second, at most.
    pub(crate) rate: u32,
    /// `--dry-run`: say what would be done, do nothing.
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
}

/// `dead-letters redrive`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redrive {
    pub(crate) filter: DeadLetterFilter,
    /// `--event`: only this record, or those of this event or delivery. Never standard input.
    pub(crate) event: Option<NamedEvent>,
    /// `--skip-sent`: leaves out records that were sent back after they became dead letters.
    pub(crate) skip_sent: bool,
    pub(crate) sending: Sending,
}

/// `replay`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) integration: IntegrationName,
    /// `--webhook`: only this one.
    pub(crate) webhook: Option<String>,
    /// `--from`: events of this time and later; without it, from the offsets that a suspension recorded.
    pub(crate) from: Option<Timestamp>,
    /// `--to`: events before this time.
    pub(crate) to: Option<Timestamp>,
    pub(crate) sending: Sending,
}

/// `resume`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) integration: IntegrationName,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
}

/// `explain`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explain {
    pub(crate) integration: IntegrationName,
    /// `--webhook`: only this one.
    pub(crate) webhook: Option<String>,
    pub(crate) event: EventSource,
    pub(crate) json: bool,
}

/// `integrations` and `health`, and a part of `attempts`. A field that is not set matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// `--workspace`
    pub(crate) workspace: Option<String>,
    /// `--integration`: its id, or the beginning of it.
    pub(crate) integration: Option<String>,
    /// `--webhook`
    pub(crate) webhook: Option<String>,
    /// `--reason`: why an attempt failed.
    pub(crate) reason: Option<&'static str>,
    /// `--from`: this time and later.
    pub(crate) from: Option<Timestamp>,
    /// `--to`: before this time.
    pub(crate) to: Option<Timestamp>,
    /// `--limit`: at most this many of the newest rows.
    pub(crate) limit: u64,
    pub(crate) json: bool,
    /// `--wide`: whole columns, however wide the terminal is.
    pub(crate) wide: bool,
}

/// `attempts`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptsQuery {
    pub(crate) query: Query,
    /// `--event`, or a bare argument. Never standard input.
    pub(crate) event: Option<NamedEvent>,
    /// `--delivery`: a delivery's id.
    pub(crate) delivery: Option<String>,
    /// `--entity`: an id among an event's entities.
    pub(crate) entity: Option<String>,
}

/// `--shell`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `trace`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) event: NamedEvent,
    /// `--workspace`: the workspace that the event must be of.
    pub(crate) workspace: Option<String>,
    /// `--integration`: only its webhooks.
    pub(crate) integration: Option<String>,
    /// `--webhook`: only this one.
    pub(crate) webhook: Option<String>,
    /// `--from`: the event is of this time or later.
    pub(crate) from: Option<Timestamp>,
    /// `--to`: the event is from before this time.
    pub(crate) to: Option<Timestamp>,
    /// `--reason`: of the attempts only failures of this reason are shown.
    pub(crate) reason: Option<&'static str>,
    /// `--limit`: at most this many of the newest attempts of each webhook.
    pub(crate) limit: u64,
    pub(crate) json: bool,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logs {
    /// `--log-format`
    pub(crate) format: LogFormat,
    /// `--log-level`: checked directives of a filter.
    pub(crate) filter: String,
}

/// A valid command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parsed {
    /// What to do.
    pub(crate) command: Command,
    /// How to log.
    pub(crate) logs: Logs,
    /// Environment variables `HOOKSTREAM_…` that name no option. They are logged, since they may be misspelt. They are not mistakes,
    /// because Kubernetes sets such variables for every service of that name.
    pub(crate) warnings: Vec<String>,
}
