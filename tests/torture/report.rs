//! The report of a torture: a page and a picture.

#![expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::account::Repeat;

/// The measurements of one moment.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    /// Seconds since the beginning.
    pub(super) at: f64,
    /// Events written, and deliveries acknowledged and repeated so far.
    pub(super) events: u64,
    pub(super) acknowledged: u64,
    pub(super) repeated: u64,
}

/// A fault: when, in seconds since the beginning, and what.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) what: String,
    /// Whether work that was under way may be done again after it.
    pub(super) is_abrupt: bool,
}

/// A request at most this many seconds before a fault may be repeated by it: a request and a commit take about as long.
const COMMIT_SPAN: f64 = 0.5;

/// The repeats of one fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeated {
    pub(super) count: usize,
    by_webhook: BTreeMap<&'static str, usize>,
    /// From when to when they had been requested before, in seconds since the fault.
    first: f64,
    last: f64,
    /// The longest time from then to the repeat, in seconds.
    longest: f64,
}

/// The repeats of each fault, in the faults' order. A repeat belongs to the last abrupt fault that had begun, or was about to, when the
/// delivery was requested before: it is what kept that from being remembered.
pub(super) fn by_fault(marks: &[Mark], repeats: &[Repeat]) -> Vec<Repeated> {
    let mut repeated = vec![Repeated::default(); marks.len()];
    for repeat in repeats {
        let is_cause = |mark: &Mark| mark.is_abrupt && mark.at <= repeat.before + COMMIT_SPAN;
        let index = marks.iter().rposition(is_cause).unwrap_or_default();
        let (of, since) = (&mut repeated[index], repeat.before - marks[index].at);
        (of.first, of.last) = if of.count == 0 { (since, since) } else { (of.first.min(since), of.last.max(since)) };
        of.longest = of.longest.max(repeat.at - repeat.before);
        of.count += 1;
        *of.by_webhook.entry(repeat.webhook).or_default() += 1;
    }
    repeated
}

/// A row a fault.
pub(super) fn table(marks: &[Mark], repeated: &[Repeated]) -> String {
    let mut table = "| at | fault | acknowledged again | had been requested, since the fault | again after at most | by webhook |\n\
                     | ---: | --- | ---: | --- | ---: | --- |\n"
        .to_owned();
    for (mark, of) in marks.iter().zip(repeated).filter(|(mark, of)| mark.is_abrupt || of.count > 0) {
        let _infallible = writeln!(
            table,
            "| {:.1} s | {} | {} | {:.1} to {:.1} s | {:.1} s | {:?} |",
            mark.at, mark.what, of.count, of.first, of.last, of.longest, of.by_webhook
        );
    }
    table
}

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 40.0;

/// A line through points of the picture.
fn line(points: &[(f64, f64)], end: f64, top: f64, offset: f64, colour: &str) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| {
            let x = MARGIN + x / end.max(1.0) * WIDTH;
            let y = offset + HEIGHT - y / top.max(1.0) * HEIGHT;
            format!("{x:.1},{y:.1}")
        })
        .collect();
    format!("<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>\n", points.join(" "))
}

/// Deliveries a second, and repeats so far, above each other; a stroke for each fault.
fn picture(samples: &[Sample], marks: &[Mark], webhooks: u64) -> String {
    let end = samples.last().map_or(1.0, |sample| sample.at);
    let rate = |of: fn(&Sample) -> u64, times: u64| -> Vec<(f64, f64)> {
        let step = |two: &[Sample]| {
            let grown = of(&two[1]).saturating_sub(of(&two[0])) * times;
            (two[1].at, grown as f64 / (two[1].at - two[0].at).max(0.1))
        };
        samples.windows(2).map(step).collect()
    };
    let (written, delivered) = (rate(|sample| sample.events, webhooks), rate(|sample| sample.acknowledged, 1));
    let top = written.iter().chain(&delivered).map(|(_, y)| *y).fold(1.0, f64::max);
    let repeated: Vec<_> = samples.iter().map(|sample| (sample.at, sample.repeated as f64)).collect();
    let most = repeated.last().map_or(1.0, |(_, y)| y.max(1.0));
    let second = 2.0 * MARGIN + HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + 2.0 * MARGIN,
        2.0 * HEIGHT + 3.0 * MARGIN
    );
    for Mark { at, what, .. } in marks {
        let x = MARGIN + at / end.max(1.0) * WIDTH;
        let bottom = second + HEIGHT;
        let _infallible = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{MARGIN}\" y2=\"{bottom}\" stroke=\"#ddd\"><title>{what}</title></line>"
        );
    }
    svg += &line(&written, end, top, MARGIN, "#999");
    svg += &line(&delivered, end, top, MARGIN, "#06c");
    svg += &line(&repeated, end, most, second, "#c00");
    let _infallible = write!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\">deliveries a second: due (grey) and acknowledged (blue), at most {top:.0}</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\">acknowledged again, in all {most:.0}, over {end:.0} s; a grey stroke is a fault</text>\n</svg>\n",
        MARGIN - 8.0,
        second - 8.0
    );
    svg
}

/// Writes `report.md` and `torture.svg` into `folder`.
pub(super) fn write(folder: &Path, page: &str, samples: &[Sample], marks: &[Mark], webhooks: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let faults: Vec<String> = marks.iter().map(|mark| format!("- {:.1} s: {}\n", mark.at, mark.what)).collect();
    let faults = faults.concat();
    std::fs::write(folder.join("report.md"), format!("{page}\n![deliveries and repeats](torture.svg)\n\n{faults}"))
        .unwrap();
    std::fs::write(folder.join("torture.svg"), picture(samples, marks, webhooks)).unwrap();
}
