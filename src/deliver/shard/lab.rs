//! A shard whose courier and publisher do what a test says, on tokio's paused clock: a minute of retries takes no time, and each test
//! sees the same order of events. The tests of `intake::pipeline` use it too. No rule of a shard is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{BATCHES_MAX, Shard, Shared};
use crate::attempt_log::entry::{AttemptLog, Entry};
use crate::deliver::courier::{AnswerBody, AnswerRead, Courier, Exchange, Rest};
use crate::deliver::kept_pool::Keepable;
use crate::deliver::next_step::NextSteps;
use crate::deliver::observers::Reports;
use crate::deliver::permits::Permits;
use crate::deliver::publish::{Outgoing, Publish, PublishError};
use crate::deliver::request::SignedRequest;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, Webhook};
use crate::domain::outcome::{Outcome, Reason};
use crate::domain::retry_schedule::RetrySchedule;
use crate::domain::table::Table;
use crate::health::tally::Tally;
use crate::inflight::ended::Keep;
use crate::inflight::job::{Delivery, Due, Event, Job, Origin, Retry};
use crate::inflight::lane_gauge::{LaneGauge, LaneGauges};
use crate::inflight::partition::{Assignment, FromLane};
use crate::inflight::pressure::Pressure;
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// The key of the integration of all webhooks.
const INTEGRATION: &str = "ws/i";
/// What a test waits for comes within this time of the paused clock, or never.
const NEVER: Duration = Duration::from_hours(1);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// As a worker's, with three retries: after 1 s, 5 s and 1 m.
pub(crate) fn settings() -> settings::Delivery {
    let schedule = RetrySchedule::parse("1s,5s,1m").unwrap();
    settings::Delivery { schedule, threads: 1, ..settings::Settings::default().delivery }
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The same, in which no event waits for another.
pub(crate) fn unordered() -> settings::Delivery {
    settings::Delivery { ordering: settings::Ordering::None, ..settings() }
}

/// URLs of webhooks `<kind>-0` and on, each on a host of its own.
pub(crate) fn crowd(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://{kind}-{number}.example/{kind}-{number}")).collect()
}

/// Hands each webhook of a crowd so many events.
pub(crate) async fn feed_each(lab: &mut Lab, kind: &str, webhooks: usize, events: u64) {
    for entity in 0..events {
        for number in 0..webhooks {
            assert!(lab.feed(&format!("{kind}-{number}"), entity).await);
        }
    }
}

/// A request as the courier got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// When, in ms since the test began.
    pub(crate) at_ms: u128,
    /// The webhook's id.
    pub(crate) webhook: String,
    /// The event's offset.
    pub(crate) offset: i64,
    /// Its number by the header.
    pub(crate) attempt: u32,
    /// How many were under way to all receivers, itself included.
    pub(crate) under_way: usize,
    /// Whether it goes over a connection that carried another before.
    pub(crate) is_kept: bool,
}

/// How a receiver answers a request.
pub(crate) struct Answer {
    outcome: Outcome,
    after: Duration,
    body_takes: Duration,
}

impl Answer {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, after: Duration::ZERO, body_takes: Duration::ZERO }
    }

    pub(crate) fn acknowledged() -> Self {
        Self::of(Outcome::Acknowledged)
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::of(Outcome::Failed { reason: Reason::Status, status: Some(status), retry_after: None })
    }

    pub(crate) fn retry_after(wait: Duration) -> Self {
        Self::of(Outcome::Failed { reason: Reason::Status, status: Some(503), retry_after: Some(wait) })
    }

    pub(crate) fn failed(reason: Reason) -> Self {
        Self::of(Outcome::failed(reason))
    }

    /// The verdict falls after this time.
    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// The body comes this long after the verdict.
    pub(crate) fn body_takes(self, body_takes: Duration) -> Self {
        Self { body_takes, ..self }
    }
}

type Script = Box<dyn FnMut(&Seen) -> Answer + Send>;

/// All receivers, and the courier to them.
pub(crate) struct Receivers {
    began: Instant,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    under_way: AtomicUsize,
    cut_off: Arc<AtomicUsize>,
}

