//! The courier makes the requests of a shard: what it gets, and what it returns. `http_courier` makes them over HTTP; with another
//! courier the shard's rules are tested without receivers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::kept_pool::Keepable;
use super::request::SignedRequest;
use crate::domain::outcome::Outcome;
use crate::inflight::ended::Keep;
use crate::net::cause::Cause;

/// Makes requests.
pub(crate) trait Courier {
    /// A connection that carries one request after another. It goes in and out by value, so its keeper needs no lock.
    type Connection: Keepable;
    /// The body of an answer that has not come yet.
    type Body: AnswerBody<Connection = Self::Connection>;

    /// Sends `request`, over `kept` if that still works, and judges the answer. `keep` says for which answers the beginning of the
    /// body is wanted.
    ///
    /// Not cancel safe: dropping it closes the connection, and the receiver may have had the request.
    async fn attempt(&self, request: &SignedRequest, kept: Option<Self::Connection>, keep: Keep) -> Exchange<Self>;
}

/// The body of an answer, on its way. Bounded in bytes and time; dropping it closes the connection.
pub(crate) trait AnswerBody {
    /// The connection that it comes over.
    type Connection;

    /// Reads to the end, or up to a bound.
    async fn read(self) -> AnswerRead<Self::Connection>;

    /// What came so far; the connection is closed.
    fn cut_off(self) -> AnswerRead<Self::Connection>;
}

/// How a request ended.
pub(crate) struct Exchange<C: Courier + ?Sized> {
    /// Acknowledged, or why not.
    pub(crate) outcome: Outcome,
    /// Why it failed, in words. `None` for an acknowledgement.
    pub(crate) cause: Option<Cause>,
    /// The receiver's address, where a connection to it was tried. `None` for a refused address.
    pub(crate) address: Option<SocketAddr>,
    /// From its start to the answer's headers, or to the failure.
    pub(crate) took: Duration,
    /// What has not come yet of the answer, or what had come already.
    pub(crate) rest: Rest<C>,
}

/// What an answer holds beyond its headers.
pub(crate) enum Rest<C: Courier + ?Sized> {
    /// All of it has come, or nothing more is wanted.
    Read(AnswerRead<C::Connection>),
    /// It still comes.
    Coming(Box<C::Body>),
}

impl<C: Courier> Rest<C> {
    /// There is no answer, or nothing more is read from its connection.
    pub(crate) fn none() -> Self {
        Self::Read(AnswerRead { body: Bytes::new(), connection: None })
    }

    /// Waits for what still comes, within its bounds.
    pub(crate) async fn read(self) -> AnswerRead<C::Connection> {
        match self {
            Self::Read(read) => read,
            Self::Coming(body) => body.read().await,
        }
    }
}

/// An answer whose body is at its end, or is not read further.
pub(crate) struct AnswerRead<Connection> {
    /// The beginning of the body, where it was wanted.
    pub(crate) body: Bytes,
    /// The connection, if it may be used again.
    pub(crate) connection: Option<Connection>,
}
