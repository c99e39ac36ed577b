//! Sending records back to delivery: what redrive and replay share.
//!
//! Records are read in the order of time, judged one by one, and put into the topic of what is due at once, at a bounded rate; one counts as
//! sent only when Kafka's in-sync replicas have it. An interrupt stops between two records, waits for what is under way
//! and gives the account. Publications under way are driven while anything else is waited for, so nothing waits on them
//! but the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::requeue::{RequeueError, TierProducer};
use super::{INTERRUPTED, ToolError, blocking, render, write_line};
use crate::deliver::publish::Outgoing;
use crate::kafka::topic_range::{RecordStream, SpanRecord};
use crate::settings::{Sending, Settings};
use crate::topics::names::now_topic;

/// Publications under way: enough to fill the client's batches.
const UNDER_WAY_MAX: usize = 1_000;
/// Their bytes. One larger record goes alone.
const UNDER_WAY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How much of the rate that went unused may be caught up on: timers wake no more exactly than this.
const BURST_MAX: Duration = Duration::from_millis(20);
/// The clocks of producers differ: a run that continues from a time goes back this far.
const CLOCKS_DIFFER_MAX_MS: i64 = 10_000;
/// Between two changes of the progress bar's text.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// What is to be done with a record.
pub(super) enum Judged {
    /// Nothing: it was not asked for.
    Other,
    /// It was asked for and can't be sent.
    Skipped(&'static str),
    /// Send these. Never empty.
    Send(Vec<Outgoing>, Notes),
}

/// What people should know of a record that is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// It was sent back before.
    pub(super) sent_before: bool,
    /// Its webhook is not registered any more: the worker drops it.
    pub(super) webhook_gone: bool,
}

/// What is sent back, and how.
pub(super) struct Order<'a> {
    /// `redrive` or `replay`.
    pub(super) name: &'static str,
    pub(super) sending: Sending,
    /// Where to: none for a dry run.
    pub(super) requeue: Option<Arc<TierProducer>>,
    /// Cancelled when it is to stop.
    pub(super) stop: &'a CancellationToken,
}

/// The way into the topic of what is due at once; none for a dry run, which writes nothing.
pub(super) async fn requeue(
    settings: &Settings,
    sending: Sending,
    role: &'static str,
) -> Result<Option<Arc<TierProducer>>, ToolError> {
    if sending.dry_run {
        return Ok(None);
    }
    let (kafka, topic) = (settings.kafka.clone(), now_topic(&settings.topics.retry_prefix).into());
    let opened = blocking("opening the topic", move || Ok(TierProducer::open(&kafka, topic, role)?));
    Ok(Some(Arc::new(opened.await?)))
}

