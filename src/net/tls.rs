//! TLS towards receivers: whom we trust, and the handshake.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Receivers whose sessions are kept for a cheaper next handshake.
const SESSIONS_MAX: usize = 1024;

/// What an error text keeps of a peer's own words: a certificate may hold any number of names.
const ERROR_CHARS_MAX: usize = 300;

/// Which protocols are offered to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and HTTP/1.1 for those who don't speak it.
    Http2,
}

/// The client's side of TLS. Clones share the sessions.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Or why there is none.
    connector: Result<TlsConnector, Arc<str>>,
    protocols: Protocols,
}

impl Tls {
    /// Trusts what the platform trusts, or the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Reads them now, once.
    ///
    /// Without any certificate the program can still deliver over plain HTTP: that is logged here, and every handshake
    /// fails with the same words.
    pub(crate) fn system(protocols: Protocols) -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        let tls = Self::trusting(loaded.certs, protocols);
        let errors = loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        match &tls.connector {
            Err(why) => tracing::error!(error = %why, details = errors, "https receivers can't be reached"),
            Ok(_) if !errors.is_empty() => tracing::warn!(error = errors, "some trusted certificates can't be read"),
            Ok(_) => {}
        }
        tls
    }

    /// Trusts these certificates; those that are no certificates are left out.
    pub(crate) fn trusting(trusted: impl IntoIterator<Item = CertificateDer<'static>>, protocols: Protocols) -> Self {
        let mut roots = RootCertStore::empty();
        let (added, _unreadable) = roots.add_parsable_certificates(trusted);
        let connector = if added == 0 {
            Err("no trusted certificates on this machine: install ca-certificates or set SSL_CERT_FILE".into())
        } else {
            client_config(roots, protocols).map(|config| TlsConnector::from(Arc::new(config)))
        };
        Self { connector, protocols }
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
        let shaken = connector.connect(name, tcp).await;
        shaken.map_err(|error| error.to_string().chars().take(ERROR_CHARS_MAX).collect())
    }

    /// Whether HTTP/2 is offered.
    pub(crate) fn offers_http2(&self) -> bool {
        self.protocols == Protocols::Http2
    }
}

fn client_config(roots: RootCertStore, protocols: Protocols) -> Result<ClientConfig, Arc<str>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Arc::from(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = match protocols {
        Protocols::Http1 => vec![b"http/1.1".to_vec()],
        Protocols::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(config)
}
