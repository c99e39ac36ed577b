//! Holds the backlog of every partition that this worker reads, on the events thread: loads places before a partition is read,
//! listens to lanes, lets the catch-up reader go on, writes places.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::Message as _;
use rdkafka::error::KafkaError;
use tokio::time::Instant;

use super::events::record_of;
use super::pipeline::Pipeline;
use crate::backlog::behind::Standing;
use crate::backlog::catch_up::{CatchUpReader, Next};
use crate::backlog::partition::{PartitionBacklog, Plan};
use crate::backlog::places::{self, Loaded, PlaceLoader, PlaceReader, PlaceWriter, ReaderGone};
use crate::clock;
use crate::domain::outcome::BehindReason;
use crate::domain::table::Table;
use crate::inflight::job::Job;
use crate::inflight::lane_gauge::{LaneGauge, LaneGauges};
use crate::inflight::partition::{Assignment, FromLane};
use crate::settings;
use crate::telemetry::metrics::Metrics;

/// Records that the catch-up reader takes of one partition before the next has its turn.
const CATCH_UP_BATCH: usize = 512;
/// How long all partitions together may take before the main reader has its turn.
const CATCH_UP_MAX: Duration = Duration::from_millis(10);
/// How often places are written that have changed.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked at whether webhooks still get anything, and gauges are set.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is done while lanes have no room: well below the time in which a fast receiver empties half a lane.
const REST: Duration = Duration::from_millis(3);
/// And for how much longer for each webhook that is behind: looking at all of them takes a part of it.
const REST_EACH: Duration = Duration::from_micros(2);
/// How long the main reader waits at most while records for webhooks that are behind are on their way.
const FETCH_WAIT: Duration = Duration::from_millis(1);

/// One partition that is read, or was and is being given up.
struct Part {
    /// Names it in writes: a partition may come again.
    number: u64,
    assignment: Arc<Assignment>,
    backlog: PartitionBacklog,
    epoch: i64,
    /// Whether the catch-up reader reads it.
    is_read: bool,
    /// What the last plan said, and when.
    plan: Plan,
    planned: Instant,
    /// The end of the partition was told, and it is read once more from there: what the main reader had passed by then must
    /// come first, if it is there.
    verified_to: Option<i64>,
}

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
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
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
        metrics: Arc<Metrics>,
    ) -> Result<(Self, PlaceReader), KafkaError> {
        let (loader, places) = places::loader(kafka, &topics.backlog);
        let writer = PlaceWriter::new(kafka, &topics.backlog)?;
        let reader = CatchUpReader::new(kafka, &topics.events)?;
        Ok((Self { loader, writer, reader, table, metrics }, places))
    }
}

/// The backlogs of all partitions of this worker.
pub(crate) struct Keeper {
    tools: Tools,
    parts: Vec<Part>,
    /// Came since the last question about places.
    awaited: Vec<Arc<Assignment>>,
    /// Wait for the answer.
    asked: Vec<Arc<Assignment>>,
    next_number: u64,
    wrote: Instant,
    judged: Instant,
    /// How long the main reader may wait for its next record.
    patience: Option<Duration>,
}

