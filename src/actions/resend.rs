//! Sending records back to delivery: what redrive and replay share.
//!
//! Records are read in the order of time, judged one by one, and put into the topic of what is due at once, at a bounded rate; one counts as
//! sent only when Kafka's in-sync replicas have it. An interrupt stops between two records, waits for what is under way
//! and gives the account. Publications under way are driven while anything else is waited for, so nothing waits on them
//! but the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ActionError;
use super::requeue::{RequeueError, TierProducer};
use super::selection::{Fixed, Selection};
use crate::deliver::publish::Outgoing;
use crate::kafka::record_stream::RecordStream;
use crate::kafka::span::{Range, SpanRecord};
use crate::readers::time;

/// Publications under way: enough to fill the client's batches.
const UNDER_WAY_MAX: usize = 1_000;
/// Their bytes. One larger record goes alone.
const UNDER_WAY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How much unused rate may be caught up on: timers are no more exact than this.
const BURST_MAX: Duration = Duration::from_millis(20);
/// The clocks of producers differ: a run that continues from a time goes back this far.
const CLOCKS_DIFFER_MAX_MS: i64 = 10_000;
/// What is done with a record.
pub(crate) enum Judged {
    /// Nothing: it was not asked for.
    Other,
    /// It was asked for and can't be sent.
    Skipped(&'static str),
    /// Send these. Never empty.
    Send(Vec<Outgoing>, Notes),
}

/// What people should know of a record that is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// It was sent back before.
    pub(crate) sent_before: bool,
    /// Its webhook is not registered any more: the worker drops it.
    pub(crate) webhook_gone: bool,
    /// Its integration gets nothing by its own status: the worker drops it, or it dies again.
    pub(crate) integration_paused: bool,
}

/// Decides what is done with each record that is read.
pub(crate) type Judge = Box<dyn FnMut(&SpanRecord) -> Judged + Send>;

/// An opened selection.
pub(crate) struct Prepared {
    pub(crate) reading: RecordStream,
    pub(crate) judge: Judge,
    /// The selection, with its ranges fixed.
    pub(crate) selection: Selection,
}

/// How records are sent back.
pub(crate) struct Order<'a> {
    /// `redrive` or `replay`.
    pub(crate) name: &'static str,
    /// Records a second, at most.
    pub(crate) rate: u32,
    /// Where to. `None` for a preview, which writes nothing.
    pub(crate) requeue: Option<Arc<TierProducer>>,
    /// When it ends at the latest.
    pub(crate) until: Option<Instant>,
    /// Stops it when cancelled.
    pub(crate) stop: &'a CancellationToken,
}

/// The result of a run or a preview.
pub(crate) struct Resent {
    pub(crate) account: Account,
    /// The selection; its ranges are those that were dealt with.
    pub(crate) selection: Selection,
    /// Whether it was stopped before its end; the error is why it could not go on.
    pub(crate) ended: Result<bool, ActionError>,
}

/// Sends back what is selected. `report` is called with the account after every record and at intervals.
pub(crate) async fn resend(
    order: Order<'_>,
    prepared: Prepared,
    report: &mut (dyn FnMut(&Account, &[Range]) + Send),
) -> Resent {
    let Prepared { mut reading, judge, mut selection } = prepared;
    let mut resend = Resend::new(&order, &reading);
    let ended = resend.go(&mut reading, judge, &order, report).await;
    resend.drain().await;
    let Resend { mut account, failure, .. } = resend;
    let is_interrupted = matches!(ended, Ok(Ended::Interrupted));
    account.finish(&reading, is_interrupted || ended.is_err() || failure.is_some());
    let read: Vec<Range> = reading.ranges().iter().map(|range| account.read_of(*range)).collect();
    selection.fixed = Some(Fixed { record: selection.fixed.and_then(|fixed| fixed.record), ..Fixed::of(&read) });
    let ended = match (ended, failure) {
        (Err(error), _) => Err(error),
        (Ok(_), Some(failure)) => Err(ActionError::NotSent(failure)),
        (Ok(_), None) => Ok(is_interrupted),
    };
    Resent { account, selection, ended }
}

