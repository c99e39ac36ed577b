//! Holds by machine what ARCHITECTURE.md and CONTRIBUTING.md promise about the source: the arrows between rooms, the names that
//! only some rooms may use, the form of files, errors and logs, tests that depend on luck, and that the walk of one event names code that exists.
//!
//! Each rule is a function from one file to its violations; `samples` breaks each rule once.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "tests fail by panicking, in their helpers too, and the files' names are ours"
)]

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/luck.rs"]
mod luck;
#[path = "tidy/order.rs"]
mod order;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/samples.rs"]
mod samples;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/style.rs"]
mod style;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use source::Source;

/// Every Rust file of the repository's own, read once.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut sources = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        collect(Path::new(folder), &mut sources);
    }
    assert!(sources.len() > 150, "only {} files: the walk over them is broken", sources.len());
    sources
});

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::new(path.to_str().unwrap(), &fs::read_to_string(&path).unwrap()));
        }
    }
}

#[track_caller]
fn hold(rule: fn(&Source) -> Vec<String>) {
    let violations: Vec<String> = SOURCES
        .iter()
        .flat_map(|source| rule(source).into_iter().map(|what| format!("{}: {what}", source.path)))
        .collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn no_room_imports_one_that_is_above_it() {
    hold(rooms::arrows_up);
}

#[test]
fn every_room_has_a_layer_and_every_layer_its_rooms() {
    let found: Vec<String> = SOURCES.iter().filter_map(|source| source.room().map(str::to_owned)).collect();
    for room in &found {
        assert!(rooms::layer(room).is_some(), "src/{room} has no layer in tests/tidy/rooms.rs");
    }
    for room in rooms::LAYERS.iter().copied().flatten() {
        assert!(found.iter().any(|found| found == room), "{room} has a layer and no code");
    }
}

#[test]
fn a_file_uses_only_files_that_stand_after_it_in_the_list_of_their_folder() {
    let wrong = order::out_of_order(&SOURCES, order::CIRCLES);
    assert!(wrong.is_empty(), "{} files are out of order:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_file_stands_in_the_list_of_its_folder() {
    assert_eq!(order::not_listed(&SOURCES), [""; 0]);
}

#[test]
fn the_page_states_the_arrows_and_the_largest_room() {
    let stated =
        rooms::stated_sizes(&fs::read_to_string("ARCHITECTURE.md").unwrap()).expect("the page states the sizes");
    let found = rooms::sizes(&SOURCES);
    // Rounded numbers: the page changes when they do.
    let is_near = stated.arrows.abs_diff(found.arrows) <= 10 && stated.share.abs_diff(found.share) <= 2;
    let is_same = (stated.rooms, &stated.largest) == (found.rooms, &found.largest);
    assert!(is_near && is_same, "ARCHITECTURE.md states {stated:?}, and the source has {found:?}");
}

#[test]
fn only_their_rooms_name_the_client_libraries_the_environment_and_the_clock() {
    hold(rooms::names_of_others);
}

#[test]
fn one_file_makes_the_names_of_topics_and_groups() {
    hold(rooms::names_of_topics);
}

#[test]
fn every_file_opens_with_what_lives_in_it() {
    hold(style::no_module_docs);
}

#[test]
fn a_file_has_at_most_500_lines_before_its_tests() {
    hold(style::too_long);
}

#[test]
fn no_error_prints_its_cause_a_second_time() {
    hold(style::causes_printed_twice);
}

#[test]
fn a_log_text_is_a_fixed_phrase_that_starts_small_and_has_no_full_stop() {
    hold(style::bad_log_texts);
}

#[test]
fn an_error_has_kinds_and_is_not_a_text() {
    hold(style::texts_as_errors);
}

#[test]
fn no_function_takes_a_tuple() {
    hold(style::tuples_as_parameters);
}

#[test]
fn no_channel_is_unbounded() {
    hold(style::unbounded_channels);
}

#[test]
fn a_lint_is_silenced_only_by_an_expectation_with_a_reason() {
    hold(style::lints_without_reason);
}

#[test]
fn no_test_asserts_a_time_without_the_load_of_the_machine() {
    hold(luck::bounds_without_the_load);
}

#[test]
fn no_test_asserts_that_a_log_line_has_come_already() {
    hold(luck::log_lines_looked_for_once);
}

#[test]
fn every_test_holds_the_ports_that_it_chooses() {
    hold(luck::ports_that_are_not_held);
}

#[test]
fn comments_use_plain_words() {
    hold(style::words_to_avoid);
}

#[test]
fn documents_use_plain_words() {
    let mut violations = Vec::new();
    for path in documents::pages() {
        let text = fs::read_to_string(&path).unwrap();
        violations.extend(style::avoided_in(&text).map(|line| format!("{path}: {line}")));
    }
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn the_walk_of_one_event_goes_down_the_rooms_of_the_root() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let wrong = documents::steps_back(&page, &fs::read_to_string("src/lib.rs").unwrap());
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_walk_of_one_event_names_files_and_functions_that_exist() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let steps = documents::walk(&page);
    assert!(steps.len() >= 10, "only {} steps: {steps:?}", steps.len());
    let missing: Vec<_> = steps.iter().filter_map(|step| documents::missing(step, &SOURCES)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_page_about_reliability_names_tests_that_exist() {
    let page = fs::read_to_string("docs/reliability.md").unwrap();
    assert_eq!(documents::missing_tests(&page, &SOURCES), [""; 0]);
    let untrue = "`--test embedded no_test_has_this_name_at_all`, `hookstream_a_metric_of_five_parts`";
    assert_eq!(documents::missing_tests(untrue, &SOURCES), ["no_test_has_this_name_at_all"]);
}

#[test]
fn the_table_of_places_names_what_exists() {
    let page = fs::read_to_string("CONTRIBUTING.md").unwrap();
    assert_eq!(documents::wrong_places(&page), [""; 0]);
}

#[test]
fn the_table_of_rooms_has_every_room() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    for room in rooms::LAYERS.iter().copied().flatten() {
        let is_there = [format!("`{room}/`"), format!("`{room}.rs`")].iter().any(|name| page.contains(name));
        assert!(is_there, "ARCHITECTURE.md has no row for {room}");
    }
}

#[test]
fn the_table_of_rooms_goes_from_the_top_down() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    assert_eq!(documents::rooms_out_of_order(&page, rooms::layer), [""; 0]);
}

#[test]
fn the_table_of_rooms_has_the_order_of_the_root() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let root = Source::new("src/lib.rs", &fs::read_to_string("src/lib.rs").unwrap());
    let listed = order::list(&root);
    assert_eq!(documents::rooms_of_table(&page).filter(|room| listed.contains(room)).collect::<Vec<_>>(), listed);
}

#[test]
fn the_page_names_every_thread_of_a_worker() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    assert_eq!(documents::threads_left_out(&page, &fs::read_to_string("src/app/threads.rs").unwrap()), [""; 0]);
}
