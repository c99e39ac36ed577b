//! The rules themselves under test: a small sample breaks each of them, and its good twin breaks none.

use crate::documents::{Step, missing, rooms_out_of_order, steps_back, threads_left_out, walk, wrong_places};
use crate::order::{self, Circle};
use crate::source::Source;
use crate::{luck, rooms, style};

#[track_caller]
fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
    let violations = rule(&Source::new(path, text));
    assert_eq!(violations.len(), expected.len(), "{text}: {violations:?}");
    for (violation, part) in violations.iter().zip(expected) {
        assert!(violation.contains(part), "{violation} does not say {part}");
    }
}

#[test]
fn an_arrow_up_is_found_in_every_spelling() {
    let up = |text, expected: &[&str]| check(rooms::arrows_up, "src/domain/x.rs", text, expected);
    up("use crate::kafka::client;", &["imports kafka"]);
    up("use crate::{kafka::client, clock};", &["imports kafka"]);
    up("fn f() { crate::settings::parse() }", &["imports settings"]);
    up("fn f() { tracing::info!(a = crate::net::A, \"x\") }", &["imports net"]);
    up("#[cfg(test)] mod tests { use crate::deliver::order::A; }", &["imports deliver"]);
    up("use crate::clock::now; use crate::domain::event; // use crate::kafka\n", &[]);
    up("use super::super::settings::A;", &["imports settings"]);
    up("use super::settings::A; use super::super::x::A;", &[]);
    check(rooms::arrows_up, "src/domain/mod.rs", "use super::{clock, kafka::A};", &["imports kafka"]);
    check(rooms::arrows_up, "src/domain/x/y.rs", "use super::super::kafka::A;", &[]);
    check(rooms::arrows_up, "src/intake/x.rs", "use crate::readers::a;", &["imports readers"]);
    check(rooms::arrows_up, "src/kafka/x.rs", "use crate::{domain::{a, b}, telemetry::{c, d}};", &[]);
}

#[test]
fn a_file_that_uses_one_before_it_is_found_in_every_spelling() {
    let found = |text: &str| {
        let sources = [
            Source::new("src/lib.rs", "mod net;\nmod clock;"),
            Source::new("src/net/mod.rs", "pub(crate) mod a;\nmod b;\n#[cfg(test)]\npub(crate) mod lab;\nmod c;"),
            Source::new("src/net/b.rs", text),
            Source::new("src/net/c/d.rs", "fn f() { super::super::c::g() }"),
            Source::new("src/net/c/mod.rs", "#[cfg(test)]\nmod lab;"),
            Source::new("src/net/c/lab.rs", "use crate::net::a::A;"),
        ];
        order::out_of_order(&sources, &[])
    };
    for text in [
        "use super::a::A;",
        "use super::{c, a::A};",
        "use crate::net::{c::{C, D}, a};",
        "fn f() { crate::net::a::g() }",
        "pub(crate) use self::super::a::A;",
        "mod inner { use crate::clock; } use super::a;",
    ] {
        assert_eq!(found(text), ["src/net: b uses a, which stands before it"], "{text}");
    }
    for text in
        ["use super::c::C;", "use crate::clock;", "use super::lab;", "mod tests { use crate::net::a::A; }", "use a::A;"]
    {
        assert_eq!(found(text), [""; 0], "{text}");
    }
    let rooms = [Source::new("src/lib.rs", "mod net;\nmod clock;"), Source::new("src/clock.rs", "use crate::net::A;")];
    assert_eq!(order::out_of_order(&rooms, &[]), ["src/: clock uses net, which stands before it"]);
}

