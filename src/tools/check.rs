//! `check`: whether a worker and an API could work here: options, files, certificates, brokers, rights, topics and clock, a line each.
//!
//! It writes nothing, neither to Kafka nor to files. So it does not try the right to write.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::render::{counted, printable};
use super::{INTERRUPTED, ToolError, blocking, write_line};
use crate::clock;
use crate::domain::topic_names::{now_topic, retry_group, tier_topic};
use crate::kafka::groups::committed;
use crate::kafka::span::{Range, SpanError};
use crate::kafka::topic_range::check_topic;
use crate::kafka::windows::Windows;
use crate::readers::time;
use crate::registration::http::{doubts_of_files, unusable_files};
use crate::settings::{Kafka, Settings};
use crate::telemetry::chain::chain;
use crate::topics::Severity;
use crate::topics::cluster::{self, sentence};

/// A certificate that ends sooner should be renewed.
const RENEW_MS: i64 = 14 * 24 * 60 * 60 * 1_000;
/// Clocks of a well-kept cluster differ by less than this, ms.
const CLOCK_OFF_MAX_MS: i64 = 1_000;
/// Properties of the Kafka client whose values are PEM files with certificates.
const CERTIFICATE_PROPERTIES: [&str; 2] = ["ssl.ca.location", "ssl.certificate.location"];

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Error,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    what: &'static str,
    state: State,
    says: String,
}

impl Line {
    fn new(what: &'static str, state: State, says: impl Into<String>) -> Self {
        Self { what, state, says: says.into() }
    }
}

