//! Resolves names to addresses: caches answers, shares a look-up between the requests that wait for it, and uses an expired answer
//! while there is no newer one. [`super::dns`] looks a name up.
//!
//! Both families are asked for at once. When one has come, the other is waited for only a moment; it joins the answer when it comes.
//! A known name is answered without waiting: it is asked for again before its answer expires. A look-up for which no request waits
//! any more is given up, unless it renews an answer.
//!
//! Wait-for arrows: requests wait for a look-up; a look-up waits for name servers.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lookup::{Family, Lookup, LookupError, Records};

/// The shortest time that an answer is used, even if its zone says less: so a name is not asked for with every request.
const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time that an answer is used, even if its zone says more: so a receiver that moves is followed within minutes.
const TTL_MAX: Duration = Duration::from_mins(5);
/// How long a failure is used: long enough to spare the name server, short enough not to be noticed.
const NEGATIVE_TTL: Duration = Duration::from_secs(2);
/// How long an expired answer may still be used while no newer one comes: a day, as RFC 8767 recommends, outlasts most outages.
const STALE_MAX: Duration = Duration::from_hours(24);
/// How long a newer answer is waited for where there is an expired one. Most name servers answer within it.
const STALE_PATIENCE: Duration = Duration::from_millis(100);
/// How long an expired answer is used before a newer one is asked for again.
const STALE_TTL: Duration = Duration::from_secs(2);
/// An answer is renewed in the last fifth of its time, if it is asked for then.
const RENEW_IN_LAST: u32 = 5;
/// How long the second family is waited for when the first has come, as RFC 8305 recommends.
const SECOND_FAMILY: Duration = Duration::from_millis(50);
/// Longer than any request waits: a later answer is useless.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Look-ups at once.
const LOOKUPS_MAX: usize = 1024;
/// Sockets of a look-up: three tries of two families at two name servers, and some room.
const SOCKETS_EACH: usize = 16;
/// Beyond the bound the oldest look-up gives way to a new one, if it has run for this long: a name server that works has answered
/// by then.
const GIVES_WAY_AFTER: Duration = Duration::from_millis(250);
/// Names remembered, in each of two generations.
const GENERATION_MAX: usize = 16_384;
/// Addresses kept of one answer, more than any honest one has. Each of them is checked: a longer answer is a failure.
const ADDRESSES_MAX: usize = 64;

/// The result of a look-up.
pub(crate) type Answer = Result<Resolved, ResolveError>;

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Never empty.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// Until when they need not be asked for again.
    pub(crate) until: Instant,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The name servers say so.
    #[error("no such name")]
    NoSuchName,
    /// No server answered: the name may well have addresses.
    #[error("{0}")]
    Unanswered(Arc<str>),
    /// The answer is empty.
    #[error("the name has no addresses")]
    Empty,
    /// The answer is longer than [`ADDRESSES_MAX`].
    #[error("the name has more than {ADDRESSES_MAX} addresses")]
    TooMany,
    /// As many look-ups as allowed are under way, and none of them is old enough to be given up.
    #[error("too many names are being looked up")]
    Busy,
}

/// Resolves names, and remembers the answers. Cheap to clone: clones share all of it.
#[derive(Clone)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Box<Lookup>,
    lookups_max: usize,
    state: Mutex<State>,
    /// Owns the look-ups. They end by themselves, within [`LOOKUP_MAX`].
    lookups: TaskTracker,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// The look-ups under way in the order in which they began.
    running: BTreeMap<u64, Running>,
    begun: u64,
}

struct Running {
    since: Instant,
    gives_way: CancellationToken,
}

/// A look-up.
struct Job {
    number: u64,
    name: Arc<str>,
    /// Sent as soon as there is an answer to use. The second family may still come after that.
    sender: watch::Sender<Option<Answer>>,
    gives_way: CancellationToken,
    /// It renews an answer, so it goes on although no request waits for it.
    is_renewal: bool,
}

