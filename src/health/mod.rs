//! Suspending integrations that keep failing: from counting attempts to the view that every worker obeys.
//!
//! Each worker tallies its attempts, collects them and publishes them. The owner of a partition applies the rules and writes changes of
//! state. Every worker follows these. Nothing here delays a delivery.

pub(crate) mod resume;
pub(crate) mod publisher;
pub(crate) mod collector;
pub(crate) mod tally;
pub(crate) mod owner;
mod moves;
mod entry;
pub(crate) mod restore;
pub(crate) mod positions;
pub(crate) mod feed;
pub(crate) mod view;
pub(crate) mod records;
pub(crate) mod rules;
