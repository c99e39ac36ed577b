//! Composition roots: what a long-running subcommand starts, in which order, and how it stops. No decisions about deliveries.

pub mod worker;
pub mod api;
