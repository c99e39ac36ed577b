//! The demo's integrations, and the events it produces with the webhooks that each must reach.
//!
//! The webhooks of each event are listed here by hand and not by the rules of `domain`, because the account checks those rules.

use bytes::Bytes;
use serde_json::{Value, json};

use super::account::{INVALID, Webhooks};
use crate::domain::integration::SIGNING_SECRET;

/// The workspace of everything that the account counts.
pub(crate) const WORKSPACE: &str = "demo";
/// The workspace for trying out the registration API. It gets events too; the account does not count them.
pub(crate) const PLAYGROUND: &str = "playground";
/// One record in this many is not a valid event.
const INVALID_EVERY: u32 = 200;
/// Companies that the events are about.
const COMPANIES: u32 = 40;
/// Contacts that the events are about.
const CONTACTS: u32 = 90;

/// An integration of the demo and how its receiver behaves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its name in the view.
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    pub(crate) behaviour: Behaviour,
    pub(crate) webhooks: &'static [SampleWebhook],
}

/// A webhook of the demo.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SampleWebhook {
    /// Its number in the account.
    pub(crate) number: u8,
    /// Its name in the view.
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    /// Its path at the receiver.
    pub(crate) path: &'static str,
    /// Its filter items: event type, entity type, change type, each empty for any.
    items: &'static [[&'static str; 3]],
}

/// How a receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// 200 with the echo, at once.
    Good,
    /// The same, but 503 in a part of every period.
    Recovers,
    /// 200 without the echo.
    NeverEchoes,
}

/// All integrations.
pub(crate) const SAMPLES: [Sample; 3] = [
    Sample {
        name: "search index",
        id: "0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e01",
        behaviour: Behaviour::Good,
        webhooks: &[
            SampleWebhook {
                number: 0,
                name: "companies",
                id: "0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e10",
                path: "/companies",
                items: &[["change", "company", ""]],
            },
            SampleWebhook {
                number: 1,
                name: "contacts",
                id: "0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e11",
                path: "/contacts",
                items: &[["", "contact", ""]],
            },
        ],
    },
    Sample {
        name: "billing",
        id: "5d2c9e84-17f6-4b0e-9b0a-6f4e8a2d7c02",
        behaviour: Behaviour::Recovers,
        webhooks: &[SampleWebhook {
            number: 2,
            name: "new and changed companies",
            id: "5d2c9e84-17f6-4b0e-9b0a-6f4e8a2d7c20",
            path: "/companies",
            items: &[["change", "company", "create"], ["change", "company", "patch"]],
        }],
    },
    Sample {
        name: "old export",
        id: "c81e4f6d-92ab-4c37-8d11-b5a90e63f703",
        behaviour: Behaviour::NeverEchoes,
        webhooks: &[SampleWebhook {
            number: 3,
            name: "links",
            id: "c81e4f6d-92ab-4c37-8d11-b5a90e63f730",
            path: "/links",
            items: &[["link", "", ""], ["unlink", "", ""]],
        }],
    },
];

/// The number of the webhook with this id.
pub(crate) fn number_of_webhook(id: &str) -> Option<u8> {
    SAMPLES.iter().flat_map(|sample| sample.webhooks).find(|webhook| webhook.id == id).map(|webhook| webhook.number)
}

/// The name of a webhook: integration and webhook.
pub(crate) fn name_of_webhook(number: u8) -> String {
    let webhooks = SAMPLES.iter().flat_map(|sample| sample.webhooks.iter().map(move |webhook| (sample, webhook)));
    let found = webhooks.into_iter().find(|(_, webhook)| webhook.number == number);
    found.map_or_else(|| "no webhook".to_owned(), |(sample, webhook)| format!("{}: {}", sample.name, webhook.name))
}

impl Sample {
    /// The key of its record.
    pub(crate) fn key(&self) -> String {
        format!("{WORKSPACE}/{}", self.id)
    }

