//! The connections of a shard that wait for their next request, by host. Their number is bounded, and the oldest ones are closed first.
//! Nothing here connects.

use tokio::time::Instant;

use super::connection::KeptConnection;

/// The fewest connections that a shard may keep, however few requests it may have under way.
const KEPT_MIN: usize = 64;
/// When a pool is full, one of this many connections is closed, all at once: finding the oldest ones looks at all.
const CLOSED_OF: usize = 8;

/// What a pool needs to know about a connection.
pub(crate) trait Keepable {
    /// Whether it can carry a request now.
    fn is_usable(&self, now: Instant) -> bool;
    /// When it was last given back.
    fn idle_since(&self) -> Instant;
    /// It is given back.
    fn rest(&mut self, now: Instant);
}

impl Keepable for KeptConnection {
    fn is_usable(&self, now: Instant) -> bool {
        self.is_usable(now)
    }

    fn idle_since(&self) -> Instant {
        self.idle_since
    }

    fn rest(&mut self, now: Instant) {
        self.idle_since = now;
    }
}

/// Connections that wait, by the index of their host.
pub(crate) struct KeptPool<C> {
    of_host: Vec<Vec<C>>,
    kept: usize,
    kept_max: usize,
}

/// How many connections each of `shards` may keep where `in_flight_max` requests may be under way in all: together they keep as many.
pub(crate) fn kept_max(in_flight_max: usize, shards: usize) -> usize {
    in_flight_max.div_ceil(shards.max(1)).max(KEPT_MIN)
}

impl<C: Keepable> KeptPool<C> {
    /// An empty pool for at most `kept_max` connections.
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { of_host: Vec::new(), kept: 0, kept_max }
    }

    /// The connection to `host` that was used last and can carry a request. Those found dead on the way are closed.
    pub(crate) fn take(&mut self, host: usize, now: Instant) -> Option<C> {
        let of_host = self.of_host.get_mut(host)?;
        while let Some(connection) = of_host.pop() {
            self.kept -= 1;
            if connection.is_usable(now) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection to `host`. When the pool is full the oldest ones are closed.
    pub(crate) fn put(&mut self, host: usize, mut connection: C, now: Instant) {
        connection.rest(now);
        if self.of_host.len() <= host {
            self.of_host.resize_with(host + 1, Vec::new);
        }
        if let Some(of_host) = self.of_host.get_mut(host) {
            of_host.push(connection);
            self.kept += 1;
        }
        if self.kept > self.kept_max {
            self.close_oldest();
        }
    }

    /// Closes all connections to `host`.
    pub(crate) fn close(&mut self, host: usize) {
        if let Some(of_host) = self.of_host.get_mut(host) {
            self.kept -= of_host.len();
            *of_host = Vec::new();
        }
    }

    /// Closes what can't carry a request any more.
    pub(crate) fn purge(&mut self, now: Instant) {
        self.retain(|connection| connection.is_usable(now));
    }

    fn close_oldest(&mut self) {
        let mut ages: Vec<Instant> = self.of_host.iter().flatten().map(Keepable::idle_since).collect();
        let closed = (self.kept_max / CLOSED_OF).max(1).min(ages.len());
        if closed == 0 {
            return;
        }
        let (_, last_closed, _) = ages.select_nth_unstable(closed - 1);
        let last_closed = *last_closed;
        let mut left = closed;
        self.retain(|connection| {
            let is_closed = left > 0 && connection.idle_since() <= last_closed;
            left -= usize::from(is_closed);
            !is_closed
        });
    }

    fn retain(&mut self, mut keeps: impl FnMut(&C) -> bool) {
        let mut kept = 0;
        for of_host in &mut self.of_host {
            of_host.retain(&mut keeps);
            kept += of_host.len();
        }
        self.kept = kept;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Fake {
        name: u32,
        is_usable: bool,
        idle_since: Instant,
    }

    impl Keepable for Fake {
        fn is_usable(&self, _now: Instant) -> bool {
            self.is_usable
        }

        fn idle_since(&self) -> Instant {
            self.idle_since
        }

        fn rest(&mut self, now: Instant) {
            self.idle_since = now;
        }
    }

    fn fake(name: u32, is_usable: bool) -> Fake {
        Fake { name, is_usable, idle_since: Instant::now() }
    }

    fn kept(pool: &KeptPool<Fake>) -> Vec<Vec<u32>> {
        pool.of_host.iter().map(|of_host| of_host.iter().map(|fake| fake.name).collect()).collect()
    }

    #[tokio::test]
    async fn the_last_used_connection_that_works_is_taken() {
        let (mut pool, now) = (KeptPool::new(8), Instant::now());
        for (name, is_usable) in [(1, true), (2, true), (3, false)] {
            pool.put(2, fake(name, is_usable), now);
        }
        assert!(pool.take(0, now).is_none() && pool.take(9, now).is_none());
        assert_eq!(pool.take(2, now).map(|fake| fake.name), Some(2));
        assert_eq!((kept(&pool), pool.kept), (vec![vec![], vec![], vec![1]], 1));
    }

    #[tokio::test]
    async fn a_full_pool_closes_the_oldest_of_all_hosts() {
        let (mut pool, start) = (KeptPool::new(16), Instant::now());
        for name in 0..17 {
            let now = start + Duration::from_millis(u64::from(if name == 9 { 0 } else { name + 1 }));
            pool.put(usize::from(name % 2 == 1), fake(name, true), now);
        }
        assert_eq!(kept(&pool), [vec![2, 4, 6, 8, 10, 12, 14, 16], vec![1, 3, 5, 7, 11, 13, 15]]);
        assert_eq!(pool.kept, 15);
    }

    #[tokio::test]
    async fn dead_ones_and_those_of_a_closed_host_go() {
        let (mut pool, now) = (KeptPool::new(8), Instant::now());
        for (host, name, is_usable) in [(0, 1, true), (0, 2, false), (1, 3, true)] {
            pool.put(host, fake(name, is_usable), now);
        }
        pool.purge(now);
        assert_eq!((kept(&pool), pool.kept), (vec![vec![1], vec![3]], 2));
        pool.close(0);
        assert_eq!((kept(&pool), pool.kept), (vec![vec![], vec![3]], 1));
    }

    #[test]
    fn all_shards_together_keep_as_many_as_may_be_under_way() {
        assert_eq!(kept_max(1024, 2), 512);
        assert_eq!(kept_max(1024, 0), 1024);
        assert_eq!(kept_max(32, 8), KEPT_MIN);
    }
}
