//! What receivers answered, without secrets and without events. Never delays a delivery.

pub mod entry;
pub mod redaction;
pub mod writer;
