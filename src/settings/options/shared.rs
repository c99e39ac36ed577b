//! The options that several subcommands share, each with its row and its reader.
//!
//! Every subcommand that connects to Kafka reads all of them, and works with the defaults of those it does not accept.

use std::time::Duration;

use crate::settings::command::{Logs, Subcommand};
use crate::settings::given::GivenOptions;
use crate::settings::reader::Reader;
use crate::settings::row::Heading;
use crate::settings::{Api, Delivery, Kafka, LogFormat, Settings, Suspension, Topics, contradictions, values};
use Subcommand::{Api as ApiServer, Check, Completions, Console, Demo, Man, TopicsApply, TopicsPlan, Worker};

/// Subcommands that deliver.
const DELIVERING: &[Subcommand] = &[Worker, Demo];
/// Subcommands that make requests: the API sends test deliveries.
const REQUESTING: &[Subcommand] = &[Worker, ApiServer, Demo];
/// Subcommands that run until they are stopped, with metrics and probes.
const RUNNING: &[Subcommand] = &[Worker, ApiServer, Console, Demo];
/// Subcommands that check or create topics.
const SHAPES: &[Subcommand] = &[Worker, TopicsPlan, TopicsApply, Check];
/// Subcommands that ask for tokens, or check the files that hold them.
const API_FILES: &[Subcommand] = &[ApiServer, Console, Demo, Check];
/// The demo has a cluster of its own.
const OWN_CLUSTER: &[Subcommand] = &[Demo];
/// Subcommands that print a text and end.
const PRINTING: &[Subcommand] = &[Completions, Man];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A member that drains for longer than Kafka's clients let a poll wait (5m here) loses its place in the group. A request is never longer
/// than a drain.
const DRAIN_MAX: Duration = Duration::from_mins(4);
/// Nothing here waits longer than this: the retry schedule's own bound.
pub(super) const WEEK: Duration = Duration::from_hours(168);
/// The longest schedule there can be: 100 delays of a week.
const GIVE_UP_MAX: Duration = Duration::from_hours(100 * 168);
/// Far above the files a process may open; a bound for the memory of tables.
const IN_FLIGHT_MAX: usize = 100_000;
/// Below it, one event of Kafka's usual largest size would stop consumption.
const QUEUED_BYTES_MIN: usize = 1 << 20;
const QUEUED_BYTES_MAX: usize = 1 << 40;
/// A bound for what is counted or done each second: far above what one process does.
pub(super) const RATE_MAX: u32 = 1_000_000;
/// `.` and the longest way to write a delay of at most a week in milliseconds, `604799999ms`.
const TIER_SUFFIX_BYTES_MAX: usize = 12;
/// `.deltas`
const DELTAS_SUFFIX_BYTES: usize = 7;

/// The settings of a worker without options.
pub(in crate::settings) fn defaults() -> Settings {
    let given = GivenOptions::new();
    settings(&mut Reader::new(Worker, &given), LogFormat::Human)
}

/// How a subcommand without options logs.
pub(in crate::settings) fn plain_logs() -> Logs {
    logs(&mut Reader::new(Man, &GivenOptions::new()))
}

pub(super) fn logs(reader: &mut Reader<'_>) -> Logs {
    let format = Heading::Output.one("log-format", "WORD", "human, or json: one object a line; logs go to stderr");
    let level = Heading::Output.one(
        "log-level",
        "FILTER",
        "error, warn, info, debug, trace or off, also by part: info,hookstream::http=debug",
    );
    // The demo's view shows what the other subcommands log.
    let level_default = if reader.subcommand == Demo { "warn" } else { "info" };
    Logs {
        format: reader.value(format.except(PRINTING).default("human"), values::log_format),
        filter: reader.value(level.except(PRINTING).default(level_default), values::log_level),
    }
}

/// The settings, each checked alone and all together.
pub(super) fn settings(reader: &mut Reader<'_>, log_format: LogFormat) -> Settings {
    let settings = Settings {
        kafka: kafka(reader),
        topics: topics(reader),
        delivery: delivery(reader),
        attempt_log: reader.value(
            Heading::Delivery
                .one("attempt-log", "WORD", "which attempts are logged to the attempts topic: all, failures or off")
                .only(DELIVERING)
                .default("failures"),
            values::attempt_log,
        ),
        suspension: suspension(reader),
        admin_listen: reader.value(
            Heading::Listeners
                .one("admin-listen", "ADDRESS", "/metrics, /livez and /readyz")
                .only(RUNNING)
                .default("0.0.0.0:9464"),
            values::address,
        ),
        api: api(reader),
        console_listen: reader.value(
            Heading::Listeners
                .one("console-listen", "ADDRESS", "the operators' page")
                .only(&[Console, Demo])
                .default("0.0.0.0:8090"),
            values::address,
        ),
        console_api_url: reader.optional(
            Heading::Listeners
                .one(
                    "console-api-url",
                    "URL",
                    "the API that the console sends actions to, such as http://hookstream-api:8080; without it the page has no actions",
                )
                .only(&[Console]),
            values::api_url,
        ),
        log_format,
    };
    contradictions::find(reader, &settings);
    settings
}

