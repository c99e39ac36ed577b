//! What a worker makes once and all its threads share: what shards work with, the pipeline, the counts of topics and shards. No thread is
//! started here.

use std::sync::Arc;
use std::time::Duration;

use super::{Started, Views};
use crate::deliver::http_courier::HttpCourier;
use crate::deliver::next_step::NextSteps;
use crate::deliver::observers::Reports;
use crate::deliver::permits::Permits;
use crate::deliver::publish::Sink;
use crate::deliver::shard::Shared;
use crate::domain::topic_names::{deltas_topic, tier_topic};
use crate::inflight::pressure::Pressure;
use crate::intake::pipeline::{Pipeline, PipelineParts};
use crate::net::address::AddressPolicy;
use crate::net::connector::Connector;
use crate::net::descriptors::requests_max;
use crate::settings::{Delivery, Settings};
use crate::topics::cluster::{self, CheckError};

impl Started {
    /// Checks the topics before anything is read from them. Returns the tiers that the schedule no longer has.
    pub(super) async fn check_topics(&self) -> Result<Vec<(Arc<str>, Duration)>, CheckError> {
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

    /// What all shards work with.
    pub(super) fn shared(
        &self,
        sink: Sink,
        views: &Views,
        pressure: &'static Pressure,
        reports: Reports,
    ) -> Arc<Shared<HttpCourier, Sink>> {
        let delivery = &self.settings.delivery;
        let policy = AddressPolicy::new(delivery.allow_private_networks.clone());
        let connector = Connector::system(policy, delivery.connect_timeout);
        let topics = &self.settings.topics;
        let max_in_flight = requests_max(delivery.max_in_flight);
        Arc::new(Shared {
            settings: Delivery { max_in_flight, ..delivery.clone() },
            shards: self.shards,
            courier: HttpCourier::new(connector, delivery.request_timeout, Arc::clone(&self.metrics)),
            sink,
            metrics: Arc::clone(&self.metrics),
            table: Arc::clone(&views.table),
            pressure,
            permits: Permits::new(max_in_flight),
            next_steps: NextSteps::new(&delivery.schedule, &topics.retry_prefix, &topics.dead_letter),
            reports,
        })
    }

    /// What turns records into deliveries.
    pub(super) fn pipeline(&self, views: &Views, pressure: &'static Pressure) -> Pipeline {
        Pipeline::new(PipelineParts {
            table: Arc::clone(&views.table),
            pressure,
            metrics: Arc::clone(&self.metrics),
            shards: self.shards,
            delivery: &self.settings.delivery,
            integrations_topic: &self.settings.topics.integrations,
        })
    }
}

/// Every topic whose failed writes are counted.
pub(super) fn written_topics(settings: &Settings) -> impl Iterator<Item = String> {
    let topics = &settings.topics;
    let tiers = settings.delivery.schedule.tiers().iter().map(|&delay| tier_topic(&topics.retry_prefix, delay));
    tiers.chain([topics.dead_letter.clone(), topics.backlog.clone(), deltas_topic(&topics.health)])
}

pub(super) fn shard_count(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = if settings.delivery.threads == 0 { cores } else { settings.delivery.threads };
    wanted.min(settings.delivery.max_in_flight).max(1)
}
