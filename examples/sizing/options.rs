//! The options, read as `hookstream` reads its own: all mistakes at once, one line each, with the option, the value and what is accepted.

use std::fmt::Write as _;

use super::model::Load;

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(crate) enum Asked {
    /// The help.
    Help,
    /// A plan.
    Plan(Load),
}

/// How a value is written.
#[derive(Clone, Copy)]
enum Kind {
    /// A number above zero.
    Number,
    /// A number of zero or more.
    Amount,
    /// Percent, below 100.
    Percent,
    /// `250ms`, `30s`, `5m`, `1h`.
    Duration,
}

struct Row {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    says: &'static str,
    set: fn(&mut Load, f64),
}

const ROWS: [Row; 16] = [
    Row {
        name: "events-per-second",
        default: "1000",
        kind: Kind::Number,
        says: "events that the CRM writes, at the busiest time",
        set: |load, value| load.events_per_second = value,
    },
    Row {
        name: "event-bytes",
        default: "1024",
        kind: Kind::Number,
        says: "bytes of an event",
        set: |load, value| load.event_bytes = value,
    },
    Row {
        name: "webhooks",
        default: "10000",
        kind: Kind::Number,
        says: "registered webhooks",
        set: |load, value| load.webhooks = value,
    },
    Row {
        name: "webhooks-per-host",
        default: "10",
        kind: Kind::Number,
        says: "webhooks that share scheme, host and port",
        set: |load, value| load.webhooks_per_host = value,
    },
    Row {
        name: "matches-per-event",
        default: "2",
        kind: Kind::Amount,
        says: "webhooks that an event matches",
        set: |load, value| load.matches_per_event = value,
    },
    Row {
        name: "dead-percent",
        default: "1",
        kind: Kind::Percent,
        says: "deliveries to receivers that take requests and never answer",
        set: |load, value| load.dead = value,
    },
    Row {
        name: "slow-percent",
        default: "5",
        kind: Kind::Percent,
        says: "deliveries to slow receivers",
        set: |load, value| load.slow = value,
    },
    Row {
        name: "failing-percent",
        default: "1",
        kind: Kind::Percent,
        says: "attempts at the others that fail",
        set: |load, value| load.failing = value,
    },
    Row {
        name: "answer",
        default: "100ms",
        kind: Kind::Duration,
        says: "how long a receiver takes to answer",
        set: |load, value| load.answer = value,
    },
    Row {
        name: "slow-answer",
        default: "2s",
        kind: Kind::Duration,
        says: "how long a slow one takes",
        set: |load, value| load.slow_answer = value,
    },
    Row {
        name: "request-timeout",
        default: "10s",
        kind: Kind::Duration,
        says: "hookstream's own option",
        set: |load, value| load.request_timeout = value,
    },
    Row {
        name: "retention",
        default: "72h",
        kind: Kind::Duration,
        says: "how long the events topic keeps events",
        set: |load, value| load.retention = value,
    },
    Row {
        name: "replication-factor",
        default: "3",
        kind: Kind::Number,
        says: "copies of each record",
        set: |load, value| load.replicas = value,
    },
    Row {
        name: "worker-cores",
        default: "2",
        kind: Kind::Number,
        says: "cores of a worker",
        set: |load, value| load.worker_cores = value,
    },
    Row {
        name: "utilisation-percent",
        default: "60",
        kind: Kind::Percent,
        says: "how much of a worker's cores and places may be used",
        set: |load, value| load.utilisation = value,
    },
    Row {
        name: "max-in-flight",
        default: "1024",
        kind: Kind::Number,
        says: "hookstream's own option",
        set: |load, value| load.max_in_flight = value,
    },
];

impl Kind {
    /// Reads a value; an error is what is accepted.
    fn read(self, text: &str) -> Result<f64, &'static str> {
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            text.parse::<f64>().ok().filter(|_| is_plain)
        };
        let within = |value: f64, is_accepted: bool| (is_accepted && value <= NUMBER_MAX).then_some(value);
        let (value, accepted) = match self {
            Self::Number => (number(text).and_then(|value| within(value, value > 0.0)), "a number above 0, up to 1e12"),
            Self::Amount => (number(text).and_then(|value| within(value, true)), "a number from 0, up to 1e12"),
            Self::Percent => {
                let share = number(text).map(|percent| percent / 100.0);
                (share.filter(|share| *share < 1.0), "a number from 0, below 100")
            }
            Self::Duration => {
                let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
                let (count, unit) = text.split_at(at);
                let seconds = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
                let seconds = seconds.into_iter().find(|(word, _)| *word == unit).map(|(_, seconds)| seconds);
                let value = number(count).zip(seconds).map(|(count, seconds)| count * seconds);
                (value.filter(|value| *value > 0.0 && *value <= NUMBER_MAX), "a duration such as 250ms, 30s, 5m or 1h")
            }
        };
        value.ok_or(accepted)
    }
}

/// Larger numbers are typing mistakes.
const NUMBER_MAX: f64 = 1e12;