impl Receivers {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().len()
    }

    /// The offset of each request's event, and when the request was made, in ms since the test began.
    pub(crate) fn times(&self) -> Vec<(i64, u128)> {
        self.seen.lock().iter().map(|seen| (seen.offset, seen.at_ms)).collect()
    }

    /// How many bodies were not read to their end.
    pub(crate) fn cut_off(&self) -> usize {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// From now on they do this.
    pub(crate) fn answer_with(&self, script: impl FnMut(&Seen) -> Answer + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }
}

impl Courier for Arc<Receivers> {
    type Connection = LabConnection;
    type Body = LabBody;

    async fn attempt(&self, request: &SignedRequest, kept: Option<LabConnection>, _keep: Keep) -> Exchange<Self> {
        let (parts, body) = request.request().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let started = Instant::now();
        let seen = Seen {
            at_ms: started.duration_since(self.began).as_millis(),
            webhook: parts.uri.path().trim_start_matches('/').to_owned(),
            offset: offset_of(&body),
            attempt: parts.headers["x-xcom-delivery-attempt"].to_str().unwrap().parse().unwrap(),
            under_way: self.under_way.fetch_add(1, Ordering::Relaxed) + 1,
            is_kept: kept.is_some(),
        };
        let answer = (self.script.lock())(&seen);
        self.seen.lock().push(seen);
        sleep(answer.after).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let connection = LabConnection { idle_since: Instant::now() };
        let rest = if matches!(answer.outcome, Outcome::Failed { status: None, .. }) {
            Rest::none()
        } else if answer.body_takes.is_zero() {
            Rest::Read(AnswerRead { body: Bytes::new(), connection: Some(connection) })
        } else {
            let (takes, cut_off) = (answer.body_takes, Arc::clone(&self.cut_off));
            Rest::Coming(Box::new(LabBody { takes, connection, cut_off }))
        };
        Exchange { outcome: answer.outcome, cause: None, address: None, took: started.elapsed(), rest }
    }
}

/// The offset that a test puts into its events: the whole body, or the id.
fn offset_of(body: &[u8]) -> i64 {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body.as_i64().unwrap_or_else(|| body["id"].as_str().unwrap().parse().unwrap())
}

/// A connection that never breaks.
pub(crate) struct LabConnection {
    idle_since: Instant,
}

impl Keepable for LabConnection {
    fn is_usable(&self, _now: Instant) -> bool {
        true
    }

    fn idle_since(&self) -> Instant {
        self.idle_since
    }

    fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }
}

/// A body on its way.
pub(crate) struct LabBody {
    takes: Duration,
    connection: LabConnection,
    cut_off: Arc<AtomicUsize>,
}

impl AnswerBody for LabBody {
    type Connection = LabConnection;

    async fn read(self) -> AnswerRead<LabConnection> {
        sleep(self.takes).await;
        AnswerRead { body: Bytes::new(), connection: Some(self.connection) }
    }

    fn cut_off(self) -> AnswerRead<LabConnection> {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
        AnswerRead { body: Bytes::new(), connection: None }
    }
}

/// Kafka, and the publisher to it.
pub(crate) struct Topics {
    records: Mutex<Vec<Outgoing>>,
    is_up: watch::Sender<bool>,
    /// Topics that take no record of any size.
    too_small: Mutex<Vec<&'static str>>,
}

impl Topics {
    /// The in-sync replicas acknowledge, or do not.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.is_up.send_replace(is_up);
    }

    pub(crate) fn refuse_as_too_large(&self, topic: &'static str) {
        self.too_small.lock().push(topic);
    }

    /// The topic of each record, and the attempts made by its header.
    pub(crate) fn written(&self) -> Vec<(String, String)> {
        self.records
            .lock()
            .iter()
            .map(|record| (record.topic.to_string(), header(record, "hookstream-attempt")))
            .collect()
    }

    /// The reason words of the dead letters.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.records.lock().iter().map(|record| header(record, "hookstream-reason")).collect()
    }
}

