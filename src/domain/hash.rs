//! A hash that is the same in every process and every version: entity types, order keys, phases of schedules, shards. It is frozen;
//! golden values hold it.
//!
//! A map whose keys come from outside takes [`BuildSeeded64`]: without a seed an attacker can make keys collide.

use std::hash::{BuildHasher, Hasher as _, RandomState};

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

/// Builds [`Hash64`] for maps whose keys this program makes.
pub(crate) type BuildHash64 = std::hash::BuildHasherDefault<Hash64>;

/// Builds [`Hash64`] with a random seed, for maps whose keys come from outside: who does not know the seed can't choose keys that
/// collide.
#[derive(Clone, Copy)]
pub(crate) struct BuildSeeded64 {
    seed: u64,
}

impl Default for BuildSeeded64 {
    fn default() -> Self {
        // The standard library's own random keys.
        Self { seed: RandomState::new().hash_one(0_u8) }
    }
}

impl BuildHasher for BuildSeeded64 {
    type Hasher = Hash64;

    fn build_hasher(&self) -> Hash64 {
        Hash64(self.seed)
    }
}

/// What an attacker could choose, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Texts that have one hash without a seed: the second eight bytes of each are the state after the first, which makes it 0.
    pub(crate) fn colliding(prefix: [u8; 3]) -> impl Iterator<Item = String> {
        (0..100_000_u32).filter_map(move |number| {
            let begin = [&prefix[..], format!("{number:05}").as_bytes()].concat();
            let mut state = Hash64::default();
            begin.as_chunks::<8>().0.iter().for_each(|word| state.add(u64::from_le_bytes(*word)));
            String::from_utf8([begin, state.0.to_le_bytes().to_vec()].concat())
                .ok()
                .filter(|text| text.matches('/').count() <= 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_chosen_to_collide_collide_only_without_a_seed() {
        let texts: Vec<String> = testing::colliding(*b"ws/").take(2).collect();
        assert_ne!(texts[0], texts[1]);
        assert_eq!(hash_bytes(texts[0].as_bytes()), hash_bytes(texts[1].as_bytes()));
        let seeded = BuildSeeded64::default();
        assert_ne!(seeded.hash_one(&texts[0]), seeded.hash_one(&texts[1]));
        assert_ne!(seeded.hash_one(&texts[0]), BuildSeeded64::default().hash_one(&texts[0]), "each map has its own");
    }

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