impl Keeper {
    /// Of no partition yet.
    pub(crate) fn new(tools: Tools) -> Self {
        let now = Instant::now();
        Self {
            tools,
            parts: Vec::new(),
            awaited: Vec::new(),
            asked: Vec::new(),
            next_number: 0,
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

    /// The partitions whose places came in: they may be read now.
    ///
    /// # Errors
    /// The reading thread is gone.
    pub(crate) fn loaded(&mut self, gauges: &LaneGauges) -> Result<Vec<Arc<Assignment>>, ReaderGone> {
        let mut ready = Vec::new();
        if let Some(loaded) = self.tools.loader.answer()? {
            self.tools.writer.partitions = loaded.partitions;
            ready = std::mem::take(&mut self.asked);
            self.take_over(&ready, loaded, gauges);
        }
        let partitions = || self.awaited.iter().map(|assignment| assignment.partition()).collect();
        if !self.awaited.is_empty() && self.tools.loader.ask(partitions()) {
            self.asked = std::mem::take(&mut self.awaited);
        }
        Ok(ready)
    }

    fn take_over(&mut self, ready: &[Arc<Assignment>], loaded: Loaded, gauges: &LaneGauges) {
        // Above all that was written before, and above what a former owner may still write: its clock was read earlier.
        let epoch = clock::now_ms().max(loaded.table.epoch + 1);
        for assignment in ready {
            self.next_number += 1;
            assignment.has_places();
            self.parts.push(Part {
                number: self.next_number,
                assignment: Arc::clone(assignment),
                backlog: PartitionBacklog::resumed(assignment.start().unwrap_or(0), assignment.settled_before_end()),
                epoch,
                is_read: false,
                plan: Plan::Rest,
                planned: Instant::now(),
                verified_to: None,
            });
        }
        let mut places = 0;
        for place in loaded.table.into_places() {
            let part = self.parts.iter_mut().find(|part| {
                part.assignment.partition() == place.partition
                    && ready.iter().any(|ready| Arc::ptr_eq(ready, &part.assignment))
            });
            if let Some(part) = part {
                places += 1;
                let gauge = gauges.of(&place.integration, &place.web_hook);
                part.backlog.restore(&gauge, place.offset, (place.reason(), place.since_ms));
            }
        }
        if places > 0 {
            tracing::info!(partitions = ready.len(), places, "places of webhooks that are behind were taken over");
        }
    }

    /// The backlog of a partition that is read.
    pub(crate) fn backlog(&mut self, assignment: &Arc<Assignment>) -> Option<&mut PartitionBacklog> {
        let part = self.parts.iter_mut().find(|part| Arc::ptr_eq(&part.assignment, assignment));
        part.map(|part| &mut part.backlog)
    }

    /// Whether nothing is left to look after.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How long the main reader may wait for its next record; none: as long as it likes.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let awaits_places = !self.awaited.is_empty() || !self.asked.is_empty();
        if awaits_places { Some(self.patience.map_or(REST, |patience| patience.min(REST))) } else { self.patience }
    }

    /// One turn: listens to lanes, lets the catch-up reader go on, writes places.
    pub(crate) fn turn(&mut self, pipeline: &Pipeline, batches: &mut [Vec<Job>]) {
        self.listen(pipeline.gauges());
        self.forget();
        self.catch_up(pipeline, batches);
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
        // First the numbers of returns, then what was returned: so all of a return is known when it is noted.
        let returns = gauges.take_returns();
        for part in &mut self.parts {
            listen(&part.assignment, &mut part.backlog);
        }
        for (gauge, generation) in returns {
            gauge.note_return(generation);
        }
        for written in self.tools.writer.ended() {
            if let Some(part) = self.parts.iter_mut().find(|part| part.number == written.owner) {
                part.backlog.written(written.webhook, written.is_acknowledged);
            }
        }
    }

    fn forget(&mut self) {
        let reader = &mut self.tools.reader;
        self.parts.retain_mut(|part| {
            if part.is_read && part.assignment.is_closing() {
                part.is_read = false;
                reader.end(part.assignment.partition());
            }
            !part.assignment.is_over()
        });
    }

    fn catch_up(&mut self, pipeline: &Pipeline, batches: &mut [Vec<Job>]) {
        self.patience = None;
        let began = Instant::now();
        let Tools { reader, metrics, .. } = &mut self.tools;
        reader.serve();
        let count = self.parts.len().max(1);
        // Another begins each time, for the case that the time is up before the last.
        self.parts.rotate_left(1 % count);
        for part in &mut self.parts {
            if part.assignment.is_closing() || (part.backlog.is_empty() && !part.is_read) {
                continue;
            }
            if part.backlog.is_empty() {
                part.is_read = false;
                reader.end(part.assignment.partition());
                continue;
            }
            let has_more = began.elapsed() < CATCH_UP_MAX && part.catch_up(reader, metrics, pipeline, batches);
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
        let writer = &self.tools.writer;
        for part in &mut self.parts {
            let is_closing = part.assignment.is_closing();
            if is_closing {
                part.backlog.hurry();
            }
            for write in part.backlog.writes_due(now_ms) {
                writer.write(part.number, part.assignment.partition(), part.epoch, &write);
            }
            if is_closing {
                part.assignment.places_stored(part.backlog.is_stored());
            }
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
        for part in &mut self.parts {
            for gauge in part.backlog.judge(standing) {
                let (integration, webhook) = (gauge.integration(), gauge.webhook());
                let partition = part.assignment.partition();
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

/// Takes what lanes told of the webhooks of a partition.
pub(super) fn listen(assignment: &Assignment, backlog: &mut PartitionBacklog) {
    let now_ms = clock::now_ms();
    for from_lane in assignment.told_by_lanes() {
        match from_lane {
            FromLane::Settled { gauge, offset } => backlog.settled(&gauge, offset),
            FromLane::Returned { gauge, event, pinned } => backlog.returned(&gauge, &event, pinned, now_ms),
        }
    }
}

impl Part {
    /// Lets the catch-up reader go on in this partition. Says whether more may be read at once.
    fn catch_up(
        &mut self,
        reader: &mut CatchUpReader,
        metrics: &Metrics,
        pipeline: &Pipeline,
        batches: &mut [Vec<Job>],
    ) -> bool {
        let rest = REST + REST_EACH * u32::try_from(self.backlog.len()).unwrap_or(u32::MAX);
        if self.plan == Plan::Rest && self.planned.elapsed() < rest {
            return false;
        }
        let partition = self.assignment.partition();
        self.plan = self.backlog.plan(pipeline.look());
        self.planned = Instant::now();
        match self.plan {
            Plan::Rest => return false,
            Plan::Read => {}
            Plan::Seek(offset) => {
                self.verified_to = None;
                if !self.begin(reader, offset) {
                    return false;
                }
            }
        }
        if let Some(message) = reader.take_stalled(partition)
            && !pipeline.catch_up(&record_of(&message), &self.assignment, &mut self.backlog, batches)
        {
            reader.stall(partition, message);
            return false;
        }
        (0..CATCH_UP_BATCH).all(|_| self.backlog.is_reading() && self.read_one(reader, metrics, pipeline, batches))
    }

    fn begin(&mut self, reader: &mut CatchUpReader, offset: i64) -> bool {
        let partition = self.assignment.partition();
        let begun = reader.begin(partition, offset);
        if let Err(error) = &begun {
            tracing::warn!(partition, offset, %error, "the events of webhooks that are behind cannot be read yet");
            self.backlog.abandon_pass();
        }
        self.is_read |= begun.is_ok();
        begun.is_ok()
    }

    /// Reads one record. Says whether more may be there.
    fn read_one(
        &mut self,
        reader: &mut CatchUpReader,
        metrics: &Metrics,
        pipeline: &Pipeline,
        batches: &mut [Vec<Job>],
    ) -> bool {
        let partition = self.assignment.partition();
        let (offset, stalled) = match reader.poll(partition) {
            Ok(Next::Nothing) => return false,
            Ok(Next::Record(message)) => {
                let mut stalled = None;
                if self.backlog.is_next(message.offset()) {
                    metrics.backlog.records_read.inc();
                    let record = record_of(&message);
                    if !pipeline.catch_up(&record, &self.assignment, &mut self.backlog, batches) {
                        stalled = Some(message.detach());
                    }
                }
                (Some(message.offset()), stalled)
            }
            Ok(Next::End) => (None, None),
            Err(error) => {
                tracing::debug!(partition, %error, "a poll for webhooks that are behind failed");
                return false;
            }
        };
        self.notice_cut(reader, metrics, offset);
        if let Some(message) = stalled {
            reader.stall(partition, message);
            return false;
        }
        match (offset, self.verified_to.take()) {
            (Some(offset), _) if self.backlog.is_level_at(offset + 1) => self.backlog.caught_up(),
            (Some(_), _) => {}
            (None, Some(verified_to)) => self.backlog.nothing_below(verified_to),
            (None, None) => {
                self.verified_to = Some(self.backlog.position());
                return match self.backlog.pass_position() {
                    Some(offset) => self.begin(reader, offset),
                    None => false,
                };
            }
        }
        true
    }

    /// Looks whether the first record of a pass is where it should be: the log may begin later by now.
    fn notice_cut(&mut self, reader: &mut CatchUpReader, metrics: &Metrics, first: Option<i64>) {
        let partition = self.assignment.partition();
        let Some(begun_at) = reader.take_beginning(partition).filter(|begun_at| first != Some(*begun_at)) else {
            return;
        };
        match reader.log_start(partition) {
            Ok(low) => {
                for (gauge, from, to) in self.backlog.cut(low) {
                    let (integration, webhook) = (gauge.integration(), gauge.webhook());
                    metrics.drop_expired(to.saturating_sub(from).unsigned_abs());
                    tracing::error!(
                        integration,
                        webhook,
                        partition,
                        from,
                        to,
                        "retention deleted events before a webhook that is behind was given them"
                    );
                }
            }
            Err(error) => tracing::warn!(partition, begun_at, %error, "the start of a log is not known"),
        }
    }
}
