//! What the command line asks for: one variant a subcommand, each with all it needs and nothing else.
//!
//! Only shapes live here; how they are read is in `scan`, `values` and `build`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::{LogFormat, Settings};

/// A subcommand's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subcommand {
    /// `worker`
    Worker,
    /// `api`
    Api,
    /// `console`
    Console,
    /// `demo`
    Demo,
    /// `receiver`
    Receiver,
    /// `topics plan`
    TopicsPlan,
    /// `topics apply`
    TopicsApply,
    /// `dead-letters list`
    DeadLettersList,
    /// `dead-letters show`
    DeadLettersShow,
    /// `dead-letters redrive`
    DeadLettersRedrive,
    /// `replay`
    Replay,
    /// `resume`
    ResumeRequest,
    /// `explain`
    Explain,
    /// `integrations`
    Integrations,
    /// `health`
    Health,
    /// `attempts`
    Attempts,
    /// `trace`
    Trace,
    /// `check`
    Check,
    /// `completions`
    Completions,
    /// `man`
    Man,
}

impl Subcommand {
    /// All of them, in the order in which help lists them.
    pub(crate) const ALL: [Self; 20] = [
        Self::Worker,
        Self::Api,
        Self::Console,
        Self::Demo,
        Self::Receiver,
        Self::TopicsPlan,
        Self::TopicsApply,
        Self::DeadLettersList,
        Self::DeadLettersShow,
        Self::DeadLettersRedrive,
        Self::Replay,
        Self::ResumeRequest,
        Self::Explain,
        Self::Integrations,
        Self::Health,
        Self::Attempts,
        Self::Trace,
        Self::Check,
        Self::Completions,
        Self::Man,
    ];

    /// The words that ask for it, with one space between.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Api => "api",
            Self::Console => "console",
            Self::Demo => "demo",
            Self::Receiver => "receiver",
            Self::TopicsPlan => "topics plan",
            Self::TopicsApply => "topics apply",
            Self::DeadLettersList => "dead-letters list",
            Self::DeadLettersShow => "dead-letters show",
            Self::DeadLettersRedrive => "dead-letters redrive",
            Self::Replay => "replay",
            Self::ResumeRequest => "resume",
            Self::Explain => "explain",
            Self::Integrations => "integrations",
            Self::Health => "health",
            Self::Attempts => "attempts",
            Self::Trace => "trace",
            Self::Check => "check",
            Self::Completions => "completions",
            Self::Man => "man",
        }
    }

    /// The option whose value may also be given as a bare argument: the thing that the subcommand is about.
    pub(crate) fn argument(self) -> Option<&'static str> {
        match self {
            Self::DeadLettersShow | Self::DeadLettersRedrive | Self::Explain | Self::Trace => Some("event"),
            Self::Completions => Some("shell"),
            _ => None,
        }
    }

    /// What it does, in one line.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Worker => "deliver events to the integrations; runs until SIGTERM or SIGINT",
            Self::Api => "serve the registration API; runs until SIGTERM or SIGINT",
            Self::Console => {
                "serve the operators\' page and what it reads; writes nothing; runs until SIGTERM or SIGINT"
            }
            Self::Demo => {
                "show the whole system on this machine: embedded broker, sample events, good and bad receivers"
            }
            Self::Receiver => {
                "run a reference integration endpoint: verifies signatures, echoes, misbehaves on request"
            }
            Self::TopicsPlan => "say which topics are missing or misconfigured, and what that would cost",
            Self::TopicsApply => "create the missing topics and alter the misconfigured ones",
            Self::DeadLettersList => "list the records of the dead-letter topic",
            Self::DeadLettersShow => "show one record of the dead-letter topic: headers and body",
            Self::DeadLettersRedrive => "send dead letters back to delivery, as first attempts with their delivery ids",
            Self::Replay => "deliver past events again to one webhook or integration",
            Self::ResumeRequest => "set a suspended integration active again",
            Self::Explain => "say for one event and one integration which webhooks match, and why or why not",
            Self::Integrations => "list the integrations with their webhooks and how they are",
            Self::Health => "list what the health topic says: who fails or is suspended, since when and why",
            Self::Attempts => "list the attempts that were logged, the newest first",
            Self::Trace => {
                "say what became of one event at each webhook of its workspace, and whether all is accounted for"
            }
            Self::Check => {
                "say whether a worker and an API could work here: files, certificates, brokers, topics, rights, clock"
            }
            Self::Completions => "write the completion script of a shell: bash, zsh or fish",
            Self::Man => "write the manual page, in the language of man",
        }
    }

    /// The first word: of a family (`topics`, `dead-letters`) or the whole name.
    pub(crate) fn first_word(self) -> &'static str {
        self.words().split(' ').next().unwrap_or_default()
    }

    /// The second word of a family's member.
    pub(crate) fn second_word(self) -> Option<&'static str> {
        self.words().split(' ').nth(1)
    }
}

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
        /// What about.
        topic: HelpTopic,
        /// False when the program was started without any argument: a mistake, reported on stderr.
        asked: bool,
    },
    /// `--version`
    Version,
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
    /// `--for`: until interrupted without it.
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
    /// The id of an event or of a delivery.
    Id(String),
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
    /// `--reason`: of dead letters one of [`DEAD_LETTER_REASONS`], of attempts the reason of a failure.
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
    /// `--skip-sent`: not those that were sent back since they died.
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

/// `integrations` and `health`; with more, `attempts`. What is not set is no condition.
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
    /// `--event`: an event's id or `topic/partition/offset`.
    pub(crate) event: Option<String>,
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
    /// `--workspace`: where the event's record does not say it; where it does, it must be the same.
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

/// The words of `hookstream-reason` that `--reason` accepts.
pub(crate) const DEAD_LETTER_REASONS: [&str; 4] = ["exhausted", "invalid-event", "suspended", "too-large"];

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logs {
    /// `--log-format`
    pub(crate) format: LogFormat,
    /// `--log-level`: checked directives of a filter.
    pub(crate) filter: String,
}

/// A command line that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parsed {
    /// What to do.
    pub(crate) command: Command,
    /// How to log.
    pub(crate) logs: Logs,
    /// Environment variables `HOOKSTREAM_…` that are no option: to be logged, since they may be misspelt. They are no
    /// mistakes, because Kubernetes sets such variables for every service of that name.
    pub(crate) warnings: Vec<String>,
}
