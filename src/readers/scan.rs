//! The bounded scan of a topic from its newest record back: rows in the order of time over all partitions, newest first.
//!
//! Each partition is read in windows of some hundred to some thousand records, the window nearest to the end first. Of a window only
//! the newest rows that one page can hold are kept, so memory does not grow with the topic. What a page has not given, the next
//! one reads again: no row is left out or given twice, also while records are appended and deleted.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::ReadError;
use super::token::{self, Token};
use crate::kafka::span::{Range, SpanError};
use crate::kafka::windows::{Glance, Windows};
use crate::telemetry::never::never;

/// Records of the first window of a partition: answers "the last few" with one small fetch.
const WINDOW_MIN: i64 = 256;
/// Records of the largest window: enough that asking costs less than reading.
const WINDOW_MAX: i64 = 8_192;
/// Bytes that a window should have at most, by the records seen so far.
const WINDOW_BYTES: u64 = 4 << 20;

/// A log that a scan reads: a topic, or records in memory in tests.
pub(crate) trait Log {
    /// Its name.
    fn name(&self) -> &str;
    /// The offsets that each partition has.
    fn bounds(&self) -> &[Range];
    /// For each partition the first offset of a record of that time or later, or its end.
    ///
    /// # Errors
    /// [`SpanError`]
    fn offsets_at(&self, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, SpanError>;
    /// Shows the records of `ranges`, at most one range a partition. Returns whether all was read.
    ///
    /// # Errors
    /// [`SpanError`]
    fn read(
        &self,
        ranges: &[Range],
        wanted: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Glance<'_>),
    ) -> Result<bool, SpanError>;
}

impl Log for Windows {
    fn name(&self) -> &str {
        self.topic()
    }

    fn bounds(&self) -> &[Range] {
        self.bounds()
    }

    fn offsets_at(&self, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, SpanError> {
        self.offsets_at(timestamp_ms)
    }

    fn read(
        &self,
        ranges: &[Range],
        wanted: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Glance<'_>),
    ) -> Result<bool, SpanError> {
        self.read(ranges, wanted, take)
    }
}

/// How much a scan may do before it returns what it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Rows of a page.
    pub(crate) rows: usize,
    /// Bytes of keys and values that are read; one window of each partition may exceed it.
    pub(crate) bytes: u64,
    /// How long it may take.
    pub(crate) time: Duration,
    /// How large the windows are.
    pub(crate) windows: Sizes,
}

/// How large the windows of a scan are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Records of the first window of a partition.
    first: i64,
    /// Records of the largest.
    most: i64,
    /// Bytes that a window should have at most, by the records seen so far.
    bytes: u64,
}

impl Sizes {
    /// Of a search for the last few rows, which ends early.
    const LAST: Self = Self { first: WINDOW_MIN, most: WINDOW_MAX, bytes: WINDOW_BYTES };
    /// Of a search that looks at everything: each window costs a few answers of the brokers.
    const ALL: Self = Self { first: WINDOW_MAX, most: 4 * WINDOW_MAX, bytes: 8 * WINDOW_BYTES };
}

impl Bounds {
    /// Of one page of a server's answer.
    pub(crate) const PAGE: Self =
        Self { rows: 200, bytes: 64 << 20, time: Duration::from_secs(10), windows: Sizes::LAST };
    /// Of each topic that a server's trace of one event looks through: all that was written since the event counts, few records
    /// are parsed, and what a person waits for bounds it.
    pub(crate) const TRACE: Self = Self { bytes: 2 << 30, windows: Sizes::ALL, ..Self::PAGE };
    /// Of a question at the command line, where one person waits and sees the progress.
    pub(crate) const PATIENT: Self =
        Self { rows: 200, bytes: 4 << 30, time: Duration::from_secs(60), windows: Sizes::LAST };
    /// The same of a trace.
    pub(crate) const PATIENT_TRACE: Self = Self { windows: Sizes::ALL, ..Self::PATIENT };
    /// Of a compacted topic, which is read to its end: what is in it and the silence of the brokers bound it.
    pub(crate) const TABLE: Self = Self { bytes: u64::MAX, time: Duration::MAX, ..Self::PATIENT };
}

/// A part of a topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    /// Only these partitions, those that hold one key; all without it.
    pub(crate) partitions: Option<Vec<i32>>,
    /// Only records of this time and later, ms since 1970.
    pub(crate) from_ms: Option<i64>,
    /// Only records before this time.
    pub(crate) to_ms: Option<i64>,
    /// Of a partition only this offset and what is behind it; all of a partition that is missing.
    pub(crate) floors: BTreeMap<i32, i64>,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Records looked at.
    pub(crate) read: u64,
    /// Everything of this time and later was looked at, ms since 1970.
    pub(crate) searched_back_to_ms: Option<i64>,
}

