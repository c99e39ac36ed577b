//! How many requests may be under way at once in the process, and how many of them to hosts that are late or silent: these hold their
//! permits for seconds, and a thousand of them would hold all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::promptness::Pace;

/// One in so many is for probes: receivers that hang must not take those of the others, nor wait for them.
const PROBES_OF: usize = 8;
/// One in so many of the rest is for prompt hosts alone.
const PROMPT_OF: usize = 4;
/// One in so many of the rest is for silent hosts at most.
const SILENT_OF: usize = 2;
/// One in so many of those is for a single silent host at most: the others of its kind, new ones among them, get their turn.
const SILENT_HOST_OF: usize = 8;

/// The permits of a process.
pub struct Permits {
    requests: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    late: Share,
    silent: Share,
}

/// How many permits the hosts of a kind hold, and how many they may.
struct Share {
    held: AtomicUsize,
    most: usize,
}

impl Share {
    fn of(most: usize) -> Self {
        Self { held: AtomicUsize::new(0), most: most.max(1) }
    }

    fn try_take(&self) -> bool {
        let more = |held| (held < self.most).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
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
            late: Share::of(rest - rest / PROMPT_OF),
            silent: Share::of(rest / SILENT_OF),
        })
    }

    /// A permit for a request, when there is one.
    pub(crate) async fn request(self: Arc<Self>) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }

    /// A permit for a request, if there is one now.
    pub(crate) fn try_request(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// A permit for a probe, if there is one now.
    pub(crate) fn try_probe(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.probes).try_acquire_owned().ok()
    }

    /// Counts one more permit in the hands of a host of this pace. Returns whether hosts like it may hold one more; a prompt host
    /// always may.
    pub(crate) fn try_take(&self, pace: Pace) -> bool {
        if pace == Pace::Prompt {
            return true;
        }
        if !self.late.try_take() {
            return false;
        }
        let takes = pace == Pace::Late || self.silent.try_take();
        if !takes {
            self.late.held.fetch_sub(1, Ordering::Relaxed);
        }
        takes
    }

    /// A host of this pace gives back so many.
    pub(crate) fn give_back(&self, pace: Pace, count: usize) {
        self.shares(pace).for_each(|share| _ = share.held.fetch_sub(count, Ordering::Relaxed));
    }

    /// A host of so many permits has another pace. Its kind may hold more than its share then, until some are given back.
    pub(crate) fn change(&self, count: usize, from: Pace, to: Pace) {
        self.give_back(from, count);
        self.shares(to).for_each(|share| _ = share.held.fetch_add(count, Ordering::Relaxed));
    }

    /// The shares in which a host of this pace is counted.
    fn shares(&self, pace: Pace) -> impl Iterator<Item = &Share> {
        let late = (pace != Pace::Prompt).then_some(&self.late);
        late.into_iter().chain((pace == Pace::Silent).then_some(&self.silent))
    }

    /// How many requests a host of this pace may have under way, where any host may have `most`.
    pub(crate) fn of_one_host(&self, pace: Pace, most: usize) -> usize {
        if pace == Pace::Silent { most.min((self.silent.most / SILENT_HOST_OF).max(1)) } else { most }
    }

    /// Free permits of requests and of probes, and what late and silent hosts hold.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [usize; 4] {
        let held = |share: &Share| share.held.load(Ordering::Relaxed);
        [self.requests.available_permits(), self.probes.available_permits(), held(&self.late), held(&self.silent)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(permits: &Permits, pace: Pace) -> usize {
        std::iter::repeat_with(|| permits.try_take(pace)).take_while(|taken| *taken).count()
    }

    #[test]
    fn silent_hosts_hold_half_at_most_and_leave_room_for_late_ones() {
        let permits = Permits::new(1024);
        assert_eq!(permits.counts(), [896, 128, 0, 0]);
        assert_eq!((take_all(&permits, Pace::Silent), take_all(&permits, Pace::Late)), (448, 224));
        assert!(permits.try_take(Pace::Prompt));
        permits.give_back(Pace::Late, 224);
        assert!(!permits.try_take(Pace::Silent));
        permits.give_back(Pace::Silent, 448);
        assert_eq!(permits.counts(), [896, 128, 0, 0]);
    }

    #[test]
    fn late_hosts_hold_three_quarters_at_most_and_what_is_refused_is_not_counted() {
        let permits = Permits::new(1024);
        assert_eq!(take_all(&permits, Pace::Late), 672);
        assert!(!permits.try_take(Pace::Silent));
        assert_eq!(permits.counts()[2..], [672, 0]);
    }

    #[test]
    fn what_a_host_holds_is_counted_by_its_pace_as_it_is_now() {
        let permits = Permits::new(1024);
        assert!(permits.try_take(Pace::Prompt) && permits.try_take(Pace::Prompt));
        for (from, to, held) in [
            (Pace::Prompt, Pace::Late, [2, 0]),
            (Pace::Late, Pace::Silent, [2, 2]),
            (Pace::Silent, Pace::Late, [2, 0]),
            (Pace::Late, Pace::Prompt, [0, 0]),
            (Pace::Prompt, Pace::Silent, [2, 2]),
            (Pace::Silent, Pace::Prompt, [0, 0]),
        ] {
            permits.change(2, from, to);
            assert_eq!(permits.counts()[2..], held, "{from:?} {to:?}");
        }
        permits.change(1_000, Pace::Prompt, Pace::Late);
        assert!(!permits.try_take(Pace::Late), "they hold more than their share");
    }

    #[test]
    fn a_process_of_few_requests_serves_every_kind() {
        for max_in_flight in 1..10 {
            let permits = Permits::new(max_in_flight);
            for pace in [Pace::Silent, Pace::Late] {
                let taken = take_all(&permits, pace);
                assert!(taken > 0, "{max_in_flight}, {pace:?}");
                permits.give_back(pace, taken);
            }
            assert_eq!(permits.of_one_host(Pace::Silent, 64), 1);
            let (request, probe) = (permits.try_request(), permits.try_probe());
            assert!(request.is_some());
            assert_eq!(probe.is_some(), max_in_flight > 1, "one permit is for either");
        }
    }

    #[test]
    fn a_silent_host_has_an_eighth_of_what_is_for_its_kind() {
        let permits = Permits::new(1024);
        assert_eq!([Pace::Silent, Pace::Late, Pace::Prompt].map(|pace| permits.of_one_host(pace, 64)), [56, 64, 64]);
        assert_eq!(permits.of_one_host(Pace::Silent, 16), 16);
    }
}
