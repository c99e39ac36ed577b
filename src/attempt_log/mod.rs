//! What receivers answered, without secrets and without events. Never delays a delivery.

pub(crate) mod writer;
pub(crate) mod entry;
pub(crate) mod redaction;
