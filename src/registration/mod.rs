//! The HTTP API that writes integrations: its requests and answers, the patches in them, and the one writer behind them. It
//! delivers no event; a test delivery is the only request that it sends to a receiver.

pub(crate) mod http;
pub(crate) mod lookup;
pub(crate) mod registry;
pub(crate) mod patch;
pub(crate) mod instance;
mod fields;
mod secrets;
mod json_equality;
mod json_words;
pub(crate) mod instance_check;
mod webhook_check;
pub(crate) mod test_delivery;
