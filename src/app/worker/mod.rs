//! The composition root of `worker`: what is started in which order. It is stopped in the reverse order.
//!
//! Start: admin listener, topic check, table (to its end), shards, consumers; ready once these read what their groups gave them.
//! Stop: not ready, consumers (which wait for what is under way and commit), shards, producer.
//!
//! This file has the order. `parts` makes what all threads share, `roles` starts the threads of each role, `ending` stops and joins
//! them.

mod parts;
mod roles;
mod ending;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::threads::{StartError, Threads};
use crate::deliver::kept_pool::kept_max;
use crate::deliver::publish::Sink;
use crate::domain::table::Table;
use crate::domain::topic_names::now_topic;
use crate::health::view::HealthView;
use crate::inflight::pressure::Pressure;
use crate::intake::handoff::Handoff;
use crate::intake::lag::Lag;
use crate::intake::membership::GroupMember;
use crate::kafka::table_reader::CompactedError;
use crate::net::descriptors::raise_limit;
use crate::settings::Settings;
use crate::telemetry::admin::Admin;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::topics::cluster::CheckError;
use ending::{FEEDS_MAX, Running, Stops};
use parts::{shard_count, written_topics};
use roles::start_shards;

/// How often the lag is asked for and gauges are set.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How often the worker looks whether its groups have given it partitions.
const BEGUN_EVERY: Duration = Duration::from_millis(20);

/// The members of this worker in the group of events and in the group of retries.
type Groups = [Arc<GroupMember>; 2];

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// A listener failed.
    #[error("--admin-listen {address}: cannot listen")]
    Listen { address: std::net::SocketAddr, source: io::Error },
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

    /// Leaves out the check of the topics, for a broker that can't describe them.
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
        let shards = shard_count(&self.settings);
        let started = Started { settings: self.settings, shards, metrics: self.metrics, condition: self.condition };
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

/// The views that the feeds keep up to date and all other threads read.
#[derive(Clone, Default)]
struct Views {
    table: Arc<RwLock<Table>>,
    health: Arc<HealthView>,
}

struct Started {
    settings: Settings,
    /// How many threads deliver.
    shards: usize,
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
                self.deliver(&views, &former_tiers, &stop, &fatal).await?;
            }
        }
        self.condition.set_ready(false);
        feed_stop.cancel();
        feed.join(FEEDS_MAX).await;
        if fatal.is_cancelled() { Err(WorkerError::Ended("a part of the worker")) } else { Ok(()) }
    }

    /// Delivers, from when the table is read until the worker has drained.
    async fn deliver(
        &self,
        views: &Views,
        former_tiers: &[(Arc<str>, Duration)],
        stop: &CancellationToken,
        fatal: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let pressure = Pressure::new(self.settings.delivery.max_queued_bytes);
        let stops = Stops { consumers: stop.child_token(), ..Stops::default() };
        let (running, (lag, groups)) = self.start(views, former_tiers, pressure, stops, fatal)?;
        tokio::select! {
            biased;
            () = self.measure(lag, pressure, stop, fatal) => {}
            never = self.say_ready(&groups) => match never {},
        }
        self.condition.set_ready(false);
        tracing::info!("draining");
        running.stop(self.settings.delivery.drain_timeout).await;
        Ok(())
    }

    /// Starts what delivers: publishers of results first, then shards, then consumers.
    fn start(
        &self,
        views: &Views,
        former_tiers: &[(Arc<str>, Duration)],
        pressure: &'static Pressure,
        stops: Stops,
        fatal: &CancellationToken,
    ) -> Result<(Running, (Lag, Groups)), WorkerError> {
        let in_flight_max = self.settings.delivery.max_in_flight;
        raise_limit(in_flight_max.saturating_add(self.shards * kept_max(in_flight_max, self.shards)));
        let sink = Sink::new(&self.settings.kafka, Arc::clone(&self.metrics), stops.sink.clone(), fatal.clone())?;
        let mut reporters = Threads::new(fatal);
        let brokers = sink.brokers();
        let reports = self.start_reports(&mut reporters, &views.health, &stops, Arc::clone(&brokers))?;
        let shared = self.shared(sink.clone(), views, pressure, reports);
        let mut shard_threads = Threads::new(fatal);
        let senders = start_shards(&mut shard_threads, self.shards, &shared)?;
        let outlet = Handoff {
            shards: senders,
            pipeline: Arc::new(self.pipeline(views, pressure)),
            pressure,
            stop: stops.consumers.clone(),
            fatal: fatal.clone(),
            condition: Arc::clone(&self.condition),
        };
        let mut consumers = Threads::new(fatal);
        self.start_schedules(&mut consumers, &views.table, outlet.clone())?;
        let now: Arc<str> = now_topic(&self.settings.topics.retry_prefix).into();
        // In the order of the metrics' labels; former tiers have none.
        let tiers = [shared.next_steps.tiers(), &[(now, Duration::ZERO)], former_tiers].concat();
        let held = self.start_consumers(&mut consumers, &views.table, outlet, &tiers, brokers)?;
        Ok((Running { consumers, shards: shard_threads, reporters, sink, stops }, held))
    }

    /// Sets the worker ready once it reads what its groups gave it, and then waits for ever.
    async fn say_ready(&self, groups: &Groups) -> Infallible {
        while !groups.iter().all(|group| group.has_begun()) {
            tokio::time::sleep(BEGUN_EVERY).await;
        }
        self.condition.set_ready(true);
        tracing::info!(shards = self.shards, "ready");
        std::future::pending().await
    }

    /// Measures until it is time to stop.
    async fn measure(&self, lag: Lag, pressure: &Pressure, stop: &CancellationToken, fatal: &CancellationToken) {
        let mut ticks = tokio::time::interval(MEASURE_EVERY);
        let mut lag = Some(lag);
        // At most one question at a time: brokers may take long to answer, and nothing else waits for them.
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
