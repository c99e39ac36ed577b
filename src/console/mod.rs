//! The operators' page: its files, the session of a browser, the readers it shows, and the requests that pass its actions on to the API.
//!
//! Nothing here writes to Kafka and nothing here decides what a token may do: readers check it themselves, and actions reach the
//! API with the user's own token.

mod server;
mod page;
mod session;
mod forward;

pub(crate) use forward::Forward;
pub(crate) use server::{BoundConsole, Console};
