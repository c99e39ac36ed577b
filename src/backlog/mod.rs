//! Webhooks that are behind: each keeps a place in the events topic, and a second reader gives it what comes after it.
//!
//! Read `behind` first, then `partition` and `handover`: they are pure, and `simulator` drives them with a seeded scheduler. `record` is the
//! format of the backlog topic, `places` writes and reads it, `catch_up` is the second reader. What holds them together is
//! `intake::keeper`; matching a record is `intake::pipeline`'s.

pub(crate) mod behind;
pub(crate) mod catch_up;
pub(crate) mod handover;
pub(crate) mod partition;
pub(crate) mod place;
pub(crate) mod places;
pub(crate) mod record;
#[cfg(test)]
mod simulator;