/// What is known of a name.
#[derive(Clone, Default)]
struct CachedName {
    /// The last answer.
    settled: Option<Settled>,
    /// The last good answer and until when it may be used, for as long as no newer one comes.
    stale: Option<(Arc<[IpAddr]>, Instant)>,
    /// The look-up under way, if one is.
    pending: Option<watch::Sender<Option<Answer>>>,
}

#[derive(Clone)]
struct Settled {
    answer: Result<Arc<[IpAddr]>, ResolveError>,
    renew_from: Instant,
    until: Instant,
}

/// Two generations of names: a full young one becomes the old one, and names that were not asked for since are forgotten.
#[derive(Default)]
struct Cache {
    young: HashMap<Arc<str>, CachedName>,
    old: HashMap<Arc<str>, CachedName>,
}

impl Cache {
    fn entry(&mut self, name: &str) -> &mut CachedName {
        if !self.young.contains_key(name) {
            if self.young.len() >= GENERATION_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            let known = self.old.remove(name).unwrap_or_default();
            self.young.insert(name.into(), known);
        }
        self.young.entry(name.into()).or_default()
    }
}

impl CachedName {
    /// The answer to give while it is fresh. An older good one is given where the newer one only says that no server answered.
    fn fresh(&self, now: Instant) -> Option<Answer> {
        let Settled { answer, until, .. } = self.settled.as_ref().filter(|settled| now < settled.until)?;
        let of = |addresses: &Arc<[IpAddr]>| Resolved { addresses: Arc::clone(addresses), until: *until };
        Some(match (answer, self.stale(now)) {
            (Err(ResolveError::Unanswered(_) | ResolveError::Busy), Some(stale)) => Ok(of(&stale)),
            (answer, _) => answer.as_ref().map(of).map_err(Clone::clone),
        })
    }

    fn stale(&self, now: Instant) -> Option<Arc<[IpAddr]>> {
        self.stale.as_ref().filter(|(_, until)| now < *until).map(|(addresses, _)| Arc::clone(addresses))
    }

    /// Whether the last look-up got no answer.
    fn is_unanswered(&self) -> bool {
        matches!(self.settled, Some(Settled { answer: Err(ResolveError::Unanswered(_) | ResolveError::Busy), .. }))
    }

    /// Ends the look-up of `sender`, if it is the pending one.
    fn end(&mut self, sender: &watch::Sender<Option<Answer>>) {
        if self.pending.as_ref().is_some_and(|pending| pending.same_channel(sender)) {
            self.pending = None;
        }
    }

    fn is_to_renew(&self, now: Instant) -> bool {
        self.settled.as_ref().is_none_or(|settled| now >= settled.renew_from)
    }
}

enum Step {
    Use(Answer),
    Wait { flight: watch::Receiver<Option<Answer>>, stale: Option<Arc<[IpAddr]>> },
}

impl Resolver {
    /// A resolver that asks as this machine is set up: its hosts file, then its name servers.
    pub(crate) fn system() -> Self {
        // They must not take the descriptors of the connections that they are for.
        let lookups_max = (super::descriptors::limit() / SOCKETS_EACH / 2).clamp(1, LOOKUPS_MAX);
        Self::bounded(super::dns::system(), lookups_max)
    }

