//! The output of the reference receiver: a line for each delivery, or a summary a second if they are too many to read.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::interval;

/// Lines a second that a person can follow.
const LINES_MAX: usize = 20;
/// Lines that wait to be printed; more are only counted.
const QUEUE_MAX: usize = 256;

/// The destination of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Printed.
    Stdout,
    /// Nowhere.
    #[cfg(test)]
    Silent,
}

/// Takes the lines. Dropping it ends the printer.
pub(super) struct Lines {
    queue: Option<mpsc::Sender<(String, bool)>>,
    left_out: Arc<LeftOut>,
}

/// Deliveries without a line of their own since the last summary.
#[derive(Default)]
struct LeftOut {
    acknowledged: AtomicU64,
    others: AtomicU64,
}

impl Lines {
    /// A place for the lines, and the printer, which the caller runs.
    pub(super) fn new(output: Output) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, lines) = mpsc::channel(QUEUE_MAX);
        let left_out = Arc::new(LeftOut::default());
        let queue = (output == Output::Stdout).then_some(queue);
        let printer = print(lines, Arc::clone(&left_out));
        (Self { queue, left_out }, printer)
    }

    /// Adds the line of one delivery; only counts it when the printer is behind.
    pub(super) fn add(&self, text: String, is_acknowledged: bool) {
        if let Some(queue) = &self.queue
            && queue.try_send((text, is_acknowledged)).is_err()
        {
            self.left_out.add(is_acknowledged);
        }
    }
}

impl LeftOut {
    fn add(&self, is_acknowledged: bool) {
        let count = if is_acknowledged { &self.acknowledged } else { &self.others };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The summary, if a line was left out. The next one begins from zero.
    fn take(&self) -> Option<String> {
        let acknowledged = self.acknowledged.swap(0, Ordering::Relaxed);
        let others = self.others.swap(0, Ordering::Relaxed);
        let all = acknowledged + others;
        (all > 0).then(|| format!("… and {all} more: {acknowledged} acknowledged, {others} not\n"))
    }
}

async fn print(lines: mpsc::Receiver<(String, bool)>, left_out: Arc<LeftOut>) {
    if let Err(error) = write(lines, &left_out, tokio::io::stdout()).await {
        tracing::warn!(%error, "nothing more is printed");
    }
}

async fn write(
    mut lines: mpsc::Receiver<(String, bool)>,
    left_out: &LeftOut,
    mut out: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut seconds = interval(Duration::from_secs(1));
    let mut printed = 0;
    loop {
        let (text, is_over) = tokio::select! {
            biased;
            _ = seconds.tick() => {
                printed = 0;
                (left_out.take(), false)
            }
            line = lines.recv() => match line {
                Some((text, _)) if printed < LINES_MAX => {
                    printed += 1;
                    (Some(text + "\n"), false)
                }
                Some((_, is_acknowledged)) => {
                    left_out.add(is_acknowledged);
                    (None, false)
                }
                None => (left_out.take(), true),
            },
        };
        if let Some(text) = text {
            out.write_all(text.as_bytes()).await?;
            out.flush().await?;
        }
        if is_over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_that_are_too_many_to_read_are_summed_up_each_second() {
        let (lines, printer) = Lines::new(Output::Silent);
        drop((lines, printer));
        let (queue, to_print) = mpsc::channel(QUEUE_MAX);
        let lines = Lines { queue: Some(queue), left_out: Arc::default() };
        let left_out = Arc::clone(&lines.left_out);
        let mut out = Vec::new();
        let feed = async move {
            tokio::task::yield_now().await;
            (0..25).for_each(|number| lines.add(format!("line {number}"), number % 2 == 0));
            tokio::time::sleep(Duration::from_millis(1500)).await;
            (0..QUEUE_MAX + 3).for_each(|_| lines.add("again".to_owned(), false));
        };
        let (written, ()) = tokio::join!(write(to_print, &left_out, &mut out), feed);
        written.unwrap();
        let text = String::from_utf8(out).unwrap();
        let out: Vec<_> = text.lines().collect();
        assert_eq!(out[..2], ["line 0", "line 1"]);
        assert_eq!(out[19..22], ["line 19", "… and 5 more: 3 acknowledged, 2 not", "again"]);
        assert_eq!(*out.last().unwrap(), "… and 239 more: 0 acknowledged, 239 not");
        assert_eq!(out.len(), 20 + 1 + 20 + 1);
    }

    #[tokio::test]
    async fn a_silent_receiver_prints_nothing_and_its_printer_ends() {
        let (lines, printer) = Lines::new(Output::Silent);
        lines.add("unseen".to_owned(), true);
        assert_eq!(lines.left_out.take(), None);
        printer.await;
    }
}
