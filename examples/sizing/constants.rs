//! What was measured, each figure with its source. No arithmetic.
//!
//! All but the last are of `benches/README.md` (two cores of an AMD EPYC, virtual, plain HTTP) or of `docs/`.

/// Processor seconds of a delivery of an event without a body, and of each KiB of it: through 14.8 µs at 1 KiB and 19.0 µs at 4 KiB
/// (`cargo bench --bench delivery`).
pub(crate) const DELIVERY_SECONDS: f64 = 13.4e-6;
pub(crate) const DELIVERY_SECONDS_PER_KIB: f64 = 1.4e-6;
/// Of these, for an event, however many webhooks it matches: 506,000 a core-second (the same benchmark).
pub(crate) const EVENT_SECONDS: f64 = 1.0 / 506_000.0;
/// Bytes of a worker at full speed, with its queue and Kafka's client: the highest peak of ten minutes (`cargo bench --bench soak`).
pub(crate) const WORKER_BYTES: f64 = 209e6;
/// Bytes of a webhook in the table: 164 MB for a million (`cargo bench --bench scale`).
pub(crate) const WEBHOOK_BYTES: f64 = 164.0;
/// Bytes of a kept connection without TLS: 218 MB for ten thousand (`cargo bench --bench isolation`).
pub(crate) const CONNECTION_BYTES: f64 = 21_800.0;
/// Seconds in which a worker reads a webhook at its start: 1.25 s for a million (`cargo bench --bench scale`).
pub(crate) const BOOTSTRAP_SECONDS: f64 = 1.25e-6;
/// Seconds without deliveries after a crash, at most (`docs/operations.md`, "What a crash costs"; measured 6.0).
pub(crate) const FAILOVER_SECONDS: f64 = 7.0;
/// Of the requests that a worker may have under way, the share that is for probes alone (`deliver::permits`).
pub(crate) const PROBES_SHARE: f64 = 0.125;
/// Seconds of work that a crash repeats besides what was under way: the bound of "Crashes and moves".
pub(crate) const REPEATED_SECONDS: f64 = 0.2;
/// Failures in a row that open a circuit, and the seconds between two probes after that (`docs/dead-receivers.md`).
pub(crate) const CIRCUIT_FAILURES: f64 = 20.0;
pub(crate) const PROBE_SECONDS: f64 = 10.0;
/// Seconds after which an integration that only fails is suspended (`--suspend-after`).
pub(crate) const SUSPEND_SECONDS: f64 = 3_600.0;
/// The default retry schedule, in seconds.
pub(crate) const SCHEDULE: [f64; 7] = [30.0, 60.0, 300.0, 900.0, 3_600.0, 3_600.0, 3_600.0];
/// The least that a tier keeps its records beyond its delay (`docs/operations.md`, "Retention").
pub(crate) const TIER_RETENTION_SECONDS: f64 = 72.0 * 3_600.0;
/// Bytes of the headers of a record in a tier (`docs/operations.md`, "How large").
pub(crate) const HEADER_BYTES: f64 = 500.0;
/// Bytes of a place in the backlog topic, key and framing with it: its record has 170 and its ids 80.
pub(crate) const PLACE_BYTES: f64 = 250.0;
/// Partitions that `topics apply` creates.
pub(crate) const PARTITIONS_MIN: usize = 12;
/// Fewer do not survive the loss of one.
pub(crate) const WORKERS_MIN: usize = 2;
