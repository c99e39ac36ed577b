//! The queue of one lane: which item may start next, where items wait for each other.
//!
//! Items that share an order key go one after another, in the order they came; others are free. An item may have two
//! keys and then waits for both. Items leave in two steps: `pop` starts one, `finish` frees its keys.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

use slab::Slab;

use crate::domain::hash::BuildSeeded64;
use crate::telemetry::never::never;

/// The place of a started item, until it is finished.
pub(crate) type Place = usize;

/// An order key. 0 counts as 1. So an optional key takes no more room than a key.
type Key = NonZeroU64;

/// A full queue grows by a quarter and so many slots: most of thousands of lanes hold a few items.
const GROWTH_MIN: usize = 4;

/// The end of a chain.
const NOWHERE: Place = Place::MAX;

#[derive(Debug)]
struct Node<T> {
    /// `None` once it is started.
    item: Option<T>,
    keys: [Option<Key>; 2],
    /// For each of its keys: the item after it.
    next: [Place; 2],
    /// Counts the items as they came.
    arrival: u64,
}

impl<T> Node<T> {
    fn set_next(&mut self, key: Key, next: Place) {
        let [first, second] = &mut self.next;
        *(if self.keys[0] == Some(key) { first } else { second }) = next;
    }
}

/// The items of one key in the order they came, chained through their slots. The first is started or ready, unless its
/// other key holds it back.
#[derive(Clone, Copy, Debug)]
struct Chain {
    first: Place,
    last: Place,
}

/// A queue in which items with a common key go one after another.
#[derive(Debug)]
pub struct OrderedQueue<T> {
    slots: Slab<Node<T>>,
    /// Items that may start, in the order they became free to.
    ready: VecDeque<Place>,
    by_key: HashMap<Key, Chain, BuildSeeded64>,
    waiting: usize,
    arrivals: u64,
}

impl<T> Default for OrderedQueue<T> {
    fn default() -> Self {
        Self { slots: Slab::new(), ready: VecDeque::new(), by_key: HashMap::default(), waiting: 0, arrivals: 0 }
    }
}

impl<T> OrderedQueue<T> {
    /// Takes an item at the end of the order of its keys.
    pub fn push(&mut self, item: T, keys: [Option<u64>; 2]) {
        let keys = keys.map(|key| key.map(|key| Key::new(key).unwrap_or(Key::MIN)));
        // An entity that is linked with itself is one key. With two the item would wait for itself.
        let keys = if keys[0] == keys[1] { [keys[0], None] } else { keys };
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(GROWTH_MIN + self.slots.len() / 4);
        }
        self.arrivals += 1;
        let slot = Node { item: Some(item), keys, next: [NOWHERE; 2], arrival: self.arrivals };
        let place = self.slots.insert(slot);
        self.waiting += 1;
        let mut is_first = true;
        for key in keys.into_iter().flatten() {
            match self.by_key.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(Chain { first: place, last: place });
                }
                Entry::Occupied(mut entry) => {
                    is_first = false;
                    let before = std::mem::replace(&mut entry.get_mut().last, place);
                    set_next(&mut self.slots, before, key, place);
                }
            }
        }
        if is_first {
            self.ready.push_back(place);
        }
    }

    fn is_first(&self, place: Place) -> bool {
        let keys = self.slots.get(place).map_or([None; 2], |slot| slot.keys);
        keys.iter().flatten().all(|key| self.by_key.get(key).is_some_and(|chain| chain.first == place))
    }

    /// Starts the next item that waits for no other.
    pub fn pop(&mut self) -> Option<(Place, T)> {
        let place = self.ready.pop_front()?;
        let item = self.slots.get_mut(place)?.item.take()?;
        self.waiting -= 1;
        Some((place, item))
    }

    /// Ends a started item: the next of its keys may go.
    pub fn finish(&mut self, place: Place) {
        let Some(slot) = self.slots.try_remove(place) else { return never("a started item is not in its queue") };
        for (key, next) in slot.keys.into_iter().zip(slot.next) {
            let Some(key) = key else { continue };
            let Entry::Occupied(mut entry) = self.by_key.entry(key) else { continue };
            if next == NOWHERE {
                entry.remove();
                continue;
            }
            entry.get_mut().first = next;
            if self.is_first(next) {
                self.ready.push_back(next);
            }
        }
    }

    /// Takes out everything that has not started, in the order it came.
    pub(crate) fn drain_waiting(&mut self) -> Vec<T> {
        let slots = &mut self.slots;
        let mut waiting: Vec<(u64, Place)> =
            slots.iter().filter(|(_, slot)| slot.item.is_some()).map(|(place, slot)| (slot.arrival, place)).collect();
        waiting.sort_unstable();
        let drained = waiting.into_iter().filter_map(|(_, place)| slots.try_remove(place)?.item).collect();
        // Only the first of a key's items can have started: it is all that is left of a chain.
        self.by_key.retain(|key, chain| {
            chain.last = chain.first;
            set_next(slots, chain.first, *key, NOWHERE)
        });
        self.ready.clear();
        self.waiting = 0;
        drained
    }

    /// Whether `is_such` holds for an item that has not started.
    pub(crate) fn any_waiting(&self, is_such: impl Fn(&T) -> bool) -> bool {
        self.slots.iter().filter_map(|(_, slot)| slot.item.as_ref()).any(is_such)
    }

    /// Frees its memory if it is empty.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() && self.slots.capacity() > 0 {
            *self = Self::default();
        }
    }

    /// How many have not started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many could start now.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether one could start now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing waits and nothing is started.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Sets the item after `place` in the chain of `key`. Returns whether `place` is in that chain.
