//! The functions that fuzzing feeds with bytes. Each takes any input and must return, within a bound of time and memory. A panic in one
//! of them is a defect. Built for fuzzing and for tests only.
//!
//! `fuzz/` has a target for each function and a small corpus; the test below runs every corpus in each test run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::attempt_log::redaction::Secrets;
use crate::backlog::record::PlaceTable;
use crate::deliver::http_courier::HttpCourier;
use crate::deliver::piped::{self, Script};
use crate::deliver::request::{RequestTemplate, SignedRequest};
use crate::domain::event::Envelope;
use crate::domain::explain::EventWords;
use crate::domain::headers::Wire;
use crate::domain::integration::{Integration, join_url, parse_period};
use crate::domain::outcome::{Outcome, Reason, parse_retry_after};
use crate::domain::retry_schedule::{RetrySchedule, format_duration, parse_duration};
use crate::domain::table::Table;
use crate::domain::target::Target;
use crate::health::records::{Delta, StateRecord, parse_counts};
use crate::inflight::job::{Delivery, Event, Origin};
use crate::inflight::pressure::Pressure;
use crate::inflight::settled_runs::{ClusterTag, TEXT_MAX, decode, encode};
use crate::net::address::AddressPolicy;
use crate::readers::attempts::Attempt;
use crate::registration::http::Tokens;
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
    if let Some(request) = signed(integration, webhook) {
        drop(request.request());
    }
}

/// One for all inputs.
static PRESSURE: LazyLock<&'static Pressure> = LazyLock::new(|| Pressure::new(usize::MAX));

/// The first attempt of one event. `None` where the webhook can't be sent anything.
fn signed(integration: &Arc<Integration>, webhook: usize) -> Option<SignedRequest> {
    let template = RequestTemplate::new(integration, webhook).ok()?;
    let origin = Origin { topic: "events".into(), partition: 0, offset: 0 };
    let event = Event::new(Bytes::from_static(b"{}"), origin, 0, None, PRESSURE.hold(2));
    let delivery = Delivery::alone(Arc::new(event), Arc::clone(integration), webhook, "delivery".into());
    Some(SignedRequest::new(&Arc::new(template), &delivery, 1, &mut StdRng::seed_from_u64(0)))
}

/// An event. Where a worker can deliver it, `explain` can describe it.
///
/// # Panics
/// On a defect.
pub fn events(input: &[u8]) {
    let envelope = Envelope::parse(input);
    assert_eq!(envelope, Envelope::parse_by_library(input), "both parsers read the same");
    let Ok(envelope) = envelope else { return };
    let words = EventWords::parse(input, &envelope);
    assert!(words.is_ok_and(|words| !words.entities.is_empty()), "an event has words");
}

/// Replaced in an answer by the request's token.
const ECHO: &[u8] = b"{echo}";

