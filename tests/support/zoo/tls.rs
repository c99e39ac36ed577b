//! Receivers that speak TLS, each with a certificate or a handshake of its own, on a port of its own.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::names::Expected::{self, Acknowledged};
use super::names::failed;
use super::ports::{accept, listen, reset, serve_well};
use super::{Animal, Housed};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// The host of their URLs.
const HOST: &str = "127.0.0.1";

/// Starts all of them, and writes the certificate to trust into `trusted`.
#[expect(clippy::too_many_lines, reason = "it is one list")]
pub(super) fn start(serving: &mut JoinSet<()>, trusted: &Path) -> Vec<Animal> {
    let root = authority("hookstream zoo root");
    std::fs::write(trusted, root.pem()).unwrap_or_else(|error| panic!("write {}: {error}", trusted.display()));
    let params = authority_params("hookstream zoo intermediate");
    let intermediate =
        CertifiedIssuer::signed_by(params, KeyPair::generate().expect("a key"), &root).expect("an intermediate");
    let mut expired = named(HOST);
    (expired.not_before, expired.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    let mut early = named(HOST);
    (early.not_before, early.not_after) = (date_time_ymd(2400, 1, 1), date_time_ymd(2401, 1, 1));
    let strange = authority("an unknown authority");
    let http1: &[&str] = &["http/1.1"];
    let mut tls =
        |name, does, expected, params: &CertificateParams, issuer: &Issuer, chain: &[&Certificate], protocols| {
            let acceptor = signed(params, issuer, chain, protocols);
            shaking_hands(serving, Shown { name, does, expected }, acceptor)
        };
    let mut animals = vec![
        tls("tls-good", "speaks TLS as it should", Acknowledged, &named(HOST), &root, &[], http1),
        tls(
            "tls-chain",
            "sends its intermediate certificate",
            Acknowledged,
            &named(HOST),
            &intermediate,
            &[intermediate.as_ref()],
            http1,
        ),
        tls(
            "tls-incomplete",
            "leaves its intermediate certificate out",
            refused("sends no intermediate certificate"),
            &named(HOST),
            &intermediate,
            &[],
            http1,
        ),
        tls(
            "tls-expired",
            "has a certificate that has expired",
            refused("it expired at 2001-01-01"),
            &expired,
            &root,
            &[],
            http1,
        ),
        tls(
            "tls-early",
            "has a certificate that is not valid yet",
            refused("it is not valid before 2400-01-01"),
            &early,
            &root,
            &[],
            http1,
        ),
        tls(
            "tls-wrong-name",
            "has another name's certificate",
            refused("other.test"),
            &named("other.test"),
            &root,
            &[],
            http1,
        ),
        tls(
            "tls-unknown-issuer",
            "has a certificate of an authority that is not trusted",
            refused("is not trusted"),
            &named(HOST),
            &strange,
            &[],
            http1,
        ),
        tls(
            "tls-http2-only",
            "speaks HTTP/2 and nothing else",
            refused("does not speak HTTP/1.1"),
            &named(HOST),
            &root,
            &[],
            &["h2"],
        ),
    ];
    let key = KeyPair::generate().expect("a key");
    let own = named(HOST).self_signed(&key).expect("a certificate");
    let own = acceptor(vec![own.der().clone()], &key, http1);
    let shown = Shown {
        name: "tls-self-signed",
        does: "has signed its certificate itself",
        expected: refused("it is self-signed"),
    };
    animals.push(shaking_hands(serving, shown, own));
    animals.extend(without_a_handshake(serving));
    animals
}

/// The expected result of one.
#[derive(Clone, Copy)]
struct Shown {
    name: &'static str,
    does: &'static str,
    expected: Expected,
}

const fn refused(cause: &'static str) -> Expected {
    failed("tls", cause)
}

/// Receivers whose handshake fails.
fn without_a_handshake(serving: &mut JoinSet<()>) -> Vec<Animal> {
    let plain = Shown {
        name: "tls-plain-http",
        does: "speaks plain HTTP on its TLS port",
        expected: refused("speaks no TLS there"),
    };
    let closes = Shown {
        name: "tls-closes",
        does: "closes the connection in the handshake",
        expected: refused("closed the connection during the TLS handshake"),
    };
    let resets = Shown {
        name: "tls-resets",
        does: "resets the connection in the handshake",
        expected: refused("Connection reset by peer"),
    };
    let hangs = Shown {
        name: "tls-hangs",
        does: "never answers the handshake",
        expected: failed("timeout", "TLS took longer than"),
    };
    vec![
        house(serving, plain, async |mut tcp| {
            use tokio::io::AsyncWriteExt as _;
            if tcp.read_u8().await.is_ok() && tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.is_ok() {
                read_on(tcp).await;
            }
        }),
        house(serving, closes, async |mut tcp| {
            let mut hello = [0; 4096];
            // The connection ends, even after an error.
            let _read = tcp.read(&mut hello).await;
        }),
        house(serving, resets, async |mut tcp| {
            if tcp.read_u8().await.is_ok() {
                reset(&tcp);
            }
        }),
        house(serving, hangs, read_on),
    ]
}

async fn read_on(mut tcp: tokio::net::TcpStream) {
    let mut bytes = [0; 1024];
    while tcp.read(&mut bytes).await.unwrap_or(0) > 0 {}
}

fn shaking_hands(serving: &mut JoinSet<()>, shown: Shown, acceptor: TlsAcceptor) -> Animal {
    house(serving, shown, move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            // A sender that refuses the certificate is what most of them are for.
            if let Ok(stream) = acceptor.accept(tcp).await {
                serve_well(stream).await;
            }
        }
    })
}

fn house<F>(
    serving: &mut JoinSet<()>,
    shown: Shown,
    what: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> Animal
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut housed = Housed::new(shown.name, shown.does, shown.expected, listen(1024));
    housed.https = true;
    let animal = housed.animal();
    accept(serving, housed, what);
    animal
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn authority(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().expect("a key")).expect("an authority")
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).expect("a name")
}

fn signed(params: &CertificateParams, issuer: &Issuer, chain: &[&Certificate], protocols: &[&str]) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let chain = chain.iter().map(|certificate| certificate.der().clone());
    acceptor([certificate.der().clone()].into_iter().chain(chain).collect(), &key, protocols)
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}
