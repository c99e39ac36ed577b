//! The HTTP API that writes integrations: requests and answers, the patches they carry, and the one writer behind them.

pub(crate) mod http;
pub(crate) mod patch;
mod fields;
mod json_equality;
mod json_words;
mod secrets;
mod webhook_check;
pub(crate) mod instance;
pub(crate) mod instance_check;
pub(crate) mod lookup;
pub(crate) mod registry;
pub(crate) mod test_delivery;
