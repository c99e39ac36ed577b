//! From texts by option to the typed command: every value is read, every contradiction between two of them is found.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use jiff::Timestamp;

use super::command::{
    AttemptsQuery, Command, DeadLetterFilter, DeadLettersList, DeadLettersShow, Demo, Explain, HelpTopic,
    IntegrationName, Logs, Parsed, Query, Receiver, Redrive, Replay, Resume, Sending, Subcommand, TopicsOutput, Trace,
};
use super::mistake::{Mistake, shown};
use super::options::{self, Spec};
use super::scan::{self, Asked, Given, GivenOptions};
use super::values::{self, Read};
use super::{Api, Delivery, Kafka, LogFormat, Settings, Suspension, Topics, contradictions};

/// The command line, understood.
pub(super) fn parsed(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Parsed, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let line = scan::command_line(args, &mut mistakes);
    let subcommand = match line.asked(&mut mistakes) {
        Asked::Help(topic) => return Ok(without_options(Command::Help { topic, asked: true })),
        Asked::Nothing => return Ok(without_options(Command::Help { topic: HelpTopic::Program, asked: false })),
        Asked::Version => return Ok(without_options(Command::Version)),
        Asked::Unknown => {
            line.into_given(Asked::Unknown, &mut mistakes);
            return Err(mistakes);
        }
        Asked::Run(subcommand) => subcommand,
    };
    let mut given = line.into_given(Asked::Run(subcommand), &mut mistakes);
    let warnings = scan::environment(environment, subcommand, &mut given, &mut mistakes);
    let mut reader = Reader { subcommand, given: &given, mistakes, mistaken: BTreeSet::new() };
    let logs = logs(&mut reader);
    let command = command(&mut reader, logs.format);
    match command {
        Some(command) if reader.mistakes.is_empty() => Ok(Parsed { command, logs, warnings }),
        Some(_) | None => Err(reader.mistakes),
    }
}

/// What a worker without options works with.
pub(super) fn defaults() -> Settings {
    let given = GivenOptions::new();
    let mut reader = Reader::new(Subcommand::Worker, &given);
    settings(&mut reader, LogFormat::Human)
}

fn without_options(command: Command) -> Parsed {
    let logs = Logs { format: LogFormat::Human, filter: "info".to_owned() };
    Parsed { command, logs, warnings: Vec::new() }
}

