//! Holds the backlog of every partition that this worker reads, on the events thread: loads places before a partition is read, takes
//! the reports of lanes, reads records a second time for webhooks that are behind, writes places. The rules are in `backlog`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::error::KafkaError;
use tokio::time::Instant;

use super::backlog_part::{Now, Part, REST, listen};
use super::pipeline::Pipeline;
use crate::backlog::beginning::Cause;
use crate::backlog::behind::Standing;
use crate::backlog::catch_up::CatchUpReader;
use crate::backlog::partition::{PartitionBacklog, Plan};
use crate::backlog::places::{self, Loaded, PlaceLoader, PlaceReader, PlaceWriter, ReaderGone};
use crate::clock;
use crate::domain::outcome::BehindReason;
use crate::domain::table::Table;
use crate::inflight::job::Job;
use crate::inflight::lane_gauge::{LaneGauge, LaneGauges};
use crate::inflight::partition::Assignment;
use crate::inflight::pressure::Reading;
use crate::kafka::broker_clock::BrokerClock;
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// How long all partitions together may take before the main reader has its turn.
const CATCH_UP_MAX: Duration = Duration::from_millis(10);
/// How often places are written that have changed.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// How often the keeper looks whether webhooks still get anything, and sets gauges.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// How often the keeper asks whether former owners have released places.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// How often the keeper looks for places that former owners wrote late. Such a place costs repeats if the next owner finds it.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long the main reader waits at most while records for webhooks that are behind are on their way.
const FETCH_WAIT: Duration = Duration::from_millis(1);

/// What the keeper works with.
pub(crate) struct Tools {
    /// Reads the backlog topic.
    pub(crate) loader: PlaceLoader,
    /// Writes it.
    pub(crate) writer: PlaceWriter,
    /// Reads the events topic.
    pub(crate) reader: CatchUpReader,
    /// The integrations.
    pub(crate) table: Arc<RwLock<Table>>,
    /// The brokers' clock, which is the same for all owners of a partition.
    pub(crate) brokers: Arc<BrokerClock>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
    /// How long what is under way may take when a partition is given up.
    pub(crate) drain: Duration,
}

impl Tools {
    /// For these topics, and the reader of places that a thread is to run.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(crate) fn open(
        kafka: &settings::Kafka,
        topics: &settings::Topics,
        table: Arc<RwLock<Table>>,
        brokers: Arc<BrokerClock>,
        metrics: Arc<Metrics>,
        drain: Duration,
    ) -> Result<(Self, PlaceReader), KafkaError> {
        let (loader, places) = places::loader(kafka, &topics.backlog);
        let writer = PlaceWriter::new(kafka, &topics.backlog, drain)?;
        let reader = CatchUpReader::new(kafka, &topics.events)?;
        Ok((Self { loader, writer, reader, table, brokers, metrics, drain }, places))
    }
}

/// The backlogs of all partitions of this worker.
pub(crate) struct Keeper {
    tools: Tools,
    parts: Vec<Part>,
    /// The index of the part that was asked for last: most records follow one of the same partition.
    last: usize,
    /// The index of the part that has the first turn.
    first: usize,
    /// Partitions that came since the last question about places.
    awaited: Vec<Arc<Assignment>>,
    /// Partitions that wait for its answer.
    asked: Vec<Arc<Assignment>>,
    next_number: u64,
    /// When the keeper last looked for places that are held elsewhere.
    followed: Instant,
    /// When the keeper last looked for places that former owners wrote late.
    swept: Instant,
    wrote: Instant,
    judged: Instant,
    /// How long the main reader may wait for its next record.
    patience: Option<Duration>,
}

impl Keeper {
    /// A keeper of no partition yet.
    pub(crate) fn new(tools: Tools) -> Self {
        let now = Instant::now();
        Self {
            tools,
            parts: Vec::new(),
            last: 0,
            first: 0,
            awaited: Vec::new(),
            asked: Vec::new(),
            next_number: 0,
            followed: now,
            swept: now,
            wrote: now,
            judged: now,
            patience: None,
        }
    }

    /// Follows what the group member holds: new partitions wait for their places.
    pub(crate) fn follow(&mut self, held: &[Arc<Assignment>]) {
        let is_held = |known: &Arc<Assignment>| held.iter().any(|held| Arc::ptr_eq(held, known));
        self.awaited.retain(is_held);
        self.asked.retain(is_held);
        for assignment in held {
            let is_known = |known: &Arc<Assignment>| Arc::ptr_eq(known, assignment);
            let mut known = self.parts.iter().map(|part| &part.assignment).chain(&self.awaited).chain(&self.asked);
            if !known.any(is_known) {
                self.awaited.push(Arc::clone(assignment));
            }
        }
    }

