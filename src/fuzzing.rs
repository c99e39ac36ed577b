//! What fuzzing feeds with bytes: each function takes any input and must return, within a bound of time and memory. A panic
//! in one of them is a defect. Built for fuzzing and for tests only.
//!
//! `fuzz/` has a target for each function and a small corpus; the test below runs every corpus in each test run.

use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::deliver::request::{RequestTemplate, SignedRequest};
use crate::domain::event::Envelope;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, join_url};
use crate::domain::table::Table;
use crate::domain::target::Target;
use crate::health::records::{Delta, StateRecord, parse_counts};
use crate::inflight::job::{Delivery, Event, Origin};
use crate::inflight::pressure::Pressure;
use crate::net::address::AddressPolicy;
use crate::registration::instance::Instance;
use crate::registration::patch::Patch;

/// Between two parts of an input.
const SEPARATOR: u8 = 0;

fn parts(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input.iter().position(|byte| *byte == SEPARATOR).unwrap_or(input.len());
    let (first, rest) = input.split_at(at);
    (first, rest.get(1..).unwrap_or_default())
}

/// A record of the integrations topic, then an event: parsed, matched, and the request of every match written.
///
/// # Panics
/// On a defect.
pub fn record_to_requests(input: &[u8]) {
    let (record, event) = parts(input);
    let Ok(integration) = Integration::parse("workspace/integration", record) else { return };
    let integration = Arc::new(integration);
    for webhook in integration.webhooks() {
        write_request(&integration, webhook.index());
    }
    let mut table = Table::default();
    table.put(integration);
    table.settle();
    if let Ok(envelope) = Envelope::parse(event) {
        let mut matches = 0usize;
        table.matching("workspace", &envelope.facts(), |_, _| matches += 1);
        let _keys = envelope.order_keys();
        assert!(matches <= table.get("workspace/integration").map_or(0, |of| of.len()));
    }
}

fn write_request(integration: &Arc<Integration>, webhook: usize) {
    let Ok(template) = RequestTemplate::new(integration, webhook) else { return };
    let pressure = Pressure::new(usize::MAX);
    let origin = Origin { topic: "events".into(), partition: 0, offset: 0 };
    let event = Event::new(Bytes::from_static(b"{}"), origin, 0, None, pressure.hold(2));
    let delivery = Delivery::alone(Arc::new(event), Arc::clone(integration), webhook, "delivery".into());
    let request = SignedRequest::new(&Arc::new(template), &delivery, 1, &mut StdRng::seed_from_u64(0));
    drop(request.request());
}

/// A stored instance, then the body of a PATCH: what comes out is an instance that is read again.
///
/// # Panics
/// On a defect.
pub fn patch(input: &[u8]) {
    let (stored, body) = parts(input);
    let Ok(patch) = Patch::parse(body) else { return };
    let mut number = 0;
    let mut fresh_id = || {
        number += 1;
        format!("00000000-0000-4000-8000-{number:012}")
    };
    if let Ok(patched) = patch.apply("workspace/integration", stored, &mut fresh_id) {
        let bytes = patched.instance.to_bytes();
        assert!(Instance::parse(&bytes).is_ok(), "a patched instance is an instance");
    }
}

/// The headers of a record in a retry tier: names and values by turns, each ended by the separator.
///
/// # Panics
/// On a defect.
pub fn headers(input: &[u8]) {
    let mut words = input.split(|byte| *byte == SEPARATOR);
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if let Ok(name) = std::str::from_utf8(name) {
            pairs.push((name, value));
        }
    }
    let wire = Wire::read(pairs.into_iter());
    let written = wire.headers();
    let again = Wire::read(written.iter().map(|(name, value)| (*name, value.as_bytes())));
    assert_eq!(written, again.headers(), "what was read is written and read the same");
}

/// A base URL and a relative one: what is accepted names a host that the address rules can judge.
///
/// # Panics
/// On a defect.
pub fn urls(input: &[u8]) {
    let (base, relative) = parts(input);
    let (Ok(base), Ok(relative)) = (std::str::from_utf8(base), std::str::from_utf8(relative)) else { return };
    if let Ok(target) = Target::parse(&join_url(base, relative)) {
        let host = target.authority().host.clone();
        assert!(!host.is_empty() && !host.contains(['@', '/', '\\', ' ']), "{host:?}");
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            let _refusal = AddressPolicy::new(Vec::new()).refusal(address);
        }
    }
}

/// The records that workers write for each other.
pub fn health_records(input: &[u8]) {
    drop(StateRecord::parse(input));
    drop(parse_counts(input));
    drop(Delta::parse(input));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Feeds every file of a target's corpus, and each of its beginnings up to a bound, to its function.
    fn replay(target: &str, function: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut inputs = 0;
        for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let input = std::fs::read(file.unwrap().path()).unwrap();
            function(&input);
            (0..input.len().min(256)).for_each(|end| function(&input[..end]));
            inputs += 1;
        }
        assert!(inputs > 0, "{target} has a corpus");
    }

    #[test]
    fn every_corpus_holds() {
        replay("record_to_requests", record_to_requests);
        replay("patch", patch);
        replay("headers", headers);
        replay("urls", urls);
        replay("health_records", health_records);
    }
}
