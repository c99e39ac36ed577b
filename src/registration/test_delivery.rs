//! One signed test delivery on demand, made like any other: the same headers, address rules, deadline and judgement. It
//! stands for no record of Kafka: nothing follows from how it ends.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngCore;

use super::http::{TestAnswer, TestDelivery, TestRequest};
use crate::clock;
use crate::deliver::courier::Courier;
use crate::deliver::request::{RequestTemplate, SignedRequest};
use crate::domain::integration::{Integration, Trigger};
use crate::domain::outcome::Outcome;
use crate::inflight::ended::Keep;
use crate::inflight::job::{Delivery, Event, Origin, push_hex};
use crate::inflight::pressure::Pressure;

/// A test delivery sent by that courier.
pub(crate) fn by(courier: Arc<Courier>) -> TestDelivery {
    // Counts the bytes of events held, of which these are few and bounded by the API.
    let pressure = Pressure::new(1, usize::MAX);
    Arc::new(move |request| {
        let (courier, pressure) = (Arc::clone(&courier), Arc::clone(&pressure));
        Box::pin(async move { deliver(&courier, &pressure, &request).await })
            as Pin<Box<dyn Future<Output = Result<TestAnswer, String>> + Send>>
    })
}

async fn deliver(courier: &Courier, pressure: &Arc<Pressure>, request: &TestRequest) -> Result<TestAnswer, String> {
    let integration = Integration::parse(&request.key, &request.record).map_err(|error| error.to_string())?;
    let webhook = integration.webhook_by_id(&request.webhook).ok_or("no such webhook")?;
    let (index, trigger) = (webhook.index(), webhook.trigger());
    let prepared = Arc::new(RequestTemplate::new(&integration, index).map_err(|error| error.to_string())?);
    let payload = body(&request.webhook, trigger);
    let origin = Origin { topic: Arc::from("test"), partition: 0, offset: 0 };
    let held = pressure.hold(payload.len());
    let now_ms = clock::now_ms();
    let delivery = Delivery {
        event: Arc::new(Event::new(payload, origin, now_ms, None, held)),
        integration: Arc::new(integration),
        webhook: index,
        attempt: 1,
        id: random("msg_").into(),
        first_attempt_ms: None,
        due: None,
    };
    let attempt = SignedRequest::new(&prepared, &delivery, now_ms / 1000, &mut rand::rng());
    let exchanged = courier.exchange(&attempt, None, Keep::All).await;
    let (acknowledged, reason, status) = match exchanged.outcome {
        Outcome::Acknowledged => (true, None, Some(200)),
        Outcome::Failed { reason, status, .. } => (false, Some(reason.word().to_owned()), status),
    };
    let duration_ms = u64::try_from(exchanged.took.as_millis()).unwrap_or(u64::MAX);
    let answer = String::from_utf8_lossy(&exchanged.rest.read().await.body).into_owned();
    Ok(TestAnswer { acknowledged, reason, status, duration_ms, answer })
}

/// What the webhook would be sent, of an entity that does not exist.
fn body(webhook: &str, trigger: Trigger) -> Bytes {
    let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default().to_string();
    let body = match trigger {
        Trigger::EntityEvent => serde_json::json!({
            "id": random("test-"), "type": "change",
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
