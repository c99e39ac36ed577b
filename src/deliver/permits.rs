//! How many requests may be under way at once in the process, and how many of them to webhooks that are late, silent or not known yet.
//! These may hold their permits for seconds: a thousand of them would hold all, and leave none to the others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::promptness::Pace;

/// One permit of this many is for probes: probes of receivers that hang must neither take the permits of other requests nor wait for
/// them.
const PROBES_OF: usize = 8;
/// Of the other permits, late, silent and unknown webhooks may hold one of this many at most, in this order. An eighth is left for prompt
/// webhooks alone.
const SHARES_OF: [usize; KINDS] = [2, 4, 8];
/// How many shares there are.
pub(crate) const KINDS: usize = 3;

/// The index of a pace among the shares. A prompt webhook needs no share.
pub(crate) fn kind_of(pace: Pace) -> Option<usize> {
    match pace {
        Pace::Prompt => None,
        Pace::Late => Some(0),
        Pace::Silent => Some(1),
        Pace::Unknown => Some(2),
    }
}

/// The permits of a process.
pub struct Permits {
    requests: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    shares: [Share; KINDS],
}

/// What webhooks of a kind may hold.
struct Share {
    free: Arc<Semaphore>,
    /// What they hold beyond the share, because webhooks that had permits became of this kind.
    excess: AtomicUsize,
}

impl Share {
    fn of(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most.max(1))), excess: AtomicUsize::new(0) }
    }

    fn try_take(&self, count: usize) -> bool {
        u32::try_from(count).is_ok_and(|count| self.free.try_acquire_many(count).map(SemaphorePermit::forget).is_ok())
    }

    fn take_in_any_case(&self, count: usize) {
        let free = count.min(self.free.available_permits());
        let taken = if self.try_take(free) { free } else { 0 };
        self.excess.fetch_add(count - taken, Ordering::Relaxed);
    }

    fn give_back(&self, count: usize) {
        let less = |excess: usize| Some(excess.saturating_sub(count));
        let excess = self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or(0);
        self.free.add_permits(count - count.min(excess));
    }
}

impl Permits {
    /// For a process that makes `max_in_flight` requests at once. One of very few has the same permits for requests and probes.
    pub fn new(max_in_flight: usize) -> Arc<Self> {
        let probes = if max_in_flight < 2 { 0 } else { (max_in_flight / PROBES_OF).max(1) };
        let rest = max_in_flight - probes;
        let requests = Arc::new(Semaphore::new(rest));
        Arc::new(Self {
            probes: if probes == 0 { Arc::clone(&requests) } else { Arc::new(Semaphore::new(probes)) },
            requests,
            shares: SHARES_OF.map(|of| Share::of(rest / of)),
        })
    }

    /// A permit for a probe, if there is one now.
    pub(crate) fn try_probe(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.probes).try_acquire_owned().ok()
    }

    /// A shard's place in the queue for permits.
    pub(crate) fn queue(&self) -> PermitQueue {
        PermitQueue { of: Arc::clone(&self.requests), waits: None }
    }

    /// A shard's places in the queues for shares.
    pub(crate) fn share_queues(&self) -> [PermitQueue; KINDS] {
        self.shares.each_ref().map(|share| PermitQueue { of: Arc::clone(&share.free), waits: None })
    }

    /// A webhook of this pace gives back `count` of its share.
    pub(crate) fn give_back(&self, pace: Pace, count: usize) {
        if let Some(share) = self.share(pace) {
            share.give_back(count);
        }
    }

    /// A webhook with so many permits has another pace. Its kind may hold more than its share then, until some are given back.
    pub(crate) fn change(&self, count: usize, from: Pace, to: Pace) {
        if let Some(share) = self.share(to) {
            share.take_in_any_case(count);
        }
        self.give_back(from, count);
    }

    /// The same, unless its new kind would hold more than its share. Returns whether it has that pace.
    pub(crate) fn try_change(&self, count: usize, from: Pace, to: Pace) -> bool {
        let takes = self.share(to).is_none_or(|share| share.try_take(count));
        if takes {
            self.give_back(from, count);
        }
        takes
    }

    fn share(&self, pace: Pace) -> Option<&Share> {
        self.shares.get(kind_of(pace)?)
    }

    /// Free permits of requests, of probes, and of each share, less what is held beyond it.
    #[cfg(test)]
    pub(crate) fn free(&self) -> [isize; 2 + KINDS] {
        let count = |semaphore: &Semaphore| isize::try_from(semaphore.available_permits()).unwrap();
        let left = |share: &Share| count(&share.free) - isize::try_from(share.excess.load(Ordering::Relaxed)).unwrap();
        let [late, silent, unknown] = self.shares.each_ref().map(left);
        [count(&self.requests), count(&self.probes), late, silent, unknown]
    }
}

type Waits = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A place in the queue for permits, kept while it is wanted: shards get them in the order in which they came.
pub(crate) struct PermitQueue {
    of: Arc<Semaphore>,
    waits: Option<Waits>,
}