fn header(record: &Outgoing, name: &str) -> String {
    record.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

impl Publish for Arc<Topics> {
    async fn publish(&self, outgoing: &Outgoing) -> Result<(), PublishError> {
        if self.too_small.lock().contains(&&*outgoing.topic) {
            return Err(PublishError::TooLarge);
        }
        self.is_up.subscribe().wait_for(|is_up| *is_up).await.unwrap();
        self.records.lock().push(outgoing.clone());
        Ok(())
    }
}

/// The shards, and a partition of which they get events.
pub(crate) struct Lab {
    pub(crate) receivers: Arc<Receivers>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) shared: Arc<Shared<Arc<Receivers>, Arc<Topics>>>,
    permits: [isize; 5],
    pub(crate) integration: Arc<Integration>,
    gauges: LaneGauges,
    jobs: Vec<mpsc::Sender<Vec<Job>>>,
    running: JoinSet<()>,
    /// What is logged of attempts.
    logged: std::sync::mpsc::Receiver<Entry>,
    /// When the first attempt of retries was made, ms since 1970.
    pub(crate) first_attempt_ms: Option<i64>,
    next_offset: i64,
}

impl Lab {
    /// Starts `settings.threads` shards for the webhooks at `urls`; a webhook's id is the path of its URL.
    pub(crate) fn start(
        settings: settings::Delivery,
        urls: &[&str],
        script: impl FnMut(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        let hook = |url: &&str| {
            let id = url.rsplit('/').next();
            json!({"id": id, "relativeUrl": url, "triggerType": "entityEvent", "filter": {"items": [{}]}})
        };
        let record = json!({"webHooks": urls.iter().map(hook).collect::<Vec<_>>()}).to_string();
        let receivers = Arc::new(Receivers {
            began: Instant::now(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            under_way: AtomicUsize::new(0),
            cut_off: Arc::default(),
        });
        let topics = Arc::new(Topics {
            records: Mutex::default(),
            is_up: watch::Sender::new(true),
            too_small: Mutex::default(),
        });
        let metrics = Arc::new(Metrics::new(&settings.schedule));
        let (log, logged) = AttemptLog::new(settings::AttemptLog::All, Arc::clone(&metrics)).unwrap();
        let integration = Arc::new(Integration::parse(INTEGRATION, record.as_bytes()).unwrap());
        let mut table = Table::default();
        table.put(Arc::clone(&integration));
        let shared = Arc::new(Shared {
            table: Arc::new(RwLock::new(table)),
            courier: Arc::clone(&receivers),
            sink: Arc::clone(&topics),
            metrics: Arc::clone(&metrics),
            pressure: Pressure::new(settings.max_queued_bytes),
            permits: Permits::new(settings.max_in_flight),
            next_steps: NextSteps::new(&settings.schedule, "retry", "dead-letter"),
            reports: Reports::new(Arc::new(Tally::new(1)), Some(log)),
            shards: settings.threads,
            settings,
        });
        let mut running = JoinSet::new();
        let start = |index| {
            let (jobs, inbound) = mpsc::channel(BATCHES_MAX);
            running.spawn(Shard::new(index, Arc::clone(&shared)).run(inbound));
            jobs
        };
        let jobs = (0..shared.shards).map(start).collect();
        let assignment = Assignment::new("events".into(), 0);
        assignment.use_places();
        Self {
            receivers,
            topics,
            metrics,
            assignment,
            permits: shared.permits.free(),
            shared,
            integration,
            gauges: LaneGauges::default(),
            jobs,
            running,
            logged,
            first_attempt_ms: None,
            next_offset: 0,
        }
    }

    pub(crate) fn pressure(&self) -> &'static Pressure {
        self.shared.pressure
    }

    /// Time since the test began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.receivers.began.elapsed()
    }

    pub(crate) fn gauge(&self, webhook: &str) -> Arc<LaneGauge> {
        self.gauges.of(INTEGRATION, webhook)
    }

    /// Puts another record of the integration into the table. No delivery says so.
    pub(crate) fn change(&self, record: &serde_json::Value) {
        let integration = Integration::parse(INTEGRATION, record.to_string().as_bytes()).unwrap();
        self.shared.table.write().put(Arc::new(integration));
    }

