//! The subcommands beside the worker and the API.

pub mod topics;
