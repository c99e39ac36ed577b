//! Suspending integrations that keep failing: from counting attempts to the view that every worker obeys.
//!
//! In reading order: attempts are tallied by each worker, collected and published; the owner of a partition applies the rules
//! and writes changes of state; every worker follows them. Never delays a delivery.

pub(crate) mod rules;
pub(crate) mod tally;
pub(crate) mod collector;
pub(crate) mod publisher;
mod moves;
mod entry;
pub(crate) mod owner;
pub(crate) mod restore;
pub(crate) mod positions;
pub(crate) mod records;
pub(crate) mod feed;
pub(crate) mod view;
pub(crate) mod resume;
