//! The cost of counting: an attempt at its shard, and an integration and second at the worker that reports it and the owner that sums it.
//!
//! `cargo bench --bench health`. To compare with what a delivery costs, see the bench `delivery`.
#![expect(missing_docs, reason = "the group's macro makes a public function")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hookstream::internals::Collector;
use hookstream::internals::Integration;
use hookstream::internals::Tally;
use hookstream::internals::{Delta, DeltaBatch, counts_record, partition_of};
use hookstream::internals::{Outcome, Reason};
use hookstream::internals::{PartitionHealth, Reported, ReporterPosition, Rules};

/// Integrations that had attempts in a second.
const INTEGRATIONS: u64 = 1_000;
/// A second of 2026, ms since 1970.
const NOW_MS: i64 = 1_795_577_640_000;
const RULES: Rules =
    Rules { errors_window_s: 600, errors_min_attempts: 20, suspend_after_ms: 3_600_000, suspend_after_failures: 100 };

fn integrations() -> Vec<Arc<Integration>> {
    let key = |number: u64| format!("workspace/e01c765d-7c9b-491a-b5ea-{number:012}");
    let integration = |number| Integration::parse(&key(number), b"{}").expect("a record that can be used");
    (0..INTEGRATIONS).map(|number| Arc::new(integration(number))).collect()
}

/// One in fifty fails.
fn outcome(number: usize) -> Outcome {
    if number.is_multiple_of(50) { Outcome::failed(Reason::Timeout) } else { Outcome::Acknowledged }
}

fn counted(tally: &Tally, integrations: &[Arc<Integration>]) {
    for (number, integration) in integrations.iter().enumerate() {
        tally.count(0, integration, &outcome(number), NOW_MS);
    }
}

fn reports(integrations: &[Arc<Integration>]) -> Vec<DeltaBatch> {
    let tally = Tally::new(1);
    counted(&tally, integrations);
    let mut collector = Collector::new(&RULES);
    collector.collect(&tally, NOW_MS);
    let chunks = collector.take_chunks(NOW_MS, true, |key| Some(partition_of(key, 12))).into_iter();
    (1..)
        .zip(chunks)
        .map(|(sequence, (_, deltas))| DeltaBatch { reporter: ReporterPosition { process_id: 7, sequence }, deltas })
        .collect()
}

fn costs(criterion: &mut Criterion) {
    let integrations = integrations();
    let mut group = criterion.benchmark_group("health");

    let tally = Tally::new(1);
    let mut number = 0;
    group.bench_function("an attempt counted", |bench| {
        bench.iter(|| {
            number = (number + 1) % integrations.len();
            if let Some(integration) = integrations.get(number) {
                tally.count(0, black_box(integration), &outcome(number), NOW_MS);
            }
        });
    });

    group.throughput(Throughput::Elements(INTEGRATIONS));
    group.bench_function("1000 integrations reported", |bench| {
        let tally = Tally::new(1);
        let mut collector = Collector::new(&RULES);
        bench.iter_batched(
            || counted(&tally, &integrations),
            |()| {
                collector.collect(&tally, NOW_MS);
                let chunks = collector.take_chunks(NOW_MS, true, |key| Some(partition_of(key, 12))).into_iter();
                let report = |(_, deltas)| {
                    DeltaBatch { reporter: ReporterPosition { process_id: 7, sequence: 1 }, deltas }.record("host")
                };
                chunks.map(report).collect::<Vec<_>>()
            },
            BatchSize::PerIteration,
        );
    });

    let records: Vec<_> = reports(&integrations).iter().map(|report| report.record("host")).collect();
    group.bench_function("1000 integrations summed", |bench| {
        let mut book = PartitionHealth::default();
        let mut sequence = 0;
        bench.iter(|| {
            for record in &records {
                sequence += 1;
                let Ok(Delta::DeltaBatch(report)) = Delta::parse(record) else { continue };
                for (key, slots) in &report.deltas {
                    let process = ReporterPosition { process_id: 7, sequence };
                    let reported = Reported { reporter: process, key, slots };
                    book.count(sequence.cast_signed(), &reported, &RULES, NOW_MS);
                }
                book.skip(sequence.cast_signed());
            }
        });
    });

    let mut book = PartitionHealth::default();
    for report in reports(&integrations) {
        for (key, slots) in &report.deltas {
            let reported = Reported { reporter: report.reporter, key, slots };
            book.count(0, &reported, &RULES, NOW_MS);
        }
    }
    group.bench_function("1000 integrations persisted", |bench| {
        bench.iter(|| {
            let unwritten = book.unwritten(NOW_MS, 1_000);
            unwritten.iter().map(|(_, known)| counts_record(known)).collect::<Vec<_>>()
        });
    });
    group.finish();
}

criterion_group!(benches, costs);
criterion_main!(benches);
