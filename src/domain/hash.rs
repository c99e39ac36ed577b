//! A hash that is the same in every process and every version: entity types, order keys, phases of schedules, shards. It is frozen;
//! golden values hold it.
//!
//! Not for a map whose keys come from outside, since an attacker can make keys collide: such a map has a seed of its process.

use std::hash::Hasher as _;

/// FxHash-like multiply and rotate over eight bytes at a time, finished with a mixer. Same value in every process.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = Hash64(0x9E37_79B9_7F4A_7C15);
    state.write(bytes);
    state.finish()
}

/// The hasher behind [`hash_bytes`].
#[derive(Clone, Copy)]
pub(crate) struct Hash64(u64);

impl Default for Hash64 {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Hash64 {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(0xA076_1D64_78BD_642F_u64);
        #[expect(clippy::cast_possible_truncation, reason = "folds the two halves of the product")]
        let folded = (product >> 64) as u64 ^ product as u64;
        self.0 = folded;
    }
}

impl std::hash::Hasher for Hash64 {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0u8; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.add(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(32));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn finish(&self) -> u64 {
        let mut mixed = *self;
        mixed.add(0xE703_7ED1_A0B4_28DB);
        mixed.0
    }
}

/// Builds [`Hash64`] for maps whose keys this program makes or reads from its configuration.
pub(crate) type BuildHash64 = std::hash::BuildHasherDefault<Hash64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_every_byte_count() {
        let mut seen = std::collections::HashSet::new();
        for text in ["", "a", "b", "a\0", "\0a", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaa\0", "baaaaaaa", "aaaaaaab"] {
            assert!(seen.insert(hash_bytes(text.as_bytes())), "{text:?} collides");
        }
    }

    #[test]
    fn the_hash_never_changes() {
        for (text, hash) in [
            ("", 0x14cb_b45e_7166_3f30),
            ("company", 0x8dc0_f291_4bd4_35a6),
            ("catalogitem", 0x6744_59e4_9e05_4278),
            ("a5aad3c1-777b-4ae5-8ca1-60b94c0423e5", 0x150b_b15f_c5c1_5cee),
        ] {
            assert_eq!(hash_bytes(text.as_bytes()), hash, "{text}");
        }
    }
}