/// How a scan asks whether to go on, and says how far it has come.
pub(crate) struct Watch<'a> {
    /// Whether an answer is still wanted.
    pub(crate) wanted: &'a (dyn Fn() -> bool + Sync),
    /// Called after every window.
    pub(crate) progress: &'a (dyn Fn(Progress) + Sync),
}

/// Rows, newest first, and how far the scan went.
#[derive(Debug)]
pub(crate) struct Page<R> {
    pub(crate) rows: Vec<R>,
    /// Everything of this time and later was looked at, ms since 1970. `None` if nothing was looked at.
    pub(crate) searched_back_to_ms: Option<i64>,
    /// Whether everything that was asked for and is still there was looked at.
    pub(crate) complete: bool,
    /// Records looked at.
    pub(crate) read: u64,
    /// The token to go on with. `None` when complete.
    pub(crate) next: Option<Token>,
}

/// A question to a topic.
pub(crate) struct Question<'a, R> {
    /// The filters as texts: they distinguish it from other questions to the same topic.
    pub(crate) parts: Vec<String>,
    /// The part of the topic.
    pub(crate) span: Span,
    /// Where a former page ended.
    pub(crate) next: Option<&'a str>,
    /// The row of a record, if it is asked for.
    pub(crate) row: &'a dyn Fn(&Glance<'_>) -> Option<R>,
}

/// The name that the tokens of a question to `log` have.
pub(super) fn name_of(log: &dyn Log, parts: &[String]) -> String {
    let parts: Vec<&str> = [log.name()].into_iter().chain(parts.iter().map(String::as_str)).collect();
    token::digest(&parts)
}

/// Looks for rows from the newest record back. Blocks for a bounded time.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn scan<R>(
    log: &dyn Log,
    question: &Question<'_, R>,
    bounds: Bounds,
    watch: &Watch<'_>,
) -> Result<Page<R>, ReadError> {
    let name = name_of(log, &question.parts);
    let token = question.next.map(|text| Token::parse(text, &name)).transpose()?;
    let began = Instant::now();
    let mut scan = Scan::begin(log, question, bounds, token.as_ref())?;
    loop {
        scan.give();
        if scan.rows.len() >= bounds.rows || scan.is_complete() {
            break;
        }
        let is_spent = scan.bytes >= bounds.bytes || began.elapsed() >= bounds.time;
        if (scan.read > 0 && is_spent) || !(watch.wanted)() || !scan.look(log, question, watch)? {
            break;
        }
        (watch.progress)(scan.progress());
    }
    Ok(scan.page(name))
}

/// One partition under scan.
struct Cursor<R> {
    partition: i32,
    floor: i64,
    /// Records from this offset on were looked at, or are not asked for.
    ceiling: i64,
    /// The oldest time that was looked at.
    reached_ms: Option<i64>,
    /// Rows that were found and not given yet, oldest first: time, offset, row.
    found: VecDeque<(i64, i64, R)>,
}

impl<R> Cursor<R> {
    /// Whether nothing is left to look at.
    fn is_read(&self) -> bool {
        self.ceiling <= self.floor
    }

    /// Time, then partition, of its newest row that was not given.
    fn head(&self) -> Option<(i64, i32)> {
        self.found.back().map(|(at_ms, ..)| (*at_ms, self.partition))
    }

    /// Whether it may hold rows that are newer than `head`.
    fn may_precede(&self, head: Option<(i64, i32)>) -> bool {
        self.found.is_empty()
            && !self.is_read()
            && head.is_none_or(|(at_ms, _)| self.reached_ms.is_none_or(|reached| reached >= at_ms))
    }
}

struct Scan<R> {
    cursors: Vec<Cursor<R>>,
    span: Span,
    rows_max: usize,
    windows: Sizes,
    window: i64,
    rows: Vec<R>,
    given_ms: Option<i64>,
    read: u64,
    bytes: u64,
}

