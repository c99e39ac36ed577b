//! Names to addresses: the system's resolver, asked rarely, by few threads, for no one twice at once.
//!
//! `getaddrinfo` blocks and can't be called off, so it runs on threads of its own, at most [`THREADS_MAX`] of them: a
//! dead DNS server holds those, never the runtime. A name is looked up once for all who wait for it, whoever of them
//! gives up. Whoever asks brings a deadline of his own.
//!
//! Wait-for arrows: askers wait for a look-up thread; a look-up thread waits for nobody but the system.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long an answer is used: receivers that move are followed within this.
const POSITIVE_TTL: Duration = Duration::from_secs(30);
/// How long a failure is used: long enough to spare the DNS server, short enough not to be noticed.
const NEGATIVE_TTL: Duration = Duration::from_secs(2);
/// How long an answer may still be used when the system does not come up with a newer one.
const STALE_MAX: Duration = Duration::from_mins(10);
/// How long a newer answer is waited for where there is an older one.
const STALE_PATIENCE: Duration = Duration::from_millis(200);
/// Look-ups at once.
const THREADS_MAX: usize = 16;
/// Of these, for names whose last look-up was slow: names of dead DNS servers can't take the threads of all others.
const SLOW_THREADS_MAX: usize = 12;
/// A look-up that took this long is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Look-ups that wait for a thread; more fail at once.
const QUEUE_MAX: usize = 4096;
/// Names remembered, in each of two generations.
const GENERATION_MAX: usize = 16_384;
/// Addresses kept of one answer, more than any honest one has. All of them are checked, so none is passed over: a longer
/// answer is a failure.
const ADDRESSES_MAX: usize = 64;

/// What a look-up came to.
pub(crate) type Answer = Result<Arc<[IpAddr]>, ResolveError>;

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The system says so.
    #[error("{0}")]
    System(Arc<str>),
    /// Nobody could say: the name may well have addresses.
    #[error("{0}")]
    Unanswered(Arc<str>),
    /// The answer is empty.
    #[error("the name has no addresses")]
    Empty,
    /// The answer is longer than [`ADDRESSES_MAX`].
    #[error("the name has more than {ADDRESSES_MAX} addresses")]
    TooMany,
    /// [`QUEUE_MAX`] look-ups wait already.
    #[error("too many names are being looked up")]
    Busy,
}

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Resolves names, and remembers the answers. Cheap to clone: clones share all of it.
#[derive(Clone)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Box<Lookup>,
    positive_ttl: Duration,
    negative_ttl: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    quick: VecDeque<Job>,
    slow: VecDeque<Job>,
    threads: usize,
    slow_threads: usize,
}

struct Job {
    name: Arc<str>,
    tell: watch::Sender<Option<Answer>>,
    was_slow: bool,
}

/// What is known of a name.
#[derive(Clone, Default)]
struct CachedName {
    /// The last answer, and until when it is fresh.
    settled: Option<(Answer, Instant)>,
    /// The last good answer and when it came, for as long as no newer one comes.
    stale: Option<(Arc<[IpAddr]>, Instant)>,
    /// The look-up under way, if one is.
    pending: Option<watch::Receiver<Option<Answer>>>,
    was_slow: bool,
}

/// Two generations of names: a full young one becomes the old one, and what nobody asked for since is forgotten.
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
        self.young.get_mut(name).expect("it was there or has just been put there")
    }
}

impl CachedName {
    /// The answer to give while it is fresh. An older good one stands where the newer one only says that nobody knows.
    fn fresh(&self, now: Instant) -> Option<Answer> {
        let (answer, until) = self.settled.as_ref()?;
        let stale = matches!(answer, Err(ResolveError::Unanswered(_))).then(|| self.stale(now)).flatten();
        (now < *until).then(|| stale.map_or_else(|| answer.clone(), Ok))
    }

    fn stale(&self, now: Instant) -> Option<Arc<[IpAddr]>> {
        let (addresses, since) = self.stale.as_ref()?;
        (now.saturating_duration_since(*since) <= STALE_MAX).then(|| Arc::clone(addresses))
    }
}

