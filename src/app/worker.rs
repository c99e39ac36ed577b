//! The composition root of `worker`: what is started in which order, and stopped in the reverse.
//!
//! Start: admin listener, topic check, table (to its end), shards, consumers; only then ready. Stop: not ready, consumers
//! (which wait for what is under way and commit), shards, producer. Every thread and task is joined here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::threads::{StartError, Threads};
use crate::attempt_log::entry::AttemptLog;
use crate::attempt_log::writer::AttemptLogWriter;
use crate::deliver::http_courier::HttpCourier;
use crate::deliver::kept_pool::kept_max;
use crate::deliver::next_step::NextSteps;
use crate::deliver::observers::{Reports, host_name};
use crate::deliver::publish::Sink;
use crate::deliver::shard::{BATCHES_MAX, Shared, permits, run_shard};
use crate::domain::table::Table;
use crate::health::feed::HealthFeed;
use crate::health::owner::HealthOwner;
use crate::health::publisher::{DeltaParts, DeltaPublisher};
use crate::health::rules::Rules;
use crate::health::tally::Tally;
use crate::health::view::HealthView;
use crate::inflight::pressure::Pressure;
use crate::intake::events::{EventConsumer, Handoff};
use crate::intake::keeper::{Keeper, Tools};
use crate::intake::lag::Lag;
use crate::intake::membership::{GroupMember, LEAVE_MAX, Membership};
use crate::intake::pipeline::{Pipeline, PipelineParts};
use crate::intake::retries::RetryConsumer;
use crate::intake::table_feed::{TableFeed, TableTargets};
use crate::intake::tick_scheduler::TickScheduler;
use crate::kafka::broker_clock::BrokerClock;
use crate::kafka::client::member_config;
use crate::kafka::table_reader::CompactedError;
use crate::net::address::AddressPolicy;
use crate::net::connector::Connector;
use crate::net::descriptors::{raise_limit, requests_max};
use crate::settings::{Delivery, Settings};
use crate::telemetry::admin::Admin;
use crate::telemetry::chain::chain;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::topics::cluster::{self, CheckError};
use crate::topics::names::{deltas_topic, now_topic, retry_group, tier_topic};

