//! The demo's receivers: one server an integration, each on a port of its own so that each has its own circuit. They verify
//! signatures, answer as their integration behaves, and report their answers to the account.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::account::Pair;
use super::sample::{Behaviour, Sample, number_of_event};
use super::{Ledger, lock};
use crate::domain::event::{Envelope, TEST_PREFIX};
use crate::domain::hash::hash_bytes;
use crate::domain::signature::Signer;

/// The receiver that recovers goes down once in each period.
const PERIOD: Duration = Duration::from_secs(20);
/// When in the period it goes down.
const DOWN_FROM: Duration = Duration::from_secs(3);
/// When in the period it recovers.
const DOWN_TO: Duration = Duration::from_secs(8);
/// Larger than any sample event.
const BODY_BYTES_MAX: usize = 64 * 1024;

const ECHO: &str = "x-xcom-integration-echo";

/// When the events began: receivers that go down count from there.
#[derive(Default)]
pub(crate) struct Began(OnceLock<Instant>);

impl Began {
    /// Notes that the events begin now.
    pub(crate) fn now(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// How long ago that was.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.get().map(Instant::elapsed).unwrap_or_default()
    }
}

/// Whether a receiver that recovers is down, `since` the events began.
pub(crate) fn is_down(since: Duration) -> bool {
    let in_period = Duration::from_nanos(u64::try_from(since.as_nanos() % PERIOD.as_nanos()).unwrap_or_default());
    (DOWN_FROM..DOWN_TO).contains(&in_period)
}

struct Receiver {
    sample: &'static Sample,
    signer: Signer,
    ledger: Ledger,
    began: Arc<Began>,
}

/// Listens on a free port for the deliveries of `sample` and serves them in `tasks` until `stop`.
///
/// # Errors
/// There is no free port.
pub(crate) async fn serve(
    sample: &'static Sample,
    signer: Signer,
    ledger: Ledger,
    began: Arc<Began>,
    tasks: &mut JoinSet<io::Result<()>>,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let receiver = Receiver { sample, signer, ledger, began };
    let router =
        Router::new().fallback(post(take)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(Arc::new(receiver));
    tasks.spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await });
    Ok(address)
}

async fn take(State(receiver): State<Arc<Receiver>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let Some(id) = receiver.verified_id(&headers, &body) else {
        lock(&receiver.ledger).refuse_signature();
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if is_test(&body) {
        // Its sender sees the answer, and the account is of the sample events.
        return receiver.answer(headers.get(ECHO)).into_response();
    }
    let webhook = receiver.sample.webhooks.iter().find(|webhook| webhook.path == uri.path());
    let (Some(event), Some(webhook)) = (number_of_event(&body), webhook) else {
        lock(&receiver.ledger).find_unexpected();
        return StatusCode::NOT_FOUND.into_response();
    };
    let pair = Pair { event, webhook: webhook.number };
    let answer = receiver.answer(headers.get(ECHO));
    let acknowledged = matches!(answer, Answer::Echo(_));
    // The answer takes far less than the worker's time-out, so the worker sees what is counted here.
    lock(&receiver.ledger).request(pair, id, acknowledged);
    answer.into_response()
}

fn is_test(body: &[u8]) -> bool {
    Envelope::parse(body).is_ok_and(|event| event.id.starts_with(TEST_PREFIX))
}

enum Answer {
    Echo(HeaderValue),
    NoEcho,
    Down,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Echo(token) => (StatusCode::OK, [(ECHO, token)]).into_response(),
            Self::NoEcho => StatusCode::OK.into_response(),
            Self::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
}

impl Receiver {
    fn answer(&self, token: Option<&HeaderValue>) -> Answer {
        match self.sample.behaviour {
            Behaviour::Recovers if is_down(self.began.elapsed()) => Answer::Down,
            Behaviour::Good | Behaviour::Recovers => token.cloned().map_or(Answer::NoEcho, Answer::Echo),
            Behaviour::NeverEchoes => Answer::NoEcho,
        }
    }

    /// A hash of the `webhook-id`, if the request is signed with the integration's secret.
    fn verified_id(&self, headers: &HeaderMap, body: &[u8]) -> Option<u32> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let id = text("webhook-id")?;
        let timestamp = text("webhook-timestamp")?.parse().ok()?;
        let verified = self.signer.verify(id, timestamp, body, text("webhook-signature")?);
        verified.then(|| (hash_bytes(id.as_bytes()) >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_recovers_is_down_for_five_seconds_in_every_twenty() {
        for (seconds, down) in [(0, false), (2, false), (3, true), (7, true), (8, false), (22, false), (23, true)] {
            assert_eq!(is_down(Duration::from_secs(seconds)), down, "{seconds} s");
        }
    }
}
