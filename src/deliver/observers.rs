//! Who hears of an attempt's end: the attempt log and the health of integrations. Never delays a delivery.
//!
//! Shards call in from their own threads, once an attempt: a count under a lock that only this shard and, once a second,
//! the collector take, and for the log a hand-over that is given up when there is no room.

use std::sync::Arc;

use bytes::Bytes;

use crate::attempt_log::entry::AttemptLog;
use crate::domain::outcome::Outcome;
use crate::health::tally::Tally;
use crate::inflight::job::Delivery;

/// The end of one attempt, as seen by those who report on it.
pub(crate) struct Ended<'a> {
    /// The shard that made it.
    pub(crate) shard: usize,
    /// The delivery.
    pub(crate) delivery: &'a Delivery,
    /// How it ended. Slots without a request are not reported.
    pub(crate) outcome: &'a Outcome,
    /// How long the request took.
    pub(crate) took: std::time::Duration,
    /// The beginning of the answer's body, if it was asked for.
    pub(crate) answer: &'a Bytes,
    /// ms since 1970.
    pub(crate) at_ms: i64,
}

/// The name of this host, for people who look for the worker behind a record.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(HOST_NAME_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// The longest name that a host may have.
const HOST_NAME_MAX: usize = 64;

/// Who hears of attempts. Nobody, by default.
#[derive(Default)]
pub struct Reports {
    tally: Option<Arc<Tally>>,
    log: Option<AttemptLog>,
}

impl Reports {
    /// To these.
    pub(crate) fn new(tally: Arc<Tally>, log: Option<AttemptLog>) -> Self {
        Self { tally: Some(tally), log }
    }

    /// Whether the answer's body is wanted. Whether the attempt is logged is only known after it, and reading on is what
    /// the courier does anyway.
    pub(crate) fn wants_answer(&self) -> bool {
        self.log.is_some()
    }

    /// An attempt ended.
    pub(crate) fn attempt_ended(&self, ended: &Ended<'_>) {
        if let Some(tally) = &self.tally {
            tally.count(ended.shard, &ended.delivery.integration, ended.outcome, ended.at_ms);
        }
        if let Some(log) = &self.log {
            log.attempt_ended(ended);
        }
    }
}
