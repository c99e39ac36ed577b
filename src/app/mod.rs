//! Composition roots: what a long-running subcommand starts, in which order, and how it stops. No decisions about deliveries.

pub(crate) mod worker;
pub(crate) mod api;
