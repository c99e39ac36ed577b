//! Passes an action on to the API: the same request with the user's own token, and the answer as it comes.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{Error, HeaderMap, HeaderName, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::registration::http::ACCESS_KEY;

/// How long the API may take until an answer begins: longer than a test delivery with any usual request timeout.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The headers of a request that are passed on to the API.
const REQUEST_HEADERS: [HeaderName; 4] = [AUTHORIZATION, HeaderName::from_static(ACCESS_KEY), CONTENT_TYPE, ACCEPT];
/// The headers of the API's answer that are passed back.
const ANSWER_HEADERS: [HeaderName; 2] = [CONTENT_TYPE, RETRY_AFTER];

/// Why an action did not reach the API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// It can't be reached, or ended the connection.
    #[error("the API can't be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// It does not answer.
    #[error("the API gave no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Late,
    /// The request can't be written.
    #[error("the request can't be passed on")]
    Request(#[source] Error),
}

/// A client of the API.
#[derive(Clone)]
pub(crate) struct Forward {
    client: Client<HttpsConnector<HttpConnector>, Body>,
    scheme: Scheme,
    authority: Authority,
}

impl Forward {
    /// A client of the API at `url`, of which only scheme and authority count. TLS trusts what the platform trusts.
    ///
    /// # Errors
    /// The platform's certificates can't be read, or the URL names no host.
    pub(crate) fn to(url: &Uri) -> std::io::Result<Self> {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let no_host = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "the URL names no host");
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(https),
            scheme: url.scheme().cloned().ok_or_else(no_host)?,
            authority: url.authority().cloned().ok_or_else(no_host)?,
        })
    }

    /// Makes the request there; the answer's body comes as it is written.
    ///
    /// # Errors
    /// [`ForwardError`]
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, ForwardError> {
        let (asked, body) = request.into_parts();
        let path = asked.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path);
        let uri = uri.build().map_err(ForwardError::Request)?;
        let mut passed = Request::builder().method(asked.method).uri(uri).body(body).map_err(ForwardError::Request)?;
        *passed.headers_mut() = kept(&asked.headers, &REQUEST_HEADERS);
        let exchange = tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(passed)).await;
        let (parts, body) =
            exchange.map_err(|_elapsed| ForwardError::Late)?.map_err(ForwardError::Unreachable)?.into_parts();
        let mut response = Response::new(Body::new(body.map_err(axum::Error::new)));
        *response.status_mut() = parts.status;
        *response.headers_mut() = kept(&parts.headers, &ANSWER_HEADERS);
        Ok(response)
    }
}

fn kept(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}
