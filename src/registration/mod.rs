//! The HTTP API that writes integrations: its requests and answers, the patches in them, and the one writer behind them. It
//! delivers no event; a test delivery is the only request that it sends to a receiver.

pub(crate) mod test_delivery;
pub(crate) mod http;
pub(crate) mod lookup;
mod question;
pub(crate) mod registry;
pub(crate) mod patch;
pub(crate) mod instance_check;
mod webhook_check;
mod faults;
pub(crate) mod instance;
mod secrets;
mod fields;
mod json_equality;
mod json_words;