#[test]
fn files_that_use_each_other_stand_side_by_side_as_long_as_they_do() {
    let found = |list: &str, of_c: &str| {
        let sources = [
            Source::new("src/net/mod.rs", list),
            Source::new("src/net/a.rs", "use super::c;"),
            Source::new("src/net/c.rs", of_c),
        ];
        order::out_of_order(&sources, &[Circle { folder: "src/net", files: &["a", "c"] }])
    };
    assert_eq!(found("mod b; mod a; mod c;", "use super::a;"), [""; 0]);
    assert_eq!(found("mod a; mod b; mod c;", "use super::a;"), ["src/net: [\"a\", \"c\"] do not stand side by side"]);
    assert_eq!(found("mod a; mod c; mod b;", "use super::b;"), ["src/net: [\"a\", \"c\"] is not a circle any more"]);
    let gone = [Circle { folder: "src/gone", files: &["a"] }];
    assert_eq!(order::out_of_order(&[], &gone), ["src/gone is not a folder"]);
}

#[test]
fn a_file_that_stands_in_no_list_or_in_two_is_found() {
    let sources = [
        Source::new("src/lib.rs", "mod net;\nmod clock;\n#[cfg(test)]\nmod lab;\nmod clock;"),
        Source::new("src/net/mod.rs", "mod a;"),
        Source::new("src/net/a.rs", ""),
        Source::new("src/net/b.rs", ""),
        Source::new("src/clock.rs", ""),
        Source::new("src/lab.rs", ""),
        Source::new("src/lab_tests.rs", ""),
    ];
    let wrong = ["src/net/b.rs", "src/clock.rs"].map(|path| format!("{path} does not stand in exactly one list"));
    assert_eq!(order::not_listed(&sources), wrong);
}

#[test]
fn the_sizes_of_the_page_and_of_the_source_are_read() {
    let page = "the largest room, `domain/`, had 26 %. Now there are some 120 arrows\nbetween 21 rooms, and the largest room, `kafka/`, has 17 %.";
    let sizes = rooms::Sizes { rooms: 21, arrows: 120, largest: "kafka".to_owned(), share: 17 };
    assert_eq!(rooms::stated_sizes(&page.replace('\n', " ")), Some(sizes));
    let source = |path, text: &str| Source::new(path, text);
    let sources = [
        source("src/kafka/a.rs", "use crate::domain::A;\nuse crate::domain::B;\nuse crate::kafka::C;"),
        source("src/domain/a.rs", "use crate::clock::A;"),
        source("src/lib.rs", "use crate::domain::A;"),
        source("tests/a.rs", "use crate::kafka::A;"),
    ];
    let sizes = rooms::Sizes { rooms: 2, arrows: 2, largest: "kafka".to_owned(), share: 60 };
    assert_eq!(rooms::sizes(&sources), sizes);
}

#[test]
fn reserved_names_are_found_outside_of_their_rooms() {
    let found = |path, text, expected: &[&str]| check(rooms::names_of_others, path, text, expected);
    found("src/app/x.rs", "use rdkafka::error::KafkaError;", &["the Kafka client"]);
    found("src/app/x.rs", "use hyper::Request;", &["the HTTP library"]);
    found("src/kafka/x.rs", "use rdkafka::error::KafkaError;", &[]);
    found("src/app/x.rs", "fn f() { std::env::var_os(\"A\"); }", &["the environment"]);
    found("src/app/x.rs", "fn f() { std::time::SystemTime::now(); }", &["the wall clock"]);
    found("src/clock.rs", "fn f() { std::time::SystemTime::now(); }", &[]);
    found("src/domain/x.rs", "use tokio::time;", &["is pure and names tokio"]);
    found("src/domain/x.rs", "fn f() { tracing::info!(\"a\") }", &["is pure and names tracing"]);
    found("tests/x.rs", "use rdkafka::error::KafkaError;", &[]);
}

