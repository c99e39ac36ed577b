//! Where the end of an attempt is reported: the attempt log and the health of integrations. Never delays a delivery.
//!
//! Shards call it from their own threads, once for each attempt. It counts under a lock that only this shard takes and, once a second,
//! the collector. It hands over to the log, unless there is no room.

use std::sync::Arc;

use bytes::Bytes;

use crate::attempt_log::entry::{AttemptLog, Entry};
use crate::health::tally::Tally;
use crate::inflight::ended::{Ended, Keep};

/// The name of this host, for people who look for the worker behind a record.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(HOST_NAME_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// The longest name that a host may have.
const HOST_NAME_MAX: usize = 64;

/// Where attempts are reported. By default nowhere.
#[derive(Default)]
pub struct Reports {
    tally: Option<Arc<Tally>>,
    log: Option<AttemptLog>,
}

impl Reports {
    /// Reports to these.
    pub(crate) fn new(tally: Arc<Tally>, log: Option<AttemptLog>) -> Self {
        Self { tally: Some(tally), log }
    }

    /// From which answers the body is wanted.
    pub(crate) fn keep(&self) -> Keep {
        self.log.as_ref().map_or(Keep::Nothing, AttemptLog::keep)
    }

    /// An attempt ended. Returns what the attempt log gets once the answer is read.
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
