//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process needs beside the connections it counts: Kafka's, the admin port's, files, name servers' answers.
const OTHERS: usize = 100;

/// Raises this process's soft limit of open files to its hard one, and says loudly when that is too low for so many `connections`.
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
        raise_limit(2);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }

    #[test]
    fn a_limit_below_what_is_needed_is_too_low() {
        assert!(is_too_low(1024, 2148));
        assert!(!is_too_low(2148, 2148) && !is_too_low(u64::MAX, 2148));
    }
}