/// Checks everything and writes a line for each check. The exit code is 0 without an error, warnings included, and 1 otherwise. Options
/// that can't be understood end the program with 2 before.
///
/// # Errors
/// [`ToolError`] when the answer can't be written.
pub(crate) async fn run(
    settings: &Settings,
    json: bool,
    stop: &CancellationToken,
    out: &mut impl io::Write,
) -> Result<ExitCode, ToolError> {
    let Some(lines) = stop.run_until_cancelled(lines(settings)).await else { return Ok(ExitCode::from(INTERRUPTED)) };
    let lines = lines?;
    let worst = lines.iter().map(|line| line.state).max().unwrap_or(State::Ok);
    for line in &lines {
        let text = if json {
            serde_json::to_string(line).map_err(|error| ToolError::Output(error.into()))?
        } else {
            let state = match line.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Error => "ERROR",
            };
            format!("{state:<8} {:<13} {}", line.what, printable(&line.says))
        };
        if !write_line(out, &text)? {
            break;
        }
    }
    let count = |state| lines.iter().filter(|line| line.state == state).count();
    if !json {
        let (errors, warnings) = (counted(count(State::Error), "error"), counted(count(State::Warning), "warning"));
        write_line(out, &format!("{} checked: {errors}, {warnings}", lines.len()))?;
    }
    Ok(if worst == State::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn lines(settings: &Settings) -> Result<Vec<Line>, ToolError> {
    let mut lines = vec![Line::new("options", State::Ok, "understood")];
    let files = blocking("reading files", {
        let settings = settings.clone();
        move || Ok(files(&settings, clock::now_ms()))
    });
    lines.extend(files.await?);
    let brokers = blocking("asking the brokers", {
        let (kafka, topic) = (settings.kafka.clone(), settings.topics.events.clone());
        move || Ok(check_topic(&kafka, &topic, "check"))
    });
    let brokers = brokers.await?;
    if let Err(error @ (SpanError::NoBroker { .. } | SpanError::Kafka { .. })) = brokers {
        lines.push(Line::new("brokers", State::Error, error.to_string()));
        return Ok(lines);
    }
    lines.push(Line::new("brokers", State::Ok, format!("{} answer", settings.kafka.brokers)));
    match cluster::plan(&settings.kafka, &settings.topics, &settings.delivery.schedule).await {
        Ok(plan) if plan.findings.is_empty() => lines.push(Line::new("topics", State::Ok, "as they should be")),
        Ok(plan) => {
            lines.extend(plan.findings.iter().map(|finding| {
                let state = if finding.severity == Severity::Error { State::Error } else { State::Warning };
                Line::new("topics", state, sentence(finding))
            }));
            lines.extend(plan.notes.into_iter().map(|note| Line::new("topics", State::Warning, note)));
        }
        Err(error) => lines.push(Line::new("topics", State::Error, error.to_string())),
    }
    let rights = blocking("reading a record of each topic", {
        let settings = settings.clone();
        move || Ok(rights_and_clock(&settings))
    });
    lines.extend(rights.await?);
    Ok(lines)
}

fn files(settings: &Settings, now_ms: i64) -> Vec<Line> {
    let mut lines: Vec<Line> =
        unusable_files(&settings.api).into_iter().map(|says| Line::new("files", State::Error, says)).collect();
    lines.extend(doubts_of_files(&settings.api).into_iter().map(|says| Line::new("files", State::Warning, says)));
    if lines.is_empty() && (settings.api.tokens_file.is_some() || settings.api.tls.is_some()) {
        lines.push(Line::new("files", State::Ok, "the files of the API can be used"));
    }
    let of_api = settings.api.tls.iter().map(|(cert, _)| ("--api-tls-cert", cert.clone()));
    for (option, file) in of_api.chain(kafka_files(&settings.kafka)) {
        lines.push(certificate(option, &file, now_ms));
    }
    lines
}

fn kafka_files(kafka: &Kafka) -> impl Iterator<Item = (&'static str, PathBuf)> {
    kafka.properties.iter().filter_map(|(key, value)| {
        let key = CERTIFICATE_PROPERTIES.into_iter().find(|known| known == key)?;
        Some((key, PathBuf::from(value)))
    })
}

/// The line about a file's certificates: when the first of them ends.
fn certificate(option: &str, file: &Path, now_ms: i64) -> Line {
    let (what, shown) = ("certificates", file.display());
    let ends_ms = match ends_ms(file) {
        Ok(ends_ms) => ends_ms,
        Err(why) => return Line::new(what, State::Error, format!("{option} {shown}: {}", chain(&why))),
    };
    let at = Timestamp::from_millisecond(ends_ms).map(|at| format!("{at:.0}")).unwrap_or_default();
    if ends_ms <= now_ms {
        Line::new(what, State::Error, format!("{option} {shown}: ended at {at}"))
    } else if ends_ms - now_ms < RENEW_MS {
        Line::new(what, State::Warning, format!("{option} {shown}: ends at {at}, within two weeks"))
    } else {
        Line::new(what, State::Ok, format!("{option} {shown}: until {at}"))
    }
}

/// Why a file has no certificate that ends.
#[derive(Debug, thiserror::Error)]
enum BadCertificate {
    #[error("expected a PEM file that can be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("a certificate in it cannot be read")]
    X509(#[from] x509_parser::nom::Err<x509_parser::error::X509Error>),
    #[error("no certificate is in it")]
    None,
}

/// When the first of a file's certificates ends, ms since 1970.
fn ends_ms(file: &Path) -> Result<i64, BadCertificate> {
    let certificates = CertificateDer::pem_file_iter(file)?;
    let mut ends: Option<i64> = None;
    for certificate in certificates {
        let certificate = certificate?;
        let (_, parsed) = X509Certificate::from_der(&certificate)?;
        let end_ms = parsed.validity().not_after.timestamp().saturating_mul(1_000);
        ends = Some(ends.map_or(end_ms, |earlier| earlier.min(end_ms)));
    }
    ends.ok_or(BadCertificate::None)
}

/// Reads the newest record of each topic and the offsets of the groups. Blocks.
fn rights_and_clock(settings: &Settings) -> Vec<Line> {
    let topics = &settings.topics;
    let tiers = settings.delivery.schedule.tiers().iter().map(|tier| tier_topic(&topics.retry_prefix, *tier));
    let names = [&topics.events, &topics.integrations, &topics.dead_letter, &topics.attempts, &topics.health]
        .into_iter()
        .cloned()
        .chain(tiers)
        .chain([now_topic(&topics.retry_prefix), topics.backlog.clone()]);
    let (mut lines, mut newest_ms, mut read) = (Vec::new(), None, 0);
    for name in names {
        match newest(settings, &name) {
            Ok(at_ms) => {
                newest_ms = newest_ms.max(at_ms);
                read += 1;
            }
            // Reported with the topics.
            Err(SpanError::NoTopic(_)) => {}
            Err(error) => lines.push(Line::new("rights", State::Error, error.to_string())),
        }
    }
    for group in [settings.kafka.group.clone(), retry_group(&settings.kafka.group)] {
        if let Err(error) = committed(&settings.kafka, &group, "check", &|topic| topic == topics.events) {
            lines.push(Line::new("rights", State::Error, error.to_string()));
        }
    }
    if lines.is_empty() {
        lines.push(Line::new(
            "rights",
            State::Ok,
            format!("{read} topics and the groups can be read; writing is not tried"),
        ));
    }
    lines.push(clock_line(newest_ms, clock::now_ms()));
    lines
}

/// The line about the clock. The brokers' clock is at least as late as the newest record that they appended.
fn clock_line(newest_ms: Option<i64>, now_ms: i64) -> Line {
    match newest_ms {
        Some(newest_ms) if newest_ms - now_ms > CLOCK_OFF_MAX_MS => {
            let off = newest_ms - now_ms;
            Line::new(
                "clock",
                State::Error,
                format!("this machine's clock is at least {off} ms behind that of Kafka's records"),
            )
        }
        Some(newest_ms) => {
            let at = time(newest_ms).unwrap_or_default();
            Line::new("clock", State::Ok, format!("no record is from the future; the newest is of {at}"))
        }
        None => Line::new("clock", State::Ok, "not compared: no topic has a record"),
    }
}

/// When the newest record of a topic was written, ms since 1970. It reads the last record of each partition.
fn newest(settings: &Settings, topic: &str) -> Result<Option<i64>, SpanError> {
    let log = Windows::open(&settings.kafka, topic, "check")?;
    let last = log.bounds().iter().map(|range| Range { start: range.start.max(range.end - 1), ..*range });
    let last: Vec<Range> = last.collect();
    let mut newest = None;
    log.read(&last, &|| true, &mut |glance| newest = newest.max(Some(glance.timestamp_ms)))?;
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_judged_by_the_certificate_that_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut pem = String::new();
        for year in [2034, 2033] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            pem += &params.self_signed(&key).unwrap().pem();
        }
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, pem).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        for (now, expected) in [
            ("2032-06-01T00:00:00Z", State::Ok),
            ("2032-12-25T00:00:00Z", State::Warning),
            ("2033-01-02T00:00:00Z", State::Error),
        ] {
            let line = certificate("--api-tls-cert", &file, at(now));
            assert_eq!(line.state, expected, "{now}: {}", line.says);
            assert!(line.says.contains("2033-01-01T00:00:00Z"), "{}", line.says);
        }
        std::fs::write(&file, "nothing").unwrap();
        assert_eq!(certificate("x", &file, 0).state, State::Error);
    }

    #[test]
    fn a_record_from_the_future_says_that_this_clock_is_behind() {
        assert_eq!(clock_line(Some(5_000), 4_500).state, State::Ok);
        let line = clock_line(Some(65_000), 5_000);
        assert_eq!(line.state, State::Error);
        assert!(line.says.contains("60000 ms behind"), "{}", line.says);
        assert_eq!(clock_line(None, 0).state, State::Ok);
    }
}
