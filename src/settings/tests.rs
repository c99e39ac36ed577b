//! The command line as a whole: arguments and environment in, command or mistakes out.

use super::command::{HelpTopic, Subcommand, TopicsOutput};
use super::row::{Row, Shape};
use super::*;
use crate::domain::outcome::{DeadReason, Reason};
use proptest::prelude::*;

fn parse_in(args: &[&str], environment: &[(&str, &str)]) -> Result<Parsed, Vec<Mistake>> {
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    parse(args.iter().map(OsString::from), environment)
}

#[track_caller]
fn understood(line: &str) -> Command {
    understood_in(line, &[])
}

#[track_caller]
fn understood_in(line: &str, environment: &[(&str, &str)]) -> Command {
    match parse_in(&line.split_whitespace().collect::<Vec<_>>(), environment) {
        Ok(parsed) => parsed.command,
        Err(mistakes) => panic!("{line}: {mistakes:?}"),
    }
}

#[track_caller]
fn worker(line: &str) -> Settings {
    match understood(&format!("worker {line}")) {
        Command::Worker(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

fn mistakes(args: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
    match parse_in(args, environment) {
        Ok(parsed) => panic!("{args:?}: {parsed:?}"),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    }
}

/// Exactly one mistake, and its line is exactly this.
#[track_caller]
fn refused(line: &str, expected: &str) {
    assert_eq!(mistakes(&line.split_whitespace().collect::<Vec<_>>(), &[]), [expected], "{line}");
}

/// Exactly one mistake, and its line holds all of these.
#[track_caller]
fn refused_with(line: &str, parts: &[&str]) {
    let mistakes = mistakes(&line.split_whitespace().collect::<Vec<_>>(), &[]);
    assert_eq!(mistakes.len(), 1, "{line}: {mistakes:?}");
    for part in parts {
        assert!(mistakes[0].contains(part), "{line}: no {part:?} in {:?}", mistakes[0]);
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let settings = worker("");
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.kafka.brokers, "localhost:9092");
    assert_eq!(settings.kafka.group, "hookstream");
    assert_eq!(settings.kafka.properties, []);
    let topics = &settings.topics;
    let names = [
        &topics.events,
        &topics.integrations,
        &topics.retry_prefix,
        &topics.dead_letter,
        &topics.attempts,
        &topics.health,
        &topics.backlog,
        &topics.audit,
    ];
    assert_eq!(
        names,
        [
            "crm.object-events",
            "webhooks.integrations",
            "webhooks.retry",
            "webhooks.dead-letter",
            "webhooks.attempts",
            "webhooks.health",
            "webhooks.backlog",
            "webhooks.audit"
        ]
    );
    assert_eq!((topics.partitions, topics.replication_factor), (12, 3));
    let delivery = &settings.delivery;
    assert_eq!(delivery.schedule, RetrySchedule::parse("30s,1m,5m,15m,1h,1h,1h").unwrap());
    assert_eq!(delivery.give_up_after, Duration::from_hours(24));
    assert_eq!(settings.kafka.instance_id, None);
    assert_eq!(settings.console_listen.to_string(), "0.0.0.0:8090");
    assert_eq!((delivery.request_timeout, delivery.connect_timeout), (Duration::from_secs(10), Duration::from_secs(3)));
    assert_eq!(delivery.drain_timeout, Duration::from_secs(25));
    assert_eq!(delivery.ordering, Ordering::Entity);
    assert_eq!(delivery.max_in_flight, 1024);
    assert_eq!((delivery.max_in_flight_per_webhook, delivery.max_in_flight_per_host), (16, 256));
    assert_eq!((delivery.max_queued_bytes, delivery.threads), (67_108_864, 0));
    assert_eq!(delivery.allow_private_networks, []);
    let suspension = settings.suspension;
    assert_eq!((suspension.errors_window, suspension.errors_min_attempts), (Duration::from_mins(10), 20));
    assert_eq!((suspension.suspend_after, suspension.suspend_after_failures), (Duration::from_hours(1), 100));
    assert_eq!(settings.admin_listen.to_string(), "0.0.0.0:9464");
    assert_eq!(settings.api.listen.to_string(), "0.0.0.0:8080");
    assert_eq!((settings.api.tokens_file, settings.api.tls), (None, None));
    assert_eq!((settings.attempt_log, settings.log_format), (AttemptLog::Failures, LogFormat::Human));
}

/// What a subcommand can't do without, the option `but` left out.
fn required(subcommand: Subcommand, but: &str) -> Vec<String> {
    [("workspace", "w"), ("integration", "i"), ("event", "webhooks.dead-letter/0/1"), ("shell", "bash")]
        .into_iter()
        .filter(|(name, _)| *name != but && options::find(name, subcommand).is_some_and(|row| row.required))
        .map(|(name, value)| format!("--{name}={value}"))
        .chain((subcommand == Subcommand::DeadLettersRedrive && but != "all").then(|| "--all".to_owned()))
        .collect()
}

/// A good value of an option.
fn example(row: &Row) -> &'static str {
    match (row.name, row.default) {
        ("kafka-property", _) => "security.protocol=ssl",
        ("allow-private-networks", _) => "10.0.0.0/8",
        ("event", _) => "webhooks.dead-letter/0/1",
        ("from", _) => "2026-01-01T00:00:00Z",
        ("to", _) => "2026-01-02T00:00:00Z",
        ("for", _) => "30s",
        ("shell", _) => "zsh",
        ("secret", _) => "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
        ("status", _) => "500",
        ("limit", _) => "7",
        ("reason", _) if row.about.contains("failures") => "timeout",
        ("reason", _) => "exhausted",
        ("console-api-url", _) => "http://api:8080",
        (_, Some(default)) => default,
        (_, None) if row.shape == Shape::Flag => "true",
        (_, None) => "some",
    }
}

/// The table is what is asked for when nothing is given: an option that depends on another's value would not be in it.
#[test]
fn a_subcommand_asks_for_the_same_options_whatever_is_given() {
    for subcommand in Subcommand::ALL {
        let given: Vec<_> = options::of(subcommand)
            .map(|row| OsString::from(format!("{}={}", row.flag_name(), example(row))))
            .chain(subcommand.words().split(' ').map(OsString::from))
            .collect();
        let mut mistakes = Vec::new();
        let line = scan::command_line(given.into_iter(), &mut mistakes);
        let given = line.into_given(scan::Asked::Run(subcommand), &mut mistakes);
        let mut reader = reader::Reader::new(subcommand, &given);
        let (command, _) = options::read(&mut reader);
        assert!(command.is_some() && mistakes.is_empty(), "{subcommand:?}: {mistakes:?} {:?}", reader.mistakes);
        let mut asked: Vec<_> = reader.rows.iter().filter(|row| row.is_for(subcommand)).collect();
        asked.sort_by_key(|row| row.heading);
        assert_eq!(asked, options::of(subcommand).collect::<Vec<_>>(), "{subcommand:?}");
    }
}

#[test]
fn every_option_is_accepted_both_ways_and_from_the_environment() {
    for (row, subcommand) in Subcommand::ALL.into_iter().flat_map(|user| options::of(user).map(move |row| (row, user)))
    {
        let mut rest: Vec<String> = subcommand.words().split(' ').map(str::to_owned).collect();
        rest.extend(required(subcommand, row.name));
        match row.name {
            "api-tls-cert" => rest.push("--api-tls-key=some".to_owned()),
            "api-tls-key" => rest.push("--api-tls-cert=some".to_owned()),
            _ => {}
        }
        let given = |more: &[&str], environment: Option<(String, &str)>| {
            let args = rest.iter().map(String::as_str).chain(more.iter().copied()).map(OsString::from);
            let environment =
                environment.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
            parse(args, environment).unwrap()
        };
        let (flag, value) = (row.flag_name(), example(row));
        let joined = given(&[&format!("{flag}={value}")], None);
        let apart = if row.shape == Shape::Flag { given(&[&flag], None) } else { given(&[&flag, value], None) };
        assert_eq!(joined, apart, "{flag}");
        assert_eq!(joined, given(&[], Some((row.variable(), value))), "{flag}");
        let bare = parse(rest.iter().map(OsString::from), std::iter::empty());
        let changes = bare.as_ref() != Ok(&joined);
        assert_eq!(changes, row.default != Some(value), "{flag} for {subcommand:?}");
    }
}

#[test]
fn options_reach_their_fields() {
    let settings = worker(
        "--brokers a:1,b:2 --group=g --kafka-property security.protocol=sasl_ssl --kafka-property sasl.password=a=b \
         --events-topic e --integrations-topic i --retry-topic-prefix r --dead-letter-topic d --attempts-topic a \
         --health-topic h --backlog-topic b --audit-topic u --instance-id w-1 --give-up-after 48h --topic-partitions 5 --topic-replication-factor 2 --retry-schedule 1s,250ms \
         --request-timeout 4s --connect-timeout 2s --ordering none --max-in-flight 40 --max-in-flight-per-webhook 3 \
         --max-in-flight-per-host 9 --max-queued-bytes 8MiB --delivery-threads 2 --allow-private-networks 10.1.2.3/8,::1 \
         --allow-private-networks 127.0.0.1 --admin-listen [::1]:0 --attempt-log all --errors-window 1m \
         --errors-min-attempts 1 --suspend-after 2h --suspend-after-failures 7 --log-format json --drain-timeout 5s",
    );
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(settings.kafka.brokers, "a:1,b:2");
    assert_eq!((settings.kafka.group.as_str(), settings.kafka.instance_id.as_deref()), ("g", Some("w-1")));
    assert_eq!(settings.kafka.properties, [pair("security.protocol", "sasl_ssl"), pair("sasl.password", "a=b")]);
    assert_eq!(
        settings.topics,
        Topics {
            events: "e".to_owned(),
            integrations: "i".to_owned(),
            retry_prefix: "r".to_owned(),
            dead_letter: "d".to_owned(),
            attempts: "a".to_owned(),
            health: "h".to_owned(),
            backlog: "b".to_owned(),
            audit: "u".to_owned(),
            partitions: 5,
            replication_factor: 2,
            replicas_required: false
        }
    );
    assert_eq!(
        settings.delivery,
        Delivery {
            schedule: RetrySchedule::parse("1s,250ms").unwrap(),
            give_up_after: Duration::from_hours(48),
            request_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(2),
            ordering: Ordering::None,
            max_in_flight: 40,
            max_in_flight_per_webhook: 3,
            max_in_flight_per_host: 9,
            max_queued_bytes: 8 << 20,
            threads: 2,
            allow_private_networks: ["10.0.0.0/8", "::1/128", "127.0.0.1/32"].map(|net| net.parse().unwrap()).to_vec(),
            drain_timeout: Duration::from_secs(5)
        }
    );
    assert_eq!(settings.suspension.suspend_after_failures, 7);
    assert_eq!(settings.suspension.suspend_after, Duration::from_hours(2));
    assert_eq!(settings.suspension.errors_window, Duration::from_mins(1));
    assert_eq!(settings.suspension.errors_min_attempts, 1);
    assert_eq!(settings.admin_listen.to_string(), "[::1]:0");
    assert_eq!((settings.attempt_log, settings.log_format), (AttemptLog::All, LogFormat::Json));
}

#[test]
fn the_api_takes_its_listener_and_what_test_deliveries_need() {
    let Command::Api(settings) = understood(
        "api --api-listen 127.0.0.1:1 --api-tokens-file t --api-tls-cert c --api-tls-key k --request-timeout 1s",
    ) else {
        panic!("not the API");
    };
    assert_eq!(settings.api.listen.to_string(), "127.0.0.1:1");
    assert_eq!(settings.api.tokens_file, Some(PathBuf::from("t")));
    assert_eq!(settings.api.tls, Some((PathBuf::from("c"), PathBuf::from("k"))));
    assert_eq!(settings.delivery.request_timeout, Duration::from_secs(1));
}

#[test]
fn the_demo_has_a_short_schedule_and_ends_on_request() {
    let Command::Demo(settings, demo) = understood("demo --for 30s --rate 5") else {
        panic!("not the demo");
    };
    assert_eq!(demo, Demo { duration: Some(Duration::from_secs(30)), rate: 5 });
    assert_eq!(settings.delivery.schedule, RetrySchedule::parse("1s,2s,5s,10s").unwrap());
    let Command::Demo(settings, demo) = understood("demo --retry-schedule 1m") else {
        panic!("not the demo");
    };
    assert_eq!(demo, Demo { duration: None, rate: 50 });
    assert_eq!(settings.delivery.schedule, RetrySchedule::parse("1m").unwrap());
}

#[test]
fn the_receiver_misbehaves_as_its_options_say() {
    let Command::Receiver(receiver) = understood("receiver") else {
        panic!("not the receiver");
    };
    assert_eq!(receiver.listen.to_string(), "127.0.0.1:9000");
    assert_eq!((receiver.fail_rate, receiver.latency, receiver.status), (0.0, Duration::ZERO, None));
    assert_eq!((receiver.no_echo, receiver.secret), (false, None));
    let secret = format!("whsec_{}", "abcd".repeat(8));
    let line = "receiver --listen 0.0.0.0:1 --fail-rate 0.25 --latency 20ms --status 503 --no-echo --secret";
    let Command::Receiver(receiver) = understood(&format!("{line} {secret}")) else {
        panic!("not the receiver");
    };
    assert_eq!((receiver.fail_rate, receiver.latency, receiver.status), (0.25, Duration::from_millis(20), Some(503)));
    assert_eq!((receiver.no_echo, receiver.secret.as_deref()), (true, Some(&*secret)));
    for bad in ["foo", "whsec_", "whsec_?", "whsec_abcd"] {
        let lines = mistakes(&["receiver", "--secret", bad], &[]);
        assert!(lines.len() == 1 && lines[0].starts_with("--secret (value not shown): "), "{lines:?}");
        assert!(lines[0].contains("24 to 64"), "{lines:?}");
    }
}

#[test]
fn an_integration_is_named_as_lists_show_it() {
    let named = |line: &str| match understood(line) {
        Command::ResumeRequest(_, resume) => resume.integration.key(),
        Command::Integrations(_, query) => {
            format!("{}/{}", query.workspace.unwrap_or_default(), query.integration.unwrap_or_default())
        }
        other => panic!("{line}: {other:?}"),
    };
    for line in ["resume --integration w/i", "resume --workspace w --integration w/i", "integrations --integration w/i"]
    {
        assert_eq!(named(line), "w/i", "{line}");
    }
}

#[test]
fn tools_take_what_they_need() {
    let with_settings = Box::<Settings>::default;
    let record = |topic: &str| RecordPlace { topic: topic.to_owned(), partition: 2, offset: 9 };
    let line = "dead-letters redrive --workspace w --integration i --webhook h --reason too-large --from 2026-01-01T00:00:00Z \
                --to 2026-01-01T03:00:01+03:00 --event webhooks.dead-letter/2/9 --rate 3 --dry-run --json";
    let filter = DeadLetterFilter {
        workspace: Some("w".to_owned()),
        integration: Some("i".to_owned()),
        webhook: Some("h".to_owned()),
        reason: Some("too-large"),
        from: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        to: Some("2026-01-01T00:00:01Z".parse().unwrap()),
    };
    let sending = Sending { rate: 3, dry_run: true, json: true };
    let redrive =
        Redrive { filter, event: Some(NamedEvent::Place(record("webhooks.dead-letter"))), skip_sent: false, sending };
    assert_eq!(understood(line), Command::DeadLettersRedrive(with_settings(), redrive));
    for (line, limit) in [("dead-letters list", None), ("dead-letters list --limit 4", Some(4))] {
        let list = DeadLettersList { filter: DeadLetterFilter::default(), limit, json: false, wide: false };
        assert_eq!(understood(line), Command::DeadLettersList(with_settings(), list));
    }
    let show = DeadLettersShow { event: NamedEvent::Place(record("d")), json: false };
    assert_eq!(understood("dead-letters show --event d/2/9"), Command::DeadLettersShow(with_settings(), show));
    let integration = IntegrationName { workspace: "w".to_owned(), integration: "i".to_owned() };
    assert_eq!(integration.key(), "w/i");
    let sending = Sending { rate: 500, dry_run: false, json: false };
    let replay = Replay { integration: integration.clone(), webhook: None, from: None, to: None, sending };
    assert_eq!(understood("replay --workspace w --integration i"), Command::Replay(with_settings(), replay));
    let resume = Resume { integration, dry_run: true, json: false };
    let line = "resume --workspace w --integration i --dry-run";
    assert_eq!(understood(line), Command::ResumeRequest(with_settings(), resume));
    assert_eq!(understood("topics plan --json"), Command::TopicsPlan(Box::default(), TopicsOutput { json: true }));
    assert_eq!(understood("topics apply"), Command::TopicsApply(Box::default(), TopicsOutput { json: false }));
}

#[test]
fn what_a_tool_is_about_may_stand_without_its_option() {
    let Command::Trace(_, trace) = understood("trace e-1 --workspace w") else { panic!("not a trace") };
    assert_eq!((trace.event, trace.workspace.as_deref()), (NamedEvent::Id("e-1".to_owned()), Some("w")));
    let Command::Trace(_, trace) = understood("trace --json crm.object-events/2/9") else { panic!("not a trace") };
    let place = RecordPlace { topic: "crm.object-events".to_owned(), partition: 2, offset: 9 };
    assert_eq!((trace.event, trace.json), (NamedEvent::Place(place.clone()), true));
    let Command::Trace(_, trace) = understood("trace -") else { panic!("not a trace") };
    assert_eq!(trace.event, NamedEvent::Stdin);
    let Command::DeadLettersShow(_, show) = understood("dead-letters show crm.object-events/2/9") else {
        panic!("not show")
    };
    assert_eq!(show.event, NamedEvent::Place(place.clone()));
    for (text, expected) in [
        ("msg_1", NamedEvent::Delivery("msg_1".to_owned())),
        ("3c75d291", NamedEvent::Id("3c75d291".to_owned())),
        ("order/7", NamedEvent::Id("order/7".to_owned())),
        ("crm.object-events/2/9", NamedEvent::Place(place)),
    ] {
        for line in [format!("attempts {text}"), format!("attempts --event {text}")] {
            let Command::Attempts(_, attempts) = understood(&line) else { panic!("not attempts") };
            assert_eq!(attempts.event.as_ref(), Some(&expected), "{line}");
        }
    }
}

#[test]
fn an_event_is_a_record_a_file_or_standard_input() {
    let event = |text: &str| match understood(&format!("explain --workspace w --integration i --event {text}")) {
        Command::Explain(_, explain) => explain.event,
        other => panic!("{other:?}"),
    };
    let record = EventSource::Record(RecordPlace { topic: "crm.object-events".to_owned(), partition: 0, offset: 12 });
    assert_eq!(event("crm.object-events/0/12"), record);
    assert_eq!(event("-"), EventSource::Stdin);
    for file in ["event.json", "./crm/0/12", "a/b/c", "/t/0/1", "crm/-1/5", "crm/0/+5"] {
        assert_eq!(event(file), EventSource::File(PathBuf::from(file)));
    }
}

#[test]
fn a_flag_wins_over_its_variable_and_replaces_its_list() {
    let environment = [
        ("HOOKSTREAM_GROUP", "environment"),
        ("HOOKSTREAM_EVENTS_TOPIC", "from-environment"),
        ("HOOKSTREAM_ALLOW_PRIVATE_NETWORKS", "10.0.0.0/8, 127.0.0.0/8\n::1/128"),
        ("HOOKSTREAM_KAFKA_PROPERTY", "\n  sasl.username=1, 2\r\n\n client.id=x y \n"),
        ("UNRELATED", "x"),
    ];
    let Command::Worker(settings) = understood_in("worker --group flag", &environment) else {
        panic!("not the worker");
    };
    assert_eq!((settings.kafka.group.as_str(), settings.topics.events.as_str()), ("flag", "from-environment"));
    assert_eq!(settings.delivery.allow_private_networks.len(), 3);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(settings.kafka.properties, [pair("sasl.username", "1, 2"), pair("client.id", "x y ")]);
    let line = "worker --allow-private-networks 192.168.0.0/16 --kafka-property client.rack=1,2";
    let Command::Worker(settings) = understood_in(line, &environment) else {
        panic!("not the worker");
    };
    assert_eq!(settings.delivery.allow_private_networks, ["192.168.0.0/16".parse().unwrap()]);
    assert_eq!(settings.kafka.properties, [pair("client.rack", "1,2")]);
    let environment = [("HOOKSTREAM_DRY_RUN", "true")];
    let line = "resume --workspace w --integration i --dry-run=false";
    let Command::ResumeRequest(_, resume) = understood_in(line, &environment) else {
        panic!("not resume");
    };
    assert!(!resume.dry_run);
}

#[test]
fn variables_of_other_subcommands_are_not_looked_at() {
    understood_in("worker", &[("HOOKSTREAM_API_LISTEN", "nonsense"), ("HOOKSTREAM_EVENT", "")]);
    understood_in("help worker", &[("HOOKSTREAM_GROUP", "")]);
}

#[test]
fn variables_that_are_no_option_are_warnings() {
    let environment = [
        ("HOOKSTREAM_BROKER", "secret"),
        ("HOOKSTREAM_API_PORT", "tcp://10.0.0.1:8080"),
        ("HOOKSTREAM_SERVICE_HOST", "10.0.0.1"),
        ("hookstream_group", "x"),
    ];
    let warnings = parse_in(&["worker"], &environment).unwrap().warnings;
    assert_eq!(warnings.len(), 3);
    assert_eq!(
        warnings[1],
        "the environment variable HOOKSTREAM_BROKER is no option; did you mean HOOKSTREAM_BROKERS?"
    );
    assert!(!warnings.concat().contains("secret"));
}

#[test]
fn all_mistakes_are_reported_at_once_with_option_value_and_accepted_form() {
    let args =
        ["worker", "--request-timeout", "10x", "--gruop", "g", "--max-in-flight=0", "--ordering", "fifo", "stray"];
    let environment = [("HOOKSTREAM_ADMIN_LISTEN", "9464"), ("HOOKSTREAM_DRAIN_TIMEOUT", "1s")];
    assert_eq!(
        mistakes(&args, &environment),
        [
            "unexpected argument (value not shown): expected only options, see `hookstream worker --help`",
            "--gruop: unknown option; did you mean `--group`? `hookstream worker --help` lists what is accepted",
            "--request-timeout `10x`: expected a whole number and a unit (ms, s, m, h) such as 250ms, 30s, 5m or 1h",
            "--ordering `fifo`: expected entity, webhook or none",
            "--max-in-flight `0`: expected a whole number from 1 to 100000",
            "HOOKSTREAM_ADMIN_LISTEN (--admin-listen) `9464`: expected an IP address and a port from 0 to 65535 such as \
             0.0.0.0:8080 or [::]:8080; port 0 takes a free one",
        ]
    );
}

#[test]
fn bad_values_say_what_is_accepted() {
    for (line, parts) in [
        ("--retry-schedule=", &["--retry-schedule ``", "30s,1m,5m", "at least one delay"][..]),
        ("--retry-schedule 30s,x", &["`30s,x`", "`x`"]),
        ("--retry-schedule 0s", &["`0s`", "at least 1ms"]),
        ("--request-timeout 0s", &["`0s`", "from 1ms to 4m"]),
        ("--errors-window 1ms", &["`1ms`", "from 1s to 168h"]),
        ("--errors-min-attempts 0", &["`0`", "from 1 to 1000000"]),
        ("--suspend-after-failures +5", &["`+5`", "a whole number"]),
        ("--max-queued-bytes 64MB", &["`64MB`", "KiB, MiB, GiB"]),
        ("--max-queued-bytes 10", &["`10`", "from 1048576"]),
        ("--max-queued-bytes 18446744073709551615GiB", &["expected bytes"]),
        ("--delivery-threads 999", &["from 0 to 256"]),
        ("--topic-partitions 0", &["from 1 to 10000"]),
        ("--topic-replication-factor x", &["from 1 to 100"]),
        ("--brokers kafka:99999", &["`kafka:99999`", "1 to 65535"]),
        ("--brokers a:1,,b:2", &["host:port"]),
        ("--brokers :9092", &["host:port"]),
        ("--brokers [::1]9092", &["host:port"]),
        ("--group=", &["--group ``", "a name"]),
        ("--instance-id a/b", &["--instance-id `a/b`", "a-z, A-Z, 0-9"]),
        ("--give-up-after 0s", &["`0s`", "from 1ms to 16800h"]),
        ("--console-listen 0.0.0.0:1", &["--console-listen", "no option of `worker`", "`demo`"]),
        ("--events-topic a/b", &["`a/b`", "a-z, A-Z, 0-9"]),
        ("--events-topic ..", &["`..`", "not . or .."]),
        ("--allow-private-networks 10.0.0.0/33", &["`10.0.0.0/33`", "CIDR"]),
        ("--admin-listen localhost:1", &["`localhost:1`", "IP address"]),
        ("--admin-listen 0.0.0.0:65536", &["0 to 65535"]),
        ("--attempt-log some", &["`some`", "all, failures or off"]),
        ("--log-format xml", &["`xml`", "human or json"]),
        ("--log-level loud", &["`loud`", "error, warn, info"]),
        ("--group", &["--group", "needs a value", "NAME", "hookstream"]),
        ("--group --log-level debug", &["--group", "needs a value"]),
        ("--group a --group b", &["--group", "more than once"]),
        ("-x", &["-x", "unknown option"]),
        ("--unknown-option=5", &["--unknown-option", "unknown option", "hookstream worker --help"]),
        ("--api-listen 0.0.0.0:1", &["--api-listen", "no option of `worker`", "`api`, `demo`"]),
        ("--dry-run", &["--dry-run", "no option of `worker`", "`replay`"]),
    ] {
        refused_with(&format!("worker {line}"), parts);
    }
    let long = "x".repeat(250);
    refused_with(&format!("worker --events-topic {long}"), &["1 to 249"]);
    refused_with(&format!("worker --retry-topic-prefix {}", "x".repeat(238)), &["1 to 237"]);
    refused_with(&format!("worker --group {long}"), &["1 to 200"]);
}

#[test]
fn bad_values_of_tools_and_receiver_say_what_is_accepted() {
    for (line, parts) in [
        ("receiver --fail-rate 1.1", &["`1.1`", "0 to 1"][..]),
        ("receiver --fail-rate NaN", &["`NaN`", "0 to 1"]),
        ("receiver --fail-rate -1", &["`-1`", "0 to 1"]),
        ("receiver --status 99", &["`99`", "200 to 599"]),
        ("receiver --no-echo=maybe", &["`maybe`", "true or false"]),
        ("receiver --brokers a", &["no option of `receiver`"]),
        ("receiver --api-tls-key=", &["no option of `receiver`"]),
        ("api --api-tokens-file=", &["--api-tokens-file", "a file's path"]),
        ("demo --for 0s", &["`0s`", "from 1s"]),
        ("demo --rate 0", &["from 1 to 1000000"]),
        ("resume --integration w/i --workspace v", &["--integration `w/i`", "--workspace `v`", "one workspace"]),
        ("explain --integration w/ --event -", &["`w/`", "an id"]),
        ("dead-letters list --reason broken", &["`broken`", "exhausted, invalid-event, suspended, too-large"]),
        ("dead-letters list --from tomorrow", &["`tomorrow`", "yesterday", "1h"]),
        ("dead-letters list --from 2026-01-31T12:00:00", &["2026-01-31T12:00:00Z"]),
        ("attempts --reason exhausted", &["`exhausted`", "timeout"]),
        ("dead-letters redrive", &["--all", "--workspace", "--event"]),
        ("dead-letters redrive --rate 5 --skip-sent", &["--all"]),
        ("trace", &["--event", "required"]),
        ("trace one two", &["unexpected argument", "two"]),
        ("attempts one two", &["unexpected argument", "two"]),
        ("health something", &["unexpected argument", "something"]),
        ("attempts msg_1 --delivery msg_2", &["--event `msg_1`", "--delivery `msg_2`", "contradict each other"]),
        ("trace x --event y", &["--event", "more than once"]),
        ("dead-letters list --workspace a/b", &["`a/b`", "without /"]),
        ("dead-letters list --limit 0", &["from 1"]),
        ("dead-letters list --event a/1/2", &["no option of `dead-letters list`", "`dead-letters show`"]),
        ("dead-letters show --event a/1/-2", &["topic/partition/offset"]),
        ("dead-letters show", &["--event", "is required by `dead-letters show`"]),
        ("explain --workspace w --integration i", &["--event", "is required"]),
        ("explain --workspace w --integration i --event=", &["--event ``", "a file's path"]),
        ("resume --workspace w", &["--integration", "is required"]),
        ("replay --integration i", &["--workspace", "is required"]),
    ] {
        refused_with(line, parts);
    }
}

#[test]
fn contradictions_name_both_options_and_what_would_do() {
    refused(
        "worker --drain-timeout 5s",
        "--drain-timeout `5s` and --request-timeout `10s` (default) contradict each other: expected a drain at least as long \
         as the request timeout, 10s or more",
    );
    for (line, parts) in [
        (
            "worker --request-timeout 1m",
            &["--drain-timeout `25s` (default)", "--request-timeout `1m`", "1m or more"][..],
        ),
        ("worker --connect-timeout 11s", &["--connect-timeout `11s`", "at most 10s"]),
        (
            "worker --max-in-flight 10 --max-in-flight-per-webhook 11",
            &["per-webhook `11`", "--max-in-flight `10`", "1 to 10"],
        ),
        ("worker --max-in-flight-per-host 2000", &["per-host `2000`", "`1024` (default)"]),
        ("worker --events-topic x --health-topic x", &["--events-topic `x`", "--health-topic `x`", "two topics"]),
        ("worker --dead-letter-topic webhooks.retry.5m", &["--retry-topic-prefix", "`webhooks.retry.5m`"]),
        ("worker --attempts-topic webhooks.health.deltas", &["--health-topic", "`webhooks.health.deltas`"]),
        ("worker --attempts-topic webhooks_health", &["--health-topic", "'.' and '_'"]),
        ("api --audit-topic x --backlog-topic x", &["--audit-topic `x`", "--backlog-topic `x`", "two topics"]),
        (
            "replay --workspace w --integration i --audit-topic webhooks.retry.now",
            &["--retry-topic-prefix", "two topics"],
        ),
        ("worker --give-up-after 3h", &["--give-up-after `3h`", "`30s,1m,5m,15m,1h,1h,1h` (default)", "12090s"]),
        (
            "demo --console-listen 127.0.0.1:8080",
            &["--console-listen", "--api-listen `0.0.0.0:8080` (default)", "two ports"],
        ),
        ("demo --console-listen 0.0.0.0:9464", &["--console-listen", "--admin-listen", "two ports"]),
        ("api --api-tls-cert c", &["--api-tls-cert", "without --api-tls-key"]),
        ("api --api-tls-key c", &["--api-tls-key", "without --api-tls-cert"]),
        ("api --api-listen 127.0.0.1:9464", &["--api-listen", "--admin-listen", "two ports"]),
        (
            "dead-letters list --from 2026-01-02T00:00:00Z --to 2026-01-01T00:00:00Z",
            &["--from `2026-01-02T00:00:00Z`", "earlier than --to"],
        ),
    ] {
        refused_with(line, parts);
    }
}

#[test]
fn defaults_give_way_to_smaller_bounds_that_were_given() {
    let delivery = worker("--max-in-flight 8 --request-timeout 1s").delivery;
    assert_eq!((delivery.max_in_flight_per_webhook, delivery.max_in_flight_per_host), (8, 8));
    assert_eq!(delivery.connect_timeout, Duration::from_secs(1));
}

#[test]
fn the_default_of_give_up_after_is_raised_to_a_longer_schedule() {
    assert_eq!(worker("--retry-schedule 20h,20h").delivery.give_up_after, Duration::from_hours(40));
    assert_eq!(worker("--retry-schedule 20h,20h --give-up-after 40h").delivery.give_up_after, Duration::from_hours(40));
}

#[test]
fn a_value_with_a_mistake_contradicts_nothing() {
    refused_with("worker --request-timeout x --drain-timeout 1s", &["--request-timeout"]);
}

#[test]
fn properties_that_delivery_depends_on_are_refused_with_the_reason() {
    for (key, part) in [
        ("enable.auto.commit", "settled"),
        ("auto.commit.enable", "settled"),
        ("enable.auto.offset.store", "settled"),
        ("auto.offset.reset", "lose events"),
        ("group.id", "--group"),
        ("bootstrap.servers", "--brokers"),
        ("metadata.broker.list", "--brokers"),
        ("enable.idempotence", "always on"),
        ("acks", "in-sync"),
        ("request.required.acks", "in-sync"),
        ("isolation.level", "read_committed"),
        ("enable.partition.eof", "to their end"),
        ("transactional.id", "an id of its own"),
        ("delivery.report.only.error", "waited for"),
    ] {
        refused_with(&format!("worker --kafka-property {key}=hunter2"), &["--kafka-property", key, part]);
        let mistakes = mistakes(&["worker"], &[("HOOKSTREAM_KAFKA_PROPERTY", &format!("{key}=hunter2"))]);
        assert!(mistakes[0].starts_with("HOOKSTREAM_KAFKA_PROPERTY (--kafka-property)"), "{mistakes:?}");
        assert!(!mistakes[0].contains("hunter2"));
    }
}

#[test]
fn properties_that_librdkafka_refuses_are_mistakes() {
    refused(
        "worker --kafka-property security.protocl=hunter2",
        "--kafka-property (value not shown): `security.protocl`: no librdkafka property; see its CONFIGURATION.md",
    );
    refused(
        "worker --kafka-property auto.commit.interval.ms=7200000",
        "--kafka-property (value not shown): `auto.commit.interval.ms`: expected from 1 to 60000, since a killed worker's successor \
         repeats so much",
    );
    refused(
        "worker --kafka-property max.poll.interval.ms=29999",
        "--kafka-property max.poll.interval.ms and --drain-timeout `25s` (default) contradict each other: a drain must end \
         before the group takes the partitions, expected 30000 or more",
    );
    understood("worker --kafka-property max.poll.interval.ms=30000 --kafka-property auto.commit.interval.ms=60000");
    refused_with(
        "worker --kafka-property security.protocol=hunter2",
        &["`security.protocol`", "does not accept the value"],
    );
}

#[test]
fn secrets_are_never_shown() {
    for line in [
        "worker --kafka-property hunter2",
        "worker --kafka-property sasl.password:hunter2=x",
        "worker --kafka-property =hunter2",
        "worker --kafka-property sasl.password = hunter2",
        "--kafka-property sasl.password hunter2 worker",
        "topics --kafka-property sasl.password = hunter2",
        "worker --kafka-propery sasl.password=hunter2",
        "worker --kafka-propery=sasl.password=hunter2",
        "worker --kafka-propery sasl.password = hunter2",
        "worker -p=hunter2",
        "worker --kafka-property ssl.ca.loc=hunter2",
        "worker --kafka-property compression.type=hunter2",
        "receiver --secret whsec_x hunter2",
        "receiver --secret a --secret hunter2",
    ] {
        let lines = mistakes(&line.split_whitespace().collect::<Vec<_>>(), &[]);
        assert!(!lines.concat().contains("hunter2"), "{line}: {lines:?}");
    }
    let long = format!("hunter2{}", "x".repeat(2000));
    assert!(!mistakes(&["receiver", "--secret", &long], &[]).concat().contains("hunter2"));
    let secret = format!("whsec_hunter2{}", "A".repeat(27));
    let command = understood(&format!("receiver --secret {secret}"));
    assert!(!format!("{command:?}").contains("hunter2"));
    let command = understood("worker --kafka-property sasl.password=hunter2");
    let shown = format!("{command:?}");
    assert!(!shown.contains("hunter2") && shown.contains("sasl.password"), "{shown}");
}

#[test]
fn unknown_subcommands_are_reported_with_the_known_ones() {
    for (line, parts) in [
        ("wroker", &["unknown subcommand `wroker`", "did you mean `worker`?", "dead-letters"][..]),
        ("help wroker", &["unknown subcommand `wroker`"]),
        ("redrive --all", &["unknown subcommand `redrive`", "did you mean `dead-letters redrive`?"]),
        ("topics", &["topics", "plan, apply"]),
        ("topics aply", &["`aply`", "plan, apply"]),
        ("help dead-letters nonsense", &["`nonsense`", "list, show, redrive"]),
        ("--json", &["subcommand", "worker"]),
        ("worker twice", &["unexpected argument `twice`", "only options"]),
    ] {
        refused_with(line, parts);
    }
    assert_eq!(mistakes(&["wroker", "--gruop", "x"], &[]).len(), 2);
}

#[test]
fn an_unknown_option_does_not_hide_the_subcommand() {
    let reported = mistakes(&["--verbose", "worker", "--group="], &[]);
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert!(reported[1].starts_with("--group ``"), "{reported:?}");
}

#[test]
fn options_may_stand_before_the_subcommand() {
    let Command::TopicsPlan(settings, _) = understood("--group g topics --brokers b:1 plan") else {
        panic!("not the plan");
    };
    assert_eq!((settings.kafka.group.as_str(), settings.kafka.brokers.as_str()), ("g", "b:1"));
}

#[test]
fn help_and_version_win_over_mistakes() {
    use HelpTopic::{Family, Program, Subcommand as One};
    let help = |topic| Command::Help { topic, asked: true };
    for (line, expected) in [
        ("help", help(Program)),
        ("--help", help(Program)),
        ("-h", help(Program)),
        ("help worker", help(One(Subcommand::Worker))),
        ("worker --help", help(One(Subcommand::Worker))),
        ("worker --nonsense --group --help", help(One(Subcommand::Worker))),
        ("help topics", help(Family("topics"))),
        ("dead-letters --help", help(Family("dead-letters"))),
        ("help topics plan", help(One(Subcommand::TopicsPlan))),
        ("--version", Command::Version),
        ("-V", Command::Version),
        ("worker --version", Command::Version),
        ("", Command::Help { topic: Program, asked: false }),
    ] {
        assert_eq!(understood(line), expected, "{line}");
    }
    // A single dash may begin a value: here it is the group's.
    assert_eq!(mistakes(&["worker", "--nonsense", "--group", "-h"], &[]).len(), 1);
}

#[test]
fn help_lists_every_option_of_a_subcommand_with_default_and_variable() {
    for subcommand in Subcommand::ALL {
        let text = help(HelpTopic::Subcommand(subcommand));
        for row in options::all() {
            let listed = text.lines().any(|line| line.trim_start().split(' ').next() == Some(&row.flag_name()));
            let taken = options::find(row.name, subcommand);
            assert_eq!(listed, taken.is_some(), "{} {}", subcommand.words(), row.name);
            if let Some(row) = taken {
                let default = row.default.map(|default| format!("[default {default}; {}]", row.variable()));
                assert!(default.is_none_or(|default| text.contains(&default)), "{} {}", subcommand.words(), row.name);
                assert!(text.contains(&row.variable()));
            }
        }
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }
    let program = help(HelpTopic::Program);
    assert!(Subcommand::ALL.iter().all(|subcommand| program.contains(subcommand.words())));
    assert!(help(HelpTopic::Family("topics")).contains("topics apply"));
}

#[cfg(unix)]
#[test]
fn text_that_is_no_utf_8_is_refused_and_not_shown() {
    use std::os::unix::ffi::OsStringExt;
    let raw = |text: &[u8]| OsString::from_vec(text.to_vec());
    let args = [raw(b"worker"), raw(b"--group=hunter2\xff"), raw(b"\xff")];
    let environment = [(raw(b"HOOKSTREAM_BROKERS"), raw(b"hunter2\xff")), (raw(b"HOOKSTREAM_\xff"), raw(b"x"))];
    let lines: Vec<_> =
        parse(args.into_iter(), environment.into_iter()).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "--group (value not shown): expected UTF-8 text",
            "an argument (value not shown): expected UTF-8 text",
            "HOOKSTREAM_BROKERS (value not shown): expected UTF-8 text"
        ]
    );
}