fn kafka(reader: &mut Reader<'_>) -> Kafka {
    let at = Heading::Kafka;
    let brokers = at.one("brokers", "HOST:PORT,…", "bootstrap servers").default("localhost:9092");
    let group = at.one("group", "NAME", "consumer group; internal groups derive from it").default("hookstream");
    let instance_id = at.one(
        "instance-id",
        "NAME",
        "static membership (group.instance.id): a process that comes back under the same name goes on where it was, without \
         a rebalance; each process of a group needs its own",
    );
    let property = at.one(
        "kafka-property",
        "KEY=VALUE",
        "any librdkafka property (SASL, TLS, …) but those that delivery depends on; repeatable, in the environment \
         separated by newlines; values are never logged",
    );
    Kafka {
        brokers: reader.value(brokers.except(OWN_CLUSTER), values::brokers),
        group: reader.value(group.except(OWN_CLUSTER), values::group),
        instance_id: reader.optional(instance_id.only(&[Worker]), values::instance_id),
        properties: reader.many(property.many(&['\n'], &[]).secret().except(OWN_CLUSTER), values::property),
    }
}

fn topics(reader: &mut Reader<'_>) -> Topics {
    let at = Heading::Topics;
    let mut topic = |name, about, default, suffix_bytes_max| {
        let row = at.one(name, "TOPIC", about).default(default).except(OWN_CLUSTER);
        reader.value(row, values::topic(suffix_bytes_max))
    };
    Topics {
        events: topic("events-topic", "events in", "crm.object-events", 0),
        integrations: topic(
            "integrations-topic",
            "integrations and webhooks in, compacted",
            "webhooks.integrations",
            0,
        ),
        retry_prefix: topic(
            "retry-topic-prefix",
            "retries; the topic of a delay is <prefix>.<delay>",
            "webhooks.retry",
            TIER_SUFFIX_BYTES_MAX,
        ),
        dead_letter: topic("dead-letter-topic", "what was given up", "webhooks.dead-letter", 0),
        attempts: topic("attempts-topic", "the attempt log", "webhooks.attempts", 0),
        health: topic(
            "health-topic",
            "the integrations' health, compacted; <topic>.deltas and <topic>.counts are used beside it",
            "webhooks.health",
            DELTAS_SUFFIX_BYTES,
        ),
        backlog: topic(
            "backlog-topic",
            "how far webhooks that are behind have been given the events topic, compacted",
            "webhooks.backlog",
            0,
        ),
        audit: topic("audit-topic", "what operators did", "webhooks.audit", 0),
        partitions: reader.value(
            at.one("topic-partitions", "COUNT", "partitions of the topics that `topics apply` creates")
                .only(SHAPES)
                .default("12"),
            values::count(1, 10_000),
        ),
        replication_factor: reader.value(
            at.one(
                "topic-replication-factor",
                "COUNT",
                "their replicas; where the cluster has fewer brokers, their number, and it says so",
            )
            .only(SHAPES)
            .default("3"),
            values::count(1, 100),
        ),
        replicas_required: reader.flag(
            at.flag(
                "require-replicas",
                "create nothing and fail where the cluster has too few brokers for --topic-replication-factor",
            )
            .only(&[TopicsApply]),
        ),
    }
}

fn delivery(reader: &mut Reader<'_>) -> Delivery {
    let at = Heading::Delivery;
    let (schedule, give_up_after) = schedule(reader);
    let (request_timeout, connect_timeout) = timeouts(reader);
    let ordering = at
        .one("ordering", "WORD", "which first attempts wait for each other: entity, webhook or none")
        .default("entity");
    let ordering = reader.value(ordering.only(DELIVERING), values::ordering);
    let (max_in_flight, max_in_flight_per_webhook, max_in_flight_per_host) = in_flight(reader);
    let queued_bytes = at.one("max-queued-bytes", "SIZE", "event bytes held in memory before consumption pauses");
    let threads = at.one("delivery-threads", "COUNT", "threads that make requests; 0 for one per core");
    let networks = at.one(
        "allow-private-networks",
        "CIDR",
        "address ranges that are otherwise refused; repeatable, or separated by commas",
    );
    let drain = at.one(
        "drain-timeout",
        "DURATION",
        "how long a stopping process, or a partition being given up, waits for requests under way",
    );
    Delivery {
        schedule,
        give_up_after,
        request_timeout,
        connect_timeout,
        ordering,
        max_in_flight,
        max_in_flight_per_webhook,
        max_in_flight_per_host,
        max_queued_bytes: reader
            .value(queued_bytes.only(DELIVERING).default("67108864"), values::size(QUEUED_BYTES_MIN, QUEUED_BYTES_MAX)),
        threads: reader.value(threads.only(DELIVERING).default("0"), values::count(0, 256)),
        allow_private_networks: reader.many(networks.many(&[',', '\n'], &[',']).only(REQUESTING), values::network),
        drain_timeout: reader.value(drain.only(RUNNING).default("25s"), values::duration(MILLISECOND, DRAIN_MAX)),
    }
}

