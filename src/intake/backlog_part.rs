//! The backlog of one partition on the events thread: reads on for webhooks that are behind in it, and gives the partition up step by
//! step. [`super::keeper`] holds all partitions.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message as _;
use tokio::time::Instant;

use super::handoff::record_of;
use super::pipeline::Pipeline;
use crate::backlog::catch_up::{CatchUpReader, Next};
use crate::backlog::partition::{Cut, PartitionBacklog, PlaceWrite, Plan};
use crate::backlog::place::Place;
use crate::backlog::places::Loaded;
use crate::backlog::record::PlaceTable;
use crate::clock;
use crate::inflight::job::Job;
use crate::inflight::lane_gauge::LaneGauges;
use crate::inflight::partition::{Assignment, FromLane};
use crate::telemetry::metrics::Metrics;

/// Records that are read a second time in one partition before the next partition has its turn.
const CATCH_UP_BATCH: usize = 512;
/// How long the catch-up reader rests while lanes have no room: well below the time in which a fast receiver empties half a lane.
pub(super) const REST: Duration = Duration::from_millis(3);
/// For each webhook that is behind, the rest is longer by this: a look at all of them takes a part of it.
const REST_EACH: Duration = Duration::from_micros(2);
/// The rest is longer by this when the log did not have what a pass was to read: the brokers were asked where it begins.
const REST_AFTER_LOSS: Duration = Duration::from_millis(100);
/// How long requests under way may take until places are held for them: most receivers answer sooner, and lanes return what
/// waits within a tenth of a second.
const GRACE: Duration = Duration::from_millis(250);
/// A delivery that is open for so long, in ms, gets a place, so that commits go on without it.
const COVER_AFTER_MS: i64 = 500;

/// One moment by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Ms since 1970.
    pub(super) ms: i64,
}

/// One partition that is read, or was and is being given up.
pub(super) struct Part {
    /// Names the part in writes: a partition may come again.
    pub(super) number: u64,
    pub(super) assignment: Arc<Assignment>,
    pub(super) backlog: PartitionBacklog,
    pub(super) epoch: i64,
    /// Whether the catch-up reader has it assigned.
    pub(super) is_read: bool,
    /// Kafka has places that it had not when commits were bound the last time: more may be committed.
    pub(super) is_bound_stale: bool,
    /// What the last plan said, and when.
    pub(super) plan: Plan,
    planned: Instant,
    /// The catch-up reader came to the end of the partition and reads once more from its position. The main reader had read up to this
    /// offset by then, so records below it may still come.
    verified_to: Option<i64>,
    /// Since when places are known to be held by the former owner.
    taken_over: Instant,
    /// Since when it is being given up.
    closing: Option<Instant>,
    /// Whether places are held for what is under way.
    has_held: bool,
}

impl Part {
    /// A partition that is read from now on. `epoch` is written with its places.
    pub(super) fn new(number: u64, assignment: &Arc<Assignment>, epoch: i64) -> Self {
        assignment.use_places();
        let now = Instant::now();
        Self {
            number,
            assignment: Arc::clone(assignment),
            backlog: PartitionBacklog::new(assignment.start().unwrap_or(0), assignment.settled_before()),
            epoch,
            is_read: false,
            is_bound_stale: false,
            plan: Plan::Rest,
            planned: now,
            verified_to: None,
            taken_over: now,
            closing: None,
            has_held: false,
        }
    }

    /// The partition of the events topic.
    pub(super) fn partition(&self) -> i32 {
        self.assignment.partition()
    }

    /// Lets the group commit no record that the main reader skipped for a webhook whose place Kafka does not have.
    pub(super) fn bound_commits(&mut self) {
        self.is_bound_stale = false;
        self.assignment.set_commit_bound(self.backlog.commit_bound());
    }

    /// Whether the former owner holds places in it.
    pub(super) fn waits_for_holders(&self) -> bool {
        !self.assignment.is_closing() && self.backlog.held_elsewhere().next().is_some()
    }

    /// Follows what former owners wrote. Does nothing while the partition is given up, or if `loaded` is not about it: a place that was
    /// not asked for counts as unknown and not as removed.
    pub(super) fn follow(&mut self, loaded: &Loaded, gauges: &LaneGauges) {
        if !self.assignment.is_closing() && loaded.of.contains(&self.partition()) {
            self.take_released(&loaded.table);
            self.remove_late(&loaded.table, gauges);
        }
    }

