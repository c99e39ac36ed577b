//! Log lines on stderr: short ones for people or one JSON object a line.
//!
//! Everything that is logged goes through `tracing`. Payloads, secrets and query strings are never put there.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::client_words::plain;
use super::terminal::LogLines;
use crate::settings::{BadFilter, LogFormat, Logs};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogsError {
    /// The filter was not checked before.
    #[error("log filter")]
    Filter(#[from] BadFilter),
    /// Something else logs already.
    #[error("a logger is already set")]
    AlreadySet(#[from] TryInitError),
}

/// Begins to log to stderr.
///
/// # Errors
/// [`LogsError`] when the filter can't be used or a logger is set already.
pub(crate) fn init(logs: &Logs) -> Result<(), LogsError> {
    let filter = EnvFilter::try_new(&logs.filter).map_err(|_parse_error| BadFilter)?;
    let registry = tracing_subscriber::registry().with(filter);
    match logs.format {
        LogFormat::Json => registry.with(json(|| LogLines)).try_init()?,
        LogFormat::Human => registry.with(human(|| LogLines)).try_init()?,
    }
    Ok(())
}

/// One object a line: `timestamp`, `level`, the event's own fields, `target`.
fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    fmt::layer().json().flatten_event(true).with_span_list(false).with_ansi(false).with_writer(PlainLines(writer))
}

/// Short lines; coloured on a terminal, unless `NO_COLOR` is set.
fn human<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = fmt::layer().compact().with_target(false).with_writer(PlainLines(writer));
    // The layer's own default looks at NO_COLOR, and not at the terminal.
    if io::stderr().is_terminal() { layer } else { layer.with_ansi(false) }
}

/// Puts the Kafka client's errors in each line into plain words.
struct PlainLines<W>(W);

impl<'writer, W: MakeWriter<'writer>> MakeWriter<'writer> for PlainLines<W> {
    type Writer = PlainLine<W::Writer>;

    fn make_writer(&'writer self) -> Self::Writer {
        PlainLine(self.0.make_writer())
    }
}

/// Gets one line, whole.
struct PlainLine<W>(W);

impl<W: io::Write> io::Write for PlainLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes).map(plain) {
            Ok(Cow::Owned(line)) => self.0.write_all(line.as_bytes()).map(|()| bytes.len()),
            Ok(Cow::Borrowed(_)) | Err(_) => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What is logged, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }

        pub(super) fn writer(&self) -> impl for<'writer> MakeWriter<'writer> + Send + Sync + 'static {
            let captured = self.clone();
            move || captured.clone()
        }
    }

    /// The lines for people that `run` logs on this thread at the level that processes have by default.
    pub(crate) fn logged(run: impl FnOnce()) -> String {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(human(captured.writer()));
        tracing::subscriber::with_default(subscriber, run);
        captured.text()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Captured;
    use super::*;

    #[test]
    fn json_lines_are_flat_objects() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry().with(json(captured.writer()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(topic = "crm.object-events", partition = 3, "record\nunusable");
            tracing::info!("ready");
        });
        let lines: Vec<serde_json::Value> =
            captured.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "record\nunusable");
        assert_eq!(lines[0]["topic"], "crm.object-events");
        assert_eq!(lines[0]["partition"], 3);
        assert!(lines[0]["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }

    #[test]
    fn human_lines_are_short_and_plain_outside_a_terminal() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::registry().with(human(captured.writer()));
        tracing::subscriber::with_default(subscriber, || tracing::info!(topic = "t", "ready"));
        if !io::stderr().is_terminal() {
            assert!(captured.text().ends_with("  INFO ready topic=\"t\"\n"), "{:?}", captured.text());
        }
    }
}
