//! What is known of a webhook when it begins to be behind: when, why, and what its group had settled.

use std::ops::Range;
use std::sync::Arc;

use crate::domain::outcome::BehindReason;

/// When a webhook falls behind, ms since 1970.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// When the event was written at which it does.
    pub(super) event_ms: i64,
    pub(super) now_ms: i64,
}

/// Why a webhook is behind, and since when.
#[derive(Clone, Copy)]
pub(crate) struct Cause {
    pub(crate) reason: BehindReason,
    /// ms since 1970.
    pub(crate) since_ms: i64,
}

/// What a group has committed of a partition.
#[derive(Clone, Copy)]
pub(super) struct Committed<'a> {
    /// Everything below is settled.
    pub(super) start: i64,
    /// What is settled beyond.
    pub(super) settled: &'a Arc<[Range<i64>]>,
}
