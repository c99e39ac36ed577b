//! Records in: from Kafka to deliveries. Reads, parses, matches and hands over; makes no request and decides no retry.
//!
//! In reading order: a member of a consumer group, the reader of its partitions, its events, its due retries, and the path of one record from there.

pub(crate) mod membership;
mod group_offsets;
pub(crate) mod reader;
pub(crate) mod keeper;
pub(crate) mod in_memory;
mod backlog_part;
pub(crate) mod events;
pub(crate) mod retries;
mod due_buffers;
pub(crate) mod pipeline;
pub(crate) mod table_feed;
pub(crate) mod tick_scheduler;
pub(crate) mod lease;
pub(crate) mod lag;
mod log_changes;
mod outside;
mod tier_watch;
mod unheld;
