//! Composition roots: what a long-running subcommand starts, in which order, and how it stops. No decisions about deliveries.

pub(crate) mod worker;
mod threads;
pub(crate) mod console;
pub(crate) mod api;