impl<R> Scan<R> {
    fn begin(
        log: &dyn Log,
        question: &Question<'_, R>,
        bounds: Bounds,
        token: Option<&Token>,
    ) -> Result<Self, ReadError> {
        let span = question.span.clone();
        let floors = span.from_ms.map(|ms| log.offsets_at(ms)).transpose()?.unwrap_or_default();
        // A token knows a ceiling that is no higher.
        let ceilings = span.to_ms.filter(|_| token.is_none()).map(|ms| log.offsets_at(ms)).transpose()?;
        let ceilings = ceilings.unwrap_or_default();
        let floor_of = |range: &Range| span.floors.get(&range.partition).copied().unwrap_or(range.start);
        let asked = |range: &&Range| span.partitions.as_ref().is_none_or(|asked| asked.contains(&range.partition));
        let cursors = log.bounds().iter().filter(asked).map(|range| {
            let ceiling = match token {
                Some(token) => token.ceilings().get(&range.partition).copied().unwrap_or(range.start),
                None => ceilings.get(&range.partition).copied().unwrap_or(range.end),
            };
            Cursor {
                partition: range.partition,
                floor: floors
                    .get(&range.partition)
                    .copied()
                    .unwrap_or(range.start)
                    .max(range.start)
                    .max(floor_of(range)),
                ceiling: ceiling.min(range.end),
                reached_ms: None,
                found: VecDeque::new(),
            }
        });
        Ok(Self {
            cursors: cursors.collect(),
            span,
            rows_max: bounds.rows.max(1),
            windows: bounds.windows,
            window: bounds.windows.first,
            rows: Vec::new(),
            given_ms: None,
            read: 0,
            bytes: 0,
        })
    }

    fn newest_head(&self) -> Option<(i64, i32)> {
        self.cursors.iter().filter_map(Cursor::head).max()
    }

    /// Gives the rows before which no newer row can come.
    fn give(&mut self) {
        while self.rows.len() < self.rows_max {
            let head = self.newest_head();
            let Some((at_ms, partition)) = head else { return };
            if self.cursors.iter().any(|cursor| cursor.may_precede(head)) {
                return;
            }
            let cursor = self.cursors.iter_mut().find(|cursor| cursor.partition == partition);
            let Some((_, offset, row)) = cursor.and_then(|cursor| cursor.found.pop_back()) else {
                return never("the newest row is not among its partition's rows");
            };
            tracing::trace!(partition, offset, "a row was found");
            self.given_ms = Some(at_ms);
            self.rows.push(row);
        }
    }

    fn is_complete(&self) -> bool {
        self.cursors.iter().all(|cursor| cursor.is_read() && cursor.found.is_empty())
    }

    /// Reads one more window of the partitions that hold up the next row. Returns whether it was read whole.
    fn look(&mut self, log: &dyn Log, question: &Question<'_, R>, watch: &Watch<'_>) -> Result<bool, ReadError> {
        let head = self.newest_head();
        let mut waited: Vec<(i64, i32)> = self
            .cursors
            .iter()
            .filter(|cursor| cursor.may_precede(head))
            .map(|cursor| (cursor.reached_ms.unwrap_or(i64::MAX), cursor.partition))
            .collect();
        // Those that have come back least go first, so that all come back through time side by side.
        waited.sort_unstable();
        let unread = waited.iter().filter(|(reached, _)| *reached == i64::MAX).count();
        let turn = waited.len().div_ceil(2).max(unread);
        let ranges: Vec<Range> = waited
            .iter()
            .rev()
            .take(turn)
            .filter_map(|(_, partition)| self.cursors.iter().find(|cursor| cursor.partition == *partition))
            .map(|cursor| Range {
                partition: cursor.partition,
                start: cursor.ceiling.saturating_sub(self.window).max(cursor.floor),
                end: cursor.ceiling,
            })
            .collect();
        let mut windows: BTreeMap<i32, Window<R>> = BTreeMap::new();
        let (rows_max, span) = (self.rows_max, &self.span);
        let (mut read, mut bytes) = (0_u64, 0_u64);
        let is_whole = log.read(&ranges, watch.wanted, &mut |glance| {
            read += 1;
            bytes += glance.bytes() as u64;
            let window = windows.entry(glance.partition).or_default();
            window.oldest_ms = Some(window.oldest_ms.unwrap_or(i64::MAX).min(glance.timestamp_ms));
            let is_meant = span.from_ms.is_none_or(|from| glance.timestamp_ms >= from)
                && span.to_ms.is_none_or(|to| glance.timestamp_ms < to);
            if let Some(row) = is_meant.then(|| (question.row)(glance)).flatten() {
                window.keep(glance.timestamp_ms, glance.offset, row, rows_max);
            }
        })?;
        self.read += read;
        self.bytes += bytes;
        if !is_whole {
            return Ok(false);
        }
        for range in ranges {
            let window = windows.remove(&range.partition).unwrap_or_default();
            if let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.partition == range.partition) {
                // What did not fit is looked at again, by another page.
                cursor.ceiling = if window.is_cut { window.first_offset() } else { range.start };
                cursor.reached_ms = window.oldest_kept_ms().or(cursor.reached_ms).or(Some(i64::MAX - 1));
                cursor.found = window.kept;
            }
        }
        let average = (self.bytes / self.read.max(1)).max(1);
        let Sizes { most, bytes, .. } = self.windows;
        let fitting = i64::try_from(bytes / average).unwrap_or(most);
        self.window = (self.window * 2).min(most).min(fitting).max(1);
        Ok(true)
    }

    fn progress(&self) -> Progress {
        Progress { read: self.read, searched_back_to_ms: self.searched_back_to() }
    }

    /// The newest time of which something may be left.
    fn searched_back_to(&self) -> Option<i64> {
        let left = self.cursors.iter().filter_map(|cursor| match cursor.head() {
            Some((at_ms, _)) => Some(self.given_ms.unwrap_or(at_ms)),
            None if cursor.is_read() => None,
            None => Some(cursor.reached_ms.unwrap_or(i64::MAX)),
        });
        let reached = left.max().or_else(|| self.cursors.iter().filter_map(|cursor| cursor.reached_ms).min());
        reached.filter(|ms| *ms < i64::MAX - 1).or(self.given_ms)
    }

    fn page(self, name: String) -> Page<R> {
        let complete = self.is_complete();
        let searched_back_to_ms = self.searched_back_to();
        let ceilings = self.cursors.iter().filter_map(|cursor| match cursor.found.back() {
            Some((_, offset, _)) => Some((cursor.partition, offset + 1)),
            None if cursor.is_read() => None,
            None => Some((cursor.partition, cursor.ceiling)),
        });
        let next = (!complete).then(|| Token::new(name, ceilings.collect()));
        Page { rows: self.rows, searched_back_to_ms, complete, read: self.read, next }
    }
}

