//! Who hears of an attempt's end: the attempt log and the health of integrations. Never delays a delivery.
//!
//! Shards call in from their own threads, once an attempt: a count under a lock that only this shard and, once a second,
//! the collector take, and for the log a hand-over that is given up when there is no room.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::courier::Keep;
use crate::attempt_log::entry::{AttemptLog, Entry};
use crate::domain::outcome::Outcome;
use crate::health::tally::Tally;
use crate::inflight::job::Delivery;
use crate::net::cause::Cause;

/// The end of one attempt, as seen by those who report on it.
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
    pub(crate) took: std::time::Duration,
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

    /// Of which answers the body is wanted.
    pub(crate) fn keep(&self) -> Keep {
        self.log.as_ref().map_or(Keep::Nothing, AttemptLog::keep)
    }

    /// An attempt ended. Returns what is to be logged of it once its answer is read.
    pub(crate) fn attempt_ended(&self, ended: &Ended<'_>) -> Option<Entry> {
        if let Some(tally) = &self.tally {
            tally.count(ended.shard, &ended.delivery.integration, ended.outcome, ended.at_ms);
        }
        self.log.as_ref()?.entry(ended)
    }

    /// The answer to an attempt is read, as far as it is: `body` is its beginning.
    pub(crate) fn answer_read(&self, entry: Entry, body: Bytes) {
        if let Some(log) = &self.log {
            log.write(entry, body);
        }
    }
}
