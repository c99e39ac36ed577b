//! The thread that follows the integrations topic and fills the view. It is ready when the view has all records that the topic had
//! when the thread began. `kafka::table_reader` reads a topic as a table.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Log, ROLE, RegistryError, Running, Version, View, run_thread};
use crate::domain::key_homes::KeyHomes;
use crate::kafka::table_reader::{Compacted, Row};

/// How long the thread waits for a record before it looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// The way to the caller that opens the registry and waits until the view is complete.
type Ready = Option<oneshot::Sender<Result<(), RegistryError>>>;

pub(super) fn start(log: Log, view: Arc<View>) -> Running {
    run_thread("reader", move |ready| {
        let mut ready = Some(ready);
        let ended = follow(&log, &view, &mut ready);
        match (ended, ready) {
            (Err(error), Some(ready)) => {
                // The opener gets the error and stops waiting.
                drop(ready.send(Err(error)));
                Ok(())
            }
            (ended, _) => ended,
        }
    })
}

fn follow(log: &Log, view: &View, ready: &mut Ready) -> Result<(), RegistryError> {
    let mut topic = Compacted::open(&log.kafka, &log.topic, ROLE)?;
    let mut homes = KeyHomes::default();
    while !log.stop.is_cancelled() {
        topic.read(POLL, |row| apply(log, view, &mut homes, &row))?;
        if topic.is_caught_up()
            && let Some(ready) = ready.take()
        {
            // The caller that opened the registry may be gone.
            drop(ready.send(Ok(())));
        }
    }
    if ready.is_some() { Err(RegistryError::Stopped) } else { Ok(()) }
}

fn apply(log: &Log, view: &View, homes: &mut KeyHomes, row: &Row<'_>) {
    let (partition, offset) = (row.partition, row.offset);
    let version = Version { partition, offset };
    if !homes.takes(row.key, partition, row.timestamp_ms) {
        tracing::debug!(partition, offset, "a newer record of the key is in another partition");
        return view.pass(version);
    }
    let key = std::str::from_utf8(row.key).ok();
    if !view.apply(key, row.value.map(Bytes::copy_from_slice), version, row.timestamp_ms) {
        tracing::warn!(topic = %log.topic, partition, offset, "key is not <workspace>/<integration id>, ignored");
    }
}
