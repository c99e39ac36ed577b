//! The scan, on logs in memory.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// A log in memory: of each partition its first offset and, by offset, time and value. A record without a value is a gap.
#[derive(Clone, Debug, Default)]
struct Made {
    partitions: Vec<Vec<(i64, Option<String>)>>,
    starts: Vec<i64>,
    bounds: Vec<Range>,
    /// The offsets that were read, by partition.
    touched: RefCell<Vec<(i32, i64)>>,
}

impl Made {
    fn of(partitions: Vec<Vec<(i64, Option<String>)>>) -> Self {
        let starts = vec![0; partitions.len()];
        let mut log = Self { partitions, starts, ..Self::default() };
        log.open();
        log
    }

    /// Takes the bounds as they are now.
    fn open(&mut self) {
        self.bounds = self
            .partitions
            .iter()
            .zip(&self.starts)
            .zip(0..)
            .map(|((records, start), partition)| Range {
                partition,
                start: *start,
                end: i64::try_from(records.len()).unwrap(),
            })
            .collect();
    }

    fn append(&mut self, partition: usize, at_ms: i64, value: &str) {
        self.partitions[partition].push((at_ms, Some(value.to_owned())));
        self.open();
    }
}

impl Log for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn bounds(&self) -> &[Range] {
        &self.bounds
    }

    fn offsets_at(&self, timestamp_ms: i64) -> Result<BTreeMap<i32, i64>, SpanError> {
        Ok(self
            .bounds
            .iter()
            .map(|range| {
                let records = &self.partitions[usize::try_from(range.partition).unwrap()];
                let first = records.iter().position(|(at_ms, _)| *at_ms >= timestamp_ms).unwrap_or(records.len());
                (range.partition, i64::try_from(first).unwrap())
            })
            .collect())
    }

    fn read(
        &self,
        ranges: &[Range],
        wanted: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Glance<'_>),
    ) -> Result<bool, SpanError> {
        for range in ranges {
            let partition = usize::try_from(range.partition).unwrap();
            for offset in range.start.max(self.starts[partition])..range.end {
                if !wanted() {
                    return Ok(false);
                }
                self.touched.borrow_mut().push((range.partition, offset));
                let (timestamp_ms, value) = &self.partitions[partition][usize::try_from(offset).unwrap()];
                let Some(value) = value else { continue };
                take(&Glance {
                    partition: range.partition,
                    offset,
                    timestamp_ms: *timestamp_ms,
                    key: None,
                    value: Some(value.as_bytes()),
                    headers: &Vec::new,
                });
            }
        }
        Ok(true)
    }
}

const AWAKE: Watch<'static> = Watch { wanted: &|| true, progress: &|_| {} };

fn bounds(rows: usize) -> Bounds {
    Bounds { rows, ..Bounds::PAGE }
}

/// The rows whose value begins with `prefix`, with the time at which they were written.
fn page(log: &Made, prefix: &str, span: &Span, next: Option<&str>, bounds: Bounds) -> Page<(i64, String)> {
    let row = |glance: &Glance<'_>| {
        let text = String::from_utf8(glance.value?.to_vec()).ok()?;
        text.starts_with(prefix).then_some((glance.timestamp_ms, text))
    };
    let question = Question { parts: vec![prefix.to_owned()], span: span.clone(), next, row: &row };
    scan(log, &question, bounds, &AWAKE).unwrap()
}

/// All pages, one after another.
fn pages(log: &Made, prefix: &str, span: &Span, bounds: Bounds) -> Vec<(i64, String)> {
    let (mut rows, mut next) = (Vec::new(), None::<String>);
    loop {
        let page = page(log, prefix, span, next.as_deref(), bounds);
        rows.extend(page.rows);
        assert_eq!(page.complete, page.next.is_none());
        match page.next {
            Some(token) => next = Some(token.text()),
            None => return rows,
        }
    }
}

