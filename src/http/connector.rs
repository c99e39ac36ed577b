//! From scheme, host and port to a connection: resolve, check, connect to exactly what was checked, TLS; all within one
//! deadline.
//!
//! Every address of an answer is checked before the first is tried, so that a name which leads to a good and a forbidden
//! address leads nowhere, and nothing is resolved a second time between the check and the connection. Proxies of the
//! environment are not obeyed: nothing here reads it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::AddressPolicy;
use super::resolver::Resolver;
use super::stream::Connection;
use super::tls::{Protocols, Tls};
use crate::domain::outcome::Reason;
use crate::domain::schedule::format_duration;
use crate::domain::target::Authority;

/// Head start of an address before the next one is tried beside it, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one answer that are tried. All are checked.
const TRIES_MAX: usize = 10;
/// Quiet connections are probed, so that one whose other end is gone is known before a request is lost on it.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Bytes that nobody confirms for this long mean that the other end is gone. Longer than most request time-outs: it is
/// for the connections that nobody waits on.
#[cfg(target_os = "linux")]
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ConnectError {
    reason: Reason,
    text: String,
}

impl ConnectError {
    fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// `dns`, `connect`, `tls`, `timeout` or `refused-address`.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// Connects to receivers.
#[derive(Clone)]
pub struct Connector {
    resolver: Resolver,
    policy: AddressPolicy,
    tls: Tls,
    connect_timeout: Duration,
}

impl Connector {
    /// Resolves and trusts as the system does, speaks HTTP/1.1. Reads the trusted certificates, so it takes some
    /// milliseconds.
    pub fn system(policy: AddressPolicy, connect_timeout: Duration) -> Self {
        Self::new(Resolver::system(), policy, Tls::system(Protocols::Http1), connect_timeout)
    }

    /// A connector of these parts.
    pub fn new(resolver: Resolver, policy: AddressPolicy, tls: Tls, connect_timeout: Duration) -> Self {
        Self { resolver, policy, tls, connect_timeout }
    }

    /// Connects within the connect time-out.
    ///
    /// Cancel safe: dropping it gives the attempt up.
    ///
    /// # Errors
    /// [`ConnectError`] with the reason word; its text names host and address, and no path or query.
    pub async fn connect(&self, authority: &Authority) -> Result<Connection, ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let late = |doing: &str| {
            let limit = format_duration(self.connect_timeout);
            ConnectError::new(Reason::Timeout, format!("{authority}: {doing} took longer than {limit}"))
        };
        let addresses = timeout_at(deadline, self.addresses(authority)).await.map_err(|_| late("the name"))??;
        let (tcp, remote) = timeout_at(deadline, race(addresses)).await.map_err(|_| late("TCP"))??;
        if !authority.https {
            return Ok(Connection::plain(tcp, remote));
        }
        let tls = timeout_at(deadline, self.tls.handshake(&authority.host, tcp)).await.map_err(|_| late("TLS"))?;
        match tls {
            Ok(tls) => Ok(Connection::tls(tls, remote)),
            Err(text) => Err(ConnectError::new(Reason::Tls, format!("{authority} at {remote}: {text}"))),
        }
    }

    /// The addresses to try, in order; each is permitted.
    async fn addresses(&self, authority: &Authority) -> Result<Vec<SocketAddr>, ConnectError> {
        let answer = self.resolver.resolve(&authority.host).await;
        let answer = answer.map_err(|error| ConnectError::new(Reason::Dns, format!("{}: {error}", authority.host)))?;
        for address in answer.iter() {
            if let Some(why) = self.policy.refusal(*address) {
                let text = format!("{}: address {address} is refused ({why})", authority.host);
                return Err(ConnectError::new(Reason::RefusedAddress, text));
            }
        }
        let in_order = alternate(&answer).into_iter().take(TRIES_MAX);
        Ok(in_order.map(|address| SocketAddr::new(address, authority.port)).collect())
    }
}

/// The system's order, but families in turn: one that is broken delays the other by one head start, not by all of its
/// addresses.
fn alternate(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (same, other): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|a| a.is_ipv4() == first_is_v4);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(same.next());
        order.extend(other.next());
    }
    order
}

/// The first connection that comes about: each address has a head start, or less when those before it have failed.
async fn race(addresses: Vec<SocketAddr>) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut last_error = ConnectError::new(Reason::Connect, "no address to connect to");
    loop {
        match waiting.next() {
            Some(address) => under_way.push(open(address)),
            None if under_way.is_empty() => return Err(last_error),
            None => {}
        }
        let ended = if waiting.len() == 0 {
            under_way.next().await
        } else {
            match timeout(HEAD_START, under_way.next()).await {
                Ok(ended) => ended,
                Err(_head_start_over) => continue,
            }
        };
        match ended {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => last_error = error,
            None => {}
        }
    }
}

async fn open(address: SocketAddr) -> Result<(TcpStream, SocketAddr), ConnectError> {
    match dial(address).await {
        Ok(tcp) => Ok((tcp, address)),
        Err(error) => {
            let reason = if error.kind() == io::ErrorKind::TimedOut { Reason::Timeout } else { Reason::Connect };
            Err(ConnectError::new(reason, format!("{address}: {error}")))
        }
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    let tcp = socket.connect(address).await?;
    // A free port of this machine may be given to the very socket that connects to it, which then hears itself.
    if address.ip().is_loopback() && tcp.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(tcp)
}

fn prepare(socket: &TcpSocket) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let raw = SockRef::from(socket);
    raw.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY))?;
    #[cfg(target_os = "linux")]
    raw.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
    Ok(())
}