    /// Its record in the integrations topic.
    pub(crate) fn record(&self, base_url: &str, secrets: &[String]) -> Value {
        let webhooks: Vec<Value> = self.webhooks.iter().map(SampleWebhook::record).collect();
        let secrets: Vec<Value> = secrets.iter().map(|value| json!({ "id": SIGNING_SECRET, "value": value })).collect();
        json!({
            "id": self.id, "baseUrl": base_url, "status": "active", "features": {}, "secrets": secrets, "settings": [],
            "webHooks": webhooks,
        })
    }
}

impl SampleWebhook {
    fn record(&self) -> Value {
        let item = |words: &[&'static str; 3]| {
            let fields = ["eventType", "entityType", "changeType"].into_iter().zip(words);
            Value::Object(
                fields
                    .filter(|(_, word)| !word.is_empty())
                    .map(|(field, word)| (field.to_owned(), Value::from(*word)))
                    .collect(),
            )
        };
        let items: Vec<Value> = self.items.iter().map(item).collect();
        json!({
            "id": self.id, "relativeUrl": self.path, "triggerType": "entityEvent", "filter": { "items": items },
            "schedule": {}, "disabled": false,
        })
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Company(Change),
    Contact(Change),
    Link,
    Unlink,
    /// A changed company of the playground, which is for none of the demo's webhooks.
    Playground,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Create,
    Patch,
    Delete,
}

/// The kinds of events with their webhooks, in an order that repeats.
const ROUND: [(Kind, &[u8]); 20] = [
    (Kind::Company(Change::Patch), &[0, 2]),
    (Kind::Contact(Change::Patch), &[1]),
    (Kind::Company(Change::Create), &[0, 2]),
    (Kind::Link, &[1, 3]),
    (Kind::Contact(Change::Create), &[1]),
    (Kind::Playground, &[]),
    (Kind::Company(Change::Patch), &[0, 2]),
    (Kind::Contact(Change::Patch), &[1]),
    (Kind::Company(Change::Patch), &[0, 2]),
    (Kind::Contact(Change::Patch), &[1]),
    (Kind::Company(Change::Create), &[0, 2]),
    (Kind::Unlink, &[1, 3]),
    (Kind::Contact(Change::Create), &[1]),
    (Kind::Company(Change::Delete), &[0]),
    (Kind::Contact(Change::Patch), &[1]),
    (Kind::Company(Change::Patch), &[0, 2]),
    (Kind::Link, &[1, 3]),
    (Kind::Playground, &[]),
    (Kind::Company(Change::Patch), &[0, 2]),
    (Kind::Contact(Change::Delete), &[1]),
];

fn kind(number: u32) -> Option<(Kind, &'static [u8])> {
    if number % INVALID_EVERY == INVALID_EVERY - 1 {
        return None;
    }
    ROUND.into_iter().nth(usize::try_from(number).unwrap_or_default() % ROUND.len())
}

/// The webhooks that event `number` is for.
pub(crate) fn webhooks(number: u32) -> Webhooks {
    kind(number).map_or(Webhooks::of(&[INVALID]), |(_, webhooks)| Webhooks::of(webhooks))
}

/// The beginning of every event's id. Its number follows.
const ID_PREFIX: &str = "3c75d291-7f1e-4c0a-9d3b-";
const ID_DIGITS: usize = 12;

/// The id of an event.
pub(crate) fn event_id(number: u32) -> String {
    format!("{ID_PREFIX}{number:012x}")
}

/// The number of the event in these bytes, also if they are not a valid event. `None` if the demo did not produce them.
pub(crate) fn number_of_event(value: &[u8]) -> Option<u32> {
    let start = value.windows(ID_PREFIX.len()).position(|part| part == ID_PREFIX.as_bytes())? + ID_PREFIX.len();
    let digits = std::str::from_utf8(value.get(start..start + ID_DIGITS)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

/// A record to produce.
pub(crate) struct Produced {
    pub(crate) workspace: &'static str,
    /// The entity's id, as the CRM is advised to key.
    pub(crate) key: String,
    /// The event.
    pub(crate) value: Bytes,
}

/// Event `number` as it is produced; `at` is RFC 3339.
pub(crate) fn event(number: u32, at: &str) -> Produced {
    let Some((kind, _)) = kind(number) else {
        // Cut off in the middle, as after a bug in a producer.
        let text = format!(r#"{{"id":"{}","type":"change","entityIds":{{"#, event_id(number));
        return Produced { workspace: WORKSPACE, key: company(number), value: text.into() };
    };
    let (event_type, entity_ids, change) = body(kind, number);
    let key = entity_ids.as_object().and_then(|ids| ids.values().next()?.as_str()).unwrap_or_default().to_owned();
    let value = json!({
        "id": event_id(number),
        "offset": format!("00000000-20ac-176a-0000-{number:012x}"),
        "type": event_type,
        "createInfo": {
            "createdAt": at, "createdByUserId": "7489f14b-5c1d-4c3e-9f57-0d2f6b8c4e11", "createdWith": "WebApp",
        },
        "entityIds": entity_ids,
        "changeData": change,
    });
    let workspace = if kind == Kind::Playground { PLAYGROUND } else { WORKSPACE };
    Produced { workspace, key, value: value.to_string().into() }
}

fn company(number: u32) -> String {
    format!("a9a2f13c-0000-4000-8000-{:012x}", number.wrapping_mul(7) % COMPANIES)
}

fn contact(number: u32) -> String {
    format!("b4d81e72-0000-4000-8000-{:012x}", number.wrapping_mul(11) % CONTACTS)
}

fn body(kind: Kind, number: u32) -> (&'static str, Value, Value) {
    let both = || json!({ "companyId": company(number), "contactId": contact(number) });
    let of_company = || json!({ "companyId": company(number) });
    match kind {
        Kind::Company(of) => ("change", of_company(), change(of, "name", "Alpha", number)),
        Kind::Contact(of) => ("change", json!({ "contactId": contact(number) }), change(of, "email", "x@y.z", number)),
        Kind::Link => ("link", both(), Value::Null),
        Kind::Unlink => ("unlink", both(), Value::Null),
        Kind::Playground => ("change", of_company(), change(Change::Patch, "name", "Beta", number)),
    }
}

fn change(of: Change, field: &str, value: &str, number: u32) -> Value {
    let before = json!({ field: value });
    let after = json!({ field: format!("{value} {number}") });
    match of {
        Change::Create => json!({ "type": "create", "old": null, "new": after }),
        Change::Patch => json!({ "type": "patch", "old": before, "new": after }),
        Change::Delete => json!({ "type": "delete", "old": before, "new": null }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::Envelope;
    use crate::domain::integration::Integration;
    use crate::domain::table::Table;

    #[test]
    fn the_webhooks_written_by_hand_are_those_that_match() {
        let mut table = Table::default();
        for sample in &SAMPLES {
            let record = sample.record("http://127.0.0.1:1", &["whsec_c2VjcmV0".to_owned()]).to_string();
            table.put(Arc::new(Integration::parse(&sample.key(), record.as_bytes()).unwrap()));
        }
        table.settle();
        for number in 0..400 {
            let produced = event(number, "2021-09-28T11:08:26.903198+00:00");
            let mut found = Webhooks::of(&[]);
            match Envelope::parse(&produced.value) {
                Ok(envelope) => table.matching(produced.workspace, &envelope.facts(), |integration, index| {
                    let id = integration.webhook(index).unwrap().id();
                    found = Webhooks::of(&[number_of_webhook(&id).unwrap()]).and(found);
                }),
                Err(_) => found = Webhooks::of(&[INVALID]),
            }
            assert_eq!(found, webhooks(number), "event {number}");
        }
    }

    #[test]
    fn an_event_has_its_number_also_if_it_is_cut_off() {
        for number in [0, 1, 199, 399, 4_711, u32::MAX] {
            assert_eq!(number_of_event(&event(number, "").value), Some(number));
        }
        for foreign in [&b""[..], b"{}", b"3c75d291-7f1e-4c0a-9d3b-00000000", b"3c75d291-7f1e-4c0a-9d3b-zzzzzzzzzzzz"] {
            assert_eq!(number_of_event(foreign), None);
        }
    }
}