/// `counts` records a partition, one after another in time over all partitions.
fn log(counts: &[usize]) -> Made {
    let mut at_ms = 0;
    let partitions = counts.iter().enumerate().map(|(partition, count)| {
        let records = (0..*count).map(|number| {
            at_ms += 1;
            let kind = if number % 3 == 0 { "a" } else { "b" };
            (at_ms, Some(format!("{kind}-{partition}-{number}")))
        });
        records.collect()
    });
    Made::of(partitions.collect())
}

#[test]
fn a_few_rows_from_the_end_cost_one_window() {
    let log = log(&[100_000]);
    let page = page(&log, "", &Span::default(), None, bounds(5));
    assert_eq!(page.rows.first().unwrap().1, "a-0-99999");
    assert_eq!((page.rows.len(), page.complete), (5, false));
    assert_eq!(page.searched_back_to_ms, Some(page.rows.last().unwrap().0));
    assert_eq!(page.read, WINDOW_MIN.cast_unsigned(), "no more than the first window");
}

#[test]
fn an_empty_answer_says_how_far_it_looked() {
    let log = log(&[1_000, 500]);
    let all = page(&log, "x", &Span::default(), None, bounds(5));
    assert_eq!((all.rows.len(), all.read, all.complete, all.searched_back_to_ms), (0, 1_500, true, Some(1)));
    let none = page(&Made::of(vec![vec![], vec![]]), "x", &Span::default(), None, bounds(5));
    assert_eq!((none.read, none.complete, none.searched_back_to_ms), (0, true, None));
}

#[test]
fn a_span_of_time_is_kept_and_only_its_windows_are_read() {
    let log = log(&[20_000]);
    let span = Span { from_ms: Some(10_001), to_ms: Some(10_101), ..Span::default() };
    let rows = pages(&log, "", &span, bounds(30));
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (10_001..10_101).rev().collect::<Vec<_>>());
    assert!(log.touched.borrow().iter().all(|(_, offset)| (10_000..10_100).contains(offset)));
}

#[test]
fn only_the_partitions_that_were_named_are_read() {
    let log = log(&[10, 10]);
    let span = Span { partitions: Some(vec![1]), ..Span::default() };
    assert_eq!(pages(&log, "", &span, bounds(3)).len(), 10);
    assert!(log.touched.borrow().iter().all(|(partition, _)| *partition == 1));
}

#[test]
fn bytes_and_time_bound_a_page_and_the_next_one_goes_on() {
    let log = log(&[50_000]);
    let few = Bounds { bytes: 1, ..bounds(200) };
    let first = page(&log, "a-0-0", &Span::default(), None, few);
    assert_eq!((first.rows.len(), first.complete, first.read), (0, false, WINDOW_MIN.cast_unsigned()));
    assert_eq!(first.searched_back_to_ms, Some(50_000 - WINDOW_MIN + 1));
    let late = Bounds { time: Duration::ZERO, ..bounds(200) };
    let next = page(&log, "a-0-0", &Span::default(), first.next.map(|token| token.text()).as_deref(), late);
    assert_eq!(next.searched_back_to_ms, Some(50_000 - 2 * WINDOW_MIN + 1), "a page looks at one window at least");
    assert_eq!(pages(&log, "a-0-0", &Span::default(), few).len(), 1);
}

#[test]
fn a_scan_that_is_not_wanted_any_more_returns_what_it_has() {
    let log = log(&[50_000]);
    let left = AtomicUsize::new(1_000);
    let wanted = || left.fetch_sub(1, Ordering::Relaxed) > 1;
    let row = |_: &Glance<'_>| None::<()>;
    let question = Question { parts: vec![], span: Span::default(), next: None, row: &row };
    let page = scan(&log, &question, Bounds::PAGE, &Watch { wanted: &wanted, progress: &|_| {} }).unwrap();
    assert!(!page.complete && page.next.is_some() && log.touched.borrow().len() < 1_100);
}

