//! Toolbox for the network: addresses, names, TLS, connections, one server loop. No features.

pub mod address;
pub mod resolver;
pub mod connector;
pub mod tls;
pub mod stream;
pub mod read_budget;
pub mod server;