/// Sends back what `judge` says, and writes the account.
pub(super) async fn resend(
    order: Order<'_>,
    mut reading: RecordStream,
    judge: impl FnMut(&SpanRecord) -> Judged,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let mut resend = Resend::new(&order, &reading);
    let ended = resend.go(&mut reading, judge, order.stop).await;
    resend.drain().await;
    resend.bar.finish_and_clear();
    let is_interrupted = matches!(ended, Ok(Ended::Interrupted));
    resend.account.finish(&reading, is_interrupted || ended.is_err() || resend.failure.is_some());
    let account = &resend.account;
    let text = if order.sending.json {
        serde_json::to_string(account).map_err(|error| ToolError::Output(error.into()))?
    } else {
        account.text()
    };
    write_line(out, &text)?;
    ended?;
    match resend.failure {
        Some(failure) => Err(ToolError::TierProducer(failure)),
        None if is_interrupted => Ok(ExitCode::from(INTERRUPTED)),
        None if account.too_large > 0 => {
            let topic = order.requeue.map(|requeue| requeue.topic().to_string()).unwrap_or_default();
            Err(ToolError::TooLarge { count: account.too_large, topic })
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What was done. `matched` is `sent`, `tooLarge` and `notAcknowledged` together, or, in a dry run, what would be sent;
/// `skipped` stands apart.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Account {
    tool: &'static str,
    topic: String,
    dry_run: bool,
    stopped_early: bool,
    read: u64,
    matched: u64,
    sent: u64,
    too_large: u64,
    not_acknowledged: u64,
    skipped: BTreeMap<&'static str, u64>,
    /// Of `matched`, those that were sent back before, as far as that is known.
    sent_before: u64,
    /// Of `matched`, those for webhooks that are not registered any more: the worker drops them.
    webhooks_gone: u64,
    /// By partition, the first offset that was not dealt with: only where it stopped early.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stopped_at: BTreeMap<i32, i64>,
    /// `--from` to go on with: only where it stopped early.
    #[serde(skip_serializing_if = "Option::is_none")]
    go_on_from: Option<String>,
    #[serde(skip)]
    next: BTreeMap<i32, i64>,
    #[serde(skip)]
    first_lost_ms: Option<i64>,
    #[serde(skip)]
    last_ms: Option<i64>,
}

impl Account {
    fn dealt_with(&mut self, record: &SpanRecord) {
        self.read += 1;
        self.next.insert(record.partition, record.offset + 1);
        self.last_ms = record.timestamp_ms.or(self.last_ms);
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
        self.go_on_from = render::time(until.map(|until| until.saturating_sub(CLOCKS_DIFFER_MAX_MS)));
    }

    fn text(&self) -> String {
        let Self { tool, topic, read, matched, sent, .. } = self;
        let mut lines = Vec::new();
        if self.dry_run {
            lines.push(format!("dry run of {tool}: read {read} records of {topic}, would send {matched}"));
        } else {
            lines.push(format!("{tool}: read {read} records of {topic}, matched {matched}, sent {sent}"));
        }
        if self.sent_before > 0 {
            lines.push(format!("of these {} were sent back before: --skip-sent leaves them out", self.sent_before));
        }
        if self.webhooks_gone > 0 {
            lines.push(format!("of these {} are for webhooks that are gone: they are dropped", self.webhooks_gone));
        }
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
    bar: ProgressBar,
    redrawn: Instant,
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
            pace: Pace::new(order.sending.rate, Instant::now()),
            failure: None,
            bar: bar(order.name, reading),
            redrawn: Instant::now(),
        }
    }

    async fn go(
        &mut self,
        reading: &mut RecordStream,
        mut judge: impl FnMut(&SpanRecord) -> Judged,
        stop: &CancellationToken,
    ) -> Result<Ended, ToolError> {
        loop {
            if stop.is_cancelled() {
                return Ok(Ended::Interrupted);
            }
            let Some(next) = stop.run_until_cancelled(self.alongside(reading.next())).await else {
                return Ok(Ended::Interrupted);
            };
            let Some(record) = next? else { return Ok(Ended::Done) };
            match judge(&record) {
                Judged::Other => {}
                Judged::Skipped(why) => *self.account.skipped.entry(why).or_default() += 1,
                Judged::Send(outgoing, notes) => {
                    self.account.sent_before += u64::from(notes.sent_before);
                    self.account.webhooks_gone += u64::from(notes.webhook_gone);
                    for outgoing in outgoing {
                        if stop.run_until_cancelled(self.turn(&outgoing)).await.is_none() {
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
            self.redraw(reading);
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

    fn redraw(&mut self, reading: &RecordStream) {
        if self.bar.is_hidden() || self.redrawn.elapsed() < REDRAW_EVERY {
            return;
        }
        self.redrawn = Instant::now();
        let next = &self.account.next;
        let done = reading.ranges().iter().map(|range| {
            let next = next.get(&range.partition).copied().unwrap_or(range.start);
            u64::try_from(next.saturating_sub(range.start)).unwrap_or(0)
        });
        self.bar.set_position(done.sum());
        let verb = if self.account.dry_run { "would send" } else { "sent" };
        let count = if self.account.dry_run { self.account.matched } else { self.account.sent };
        self.bar.set_message(format!("{verb} {count}"));
    }
}

fn size_of(outgoing: &Outgoing) -> usize {
    outgoing.payload.as_ref().map_or(0, bytes::Bytes::len)
}

/// On stderr, and only on a terminal.
fn bar(name: &'static str, reading: &RecordStream) -> ProgressBar {
    let total = reading.ranges().iter().map(crate::kafka::topic_range::Range::len).sum();
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} read, {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name);
    bar.set_message("nothing sent yet");
    bar
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

    /// When the next may go.
    fn due(&self) -> Instant {
        self.due
    }

    /// One goes.
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
    fn an_account_says_what_happened_in_words() {
        let mut account =
            Account { tool: "redrive", topic: "dead".to_owned(), read: 9, matched: 5, ..Account::default() };
        account.sent = 4;
        account.not_acknowledged = 1;
        account.sent_before = 3;
        account.webhooks_gone = 2;
        account.skipped.insert("invalid-event", 2);
        account.skipped.insert("headers-missing", 1);
        account.stopped_early = true;
        account.stopped_at.insert(3, 77);
        account.go_on_from = render::time(Some(0));
        assert_eq!(
            account.text(),
            "redrive: read 9 records of dead, matched 5, sent 4\n\
             of these 3 were sent back before: --skip-sent leaves them out\n\
             of these 2 are for webhooks that are gone: they are dropped\nskipped 3: headers-missing 1, invalid-event 2\n\
             not acknowledged: 1\nstopped before dead/3/77\nrun it again to send the same records again\n\
             or with --from 1970-01-01T00:00:00.000Z to go on about where it stopped"
        );
    }
}