/// The help: each option with its default.
pub(crate) fn help() -> String {
    let mut text =
        String::from("Says what an installation of this size needs.\n\nusage: sizing [--OPTION VALUE]...\n\n");
    for row in &ROWS {
        // Writing into a string can't fail.
        let _infallible = writeln!(text, "  --{:<20} {} (default {})", row.name, row.says, row.default);
    }
    text
}

/// Reads the arguments: `--name value` or `--name=value`.
///
/// # Errors
/// One line for each mistake.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Asked, Vec<String>> {
    let (mut load, mut mistakes) = (defaults(), Vec::new());
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--help" || argument == "-h" {
            return Ok(Asked::Help);
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let Some(row) = ROWS.iter().find(|row| name.strip_prefix("--") == Some(row.name)) else {
            mistakes.push(format!("{name}: unknown option; --help lists all"));
            // Its value.
            arguments.next_if(|next| value.is_none() && !next.starts_with("--"));
            continue;
        };
        let Some(value) = value.or_else(|| arguments.next()) else {
            mistakes.push(format!("{name}: a value is missing"));
            continue;
        };
        match row.kind.read(&value) {
            Ok(number) => (row.set)(&mut load, number),
            Err(accepted) => mistakes.push(format!("{name} `{value}`: expected {accepted}")),
        }
    }
    mistakes.extend(contradictions(&load).map(str::to_owned));
    if mistakes.is_empty() { Ok(Asked::Plan(load)) } else { Err(mistakes) }
}

fn contradictions(load: &Load) -> impl Iterator<Item = &'static str> {
    let rules = [
        (load.dead + load.slow > 1.0, "--dead-percent and --slow-percent: more than 100 together"),
        (load.utilisation <= 0.0, "--utilisation-percent: expected a number above 0, below 100"),
        (load.webhooks_per_host > load.webhooks, "--webhooks-per-host: more than --webhooks"),
        (load.answer > load.request_timeout, "--answer: longer than --request-timeout, so every request fails"),
    ];
    rules.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, says)| says)
}

fn defaults() -> Load {
    let mut load = Load {
        events_per_second: 0.0,
        event_bytes: 0.0,
        webhooks: 0.0,
        webhooks_per_host: 0.0,
        matches_per_event: 0.0,
        dead: 0.0,
        slow: 0.0,
        failing: 0.0,
        answer: 0.0,
        slow_answer: 0.0,
        request_timeout: 0.0,
        retention: 0.0,
        replicas: 0.0,
        worker_cores: 0.0,
        utilisation: 0.0,
        max_in_flight: 0.0,
    };
    for row in &ROWS {
        if let Ok(value) = row.kind.read(row.default) {
            (row.set)(&mut load, value);
        }
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &str) -> Result<Asked, Vec<String>> {
        parse(arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_option_has_a_default_that_is_valid_and_no_figure_is_left_out() {
        for row in &ROWS {
            assert!(row.kind.read(row.default).is_ok(), "{}", row.name);
        }
        let Ok(Asked::Plan(load)) = parsed("") else { panic!("the defaults are a plan") };
        assert_eq!(load, defaults());
        let figures = format!("{load:?}");
        assert!(!figures.contains(": 0.0,") && !figures.contains(": 0.0 "), "{figures}");
    }

    #[test]
    fn values_are_read_in_both_forms_and_units() {
        let asked = parsed("--events-per-second 5 --answer=250ms --dead-percent 0 --retention 1.5h");
        let Ok(Asked::Plan(load)) = asked else { panic!("{asked:?}") };
        assert_eq!((load.events_per_second, load.answer, load.dead, load.retention), (5.0, 0.25, 0.0, 5_400.0));
        assert_eq!(parsed("--webhooks x --help"), Ok(Asked::Help));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_option_value_and_accepted_form() {
        let mistakes = parsed("--webhoks 3 --event-bytes -1 --answer 5 --dead-percent 100 --retention").unwrap_err();
        assert_eq!(
            mistakes,
            [
                "--webhoks: unknown option; --help lists all",
                "--event-bytes `-1`: expected a number above 0, up to 1e12",
                "--answer `5`: expected a duration such as 250ms, 30s, 5m or 1h",
                "--dead-percent `100`: expected a number from 0, below 100",
                "--retention: a value is missing",
            ]
        );
        for (arguments, said) in [
            ("--dead-percent 60 --slow-percent 50", "more than 100 together"),
            ("--utilisation-percent 0", "above 0"),
            ("--webhooks 5", "more than --webhooks"),
            ("--answer 20s", "longer than --request-timeout"),
        ] {
            let mistakes = parsed(arguments).unwrap_err();
            assert!(mistakes.len() == 1 && mistakes[0].contains(said), "{mistakes:?}");
        }
        for value in ["nan", "inf", "1e3", "", "1e13", "9999999999999"] {
            assert!(parsed(&format!("--webhooks={value}")).is_err(), "{value}");
        }
    }
}
