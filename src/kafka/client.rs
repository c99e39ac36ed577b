//! How every Kafka client of the program is configured, and how what they say reaches the log.
//!
//! The values are chosen for two things: nothing is skipped or acknowledged early, and an outage is noticed, and its end
//! too, within seconds. What the operator gives with `--kafka-property` is applied last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, Message};
use tokio::time::Instant;

use crate::settings;

/// What a consumer reads, and so how much it prefetches and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerRole {
    /// The events topic, as a member of the group.
    Events,
    /// The tiers, as a member of a group of their own: little prefetch, since a pause throws it away.
    Retries,
    /// A compacted topic from its beginning, assigned and not subscribed; tells the end of each partition.
    Table,
    /// The failure counts of all workers, as a member of a group of their own.
    Counts,
    /// The partitions whose owner fires scheduled webhooks, as a member of a group of their own.
    Schedules,
    /// A range of some topic for a tool, assigned and not subscribed; tells the end of each partition.
    Range,
}

impl ConsumerRole {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Retries => "retries",
            Self::Table => "table",
            Self::Counts => "counts",
            Self::Schedules => "schedules",
            Self::Range => "range",
        }
    }

    /// The consumer group, derived from `--group`.
    ///
    /// Assigned consumers commit nothing but cannot be without one.
    pub fn group(self, kafka: &settings::Kafka) -> String {
        let group = &kafka.group;
        match self {
            Self::Events => group.clone(),
            Self::Retries => format!("{group}-retry"),
            Self::Table => format!("{group}-table"),
            Self::Counts => format!("{group}-health"),
            Self::Schedules => format!("{group}-schedule"),
            Self::Range => format!("{group}-tools"),
        }
    }

    fn values(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Events => &[
                ("auto.offset.reset", "earliest"),
                ("queued.max.messages.kbytes", "16384"),
                ("queued.min.messages", "10000"),
                ("fetch.message.max.bytes", "1048576"),
                ("statistics.interval.ms", "10000"),
            ],
            Self::Retries => &[
                ("auto.offset.reset", "earliest"),
                ("queued.max.messages.kbytes", "2048"),
                ("queued.min.messages", "100"),
                ("fetch.message.max.bytes", "131072"),
                ("statistics.interval.ms", "10000"),
            ],
            Self::Counts | Self::Schedules => &[
                ("auto.offset.reset", "earliest"),
                ("queued.max.messages.kbytes", "4096"),
                ("queued.min.messages", "1000"),
                ("fetch.message.max.bytes", "1048576"),
            ],
            Self::Table | Self::Range => &[
                // Never skip in silence: an offset that is gone is an error to act on.
                ("auto.offset.reset", "error"),
                ("enable.auto.commit", "false"),
                ("enable.partition.eof", "true"),
                ("queued.max.messages.kbytes", "16384"),
                ("queued.min.messages", "10000"),
                ("fetch.message.max.bytes", "1048576"),
            ],
        }
    }

    fn is_member(self) -> bool {
        !matches!(self, Self::Table | Self::Range)
    }
}

/// What a producer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerRole<'a> {
    /// Retries and dead letters: their acknowledgement settles a delivery.
    Deliveries,
    /// The attempt log: may wait for larger batches, must give up soon.
    Attempts,
    /// Failure counts and changes of state.
    Health,
    /// One writer of a topic, which fences an older one with the same transactional id.
    Writer(&'a str),
}

impl ProducerRole<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Attempts => "attempts",
            Self::Health => "health",
            Self::Writer(_) => "writer",
        }
    }

    fn values(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Deliveries | Self::Health => &[("linger.ms", "5"), ("message.timeout.ms", "30000")],
            Self::Attempts => &[
                ("linger.ms", "50"),
                ("message.timeout.ms", "30000"),
                ("queue.buffering.max.kbytes", "16384"),
                ("queue.buffering.max.messages", "50000"),
            ],
            Self::Writer(_) => {
                &[("linger.ms", "0"), ("message.timeout.ms", "20000"), ("transaction.timeout.ms", "30000")]
            }
        }
    }
}