/// How often the lag is asked for and gauges are set.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How long the producer may take, after the drain, to get its last records out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long shards may take once nothing is waited for any more.
const SHARDS_MAX: Duration = Duration::from_secs(5);
/// How long the health and attempt-log publishers may take to publish the last attempts. With all the others and the drain
/// this is what a stop may take at worst, about a minute: the chart and the compose file wait longer before they kill.
const REPORTERS_MAX: Duration = Duration::from_secs(10);
/// How long the tables may take to close.
const FEEDS_MAX: Duration = Duration::from_secs(2);

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// A listener failed.
    #[error("--admin-listen {address}: cannot listen")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The topics are not as they must be.
    #[error(transparent)]
    Topics(#[from] CheckError),
    /// A topic can't be read.
    #[error(transparent)]
    Table(#[from] CompactedError),
    /// A Kafka client can't be made.
    #[error("a Kafka client cannot be made")]
    Client(#[from] crate::kafka::ClientError),
    /// A thread can't be started.
    #[error(transparent)]
    Thread(#[from] StartError),
    /// Something ended that must not end.
    #[error("{0} ended without being asked to; see the log")]
    Ended(&'static str),
}

/// A running worker.
pub(crate) struct Worker {
    settings: Settings,
    admin: Admin,
    metrics: Arc<Metrics>,
    condition: Arc<Readiness>,
    checks_topics: bool,
}

impl Worker {
    /// Listens for admin requests. Nothing else is started.
    ///
    /// # Errors
    /// [`WorkerError::Listen`]
    pub(crate) async fn bind(settings: Settings) -> Result<Self, WorkerError> {
        let address = settings.admin_listen;
        let admin = Admin::bind(address).await.map_err(|source| WorkerError::Listen { address, source })?;
        let metrics = Arc::new(Metrics::new(&settings.delivery.schedule));
        metrics.expect_writes(written_topics(&settings));
        let condition = Arc::new(Readiness::new(settings.delivery.drain_timeout));
        Ok(Self { settings, admin, metrics, condition, checks_topics: true })
    }

    /// Takes the topics as they are: for a broker that can't say how they are.
    #[must_use]
    pub(crate) fn without_topic_check(self) -> Self {
        Self { checks_topics: false, ..self }
    }

    /// Where metrics and probes are served.
    pub(crate) fn admin_address(&self) -> std::net::SocketAddr {
        self.admin.address()
    }

    /// The worker's counts.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Whether it is ready.
    pub(crate) fn condition(&self) -> Arc<Readiness> {
        Arc::clone(&self.condition)
    }

    /// Delivers until `stop`, then drains.
    ///
    /// # Errors
    /// [`WorkerError`]: it could not start, or could not go on.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let serving = CancellationToken::new();
        let mut admin = JoinSet::new();
        admin.spawn(self.admin.run(Arc::clone(&self.metrics), Arc::clone(&self.condition), serving.clone()));
        let started = Started { settings: self.settings, metrics: self.metrics, condition: self.condition };
        let ended = started.run(self.checks_topics, stop).await;
        serving.cancel();
        while let Some(served) = admin.join_next().await {
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener failed");
            }
        }
        ended
    }
}

/// What the feeds keep up to date and all others read.
#[derive(Clone, Default)]
struct Views {
    table: Arc<RwLock<Table>>,
    health: Arc<HealthView>,
}

/// What ends the parts of a worker, in the order in which they end.
#[derive(Default)]
struct Stops {
    /// Ends the consumers and the health owner. The stop of the worker ends them too.
    consumers: CancellationToken,
    /// Ends what still waits for the producer.
    sink: CancellationToken,
    /// Ends the publishers of attempt results, after the last attempts.
    reports: CancellationToken,
}

struct Started {
    settings: Settings,
    metrics: Arc<Metrics>,
    condition: Arc<Readiness>,
}

impl Started {
    async fn run(self, checks_topics: bool, stop: CancellationToken) -> Result<(), WorkerError> {
        let mut former_tiers = Vec::new();
        if checks_topics {
            former_tiers = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                checked = self.check_topics() => checked?,
            };
        }
        let fatal = CancellationToken::new();
        let views = Views::default();
        let feed_stop = CancellationToken::new();
        let mut feed = Threads::new(&fatal);
        let health = self.start_health_feed(&mut feed, &views, &feed_stop)?;
        let table = self.start_table_feed(&mut feed, &views, &feed_stop, &fatal)?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = fatal.cancelled() => {}
            (Ok(()), Ok(())) = async { (table.await, health.await) } => {
                self.deliver(&views, former_tiers, &stop, &fatal).await?;
            }
        }
        self.condition.set_ready(false);
        feed_stop.cancel();
        feed.join(FEEDS_MAX).await;
        if fatal.is_cancelled() { Err(WorkerError::Ended("a part of the worker")) } else { Ok(()) }
    }

    /// Looks at the topics before anything is read from them. Says which tiers the schedule has no more.
    async fn check_topics(&self) -> Result<Vec<(Arc<str>, Duration)>, CheckError> {
        let Settings { kafka, topics, delivery, .. } = &self.settings;
        let checked = cluster::check_for_worker(kafka, topics, &delivery.schedule).await?;
        for warning in &checked.warnings {
            tracing::warn!(
                topic = warning.topic,
                reason = cluster::sentence(warning),
                "a topic is not as it should be"
            );
        }
        for (topic, _) in &checked.former_tiers {
            tracing::info!(topic = &**topic, "a tier that is not in the schedule is read for what waits in it");
        }
        Ok(checked.former_tiers)
    }

    fn start_table_feed(
        &self,
        threads: &mut Threads,
        views: &Views,
        stop: &CancellationToken,
        fatal: &CancellationToken,
    ) -> Result<oneshot::Receiver<()>, WorkerError> {
        let (ready, read) = oneshot::channel();
        let (kafka, topic) = (self.settings.kafka.clone(), self.settings.topics.integrations.clone());
        let Views { table, health } = views.clone();
        let (metrics, stop, fatal) = (Arc::clone(&self.metrics), stop.clone(), fatal.clone());
        threads.start("integrations", move || {
            let targets = TableTargets { table, metrics, standings: health };
            let feed = TableFeed::open(&kafka, &topic, targets);
            if let Err(error) = feed.and_then(|feed| feed.run(ready, &stop)) {
                tracing::error!(error = chain(&error), "integrations topic cannot be read");
                fatal.cancel();
            }
        })?;
        Ok(read)
    }

    fn start_health_feed(
        &self,
        threads: &mut Threads,
        views: &Views,
        stop: &CancellationToken,
    ) -> Result<oneshot::Receiver<()>, WorkerError> {
        let (ready, read) = oneshot::channel();
        let feed = HealthFeed {
            kafka: self.settings.kafka.clone(),
            topic: self.settings.topics.health.clone(),
            table: Arc::clone(&views.table),
            standings: Arc::clone(&views.health),
            metrics: Arc::clone(&self.metrics),
        };
        let stop = stop.clone();
        threads.start("health", move || feed.run(ready, &stop))?;
        Ok(read)
    }

    /// Starts the threads that receive attempt results: the health counters, their owner and the attempt log.
    fn start_reports(
        &self,
        threads: &mut Threads,
        health: &Arc<HealthView>,
        shards: usize,
        stops: &Stops,
        brokers: Arc<BrokerClock>,
    ) -> Result<Reports, WorkerError> {
        let Settings { kafka, topics, suspension, attempt_log, .. } = &self.settings;
        let metrics = || Arc::clone(&self.metrics);
        let worker = host_name();
        let tally = Arc::new(Tally::new(shards));
        let rules = Rules::new(suspension);
        let deltas = DeltaPublisher::new(DeltaParts {
            kafka,
            topic: deltas_topic(&topics.health),
            worker: worker.clone(),
            rules: &rules,
            tally: Arc::clone(&tally),
            health: Arc::clone(health),
            metrics: metrics(),
            brokers,
        })?;
        let name = "health-deltas";
        let failed = |source| StartError { name: name.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let stopped = stops.reports.clone();
        threads.start(name, move || runtime.block_on(deltas.run(stopped)))?;
        let owner = HealthOwner {
            kafka: kafka.clone(),
            health_topic: topics.health.clone(),
            events_topic: topics.events.clone(),
            backlog_topic: topics.backlog.clone(),
            rules,
            metrics: metrics(),
        };
        let stopped = stops.consumers.clone();
        threads.start("health-owner", move || owner.run(&stopped))?;
        let Some((log, entries)) = AttemptLog::new(*attempt_log, metrics()) else {
            return Ok(Reports::new(tally, None));
        };
        let attempts = AttemptLogWriter::new(kafka, topics.attempts.clone(), worker, metrics())?;
        let stopped = stops.reports.clone();
        threads.start("attempt-log", move || attempts.run(&entries, &stopped))?;
        Ok(Reports::new(tally, Some(log)))
    }

    /// From a table that is read to a drained worker.
    async fn deliver(
        &self,
        views: &Views,
        former_tiers: Vec<(Arc<str>, Duration)>,
        stop: &CancellationToken,
        fatal: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let shards = shard_count(&self.settings);
        let in_flight_max = self.settings.delivery.max_in_flight;
        raise_limit(in_flight_max.saturating_add(shards * kept_max(in_flight_max, shards)));
        let pressure = Pressure::new(self.settings.delivery.max_queued_bytes);
        let stops = Stops { consumers: stop.child_token(), ..Stops::default() };
        let sink = Sink::new(&self.settings.kafka, Arc::clone(&self.metrics), stops.sink.clone(), fatal.clone())?;
        let mut reporters = Threads::new(fatal);
        let brokers = sink.brokers();
        let reports = self.start_reports(&mut reporters, &views.health, shards, &stops, Arc::clone(&brokers))?;
        let shared = self.shared(sink.clone(), &pressure, reports, shards);
        let mut shard_threads = Threads::new(fatal);
        let senders = start_shards(&mut shard_threads, shards, &shared)?;
        let pipeline = Pipeline::new(PipelineParts {
            table: Arc::clone(&views.table),
            pressure: Arc::clone(&pressure),
            metrics: Arc::clone(&self.metrics),
            shards,
            delivery: &self.settings.delivery,
            integrations_topic: &self.settings.topics.integrations,
        });
        let outlet = Handoff {
            shards: senders,
            pipeline: Arc::new(pipeline),
            pressure: Arc::clone(&pressure),
            stop: stops.consumers.clone(),
            fatal: fatal.clone(),
            condition: Arc::clone(&self.condition),
        };
        let mut consumers = Threads::new(fatal);
        self.start_schedules(&mut consumers, &views.table, outlet.clone())?;
        let now: Arc<str> = now_topic(&self.settings.topics.retry_prefix).into();
        // In the order of the metrics' labels; former tiers have none.
        let tiers = [shared.next_steps.tiers(), &[(now, Duration::ZERO)], &former_tiers].concat();
        let lag = self.start_consumers(&mut consumers, &views.table, outlet, &tiers, brokers)?;
        self.condition.set_ready(true);
        tracing::info!(shards, "ready");
        self.measure(lag, &pressure, stop, fatal).await;
        self.condition.set_ready(false);
        tracing::info!("draining");
        stops.consumers.cancel();
        consumers.join(self.settings.delivery.drain_timeout + LEAVE_MAX).await;
        // Nothing under way is waited for any more: what is left belongs to the next owner.
        stops.sink.cancel();
        shard_threads.join(SHARDS_MAX).await;
        flush(sink).await;
        // The last attempts are counted and logged by now.
        stops.reports.cancel();
        reporters.join(REPORTERS_MAX).await;
        Ok(())
    }

    fn shared(
        &self,
        sink: Sink,
        pressure: &Arc<Pressure>,
        reports: Reports,
        shards: usize,
    ) -> Arc<Shared<HttpCourier, Sink>> {
        let delivery = &self.settings.delivery;
        let policy = AddressPolicy::new(delivery.allow_private_networks.clone());
        let connector = Connector::system(policy, delivery.connect_timeout);
        let topics = &self.settings.topics;
        let max_in_flight = requests_max(delivery.max_in_flight);
        let (permits, probe_permits) = permits(max_in_flight);
        Arc::new(Shared {
            settings: Delivery { max_in_flight, ..delivery.clone() },
            shards,
            courier: HttpCourier::new(connector, delivery.request_timeout, Arc::clone(&self.metrics)),
            sink,
            metrics: Arc::clone(&self.metrics),
            pressure: Arc::clone(pressure),
            permits,
            probe_permits,
            next_steps: NextSteps::new(&delivery.schedule, &topics.retry_prefix, &topics.dead_letter),
            reports,
        })
    }

    fn start_consumers(
        &self,
        threads: &mut Threads,
        table: &Arc<RwLock<Table>>,
        outlet: Handoff,
        tiers: &[(Arc<str>, Duration)],
        brokers: Arc<BrokerClock>,
    ) -> Result<Lag, WorkerError> {
        let Settings { kafka, topics: named, .. } = &self.settings;
        let (metrics, drain) = (|| Arc::clone(&self.metrics), self.settings.delivery.drain_timeout);
        let join = |role, group: &str, topics: &[&str]| {
            let member = GroupMember::new(role, metrics(), drain);
            let (stop, fatal) = (outlet.stop.clone(), outlet.fatal.clone());
            Membership::join(&member_config(kafka, role, group), topics, member, stop, fatal)
        };
        let events_group = join("events", &kafka.group, &[&named.events])?;
        let topics: Vec<&str> = tiers.iter().map(|(topic, _)| &**topic).collect();
        let retries_group = join("retries", &retry_group(&kafka.group), &topics)?;
        let (tools, places) = Tools::open(kafka, named, Arc::clone(table), Arc::clone(&brokers), (metrics(), drain))?;
        let keeper = Keeper::new(tools);
        let events =
            EventConsumer::new(kafka, &named.events, events_group.member(), outlet.clone(), keeper, metrics())?;
        let stopped = outlet.stop.clone();
        threads.start("places", move || places.run(&stopped))?;
        let tier_topics = tiers.iter().map(|(topic, _)| &**topic);
        let watched = (tier_topics, retries_group.member());
        let lag = Lag::new(kafka, &named.events, events_group.member(), watched, metrics())?;
        let retries = RetryConsumer::new(kafka, tiers, retries_group.member(), outlet, metrics(), brokers)?;
        threads.start("events-group", move || events_group.run())?;
        threads.start("retries-group", move || retries_group.run())?;
        threads.start("events", move || events.run())?;
        threads.start("retries", move || retries.run())?;
        Ok(lag)
    }

    fn start_schedules(
        &self,
        threads: &mut Threads,
        table: &Arc<RwLock<Table>>,
        outlet: Handoff,
    ) -> Result<(), WorkerError> {
        let (topic, drain) = (&self.settings.topics.integrations, self.settings.delivery.drain_timeout);
        let metrics = Arc::clone(&self.metrics);
        let schedules =
            TickScheduler::subscribe(&self.settings.kafka, topic, Arc::clone(table), outlet, metrics, drain)?;
        threads.start("schedules", move || schedules.run())?;
        Ok(())
    }

    /// Measures until it is time to stop.
    async fn measure(&self, lag: Lag, pressure: &Pressure, stop: &CancellationToken, fatal: &CancellationToken) {
        let mut ticks = tokio::time::interval(MEASURE_EVERY);
        let mut lag = Some(lag);
        // At most one: brokers may take long to answer, and nothing else waits for them.
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = fatal.cancelled() => return,
                Some(asked) = asking.join_next() => match asked {
                    Ok(asked) => lag = Some(asked),
                    Err(error) => {
                        tracing::error!(%error, "the lag cannot be measured any more");
                        fatal.cancel();
                    }
                },
                _ = ticks.tick() => {
                    pressure.export(&self.metrics);
                    if let Some(mut asked) = lag.take() {
                        asking.spawn_blocking(move || {
                            asked.measure();
                            asked
                        });
                    }
                }
            }
        }
    }
}