enum Step {
    Use(Answer),
    Wait { flight: watch::Receiver<Option<Answer>>, stale: Option<Arc<[IpAddr]>> },
}

impl Resolver {
    /// Asks the system: the hosts file, DNS, and whatever else it is set up for.
    pub(crate) fn system() -> Self {
        Self::with(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    /// Knows these names and no others.
    #[cfg(test)]
    pub(crate) fn fixed(names: HashMap<String, Vec<IpAddr>>) -> Self {
        Self::with(move |name| names.get(name).cloned().ok_or_else(|| io::Error::other("no such name")))
    }

    /// Asks `lookup`, which may block.
    pub(crate) fn with(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::with_ttls(lookup, POSITIVE_TTL, NEGATIVE_TTL)
    }

    fn with_ttls(
        lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
        positive_ttl: Duration,
        negative_ttl: Duration,
    ) -> Self {
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { lookup: Box::new(lookup), positive_ttl, negative_ttl, state }) }
    }

    /// The addresses of `name`, never none. An IP address stands for itself.
    ///
    /// Waits without a bound: the caller has a deadline. Cancel safe: the look-up goes on for the others.
    ///
    /// # Errors
    /// [`ResolveError`], remembered for a short while.
    pub(crate) async fn resolve(&self, name: &str) -> Answer {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        let (mut flight, stale) = match Shared::step(&self.shared, name) {
            Step::Use(answer) => return answer,
            Step::Wait { flight, stale } => (flight, stale),
        };
        let landed = async {
            match flight.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or(Err(ResolveError::Empty)),
                Err(_gone) => Err(ResolveError::System("the look-up failed".into())),
            }
        };
        let Some(stale) = stale else { return landed.await };
        match timeout(STALE_PATIENCE, landed).await {
            Ok(Err(ResolveError::Unanswered(_))) | Err(_) => Ok(stale),
            Ok(answer) => answer,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is whole before anything in it can panic.
        self.state.lock()
    }

    /// What there is for `name`; starts a look-up if nothing is.
    fn step(shared: &Arc<Self>, name: &str) -> Step {
        let now = Instant::now();
        let mut state = shared.lock();
        let known = state.cache.entry(name);
        if let Some(answer) = known.fresh(now) {
            return Step::Use(answer);
        }
        let older = known.stale(now);
        if let Some(flight) = &known.pending {
            return Step::Wait { flight: flight.clone(), stale: older };
        }
        let (tell, flight) = watch::channel(None);
        let job = Job { name: name.into(), tell, was_slow: known.was_slow };
        if state.quick.len() + state.slow.len() >= QUEUE_MAX {
            return Step::Use(older.ok_or(ResolveError::Busy));
        }
        state.cache.entry(name).pending = Some(flight.clone());
        let queue = if job.was_slow { &mut state.slow } else { &mut state.quick };
        queue.push_back(job);
        Self::start_thread(shared, &mut state);
        Step::Wait { flight, stale: older }
    }

    fn start_thread(shared: &Arc<Self>, state: &mut State) {
        if state.threads >= THREADS_MAX {
            return;
        }
        let thread = Arc::clone(shared);
        // Not joined: a look-up that hangs must not hold up the end of the process.
        match std::thread::Builder::new().name("resolver".to_owned()).spawn(move || thread.work()) {
            Ok(_detached) => state.threads += 1,
            Err(error) if state.threads > 0 => tracing::warn!(%error, "no thread for a look-up, it waits for another"),
            Err(error) => {
                tracing::error!(%error, "no thread for look-ups");
                let failed = ResolveError::System(format!("no thread for the look-up: {error}").into());
                while let Some(job) = state.quick.pop_front().or_else(|| state.slow.pop_front()) {
                    state.cache.entry(&job.name).pending = None;
                    job.tell.send_replace(Some(Err(failed.clone())));
                }
            }
        }
    }

