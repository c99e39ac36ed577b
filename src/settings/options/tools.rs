//! From a subcommand to its command: the options that only it takes, each with its row and its reader.

use std::time::Duration;

use jiff::Timestamp;

use super::shared::{RATE_MAX, WEEK, settings};
use crate::settings::command::{
    AttemptsQuery, Command, DeadLetterFilter, DeadLettersList, DeadLettersShow, Demo, Explain, IntegrationName,
    NamedEvent, Query, Receiver, Redrive, Replay, Resume, Sending, Subcommand, TopicsOutput, Trace,
};
use crate::settings::mistake::Mistake;
use crate::settings::reader::Reader;
use crate::settings::row::{Heading, Row};
use crate::settings::{LogFormat, values};

/// A longer wait is beyond the deadline of every request.
const LATENCY_MAX: Duration = Duration::from_mins(10);
/// The newest rows are known only at the end of a scan, so this many are kept until then: some 100 MB of lines.
const LISTED_MAX: u64 = 200_000;

const LOOK: Heading = Heading::Selection;

/// The command. `None` if a part that it needs is missing or has a mistake.
pub(super) fn command(reader: &mut Reader<'_>, format: LogFormat) -> Option<Command> {
    let shared = |reader: &mut Reader<'_>| Box::new(settings(reader, format));
    Some(match reader.subcommand {
        Subcommand::Worker => Command::Worker(shared(reader)),
        Subcommand::Api => Command::Api(shared(reader)),
        Subcommand::Console => Command::Console(shared(reader)),
        Subcommand::Demo => Command::Demo(shared(reader), demo(reader)),
        Subcommand::Receiver => Command::Receiver(receiver(reader)),
        Subcommand::TopicsPlan => Command::TopicsPlan(shared(reader), TopicsOutput { json: json(reader) }),
        Subcommand::TopicsApply => Command::TopicsApply(shared(reader), TopicsOutput { json: json(reader) }),
        Subcommand::DeadLettersList => Command::DeadLettersList(shared(reader), dead_letters_list(reader)),
        Subcommand::DeadLettersShow => Command::DeadLettersShow(shared(reader), dead_letters_show(reader)?),
        Subcommand::DeadLettersRedrive => Command::DeadLettersRedrive(shared(reader), redrive(reader)),
        Subcommand::Replay => Command::Replay(shared(reader), replay(reader)?),
        Subcommand::ResumeRequest => Command::ResumeRequest(shared(reader), resume(reader)?),
        Subcommand::Explain => Command::Explain(shared(reader), explain(reader)?),
        Subcommand::Integrations => Command::Integrations(shared(reader), query(reader)),
        Subcommand::Health => Command::Health(shared(reader), query(reader)),
        Subcommand::Attempts => Command::Attempts(shared(reader), attempts(reader)),
        Subcommand::Trace => Command::Trace(shared(reader), trace(reader)?),
        Subcommand::Check => Command::Check(shared(reader), json(reader)),
        Subcommand::Completions => {
            let shell = Heading::Shell.one("shell", "SHELL", "bash, zsh or fish; also without --shell").required();
            Command::Completions(reader.optional(shell, values::shell)?)
        }
        Subcommand::Man => Command::Man,
    })
}

fn json(reader: &mut Reader<'_>) -> bool {
    reader.flag(Heading::Output.flag("json", "answer with JSON on stdout"))
}

fn dry_run(reader: &mut Reader<'_>) -> bool {
    reader.flag(LOOK.flag("dry-run", "say what would be done, change nothing"))
}

fn workspace(about: &'static str) -> Row {
    LOOK.one("workspace", "NAME", about)
}

fn integration(about: &'static str) -> Row {
    LOOK.one("integration", "ID", about)
}

fn webhook(reader: &mut Reader<'_>, about: &'static str) -> Option<String> {
    reader.optional(LOOK.one("webhook", "ID", about), values::id)
}

fn event(about: &'static str) -> Row {
    LOOK.one("event", "EVENT", about)
}

fn failures(reader: &mut Reader<'_>, about: &'static str) -> Option<&'static str> {
    reader.optional(LOOK.one("reason", "WORD", about), values::attempt_reason)
}

fn newest(reader: &mut Reader<'_>, about: &'static str) -> u64 {
    reader.value(LOOK.one("limit", "COUNT", about).default("200"), values::count(1, LISTED_MAX))
}