/// Names of the same property. The client takes both and the one that holds is a matter of chance, so a value of ours
/// yields to the operator's under either name.
const ALIASES: [(&str, &str); 7] = [
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("compression.type", "compression.codec"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("message.send.max.retries", "retries"),
    ("max.in.flight.requests.per.connection", "max.in.flight"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// The classic group protocol's own; a client with the newer protocol refuses to be created with them.
const CLASSIC_PROTOCOL: [(&str, &str); 3] = [
    // Bounds how long closing a consumer waits for brokers that are down.
    ("session.timeout.ms", "20000"),
    ("heartbeat.interval.ms", "3000"),
    // Only the partitions that move are drained.
    ("partition.assignment.strategy", "cooperative-sticky"),
];

/// The configuration of a consumer.
pub fn consumer_config(kafka: &settings::Kafka, role: ConsumerRole) -> ClientConfig {
    let mut config = common(kafka, role.name());
    config
        .set("group.id", role.group(kafka))
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        // Well above the longest drain in a rebalance.
        .set("max.poll.interval.ms", "120000")
        // The default of a second makes a consumer with a small queue slow.
        .set("fetch.queue.backoff.ms", "10")
        // Bounds how long a resumed partition waits for an empty fetch that is under way.
        .set("fetch.wait.max.ms", "100")
        .set("fetch.min.bytes", "1")
        .set("fetch.error.backoff.ms", "100")
        .set("isolation.level", "read_committed");
    for (name, value) in role.values() {
        config.set(*name, *value);
    }
    if role.is_member() && !has_newer_group_protocol(kafka) {
        for (name, value) in CLASSIC_PROTOCOL {
            config.set(name, value);
        }
    }
    apply_properties(&mut config, kafka);
    if !role.is_member() {
        // The newer protocol has no place in a consumer that is no member, and some brokers refuse it.
        config.remove("group.protocol");
        config.remove("group.remote.assignor");
    }
    config
}

/// The configuration of a producer for records of at most `record_bytes_max` bytes.
pub fn producer_config(kafka: &settings::Kafka, role: ProducerRole<'_>, record_bytes_max: usize) -> ClientConfig {
    let mut config = common(kafka, role.name());
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "100000")
        // The default would hold a gigabyte.
        .set("queue.buffering.max.kbytes", "65536")
        .set("request.timeout.ms", "10000")
        .set("socket.timeout.ms", "30000")
        // The partitions that Java's producers choose.
        .set("partitioner", "murmur2_random")
        // The client's own lower bound is 1000.
        .set("message.max.bytes", record_bytes_max.max(1000).to_string())
        .set("statistics.interval.ms", "10000");
    for (name, value) in role.values() {
        config.set(*name, *value);
    }
    if let ProducerRole::Writer(transactional_id) = role {
        config.set("transactional.id", transactional_id);
    }
    apply_properties(&mut config, kafka);
    config
}

/// A client for topics and their configuration. Short-lived: nothing serves its callbacks.
///
/// # Errors
/// When a property of the operator's is unknown or has a value that the client refuses.
pub fn admin(kafka: &settings::Kafka) -> KafkaResult<AdminClient<ClientLog>> {
    let mut config = common(kafka, "admin");
    config.set("socket.timeout.ms", "10000");
    apply_properties(&mut config, kafka);
    for consumer_only in ["group.protocol", "group.remote.assignor"] {
        config.remove(consumer_only);
    }
    config.create_with_context(ClientLog::new("admin"))
}

fn common(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", format!("hookstream-{role}"))
        .set("reconnect.backoff.ms", "100")
        // The default of ten seconds also holds back message time-outs and the end of an outage.
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

fn apply_properties(config: &mut ClientConfig, kafka: &settings::Kafka) {
    for (name, value) in &kafka.properties {
        for (one, other) in ALIASES {
            if name == one {
                config.remove(other);
            } else if name == other {
                config.remove(one);
            }
        }
        config.set(name, value);
    }
}

/// Whether the operator chose the group protocol of KIP-848.
pub fn has_newer_group_protocol(kafka: &settings::Kafka) -> bool {
    let last = kafka.properties.iter().rev().find(|(name, _)| name == "group.protocol");
    last.is_some_and(|(_, value)| value.eq_ignore_ascii_case("consumer"))
}

/// An outage makes a client repeat itself many times a second: a line and how often it was repeated is enough.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Distinct lines remembered; more of them within the interval push out the oldest.
const DISTINCT_LINES_MAX: usize = 64;

/// Brings a client's logs and errors to the program's log, each distinct one once in ten seconds.
///
/// Use it as the context of a client, or call its methods from a context that does more.
#[derive(Debug)]
pub struct ClientLog {
    client: &'static str,
    repeats: Mutex<Repeats>,
}

impl ClientLog {
    /// The log of the client that is called `client` in it.
    pub fn new(client: &'static str) -> Self {
        Self { client, repeats: Mutex::default() }
    }

    /// What went wrong last, for the message of an operation that failed without saying why.
    pub fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// Logs a line of the client library.
    pub fn line(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let Some(repeats) = self.admit(facility, line) else { return };
        let client = self.client;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", client, facility, repeats, error = line, "kafka client line");
            }
            // Transport errors: the client tries again by itself.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", client, facility, repeats, error = line, "kafka client line");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", client, facility, repeats, error = line, "kafka client line");
            }
            RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", client, facility, error = line, "kafka client line");
            }
        }
    }

    /// Logs an error of the client, or of one of its calls; `false` when it was one of many and was only counted.
    pub fn failure(&self, error: &KafkaError, reason: &str) -> bool {
        let code = error.rdkafka_error_code();
        let text = if reason.is_empty() { error.to_string() } else { reason.to_owned() };
        self.lock().last_error = Some(text.clone());
        let Some(repeats) = self.admit("error", &text) else { return false };
        let client = self.client;
        if code == Some(RDKafkaErrorCode::Fatal) || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            tracing::error!(target: "librdkafka", client, repeats, error = text, "kafka client failed for good");
        } else {
            tracing::warn!(target: "librdkafka", client, repeats, error = text, "kafka client error");
        }
        true
    }

    fn admit(&self, facility: &str, line: &str) -> Option<u64> {
        self.lock().admit(facility, line, Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.failure(&error, reason);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for ClientLog {}

impl rdkafka::producer::ProducerContext for ClientLog {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            self.failure(error, &format!("a record for {} was not written: {error}", message.topic()));
        }
    }
}

