//! The configuration of every Kafka client. `context` has its logs.
//!
//! Each value that is not librdkafka's default has its reason here. The user's `--kafka-property` come last and win. Properties that
//! would break delivery are refused with the mistakes of other options.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub(crate) use super::context::{ClientLog, Logged, Own};
use crate::settings;

/// Two names of the same property. librdkafka takes both, and which of them holds is not defined, so a client is never given both.
const ALIASES: [(&str, &str); 10] = [
    ("acks", "request.required.acks"),
    ("enable.auto.commit", "auto.commit.enable"),
    ("bootstrap.servers", "metadata.broker.list"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("compression.type", "compression.codec"),
    ("message.timeout.ms", "delivery.timeout.ms"),
    ("message.send.max.retries", "retries"),
    ("max.in.flight.requests.per.connection", "max.in.flight"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// How large a batch may get when it is decompressed. If a batch does not say its size, the client guesses twice the compressed size, and
/// then three times the guess before. A guess above this bound makes the record unreadable: with the default of 100 MB a record of 40 MB
/// was. The bound is above the sixth guess for a batch of a mebibyte, which is the most that topics take by default.
const DECOMPRESSED_BYTES_MAX: &str = "536870912";

fn base_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", format!("hookstream-{role}"))
        .set("socket.keepalive.enable", "true")
        // The default of 10 s also delays message time-outs and the notice that a broker is back.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        // Without a level the binding asks the `log` crate, which is not used here, and everything below an error is lost. So would be
        // the only message about an offset that was reset.
        .set_log_level(if tracing::enabled!(tracing::Level::DEBUG) {
            RDKafkaLogLevel::Info
        } else {
            RDKafkaLogLevel::Warning
        });
    config
}

/// Sets a value that replaces whatever was set before, under either name of the property.
pub(crate) fn fix(config: &mut ClientConfig, key: &str, value: &str) {
    for (one, other) in ALIASES {
        if key == one {
            config.remove(other);
        } else if key == other {
            config.remove(one);
        }
    }
    config.set(key, value);
}

/// Whether the user set the property, under either name.
fn is_set(kafka: &settings::Kafka, key: &str) -> bool {
    let names = ALIASES.into_iter().find(|(one, other)| *one == key || *other == key).unwrap_or((key, key));
    kafka.properties.iter().any(|(set, _)| set == names.0 || set == names.1)
}

fn with_properties(mut config: ClientConfig, kafka: &settings::Kafka) -> ClientConfig {
    for (key, value) in &kafka.properties {
        fix(&mut config, key, value);
    }
    // The new protocol configures these on the brokers and refuses clients that set them.
    if kafka.properties.iter().any(|(key, value)| key == "group.protocol" && value.eq_ignore_ascii_case("consumer")) {
        for key in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"] {
            config.remove(key);
        }
    }
    config
}

fn group_config(kafka: &settings::Kafka, role: &str, group: &str) -> ClientConfig {
    let mut config = base_config(kafka, role);
    config
        .set("group.id", group)
        .set("enable.auto.offset.store", "false")
        // Only moved partitions drain.
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Never the default, which skips in silence.
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "20000")
        .set("heartbeat.interval.ms", "3000")
        // Above the longest drain, with room.
        .set("max.poll.interval.ms", "300000")
        // Bounds how late added partitions are read: the default is five minutes.
        .set("topic.metadata.refresh.interval.ms", "20000")
        // Bounds what seek, resume and the first fetch wait for.
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "100")
        // The default of a second idles the fetcher whenever the local queue is full.
        .set("fetch.queue.backoff.ms", "10");
    config
}

/// For a member that holds the partitions of events or retries. It reads nothing.
pub(crate) fn member_config(kafka: &settings::Kafka, role: &str, group: &str) -> ClientConfig {
    let mut config = group_config(kafka, &format!("{role}-group"), group);
    config
        // Commits hold more than an offset, so this program makes them itself. The user may set how often.
        .set("enable.auto.commit", "false")
        // The shortest that brokers allow by default: a killed worker's partitions stand still for this long.
        .set("session.timeout.ms", "6000")
        // Members hear of a rebalance with their next heartbeat, and all wait for the last one.
        .set("heartbeat.interval.ms", "500")
        // As the session: the answer to a commit that comes later goes to a client that is not a member any more, and the member's thread waits
        // for it.
        .set("socket.timeout.ms", "6000")
        // A partition is fetched for a moment until it is paused.
        .set("queued.max.messages.kbytes", "64")
        .set("queued.min.messages", "1");
    if let Some(id) = &kafka.instance_id {
        config.set("group.instance.id", id);
    }
    with_properties(config, kafka)
}