/// What was done. `matched` is `sent`, `tooLarge` and `notAcknowledged` together, or, in a dry run, what would be sent;
/// `skipped` is not part of it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    pub(crate) tool: &'static str,
    pub(crate) topic: String,
    pub(crate) dry_run: bool,
    pub(crate) stopped_early: bool,
    pub(crate) read: u64,
    pub(crate) matched: u64,
    pub(crate) sent: u64,
    pub(crate) too_large: u64,
    pub(crate) not_acknowledged: u64,
    pub(crate) skipped: BTreeMap<&'static str, u64>,
    /// Of `matched`, those that were sent back before, as far as that is known.
    pub(crate) sent_before: u64,
    /// Of `matched`, those for webhooks that are not registered any more: the worker drops them.
    pub(crate) webhooks_gone: u64,
    /// Of `matched`, those for integrations that are paused, not configured or failed by their own status: nothing is delivered.
    pub(crate) integrations_paused: u64,
    /// By partition, the first offset that was not dealt with: only where it stopped early.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stopped_at: BTreeMap<i32, i64>,
    /// `--from` to go on with: only where it stopped early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) go_on_from: Option<String>,
    #[serde(skip)]
    pub(crate) next: BTreeMap<i32, i64>,
    #[serde(skip)]
    pub(crate) first_lost_ms: Option<i64>,
    #[serde(skip)]
    pub(crate) last_ms: Option<i64>,
}

impl Account {
    fn dealt_with(&mut self, record: &SpanRecord) {
        self.read += 1;
        self.next.insert(record.partition, record.offset + 1);
        self.last_ms = record.timestamp_ms.or(self.last_ms);
    }

    /// The part of a range that was dealt with: all of it, unless it stopped early.
    fn read_of(&self, range: Range) -> Range {
        let next = self.next.get(&range.partition).copied().unwrap_or(range.start);
        Range { end: if self.stopped_early { next } else { range.end }, ..range }
    }

    /// What was counted, for the audit topic and for callers.
    pub(crate) fn counts(&self) -> Value {
        let Self {
            matched,
            sent,
            too_large,
            not_acknowledged,
            skipped,
            sent_before,
            webhooks_gone,
            integrations_paused,
            ..
        } = self;
        json!({
            "matched": matched, "sent": sent, "tooLarge": too_large, "notAcknowledged": not_acknowledged,
            "skipped": skipped, "sentBefore": sent_before, "webhooksGone": webhooks_gone,
            "integrationsPaused": integrations_paused,
        })
    }

    /// How many offsets of the ranges were dealt with.
    pub(crate) fn done(&self, ranges: &[Range]) -> u64 {
        let done = ranges.iter().map(|range| {
            let next = self.next.get(&range.partition).copied().unwrap_or(range.start);
            u64::try_from(next.saturating_sub(range.start)).unwrap_or(0)
        });
        done.sum()
    }

    fn finish(&mut self, reading: &RecordStream, stopped_early: bool) {
        if !stopped_early {
            return;
        }
        self.stopped_early = true;
        for range in reading.ranges() {
            let next = self.next.get(&range.partition).copied().unwrap_or(range.start);
            if next < range.end {
                self.stopped_at.insert(range.partition, next);
            }
        }
        let until = self.first_lost_ms.into_iter().chain(self.last_ms).min();
        self.go_on_from = until.and_then(|until| time(until.saturating_sub(CLOCKS_DIFFER_MAX_MS)));
    }

    /// The account in words.
    pub(crate) fn text(&self) -> String {
        let Self { tool, topic, read, matched, sent, .. } = self;
        let mut lines = Vec::new();
        let records = if *read == 1 { "record" } else { "records" };
        if self.dry_run {
            lines.push(format!("dry run of {tool}: read {read} {records} of {topic}, would send {matched}"));
        } else {
            lines.push(format!("{tool}: read {read} {records} of {topic}, matched {matched}, sent {sent}"));
        }
        let mut noted = |count: u64, one: &str, several: &str| {
            if count > 0 {
                lines.push(format!("{count} of these {}", if count == 1 { one } else { several }));
            }
        };
        noted(
            self.sent_before,
            "was sent back before: --skip-sent leaves it out",
            "were sent back before: --skip-sent leaves them out",
        );
        noted(
            self.webhooks_gone,
            "is for a webhook that is gone: it is dropped",
            "are for webhooks that are gone: they are dropped",
        );
        noted(
            self.integrations_paused,
            "is for an integration that is paused: nothing is delivered to it",
            "are for integrations that are paused: nothing is delivered to them",
        );
        if !self.skipped.is_empty() {
            let parts: Vec<_> = self.skipped.iter().map(|(why, count)| format!("{why} {count}")).collect();
            lines.push(format!("skipped {}: {}", self.skipped.values().sum::<u64>(), parts.join(", ")));
        }
        if self.too_large > 0 {
            lines.push(format!("too large for the topic: {}", self.too_large));
        }
        if self.not_acknowledged > 0 {
            lines.push(format!("not acknowledged: {}", self.not_acknowledged));
        }
        if self.stopped_early {
            let places = self.stopped_at.iter().map(|(partition, offset)| format!("{topic}/{partition}/{offset}"));
            let places = places.collect::<Vec<_>>();
            if !places.is_empty() {
                lines.push(format!("stopped before {}", places.join(", ")));
            }
            lines.push("run it again to send the same records again".to_owned());
            if let Some(from) = &self.go_on_from {
                lines.push(format!("or with --from {from} to go on about where it stopped"));
            }
        }
        lines.join("\n")
    }
}

