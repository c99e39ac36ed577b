//! One shard with all that it needs, fed through the pipeline as a consumer feeds it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use hookstream::internals::AddressPolicy;
use hookstream::internals::Assignment;
use hookstream::internals::Connector;
use hookstream::internals::HttpCourier;
use hookstream::internals::Integration;
use hookstream::internals::Metrics;
use hookstream::internals::NextSteps;
use hookstream::internals::Reports;
use hookstream::internals::RetrySchedule;
use hookstream::internals::Sink;
use hookstream::internals::Table;
use hookstream::internals::Tick;
use hookstream::internals::Wire;
use hookstream::internals::settings::{Delivery, Ordering};
use hookstream::internals::{BATCHES_MAX, PartitionBacklog, Permits, Shared, run_shard};
use hookstream::internals::{Due, Job, Origin};
use hookstream::internals::{DueRetry, Pipeline, PipelineParts, Record};
use hookstream::internals::{InMemory, Pressure, turn_in_memory};
use parking_lot::{Mutex, RwLock};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::records::{Read, read_all};
use crate::support::wait::{PATIENCE, equal, wait_until};
use crate::support::worker::{kafka_settings, sum};

/// The tier and the dead letters of a rig.
pub(crate) const TIER: &str = "retry.1h";

/// As the program's defaults, but for the schedule: one retry, later than any test lasts.
pub(crate) fn settings() -> Delivery {
    Delivery {
        schedule: RetrySchedule::parse("1h").unwrap(),
        give_up_after: Duration::from_hours(24),
        request_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(3),
        ordering: Ordering::Entity,
        max_in_flight: 1024,
        max_in_flight_per_webhook: 16,
        max_in_flight_per_host: 256,
        max_queued_bytes: 64 << 20,
        threads: 1,
        allow_private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        drain_timeout: Duration::from_secs(25),
    }
}

/// A webhook that wants every event.
pub(crate) fn webhook(id: &str) -> Value {
    json!({ "id": id, "relativeUrl": format!("/{id}"), "triggerType": "entityEvent", "filter": { "items": [{}] } })
}

/// Records of the events topic, by offset.
type Log = Vec<InMemory>;

/// A shard under test.
pub(crate) struct Rig {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) assignment: Arc<Assignment>,
    table: Arc<RwLock<Table>>,
    pipeline: Pipeline,
    jobs: Option<mpsc::Sender<Vec<Job>>>,
    thread: Option<JoinHandle<()>>,
    brokers: MockCluster<'static, DefaultProducerContext>,
    log: Mutex<(Log, PartitionBacklog)>,
    next_offset: i64,
}

