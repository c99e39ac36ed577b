//! stub until the connector lands
#![expect(missing_docs)]
use crate::domain::{outcome::Reason, target::Authority};
pub struct Connector;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ConnectError;
impl ConnectError {
    pub fn reason(&self) -> Reason {
        Reason::Connect
    }
}
impl Connector {
    pub fn system(_: super::address::AddressPolicy, _: std::time::Duration) -> Self {
        Self
    }
    pub async fn connect(&self, a: &Authority) -> Result<tokio::net::TcpStream, ConnectError> {
        tokio::net::TcpStream::connect((&*a.host, a.port)).await.map_err(|_| ConnectError)
    }
}
