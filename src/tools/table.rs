//! Tables for people: columns as wide as what stands in them, and, on a terminal, lines that fit it.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};

use super::render::printable;

/// A column is made no narrower than this to fit.
const COLUMN_MIN: usize = 8;
/// Between two columns.
const GAP: &str = "  ";

/// How wide a line of standard output may be; none where it goes to a file or a pipe, or when whole columns are wanted.
pub(super) fn line_width(wide: bool) -> Option<usize> {
    if wide || !io::stdout().is_terminal() {
        return None;
    }
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
}

/// The lines of a table: its heading and its rows. What would be wider than `line_width` is cut in its widest columns.
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

/// The text in at most `width` characters; an ellipsis says that there was more.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return Cow::Borrowed(text);
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    Cow::Owned(format!("{kept}…"))
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
    fn without_a_width_nothing_is_cut() {
        let rows = [row(&[&"é".repeat(300), "end"])];
        let lines = lines(&["A", "B"], &rows, None);
        assert!(lines[1].starts_with(&"é".repeat(300)) && lines[1].ends_with("end"));
        assert_eq!(lines[0].find('B'), Some(302), "a heading stands over its column");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert!(lines(&["A"], &[row(&["\u{1b}[2J"])], None)[1].starts_with("\\u{1b}"));
    }
}