enum Ended {
    Done,
    Interrupted,
    Failed,
}

/// The end of one publication.
struct Ack {
    result: Result<(), RequeueError>,
    bytes: usize,
    timestamp_ms: Option<i64>,
}

struct Resend {
    account: Account,
    requeue: Option<Arc<TierProducer>>,
    under_way: FuturesUnordered<BoxFuture<'static, Ack>>,
    under_way_bytes: usize,
    pace: Pace,
    failure: Option<RequeueError>,
}

impl Resend {
    fn new(order: &Order<'_>, reading: &RecordStream) -> Self {
        let account = Account {
            tool: order.name,
            topic: reading.topic().to_owned(),
            dry_run: order.requeue.is_none(),
            ..Account::default()
        };
        Self {
            account,
            requeue: order.requeue.clone(),
            under_way: FuturesUnordered::new(),
            under_way_bytes: 0,
            pace: Pace::new(order.rate, Instant::now()),
            failure: None,
        }
    }

    async fn go(
        &mut self,
        reading: &mut RecordStream,
        mut judge: Judge,
        order: &Order<'_>,
        report: &mut (dyn FnMut(&Account, &[Range]) + Send),
    ) -> Result<Ended, ActionError> {
        loop {
            if order.is_over() {
                return Ok(Ended::Interrupted);
            }
            let Some(next) = order.unless_over(self.alongside(reading.next())).await else {
                return Ok(Ended::Interrupted);
            };
            let Some(record) = next? else { return Ok(Ended::Done) };
            match judge(&record) {
                Judged::Other => {}
                Judged::Skipped(why) => *self.account.skipped.entry(why).or_default() += 1,
                Judged::Send(outgoing, notes) => {
                    self.account.sent_before += u64::from(notes.sent_before);
                    self.account.webhooks_gone += u64::from(notes.webhook_gone);
                    self.account.integrations_paused += u64::from(notes.integration_paused);
                    for outgoing in outgoing {
                        if order.unless_over(self.turn(&outgoing)).await.is_none() {
                            return Ok(Ended::Interrupted);
                        }
                        if self.failure.is_some() {
                            return Ok(Ended::Failed);
                        }
                        self.send(outgoing, record.timestamp_ms);
                    }
                }
            }
            self.account.dealt_with(&record);
            report(&self.account, reading.ranges());
        }
    }

    /// Waits until one more may be sent.
    async fn turn(&mut self, outgoing: &Outgoing) {
        if self.requeue.is_none() {
            return;
        }
        let bytes = size_of(outgoing);
        while self.failure.is_none()
            && !self.under_way.is_empty()
            && (self.under_way.len() >= UNDER_WAY_MAX || self.under_way_bytes + bytes > UNDER_WAY_BYTES_MAX)
        {
            if let Some(ack) = self.under_way.next().await {
                self.ended(ack);
            }
        }
        let due = self.pace.due();
        if due > Instant::now() {
            self.alongside(tokio::time::sleep_until(due)).await;
        }
    }

    fn send(&mut self, outgoing: Outgoing, timestamp_ms: Option<i64>) {
        self.account.matched += 1;
        let Some(requeue) = self.requeue.clone() else { return };
        self.pace.take(Instant::now());
        let bytes = size_of(&outgoing);
        self.under_way_bytes += bytes;
        self.under_way
            .push(Box::pin(async move { Ack { result: requeue.send(&outgoing).await, bytes, timestamp_ms } }));
    }