/// Every topic whose failed writes are counted.
fn written_topics(settings: &Settings) -> impl Iterator<Item = String> {
    let topics = &settings.topics;
    let tiers = settings.delivery.schedule.tiers().iter().map(|&delay| tier_topic(&topics.retry_prefix, delay));
    tiers.chain([topics.dead_letter.clone(), topics.backlog.clone(), deltas_topic(&topics.health)])
}

fn shard_count(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = if settings.delivery.threads == 0 { cores } else { settings.delivery.threads };
    wanted.min(settings.delivery.max_in_flight).max(1)
}

fn start_shards(
    threads: &mut Threads,
    count: usize,
    shared: &Arc<Shared<HttpCourier, Sink>>,
) -> Result<Vec<mpsc::Sender<Vec<crate::inflight::job::Job>>>, WorkerError> {
    let mut senders = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, inbound) = mpsc::channel(BATCHES_MAX);
        senders.push(sender);
        let shared = Arc::clone(shared);
        let name = format!("shard-{index}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(32)
            .build()
            .map_err(|source| StartError { name: name.clone(), source })?;
        threads.start(&name, move || runtime.block_on(run_shard(index, shared, inbound)))?;
    }
    Ok(senders)
}

async fn flush(sink: Sink) {
    // Twice the time: a client that is dropped closes its connections first.
    let flushing = tokio::task::spawn_blocking(move || sink.flush(FLUSH_TIMEOUT));
    match tokio::time::timeout(2 * FLUSH_TIMEOUT, flushing).await {
        Ok(Ok(Ok(()))) => tracing::info!("drained"),
        Ok(Ok(Err(error))) => tracing::warn!(%error, "records were left in the producer; their events are read again"),
        Ok(Err(error)) => tracing::error!(%error, "the producer was not flushed"),
        Err(_elapsed) => tracing::error!("the producer did not close in time and is left behind"),
    }
}
