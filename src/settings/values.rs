//! What a text must be to be a value: one reader for each kind. An error says what is accepted, and never repeats the text.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use super::command::{EventSource, NamedEvent, RecordPlace, Shell};
use super::{AttemptLog, LogFormat, Ordering};
use super::{kafka_property, log_filter};
use crate::domain::headers::DELIVERY_ID_PREFIX;
use crate::domain::outcome::{DeadReason, Reason};
use crate::domain::retry_schedule::{RetrySchedule, format_duration, parse_duration};
use crate::domain::signature::SigningKey;
use crate::domain::word::{UnknownWord, one_of};

/// A value, or what is accepted instead.
pub(super) type Read<T> = Result<T, Expected>;

/// What is accepted, in words. It never holds the text that was given, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Expected(Cow<'static, str>);

impl From<&'static str> for Expected {
    fn from(words: &'static str) -> Self {
        Self(words.into())
    }
}

impl From<UnknownWord> for Expected {
    fn from(unknown: UnknownWord) -> Self {
        unknown.to_string().into()
    }
}

impl From<String> for Expected {
    fn from(words: String) -> Self {
        Self(words.into())
    }
}

/// Kafka's own limit.
const TOPIC_BYTES_MAX: usize = 249;
/// Well above any real name, well below what a log line or a record header can hold.
const NAME_CHARS_MAX: usize = 200;

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Read<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// A whole number within bounds.
pub(super) fn count<N: FromStr + PartialOrd + fmt::Display>(min: N, max: N) -> impl Fn(&str) -> Read<N> {
    move |text| {
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        number
            .filter(|number| (&min..=&max).contains(&number))
            .ok_or_else(|| Expected::from(format!("expected a whole number from {min} to {max}")))
    }
}

/// A duration within bounds.
pub(super) fn duration(min: Duration, max: Duration) -> impl Fn(&str) -> Read<Duration> {
    move |text| match parse_duration(text) {
        Ok(duration) if (min..=max).contains(&duration) => Ok(duration),
        Ok(_) => Err(format!("expected from {} to {}", format_duration(min), format_duration(max)).into()),
        Err(bad) => Err(bad.to_string().into()),
    }
}

const KIB: usize = 1024;

/// Bytes, as a number or with a unit.
pub(super) fn size(min: usize, max: usize) -> impl Fn(&str) -> Read<usize> {
    move |text| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
        let unit = match unit {
            "" => Some(1),
            "KiB" => Some(KIB),
            "MiB" => Some(KIB * KIB),
            "GiB" => Some(KIB * KIB * KIB),
            _ => None,
        };
        unit.and_then(|unit| number.parse::<usize>().ok()?.checked_mul(unit))
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| {
                Expected::from(format!(
                    "expected bytes from {min} to {max}, as a number or with a unit (KiB, MiB, GiB) such as 64MiB"
                ))
            })
    }
}

/// A share from 0 to 1.
pub(super) fn share(text: &str) -> Read<f64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let share = is_plain.then(|| text.parse::<f64>().ok()).flatten();
    share.filter(|share| (0.0..=1.0).contains(share)).ok_or(Expected::from("expected a number from 0 to 1 such as 0.3"))
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Read<SocketAddr> {
    text.parse().ok().ok_or(Expected::from(
        "expected an IP address and a port from 0 to 65535 such as 0.0.0.0:8080 or [::]:8080; port 0 takes a free one",
    ))
}

/// Where the API is served: scheme, host and port, and nothing behind them.
pub(super) fn api_url(text: &str) -> Read<http::Uri> {
    let url = text.parse::<http::Uri>().ok().filter(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
    });
    url.ok_or(Expected::from("expected http or https, a host and a port, such as http://hookstream-api:8080"))
}

/// An address range.
pub(super) fn network(text: &str) -> Read<IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .or_else(single)
        .map(|network| network.trunc())
        .ok_or(Expected::from("expected an address range (CIDR) such as 10.0.0.0/8 or fd00::/8"))
}

/// Bootstrap servers.
pub(super) fn brokers(text: &str) -> Read<String> {
    let is_good = !text.is_empty() && text.split(',').all(|broker| is_broker(broker.trim()));
    is_good.then(|| text.to_owned()).ok_or(Expected::from(
        "expected host:port, several separated by commas, ports from 1 to 65535, such as kafka-1:9092,kafka-2:9092",
    ))
}

