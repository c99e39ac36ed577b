//! Logs, metrics, admin pages and readiness. No label comes from an open set.

pub(crate) mod logs;
pub(crate) mod chain;
mod client_words;
pub(crate) mod never;
pub(crate) mod panics;
pub(crate) mod admin;
pub(crate) mod metrics;
pub(crate) mod readiness;
pub(crate) mod repeats;
pub(crate) mod terminal;
