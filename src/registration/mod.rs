//! The HTTP API that writes integrations: requests and answers, the patches they carry, and the one writer behind them.

pub mod http;
pub mod patch;
pub mod instance;
pub mod instance_check;
pub mod registry;
pub mod test_delivery;