    /// A resolver that knows these names and no others.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn fixed(names: HashMap<String, Vec<IpAddr>>) -> Self {
        Self::with(Box::new(move |name, family| {
            let found = names.get(&*name).map(|addresses| Records {
                addresses: addresses.iter().copied().filter(|address| family.holds(*address)).collect(),
                ttl: TTL_MAX,
            });
            Box::pin(std::future::ready(found.ok_or(LookupError::NoSuchName)))
        }))
    }

    /// A resolver that asks `lookup`.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn with(lookup: Box<Lookup>) -> Self {
        Self::bounded(lookup, LOOKUPS_MAX)
    }

    fn bounded(lookup: Box<Lookup>, lookups_max: usize) -> Self {
        let (state, lookups) = (Mutex::default(), TaskTracker::new());
        Self { shared: Arc::new(Shared { lookup, lookups_max, state, lookups }) }
    }

    /// The addresses of `name`, IPv4 first. For an IP address: that address.
    ///
    /// Waits for at most [`LOOKUP_MAX`]. Cancel safe: the look-up goes on for the others.
    ///
    /// # Errors
    /// [`ResolveError`], remembered for a short while.
    pub(crate) async fn resolve(&self, name: &str) -> Answer {
        if let Ok(address) = name.parse::<IpAddr>() {
            // The answer for an address never changes; a day is as good as forever.
            return Ok(Resolved { addresses: Arc::from([address]), until: Instant::now() + STALE_MAX });
        }
        let (mut flight, stale) = match Shared::step(&self.shared, name) {
            Step::Use(answer) => return answer,
            Step::Wait { flight, stale } => (flight, stale),
        };
        let landed = async {
            match flight.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or(Err(ResolveError::Empty)),
                Err(_gone) => Err(ResolveError::Unanswered("the look-up was given up".into())),
            }
        };
        let Some(stale) = stale else { return landed.await };
        match timeout(STALE_PATIENCE, landed).await {
            Ok(Err(ResolveError::Unanswered(_) | ResolveError::Busy)) | Err(_) => {
                Ok(Resolved { addresses: stale, until: Instant::now() + STALE_TTL })
            }
            Ok(answer) => answer,
        }
    }
}

