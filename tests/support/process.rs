//! A process of a test's own: ended by its own process id when the test drops it, panics, or is itself killed.
//!
//! A small shell stands between: it starts the program, reads signal names from a pipe that only this process can
//! write, and when the pipe closes, for any reason, kills the program. Nothing is ever ended by name.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The last statement of the watchdog decides its exit code: the program's own, or 128 and the signal's number.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- 1>&2 &
pid=$!
echo "$pid"
( exec 1>&- 2>&-; while read -r signal <&3; do kill "-$signal" "$pid"; done; kill -KILL "$pid" ) &
dog=$!
wait "$pid"
code=$?
kill "$dog"
exit "$code"
"#;

/// The most lines that are kept of the output of a process; older ones are dropped.
const LINES_MAX: usize = 200_000;

/// A signal that a test sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Asks to stop in order.
    Term,
    /// Ends at once.
    Kill,
    /// Asks to read files again.
    Hup,
    /// Freezes, as a machine that hangs does.
    Stop,
    /// Ends a freeze.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Hup => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// The output of a process, line by line, while it runs.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    lines: VecDeque<String>,
    ended: bool,
}

impl Lines {
    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// Whether the process has closed its outputs, as it does when it ends.
    pub fn ended(&self) -> bool {
        self.lock().ended
    }

    /// The last lines as one text, for the message of a failed test.
    pub fn tail(&self, lines: usize) -> String {
        let written = self.lock();
        let skipped = written.lines.len().saturating_sub(lines);
        written.lines.iter().skip(skipped).cloned().collect::<Vec<_>>().join("\n")
    }

    /// The first line so far for which `is_it` holds.
    pub fn find_now(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        self.lock().lines.iter().find(|line| is_it(line)).cloned()
    }

    /// Waits for the first line that `pick` takes, past ones included; `None` when the process has ended without one or
    /// the time is up.
    pub fn find<T>(&self, timeout: Duration, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut written = self.lock();
        loop {
            if let Some(found) = written.lines.iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if written.ended || left.is_zero() {
                return None;
            }
            self.0.1.wait_for(&mut written, left);
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Written> {
        self.0.0.lock()
    }

    fn collect(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut written = self.lock();
            written.lines.push_back(String::from_utf8_lossy(&line).into_owned());
            if written.lines.len() > LINES_MAX {
                written.lines.pop_front();
            }
            drop(written);
            self.0.1.notify_all();
        }
        self.lock().ended = true;
        self.0.1.notify_all();
    }
}

/// A running process and what it writes.
pub struct Process {
    name: String,
    pid: u32,
    watchdog: Child,
    signals: Option<ChildStdin>,
    lines: Lines,
    reader: Option<JoinHandle<()>>,
    code: Option<i32>,
}

impl Process {
    /// Starts `program` under the watchdog. Both its outputs are collected in [`Process::lines`].
    pub fn start<A: AsRef<OsStr>>(name: &str, program: &str, arguments: &[A], environment: &[(&str, &str)]) -> Self {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", program])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: an interrupt at the terminal reaches the test only, and the pipe does the rest.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start a shell for {name}: {error}"));
        let mut first = String::new();
        let stdout = watchdog.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut first)
            .unwrap_or_else(|error| panic!("read {name}'s process id: {error}"));
        let pid = first.trim().parse().unwrap_or_else(|error| panic!("{name}'s process id {first:?}: {error}"));
        let lines = Lines::default();
        let stderr = watchdog.stderr.take().expect("stderr is piped");
        let collector = lines.clone();
        let reader = std::thread::spawn(move || collector.collect(stderr));
        let signals = watchdog.stdin.take();
        Self { name: name.to_owned(), pid, watchdog, signals, lines, reader: Some(reader), code: None }
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its output so far.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Some(pipe) = &mut self.signals
            && let Err(error) = writeln!(pipe, "{}", signal.name())
        {
            assert!(!self.is_running(), "send {signal:?} to {}: {error}", self.name);
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.exit_code().is_none()
    }

    /// The exit code, once it has ended: 128 and the number of the signal that ended it, if one did.
    pub fn exit_code(&mut self) -> Option<i32> {
        if self.code.is_none() {
            let status = self.watchdog.try_wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
            self.code = status.map(|status| status.code().unwrap_or(-1));
        }
        self.code
    }

    /// Waits for the end and gives the exit code.
    pub fn wait(&mut self, timeout: Duration) -> i32 {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(code) = self.exit_code() {
                // A caller that waited for its end wants everything it wrote.
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("the reader of its lines does not panic");
                }
                return code;
            }
            assert!(
                Instant::now() < deadline,
                "{} (process {}) has not ended within {timeout:?}; it wrote last:\n{}",
                self.name,
                self.pid,
                self.lines.tail(40)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time used so far, user and system, from `/proc`.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The second field is the name in parentheses and may hold spaces; 14 and 15 are the ticks of 1/100 s.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Processor time used so far by the threads that run now, by their names of at most 15 bytes.
    pub fn cpu_time_by_thread(&self) -> BTreeMap<String, Duration> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let mut times = BTreeMap::new();
        for thread in threads {
            // A thread that has just ended has no such files.
            let read = |file| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let (name, schedstat) = (read("comm"), read("schedstat"));
            let ran = schedstat
                .split(' ')
                .next()
                .and_then(|nanos| nanos.parse().ok())
                .map_or(Duration::ZERO, Duration::from_nanos);
            *times.entry(name.trim_end().to_owned()).or_default() += ran;
        }
        times
    }
}

/// Removes a folder when it is dropped, and also when this process is killed: a shell waits for its pipe to close.
pub struct Janitor {
    shell: Child,
}

impl Janitor {
    /// Watches over `folder` from now on.
    pub fn of(folder: &std::path::Path) -> Self {
        // Processes that wrote into the folder may do so for a moment longer.
        const SCRIPT: &str = r#"
            read -r never
            tries=0
            while [ -e "$1" ] && [ "$tries" -lt 100 ]; do
                rm -rf -- "$1" 2>/dev/null || sleep 0.1
                tries=$((tries + 1))
            done"#;
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Self { shell: shell.unwrap_or_else(|error| panic!("start a shell: {error}")) }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Waiting closes the pipe first.
        if let Err(error) = self.shell.wait() {
            panic!("wait for the janitor: {error}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog kills the program when its pipe closes.
        self.signals = None;
        if self.code.is_none() && self.watchdog.wait().is_err() {
            self.lines.lock().ended = true;
        }
    }
}