/// Reads the values of one subcommand and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) subcommand: Subcommand,
    given: &'a GivenOptions,
    pub(super) mistakes: Vec<Mistake>,
    /// Options with a mistake: they take no part in contradictions.
    mistaken: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    fn new(subcommand: Subcommand, given: &'a GivenOptions) -> Self {
        Self { subcommand, given, mistakes: Vec::new(), mistaken: BTreeSet::new() }
    }

    /// The row as this subcommand takes it, or, for defaults, as another does.
    fn spec(&self, name: &str) -> &'static Spec {
        options::find(name, self.subcommand)
            .or_else(|| options::find_any(name))
            .expect("every option that is read has a row; a test reads them all")
    }

    fn given(&self, name: &str) -> Option<&'a Given> {
        self.given.get(name)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        options::find(name, self.subcommand).is_some()
    }

    fn mistake(&mut self, spec: &'static Spec, given: &Given, text: &str, accepted: &str) {
        self.mistaken.insert(spec.name);
        let subject = given.subject(spec);
        self.mistakes.push(if spec.secret {
            Mistake::secret(&subject, accepted)
        } else {
            Mistake::value(&subject, text, accepted)
        });
    }

    /// The value that was given, if one was and it can be read.
    fn optional<T>(&mut self, name: &str, read: impl Fn(&str) -> Read<T>) -> Option<T> {
        let spec = self.spec(name);
        let Some(given) = self.given(name) else {
            if spec.required && self.takes(name) {
                let text =
                    format!("is required by `{}`: {} ({})", self.subcommand.words(), spec.about, spec.placeholder);
                self.mistakes.push(Mistake::new(&spec.flag_name(), &text));
            }
            return None;
        };
        let text = given.texts.first()?;
        match read(text) {
            Ok(value) => Some(value),
            Err(accepted) => {
                self.mistake(spec, given, text, &accepted);
                None
            }
        }
    }

    /// The value that was given, or the default. The default also stands in for a value with a mistake.
    fn value<T>(&mut self, name: &str, read: impl Fn(&str) -> Read<T>) -> T {
        if let Some(value) = self.optional(name, &read) {
            return value;
        }
        let default = self.spec(name).default.and_then(|default| read(default).ok());
        default.expect("every default can be read; a test reads them all")
    }

    fn many<T>(&mut self, name: &str, read: impl Fn(&str) -> Read<T>) -> Vec<T> {
        let spec = self.spec(name);
        let Some(given) = self.given(name) else {
            return Vec::new();
        };
        let mut values = Vec::new();
        for text in &given.texts {
            match read(text) {
                Ok(value) => values.push(value),
                Err(accepted) => self.mistake(spec, given, text, &accepted),
            }
        }
        values
    }

    fn flag(&mut self, name: &str) -> bool {
        self.optional(name, values::switch).unwrap_or(false)
    }

    /// Says that two options contradict each other, unless one of them has a mistake of its own.
    pub(super) fn contradiction(&mut self, one: &str, other: &str, accepted: &str) {
        if [one, other].iter().any(|name| self.mistaken.contains(name)) {
            return;
        }
        let subject = format!("{} and {} contradict each other", self.as_given(one), self.as_given(other));
        self.mistakes.push(Mistake::new(&subject, accepted));
    }

    /// A librdkafka property against an option. The property's value is not shown: values of properties may be secrets.
    pub(super) fn property_contradiction(&mut self, key: &str, other: &str, accepted: &str) {
        if ["kafka-property", other].iter().any(|name| self.mistaken.contains(name)) {
            return;
        }
        let subject = format!("--kafka-property {key} and {} contradict each other", self.as_given(other));
        self.mistakes.push(Mistake::new(&subject, accepted));
    }

    /// The option and its value, as it was given.
    fn as_given(&self, name: &str) -> String {
        let spec = self.spec(name);
        match self.given(name) {
            Some(given) => {
                let text = given.texts.first().map(|text| shown(text)).unwrap_or_default();
                format!("{} {text}", given.subject(spec))
            }
            None => match spec.default {
                Some(default) => format!("{} {} (default)", spec.flag_name(), shown(default)),
                None => format!("{} (not given)", spec.flag_name()),
            },
        }
    }
}

fn logs(reader: &mut Reader<'_>) -> Logs {
    Logs {
        format: reader.value("log-format", values::log_format),
        filter: reader.value("log-level", values::log_level),
    }
}

