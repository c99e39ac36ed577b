//! The end of an attempt, as the attempt log and the health of integrations get it.

use std::net::SocketAddr;
use std::time::Duration;

use super::job::Delivery;
use crate::domain::outcome::Outcome;
use crate::net::cause::Cause;

/// The end of one attempt, for the attempt log and health.
pub(crate) struct Ended<'a> {
    /// The shard that made it.
    pub(crate) shard: usize,
    /// The delivery.
    pub(crate) delivery: &'a Delivery,
    /// How it ended. Slots without a request are not reported.
    pub(crate) outcome: &'a Outcome,
    /// Why it failed, in words.
    pub(crate) cause: Option<&'a Cause>,
    /// The receiver's address, where a connection to it was tried.
    pub(crate) address: Option<SocketAddr>,
    /// How long the request took.
    pub(crate) took: Duration,
    /// ms since 1970.
    pub(crate) at_ms: i64,
    /// If the failure is retried: when the retry falls due, ms since 1970.
    pub(crate) next_attempt_ms: Option<i64>,
}

/// From which answers the beginning of the body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// From no answer.
    Nothing,
    /// From answers that do not acknowledge.
    Failures,
    /// From all answers.
    All,
}