impl Family {
    /// Whether `address` is of it.
    pub(super) fn holds(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The known answer for `name`. Starts a look-up if there is no answer, or if it has to be renewed.
    fn step(shared: &Arc<Self>, name: &str) -> Step {
        let now = Instant::now();
        let mut locked = shared.lock();
        let known = locked.cache.entry(name);
        let (fresh, stale, is_silent) = (known.fresh(now), known.stale(now), known.is_unanswered());
        if let Some(answer) = fresh {
            if answer.is_ok() && known.is_to_renew(now) && known.pending.is_none() {
                // Without room it is renewed the next time.
                drop(Self::start(shared, &mut locked, name, now));
            }
            return Step::Use(answer);
        }
        let flight = match &known.pending {
            Some(pending) => Some(pending.subscribe()),
            None => Self::start(shared, &mut locked, name, now),
        };
        match (flight, stale) {
            // No server answered the last time: that is not waited for again.
            (Some(_), Some(addresses)) if is_silent => Step::Use(Ok(Resolved { addresses, until: now + STALE_TTL })),
            (Some(flight), stale) => Step::Wait { flight, stale },
            (None, Some(addresses)) => Step::Use(Ok(Resolved { addresses, until: now + STALE_TTL })),
            (None, None) => Step::Use(Err(ResolveError::Busy)),
        }
    }

    /// Starts a look-up. `None` if too many are under way.
    fn start(
        shared: &Arc<Self>,
        state: &mut State,
        name: &str,
        now: Instant,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        if state.running.len() >= shared.lookups_max {
            let oldest = state.running.first_entry()?;
            if now.saturating_duration_since(oldest.get().since) < GIVES_WAY_AFTER {
                return None;
            }
            oldest.remove().gives_way.cancel();
        }
        state.begun += 1;
        let (sender, flight) = watch::channel(None);
        let known = state.cache.entry(name);
        known.pending = Some(sender.clone());
        let job = Job {
            number: state.begun,
            name: name.into(),
            sender,
            gives_way: CancellationToken::new(),
            is_renewal: known.stale(now).is_some(),
        };
        state.running.insert(job.number, Running { since: now, gives_way: job.gives_way.clone() });
        let looking = Arc::clone(shared);
        shared.lookups.spawn(async move { looking.run(&job).await });
        Some(flight)
    }

    /// Looks a name up, for as long as a request waits for it or it renews an answer.
    async fn run(&self, job: &Job) {
        let looked = timeout(LOOKUP_MAX, self.look_up(job));
        tokio::pin!(looked);
        let late = loop {
            let is_needed = job.is_renewal || job.sender.borrow().is_some();
            tokio::select! {
                biased;
                () = job.gives_way.cancelled() => break Some("the look-up gave way to newer ones"),
                looked = &mut looked => break looked.is_err().then_some("no name server answered in time"),
                () = job.sender.closed(), if !is_needed => {
                    if self.abandon(job) {
                        return;
                    }
                }
            }
        };
        if let Some(why) = late
            && job.sender.borrow().is_none()
        {
            self.settle(job, Err(ResolveError::Unanswered(why.into())));
        }
        self.lock().running.remove(&job.number);
    }

    /// Ends a look-up if no request waits for it by now.
    fn abandon(&self, job: &Job) -> bool {
        let mut state = self.lock();
        // Requests begin to wait under the lock.
        let is_unwanted = job.sender.receiver_count() == 0 && job.sender.borrow().is_none();
        if is_unwanted {
            state.running.remove(&job.number);
            state.cache.entry(&job.name).end(&job.sender);
        }
        is_unwanted
    }

    async fn look_up(&self, job: &Job) {
        let ask = |family| (self.lookup)(Arc::clone(&job.name), family);
        let (first, mut other) = match select(ask(Family::V4), ask(Family::V6)).await {
            // Servers that answer so about AAAA alone exist; about A it is the truth.
            Either::Left((Err(LookupError::NoSuchName), _)) => {
                return self.settle(job, Err(ResolveError::NoSuchName));
            }
            Either::Left((first, other)) | Either::Right((first, other)) => (first, other),
        };
        let has_addresses = first.as_ref().is_ok_and(|records| !records.addresses.is_empty());
        let second = if has_addresses {
            match timeout(SECOND_FAMILY, &mut other).await {
                Ok(second) => second,
                Err(_elapsed) => {
                    self.settle(job, judge([Ok(Records::default()), first.clone()]));
                    other.await
                }
            }
        } else {
            other.await
        };
        self.settle(job, judge([first, second]));
    }

    fn settle(&self, job: &Job, found: Result<Records, ResolveError>) {
        let now = Instant::now();
        let ttl = found.as_ref().map_or(NEGATIVE_TTL, |records| records.ttl.clamp(TTL_MIN, TTL_MAX));
        let until = now + ttl;
        let answer: Result<Arc<[IpAddr]>, _> = found.map(|records| records.addresses.into());
        let mut state = self.lock();
        let known = state.cache.entry(&job.name);
        known.end(&job.sender);
        match &answer {
            Ok(addresses) => known.stale = Some((Arc::clone(addresses), until + STALE_MAX)),
            Err(ResolveError::Unanswered(_) | ResolveError::Busy) => {}
            Err(ResolveError::NoSuchName | ResolveError::Empty | ResolveError::TooMany) => known.stale = None,
        }
        known.settled = Some(Settled { answer: answer.clone(), renew_from: until - ttl / RENEW_IN_LAST, until });
        drop(state);
        job.sender.send_replace(Some(answer.map(|addresses| Resolved { addresses, until })));
    }
}

/// Joins the answers of both families.
fn judge(families: [Result<Records, LookupError>; 2]) -> Result<Records, ResolveError> {
    let mut found = Records { addresses: Vec::new(), ttl: TTL_MAX };
    let mut error = ResolveError::Empty;
    for records in families {
        match records {
            Ok(records) if records.addresses.is_empty() => {}
            Ok(records) => {
                found.ttl = found.ttl.min(records.ttl);
                for address in records.addresses {
                    if !found.addresses.contains(&address) {
                        found.addresses.push(address);
                    }
                    if found.addresses.len() > ADDRESSES_MAX {
                        return Err(ResolveError::TooMany);
                    }
                }
            }
            Err(LookupError::NoSuchName) => error = ResolveError::NoSuchName,
            Err(LookupError::Unanswered(why)) => error = ResolveError::Unanswered(why),
        }
    }
    if found.addresses.is_empty() {
        return Err(error);
    }
    // A family that this machine has no route to fails at once; the older one is more often there.
    found.addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(found)
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
