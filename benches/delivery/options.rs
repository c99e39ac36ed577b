//! The benchmark's own options.

use std::fmt;

/// Which broker the worker reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    /// A real Kafka, started for the run.
    Kafka,
    /// The client library's mock cluster, in a process of its own.
    Embedded,
}

/// What receives the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinkKind {
    /// nginx with one worker.
    Nginx,
    /// The benchmark's own.
    Own,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "kafka",
            Self::Embedded => "embedded",
        })
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Own => "own",
        })
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) broker: Broker,
    pub(crate) sink: SinkKind,
    pub(crate) rounds: usize,
    pub(crate) events: usize,
    pub(crate) size: usize,
    pub(crate) in_flight: usize,
    pub(crate) integrations: usize,
    pub(crate) signed: bool,
    pub(crate) skip_unmatched: bool,
    /// Events a second. Without it, all are there when the worker starts.
    pub(crate) rate: Option<usize>,
}

pub(crate) const HELP: &str = "options:
  --broker kafka|embedded   a real Kafka (default) or the client library's mock cluster
  --sink nginx|own          what receives (default: nginx if it is installed)
  --rounds N                at least 5 for a figure (default 5)
  --events N                a round (default 300000)
  --size N                  bytes of an event (default 1024)
  --in-flight N             requests at once (default 64)
  --integrations N          integrations that take turns, a webhook each (default 1)
  --unsigned                without a signing secret
  --skip-unmatched          without the events that match nothing
  --rate N                  N events a second come while the worker runs, instead of all before; without those that match nothing";

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let nginx = std::process::Command::new("nginx").arg("-v").output().is_ok();
        let mut options = Self {
            broker: Broker::Kafka,
            sink: if nginx { SinkKind::Nginx } else { SinkKind::Own },
            rounds: 5,
            events: 300_000,
            size: 1024,
            in_flight: 64,
            integrations: 1,
            signed: true,
            skip_unmatched: false,
            rate: None,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            match name.as_str() {
                "--unsigned" => options.signed = false,
                "--skip-unmatched" => options.skip_unmatched = true,
                _ => {
                    let value = rest.next().ok_or_else(|| format!("{name}: a value is missing\n{HELP}"))?;
                    options.set(name, value)?;
                }
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse().map_err(|error| format!("{name} {value}: {error}"));
        match (name, value) {
            ("--broker", "kafka") => self.broker = Broker::Kafka,
            ("--broker", "embedded") => self.broker = Broker::Embedded,
            ("--sink", "nginx") => self.sink = SinkKind::Nginx,
            ("--sink", "own") => self.sink = SinkKind::Own,
            ("--rounds", _) => self.rounds = number()?,
            ("--events", _) => self.events = number()?,
            ("--size", _) => self.size = number()?,
            ("--in-flight", _) => self.in_flight = number()?,
            ("--rate", _) => {
                self.rate = Some(number()?.max(1));
                self.skip_unmatched = true;
            }
            ("--integrations", _) => self.integrations = number()?,
            _ => return Err(format!("{name} {value}: not an option\n{HELP}")),
        }
        Ok(())
    }
}
