//! The options: each row stands in the expression that reads its value, and the table is what the readers ask for.
//!
//! So an option cannot be listed and never read, or read and never listed. Scan, help, completions and manual are made from the table.

mod tools;
mod shared;

use std::sync::LazyLock;

use super::command::{Command, Logs, Subcommand};
use super::given::GivenOptions;
use super::reader::Reader;
use super::row::Row;

pub(super) use shared::{defaults, plain_logs};

/// Returns the command of the reader's subcommand, and how to log. There is no command if a part that it needs has a mistake.
///
/// It asks for every option whatever is given: the table depends on that.
pub(super) fn read(reader: &mut Reader<'_>) -> (Option<Command>, Logs) {
    let logs = shared::logs(reader);
    (tools::command(reader, logs.format), logs)
}

/// The rows of each subcommand, by heading and then in the order in which they are read.
static TABLE: LazyLock<Vec<(Subcommand, Vec<Row>)>> = LazyLock::new(|| {
    let rows_of = |subcommand| {
        let given = GivenOptions::new();
        let mut reader = Reader::new(subcommand, &given);
        read(&mut reader);
        let mut rows: Vec<Row> = reader.rows.into_iter().filter(|row| row.is_for(subcommand)).collect();
        rows.sort_by_key(|row| row.heading);
        (subcommand, rows)
    };
    Subcommand::ALL.into_iter().map(rows_of).collect()
});

/// Every row of every subcommand.
pub(super) fn all() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().flat_map(|(_, rows)| rows)
}

/// The rows of a subcommand.
pub(super) fn of(subcommand: Subcommand) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |(user, _)| *user == subcommand).flat_map(|(_, rows)| rows)
}

/// The row of an option as a subcommand takes it.
pub(super) fn find(name: &str, subcommand: Subcommand) -> Option<&'static Row> {
    of(subcommand).find(|row| row.name == name)
}

/// The first row of that name, of any subcommand. Rows of one name agree in shape and secrecy.
pub(super) fn find_any(name: &str) -> Option<&'static Row> {
    all().find(|row| row.name == name)
}

/// The subcommands that take an option of this name.
pub(super) fn users(name: &str) -> impl Iterator<Item = Subcommand> {
    TABLE.iter().filter(move |(_, rows)| rows.iter().any(|row| row.name == name)).map(|(user, _)| *user)
}

/// Each different row once, by heading, with the subcommands that take it.
pub(super) fn distinct() -> Vec<(&'static Row, Vec<Subcommand>)> {
    let mut found: Vec<(&Row, Vec<Subcommand>)> = Vec::new();
    for (subcommand, rows) in TABLE.iter() {
        for row in rows {
            match found.iter_mut().find(|(known, _)| *known == row) {
                Some((_, users)) => users.push(*subcommand),
                None => found.push((row, vec![*subcommand])),
            }
        }
    }
    found.sort_by_key(|(row, _)| row.heading);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::row::Shape;

    #[test]
    fn an_option_has_one_row_a_subcommand_and_one_shape() {
        for subcommand in Subcommand::ALL {
            let mut names: Vec<_> = of(subcommand).map(|row| row.name).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", subcommand.words());
        }
        for row in all() {
            let first = find_any(row.name).unwrap();
            assert_eq!((row.shape, row.secret), (first.shape, first.secret), "{}", row.name);
        }
    }

    #[test]
    fn names_are_lower_case_words_and_their_variables_follow() {
        for row in all() {
            assert!(row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", row.name);
            assert!(!row.about.is_empty(), "{}", row.name);
            assert_eq!(row.placeholder.is_empty(), row.shape == Shape::Flag, "{}", row.name);
            assert!(!(row.required && row.default.is_some()), "{}", row.name);
        }
        let row = find("max-in-flight-per-webhook", Subcommand::Worker).unwrap();
        assert_eq!(row.variable(), "HOOKSTREAM_MAX_IN_FLIGHT_PER_WEBHOOK");
    }
}