#[test]
fn a_derived_name_of_a_topic_is_found_outside_of_its_file() {
    let found = |path, text, expected: &[&str]| check(rooms::names_of_topics, path, text, expected);
    found("src/app/x.rs", "fn f() { format!(\"{}.deltas\", a) }", &["{}.deltas"]);
    found("src/app/x.rs", "fn f() { format!(\"{prefix}.{tier}\") }", &["{prefix}.{tier}"]);
    found("src/app/x.rs", "fn f() { format!(\"{group}-retry\") }", &["{group}-retry"]);
    found("src/app/x.rs", "fn f() { format!(\"{a}-retry of\"); g(\"-retry\") }", &[]);
    found("src/domain/topic_names.rs", "fn f() { format!(\"{group}-retry\") }", &[]);
}

#[test]
fn a_file_without_docs_or_with_too_many_lines_is_found() {
    check(style::no_module_docs, "src/x.rs", "use a;", &["//!"]);
    check(style::no_module_docs, "src/x.rs", "//! What.\nuse a;", &[]);
    let long = "\n".repeat(501);
    check(style::too_long, "src/x.rs", &long, &["501 lines"]);
    check(style::too_long, "src/x.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{long}}}", "\n".repeat(500)), &[]);
}

#[test]
fn a_cause_that_is_printed_twice_is_found_in_every_form() {
    let found = |text, expected: &[&str]| check(style::causes_printed_twice, "src/x.rs", text, expected);
    found("enum E { #[error(\"a: {source}\")] A { source: io::Error } }", &["A prints {source}"]);
    found("enum E { #[error(\"a: {why}\")] A { #[source] why: io::Error } }", &["A prints {why}"]);
    found("enum E { #[error(\"a: {0}\")] A(#[from] io::Error) }", &["A prints {0}"]);
    found("enum E { #[error(\"a {1}: {0:?}\")] A(#[source] io::Error, u8) }", &["A prints {0}"]);
    found("#[error(\"a: {0}\")] struct S(#[source] io::Error);", &["S prints {0}"]);
    found("enum E { #[error(\"a: {0}\")] A(String), #[error(\"b\")] B { source: io::Error } }", &[]);
    found("enum E { #[error(transparent)] A(#[from] io::Error) }", &[]);
}

#[test]
fn a_bad_log_text_is_found_over_several_lines() {
    let found = |text, expected: &[&str]| check(style::bad_log_texts, "src/x.rs", text, expected);
    found("fn f() { tracing::info!(\n  topic,\n  \"Started\"\n); }", &["starts with a capital"]);
    found("fn f() { tracing::warn!(%error, \"it failed.\"); }", &["ends with a full stop"]);
    found("fn f() { tracing::error!(\"it failed: {error}\"); }", &["holds data"]);
    found("fn f() { tracing::info!(summary = text(\"Some\"), \"stopped\"); }", &[]);
    found("fn f() { tracing::info!(role = \"Api\", \"SIGHUP read\"); }", &[]);
    found("fn f() { tracing::info!(topic); }", &["without a fixed text"]);
}

#[test]
fn an_error_that_is_a_text_is_found() {
    let found = |text, expected: &[&str]| check(style::texts_as_errors, "src/x.rs", text, expected);
    found("fn f() -> Result<u8, String> {}", &["is a String"]);
    found("fn f() -> Result<BTreeMap<u8, (u8, u8)>, String> {}", &["is a String"]);
    found("fn f() -> Result<BTreeMap<u8, String>, Bad> {}", &[]);
    found("fn f() -> Result<String, Bad> {}", &[]);
    check(style::texts_as_errors, "tests/x.rs", "fn f() -> Result<u8, String> {}", &[]);
}

#[test]
fn a_parameter_that_is_a_tuple_is_found() {
    let found = |text, expected: &[&str]| check(style::tuples_as_parameters, "src/x.rs", text, expected);
    found("fn f(a: u8, (b, c): (u8, u8)) {}", &["f takes a tuple"]);
    found("impl A { fn f(&self, b: &(u8, u8)) {} } trait T { fn g(a: (u8, u8)); }", &["f takes", "g takes"]);
    found("fn f(a: (), b: Vec<(u8, u8)>) -> (u8, u8) { let (c, d) = b[0]; |(e, f)| c }", &[]);
    check(style::tuples_as_parameters, "tests/x.rs", "fn f(a: (u8, u8)) {}", &[]);
}

