//! The account of a torture: what receivers were asked and answered, of every event and webhook, outside of any worker.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::stage::event_number;
use crate::support::receiver::Recorded;
use crate::support::records::Read;

/// Companies that events are about, each again and again.
pub(super) const ENTITIES: usize = 500;

/// One event and one webhook. Places are those in the order of all requests, from 1.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// A hash of the delivery's id.
    id: u64,
    requests: u32,
    acknowledged: u32,
    /// The number of its latest attempt, and when that was requested, in seconds since the beginning.
    attempt: u32,
    requested_at: f64,
    /// When an attempt was requested that was requested again later, the first time that this happened.
    doubled_at: Option<f64>,
    /// The first and the last request of a first attempt.
    first: u64,
    last: u64,
}

/// A delivery that was acknowledged again. Times are in seconds since the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    pub(super) webhook: &'static str,
    /// When the attempt was requested that was requested again, or that followed from one which was: a retry that is in its tier
    /// twice is acknowledged twice.
    pub(super) before: f64,
    /// When it was acknowledged again.
    pub(super) at: f64,
}

struct Book {
    began: Instant,
    entries: BTreeMap<&'static str, Vec<Entry>>,
    requests: u64,
    acknowledged: u64,
    repeats: Vec<Repeat>,
    /// Requests whose delivery id is not that of an earlier request for the same event and webhook.
    of_another_id: u64,
}

/// The account. Clones share it.
#[derive(Clone)]
pub(super) struct Account(Arc<Mutex<Book>>);

/// The sums of the account.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Dead letters, by webhook.
    pub(super) dead: BTreeMap<&'static str, usize>,
    /// Neither acknowledged nor a dead letter.
    pub(super) lost: Vec<(&'static str, usize)>,
}

impl Account {
    /// An account of this number of events for each of `webhooks`.
    pub(super) fn of(webhooks: &[&'static str], events: usize) -> Self {
        let entries = webhooks.iter().map(|webhook| (*webhook, vec![Entry::default(); events])).collect();
        let (began, repeats) = (Instant::now(), Vec::new());
        Self(Arc::new(Mutex::new(Book { began, entries, requests: 0, acknowledged: 0, repeats, of_another_id: 0 })))
    }

    /// The seconds of the account count from now on.
    pub(super) fn begin(&self) -> Instant {
        let began = Instant::now();
        self.0.lock().began = began;
        began
    }

    /// Notes a request, and whether it is acknowledged.
    pub(super) fn note(&self, webhook: &str, request: &Recorded, is_acknowledged: bool) {
        let number = event_number(request);
        let mut hasher = DefaultHasher::new();
        request.delivery_id().hash(&mut hasher);
        let id = hasher.finish();
        let book = &mut *self.0.lock();
        book.requests += 1;
        let (webhook, entries) =
            book.entries.iter_mut().find(|(name, _)| **name == webhook).expect("a webhook of the trial");
        let entry = entries.get_mut(number).expect("an event of the trial");
        book.of_another_id += u64::from(entry.requests > 0 && entry.id != id);
        let at = book.began.elapsed().as_secs_f64();
        if entry.requests > 0 && request.attempt() <= entry.attempt {
            entry.doubled_at.get_or_insert(entry.requested_at);
        }
        (entry.id, entry.requests) = (id, entry.requests + 1);
        (entry.attempt, entry.requested_at) = (entry.attempt.max(request.attempt()), at);
        if request.attempt() == 1 {
            entry.last = book.requests;
            if entry.first == 0 {
                entry.first = book.requests;
            }
        }
        if is_acknowledged {
            book.acknowledged += u64::from(entry.acknowledged == 0);
            if entry.acknowledged > 0 {
                book.repeats.push(Repeat { webhook, before: entry.doubled_at.unwrap_or(at), at });
            }
            entry.acknowledged += 1;
        }
    }

    /// Events and webhooks that were acknowledged, acknowledgements beyond the first, requests of another id.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let book = self.0.lock();
        (book.acknowledged, book.repeats.len() as u64, book.of_another_id)
    }

    /// The repeated acknowledgements, in their order.
    pub(super) fn repeats(&self) -> Vec<Repeat> {
        self.0.lock().repeats.clone()
    }

    /// All requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// The end of every event for each of `webhooks`.
    pub(super) fn balance(&self, webhooks: &[&'static str], dead: &[Read]) -> Balance {
        let dead: HashSet<(String, usize)> = dead.iter().filter_map(dead_letter).collect();
        let book = self.0.lock();
        let mut balance = Balance::default();
        for webhook in webhooks {
            for (number, entry) in book.entries[webhook].iter().enumerate() {
                let is_dead = dead.contains(&((*webhook).to_owned(), number));
                *balance.dead.entry(webhook).or_default() += usize::from(is_dead);
                if entry.acknowledged == 0 && !is_dead {
                    balance.lost.push((webhook, number));
                }
            }
        }
        balance
    }

    /// Order by entity up to repeats: events whose every request came before the first of an earlier event about the same entity.
    pub(super) fn out_of_order(&self) -> usize {
        let book = self.0.lock();
        let mut count = 0;
        for entries in book.entries.values() {
            for entity in 0..ENTITIES {
                let mut last_of_later = u64::MAX;
                let about: Vec<&Entry> = entries.iter().skip(entity).step_by(ENTITIES).collect();
                for entry in about.into_iter().rev().filter(|entry| entry.first > 0) {
                    count += usize::from(last_of_later < entry.first);
                    last_of_later = last_of_later.min(entry.last);
                }
            }
        }
        count
    }
}

fn dead_letter(letter: &Read) -> Option<(String, usize)> {
    let webhook = letter.header("hookstream-webhook-id")?.to_owned();
    let id = letter.json()["id"].as_str()?.to_owned();
    Some((webhook, id.rsplit('-').next()?.parse().ok()?))
}
