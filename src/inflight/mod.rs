//! What is under way: the values that move between stages, and the accounts of what is settled and what is held. No Kafka, no HTTP.

pub mod job;
pub mod partition;
pub mod offsets;
pub mod pressure;
