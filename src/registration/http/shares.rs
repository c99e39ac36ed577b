//! Places for work that takes long, with a share of them for each workspace: so the work of one customer keeps no other's out. What the
//! work is stands elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Places of one kind of work in this process.
pub(crate) struct Shares {
    /// What the work is called, in the plural.
    what: &'static str,
    /// Places in all.
    total: usize,
    /// Places of one workspace, at most.
    each: usize,
    /// Places taken, by workspace: at most `total` entries, because a workspace without any has none.
    taken: Mutex<HashMap<String, usize>>,
    freed: Notify,
}

/// A place, until it is dropped.
pub(crate) struct Share {
    of: Arc<Shares>,
    workspace: String,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// The workspace has its share.
    #[error("{each} {what} of this workspace are under way, and it has no more places")]
    Share { what: &'static str, each: usize },
    /// All workspaces together have every place.
    #[error("{total} {what} are under way, and there are no more places")]
    All { what: &'static str, total: usize },
}

impl Shares {
    /// `total` places for `what`, of which one workspace gets at most `each`.
    pub(crate) fn new(what: &'static str, total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { what, total, each, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a place for the workspace.
    ///
    /// # Errors
    /// [`NoPlace`] if there is none now.
    pub(crate) fn try_take(self: &Arc<Self>, workspace: &str) -> Result<Share, NoPlace> {
        let mut taken = self.taken.lock();
        let of_it = taken.get(workspace).copied().unwrap_or(0);
        if of_it >= self.each {
            return Err(NoPlace::Share { what: self.what, each: self.each });
        }
        if taken.values().sum::<usize>() >= self.total {
            return Err(NoPlace::All { what: self.what, total: self.total });
        }
        taken.insert(workspace.to_owned(), of_it + 1);
        Ok(Share { of: Arc::clone(self), workspace: workspace.to_owned() })
    }

    /// As [`Shares::try_take`], waiting for a place. It waits for as long as it is polled.
    pub(crate) async fn take(self: &Arc<Self>, workspace: &str) -> Share {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on a place that is freed is noticed.
            freed.as_mut().enable();
            if let Ok(share) = self.try_take(workspace) {
                return share;
            }
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        match taken.get_mut(&self.workspace) {
            Some(of_it) if *of_it > 1 => *of_it -= 1,
            _ => {
                taken.remove(&self.workspace);
            }
        }
        drop(taken);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_workspace_with_its_share_keeps_no_other_out_and_all_together_are_bounded() {
        let shares = Shares::new("tests", 3, 2);
        let full = NoPlace::Share { what: "tests", each: 2 };
        let mut of_a = vec![shares.try_take("a").unwrap(), shares.try_take("a").unwrap()];
        assert_eq!(shares.try_take("a").err(), Some(full));
        let of_b = shares.try_take("b").unwrap();
        assert_eq!(shares.try_take("b").err(), Some(NoPlace::All { what: "tests", total: 3 }));
        drop(of_b);
        assert_eq!(shares.try_take("a").err(), Some(full), "a place of another is not its own");
        of_a.pop();
        of_a.push(shares.try_take("a").unwrap());
        drop(of_a);
        assert!(shares.taken.lock().is_empty(), "nothing is kept of a workspace without work");
        assert_eq!(full.to_string(), "2 tests of this workspace are under way, and it has no more places");
    }

    #[test]
    fn a_place_that_is_freed_goes_to_one_that_waits() {
        let shares = Shares::new("scans", 1, 1);
        let first = shares.try_take("a").unwrap();
        let mut waiting = pin!(shares.take("b"));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
}
