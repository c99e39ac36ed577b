//! Waiting for a condition, with a deadline and a text that names the condition.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for anything on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Asks `condition` until it gives `Ok`; fails the test after `patience` with what it gave last.
///
/// `Err` holds the state so far, so that a failed test shows it.
#[track_caller]
pub fn wait_until<T, E, F>(what: &str, patience: Duration, mut condition: impl FnMut() -> F) -> impl Future<Output = T>
where
    E: Debug,
    F: Future<Output = Result<T, E>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(instead) => {
                    assert!(
                        Instant::now() < deadline,
                        "waited {patience:?} for {what} (at {caller}); instead there was {instead:?}"
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `Ok` when `actual` is what was wanted; the condition most tests wait for.
///
/// # Errors
/// Gives `actual` back when it is not `wanted`.
pub fn equal<T: PartialEq>(actual: T, wanted: &T) -> Result<T, T> {
    if actual == *wanted { Ok(actual) } else { Err(actual) }
}
