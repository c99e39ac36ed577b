//! What is remembered of names and answered: by made-up look-ups, and by a name server on loopback.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::task::JoinSet;

use super::*;
use crate::net::testing::{asking_after, asking_only};
use crate::net::zoo_names::{Family as Asked, NameServer, Reply};

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const SIX: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6));
const HOUR: Duration = Duration::from_hours(1);

#[expect(clippy::unnecessary_wraps, reason = "what a look-up returns")]
fn some(addresses: &[IpAddr], ttl: Duration) -> Result<Records, LookupError> {
    Ok(Records { addresses: addresses.to_vec(), ttl })
}

fn unanswered() -> Result<Records, LookupError> {
    Err(LookupError::Unanswered("no server answers".into()))
}

/// A resolver and the number of its IPv4 look-ups. `look_up` gets how many there were before; IPv6 has no addresses.
fn counting<F>(look_up: impl Fn(usize) -> F + Send + Sync + 'static) -> (Resolver, Arc<AtomicUsize>)
where
    F: Future<Output = Result<Records, LookupError>> + Send + 'static,
{
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let resolver = Resolver::with(Box::new(move |_name, family| match family {
        Family::V4 => Box::pin(look_up(count.fetch_add(1, Ordering::SeqCst))),
        Family::V6 => Box::pin(std::future::ready(Ok(Records::default()))),
    }));
    (resolver, asked)
}

/// The addresses answered, in order.
async fn addresses(resolver: &Resolver, name: &str) -> Vec<IpAddr> {
    resolver.resolve(name).await.unwrap().addresses.to_vec()
}

/// The addresses of `name`, which is answered before `silent`, asked for at the same time, is given up.
async fn addresses_before_silence(resolver: &Resolver, name: &str, silent: &str) -> Vec<IpAddr> {
    tokio::select! {
        biased;
        answered = addresses(resolver, name) => answered,
        _ = resolver.resolve(silent) => panic!("{name} is answered later than a silent name is given up"),
    }
}

/// Moves the clock to that time without waiting for it: sockets keep the real time.
async fn come_to(until: Instant) {
    tokio::time::pause();
    tokio::time::advance(until.saturating_duration_since(Instant::now())).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_address_is_not_looked_up() {
    let (resolver, asked) = counting(|_| std::future::ready(some(&[ONE], HOUR)));
    assert_eq!(addresses(&resolver, "192.0.2.2").await, [TWO]);
    assert_eq!(addresses(&resolver, "2001:db8::6").await, [SIX]);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_used_for_its_own_time_within_bounds() {
    for (ttl, used) in [(7, 7), (0, 1), (86_400, 300)] {
        let (resolver, asked) = counting(move |_| std::future::ready(some(&[ONE], Duration::from_secs(ttl))));
        let start = Instant::now();
        assert_eq!(resolver.resolve("a").await.unwrap().until, start + Duration::from_secs(used));
        tokio::time::advance(Duration::from_secs(used) * 3 / 4).await;
        resolver.resolve("a").await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{ttl}");
        tokio::time::advance(Duration::from_secs(used) / 4).await;
        resolver.resolve("a").await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2, "{ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_asked_for_is_renewed_before_it_expires() {
    let (resolver, asked) = counting(|turn| std::future::ready(some(&[[ONE, TWO][turn]], Duration::from_secs(10))));
    assert_eq!(addresses(&resolver, "a").await, [ONE]);
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(addresses(&resolver, "a").await, [ONE], "no request waits for the newer one");
    while asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    assert_eq!(addresses(&resolver, "a").await, [TWO]);
}

#[tokio::test]
async fn a_failure_is_remembered_too() {
    let (resolver, asked) = counting(|_| std::future::ready(Err(LookupError::NoSuchName)));
    for _ in 0..3 {
        assert_eq!(resolver.resolve("a").await, Err(ResolveError::NoSuchName));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_at_once_share_one_look_up_that_outlives_the_first_of_them() {
    let (go, gate) = watch::channel(false);
    let (resolver, asked) = counting(move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            some(&[ONE], HOUR)
        }
    });
    let mut askers = JoinSet::new();
    let first = resolver.clone();
    let first = askers.spawn(async move { first.resolve("a").await });
    for _ in 0..50 {
        let resolver = resolver.clone();
        askers.spawn(async move { resolver.resolve("a").await });
    }
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(askers.join_next().await.unwrap().is_err());
    go.send_replace(true);
    while let Some(answer) = askers.join_next().await {
        assert_eq!(*answer.unwrap().unwrap().addresses, [ONE]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_look_up_ends_with_the_last_request_that_waits_for_it() {
    let (resolver, asked) =
        counting(|turn| async move { if turn == 0 { std::future::pending().await } else { some(&[ONE], HOUR) } });
    assert!(timeout(Duration::from_millis(5), resolver.resolve("a")).await.is_err());
    while !resolver.shared.lock().running.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(addresses(&resolver, "a").await, [ONE]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_second_family_is_waited_for_only_a_moment_and_joins_when_it_comes() {
    for (late, first, after) in [
        (Duration::from_millis(20), vec![ONE, SIX], vec![ONE, SIX]),
        (Duration::from_secs(1), vec![ONE], vec![ONE, SIX]),
        (HOUR, vec![ONE], vec![ONE]),
    ] {
        let resolver = Resolver::with(Box::new(move |_, family| {
            Box::pin(async move {
                match family {
                    Family::V4 => some(&[ONE], HOUR),
                    Family::V6 => {
                        tokio::time::sleep(late).await;
                        some(&[SIX], HOUR)
                    }
                }
            })
        }));
        let start = Instant::now();
        assert_eq!(addresses(&resolver, "a").await, first, "{late:?}");
        assert!(start.elapsed() <= SECOND_FAMILY, "{late:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(addresses(&resolver, "a").await, after, "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_that_fails_or_is_empty_leaves_the_other_one_to_be_waited_for() {
    for of_v6 in [Ok(Records::default()), unanswered(), Err(LookupError::NoSuchName)] {
        let resolver = Resolver::with(Box::new(move |_, family| {
            let of_v6 = of_v6.clone();
            Box::pin(async move {
                match family {
                    Family::V4 => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        some(&[ONE], HOUR)
                    }
                    Family::V6 => of_v6,
                }
            })
        }));
        assert_eq!(addresses(&resolver, "a").await, [ONE]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_answer_is_used_while_no_server_answers_and_dropped_when_the_name_is_gone() {
    let (resolver, _asked) = counting(|turn| async move {
        match turn {
            0 => some(&[ONE], Duration::from_secs(1)),
            1 => unanswered(),
            2 => std::future::pending().await,
            _ => Err(LookupError::NoSuchName),
        }
    });
    assert_eq!(addresses(&resolver, "a").await, [ONE]);
    tokio::time::advance(Duration::from_secs(2)).await;
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(addresses(&resolver, "a").await, [ONE], "the name server fails");
        tokio::time::advance(Duration::from_millis(600)).await;
    }
    assert_eq!(start.elapsed(), Duration::from_secs(6), "and no request waits for it");
    // The one that never ends is over after its longest time.
    tokio::time::sleep(2 * LOOKUP_MAX).await;
    resolver.resolve("a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(resolver.resolve("a").await, Err(ResolveError::NoSuchName));
}

#[tokio::test(start_paused = true)]
async fn an_expired_answer_is_used_for_a_day_at_most() {
    let (resolver, _asked) = counting(|turn| {
        std::future::ready(if turn == 0 { some(&[ONE], Duration::from_secs(1)) } else { unanswered() })
    });
    assert_eq!(addresses(&resolver, "a").await, [ONE]);
    tokio::time::advance(STALE_MAX).await;
    assert_eq!(addresses(&resolver, "a").await, [ONE]);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(matches!(resolver.resolve("a").await, Err(ResolveError::Unanswered(_))));
}

#[tokio::test]
async fn empty_and_endless_answers_are_failures() {
    let (resolver, _asked) = counting(|_| std::future::ready(Ok(Records::default())));
    assert_eq!(resolver.resolve("a").await, Err(ResolveError::Empty));
    let (resolver, _asked) = counting(|_| {
        let endless: Vec<_> = (0..=64).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        std::future::ready(some(&endless, HOUR))
    });
    assert_eq!(resolver.resolve("a").await, Err(ResolveError::TooMany));
}

#[tokio::test]
async fn names_are_forgotten_by_generations() {
    let (resolver, asked) = counting(|_| std::future::ready(some(&[ONE], HOUR)));
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

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_the_oldest_look_up_gives_way_to_a_new_one() {
    let resolver = Resolver::with(Box::new(|name, _| {
        Box::pin(async move { if &*name == "good" { some(&[ONE], HOUR) } else { std::future::pending().await } })
    }));
    let mut askers = JoinSet::new();
    for number in 0..LOOKUPS_MAX {
        let resolver = resolver.clone();
        askers.spawn(async move { resolver.resolve(&format!("silent-{number}")).await });
    }
    while resolver.shared.lock().running.len() < LOOKUPS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(resolver.resolve("good").await, Err(ResolveError::Busy), "all have just begun");
    tokio::time::advance(GIVES_WAY_AFTER).await;
    assert_eq!(addresses(&resolver, "good").await, [ONE]);
    let gave_way = askers.join_next().await.unwrap().unwrap();
    assert!(matches!(gave_way, Err(ResolveError::Unanswered(_))), "{gave_way:?}");
}

#[tokio::test]
async fn this_machine_needs_no_name_server() {
    for name in ["localhost", "a.localhost"] {
        let found = addresses(&Resolver::system(), name).await;
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}

fn good(name: &str, family: Asked) -> Reply {
    match (name.starts_with("good"), family) {
        (true, Asked::V4) => Reply::Addresses(vec![ONE], 60),
        (true, Asked::V6) => Reply::Empty,
        (false, _) => Reply::Silence,
    }
}

#[tokio::test]
async fn a_name_server_that_never_answers_one_family_costs_a_moment() {
    let server = NameServer::start(|name, family| match family {
        Asked::V4 if name == "new.test." => Reply::Addresses(vec![TWO, ONE], 60),
        _ => Reply::Silence,
    })
    .await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    assert_eq!(addresses_before_silence(&resolver, "new.test", "silent.test").await, [TWO, ONE]);
}

#[tokio::test]
async fn a_thousand_silent_names_delay_neither_a_new_name_nor_a_known_one() {
    let server = NameServer::start(good).await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    assert_eq!(addresses(&resolver, "good-known.test").await, [ONE]);
    let mut askers = JoinSet::new();
    for number in 0..1000 {
        let resolver = resolver.clone();
        askers
            .spawn(async move { timeout(Duration::from_secs(3), resolver.resolve(&format!("s{number}.test"))).await });
    }
    while resolver.shared.lock().running.len() < 1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(addresses(&resolver, "good-known.test").now_or_never(), Some(vec![ONE]), "it waits for nothing");
    for number in 0..20 {
        let (new, silent) = (format!("good-{number}.test"), format!("silent-{number}.test"));
        assert_eq!(addresses_before_silence(&resolver, &new, &silent).await, [ONE]);
    }
    askers.shutdown().await;
}

#[tokio::test]
async fn a_name_is_asked_for_as_it_is_and_never_with_the_search_list() {
    let server = NameServer::start(|name, _| match name {
        "receiver.example." => Reply::NoSuchName,
        _ => Reply::Addresses(vec![ONE], 60),
    })
    .await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    assert_eq!(resolver.resolve("receiver.example").await, Err(ResolveError::NoSuchName));
    let questions = server.questions();
    assert!(!questions.is_empty() && questions.iter().all(|(name, _)| name == "receiver.example."), "{questions:?}");
}

#[tokio::test]
async fn a_name_of_the_hosts_file_is_not_asked_for() {
    let server = NameServer::start(good).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "192.0.2.2 good-here.test\n").unwrap();
    let resolver = Resolver::with(asking_after(hosts.path(), &[server.address]));
    assert_eq!(addresses(&resolver, "good-here.test").await, [TWO]);
    assert_eq!(server.questions(), []);
    assert_eq!(addresses(&resolver, "good-there.test").await, [ONE]);
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_at_once_and_one_without_an_answer_is_unanswered() {
    let server = NameServer::start(|name, family| match (name, family) {
        ("gone.test.", Asked::V4) => Reply::NoSuchName,
        ("failing.test.", _) => Reply::Failure,
        ("empty.test.", _) => Reply::Empty,
        _ => Reply::Silence,
    })
    .await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    assert_eq!(resolver.resolve("gone.test").await, Err(ResolveError::NoSuchName), "though AAAA is never answered");
    assert_eq!(resolver.resolve("empty.test").await, Err(ResolveError::Empty));
    let failing = resolver.resolve("failing.test").await;
    assert!(matches!(failing, Err(ResolveError::Unanswered(_))), "{failing:?}");
}

#[tokio::test]
async fn a_silent_name_server_beside_one_that_answers_costs_nothing() {
    let silent = NameServer::start(|_, _| Reply::Silence).await;
    let answering = NameServer::start(good).await;
    let resolver = Resolver::with(asking_only(&[silent.address, answering.address]));
    assert_eq!(addresses_before_silence(&resolver, "good.test", "silent.test").await, [ONE]);
}

#[tokio::test]
async fn a_name_that_moved_is_followed_when_its_time_is_over_and_known_while_the_name_server_is_down() {
    let mut moved = false;
    let server = NameServer::start(move |_, family| match family {
        Asked::V4 => {
            let address = if std::mem::replace(&mut moved, true) { TWO } else { ONE };
            Reply::Addresses(vec![address], 1)
        }
        Asked::V6 => Reply::Empty,
    })
    .await;
    let resolver = Resolver::with(asking_only(&[server.address]));
    let first = resolver.resolve("a.test").await.unwrap();
    assert_eq!(*first.addresses, [ONE]);
    come_to(first.until).await;
    let second = resolver.resolve("a.test").await.unwrap();
    assert_eq!(*second.addresses, [TWO]);
    drop(server);
    come_to(second.until).await;
    assert_eq!(addresses(&resolver, "a.test").await, [TWO]);
}
