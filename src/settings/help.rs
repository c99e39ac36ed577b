//! Help, made from the table of options: what it says is what is accepted.

use std::fmt::{self, Write};

use super::command::{HelpTopic, Subcommand};
use super::options;
use super::row::{self, Row, Shape};

/// Columns of a line.
const WIDTH: usize = 110;

/// The help text about a topic, with a line feed at its end.
pub(crate) fn render(topic: HelpTopic) -> String {
    match topic {
        HelpTopic::Program => program(),
        HelpTopic::Family(name) => {
            let members = Subcommand::ALL.into_iter().filter(|subcommand| subcommand.first_word() == name);
            let list = subcommands(members);
            format!(
                "Usage: hookstream {name} SUBCOMMAND [OPTIONS]\n\nSubcommands:\n{list}\nOptions of one: `hookstream help {name} SUBCOMMAND`\n"
            )
        }
        HelpTopic::Subcommand(subcommand) => of_subcommand(subcommand),
    }
}

fn program() -> String {
    format!(
        "hookstream {}: delivers a CRM's change events from Kafka to the integrations that subscribed to them\n\n\
         Usage: hookstream SUBCOMMAND [OPTIONS]\n\nSubcommands:\n{}\n\
         Options of one: `hookstream help SUBCOMMAND` or `hookstream SUBCOMMAND --help`\n\
         Version: `hookstream --version`\n\n\
         Every option --like-this is also an environment variable {}LIKE_THIS; the option wins.\n\
         To begin: `hookstream demo` needs nothing else.\n",
        env!("CARGO_PKG_VERSION"),
        subcommands(Subcommand::ALL.into_iter()),
        row::PREFIX,
    )
}

fn subcommands(list: impl Iterator<Item = Subcommand>) -> String {
    let mut text = String::new();
    for subcommand in list {
        line(&mut text, format_args!("  {:<22}{}", subcommand.words(), subcommand.about()));
    }
    text
}

fn of_subcommand(subcommand: Subcommand) -> String {
    let words = subcommand.words();
    let argument = subcommand.argument().map(|name| {
        let (word, row) = (name.to_ascii_uppercase(), options::find(name, subcommand));
        if row.is_some_and(|row| row.required) { format!(" {word}") } else { format!(" [{word}]") }
    });
    let argument = argument.unwrap_or_default();
    let about = subcommand.about();
    let mut text = format!("hookstream {words}: {about}\n\nUsage: hookstream {words}{argument} [OPTIONS]\n");
    let rows: Vec<&Row> = options::of(subcommand).collect();
    for rows in rows.chunk_by(|one, next| one.heading == next.heading) {
        let column = rows.iter().map(|row| left(row).chars().count()).max().unwrap_or_default() + 4;
        for (index, row) in rows.iter().enumerate() {
            if index == 0 {
                line(&mut text, format_args!("\n{}:", row.heading.title()));
            }
            option(&mut text, row, column);
        }
    }
    text.push('\n');
    for (kind, meaning) in KINDS {
        if options::of(subcommand).any(|row| row.placeholder.starts_with(kind)) {
            line(&mut text, format_args!("{kind}: {meaning}"));
        }
    }
    text.push_str("Each option is also the environment variable in brackets; the option wins.\n");
    text
}

/// The placeholder of a value, and how the value is written.
const KINDS: [(&str, &str); 8] = [
    ("DURATION", "a whole number and a unit: 250ms, 30s, 5m, 1h"),
    ("SIZE", "bytes, as a number or with a unit: 65536, 64KiB, 64MiB, 1GiB"),
    (
        "TIME",
        "RFC 3339 with its offset, a date of UTC, today, yesterday, or how long ago: 2026-01-31T12:00:00Z, 2026-01-31, 1h",
    ),
    ("EVENT", "a place is topic/partition/offset, such as crm.object-events/3/1042"),
    ("ADDRESS", "IP address and port: 0.0.0.0:8080, [::1]:8080; port 0 takes a free one"),
    ("CIDR", "an address range: 10.0.0.0/8, fd00::/8"),
    ("COUNT", "a whole number"),
    ("SHARE", "a number from 0 to 1: 0.3"),
];

fn left(row: &Row) -> String {
    if row.placeholder.is_empty() { row.flag_name() } else { format!("{} {}", row.flag_name(), row.placeholder) }
}

fn option(text: &mut String, row: &Row, column: usize) {
    let mut begin = format!("  {}", left(row));
    let default = match (row.default, row.required, row.shape) {
        (Some(default), ..) => format!("default {default}"),
        (None, true, _) => "required".to_owned(),
        (None, false, Shape::Flag) => "default false".to_owned(),
        (None, false, Shape::One | Shape::Many { .. }) => "default none".to_owned(),
    };
    for part in wrapped(row.about, WIDTH.saturating_sub(column)) {
        line(text, format_args!("{begin:<column$}{part}"));
        begin.clear();
    }
    line(text, format_args!("{:<column$}[{default}; {}]", "", row.variable()));
}

fn line(text: &mut String, line: fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a String takes everything");
    text.push('\n');
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