/// The delays before each retry, and the time after which a delivery is given up.
fn schedule(reader: &mut Reader<'_>) -> (crate::domain::retry_schedule::RetrySchedule, Duration) {
    let (delays, end) =
        if reader.subcommand == Demo { ("1s,2s,5s,10s", "20s") } else { ("30s,1m,5m,15m,1h,1h,1h", "24h") };
    let schedule = Heading::Delivery
        .one("retry-schedule", "DURATION,…", "delay before each retry; each distinct delay is a topic")
        .default(delays);
    let give_up_after = Heading::Delivery
        .one(
            "give-up-after",
            "DURATION",
            "a delivery not acknowledged so long after its first attempt becomes a dead letter, whatever is left of its \
             schedule; not below the whole schedule, and the default is raised to a longer one",
        )
        .default(end);
    let schedule = reader.value(schedule, values::schedule);
    let give_up_after = reader.value(give_up_after.only(DELIVERING), values::duration(MILLISECOND, GIVE_UP_MAX));
    let is_given = reader.is_given("give-up-after");
    let whole = schedule.whole();
    (schedule, if is_given { give_up_after } else { give_up_after.max(whole) })
}

/// The timeouts of a whole request and of connecting.
fn timeouts(reader: &mut Reader<'_>) -> (Duration, Duration) {
    let request = Heading::Delivery.one(
        "request-timeout",
        "DURATION",
        "one deadline from name resolution to the answer's headers; the body may take at most 2s more",
    );
    let connect = Heading::Delivery.one(
        "connect-timeout",
        "DURATION",
        "name resolution, TCP and TLS, within the above; the default is lowered to a shorter request timeout",
    );
    let request = reader.value(request.only(REQUESTING).default("10s"), values::duration(MILLISECOND, DRAIN_MAX));
    let connect = reader.value(connect.only(REQUESTING).default("3s"), values::duration(MILLISECOND, DRAIN_MAX));
    (request, if reader.is_given("connect-timeout") { connect } else { connect.min(request) })
}

/// Requests under way at once: in all, to a webhook, to a host. A default gives way to a bound that was given.
fn in_flight(reader: &mut Reader<'_>) -> (usize, usize, usize) {
    let mut bound = |name, about, default| {
        let row = Heading::Delivery.one(name, "COUNT", about).only(DELIVERING).default(default);
        (reader.value(row, values::count(1, IN_FLIGHT_MAX)), reader.is_given(name))
    };
    let (all, _) = bound("max-in-flight", "requests under way at once in this process", "1024");
    let lowered = |(part, is_given)| if is_given { part } else { all.min(part) };
    let per_webhook = bound(
        "max-in-flight-per-webhook",
        "of them to one webhook; the default is lowered to a smaller --max-in-flight",
        "16",
    );
    let per_host = bound(
        "max-in-flight-per-host",
        "of them to one scheme, host and port; the default is lowered to a smaller --max-in-flight",
        "256",
    );
    (all, lowered(per_webhook), lowered(per_host))
}

fn suspension(reader: &mut Reader<'_>) -> Suspension {
    let row = |name, placeholder, about, default| {
        Heading::Suspension.one(name, placeholder, about).only(DELIVERING).default(default)
    };
    let window = row("errors-window", "DURATION", "time over which failed attempts are compared with all", "10m");
    let least = row("errors-min-attempts", "COUNT", "attempts within it below which nothing is concluded", "20");
    let after = row("suspend-after", "DURATION", "failing for this long, without an acknowledgement, suspends", "1h");
    let failures = row("suspend-after-failures", "COUNT", "and at least so many failed attempts", "100");
    Suspension {
        errors_window: reader.value(window, values::duration(SECOND, WEEK)),
        errors_min_attempts: reader.value(least, values::count(1, RATE_MAX)),
        suspend_after: reader.value(after, values::duration(MILLISECOND, WEEK)),
        suspend_after_failures: reader.value(failures, values::count(1, RATE_MAX)),
    }
}

fn api(reader: &mut Reader<'_>) -> Api {
    let at = Heading::Listeners;
    let listen = at.one("api-listen", "ADDRESS", "the registration API").only(&[ApiServer, Demo]);
    let tokens = at.one(
        "api-tokens-file",
        "FILE",
        "bearer tokens, one a line, each followed by its workspaces or *, and rights after a colon; read again on SIGHUP",
    );
    let cert = at
        .one("api-tls-cert", "FILE", "PEM certificates; with the key, the API and the console speak TLS")
        .only(API_FILES);
    let key = at.one("api-tls-key", "FILE", "PEM key of the certificate").only(API_FILES);
    let listen = reader.value(listen.default("0.0.0.0:8080"), values::address);
    let tokens_file = reader.optional(tokens.only(API_FILES), values::path);
    let (cert, key) = (reader.optional(cert, values::path), reader.optional(key, values::path));
    Api { listen, tokens_file, tls: cert.zip(key) }
}