#[test]
fn an_unbounded_channel_is_found() {
    let found = |text, expected: &[&str]| check(style::unbounded_channels, "tests/x.rs", text, expected);
    found("fn f() { mpsc::unbounded_channel() }", &["unbounded_channel"]);
    found("fn f() { std::sync::mpsc::channel() }", &["mpsc::channel"]);
    found("fn f() { mpsc::channel(3) }", &[]);
}

#[test]
fn a_lint_without_a_reason_is_found() {
    let found = |text, expected: &[&str]| check(style::lints_without_reason, "src/x.rs", text, expected);
    found("#[allow(dead_code)] fn f() {}", &["allow"]);
    found("#![allow(dead_code, reason = \"r\")]", &["allow"]);
    found("#[expect(dead_code)] fn f() {}", &["without a reason"]);
    found("#[expect(\n  dead_code,\n  reason = \"r\"\n)] fn f() {}", &[]);
}

#[test]
fn a_test_that_depends_on_luck_is_found() {
    let time = |text, expected: &[&str]| check(luck::bounds_without_the_load, "tests/x.rs", text, expected);
    time("fn f() { assert!(began.elapsed() < Duration::from_secs(3), \"{}\", 1); }", &["by the clock alone"]);
    time("fn f() { assert!(began.elapsed() <= MAX); }", &["by the clock alone"]);
    time("fn f() { assert!(began.elapsed() < 3 * PATIENCE); assert!(began.elapsed() >= LEAST); }", &[]);
    time("fn f() { while began.elapsed() < TIME { g(); } }", &[]);
    let line = |text, expected: &[&str]| check(luck::log_lines_looked_for_once, "tests/x.rs", text, expected);
    line("fn f() { assert!(worker.lines().all().iter().any(said), \"{}\", 1); }", &["looks for a log line once"]);
    line("fn f() { assert!(!worker.lines().all().iter().any(said)); }", &[]);
    line("fn f() { if worker.lines().all().iter().any(said) { g(); } }", &[]);
    let port = |text, expected: &[&str]| check(luck::ports_that_are_not_held, "tests/x.rs", text, expected);
    port("fn f() { let a = std::net::TcpListener::bind(\"127.0.0.1:0\").unwrap().local_addr(); }", &["Port::hold"]);
    port("fn f() { let a = TcpListener::bind(b).await.unwrap(); let c = a.local_addr(); }", &[]);
    check(luck::ports_that_are_not_held, "src/x.rs", "fn f() { TcpListener::bind(a).unwrap().local_addr(); }", &[]);
}

#[test]
fn a_word_to_avoid_is_found() {
    let found = |text, expected: &[&str]| check(style::words_to_avoid, "src/x.rs", text, expected);
    found("// Whoever reads.\n", &["line 1 says \"whoever\""]);
    found("fn f() { g(\"it can not\") }", &["can not"]);
    found("//! A.\n\n    fn what_can_not_be_read_is_left_out() {}\n", &["line 3 says \"can not\""]);
    found("/// It can\n/// not.\n", &["line 1 says \"can not\""]);
    found("// Read by\n// nobody", &["line 2 says \"nobody\""]);
    found(
        "// A loop that\n// comes round goes by the clock.\n",
        &["line 2 says \"comes round\"", "line 2 says \"goes by the\""],
    );
    found("// It is written all the same.\n", &["all the same"]);
    found("// No worker is to blame.\n", &["to blame"]);
    found("// The handshake comes to\n// nothing.\n", &["comes to nothing"]);
    found("// It cannot. If it can, not even then.\n", &[]);
    found("let kind = \"anew\"; // The label `anew`.\n", &[]);
}