#[test]
fn records_that_come_and_go_between_pages_move_no_row() {
    let mut log = log(&[600, 600]);
    let first = page(&log, "", &Span::default(), None, bounds(100));
    let token = first.next.unwrap().text();
    for number in 0..50 {
        log.append(number % 2, 10_000, "late");
    }
    log.starts = vec![10, 590];
    log.open();
    let mut rows = first.rows;
    let mut next = Some(token);
    while let Some(token) = next {
        let page = page(&log, "", &Span::default(), Some(&token), bounds(100));
        rows.extend(page.rows);
        next = page.next.map(|token| token.text());
    }
    let late = rows.iter().filter(|row| row.1 == "late").count();
    let texts: std::collections::BTreeSet<_> = rows.iter().map(|row| row.1.clone()).collect();
    assert_eq!((late, texts.len()), (0, rows.len()), "nothing new, nothing twice");
    assert!(
        (10..600).all(|number| texts.iter().any(|text| text.ends_with(&format!("-0-{number}")))),
        "nothing left out"
    );
}

#[test]
fn a_walk_shows_all_records_of_its_ranges_or_says_that_it_did_not() {
    let log = log(&[20_000, 10]);
    let ranges = [Range { partition: 0, start: 5, end: 20_000 }, Range { partition: 1, start: 3, end: 3 }];
    let mut offsets = Vec::new();
    assert!(walk(&log, &ranges, Bounds::PAGE, &AWAKE, &mut |glance| offsets.push(glance.offset)).unwrap());
    assert_eq!(offsets, (5..20_000).collect::<Vec<_>>());
    let few = Bounds { bytes: 1, ..Bounds::PAGE };
    assert!(!walk(&log, &ranges, few, &AWAKE, &mut |_| ()).unwrap());
}

/// Times that grow within a partition, with gaps, and records of two kinds.
fn any_log() -> impl Strategy<Value = Made> {
    let record = (0..4_i64, prop::sample::select(vec![None, Some("a"), Some("b"), Some("b"), Some("b")]));
    let partition = prop::collection::vec(record, 0..700);
    prop::collection::vec(partition, 1..5).prop_map(|partitions| {
        let partitions = partitions.into_iter().enumerate().map(|(partition, steps)| {
            let mut at_ms = 0;
            let records = steps.into_iter().enumerate().map(|(number, (step, kind))| {
                at_ms += step;
                (at_ms, kind.map(|kind| format!("{kind}-{partition}-{number}")))
            });
            records.collect()
        });
        Made::of(partitions.collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_together_are_every_row_once_newest_first(
        log in any_log(),
        rows in 1..50_usize,
        from_ms in prop::option::of(0..1_500_i64),
        to_ms in prop::option::of(0..1_500_i64),
    ) {
        let span = Span { from_ms, to_ms, ..Span::default() };
        let found = pages(&log, "a", &span, bounds(rows));
        prop_assert!(found.windows(2).all(|pair| pair[0].0 >= pair[1].0), "newest first");
        let mut expected: Vec<(i64, String)> = log
            .partitions
            .iter()
            .flatten()
            .filter(|(at_ms, _)| from_ms.is_none_or(|from| *at_ms >= from) && to_ms.is_none_or(|to| *at_ms < to))
            .filter_map(|(at_ms, text)| Some((*at_ms, text.clone()?)))
            .filter(|(_, text)| text.starts_with('a'))
            .collect();
        let mut sorted = found;
        sorted.sort();
        expected.sort();
        prop_assert_eq!(sorted, expected);
    }

    #[test]
    fn a_scan_keeps_no_more_rows_than_a_page_of_each_partition(log in any_log(), rows in 1..10_usize) {
        let row = |glance: &Glance<'_>| glance.value.map(<[u8]>::len);
        let question = Question { parts: vec![], span: Span::default(), next: None, row: &row };
        let mut scan = Scan::begin(&log, &question, bounds(rows), None).unwrap();
        while !scan.is_complete() && scan.rows.len() < rows {
            scan.give();
            if scan.rows.len() < rows && !scan.is_complete() {
                scan.look(&log, &question, &AWAKE).unwrap();
            }
            prop_assert!(scan.cursors.iter().all(|cursor| cursor.found.len() <= rows));
        }
    }
}
