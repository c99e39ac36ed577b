//! The table of all options: names, defaults, and the subcommands that take them. Parser, help and `Settings::default` are made from it.
//!
//! What a value means is read in `build`; nothing here looks at a value.

mod users;

use super::command::Subcommand;

pub(super) use super::spec::{PREFIX, Shape, Spec};

/// Options that belong together, under one heading in help.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) specs: &'static [Spec],
}

/// Every row.
pub(super) fn all() -> impl Iterator<Item = &'static Spec> {
    GROUPS.iter().flat_map(|group| group.specs)
}

/// The row of an option as a subcommand takes it.
pub(super) fn find(name: &str, subcommand: Subcommand) -> Option<&'static Spec> {
    all().find(|spec| spec.name == name && spec.used_by.contains(&subcommand))
}

/// The first row of that name, of any subcommand. Rows of one name agree in shape and secrecy.
pub(super) fn find_any(name: &str) -> Option<&'static Spec> {
    all().find(|spec| spec.name == name)
}

use Subcommand::{
    Attempts, Check, Completions, Console, DeadLettersList, DeadLettersRedrive, DeadLettersShow, Demo, Explain, Health,
    Integrations, Receiver, Replay, ResumeRequest, TopicsApply, TopicsPlan, Trace, Worker,
};
use users::{
    API_FILES, CLUSTER, DELIVERING, EVERY, FILTERING, NAMING, NOT_DEMO, READING, REQUESTING, RUNNING, SENDING,
    SERVING_API, SERVING_CONSOLE, SHAPES, TABLES, TIERS,
};

/// All options, in the order in which help lists them.
pub(super) static GROUPS: &[Group] = &[
    Group { title: "What to look at", specs: SELECTION },
    Group { title: "Shell", specs: SHELL },
    Group { title: "Demo", specs: DEMO },
    Group { title: "Receiver", specs: RECEIVER },
    Group { title: "Kafka", specs: KAFKA },
    Group { title: "Topics", specs: TOPICS },
    Group { title: "Delivery", specs: DELIVERY },
    Group { title: "Suspension", specs: SUSPENSION },
    Group { title: "Listeners", specs: LISTENERS },
    Group { title: "Output", specs: OUTPUT },
];