#[test]
fn a_walk_over_code_that_is_gone_is_found() {
    let page = "# A\n\n## The walk of one event\n\n1. `src/a.rs`: `run()` and `Type::go()`\n2. `src/b.rs`: `b()`\n\n## C\n`x()`";
    let steps = walk(page);
    let step = |file: &str, function: &str| Step { file: file.to_owned(), function: function.to_owned() };
    assert_eq!(steps, [step("src/a.rs", "run"), step("src/a.rs", "Type::go"), step("src/b.rs", "b")]);
    let sources = [Source::new("src/a.rs", "impl Type { fn go() {} }")];
    let missing: Vec<_> = steps.iter().filter_map(|step| missing(step, &sources)).collect();
    assert_eq!(missing, ["src/a.rs has no function run", "src/b.rs does not exist"]);
    assert!(walk("# A").is_empty());
}

#[test]
fn a_step_back_to_an_earlier_room_is_found_up_to_the_way_back() {
    let root = "mod intake;\nmod deliver;\nmod domain;\n";
    let page = |second: &str| {
        format!(
            "## The walk of one event\n\n1. A: `src/deliver/a.rs` `a()`, by\n   `src/domain/b.rs`.\n2. B: `src/{second}/c.rs`.\n\n\
            The way back:\n\n3. C: `src/intake/d.rs`.\n\n## Rooms\n"
        )
    };
    for (second, wrong) in
        [("deliver", None), ("domain", None), ("intake", Some("a step goes from deliver back to intake"))]
    {
        assert_eq!(steps_back(&page(second), root), Vec::from_iter(wrong), "{second}");
    }
    let inner = page("domain").replace("src/domain/b.rs", "src/intake/b.rs");
    assert_eq!(steps_back(&inner, root), ["a step that begins in deliver goes up to intake"]);
    assert_eq!(steps_back("# A", root), ["the walk is not found"]);
}

#[test]
fn a_row_above_one_that_may_import_it_is_found() {
    let page = |second: &str| {
        format!("## Rooms\n\n| room |\n| --- |\n| `app/` | a |\n| {second} | b |\n| `net/` | c |\n\n## A\n")
    };
    for (second, wrong) in [
        ("`intake/`", None),
        ("`process.rs`, `run.rs`", Some("app stands above process, which may import it")),
        ("`clock.rs`", Some("clock stands above net, which may import it")),
    ] {
        assert_eq!(rooms_out_of_order(&page(second), rooms::layer).into_iter().next().as_deref(), wrong, "{second}");
    }
    assert_eq!(rooms_out_of_order("# A", rooms::layer), ["the table is not found"]);
}

#[test]
fn a_place_that_is_not_there_is_found() {
    let page = |row: &str| format!("## Where do I add …\n\n| what | in |\n| --- | --- |\n{row}\n\n## Words\n");
    for (row, wrong) in [
        ("| a room | `src/lib.rs`, `tests/tidy/rooms.rs` (`LAYERS`), `deploy/test chart docs` |", None),
        ("| a reason | `domain/no_such.rs` |", Some("domain/no_such.rs does not exist")),
        ("| a reason | `domain/outcome.rs` (`Raison`) |", Some("src/domain/outcome.rs defines no Raison")),
        ("| a reason | the contract |", Some("the table is not found")),
    ] {
        assert_eq!(wrong_places(&page(row)), Vec::from_iter(wrong), "{row}");
    }
}

#[test]
fn a_thread_that_the_page_does_not_name_is_found() {
    let threads = "//! | thread | room |\n//! | --- | --- |\n//! | `events`, `places` | `intake`, `backlog` |\n";
    let page =
        |row: &str| format!("## Threads\n\n| thread | does |\n| --- | --- |\n{row}\n\n## Decisions\n\n| `places` |\n");
    assert_eq!(threads_left_out(&page("| `places`, `events` | reads |"), threads), [""; 0]);
    assert_eq!(threads_left_out(&page("| `events` | fills `places` |"), threads), ["places"]);
    assert_eq!(threads_left_out(&page(""), "//! Threads.\n"), ["the table is not found"]);
}
