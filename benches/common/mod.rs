//! What the benchmarks share: many integrations, events of a size, a worker's figures over time, and the report.
//!
//! A benchmark includes this file as a module beside `tests/support`; nothing in here measures.
#![expect(dead_code, reason = "each benchmark uses a part of what they share")]

pub(crate) mod farm;
pub(crate) mod figures;
pub(crate) mod integrations;
pub(crate) mod options;
pub(crate) mod probe;
