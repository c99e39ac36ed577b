//! Which of two records of one key counts, when they stand in two partitions of a compacted topic.
//!
//! A key stays in its partition until partitions are added: then its next record, a tombstone too, may go to another one, and
//! the old record stays where it was. Offsets of two partitions say nothing about each other, times do.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// By key, where the record is that counts. An entry takes 24 bytes.
#[derive(Debug, Default)]
pub(crate) struct KeyHomes {
    hasher: RandomState,
    /// By the key's hash: the partition, and when its record was written, ms since 1970.
    homes: HashMap<u64, (i32, i64)>,
}

impl KeyHomes {
    /// Takes a record, unless a newer one of its key stands in another partition. Within a partition the later offset, which
    /// is the one that is read later, always counts. Of two records of the same millisecond the one in the higher partition
    /// counts: added partitions are the higher ones.
    pub(crate) fn takes(&mut self, key: &[u8], partition: i32, written_ms: i64) -> bool {
        let hash = self.hasher.hash_one(key);
        if let Some((home, at)) = self.homes.get(&hash)
            && *home != partition
            && (*at, *home) > (written_ms, partition)
        {
            return false;
        }
        self.homes.insert(hash, (partition, written_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_record_of_a_key_counts_whichever_partition_is_read_first() {
        let (old, new) = ((0, 1_000), (12, 2_000));
        for order in [[old, new], [new, old]] {
            let mut homes = KeyHomes::default();
            let taken: Vec<_> =
                order.into_iter().filter(|(partition, at)| homes.takes(b"ws/i", *partition, *at)).collect();
            assert_eq!(taken.last(), Some(&new));
            assert!(homes.takes(b"ws/other", 0, 1));
        }
    }

    #[test]
    fn within_a_partition_the_later_record_counts_whatever_its_time() {
        let mut homes = KeyHomes::default();
        assert!(homes.takes(b"k", 3, 2_000) && homes.takes(b"k", 3, 1_000));
    }

    #[test]
    fn two_workers_agree_on_records_of_the_same_time() {
        let (mut one, mut other) = (KeyHomes::default(), KeyHomes::default());
        assert!(one.takes(b"k", 1, 5) && one.takes(b"k", 2, 5));
        assert!(other.takes(b"k", 2, 5) && !other.takes(b"k", 1, 5));
    }
}
