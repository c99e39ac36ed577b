//! The circuit of one webhook, or of one host: after repeated failures no requests but a probe now and then.
//!
//! The owner decides what counts as a failure, and what closes it.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it: more than one delivery's whole schedule of eight, so that a single event that its
/// receiver never takes does not put off the others, and few enough that a dead host costs little.
const FAILURES_TO_OPEN: u32 = 20;
/// The first wait for a probe; it doubles up to the longest.
const PROBE_AFTER_MIN: Duration = Duration::from_secs(1);
/// The contract's: probes begin at least every ten seconds.
const PROBE_AFTER_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    /// `probing`: since when a probe is out.
    Open {
        probe_at: Instant,
        wait: Duration,
        probing: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Circuit(State);

impl Default for Circuit {
    fn default() -> Self {
        Self(State::Closed { failures: 0 })
    }
}

impl Circuit {
    /// Whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.0, State::Open { .. })
    }

    /// Whether it is open and a probe may begin.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        match self.0 {
            State::Closed { .. } => false,
            State::Open { probe_at, probing: None, .. } => now >= probe_at,
            // A probe that takes longer does not hold up the next one.
            State::Open { probing: Some(since), .. } => now.saturating_duration_since(since) >= PROBE_AFTER_MAX,
        }
    }

    /// A probe begins. Its end must be reported. `None` where the circuit is closed.
    pub(crate) fn begin_probe(&mut self, now: Instant) {
        if let State::Open { probing, .. } = &mut self.0 {
            *probing = Some(now);
        }
    }

    /// Lets the next probe begin at once.
    pub(crate) fn make_due(&mut self, now: Instant) {
        if let State::Open { probe_at, .. } = &mut self.0 {
            *probe_at = now;
        }
    }

    /// Closes it. Returns whether it was open.
    pub(crate) fn close(&mut self) -> bool {
        let was_open = self.is_open();
        self.0 = State::Closed { failures: 0 };
        was_open
    }

    /// A request failed. Returns whether this opened it.
    pub(crate) fn failed(&mut self, probe: bool, now: Instant) -> bool {
        match &mut self.0 {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < FAILURES_TO_OPEN {
                    return false;
                }
                self.0 = State::Open { probe_at: now + PROBE_AFTER_MIN, wait: PROBE_AFTER_MIN, probing: None };
                true
            }
            State::Open { probe_at, wait, probing } => {
                // Requests from before it opened end late; only the probe's own end moves the next one.
                if probe {
                    *wait = (*wait * 2).min(PROBE_AFTER_MAX);
                    *probe_at = probing.take().unwrap_or(now) + *wait;
                }
                false
            }
        }
    }

    /// A probe was given up without an outcome: the next delivery may try.
    pub(crate) fn probe_abandoned(&mut self) {
        if let State::Open { probing, .. } = &mut self.0 {
            *probing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 1..FAILURES_TO_OPEN {
            assert!(!circuit.failed(false, Instant::now()));
            assert!(!circuit.is_open());
        }
        assert!(circuit.failed(false, Instant::now()));
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_only() {
        let mut circuit = Circuit::default();
        for _ in 0..FAILURES_TO_OPEN * 3 {
            circuit.failed(false, Instant::now());
            circuit.close();
        }
        assert!(!circuit.is_open());
        assert!(open().is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_come_one_at_a_time_and_at_least_every_ten_seconds() {
        let mut circuit = open();
        assert!(!circuit.is_due(Instant::now()));
        for expected in [1, 2, 4, 8, 10, 10, 10] {
            tokio::time::advance(Duration::from_millis(expected * 1000 - 1)).await;
            assert!(!circuit.is_due(Instant::now()));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(circuit.is_due(Instant::now()));
            circuit.begin_probe(Instant::now());
            assert!(!circuit.is_due(Instant::now()), "one probe at a time");
            circuit.failed(true, Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_take_long_do_not_put_the_next_off() {
        let mut circuit = open();
        tokio::time::advance(PROBE_AFTER_MIN).await;
        // Eight seconds each until the time-out, then longer than the longest wait.
        for (took, rest) in [(8, 0), (8, 0), (8, 0), (8, 2), (8, 2)] {
            assert!(circuit.is_due(Instant::now()));
            circuit.begin_probe(Instant::now());
            tokio::time::advance(Duration::from_secs(took)).await;
            assert!(!circuit.is_due(Instant::now()));
            circuit.failed(true, Instant::now());
            tokio::time::advance(Duration::from_secs(rest)).await;
        }
        assert!(circuit.is_due(Instant::now()));
        circuit.begin_probe(Instant::now());
        tokio::time::advance(PROBE_AFTER_MAX).await;
        assert!(circuit.is_due(Instant::now()), "the one before is still out");
        circuit.begin_probe(Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        circuit.failed(true, Instant::now());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!circuit.is_due(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(circuit.is_due(Instant::now()));
        circuit.begin_probe(Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn one_acknowledgement_closes_it() {
        let mut circuit = open();
        tokio::time::advance(PROBE_AFTER_MIN).await;
        assert!(circuit.is_due(Instant::now()));
        circuit.begin_probe(Instant::now());
        assert!(circuit.close());
        assert!(!circuit.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn late_failures_of_older_requests_do_not_put_the_probe_off() {
        let mut circuit = open();
        tokio::time::advance(PROBE_AFTER_MIN).await;
        assert!(!circuit.failed(false, Instant::now()));
        assert!(circuit.is_due(Instant::now()));
        circuit.begin_probe(Instant::now());
        circuit.probe_abandoned();
        assert!(circuit.is_due(Instant::now()), "an abandoned probe is made again");
        circuit.begin_probe(Instant::now());
    }
}
