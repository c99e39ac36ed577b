//! One signed test delivery on demand, with the headers, address rules, deadline and judgement of any other. No Kafka record
//! belongs to it, and its result changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use rand::RngCore;

use super::http::{TestAnswer, TestDelivery, TestRequest, Testing, Untestable};
use crate::attempt_log::redaction::{Secrets, query_values, shown_url};
use crate::clock;
use crate::deliver::courier::Courier as _;
use crate::deliver::http_courier::HttpCourier;
use crate::deliver::request::{RequestTemplate, SignedRequest};
use crate::domain::event::TEST_PREFIX;
use crate::domain::integration::{Integration, Trigger, Webhook};
use crate::domain::outcome::Outcome;
use crate::domain::text::push_hex;
use crate::inflight::ended::Keep;
use crate::inflight::job::{Delivery, Event, Origin};
use crate::inflight::pressure::Pressure;

/// A test delivery sent by that courier.
pub(crate) fn by(courier: Arc<HttpCourier>) -> TestDelivery {
    // This counts the bytes of held events, which are few here: the API bounds the number of test deliveries.
    let pressure = Pressure::new(usize::MAX);
    Arc::new(move |request| {
        let courier = Arc::clone(&courier);
        Box::pin(async move { deliver(&courier, pressure, &request).await }) as Testing
    })
}

async fn deliver(
    courier: &HttpCourier,
    pressure: &'static Pressure,
    request: &TestRequest,
) -> Result<TestAnswer, Untestable> {
    let integration = Integration::parse(&request.key, &request.record)?;
    let webhook = integration.webhook_by_id(&request.webhook).ok_or(Untestable::NoWebhook)?;
    let (index, trigger) = (webhook.index(), webhook.trigger());
    let prepared = Arc::new(RequestTemplate::new(&integration, index)?);
    let payload = body(&request.webhook, trigger);
    let origin = Origin { topic: Arc::from("test"), partition: 0, offset: 0 };
    let held = pressure.hold(payload.len());
    let now_ms = clock::now_ms();
    let event = Arc::new(Event::new(payload, origin, now_ms, None, held));
    let delivery = Delivery::alone(event, Arc::new(integration), index, random("msg_").into());
    let attempt = SignedRequest::new(&prepared, &delivery, now_ms / 1000, &mut rand::rng());
    let exchanged = courier.attempt(&attempt, None, Keep::All).await;
    let (acknowledged, reason, status) = match exchanged.outcome {
        Outcome::Acknowledged => (true, None, Some(200)),
        Outcome::Failed { reason, status, .. } => (false, Some(reason.word().to_owned()), status),
    };
    let duration_ms = u64::try_from(exchanged.took.as_millis()).unwrap_or(u64::MAX);
    let body = exchanged.rest.read().await.body;
    let url = delivery.webhook().map(Webhook::url).unwrap_or_default();
    // All that was sent is masked: the receiver may repeat any of it.
    let secrets = Secrets::of(delivery.integration.secret_values().chain(query_values(&url)));
    Ok(TestAnswer {
        acknowledged,
        reason,
        error: exchanged.cause.map(|cause| secrets.masked(cause.shown())),
        address: exchanged.address.map(|address| address.to_string()),
        delivery_id: delivery.id.into(),
        url: secrets.masked(&shown_url(&url)),
        status,
        duration_ms,
        answer: secrets.masked(&String::from_utf8_lossy(&body)),
    })
}

/// A body like the webhook's events, about an entity that does not exist.
fn body(webhook: &str, trigger: Trigger) -> Bytes {
    let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default().to_string();
    let body = match trigger {
        Trigger::EntityEvent => serde_json::json!({
            "id": random(TEST_PREFIX), "type": "change",
            "createInfo": { "createdAt": now, "createdWith": "hookstream-api" },
            "entityIds": { "companyId": "00000000-0000-0000-0000-000000000000" },
            "changeData": { "type": "patch", "old": {}, "new": {} },
        }),
        Trigger::Schedule(_) => {
            serde_json::json!({ "webHookId": webhook, "triggerType": "schedule", "scheduledAt": now })
        }
    };
    Bytes::from(body.to_string())
}

fn random(prefix: &str) -> String {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    let mut text = prefix.to_owned();
    push_hex(&mut text, &bytes);
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::domain::retry_schedule::RetrySchedule;
    use crate::net::address::AddressPolicy;
    use crate::net::connector::Connector;
    use crate::telemetry::metrics::Metrics;

    /// The answer to a test delivery to `base_url`.
    async fn tested(base_url: &str, policy: AddressPolicy) -> serde_json::Value {
        let record = serde_json::json!({"baseUrl": base_url,
            "secrets": [{"id": "webhook.header.X-Key", "value": 123_456_789}, {"id": "other", "value": "s3cret-text"}],
            "webHooks": [{"id": "w", "relativeUrl": "/cb?token=t0ken-in-query", "triggerType": "entityEvent",
                "filter": {"items": [{}]}}]});
        let metrics = Arc::new(Metrics::new(&RetrySchedule::parse("1s").unwrap()));
        let courier =
            HttpCourier::new(Connector::system(policy, Duration::from_secs(20)), Duration::from_secs(20), metrics);
        let request = TestRequest { key: "ws/i".into(), record: record.to_string().into(), webhook: "w".into() };
        serde_json::to_value(by(Arc::new(courier))(request).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn everything_secret_that_was_sent_is_masked_in_the_answer() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let base_url = format!("http://{at}");
        let (answer, ()) = tokio::join!(tested(&base_url, policy), async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            assert!(tcp.read(&mut [0; 4096]).await.unwrap() > 0);
            let body = "Cannot POST /cb?token=t0ken-in-query with 123456789 and s3cret-text";
            let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            tcp.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(answer["answer"], "Cannot POST /cb?token=*** with *** and ***");
        assert_eq!((&answer["url"], &answer["address"]), (&format!("{base_url}/cb").into(), &at.to_string().into()));
        assert_eq!((&answer["error"], &answer["status"]), (&"the answer has status 404, not 200".into(), &404.into()));
        assert!(answer["deliveryId"].as_str().unwrap().starts_with("msg_"));
    }

    #[tokio::test]
    async fn a_refused_address_is_not_disclosed() {
        let answer = tested("http://localhost:1", AddressPolicy::default()).await;
        assert_eq!((&answer["reason"], &answer["address"]), (&"refused-address".into(), &serde_json::Value::Null));
        assert_eq!(answer["error"], "localhost: the address is refused");
    }
}
