//! Who hears of an attempt's end: the attempt log and the health of integrations. Never delays a delivery.

use bytes::Bytes;

use crate::delivery::Delivery;
use crate::domain::outcome::Outcome;

/// The end of one attempt, as seen by those who report on it.
pub struct Ended<'a> {
    /// The delivery.
    pub delivery: &'a Delivery,
    /// How it ended. Slots without a request are not reported.
    pub outcome: &'a Outcome,
    /// How long the request took.
    pub took: std::time::Duration,
    /// The beginning of the answer's body, if it was asked for.
    pub answer: &'a Bytes,
    /// ms since 1970.
    pub at_ms: i64,
}

/// Who hears of attempts.
#[derive(Default)]
pub struct Reports {}

impl Reports {
    /// Whether the answer's body is wanted.
    pub fn wants_answer(&self) -> bool {
        false
    }

    /// An attempt ended.
    pub fn attempt_ended(&self, _ended: &Ended<'_>) {}
}