    /// Hands an event about `entity` to a webhook, as the events thread does. Returns whether its lane took it.
    pub(crate) async fn feed(&mut self, webhook: &str, entity: u64) -> bool {
        let (gauge, payload) = (self.gauge(webhook), Bytes::from(self.next_offset.to_string()));
        let admitted = gauge.try_admit_event(payload.len(), self.shared.pressure);
        if admitted.is_none() {
            return false;
        }
        let mut event = self.event(payload);
        event.order_keys = [Some(entity), None];
        let delivery = Delivery { gauge, admitted, ..self.delivery(webhook, event) };
        self.hand_over_all(0, vec![Job::Deliver(delivery)]).await;
        true
    }

    /// Hands a retry out of `tier` to a webhook, of which `attempts` were made. Its lane has to have room for it.
    pub(crate) async fn retry(&mut self, webhook: &str, attempts: u32, tier: usize) {
        let gauge = self.gauge(webhook);
        let event = self.event(Bytes::from(self.next_offset.to_string()));
        let admitted = gauge.try_admit_retry(0, self.shared.pressure).expect("the lane has room for a retry");
        let wire = Wire { attempt: Some(attempts), webhook_id: Some(webhook.to_owned()), ..Wire::default() };
        let delivery = Delivery {
            gauge,
            admitted: Some(admitted),
            attempt: attempts + 1,
            first_attempt_ms: self.first_attempt_ms,
            retry: Some(Box::new(Retry { due: Due { at_ms: 0, tier }, wire })),
            ..self.delivery(webhook, event)
        };
        self.hand_over_all(0, vec![Job::Deliver(delivery)]).await;
    }

    fn event(&mut self, payload: Bytes) -> Event {
        let sequence = self.assignment.admit(self.next_offset);
        let origin = Origin { topic: "events".into(), partition: 0, offset: self.next_offset };
        let held = self.shared.pressure.hold(payload.len());
        self.next_offset += 1;
        let event = Event::new(payload, origin, 0, Some((&self.assignment, sequence)), held);
        event.open(1);
        event
    }

    fn delivery(&self, webhook: &str, event: Event) -> Delivery {
        let index = self.integration.webhook_by_id(webhook).map(|hook: Webhook<'_>| hook.index()).unwrap();
        let id = format!("d-{}", event.origin.offset).into();
        Delivery::alone(Arc::new(event), Arc::clone(&self.integration), index, id)
    }

    pub(crate) async fn hand_over_all(&self, shard: usize, jobs: Vec<Job>) {
        self.jobs[shard].send(jobs).await.unwrap();
    }

    /// The records of the attempts since the last time.
    pub(crate) fn logged(&self) -> Vec<serde_json::Value> {
        self.logged.try_iter().map(|entry| serde_json::from_slice(&entry.record("lab")).unwrap()).collect()
    }

    /// What lanes have given back since the last time, by its offset; the lanes then take events again, as when the events thread
    /// has taken note.
    pub(crate) fn returned(&self) -> Vec<i64> {
        for (gauge, number) in self.gauges.take_returns() {
            gauge.note_return(number);
        }
        let offset = |report| match report {
            FromLane::Returned { event, .. } => Some(event.origin.offset),
            FromLane::Settled { .. } => None,
        };
        self.assignment.take_reports().into_iter().filter_map(offset).collect()
    }

    /// Lets the clock go on to `ms` after the test began.
    pub(crate) async fn at(&self, ms: u64) {
        sleep_until(self.receivers.began + Duration::from_millis(ms)).await;
    }

    /// Lets the clock go on until `is_so`.
    pub(crate) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < NEVER, "{what}: does not come");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets the clock go on until all that was handed over is settled.
    pub(crate) async fn settled(&mut self) {
        self.until("all is settled", |lab| lab.assignment.committable() == Some(lab.next_offset)).await;
    }

    /// Drops the consumers' end and waits for the shards'. Nothing is held then.
    pub(crate) async fn end(&mut self) {
        self.jobs.clear();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no shard panics");
        }
        assert_eq!(self.metrics.deliver.in_flight_requests.get(), 0);
        assert_eq!(self.shared.permits.free(), self.permits, "every permit is back");
        self.returned();
        assert_eq!(self.shared.pressure.queued(), 0);
        assert!(!self.shared.pressure.is_over_bytes());
    }
}
