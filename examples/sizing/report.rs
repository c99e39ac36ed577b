//! The plan as a page for people: what is needed, and by which arithmetic.

use std::fmt::Write as _;

use super::constants::CONNECTION_BYTES;
use super::model::{Load, Plan};

/// The page.
pub(crate) fn page(load: &Load, plan: &Plan) -> String {
    let mut text = String::new();
    for (name, value, says) in rows(plan) {
        // Writing into a string can't fail.
        let _infallible = writeln!(text, "{name:<32}{value:>12}  {says}");
    }
    if plan.workers_for_places > plan.workers_for_cores {
        let _infallible = writeln!(
            text,
            "\nPlaces for requests decide, not cores. With --max-in-flight {} cores would decide, with as many open files and {} a place more.",
            plan.max_in_flight_enough.ceil(),
            bytes(CONNECTION_BYTES),
        );
    }
    if load.dead > 0.0 {
        let dying = &plan.dying;
        let _infallible = writeln!(
            text,
            "\nWhen the dead die all at once: {} attempts a second for {}, until circuits are open or integrations are suspended;\n\
             then at most {} probes a second until an hour is over. The figures above hold for the worse of both.",
            number(dying.attempts),
            seconds(dying.opens_after),
            number(dying.probes)
        );
    }
    text
}

/// What is needed, how much of it, and why.
fn rows(plan: &Plan) -> Vec<(&'static str, String, String)> {
    let mut rows = vec![
        ("deliveries", format!("{}/s", number(plan.deliveries_per_second)), String::from("events × matches")),
        (
            "requests under way",
            number(plan.in_flight),
            String::from("attempts a second × their duration, the dead at the time-out"),
        ),
        ("cores that are busy", number(plan.cores), String::from("events and attempts × what each costs; plain HTTP")),
        (
            "workers",
            plan.workers.to_string(),
            format!(
                "{} for cores, {} for requests under way, and one for the loss of one",
                plan.workers_for_cores, plan.workers_for_places
            ),
        ),
        (
            "partitions of the events topic",
            plan.partitions.to_string(),
            String::from("at least: two a worker, so that workers can be added"),
        ),
        ("memory of a worker", bytes(plan.memory), String::from("at full speed, the table, a kept connection a host")),
        ("events topic", bytes(plan.events_bytes), String::from("with its copies")),
    ];
    let tiers = plan.tiers.iter().map(|tier| {
        let says = format!(
            "{} records/s that wait {} and are kept 72 h longer",
            number(tier.records_per_second),
            seconds(tier.delay)
        );
        ("retry tier", bytes(tier.bytes), says)
    });
    rows.extend(tiers);
    rows.extend([
        (
            "backlog topic",
            bytes(plan.backlog_bytes),
            String::from("at most: a place of each dead or slow webhook in each partition"),
        ),
        (
            "brokers write",
            format!("{}/s", bytes(plan.written_per_second)),
            String::from("events and retries, with their copies"),
        ),
        (
            "workers read",
            format!("{}/s", bytes(plan.read_per_second)),
            String::from("at most: events twice, where webhooks are behind in every partition"),
        ),
        ("after a crash", seconds(plan.failover), String::from("until nothing is late any more")),
        ("", number(plan.repeated), String::from("deliveries repeated, at most")),
        ("start of a worker", seconds(plan.bootstrap), String::from("to read the table")),
    ]);
    rows
}

/// With two digits that count below ten, whole above.
fn number(value: f64) -> String {
    if value > 0.0 && value < 0.001 {
        return String::from("<0.001");
    }
    let digits = if value == 0.0 || value >= 10.0 {
        0
    } else if value >= 0.1 {
        2
    } else {
        4
    };
    format!("{value:.digits$}")
}

fn bytes(value: f64) -> String {
    let units = [(1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", value / unit),
        None => format!("{value:.0} B"),
    }
}

fn seconds(value: f64) -> String {
    match value {
        value if value >= 3_600.0 => format!("{:.1} h", value / 3_600.0),
        value if value >= 120.0 => format!("{:.1} min", value / 60.0),
        value if value >= 1.0 => format!("{value:.1} s"),
        value => format!("{:.0} ms", value * 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_with_units_that_people_read() {
        assert_eq!([0.0, 1e-6, 0.02, 0.5, 9.99, 12.3].map(number), ["0", "<0.001", "0.0200", "0.50", "9.99", "12"]);
        assert_eq!([12.0, 2_500.0, 3e6, 7.26e9, 1.5e13].map(bytes), ["12 B", "2.5 kB", "3.0 MB", "7.3 GB", "15.0 TB"]);
        assert_eq!([0.25, 7.0, 120.0, 5_400.0].map(seconds), ["250 ms", "7.0 s", "2.0 min", "1.5 h"]);
    }
}
