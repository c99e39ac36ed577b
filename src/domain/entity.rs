//! The entities that an event is about, as hashes: what filters compare and what first attempts are ordered by. The ids themselves are not kept.

use super::guid::canonical;
use super::hash::hash_bytes;

/// Entity hashes keep 50 bits: they fit into a `u64` beside the two masks, and a collision is very unlikely.
const ENTITY_BITS: u32 = 50;
pub(super) const ENTITY_MASK: u64 = (1 << ENTITY_BITS) - 1;

/// One entity that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entity {
    /// Its type, `company` for the field `companyId`.
    pub(crate) entity_type: EntityType,
    /// A hash of its type and id: what first attempts of one webhook are ordered by. Without an id there is no order.
    pub(crate) order_key: Option<u64>,
}

/// An entity type as a hash of its lower-case name. Entity types are an open set, so they are never listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntityType(pub(super) u64);

impl Entity {
    /// Of a member of `entityIds`.
    pub(super) fn of(key: &str, id: Option<&str>) -> Self {
        let entity_type = EntityType::of(key.strip_suffix("Id").unwrap_or(key));
        // Entities of two types may have one id.
        let order_key = id.map(|id| hash_bytes(canonical(id).as_bytes()) ^ entity_type.hash().rotate_left(32));
        Self { entity_type, order_key }
    }
}

impl EntityType {
    /// The entity type of that name, without case.
    pub(crate) fn of(name: &str) -> Self {
        let hash = if name.bytes().any(|byte| !byte.is_ascii() || byte.is_ascii_uppercase()) {
            hash_bytes(name.to_lowercase().as_bytes())
        } else {
            hash_bytes(name.as_bytes())
        };
        // Never the value that means "any".
        Self((hash >> (64 - ENTITY_BITS)).max(1))
    }

    /// A hash of the name.
    pub(crate) fn hash(self) -> u64 {
        self.0
    }

    /// One of 64 bits. A type always has the same bit, and other types may have it too.
    pub(super) fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }
}
