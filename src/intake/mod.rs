//! Records in: from Kafka to deliveries. Reads, parses, matches and hands over; makes no request and decides no retry.
//!
//! In reading order: `membership` holds partitions and commits, `reader` reads them. `events` reads events, `keeper` and `backlog_part`
//! read for webhooks that are behind, `pipeline` turns a record into deliveries. `retries` hands over retries that are due,
//! `tick_scheduler` fires schedules, `table_feed` follows the integrations topic. The rest measures and watches the logs that are read.

pub(crate) mod membership;
mod begun;
mod group_offsets;
pub(crate) mod reader;
pub(crate) mod events;
pub(crate) mod keeper;
mod backlog_part;
pub(crate) mod pipeline;
pub(crate) mod retries;
mod due_buffers;
pub(crate) mod tick_scheduler;
pub(crate) mod lease;
pub(crate) mod table_feed;
pub(crate) mod lag;
mod log_changes;
mod outside;
mod unheld;
mod tier_watch;
pub(crate) mod in_memory;
#[cfg(test)]
mod tier_simulator;