static SELECTION: &[Spec] = &[
    Spec::one("workspace", "NAME", "the integration's workspace", NAMING).required(),
    Spec::one("workspace", "NAME", "only records of this workspace", FILTERING),
    Spec::one("workspace", "NAME", "only what is of this workspace", READING),
    Spec::one("workspace", "NAME", "the event's workspace, where its record does not say it", &[Trace]),
    Spec::one("integration", "ID", "the integration; the beginning of its id, if only one begins so", NAMING).required(),
    Spec::one("integration", "ID", "only records of this integration", FILTERING),
    Spec::one("integration", "ID", "only what is of this integration; the beginning of its id, if only one begins so", READING),
    Spec::one("integration", "ID", "only webhooks of this integration", &[Trace]),
    Spec::one("webhook", "ID", "only this webhook of the integration", &[Replay, Explain]),
    Spec::one("webhook", "ID", "only what is of this webhook", &[Integrations, Attempts]),
    Spec::one("webhook", "ID", "only integrations with this webhook", &[Health]),
    Spec::one("webhook", "ID", "only this webhook", &[Trace]),
    Spec::one("webhook", "ID", "only records of this webhook", FILTERING),
    Spec::one(
        "reason",
        "WORD",
        "only records of this reason: exhausted, invalid-event, suspended or too-large",
        FILTERING,
    ),
    Spec::one(
        "reason",
        "WORD",
        "only failures of this reason: status, echo-missing, echo-mismatch, dns, connect, tls, timeout, reset, \
         refused-address or protocol",
        READING,
    ),
    Spec::one("reason", "WORD", "of the attempts only failures of this reason", &[Trace]),
    Spec::one("from", "TIME", "only records of this time and later", FILTERING),
    Spec::one("from", "TIME", "only what was written at this time and later", READING),
    Spec::one("from", "TIME", "look for the event at this time and later", &[Trace]),
    Spec::one("to", "TIME", "only what was written before this time", READING),
    Spec::one("to", "TIME", "look for the event before this time", &[Trace]),
    Spec::one(
        "from",
        "TIME",
        "begin with events of this time; without it, at the offsets that the suspension recorded",
        &[Replay],
    ),
    Spec::one("to", "TIME", "only records before this time", FILTERING),
    Spec::one("to", "TIME", "end before events of this time; without it, at the end as it is now", &[Replay]),
    Spec::one(
        "event",
        "EVENT",
        "the dead letter: topic/partition/offset of it or of its event, or the id of the delivery or the event; also without --event",
        &[DeadLettersShow],
    )
    .required(),
    Spec::one(
        "event",
        "EVENT",
        "only this dead letter: topic/partition/offset of it or of its event, or the id of the delivery or the event; also without --event",
        &[DeadLettersRedrive],
    ),
    Spec::one(
        "event",
        "EVENT",
        "the event: topic/partition/offset, a file that holds its JSON, or - for stdin; also without --event",
        &[Explain],
    )
    .required(),
    Spec::one(
        "event",
        "EVENT",
        "the event: topic/partition/offset, its id, the id of a delivery, or - for its JSON on stdin; also without --event",
        &[Trace],
    )
    .required(),
    Spec::one("event", "EVENT", "only attempts of this event: its id or topic/partition/offset", &[Attempts]),
    Spec::one("delivery", "ID", "only attempts of this delivery: the header webhook-id", &[Attempts]),
    Spec::one("entity", "ID", "only attempts of events about this entity", &[Attempts]),
    Spec::one("limit", "COUNT", "only the newest so many records; all without it", &[DeadLettersList]),
    Spec::one("limit", "COUNT", "the newest so many", READING).default("200"),
    Spec::one("limit", "COUNT", "the newest so many attempts of each webhook", &[Trace]).default("200"),
    Spec::flag("all", "send back the dead letters of all workspaces: needed where nothing is selected", &[DeadLettersRedrive]),
    Spec::flag("skip-sent", "leave out what was sent back since it died, as far as that is known", &[DeadLettersRedrive]),
    Spec::one("rate", "COUNT", "records sent a second, at most", SENDING).default("500"),
    Spec::flag("dry-run", "say what would be done, change nothing", &[DeadLettersRedrive, Replay, ResumeRequest]),
];

static SHELL: &[Spec] =
    &[Spec::one("shell", "SHELL", "bash, zsh or fish; also without --shell", &[Completions]).required()];

static DEMO: &[Spec] = &[
    Spec::one("for", "DURATION", "end by itself after this time; without it, when interrupted", &[Demo]),
    Spec::one("rate", "COUNT", "sample events a second, at most", &[Demo]).default("50"),
];

static RECEIVER: &[Spec] = &[
    Spec::one("listen", "ADDRESS", "where it takes deliveries", &[Receiver]).default("127.0.0.1:9000"),
    Spec::one("fail-rate", "SHARE", "share of the requests answered with a failure, 0 to 1", &[Receiver]).default("0"),
    Spec::one("latency", "DURATION", "wait this long before each answer", &[Receiver]).default("0ms"),
    Spec::one("status", "CODE", "answer with this status instead of 200", &[Receiver]),
    Spec::flag("no-echo", "leave the echo header out of the answers", &[Receiver]),
    Spec::one(
        "secret",
        "SECRET",
        "verify signatures with this secret (whsec_…); refuse what is not signed with it",
        &[Receiver],
    )
    .secret(),
];

static KAFKA: &[Spec] = &[
    Spec::one("brokers", "HOST:PORT,…", "bootstrap servers", CLUSTER).default("localhost:9092"),
    Spec::one("group", "NAME", "consumer group; internal groups derive from it", CLUSTER).default("hookstream"),
    Spec::one(
        "instance-id",
        "NAME",
        "static membership (group.instance.id): a process that comes back under the same name goes on where it was, without \
         a rebalance; each process of a group needs its own",
        &[Worker],
    ),
    Spec::one(
        "kafka-property",
        "KEY=VALUE",
        "any librdkafka property (SASL, TLS, …) but those that delivery depends on; repeatable, in the environment \
         separated by newlines; values are never logged",
        CLUSTER,
    )
    .many(&['\n'], &[])
    .secret(),
];