impl PermitQueue {
    /// A permit, if it is there or comes to this place now.
    pub(crate) fn take_now(&mut self) -> Option<OwnedSemaphorePermit> {
        let Some(waits) = &mut self.waits else { return Arc::clone(&self.of).try_acquire_owned().ok() };
        let came = waits.now_or_never()?;
        self.waits = None;
        came.ok()
    }

    /// Gives up the place, and what came to it.
    pub(crate) fn leave(&mut self) {
        self.waits = None;
    }

    /// Ready with a permit that comes to this place. If no permit is wanted, the place is given up.
    pub(crate) fn poll_wanted(
        &mut self,
        is_wanted: bool,
        context: &mut Context<'_>,
    ) -> Poll<Option<OwnedSemaphorePermit>> {
        if !is_wanted {
            self.leave();
            return Poll::Pending;
        }
        let of = &self.of;
        let waits = self.waits.get_or_insert_with(|| Box::pin(Arc::clone(of).acquire_owned()));
        let came = ready!(waits.as_mut().poll(context));
        self.waits = None;
        Poll::Ready(came.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(permits: &Permits, pace: Pace) -> usize {
        let mut queue = permits.share_queues().into_iter().nth(kind_of(pace).unwrap()).unwrap();
        std::iter::from_fn(|| queue.take_now()).map(OwnedSemaphorePermit::forget).count()
    }

    #[test]
    fn each_kind_has_a_share_of_its_own_and_an_eighth_is_left_to_prompt_ones() {
        let permits = Permits::new(1024);
        assert_eq!(permits.free(), [896, 128, 448, 224, 112]);
        assert_eq!([Pace::Late, Pace::Silent, Pace::Unknown].map(|pace| take_all(&permits, pace)), [448, 224, 112]);
        permits.give_back(Pace::Late, 448);
        permits.give_back(Pace::Silent, 224);
        permits.give_back(Pace::Unknown, 112);
        permits.give_back(Pace::Prompt, 5);
        assert_eq!(permits.free(), [896, 128, 448, 224, 112]);
    }

    #[test]
    fn what_a_webhook_holds_is_counted_by_its_pace_as_it_is_now() {
        let permits = Permits::new(1024);
        for (from, to, free) in [
            (Pace::Prompt, Pace::Late, [448 - 300, 224, 112]),
            (Pace::Late, Pace::Silent, [448, 224 - 300, 112]),
            (Pace::Silent, Pace::Late, [448 - 300, 224, 112]),
            (Pace::Late, Pace::Prompt, [448, 224, 112]),
        ] {
            permits.change(300, from, to);
            assert_eq!(permits.free()[2..], free, "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_kind_that_holds_more_than_its_share_gives_back_that_first() {
        let permits = Permits::new(1024);
        permits.change(230, Pace::Prompt, Pace::Silent);
        assert_eq!(take_all(&permits, Pace::Silent), 0);
        permits.give_back(Pace::Silent, 6);
        assert_eq!(take_all(&permits, Pace::Silent), 0);
        permits.give_back(Pace::Silent, 1);
        assert_eq!(take_all(&permits, Pace::Silent), 1);
    }

    #[test]
    fn unknown_ones_become_silent_only_as_far_as_the_share_of_those_reaches() {
        let permits = Permits::new(1024);
        assert!(permits.try_change(100, Pace::Unknown, Pace::Silent));
        assert!(permits.try_change(100, Pace::Unknown, Pace::Silent));
        let before = permits.free();
        assert!(!permits.try_change(100, Pace::Unknown, Pace::Silent));
        assert_eq!(permits.free(), before);
    }

    #[test]
    fn a_process_of_few_requests_serves_every_kind() {
        for max_in_flight in 1..10 {
            let permits = Permits::new(max_in_flight);
            for pace in [Pace::Late, Pace::Silent, Pace::Unknown] {
                assert!(take_all(&permits, pace) > 0, "{max_in_flight}, {pace:?}");
            }
            let (request, probe) = (permits.queue().take_now(), permits.try_probe());
            assert!(request.is_some());
            assert_eq!(probe.is_some(), max_in_flight > 1, "one permit is for either");
        }
    }

    #[tokio::test]
    async fn a_place_that_waits_is_served_before_what_comes_later_and_given_up_when_it_is_not_wanted() {
        let permits = Permits::new(1);
        let (mut first, mut second) = (permits.queue(), permits.queue());
        let held = first.take_now().unwrap();
        let poll = |queue: &mut PermitQueue, is_wanted| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            queue.poll_wanted(is_wanted, &mut context)
        };
        assert!(poll(&mut first, true).is_pending());
        drop(held);
        assert!(second.take_now().is_none(), "it is the first one's");
        let held = first.take_now().unwrap();
        assert!(poll(&mut first, true).is_pending());
        drop(held);
        assert!(poll(&mut first, false).is_pending());
        assert!(second.take_now().is_some());
    }
}