impl Rig {
    /// Starts a shard.
    pub(crate) fn start(settings: Delivery) -> Self {
        let brokers = MockCluster::new(1).expect("a mock cluster");
        for topic in [TIER, "dead-letter"] {
            brokers.create_topic(topic, 1, 1).expect("a topic");
        }
        let kafka = kafka_settings(&brokers.bootstrap_servers(), "embedded");
        let metrics = Arc::new(Metrics::new(&settings.schedule));
        let pressure = Pressure::new(settings.max_queued_bytes);
        let (stop, fatal) = (CancellationToken::new(), CancellationToken::new());
        let policy = AddressPolicy::new(settings.allow_private_networks.clone());
        let connector = Connector::system(policy, settings.connect_timeout);
        let delivery = settings.clone();
        let table = Arc::new(RwLock::new(Table::default()));
        let shared = Arc::new(Shared {
            table: Arc::clone(&table),
            courier: HttpCourier::new(connector, settings.request_timeout, Arc::clone(&metrics)),
            sink: Sink::new(&kafka, Arc::clone(&metrics), stop, fatal).expect("a producer"),
            metrics: Arc::clone(&metrics),
            pressure,
            permits: Permits::new(settings.max_in_flight),
            next_steps: NextSteps::new(&settings.schedule, "retry", "dead-letter"),
            reports: Reports::default(),
            settings,
            shards: 1,
        });
        let (jobs, inbound) = mpsc::channel(BATCHES_MAX);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run_shard(0, shared, inbound));
        });
        let pipeline = Pipeline::new(PipelineParts {
            table: Arc::clone(&table),
            pressure,
            metrics: Arc::clone(&metrics),
            shards: 1,
            delivery: &delivery,
            integrations_topic: "integrations",
        });
        let assignment = Assignment::new("events".into(), 0);
        let (jobs, thread) = (Some(jobs), Some(thread));
        Self { metrics, assignment, table, pipeline, jobs, thread, brokers, log: Mutex::default(), next_offset: 0 }
    }

    /// Puts an integration into the table: its workspace is its id.
    pub(crate) fn integrate(&self, id: &str, base_url: &str, webhooks: &[Value]) {
        self.integrate_record(&format!("{id}/{id}"), &json!({ "baseUrl": base_url, "webHooks": webhooks }));
    }

    /// Takes a record of that key into the table.
    pub(crate) fn integrate_record(&self, key: &str, record: &Value) {
        let integration = Integration::parse(key, record.to_string().as_bytes()).expect("a usable integration");
        let mut table = self.table.write();
        table.put(Arc::new(integration));
        table.settle();
    }

    /// Feeds one batch of events: each a workspace, and the entity it is about. An event's id is its offset.
    pub(crate) async fn feed<'a>(&mut self, events: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut batches = vec![Vec::new()];
        for (workspace, entity) in events {
            let value = json!({ "id": self.next_offset.to_string(), "type": "change", "entity": entity,
                "entityIds": { "companyId": entity }, "changeData": { "type": "patch" } })
            .to_string();
            let record = Record {
                offset: self.next_offset,
                timestamp_ms: jiff::Timestamp::now().as_millisecond(),
                key: None,
                value: Some(value.as_bytes()),
                workspace: Some(workspace),
                is_workspace_key: false,
                read_ms: jiff::Timestamp::now().as_millisecond(),
            };
            let mut log = self.log.lock();
            let (workspace, timestamp_ms) = (workspace.to_owned(), record.timestamp_ms);
            log.0.push(InMemory { workspace, value: value.as_bytes().to_vec(), timestamp_ms });
            self.pipeline.event(&record, &self.assignment, &mut log.1, &mut batches);
            self.next_offset += 1;
        }
        self.hand_over(batches.remove(0)).await;
    }

    /// The integration of that id, as the table has it.
    pub(crate) fn integration(&self, id: &str) -> Arc<Integration> {
        let table = self.table.read();
        Arc::clone(table.get(&format!("{id}/{id}")).expect("it is in the table"))
    }

    /// Fires a tick of the first webhook of an integration, as the schedules do while `firing` is open.
    pub(crate) async fn tick(&self, id: &str, at_ms: i64, firing: &Arc<Assignment>) {
        let mut batches = vec![Vec::new()];
        let tick = Tick { at_ms, integration: self.integration(id), webhook: 0, skipped: 0 };
        self.pipeline.tick(&tick, 0, firing, &mut batches);
        self.hand_over(batches.remove(0)).await;
    }

    /// Hands over a retry that is due at `now_ms`, with these headers.
    pub(crate) async fn retry(&mut self, payload: &[u8], wire: Wire, now_ms: i64) {
        let mut batches = vec![Vec::new()];
        let sequence = self.assignment.admit(self.next_offset);
        let position = Origin { topic: TIER.into(), partition: 0, offset: self.next_offset };
        let due = Due { at_ms: now_ms, tier: 0 };
        let payload = Bytes::copy_from_slice(payload);
        let retry = DueRetry { payload: Some(payload), wire, due, position, sequence, now_ms };
        self.pipeline.retry(retry, &self.assignment, &mut batches);
        self.next_offset += 1;
        self.hand_over(batches.remove(0)).await;
    }

    async fn hand_over(&self, batch: Vec<Job>) {
        if !batch.is_empty() {
            self.jobs.as_ref().expect("it is not closed").send(batch).await.expect("the shard runs");
        }
    }

    /// Waits until every event fed is settled, and no webhook is behind.
    pub(crate) async fn settled(&self) {
        wait_until("every event to be settled", PATIENCE, async || {
            let is_level = self.turn().await;
            equal((self.assignment.committable(), is_level), &(Some(self.next_offset), true))
        })
        .await;
    }

    /// Gives each webhook that is behind as many events as its lane has room for. Returns whether all are level.
    pub(crate) async fn turn(&self) -> bool {
        let mut batches = vec![Vec::new()];
        let is_level = {
            let mut log = self.log.lock();
            let (records, backlog) = &mut *log;
            turn_in_memory(&self.pipeline, records, &self.assignment, backlog, &mut batches);
            backlog.is_empty()
        };
        self.hand_over(batches.remove(0)).await;
        is_level
    }

    /// The sum of the samples of a counter or gauge that have all of `labels`.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        let sum = sum(&String::from_utf8(self.metrics.text()).unwrap(), name, labels);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and small")]
        let count = sum as usize;
        count
    }

    /// The records that wait in the tier.
    pub(crate) fn retries(&self) -> Vec<Read> {
        read_all(&self.brokers.bootstrap_servers(), TIER)
    }

    /// The dead letters.
    pub(crate) fn dead_letters(&self) -> Vec<Read> {
        read_all(&self.brokers.bootstrap_servers(), "dead-letter")
    }

    /// Lets the shard come to its end, and waits for it.
    pub(crate) fn close(&mut self) {
        self.jobs = None;
        self.thread.take().expect("it is not closed").join().expect("the shard does not panic");
    }
}
