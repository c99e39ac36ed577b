//! What shards wait for, each at its turn: permits for its lanes, and places in the shares. Nothing here starts a request.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use tokio::sync::OwnedSemaphorePermit;

use crate::deliver::permits::{KINDS, PermitQueue, Permits};

/// Lanes of a kind that wait until webhooks like theirs hold less than their share of all permits.
pub(super) struct HeldBack {
    pub(super) lanes: VecDeque<usize>,
    queue: PermitQueue,
    /// The place that came for the first of them.
    share: Option<OwnedSemaphorePermit>,
}

impl HeldBack {
    /// The first lane and its place in the share, if there is one now.
    pub(super) fn wake(&mut self) -> Option<(usize, OwnedSemaphorePermit)> {
        if self.lanes.is_empty() {
            return None;
        }
        let share = self.share.take().or_else(|| self.queue.take_now())?;
        self.lanes.pop_front().map(|lane| (lane, share))
    }
}

/// What a shard waits for at its turn: permits, and places in the shares.
pub(super) struct PermitWaits {
    pub(super) queue: PermitQueue,
    /// A permit that came while runnable lanes waited for one.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    pub(super) held_back: [HeldBack; KINDS],
}

impl PermitWaits {
    pub(super) fn new(permits: &Permits) -> Self {
        let held_back = |queue| HeldBack { lanes: VecDeque::new(), queue, share: None };
        Self { queue: permits.queue(), permit: None, held_back: permits.share_queues().map(held_back) }
    }

    /// A place in the share of a kind, if there is one now. Lanes that wait come before one that does not.
    pub(super) fn take_share(&mut self, kind: usize) -> Option<OwnedSemaphorePermit> {
        let held_back = self.held_back.get_mut(kind).filter(|held_back| held_back.lanes.is_empty())?;
        held_back.queue.take_now()
    }

    /// Gives back what this shard has and no lane of it needs: other shards may need it.
    pub(super) fn give_back_unused(&mut self, wants_permit: bool) {
        if !wants_permit {
            self.permit = None;
            self.queue.leave();
        }
        for held_back in self.held_back.iter_mut().filter(|held_back| held_back.lanes.is_empty()) {
            held_back.share = None;
            held_back.queue.leave();
        }
    }

    /// Ready when a permit or a place in a share came. `wants_permit`: a lane can't run without a permit.
    pub(super) fn poll(&mut self, wants_permit: bool, context: &mut Context<'_>) -> Poll<()> {
        let mut came = false;
        if let Poll::Ready(permit) = self.queue.poll_wanted(wants_permit && self.permit.is_none(), context) {
            (self.permit, came) = (permit, true);
        }
        for held_back in &mut self.held_back {
            let wants_share = held_back.share.is_none() && !held_back.lanes.is_empty();
            if let Poll::Ready(share) = held_back.queue.poll_wanted(wants_share, context) {
                (held_back.share, came) = (share, true);
            }
        }
        if came { Poll::Ready(()) } else { Poll::Pending }
    }
}