    /// The partitions whose places are known now: they may be read.
    ///
    /// # Errors
    /// The thread that reads the backlog topic has ended.
    pub(crate) fn loaded(&mut self, gauges: &LaneGauges) -> Result<Vec<Arc<Assignment>>, ReaderGone> {
        let mut ready = Vec::new();
        if let Some(loaded) = self.tools.loader.answer()? {
            self.tools.writer.partitions = loaded.partitions;
            self.tools.writer.cluster = loaded.table.cluster;
            for part in &mut self.parts {
                part.follow(&loaded, gauges);
            }
            ready = std::mem::take(&mut self.asked);
            self.take_over(&ready, loaded, gauges);
        }
        self.ask();
        Ok(ready)
    }

    /// Asks for the places of new partitions, of those where former owners hold some, and now and then of all.
    fn ask(&mut self) {
        let mut is_due = self.followed.elapsed() >= FOLLOW_EVERY;
        if is_due {
            self.followed = Instant::now();
            is_due = self.parts.iter().any(Part::waits_for_holders);
        }
        let sweeps = !self.parts.is_empty() && self.swept.elapsed() >= SWEEP_EVERY;
        if self.awaited.is_empty() && !is_due && !sweeps {
            return;
        }
        let read = self.parts.iter().filter(|part| sweeps || part.waits_for_holders()).map(Part::partition);
        let new = self.awaited.iter().map(|assignment| assignment.partition());
        if self.tools.loader.ask(new.chain(read).collect()) {
            self.asked = std::mem::take(&mut self.awaited);
            if sweeps {
                self.swept = Instant::now();
            }
        }
    }

    fn take_over(&mut self, ready: &[Arc<Assignment>], loaded: Loaded, gauges: &LaneGauges) {
        let epoch = epoch_after(self.tools.brokers.now_ms(), loaded.table.epoch);
        for assignment in ready {
            self.next_number += 1;
            self.parts.push(Part::new(self.next_number, assignment, epoch));
        }
        let (mut places, mut held) = (0, 0);
        let cluster = loaded.table.cluster;
        for place in loaded.table.into_places() {
            let part = self.parts.iter_mut().find(|part| {
                part.partition() == place.partition && ready.iter().any(|ready| Arc::ptr_eq(ready, &part.assignment))
            });
            if let Some(part) = part {
                places += 1;
                held += usize::from(place.hold_ms(cluster).is_some());
                let gauge = gauges.of(&place.integration, &place.web_hook);
                let cause = Cause { reason: place.reason(), since_ms: place.since_ms };
                part.backlog.restore(&gauge, &place.place(cluster), cause);
            }
        }
        for part in &mut self.parts {
            part.bound_commits();
        }
        if places > 0 {
            tracing::info!(
                partitions = ready.len(),
                places,
                held,
                "places of webhooks that are behind were taken over"
            );
        }
    }

    /// The backlog of a partition that is read.
    pub(crate) fn backlog(&mut self, assignment: &Arc<Assignment>) -> Option<&mut PartitionBacklog> {
        let is_it = |part: &Part| Arc::ptr_eq(&part.assignment, assignment);
        if !self.parts.get(self.last).is_some_and(is_it) {
            self.last = self.parts.iter().position(is_it)?;
        }
        self.parts.get_mut(self.last).map(|part| &mut part.backlog)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How long the main reader may wait for its next record. `None`: without a bound.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let awaits_places = !self.awaited.is_empty() || !self.asked.is_empty();
        if awaits_places { Some(self.patience.map_or(REST, |patience| patience.min(REST))) } else { self.patience }
    }

    /// One turn: takes the reports of lanes, reads for webhooks that are behind unless `reading` is to wait, writes places.
    pub(crate) fn turn(&mut self, pipeline: &Pipeline, reading: Reading, batches: &mut [Vec<Job>]) {
        self.listen(pipeline.gauges());
        self.forget();
        match reading {
            Reading::Go => self.catch_up(pipeline, batches),
            Reading::Wait => self.patience = None,
        }
        if self.wrote.elapsed() >= WRITE_EVERY {
            self.write();
            self.wrote = Instant::now();
        }
        if self.judged.elapsed() >= JUDGE_EVERY {
            self.judge();
            self.export();
            self.judged = Instant::now();
        }
    }

    fn listen(&mut self, gauges: &LaneGauges) {
        // First the numbers of returns, then what was returned: so everything of a return is known when it is noted.
        let returns = gauges.take_returns();
        for part in &mut self.parts {
            // What is settled lets more be committed, which waits for the next write of places: looking at all webhooks takes a while.
            if listen(&part.assignment, &mut part.backlog) {
                part.bound_commits();
            }
        }
        for (gauge, generation) in returns {
            gauge.note_return(generation);
        }
        for written in self.tools.writer.ended() {
            if let Some(part) = self.parts.iter_mut().find(|part| part.number == written.owner) {
                part.backlog.written(written.webhook, written.is_acknowledged);
                part.is_bound_stale = true;
            }
        }
        for part in self.parts.iter_mut().filter(|part| part.is_bound_stale) {
            part.bound_commits();
        }
    }

    fn forget(&mut self) {
        let Tools { reader, metrics, .. } = &mut self.tools;
        self.parts.retain_mut(|part| {
            part.report_lost(metrics);
            if part.is_read && part.assignment.is_closing() {
                part.is_read = false;
                reader.end(part.partition());
            }
            !part.assignment.is_over()
        });
    }

