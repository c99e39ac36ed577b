//! Records in: from Kafka to deliveries. Reads, parses, matches and hands over; makes no request and decides no retry.
//!
//! From the top down: `events` reads events, `keeper` and `backlog_part` read for webhooks that are behind, `retries` hands over retries
//! that are due, `tick_scheduler` fires schedules. `pipeline` turns a record into deliveries, `reader` reads the partitions,
//! `table_feed` follows the integrations topic, `table_writer` writes what that says into the table. `membership` holds partitions and
//! commits. The rest measures and watches the logs that are read.

pub(crate) mod events;
pub(crate) mod keeper;
pub(crate) mod in_memory;
mod backlog_part;
pub(crate) mod retries;
mod due_buffers;
pub(crate) mod tick_scheduler;
pub(crate) mod lease;
pub(crate) mod handoff;
pub(crate) mod pipeline;
pub(crate) mod reader;
pub(crate) mod table_feed;
mod table_writer;
pub(crate) mod lag;
mod unheld;
mod outside;
mod tier_watch;
mod log_changes;
pub(crate) mod membership;
mod group_offsets;
mod begun;
#[cfg(test)]
mod tier_simulator;