/// For a reader of the partitions that a member of `group` holds. They are assigned by hand, and the reader is not a member.
fn reader_config(kafka: &settings::Kafka, role: &str, group: &str) -> ClientConfig {
    let mut config = base_config(kafka, role);
    config
        // An assignment needs a group, and the worker has rights on this one. The client does not join it and commits nothing.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Never the default, which skips in silence.
        .set("auto.offset.reset", "earliest")
        .set("receive.message.max.bytes", DECOMPRESSED_BYTES_MAX)
        // Bounds what seek, resume and the first fetch wait for.
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "100")
        // The default of a second idles the fetcher whenever the local queue is full.
        .set("fetch.queue.backoff.ms", "10");
    config
}

/// For the reader of events.
pub(crate) fn events_reader_config(kafka: &settings::Kafka) -> ClientConfig {
    let mut config = reader_config(kafka, "events", &kafka.group);
    config.set("queued.max.messages.kbytes", "16384").set("queued.min.messages", "10000");
    with_properties(config, kafka)
}

/// For the reader for webhooks that are behind. It has one queue for each partition, and does not read the queue of a partition whose
/// webhooks have no room. So its prefetch is small.
pub(crate) fn catch_up_reader_config(kafka: &settings::Kafka) -> ClientConfig {
    let mut config = reader_config(kafka, "catch-up", &kafka.group);
    config
        // What retention deletes in the middle of a pass must not be passed over in silence.
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "512")
        .set("queued.min.messages", "1000")
        .set("fetch.message.max.bytes", "262144");
    with_properties(config, kafka)
}

/// For the reader of retries. Its prefetch is small, because pausing throws it away.
pub(crate) fn retries_reader_config(kafka: &settings::Kafka, group: &str) -> ClientConfig {
    let mut config = reader_config(kafka, "retries", group);
    config
        .set("queued.max.messages.kbytes", "2048")
        .set("queued.min.messages", "100")
        .set("fetch.message.max.bytes", "131072");
    with_properties(config, kafka)
}

/// For the member that holds schedules. It reads nothing. Another member must be able to take over soon.
pub(crate) fn schedule_consumer_config(kafka: &settings::Kafka, role: &str, group: &str) -> ClientConfig {
    let mut config = group_config(kafka, role, group);
    config
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        // The shortest that brokers allow by default: another worker takes over before the second tick of the shortest period is lost.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1500");
    // The new protocol leaves the session timeout to the brokers, at 45 s: four ticks would be lost. Every broker still
    // speaks the classic one.
    let mut classic = kafka.clone();
    classic.properties.retain(|(key, _)| key != "group.protocol" && key != "group.remote.assignor");
    let mut config = with_properties(config, &classic);
    // The member knows from the statistics that it still has contact, so the user can't change this.
    fix(&mut config, "statistics.interval.ms", "500");
    config
}

/// For the consumer of what workers count. Its offsets are committed in transactions, together with the records that are made from them.
pub(crate) fn health_consumer_config(kafka: &settings::Kafka, group: &str) -> ClientConfig {
    let mut config = group_config(kafka, "health-owner", group);
    config
        .set("enable.auto.commit", "false")
        // The integrations of an owner that crashed wait for the next owner, and there is nothing to drain.
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2000")
        .set("queued.max.messages.kbytes", "4096")
        .set("queued.min.messages", "1000");
    let mut config = with_properties(config, kafka);
    // Shows that a partition without records can be read.
    fix(&mut config, "enable.partition.eof", "true");
    config
}

/// For the producer that writes states, counts and offsets together. `id` names its transactions.
pub(crate) fn transactional_config(kafka: &settings::Kafka, role: &str, id: &str) -> ClientConfig {
    let mut config = producer_config(kafka, role);
    fix(&mut config, "transactional.id", id);
    // Bounds how long the next owner waits for a transaction that an owner left open when it crashed.
    fix(&mut config, "transaction.timeout.ms", "15000");
    // The client library refuses longer ones, also where the user set them.
    fix(&mut config, "socket.timeout.ms", "15000");
    fix(&mut config, "message.timeout.ms", "10000");
    fix(&mut config, "linger.ms", "0");
    config
}

/// For a client that asks where partitions really end, whatever transactions are open.
pub(crate) fn uncommitted_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = table_consumer_config(kafka, role);
    fix(&mut config, "isolation.level", "read_uncommitted");
    config
}

