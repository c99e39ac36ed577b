//! Between consumers and shards: a record of the client as the pipeline takes it, and the hand-over of jobs. Nothing is decided here.

use std::sync::Arc;

use rdkafka::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::pipeline::{Pipeline, Record};
use crate::domain::headers::workspace_and_source;
use crate::inflight::job::Job;
use crate::inflight::pressure::Pressure;
use crate::kafka::headers::readable_headers;
use crate::telemetry::readiness::Readiness;

/// Where a consumer hands jobs over, and the token that stops it.
#[derive(Clone)]
pub(crate) struct Handoff {
    /// One channel for each shard.
    pub(crate) shards: Vec<mpsc::Sender<Vec<Job>>>,
    /// The path of a record.
    pub(crate) pipeline: Arc<Pipeline>,
    /// Whether to read on.
    pub(crate) pressure: &'static Pressure,
    /// Cancelled when the process stops.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the process can't go on.
    pub(crate) fatal: CancellationToken,
    /// Where the loop reports that it runs.
    pub(crate) condition: Arc<Readiness>,
}

impl Handoff {
    /// One empty batch for each shard.
    pub(crate) fn batches(&self) -> Vec<Vec<Job>> {
        self.shards.iter().map(|_| Vec::new()).collect()
    }

    /// Hands over what is in `batches`. Blocks while a shard's channel is full: shards never wait for consumers.
    pub(crate) fn hand_over(&self, batches: &mut [Vec<Job>]) {
        for (shard, batch) in self.shards.iter().zip(batches) {
            if !batch.is_empty() && shard.blocking_send(std::mem::take(batch)).is_err() {
                // A shard ends before the consumers only when it panicked.
                tracing::error!("a shard is gone");
                self.fatal.cancel();
            }
        }
    }
}

/// A record as the pipeline takes it. Its batch was read at `read_ms`, ms since 1970.
pub(crate) fn record_of<M: Message>(message: &M, read_ms: i64) -> Record<'_> {
    let headers = message.headers().map(readable_headers).into_iter().flatten();
    let (workspace, is_workspace_key) = workspace_and_source(headers, message.key()).unzip();
    Record {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key(),
        value: message.payload(),
        workspace,
        is_workspace_key: is_workspace_key.unwrap_or(false),
        read_ms,
    }
}
