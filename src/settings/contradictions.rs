//! Contradictions between options: each value is valid alone, and together they are not.

use std::time::Duration;

use super::mistake::Mistake;
use super::reader::Reader;
use super::{Delivery, Settings};
use crate::domain::retry_schedule::format_duration;
use crate::domain::topic_names::{counts_topic, deltas_topic, now_topic, tier_topic};

/// What a member needs between two polls besides the drain: it commits, for two seconds at most.
const POLL_SPARE: Duration = Duration::from_secs(5);

/// Reports every contradiction between the options that this subcommand takes.
pub(super) fn find(reader: &mut Reader<'_>, settings: &Settings) {
    if reader.takes("request-timeout") {
        timeouts(reader, &settings.delivery);
        polls(reader, settings);
    }
    if reader.takes("give-up-after") {
        give_up(reader, &settings.delivery);
    }
    if reader.takes("max-in-flight") {
        in_flight(reader, &settings.delivery);
    }
    if reader.takes("events-topic") {
        topics(reader, settings);
    }
    if reader.takes("api-tls-cert") {
        api_tls(reader);
    }
    listeners(reader, settings);
}

fn timeouts(reader: &mut Reader<'_>, delivery: &Delivery) {
    let request = format_duration(delivery.request_timeout);
    if delivery.drain_timeout < delivery.request_timeout {
        let accepted = format!("expected a drain at least as long as the request timeout, {request} or more");
        reader.contradiction("drain-timeout", "request-timeout", &accepted);
    }
    if delivery.connect_timeout > delivery.request_timeout {
        let accepted = format!("connecting is a part of the request, expected at most {request} for it");
        reader.contradiction("connect-timeout", "request-timeout", &accepted);
    }
}

/// A member that does not poll for so long loses its partitions, and it does not poll while it drains.
fn polls(reader: &mut Reader<'_>, settings: &Settings) {
    const KEY: &str = "max.poll.interval.ms";
    let set = settings.kafka.properties.iter().rev().find(|(key, _)| key == KEY);
    let Some(interval_ms) = set.and_then(|(_, value)| value.trim().parse().ok()) else { return };
    let least = settings.delivery.drain_timeout + POLL_SPARE;
    if Duration::from_millis(interval_ms) < least {
        let accepted =
            format!("a drain must end before the group takes the partitions, expected {} or more", least.as_millis());
        reader.property_contradiction(KEY, "drain-timeout", &accepted);
    }
}

fn give_up(reader: &mut Reader<'_>, delivery: &Delivery) {
    let whole = delivery.schedule.whole();
    if delivery.give_up_after < whole {
        let accepted = format!(
            "the retries of the schedule take {}, expected that or more for --give-up-after",
            format_duration(whole)
        );
        reader.contradiction("give-up-after", "retry-schedule", &accepted);
    }
}

fn in_flight(reader: &mut Reader<'_>, delivery: &Delivery) {
    let all = delivery.max_in_flight;
    for (name, part) in [
        ("max-in-flight-per-webhook", delivery.max_in_flight_per_webhook),
        ("max-in-flight-per-host", delivery.max_in_flight_per_host),
    ] {
        if part > all {
            let accepted = format!("a part is not more than all, expected from 1 to {all} for --{name}");
            reader.contradiction(name, "max-in-flight", &accepted);
        }
    }
}

/// Two uses of one topic would feed the service its own output.
fn topics(reader: &mut Reader<'_>, settings: &Settings) {
    let topics = &settings.topics;
    let mut names = vec![
        ("events-topic", topics.events.clone()),
        ("integrations-topic", topics.integrations.clone()),
        ("dead-letter-topic", topics.dead_letter.clone()),
        ("attempts-topic", topics.attempts.clone()),
        ("health-topic", topics.health.clone()),
        ("health-topic", deltas_topic(&topics.health)),
        ("health-topic", counts_topic(&topics.health)),
        ("backlog-topic", topics.backlog.clone()),
        ("audit-topic", topics.audit.clone()),
        ("retry-topic-prefix", now_topic(&topics.retry_prefix)),
    ];
    let tiers = settings.delivery.schedule.tiers().iter();
    names.extend(tiers.map(|tier| ("retry-topic-prefix", tier_topic(&topics.retry_prefix, *tier))));
    for (index, (option, name)) in names.iter().enumerate() {
        for (other_option, other) in names.iter().skip(index + 1).filter(|(other, _)| other != option) {
            if other == name {
                let accepted = format!("both mean the topic `{name}`, expected two topics");
                reader.contradiction(option, other_option, &accepted);
            } else if same_in_metrics(name, other) {
                let accepted = format!(
                    "Kafka refuses two topics that differ only in '.' and '_', `{name}` and `{other}`; expected other names"
                );
                reader.contradiction(option, other_option, &accepted);
            }
        }
    }
}

/// Kafka writes '.' as '_' in its metrics, and refuses a topic whose name would then equal another's.
fn same_in_metrics(one: &str, other: &str) -> bool {
    one.replace('.', "_") == other.replace('.', "_")
}

fn api_tls(reader: &mut Reader<'_>) {
    let (cert, key) = ("api-tls-cert", "api-tls-key");
    for (given, missing) in [(cert, key), (key, cert)] {
        if reader.is_given(given) && !reader.is_given(missing) {
            let text = format!("is given without --{missing}; expected both for TLS, or none");
            reader.mistakes.push(Mistake::new(&format!("--{given}"), &text));
        }
    }
}

/// Two listeners of one process on one port: the second could not be bound.
fn listeners(reader: &mut Reader<'_>, settings: &Settings) {
    let all = [
        ("api-listen", settings.api.listen),
        ("console-listen", settings.console_listen),
        ("admin-listen", settings.admin_listen),
    ];
    let taken: Vec<_> = all.into_iter().filter(|(name, _)| reader.takes(name)).collect();
    for (index, (option, one)) in taken.iter().enumerate() {
        for (other_option, other) in taken.iter().skip(index + 1) {
            let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            if one.port() == other.port() && one.port() != 0 && same_host {
                reader.contradiction(option, other_option, "expected two ports");
            }
        }
    }
}
