//! stub until the connector lands
#![expect(missing_docs)]
use super::hash::hash_bytes;
use http::{HeaderValue, Uri};
use std::sync::Arc;
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad url {0:?}")]
pub struct BadUrl(String);
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    pub https: bool,
    pub host: String,
    pub port: u16,
}
pub struct Target {
    authority: Arc<Authority>,
    host: HeaderValue,
    path: Uri,
}
impl Target {
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let header = HeaderValue::from_str(uri.authority().ok_or_else(bad)?.as_str()).map_err(|_| bad())?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).parse().map_err(|_| bad())?;
        Ok(Self { authority: Arc::new(Authority { https, host, port }), host: header, path })
    }
    pub fn host_hash(&self) -> u32 {
        (hash_bytes(format!("{:?}", self.authority).as_bytes()) >> 32) as u32
    }
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }
    pub fn host_header(&self) -> &HeaderValue {
        &self.host
    }
    pub fn path(&self) -> &Uri {
        &self.path
    }
}