fn is_broker(text: &str) -> bool {
    let host_port = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (host, port) = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, rest.strip_prefix(':').or(Some(""))),
        None => match host_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        },
    };
    let is_host =
        !host.is_empty() && !host.chars().any(|char| char.is_whitespace() || char.is_control() || char == '/');
    is_host && port.is_none_or(|port| count(1, u16::MAX)(port).is_ok())
}

/// A consumer group.
pub(super) fn group(text: &str) -> Read<String> {
    named(text, "a name")
}

/// The name of a group's static member. Kafka allows the characters of a topic's name.
pub(super) fn instance_id(text: &str) -> Read<String> {
    topic(0)(text).ok().ok_or_else(|| {
        Expected::from(format!("expected a name: 1 to {TOPIC_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '-', not . or .."))
    })
}

/// A workspace: the first part of a record's key.
pub(super) fn workspace(text: &str) -> Read<String> {
    named(text, "a workspace's name, without /").and_then(|name| {
        if name.contains('/') { Err("expected a workspace's name, without /".into()) } else { Ok(name) }
    })
}

/// The id of an integration or a webhook.
pub(super) fn id(text: &str) -> Read<String> {
    named(text, "an id")
}

/// An integration as people have it: its id, or `<workspace>/<id>` as lists show it.
pub(super) fn integration(text: &str) -> Read<(Option<String>, String)> {
    match text.rsplit_once('/') {
        Some((of, id_text)) => Ok((Some(workspace(of)?), id(id_text)?)),
        None => Ok((None, id(text)?)),
    }
}

/// How tables end a text that the line has no room for.
const CUT: char = '…';

/// Refuses an id as a list on a narrow terminal shows it.
fn whole(text: &str) -> Read<()> {
    if text.ends_with(CUT) {
        Err("expected it whole: the list cut it, and with --wide it does not".into())
    } else {
        Ok(())
    }
}

fn named(text: &str, what: &str) -> Read<String> {
    whole(text)?;
    let is_good = (1..=NAME_CHARS_MAX).contains(&text.chars().count())
        && text.trim() == text
        && !text.chars().any(char::is_control);
    is_good.then(|| text.to_owned()).ok_or_else(|| {
        Expected::from(format!(
            "expected {what}: 1 to {NAME_CHARS_MAX} characters without spaces around or control characters"
        ))
    })
}

/// A topic's name, with room for a suffix of this many bytes.
pub(super) fn topic(suffix_bytes_max: usize) -> impl Fn(&str) -> Read<String> {
    let bytes_max = TOPIC_BYTES_MAX.saturating_sub(suffix_bytes_max);
    move |text| {
        let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        let is_good = is_word && (1..=bytes_max).contains(&text.len()) && !matches!(text, "." | "..");
        is_good.then(|| text.to_owned()).ok_or_else(|| {
            Expected::from(format!(
                "expected a topic's name: 1 to {bytes_max} of a-z, A-Z, 0-9, '.', '_', '-', not . or .."
            ))
        })
    }
}

/// A path. Whether a file is there is seen when it is opened.
pub(super) fn path(text: &str) -> Read<PathBuf> {
    if text.is_empty() || text.contains('\0') { Err("expected a file's path".into()) } else { Ok(PathBuf::from(text)) }
}

/// A retry schedule.
pub(super) fn schedule(text: &str) -> Read<RetrySchedule> {
    RetrySchedule::parse(text)
        .map_err(|bad| format!("expected delays separated by commas such as 30s,1m,5m: {bad}").into())
}

/// `entity`, `webhook` or `none`.
pub(super) fn ordering(text: &str) -> Read<Ordering> {
    match text {
        "entity" => Ok(Ordering::Entity),
        "webhook" => Ok(Ordering::Webhook),
        "none" => Ok(Ordering::None),
        _ => Err("expected entity, webhook or none".into()),
    }
}

/// `all`, `failures` or `off`.
pub(super) fn attempt_log(text: &str) -> Read<AttemptLog> {
    match text {
        "all" => Ok(AttemptLog::All),
        "failures" => Ok(AttemptLog::Failures),
        "off" => Ok(AttemptLog::Off),
        _ => Err("expected all, failures or off".into()),
    }
}

/// `bash`, `zsh` or `fish`.
pub(super) fn shell(text: &str) -> Read<Shell> {
    match text {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("expected bash, zsh or fish".into()),
    }
}

/// `human` or `json`.
pub(super) fn log_format(text: &str) -> Read<LogFormat> {
    match text {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected human or json".into()),
    }
}

