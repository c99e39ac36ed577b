//! A look-up of one address family of a name, as the resolver asks for it and the DNS client answers it. No cache, no network.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// IPv4: A.
    V4,
    /// IPv6: AAAA.
    V6,
}

/// The addresses of one family. No address is an answer too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// In the order of the answer.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long they hold.
    pub(crate) ttl: Duration,
}

/// Why a family could not be looked up.
#[derive(Clone, Debug)]
pub(crate) enum LookupError {
    /// The name does not exist.
    NoSuchName,
    /// No server answered: why, in words.
    Unanswered(Arc<str>),
}

/// Looks up one family of a name. Dropping the future gives it up.
pub(crate) type Lookup = dyn Fn(Arc<str>, Family) -> BoxFuture<'static, Result<Records, LookupError>> + Send + Sync;
