//! The load of the machine while a test measures a time: a bound in seconds is one of a machine that is idle otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

/// The time between two samples.
const EVERY: Duration = Duration::from_millis(50);
/// Samples of two seconds: as long as the shortest bound that a test has.
const WINDOW: usize = 40;

/// Counts the threads of the machine that want a processor, until it is dropped.
pub struct Load {
    samples: Arc<Mutex<Vec<f64>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to count.
    pub fn watch() -> Self {
        let (samples, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (samples, ended) = (Arc::clone(&samples), Arc::clone(&ended));
            move || {
                while !ended.load(Ordering::Relaxed) {
                    samples.lock().push(wanting());
                    std::thread::sleep(EVERY);
                }
            }
        });
        Self { samples, ended, thread: Some(thread) }
    }

    /// How many times as long as on an idle machine a program took that never waited, in the worst two seconds so far; at least 1.
    pub fn stretch(&self) -> f64 {
        stretch(&self.samples.lock(), std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Fails the test if `took` is longer than `bound`, or on a busy machine longer than as many times `bound` as the load stretches.
    #[track_caller]
    pub fn assert_within(&self, what: &str, took: Duration, bound: Duration) {
        let stretch = self.stretch();
        println!("{what}: {took:?}, at most {bound:?} on an idle machine; the load stretches a time by {stretch:.1}");
        assert!(took <= bound.mul_f64(stretch), "{what}: {took:?}, more than {stretch:.1} times {bound:?}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the thread that samples the load panicked");
        }
    }
}

/// The threads that run or wait for a processor now, besides the one that asks: the fourth field is `running/all`.
fn wanting() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = text.split(' ').nth(3).and_then(|field| field.split('/').next()?.parse::<f64>().ok());
    (running.unwrap_or(1.0) - 1.0).max(0.0)
}

/// The largest mean of a window, by processor.
pub fn stretch(samples: &[f64], processors: usize) -> f64 {
    let by_processor = |window: &[f64]| window.iter().sum::<f64>() / (window.len() * processors) as f64;
    samples.windows(WINDOW.min(samples.len()).max(1)).map(by_processor).fold(1.0, f64::max)
}
