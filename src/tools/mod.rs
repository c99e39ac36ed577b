//! The subcommands beside the worker and the API.

pub mod receiver;
mod receiver_log;

pub use receiver_log::Output;
pub mod resume;
pub mod topics;
