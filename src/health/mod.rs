//! Suspending integrations that keep failing: from counting attempts to the view that every worker obeys.
//!
//! In reading order: attempts are tallied by each worker, collected and published; the owner of a partition applies the rules
//! and writes changes of state; every worker follows them. Never delays a delivery.

pub mod rules;
pub mod tally;
pub mod collector;
pub mod publisher;
pub mod owner;
pub mod restore;
pub mod positions;
pub mod records;
pub mod feed;
pub mod view;
pub mod resume;