/// How a receiver sends, in one byte, and its answer, in which `{echo}` is replaced by the request's token: read by the HTTP library over a
/// pipe. Only an answer with status 200 and the token in it acknowledges.
///
/// # Panics
/// On a defect.
pub fn answers(input: &[u8]) {
    /// One courier a thread: making it takes longer than an exchange.
    struct Sender {
        courier: HttpCourier,
        integration: Arc<Integration>,
    }
    thread_local! {
        static SENDER: Option<Sender> = {
            let record = br#"{"baseUrl":"http://127.0.0.1","webHooks":[{"id":"w","relativeUrl":"/","triggerType":"entityEvent","filter":{"items":[{}]}}]}"#;
            let integration = Integration::parse("workspace/integration", record).ok().map(Arc::new);
            piped::courier().zip(integration).map(|(courier, integration)| Sender { courier, integration })
        };
    }
    let Some((how, answer)) = input.split_first() else { return };
    SENDER.with(|sender| {
        let sender = sender.as_ref().expect("a courier and a webhook");
        let request = signed(&sender.integration, 0).expect("a request");
        let answer = with_token(answer, request.token());
        let chunk = match how & 3 {
            0 => 1,
            1 => 7,
            2 => 512,
            _ => 64 * 1024,
        };
        let script = Script { bytes: &answer, chunk, speaks_first: how & 4 != 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (exchange, body) = runtime.block_on(piped::exchange(&sender.courier, &request, script));
        assert!(body.len() <= 1024, "{} bytes are kept", body.len());
        match exchange.outcome {
            Outcome::Acknowledged => {
                for needed in [request.token(), b" 200"] {
                    assert!(memchr::memmem::find(&answer, needed).is_some(), "acknowledged without {needed:?}");
                }
            }
            Outcome::Failed { reason, .. } => {
                assert!(reason != Reason::Timeout, "a receiver that hung up is waited for");
            }
        }
    });
}

fn with_token(answer: &[u8], token: &[u8]) -> Vec<u8> {
    let (mut whole, mut from) = (Vec::new(), 0);
    for at in memchr::memmem::find_iter(answer, ECHO) {
        whole.extend_from_slice(answer.get(from..at).unwrap_or_default());
        whole.extend_from_slice(token);
        from = at + ECHO.len();
    }
    whole.extend_from_slice(answer.get(from..).unwrap_or_default());
    whole
}

/// A secret, then an answer that may repeat it: what is kept of the answer does not.
///
/// # Panics
/// On a defect.
pub fn masks(input: &[u8]) {
    let (secret, answer) = parts(input);
    let (Ok(secret), Ok(answer)) = (std::str::from_utf8(secret), std::str::from_utf8(answer)) else { return };
    let masked = Secrets::of([secret].into_iter()).masked(answer);
    // Shorter ones are words like any other; other characters may be part of the mask or of what surrounds it.
    if secret.len() >= 6 && secret.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        assert!(!masked.contains(secret), "{masked:?} holds the secret");
    }
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

/// The headers of a record in a retry tier: names and values in turn, each ended by the separator.
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

/// A period, a duration, a retry schedule and a `Retry-After`, all of the same text.
///
/// # Panics
/// On a defect.
pub fn periods(input: &[u8]) {
    let asked = parse_retry_after(503, Some(input), SystemTime::UNIX_EPOCH);
    assert!(asked.is_none_or(|asked| asked <= Duration::from_secs(1_000_000)));
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(period) = parse_period(text) {
        assert!(period >= Duration::from_secs(10), "{period:?}");
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
    if let Ok(schedule) = RetrySchedule::parse(text) {
        let delays: Vec<_> = schedule.delays().iter().map(ToString::to_string).collect();
        assert_eq!(RetrySchedule::parse(&delays.join(",")), Ok(schedule));
    }
}

/// An address of 16 bytes, then ranges that an operator allows: to allow more refuses nothing more, and an IPv4 address inside an IPv6
/// one is judged as itself.
///
/// # Panics
/// On a defect.
pub fn addresses(input: &[u8]) {
    let Some((octets, ranges)) = input.split_first_chunk::<16>() else { return };
    let strict = AddressPolicy::default();
    let ranges = ranges.split(|byte| *byte == SEPARATOR).filter_map(|range| std::str::from_utf8(range).ok());
    let lenient = AddressPolicy::new(ranges.filter_map(|range| range.parse().ok()).collect());
    let [.., a, b, c, d] = *octets;
    let inside = Ipv4Addr::new(a, b, c, d);
    for address in [IpAddr::V6(Ipv6Addr::from(*octets)), IpAddr::V4(inside)] {
        assert!(strict.refusal(address).is_some() || lenient.refusal(address).is_none(), "{address}");
    }
    let nat64 = Ipv6Addr::from(
        [&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0], &inside.octets()[..]].concat().try_into().unwrap_or([0; 16]),
    );
    for outer in [inside.to_ipv6_mapped(), nat64] {
        assert_eq!(strict.refusal(outer.into()), strict.refusal(inside.into()), "{outer}");
    }
}

/// A tokens file: a token has rights only where a line of it says so.
///
/// # Panics
/// On a defect.
pub fn tokens(input: &[u8]) {
    const UNNAMED: &str = "no-line-names-this-workspace";
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(tokens) = Tokens::of(text) else { return };
    let granted = |token: &str| {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        tokens.grant(&HeaderMap::from_iter([(http::header::AUTHORIZATION, bearer)]))
    };
    assert!(granted("no-line-has-this-token-0123456789").is_none() || text.contains("no-line-has-this-token"));
    for token in text.lines().filter_map(|line| line.split_whitespace().next()).take(8) {
        if let Some(grant) = granted(token) {
            let rights = grant.rights(UNNAMED).to_string();
            assert!(rights.is_empty() || grant.covers_every() || text.contains(UNNAMED), "{rights}");
        }
    }
}

/// Keys and values of the backlog topic in turn: a place that was read is written and read again.
///
/// # Panics
/// On a defect.
pub fn backlog_records(input: &[u8]) {
    let mut words = input.split(|byte| *byte == SEPARATOR);
    let mut table = PlaceTable::default();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let value = (!value.is_empty()).then_some(value);
        let _is_a_place = table.take(key, value, None).is_ok();
    }
    for place in table.places() {
        assert!(PlaceTable::default().take(b"key", Some(place.value().as_bytes()), None).is_ok(), "{place:?}");
    }
}

