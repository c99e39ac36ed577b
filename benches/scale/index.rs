//! The index alone, in this process: parsing a record, and finding the webhooks of an event.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use hookstream::internals::Envelope;
use hookstream::internals::Integration;
use hookstream::internals::Table;
use rand::{Rng as _, SeedableRng as _};

use super::common::figures::Figure;
use super::common::integrations::{Population, event, workspace};

/// Look-ups of one round: each workspace comes several times, in no order.
const LOOK_UPS: usize = 500_000;

pub(crate) fn measure(population: Population, rounds: usize) -> Vec<Figure> {
    let mut parse = Figure::new("parse and put, a webhook, one thread", "ns", "", "");
    let mut settle = Figure::new("index, a webhook, one thread", "ns", "", "");
    let table = build(population, &mut parse, &mut settle);
    let mut found = Figure::new("match, random workspaces, cold", "ns", "500", "200");
    let mut missed = Figure::new("match, workspaces without integrations", "ns", "", "");
    for _ in 0..rounds {
        found.rounds.push(resolve_target(&table, population, 0));
        missed.rounds.push(resolve_target(&table, population, population.workspaces));
    }
    drop(table);
    let few = Population { workspaces: population.workspaces.div_ceil(100), ..population };
    let table = build(few, &mut parse, &mut settle);
    let mut crowded = Figure::new("match, a hundred times as many webhooks a workspace", "ns", "", "");
    crowded.rounds.extend((0..rounds).map(|_| resolve_target(&table, few, 0)));
    vec![found, missed, crowded, parse, settle]
}

fn build(population: Population, parse: &mut Figure, settle: &mut Figure) -> Table {
    let records: Vec<_> = population.records().collect();
    let bytes: usize = records.iter().map(|(_, value)| value.len()).sum();
    eprintln!("{} records of {} bytes on average", records.len(), bytes / records.len());
    let mut table = Table::default();
    let began = thread_cpu();
    for (key, value) in &records {
        let integration = Integration::parse(key, value.as_bytes()).expect("a usable record");
        table.put(Arc::new(integration));
    }
    let parsed = thread_cpu();
    table.settle();
    let settled = thread_cpu();
    parse.rounds.push((parsed - began).as_secs_f64() * 1e9 / population.webhooks as f64);
    settle.rounds.push((settled - parsed).as_secs_f64() * 1e9 / population.webhooks as f64);
    table
}

/// Processor time of this thread: others share the machine.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.expect("the kernel accounts for threads"))
}

/// ns a look-up, of workspaces whose number is `first` or more.
fn resolve_target(table: &Table, population: Population, first: usize) -> f64 {
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let events: Vec<_> = (0..64).map(|number| event(number, ["company", "deal", "note"][number % 3], 300)).collect();
    let envelopes: Vec<_> = events.iter().map(|event| Envelope::parse(event.as_bytes()).expect("an event")).collect();
    let questions: Vec<_> = (0..LOOK_UPS)
        .map(|number| (workspace(first + random.random_range(0..population.workspaces)), number % envelopes.len()))
        .collect();
    let mut matches = 0_usize;
    let began = thread_cpu();
    for (workspace, envelope) in &questions {
        table.matching(workspace, &envelopes[*envelope].facts(), |integration, webhook| {
            matches += 1;
            black_box((Arc::as_ptr(integration), webhook));
        });
    }
    let took = thread_cpu() - began;
    eprintln!("{:.2} matches a look-up", matches as f64 / LOOK_UPS as f64);
    took.as_secs_f64() * 1e9 / LOOK_UPS as f64
}
