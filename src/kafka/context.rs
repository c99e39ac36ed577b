//! The contexts of all Kafka clients: what becomes of a client's logs, errors and statistics. `client` has their configuration.

use std::ops::Deref;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::telemetry::metrics::KAFKA_ERRORS;
use crate::telemetry::repeats::Repeats;

/// librdkafka's log facility for an offset that did not exist.
const OFFSET_RESET: &str = "OFFSET";
/// librdkafka's log facility for a connection that failed. Each client logs it for each broker.
const CONNECTION_FAILED: &str = "FAIL";
/// Log facilities that need no action: a property that another kind of client takes, requests on a connection that has failed, and a
/// producer that asks again for its id while a cluster starts.
const MOMENTARY: [&str; 3] = ["CONFWARN", "REQTMOUT", "GETPID"];

/// While brokers are away all clients of a process would log the same at once: one of them logs it, once a minute.
static OUTAGE: LazyLock<Repeats> = LazyLock::new(|| Repeats::every(Duration::from_mins(1)));

/// Turns a client's logs and errors into the program's logs, without repetitions.
pub(crate) struct ClientLog {
    role: &'static str,
    is_quiet: bool,
    repeats: Repeats,
    /// Counts what the client reports.
    errors: IntCounter,
    last_error: Mutex<Option<String>>,
    /// Why the last connection failed.
    last_failure: Mutex<Option<String>>,
}

/// The client library's text, without the name of its thread, its states and its marks of address families.
fn plain(words: &str) -> String {
    let words =
        words.strip_prefix("[thrd:").and_then(|words| words.split_once("]: ")).map_or(words, |(_, words)| words);
    let words = words.split_once("/bootstrap: ").map_or(words, |(_, words)| words);
    let words = words.split(" (after ").next().unwrap_or(words);
    words.replace("ipv4#", "").replace("ipv6#", "")
}

/// Whether the client library logs the same as a connection that failed: each client would say it twice, for each broker.
fn is_said_by_log(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure))
}

/// Logs the client library's text as it is.
fn debug(client: &str, facility: &str, detail: &str) {
    tracing::debug!(client, facility, detail, "kafka client");
}

impl ClientLog {
    /// The context of the client that does `role`.
    pub(crate) fn new(role: &'static str) -> Self {
        Self {
            role,
            is_quiet: false,
            repeats: Repeats::default(),
            errors: KAFKA_ERRORS.clone(),
            last_error: Mutex::default(),
            last_failure: Mutex::default(),
        }
    }

    /// The context of a client of a tool, which reports its failures itself: what the client says is logged at debug level only.
    pub(crate) fn of_tool(role: &'static str) -> Self {
        Self { is_quiet: true, ..Self::new(role) }
    }

    /// What the client does.
    pub(crate) fn role(&self) -> &'static str {
        self.role
    }

    /// The client's last error, or why its last connection failed: explains an operation that failed without a reason.
    pub(crate) fn last_error(&self) -> Option<String> {
        let error = self.last_error.lock().as_deref().map(plain);
        error.or_else(|| self.last_failure.lock().clone())
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let role = self.role;
        if facility == CONNECTION_FAILED {
            *self.last_failure.lock() = Some(plain(message));
        }
        let detail = plain(message);
        match level {
            // The client went on at another offset, because the one that it wanted is gone: records were lost.
            _ if facility == OFFSET_RESET => {
                if let Some(repeats) = self.repeats.of(message) {
                    tracing::warn!(client = role, repeats, detail, "records may have been skipped");
                }
            }
            // The tool itself says what is wrong, in its own words.
            _ if self.is_quiet || MOMENTARY.contains(&facility) => debug(role, facility, message),
            // Before the levels: a connection that is refused is an error, one that ends is not, and an outage makes both.
            _ if facility == CONNECTION_FAILED => {
                let is_error = matches!(level, RDKafkaLogLevel::Error);
                match OUTAGE.of(if is_error { "refused" } else { "ended" }) {
                    Some(repeats) if is_error => tracing::warn!(client = role, repeats, detail, "kafka client"),
                    Some(repeats) => tracing::info!(client = role, repeats, detail, "kafka client"),
                    None => {}
                }
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                if let Some(repeats) = self.repeats.of(facility) {
                    tracing::warn!(client = role, repeats, detail, "kafka client");
                }
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
                if let Some(repeats) = self.repeats.of(facility) {
                    tracing::info!(client = role, repeats, detail, "kafka client");
                }
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug(role, facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Readers that stop at the end of a topic ask for this event.
        if let KafkaError::Global(RDKafkaErrorCode::PartitionEOF) = error {
            return;
        }
        self.errors.inc();
        // "All brokers are down" says less than the error of the last one.
        if !matches!(error, KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)) {
            *self.last_error.lock() = Some(reason.to_owned());
        }
        let text = error.to_string();
        if self.is_quiet || is_said_by_log(&error) {
            tracing::debug!(client = self.role, error = text, reason, "kafka client error");
            return;
        }
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)) {
            if let Some(repeats) = OUTAGE.of(&text) {
                let cause = self.last_failure.lock().clone();
                tracing::warn!(client = self.role, cause, repeats, "no broker answers, still trying");
            }
            return;
        }
        if let Some(repeats) = self.repeats.of(&text) {
            let reason = plain(reason);
            tracing::warn!(client = self.role, error = text, reason, repeats, "kafka client error");
        }
    }
}