/// Directives of the logs' filter.
pub(super) fn log_level(text: &str) -> Read<String> {
    match log_filter::check_filter(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(bad) => Err(bad.to_string().into()),
    }
}

/// A dead letter's reason.
pub(super) fn reason(text: &str) -> Read<&'static str> {
    Ok(one_of(text, DeadReason::words())?)
}

/// Why an attempt failed.
pub(super) fn attempt_reason(text: &str) -> Read<&'static str> {
    Ok(one_of(text, Reason::words_of_attempts())?)
}

/// A point in time: RFC 3339, a date, a word, or how long ago. Days are those of UTC.
pub(super) fn time(text: &str) -> Read<Timestamp> {
    time_at(text, crate::clock::now_ms())
}

fn time_at(text: &str, now_ms: i64) -> Read<Timestamp> {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let of = |ms: i64| Timestamp::from_millisecond(ms).ok();
    let midnight = now_ms - now_ms.rem_euclid(DAY_MS);
    let time = match text {
        "now" => of(now_ms),
        "today" => of(midnight),
        "yesterday" => of(midnight - DAY_MS),
        _ => text.parse().ok().or_else(|| of_date(text)).or_else(|| {
            let ago = parse_age(text)?;
            of(now_ms.checked_sub(i64::try_from(ago.as_millis()).ok()?)?)
        }),
    };
    time.ok_or(Expected::from("expected a time such as 2026-01-31T12:00:00Z or 2026-01-31T15:00:00+03:00, a date such as 2026-01-31 (of UTC), \
         today, yesterday, or how long ago: 90s, 30m, 1h, 7d"))
}

fn of_date(text: &str) -> Option<Timestamp> {
    let is_date = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_date.then(|| format!("{text}T00:00:00Z").parse().ok()).flatten()
}

fn parse_age(text: &str) -> Option<Duration> {
    match text.strip_suffix('d') {
        Some(days) => Some(Duration::from_hours(24 * u64::from(count(1, 100_000_u32)(days).ok()?))),
        None => parse_duration(text).ok(),
    }
}

/// A status that a receiver may answer with.
pub(super) fn status(text: &str) -> Read<u16> {
    count(200, 599)(text).ok().ok_or(Expected::from("expected an HTTP status from 200 to 599"))
}

/// A signing secret.
pub(super) fn secret(text: &str) -> Read<String> {
    SigningKey::parse(text, None).map(|_key| text.to_owned()).map_err(|bad| bad.to_string().into())
}

/// An event: a record, a file or standard input.
pub(super) fn event(text: &str) -> Read<EventSource> {
    whole(text)?;
    if text == "-" {
        return Ok(EventSource::Stdin);
    }
    record(text).map(EventSource::Record).or_else(|_no_record| path(text).map(EventSource::File)).map_err(|_neither| {
        "expected topic/partition/offset such as crm.object-events/3/1042, a file's path, or - for standard input"
            .into()
    })
}

/// An event: a record, an id, or standard input.
pub(super) fn named_event(text: &str) -> Read<NamedEvent> {
    if text == "-" {
        return Ok(NamedEvent::Stdin);
    }
    whole(text)?;
    record(text).map(NamedEvent::Place).or_else(|_no_record| named_id(text)).ok().ok_or(Expected::from(
        "expected topic/partition/offset such as crm.object-events/3/1042, the id of an event or a delivery, or - for \
         standard input",
    ))
}

/// An id: a slash is part of a mistaken place.
fn named_id(text: &str) -> Read<NamedEvent> {
    if text.contains('/') { Err("expected an id".into()) } else { any_id(text) }
}

fn any_id(text: &str) -> Read<NamedEvent> {
    let of = if text.starts_with(DELIVERY_ID_PREFIX) { NamedEvent::Delivery } else { NamedEvent::Id };
    id(text).map(of)
}

/// An event that the attempt log is asked for: a record, or an id of any form.
pub(super) fn logged_event(text: &str) -> Read<NamedEvent> {
    record(text).map(NamedEvent::Place).or_else(|_no_record| any_id(text))
}

/// A dead letter: a record, or an id.
pub(super) fn dead_letter(text: &str) -> Read<NamedEvent> {
    whole(text)?;
    record(text).map(NamedEvent::Place).or_else(|_no_record| named_id(text)).ok().ok_or(Expected::from(
        "expected topic/partition/offset such as webhooks.dead-letter/3/1042, or the id of a delivery or an event",
    ))
}