    /// Takes over places that the former owner has released, or has held for the longest time allowed.
    fn take_released(&mut self, table: &PlaceTable) {
        let held: Vec<_> = self.backlog.held_elsewhere().map(Arc::clone).collect();
        for gauge in held {
            let record = table.places().find(|place| {
                (place.partition, &*place.integration, &*place.web_hook)
                    == (self.assignment.partition(), gauge.integration(), gauge.webhook())
            });
            let held_for = record.and_then(|record| record.hold_ms(table.cluster));
            let bound = held_for.and_then(|ms| u64::try_from(ms).ok()).map_or(Duration::ZERO, Duration::from_millis);
            if self.taken_over.elapsed() >= bound {
                let place = record.map_or_else(Place::default, |record| record.place(table.cluster));
                if held_for.is_some() {
                    let (integration, webhook, partition) = (gauge.integration(), gauge.webhook(), self.partition());
                    tracing::warn!(
                        integration,
                        webhook,
                        partition,
                        "a former owner did not say what became of its requests; they are made again"
                    );
                }
                self.backlog.released(&gauge, &place);
            }
        }
    }

    /// Removes places that a former owner wrote after everything in them was settled here.
    fn remove_late(&mut self, table: &PlaceTable, gauges: &LaneGauges) {
        let partition = self.partition();
        for record in table.places().filter(|place| place.partition == partition && place.epoch < self.epoch) {
            let gauge = gauges.of(&record.integration, &record.web_hook);
            if self.backlog.remove_late(&gauge, &record.place(table.cluster), clock::now_ms()) {
                let (integration, webhook) = (gauge.integration(), gauge.webhook());
                tracing::warn!(integration, webhook, partition, "a former owner wrote a place late; it is removed");
            }
        }
    }

    /// Counts and says what webhooks were behind with and the log has lost: it was created again, or lost its last records.
    pub(super) fn report_lost(&mut self, metrics: &Metrics) {
        if let Some(from) = self.assignment.lost_from() {
            self.backlog.lose(from);
        }
        report(&self.backlog.take_lost(), false, self.partition(), metrics);
    }

    /// Passes each place that is due to `write`, which writes it to the backlog topic. `drain` bounds how long requests under way
    /// hold places when the partition is given up.
    pub(super) fn write_places(&mut self, now_ms: i64, drain: Duration, write: impl FnMut(PlaceWrite)) {
        if self.assignment.is_closing() {
            self.close(now_ms, drain);
        } else {
            self.backlog.cover_open(now_ms - COVER_AFTER_MS, now_ms);
        }
        self.backlog.writes_due(now_ms).into_iter().for_each(write);
        self.closed();
    }

    /// Goes on giving the partition up: holds places for deliveries that do not end soon, and releases them when they have ended, at
    /// the latest after `drain`.
    fn close(&mut self, now_ms: i64, drain: Duration) {
        let since = *self.closing.get_or_insert_with(Instant::now);
        let is_soon = since.elapsed() < GRACE && self.backlog.has_open();
        if !self.has_held && !is_soon {
            self.has_held = true;
            self.backlog.hold(now_ms);
        }
        let is_over = since.elapsed() >= drain;
        if is_over && self.backlog.is_held_here() {
            let partition = self.partition();
            tracing::warn!(
                partition,
                "requests were still under way at the drain timeout; the next owner makes them again"
            );
        }
        self.backlog.release(is_over);
        self.backlog.write_soon();
    }

    /// Passes on how far giving up has come, after places were written.
    fn closed(&mut self) {
        self.bound_commits();
        if !self.has_held {
            return;
        }
        let is_stored = self.backlog.is_stored();
        if !self.assignment.is_handed_over() {
            self.assignment.set_places_stored(is_stored);
        } else if is_stored && !self.backlog.is_held_here() {
            self.assignment.end();
        }
    }

