//! The share of counting attempts for suspension in a delivery: counting at their end, measured in this process in the same
//! run, and reporting and summing, measured on the worker's own threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookstream::internals::Integration;
use hookstream::internals::Outcome;
use hookstream::internals::Tally;
use hookstream::internals::clock;

/// Attempts counted in one measurement.
const ATTEMPTS: usize = 5_000_000;

/// CPU time of this thread to count one attempt, µs, when `integrations` take turns.
pub(crate) fn attempt(integrations: usize) -> f64 {
    let key = |number: usize| format!("ws{number}/i");
    let integrations: Vec<_> = (0..integrations)
        .map(|number| Arc::new(Integration::parse(&key(number), b"{}").expect("a record that can be used")))
        .collect();
    let tally = Tally::new(1);
    let before = thread_cpu();
    for integration in integrations.iter().cycle().take(ATTEMPTS) {
        tally.count(0, integration, &Outcome::Acknowledged, clock::now_ms());
    }
    let cpu = thread_cpu().saturating_sub(before);
    let mut counted = 0;
    tally.drain(|one| counted += one.slot.acknowledged);
    assert_eq!(usize::try_from(counted), Ok(ATTEMPTS), "each is counted");
    cpu.as_secs_f64() * 1e6 / ATTEMPTS as f64
}

/// The part of a worker's CPU, by thread, that reports the counts, sums them and reads the sums.
pub(crate) fn reported(by_thread: &BTreeMap<String, f64>) -> f64 {
    by_thread.iter().filter(|(name, _)| name.starts_with("health")).map(|(_, micros)| micros).sum()
}

fn thread_cpu() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux reports a thread's time");
    let nanos = schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("the first field is the time it ran, ns"))
}
