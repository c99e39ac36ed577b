//! Toolbox for the network: addresses, names, TLS, connections, one server loop. No features, and no rules about retries.

pub(crate) mod server;
pub(crate) mod connector;
pub(crate) mod address;
pub(crate) mod resolver;
mod dns;
mod hosts;
pub(crate) mod lookup;
pub(crate) mod tls;
pub(crate) mod stream;
pub(crate) mod cause;
pub(crate) mod failure;
pub(crate) mod read_budget;
pub(crate) mod descriptors;

#[cfg(test)]
pub(crate) use dns::{testing, zoo_names};
