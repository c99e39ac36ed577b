//! States that the code excludes. Reaching one is a defect: a test fails, and in production it is logged and counted instead
//! of passed over in silence.

use super::metrics::INVARIANT_VIOLATIONS;

/// Reports a state that the code excludes; the caller then goes on as well as it can. `what` names the state.
///
/// # Panics
/// In builds with debug assertions, which all tests have.
#[track_caller]
pub(crate) fn never(what: &'static str) {
    debug_assert!(false, "{what}");
    INVARIANT_VIOLATIONS.inc();
    let place = std::panic::Location::caller();
    tracing::error!(what, file = place.file(), line = place.line(), "a state was reached that the code excludes");
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_test_that_reaches_an_excluded_state_fails() {
        let reached = std::panic::catch_unwind(|| super::never("the lane of a request is gone"));
        assert_eq!(reached.unwrap_err().downcast_ref::<String>().unwrap(), "the lane of a request is gone");
    }
}