    /// Reads on for webhooks that are behind, at most one batch. `now` is when the turn began. Returns whether more may be read at once.
    pub(super) fn catch_up(
        &mut self,
        reader: &mut CatchUpReader,
        metrics: &Metrics,
        pipeline: &Pipeline,
        now: Now,
        batches: &mut [Vec<Job>],
    ) -> bool {
        let rest = REST + REST_EACH * u32::try_from(self.backlog.len()).unwrap_or(u32::MAX);
        if self.plan == Plan::Rest && now.instant.saturating_duration_since(self.planned) < rest {
            return false;
        }
        let partition = self.assignment.partition();
        self.plan = self.backlog.plan(pipeline.look(now.ms));
        self.planned = now.instant;
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
            && !pipeline.catch_up(&record_of(&message, now.ms), &self.assignment, &mut self.backlog, batches)
        {
            reader.stall(partition, message);
            return false;
        }
        (0..CATCH_UP_BATCH)
            .all(|_| self.backlog.is_reading() && self.read_one(reader, metrics, pipeline, now.ms, batches))
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

    /// Reads one record. `now_ms` is when the batch began, ms since 1970. Returns whether more may be there.
    fn read_one(
        &mut self,
        reader: &mut CatchUpReader,
        metrics: &Metrics,
        pipeline: &Pipeline,
        now_ms: i64,
        batches: &mut [Vec<Job>],
    ) -> bool {
        let partition = self.assignment.partition();
        let (offset, stalled) = match reader.poll(partition) {
            Ok(Next::Nothing) => return false,
            Ok(Next::Record(message)) => {
                let mut stalled = None;
                if self.backlog.is_next(message.offset()) {
                    metrics.backlog.records_read.inc();
                    let record = record_of(&message, now_ms);
                    if !pipeline.catch_up(&record, &self.assignment, &mut self.backlog, batches) {
                        stalled = Some(message.detach());
                    }
                }
                (Some(message.offset()), stalled)
            }
            Ok(Next::End) => (None, None),
            Ok(Next::Lost) => {
                self.begin_after_loss(reader, metrics);
                return false;
            }
            Err(error) => {
                tracing::debug!(partition, %error, "a poll for webhooks that are behind failed");
                return false;
            }
        };
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

    /// The log does not have what the pass reads next. Counts and says what retention has deleted. The next pass begins with what is left,
    /// a while later: the main reader has to notice a log that was created again.
    fn begin_after_loss(&mut self, reader: &mut CatchUpReader, metrics: &Metrics) {
        let partition = self.assignment.partition();
        match reader.log_start(partition) {
            Ok(low) => {
                let cut = self.backlog.cut(low);
                report(&cut, true, partition, metrics);
            }
            Err(error) => tracing::warn!(partition, %error, "the start of a log is not known"),
        }
        reader.end(partition);
        self.is_read = false;
        self.backlog.abandon_pass();
        self.plan = Plan::Rest;
        self.planned = Instant::now() + REST_AFTER_LOSS;
    }
}

/// Counts and says what webhooks miss of `partition`: because of retention, or because the log was created again or lost its end.
fn report(missed: &[Cut], is_retention: bool, partition: i32, metrics: &Metrics) {
    for Cut { gauge, from, to, missed } in missed {
        let (integration, webhook) = (gauge.integration(), gauge.webhook());
        metrics.drop_expired(*missed);
        if is_retention {
            tracing::error!(
                integration,
                webhook,
                partition,
                from,
                to,
                missed,
                "retention deleted events before a webhook that is behind was given them"
            );
        } else {
            tracing::error!(
                integration,
                webhook,
                partition,
                from,
                to,
                missed,
                "a log lost events before a webhook that is behind was given them"
            );
        }
    }
}

/// Passes to `backlog` which deliveries lanes have settled or returned. Returns whether some were returned: less may be committed.
pub(super) fn listen(assignment: &Assignment, backlog: &mut PartitionBacklog) -> bool {
    let reports = assignment.take_reports();
    if reports.is_empty() {
        return false;
    }
    let (now_ms, mut has_returned) = (clock::now_ms(), false);
    for from_lane in reports {
        match from_lane {
            FromLane::Settled { gauge, offset } => backlog.settled(&gauge, offset),
            FromLane::Returned { gauge, event, pinned } => {
                has_returned = true;
                backlog.returned(&gauge, &event, pinned, now_ms);
            }
        }
    }
    has_returned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::beginning::Cause;
    use crate::domain::outcome::BehindReason;

    #[test]
    fn a_held_place_that_was_not_asked_for_or_of_a_partition_that_is_given_up_is_not_taken_for_released() {
        let gauges = LaneGauges::default();
        let assignment = Assignment::resumed("events".into(), 3, Some(20), Vec::new());
        let mut part = Part::new(1, &assignment, 2);
        let mut held = Place::new([5, 6, 9].into_iter(), Some(20));
        held.is_held = true;
        part.backlog.restore(&gauges.of("ws/i", "w"), &held, Cause { reason: BehindReason::LaneFull, since_ms: 0 });
        let answer = |of: &[i32]| Loaded { table: PlaceTable::default(), of: of.to_vec(), partitions: 1 };
        part.follow(&answer(&[4]), &gauges);
        assert_eq!(part.backlog.held_elsewhere().count(), 1, "another partition was asked for");
        assignment.close();
        part.follow(&answer(&[3]), &gauges);
        assert_eq!(part.backlog.held_elsewhere().count(), 1, "it is being given up");
        let open = Assignment::resumed("events".into(), 3, Some(20), Vec::new());
        part.assignment = open;
        part.follow(&answer(&[3]), &gauges);
        assert_eq!(part.backlog.held_elsewhere().count(), 0, "it was removed");
    }
}
