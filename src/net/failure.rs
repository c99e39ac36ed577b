//! The reason word of a failed exchange with a receiver, by the error of the HTTP client. What follows a failure is not decided here.

use std::error::Error as _;

use crate::domain::outcome::Reason;

/// Whether the error is one that a kept connection gives when its other end has closed it.
pub(crate) fn is_stale(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io_kind(error).is_some()
}

fn io_kind(error: &hyper::Error) -> Option<std::io::ErrorKind> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let kind = error.source()?.downcast_ref::<std::io::Error>()?.kind();
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof).then_some(kind)
}

/// Whether TLS failed: in TLS 1.3 a receiver refuses a client without a certificate only after the handshake.
fn is_tls(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let within: Option<&rustls::Error> = within.and_then(|within| within.downcast_ref());
        if within.is_some() || cause.is::<rustls::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The reason word of a request that got no answer.
pub(crate) fn classify(error: &hyper::Error) -> Reason {
    if is_tls(error) {
        Reason::Tls
    } else if error.is_parse() || error.is_parse_too_large() {
        Reason::Protocol
    } else if error.is_timeout() {
        Reason::Timeout
    } else if is_stale(error) {
        Reason::Reset
    } else {
        Reason::Protocol
    }
}
