//! The ids that the receiver acknowledged last, to recognize duplicates. Their number is bounded.

use std::collections::HashSet;

use crate::domain::hash::hash_bytes;

/// Ids remembered in each of two generations.
const IDS_MAX: usize = 65_536;

/// Hashes of the ids acknowledged last.
#[derive(Default)]
pub(super) struct Ids {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Ids {
    /// Returns whether `id` was seen before, and remembers it. An empty id is never known.
    pub(super) fn is_known(&mut self, id: &str) -> bool {
        let hash = hash_bytes(id.as_bytes());
        if id.is_empty() {
            return false;
        }
        if self.young.contains(&hash) {
            return true;
        }
        if self.young.len() >= IDS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
        self.old.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_for_two_generations() {
        let mut ids = Ids::default();
        assert!(!ids.is_known("a"));
        assert!(ids.is_known("a"));
        assert!(!ids.is_known("") && !ids.is_known(""));
        (1..IDS_MAX).for_each(|number| assert!(!ids.is_known(&number.to_string())));
        assert!(!ids.is_known("next generation"));
        assert!(ids.is_known("1"));
        (0..2 * IDS_MAX).for_each(|number| assert!(!ids.is_known(&format!("x{number}"))));
        assert!(!ids.is_known("2"), "forgotten");
        assert!(ids.young.len() <= IDS_MAX && ids.old.len() <= IDS_MAX);
    }
}
