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
use super::cause::Cause;
use super::resolver::Resolver;
use super::stream::Connection;
use super::tls::Tls;
use crate::domain::outcome::Reason;
use crate::domain::retry_schedule::format_duration;
use crate::domain::target::Authority;

/// Head start of an address before the next one is tried at the same time, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one answer that are tried. All are checked.
const TRIES_MAX: usize = 10;
/// Quiet connections are probed, so that one whose other end is gone is known before a request is lost on it.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Bytes that are not confirmed for this long mean that the other end is gone. Longer than most request time-outs: it is
/// for connections on which no request waits.
#[cfg(target_os = "linux")]
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct ConnectError {
    reason: Reason,
    cause: Cause,
    address: Option<SocketAddr>,
}

impl ConnectError {
    fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, cause: Cause::new(text), address: None }
    }

    fn at(self, address: SocketAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// Why, in words: names host and address, and no path or query.
    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The address that was tried last. `None` before the first try, and for a refused address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// `dns`, `connect`, `tls`, `timeout` or `refused-address`.
    pub(crate) fn reason(&self) -> Reason {
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
        Self::new(Resolver::system(), policy, Tls::system(), connect_timeout)
    }

    /// A connector of these parts.
    pub(crate) fn new(resolver: Resolver, policy: AddressPolicy, tls: Tls, connect_timeout: Duration) -> Self {
        Self { resolver, policy, tls, connect_timeout }
    }

    /// Connects within the connect time-out.
    ///
    /// Cancel safe: dropping it gives the attempt up.
    ///
    /// # Errors
    /// [`ConnectError`] with the reason word; its text names host and address, and no path or query.
    pub(crate) async fn connect(&self, authority: &Authority) -> Result<Connection, ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let late = |doing: &str| {
            let limit = format_duration(self.connect_timeout);
            ConnectError::new(Reason::Timeout, format!("{authority}: {doing} took longer than {limit}"))
        };
        let (addresses, checked_until) =
            timeout_at(deadline, self.addresses(authority)).await.map_err(|_elapsed| late("the name"))??;
        let first = addresses.first().copied();
        let (tcp, remote) = timeout_at(deadline, race(addresses)).await.map_err(|_elapsed| match first {
            Some(first) => late("TCP").at(first),
            None => late("TCP"),
        })??;
        if !authority.https {
            return Ok(Connection::plain(tcp, remote, checked_until));
        }
        let tls = timeout_at(deadline, self.tls.handshake(&authority.host, tcp)).await;
        match tls.map_err(|_elapsed| late("TLS").at(remote))? {
            Ok(tls) => Ok(Connection::tls(tls, remote, checked_until)),
            Err(error) => {
                let cause = format!("{authority} at {remote}: {}", Cause::of_error(&error));
                Err(ConnectError::new(Reason::Tls, cause).at(remote))
            }
        }
    }

    /// Until when a connection to `address` may be used without asking again. `None` if the name of `authority` does not lead there
    /// any more.
    pub(crate) async fn leads_to(&self, authority: &Authority, address: IpAddr) -> Option<Instant> {
        let answer = self.resolver.resolve(&authority.host).await.ok()?;
        answer.addresses.contains(&address).then_some(answer.until)
    }

    /// The addresses to try, in order; each is permitted. And until when they hold.
    async fn addresses(&self, authority: &Authority) -> Result<(Vec<SocketAddr>, Instant), ConnectError> {
        let answer = self.resolver.resolve(&authority.host).await;
        let answer = answer.map_err(|error| ConnectError::new(Reason::Dns, format!("{}: {error}", authority.host)))?;
        for address in answer.addresses.iter() {
            if let Some(why) = self.policy.refusal(*address) {
                let text = format!("{}: address {address} is refused ({why})", authority.host);
                // An outsider must not learn the addresses of names inside our network.
                let shown = format!("{}: the address is refused", authority.host);
                let cause = Cause::with_shown(text, shown);
                return Err(ConnectError { reason: Reason::RefusedAddress, cause, address: None });
            }
        }
        let in_order = alternate(&answer.addresses).into_iter().take(TRIES_MAX);
        Ok((in_order.map(|address| SocketAddr::new(address, authority.port)).collect(), answer.until))
    }
}

/// IPv4 first, but families in turn: one that is broken delays the other by one head start, not by all of its
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

