//! The operators' page: its files, the session of a browser, the readers it shows, and the way of its actions to the API.
//!
//! Nothing here writes to Kafka and nothing here decides what a token may do: readers check it themselves, and actions reach the
//! API with the user's own token.

mod forward;
mod page;
mod server;
mod session;

pub(crate) use forward::Forward;
pub(crate) use server::{BoundConsole, Console};