    /// Waits for `wanted` and drives what is under way meanwhile. As cancel safe as `wanted`.
    async fn alongside<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = pin!(wanted);
        loop {
            tokio::select! {
                biased;
                Some(ack) = self.under_way.next() => self.ended(ack),
                value = &mut wanted => return value,
            }
        }
    }

    /// Waits for all that is under way: no longer than the client tries to publish.
    async fn drain(&mut self) {
        while let Some(ack) = self.under_way.next().await {
            self.ended(ack);
        }
    }

    fn ended(&mut self, ack: Ack) {
        self.under_way_bytes -= ack.bytes;
        match ack.result {
            Ok(()) => self.account.sent += 1,
            Err(RequeueError::TooLarge) => self.account.too_large += 1,
            Err(failure @ RequeueError::NotAcknowledged { .. }) => {
                self.account.not_acknowledged += 1;
                let lost = self.account.first_lost_ms.into_iter().chain(ack.timestamp_ms).min();
                self.account.first_lost_ms = lost;
                self.failure.get_or_insert(failure);
            }
        }
    }
}

fn size_of(outgoing: &Outgoing) -> usize {
    outgoing.payload.as_ref().map_or(0, bytes::Bytes::len)
}

impl Order<'_> {
    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The result of `wanted`. `None` when it is stopped before. As cancel safe as `wanted`.
    async fn unless_over<T>(&self, wanted: impl Future<Output = T>) -> Option<T> {
        let wanted = self.stop.run_until_cancelled(wanted);
        match self.until {
            Some(until) => tokio::time::timeout_at(until, wanted).await.ok().flatten(),
            None => wanted.await,
        }
    }
}

/// One record after another, no faster than a rate.
struct Pace {
    gap: Duration,
    due: Instant,
}

impl Pace {
    fn new(rate: u32, now: Instant) -> Self {
        Self { gap: Duration::from_secs(1) / rate.max(1), due: now }
    }

    /// When the next record may be sent.
    fn due(&self) -> Instant {
        self.due
    }

    /// Counts a record that is sent.
    fn take(&mut self, now: Instant) {
        let earliest = now.checked_sub(BURST_MAX).unwrap_or(now);
        self.due = self.due.max(earliest) + self.gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_idle_time_is_not_saved_up() {
        let began = Instant::now();
        let mut pace = Pace::new(100, began);
        for _ in 0..50 {
            tokio::time::sleep_until(pace.due()).await;
            pace.take(Instant::now());
        }
        assert_eq!(began.elapsed(), Duration::from_millis(490));
        tokio::time::advance(Duration::from_mins(1)).await;
        let began = Instant::now();
        for _ in 0..50 {
            tokio::time::sleep_until(pace.due()).await;
            pace.take(Instant::now());
        }
        assert_eq!(began.elapsed(), Duration::from_millis(470), "no more than the burst is caught up on");
    }

    #[test]
    fn an_account_of_one_record_says_one_record() {
        let account = Account { tool: "redrive", topic: "dead".to_owned(), read: 1, matched: 1, ..Account::default() };
        assert_eq!(account.text(), "redrive: read 1 record of dead, matched 1, sent 0");
    }

    #[test]
    fn an_account_says_what_happened_in_words() {
        let mut account =
            Account { tool: "redrive", topic: "dead".to_owned(), read: 9, matched: 5, ..Account::default() };
        account.sent = 4;
        account.not_acknowledged = 1;
        account.sent_before = 3;
        account.webhooks_gone = 2;
        account.integrations_paused = 1;
        account.skipped.insert("invalid-event", 2);
        account.skipped.insert("headers-missing", 1);
        account.stopped_early = true;
        account.stopped_at.insert(3, 77);
        account.go_on_from = time(0);
        assert_eq!(
            account.text(),
            "redrive: read 9 records of dead, matched 5, sent 4\n\
             3 of these were sent back before: --skip-sent leaves them out\n\
             2 of these are for webhooks that are gone: they are dropped\n\
             1 of these is for an integration that is paused: nothing is delivered to it\n\
             skipped 3: headers-missing 1, invalid-event 2\n\
             not acknowledged: 1\nstopped before dead/3/77\nrun it again to send the same records again\n\
             or with --from 1970-01-01T00:00:00.000Z to go on about where it stopped"
        );
    }
}
