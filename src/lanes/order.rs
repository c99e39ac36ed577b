//! The queue of one lane: who may go next when some wait for each other.
//!
//! Items that share an order key go one after another, in the order they came; others are free. An item may have two
//! keys and then waits for both. Items leave in two steps: `pop` starts one, `finish` frees its keys.

use std::collections::{HashMap, VecDeque};

use slab::Slab;

use crate::domain::hash::BuildHash64;

/// The place of a started item, until it is finished.
pub type Place = usize;

#[derive(Debug)]
struct Slot<T> {
    /// None once started.
    item: Option<T>,
    keys: [Option<u64>; 2],
}

/// A queue in which items with a common key go one after another.
#[derive(Debug)]
pub struct OrderedQueue<T> {
    slots: Slab<Slot<T>>,
    /// Items that may start, in the order they became free to.
    ready: VecDeque<Place>,
    /// For each key: its items in order. The first is started or ready (unless its other key holds it back).
    by_key: HashMap<u64, VecDeque<Place>, BuildHash64>,
    waiting: usize,
}

impl<T> Default for OrderedQueue<T> {
    fn default() -> Self {
        Self { slots: Slab::new(), ready: VecDeque::new(), by_key: HashMap::default(), waiting: 0 }
    }
}

impl<T> OrderedQueue<T> {
    /// Takes an item at the end of the order of its keys.
    pub fn push(&mut self, item: T, keys: [Option<u64>; 2]) {
        // An entity linked with itself is one key, not a wait for oneself.
        let keys = if keys[0] == keys[1] { [keys[0], None] } else { keys };
        let place = self.slots.insert(Slot { item: Some(item), keys });
        for key in keys.into_iter().flatten() {
            self.by_key.entry(key).or_default().push_back(place);
        }
        self.waiting += 1;
        if self.is_first(place, keys) {
            self.ready.push_back(place);
        }
    }

    fn is_first(&self, place: Place, keys: [Option<u64>; 2]) -> bool {
        keys.iter().flatten().all(|key| self.by_key.get(key).and_then(VecDeque::front) == Some(&place))
    }

    /// Starts the next item that waits for nobody.
    pub fn pop(&mut self) -> Option<(Place, T)> {
        let place = self.ready.pop_front()?;
        let item = self.slots.get_mut(place)?.item.take()?;
        self.waiting -= 1;
        Some((place, item))
    }

    /// Ends a started item: the next of its keys may go.
    pub fn finish(&mut self, place: Place) {
        let Some(slot) = self.slots.try_remove(place) else { return };
        for key in slot.keys.into_iter().flatten() {
            let Some(queue) = self.by_key.get_mut(&key) else { continue };
            queue.pop_front();
            match queue.front().copied() {
                None => {
                    self.by_key.remove(&key);
                }
                Some(next) => {
                    let keys = self.slots.get(next).map_or([None; 2], |slot| slot.keys);
                    if self.is_first(next, keys) {
                        self.ready.push_back(next);
                    }
                }
            }
        }
    }

    /// Takes out everything that has not started, in the order it came for each key.
    pub fn drain_waiting(&mut self) -> Vec<T> {
        let mut drained = Vec::with_capacity(self.waiting);
        // Ready ones first, then what each of them frees: draining must not overtake within a key.
        while let Some((place, item)) = self.pop() {
            drained.push(item);
            self.finish(place);
        }
        // The rest stands behind started items: by depth, so that none overtakes another of its key.
        let slots = &self.slots;
        let waits = |place: &Place| slots.get(*place).is_some_and(|slot| slot.item.is_some());
        let mut order: Vec<(usize, Place)> = Vec::new();
        self.by_key.retain(|_, queue| {
            order.extend(queue.iter().copied().enumerate().filter(|(_, place)| waits(place)));
            queue.retain(|place| !waits(place));
            !queue.is_empty()
        });
        order.sort_unstable();
        for (_, place) in order {
            drained.extend(self.slots.try_remove(place).and_then(|slot| slot.item));
        }
        self.waiting = 0;
        drained
    }

    /// Whether any that has not started is such a one.
    pub fn any_waiting(&self, is_such: impl Fn(&T) -> bool) -> bool {
        self.slots.iter().filter_map(|(_, slot)| slot.item.as_ref()).any(is_such)
    }

    /// How many have not started.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many could start now.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether one could start now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing waits and nothing is started.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
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
        assert_eq!(drained, ["free", "a2", "a3"]);
        assert_eq!((queue.waiting(), queue.ready()), (0, 0));
        assert!(!queue.any_waiting(|_| true));
        queue.push("a4", [Some(1), None]);
        assert!(queue.pop().is_none(), "a1 still runs");
        queue.finish(a1);
        let (a4, item) = queue.pop().unwrap();
        assert_eq!(item, "a4");
        queue.finish(a4);
        assert!(queue.is_empty());
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
                match choices.next().unwrap() % 3 {
                    0 => if let Some((number, keys)) = pending.next() { queue.push(number, [keys.0, keys.1]); },
                    1 => if let Some((place, number)) = queue.pop() {
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
