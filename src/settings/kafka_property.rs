//! Whether librdkafka takes a property. No client is made and nothing is connected to.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Why librdkafka refuses a property. Values may be secrets: the text holds neither the key nor the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadProperty {
    /// librdkafka has no property of that name.
    #[error("no librdkafka property; see its CONFIGURATION.md")]
    Unknown,
    /// librdkafka has the property, and does not accept the value.
    #[error("librdkafka does not accept the value, or this build has no support for it")]
    Value,
}

/// Asks librdkafka about one property. The key and the value hold no zero byte.
///
/// # Errors
/// [`BadProperty`] when librdkafka would refuse it.
pub(crate) fn check(key: &str, value: &str) -> Result<(), BadProperty> {
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Err(BadProperty::Unknown),
        Err(_value_or_support) => Err(BadProperty::Value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_what_librdkafka_takes() {
        for (key, value) in [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.password", "a=b"),
            ("ssl.ca.pem", "anything"),
            ("group.protocol", "consumer"),
            ("compression.type", "zstd"),
            ("partitioner", "random"),
        ] {
            assert_eq!(check(key, value), Ok(()), "{key}={value}");
        }
        assert_eq!(check("security.protocl", "ssl"), Err(BadProperty::Unknown));
        assert_eq!(check("security.protocol", "tls"), Err(BadProperty::Value));
        assert_eq!(check("fetch.wait.max.ms", "soon"), Err(BadProperty::Value));
    }
}
