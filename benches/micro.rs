//! The parts of a delivery one by one: parse, match, sign, the offset tracker, the order queue.
//!
//! `cargo bench --bench micro`
#![expect(missing_docs, reason = "what criterion's macros make")]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic with a clear text, and its numbers are small"
)]

#[path = "common/integrations.rs"]
mod integrations;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookstream::internals::Envelope;
use hookstream::internals::Integration;
use hookstream::internals::OffsetTracker;
use hookstream::internals::OrderedQueue;
use hookstream::internals::Table;
use integrations::{Population, event, workspace};

/// Small enough to be made in a moment; `benches/scale` has the million.
const POPULATION: Population = Population { webhooks: 10_000, integrations: 1_000, workspaces: 1_000 };

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse an event");
    for size in [512, 1024, 4096, 16_384] {
        let events: Vec<_> = (0..64).map(|number| event(number, "company", size)).collect();
        let mut next = events.iter().cycle();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let event = next.next().unwrap_or_else(|| panic!("a cycle never ends"));
                black_box(Envelope::parse(event.as_bytes())).is_ok()
            });
        });
    }
    group.finish();
    let (key, value) = POPULATION.records().next().unwrap_or_else(|| panic!("there is a record"));
    criterion.bench_function("parse an integration of ten webhooks", |bencher| {
        bencher.iter(|| black_box(Integration::parse(&key, value.as_bytes())).is_ok());
    });
}

fn matching(criterion: &mut Criterion) {
    let mut table = Table::default();
    for (key, value) in POPULATION.records() {
        let integration = Integration::parse(&key, value.as_bytes()).unwrap_or_else(|error| panic!("{key}: {error}"));
        table.put(Arc::new(integration));
    }
    table.settle();
    let event = event(1, "company", 512);
    let envelope = Envelope::parse(event.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let workspaces: Vec<_> = (0..POPULATION.workspaces).map(workspace).collect();
    let mut next = workspaces.iter().cycle();
    criterion.bench_function("match among 10,000 webhooks", |bencher| {
        bencher.iter(|| {
            let mut found = 0;
            let workspace = next.next().unwrap_or_else(|| panic!("a cycle never ends"));
            table.matching(workspace, &envelope.facts(), |_, webhook| found += webhook);
            found
        });
    });
}

fn sign(criterion: &mut Criterion) {
    let value = br#"{"secrets":[{"id":"webhook.signingSecret","value":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]}"#;
    let signer = Integration::parse("w/i", value).unwrap_or_else(|error| panic!("{error}")).signer();
    let mut group = criterion.benchmark_group("sign");
    for size in [512, 1024, 4096, 16_384] {
        let body = vec![b'x'; size];
        let mut text = String::with_capacity(64);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                text.clear();
                signer.sign("msg_0123456789abcdef0123456789abcdef", 1_700_000_000, &body, &mut text);
                black_box(text.len())
            });
        });
    }
    group.finish();
}

fn tracker(criterion: &mut Criterion) {
    criterion.bench_function("track 1,024 offsets, settled in reverse", |bencher| {
        bencher.iter_batched(
            OffsetTracker::default,
            |mut tracker| {
                let sequences: Vec<_> = (0..1024).map(|offset| tracker.admit(offset)).collect();
                for sequence in sequences.into_iter().rev() {
                    tracker.settle(sequence);
                }
                tracker.committable()
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("track 1,024 offsets that match nothing", |bencher| {
        bencher.iter(|| {
            let mut tracker = OffsetTracker::default();
            (0..1024).for_each(|offset| tracker.admit_settled(offset));
            tracker.committable()
        });
    });
}

fn order(criterion: &mut Criterion) {
    for (name, entities) in [("1,024 entities", 1024), ("16 entities", 16)] {
        criterion.bench_function(&format!("order 1,024 deliveries about {name}"), |bencher| {
            let mut queue = OrderedQueue::default();
            bencher.iter(|| {
                for number in 0..1024_u64 {
                    queue.push(number, [Some(number % entities), None]);
                }
                let mut sum = 0;
                while let Some((place, number)) = queue.pop() {
                    sum += number;
                    queue.finish(place);
                }
                sum
            });
        });
    }
}

criterion_group!(parts, parse, matching, sign, tracker, order);
criterion_main!(parts);