/// An offset of 8 bytes, then what follows the head of a commit's metadata: runs in order and beyond the offset, which are written and
/// read as no more than they are.
///
/// # Panics
/// On a defect.
pub fn commit_metadata(input: &[u8]) {
    let Some((base, rest)) = input.split_first_chunk::<8>() else { return };
    // Offsets are not negative; beyond this a run has no room.
    let base = i64::from_le_bytes(*base) & (i64::MAX >> 1);
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let tag = ClusterTag::of("cluster");
    let own = encode(tag, base, std::slice::from_ref(&(base + 1..base + 2)), TEXT_MAX);
    let head: String = own.split_inclusive('.').take(3).collect();
    let runs = decode(tag, base, &(head + rest));
    let mut whole: Vec<std::ops::Range<i64>> = Vec::new();
    for run in &runs {
        let before = whole.last().map_or(base, |before| before.end);
        assert!(before <= run.start && run.start < run.end, "{runs:?} beyond {base}");
        match whole.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => whole.push(run.clone()),
        }
    }
    for run in decode(tag, base, &encode(tag, base, &runs, TEXT_MAX)) {
        let is_in = whole.iter().any(|of| of.start <= run.start && run.end <= of.end);
        assert!(is_in, "{run:?} is not in {runs:?}");
    }
}

/// A record of the attempt log, its key first.
pub fn attempt_records(input: &[u8]) {
    let (key, value) = parts(input);
    drop(Attempt::parse(key, value));
}

/// Records that one worker writes and another reads.
pub fn health_records(input: &[u8]) {
    drop(StateRecord::parse(input));
    drop(parse_counts(input));
    drop(Delta::parse(input));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 14] = [
        ("addresses", addresses),
        ("answers", answers),
        ("attempt_records", attempt_records),
        ("backlog_records", backlog_records),
        ("commit_metadata", commit_metadata),
        ("events", events),
        ("headers", headers),
        ("health_records", health_records),
        ("masks", masks),
        ("patch", patch),
        ("periods", periods),
        ("record_to_requests", record_to_requests),
        ("tokens", tokens),
        ("urls", urls),
    ];

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Feeds every file of a target's corpus, and each of its beginnings up to a bound, to its function.
    #[test]
    fn every_corpus_holds() {
        for (target, function) in TARGETS {
            let files = entries(&folder("corpus").join(target));
            assert!(!files.is_empty(), "{target} has a corpus");
            for file in files {
                let input = std::fs::read(file).unwrap();
                function(&input);
                (0..input.len().min(256)).for_each(|end| function(&input[..end]));
            }
        }
    }

    #[test]
    fn every_target_of_the_fuzzer_has_a_function_here_and_a_corpus() {
        let named = |folder: &Path| -> BTreeSet<String> {
            entries(folder).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let here = BTreeSet::from(TARGETS.map(|(target, _)| target.to_owned()));
        assert_eq!(named(&folder("fuzz_targets")), here);
        assert_eq!(named(&folder("corpus")), here);
    }
}
