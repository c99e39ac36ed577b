//! A partition whose log is in memory, its pipeline, its backlog and a shard, on tokio's paused clock: for tests of what they promise
//! together. Kafka and the receivers do what the test says. No rule is here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{DueRetry, Pipeline, PipelineParts, Record};
use crate::backlog::partition::PlaceWrite;
use crate::backlog::place::Place;
use crate::clock;
use crate::deliver::shard::lab::{Answer, Lab, Seen};
use crate::domain::headers::Wire;
use crate::inflight::job::{Due, Job, Origin};
use crate::inflight::partition::{Assignment, Progress};
use crate::intake::backlog_part::{Part, listen};
use crate::intake::in_memory::{InMemory, catch_up_in_memory};
use crate::settings;

/// How long a partition that is given up waits for requests under way: as the default of `--drain-timeout`.
pub(super) const DRAIN: Duration = Duration::from_secs(25);
/// The workspace of the lab's integration.
pub(super) const WORKSPACE: &str = "ws";
/// How often the events thread has a turn here.
const TURN_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Flow {
    pub(super) lab: Lab,
    pipeline: Pipeline,
    part: Part,
    /// A partition of the first tier.
    pub(super) tier: Arc<Assignment>,
    log: Vec<InMemory>,
    batches: Vec<Vec<Job>>,
    /// When the test began, ms since 1970.
    began_ms: i64,
    /// Whether the backlog topic takes records.
    pub(super) takes_places: bool,
    /// Writes of places that Kafka has not acknowledged yet.
    writing: Vec<PlaceWrite>,
    /// The places in Kafka, by webhook.
    places: BTreeMap<String, Place>,
}

impl Flow {
    /// Starts the shards for the webhooks at `urls`, which all events of [`WORKSPACE`] match; a webhook's id is the path of its URL.
    pub(super) fn start(
        settings: settings::Delivery,
        urls: &[&str],
        script: impl FnMut(&Seen) -> Answer + Send + 'static,
    ) -> Self {
        let lab = Lab::start(settings, urls, script);
        lab.shared.table.write().settle();
        let pipeline = Pipeline::new(PipelineParts {
            table: Arc::clone(&lab.shared.table),
            pressure: lab.pressure(),
            metrics: Arc::clone(&lab.metrics),
            shards: lab.shared.shards,
            delivery: &lab.shared.settings,
            integrations_topic: "integrations",
        });
        let part = Part::new(1, &lab.assignment, 1);
        let batches = (0..lab.shared.shards).map(|_| Vec::new()).collect();
        Self {
            lab,
            pipeline,
            part,
            tier: Assignment::new("retry.1s".into(), 0),
            log: Vec::new(),
            batches,
            began_ms: clock::now_ms(),
            takes_places: true,
            writing: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.began_ms + i64::try_from(self.lab.elapsed().as_millis()).unwrap()
    }

    /// The main reader reads an event of `workspace` about `entity`. Its offset is its place in the log.
    pub(super) async fn read(&mut self, workspace: &str, entity: u64) {
        let (offset, now_ms) = (i64::try_from(self.log.len()).unwrap(), self.now_ms());
        let value = format!(r#"{{"id":"{offset}","type":"change","entityIds":{{"companyId":"{entity}"}}}}"#);
        let record = Record {
            offset,
            timestamp_ms: now_ms,
            key: None,
            value: Some(value.as_bytes()),
            workspace: Some(workspace),
            is_workspace_key: false,
            read_ms: now_ms,
        };
        self.pipeline.event(&record, &self.lab.assignment, &mut self.part.backlog, &mut self.batches);
        self.log.push(InMemory { workspace: workspace.to_owned(), value: value.into_bytes(), timestamp_ms: now_ms });
        self.hand_over().await;
    }

    /// A retry that is read out of the first tier: of the delivery of the event at `offset` to `webhook`, after one attempt.
    pub(super) fn retry_of(&self, webhook: &str, offset: i64) -> DueRetry {
        let now_ms = self.now_ms();
        let wire = Wire {
            workspace: Some(WORKSPACE.to_owned()),
            integration_id: Some("i".to_owned()),
            webhook_id: Some(webhook.to_owned()),
            delivery_id: Some(format!("d-{offset}")),
            attempt: Some(1),
            ..Wire::default()
        };
        DueRetry {
            payload: Some(Bytes::from(offset.to_string())),
            wire,
            due: Due { at_ms: now_ms, tier: 0 },
            position: Origin { topic: Arc::clone(self.tier.topic()), partition: 0, offset },
            sequence: self.tier.admit(offset),
            now_ms,
        }
    }

    /// That retry is due.
    pub(super) async fn retry(&mut self, webhook: &str, offset: i64) {
        self.pipeline.retry(self.retry_of(webhook, offset), &self.tier, &mut self.batches);
        self.hand_over().await;
    }

    /// That retry waits in this process, and its log loses it.
    pub(super) async fn put_back(&mut self, retry: DueRetry) {
        self.tier.end_with_its_log(0);
        self.pipeline.put_back(retry, &self.tier, &mut self.batches);
        self.hand_over().await;
    }

    async fn hand_over(&mut self) {
        for (shard, jobs) in self.batches.iter_mut().enumerate() {
            self.lab.hand_over_all(shard, std::mem::take(jobs)).await;
        }
    }

    /// One turn of the events thread, in the order of `Keeper::turn`.
    async fn turn(&mut self) {
        let returns = self.pipeline.gauges().take_returns();
        listen(&self.lab.assignment, &mut self.part.backlog);
        self.part.bound_commits();
        for (gauge, number) in returns {
            gauge.note_return(number);
        }
        if self.takes_places {
            for write in self.writing.drain(..) {
                self.places.insert(write.gauge.webhook().to_owned(), write.place);
                self.part.backlog.written(write.gauge.id(), true);
            }
        }
        let now_ms = self.now_ms();
        if !self.lab.assignment.is_closing() {
            let (assignment, backlog) = (&self.lab.assignment, &mut self.part.backlog);
            catch_up_in_memory(&self.pipeline, &self.log, assignment, backlog, now_ms, &mut self.batches);
        }
        self.part.write_places(now_ms, DRAIN, |place| self.writing.push(place));
        self.hand_over().await;
    }

    /// Lets the clock go on, with a turn of the events thread every few ms, until `is_so`.
    pub(super) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let began = self.lab.elapsed();
        while !is_so(self) {
            assert!(self.lab.elapsed() < began + Duration::from_hours(1), "{what}: does not come");
            self.turn().await;
            tokio::time::sleep(TURN_EVERY).await;
        }
    }

    /// Lets the clock go on for that time.
    pub(super) async fn pass(&mut self, time: Duration) {
        let end = self.lab.elapsed() + time;
        self.until("time passes", |flow| flow.lab.elapsed() >= end).await;
    }

    /// What the group commits now. `None`: nothing.
    pub(super) fn commit(&self) -> Option<Progress> {
        self.lab.assignment.progress(0, usize::MAX)
    }

    /// The offset that the group commits now.
    pub(super) fn committed(&self) -> Option<i64> {
        self.commit().map(|progress| progress.offset)
    }

    /// Where the log ends.
    pub(super) fn end_of_log(&self) -> i64 {
        i64::try_from(self.log.len()).unwrap()
    }

    /// The place of a webhook in Kafka; the empty one where it has none.
    pub(super) fn place(&self, webhook: &str) -> Place {
        self.places.get(webhook).cloned().unwrap_or_default()
    }
}