/// A record: `topic/partition/offset`.
pub(super) fn record(text: &str) -> Read<RecordPlace> {
    let mut parts = text.splitn(3, '/');
    let record = (|| {
        let topic = topic(0)(parts.next()?).ok()?;
        let partition = count(0, i32::MAX)(parts.next()?).ok()?;
        let offset = count(0, i64::MAX)(parts.next()?).ok()?;
        Some(RecordPlace { topic, partition, offset })
    })();
    record.ok_or(Expected::from("expected topic/partition/offset such as webhooks.dead-letter/3/1042"))
}

/// Properties that a user may not set, since delivery depends on them, and why.
const PROPERTIES_REFUSED: [(&[&str], &str); 10] = [
    (&["bootstrap.servers", "metadata.broker.list"], "set with --brokers"),
    (&["group.id"], "set with --group"),
    (
        &["enable.auto.commit", "auto.commit.enable", "enable.auto.offset.store"],
        "an offset is stored only when every delivery of its record is settled",
    ),
    (&["auto.offset.reset"], "a group without offsets begins at the start of the topic: skipping would lose events"),
    (&["enable.idempotence"], "it is always on, so that a retry is written once"),
    (&["acks", "request.required.acks"], "it is always all, so that a record counts when every in-sync replica has it"),
    (&["isolation.level"], "it is always read_committed, since an aborted record is not an event"),
    (&["enable.partition.eof"], "used to see that the integrations are read to their end"),
    (&["transactional.id"], "every writer of transactions has an id of its own"),
    (&["delivery.report.only.error"], "every record written is waited for"),
];

const COMMIT_INTERVAL: &str = "auto.commit.interval.ms";
/// Deliveries of a minute are the most that a crash should repeat.
const COMMIT_INTERVAL_MS_MAX: u32 = 60_000;

fn is_commit_interval(value: &str) -> bool {
    value.trim().parse().is_ok_and(|ms| (1..=COMMIT_INTERVAL_MS_MAX).contains(&ms))
}

/// A librdkafka property. The error names the key and never the value.
pub(super) fn property(text: &str) -> Read<(String, String)> {
    let accepted = Expected::from("expected KEY=VALUE, the key a librdkafka property such as security.protocol");
    let (key, value) = text.split_once('=').ok_or_else(|| accepted.clone())?;
    let is_key =
        key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_'));
    if key.is_empty() || key.len() > NAME_CHARS_MAX || !is_key || value.contains('\0') {
        return Err(accepted);
    }
    match PROPERTIES_REFUSED.iter().find(|(keys, _)| keys.contains(&key)) {
        Some((_, why)) => Err(format!("`{key}` can't be set: {why}; any other librdkafka property is accepted").into()),
        None => match kafka_property::check(key, value) {
            Ok(()) if key == COMMIT_INTERVAL && !is_commit_interval(value) => {
                let most = COMMIT_INTERVAL_MS_MAX;
                Err(format!("`{key}`: expected from 1 to {most}, since a killed worker's successor repeats so much")
                    .into())
            }
            Ok(()) => Ok((key.to_owned(), value.to_owned())),
            Err(bad) => Err(format!("`{key}`: {bad}").into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_a_list_has_cut_is_refused_with_the_way_to_the_whole() {
        for said in [
            id("0a7f3b52-6a0…").err(),
            workspace("acm…").err(),
            integration("acme/0a7…").err(),
            event("crm.object-events/3…").err(),
            named_event("msg_65d776…").err(),
            logged_event("3c75d29…").err(),
            dead_letter("webhooks.dead-letter/0/1…").err(),
        ] {
            assert!(said.as_ref().is_some_and(|said| said.to_string().contains("--wide")), "{said:?}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-03-01T10:20:30Z".parse().unwrap();
        for (text, expected) in [
            ("2026-01-31T15:00:00+03:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("now", "2026-03-01T10:20:30Z"),
            ("today", "2026-03-01T00:00:00Z"),
            ("yesterday", "2026-02-28T00:00:00Z"),
            ("1h", "2026-03-01T09:20:30Z"),
            ("30s", "2026-03-01T10:20:00Z"),
            ("7d", "2026-02-22T10:20:30Z"),
        ] {
            assert_eq!(time_at(text, now.as_millisecond()), Ok(expected.parse().unwrap()), "{text}");
        }
        for bad in ["", "2026-02-30", "2026-1-3", "tomorrow", "d", "-1h", "1x", "99999999d", "2026-01-31 12:00"] {
            assert!(time_at(bad, now.as_millisecond()).is_err(), "{bad}");
        }
    }
}
