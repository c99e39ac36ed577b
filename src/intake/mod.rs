//! Records in: from Kafka to deliveries. Reads, parses, matches and hands over; makes no request and decides no retry.
//!
//! In reading order: a member of a consumer group, its events, its due retries, and the path of one record from there.

pub mod membership;
pub mod events;
pub mod retries;
pub mod pipeline;
pub mod table_feed;
pub mod tick_scheduler;
pub mod lease;
pub mod lag;
