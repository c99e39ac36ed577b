//! Holds the program's names against docs/contract.md, which other people's programs rely on word for word: subcommands,
//! options with their defaults, headers, topics, metrics and reason words. What the names do is held by the other tests.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, in their helpers too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// Between the heading that starts with `begin` and the next one.
fn section(begin: &str) -> String {
    let page = fs::read_to_string("docs/contract.md").unwrap();
    let (_, after) = page.split_once(&format!("\n## {begin}")).unwrap_or_else(|| panic!("no section {begin}"));
    after.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The words in backticks of a text.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The cells of the rows of a section's tables.
fn rows(section: &str) -> Vec<Vec<String>> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hookstream")).arg("help").args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below a folder, as one text.
fn sources(folder: &str) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            text.push_str(&sources(entry.to_str().unwrap()));
        } else {
            text.push_str(&fs::read_to_string(entry).unwrap());
        }
    }
    text
}

/// The defaults of every option, by name, as the help of any subcommand has them.
fn defaults_in_help() -> BTreeMap<String, Vec<String>> {
    let mut defaults = BTreeMap::<String, Vec<String>>::new();
    for line in help(&[]).lines().filter_map(|line| line.strip_prefix("  ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let family = matches!(words[..], ["topics" | "dead-letters" | "completions", ..]);
        let mut name = None;
        for line in help(&words[..if family { 2.min(words.len()) } else { 1 }]).lines() {
            // An option begins a line; in the words about another it stands further right.
            if let Some(option) = line.strip_prefix("  --") {
                name = option.split_whitespace().next().map(str::to_owned);
            }
            let default = line.split_once('[').and_then(|(_, rest)| rest.split_once("; HOOKSTREAM_"));
            if let (Some(name), Some((default, _))) = (&name, default) {
                let default = default.strip_prefix("default ").unwrap_or(default);
                defaults.entry(name.clone()).or_default().push(default.to_owned());
            }
        }
    }
    assert!(defaults.len() > 40, "the help was not understood: {defaults:?}");
    defaults
}

#[test]
fn every_subcommand_of_the_contract_is_in_the_help() {
    let help = help(&[]);
    for row in rows(&section("1. ")).iter().filter(|row| !row[0].starts_with("`--")) {
        for name in quoted(&row[0]) {
            let last = name.split(' ').next_back().unwrap();
            assert!(help.contains(&name) || help.contains(&format!("dead-letters {last}")), "help has no {name}");
        }
    }
}

#[test]
fn every_option_of_the_contract_has_its_default() {
    let defaults = defaults_in_help();
    let table = rows(&section("1. "));
    let options: Vec<_> = table.iter().filter(|row| row[0].starts_with("`--")).collect();
    assert!(options.len() > 25, "{options:?}");
    for row in options {
        let expected: Vec<_> = if row[1] == "none" { vec!["none".to_owned()] } else { quoted(&row[1]) };
        for (index, name) in quoted(&row[0]).iter().enumerate() {
            let name = name.trim_start_matches("--").split(' ').next().unwrap().to_owned();
            let wanted = expected.get(index).or(expected.first()).unwrap();
            let found = defaults.get(&name).unwrap_or_else(|| panic!("no option --{name}"));
            assert!(found.contains(wanted), "--{name} has the defaults {found:?}, not {wanted}");
        }
    }
}

#[test]
fn every_header_of_the_contract_is_in_the_source() {
    let (request, records) = (sources("src/deliver"), sources("src/domain"));
    for row in rows(&section("4. ")) {
        let name = quoted(&row[0])[0].to_ascii_lowercase();
        let source = request.to_ascii_lowercase();
        assert!(name.starts_with("webhook.header.") || source.contains(&format!("\"{name}\"")), "no header {name}");
    }
    let (_, headers) = section("6. ").split_once("Headers (text)").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let names: Vec<_> = quoted(&headers).into_iter().filter(|name| name.starts_with("hookstream-")).collect();
    assert_eq!(names.len(), 9, "{names:?}");
    for name in names.iter().map(String::as_str).chain(["hookstream-reason", "workspace"]) {
        assert!(records.contains(&format!("\"{name}\"")), "no header {name}");
    }
}

#[test]
fn every_reason_word_of_the_contract_is_in_the_source() {
    let source = sources("src/domain");
    let requests = section("4. ");
    let (_, words) = requests.split_once("reason word:").unwrap();
    let failed: Vec<_> = quoted(words).into_iter().take(10).collect();
    assert_eq!(failed.last().map(String::as_str), Some("protocol"));
    let dead = section("7. ");
    let (_, words) = dead.split_once("and `hookstream-reason`:").unwrap();
    let dead: Vec<_> = quoted(words).into_iter().take(4).collect();
    assert_eq!(dead, ["exhausted", "invalid-event", "suspended", "too-large"]);
    for word in failed.iter().chain(&dead).map(String::as_str).chain(["integration-inactive", "expired"]) {
        assert!(source.contains(&format!("\"{word}\"")), "no reason {word}");
    }
}

#[test]
fn every_metric_of_the_contract_is_registered_and_on_the_page() {
    let source = sources("src/telemetry/metrics");
    let page = fs::read_to_string("docs/metrics.md").unwrap();
    let text = section("12. ");
    let (_, list) = text.split_once("At least:").unwrap();
    let names: Vec<_> = quoted(list).iter().map(|name| name.split('{').next().unwrap().to_owned()).collect();
    assert!(names.len() >= 20, "{names:?}");
    for name in names.iter().filter(|name| *name != "process_*") {
        assert!(source.contains(&format!("\"{name}\"")), "no metric {name}");
        assert!(page.contains(name.as_str()), "docs/metrics.md has no {name}");
    }
}