static TOPICS: &[Spec] = &[
    Spec::one("events-topic", "TOPIC", "events in", CLUSTER).default("crm.object-events"),
    Spec::one("integrations-topic", "TOPIC", "integrations and webhooks in, compacted", CLUSTER)
        .default("webhooks.integrations"),
    Spec::one("retry-topic-prefix", "TOPIC", "retries; the topic of a delay is <prefix>.<delay>", CLUSTER)
        .default("webhooks.retry"),
    Spec::one("dead-letter-topic", "TOPIC", "what was given up", CLUSTER).default("webhooks.dead-letter"),
    Spec::one("attempts-topic", "TOPIC", "the attempt log", CLUSTER).default("webhooks.attempts"),
    Spec::one(
        "health-topic",
        "TOPIC",
        "the integrations' health, compacted; <topic>.deltas and <topic>.counts are used beside it",
        CLUSTER,
    )
    .default("webhooks.health"),
    Spec::one(
        "backlog-topic",
        "TOPIC",
        "how far webhooks that are behind have been given the events topic, compacted",
        CLUSTER,
    )
    .default("webhooks.backlog"),
    Spec::one("audit-topic", "TOPIC", "what operators did", CLUSTER).default("webhooks.audit"),
    Spec::one("topic-partitions", "COUNT", "partitions of the topics that `topics apply` creates", SHAPES)
        .default("12"),
    Spec::one(
        "topic-replication-factor",
        "COUNT",
        "their replicas; where the cluster has fewer brokers, their number, and it says so",
        SHAPES,
    )
    .default("3"),
];

const GIVE_UP_AFTER: &str = "a delivery not acknowledged so long after its first attempt becomes a dead letter, whatever is left of its \
                             schedule; not below the whole schedule, and the default is raised to a longer one";

static DELIVERY: &[Spec] = &[
    Spec::one("retry-schedule", "DURATION,…", "delay before each retry; each distinct delay is a topic", TIERS)
        .default("30s,1m,5m,15m,1h,1h,1h"),
    Spec::one("retry-schedule", "DURATION,…", "delay before each retry; each distinct delay is a topic", &[Demo])
        .default("1s,2s,5s,10s"),
    Spec::one("give-up-after", "DURATION", GIVE_UP_AFTER, &[Worker]).default("24h"),
    Spec::one("give-up-after", "DURATION", GIVE_UP_AFTER, &[Demo]).default("20s"),
    Spec::one(
        "request-timeout",
        "DURATION",
        "one deadline from name resolution to the answer's headers; the body may take at most 2s more",
        REQUESTING,
    )
    .default("10s"),
    Spec::one(
        "connect-timeout",
        "DURATION",
        "name resolution, TCP and TLS, within the above; the default is lowered to a shorter request timeout",
        REQUESTING,
    )
    .default("3s"),
    Spec::one("ordering", "WORD", "which first attempts wait for each other: entity, webhook or none", DELIVERING)
        .default("entity"),
    Spec::one("max-in-flight", "COUNT", "requests under way at once in this process", DELIVERING).default("1024"),
    Spec::one(
        "max-in-flight-per-webhook",
        "COUNT",
        "of them to one webhook; the default is lowered to a smaller --max-in-flight",
        DELIVERING,
    )
    .default("16"),
    Spec::one(
        "max-in-flight-per-host",
        "COUNT",
        "of them to one scheme, host and port; the default is lowered to a smaller --max-in-flight",
        DELIVERING,
    )
    .default("256"),
    Spec::one("max-queued-bytes", "SIZE", "event bytes held in memory before consumption pauses", DELIVERING)
        .default("67108864"),
    Spec::one("delivery-threads", "COUNT", "threads that make requests; 0 for one per core", DELIVERING).default("0"),
    Spec::one(
        "allow-private-networks",
        "CIDR",
        "address ranges that are otherwise refused; repeatable, or separated by commas",
        REQUESTING,
    )
    .many(&[',', '\n'], &[',']),
    Spec::one(
        "attempt-log",
        "WORD",
        "which attempts are logged to the attempts topic: all, failures or off",
        DELIVERING,
    )
    .default("failures"),
    Spec::one(
        "drain-timeout",
        "DURATION",
        "how long a stopping process, or a partition being given up, waits for requests under way",
        RUNNING,
    )
    .default("25s"),
];