fn time_range(reader: &mut Reader<'_>, from: &'static str, to: &'static str) -> (Option<Timestamp>, Option<Timestamp>) {
    let from = reader.optional(LOOK.one("from", "TIME", from), values::time);
    let to = reader.optional(LOOK.one("to", "TIME", to), values::time);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        reader.contradiction("from", "to", "expected a --from that is earlier than --to");
    }
    (from, to)
}

/// Reads `--workspace` and `--integration` of these rows. Lists show an integration as `<workspace>/<id>`: given so, it names both.
fn workspace_and_integration(
    reader: &mut Reader<'_>,
    mut of: Row,
    integration: Row,
) -> (Option<String>, Option<String>) {
    let is_named = reader.peek(integration.name).is_some_and(|text| text.contains('/'));
    of.required &= !is_named;
    let given = reader.optional(of, values::workspace);
    let Some((named, id)) = reader.optional(integration, values::integration) else { return (given, None) };
    if given.is_some() && named.is_some() && given != named {
        reader.contradiction("integration", "workspace", "expected one workspace");
    }
    (given.or(named), Some(id))
}

/// `None` if a part is missing or wrong, which is a mistake already.
fn integration_name(reader: &mut Reader<'_>) -> Option<IntegrationName> {
    let about = "the integration: its id, the beginning of it if only one begins so, or workspace/id";
    let (of, named) = (workspace("the integration's workspace").required(), integration(about).required());
    let (workspace, integration) = workspace_and_integration(reader, of, named);
    Some(IntegrationName { workspace: workspace?, integration: integration? })
}

fn sending(reader: &mut Reader<'_>) -> Sending {
    let rate = LOOK.one("rate", "COUNT", "records sent a second, at most").default("500");
    Sending { rate: reader.value(rate, values::count(1, RATE_MAX)), dry_run: dry_run(reader), json: json(reader) }
}

fn demo(reader: &mut Reader<'_>) -> Demo {
    let at = Heading::Demo;
    let end = at.one("for", "DURATION", "end by itself after this time; without it, when interrupted");
    let rate = at.one("rate", "COUNT", "sample events a second, at most").default("50");
    Demo {
        duration: reader.optional(end, values::duration(Duration::from_secs(1), WEEK)),
        rate: reader.value(rate, values::count(1, RATE_MAX)),
    }
}

fn receiver(reader: &mut Reader<'_>) -> Receiver {
    let at = Heading::Receiver;
    let listen = at.one("listen", "ADDRESS", "where it takes deliveries").default("127.0.0.1:9000");
    let fail_rate = at.one("fail-rate", "SHARE", "share of the requests answered with a failure, 0 to 1").default("0");
    let latency = at.one("latency", "DURATION", "wait this long before each answer").default("0ms");
    let status = at.one("status", "CODE", "answer with this status instead of 200");
    let secret =
        at.one("secret", "SECRET", "verify signatures with this secret (whsec_…); refuse what is not signed with it");
    Receiver {
        listen: reader.value(listen, values::address),
        fail_rate: reader.value(fail_rate, values::share),
        latency: reader.value(latency, values::duration(Duration::ZERO, LATENCY_MAX)),
        status: reader.optional(status, values::status),
        no_echo: reader.flag(at.flag("no-echo", "leave the echo header out of the answers")),
        secret: reader.optional(secret.secret(), values::secret),
    }
}

fn dead_letter_filter(reader: &mut Reader<'_>) -> DeadLetterFilter {
    let reason =
        LOOK.one("reason", "WORD", "only records of this reason: exhausted, invalid-event, suspended or too-large");
    let about = "only records of this integration: its id, the beginning of it, or workspace/id";
    let (of, named) = (workspace("only records of this workspace"), integration(about));
    let (workspace, integration) = workspace_and_integration(reader, of, named);
    let webhook = webhook(reader, "only records of this webhook");
    let reason = reader.optional(reason, values::reason);
    let (from, to) = time_range(reader, "only records of this time and later", "only records before this time");
    DeadLetterFilter { workspace, integration, webhook, reason, from, to }
}

fn dead_letters_list(reader: &mut Reader<'_>) -> DeadLettersList {
    let limit = LOOK.one("limit", "COUNT", "only the newest so many records; all without it");
    DeadLettersList {
        filter: dead_letter_filter(reader),
        limit: reader.optional(limit, values::count(1, LISTED_MAX)),
        json: json(reader),
        wide: wide(reader),
    }
}

fn wide(reader: &mut Reader<'_>) -> bool {
    reader.flag(Heading::Output.flag("wide", "show whole columns, however wide the terminal is"))
}