    fn catch_up(&mut self, pipeline: &Pipeline, batches: &mut [Vec<Job>]) {
        self.patience = None;
        // One look at the clock for all partitions, since most turns find only a few with anything to do.
        let now = Now { instant: Instant::now(), ms: clock::now_ms() };
        let mut has_time = true;
        let Tools { reader, metrics, .. } = &mut self.tools;
        reader.serve();
        // Each turn begins with another partition, in case the time is up before the last.
        self.first = (self.first + 1) % self.parts.len().max(1);
        let (after, first) = self.parts.split_at_mut(self.first);
        for part in first.iter_mut().chain(after) {
            if part.assignment.is_closing() || (part.backlog.is_empty() && !part.is_read) {
                continue;
            }
            if part.backlog.is_empty() {
                part.is_read = false;
                reader.end(part.partition());
                continue;
            }
            let has_more = has_time && part.catch_up(reader, metrics, pipeline, now, batches);
            has_time = has_time && (part.plan == Plan::Rest || now.instant.elapsed() < CATCH_UP_MAX);
            let patience = match (has_more, part.plan) {
                (true, _) => Duration::ZERO,
                (false, Plan::Rest) => REST,
                (false, Plan::Read | Plan::Seek(_)) => FETCH_WAIT,
            };
            self.patience = Some(self.patience.map_or(patience, |before| before.min(patience)));
        }
    }

    fn write(&mut self) {
        let now_ms = clock::now_ms();
        let Tools { writer, drain, .. } = &self.tools;
        for part in &mut self.parts {
            let (number, partition, epoch) = (part.number, part.partition(), part.epoch);
            part.write_places(now_ms, *drain, |place| writer.write(number, partition, epoch, &place));
        }
    }

    fn judge(&mut self) {
        let table = self.tools.table.read();
        let standing = |gauge: &LaneGauge| {
            let Some(integration) = table.get(gauge.integration()) else { return Standing::Gone };
            let Some(webhook) = integration.webhook_by_id(gauge.webhook()) else { return Standing::Gone };
            if webhook.is_disabled() {
                Standing::Gone
            } else if integration.is_suspended() || !integration.status().delivers() {
                Standing::Dropped
            } else {
                Standing::Delivered
            }
        };
        // After the last commit only the next owner removes places.
        for part in self.parts.iter_mut().filter(|part| !part.assignment.is_handed_over()) {
            for gauge in part.backlog.judge(standing) {
                let (integration, webhook) = (gauge.integration(), gauge.webhook());
                let partition = part.partition();
                tracing::info!(integration, webhook, partition, "a webhook that was behind gets nothing any more");
            }
        }
    }

    fn export(&self) {
        let now_ms = clock::now_ms();
        let behind = || self.parts.iter().flat_map(|part| part.backlog.all()).filter(|behind| behind.is_served);
        for reason in BehindReason::ALL {
            let of_reason = behind().filter(|behind| behind.reason == reason);
            let webhooks: std::collections::HashSet<u64> = of_reason.map(|behind| behind.gauge.id()).collect();
            self.tools.metrics.backlog.webhooks_behind(reason, webhooks.len());
        }
        let oldest = behind().map(|behind| behind.oldest_ms).min();
        let age_ms = oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
        self.tools.metrics.backlog.age_seconds.set(Duration::from_millis(age_ms.unsigned_abs()).as_secs_f64());
    }
}

/// The number of a new owner of partitions, which takes over at `brokers_ms`, where `latest` is the highest number in what the backlog topic
/// holds. It is above what a former owner may still write: the brokers' clock showed less when that one took over.
fn epoch_after(brokers_ms: i64, latest: i64) -> i64 {
    brokers_ms.max(latest.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Timestamp;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn owners_are_numbered_by_the_brokers_clock_whatever_their_own_clocks_show() {
        const BROKERS_MS: i64 = 1_000_000_000_000;
        // Of one worker after another, each with a clock of its own, which is years ahead of the brokers'.
        let (mut latest, mut in_kafka) = (0, 0);
        for second in [0, 1, 2] {
            let brokers = BrokerClock::new();
            assert!(clock::now_ms() > BROKERS_MS + 1_000_000_000);
            brokers.acknowledged(Instant::now(), Timestamp::LogAppendTime(BROKERS_MS + second * 1_000));
            tokio::time::advance(Duration::from_millis(5)).await;
            let epoch = epoch_after(brokers.now_ms(), in_kafka);
            assert!(epoch > latest, "an owner may have written nothing yet: its number counts too");
            assert!(epoch < BROKERS_MS + 10_000);
            (latest, in_kafka) = (epoch, if second == 1 { epoch } else { in_kafka });
        }
        assert_eq!(epoch_after(5, 9), 10, "above all that Kafka has, if the brokers' clock was set back");
        assert_eq!(epoch_after(i64::MAX, i64::MAX), i64::MAX);
    }
}