/// Which lines were written when, and how often since.
#[derive(Debug, Default)]
struct Repeats {
    seen: HashMap<String, Seen>,
    last_error: Option<String>,
}

#[derive(Debug)]
struct Seen {
    written: Instant,
    since: u64,
}

impl Repeats {
    /// Whether to write the line now, and how many of the same were left out since it was last written.
    fn admit(&mut self, facility: &str, line: &str, now: Instant) -> Option<u64> {
        // The rest is how long this very attempt took and how many the client itself has left out.
        let same = line.split_once(" (after ").map_or(line, |(before, _)| before);
        let key = format!("{facility} {same}");
        if let Some(seen) = self.seen.get_mut(&key) {
            if now.duration_since(seen.written) < REPEAT_INTERVAL {
                seen.since += 1;
                return None;
            }
            seen.written = now;
            return Some(std::mem::take(&mut seen.since));
        }
        if self.seen.len() >= DISTINCT_LINES_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.written).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(key, Seen { written: now, since: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::producer::BaseProducer;

    use super::*;

    fn kafka(properties: &[(&str, &str)]) -> settings::Kafka {
        settings::Kafka {
            brokers: "127.0.0.1:1".to_owned(),
            group: "hookstream".to_owned(),
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    const ROLES: [ConsumerRole; 6] = [
        ConsumerRole::Events,
        ConsumerRole::Retries,
        ConsumerRole::Table,
        ConsumerRole::Counts,
        ConsumerRole::Schedules,
        ConsumerRole::Range,
    ];

    const PRODUCERS: [ProducerRole<'static>; 4] = [
        ProducerRole::Deliveries,
        ProducerRole::Attempts,
        ProducerRole::Health,
        ProducerRole::Writer("hookstream-api"),
    ];

    #[test]
    fn the_client_library_accepts_every_configuration_under_both_group_protocols() {
        for properties in [&[][..], &[("group.protocol", "classic")], &[("group.protocol", "Consumer")]] {
            let kafka = kafka(properties);
            for role in ROLES {
                let client: KafkaResult<BaseConsumer<_>> =
                    consumer_config(&kafka, role).create_with_context(ClientLog::new("t"));
                assert!(client.is_ok(), "{role:?} with {properties:?}: {:?}", client.err());
            }
            for role in PRODUCERS {
                let client: KafkaResult<BaseProducer<_>> =
                    producer_config(&kafka, role, 2_000_000).create_with_context(ClientLog::new("t"));
                assert!(client.is_ok(), "{role:?} with {properties:?}: {:?}", client.err());
            }
            assert!(admin(&kafka).is_ok());
        }
    }

    #[test]
    fn groups_derive_from_the_group_and_are_all_different() {
        let kafka = kafka(&[]);
        let groups: std::collections::BTreeSet<_> = ROLES.iter().map(|role| role.group(&kafka)).collect();
        assert_eq!(groups.len(), ROLES.len());
        assert!(groups.iter().all(|group| group.starts_with("hookstream")), "{groups:?}");
        assert_eq!(ConsumerRole::Events.group(&kafka), "hookstream");
    }

    #[test]
    fn the_operators_properties_win_under_either_name() {
        let kafka = kafka(&[("max.partition.fetch.bytes", "77777"), ("linger.ms", "9"), ("sasl.mechanism", "PLAIN")]);
        let consumer = consumer_config(&kafka, ConsumerRole::Events);
        assert_eq!(consumer.get("max.partition.fetch.bytes"), Some("77777"));
        assert_eq!(consumer.get("fetch.message.max.bytes"), None);
        assert_eq!(producer_config(&kafka, ProducerRole::Deliveries, 1).get("linger.ms"), Some("9"));
    }

    #[test]
    fn nothing_is_acknowledged_or_skipped_by_default() {
        let kafka = kafka(&[]);
        for role in ROLES {
            let config = consumer_config(&kafka, role);
            assert_eq!(config.get("enable.auto.offset.store"), Some("false"), "{role:?}");
            assert_ne!(config.get("auto.offset.reset"), None, "{role:?}: the default skips to the end");
            assert_ne!(config.get("auto.offset.reset"), Some("latest"), "{role:?}");
        }
        for role in PRODUCERS {
            let config = producer_config(&kafka, role, 1_000_000);
            assert_eq!(config.get("acks"), Some("all"), "{role:?}");
            assert_eq!(config.get("enable.idempotence"), Some("true"), "{role:?}");
        }
    }

    #[test]
    fn an_unknown_property_is_an_error_that_names_it() {
        let error = admin(&kafka(&[("no.such.property", "x")])).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("no.such.property"), "{error}");
    }

    #[test]
    fn a_repeated_line_is_written_once_an_interval_with_its_count() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let line = |millis: u32| format!("Connect to ipv4#127.0.0.1:9092 failed (after {millis}ms in state CONNECT)");
        assert_eq!(repeats.admit("FAIL", &line(0), start), Some(0));
        assert_eq!(repeats.admit("FAIL", &line(1), start), None);
        assert_eq!(repeats.admit("FAIL", &line(2), start + REPEAT_INTERVAL / 2), None);
        assert_eq!(repeats.admit("ERROR", &line(2), start + REPEAT_INTERVAL / 2), Some(0), "another facility");
        assert_eq!(repeats.admit("FAIL", &line(3), start + REPEAT_INTERVAL), Some(2));
        assert_eq!(repeats.admit("FAIL", &line(3), start + 2 * REPEAT_INTERVAL), Some(0));
    }

    #[test]
    fn remembered_lines_are_bounded() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        for n in 0..10 * DISTINCT_LINES_MAX {
            let now = start + Duration::from_millis(u64::try_from(n).unwrap());
            assert_eq!(repeats.admit("FAIL", &format!("line {n}"), now), Some(0));
        }
        assert_eq!(repeats.seen.len(), DISTINCT_LINES_MAX);
    }
}
