//! One request to a webhook: its headers and body. The part that is the same for all requests is prepared once. Nothing here sends.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use rand::RngCore;

use crate::domain::integration::{HEADER_BYTES_MAX, HEADER_SECRETS_MAX, Integration, Webhook};
use crate::domain::signature::Signer;
use crate::domain::target::{Authority, BadUrl, Target};
use crate::domain::text::push_hex;
use crate::inflight::job::Delivery;

/// The contract's: sent with a request, and to be sent back with the answer.
pub(super) const ECHO: HeaderName = HeaderName::from_static("x-xcom-integration-echo");
const ATTEMPT: HeaderName = HeaderName::from_static("x-xcom-delivery-attempt");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Why a webhook can't be sent requests. The registration API and the table refuse such a record, so this happens only to a record that
/// came another way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// The URL is not valid.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// More header secrets than the contract allows.
    #[error("more than {HEADER_SECRETS_MAX} header secrets, or more than {HEADER_BYTES_MAX} bytes of them")]
    Headers,
}

/// The part that is the same for all requests of a webhook.
pub(crate) struct RequestTemplate {
    authority: Arc<Authority>,
    path: Uri,
    headers: HeaderMap,
    signer: Signer,
}

impl RequestTemplate {
    /// Prepares the requests of a webhook.
    ///
    /// # Errors
    /// [`BadRequest`]: nothing that the record holds may end this thread.
    pub(crate) fn new(integration: &Integration, webhook: usize) -> Result<Self, BadRequest> {
        let url = integration.webhook(webhook).map(Webhook::url).unwrap_or_default();
        let target = Target::parse(&url)?;
        let mut headers = HeaderMap::new();
        // The order on the wire. Some receivers read `host` only where RFC 9110 advises it to be: first.
        let own = [
            (HOST, target.host_header().clone()),
            // Firewalls refuse requests without it.
            (ACCEPT, HeaderValue::from_static("*/*")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
            (USER_AGENT, HeaderValue::from_static(concat!("hookstream/", env!("CARGO_PKG_VERSION")))),
        ];
        for (name, value) in own {
            headers.try_insert(name, value).map_err(|_full| BadRequest::Headers)?;
        }
        let mut bytes = 0;
        for (count, (name, value)) in integration.headers().enumerate() {
            bytes += name.len() + value.len();
            if count >= HEADER_SECRETS_MAX || bytes > HEADER_BYTES_MAX {
                return Err(BadRequest::Headers);
            }
            // Checked when the record was read.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.try_insert(name, value).map_err(|_full| BadRequest::Headers)?;
            }
        }
        // A copy has no spare places: 2 KB for each of many webhooks.
        let headers = headers.clone();
        Ok(Self { authority: target.authority(), path: target.path().clone(), headers, signer: integration.signer() })
    }

    /// Scheme, host and port.
    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// One request: the part that differs from the others.
pub(crate) struct SignedRequest {
    prepared: Arc<RequestTemplate>,
    body: Bytes,
    /// Echo token, delivery id, timestamp, attempt and signature, one after another: one allocation for five headers.
    text: Bytes,
    ends: [usize; 5],
}

/// Hex digits of an echo token: 128 bits.
const TOKEN_LEN: usize = 32;

impl SignedRequest {
    /// Writes the headers of an attempt of `delivery` at `timestamp` (seconds since 1970).
    pub(crate) fn new(
        prepared: &Arc<RequestTemplate>,
        delivery: &Delivery,
        timestamp: i64,
        rng: &mut impl RngCore,
    ) -> Self {
        let mut text = String::with_capacity(TOKEN_LEN + 36 + 10 + 2 + 48);
        let mut token = [0u8; TOKEN_LEN / 2];
        rng.fill_bytes(&mut token);
        push_hex(&mut text, &token);
        let mut ends = [text.len(); 5];
        text.push_str(&delivery.id);
        ends[1] = text.len();
        text.push_str(itoa::Buffer::new().format(timestamp.unsigned_abs()));
        ends[2] = text.len();
        text.push_str(itoa::Buffer::new().format(delivery.attempt));
        ends[3] = text.len();
        prepared.signer.sign(&delivery.id, timestamp, &delivery.event.payload, &mut text);
        ends[4] = text.len();
        Self { prepared: Arc::clone(prepared), body: delivery.event.payload.clone(), text: Bytes::from(text), ends }
    }