    /// Looks up what is queued until nothing is.
    fn work(&self) {
        while let Some(job) = self.take() {
            let start = Instant::now();
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.lookup)(&job.name)));
            let answer = found.unwrap_or_else(|_panic| Err(io::Error::other("the look-up panicked")));
            self.settle(&job, judge(answer), start.elapsed());
        }
    }

    /// The next job that someone waits for. Nothing: the thread ends.
    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let job = match state.quick.pop_front() {
                Some(job) => Some(job),
                None if state.slow_threads < SLOW_THREADS_MAX => state.slow.pop_front(),
                None => None,
            };
            let Some(job) = job else {
                state.threads -= 1;
                return None;
            };
            // One receiver is the cache's own. Nobody joins meanwhile: that takes the lock.
            if job.tell.receiver_count() > 1 {
                state.slow_threads += usize::from(job.was_slow);
                return Some(job);
            }
            state.cache.entry(&job.name).pending = None;
        }
    }

    fn settle(&self, job: &Job, answer: Answer, took: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        state.slow_threads -= usize::from(job.was_slow);
        let known = state.cache.entry(&job.name);
        known.pending = None;
        known.was_slow = took >= SLOW;
        let fresh_for = match &answer {
            Ok(_) => self.positive_ttl,
            // A name that takes long to fail is not asked for more than half of the time.
            Err(_) if known.was_slow => self.negative_ttl.max(took),
            Err(_) => self.negative_ttl,
        };
        match &answer {
            Ok(addresses) => known.stale = Some((Arc::clone(addresses), now)),
            Err(ResolveError::Unanswered(_) | ResolveError::Busy) => {}
            Err(ResolveError::System(_) | ResolveError::Empty | ResolveError::TooMany) => known.stale = None,
        }
        known.settled = Some((answer.clone(), now + fresh_for));
        drop(state);
        job.tell.send_replace(Some(answer));
    }
}

