//! The terminal, when a live view is drawn on it: log lines go above the view, not through it.
//!
//! One view a process. Without a view, and when stderr is no terminal, log lines go straight to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use parking_lot::{Mutex, MutexGuard};

static VIEW: Mutex<View> = Mutex::new(View { frame: Vec::new() });

/// What stands on the screen.
struct View {
    frame: Vec<String>,
}

fn view() -> MutexGuard<'static, View> {
    VIEW.lock()
}

/// Draws a frame in the place of the last one.
///
/// # Errors
/// Stdout can't be written.
pub(crate) fn draw(frame: Vec<String>) -> io::Result<()> {
    let mut view = view();
    let text = redraw(&view.frame, &frame);
    view.frame = frame;
    write_stdout(&text)
}

/// Leaves the last frame where it stands; what is written next comes below.
pub(crate) fn leave() {
    view().frame.clear();
}

/// Where log lines go.
pub(crate) struct LogLines;

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let view = view();
        if view.frame.is_empty() || !io::stderr().is_terminal() {
            return io::stderr().write(bytes);
        }
        write_stdout(&erase(&view.frame))?;
        let written = io::stderr().write_all(bytes);
        write_stdout(&redraw(&[], &view.frame))?;
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn write_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Moves to where a frame begins.
fn home(frame: &[String]) -> String {
    if frame.is_empty() { String::new() } else { format!("\x1b[{}A\r", frame.len()) }
}

/// Line by line: terminals may keep what is erased all at once.
fn erase(frame: &[String]) -> String {
    format!("{}{}{}", home(frame), "\x1b[2K\n".repeat(frame.len()), home(frame))
}

/// Draws over the last frame. Lines are cut at the right edge (wrapping is off while they are written), so that a frame
/// always has as many lines on the screen as it has.
fn redraw(last: &[String], frame: &[String]) -> String {
    let mut text = home(last);
    text.push_str("\x1b[?7l");
    for line in frame {
        text.push_str(line);
        text.push_str("\x1b[0m\x1b[K\r\n");
    }
    text.push_str("\x1b[?7h\x1b[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_last_one_and_what_is_left_of_it_erased() {
        let frame = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let first = frame(&["a", "b"]);
        assert_eq!(redraw(&[], &first), "\x1b[?7la\x1b[0m\x1b[K\r\nb\x1b[0m\x1b[K\r\n\x1b[?7h\x1b[J");
        assert!(redraw(&first, &frame(&["c"])).starts_with("\x1b[2A\r\x1b[?7lc"));
        assert_eq!(erase(&first), "\x1b[2A\r\x1b[2K\n\x1b[2K\n\x1b[2A\r");
    }
}
