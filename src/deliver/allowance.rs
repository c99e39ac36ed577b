//! How many requests a webhook gets at a time: the configured limit, and fewer while its receiver says that this is too many.
//!
//! A fixed limit is too high for some receivers and too low for others. Receivers with a limit of their own say so with 429 or 503. Then
//! the allowance shrinks by a quarter, at most once for all requests that were under way together, and grows again with what is
//! acknowledged: additive increase and multiplicative decrease, as TCP (RFC 5681) does and Vector's adaptive concurrency after it. A
//! time-out or a refused connection says that a receiver is broken and not busy: the circuit counts them.

use std::time::Duration;

use tokio::time::Instant;

/// What is left after a cut.
const CUT: f64 = 0.75;
/// An acknowledgement adds this part of a request, or [`GROWTH_OF_ONE`] of an allowance of one, whichever is more. It takes
/// four to eight times the allowance in acknowledgements to grow by one request, so a request that probes the limit and
/// fails is rare.
const GROWTH: f64 = 1.0 / 32.0;
/// See [`GROWTH`].
const GROWTH_OF_ONE: f64 = 1.0 / 8.0;

/// This long after the last cut, an acknowledgement with nothing waiting lifts the restriction: with little traffic it could
/// not grow back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// How a request ended, as far as it says how many the receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was acknowledged.
    Acknowledged,
    /// The receiver said that it has too much to do.
    Overloaded,
    /// It ended in another way, which says nothing about the limit.
    Other,
}

/// A request that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// When it began.
    pub(crate) began: Instant,
    /// How many were under way, itself included.
    pub(crate) in_flight: usize,
    /// Whether more waits that could be sent.
    pub(crate) more_wait: bool,
}

/// What became of an allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was the limit and is less.
    Restricted,
    /// It is the limit again.
    Restored,
    /// Neither.
    None,
}

/// The allowance of one webhook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    limit: usize,
    /// `None` while the allowance is the limit.
    reduced: Option<Reduced>,
}

#[derive(Clone, Copy, Debug)]
struct Reduced {
    to: f64,
    at: Instant,
    /// Nothing has been acknowledged since the cut. A busy receiver refuses faster than it works: if each refusal started the
    /// next request at once, refusals in a row would open the circuit.
    holds: bool,
}

