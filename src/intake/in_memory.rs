//! A partition whose records are all in memory, read by the rules of the catch-up reader: for tests without Kafka. No rule is here.

use std::sync::Arc;

use super::backlog_part::listen;
use super::pipeline::{Pipeline, Record};
use crate::backlog::partition::{PartitionBacklog, Plan};
use crate::clock;
use crate::inflight::job::Job;
use crate::inflight::partition::Assignment;

/// A record of a log in memory.
pub struct InMemory {
    /// The workspace.
    pub workspace: String,
    /// The value.
    pub value: Vec<u8>,
    /// The timestamp, ms since 1970.
    pub timestamp_ms: i64,
}

/// One turn over a partition whose records are all in memory, in the order of their offsets from zero: for tests without
/// Kafka. Places are kept at once.
pub fn turn_in_memory(
    pipeline: &Pipeline,
    log: &[InMemory],
    assignment: &Arc<Assignment>,
    backlog: &mut PartitionBacklog,
    batches: &mut [Vec<Job>],
) {
    let returns = pipeline.gauges().take_returns();
    listen(assignment, backlog);
    assignment.set_commit_bound(backlog.commit_bound());
    for (gauge, number) in returns {
        gauge.note_return(number);
    }
    let now_ms = clock::now_ms();
    catch_up_in_memory(pipeline, log, assignment, backlog, now_ms, batches);
    backlog.write_soon();
    for write in backlog.writes_due(now_ms) {
        backlog.written(write.gauge.id(), true);
    }
}

/// Reads records of `log` for webhooks that are behind at `now_ms`, ms since 1970, as far as they have room.
pub(super) fn catch_up_in_memory(
    pipeline: &Pipeline,
    log: &[InMemory],
    assignment: &Arc<Assignment>,
    backlog: &mut PartitionBacklog,
    now_ms: i64,
    batches: &mut [Vec<Job>],
) {
    while backlog.plan(pipeline.look(now_ms)) != Plan::Rest
        && let Some(offset) = backlog.pass_position()
    {
        let at = usize::try_from(offset).ok().and_then(|index| log.get(index));
        let Some(InMemory { workspace, value, timestamp_ms }) = at else { break };
        let workspace = Some(workspace.as_str());
        let record = Record {
            offset,
            timestamp_ms: *timestamp_ms,
            key: None,
            value: Some(value),
            workspace,
            is_workspace_key: false,
            read_ms: now_ms,
        };
        if !pipeline.catch_up(&record, assignment, backlog, batches) {
            break;
        }
    }
}