impl ConsumerContext for ClientLog {}

/// The context of a client whose callbacks do more than log: `T` is what they do it with.
pub(crate) struct Logged<T> {
    log: ClientLog,
    own: T,
}

impl<T> Logged<T> {
    /// The context of the client that does `role`.
    pub(crate) fn new(role: &'static str, own: T) -> Self {
        Self { log: ClientLog::new(role), own }
    }

    /// What the client does.
    pub(crate) fn role(&self) -> &'static str {
        self.log.role()
    }
}

impl<T> Deref for Logged<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.own
    }
}

/// What a [`Logged`] context does with the client's statistics.
pub(crate) trait Own: Send + Sync + 'static {
    /// New statistics came.
    fn stats(&self, _statistics: Statistics) {}
}

impl<T: Own> ClientContext for Logged<T> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.own.stats(statistics);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_client_library_speaks_plainly_and_of_what_passes_only_at_debug_level() {
        let said = crate::telemetry::logs::testing::logged(|| {
            let client = ClientLog::new("retries");
            let at = |level, facility: &str, words: &str| client.log(level, facility, words);
            at(RDKafkaLogLevel::Warning, "GETPID", "[thrd:main]: Failed to acquire idempotence PID: retrying");
            at(RDKafkaLogLevel::Warning, "CONFWARN", "[thrd:app]: Configuration property acks is a producer property");
            at(RDKafkaLogLevel::Warning, "REQTMOUT", "[thrd:b:1/1]: b:1/1: Timed out 1 in-flight requests");
            at(
                RDKafkaLogLevel::Error,
                "SESSTMOUT",
                "[thrd:main]: Consumer group session timed out (in join-state steady)",
            );
            client.error(
                KafkaError::Global(RDKafkaErrorCode::SSL),
                "ssl://b:1/bootstrap: certificate expired (after 3ms in state SSL)",
            );
        });
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(lines[0].contains("Consumer group session timed out"), "{said}");
        assert!(lines[1].contains("certificate expired"), "{said}");
        for inner in ["thrd:", "SESSTMOUT", "bootstrap", "in state", "facility"] {
            assert!(!said.contains(inner), "{inner} in {said}");
        }
    }

    #[test]
    fn no_line_has_the_client_librarys_names_of_errors() {
        use RDKafkaErrorCode as Code;
        let codes = [
            Code::BrokerTransportFailure,
            Code::OperationTimedOut,
            Code::TopicAuthorizationFailed,
            Code::NotLeaderForPartition,
            Code::IllegalGeneration,
            Code::MessageSizeTooLarge,
        ];
        let kinds = [
            KafkaError::AdminOp,
            KafkaError::ConsumerCommit,
            KafkaError::ConsumerQueueClose,
            KafkaError::Flush,
            KafkaError::Global,
            KafkaError::GroupListFetch,
            KafkaError::MessageConsumption,
            KafkaError::MessageConsumptionFatal,
            KafkaError::MessageProduction,
            KafkaError::MetadataFetch,
            KafkaError::MockCluster,
            KafkaError::OffsetFetch,
            KafkaError::Rebalance,
            KafkaError::SetPartitionOffset,
            KafkaError::StoreOffset,
        ];
        for error in kinds.iter().flat_map(|kind| codes.map(kind)) {
            let said = crate::telemetry::logs::testing::logged(|| tracing::info!(%error, "not done"));
            let (_, words) = said.trim_end().split_once("not done error=").unwrap();
            assert!(!words.contains(['(', ':']) && !words.contains("error"), "{words}");
            assert_eq!(words, words.to_lowercase());
            assert_eq!(crate::telemetry::chain::chain(&error), words);
        }
    }

    #[test]
    fn an_outage_is_said_once_for_all_clients() {
        let said = crate::telemetry::logs::testing::logged(|| {
            for role in ["events", "retries", "health"] {
                let client = ClientLog::new(role);
                let refused =
                    "b:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)";
                client.log(RDKafkaLogLevel::Error, CONNECTION_FAILED, refused);
                client.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), refused);
                client.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
            }
        });
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.len() <= 2, "{said}");
        assert!(lines.iter().all(|line| line.contains("Connection refused")), "{said}");
        assert!(!said.contains("BrokerTransportFailure"), "{said}");
    }

    #[test]
    fn the_cause_of_an_outage_is_said_without_the_client_librarys_inner_names() {
        for (said, plainly) in [
            (
                "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                "Connect to 127.0.0.1:1 failed: Connection refused",
            ),
            (
                "[thrd:127.0.0.1:1/1]: 127.0.0.1:1/1: Disconnected (after 9ms in state UP)",
                "127.0.0.1:1/1: Disconnected",
            ),
            ("[thrd:main]: events [0]: offset reset (at offset 5)", "events [0]: offset reset (at offset 5)"),
            ("SASL authentication error", "SASL authentication error"),
        ] {
            assert_eq!(plain(said), plainly);
        }
    }

    fn counting(client: ClientLog) -> (ClientLog, IntCounter) {
        let errors = IntCounter::new("errors", "Errors").unwrap();
        (ClientLog { errors: errors.clone(), ..client }, errors)
    }

    #[test]
    fn each_kind_of_error_that_a_client_reports_counts_once() {
        for make in [ClientLog::new, ClientLog::of_tool] {
            for (code, counts) in [
                (RDKafkaErrorCode::BrokerTransportFailure, 1),
                (RDKafkaErrorCode::AllBrokersDown, 1),
                (RDKafkaErrorCode::Authentication, 1),
                (RDKafkaErrorCode::Fatal, 1),
                (RDKafkaErrorCode::PartitionEOF, 0),
            ] {
                let (client, errors) = counting(make("test"));
                client.error(KafkaError::Global(code), "as it is");
                assert_eq!(errors.get(), counts, "{code:?}");
            }
        }
    }

    #[test]
    fn an_error_counts_once_where_the_client_reports_it_and_a_poll_returns_it() {
        /// Counts the reports beside the client's own context.
        struct Reports(ClientLog, AtomicU64);
        impl ClientContext for Reports {
            fn error(&self, error: KafkaError, reason: &str) {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.error(error, reason);
            }
        }
        impl ConsumerContext for Reports {}

        let (client, errors) = counting(ClientLog::new("test"));
        // No broker listens there.
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("group.id", "g").set("reconnect.backoff.max.ms", "200");
        let consumer: BaseConsumer<Reports> = config.create_with_context(Reports(client, AtomicU64::new(0))).unwrap();
        consumer.subscribe(&["events"]).unwrap();
        let began = Instant::now();
        while !matches!(consumer.poll(Duration::from_millis(100)), Some(Err(_))) {
            assert!(began.elapsed() < Duration::from_secs(60), "no poll returns an error");
        }
        assert_eq!(errors.get(), consumer.context().1.load(Ordering::Relaxed));
    }
}