/// The rows of one window of a partition.
struct Window<R> {
    kept: VecDeque<(i64, i64, R)>,
    /// Older rows were there and did not fit.
    is_cut: bool,
    oldest_ms: Option<i64>,
}

impl<R> Default for Window<R> {
    fn default() -> Self {
        Self { kept: VecDeque::new(), is_cut: false, oldest_ms: None }
    }
}

impl<R> Window<R> {
    /// Keeps a row with its time and offset, the newest `rows_max` of them.
    fn keep(&mut self, at_ms: i64, offset: i64, row: R, rows_max: usize) {
        if self.kept.len() >= rows_max {
            self.kept.pop_front();
            self.is_cut = true;
        }
        self.kept.push_back((at_ms, offset, row));
    }

    fn first_offset(&self) -> i64 {
        self.kept.front().map_or(0, |(_, offset, _)| *offset)
    }

    fn oldest_kept_ms(&self) -> Option<i64> {
        if self.is_cut { self.kept.front().map(|(at_ms, ..)| *at_ms) } else { self.oldest_ms }
    }
}

/// Shows the records of `ranges`, oldest first within each partition, within `bounds`. Returns whether all was shown. Blocks.
///
/// # Errors
/// [`ReadError`]
pub(crate) fn walk(
    log: &dyn Log,
    ranges: &[Range],
    bounds: Bounds,
    watch: &Watch<'_>,
    take: &mut dyn FnMut(&Glance<'_>),
) -> Result<bool, ReadError> {
    let began = Instant::now();
    let mut left: Vec<Range> = ranges.iter().filter(|range| !range.is_empty()).copied().collect();
    let (mut read, mut bytes) = (0_u64, 0_u64);
    while !left.is_empty() {
        if (read > 0 && (bytes >= bounds.bytes || began.elapsed() >= bounds.time)) || !(watch.wanted)() {
            return Ok(false);
        }
        let windows: Vec<Range> =
            left.iter().map(|range| Range { end: range.end.min(range.start + WINDOW_MAX), ..*range }).collect();
        let is_whole = log.read(&windows, watch.wanted, &mut |glance| {
            read += 1;
            bytes += glance.bytes() as u64;
            take(glance);
        })?;
        if !is_whole {
            return Ok(false);
        }
        for (range, window) in left.iter_mut().zip(&windows) {
            range.start = window.end;
        }
        left.retain(|range| !range.is_empty());
        (watch.progress)(Progress { read, searched_back_to_ms: None });
    }
    Ok(true)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