    fn part(&self, index: usize) -> Bytes {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.text.slice(start..end)
    }

    /// Scheme, host and port.
    pub(crate) fn authority(&self) -> &Authority {
        &self.prepared.authority
    }

    /// What the answer must echo.
    pub(crate) fn token(&self) -> &[u8] {
        self.text.get(..TOKEN_LEN).unwrap_or_default()
    }

    /// The request, made for each time it is sent.
    pub(crate) fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.prepared.path.clone();
        let mut headers = self.prepared.headers.clone();
        headers.reserve(self.ends.len());
        for (index, name) in [ECHO, WEBHOOK_ID, WEBHOOK_TIMESTAMP, ATTEMPT, WEBHOOK_SIGNATURE].into_iter().enumerate() {
            let part = self.part(index);
            if part.is_empty() {
                continue;
            }
            // Hex, digits and base64, and a delivery id that was read from a header: always a value.
            if let Ok(value) = HeaderValue::from_maybe_shared(part) {
                // At most 41 headers, so there is room.
                headers.insert(name, value);
            }
        }
        *request.headers_mut() = headers;
        request
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::inflight::job::{Event, Origin};
    use crate::inflight::pressure::Pressure;

    /// What becomes of a record: whether it is usable, and if so the headers of a request.
    fn request_of(record: &Value) -> Option<Result<HeaderMap, BadRequest>> {
        let integration = Integration::parse("ws/i", record.to_string().as_bytes()).ok()?;
        integration.webhook(0)?;
        let template = match RequestTemplate::new(&integration, 0) {
            Ok(template) => Arc::new(template),
            Err(error) => return Some(Err(error)),
        };
        let payload = Bytes::from_static(b"{}");
        let origin = Origin { topic: "t".into(), partition: 0, offset: 0 };
        let held = Pressure::new(usize::MAX).hold(payload.len());
        let event = Arc::new(Event::new(payload, origin, 0, None, held));
        let delivery = Delivery::alone(event, Arc::new(integration), 0, "msg_1".into());
        let signed = SignedRequest::new(&template, &delivery, 1, &mut rand::rngs::StdRng::from_os_rng());
        Some(Ok(signed.request().into_parts().0.headers))
    }

    fn record(secrets: &[(String, Value)]) -> Value {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|(name, value)| json!({"id": format!("webhook.header.{name}"), "value": value}))
            .collect();
        json!({"baseUrl": "https://a.example", "secrets": secrets, "webHooks": [
            {"id": "w", "relativeUrl": "/cb", "triggerType": "entityEvent", "filter": {"items": [{}]}}]})
    }

    #[test]
    fn as_many_headers_as_are_allowed_are_sent_and_more_fail_without_a_panic() {
        let secrets = |count: usize| (0..count).map(|n| (format!("X-{n}"), json!("v"))).collect::<Vec<_>>();
        let headers = request_of(&record(&secrets(HEADER_SECRETS_MAX))).unwrap().unwrap();
        // Four fixed ones, and token, id, time and attempt.
        assert_eq!(headers.len(), HEADER_SECRETS_MAX + 8);
        for count in [HEADER_SECRETS_MAX + 1, 6_564, 24_569] {
            assert!(!matches!(request_of(&record(&secrets(count))), Some(Ok(_))), "{count}");
        }
        let long = [("X-Long".to_owned(), json!("v".repeat(HEADER_BYTES_MAX)))];
        assert!(!matches!(request_of(&record(&long)), Some(Ok(_))));
    }

    proptest! {
        #[test]
        fn no_header_secret_of_a_record_can_end_the_thread(
            secrets in proptest::collection::vec((any::<String>(), any::<String>()), 0..40),
            names in proptest::collection::vec("[!-~]{1,12}", 0..40),
        ) {
            let names = names.into_iter().map(|name| (name, json!("v")));
            let secrets: Vec<_> = secrets.into_iter().map(|(name, value)| (name, json!(value))).chain(names).collect();
            drop(request_of(&record(&secrets)));
        }

        #[test]
        fn no_url_of_a_record_can_end_the_thread(base_url: String, relative_url: String, path in "[ -~]{0,40}") {
            for url in [&base_url, &format!("https://{base_url}"), &format!("https://a.example/{path}")] {
                let mut record = record(&[]);
                record["baseUrl"] = json!(url);
                record["webHooks"][0]["relativeUrl"] = json!(relative_url);
                drop(request_of(&record));
            }
        }
    }
}