impl Allowance {
    /// `limit` requests at a time, until the receiver says that it is too many.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, reduced: None }
    }

    /// Requests that may be under way now. 0 right after a cut, until one is acknowledged or all have ended.
    pub(crate) fn requests(&self) -> usize {
        if self.reduced.is_some_and(|reduced| reduced.holds) { 0 } else { self.size() }
    }

    /// Requests that may be under way at a time.
    pub(crate) fn size(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to the limit")]
        self.reduced.map_or(self.limit, |reduced| reduced.to as usize)
    }

    /// Whether it is less than the limit.
    pub(crate) fn is_restricted(&self) -> bool {
        self.reduced.is_some()
    }

    /// A request of those under way ended.
    pub(crate) fn ended(&mut self, ending: Ending, request: Request, now: Instant) -> Change {
        let change = match ending {
            Ending::Acknowledged => self.grow(request, now),
            Ending::Overloaded => self.cut(request, now),
            Ending::Other => Change::None,
        };
        if let Some(reduced) = &mut self.reduced {
            reduced.holds &= request.in_flight > 1;
        }
        change
    }

    fn grow(&mut self, request: Request, now: Instant) -> Change {
        let Some(reduced) = &mut self.reduced else { return Change::None };
        reduced.holds = false;
        if !request.more_wait {
            // Less comes than is allowed, so the old limit says nothing about the time when more comes.
            if now.saturating_duration_since(reduced.at) < FORGOTTEN_AFTER {
                return Change::None;
            }
            self.reduced = None;
            return Change::Restored;
        }
        // An allowance that is not used up does not grow.
        if as_float(request.in_flight) < reduced.to.floor() {
            return Change::None;
        }
        reduced.to += GROWTH.max(GROWTH_OF_ONE / reduced.to);
        if reduced.to < as_float(self.limit) {
            return Change::None;
        }
        self.reduced = None;
        Change::Restored
    }

    fn cut(&mut self, request: Request, now: Instant) -> Change {
        // It began before the last cut and says nothing about what is left.
        if self.reduced.is_some_and(|reduced| request.began < reduced.at) {
            return Change::None;
        }
        let before = self.reduced.map_or(as_float(self.limit), |reduced| reduced.to);
        let to = (before.min(as_float(request.in_flight)) * CUT).max(1.0);
        if to >= as_float(self.limit) {
            return Change::None;
        }
        match self.reduced.replace(Reduced { to, at: now, holds: true }) {
            None => Change::Restricted,
            Some(_) => Change::None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests under way are few")]
fn as_float(requests: usize) -> f64 {
    requests as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(20);

    fn one_of(in_flight: usize) -> Request {
        Request { began: Instant::now() - TOOK, in_flight, more_wait: true }
    }

    fn overloaded(allowance: &mut Allowance, in_flight: usize) -> Change {
        allowance.ended(Ending::Overloaded, one_of(in_flight), Instant::now())
    }

    fn acknowledged(allowance: &mut Allowance, in_flight: usize) -> Change {
        allowance.ended(Ending::Acknowledged, one_of(in_flight), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_were_under_way_together_cut_it_once() {
        let mut allowance = Allowance::new(16);
        tokio::time::advance(TOOK).await;
        assert_eq!(overloaded(&mut allowance, 16), Change::Restricted);
        for in_flight in (5..16).rev() {
            assert_eq!(overloaded(&mut allowance, in_flight), Change::None);
        }
        assert_eq!(allowance.requests(), 0, "four are at work: one of them is awaited");
        acknowledged(&mut allowance, 4);
        assert_eq!(allowance.requests(), 12);
        tokio::time::advance(TOOK).await;
        overloaded(&mut allowance, 12);
        acknowledged(&mut allowance, 4);
        assert_eq!(allowance.requests(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_no_acknowledgement_when_no_request_is_left() {
        for last in [Ending::Overloaded, Ending::Other] {
            let mut allowance = Allowance::new(16);
            overloaded(&mut allowance, 2);
            assert_eq!(allowance.requests(), 0);
            allowance.ended(last, one_of(1), Instant::now());
            assert_eq!(allowance.requests(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_cut_from_what_was_under_way_and_never_below_one() {
        let mut allowance = Allowance::new(256);
        for in_flight in [8, 4, 1, 1, 1] {
            tokio::time::advance(TOOK).await;
            overloaded(&mut allowance, in_flight);
        }
        assert!(allowance.is_restricted());
        assert_eq!(allowance.requests(), 1);
        let mut one = Allowance::new(1);
        assert_eq!(overloaded(&mut one, 1), Change::None);
        assert_eq!(one.requests(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_with_what_is_acknowledged_at_the_limit_and_only_then() {
        let mut allowance = Allowance::new(8);
        overloaded(&mut allowance, 8);
        for _ in 0..1_000 {
            assert_eq!(acknowledged(&mut allowance, 5), Change::None);
        }
        assert_eq!(allowance.requests(), 6);
        let restored = (1..1_000).find(|_| {
            let requests = allowance.requests();
            acknowledged(&mut allowance, requests) == Change::Restored
        });
        assert_eq!((restored, allowance.requests(), allowance.is_restricted()), (Some(64), 8, false));
    }

    #[tokio::test(start_paused = true)]
    async fn with_little_to_send_it_is_forgotten_in_time() {
        let mut allowance = Allowance::new(16);
        assert_eq!(overloaded(&mut allowance, 1), Change::Restricted);
        assert_eq!(allowance.requests(), 1);
        let mut alone = || {
            let request = Request { more_wait: false, ..one_of(1) };
            allowance.ended(Ending::Acknowledged, request, Instant::now())
        };
        tokio::time::advance(FORGOTTEN_AFTER.saturating_sub(TOOK)).await;
        assert_eq!(alone(), Change::None);
        tokio::time::advance(TOOK).await;
        assert_eq!(alone(), Change::Restored);
        assert_eq!(allowance.requests(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_eight_at_a_time_refuses_few_and_is_kept_busy() {
        let (mut allowance, mut taken, mut refused) = (Allowance::new(16), 0, 0);
        for _ in 0..1_000 {
            tokio::time::advance(TOOK).await;
            let requests = allowance.requests();
            for number in (0..requests).rev() {
                if number < 8 {
                    acknowledged(&mut allowance, requests);
                    taken += 1;
                } else {
                    overloaded(&mut allowance, requests);
                    refused += 1;
                }
            }
        }
        assert!(taken > 6_500, "of 8,000: {taken}");
        assert!(refused * 40 < taken, "{refused} beside {taken}");
    }
}
