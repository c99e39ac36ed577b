//! Everything that speaks HTTP; nothing outside names hyper.

pub mod address;
pub mod admin;
pub mod api;
pub mod connector;
pub mod courier;
pub mod plain_server;
pub mod ration;
pub mod resolver;
pub mod stream;
pub mod test_delivery;
pub mod tls;
