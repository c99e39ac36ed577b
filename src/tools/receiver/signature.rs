//! Verifies a delivery's signature as an integration should: Standard Webhooks, with a bound on its age.

use http::HeaderMap;

use crate::clock;
use crate::domain::signature::Signer;

/// How far a signature's timestamp may be from now, as Standard Webhooks recommends: older ones may be replays.
const TOLERANCE_SECONDS: u64 = 300;

pub(super) fn verify(signer: &Signer, headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| text(headers, name));
    if id.is_empty() || timestamp.is_empty() || signature.is_empty() {
        return Err("webhook-id, webhook-timestamp or webhook-signature is missing");
    }
    let timestamp: i64 = timestamp.parse().map_err(|_no_number| "webhook-timestamp is not a number")?;
    if timestamp.abs_diff(clock::now_ms() / 1000) > TOLERANCE_SECONDS {
        return Err("webhook-timestamp is more than five minutes from now");
    }
    if signer.verify(id, timestamp, body, signature) {
        Ok(())
    } else {
        Err("the signature is not of this secret and body")
    }
}

/// A header as text; empty if it is missing or not text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
