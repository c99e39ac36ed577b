//! Webhooks that are behind. A webhook whose lane is full, or whose circuit is open, has a place in each partition of the events topic,
//! and gets the events after it later.
//!
//! Two readers read the events topic. The main reader is the group's: it reads each record once and skips the webhooks that are
//! behind. The catch-up reader is in no group: it reads the records after their places a second time, for these webhooks only,
//! as fast as their lanes take them.
//!
//! `catch_up` is the catch-up reader, `places` writes and reads the backlog topic, `record` is its format. `handover`, `loss`,
//! `partition` and `behind` are pure, and `simulator` drives them with a seeded scheduler. `intake::keeper` calls all of them. A record is matched by
//! `intake::pipeline`, not here.

pub(crate) mod catch_up;
pub(crate) mod places;
pub(crate) mod record;
pub(crate) mod handover;
pub(crate) mod loss;
pub(crate) mod partition;
pub(crate) mod behind;
pub(crate) mod beginning;
pub(crate) mod place;
#[cfg(test)]
pub(crate) mod simulator;
