//! The built program as a shell sees it: streams and exit codes of the command line. These tests reach no Kafka.

use std::process::{Command, Output};

/// Runs the program with an environment of its own.
fn hookstream(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hookstream"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the program starts")
}

#[track_caller]
fn mistakes(args: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    let output = hookstream(args, environment);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8 on stderr").lines().map(str::to_owned).collect()
}

#[track_caller]
fn answer(args: &[&str]) -> String {
    let output = hookstream(args, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8 on stdout")
}

#[test]
fn an_answer_that_cannot_be_written_is_reported_on_stderr() {
    for args in [&["help"][..], &["help", "worker"], &["--version"], &["completions", "bash"], &["man"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that takes nothing");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
        let output = command.args(args).env_clear().stdout(full).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("UTF-8 on stderr");
        assert!(said.starts_with("error: standard output can't be written: "), "{args:?}: {said}");
    }
}

#[test]
fn help_lists_every_subcommand_on_stdout() {
    let help = answer(&["help"]);
    for words in [
        "worker",
        "api",
        "demo",
        "receiver",
        "topics plan",
        "topics apply",
        "dead-letters list",
        "dead-letters show",
        "dead-letters redrive",
        "replay",
        "resume",
        "explain",
        "console",
        "integrations",
        "health",
        "attempts",
        "trace",
        "check",
        "completions",
        "man",
    ] {
        assert!(help.lines().any(|line| line.starts_with(&format!("  {words} "))), "{words} in {help}");
    }
    assert_eq!(answer(&["--help"]), help);
}

#[test]
fn help_of_a_subcommand_gives_default_unit_and_variable() {
    let help = answer(&["help", "worker"]);
    assert!(help.contains("--request-timeout DURATION"), "{help}");
    assert!(help.contains("[default 10s; HOOKSTREAM_REQUEST_TIMEOUT]"), "{help}");
    assert!(help.contains("DURATION: a whole number and a unit"), "{help}");
    assert_eq!(answer(&["worker", "--help"]), help);
}

#[test]
fn version_is_the_packages() {
    assert_eq!(answer(&["--version"]), format!("hookstream {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_argument_is_a_mistake_that_is_answered_with_help() {
    let lines = mistakes(&[], &[]);
    assert!(lines.iter().any(|line| line.starts_with("Usage: hookstream")), "{lines:?}");
}

#[test]
fn every_mistake_is_one_line_and_the_code_is_2() {
    let lines = mistakes(&["worker", "--gruop", "g", "--request-timeout", "10x"], &[]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("--gruop") && lines[0].contains("--group"), "{lines:?}");
    assert!(
        lines[1].contains("--request-timeout") && lines[1].contains("10x") && lines[1].contains("30s"),
        "{lines:?}"
    );
}

#[test]
fn unusable_files_are_mistakes() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let (tokens, none) = (format!("{folder}/cli-tokens"), format!("{folder}/cli-no-such-file"));
    std::fs::write(&tokens, "t0k3n\n").unwrap();
    let lines = mistakes(&["api", "--api-tokens-file", &none, "--api-tls-cert", &none, "--api-tls-key", &none], &[]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with(&format!("--api-tokens-file {none}: No such file")), "{lines:?}");
    assert!(lines[0].contains("expected a file of lines, each with a token"), "{lines:?}");
    assert!(lines[1].starts_with(&format!("--api-tls-cert {none}: ")) && lines[1].contains("PEM"), "{lines:?}");
    let lines = mistakes(&["api", "--api-tokens-file", &tokens], &[]);
    assert!(lines[0].contains(&format!("--api-tokens-file {tokens}, line 1: no workspace")), "{lines:?}");
    assert!(!lines.concat().contains("t0k3n"), "{lines:?}");
}

#[test]
fn addresses_that_cannot_be_listened_on_are_mistakes() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let also_taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [taken, other] = [taken.local_addr().unwrap().to_string(), also_taken.local_addr().unwrap().to_string()];
    let both = [("--api-listen", &taken), ("--console-listen", &taken), ("--admin-listen", &other)];
    for (subcommand, options) in [
        ("worker", &both[2..]),
        ("api", &[both[0], both[2]]),
        ("console", &both[1..]),
        ("receiver", &[("--listen", &taken)]),
    ] {
        let mut line = vec![subcommand, "--log-level", "error"];
        line.extend(options.iter().flat_map(|(option, address)| [*option, address.as_str()]));
        let lines = mistakes(&line, &[]);
        assert_eq!(lines.len(), options.len(), "{lines:?}");
        for (line, (option, address)) in lines.iter().zip(options) {
            assert!(line.contains(option) && line.contains(address.as_str()), "{lines:?}");
            assert!(line.ends_with("expected an address of this machine and a free port"), "{lines:?}");
        }
    }
}

#[test]
fn properties_that_no_kafka_client_can_be_made_with_are_mistakes_of_each_subcommand_that_takes_them() {
    let name = ["--workspace", "w", "--integration", "i"];
    for (line, more) in [
        (&["worker"][..], &[][..]),
        (&["api"], &[]),
        (&["console"], &[]),
        (&["topics", "plan"], &[]),
        (&["topics", "apply"], &[]),
        (&["dead-letters", "list"], &[]),
        (&["dead-letters", "show", "x"], &[]),
        (&["dead-letters", "redrive", "--all"], &[]),
        (&["replay"], &name),
        (&["resume"], &name),
        (&["explain", "-"], &name),
        (&["integrations"], &[]),
        (&["health"], &[]),
        (&["attempts"], &[]),
        (&["trace", "x"], &[]),
    ] {
        let lines = mistakes(&[line, more, &["--kafka-property", "ssl.ca.location=/none"]].concat(), &[]);
        assert_eq!(lines.len(), 1, "{line:?} {lines:?}");
        let expected = "--kafka-property ssl.ca.location (value not shown): No such file";
        assert!(lines[0].starts_with(expected), "{line:?} {lines:?}");
    }
}

#[test]
fn an_unknown_subcommand_is_a_mistake() {
    let lines = mistakes(&["deliver"], &[]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("`deliver`") && lines[0].contains("worker"), "{lines:?}");
}

#[test]
fn a_tool_says_its_error_once_in_plain_words() {
    let words = ["explain", "--workspace", "w", "--integration", "i", "--event", "no-such-file"];
    let output = hookstream(&words, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.starts_with("error: there is no file no-such-file: "), "{said}");
    assert!(output.stdout.is_empty());
    let output = hookstream(&[&words[..], &["--log-format", "json"]].concat(), &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(said.trim_end()).unwrap();
    assert!(line["error"].as_str().unwrap().starts_with("there is no file no-such-file: "), "{said}");
}

#[test]
fn a_flag_wins_over_its_variable() {
    let environment = [("HOOKSTREAM_ORDERING", "from-environment"), ("HOOKSTREAM_MAX_IN_FLIGHT", "0")];
    let lines = mistakes(&["worker", "--ordering", "from-flag"], &environment);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("--ordering `from-flag`")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("HOOKSTREAM_MAX_IN_FLIGHT (--max-in-flight) `0`")), "{lines:?}");
    assert!(!lines.concat().contains("from-environment"), "{lines:?}");
}

#[test]
fn contradictions_are_refused_before_anything_runs() {
    for (args, parts) in [
        (&["--drain-timeout", "5s"][..], ["--drain-timeout", "5s", "--request-timeout", "10s"]),
        (
            &["--max-in-flight", "4", "--max-in-flight-per-webhook", "5"],
            ["--max-in-flight-per-webhook", "`5`", "--max-in-flight", "`4`"],
        ),
        (&["--retry-schedule", ""], ["--retry-schedule", "``", "at least one delay", "30s,1m,5m"]),
    ] {
        let lines = mistakes(&[&["worker"][..], args].concat(), &[]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{parts:?} in {lines:?}");
    }
}

#[test]
fn secrets_are_not_repeated() {
    let environment = [("HOOKSTREAM_KAFKA_PROPERTY", "sasl.password=hunter2\nacks=hunter2\nhunter2")];
    let lines = mistakes(&["worker"], &environment);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("acks") && !lines.concat().contains("hunter2"), "{lines:?}");
    let lines = mistakes(&["receiver", "--secret", "", "--status", "hunter3"], &[("HOOKSTREAM_SECRET", "hunter2")]);
    assert!(lines[0].contains("--status `hunter3`") && !lines.concat().contains("hunter2"), "{lines:?}");
}

/// The words that bash offers after a command line, with the completion that the program wrote.
fn offered(line: &[&str]) -> Vec<String> {
    const SCRIPT: &str = r#"
        source <("$1" completions bash) || exit 1
        shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _hookstream
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["-c", SCRIPT, "bash", env!("CARGO_BIN_EXE_hookstream")])
        .args(line)
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_their_members_and_their_options() {
    assert_eq!(offered(&["hookstream", "tr"]), ["trace"]);
    assert_eq!(offered(&["hookstream", "dead-letters", "re"]), ["redrive"]);
    assert_eq!(offered(&["hookstream", "dead-letters", "redrive", "--skip"]), ["--skip-sent"]);
    assert_eq!(offered(&["hookstream", "attempts", "--workspace", "acme", "--ent"]), ["--entity"]);
    assert_eq!(offered(&["hookstream", "trace", "e-1", "--works"]), ["--workspace"]);
    assert_eq!(offered(&["hookstream", "completions", ""])[..3], ["bash", "zsh", "fish"]);
    assert!(offered(&["hookstream", "worker", "--entity"]).is_empty(), "an option of another subcommand");
}

/// The sample events that `deploy/compose/events.sh` writes, without a Kafka.
fn sample_events(count: &str) -> Vec<serde_json::Value> {
    let output = Command::new("sh")
        .args(["-c", "producer() { cat; }; PRODUCER=producer; . deploy/compose/events.sh"])
        .envs([("COUNT", count), ("PAUSE", "0"), ("BROKERS", "b:1"), ("TOPIC", "t")])
        .output()
        .expect("sh runs");
    let text = String::from_utf8(output.stdout).expect("events are UTF-8");
    text.lines().map(|line| serde_json::from_str(line.split_once('|').expect("a key").1).expect("JSON")).collect()
}

#[test]
fn the_later_of_two_sample_events_has_the_larger_offset() {
    let events: Vec<_> = ["12", "3"].into_iter().flat_map(sample_events).collect();
    let offsets: Vec<&str> = events.iter().map(|event| event["offset"].as_str().expect("text")).collect();
    assert_eq!(offsets.len(), 15);
    assert!(offsets.iter().all(|offset| offset.len() == 36), "{offsets:?}");
    assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
}
