//! Tables for people: columns as wide as their contents, and on a terminal lines that fit it.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

use super::render::printable;

/// A column is made no narrower than this to fit.
const COLUMN_MIN: usize = 8;
/// The shape of a time, without its fraction and zone.
const SECONDS: &str = "0000-00-00T00:00:00";
/// Between two columns.
const GAP: &str = "  ";

/// How wide a line of standard output may be. `None` if it goes to a file or a pipe, or if `wide` asks for whole columns.
pub(super) fn line_width(wide: bool) -> Option<usize> {
    if wide || !io::stdout().is_terminal() {
        return None;
    }
    // A terminal that does not know its size says 0.
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// The lines of a table: its heading and its rows. If they are wider than `line_width`, the widest columns are cut.
pub(super) fn lines(heading: &[&str], rows: &[Vec<String>], line_width: Option<usize>) -> Vec<String> {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let mut widths: Vec<usize> = heading.iter().map(|title| title.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(line_width) = line_width {
        fit(&mut widths, line_width);
    }
    let heading: Vec<Cow<'_, str>> = heading.iter().map(|title| Cow::Borrowed(*title)).collect();
    [heading].iter().chain(&rows).map(|row| line(row, &widths)).collect()
}

/// Takes from the widest column until the line fits, or every column is narrow.
fn fit(widths: &mut [usize], line_width: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(line_width);
    while excess > 0 {
        let Some(widest) = widths.iter_mut().filter(|width| **width > COLUMN_MIN).max() else { return };
        *widest -= 1;
        excess -= 1;
    }
}

fn line(cells: &[Cow<'_, str>], widths: &[usize]) -> String {
    let cells: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{:<width$}", cut(cell, *width))).collect();
    cells.join(GAP).trim_end().to_owned()
}

/// A column of a table whose rows are written as they come: its width is known beforehand.
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Its width if there is room.
    pub(super) width: usize,
    /// Its smallest width.
    pub(super) least: usize,
    /// On a short line the column of the highest rank is left out first. A column of rank 0 is never left out.
    pub(super) rank: u8,
}

/// A table of such columns.
pub(super) struct Fixed {
    /// The titles with their widths; no width where the column is left out.
    columns: Vec<(&'static str, Option<usize>)>,
    is_cut: bool,
}

impl Fixed {
    /// Fits the columns into lines of that width. With `None` every column is there, and nothing is cut.
    pub(super) fn new(columns: &[Column], line_width: Option<usize>) -> Self {
        let Some(line_width) = line_width else {
            let columns = columns.iter().map(|column| (column.title, Some(column.width))).collect();
            return Self { columns, is_cut: false };
        };
        let room = |rank: u8| {
            let shown = columns.iter().filter(|column| column.rank <= rank);
            let (count, wide) = shown.fold((0, 0), |(count, wide), column| (count + 1, wide + column.least));
            line_width.checked_sub(wide + GAP.len() * usize::saturating_sub(count, 1))
        };
        let highest = columns.iter().map(|column| column.rank).max().unwrap_or_default();
        let (rank, mut room) = (0..=highest).rev().find_map(|rank| Some((rank, room(rank)?))).unwrap_or_default();
        let columns = columns.iter().map(|column| {
            let more = room.min(column.width - column.least);
            let is_shown = column.rank <= rank;
            if is_shown {
                room -= more;
            }
            (column.title, is_shown.then_some(column.least + more))
        });
        Self { columns: columns.collect(), is_cut: true }
    }

    pub(super) fn heading(&self) -> String {
        let titles: Vec<&str> = self.columns.iter().map(|(title, _)| *title).collect();
        self.row(&titles)
    }

    /// A row of these cells, one for each column, left out or not.
    pub(super) fn row(&self, cells: &[&str]) -> String {
        let cells = self.columns.iter().zip(cells).filter_map(|((_, width), cell)| {
            let (width, cell) = ((*width)?, printable(cell));
            let cell = if self.is_cut { cut(&cell, width) } else { Cow::Borrowed(&*cell) };
            Some(format!("{cell:<width$}"))
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// The text in at most `width` characters; an ellipsis says that there was more. Of a time the fraction goes first, then the year, then
/// the day.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    if let Some(time) = cut_time(text, width) {
        return Cow::Owned(time);
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    Cow::Owned(format!("{kept}…"))
}

/// `None` if the text is no time as these tables write it, or not even its hour, minute and second have room.
fn cut_time(text: &str, width: usize) -> Option<String> {
    let seconds = text.get(..SECONDS.len())?;
    let is_time = text.ends_with('Z')
        && seconds.bytes().zip(SECONDS.bytes()).all(|(is, shape)| is == shape || shape == b'0' && is.is_ascii_digit());
    let parts = [0, "0000-".len(), "0000-00-00T".len()].map(|from| seconds.get(from..));
    parts.into_iter().filter(|_| is_time).flatten().find(|part| part.len() <= width).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn a_table_fits_its_line_and_says_where_it_was_cut() {
        let rows = [row(&["a", &"x".repeat(60), "1"]), row(&["b", "short", "2"])];
        let lines = lines(&["NAME", "TEXT", "N"], &rows, Some(40));
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:?}");
        assert!(lines[1].contains('…') && lines[1].ends_with('1'), "{lines:?}");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["b", "short", "2"]);
    }

    #[test]
    fn a_line_that_is_short_keeps_the_columns_that_matter() {
        let column = |title, width, least, rank| Column { title, width, least, rank };
        let columns =
            [column("PLACE", 10, 10, 0), column("TIME", 8, 8, 2), column("WHOSE", 20, 8, 0), column("ID", 6, 6, 3)];
        let cells = ["topic/0/12", "12:00:01", "demo/0123456789", "abcdef"];
        for (line_width, expected) in [
            (None, "topic/0/12  12:00:01  demo/0123456789       abcdef"),
            (Some(50), "topic/0/12  12:00:01  demo/0123456789       abcdef"),
            (Some(38), "topic/0/12  12:00:01  demo/01…  abcdef"),
            (Some(32), "topic/0/12  12:00:01  demo/0123…"),
            (Some(24), "topic/0/12  demo/012345…"),
            (Some(5), "topic/0/12  demo/01…"),
        ] {
            assert_eq!(Fixed::new(&columns, line_width).row(&cells), expected, "{line_width:?}");
        }
        assert_eq!(Fixed::new(&columns, Some(24)).heading(), "PLACE       WHOSE");
        let long = ["a-long-topic/0/12", "", "", ""];
        assert_eq!(Fixed::new(&columns, None).row(&long), long[0], "what goes to a file is whole");
    }

    #[test]
    fn a_time_that_is_cut_keeps_its_hour() {
        let time = "2026-01-31T12:34:56.789Z";
        for (width, expected) in [
            (24, time),
            (23, "2026-01-31T12:34:56"),
            (19, "2026-01-31T12:34:56"),
            (18, "01-31T12:34:56"),
            (13, "12:34:56"),
            (8, "12:34:56"),
            (7, "2026-0…"),
        ] {
            assert_eq!(cut(time, width), expected, "{width}");
        }
        assert_eq!(cut("2026-01-31 of no hour", 14), "2026-01-31 of…");
        assert_eq!(cut("0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e01", 13), "0a7f3b52-6a0…");
    }

    #[test]
    fn without_a_width_nothing_is_cut() {
        let rows = [row(&[&"é".repeat(300), "end"])];
        let lines = lines(&["A", "B"], &rows, None);
        assert!(lines[1].starts_with(&"é".repeat(300)) && lines[1].ends_with("end"));
        assert_eq!(lines[0].find('B'), Some(302), "a heading stands over its column");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert!(lines(&["A"], &[row(&["\u{1b}[2J"])], None)[1].starts_with("\\u{1b}"));
    }
}