/// For a client that asks for the offsets of a group without being a member.
pub(crate) fn group_asker_config(kafka: &settings::Kafka, role: &str, group: &str) -> ClientConfig {
    let mut config = table_consumer_config(kafka, role);
    fix(&mut config, "group.id", group);
    config
}

/// Whether Kafka lacks nothing but the right for what was asked: it says so again until the right is granted.
pub(crate) fn is_denied(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
    matches!(error.rdkafka_error_code(), Some(TopicAuthorizationFailed | GroupAuthorizationFailed))
}

/// For a consumer that reads a whole topic as a table.
pub(crate) fn table_consumer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = base_config(kafka, role);
    config
        // Assigning needs a group; nothing is ever committed to it.
        .set("group.id", format!("{}-{role}", kafka.group))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("receive.message.max.bytes", DECOMPRESSED_BYTES_MAX)
        // It is read once at the speed of the network, and then hardly ever. The memory for what is fetched ahead is never given back,
        // and more of it does not make the reading faster.
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.max.bytes", "4194304")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10");
    let mut config = with_properties(config, kafka);
    // A table has to be read to the leader's end, and a follower may end earlier.
    config.remove("client.rack");
    // A record of a transaction that was aborted is not part of a table, whatever else is set.
    fix(&mut config, "isolation.level", "read_committed");
    config
}

/// For a tool's consumer, which keeps each partition in a queue of its own.
pub(crate) fn span_consumer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = table_consumer_config(kafka, role);
    if !is_set(kafka, "queued.max.messages.kbytes") {
        // It has one queue for each partition, and a tool has time.
        config.set("queued.max.messages.kbytes", "1024");
    }
    config
}

/// For a reader's consumer, which reads small pieces here and there. Little is fetched beyond a piece, and a new piece does not wait long
/// for the answer to the fetch before.
pub(crate) fn window_consumer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = table_consumer_config(kafka, role);
    for (key, value) in
        [("queued.max.messages.kbytes", "1024"), ("fetch.message.max.bytes", "262144"), ("fetch.wait.max.ms", "10")]
    {
        if !kafka.properties.iter().any(|(given, _)| given == key) {
            config.set(key, value);
        }
    }
    config
}

/// For a reader's consumer that reads large pieces. It asks for more as soon as its queue has room. Two of them read side by side, so
/// each fetches half as much as one would, which bounds their memory.
pub(crate) fn large_window_consumer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = table_consumer_config(kafka, role);
    for (key, value) in [
        ("queued.max.messages.kbytes", "2048"),
        ("fetch.max.bytes", "2097152"),
        ("fetch.wait.max.ms", "10"),
        ("fetch.queue.backoff.ms", "1"),
    ] {
        if !is_set(kafka, key) {
            config.set(key, value);
        }
    }
    config
}

/// For a tool's producer. The tool gives up early and says so, while the sink never stops trying.
pub(crate) fn tool_producer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = producer_config(kafka, role);
    if !is_set(kafka, "message.timeout.ms") {
        config.set("message.timeout.ms", "15000");
    }
    config
}

/// For the producer of retries and dead letters.
pub(crate) fn producer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = base_config(kafka, role);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "100000")
        // The default would allow a gibibyte.
        .set("queue.buffering.max.kbytes", "65536")
        // Then the sink tries again itself.
        .set("message.timeout.ms", "30000")
        .set("request.timeout.ms", "10000")
        .set("socket.timeout.ms", "30000")
        // The topic's own limit decides, not the client's.
        .set("message.max.bytes", "67108864")
        // The same partition for a key as the Java clients.
        .set("partitioner", "murmur2_random");
    with_properties(config, kafka)
}

/// For the producer of records that were too large. It sends each alone, and compresses it as much as possible.
pub(crate) fn single_record_producer_config(kafka: &settings::Kafka, role: &str) -> ClientConfig {
    let mut config = producer_config(kafka, role);
    fix(&mut config, "batch.num.messages", "1");
    // The producer of events may have compressed better than lz4 does, and topics bound compressed bytes.
    fix(&mut config, "compression.type", "zstd");
    // Above the level that producers use by default. Such records are rare, so the time does not matter.
    fix(&mut config, "compression.level", "12");
    config
}

