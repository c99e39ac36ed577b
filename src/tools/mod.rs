//! The subcommands beside the worker and the API.

pub mod demo;
pub mod receiver;
mod receiver_log;
pub mod topics;

pub use receiver_log::Output;
