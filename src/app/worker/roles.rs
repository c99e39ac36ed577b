//! The threads of a worker, role by role: feeds, publishers of results, shards, consumers. `super` has the order in which the roles
//! start; the code of a thread is in the room that the table in `app::threads` names.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::threads::{StartError, Threads};
use super::ending::Stops;
use super::{Groups, Started, Views, WorkerError};
use crate::attempt_log::entry::AttemptLog;
use crate::attempt_log::writer::AttemptLogWriter;
use crate::deliver::http_courier::HttpCourier;
use crate::deliver::observers::{Reports, host_name};
use crate::deliver::publish::Sink;
use crate::deliver::shard::{BATCHES_MAX, Shared, run_shard};
use crate::domain::table::Table;
use crate::domain::topic_names::{deltas_topic, retry_group};
use crate::health::feed::HealthFeed;
use crate::health::owner::HealthOwner;
use crate::health::publisher::{DeltaParts, DeltaPublisher};
use crate::health::rules::Rules;
use crate::health::tally::Tally;
use crate::health::view::HealthView;
use crate::inflight::job::Job;
use crate::intake::events::EventConsumer;
use crate::intake::handoff::Handoff;
use crate::intake::keeper::{Keeper, Tools};
use crate::intake::lag::Lag;
use crate::intake::membership::{MemberState, Membership};
use crate::intake::retries::RetryConsumer;
use crate::intake::table_feed::{TableFeed, TableTargets};
use crate::intake::tick_scheduler::TickScheduler;
use crate::kafka::broker_clock::BrokerClock;
use crate::kafka::client::member_config;
use crate::settings::Settings;
use crate::telemetry::chain::chain;

/// The most blocking threads of a shard. Only the hosts file is read on them.
const BLOCKING_MAX: usize = 32;

impl Started {
    pub(super) fn start_table_feed(
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
            let targets = TableTargets { table, metrics, health };
            let feed = TableFeed::open(&kafka, &topic, targets);
            if let Err(error) = feed.and_then(|feed| feed.run(ready, &stop)) {
                tracing::error!(error = chain(&error), "integrations topic cannot be read");
                fatal.cancel();
            }
        })?;
        Ok(read)
    }

    pub(super) fn start_health_feed(
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
            view: Arc::clone(&views.health),
            metrics: Arc::clone(&self.metrics),
        };
        let stop = stop.clone();
        threads.start("health", move || feed.run(ready, &stop))?;
        Ok(read)
    }

    /// Starts the threads that receive attempt results: the health counters, their owner and the attempt log.
    pub(super) fn start_reports(
        &self,
        threads: &mut Threads,
        health: &Arc<HealthView>,
        stops: &Stops,
        brokers: Arc<BrokerClock>,
    ) -> Result<Reports, WorkerError> {
        let Settings { kafka, topics, suspension, attempt_log, .. } = &self.settings;
        let metrics = || Arc::clone(&self.metrics);
        let worker = host_name();
        let tally = Arc::new(Tally::new(self.shards));
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

    pub(super) fn start_consumers(
        &self,
        threads: &mut Threads,
        table: &Arc<RwLock<Table>>,
        outlet: Handoff,
        tiers: &[(Arc<str>, Duration)],
        brokers: Arc<BrokerClock>,
    ) -> Result<(Lag, Groups), WorkerError> {
        let Settings { kafka, topics: named, .. } = &self.settings;
        let (metrics, drain) = (|| Arc::clone(&self.metrics), self.settings.delivery.drain_timeout);
        let join = |role, group: &str, topics: &[&str]| {
            let member = MemberState::member(role, metrics(), drain);
            let (stop, fatal) = (outlet.stop.clone(), outlet.fatal.clone());
            Membership::join(&member_config(kafka, role, group), topics, member, stop, fatal)
        };
        let events_group = join("events", &kafka.group, &[&named.events])?;
        let topics: Vec<&str> = tiers.iter().map(|(topic, _)| &**topic).collect();
        let retries_group = join("retries", &retry_group(&kafka.group), &topics)?;
        let (tools, places) = Tools::open(kafka, named, Arc::clone(table), Arc::clone(&brokers), metrics(), drain)?;
        let keeper = Keeper::new(tools);
        let events =
            EventConsumer::new(kafka, &named.events, events_group.member(), outlet.clone(), keeper, metrics())?;
        let stopped = outlet.stop.clone();
        threads.start("places", move || places.run(&stopped))?;
        let tier_topics = tiers.iter().map(|(topic, _)| &**topic);
        let groups = [events_group.member(), retries_group.member()];
        let lag =
            Lag::new(kafka, &named.events, events_group.member(), tier_topics, retries_group.member(), metrics())?;
        let retries = RetryConsumer::new(kafka, tiers, retries_group.member(), outlet, metrics(), brokers)?;
        threads.start("events-group", move || events_group.run())?;
        threads.start("retries-group", move || retries_group.run())?;
        threads.start("events", move || events.run())?;
        threads.start("retries", move || retries.run())?;
        Ok((lag, groups))
    }

    pub(super) fn start_schedules(
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
}

pub(super) fn start_shards(
    threads: &mut Threads,
    count: usize,
    shared: &Arc<Shared<HttpCourier, Sink>>,
) -> Result<Vec<mpsc::Sender<Vec<Job>>>, WorkerError> {
    let mut senders = Vec::with_capacity(count);
    for index in 0..count {
        let (sender, inbound) = mpsc::channel(BATCHES_MAX);
        senders.push(sender);
        let shared = Arc::clone(shared);
        let name = format!("shard-{index}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_MAX)
            .build()
            .map_err(|source| StartError { name: name.clone(), source })?;
        threads.start(&name, move || runtime.block_on(run_shard(index, shared, inbound)))?;
    }
    Ok(senders)
}
