//! TLS towards receivers: which certificates are trusted, the handshake, and why it fails, in words.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cause::Cause;

/// Receivers whose sessions are kept for a cheaper next handshake.
const SESSIONS_MAX: usize = 1024;

/// The client's side of TLS. Clones share the sessions.
#[derive(Clone)]
pub(crate) struct Tls {
    /// The error if it cannot be made.
    connector: Result<TlsConnector, NoTls>,
}

/// Why no receiver can be reached over TLS.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoTls {
    #[error("no trusted certificates on this machine: install ca-certificates or set SSL_CERT_FILE")]
    NoCertificates,
    #[error("the trusted certificates cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    #[error("TLS cannot be set up")]
    Setup(#[from] Error),
}

/// Why a handshake failed, in words for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    NoTls(#[from] NoTls),
    #[error("host `{host}` cannot be the name in a certificate")]
    Host { host: String, source: InvalidDnsNameError },
    #[error("the receiver closed the connection during the TLS handshake")]
    Closed,
    #[error("the certificate is refused")]
    Certificate(#[source] RefusedCertificate),
    #[error("the receiver speaks no TLS there")]
    NotTls,
    #[error("the receiver accepts none of the TLS versions and cipher suites that are offered")]
    NothingInCommon,
    #[error("the receiver wants a certificate of the client")]
    ClientCertificate,
    #[error("the receiver does not speak HTTP/1.1")]
    NotHttp1,
    #[error(transparent)]
    Other(io::Error),
}

/// What is wrong with a certificate.
#[derive(Debug)]
pub(crate) struct RefusedCertificate(CertificateError);

impl Tls {
    /// Trusts what the platform trusts, or the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Reads them now, once.
    ///
    /// Without any certificate the program can still deliver over plain HTTP: that is logged here, and every handshake
    /// fails with the same words.
    pub(crate) fn system() -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        let tls = Self::trusting(loaded.certs);
        let errors = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match &tls.connector {
            Err(error) => {
                tracing::error!(error = %Cause::of_error(error), details = errors, "https receivers can't be reached");
            }
            Ok(_) if !errors.is_empty() => tracing::warn!(error = errors, "some trusted certificates can't be read"),
            Ok(_) => {}
        }
        tls
    }

    /// Trusts these certificates. One that can't be parsed is left out.
    pub(crate) fn trusting(trusted: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        let (added, _unreadable) = roots.add_parsable_certificates(trusted);
        let connector = if added == 0 {
            Err(NoTls::NoCertificates)
        } else {
            client_config(roots).map(|config| TlsConnector::from(Arc::new(config)))
        };
        Self { connector }
    }

    /// Shakes hands over `tcp` with the receiver, whose certificate must be for `host`, a DNS name or an IP address.
    ///
    /// Waits without a bound: the caller has a deadline.
    ///
    /// # Errors
    /// [`HandshakeError`]
    pub(crate) async fn handshake(&self, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let connector = self.connector.as_ref().map_err(NoTls::clone)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|source| HandshakeError::Host { host: host.to_owned(), source })?;
        connector.connect(name, tcp).await.map_err(HandshakeError::of)
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, NoTls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        // rustls calls this dangerous because a verifier may accept anything. This one asks rustls' own verifier and changes only the
        // words of a refusal.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Explaining(verifier)))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl HandshakeError {
    /// What the TLS library's error means.
    fn of(error: io::Error) -> Self {
        match error.get_ref().and_then(|within| within.downcast_ref::<Error>()) {
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            Some(Error::InvalidCertificate(refusal)) => Self::Certificate(RefusedCertificate(refusal.clone())),
            Some(Error::InvalidMessage(_)) => Self::NotTls,
            Some(Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion)) => {
                Self::NothingInCommon
            }
            Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => Self::ClientCertificate,
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol) => {
                Self::NotHttp1
            }
            None | Some(_) => Self::Other(error),
        }
    }
}

impl std::error::Error for RefusedCertificate {}

impl fmt::Display for RefusedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &UnixTime| {
            let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
            jiff::Timestamp::from_second(seconds).map_or_else(|_| "no date".to_owned(), |time| time.to_string())
        };
        match &self.0 {
            CertificateError::ExpiredContext { not_after, .. } => write!(f, "it expired at {}", date(not_after)),
            CertificateError::NotValidYetContext { not_before, .. } => {
                write!(f, "it is not valid before {}", date(not_before))
            }
            CertificateError::Other(OtherError(error)) => error.fmt(f),
            error => error.fmt(f),
        }
    }
}

/// rustls' own judgement of a certificate, with more words about the issuer of one that is not trusted.
#[derive(Debug)]
struct Explaining(Arc<WebPkiServerVerifier>);

/// Why the issuer of a certificate is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Untrusted {
    #[error("it is self-signed")]
    SelfSigned,
    #[error("its issuer is not trusted, and the receiver sends no intermediate certificate")]
    NoIntermediate,
    #[error("the certificates that the receiver sends lead to no trusted issuer")]
    UnknownIssuer,
}

impl ServerCertVerifier for Explaining {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now).map_err(|error| {
            let is_self_signed =
                webpki::EndEntityCert::try_from(end_entity).is_ok_and(|parsed| parsed.issuer() == parsed.subject());
            let why = match error {
                // A self-signed one may also be refused for being that of an authority.
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))
                    if is_self_signed =>
                {
                    Untrusted::SelfSigned
                }
                Error::InvalidCertificate(CertificateError::UnknownIssuer) if intermediates.is_empty() => {
                    Untrusted::NoIntermediate
                }
                Error::InvalidCertificate(CertificateError::UnknownIssuer) => Untrusted::UnknownIssuer,
                error => return error,
            };
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
