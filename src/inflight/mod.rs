//! What is under way: the values that move between stages, and the accounts of what is settled and what is held. No Kafka, no HTTP.

pub(crate) mod ended;
pub(crate) mod job;
pub(crate) mod partition;
mod from_lane;
pub(crate) mod lane_gauge;
pub(crate) mod delivery_id;
pub(crate) mod offsets;
pub(crate) mod settled_runs;
pub(crate) mod pressure;
