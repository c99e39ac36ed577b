//! Medians and percentiles, the table on stdout and the JSON file.

use std::path::Path;

/// The median of some rounds.
pub(crate) fn median(rounds: &[f64]) -> f64 {
    percentile(rounds, 0.5)
}

/// The smallest value that `share` of all do not exceed.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// One line of the report: rounds of one figure, in `unit`.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) rounds: Vec<f64>,
    pub(crate) must: &'static str,
    pub(crate) aim: &'static str,
}

impl Figure {
    pub(crate) fn new(name: &str, unit: &'static str, must: &'static str, aim: &'static str) -> Self {
        Self { name: name.to_owned(), unit, rounds: Vec::new(), must, aim }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.rounds)
    }
}

/// Prints the figures and writes them to `<name>.json` beside the target's other temporary files.
pub(crate) fn report(name: &str, setting: &str, figures: &[Figure]) {
    println!("\n{setting}\n");
    println!("| figure | measured (median) | rounds | must | aim |");
    println!("| --- | ---: | --- | ---: | ---: |");
    for figure in figures {
        let rounds: Vec<_> = figure.rounds.iter().map(|round| shown(*round)).collect();
        println!(
            "| {} | {} {} | {} | {} | {} |",
            figure.name,
            shown(figure.median()),
            figure.unit,
            rounds.join(", "),
            figure.must,
            figure.aim
        );
    }
    let json = figures.iter().map(|figure| {
        serde_json::json!({ "name": figure.name, "unit": figure.unit, "rounds": figure.rounds, "median": figure.median() })
    });
    let json = serde_json::json!({ "setting": setting, "figures": json.collect::<Vec<_>>() });
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    match std::fs::write(&path, format!("{json:#}\n")) {
        Ok(()) => eprintln!("written: {}", path.display()),
        Err(error) => eprintln!("{}: {error}", path.display()),
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
