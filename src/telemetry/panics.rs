//! Panics of a library that are expected and caught. They are not logged.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns. `None` where the library behind it panics, which is not logged.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = EXPECTED.replace(true);
    let given = catch_unwind(AssertUnwindSafe(call)).ok();
    EXPECTED.set(before);
    given
}

/// Whether a panic of this thread would be caught by [`caught`].
pub(crate) fn is_expected() -> bool {
    EXPECTED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_only_while_it_would_be_caught() {
        let seen = caught(is_expected);
        assert_eq!((seen, is_expected()), (Some(true), false));
        assert_eq!(caught(|| std::panic::resume_unwind(Box::new("a library"))), None::<()>);
        assert!(!is_expected());
    }
}