fn judge(found: io::Result<Vec<IpAddr>>) -> Answer {
    let found = found.map_err(|error| {
        let text = error.to_string();
        // The code of getaddrinfo is not passed on, only its text: glibc's and musl's for "try again".
        let nobody_knows = ["Temporary failure", "Try again"].iter().any(|again| text.contains(again));
        if nobody_knows { ResolveError::Unanswered(text.into()) } else { ResolveError::System(text.into()) }
    })?;
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(ResolveError::TooMany);
        }
    }
    if addresses.is_empty() { Err(ResolveError::Empty) } else { Ok(addresses.into()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::task::JoinSet;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// A resolver that counts, with answers that stay fresh for `fresh_for`.
    fn counting(
        fresh_for: Duration,
        answer: impl Fn(usize) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> (Resolver, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup = move |_: &str| answer(count.fetch_add(1, Ordering::SeqCst));
        (Resolver::with_ttls(lookup, fresh_for, fresh_for), asked)
    }

    /// A resolver whose every look-up waits for a word; the second part tells which began, the third lets one end.
    fn gated() -> (Resolver, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (start, began) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let resolver = Resolver::with(move |name| {
            start.send(name.to_owned()).unwrap();
            gate.lock().recv().map_err(io::Error::other)?;
            Ok(vec![ONE])
        });
        (resolver, began, go)
    }

    fn ask(askers: &mut JoinSet<Answer>, resolver: &Resolver, name: &str) {
        let (resolver, name) = (resolver.clone(), name.to_owned());
        askers.spawn(async move { resolver.resolve(&name).await });
    }

    fn unanswered() -> io::Error {
        io::Error::other("failed to lookup address information: Temporary failure in name resolution")
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up() {
        let (resolver, asked) = counting(HOUR, |_| Ok(vec![ONE]));
        assert_eq!(*resolver.resolve("192.0.2.2").await.unwrap(), [TWO]);
        assert_eq!(resolver.resolve("::1").await.unwrap()[0].to_string(), "::1");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_fresh_answer_is_remembered_and_an_old_one_is_not() {
        async fn looked_up(fresh_for: Duration) -> usize {
            let (resolver, asked) = counting(fresh_for, |_| Ok(vec![ONE, TWO, ONE]));
            let answers = [resolver.resolve("a").await, resolver.resolve("a").await, resolver.resolve("a").await];
            assert!(answers.iter().flatten().all(|answer| **answer == [ONE, TWO]), "{answers:?}");
            asked.load(Ordering::SeqCst)
        }
        assert_eq!(looked_up(HOUR).await, 1);
        assert_eq!(looked_up(Duration::ZERO).await, 3);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_too() {
        let (resolver, asked) = counting(HOUR, |_| Err(io::Error::other("no such name")));
        for _ in 0..3 {
            assert_eq!(resolver.resolve("a").await, Err(ResolveError::System("no such name".into())));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_look_up() {
        let (resolver, began, go) = gated();
        let mut askers = JoinSet::new();
        for _ in 0..50 {
            ask(&mut askers, &resolver, "a");
        }
        assert_eq!(
            tokio::task::spawn_blocking(move || began.recv().map(|name| (name, began))).await.unwrap().unwrap().0,
            "a"
        );
        go.send(()).unwrap();
        while let Some(answer) = askers.join_next().await {
            assert_eq!(*answer.unwrap().unwrap(), [ONE]);
        }
        drop(go);
        assert!(resolver.resolve("a").await.is_ok(), "remembered");
    }

    #[tokio::test]
    async fn the_look_up_outlives_the_one_who_asked_first() {
        let (resolver, began, go) = gated();
        assert!(timeout(Duration::from_millis(1), resolver.resolve("a")).await.is_err());
        let second = resolver.resolve("a");
        go.send(()).unwrap();
        assert_eq!(*second.await.unwrap(), [ONE]);
        assert_eq!(began.try_iter().count(), 1);
    }

    #[tokio::test]
    async fn no_more_than_the_bound_is_looked_up_at_once_and_the_unwanted_not_at_all() {
        let (resolver, began, go) = gated();
        let mut askers = JoinSet::new();
        for number in 0..THREADS_MAX {
            ask(&mut askers, &resolver, &format!("held-{number}"));
        }
        let held = tokio::task::spawn_blocking(move || {
            let names: Vec<_> = began.iter().take(THREADS_MAX).collect();
            (names, began)
        });
        let (names, began) = held.await.unwrap();
        assert_eq!(names.len(), THREADS_MAX);
        assert!(timeout(Duration::from_millis(20), resolver.resolve("unwanted")).await.is_err());
        assert_eq!(began.try_iter().count(), 0, "every thread is held");
        for _ in 0..=THREADS_MAX {
            go.send(()).unwrap();
        }
        assert_eq!(*resolver.resolve("wanted").await.unwrap(), [ONE]);
        assert_eq!(began.try_iter().collect::<Vec<_>>(), ["wanted"]);
        assert_eq!(askers.join_all().await.len(), THREADS_MAX);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_queue_fails_at_once() {
        let (resolver, began, go) = gated();
        let mut asking = Vec::new();
        for number in 0..THREADS_MAX + QUEUE_MAX {
            let name = format!("n{number}");
            match Shared::step(&resolver.shared, &name) {
                Step::Wait { flight, .. } => asking.push(flight),
                Step::Use(answer) => panic!("{answer:?}"),
            }
            // The threads take theirs first, so that exactly the queue is left.
            assert!(number >= THREADS_MAX || tokio::task::block_in_place(|| began.recv()).is_ok());
        }
        assert_eq!(resolver.resolve("one more").await, Err(ResolveError::Busy));
        drop(go);
    }

    #[tokio::test]
    async fn slow_names_leave_threads_for_the_others() {
        let (resolver, began, go) = gated();
        for number in 0..THREADS_MAX {
            resolver.shared.lock().cache.entry(&format!("slow-{number}")).was_slow = true;
        }
        let mut askers = JoinSet::new();
        for number in 0..THREADS_MAX {
            ask(&mut askers, &resolver, &format!("slow-{number}"));
        }
        let (slow, began) = tokio::task::spawn_blocking(move || {
            let names: Vec<_> = began.iter().take(SLOW_THREADS_MAX).collect();
            (names.len(), began)
        })
        .await
        .unwrap();
        assert_eq!(slow, SLOW_THREADS_MAX);
        let quick = resolver.resolve("quick");
        tokio::pin!(quick);
        assert!(timeout(Duration::from_millis(1), &mut quick).await.is_err());
        let (next, began) = tokio::task::spawn_blocking(move || (began.recv().unwrap(), began)).await.unwrap();
        assert_eq!(next, "quick");
        for _ in 0..=THREADS_MAX {
            go.send(()).unwrap();
        }
        assert!(quick.await.is_ok());
        assert_eq!(askers.join_all().await.len(), THREADS_MAX);
        assert_eq!(began.try_iter().count(), THREADS_MAX - SLOW_THREADS_MAX);
    }

    #[tokio::test]
    async fn an_older_answer_stands_when_nobody_answers_and_falls_when_the_name_is_gone() {
        let (resolver, asked) = counting(Duration::ZERO, |turn| match turn {
            0 => Ok(vec![ONE]),
            1 | 2 => Err(unanswered()),
            _ => Err(io::Error::other("Name or service not known")),
        });
        for _ in 0..3 {
            assert_eq!(*resolver.resolve("a").await.unwrap(), [ONE]);
        }
        assert!(matches!(resolver.resolve("a").await, Err(ResolveError::System(_))));
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn an_older_answer_stands_while_the_newer_one_is_slow() {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let (resolver, _asked) = counting(Duration::ZERO, move |turn| match turn {
            0 => Ok(vec![ONE]),
            _ => gate.lock().recv().map(|()| vec![TWO]).map_err(io::Error::other),
        });
        assert_eq!(*resolver.resolve("a").await.unwrap(), [ONE]);
        assert_eq!(*resolver.resolve("a").await.unwrap(), [ONE], "the second look-up hangs");
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!(*resolver.resolve("a").await.unwrap(), [TWO]);
    }

    #[tokio::test]
    async fn a_panic_fails_that_look_up_only() {
        let (resolver, _asked) =
            counting(Duration::ZERO, |turn| if turn == 0 { panic!("on purpose") } else { Ok(vec![ONE]) });
        assert!(resolver.resolve("a").await.is_err());
        assert!(resolver.resolve("a").await.is_ok());
    }

    #[tokio::test]
    async fn empty_and_endless_answers_are_failures() {
        let (resolver, _asked) = counting(Duration::ZERO, |turn| {
            let endless = (0..=255).map(|last| IpAddr::from([192, 0, 2, last]));
            Ok(endless.take(turn * (ADDRESSES_MAX + 1)).collect())
        });
        assert_eq!(resolver.resolve("a").await, Err(ResolveError::Empty));
        assert_eq!(resolver.resolve("a").await, Err(ResolveError::TooMany));
    }

    #[tokio::test]
    async fn names_are_forgotten_by_generations() {
        let (resolver, asked) = counting(HOUR, |_| Ok(vec![ONE]));
        assert!(resolver.resolve("kept").await.is_ok());
        for turn in 0..3 {
            (1..GENERATION_MAX)
                .for_each(|n| *resolver.shared.lock().cache.entry(&format!("{turn}-{n}")) = CachedName::default());
            assert!(resolver.resolve("kept").await.is_ok());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "what is asked for stays");
        let state = resolver.shared.lock();
        assert!(state.cache.young.len() <= GENERATION_MAX && state.cache.old.len() <= GENERATION_MAX);
    }

    #[tokio::test]
    async fn the_system_knows_the_hosts_file() {
        let addresses = Resolver::system().resolve("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        assert!(Resolver::system().resolve("no-such-name.invalid").await.is_err());
    }
}
