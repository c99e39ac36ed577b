//! TLS towards receivers: which certificates are trusted, the handshake, and why it fails, in words.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Receivers whose sessions are kept for a cheaper next handshake.
const SESSIONS_MAX: usize = 1024;

/// The client's side of TLS. Clones share the sessions.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Or why it cannot be made.
    connector: Result<TlsConnector, Arc<str>>,
}

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
            Err(why) => tracing::error!(error = %why, details = errors, "https receivers can't be reached"),
            Ok(_) if !errors.is_empty() => tracing::warn!(error = errors, "some trusted certificates can't be read"),
            Ok(_) => {}
        }
        tls
    }

    /// Trusts these certificates; those that are no certificates are left out.
    pub(crate) fn trusting(trusted: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        let (added, _unreadable) = roots.add_parsable_certificates(trusted);
        let connector = if added == 0 {
            Err("no trusted certificates on this machine: install ca-certificates or set SSL_CERT_FILE".into())
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
    /// A text that says what failed, for people.
    pub(crate) async fn handshake(&self, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let connector = self.connector.as_ref().map_err(ToString::to_string)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("host `{host}`: {error}"))?;
        connector.connect(name, tcp).await.map_err(|error| in_words(&error))
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, Arc<str>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| Arc::from(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Arc::from(error.to_string()))?
        // Called dangerous for what it could be: this one asks rustls' own and only changes the words of a refusal.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Explaining(verifier)))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Why a handshake failed.
fn in_words(error: &io::Error) -> String {
    let within = error.get_ref().and_then(|within| within.downcast_ref::<Error>());
    match within {
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the receiver closed the connection during the TLS handshake".to_owned()
        }
        None => error.to_string(),
        Some(Error::InvalidCertificate(error)) => format!("the certificate is refused: {}", of_certificate(error)),
        Some(Error::InvalidMessage(_)) => "the receiver speaks no TLS there".to_owned(),
        Some(Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion)) => {
            "the receiver accepts none of the TLS versions and cipher suites that are offered".to_owned()
        }
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "the receiver wants a certificate of the client".to_owned()
        }
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol) => {
            "the receiver does not speak HTTP/1.1".to_owned()
        }
        Some(error) => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    let date = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "no date".to_owned(), |time| time.to_string())
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired at {}", date(not_after)),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", date(not_before))
        }
        CertificateError::Other(OtherError(error)) => error.to_string(),
        error => error.to_string(),
    }
}

/// Rustls' own judgement of a certificate, with more words about who issued one that is not trusted.
#[derive(Debug)]
struct Explaining(Arc<WebPkiServerVerifier>);

/// Why the issuer of a certificate is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Untrusted {
    #[error("it is self-signed")]
    SelfSigned,
    #[error("its issuer is not trusted, and the receiver sends no intermediate certificate")]
    NoIntermediate,
    #[error("the issuers that the receiver sends lead to none that is trusted")]
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
