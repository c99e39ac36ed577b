//! What the service says about itself: logs and metrics.

pub mod logs;
pub mod metrics;
pub mod admin;
pub mod repeats;
pub mod terminal;
