//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a process needs besides the connections it counts: Kafka's, the admin port's, files, name servers' answers.
const OTHERS: usize = 100;

/// Raises this process's soft limit of open files to its hard one, and logs a warning when that is too low for `connections`.
pub(crate) fn raise_limit(connections: usize) {
    let needed = connections.saturating_add(OTHERS);
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
            "the limit of open files is too low for the connections of this process: some fail when it is reached"
        );
    }
}

/// How many of `wanted` requests may be under way at once: with a third of the open files, so that a second third may be kept
/// connections, and Kafka, probes and names always find room.
pub(crate) fn requests_max(wanted: usize) -> usize {
    let fitting = share_of(limit());
    if fitting < wanted {
        tracing::warn!(wanted, fitting, "fewer requests are made at once, because the limit of open files is too low");
    }
    wanted.min(fitting)
}

fn share_of(limit: usize) -> usize {
    (limit / 3).max(1)
}

/// How many files this process may have open now.
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
        raise_limit(2);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }

    #[test]
    fn requests_take_a_third_of_the_open_files_at_most() {
        assert_eq!([share_of(1024), share_of(2), share_of(usize::MAX) / usize::MAX], [341, 1, 0]);
        assert_eq!(requests_max(1), 1);
    }

    #[test]
    fn a_limit_below_what_is_needed_is_too_low() {
        assert!(is_too_low(1024, 2148));
        assert!(!is_too_low(2148, 2148) && !is_too_low(u64::MAX, 2148));
    }
}