/// What a set of settings is written as, to be read again.
fn written(settings: &Settings) -> Vec<(&'static str, String)> {
    use crate::domain::retry_schedule::format_duration;
    let delivery = &settings.delivery;
    let delays: Vec<_> = delivery.schedule.delays().iter().map(ToString::to_string).collect();
    let mut list = vec![
        ("group", settings.kafka.group.clone()),
        ("events-topic", settings.topics.events.clone()),
        ("topic-partitions", settings.topics.partitions.to_string()),
        ("retry-schedule", delays.join(",")),
        ("request-timeout", format_duration(delivery.request_timeout)),
        ("connect-timeout", format_duration(delivery.connect_timeout)),
        ("drain-timeout", format_duration(delivery.drain_timeout)),
        ("max-in-flight", delivery.max_in_flight.to_string()),
        ("max-in-flight-per-webhook", delivery.max_in_flight_per_webhook.to_string()),
        ("max-queued-bytes", delivery.max_queued_bytes.to_string()),
        ("admin-listen", settings.admin_listen.to_string()),
    ];
    let networks: Vec<_> = delivery.allow_private_networks.iter().map(ToString::to_string).collect();
    list.push(("allow-private-networks", networks.join(",")));
    list
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let names = ("[a-z][a-z0-9 _.-]{0,20}[a-z]", "crm[a-zA-Z0-9._-]{0,40}", 1u16..=10_000);
    let delays = prop::collection::vec(1u64..=604_800_000, 1..20);
    let timeouts = (1u64..=240_000, 1u64..=240_000, 1u64..=240_000);
    let bounds = (1usize..=100_000, 1usize..=100_000, 20u32..=40);
    let addresses = (any::<std::net::IpAddr>(), any::<u16>(), prop::collection::vec((any::<u32>(), 0u8..=32), 0..4));
    (names, delays, timeouts, bounds, addresses).prop_map(|(names, delays, mut timeouts, bounds, addresses)| {
        timeouts.1 = timeouts.1.min(timeouts.0);
        timeouts.2 = timeouts.2.max(timeouts.0);
        let mut settings = Settings::default();
        (settings.kafka.group, settings.topics.events, settings.topics.partitions) = names;
        let delays: Vec<_> = delays.iter().map(|delay| format!("{delay}ms")).collect();
        let delivery = &mut settings.delivery;
        delivery.schedule = RetrySchedule::parse(&delays.join(",")).unwrap();
        delivery.give_up_after = delivery.schedule.whole().max(Duration::from_hours(24));
        delivery.request_timeout = Duration::from_millis(timeouts.0);
        delivery.connect_timeout = Duration::from_millis(timeouts.1);
        delivery.drain_timeout = Duration::from_millis(timeouts.2);
        delivery.max_in_flight = bounds.0.max(bounds.1);
        delivery.max_in_flight_per_webhook = bounds.1;
        delivery.max_in_flight_per_host = delivery.max_in_flight.min(256);
        delivery.max_queued_bytes = 1 << bounds.2;
        settings.admin_listen = SocketAddr::new(addresses.0, addresses.1);
        let networks = addresses.2.into_iter();
        let network = |(bits, length)| IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap().trunc();
        delivery.allow_private_networks = networks.map(network).collect();
        settings
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(settings in any_settings(), from_environment in any::<bool>()) {
        let mut args = vec![OsString::from("worker")];
        let mut environment = Vec::new();
        for (name, text) in written(&settings) {
            if from_environment {
                let row = options::find(name, Subcommand::Worker).unwrap();
                environment.push((OsString::from(row.variable()), OsString::from(text)));
            } else {
                args.push(OsString::from(format!("--{name}={text}")));
            }
        }
        let parsed = parse(args.into_iter(), environment.into_iter());
        prop_assert_eq!(parsed.map(|parsed| parsed.command), Ok(Command::Worker(Box::new(settings))));
    }

    #[test]
    fn no_text_makes_the_parser_panic_or_break_a_line(
        args in prop::collection::vec("(worker|topics|plan|help|--|-|=|--[a-z-]{0,9}|--group|--kafka-property|.{0,8}|\\PC{0,8})", 0..8),
    ) {
        if let Err(mistakes) = parse(args.iter().map(OsString::from), std::iter::empty()) {
            prop_assert!(!mistakes.is_empty());
            prop_assert!(mistakes.iter().all(|mistake| !mistake.to_string().contains(['\n', '\r'])));
        }
    }

    #[test]
    fn sizes_and_counts_round_trip(bytes in 1usize << 20..=1 << 40, count in 1u32..=1_000_000) {
        let settings = worker(&format!("--max-queued-bytes {bytes} --errors-min-attempts {count}"));
        prop_assert_eq!(settings.delivery.max_queued_bytes, bytes);
        prop_assert_eq!(settings.suspension.errors_min_attempts, count);
    }
}

#[test]
fn help_names_every_accepted_reason() {
    let about = |subcommand| options::find("reason", subcommand).expect("it takes --reason").about;
    for (subcommand, words) in [
        (Subcommand::DeadLettersList, DeadReason::words().collect::<Vec<_>>()),
        (Subcommand::Attempts, Reason::words_of_attempts().collect()),
    ] {
        for word in words {
            let is_named = about(subcommand).split([' ', ',']).any(|named| named == word);
            assert!(is_named, "{word} of {subcommand:?}");
        }
    }
}