/// The first connection that succeeds. Each address has a head start, or less when those before it have failed.
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
            Err(ConnectError::new(reason, format!("{address}: {error}")).at(address))
        }
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    let tcp = socket.connect(address).await?;
    // The system may give the port that is connected to, if it is free, to the connecting socket: that is then connected to itself.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
    use rustls::ServerConfig;
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use socket2::{Domain, Socket, Type};
    use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::net::failure::classify;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    /// Long enough for a busy machine; no test waits for it to pass.
    const AMPLE: Duration = Duration::from_secs(20);

    /// A certificate authority that exists for one test.
    struct Authorities {
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Authorities {
        fn new() -> Self {
            Self::called("trusted in this test")
        }

        fn called(name: &str) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
        }

        fn root(&self) -> CertificateDer<'static> {
            self.issuer.der().clone()
        }

        fn server(&self, params: &CertificateParams, protocols: &[&str]) -> TlsAcceptor {
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            acceptor(certificate.der().clone(), &key, protocols)
        }
    }

    fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn named(name: &str) -> CertificateParams {
        CertificateParams::new(vec![name.to_owned()]).unwrap()
    }

    /// Serves one greeting to each client after the handshake, and sends whether its session was resumed.
    struct Server {
        port: u16,
        tasks: JoinSet<()>,
        resumed: tokio::sync::mpsc::Receiver<bool>,
    }

    async fn serve(tls: TlsAcceptor) -> Server {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, resumed) = tokio::sync::mpsc::channel(10);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A client that refuses the certificate or hangs up: the next one is served nevertheless.
                drop(greet(&tls, tcp, &sender).await);
            }
        });
        Server { port, tasks, resumed }
    }

    async fn greet(tls: &TlsAcceptor, tcp: TcpStream, sender: &tokio::sync::mpsc::Sender<bool>) -> io::Result<()> {
        let mut stream = tls.accept(tcp).await?;
        let kind = stream.get_ref().1.handshake_kind();
        sender.send(kind == Some(rustls::HandshakeKind::Resumed)).await.map_err(io::Error::other)?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    }

    fn connector(names: &[(&str, &[IpAddr])], allowed: &[&str], tls: Tls, connect_timeout: Duration) -> Connector {
        let names: HashMap<_, _> = names.iter().map(|(name, to)| ((*name).to_owned(), to.to_vec())).collect();
        let policy = AddressPolicy::new(allowed.iter().map(|net| net.parse().unwrap()).collect());
        Connector::new(Resolver::fixed(names), policy, tls, connect_timeout)
    }

    fn no_tls() -> Tls {
        Tls::trusting([])
    }

    fn local(names: &[(&str, &[IpAddr])]) -> Connector {
        connector(names, &["127.0.0.0/8", "::1/128"], no_tls(), AMPLE)
    }

    fn trusting(root: CertificateDer<'static>) -> Connector {
        connector(&[("hook.test", &[LOCAL])], &["127.0.0.0/8"], Tls::trusting([root]), AMPLE)
    }

    fn to(scheme: &str, host: &str, port: u16) -> Authority {
        Authority { https: scheme == "https", host: host.into(), port }
    }

    #[track_caller]
    fn check(found: Result<Connection, ConnectError>, reason: Reason, part_of_text: &str) {
        let error = found.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(part_of_text), "{error}");
    }

    /// A listener whose queue is full: the system leaves further connections without an answer.
    fn black_hole(address: IpAddr) -> (Socket, SocketAddr, Vec<Socket>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(address, 0).into()).unwrap();
        listener.listen(0).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = (0..8).map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            // Under way, or never: both fill the queue.
            assert!(client.connect(&at.into()).is_err());
            client
        });
        let fill = fill.collect();
        (listener, at, fill)
    }

    #[tokio::test]
    async fn a_plain_connection_carries_bytes_both_ways_and_knows_its_end() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let connector = local(&[("hook.test", &[LOCAL])]);
        let mut connection = connector.connect(&to("http", "hook.test", at.port())).await.unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        assert!(peer.ip().is_loopback());
        assert_eq!(connection.remote(), at);
        assert!(connection.is_write_vectored());
        let slices = [io::IoSlice::new(b"pi"), io::IoSlice::new(b"ng")];
        assert_eq!(connection.write_vectored(&slices).await.unwrap(), 4);
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        server.write_all(b"pong").await.unwrap();
        connection.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        connection.shutdown().await.unwrap();
        assert_eq!(server.read(&mut heard).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn addresses_are_connected_to_without_a_name_in_both_families() {
        let connector = local(&[]);
        for address in [LOCAL, IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let listener = TcpListener::bind((address, 0)).await.unwrap();
            let at = listener.local_addr().unwrap();
            let connection = connector.connect(&to("http", &address.to_string(), at.port())).await.unwrap();
            assert_eq!(connection.remote(), at);
        }
    }

    #[tokio::test]
    async fn an_allowed_mapped_address_reaches_the_ipv4_listener() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = local(&[]).connect(&to("http", "::ffff:127.0.0.1", port)).await.unwrap();
        assert_eq!(connection.remote().port(), port);
        let refusing = connector(&[], &[], no_tls(), AMPLE);
        check(
            refusing.connect(&to("http", "::ffff:127.0.0.1", port)).await,
            Reason::RefusedAddress,
            "is refused (loopback)",
        );
    }

    #[tokio::test]
    async fn refused_addresses_are_never_connected_to() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let good = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
        let names: [(&str, &[IpAddr]); 2] = [("inside.test", &[LOCAL]), ("both.test", &[good, LOCAL])];
        let connector = connector(&names, &["10.0.0.0/8"], no_tls(), AMPLE);
        for host in ["inside.test", "both.test", "127.0.0.1", "::1", "0.0.0.0"] {
            let found = connector.connect(&to("http", host, port)).await;
            check(found, Reason::RefusedAddress, "is refused");
        }
        let accepted = timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(accepted.is_err(), "a connection was made");
    }

    #[tokio::test]
    async fn an_unknown_name_is_a_dns_failure() {
        check(local(&[]).connect(&to("http", "nowhere.test", 80)).await, Reason::Dns, "nowhere.test: no such name");
    }

    #[tokio::test]
    async fn a_closed_port_is_a_connect_failure() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        check(local(&[]).connect(&to("http", "127.0.0.1", port)).await, Reason::Connect, "Connection refused");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let names: [(&str, &[IpAddr]); 1] = [("two.test", &[OTHER, IpAddr::V6(Ipv6Addr::LOCALHOST), LOCAL])];
        assert_eq!(local(&names).connect(&to("http", "two.test", at.port())).await.unwrap().remote(), at);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_gives_way_after_its_head_start() {
        let (_hole, at, _fill) = black_hole(OTHER);
        let _listener = TcpListener::bind((LOCAL, at.port())).await.unwrap();
        let names: [(&str, &[IpAddr]); 1] = [("two.test", &[OTHER, LOCAL])];
        let start = Instant::now();
        let connection = local(&names).connect(&to("http", "two.test", at.port())).await.unwrap();
        assert_eq!(connection.remote().ip(), LOCAL);
        assert!(start.elapsed() >= HEAD_START);
    }

    #[tokio::test]
    async fn silence_of_any_stage_ends_at_the_time_out() {
        let limit = Duration::from_millis(300);
        let (_hole, at, _fill) = black_hole(OTHER);
        let mute = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = mute.local_addr().unwrap().port();
        let tls = Tls::trusting([Authorities::new().root()]);
        let connector = connector(&[], &["127.0.0.0/8"], tls, limit);
        let start = Instant::now();
        check(
            connector.connect(&to("http", "127.0.0.2", at.port())).await,
            Reason::Timeout,
            "TCP took longer than 300ms",
        );
        check(connector.connect(&to("https", "127.0.0.1", port)).await, Reason::Timeout, "TLS took longer than 300ms");
        assert!(start.elapsed() >= 2 * limit);
        let hanging = Resolver::with(Box::new(|_, _| Box::pin(std::future::pending())));
        let connector = Connector::new(hanging, AddressPolicy::default(), no_tls(), limit);
        check(connector.connect(&to("http", "a.test", 80)).await, Reason::Timeout, "the name took longer than 300ms");
    }

    #[tokio::test]
    async fn a_trusted_certificate_of_that_name_connects_and_the_session_is_resumed() {
        let authorities = Authorities::new();
        let mut server = serve(authorities.server(&named("hook.test"), &["http/1.1"])).await;
        let connector = trusting(authorities.root());
        for resumed in [false, true] {
            let mut connection = connector.connect(&to("https", "hook.test", server.port)).await.unwrap();
            assert!(connection.is_write_vectored());
            let mut heard = String::new();
            connection.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "hello");
            assert_eq!(server.resumed.recv().await, Some(resumed));
        }
        server.tasks.shutdown().await;
    }

    /// In TLS 1.3 the client is done before the server has looked at its certificate.
    #[tokio::test]
    async fn a_server_that_wants_a_certificate_of_ours_fails_for_tls_in_each_version() {
        let authorities = Authorities::new();
        let key = KeyPair::generate().unwrap();
        let certificate = named("hook.test").signed_by(&key, &authorities.issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authorities.root()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let verifier = verifier.unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_client_cert_verifier(Arc::clone(&verifier))
                .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
                .unwrap();
            let mut server = serve(TlsAcceptor::from(Arc::new(config))).await;
            let connector = trusting(authorities.root());
            let reason = match connector.connect(&to("https", "hook.test", server.port)).await {
                Err(error) => error.reason(),
                Ok(connection) => {
                    let io = hyper_util::rt::TokioIo::new(connection);
                    let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
                    server.tasks.spawn(async move { drop(driver.await) });
                    let request = http::Request::new(http_body_util::Full::<bytes::Bytes>::default());
                    classify(&sender.send_request(request).await.unwrap_err())
                }
            };
            assert_eq!(reason, Reason::Tls, "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_for_an_address_is_good_for_that_address() {
        let authorities = Authorities::new();
        let server = serve(authorities.server(&named("127.0.0.1"), &[])).await;
        let connector = trusting(authorities.root());
        assert!(connector.connect(&to("https", "127.0.0.1", server.port)).await.is_ok());
        check(connector.connect(&to("https", "127.0.0.2", server.port)).await, Reason::Connect, "127.0.0.2");
        check(connector.connect(&to("https", "hook.test", server.port)).await, Reason::Tls, "not valid for name");
    }

    #[tokio::test]
    async fn certificates_that_prove_nothing_are_tls_failures() {
        let authorities = Authorities::new();
        let connector = trusting(authorities.root());
        let mut expired = named("hook.test");
        expired.not_before = date_time_ymd(2000, 1, 1);
        expired.not_after = date_time_ymd(2001, 1, 1);
        let key = KeyPair::generate().unwrap();
        let own = acceptor(named("hook.test").self_signed(&key).unwrap().der().clone(), &key, &[]);
        let mut of_authority = named("hook.test");
        of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own_authority = acceptor(of_authority.self_signed(&key).unwrap().der().clone(), &key, &[]);
        for (server, text) in [
            (authorities.server(&named("other.test"), &[]), "only valid for DnsName(\"other.test\")"),
            (authorities.server(&expired, &[]), "it expired at 2001-01-01T00:00:00Z"),
            (own, "it is self-signed"),
            (own_authority, "it is self-signed"),
            (Authorities::called("unknown").server(&named("hook.test"), &[]), "sends no intermediate certificate"),
            (Authorities::new().server(&named("hook.test"), &[]), "BadSignature"),
        ] {
            let server = serve(server).await;
            check(connector.connect(&to("https", "hook.test", server.port)).await, Reason::Tls, text);
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_is_a_tls_failure() {
        async fn answered(answer: &[u8]) -> Result<Connection, ConnectError> {
            let connector = trusting(Authorities::new().root());
            let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
            let authority = to("https", "hook.test", listener.local_addr().unwrap().port());
            let (found, accepted) = tokio::join!(connector.connect(&authority), async {
                listener.accept().await.unwrap().0.write_all(answer).await
            });
            accepted.unwrap();
            found
        }
        check(answered(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, Reason::Tls, "hook.test");
        check(answered(b"").await, Reason::Tls, "hook.test");
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_speak_http1_is_a_tls_failure_that_says_so() {
        let authorities = Authorities::new();
        let both = serve(authorities.server(&named("hook.test"), &["h2", "http/1.1"])).await;
        let only_new = serve(authorities.server(&named("hook.test"), &["h2"])).await;
        let connector = trusting(authorities.root());
        assert!(connector.connect(&to("https", "hook.test", both.port)).await.is_ok());
        check(
            connector.connect(&to("https", "hook.test", only_new.port)).await,
            Reason::Tls,
            "does not speak HTTP/1.1",
        );
    }

    #[tokio::test]
    async fn without_trusted_certificates_only_https_fails_and_says_why() {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = local(&[]);
        check(connector.connect(&to("https", "127.0.0.1", port)).await, Reason::Tls, "SSL_CERT_FILE");
        assert!(connector.connect(&to("http", "127.0.0.1", port)).await.is_ok());
    }

    /// Runs again as a child with the variables set, since they can't be set safely within a process of many threads.
    #[tokio::test]
    async fn proxies_of_the_environment_are_not_obeyed() {
        const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let proxy = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        let test = "net::connector::tests::a_plain_connection_carries_bytes_both_ways_and_knows_its_end";
        let child = tokio::task::spawn_blocking(move || {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact"])
                .envs(PROXIES.map(|name| (name, &url)))
                .output()
        });
        let output = child.await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        assert!(timeout(Duration::from_millis(50), proxy.accept()).await.is_err(), "the proxy was asked");
    }

    #[test]
    fn families_take_turns_in_the_order_of_the_answer() {
        let ips = |text: &str| text.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(alternate(&ips("::1 ::2 ::3 1.1.1.1 1.1.1.2")), ips("::1 1.1.1.1 ::2 1.1.1.2 ::3"));
        assert_eq!(alternate(&ips("1.1.1.1 1.1.1.2 ::1")), ips("1.1.1.1 ::1 1.1.1.2"));
        assert_eq!(alternate(&[]), Vec::<IpAddr>::new());
    }
}
