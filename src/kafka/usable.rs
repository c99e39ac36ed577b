//! Whether Kafka clients can be made with the user's properties. Nothing is connected to.

use std::fs::File;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::client::{member_config, producer_config};
use crate::settings;

/// Properties that name a file; the first may name a folder.
const FILES: [&str; 5] =
    ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.crl.location", "ssl.keystore.location"];
/// The value of `ssl.ca.location` that lets OpenSSL look for its own certificates.
const PROBE: &str = "probe";

/// Why no client can be made, a line each. Values may be secrets and are not in it. Blocks: it reads the files that properties name.
pub(crate) fn unusable(kafka: &settings::Kafka) -> Vec<String> {
    let unreadable: Vec<String> = kafka.properties.iter().filter_map(|(key, value)| unreadable(key, value)).collect();
    if !unreadable.is_empty() || kafka.properties.is_empty() {
        return unreadable;
    }
    let made = [
        offline(member_config(kafka, "check", &kafka.group)).create::<BaseConsumer>().map(drop),
        offline(producer_config(kafka, "check")).create::<BaseProducer>().map(drop),
    ];
    let mut lines: Vec<String> = made.into_iter().filter_map(Result::err).map(|error| refused(&error)).collect();
    lines.dedup();
    lines
}

fn unreadable(key: &str, value: &str) -> Option<String> {
    let is_file = FILES.contains(&key) && !value.is_empty() && value != PROBE;
    let error = is_file.then(|| File::open(value).err())??;
    Some(format!("--kafka-property {key} (value not shown): {error}; expected a file that can be read"))
}

/// Without brokers a client connects to nothing.
fn offline(mut config: ClientConfig) -> ClientConfig {
    config.remove("bootstrap.servers").remove("metadata.broker.list");
    config
}

fn refused(error: &KafkaError) -> String {
    let why = match error {
        KafkaError::ClientCreation(why) => why.clone(),
        other => other.to_string(),
    };
    format!("--kafka-property (values not shown): {why}; expected properties that a Kafka client can be made with")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(properties: &[(&str, &str)], expected: &[&str]) {
        let of_text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let kafka = settings::Kafka {
            properties: properties.iter().map(of_text).collect(),
            ..settings::Settings::default().kafka
        };
        let lines = unusable(&kafka);
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, part) in lines.iter().zip(expected) {
            assert!(line.contains(part) && line.contains("expected "), "{line}");
            assert!(!line.contains("s3cret") && !line.contains("/none"), "{line}");
        }
    }

    #[test]
    fn what_a_client_cannot_be_made_with_is_known_before_a_broker_is_asked() {
        check(&[], &[]);
        check(&[("security.protocol", "ssl"), ("ssl.ca.location", "probe")], &[]);
        check(&[("ssl.ca.location", "/none")], &["--kafka-property ssl.ca.location (value not shown): No such file"]);
        check(
            &[("ssl.ca.location", "/none"), ("ssl.key.location", "/none/key")],
            &["ssl.ca.location", "ssl.key.location"],
        );
        let sasl = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "PLAIN")];
        check(&sasl, &["sasl.username and sasl.password must be set"]);
        check(&[sasl[0], sasl[1], ("sasl.username", "u"), ("sasl.password", "s3cret")], &[]);
        check(&[("security.protocol", "ssl"), ("ssl.key.pem", "s3cret")], &["ssl.key.pem failed"]);
    }
}