static SUSPENSION: &[Spec] = &[
    Spec::one("errors-window", "DURATION", "time over which failed attempts are compared with all", DELIVERING)
        .default("10m"),
    Spec::one("errors-min-attempts", "COUNT", "attempts within it below which nothing is concluded", DELIVERING)
        .default("20"),
    Spec::one("suspend-after", "DURATION", "failing for this long, without an acknowledgement, suspends", DELIVERING)
        .default("1h"),
    Spec::one("suspend-after-failures", "COUNT", "and at least so many failed attempts", DELIVERING).default("100"),
];

static LISTENERS: &[Spec] = &[
    Spec::one("admin-listen", "ADDRESS", "/metrics, /livez and /readyz", RUNNING).default("0.0.0.0:9464"),
    Spec::one("api-listen", "ADDRESS", "the registration API", SERVING_API).default("0.0.0.0:8080"),
    Spec::one("console-listen", "ADDRESS", "the operators' page", SERVING_CONSOLE).default("0.0.0.0:8090"),
    Spec::one(
        "console-api-url",
        "URL",
        "the API that the console sends actions to, such as http://hookstream-api:8080; without it the page has no actions",
        &[Console],
    ),
    Spec::one(
        "api-tokens-file",
        "FILE",
        "bearer tokens, one a line, each followed by its workspaces or *, and rights after a colon; read again on SIGHUP",
        API_FILES,
    ),
    Spec::one("api-tls-cert", "FILE", "PEM certificates; with the key, the API and the console speak TLS", API_FILES),
    Spec::one("api-tls-key", "FILE", "PEM key of the certificate", API_FILES),
];

static OUTPUT: &[Spec] = &[
    Spec::flag(
        "json",
        "answer with JSON on stdout",
        &[
            TopicsPlan,
            TopicsApply,
            DeadLettersList,
            DeadLettersShow,
            DeadLettersRedrive,
            Replay,
            ResumeRequest,
            Explain,
            Integrations,
            Health,
            Attempts,
            Trace,
            Check,
        ],
    ),
    Spec::flag("wide", "show whole columns, however wide the terminal is", TABLES),
    Spec::one("log-format", "WORD", "human, or json: one object a line; logs go to stderr", EVERY).default("human"),
    Spec::one(
        "log-level",
        "FILTER",
        "error, warn, info, debug, trace or off, also by part: info,hookstream::http=debug",
        NOT_DEMO,
    )
    .default("info"),
    Spec::one(
        "log-level",
        "FILTER",
        "error, warn, info, debug, trace or off, also by part: info,hookstream::http=debug",
        &[Demo],
    )
    .default("warn"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_one_row_a_subcommand_and_one_shape() {
        for (index, spec) in all().enumerate() {
            for other in all().skip(index + 1).filter(|other| other.name == spec.name) {
                assert!(spec.used_by.iter().all(|user| !other.used_by.contains(user)), "{}", spec.name);
                assert_eq!((spec.shape, spec.secret), (other.shape, other.secret), "{}", spec.name);
            }
        }
    }

    #[test]
    fn names_are_lower_case_words_and_their_variables_follow() {
        for spec in all() {
            assert!(spec.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", spec.name);
            assert!(!spec.used_by.is_empty() && !spec.about.is_empty(), "{}", spec.name);
            assert_eq!(spec.placeholder.is_empty(), spec.shape == Shape::Flag, "{}", spec.name);
            assert!(!(spec.required && spec.default.is_some()), "{}", spec.name);
        }
        let spec = find("max-in-flight-per-webhook", Worker).unwrap();
        assert_eq!(spec.variable(), "HOOKSTREAM_MAX_IN_FLIGHT_PER_WEBHOOK");
    }
}