fn dead_letters_show(reader: &mut Reader<'_>) -> Option<DeadLettersShow> {
    let about = "the dead letter: topic/partition/offset of it or of its event, or the id of the delivery or the event; \
                 also without --event";
    let event = reader.optional(event(about).required(), values::dead_letter);
    let json = json(reader);
    Some(DeadLettersShow { event: event?, json })
}

fn redrive(reader: &mut Reader<'_>) -> Redrive {
    let about = "only this dead letter: topic/partition/offset of it or of its event, or the id of the delivery or the \
                 event; also without --event";
    let filter = dead_letter_filter(reader);
    let event = reader.optional(event(about), values::dead_letter);
    let all = LOOK.flag("all", "send back the dead letters of all workspaces: needed where nothing is selected");
    let skip_sent = LOOK.flag("skip-sent", "leave out what was sent back since it died, as far as that is known");
    let (all, skip_sent, sending) = (reader.flag(all), reader.flag(skip_sent), sending(reader));
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
    let webhook = webhook(reader, "only this webhook of the integration");
    let (from, to) = time_range(
        reader,
        "begin with events of this time; without it, at the offsets that the suspension recorded",
        "end before events of this time; without it, at the end as it is now",
    );
    let sending = sending(reader);
    Some(Replay { integration: integration?, webhook, from, to, sending })
}

fn resume(reader: &mut Reader<'_>) -> Option<Resume> {
    let integration = integration_name(reader);
    let (dry_run, json) = (dry_run(reader), json(reader));
    Some(Resume { integration: integration?, dry_run, json })
}

fn explain(reader: &mut Reader<'_>) -> Option<Explain> {
    let about = "the event: topic/partition/offset, a file that holds its JSON, or - for stdin; also without --event";
    let integration = integration_name(reader);
    let webhook = webhook(reader, "only this webhook of the integration");
    let event = reader.optional(event(about).required(), values::event);
    let json = json(reader);
    Some(Explain { integration: integration?, webhook, event: event?, json })
}

fn query(reader: &mut Reader<'_>) -> Query {
    let about = "only what is of this integration: its id, the beginning of it if only one begins so, or workspace/id";
    let about_webhook = match reader.subcommand {
        Subcommand::Health => "only integrations with this webhook",
        _ => "only what is of this webhook",
    };
    let (of, named) = (workspace("only what is of this workspace"), integration(about));
    let (workspace, integration) = workspace_and_integration(reader, of, named);
    let webhook = webhook(reader, about_webhook);
    let reason = failures(
        reader,
        "only failures of this reason: status, echo-missing, echo-mismatch, dns, connect, tls, timeout, reset, \
         refused-address or protocol",
    );
    let (from, to) =
        time_range(reader, "only what was written at this time and later", "only what was written before this time");
    let limit = newest(reader, "the newest so many");
    let json = json(reader);
    let wide = wide(reader);
    Query { workspace, integration, webhook, reason, from, to, limit, json, wide }
}

fn attempts(reader: &mut Reader<'_>) -> AttemptsQuery {
    let about = "only attempts of this event: its id, the beginning of it if only one begins so, topic/partition/offset, \
                 or the id of a delivery; also without --event";
    let delivery = LOOK.one("delivery", "ID", "only attempts of this delivery: the header webhook-id");
    let entity = LOOK.one("entity", "ID", "only attempts of events about this entity");
    let query = query(reader);
    let event = reader.optional(event(about), values::logged_event);
    let delivery = reader.optional(delivery, values::id);
    if let (Some(NamedEvent::Delivery(one)), Some(other)) = (&event, &delivery)
        && one != other
    {
        reader.contradiction("event", "delivery", "expected one delivery");
    }
    AttemptsQuery { query, event, delivery, entity: reader.optional(entity, values::id) }
}

fn trace(reader: &mut Reader<'_>) -> Option<Trace> {
    let about = "the event: topic/partition/offset, its id, the id of a delivery, or - for its JSON on stdin; also without \
                 --event";
    let event = reader.optional(event(about).required(), values::named_event);
    let about = "look for an event of this workspace; of another one the event is refused";
    let about_integration = "only webhooks of this integration: its id, the beginning of it, or workspace/id";
    let (of, named) = (workspace(about), integration(about_integration));
    let (workspace, integration) = workspace_and_integration(reader, of, named);
    let webhook = webhook(reader, "only this webhook");
    let reason = failures(reader, "of the attempts only failures of this reason");
    let (from, to) =
        time_range(reader, "look for the event at this time and later", "look for the event before this time");
    let limit = newest(reader, "the newest so many attempts of each webhook");
    let json = json(reader);
    Some(Trace { event: event?, workspace, integration, webhook, reason, from, to, limit, json })
}
