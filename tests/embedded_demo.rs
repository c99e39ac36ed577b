//! `hookstream demo` as a shell sees it: nothing else runs, and its summary accounts for every event.

#[expect(dead_code, unreachable_pub, clippy::panic, clippy::disallowed_methods, reason = "shared with other suites")]
#[path = "support/process.rs"]
mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use process::{Process, Signal};

/// The whole schedule runs out within it, on a busy machine too.
const PATIENCE: Duration = Duration::from_mins(2);

/// A demo on free ports.
fn demo(args: &[&str]) -> Process {
    let args = [&["demo", "--admin-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"], args].concat();
    Process::start("demo", env!("CARGO_BIN_EXE_hookstream"), &args, &[])
}

/// The number in the summary's line of this name.
#[track_caller]
fn number(demo: &Process, name: &str) -> u64 {
    let lines = demo.lines().all();
    let found: Option<u64> =
        lines.iter().find_map(|line| line.trim().strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    assert!(found.is_some(), "no `{name}` in\n{}", lines.join("\n"));
    found.unwrap_or_default()
}

#[track_caller]
fn assert_balances(demo: &Process) {
    let ends = ["acknowledged", "in a tier", "dead letters", "dropped", "behind", "not yet read"]
        .map(|name| number(demo, name));
    assert_eq!(ends.iter().sum::<u64>(), number(demo, "deliveries"), "{}", demo.lines().tail(20));
    assert_eq!(number(demo, "missing"), 0);
    let is_last = |line: &str| (line == "the account balances: nothing is missing").then_some(());
    assert!(demo.lines().find(PATIENCE, is_last).is_some(), "{}", demo.lines().tail(20));
}

#[test]
fn a_demo_of_five_seconds_accounts_for_every_event() {
    let mut demo = demo(&["--for", "5s"]);
    assert_eq!(demo.wait(PATIENCE), 0, "{}", demo.lines().tail(40));
    assert_balances(&demo);
    assert_eq!(number(&demo, "events produced"), 250);
    assert_eq!(number(&demo, "for no webhook"), 25);
    assert_eq!(number(&demo, "not events"), 1);
    // What is for two webhooks counts twice; everything has run out.
    assert_eq!(number(&demo, "deliveries"), 349);
    assert_eq!(number(&demo, "dead letters"), 37, "all links and nothing else");
    assert_eq!(number(&demo, "in a tier"), 0);
    assert_eq!(number(&demo, "not yet read"), 0);
    assert!(number(&demo, "requests") > 312, "the receiver that recovers was asked again");
}

/// Asks the demo's API about an integration of its playground, and gives the whole answer.
fn ask_api(demo: &Process, method: &str, id: &str, body: &str) -> String {
    ask_about(demo, method, &format!("playground/integrations/instances/{id}"), body)
}

/// Asks the demo's API about `what`, the path below that of all workspaces.
fn ask_about(demo: &Process, method: &str, what: &str, body: &str) -> String {
    let printed = |name: &str| demo.lines().find(PATIENCE, |line| line.strip_prefix(name).map(str::to_owned));
    let (api, token) = (printed("api http://").expect("an address"), printed("token ").expect("a token"));
    let (address, path) = api.split_once('/').expect("an address and a path");
    let (all, _) = path.split_once("playground").expect("a workspace");
    let mut stream = TcpStream::connect(address).expect("the API listens");
    write!(
        stream,
        "{method} /{all}{what} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("a request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    answer
}

#[test]
fn changes_over_the_registration_api_keep_the_account_balanced() {
    let mut demo = demo(&["--retry-schedule", "100ms,2s"]);
    // No server listens there: its deliveries wait in a tier when it is removed, and are dropped.
    let mine = r#"{"id":"mine","baseUrl":"http://127.0.0.1:1","webHooks":[{"id":"hook","relativeUrl":"/","triggerType":"entityEvent","filter":{"items":[{"entityType":"company"}]}}]}"#;
    // Each second has a line, but on a busy machine one may be left out.
    let wait = |seconds: u64| {
        let at = |line: &str| line.trim_start().split_once("s producing")?.0.parse::<u64>().ok();
        demo.lines().find(PATIENCE, |line| at(line).filter(|at| *at >= seconds)).expect("it goes on")
    };
    wait(0);
    assert!(ask_api(&demo, "PUT", "mine", mine).starts_with("HTTP/1.1 200"));
    assert!(ask_api(&demo, "GET", "mine", "").contains("http://127.0.0.1:1"));
    let webhook = "0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e01/webhooks/0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e10";
    let test = ask_about(&demo, "POST", &format!("demo/integrations/instances/{webhook}/test"), "");
    assert!(test.contains(r#""status":200"#), "a test delivery is answered and is not in the account: {test}");
    wait(4);
    assert!(ask_api(&demo, "DELETE", "mine", "").starts_with("HTTP/1.1 200"));
    wait(6);
    demo.signal(Signal::Term);
    assert_eq!(demo.wait(PATIENCE), 0, "{}", demo.lines().tail(40));
    assert_balances(&demo);
}

#[test]
fn retries_that_wait_when_the_demo_stops_are_in_its_account() {
    let mut demo = demo(&["--retry-schedule", "100ms,10m", "--log-format", "json"]);
    let waits =
        |line: &str| line.split_once("waiting=")?.1.split(' ').next()?.parse::<u64>().ok().filter(|count| *count > 5);
    assert!(demo.lines().find(PATIENCE, waits).is_some(), "{}", demo.lines().tail(40));
    demo.signal(Signal::Term);
    assert!(demo.lines().find(PATIENCE, |line| line.contains("running-out").then_some(())).is_some());
    demo.signal(Signal::Term);
    assert_eq!(demo.wait(PATIENCE), 0, "{}", demo.lines().tail(40));
    assert_balances(&demo);
    assert!(number(&demo, "in a tier") > 5);
    let logs: Vec<_> = demo.lines().all().into_iter().filter(|line| line.starts_with('{')).collect();
    assert!(logs.iter().all(|line| line.ends_with('}')), "{logs:?}");
}