/// For a client for metadata and topics.
pub(crate) fn admin_config(kafka: &settings::Kafka) -> ClientConfig {
    with_properties(base_config(kafka, "admin"), kafka)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(properties: &[(&str, &str)]) -> settings::Kafka {
        settings::Kafka {
            brokers: "localhost:9092".to_owned(),
            group: "hookstream".to_owned(),
            instance_id: None,
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn members_that_carry_events_and_retries_hear_of_a_rebalance_within_half_a_second_unless_the_user_says_otherwise() {
        for (properties, heartbeat) in [(&[][..], "500"), (&[("heartbeat.interval.ms", "900")], "900")] {
            let config = member_config(&kafka(properties), "events", "g");
            assert_eq!(config.get("heartbeat.interval.ms"), Some(heartbeat));
        }
    }

    #[test]
    fn properties_of_the_user_win() {
        let config = events_reader_config(&kafka(&[("fetch.wait.max.ms", "7")]));
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
    }

    #[test]
    fn properties_of_the_user_win_under_either_name() {
        let config = producer_config(&kafka(&[("queue.buffering.max.ms", "9")]), "sink");
        assert_eq!(config.get("queue.buffering.max.ms"), Some("9"));
        assert_eq!(config.get("linger.ms"), None);
    }

    #[test]
    fn no_client_is_given_both_names_of_a_property() {
        for (one, other) in ALIASES {
            let mut config = ClientConfig::new();
            fix(&mut config, one, "1");
            fix(&mut config, other, "2");
            assert_eq!((config.get(one), config.get(other)), (None, Some("2")));
            fix(&mut config, one, "3");
            assert_eq!((config.get(one), config.get(other)), (Some("3"), None));
        }
    }

    #[test]
    fn a_record_that_was_too_large_goes_alone_and_in_zstd_whatever_the_user_sets() {
        for name in ["compression.type", "compression.codec"] {
            let config = single_record_producer_config(&kafka(&[(name, "none")]), "sink-alone");
            let set = ["compression.type", "compression.codec", "batch.num.messages"].map(|key| config.get(key));
            assert_eq!(set, [Some("zstd"), None, Some("1")]);
        }
    }

    #[test]
    fn a_table_has_only_what_is_committed_whatever_the_user_sets() {
        let asked = kafka(&[("isolation.level", "read_uncommitted")]);
        let levels = [table_consumer_config, uncommitted_config].map(|config| config(&asked, "integrations"));
        assert_eq!(
            levels.map(|config| config.get("isolation.level").map(str::to_owned)),
            ["read_committed", "read_uncommitted"].map(|level| Some(level.to_owned()))
        );
    }

    #[test]
    fn a_table_is_read_to_its_leaders_end() {
        let rack = kafka(&[("client.rack", "a")]);
        assert_eq!(table_consumer_config(&rack, "integrations").get("client.rack"), None);
        assert_eq!(events_reader_config(&rack).get("client.rack"), Some("a"));
    }

    #[test]
    fn the_new_group_protocol_is_not_given_what_it_refuses() {
        let classic = member_config(&kafka(&[]), "events", "g");
        assert_eq!(classic.get("partition.assignment.strategy"), Some("cooperative-sticky"));
        let new = member_config(&kafka(&[("group.protocol", "consumer")]), "events", "g");
        for key in ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"] {
            assert_eq!(new.get(key), None, "{key}");
        }
    }

    #[test]
    fn schedules_change_hands_fast_under_either_protocol() {
        for properties in [&[][..], &[("group.protocol", "consumer"), ("group.remote.assignor", "uniform")][..]] {
            let config = schedule_consumer_config(&kafka(properties), "schedules", "g");
            assert_eq!(config.get("session.timeout.ms"), Some("6000"));
            assert_eq!(config.get("group.protocol"), None);
            assert!(config.create::<rdkafka::consumer::BaseConsumer>().is_ok());
        }
        let config = schedule_consumer_config(&kafka(&[("session.timeout.ms", "9000")]), "schedules", "g");
        assert_eq!(config.get("session.timeout.ms"), Some("9000"), "properties of the user win");
    }

    #[test]
    fn a_transactional_producer_can_be_made_whatever_the_user_sets() {
        let (main, alias) = (("message.timeout.ms", "300000"), ("delivery.timeout.ms", "300000"));
        let slow = ("socket.timeout.ms", "60000");
        for properties in [&[][..], &[slow, main], &[slow, alias], &[("queue.buffering.max.ms", "900000")]] {
            let made = transactional_config(&kafka(properties), "health", "id")
                .create_with_context::<_, rdkafka::producer::FutureProducer<ClientLog>>(ClientLog::new("health"));
            assert!(made.is_ok(), "{properties:?}: {:?}", made.err());
        }
    }
}
