//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process needs beside connections to receivers: Kafka's, the admin port's, files, name servers' answers.
const OTHERS: usize = 100;

/// Raises this process's soft limit of open files to its hard one, and says loudly when that is too low for `in_flight` requests under way and
/// `kept` connections.
pub(crate) fn raise_limit(in_flight: usize, kept: usize) {
    let needed = in_flight.saturating_add(kept).saturating_add(OTHERS);
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files can't be raised");
            before.current
        }
    };
    if let Some(limit) = now.filter(|limit| is_too_low(*limit, needed)) {
        tracing::warn!(
            limit,
            needed,
            "the limit of open files is too low for --max-in-flight: requests fail when it is reached"
        );
    }
}

/// How many this process may have open at present.
pub(crate) fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

fn is_too_low(limit: u64, needed: usize) -> bool {
    usize::try_from(limit).is_ok_and(|limit| limit < needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        raise_limit(1, 1);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }

    #[test]
    fn a_limit_below_what_is_needed_is_too_low() {
        assert!(is_too_low(1024, 2148));
        assert!(!is_too_low(2148, 2148) && !is_too_low(u64::MAX, 2148));
    }
}
