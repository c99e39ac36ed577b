//! Limits repeated log lines: a text is logged once, and later with the number of its repeats.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A text is logged once in this time, unless another time is given; repeats are counted.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Distinct texts that are remembered.
const DISTINCT_MAX: usize = 64;

/// The texts that were logged lately.
#[derive(Debug)]
pub(crate) struct Repeats {
    seen: Mutex<HashMap<String, (Instant, u32)>>,
    after: Duration,
}

impl Default for Repeats {
    fn default() -> Self {
        Self::every(REPEAT_AFTER)
    }
}

impl Repeats {
    /// Leaves at least `after` between two lines with the same text.
    pub(crate) fn every(after: Duration) -> Self {
        Self { seen: Mutex::default(), after }
    }

    /// How often the text was held back since it was last written. `None` if it is held back now.
    pub(crate) fn of(&self, text: &str) -> Option<u32> {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        if let Some((written, held_back)) = seen.get_mut(text) {
            if now.saturating_duration_since(*written) < self.after {
                *held_back += 1;
                return None;
            }
            let repeats = *held_back;
            (*written, *held_back) = (now, 0);
            return Some(repeats);
        }
        if seen.len() >= DISTINCT_MAX {
            seen.clear();
        }
        seen.insert(text.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_repeated_text_is_held_back_and_counted() {
        let repeats = Repeats::default();
        assert_eq!(
            (repeats.of("a"), repeats.of("a"), repeats.of("b"), repeats.of("a")),
            (Some(0), None, Some(0), None)
        );
        tokio::time::advance(REPEAT_AFTER).await;
        assert_eq!((repeats.of("a"), repeats.of("a")), (Some(2), None));
        for number in 0..DISTINCT_MAX * 3 {
            assert_eq!(repeats.of(&number.to_string()), Some(0));
        }
        assert!(repeats.seen.lock().len() <= DISTINCT_MAX);
    }
}