/// The command, or none where what it can't do without has a mistake.
fn command(reader: &mut Reader<'_>, log_format: LogFormat) -> Option<Command> {
    if reader.subcommand == Subcommand::Receiver {
        return Some(Command::Receiver(receiver(reader)));
    }
    match reader.subcommand {
        Subcommand::Completions => return Some(Command::Completions(reader.optional("shell", values::shell)?)),
        Subcommand::Man => return Some(Command::Man),
        _ => {}
    }
    let settings = Box::new(settings(reader, log_format));
    contradictions::find(reader, &settings);
    Some(match reader.subcommand {
        Subcommand::Worker => Command::Worker(settings),
        Subcommand::Api => Command::Api(settings),
        Subcommand::Console => Command::Console(settings),
        Subcommand::Demo => Command::Demo(settings, demo(reader)),
        Subcommand::Receiver => Command::Receiver(receiver(reader)),
        Subcommand::TopicsPlan => Command::TopicsPlan(settings, TopicsOutput { json: reader.flag("json") }),
        Subcommand::TopicsApply => Command::TopicsApply(settings, TopicsOutput { json: reader.flag("json") }),
        Subcommand::DeadLettersList => Command::DeadLettersList(settings, dead_letters_list(reader)),
        Subcommand::DeadLettersShow => Command::DeadLettersShow(settings, dead_letters_show(reader)?),
        Subcommand::DeadLettersRedrive => Command::DeadLettersRedrive(settings, redrive(reader)),
        Subcommand::Replay => Command::Replay(settings, replay(reader)?),
        Subcommand::ResumeRequest => Command::ResumeRequest(settings, resume(reader)?),
        Subcommand::Explain => Command::Explain(settings, explain(reader)?),
        Subcommand::Integrations => Command::Integrations(settings, query(reader)),
        Subcommand::Health => Command::Health(settings, query(reader)),
        Subcommand::Attempts => Command::Attempts(settings, attempts(reader)),
        Subcommand::Trace => Command::Trace(settings, trace(reader)?),
        Subcommand::Check => Command::Check(settings, reader.flag("json")),
        // They are answered without settings.
        Subcommand::Completions | Subcommand::Man => Command::Man,
    })
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
/// A member that drains for longer than Kafka's clients let a poll wait (5m here) would be thrown out of its group; and a
/// request is never longer than a drain.
const DRAIN_MAX: Duration = Duration::from_mins(4);
/// Longer than this nothing here waits: the retry schedule's own bound.
const WEEK: Duration = Duration::from_hours(168);
/// The longest schedule there can be: 100 delays of a week.
const GIVE_UP_MAX: Duration = Duration::from_hours(100 * 168);
/// Far above the files a process may open; a bound for the memory of tables.
const IN_FLIGHT_MAX: usize = 100_000;
/// Below it, one event of Kafka's usual largest size would stop consumption.
const QUEUED_BYTES_MIN: usize = 1 << 20;
const QUEUED_BYTES_MAX: usize = 1 << 40;
const RATE_MAX: u32 = 1_000_000;
/// The newest are known only at the end, so they are kept until then: some 100 MB of lines.
const LISTED_MAX: u64 = 200_000;
/// `.` and the longest way to write a delay of at most a week in milliseconds, `604799999ms`.
const TIER_SUFFIX_BYTES_MAX: usize = 12;
/// `.deltas`
const DELTAS_SUFFIX_BYTES: usize = 7;

fn settings(reader: &mut Reader<'_>, log_format: LogFormat) -> Settings {
    Settings {
        kafka: Kafka {
            brokers: reader.value("brokers", values::brokers),
            group: reader.value("group", values::group),
            instance_id: reader.optional("instance-id", values::instance_id),
            properties: reader.many("kafka-property", values::property),
        },
        topics: topics(reader),
        delivery: delivery(reader),
        suspension: Suspension {
            errors_window: reader.value("errors-window", values::duration(SECOND, WEEK)),
            errors_min_attempts: reader.value("errors-min-attempts", values::count(1, RATE_MAX)),
            suspend_after: reader.value("suspend-after", values::duration(MILLISECOND, WEEK)),
            suspend_after_failures: reader.value("suspend-after-failures", values::count(1, RATE_MAX)),
        },
        api: api(reader),
        admin_listen: reader.value("admin-listen", values::address),
        console_listen: reader.value("console-listen", values::address),
        console_api_url: reader.optional("console-api-url", values::api_url),
        attempt_log: reader.value("attempt-log", values::attempt_log),
        log_format,
    }
}

fn topics(reader: &mut Reader<'_>) -> Topics {
    Topics {
        events: reader.value("events-topic", values::topic(0)),
        integrations: reader.value("integrations-topic", values::topic(0)),
        retry_prefix: reader.value("retry-topic-prefix", values::topic(TIER_SUFFIX_BYTES_MAX)),
        dead_letter: reader.value("dead-letter-topic", values::topic(0)),
        attempts: reader.value("attempts-topic", values::topic(0)),
        health: reader.value("health-topic", values::topic(DELTAS_SUFFIX_BYTES)),
        backlog: reader.value("backlog-topic", values::topic(0)),
        audit: reader.value("audit-topic", values::topic(0)),
        partitions: reader.value("topic-partitions", values::count(1, 10_000)),
        replication_factor: reader.value("topic-replication-factor", values::count(1, 100)),
    }
}

fn delivery(reader: &mut Reader<'_>) -> Delivery {
    let request_timeout = reader.value("request-timeout", values::duration(MILLISECOND, DRAIN_MAX));
    let connect_timeout = reader.value("connect-timeout", values::duration(MILLISECOND, DRAIN_MAX));
    let max_in_flight = reader.value("max-in-flight", values::count(1, IN_FLIGHT_MAX));
    let per_webhook = reader.value("max-in-flight-per-webhook", values::count(1, IN_FLIGHT_MAX));
    let per_host = reader.value("max-in-flight-per-host", values::count(1, IN_FLIGHT_MAX));
    // A default bound gives way to a bound that was given.
    let lowered = |name, value: usize| if reader.is_given(name) { value } else { value.min(max_in_flight) };
    let max_in_flight_per_webhook = lowered("max-in-flight-per-webhook", per_webhook);
    let max_in_flight_per_host = lowered("max-in-flight-per-host", per_host);
    let connect_timeout =
        if reader.is_given("connect-timeout") { connect_timeout } else { connect_timeout.min(request_timeout) };
    let schedule = reader.value("retry-schedule", values::schedule);
    let give_up_after = reader.value("give-up-after", values::duration(MILLISECOND, GIVE_UP_MAX));
    let give_up_after =
        if reader.is_given("give-up-after") { give_up_after } else { give_up_after.max(schedule.whole()) };
    Delivery {
        schedule,
        give_up_after,
        request_timeout,
        connect_timeout,
        ordering: reader.value("ordering", values::ordering),
        max_in_flight,
        max_in_flight_per_webhook,
        max_in_flight_per_host,
        max_queued_bytes: reader.value("max-queued-bytes", values::size(QUEUED_BYTES_MIN, QUEUED_BYTES_MAX)),
        threads: reader.value("delivery-threads", values::count(0, 256)),
        allow_private_networks: reader.many("allow-private-networks", values::network),
        drain_timeout: reader.value("drain-timeout", values::duration(MILLISECOND, DRAIN_MAX)),
    }
}

fn api(reader: &mut Reader<'_>) -> Api {
    let cert = reader.optional("api-tls-cert", values::path);
    let key = reader.optional("api-tls-key", values::path);
    Api {
        listen: reader.value("api-listen", values::address),
        tokens_file: reader.optional("api-tokens-file", values::path),
        tls: cert.zip(key),
    }
}

fn demo(reader: &mut Reader<'_>) -> Demo {
    Demo {
        duration: reader.optional("for", values::duration(SECOND, WEEK)),
        rate: reader.value("rate", values::count(1, RATE_MAX)),
    }
}

fn receiver(reader: &mut Reader<'_>) -> Receiver {
    Receiver {
        listen: reader.value("listen", values::address),
        fail_rate: reader.value("fail-rate", values::share),
        latency: reader.value("latency", values::duration(Duration::ZERO, TEN_MINUTES)),
        status: reader.optional("status", values::status),
        no_echo: reader.flag("no-echo"),
        secret: reader.optional("secret", values::secret),
    }
}

fn dead_letters_list(reader: &mut Reader<'_>) -> DeadLettersList {
    DeadLettersList {
        filter: dead_letter_filter(reader),
        limit: reader.optional("limit", values::count(1, LISTED_MAX)),
        json: reader.flag("json"),
    }
}

fn dead_letters_show(reader: &mut Reader<'_>) -> Option<DeadLettersShow> {
    let event = reader.optional("event", values::dead_letter);
    let json = reader.flag("json");
    Some(DeadLettersShow { event: event?, json })
}

fn redrive(reader: &mut Reader<'_>) -> Redrive {
    let (filter, event) = (dead_letter_filter(reader), reader.optional("event", values::dead_letter));
    let (all, skip_sent, sending) = (reader.flag("all"), reader.flag("skip-sent"), sending(reader));
    let is_selection = SELECTING.iter().any(|name| reader.is_given(name));
    if !is_selection && !all && !sending.dry_run {
        let text = "is needed to send back the dead letters of all workspaces; expected it, or a selection: --workspace, \
                    --integration, --webhook, --reason, --from, --to or --event";
        reader.mistakes.push(Mistake::new("--all", text));
    }
    Redrive { filter, event, skip_sent, sending }
}

/// What narrows a redrive down.
const SELECTING: [&str; 7] = ["workspace", "integration", "webhook", "reason", "from", "to", "event"];

fn replay(reader: &mut Reader<'_>) -> Option<Replay> {
    let integration = integration_name(reader);
    let webhook = reader.optional("webhook", values::id);
    let (from, to) = time_range(reader);
    let sending = sending(reader);
    Some(Replay { integration: integration?, webhook, from, to, sending })
}

fn resume(reader: &mut Reader<'_>) -> Option<Resume> {
    let integration = integration_name(reader);
    let (dry_run, json) = (reader.flag("dry-run"), reader.flag("json"));
    Some(Resume { integration: integration?, dry_run, json })
}

fn explain(reader: &mut Reader<'_>) -> Option<Explain> {
    let integration = integration_name(reader);
    let webhook = reader.optional("webhook", values::id);
    let event = reader.optional("event", values::event);
    let json = reader.flag("json");
    Some(Explain { integration: integration?, webhook, event: event?, json })
}

fn query(reader: &mut Reader<'_>) -> Query {
    let (from, to) = time_range(reader);
    Query {
        workspace: reader.optional("workspace", values::workspace),
        integration: reader.optional("integration", values::id),
        webhook: reader.optional("webhook", values::id),
        reason: reader.optional("reason", values::attempt_reason),
        from,
        to,
        limit: reader.value("limit", values::count(1, LISTED_MAX)),
        json: reader.flag("json"),
        wide: reader.flag("wide"),
    }
}

fn attempts(reader: &mut Reader<'_>) -> AttemptsQuery {
    AttemptsQuery {
        query: query(reader),
        event: reader.optional("event", values::id),
        delivery: reader.optional("delivery", values::id),
        entity: reader.optional("entity", values::id),
    }
}

fn trace(reader: &mut Reader<'_>) -> Option<Trace> {
    let event = reader.optional("event", values::named_event);
    let (from, to) = time_range(reader);
    let workspace = reader.optional("workspace", values::workspace);
    let integration = reader.optional("integration", values::id);
    let webhook = reader.optional("webhook", values::id);
    let reason = reader.optional("reason", values::attempt_reason);
    let limit = reader.value("limit", values::count(1, LISTED_MAX));
    let json = reader.flag("json");
    Some(Trace { event: event?, workspace, integration, webhook, reason, from, to, limit, json })
}

/// None where a part is missing or wrong, which is a mistake already.
fn integration_name(reader: &mut Reader<'_>) -> Option<IntegrationName> {
    let workspace = reader.optional("workspace", values::workspace);
    let integration = reader.optional("integration", values::id);
    Some(IntegrationName { workspace: workspace?, integration: integration? })
}

fn dead_letter_filter(reader: &mut Reader<'_>) -> DeadLetterFilter {
    let (from, to) = time_range(reader);
    DeadLetterFilter {
        workspace: reader.optional("workspace", values::workspace),
        integration: reader.optional("integration", values::id),
        webhook: reader.optional("webhook", values::id),
        reason: reader.optional("reason", values::reason),
        from,
        to,
    }
}

fn time_range(reader: &mut Reader<'_>) -> (Option<Timestamp>, Option<Timestamp>) {
    let from = reader.optional("from", values::time);
    let to = reader.optional("to", values::time);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        reader.contradiction("from", "to", "expected a --from that is earlier than --to");
    }
    (from, to)
}

fn sending(reader: &mut Reader<'_>) -> Sending {
    Sending {
        rate: reader.value("rate", values::count(1, RATE_MAX)),
        dry_run: reader.flag("dry-run"),
        json: reader.flag("json"),
    }
}