fn set_next<T>(slots: &mut Slab<Node<T>>, place: Place, key: Key, next: Place) -> bool {
    let slot = slots.get_mut(place);
    slot.map(|slot| slot.set_next(key, next)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_key_goes_one_after_another_and_others_side_by_side() {
        let mut queue = OrderedQueue::default();
        queue.push("a1", [Some(1), None]);
        queue.push("a2", [Some(1), None]);
        queue.push("b1", [Some(2), None]);
        queue.push("free", [None, None]);
        assert_eq!((queue.waiting(), queue.ready()), (4, 3));
        assert!(queue.any_waiting(|item| *item == "a2"));
        let (a1, item) = queue.pop().unwrap();
        assert_eq!(item, "a1");
        assert_eq!(queue.pop().unwrap().1, "b1");
        assert_eq!(queue.pop().unwrap().1, "free");
        assert!(queue.pop().is_none());
        queue.finish(a1);
        assert_eq!(queue.pop().unwrap().1, "a2");
    }

    #[test]
    fn an_item_with_two_keys_waits_for_both_and_holds_both() {
        let mut queue = OrderedQueue::default();
        queue.push("a", [Some(1), None]);
        queue.push("b", [Some(2), None]);
        queue.push("link", [Some(1), Some(2)]);
        queue.push("a after", [Some(1), None]);
        let a = queue.pop().unwrap().0;
        let b = queue.pop().unwrap().0;
        queue.finish(a);
        assert!(queue.pop().is_none());
        queue.finish(b);
        let (link, item) = queue.pop().unwrap();
        assert_eq!(item, "link");
        assert!(queue.pop().is_none());
        queue.finish(link);
        assert_eq!(queue.pop().unwrap().1, "a after");
    }

    #[test]
    fn an_entity_linked_with_itself_does_not_wait_for_itself() {
        let mut queue = OrderedQueue::default();
        queue.push("x", [Some(1), Some(1)]);
        assert_eq!(queue.pop().unwrap().1, "x");
    }

    #[test]
    fn draining_takes_what_waits_and_leaves_what_runs() {
        let mut queue = OrderedQueue::default();
        for item in ["a1", "a2", "a3"] {
            queue.push(item, [Some(1), None]);
        }
        queue.push("free", [None, None]);
        let (a1, _) = queue.pop().unwrap();
        let drained = queue.drain_waiting();
        assert_eq!(drained, ["a2", "a3", "free"]);
        assert_eq!((queue.waiting(), queue.ready()), (0, 0));
        assert!(!queue.any_waiting(|_| true));
        queue.push("a4", [Some(1), None]);
        assert!(queue.pop().is_none(), "a1 still runs");
        queue.finish(a1);
        let (a4, item) = queue.pop().unwrap();
        assert_eq!(item, "a4");
        queue.rest();
        queue.finish(a4);
        assert!(queue.is_empty());
        queue.rest();
        queue.push("a5", [Some(1), None]);
        assert_eq!(queue.pop().unwrap().1, "a5", "rest is for queues that are empty");
    }

    proptest! {
        #[test]
        fn every_item_goes_once_in_the_order_of_its_keys(
            items in prop::collection::vec((prop::option::of(0u64..4), prop::option::of(0u64..4)), 1..60),
            choices in prop::collection::vec(any::<u16>(), 200),
        ) {
            let mut queue = OrderedQueue::default();
            let mut pending = items.iter().enumerate();
            let mut running: Vec<(Place, usize)> = Vec::new();
            let mut started = Vec::new();
            let mut choices = choices.into_iter().cycle();
            while started.len() < items.len() || !running.is_empty() {
                match choices.next().unwrap() % 32 {
                    31 => {
                        let drained = queue.drain_waiting();
                        prop_assert!(drained.is_sorted());
                        prop_assert_eq!((queue.waiting(), queue.ready()), (0, 0));
                        started.extend(drained);
                    },
                    0..11 => if let Some((number, keys)) = pending.next() { queue.push(number, [keys.0, keys.1]); },
                    11..21 => if let Some((place, number)) = queue.pop() {
                        for (_, other) in &running {
                            let keys = |n: usize| [items[n].0, items[n].1].into_iter().flatten().collect::<Vec<_>>();
                            prop_assert!(keys(number).iter().all(|key| !keys(*other).contains(key)));
                        }
                        started.push(number);
                        running.push((place, number));
                    },
                    _ => if !running.is_empty() {
                        let index = choices.next().unwrap() as usize % running.len();
                        queue.finish(running.swap_remove(index).0);
                    },
                }
            }
            for key in 0..4 {
                let of_key: Vec<_> = started.iter().filter(|n| items[**n].0 == Some(key) || items[**n].1 == Some(key)).collect();
                prop_assert!(of_key.is_sorted());
            }
            prop_assert!(queue.is_empty());
        }
    }
}
