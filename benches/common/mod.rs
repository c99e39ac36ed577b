//! What the benchmarks share: the tests' support, a runtime, options, many integrations, events of a size, a worker's figures over time, and
//! the report.
//!
//! A benchmark includes this file as its module `common`; nothing in here measures.
#![expect(dead_code, reason = "each benchmark uses a part of what they share")]

pub(crate) mod farm;
pub(crate) mod figures;
pub(crate) mod integrations;
pub(crate) mod options;
pub(crate) mod probe;
#[path = "../../tests/support/mod.rs"]
pub(crate) mod support;

/// The runtime of a benchmark: one thread beside the main one, so that the worker has the rest of the machine.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
