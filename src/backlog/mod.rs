//! Webhooks that are behind. A webhook whose lane is full, or whose circuit is open, has a place in each partition of the events topic,
//! and gets the events after it later.
//!
//! Two readers read the events topic. The main reader is the group's: it reads each record once and skips the webhooks that are
//! behind. The catch-up reader is in no group: it reads the records after their places a second time, for these webhooks only,
//! as fast as their lanes take them.
//!
//! Read `behind` first, then `partition` and `handover`: they are pure, and `simulator` drives them with a seeded scheduler. `record`
//! is the format of the backlog topic, `places` writes and reads it, `catch_up` is the catch-up reader. `intake::keeper` calls all of
//! them. A record is matched by `intake::pipeline`, not here.

pub(crate) mod place;
pub(crate) mod record;
pub(crate) mod places;
pub(crate) mod partition;
pub(crate) mod behind;
pub(crate) mod catch_up;
pub(crate) mod handover;
#[cfg(test)]
pub(crate) mod simulator;
